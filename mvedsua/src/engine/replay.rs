//! One step of the follower: the next item of a thread against the call in which it waits.

use mvedsua_common::event::{EventHeader, FLAG_OUT_OF_LINE, FLAG_SIGNAL};
use mvedsua_common::spec::{Arg, Class, Dir};
use mvedsua_common::table;

use super::following::{Following, ORDER_PATIENCE, Stop, makes};
use super::lane::{InCall, Item, Masked};
use super::roles::roles;
use crate::follower::{Arrival, ProcessMemory};
use crate::matcher::{self, Memory, Record, Registration, answer, compare};
use crate::sys::memory;
use crate::tracee::context::ERESTART;
use crate::tracee::inspect;

/// `-ERESTARTNOINTR`: the kernel makes the call again after the pending signal's handler.
pub(super) const RESTART_ALWAYS: i64 = -513;
/// `-ERESTARTNOHAND` and `-ERESTART_RESTARTBLOCK` mean the same to a handler; without one the second
/// would have the follower resume a sleep that it never began.
pub(super) const RESTART_WITHOUT_HANDLER: i64 = -514;
const RESTART_BLOCK: i64 = -516;
const INTERRUPTED: i64 = -(libc::EINTR as i64);

/// Calls with a lasting effect that promotion repeats (`transfer`).
const CARRIED_OVER: &[&str] = &[
    "chdir",
    "fchdir",
    "umask",
    "setitimer",
    "alarm",
    "prlimit64",
    "setrlimit",
    "timer_create",
    "timer_settime",
    "timer_delete",
    "setpriority",
    "sched_setparam",
    "sched_setscheduler",
    "sched_setattr",
    "sched_setaffinity",
    "ioprio_set",
    "PR_SET_TIMERSLACK",
];

/// Calls whose effect is carried over by themselves (`estate`).
const OF_AN_ESTATE: &[&str] = &[
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setgroups",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "capset",
    "chroot",
    "F_SETLK",
    "F_SETLKW",
    "PR_SET_PDEATHSIG",
    "PR_SET_DUMPABLE",
    "PR_SET_KEEPCAPS",
    "PR_CAPBSET_DROP",
    "PR_SET_SECUREBITS",
    "PR_SET_CHILD_SUBREAPER",
    "PR_SET_NO_NEW_PRIVS",
    "PR_CAP_AMBIENT",
];

/// What an item asks for, looked at without taking it.
enum Next {
    Call { ret: i64 },
    Signal(InCall),
    Exit,
}

impl Following {
    /// Tries to take the next item of a lane. Returns whether one was taken.
    pub(super) fn step(&mut self, index: usize) -> Result<bool, Stop> {
        if self.lanes[index].fault.is_some() {
            return self.step_fault(index);
        }
        if let Some(reading) = self.next_reading(index) {
            return self.step_reading(index, &reading);
        }
        if !self.may_reap(index) || self.must_wait_to_bear(index) {
            return Ok(false);
        }
        let next = match self.order.next(index) {
            None | Some((Item::Reading(_), _)) => return Ok(false),
            Some((Item::Expected(_), _)) => {
                return if self.may_get_a_signal(index) {
                    Ok(false)
                } else {
                    self.step_expected(index)
                };
            }
            Some((Item::Verdict(_), _)) => return self.step_verdict(index),
            Some((Item::Call(event), _)) => Next::Call {
                ret: event.header.ret,
            },
            // The follower's thread makes the same fault.
            Some((Item::Signal(signal), _)) if signal.is_fault() => {
                return Ok(self.step_leaders_fault(index));
            }
            Some((Item::Signal(signal), _)) => Next::Signal(signal.in_call),
            Some((Item::Exit, _)) => Next::Exit,
        };
        match next {
            Next::Exit => self.step_exit(index),
            Next::Signal(in_call) => self.step_signal(index, in_call),
            Next::Call { ret } if is_interrupted(ret) => self.step_interrupted(index, ret),
            Next::Call { .. } if self.may_get_a_signal(index) => Ok(false),
            Next::Call { .. } => self.step_call(index),
        }
    }

