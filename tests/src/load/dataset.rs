//! What the server must hold: every key, and which version of its value.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::protocol::{Answer, Protocol};
use crate::resp::{Client, Reply};

/// Bytes of a value.
const VALUE_LEN: usize = 64;

/// Keys that go into one write, or one `MGET`.
const BATCH: u32 = 500;

/// How long the server may take for one batch.
const LIMIT: Duration = Duration::from_secs(60);

/// A set of keys with known values.
///
/// A value says which key and version it belongs to, and the rest of it follows from these, so any
/// mixed-up, torn or flipped byte shows. Each key is written by one connection at a time; a reader may
/// see any version between the last acknowledged before it asked and the last sent when it was answered.
#[derive(Debug)]
pub struct Dataset {
    protocol: Protocol,
    /// Newest version that was sent, per key.
    sent: Vec<u32>,
    /// Newest version that the server has acknowledged, per key.
    acknowledged: Vec<u32>,
}

/// What a complete check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Keys with the right value.
    pub right: u64,
    /// Keys that are not there.
    pub missing: u64,
    /// Keys with a wrong value.
    pub wrong: u64,
    /// How many keys the server says that it has (`DBSIZE`, or `curr_items` of memcached).
    pub dbsize: u64,
}

impl Verified {
    /// True when all `keys` are there, each with its value, and nothing else is.
    #[must_use]
    pub fn is_complete(&self, keys: u32) -> bool {
        let keys = u64::from(keys);
        self.right == keys && self.missing == 0 && self.wrong == 0 && self.dbsize == keys
    }
}

impl Dataset {
    /// `keys` keys, all in version 0, none written yet.
    #[must_use]
    pub fn new(keys: u32) -> Self {
        Self::of(Protocol::Redis, keys)
    }

    /// The same for a server of another protocol.
    #[must_use]
    pub fn of(protocol: Protocol, keys: u32) -> Self {
        let keys = keys as usize;
        Self {
            protocol,
            sent: vec![0; keys],
            acknowledged: vec![0; keys],
        }
    }

    /// How to talk to the server.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Number of keys.
    #[must_use]
    pub fn keys(&self) -> u32 {
        u32::try_from(self.sent.len()).expect("made from a u32")
    }

    /// Writes every key, pipelined.
    ///
    /// # Errors
    /// When the connection breaks or the server refuses a key.
    pub fn write_all(&mut self, addr: SocketAddr) -> io::Result<()> {
        let mut client = Client::connect(addr, LIMIT)?;
        let mut out = Vec::new();
        for (first, last) in batches(self.keys()) {
            out.clear();
            for key in first..last {
                let value = value(key, self.sent[key as usize]);
                self.protocol.set(&mut out, &name(key), &value);
            }
            client.send(&out)?;
            for key in first..last {
                match client.receive_with(|input| self.protocol.parse(input))? {
                    Answer::Stored => {}
                    other => {
                        return Err(io::Error::other(format!(
                            "SET {} answered {other:?}",
                            name(key)
                        )));
                    }
                }
                self.acknowledged[key as usize] = self.sent[key as usize];
            }
        }
        Ok(())
    }

    /// Reads every key back and compares. Only while no load runs.
    ///
    /// # Errors
    /// When the connection breaks or the server answers with something else than values.
    pub fn verify(&self, addr: SocketAddr) -> io::Result<Verified> {
        let mut client = Client::connect(addr, LIMIT)?;
        let mut found = Verified::default();
        let mut out = Vec::new();
        for (first, last) in batches(self.keys()) {
            out.clear();
            for key in first..last {
                self.protocol.get(&mut out, &name(key));
            }
            client.send(&out)?;
            for key in first..last {
                match client.receive_with(|input| self.protocol.parse(input))? {
                    Answer::Value(None) => found.missing += 1,
                    Answer::Value(Some(bytes))
                        if self.allows(key, self.acknowledged[key as usize], &bytes) =>
                    {
                        found.right += 1;
                    }
                    _ => found.wrong += 1,
                }
            }
        }
        found.dbsize = match self.protocol {
            Protocol::Redis => match client.command(&["DBSIZE"])? {
                Reply::Integer(count) => u64::try_from(count).unwrap_or(0),
                other => return Err(io::Error::other(format!("DBSIZE answered {other:?}"))),
            },
            Protocol::Memcached => memcached_items(&mut client)?,
            Protocol::Lines | Protocol::TypedLines => {
                client.send(b"COUNT\r\n")?;
                let answer = client.receive_with(|input| self.protocol.parse(input))?;
                let Answer::Value(Some(count)) = answer else {
                    return Err(io::Error::other(format!("COUNT answered {answer:?}")));
                };
                let count = String::from_utf8_lossy(&count).into_owned();
                count.parse().map_err(io::Error::other)?
            }
        };
        Ok(found)
    }

