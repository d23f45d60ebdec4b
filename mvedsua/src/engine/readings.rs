//! Clock readings that need no system call: those that the leader's threads wrote down, and those that the
//! follower's threads are given ahead.
//!
//! The readings of a thread are items of its queue like its calls, and precede the call with whose record
//! they came. They are not ordered against other threads, since nobody saw when they were made. When a
//! call of the follower is answered, the run of readings that comes next in its queue is put into the
//! thread's slot, where the follower takes them without a call. At its next call it is looked up how many
//! it took: those that it did not take are expected next, so that it shows in the very call that follows
//! when it made one less or one more (`clocks.rs` says what becomes of that).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mvedsua_common::clock::{GETTIMEOFDAY, READINGS, Reading, SLOTS, TIME};
use mvedsua_common::event::{EventHeader, NO_ARG, PART_READINGS, PART_WHOLE};
use mvedsua_common::spec::Class;
use mvedsua_common::table;

use super::following::{Following, Stop};
use super::lane::Item;
use super::roles::roles;
use crate::follower::{Arrival, ProcessMemory};
use crate::matcher::{Record, answer, compare, push_part};
use crate::recorder::EventRef;
use crate::tracee::clock_slots;
use crate::tracee::inspect;
use crate::tracee::thread::Stopped;

/// How often the slot of a leader's thread is looked at whose follower waits for a reading.
const LOOK: Duration = Duration::from_millis(1);

/// The slot of a thread of the leader.
#[derive(Clone, Copy, Debug)]
struct Slot {
    address: u64,
    /// Readings that are in the queue already.
    seen: u64,
}

/// Who has which slot. Both processes have the slots at the same addresses, and the threads of a pair
/// have the same slot.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Address of the slots; `None`: clocks are read by system calls.
    base: Option<u64>,
    free: Vec<u64>,
    leader: HashMap<i32, Slot>,
    /// Threads of the leader that have not stopped at their birth yet: they have no slot.
    unborn: std::collections::HashSet<i32>,
    /// A process that has not run yet, and the slot that it has from its maker.
    inherited: Option<(i32, u64)>,
    looked: Option<Instant>,
    buffer: Vec<u8>,
}

impl Slots {
    /// With the slots at `base`, the first of them taken by these threads of the leader in this order.
    pub(super) fn new(base: Option<u64>, owners: impl IntoIterator<Item = (i32, u64)>) -> Self {
        let leader: HashMap<i32, Slot> = owners
            .into_iter()
            .map(|(tid, address)| (tid, Slot { address, seen: 0 }))
            .collect();
        let taken: std::collections::HashSet<u64> =
            leader.values().map(|slot| slot.address).collect();
        let free = base.map_or(Vec::new(), |base| {
            (0..SLOTS)
                .rev()
                .map(|index| clock_slots::slot(base, index))
                .filter(|address| !taken.contains(address))
                .collect()
        });
        Self {
            base,
            free,
            leader,
            ..Self::default()
        }
    }

    /// Those of a process that a thread of another has made: the first thread has the slot of its maker.
    pub(super) fn inherited(of: &Self, maker: i32, child: i32) -> Self {
        let address = of.of(maker);
        let mut slots = Self::new(of.base, [(child, address)]);
        slots.leader.clear();
        slots.unborn.insert(child);
        slots.inherited = Some((child, address));
        slots
    }

    /// The thread of the leader has a slot.
    pub(super) fn has(&self, tid: i32) -> bool {
        self.leader.contains_key(&tid)
    }

    pub(super) const fn base(&self) -> Option<u64> {
        self.base
    }

    /// A new thread of the leader was announced by its creator; it will stop at its birth.
    pub(super) fn expect_birth(&mut self, tid: i32) {
        self.unborn.insert(tid);
    }

    pub(super) fn is_expected(&self, tid: i32) -> bool {
        self.unborn.contains(&tid)
    }