    /// The leader's thread ended: so must the follower's.
    fn step_exit(&mut self, index: usize) -> Result<bool, Stop> {
        let pair = &self.pairs[self.lanes[index].pair];
        let whole = pair.child.as_ref().is_some_and(|c| c.leader_end.is_some());
        if whole && !self.lanes[index].ended {
            return self.step_end(index);
        }
        let Some(arrival) = self.lanes[index].waiting else {
            if self.lanes[index].ended {
                self.order.take(index);
                self.close_lane(index);
                return Ok(true);
            }
            return Ok(false);
        };
        if arrival.call.nr == roles().exit {
            self.lanes[index].waiting = None;
            self.order.take(index);
            self.let_run(&arrival)?;
            return Ok(true);
        }
        if arrival.call.nr == roles().exit_group {
            // Both sides end; the leader's end decides what becomes of the session.
            return Ok(false);
        }
        self.counts.diverged += 1;
        let report = self.divergence_report(index, &arrival, None, None);
        self.keep_divergence(index, &arrival);
        Err(Stop::RollBack(
            format!(
                "divergence in thread {}: the follower calls {} where the leader's thread ended",
                self.lanes[index].leader,
                arrival.call.name()
            ),
            Some(report),
        ))
    }

    fn step_signal(&mut self, index: usize, in_call: InCall) -> Result<bool, Stop> {
        if !self.signals_are_known(index, 0) {
            return Ok(false);
        }
        let Some(arrival) = self.lanes[index].waiting.take() else {
            if let InCall::Local(nr) = in_call
                && self.sleeps_in(index, nr)
            {
                self.queue_signals(index)?;
                return Ok(true);
            }
            return Ok(false);
        };
        self.queue_signals(index)?;
        // The handlers run first; then the thread makes the very call again, unless the leader's did not.
        let verdict = match in_call {
            InCall::Again(code) => code,
            InCall::No | InCall::Local(_) => RESTART_ALWAYS,
        };
        self.respond(&arrival, verdict)?;
        Ok(true)
    }

    /// Signals that are delivered at one place follow each other in the queue. Are all of them here,
    /// from the item `n` places after the next on? A signal may also have gone to another thread:
    /// then nothing comes, and patience ends.
    pub(super) fn signals_are_known(&self, index: usize, n: usize) -> bool {
        let mut more = true;
        for n in n.. {
            match self.order.nth(index, n) {
                // The thread makes that by itself.
                Some(Item::Signal(signal)) if signal.is_fault() => return true,
                Some(Item::Signal(signal)) => more = signal.more,
                Some(_) => return true,
                None => break,
            }
        }
        !more || self.progress.elapsed() > ORDER_PATIENCE
    }

    /// Queues the signals that are next in a lane for its thread of the follower. One that found the leader's thread in a
    /// call of its own does not come with those before it.
    pub(super) fn queue_signals(&mut self, index: usize) -> Result<(), Stop> {
        let mut first = true;
        while let Some((Item::Signal(signal), _)) = self.order.next(index)
            && !signal.is_fault()
            && (first || !matches!(signal.in_call, InCall::Again(_)))
        {
            first = false;
            if let Some(Item::Signal(signal)) = self.order.take(index) {
                self.queue_signal(index, signal.info)?;
            }
        }
        Ok(())
    }

    /// The same at the end of a call: not for one that found the leader's thread in its next call.
    pub(super) fn queue_signals_behind(&mut self, index: usize) -> Result<(), Stop> {
        match self.order.next(index) {
            Some((Item::Signal(signal), _)) if matches!(signal.in_call, InCall::Again(_)) => Ok(()),
            _ => self.queue_signals(index),
        }
    }

    fn sleeps_in(&self, index: usize, nr: u16) -> bool {
        let pair = self.lanes[index].pair;
        let Some(tid) = self.lanes[index].follower else {
            return false;
        };
        inspect::current_call(self.pairs[pair].follower.pid, tid).is_some_and(|call| call.nr == nr)
    }

