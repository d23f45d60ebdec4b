//! Back to a single leader: the follower is thrown away and the leader is bare again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::adopt::continue_left;
use super::ending::end_all;
use super::family::Tree;
use super::following::Following;
use super::home::Home;
use super::pair::ROOT;
use super::side::{Side, Why};
use crate::sys::ptrace::{self, Wait};
use crate::tracee::standstill::{Patience, traced_by_us};
use crate::tracee::stub::Vdso;
use crate::tracee::thread::{Running, Stopped, is_recorders_stop};
use crate::tracee::{Result, context, inspect};

/// For this long the stop of a thread is waited for without sleeping.
const QUICK_STOP: Duration = Duration::from_micros(500);
/// After this long it is looked for threads of which nobody knows any more.
const LOST_STOP: Duration = Duration::from_millis(20);
/// A thread that has not stopped after this long is worth a line in the log.
const SLOW_STOP: Duration = Duration::from_secs(5);

impl Following {
    /// Kills the follower, detaches the recorder and frees the leader. Never fails: what does not
    /// work concerns threads that are gone.
    pub(super) fn abandon(mut self, home: &mut Home) {
        if let Some(tree) = &self.tree {
            tree.kill();
        }
        let vdso = self.pairs.root().vdso.clone();
        let (mut sides, mut followers) = (Vec::new(), Vec::new());
        for pair in self.pairs.into_all() {
            if pair.child.is_none() || !pair.leader.is_gone() {
                sides.push(pair.leader);
            }
            followers.push(pair.follower);
        }
        let mut leaders = Family::of(sides, self.tree.is_some());
        leaders.alone = self.tree.as_mut().map(Tree::take_alone).unwrap_or_default();
        end_all(&mut followers, &mut || leaders.hear());
        for leader in &leaders.sides {
            let _ = self.recorder.remove_process(leader.pid as u32);
        }
        drop(self.recorder);
        // Loading it took megabytes, which else stay now and then: seen in a thousand updates.
        crate::sys::heap::trim();
        for stranger in self.tree.iter_mut().flat_map(Tree::take_strangers) {
            leaders.adopt(stranger);
        }
        leaders.free(&vdso, home, false);
    }
}

/// The processes of a leader that is not followed any more, the root first.
pub(super) struct Family {
    /// Children are traced because they were followed; else they are [`super::wards::Wards`].
    followed: bool,
    pub(super) sides: Vec<Side>,
    /// Children that share their maker's memory (`vfork`): it cannot stop before they have gone on, so they are
    /// let go at once.
    alone: HashSet<i32>,
}

impl Family {
    /// Of these processes, the root first; their children are traced if they were `followed`.
    pub(super) fn of(sides: Vec<Side>, followed: bool) -> Self {
        Self {
            followed,
            sides,
            alone: HashSet::new(),
        }
    }

    /// A process at its birth, of which nobody has said whose it is: of the leader's tree, unless it is dying
    /// with the follower's.
    fn adopt(&mut self, stranger: Stopped) {
        let pid = stranger.tid();
        if inspect::is_dying(pid) {
            // Its end is reported, and passes.
            let _ = stranger.resume(0);
            return;
        }
        let mut side = Side::new(pid);
        side.vdso = self.sides[ROOT].vdso.clone();
        side.add_stopped(stranger, Why::Asked);
        self.sides.push(side);
    }

    fn is_child(&self, pid: i32) -> bool {
        inspect::parent(pid).is_some_and(|parent| self.sides.iter().any(|side| side.pid == parent))
    }

    /// Whose thread this is. One that nobody knows may be a child at its birth, which comes in.
    fn side_of(&mut self, tid: i32, wait: Wait) -> usize {
        if let Some(at) = self.sides.iter().position(|side| side.has(tid)) {
            return at;
        }
        let process = inspect::process_of(tid).unwrap_or(0);
        if let Some(at) = self.sides.iter().rposition(|side| side.pid == process) {
            return at;
        }
        if self.followed
            && wait == Wait::Interrupted
            && process == tid
            && !self.alone.contains(&tid)
            && self.is_child(tid)
        {
            self.add_child(tid);
            return self.sides.len() - 1;
        }
        ROOT
    }