    /// The version that a read which starts now must at least see.
    pub(super) fn oldest_allowed(&self, key: u32) -> u32 {
        self.acknowledged[key as usize]
    }

    /// Starts a write of `key`: its new version. `None` while another write of it is under way.
    pub(super) fn start_write(&mut self, key: u32) -> Option<u32> {
        let at = key as usize;
        if self.sent[at] != self.acknowledged[at] {
            return None;
        }
        self.sent[at] += 1;
        Some(self.sent[at])
    }

    /// The server has acknowledged a write.
    pub(super) fn finish_write(&mut self, key: u32, version: u32) {
        self.acknowledged[key as usize] = version;
    }

    /// True when `bytes` is a value of `key` in a version from `oldest` to the last one sent.
    pub(super) fn allows(&self, key: u32, oldest: u32, bytes: &[u8]) -> bool {
        let Some(version) = version_of(bytes) else {
            return false;
        };
        (oldest..=self.sent[key as usize]).contains(&version) && value(key, version) == bytes
    }
}

/// `curr_items` of memcached's `stats`.
fn memcached_items(client: &mut Client) -> io::Result<u64> {
    client.send(b"stats\r\n")?;
    let text = client.receive_with(|input| {
        let whole = input.ends_with(b"END\r\n");
        Ok(whole.then(|| (String::from_utf8_lossy(input).into_owned(), input.len())))
    })?;
    text.lines()
        .find_map(|line| line.strip_prefix("STAT curr_items ")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("stats has no curr_items"))
}

/// The key with this number.
pub(super) fn name(key: u32) -> String {
    format!("key:{key:08}")
}

/// The value of a key in a version: 64 printable bytes, all of them determined by the two.
pub(super) fn value(key: u32, version: u32) -> [u8; VALUE_LEN] {
    let mut bytes = [0; VALUE_LEN];
    bytes[..18].copy_from_slice(format!("{key:08x}-{version:08x}-").as_bytes());
    let mut state = u64::from(key) << 32 | u64::from(version);
    for chunk in bytes[18..].chunks_mut(8) {
        let random = split_mix(&mut state).to_le_bytes();
        for (byte, r) in chunk.iter_mut().zip(random) {
            *byte = b'a' + r % 26;
        }
    }
    bytes
}

fn version_of(value: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(value.get(9..17)?).ok()?, 16).ok()
}

/// SplitMix64: a well-mixed 64-bit number per step.
pub(super) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn batches(keys: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..keys)
        .step_by(BATCH as usize)
        .map(move |first| (first, keys.min(first + BATCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_byte_anywhere_in_a_value_shows() {
        let data = Dataset::new(4);
        let good = value(3, 0);
        assert!(data.allows(3, 0, &good));
        for at in 0..VALUE_LEN {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(!data.allows(3, 0, &bad), "byte {at}");
        }
        assert!(!data.allows(2, 0, &good), "the value of another key");
        assert!(!data.allows(3, 0, &good[..63]));
    }

    #[test]
    fn a_reader_may_see_a_write_under_way_but_nothing_older_than_what_was_acknowledged() {
        let mut data = Dataset::new(1);
        assert_eq!(data.start_write(0), Some(1));
        assert_eq!(data.start_write(0), None, "one writer at a time");
        assert!(data.allows(0, 0, &value(0, 0)) && data.allows(0, 0, &value(0, 1)));
        assert!(!data.allows(0, 0, &value(0, 2)), "never sent");
        data.finish_write(0, 1);
        let oldest = data.oldest_allowed(0);
        assert!(!data.allows(0, oldest, &value(0, 0)), "a lost write");
        assert!(data.allows(0, oldest, &value(0, 1)));
    }

    #[test]
    fn batches_cover_every_key_once() {
        let covered: Vec<u32> = batches(1201).flat_map(|(a, b)| a..b).collect();
        assert_eq!(covered, (0..1201).collect::<Vec<_>>());
    }
}