    /// The leader's call was interrupted. What comes next of that thread says what it means.
    fn step_interrupted(&mut self, index: usize, ret: i64) -> Result<bool, Stop> {
        let pair = self.lanes[index].pair;
        if self.order.nth(index, 1).is_none()
            || self.lanes[index].waiting.is_none()
            || !self.signals_are_known(index, 1)
        {
            return Ok(false);
        }
        let by_signal =
            matches!(self.order.nth(index, 1), Some(Item::Signal(signal)) if !signal.is_fault());
        if !by_signal {
            if ret == INTERRUPTED {
                return self.step_call(index);
            }
            // The kernel restarted the call unseen: its true result is the next item.
            self.release_front(index);
            return Ok(true);
        }
        let arrival = self.lanes[index].waiting.expect("checked above");
        self.compare_front(index, &arrival)?;
        self.write_answer(index, &arrival)?;
        let native = arrival.call.nr == roles().rt_sigsuspend;
        let mask = if native {
            None
        } else {
            self.temporary_mask(index, &arrival)
        };
        self.lanes[index].waiting = None;
        self.release_front(index);
        if let Some(temporary) = mask {
            // It stops on its way out of the call, before it looks for signals: see `follower_report`.
            self.lanes[index].masked = Some(Masked {
                temporary,
                own: None,
            });
            self.pairs[pair].follower.interrupt(arrival.tid);
        }
        self.queue_signals(index)?;
        self.counts.matched += 1;
        if native {
            // The temporary mask must be in force when the handler is set up.
            self.let_run(&arrival)?;
        } else {
            self.respond(
                &arrival,
                if ret == RESTART_BLOCK {
                    RESTART_WITHOUT_HANDLER
                } else {
                    ret
                },
            )?;
        }
        Ok(true)
    }

    /// The signal mask that a call puts into force while it waits (`ppoll`, `pselect6`, `epoll_pwait`).
    fn temporary_mask(&self, index: usize, arrival: &Arrival) -> Option<u64> {
        let pair = self.lanes[index].pair;
        let spec = table::syscall(arrival.call.nr)?;
        let at = spec.names.iter().position(|name| *name == "sigmask")?;
        let word = |address: u64| {
            let mut bytes = [0u8; 8];
            let read = address != 0
                && memory::read(self.pairs[pair].follower.pid, address, &mut bytes).is_ok();
            read.then(|| u64::from_le_bytes(bytes))
        };
        let argument = arrival.call.args[at];
        // That of pselect6 points to a pair of pointer and size.
        let mask = if spec.args[at] == Arg::Opaque {
            word(argument)?
        } else {
            argument
        };
        word(mask)
    }

    fn step_call(&mut self, index: usize) -> Result<bool, Stop> {
        let Some(arrival) = self.lanes[index].waiting else {
            return Ok(false);
        };
        if let Some((Item::Call(event), _)) = self.order.next(index)
            && self.lacks_payload(event)
        {
            // The leader's thread is about to report; its payload is fetched then.
            return Ok(false);
        }
        if self.is_carried_to(index) {
            self.take_in_hand(index);
            return self.step_expected(index);
        }
        if let Some((Item::Call(event), _)) = self.order.next(index)
            && event.header.flags & FLAG_SIGNAL != 0
            && !self.signals_are_known(index, 1)
        {
            // A signal comes at the end of this call: the thread must not get ahead of it.
            return Ok(false);
        }
        if self.reconcile_clocks(index, &arrival)? {
            return Ok(true);
        }
        self.compare_front(index, &arrival)?;
        let ret = self.write_answer(index, &arrival)?;
        self.note_clock(index);
        self.note_file(index);
        self.note_descriptors(self.lanes[index].pair, &arrival, ret);
        self.note_reaping(index, arrival.tid);
        self.lanes[index].waiting = None;
        self.release_front(index);
        self.counts.matched += 1;
        // A pending signal would make a clone fail; there it waits for the next call.
        if !makes(arrival.call.nr) {
            self.queue_signals_behind(index)?;
        }
        self.conclude(index, &arrival, ret)?;
        Ok(true)
    }

