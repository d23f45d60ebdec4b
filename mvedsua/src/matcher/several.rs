//! Several messages in one call (`recvmmsg`, `sendmmsg`): to rules they are one text without seams, and
//! here are the seams.

use mvedsua_common::event::{PART_MSG_DATA, PART_MSG_HEADER};
use mvedsua_common::spec::{Arg, Len};
use mvedsua_common::table;

use super::answer::scatter;
use super::expected::{gather, total};
use super::{Call, Fault, Memory, Record, msghdr, word};

/// Most messages of one call: `UIO_MAXIOV`.
const MOST: u64 = 1024;

/// Why what a rule made of several messages cannot be given to the follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The follower's memory cannot be read or written.
    Fault(Fault),
    /// It cannot be told how to do it.
    Unclear(String),
}

impl From<Fault> for Unfit {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The argument of a call that points to several messages; how many stands in the next one.
pub(super) fn argument(call: &Call) -> Option<u8> {
    let spec = table::syscall(call.nr)?;
    let at = (0..6).find(|at| matches!(spec.args[usize::from(*at)], Arg::Mem(_, Len::Mmsg)));
    at.filter(|at| call.args[usize::from(*at)] != 0)
}

/// How many messages a call has room for, or offers.
pub(super) fn count(call: &Call, at: u8) -> u64 {
    u64::from(call.args[usize::from(at) + 1] as u32).min(MOST)
}

/// The texts of all messages that were moved, in their order.
#[must_use]
pub fn joined(record: &Record<'_>, arg: u8) -> Vec<u8> {
    let mut text = Vec::new();
    for part in record.parts() {
        if part.arg == arg && part.flags == PART_MSG_DATA {
            text.extend_from_slice(part.data);
        }
    }
    text
}

/// The lengths of the messages that were moved, in their order.
fn lengths(record: &Record<'_>, arg: u8) -> Vec<usize> {
    let mut lengths = Vec::new();
    for part in record.parts().filter(|part| part.arg == arg) {
        match (part.flags, lengths.last_mut()) {
            (PART_MSG_HEADER, _) => lengths.push(0),
            (PART_MSG_DATA, Some(length)) => *length += part.data.len(),
            _ => {}
        }
    }
    lengths
}

/// The texts of the first `count` messages that a call of the follower offers, at most `most` bytes.
pub(super) fn offered(
    memory: &mut dyn Memory,
    address: u64,
    count: u64,
    most: usize,
) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    for index in 0..count.min(MOST) {
        let (vectors, number) = vectors(memory, address, index)?;
        text.extend(gather(memory, vectors, number, most - text.len())?);
        if text.len() >= most {
            break;
        }
    }
    Ok(text)
}

/// The follower's own lengths are what was sent of its messages.
pub(super) fn sent(memory: &mut dyn Memory, address: u64, count: u64) -> Result<(), Fault> {
    for index in 0..count.min(MOST) {
        let (vectors, number) = vectors(memory, address, index)?;
        let length = total(memory, vectors, number)?;
        put_length(memory, address, index, length)?;
    }
    Ok(())
}

/// Gives the follower `text` in as many messages as the leader received, or in one if it received none.
/// Everything but text and lengths has been given already.
pub(super) fn fill(
    memory: &mut dyn Memory,
    call: &Call,
    at: u8,
    record: Option<&Record<'_>>,
    text: &[u8],
) -> Result<(), Unfit> {
    let address = call.args[usize::from(at)];
    let mut lengths = record.map_or(Vec::new(), |record| lengths(record, at));
    if lengths.is_empty() {
        lengths.push(text.len());
        // Neither a name nor control data, and no flags.
        for (from, len) in [
            (msghdr::NAME_LEN, 4),
            (msghdr::CONTROL_LEN, 8),
            (msghdr::FLAGS, 4),
        ] {
            memory.write(address + from as u64, &[0; 8][..len])?;
        }
    } else if let Some(record) = record {
        lengths = divided(&joined(record, at), &lengths, text).ok_or_else(|| {
            Unfit::Unclear(format!(
                "{} messages came at once, and it cannot be told which of them the changed text belongs to",
                lengths.len()
            ))
        })?;
    }
    let room = count(call, at);
    if lengths.len() as u64 > room {
        return Err(Unfit::Unclear(format!(
            "{} messages for a call that takes {room}",
            lengths.len()
        )));
    }
    let mut from = 0;
    for (index, length) in (0..).zip(lengths) {
        let (vectors, number) = vectors(memory, address, index)?;
        let room = total(memory, vectors, number)?;
        if length > room {
            return Err(Unfit::Unclear(format!(
                "a message of {length} bytes for a buffer of {room}: nothing is carried from one message to the next"
            )));
        }
        scatter(memory, vectors, number, &text[from..from + length])?;
        put_length(memory, address, index, length)?;
        from += length;
    }
    Ok(())
}