    fn add_child(&mut self, pid: i32) {
        let mut side = Side::new(pid);
        side.vdso = self.sides[ROOT].vdso.clone();
        side.add_running(Running::born(pid));
        self.sides.push(side);
    }

    /// A thread has made a child: it is ours and will stop at its birth, or has.
    fn expect_child(&mut self, wait: Wait, tid: i32) {
        let child = |wait| match wait {
            Wait::Event(libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK) if self.followed => {
                ptrace::event_message(tid).ok()
            }
            _ => None,
        };
        let Some(child) = child(wait).map(|pid| pid as i32) else {
            return;
        };
        if wait == Wait::Event(libc::PTRACE_EVENT_VFORK) {
            self.let_alone(child);
        } else if !self.sides.iter().any(|side| side.has(child)) {
            self.add_child(child);
        }
    }

    /// Whoever made this child waits for it.
    fn let_alone(&mut self, child: i32) {
        self.alone.insert(child);
        let Some(at) = self.sides.iter().position(|side| side.pid == child) else {
            return;
        };
        let side = self.sides.swap_remove(at);
        if !side.runs() {
            self.sides[ROOT].wards.report(child, Wait::Interrupted);
        }
    }

    /// Handles what its own threads have to report: everything passes.
    fn hear(&mut self) {
        for at in 0..self.sides.len() {
            for tid in self.sides[at].tids() {
                while self.sides[at].is_running(tid)
                    && let Ok(Some(wait)) = ptrace::look_at(tid)
                {
                    self.expect_child(wait, tid);
                    pass(&mut self.sides[at], tid, wait);
                }
            }
        }
    }

    fn runs(&self) -> bool {
        self.sides.iter().any(Side::runs)
    }

    /// Stops all threads; signals that arrive are delivered. Returns only when all stand: a
    /// thread that was left behind would stay in its next stop for ever. Those of a process that a signal has
    /// stopped stand, too.
    pub(super) fn stop(&mut self) {
        // Nobody's patience ends.
        let _ = self.stop_within(Patience::Endless);
    }

    /// As [`stop`](Self::stop) while the `patience` lasts.
    ///
    /// # Errors
    /// [`TraceeError::Stuck`]: some stand, and some will stop at some time.
    ///
    /// [`TraceeError::Stuck`]: crate::tracee::TraceeError::Stuck
    fn stop_within(&mut self, patience: Patience) -> Result<()> {
        let start = Instant::now();
        let mut warned = false;
        for side in &self.sides {
            side.interrupt_all();
        }
        while self.runs() {
            if let Ok(Some((tid, wait))) = ptrace::look() {
                self.stopping_report(tid, wait);
                continue;
            }
            // Most threads stop within microseconds: the server stands still, so they are not slept for.
            if start.elapsed() < QUICK_STOP {
                std::thread::yield_now();
                continue;
            }
            let stragglers: Vec<(i32, Wait)> = self
                .sides
                .iter_mut()
                .flat_map(Side::settle_stragglers)
                .collect();
            for (tid, wait) in stragglers {
                self.stopping_report(tid, wait);
            }
            for side in &self.sides {
                let missing = side.running().map(Running::tid);
                patience.check(side.pid, missing, start.elapsed())?;
            }
            if start.elapsed() > LOST_STOP {
                self.sides.iter_mut().for_each(Side::find_lost);
            }
            if !warned && start.elapsed() > SLOW_STOP {
                warned = true;
                let threads: Vec<String> =
                    self.sides.iter().flat_map(Side::what_runs_does).collect();
                tracing::warn!(?threads, "these threads do not stop; waiting for them");
            }
            // No descriptor tells of a ptrace report to this thread alone.
            let _ = poll(&mut [], PollTimeout::from(1u8));
        }
        // Those that were held for room stand at the end of a call as the others do.
        for side in &mut self.sides {
            for thread in side.take_stopped(Why::RingFull) {
                side.add_stopped(thread, Why::Asked);
            }
        }
        Ok(())
    }

    fn stopping_report(&mut self, tid: i32, wait: Wait) {
        let at = self.side_of(tid, wait);
        self.expect_child(wait, tid);
        stopping_report(&mut self.sides[at], tid, wait);
    }