    fn compare_front(&mut self, index: usize, arrival: &Arrival) -> Result<(), Stop> {
        let pair = self.lanes[index].pair;
        if matches!(self.options.kind, crate::session::UpdateKind::Fault { .. }) {
            self.inject_fault(index, arrival);
        }
        let Some((Item::Call(event), _)) = self.order.next(index) else {
            return Ok(());
        };
        let record = record(&self.recorder, &self.fetched, event);
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        let Err(difference) = compare(&record, &arrival.call, &mut memory, &mut self.scratch)
        else {
            return self.note_registration(index, arrival);
        };
        Err(self.divergence(index, arrival, &difference))
    }

    /// `--inject-fault`: flips one bit of the bytes that the follower is about to write.
    pub(super) fn inject_fault(&mut self, index: usize, arrival: &Arrival) {
        let pair = self.lanes[index].pair;
        let Some(spec) = table::syscall(arrival.call.nr) else {
            return;
        };
        let written = (0..6).find(|at| {
            matches!(spec.arg_of(*at, &arrival.call.args), Arg::Mem(Dir::In, _))
                && arrival.call.args[*at] != 0
        });
        let Some(at) = written else { return };
        if self.fault_strikes() {
            let mut memory = ProcessMemory {
                pid: self.pairs[pair].follower.pid,
            };
            let mut address = arrival.call.args[at];
            if let Arg::Mem(_, mvedsua_common::spec::Len::Iov(_)) =
                spec.arg_of(at, &arrival.call.args)
            {
                let mut vector = [0u8; 8];
                let _ = memory.read(address, &mut vector);
                address = u64::from_le_bytes(vector);
            }
            let mut byte = [0u8];
            if memory.read(address, &mut byte).is_ok() {
                byte[0] ^= 1;
                let _ = memory::force_write(self.pairs[pair].follower.pid, address, &byte);
            }
        }
    }

