//! Is this call of the follower the one that the leader made?

use mvedsua_common::event::{PART_MSG_CONTROL, PART_MSG_DATA, PART_MSG_HEADER, PART_MSG_NAME};
use mvedsua_common::spec::{Arg, Dir, Len, unread};
use mvedsua_common::table;

use super::{Call, Fault, Memory, Record, each_vector, msghdr, word};

/// Where two calls differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Index of the argument; `None` when the call itself is another one.
    pub arg: Option<u8>,
    /// How they differ.
    pub what: What,
}

/// How two calls differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Another system call.
    Call,
    /// Another value of a scalar argument: leader's and follower's.
    Value(u64, u64),
    /// Other bytes in memory that the call reads: leader's and follower's, and the index of the
    /// first that differs.
    Bytes(Vec<u8>, Vec<u8>, usize),
    /// The follower's memory cannot be read where the leader's could.
    Fault(u64),
}

pub(super) struct Comparison<'m> {
    pub(super) memory: &'m mut dyn Memory,
    pub(super) scratch: &'m mut Vec<u8>,
}

/// Compares a call of the follower with a record of the leader. `scratch` is reused between calls,
/// so that an equal call allocates nothing.
///
/// # Errors
/// The first difference, in the order of the arguments.
pub fn compare(
    record: &Record<'_>,
    call: &Call,
    memory: &mut dyn Memory,
    scratch: &mut Vec<u8>,
) -> Result<(), Difference> {
    if record.header.nr != call.nr {
        return Err(Difference {
            arg: None,
            what: What::Call,
        });
    }
    let Some(spec) = table::syscall(call.nr) else {
        return Err(Difference {
            arg: None,
            what: What::Call,
        });
    };
    let mut comparison = Comparison { memory, scratch };
    for index in 0..6u8 {
        let leader = record.header.args[usize::from(index)];
        let follower = call.args[usize::from(index)];
        // The follower's own arguments select the meaning of its call.
        let arg = spec.arg_of(usize::from(index), &call.args);
        comparison
            .argument(arg, index, leader, follower, record, call)
            .map_err(|what| Difference {
                arg: Some(index),
                what,
            })?;
    }
    Ok(())
}