fn put_length(
    memory: &mut dyn Memory,
    address: u64,
    index: u64,
    length: usize,
) -> Result<(), Fault> {
    let at = address + index * msghdr::MMSG_SIZE as u64 + msghdr::SIZE as u64;
    memory.write(at, &u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes())
}

/// Address and number of the vectors of a message.
fn vectors(memory: &mut dyn Memory, address: u64, index: u64) -> Result<(u64, u64), Fault> {
    let mut own = [0u8; msghdr::SIZE];
    memory.read(address + index * msghdr::MMSG_SIZE as u64, &mut own)?;
    Ok((word(&own, msghdr::IOV), word(&own, msghdr::IOV_LEN)))
}

/// Where messages end after a change of their text from `old` to `new`: in the same places if it is as long
/// as before; else the change must lie in one message, however the two texts are held against each other,
/// and that one grows or shrinks. `None` if it cannot be told which.
fn divided(old: &[u8], lengths: &[usize], new: &[u8]) -> Option<Vec<usize>> {
    if old.len() == new.len() {
        return Some(lengths.to_vec());
    }
    let shorter = old.len().min(new.len());
    let front = |most: usize| {
        old.iter()
            .zip(new)
            .take(most)
            .take_while(|(a, b)| a == b)
            .count()
    };
    let back = |most: usize| {
        let (old, new) = (old.iter().rev(), new.iter().rev());
        old.zip(new).take(most).take_while(|(a, b)| a == b).count()
    };
    // The change as far back, and as far in front, as it can be.
    let (late, early) = (front(shorter), back(shorter));
    let late = late..old.len() - back(shorter - late);
    let early = front(shorter - early)..old.len() - early;
    let mut own = None;
    let mut end = 0;
    for (index, length) in lengths.iter().enumerate() {
        let start = end;
        end += length;
        let holds = |change: &std::ops::Range<usize>| start <= change.start && change.end <= end;
        if (holds(&late) || holds(&early)) && own.replace(index).is_some() {
            return None;
        }
    }
    let own = own?;
    let mut divided = lengths.to_vec();
    divided[own] = (divided[own] + new.len()).checked_sub(old.len())?;
    Some(divided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_length_belongs_to_the_one_message_that_it_lies_in() {
        let at = |old: &[u8], lengths: &[usize], new: &[u8]| divided(old, lengths, new);
        // As long as before: the seams stay, wherever it differs.
        assert_eq!(at(b"abcdef", &[2, 4], b"zbcdez"), Some(vec![2, 4]));
        // One message takes everything.
        assert_eq!(at(b"abc", &[3], b""), Some(vec![0]));
        assert_eq!(at(b"abc", &[3], b"something else"), Some(vec![14]));
        assert_eq!(
            at(b"PUT a|GET b", &[6, 5], b"PUT-str a|GET b"),
            Some(vec![10, 5])
        );
        assert_eq!(
            at(b"PUT a|GET b", &[6, 5], b"PUT a|GET bcd"),
            Some(vec![6, 7])
        );
        assert_eq!(
            at(b"one.two.three", &[4, 4, 5], b"one.2.three"),
            Some(vec![4, 2, 5])
        );
        // Between two messages, over two, or in one of two that look alike there.
        assert_eq!(at(b"aabb", &[2, 2], b"aaXbb"), None);
        assert_eq!(at(b"abcd", &[2, 2], b"aXXXd"), None);
        assert_eq!(at(b"aaaa", &[2, 2], b"aaaaa"), None);
        assert_eq!(at(b"aaaa", &[2, 2], b"aaa"), None);
        assert_eq!(at(b"ab", &[1, 1], b""), None);
    }
}
