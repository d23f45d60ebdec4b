//! Clock readings that are written down by the leader itself, without a system call: the layout that its
//! patched vDSO, the recorder and the agent agree on.
//!
//! Each thread has a *slot* in one private mapping of its process, found through its gs base. A slot is a
//! [`SlotHeader`] and [`READINGS`] places for a [`Reading`]. In a leader the vDSO's code appends a
//! reading and then counts it; the recorder copies those that are new into the record of the thread's
//! next call ([`crate::event::PART_READINGS`]). In a follower the agent fills the slot and the code
//! consumes it.

/// Places for readings in a slot (a power of two).
///
/// At the last place the code makes a plain, recorded system call instead: so the recorder comes by
/// before a place is used again, whatever else the thread does.
pub const READINGS: usize = 128;
/// Bytes of a slot: a page, so that no two threads share a cache line.
pub const SLOT_BYTES: u64 = 4096;
/// Slots of a process. Threads beyond have none and make system calls.
pub const SLOTS: usize = 512;
/// Where the readings begin in a slot.
pub const READINGS_AT: u64 = 128;

/// Bits of a reading's last word that say what it is ([`Reading::what`]). Those above are the low bits of its *number*,
/// from 1: so the recorder sees whether a place holds a reading that it does not have, without looking at
/// [`SlotHeader::count`]. No reading that can lie at a place has a number whose low bits are all zero.
pub const WHAT_BITS: u32 = 12;

/// The number of a reading as far as it is written down with it.
#[must_use]
pub const fn written_number(number: u64) -> u32 {
    (number as u32) << WHAT_BITS >> WHAT_BITS
}

/// [`Reading::what`] of `gettimeofday`. A lesser value is the clock id of `clock_gettime`.
pub const GETTIMEOFDAY: u32 = 0x100;
/// [`Reading::what`] of `time`.
pub const TIME: u32 = 0x200;

/// One reading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Seconds.
    pub seconds: u64,
    /// Nanoseconds, of `gettimeofday` microseconds, of `time` zero.
    pub fraction: u32,
    /// Which function, which clock. (In a leader's slot with its number above, see [`WHAT_BITS`].)
    pub what: u32,
}

/// Head of a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotHeader {
    /// In a leader: readings so far, those at last places (made by a system call) included.
    pub count: u64,
    /// In a follower: readings that it took.
    pub consumed: u64,
    /// In a follower: readings that it was given; they begin at the first place.
    pub given: u64,
    /// In a leader, for the agent alone: the stack pointer with which the thread entered the clock
    /// function that it is in. Below it lie the two arguments (`rdi`, `rsi`), the slot's address, and
    /// the address to which the vDSO's own function returns.
    pub entered: u64,
    /// The number of the reading that it makes there, from 1: once it counts, the thread has left.
    pub number: u64,
    /// The registers with which it entered and that it must leave with: `rbx rbp r12 r13 r14 r15`.
    pub kept: [u64; 6],
}

/// Places for slots that are found by the thread id alone (a power of two). A thread whose place is another's has its
/// slot in the hash map, where it takes longer to find.
pub const NEAR_SLOTS: u32 = 4096;

/// Place of a thread in `NEAR_CLOCKS`. Neighbours are apart: threads that were made one after the other would
/// share cache lines, and each of them writes to its place.
#[must_use]
pub const fn near_place(tid: u32) -> u32 {
    tid.wrapping_mul(5) % NEAR_SLOTS
}

/// What the recorder knows of a thread's slot: value of the map `CLOCKS`, whose key is the thread id, and of
/// `NEAR_CLOCKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSlot {
    /// Address of the slot in its process.
    pub address: u64,
    /// Readings that are in the ring already.
    pub taken: u64,
    /// Whose slot it is; 0: nobody's (a place that is free).
    pub tid: u64,
}

/// Bytes of a part with as many readings as there can be at once: the number of the first, and they.
pub const READINGS_PART: usize = 8 + READINGS * size_of::<Reading>();

const _: () = assert!(READINGS.is_power_of_two());
const _: () = assert!(GETTIMEOFDAY < 1 << WHAT_BITS && TIME < 1 << WHAT_BITS);
const _: () = assert!(size_of::<Reading>() == 16);
const _: () = assert!(size_of::<ClockSlot>() == 24);
const _: () = assert!(size_of::<SlotHeader>() as u64 <= READINGS_AT);
const _: () = assert!(READINGS_AT + (READINGS * size_of::<Reading>()) as u64 <= SLOT_BYTES);
