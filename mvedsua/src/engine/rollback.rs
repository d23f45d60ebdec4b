//! Back to a single leader: the follower is thrown away and the leader is bare again.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::following::Following;
use super::home::Home;
use super::pair::Pair;
use super::side::{Side, Why};
use crate::sys::ptrace::{self, Wait};
use crate::tracee::inspect;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::{Running, Stopped};

/// For this long the stop of a thread is waited for without sleeping.
const QUICK_STOP: Duration = Duration::from_micros(500);
/// A thread that has not stopped after this long is worth a line in the log.
const SLOW_STOP: Duration = Duration::from_secs(5);

impl Following {
    /// Kills the follower, detaches the recorder and frees the leader. Never fails: what does not
    /// work concerns threads that are gone.
    pub(super) fn abandon(mut self, home: &mut Home) {
        let mut late = Vec::new();
        let Pair {
            mut leader,
            mut follower,
            vdso,
            ..
        } = self.pairs.into_root();
        follower.kill(&mut |tid, wait| late.push((tid, wait)));
        let _ = self.recorder.remove_process(leader.pid as u32);
        for (tid, wait) in std::mem::take(&mut self.deferred).into_iter().chain(late) {
            pass(&mut leader, tid, wait);
        }
        drop(self.recorder);
        free_leader(leader, &vdso, home, false);
    }
}

/// Handles a report of a leader that is not followed any more: everything passes.
pub(super) fn pass(side: &mut Side, tid: i32, wait: Wait) {
    if matches!(wait, Wait::Exited(_) | Wait::Killed(_)) {
        side.ended(tid);
        side.wards.report(tid, wait);
        return;
    }
    let Some(thread) = side.reported(tid) else {
        // A thread at its birth, reported before its creator's event names it: lost here, it would
        // stand still for ever.
        if wait == Wait::Interrupted && inspect::process_of(tid) == Some(side.pid) {
            let born = Running::born(tid).reported();
            if let Ok(running) = born.resume(0) {
                side.add_running(running);
            }
        } else {
            // Whoever it is, it must not stand still because of us.
            side.wards.report(tid, wait);
        }
        return;
    };
    let signal = match wait {
        Wait::Signal(libc::SIGSTOP) if is_ours(tid) => 0,
        Wait::Signal(signal) => {
            side.evade(&thread);
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

/// A `SIGSTOP` that the recorder sent, not a user.
fn is_ours(tid: i32) -> bool {
    ptrace::signal_info(tid).is_ok_and(|info| info.si_code == libc::SI_KERNEL)
}

/// Stops all threads of a side; signals that arrive are delivered. Returns only when all stand: a
/// thread that was left behind would stay in its next stop for ever.
pub(super) fn stop_side(side: &mut Side) {
    let start = Instant::now();
    let mut warned = false;
    side.interrupt_all();
    while side.running().next().is_some() {
        if let Ok(Some((tid, wait))) = ptrace::wait(-1, false) {
            stopping_report(side, tid, wait);
            continue;
        }
        // Most threads stop within microseconds: the server stands still, so they are not slept for.
        if start.elapsed() < QUICK_STOP {
            std::thread::yield_now();
            continue;
        }
        for (tid, wait) in side.settle_stragglers() {
            stopping_report(side, tid, wait);
        }
        if !warned && start.elapsed() > SLOW_STOP {
            warned = true;
            let tids: Vec<i32> = side.running().map(Running::tid).collect();
            tracing::warn!(
                pid = side.pid,
                ?tids,
                "these threads do not stop; waiting for them"
            );
        }
        // No descriptor tells of a ptrace report to this thread alone.
        let _ = poll(&mut [], PollTimeout::from(1u8));
    }
}

fn stopping_report(side: &mut Side, tid: i32, wait: Wait) {
    if wait == Wait::Interrupted {
        if let Some(thread) = side.reported(tid) {
            side.add_stopped(thread, Why::Asked);
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

/// Makes the leader as it was before the update: its vDSO restored, its threads untraced (or, for a
/// promoted process, traced and its filter suspended as before). `foreign`: it ran untraced meanwhile.
pub(super) fn free_leader(mut leader: Side, vdso: &Vdso, home: &mut Home, foreign: bool) {
    stop_side(&mut leader);
    // Threads that were held for other reasons go the same way.
    let _ = leader.rewind_stopped();
    if let Err(error) = leader.restore_vdso(vdso, foreign) {
        tracing::warn!(pid = leader.pid, %error, "the vDSO was not restored");
    }
    match home {
        Home::Bare(_) => {
            for tid in leader.tids() {
                if let Some(thread) = leader.reported(tid) {
                    detach(leader.pid, thread);
                }
            }
            free_unknown(leader.pid);
        }
        Home::Kept(kept) => {
            leader.resume_all();
            kept.side = leader;
        }
    }
}

/// Lets a stopped thread go. A `SIGSTOP` of the recorder that it has not seen yet must not stop the
/// server when nobody is there any more to take it away.
fn detach(pid: i32, mut thread: Stopped) {
    let tid = thread.tid();
    while stop_is_pending(pid, tid) {
        let Ok(running) = thread.resume(0) else {
            return;
        };
        match running.wait() {
            Ok(Some((stopped, Wait::Signal(libc::SIGSTOP)))) => {
                let signal = if is_ours(tid) { 0 } else { libc::SIGSTOP };
                let _ = stopped.detach(signal);
                return;
            }
            Ok(Some((stopped, Wait::Signal(signal)))) => {
                let Ok(running) = stopped.resume(signal) else {
                    return;
                };
                let _ = running.interrupt();
                match running.wait() {
                    Ok(Some((stopped, _))) => thread = stopped,
                    _ => return,
                }
            }
            Ok(Some((stopped, _))) => thread = stopped,
            Ok(None) | Err(_) => return,
        }
    }
    let _ = thread.detach(0);
}

/// The recorder signals one thread; others signal the process.
fn stop_is_pending(pid: i32, tid: i32) -> bool {
    inspect::status_field(pid, tid, "SigPnd")
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
        .is_some_and(|pending| pending & (1 << (libc::SIGSTOP - 1)) != 0)
}

/// Threads that are still ours although we know nothing of them would stand still in their next stop.
fn free_unknown(pid: i32) {
    let start = Instant::now();
    loop {
        let ours: Vec<i32> = inspect::threads(pid)
            .unwrap_or_default()
            .into_iter()
            .filter(|tid| crate::tracee::snapshot::traced_by_us(pid, *tid))
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
            // One that has ended is gone with this wait.
            let _ = ptrace::interrupt(tid);
            let signal = match ptrace::wait(tid, false) {
                Ok(Some((_, Wait::Signal(signal)))) if !is_ours(tid) => signal,
                _ => 0,
            };
            let _ = ptrace::detach(tid, signal);
        }
        let _ = poll(&mut [], PollTimeout::from(1u8));
    }
}
