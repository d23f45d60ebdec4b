//! Faults that a program handles: a virtual machine's null checks, a collector's barriers. They are no crash, and both
//! sides make them.
//!
//! Nothing says beforehand whether a handler mends what has happened or only tells of it before the process dies. But a
//! handler that the kernel takes away as it enters it (`SA_RESETHAND`) is there for the last fault of its process: that
//! one is a crash, and the follower takes over before the report. Any other handler runs. If the leader dies of it after
//! all, a follower that has not made that fault takes over from where it stands.

use std::time::Instant;

use super::following::{Following, Stop};
use super::lane::{FAULTS, Fault, Item};
use super::leader_events::died_of;
use super::pair::ROOT;
use super::side::Why;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::thread::Stopped;
use crate::tracee::{Naming, inspect};

/// A signal of the leader's root, as far as its death is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Danger {
    /// It kills nobody, or that is no crash.
    None,
    /// The process dies of it.
    Deadly,
    /// A handler for faults is about to be entered.
    Handled,
}

impl Following {
    /// What the signal for which a thread of the leader stands will do.
    pub(super) fn danger_of(&self, pair: usize, tid: i32, signal: i32) -> Danger {
        if pair != ROOT || !FAULTS.contains(&signal) {
            return Danger::None;
        }
        let pid = self.pairs[pair].leader.pid;
        if inspect::is_left_to_default(pid, tid, signal) {
            Danger::Deadly
        } else if inspect::has_no_effect(pid, tid, signal) {
            Danger::None
        } else {
            Danger::Handled
        }
    }

    /// Lets a thread of the leader into the handler of a fault, and no further: it stands before the first instruction, in
    /// the stop of an interrupt, where it just runs on if this agent dies. `None`: it has been killed.
    ///
    /// # Errors
    /// [`Stop::LeaderCrashed`] if the handler is gone now that it is entered.
    pub(super) fn let_into_handler(
        &mut self,
        pair: usize,
        thread: Stopped,
        signal: i32,
    ) -> Result<Option<(Stopped, Wait)>, Stop> {
        let tid = thread.tid();
        ptrace::interrupt(tid).named("interrupt", tid)?;
        let thread = thread.resume(signal)?;
        let wait = match ptrace::wait(tid, true).named("wait", tid)? {
            Some((_, wait)) => wait,
            // The other threads, which end as well, are yet to be reported.
            None => {
                self.pairs[pair].leader.add_running(thread);
                return Ok(None);
            }
        };
        if matches!(wait, Wait::Exited(_) | Wait::Killed(_)) {
            self.leader_thread_gone(pair, tid, wait)?;
            return Ok(None);
        }
        let thread = thread.reported();
        if wait == Wait::Event(libc::PTRACE_EVENT_EXIT) {
            self.leader_exit(pair, thread)?;
            return Ok(None);
        }
        let pid = self.pairs[pair].leader.pid;
        if inspect::is_left_to_default(pid, tid, signal) {
            self.pairs[pair].leader.add_stopped(thread, Why::Dying);
            return Err(Stop::LeaderCrashed {
                how: died_of(signal),
                held: true,
            });
        }
        Ok(Some((thread, wait)))
    }

    /// A thread of the follower has made a fault: it stands until it is known whether the leader's does the same.
    pub(super) fn follower_faults(
        &mut self,
        index: usize,
        thread: Stopped,
        info: libc::siginfo_t,
    ) -> Result<(), Stop> {
        self.settle_readings(index)?;
        let pair = self.lanes[index].pair;
        self.pairs[pair].follower.add_stopped(thread, Why::Dying);
        self.lanes[index].fault = Some(Fault(info));
        self.step(index).map(drop)
    }