    /// Remembers which data words the two sides gave to an epoll instance.
    pub(super) fn note_registration(
        &mut self,
        index: usize,
        arrival: &Arrival,
    ) -> Result<(), Stop> {
        let pair = self.lanes[index].pair;
        if arrival.call.nr != roles().epoll_ctl {
            return Ok(());
        }
        let Some(record) = self
            .order
            .next(index)
            .and_then(|(item, _)| record_of(&self.recorder, &self.fetched, item))
        else {
            return Ok(());
        };
        if record.header.ret < 0 {
            return Ok(());
        }
        let [epfd, operation, fd, pointer, ..] = arrival.call.args;
        let (epfd, fd) = (epfd as i32, fd as i32);
        if operation as i32 == libc::EPOLL_CTL_DEL {
            self.pairs[pair].epoll.removed(epfd, fd);
            return Ok(());
        }
        let mut own = [0u8; 12];
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        if let Some(leader) = record.data(3).filter(|data| data.len() >= 12)
            && memory.read(pointer, &mut own).is_ok()
        {
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes[4..12].try_into().expect("8 bytes"));
            let events = u32::from_le_bytes(own[..4].try_into().expect("4 bytes"));
            let registration = Registration {
                events,
                leader: word(leader),
                follower: word(&own),
            };
            self.pairs[pair].epoll.registered(epfd, fd, registration);
        }
        Ok(())
    }

    /// Gives the follower what the leader's call brought; returns the result.
    fn write_answer(&mut self, index: usize, arrival: &Arrival) -> Result<i64, Stop> {
        let pair = self.lanes[index].pair;
        let Some((Item::Call(event), _)) = self.order.next(index) else {
            return Ok(0);
        };
        let record = record(&self.recorder, &self.fetched, event);
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        let answer = answer(&record, &arrival.call, &mut memory, &self.pairs[pair].epoll).and_then(
            |answer| {
                matcher::finish_messages(&record, &arrival.call, &mut memory)?;
                Ok(answer)
            },
        );
        match answer {
            Ok(answer) => Ok(answer.result),
            Err(fault) => Err(self.cannot_store(index, arrival, fault)),
        }
    }

    /// The follower has no room for what its call brings.
    pub(super) fn cannot_store(
        &mut self,
        index: usize,
        arrival: &Arrival,
        fault: matcher::Fault,
    ) -> Stop {
        self.counts.diverged += 1;
        let line = format!(
            "divergence in thread {}: the follower's {} cannot store its result at {:#x}",
            self.lanes[index].leader,
            arrival.call.name(),
            fault.address
        );
        let report = self.divergence_report(index, arrival, Some(index), None);
        Stop::RollBack(line, Some(report))
    }

    pub(super) fn release_front(&mut self, index: usize) {
        match self.order.take(index) {
            Some(Item::Call(event)) => {
                self.remember(self.lanes[index].leader, &event.header.clone());
                self.fetched.remove(&event.position);
                self.recorder.ring.release(event);
            }
            Some(Item::Expected(expected)) => {
                if let Some(call) = &expected.origin {
                    self.remember(self.lanes[index].leader, &call.record().header.clone());
                }
                drop(expected);
                self.reclaim();
            }
            _ => {}
        }
    }

    /// The call was equal: answers it, or lets it run where the follower needs its effect.
    pub(super) fn conclude(
        &mut self,
        index: usize,
        arrival: &Arrival,
        ret: i64,
    ) -> Result<(), Stop> {
        let pair = self.lanes[index].pair;
        let roles = roles();
        let nr = arrival.call.nr;
        if makes(nr) && ret > 0 {
            let makes_thread = self.clone_flags(pair, arrival)? & libc::CLONE_THREAD as u64 != 0;
            let bears = &mut self.lanes[index].bears;
            let made = bears.pop_front_if(|made| i64::from(made.result) == ret);
            let of_pair = made.map(|made| self.lanes[made.lane].pair == pair);
            if of_pair == Some(makes_thread) {
                self.lanes[index].cloning = made;
                self.number_next(index)?;
                return self.let_run(arrival);
            }
            if makes_thread || made.is_some() {
                return Err(Stop::roll_back(format!(
                    "the birth of the leader's thread {ret} was not seen"
                )));
            }
        }
        // Another child process is the leader's alone: the follower is told its id and makes none.
        if nr == roles.execve || nr == roles.execveat {
            if ret < 0 {
                return self.respond(arrival, ret);
            }
            return Err(Stop::roll_back(
                "the follower is to execute another program",
            ));
        }
        if nr == roles.rt_sigprocmask {
            return self.let_run(arrival);
        }
        if nr == roles.set_tid_address {
            return Err(Stop::roll_back(
                "set_tid_address after the start of a thread",
            ));
        }
        if self.tree.is_some() && ret >= 0 && (nr == roles.setsid || nr == roles.setpgid) {
            // Children inherit it, and in the copies' namespace the ids are the same.
            return self.let_run(arrival);
        }
        if let Some(call) = table::syscall(nr)
            && ret >= 0
            && call.is_lasting(&arrival.call.args)
        {
            let command = call.command(&arrival.call.args);
            let name = command.filter(|c| c.lasting).map_or(call.name, |c| c.name);
            if OF_AN_ESTATE.contains(&name) {
                self.pairs[pair].estate_changed = true;
            } else if !CARRIED_OVER.contains(&name) {
                self.pairs[pair].lasting.insert(name);
            }
        }
        match table::syscall(nr).map(|call| call.class_of(&arrival.call.args)) {
            Some(Class::Refused) | None if ret >= 0 => Err(Stop::roll_back(format!(
                "the leader made {}, which cannot be followed",
                arrival.call.name()
            ))),
            _ => self.respond(arrival, ret),
        }
    }

    fn clone_flags(&self, pair: usize, arrival: &Arrival) -> Result<u64, Stop> {
        if arrival.call.nr != roles().clone3 {
            return Ok(if arrival.call.nr == roles().clone {
                arrival.call.args[0]
            } else {
                0
            });
        }
        // struct clone_args begins with its flags.
        let mut flags = [0u8; 8];
        memory::read(
            self.pairs[pair].follower.pid,
            arrival.call.args[0],
            &mut flags,
        )
        .map_err(|e| Stop::roll_back(format!("reading clone3's arguments: {e}")))?;
        Ok(u64::from_le_bytes(flags))
    }

    /// Replaces the follower's new thread id by the leader's wherever the clone stored it: a
    /// follower believes that it is the leader.
    pub(super) fn write_thread_id(&mut self, creator: usize, born: i32, lane: usize, told: i32) {
        let pair = self.lanes[creator].pair;
        let Some(tid) = self.lanes[creator].follower else {
            return;
        };
        let pid = self.pairs[pair].follower.pid;
        // The addresses are still in the creator's registers and memory.
        let Some(call) = inspect::current_call(pid, tid) else {
            return;
        };
        // (child's word, parent's word)
        let mut addresses: Vec<u64> = if call.nr == roles().clone3 {
            let mut words = [0u8; 16];
            let from = call.args[0].wrapping_add(16);
            if memory::read(pid, from, &mut words).is_err() {
                return;
            }
            words
                .chunks(8)
                .map(|w| u64::from_le_bytes(w.try_into().expect("8 bytes")))
                .collect()
        } else {
            vec![call.args[3], call.args[2]]
        };
        if let Some(child) = addresses.first() {
            let leader = self.lanes[lane].leader;
            self.pairs[pair].tid_addresses.insert(leader, *child);
        }
        addresses.dedup();
        let born = inspect::own_id(born);
        for address in addresses {
            replace_thread_id(pid, address, born, told);
        }
    }

    pub(super) fn respond(&mut self, arrival: &Arrival, result: i64) -> Result<(), Stop> {
        self.hand_out(arrival)?;
        answered(self.listener.respond(arrival.id, result))
    }

    pub(super) fn let_run(&mut self, arrival: &Arrival) -> Result<(), Stop> {
        self.hand_out(arrival)?;
        answered(self.listener.let_run(arrival.id))
    }
}