    /// Makes the leader as it was before the update: its vDSO restored, its threads untraced (or, for a
    /// promoted process, traced and its filter suspended as before). `foreign`: a killed agent left it, and it ran
    /// untraced meanwhile.
    pub(super) fn free(mut self, vdso: &Vdso, home: &mut Home, foreign: bool) {
        self.stop();
        // Calls that are made inside them bring threads out of that stop.
        let stopped: Vec<i32> = self
            .sides
            .iter()
            .filter(|side| side.is_stopped_by_a_signal())
            .map(|side| side.pid)
            .collect();
        let left = stopped.iter().copied();
        let left: Vec<i32> = left.filter(|pid| foreign && vdso.is_led(*pid)).collect();
        for side in &mut self.sides {
            // Threads that were held for other reasons go the same way.
            let _ = side.leave_calls_to_kernel();
            if !vdso.is_in(side.pid) {
                // It has executed another program, which has a vDSO of its own.
                continue;
            }
            if let Err(error) = side.restore_vdso(vdso, foreign) {
                tracing::warn!(pid = side.pid, %error, "the vDSO was not restored");
            }
        }
        left.into_iter().for_each(continue_left);
        match home {
            Home::Bare(_) => {
                for mut side in self.sides {
                    for tid in side.tids() {
                        if let Some(thread) = side.reported(tid) {
                            detach(side.pid, thread);
                        }
                    }
                    free_unknown(side.pid);
                }
                for child in self.alone {
                    free_unknown(child);
                }
            }
            Home::Kept(kept) => {
                for side in &mut self.sides {
                    if stopped.contains(&side.pid) {
                        side.resume_all_into_interrupt();
                    } else {
                        side.resume_all();
                    }
                }
                let mut sides = self.sides.into_iter();
                let mut root = sides.next().unwrap_or_else(|| Side::new(0));
                for child in sides {
                    for tid in child.tids() {
                        root.wards.insert(tid);
                    }
                }
                kept.side = root;
            }
        }
    }
}

/// Handles a report of a leader that is not followed any more: everything passes.
pub(super) fn pass(side: &mut Side, tid: i32, wait: Wait) {
    if matches!(wait, Wait::Exited(_) | Wait::Killed(_)) {
        tracing::debug!(pid = side.pid, tid, ?wait, "a thread has ended");
        side.ended(tid);
        side.wards.report(tid, wait);
        return;
    }
    let stands = matches!(wait, Wait::Interrupted | Wait::GroupStop(_));
    let thread = match side.reported(tid) {
        Some(thread) => thread,
        // A thread at its birth, reported before its creator's event names it: lost here, it would
        // stand still for ever.
        None if stands && inspect::process_of(tid) == Some(side.pid) => {
            Running::born(tid).reported()
        }
        None => {
            // Whoever it is, it must not stand still because of us.
            side.wards.report(tid, wait);
            return;
        }
    };
    let signal = match wait {
        Wait::Signal(signal) if is_recorders_stop(tid, signal) => 0,
        Wait::Signal(signal) => {
            side.evade(&thread);
            // What fails concerns a thread that is gone.
            let _ = context::spare_from(signal, side.pid, tid);
            signal
        }
        Wait::GroupStop(_) => {
            if let Ok(running) = thread.listen() {
                side.add_running(running);
            }
            return;
        }
        Wait::Event(libc::PTRACE_EVENT_CLONE) => {
            if let Ok(born) = thread.event_message()
                && !side.has(born as i32)
                && inspect::process_of(born as i32) == Some(side.pid)
            {
                side.add_running(Running::born(born as i32));
            }
            0
        }
        _ => 0,
    };
    if let Ok(running) = thread.resume(signal) {
        side.add_running(running);
    }
}

/// Handles what the threads of a process that is not followed have to report, and those of its children: everything
/// passes.
pub(super) fn hear(side: &mut Side) {
    for tid in side.tids() {
        while side.is_running(tid)
            && let Ok(Some(wait)) = ptrace::look_at(tid)
        {
            pass(side, tid, wait);
        }
    }
    side.wards.hear();
}

