//! Clock readings that only one side makes. A reading has no effect on the world, and how many are made
//! may depend on which of two threads got a lock: an allocator like jemalloc reads a clock for its
//! housekeeping only where a `trylock` succeeds. So a reading more or less is no divergence by itself;
//! what follows from it would show in another call.

use mvedsua_common::spec::Class;
use mvedsua_common::table;

use super::following::{Following, Stop};
use super::lane::Item;
use super::readings::as_call;
use super::replay::record;
use crate::follower::{Arrival, ProcessMemory};
use crate::matcher::{Call, Memory, Record};
use crate::rules::call::Call as _;

/// So many readings of its own in a row are taken for a loop that waits for a time which the leader has
/// not seen yet: a divergence.
const MOST_IN_A_ROW: u32 = 1000;

/// What the clocks said last.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// Per call and clock: the bytes that the leader got.
    last: Vec<(u16, u64, [u8; 16])>,
    /// Readings that the follower made by itself since it last did the same as the leader.
    own: u32,
}

/// Which clock a call reads: `clock_gettime` has it in its first argument.
fn clock(nr: u16, args: &[u64; 6]) -> u64 {
    let named = table::syscall(nr).is_some_and(|call| call.name == "clock_gettime");
    if named { args[0] & 0xffff_ffff } else { 0 }
}

fn reads_clock(nr: u16, args: &[u64; 6]) -> bool {
    table::syscall(nr).is_some_and(|call| call.class_of(args) == Class::Time)
}

/// Which argument the reading is stored at.
fn place(call: &Call) -> Option<usize> {
    table::syscall(call.nr)?
        .names
        .iter()
        .position(|name| matches!(*name, "tp" | "tv"))
}

impl Clocks {
    /// Both sides made this call; a reading is what will be said again if the follower asks once more.
    pub(super) fn equal(&mut self, record: &Record<'_>) {
        self.own = 0;
        let call = Call {
            nr: record.header.nr,
            args: record.header.args,
        };
        if !reads_clock(call.nr, &call.args) {
            return;
        }
        let data = place(&call).and_then(|at| record.data(at as u8));
        let Some(bytes) = data.and_then(|data| data.first_chunk::<16>()) else {
            return;
        };
        self.said(call.nr, &call.args, *bytes);
    }

    /// Both sides read this clock, and it said `bytes`.
    pub(super) fn said(&mut self, nr: u16, args: &[u64; 6], bytes: [u8; 16]) {
        self.own = 0;
        let which = (nr, clock(nr, args));
        match self.last.iter_mut().find(|l| (l.0, l.1) == which) {
            Some(last) => last.2 = bytes,
            None => self.last.push((which.0, which.1, bytes)),
        }
    }
}

impl Following {
    /// The next call of a lane was equal on both sides.
    pub(super) fn note_clock(&mut self, index: usize) {
        if let Some((Item::Call(event), _)) = self.order.next(index) {
            let record = record(&self.recorder, &self.fetched, event);
            self.clocks.equal(&record);
        }
    }

    /// If only one side reads a clock here, makes that good. Returns whether it did, so that the step is
    /// over.
    pub(super) fn reconcile_clocks(
        &mut self,
        index: usize,
        arrival: &Arrival,
    ) -> Result<bool, Stop> {
        let pair = self.lanes[index].pair;
        let Some((nr, args)) = self.nth_call(index, 0) else {
            return Ok(false);
        };
        let theirs = reads_clock(nr, &args);
        let ours = reads_clock(arrival.call.nr, &arrival.call.args);
        let wanted = (arrival.call.nr, clock(arrival.call.nr, &arrival.call.args));
        if !(theirs || ours) || (theirs && ours && (nr, clock(nr, &args)) == wanted) {
            return Ok(false);
        }
        if theirs && ours {
            // The reading that it asks for may be in the ring still.
            self.drain_ring()?;
        }
        if theirs && (!ours || self.comes_soon(index, wanted)) {
            // The follower does not ask: it has gone on.
            if self.next_reading(index).is_some() {
                self.take_reading(index);
            } else {
                self.release_front(index);
            }
            self.counts.reconciled += 1;
            return Ok(true);
        }
        self.clocks.own += 1;
        if self.clocks.own > MOST_IN_A_ROW {
            return Ok(false);
        }
        let last = self.clocks.last.iter().find(|l| (l.0, l.1) == wanted);
        let Some((bytes, at)) = last.map(|l| l.2).zip(place(&arrival.call)) else {
            // It has never been read: nothing that it says can contradict the leader's past.
            self.counts.reconciled += 1;
            self.lanes[index].waiting = None;
            self.let_run(arrival)?;
            return Ok(true);
        };
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        let address = arrival.call.args[at];
        if address == 0 || memory.write(address, &bytes).is_err() {
            return Ok(false);
        }
        self.counts.reconciled += 1;
        self.lanes[index].waiting = None;
        self.respond(arrival, 0)?;
        Ok(true)
    }

    /// The `n`th call from now on of the leader's thread, be it a reading without a call.
    fn nth_call(&self, index: usize, n: usize) -> Option<(u16, [u64; 6])> {
        let returned = &self.lanes[index].returned;
        let header = match returned.get(n) {
            Some(reading) => as_call(reading),
            None => match self.order.nth(index, n - returned.len())? {
                Item::Reading(reading) => as_call(reading),
                Item::Call(event) => event.header,
                Item::Expected(expected) => {
                    let args = expected.origin.as_ref().map_or([0; 6], |call| *call.args());
                    return Some((expected.nr, args));
                }
                _ => return None,
            },
        };
        Some((header.nr, header.args))
    }

    /// The leader's readings up to its next other call contain this one.
    fn comes_soon(&self, index: usize, wanted: (u16, u64)) -> bool {
        (1..)
            .map_while(|n| self.nth_call(index, n))
            .take_while(|(nr, args)| reads_clock(*nr, args))
            .any(|(nr, args)| (nr, clock(nr, &args)) == wanted)
    }
}