/// If the word at `address` is the thread id `from`, makes it `to`.
pub(super) fn replace_thread_id(pid: i32, address: u64, from: i32, to: i32) {
    let mut word = [0u8; 4];
    if address != 0
        && memory::read(pid, address, &mut word).is_ok()
        && i32::from_le_bytes(word) == from
    {
        // A word that cannot be written is not where a thread keeps its id.
        let _ = memory::write(pid, address, &to.to_le_bytes());
    }
}

/// A thread that died while it waited is reported by ptrace; here it is no error.
fn answered(result: std::io::Result<()>) -> Result<(), Stop> {
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(Stop::roll_back(format!(
            "answering a call of the follower: {error}"
        ))),
        _ => Ok(()),
    }
}

/// The call was interrupted: `-EINTR`, or one of the kernel's restart codes.
pub(super) fn is_interrupted(ret: i64) -> bool {
    ret == INTERRUPTED || ERESTART.contains(&ret)
}

/// The record of the leader's call in an item, if there is one.
pub(super) fn record_of<'a>(
    recorder: &'a crate::recorder::Recorder,
    fetched: &'a std::collections::HashMap<u64, Vec<u8>>,
    item: &'a Item,
) -> Option<Record<'a>> {
    match item {
        Item::Call(event) => Some(record(recorder, fetched, event)),
        Item::Expected(expected) => Some(expected.origin.as_ref()?.record()),
        Item::Reading(_) | Item::Verdict(_) | Item::Signal(_) | Item::Exit => None,
    }
}

/// The record that an event stands for, with the payload fetched out of line if there is one.
pub(super) fn record<'a>(
    recorder: &'a crate::recorder::Recorder,
    fetched: &'a std::collections::HashMap<u64, Vec<u8>>,
    event: &'a crate::recorder::EventRef,
) -> Record<'a> {
    if event.header.flags & FLAG_OUT_OF_LINE != 0
        && let Some(payload) = fetched.get(&event.position)
    {
        // As many parts as the payload has.
        let header = EventHeader {
            parts: u32::MAX,
            ..event.header
        };
        return Record { header, payload };
    }
    recorder.ring.event(event)
}
