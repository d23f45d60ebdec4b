//! The memory in which threads keep their clock readings (`mvedsua_common::clock`): one private mapping,
//! made in the leader during the snapshot's pause and so inherited by the follower at the same address.

use mvedsua_common::clock::{
    READINGS, READINGS_AT, Reading, SLOT_BYTES, SLOTS, SlotHeader, WHAT_BITS,
};
use mvedsua_common::table::number;

use super::inject::Guarded;
use super::stub::header;
use super::{Naming, Result};
use crate::sys::memory;
use crate::sys::ptrace::Registers;

const BYTES: u64 = SLOTS as u64 * SLOT_BYTES;

/// True if the thread does not use its gs base, through which a slot is found. C libraries do not.
#[must_use]
pub const fn gs_is_free(regs: &Registers) -> bool {
    regs.gs == 0 && regs.gs_base == 0
}

/// Makes the mapping.
///
/// # Errors
/// When the process may not map more (limits), or is gone.
pub fn map(guarded: &mut Guarded<'_>) -> Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let args = [0, BYTES, protection as u64, flags as u64, u64::MAX, 0];
    guarded.call("mmap", number("mmap"), &args)
}

/// Takes the mapping away.
///
/// # Errors
/// When the process is gone.
pub fn unmap(guarded: &mut Guarded<'_>, slots: u64) -> Result<()> {
    guarded
        .call("munmap", number("munmap"), &[slots, BYTES, 0, 0, 0, 0])
        .map(drop)
}

/// Address of a slot.
#[must_use]
pub const fn slot(slots: u64, index: usize) -> u64 {
    slots + index as u64 * SLOT_BYTES
}

/// Where in a slot a thread leaves its answers ([`super::stub::QUERY_DONE`]): behind the readings.
const ANSWERS_AT: u64 = SLOT_BYTES - 64;

const _: () = assert!(READINGS_AT + (READINGS * size_of::<Reading>()) as u64 <= ANSWERS_AT);

/// Where the thread whose slot this is leaves its answers on its way out of the snapshot.
#[must_use]
pub const fn answers(slot: u64) -> u64 {
    slot + ANSWERS_AT
}

/// Makes a slot empty. Afterwards it is resident, as the recorder needs it, and no place holds the number of a reading
/// that is still to come.
///
/// # Errors
/// When the process is gone.
pub fn clear(pid: i32, slot: u64) -> Result<()> {
    const USED: usize = READINGS_AT as usize + READINGS * size_of::<Reading>();
    memory::write(pid, slot, &[0; USED]).named("clear a clock slot", pid)
}

/// The reading that the thread was making when `count` of them counted is not made: its place must not say that it
/// holds it.
///
/// # Errors
/// When the process is gone.
pub fn take_back(pid: i32, slot: u64, count: u64) -> Result<()> {
    const NUMBER: u64 = std::mem::offset_of!(SlotHeader, number) as u64;
    const WHAT: u64 = std::mem::offset_of!(Reading, what) as u64;
    let place = READINGS_AT + count % READINGS as u64 * size_of::<Reading>() as u64;
    memory::write(pid, slot + place + WHAT, &[0; 4]).named("take a reading back", pid)?;
    memory::write(pid, slot + NUMBER, &[0; 8]).named("take a reading back", pid)
}

/// Readings of a leader's thread from number `from` on, as far as they are of the present turn through the
/// slot (older ones are in the ring). Also of a running thread: what it adds meanwhile is left out.
/// Returns the number of the first, too.
///
/// # Errors
/// When the process is gone.
pub fn written(pid: i32, slot: u64, from: u64) -> Result<(u64, Vec<Reading>)> {
    const PLACES: u64 = READINGS as u64;
    let count = header(pid, slot)?.count;
    let turn = count / PLACES * PLACES;
    let first = from.max(turn);
    if first >= count {
        return Ok((first, Vec::new()));
    }
    let mut bytes = vec![0; (count - first) as usize * size_of::<Reading>()];
    let at = slot + READINGS_AT + (first - turn) * size_of::<Reading>() as u64;
    memory::read(pid, at, &mut bytes).named("read clock readings", pid)?;
    if header(pid, slot)?.count / PLACES * PLACES != turn {
        // It has come round meanwhile: the recorder has them.
        return Ok((first, Vec::new()));
    }
    Ok((first, parse(&bytes)))
}

/// Readings as they lie in memory.
#[must_use]
pub fn parse(bytes: &[u8]) -> Vec<Reading> {
    bytes
        .chunks_exact(size_of::<Reading>())
        .map(|bytes| Reading {
            seconds: u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")),
            fraction: u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes")),
            what: u32::from_le_bytes(bytes[12..].try_into().expect("4 bytes"))
                & ((1 << WHAT_BITS) - 1),
        })
        .collect()
}

/// Gives readings, at most [`READINGS`], to a thread of a follower that waits in a call and has none.
///
/// # Errors
/// When the process is gone.
pub fn give(pid: i32, slot: u64, readings: &[Reading], buffer: &mut Vec<u8>) -> Result<()> {
    const FROM: usize = std::mem::offset_of!(SlotHeader, consumed);
    buffer.clear();
    buffer.resize(READINGS_AT as usize - FROM, 0);
    let given = std::mem::offset_of!(SlotHeader, given) - FROM;
    buffer[given..given + 8].copy_from_slice(&(readings.len() as u64).to_le_bytes());
    for reading in readings {
        buffer.extend_from_slice(&reading.seconds.to_le_bytes());
        buffer.extend_from_slice(&reading.fraction.to_le_bytes());
        buffer.extend_from_slice(&reading.what.to_le_bytes());
    }
    memory::write(pid, slot + FROM as u64, buffer).named("give clock readings", pid)
}

/// How many of the readings that it was given a thread of a follower has taken.
///
/// # Errors
/// When the process is gone.
pub fn consumed(pid: i32, slot: u64) -> Result<u64> {
    Ok(header(pid, slot)?.consumed)
}
