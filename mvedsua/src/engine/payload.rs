//! Payloads that the recorder left to the agent: too big, too many vectors, or not resident.
//!
//! The leader's thread stands at the exit of that very call, so its memory is as the call left it.
//! The parts are put together exactly as the recorder would have done.

use std::collections::HashMap;

use mvedsua_common::event::{
    EventHeader, FLAG_OUT_OF_LINE, PART_MSG_CONTROL, PART_MSG_DATA, PART_MSG_HEADER, PART_MSG_NAME,
    PART_WHOLE,
};
use mvedsua_common::spec::{Arg, Len};
use mvedsua_common::table;

use super::following::{Following, Stop};
use super::lane::Item;
use crate::matcher::push_part;
use crate::recorder::EventRef;
use crate::sys::memory;

/// Nobody passes more than this to one call: a length word that says so is not one.
const LARGEST: u64 = 1 << 31;
const MSGHDR: usize = 56;
const MMSGHDR: usize = 64;
/// `UIO_MAXIOV`.
const MOST_VECTORS: u64 = 1024;

/// Payloads that were fetched, by the place of their record in the ring. They are the agent's memory: how much that is
/// counts as the ring's does.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    payloads: HashMap<u64, Vec<u8>>,
    bytes: u64,
}

impl Fetched {
    /// Bytes of all of them.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, position: u64) -> Option<&Vec<u8>> {
        self.payloads.get(&position)
    }

    pub(super) fn has(&self, position: u64) -> bool {
        self.payloads.contains_key(&position)
    }

    pub(super) fn insert(&mut self, position: u64, payload: Vec<u8>) {
        self.bytes += payload.len() as u64;
        if let Some(old) = self.payloads.insert(position, payload) {
            self.bytes -= old.len() as u64;
        }
    }

    pub(super) fn remove(&mut self, position: u64) -> Option<Vec<u8>> {
        let payload = self.payloads.remove(&position)?;
        self.bytes -= payload.len() as u64;
        Some(payload)
    }
}

impl Following {
    /// The call's payload is to be fetched, and the leader's thread was not yet seen at its exit.
    pub(super) fn lacks_payload(&self, event: &EventRef) -> bool {
        event.header.flags & FLAG_OUT_OF_LINE != 0 && !self.fetched.has(event.position)
    }

    /// Fetches the payload of the last call of a thread of the leader that is stopped at the exit of
    /// that call, if that is still to be done. Nothing may be queued behind the call before.
    pub(super) fn fetch_payload(&mut self, pair: usize, tid: i32) -> Result<(), Stop> {
        let pid = self.pairs[pair].leader.pid;
        if let Some(event) = self.unread(tid) {
            let payload = payload_of(pid, &event.header)?;
            self.fetched.insert(event.position, payload);
            return self.feed_fetched(tid);
        }
        let last = match self.lanes.of_leader(tid) {
            Some(index) => self.order.last_mut(index),
            None => self.early.get_mut(&tid).and_then(|items| items.last_mut()),
        };
        let Some(Item::Call(event)) = last else {
            return Ok(());
        };
        if event.header.flags & FLAG_OUT_OF_LINE == 0 || self.fetched.has(event.position) {
            return Ok(());
        }
        let payload = payload_of(pid, &event.header)?;
        self.fetched.insert(event.position, payload);
        self.collect_readings_before_last(pair, tid)
    }

    /// Threads of the leader that our own stop found before the recorder's `SIGSTOP` did: they stand at
    /// the exit of their call all the same.
    pub(super) fn fetch_left_behind(&mut self, pair: usize) -> Result<(), Stop> {
        for tid in self.pairs[pair].leader.tids() {
            let last = match self.lanes.of_leader(tid) {
                Some(index) => self.order.last_mut(index),
                None => self.early.get_mut(&tid).and_then(|items| items.last_mut()),
            };
            let left = matches!(last, Some(Item::Call(event))
                if event.header.flags & FLAG_OUT_OF_LINE != 0
                    && !self.fetched.has(event.position));
            if left || self.unread(tid).is_some() {
                self.fetch_payload(pair, tid)?;
            }
        }
        Ok(())
    }
}

fn payload_of(pid: i32, header: &EventHeader) -> Result<Vec<u8>, Stop> {
    let mut fetch = Fetch {
        pid,
        header,
        payload: Vec::new(),
    };
    let Some(spec) = table::syscall(header.nr) else {
        return Ok(Vec::new());
    };
    for index in 0..6u8 {
        let address = header.args[usize::from(index)];
        if address == 0 {
            continue;
        }
        let arg = spec.arg_of(usize::from(index), &header.args);
        fetch.argument(index, arg, address).map_err(|error| {
            Stop::roll_back(format!(
                "reading the payload of the leader's {}: {error}",
                spec.name
            ))
        })?;
    }
    Ok(fetch.payload)
}

