//! Decides whether a call of the follower equals the leader's, and what the follower gets for it.
//!
//! *Architecture Invariant:* pure. Records are byte slices, the follower's memory is a trait
//! ([`Memory`]), and nothing here knows how a call arrived, so that the whole decision runs in unit
//! and property tests on recorded traces, without root.

mod answer;
mod compare;
mod epoll;
mod expected;
mod order;
#[cfg(test)]
mod properties;
mod record;
mod several;

pub use answer::{Answer, answer, finish_messages};
pub use compare::{Difference, What, compare};
pub use epoll::{EpollData, Registration};
pub use expected::{Given, Unanswered, expect, give, give_carried, offered, read_of};
pub use order::Order;
pub use record::{Part, Parts, Record, push_part};
pub use several::joined;

#[cfg(test)]
pub(crate) use record::tests::record as test_record;

/// A system call as the follower is about to make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Number in the x86-64 table.
    pub nr: u16,
    /// The six argument registers.
    pub args: [u64; 6],
}

impl Call {
    /// Its name, for reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        mvedsua_common::table::syscall(self.nr).map_or("an unknown call", |call| call.name)
    }
}

/// An address of the follower could not be read or written. The leader's call with the same
/// arguments worked on its memory, so this is a divergence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address.
    pub address: u64,
}

/// Memory of the process whose call is looked at.
pub trait Memory {
    /// Fills `buffer` from `address`.
    ///
    /// # Errors
    /// When part of the range is not mapped.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), Fault>;

    /// Stores `data` at `address`.
    ///
    /// # Errors
    /// When part of the range is not mapped writable.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault>;
}

/// Offsets in `struct msghdr` of x86-64.
mod msghdr {
    pub(super) const SIZE: usize = 56;
    pub(super) const NAME: usize = 0;
    pub(super) const NAME_LEN: usize = 8;
    pub(super) const IOV: usize = 16;
    pub(super) const IOV_LEN: usize = 24;
    pub(super) const CONTROL: usize = 32;
    pub(super) const CONTROL_LEN: usize = 40;
    pub(super) const FLAGS: usize = 48;
    /// `struct mmsghdr`: a `msghdr` and the length of the message.
    pub(super) const MMSG_SIZE: usize = 64;
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// What is done with one vector: its address, and the range of all data that belongs there.
type Piece<'a> = dyn FnMut(&mut dyn Memory, u64, std::ops::Range<usize>) -> Result<(), Fault> + 'a;

/// Calls `piece(address, range)` for the memory that an `iovec` array covers, at most `total` bytes.
fn each_vector(
    memory: &mut dyn Memory,
    vectors: u64,
    count: u64,
    total: usize,
    piece: &mut Piece<'_>,
) -> Result<(), Fault> {
    let mut done = 0;
    let mut index = 0;
    while done < total && index < count {
        let mut vector = [0u8; 16];
        memory.read(vectors + index * 16, &mut vector)?;
        let len = (word(&vector, 8) as usize).min(total - done);
        piece(memory, word(&vector, 0), done..done + len)?;
        done += len;
        index += 1;
    }
    if done < total {
        Err(Fault { address: vectors })
    } else {
        Ok(())
    }
}