    /// Address of the slot of a thread of the leader; 0: it has none.
    pub(super) fn of(&self, tid: i32) -> u64 {
        let inherited = self.inherited.filter(|(child, _)| *child == tid);
        let given = self.leader.get(&tid).map(|slot| slot.address);
        given.unwrap_or(inherited.map_or(0, |(_, address)| address))
    }
}

/// A reading as the call that it stands for.
pub(super) fn as_call(reading: &Reading) -> EventHeader {
    // 1: any address but null.
    let roles = roles();
    let (nr, args, ret) = match reading.what {
        GETTIMEOFDAY => (roles.gettimeofday, [1, 0, 0, 0, 0, 0], 0),
        TIME => (roles.time, [0; 6], reading.seconds as i64),
        clock => (roles.clock_gettime, [u64::from(clock), 1, 0, 0, 0, 0], 0),
    };
    EventHeader {
        len: 0,
        nr,
        flags: 0,
        tgid: 0,
        tid: 0,
        ret,
        args,
        parts: 0,
        cpu: 0,
    }
}

/// `struct timespec` or `timeval`.
fn stored(reading: &Reading) -> [u8; 16] {
    let mut time = [0u8; 16];
    time[..8].copy_from_slice(&reading.seconds.to_le_bytes());
    time[8..12].copy_from_slice(&reading.fraction.to_le_bytes());
    time
}

/// What the call stored, as a record's payload.
fn payload(reading: &Reading) -> Vec<u8> {
    let time = stored(reading);
    let mut payload = Vec::new();
    match reading.what {
        TIME => {}
        GETTIMEOFDAY => push_part(&mut payload, 0, PART_WHOLE, &time),
        _ => push_part(&mut payload, 1, PART_WHOLE, &time),
    }
    payload
}

impl Following {
    /// Queues the readings that came with a record, before it.
    pub(super) fn queue_readings(&mut self, event: &EventRef) -> Result<(), Stop> {
        let record = self.recorder.ring.event(event);
        let Some(data) = record.part(NO_ARG, PART_READINGS).filter(|d| d.len() >= 8) else {
            return Ok(());
        };
        let tid = event.header.tid as i32;
        let Some(pair) = self.pairs.of_slot(tid) else {
            return Ok(());
        };
        let first = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
        let readings = clock_slots::parse(&data[8..]);
        self.push_readings(pair, tid, first, &readings)
    }

    fn push_readings(
        &mut self,
        pair: usize,
        tid: i32,
        first: u64,
        readings: &[Reading],
    ) -> Result<(), Stop> {
        let Some(slot) = self.pairs[pair].slots.leader.get_mut(&tid) else {
            return Ok(());
        };
        let known = slot.seen.saturating_sub(first) as usize;
        slot.seen = slot.seen.max(first + readings.len() as u64);
        for reading in readings.iter().skip(known) {
            self.counts.recorded += 1;
            self.push(tid, Item::Reading(*reading))?;
        }
        Ok(())
    }

    /// Queues what a stopped thread of the leader wrote down since its last call. All of its calls are in
    /// the queue already.
    pub(super) fn collect_readings(&mut self, pair: usize, tid: i32) -> Result<(), Stop> {
        let Some(slot) = self.pairs[pair].slots.leader.get(&tid).copied() else {
            return Ok(());
        };
        let (first, readings) =
            clock_slots::written(self.pairs[pair].leader.pid, slot.address, slot.seen)?;
        self.push_readings(pair, tid, first, &readings)
    }

    /// The same for all threads of the stopped leader.
    pub(super) fn collect_all_readings(&mut self, pair: usize) -> Result<(), Stop> {
        let tids: Vec<i32> = self.pairs[pair].slots.leader.keys().copied().collect();
        for tid in tids {
            self.collect_readings(pair, tid)?;
        }
        Ok(())
    }