struct Fetch<'a> {
    pid: i32,
    header: &'a EventHeader,
    payload: Vec<u8>,
}

impl Fetch<'_> {
    fn argument(&mut self, index: u8, arg: Arg, address: u64) -> std::io::Result<()> {
        let arg_value = |at: u8| self.header.args[usize::from(at)];
        let ret = u64::try_from(self.header.ret).unwrap_or(0);
        let len = match arg {
            Arg::Unused | Arg::Int | Arg::Long | Arg::Fd | Arg::Opaque => return Ok(()),
            Arg::Path | Arg::Mem(_, Len::Str) => {
                let mut text = memory::read_available(self.pid, address, 4096);
                let end = text
                    .iter()
                    .position(|byte| *byte == 0)
                    .map_or(text.len(), |at| at + 1);
                text.truncate(end);
                push_part(&mut self.payload, index, PART_WHOLE, &text);
                return Ok(());
            }
            Arg::Mem(_, Len::Iov(count)) => {
                let data = self.gather(address, arg_value(count), ret)?;
                push_part(&mut self.payload, index, PART_WHOLE, &data);
                return Ok(());
            }
            Arg::Mem(_, Len::Msg) => return self.message(index, address, MSGHDR, ret),
            Arg::Mem(_, Len::Mmsg) => {
                for n in 0..ret {
                    let own = address + n * MMSGHDR as u64;
                    let mut len = [0u8; 4];
                    memory::read(self.pid, own + MSGHDR as u64, &mut len)?;
                    self.message(index, own, MMSGHDR, u64::from(u32::from_le_bytes(len)))?;
                }
                return Ok(());
            }
            Arg::Mem(_, Len::Fixed(len)) | Arg::Struct(_, len, _) => u64::from(len),
            Arg::Mem(_, Len::Arg(at, times)) => arg_value(at).saturating_mul(u64::from(times)),
            Arg::Mem(_, Len::Ret(times)) => ret.saturating_mul(u64::from(times)),
            Arg::Mem(_, Len::RetCapped(at, times)) => {
                ret.min(arg_value(at)).saturating_mul(u64::from(times))
            }
            Arg::Mem(_, Len::Word(at)) | Arg::SockaddrOut(at) => self.word(arg_value(at))?.min(128),
            Arg::Mem(_, Len::FdSet(at)) => arg_value(at).div_ceil(64) * 8,
            Arg::SockaddrIn(at) => arg_value(at).min(128),
            Arg::LenWord => 4,
            Arg::EpollEvent => 12,
            Arg::EpollEvents => ret.saturating_mul(12),
            Arg::PollFds(at) => arg_value(at).saturating_mul(8),
        };
        let data = self.bytes(address, len)?;
        push_part(&mut self.payload, index, PART_WHOLE, &data);
        Ok(())
    }

    fn bytes(&self, address: u64, len: u64) -> std::io::Result<Vec<u8>> {
        if len > LARGEST {
            return Err(std::io::Error::other(format!("a length of {len} bytes")));
        }
        let mut data = vec![0; len as usize];
        memory::read(self.pid, address, &mut data)?;
        Ok(data)
    }

    fn word(&self, address: u64) -> std::io::Result<u64> {
        if address == 0 {
            return Ok(0);
        }
        Ok(u64::from(u32::from_le_bytes(
            self.bytes(address, 4)?.try_into().expect("4 bytes"),
        )))
    }

    fn gather(&self, vectors: u64, count: u64, total: u64) -> std::io::Result<Vec<u8>> {
        let table = self.bytes(vectors, count.min(MOST_VECTORS) * 16)?;
        let mut data = Vec::new();
        for vector in table.chunks_exact(16) {
            let word =
                |at: usize| u64::from_le_bytes(vector[at..at + 8].try_into().expect("8 bytes"));
            let len = word(8).min(total - data.len() as u64);
            data.extend_from_slice(&self.bytes(word(0), len)?);
        }
        Ok(data)
    }

    /// One `struct msghdr` (or `mmsghdr`): header, name, data, control.
    fn message(&mut self, index: u8, address: u64, size: usize, total: u64) -> std::io::Result<()> {
        let header = self.bytes(address, size as u64)?;
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let name_len = word(8) & 0xffff_ffff;
        push_part(&mut self.payload, index, PART_MSG_HEADER, &header);
        if word(0) != 0 && name_len > 0 {
            let name = self.bytes(word(0), name_len.min(128))?;
            push_part(&mut self.payload, index, PART_MSG_NAME, &name);
        }
        if total > 0 {
            let data = self.gather(word(16), word(24), total)?;
            push_part(&mut self.payload, index, PART_MSG_DATA, &data);
        }
        if word(32) != 0 && word(40) > 0 {
            let control = self.bytes(word(32), word(40))?;
            push_part(&mut self.payload, index, PART_MSG_CONTROL, &control);
        }
        Ok(())
    }
}