    /// The follower's thread has made a fault; the leader's must have made the same now.
    pub(super) fn step_fault(&mut self, index: usize) -> Result<bool, Stop> {
        let Some(Fault(info)) = self.lanes[index].fault else {
            return Ok(false);
        };
        let signal = info.si_signo;
        match self.order.next(index) {
            None => return Ok(false),
            Some((Item::Signal(delivered), _))
                if delivered.is_fault() && delivered.info.si_signo == signal => {}
            Some(_) => return Err(self.unshared_fault(index, &info)),
        }
        self.order.take(index);
        self.lanes[index].fault = None;
        let pair = self.lanes[index].pair;
        let thread = self.lanes[index].follower;
        if let Some(thread) = thread.and_then(|tid| self.pairs[pair].follower.reported(tid)) {
            let running = thread.resume(signal)?;
            self.pairs[pair].follower.add_running(running);
        }
        Ok(true)
    }

    /// The follower has made a fault that the leader has not.
    fn unshared_fault(&self, index: usize, info: &libc::siginfo_t) -> Stop {
        let Self { lanes, pairs, .. } = self;
        let (pair, signal) = (lanes[index].pair, info.si_signo);
        let mut standing = pairs[pair].follower.stopped();
        let thread = standing.find(|thread| Some(thread.tid()) == lanes[index].follower);
        let report = thread.map(|thread| self.crash_report(pair, thread, signal, info));
        let who = if pair == ROOT {
            "the follower"
        } else {
            "a child process of the follower"
        };
        Stop::RollBack(format!("{who} {}", died_of(signal)), report)
    }

    /// The leader's thread has made a fault, the follower's has to make the same. If that makes a call instead, they differ;
    /// but the leader may be about to die of its fault, which its follower has not made: then that takes over. Returns
    /// whether it got further.
    pub(super) fn step_leaders_fault(&mut self, index: usize) -> bool {
        if self.lanes[index].waiting.is_none() {
            return false;
        }
        if !self.crashed || self.lanes[index].pair != ROOT {
            self.alone_in_fault
                .get_or_insert_with(|| (index, Instant::now()));
            return false;
        }
        // What the leader's thread did from its fault on was its way to die.
        while self.order.next(index).is_some() {
            self.release_front(index);
        }
        true
    }

    /// The leader's thread has made a fault that the follower's has not, and has had its time to die of it.
    pub(super) fn check_faults(&mut self) -> Result<(), Stop> {
        let Some((index, since)) = self.alone_in_fault else {
            return Ok(());
        };
        let (Some(arrival), Some((Item::Signal(fault), _))) =
            (self.lanes[index].waiting, self.order.next(index))
        else {
            // A process of a tree is gone.
            self.alone_in_fault = None;
            return Ok(());
        };
        // Where nothing else goes on this is not to be told as a hang.
        if since.min(self.progress).elapsed() <= self.options.hang_limit {
            return Ok(());
        }
        let (leader, signal) = (self.lanes[index].leader, fault.info.si_signo);
        self.counts.diverged += 1;
        let report = self.divergence_report(index, &arrival, None, None);
        Err(Stop::RollBack(
            format!(
                "divergence in thread {leader}: the follower calls {} where the leader handled signal {signal}, a \
                 fault of its own",
                arrival.call.name()
            ),
            Some(report),
        ))
    }

    /// A thread of the follower has made a fault where the leader's, which was stopped, is about to make the same: that
    /// one goes on to it.
    ///
    /// # Errors
    /// When the leader has crashed, and makes none any more.
    pub(super) fn let_faults_come(&mut self) -> Result<(), Stop> {
        for index in 0..self.lanes.len() {
            let Some(Fault(info)) = self.lanes[index].fault else {
                continue;
            };
            if self.order.next(index).is_some() {
                continue;
            }
            let pair = self.lanes[index].pair;
            if self.crashed && pair == ROOT {
                return Err(self.unshared_fault(index, &info));
            }
            let leader = &mut self.pairs[pair].leader;
            if let Some(thread) = leader.take(self.lanes[index].leader, Why::Asked) {
                leader.add_running(thread.resume(0)?);
            }
        }
        Ok(())
    }
}