impl Comparison<'_> {
    pub(super) fn argument(
        &mut self,
        arg: Arg,
        index: u8,
        leader: u64,
        follower: u64,
        record: &Record<'_>,
        call: &Call,
    ) -> Result<(), What> {
        match arg {
            Arg::Unused | Arg::Opaque => return Ok(()),
            Arg::Int | Arg::Fd => {
                return if leader as u32 == follower as u32 {
                    Ok(())
                } else {
                    Err(What::Value(leader & 0xffff_ffff, follower & 0xffff_ffff))
                };
            }
            Arg::Long => {
                return if leader == follower {
                    Ok(())
                } else {
                    Err(What::Value(leader, follower))
                };
            }
            _ => {}
        }
        if (leader == 0) != (follower == 0) {
            return Err(What::Value(leader, follower));
        }
        if follower == 0 {
            return Ok(());
        }
        for part in record.parts().filter(|part| part.arg == index) {
            match arg {
                Arg::Path => self.bytes(follower, part.data)?,
                Arg::Mem(Dir::In, Len::Iov(count)) => {
                    self.vectors(follower, call.args[usize::from(count)], part.data)?;
                }
                Arg::Mem(Dir::In, Len::Msg) => self.message(follower, part.flags, part.data)?,
                Arg::Mem(Dir::In, Len::Mmsg) => {}
                Arg::Mem(Dir::In, _) | Arg::SockaddrIn(_) => self.bytes(follower, part.data)?,
                Arg::Struct(Dir::In, _, name) => self.fields(follower, part.data, name)?,
                Arg::Struct(Dir::InOut, 8, "loff_t") => {
                    self.offset(follower, part.data, record.header.ret)?;
                }
                Arg::EpollEvent => self.bytes(follower, &part.data[..part.data.len().min(4)])?,
                Arg::PollFds(_) => self.poll_set(follower, part.data)?,
                _ => {}
            }
        }
        if matches!(arg, Arg::Mem(Dir::In, Len::Mmsg)) {
            self.messages(index, follower, record)?;
        }
        Ok(())
    }

    fn read(&mut self, address: u64, len: usize) -> Result<&[u8], What> {
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        let buffer = &mut self.scratch[..len];
        self.memory
            .read(address, buffer)
            .map_err(|fault| What::Fault(fault.address))?;
        Ok(buffer)
    }

    fn bytes(&mut self, address: u64, expected: &[u8]) -> Result<(), What> {
        let got = self.read(address, expected.len())?;
        equal(expected, got)
    }

    /// An offset that the call has moved on by as many bytes as it says.
    fn offset(&mut self, address: u64, after: &[u8], moved: i64) -> Result<(), What> {
        let Some(after) = after.first_chunk().map(|after| i64::from_le_bytes(*after)) else {
            return Ok(());
        };
        self.bytes(address, &after.wrapping_sub(moved).to_le_bytes())
    }

    /// A C struct, but for what the kernel does not read of it.
    fn fields(&mut self, address: u64, expected: &[u8], name: &str) -> Result<(), What> {
        let unread = unread(name);
        let read = self.read(address, expected.len())?;
        if unread.is_empty() {
            return equal(expected, read);
        }
        let mut got = read.to_vec();
        for &(from, to) in unread {
            if let (Some(got), Some(theirs)) = (got.get_mut(from..to), expected.get(from..to)) {
                got.copy_from_slice(theirs);
            }
        }
        equal(expected, &got)
    }

    fn vectors(&mut self, address: u64, count: u64, expected: &[u8]) -> Result<(), What> {
        self.scratch
            .resize(self.scratch.len().max(expected.len()), 0);
        let scratch = &mut *self.scratch;
        each_vector(
            self.memory,
            address,
            count,
            expected.len(),
            &mut |memory, at, range| memory.read(at, &mut scratch[range]),
        )
        .map_err(|Fault { address }| What::Fault(address))?;
        equal(expected, &self.scratch[..expected.len()])
    }

    fn message(&mut self, header: u64, piece: u8, expected: &[u8]) -> Result<(), What> {
        let mut own = [0u8; msghdr::SIZE];
        own.copy_from_slice(self.read(header, msghdr::SIZE)?);
        match piece {
            PART_MSG_HEADER => lengths(expected, &own),
            PART_MSG_NAME => self.bytes(word(&own, msghdr::NAME), expected),
            PART_MSG_CONTROL => self.bytes(word(&own, msghdr::CONTROL), expected),
            PART_MSG_DATA => self.vectors(
                word(&own, msghdr::IOV),
                word(&own, msghdr::IOV_LEN),
                expected,
            ),
            _ => Ok(()),
        }
    }

    /// `sendmmsg`: a header part opens each message, its pieces follow.
    fn messages(&mut self, index: u8, array: u64, record: &Record<'_>) -> Result<(), What> {
        let mut message = None;
        for part in record.parts().filter(|part| part.arg == index) {
            if part.flags == PART_MSG_HEADER {
                message = Some(message.map_or(0, |n| n + 1));
            }
            if let Some(n) = message {
                self.message(array + n * msghdr::MMSG_SIZE as u64, part.flags, part.data)?;
            }
        }
        Ok(())
    }

    /// `struct pollfd`: descriptor and requested events of each entry; the result is not compared.
    fn poll_set(&mut self, address: u64, expected: &[u8]) -> Result<(), What> {
        let got = self.read(address, expected.len())?;
        for (at, (leader, follower)) in expected.chunks(8).zip(got.chunks(8)).enumerate() {
            if leader[..6.min(leader.len())] != follower[..6.min(follower.len())] {
                let inside = leader
                    .iter()
                    .zip(follower)
                    .position(|(a, b)| a != b)
                    .unwrap_or(0);
                return Err(What::Bytes(
                    expected.to_vec(),
                    got.to_vec(),
                    at * 8 + inside,
                ));
            }
        }
        Ok(())
    }
}

/// The headers of two messages: how long the address and the control data are. What the pieces hold is compared as
/// bytes, and how the data are spread over vectors is nobody's business.
fn lengths(leader: &[u8], follower: &[u8; msghdr::SIZE]) -> Result<(), What> {
    if leader.len() < msghdr::SIZE {
        return Ok(());
    }
    let name = |header: &[u8]| match word(header, msghdr::NAME) {
        0 => 0,
        _ => word(header, msghdr::NAME_LEN) & 0xffff_ffff,
    };
    let control = |header: &[u8]| match word(header, msghdr::CONTROL) {
        0 => 0,
        _ => word(header, msghdr::CONTROL_LEN),
    };
    for length in [&name as &dyn Fn(&[u8]) -> u64, &control] {
        let (theirs, own) = (length(leader), length(follower));
        if theirs != own {
            return Err(What::Value(theirs, own));
        }
    }
    Ok(())
}

pub(super) fn equal(expected: &[u8], got: &[u8]) -> Result<(), What> {
    if expected == got {
        return Ok(());
    }
    let at = expected
        .iter()
        .zip(got)
        .position(|(a, b)| a != b)
        .unwrap_or(0);
    Err(What::Bytes(expected.to_vec(), got.to_vec(), at))
}