/// Stops all threads of a side; signals that arrive are delivered.
///
/// # Errors
/// When one does not stop while the `patience` lasts.
pub(super) fn stop_side(side: &mut Side, patience: Patience) -> Result<()> {
    let pid = side.pid;
    let mut family = Family::of(vec![std::mem::replace(side, Side::new(pid))], false);
    let stood = family.stop_within(patience);
    *side = family.sides.swap_remove(ROOT);
    stood
}

fn stopping_report(side: &mut Side, tid: i32, wait: Wait) {
    if matches!(wait, Wait::Interrupted | Wait::GroupStop(_)) {
        if let Some(thread) = side.reported(tid) {
            // What fails concerns a thread that is gone.
            let _ = side.stands_as_asked(thread, wait);
        } else if inspect::process_of(tid) == Some(side.pid) {
            // Born a moment ago, before its creator's event: it stays in its birth stop.
            side.add_stopped(Running::born(tid).reported(), Why::Asked);
        } else {
            side.wards.report(tid, wait);
        }
    } else if !side.has(tid) {
        side.wards.report(tid, wait);
    } else {
        pass(side, tid, wait);
        // The event may have brought a thread of which nobody knew.
        side.interrupt_all();
    }
}

/// Makes a leader without followed children as it was before the update.
pub(super) fn free_leader(leader: Side, vdso: &Vdso, home: &mut Home, foreign: bool) {
    Family::of(vec![leader], false).free(vdso, home, foreign);
}

/// Lets a stopped thread go. A `SIGSTOP` of the recorder that it has not seen yet must not stop the
/// server when nobody is there any more to take it away.
fn detach(pid: i32, mut thread: Stopped) {
    let tid = thread.tid();
    while inspect::stop_is_pending(pid, tid) {
        let Ok(mut running) = thread.resume(0) else {
            return;
        };
        thread = loop {
            // A signal is only looked at: it does not go with this agent.
            match running.look() {
                Ok(Some((stopped, Wait::Signal(libc::SIGSTOP)))) => {
                    let ours = is_recorders_stop(tid, libc::SIGSTOP);
                    let signal = if ours { 0 } else { libc::SIGSTOP };
                    let _ = stopped.detach(signal);
                    return;
                }
                Ok(Some((stopped, Wait::Signal(signal)))) => {
                    let _ = context::spare_from(signal, pid, tid);
                    let Ok(resumed) = stopped.resume(signal) else {
                        return;
                    };
                    let _ = resumed.interrupt();
                    running = resumed;
                }
                Ok(Some((stopped, _))) => break stopped,
                Ok(None) | Err(_) => return,
            }
        };
    }
    let _ = thread.detach(0);
}

/// Threads that are still ours although we know nothing of them would stand still in their next stop.
pub(super) fn free_unknown(pid: i32) {
    let start = Instant::now();
    loop {
        let ours: Vec<i32> = inspect::threads(pid)
            .unwrap_or_default()
            .into_iter()
            .filter(|tid| traced_by_us(pid, *tid))
            // A main thread that has ended is reported with the last thread of its process.
            .filter(|tid| {
                *tid != pid
                    || inspect::status_field(pid, pid, "State").is_some_and(|s| !s.starts_with('Z'))
            })
            .collect();
        if ours.is_empty() {
            return;
        }
        if start.elapsed() > SLOW_STOP {
            tracing::error!(pid, tids = ?ours, "these threads cannot be let go");
            return;
        }
        for tid in ours {
            let _ = ptrace::interrupt(tid);
            // In this order: what it reports it does once it stands. A signal is only looked at, lest it goes with this
            // agent; one that has ended is gone with this look.
            let stands = ptrace::registers(tid).is_ok();
            let signal = match ptrace::look_at(tid) {
                Ok(Some(Wait::Signal(signal))) if !is_recorders_stop(tid, signal) => {
                    let _ = context::spare_from(signal, pid, tid);
                    signal
                }
                Ok(None) if !stands => continue,
                _ => 0,
            };
            let _ = ptrace::detach(tid, signal);
        }
        let _ = poll(&mut [], PollTimeout::from(1u8));
    }
}