    /// The last call of a stopped thread went out of line because its slot could not be read: its
    /// readings go before it.
    pub(super) fn collect_readings_before_last(
        &mut self,
        pair: usize,
        tid: i32,
    ) -> Result<(), Stop> {
        let Some(slot) = self.pairs[pair].slots.leader.get(&tid).copied() else {
            return Ok(());
        };
        let (first, readings) =
            clock_slots::written(self.pairs[pair].leader.pid, slot.address, slot.seen)?;
        if readings.is_empty() {
            return Ok(());
        }
        let last = match self.lanes.of_leader(tid) {
            Some(index) => self.order.take_last(index),
            None => self.early.get_mut(&tid).and_then(Vec::pop),
        };
        self.push_readings(pair, tid, first, &readings)?;
        if let Some(last) = last {
            self.push(tid, last)?;
        }
        Ok(())
    }

    /// A thread of the leader may sleep in a call that is not recorded, with readings in its slot that its
    /// follower waits for.
    pub(super) fn look_for_readings(&mut self) -> Result<(), Stop> {
        let root = &self.pairs.root().slots;
        if root.base.is_none() || root.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        let mut found: Vec<(usize, i32, u64, Vec<Reading>)> = Vec::new();
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            let pair = lane.pair;
            if lane.waiting.is_none() || self.order.next(index).is_some() {
                continue;
            }
            if let Some(slot) = self.pairs[pair].slots.leader.get(&lane.leader) {
                let (pid, tid) = (self.pairs[pair].leader.pid, lane.leader);
                let written = clock_slots::written(pid, slot.address, slot.seen);
                // One that ends has been looked at where it was reported to; what it did last may be held by rules.
                let child = self.pairs[pair].child.as_ref();
                let ends = child.is_some_and(|child| child.leader_end.is_some());
                if written.is_err() && (ends || inspect::is_dying(pid)) {
                    continue;
                }
                let (first, readings) = written?;
                if !readings.is_empty() {
                    found.push((pair, tid, first, readings));
                }
            }
        }
        self.pairs.root_mut().slots.looked = Some(Instant::now());
        if !found.is_empty() {
            // Calls that were made before these readings are in the ring by now, and go first. Those of the same
            // thread may also have been made after them, and bring them: a `fork` holds the memory that is
            // read here until it is through, and its record is there at the same moment.
            self.drain_ring()?;
            for (pair, tid, first, readings) in found {
                let index = self.lanes.of_leader(tid);
                if index.is_some_and(|index| self.order.next(index).is_none()) {
                    self.push_readings(pair, tid, first, &readings)?;
                }
            }
            self.advance()?;
        }
        Ok(())
    }

    /// A new thread of the leader at its birth, before it has run: it gets a slot of its own.
    pub(super) fn give_slot(&mut self, pair: usize, thread: &Stopped) -> Result<(), Stop> {
        if self.pairs[pair].slots.base.is_none() {
            return Ok(());
        }
        let tid = thread.tid();
        self.pairs[pair].slots.unborn.remove(&tid);
        let slots = &mut self.pairs[pair].slots;
        let address = match slots.inherited.filter(|(child, _)| *child == tid) {
            Some((_, address)) => address,
            None => slots.free.pop().unwrap_or(0),
        };
        if address != 0 {
            clock_slots::clear(self.pairs[pair].leader.pid, address)?;
            self.recorder.set_clock(tid as u32, address)?;
            self.pairs[pair]
                .slots
                .leader
                .insert(tid, Slot { address, seen: 0 });
        }
        let mut regs = thread.registers()?;
        regs.gs_base = address;
        thread.set_registers(&regs)?;
        Ok(())
    }

    /// A thread of the leader is gone, and all that it read is in its queue.
    pub(super) fn take_slot_back(&mut self, pair: usize, tid: i32) {
        self.pairs[pair].slots.unborn.remove(&tid);
        if let Some(slot) = self.pairs[pair].slots.leader.remove(&tid) {
            self.recorder.remove_clock(tid as u32);
            self.pairs[pair].slots.free.insert(0, slot.address);
        }
    }

    /// A new thread of the follower, stopped before it has run: it gets the slot of its counterpart.
    pub(super) fn share_slot(&mut self, thread: &Stopped) -> Result<(), Stop> {
        let Some(index) = self.lanes.of_follower(thread.tid()) else {
            return Ok(());
        };
        let pair = self.lanes[index].pair;
        if self.pairs[pair].slots.base.is_none() || self.lanes[index].has_slot {
            return Ok(());
        }
        let address = self.lanes[index].slot;
        if address != 0 {
            clock_slots::clear(self.pairs[pair].follower.pid, address)?;
        }
        let mut regs = thread.registers()?;
        regs.gs_base = address;
        thread.set_registers(&regs)?;
        self.lanes[index].has_slot = true;
        Ok(())
    }

    /// The reading that a thread of the follower is expected to make next.
    pub(super) fn next_reading(&self, index: usize) -> Option<Reading> {
        if let Some(reading) = self.lanes[index].returned.front() {
            return Some(*reading);
        }
        match self.order.next(index) {
            Some((Item::Reading(reading), _)) => Some(*reading),
            _ => None,
        }
    }

    pub(super) fn take_reading(&mut self, index: usize) {
        if self.lanes[index].returned.pop_front().is_none() {
            self.order.take(index);
        }
    }

    /// Puts the readings that come next into the slot of a thread that is about to go on.
    pub(super) fn hand_out(&mut self, arrival: &Arrival) -> Result<(), Stop> {
        let Some(index) = self.lanes.of_follower(arrival.tid) else {
            return Ok(());
        };
        let lane = &self.lanes[index];
        let pair = lane.pair;
        if lane.slot == 0 || !lane.has_slot || !lane.handed.is_empty() {
            return Ok(());
        }
        while let Some(reading) = self.next_reading(index)
            && self.lanes[index].handed.len() < READINGS
        {
            self.lanes[index].handed.push_back(reading);
            self.take_reading(index);
        }
        let lane = &mut self.lanes[index];
        if !lane.handed.is_empty() {
            let readings = lane.handed.make_contiguous();
            let pair = &mut self.pairs[pair];
            let buffer = &mut pair.slots.buffer;
            clock_slots::give(pair.follower.pid, lane.slot, readings, buffer)?;
        }
        Ok(())
    }

    /// Looks how many of the readings that it was given a thread has taken; true if all.
    pub(super) fn count_taken(&mut self, index: usize) -> Result<bool, Stop> {
        let pair = self.lanes[index].pair;
        if self.lanes[index].handed.is_empty() {
            return Ok(true);
        }
        let slot = self.lanes[index].slot;
        let taken = clock_slots::consumed(self.pairs[pair].follower.pid, slot)? as usize;
        Ok(taken >= self.lanes[index].handed.len())
    }

    /// A thread of the follower has arrived in a call: what it took of its readings was equal, what it did
    /// not take is expected of it now.
    pub(super) fn settle_readings(&mut self, index: usize) -> Result<(), Stop> {
        let pair = self.lanes[index].pair;
        if self.lanes[index].handed.is_empty() {
            return Ok(());
        }
        let slot = self.lanes[index].slot;
        let taken = clock_slots::consumed(self.pairs[pair].follower.pid, slot)? as usize;
        let mut handed = std::mem::take(&mut self.lanes[index].handed);
        let left = handed.split_off(taken.min(handed.len()));
        let leader = self.lanes[index].leader;
        self.counts.matched += handed.len() as u64;
        for reading in &handed {
            let header = as_call(reading);
            self.remember(leader, &header);
            self.clocks.said(header.nr, &header.args, stored(reading));
        }
        handed.clear();
        // The thread may make calls while some are left in its slot: it must not find them there.
        if !left.is_empty() {
            clock_slots::clear(self.pairs[pair].follower.pid, slot)?;
        }
        let lane = &mut self.lanes[index];
        lane.handed = handed;
        for reading in left.into_iter().rev() {
            lane.returned.push_front(reading);
        }
        Ok(())
    }

    /// What has no order among threads is not kept waiting for its turn: the thread may hold a lock that
    /// the one needs whose turn it is.
    pub(super) fn step_out_of_turn(&mut self) -> Result<bool, Stop> {
        let mut any = false;
        for index in 0..self.lanes.len() {
            if self.lanes[index].waiting.is_some() && self.has_no_order(index) {
                any |= self.step(index)?;
            }
        }
        Ok(any)
    }

    /// The leader's thread reads a clock next, with or without a call, or ends (which is known late, from
    /// ptrace, so that its place in the order says little).
    fn has_no_order(&self, index: usize) -> bool {
        match self.order.next(index) {
            Some((Item::Call(event), _)) => {
                !self.lanes[index].returned.is_empty()
                    || table::syscall(event.header.nr).is_some_and(|call| call.class == Class::Time)
            }
            Some((Item::Exit, _)) => true,
            _ => self.next_reading(index).is_some(),
        }
    }

    /// The follower's thread is to read the clock now.
    pub(super) fn step_reading(&mut self, index: usize, reading: &Reading) -> Result<bool, Stop> {
        let pair = self.lanes[index].pair;
        let Some(arrival) = self.lanes[index].waiting else {
            return Ok(false);
        };
        if self.reconcile_clocks(index, &arrival)? {
            return Ok(true);
        }
        let (header, payload) = (as_call(reading), payload(reading));
        let header = EventHeader {
            parts: u32::MAX,
            ..header
        };
        let record = Record {
            header,
            payload: &payload,
        };
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        if let Err(difference) = compare(&record, &arrival.call, &mut memory, &mut self.scratch) {
            return Err(self.divergence(index, &arrival, &difference));
        }
        let answer = match answer(&record, &arrival.call, &mut memory, &self.pairs[pair].epoll) {
            Ok(answer) => answer,
            Err(fault) => return Err(self.cannot_store(index, &arrival, fault)),
        };
        self.take_reading(index);
        self.clocks.said(header.nr, &header.args, stored(reading));
        self.remember(self.lanes[index].leader, &header);
        self.lanes[index].waiting = None;
        self.counts.matched += 1;
        self.queue_signals_behind(index)?;
        self.respond(&arrival, answer.result)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::{Call, Fault, Memory};

    struct Words(Vec<u8>);

    impl Memory for Words {
        fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), Fault> {
            Err(Fault { address: 0 })
        }
        fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
            self.0[address as usize..][..data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    #[test]
    fn a_reading_compares_and_answers_like_its_call() {
        let cases = [
            (7, "clock_gettime", [7, 32, 0, 0, 0, 0], 0),
            (GETTIMEOFDAY, "gettimeofday", [32, 0, 0, 0, 0, 0], 0),
            (TIME, "time", [0; 6], 1_700_000_000),
        ];
        for (what, name, args, result) in cases {
            let reading = Reading {
                seconds: 1_700_000_000,
                fraction: 5,
                what,
            };
            let payload = payload(&reading);
            let header = EventHeader {
                parts: u32::MAX,
                ..as_call(&reading)
            };
            let record = Record {
                header,
                payload: &payload,
            };
            let nr = table::number(name);
            let mut memory = Words(vec![0xff; 64]);
            let epoll = crate::matcher::EpollData::default();
            let call = Call { nr, args };
            compare(&record, &call, &mut memory, &mut Vec::new()).expect("equal");
            let answer = answer(&record, &call, &mut memory, &epoll).expect("room");
            assert_eq!(answer.result, result, "{name}");
            if what != TIME {
                assert_eq!(memory.0[32..40], 1_700_000_000u64.to_le_bytes(), "{name}");
                assert_eq!(memory.0[40..48], 5u64.to_le_bytes(), "{name}");
            }
            let other = Call { nr: nr + 1, args };
            assert!(compare(&record, &other, &mut memory, &mut Vec::new()).is_err());
        }
    }
}
