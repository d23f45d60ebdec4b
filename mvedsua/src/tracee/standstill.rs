//! All threads of a process brought to a stop, and let go again.
//!
//! While some of them stand already others do whatever they do: one may execute another program or end the process,
//! which kills those that stand; or sleep where nothing wakes it. So any of them is heard at any time, whoever is at
//! its exit is let through, and the whole has an end.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::poll::ppoll;
use nix::sys::time::TimeSpec;

use super::context::{self, leave_to_kernel};
use super::inspect;
use super::thread::{Running, Stopped, is_recorders_stop};
use super::{Result, TraceeError};
use crate::sys::ptrace::{self, Wait};
use crate::sys::seize::{self, Limited};

/// Moments at which a thread that was asked to stop is about to get a signal before it is taken as it is.
const MOST_LOOKS: usize = 200;
/// How long threads are waited for without a rest: the server stands still meanwhile.
const QUICK: Duration = Duration::from_micros(200);
/// How long it is rested between two looks then.
const NAP: Duration = Duration::from_micros(50);
/// After this long what is missing is slow, and it is looked ten times less often.
const SLOW: Duration = Duration::from_millis(10);
/// How long some threads may stand because another sleeps where no request to stop wakes it (a slow disk; a `vfork`
/// whose child has not executed its program yet): it may do so for minutes. Clients notice nothing of 50 ms, and a
/// page that is read from a disk comes sooner.
const ASLEEP: Duration = Duration::from_millis(50);
/// The same, for one that runs: on a busy machine it may have no CPU yet, as the others would have none.
const AWAKE: Duration = Duration::from_millis(500);

/// How long threads are waited for that do not stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not long: the server can be let go, and nothing has happened.
    Short,
    /// Until they stop, since there is no other way.
    Endless,
}

impl Patience {
    /// Whether those of the threads of process `pid` that have not stopped are waited for no more: why, then.
    /// `waited` so long already.
    ///
    /// # Errors
    /// [`TraceeError::Stuck`]: their time is over.
    pub fn check(
        self,
        pid: i32,
        missing: impl IntoIterator<Item = i32>,
        waited: Duration,
    ) -> Result<()> {
        if self == Self::Endless || waited < ASLEEP {
            return Ok(());
        }
        let state = |tid| inspect::status_field(pid, tid, "State").unwrap_or_default();
        let late = |tid: &i32| waited > AWAKE || state(*tid).starts_with('D');
        let Some(tid) = missing.into_iter().find(late) else {
            return Ok(());
        };
        Err(stuck(pid, tid))
    }
}

/// What is said of a thread that does not stop.
#[must_use]
pub fn stuck(pid: i32, tid: i32) -> TraceeError {
    let what = inspect::current_call(pid, tid).map_or_else(
        || "it is in no call".to_owned(),
        |call| match mvedsua_common::table::syscall(call.nr) {
            Some(known) => format!("it is in {}", known.name),
            None => format!("it is in call {}", call.nr),
        },
    );
    TraceeError::Stuck { tid, what }
}

/// Stops every thread of a process that is not traced yet: seizes them all, which stops none, then
/// interrupts them, and looks again until no new one appears. A signal that arrives meanwhile is
/// delivered. Returns the moment at which the first was asked to stop, too.
///
/// # Errors
/// When a thread has another tracer, the process is stopped by a signal, executes another program, or does not stop
/// soon. Those that stand are let go then; others may still have to stop, or be born, and are ours until they are let
/// go in turn.
pub fn seize_all(pid: i32, options: u32, held: Held) -> Result<(Vec<Stopped>, Instant)> {
    let mut seen = HashSet::new();
    let mut seized = Vec::new();
    let mut outcome = seize_fresh(pid, options, &mut seen, &mut seized);
    let start = Instant::now();
    let mut standing = Vec::new();
    while !seized.is_empty() {
        for thread in &seized {
            // One that is gone will be reported as such.
            let _ = thread.interrupt();
        }
        let asked = std::mem::take(&mut seized);
        outcome = outcome.and(gather(pid, &mut standing, asked, Patience::Short));
        if outcome.is_ok() {
            outcome = seize_fresh(pid, options, &mut seen, &mut seized);
        }
    }
    match outcome {
        Ok(()) => Ok((standing, start)),
        Err(error) => {
            let_go(pid, standing, held);
            Err(error)
        }
    }
}

/// Seizes all threads of a process that is not traced yet; they go on running.
///
/// # Errors
/// When a thread has another tracer. Some threads may be ours then.
pub fn seize_running(pid: i32, options: u32) -> Result<Vec<Running>> {
    let mut seized = Vec::new();
    loop {
        let mut seen = seized.iter().map(Running::tid).collect();
        match seize_fresh(pid, options, &mut seen, &mut seized) {
            Ok(()) => return Ok(seized),
            // What it waits for is let through. All else they report waits for whoever wants to have them.
            Err(TraceeError::Executes(_)) => seized.retain(|thread| !let_end(pid, thread.tid())),
            Err(error) => return Err(error),
        }
    }
}

/// Lets a thread through that is about to end. True if it has ended.
fn let_end(pid: i32, tid: i32) -> bool {
    if ptrace::is_at_exit(tid) {
        // One that is gone will be reported as such.
        let _ = ptrace::resume(tid, 0);
    }
    // A main thread that has ended may be another one in a moment.
    let ended = tid != pid && inspect::thread_has_ended(pid, tid);
    if ended {
        let _ = ptrace::wait(tid, false);
    }
    ended
}

/// Seizes the threads that were not seen before, until a look finds none.
///
/// # Errors
/// [`TraceeError::Executes`] if the kernel lets nobody be seized, because of such a thread. It may wait for those that
/// are ours already.
fn seize_fresh(
    pid: i32,
    options: u32,
    seen: &mut HashSet<i32>,
    seized: &mut Vec<Running>,
) -> Result<()> {
    loop {
        let mut fresh = inspect::threads(pid)?;
        fresh.retain(|tid| seen.insert(*tid));
        if fresh.is_empty() {
            return Ok(());
        }
        let _limited = Limited::new();
        for tid in fresh {
            let asked = Instant::now();
            let made = loop {
                match Running::seize(tid, options) {
                    Err(error) if is_interrupted(&error) && asked.elapsed() < seize::LIMIT => {}
                    made => break made,
                }
            };
            match made {
                Ok(thread) => seized.push(thread),
                Err(error) if is_interrupted(&error) => return Err(TraceeError::Executes(pid)),
                // A thread that ended, or one that the kernel seized at its birth, is no failure.
                Err(TraceeError::Kernel { source, .. })
                    if source.raw_os_error() == Some(libc::ESRCH) => {}
                // One that is on its way out is refused with EPERM.
                Err(_) if inspect::thread_has_ended(pid, tid) => {}
                Err(_) if traced_by_us(pid, tid) => seized.push(Running::born(tid)),
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_interrupted(error: &TraceeError) -> bool {
    matches!(error, TraceeError::Kernel { source, .. } if source.raw_os_error() == Some(libc::EINTR))
}

/// True when the calling thread is the tracer of this thread.
#[must_use]
pub fn traced_by_us(pid: i32, tid: i32) -> bool {
    inspect::status_field(pid, tid, "TracerPid") == Some(nix::unistd::gettid().as_raw().to_string())
}

/// Waits until the `missing` threads of process `pid`, which were asked to stop, stand with those of it that are
/// `standing` already. Whoever has ended is not among those afterwards. A signal is only looked at before it is
/// delivered, so that it does not go with this agent.
///
/// # Errors
/// [`TraceeError::Halted`] if a signal has stopped the process, [`TraceeError::Executes`], and [`TraceeError::Stuck`]
/// when the `patience` ends. Those that stand are `standing` all the same; of others nobody has a handle then.
pub fn gather(
    pid: i32,
    standing: &mut Vec<Stopped>,
    missing: Vec<Running>,
    patience: Patience,
) -> Result<()> {
    let mut standstill = Standstill {
        pid,
        looks: MOST_LOOKS * (standing.len() + missing.len()),
        standing,
        missing,
        outcome: Ok(()),
    };
    let start = Instant::now();
    while !standstill.missing.is_empty() {
        if standstill.look() {
            continue;
        }
        let waited = start.elapsed();
        if waited < QUICK {
            std::thread::yield_now();
            continue;
        }
        standstill.recall();
        let missing = standstill.missing.iter().map(Running::tid);
        patience.check(pid, missing, waited)?;
        let nap = if waited < SLOW { NAP } else { NAP * 10 };
        // No descriptor tells of a ptrace report to this thread alone.
        let _ = ppoll(&mut [], Some(TimeSpec::from_duration(nap)), None);
    }
    standstill.outcome
}

/// As [`gather`] for one thread that was asked to stop, whose process waits for it. `None`: it has ended.
///
/// # Errors
/// As there, but for [`TraceeError::Stuck`].
pub fn settle(thread: Running) -> Result<Option<Stopped>> {
    let tid = thread.tid();
    let pid = inspect::process_of(tid).unwrap_or(tid);
    let mut standing = Vec::new();
    gather(pid, &mut standing, vec![thread], Patience::Endless)?;
    Ok(standing.pop())
}

/// A process some of whose threads stand.
struct Standstill<'a> {
    pid: i32,
    standing: &'a mut Vec<Stopped>,
    missing: Vec<Running>,
    /// So often a thread may yet be let run to its signal.
    looks: usize,
    outcome: Result<()>,
}

impl Standstill<'_> {
    /// Hears those that are missing. True when there was anything.
    fn look(&mut self) -> bool {
        let mut heard = false;
        for thread in std::mem::take(&mut self.missing) {
            match ptrace::look_at(thread.tid()) {
                Ok(Some(wait)) => {
                    heard = true;
                    self.report(thread.reported(), wait);
                }
                Ok(None) | Err(_) => self.missing.push(thread),
            }
        }
        heard
    }

    fn report(&mut self, thread: Stopped, wait: Wait) {
        let tid = thread.tid();
        let resumed = match wait {
            Wait::Exited(_) | Wait::Killed(_) => return,
            Wait::Interrupted if self.looks > 0 && thread.is_about_to_get_a_signal() => {
                self.looks -= 1;
                thread.let_the_signal_come()
            }
            Wait::Interrupted => {
                self.standing.push(thread);
                return;
            }
            Wait::GroupStop(_) => {
                self.fail(TraceeError::Halted(self.pid));
                self.standing.push(thread);
                return;
            }
            // It has taken the main thread's place, and its id.
            Wait::Event(libc::PTRACE_EVENT_EXEC) => {
                self.fail(TraceeError::Executes(self.pid));
                self.standing.push(thread);
                return;
            }
            // The one that executes another program, or ends the process, waits for it; it stops no more.
            Wait::Event(libc::PTRACE_EVENT_EXIT) => thread.resume(0),
            Wait::Event(libc::PTRACE_EVENT_VFORK) => {
                // It does not stop before that child runs, which is ours and stands at its birth.
                if let Ok(child) = thread.event_message() {
                    let child = child as i32;
                    if let Ok(Some(_)) = ptrace::wait(child, true) {
                        let _ = ptrace::resume(child, 0);
                    }
                }
                resume_and_ask(thread, 0)
            }
            // Any other stop takes the request to stop away: it is made again.
            Wait::Signal(signal) if is_recorders_stop(tid, signal) => resume_and_ask(thread, 0),
            Wait::Signal(signal) => {
                context::spare_from(signal, tid, tid).and_then(|()| resume_and_ask(thread, signal))
            }
            Wait::Syscall | Wait::Event(_) => resume_and_ask(thread, 0),
        };
        // One that was killed meanwhile is on its way to its exit, and will be reported there.
        let running = resumed.unwrap_or_else(|_| Running::born(tid));
        self.missing.push(running);
    }

    fn fail(&mut self, error: TraceeError) {
        if self.outcome.is_ok() {
            self.outcome = Err(error);
        }
    }

    /// What is not as it was thought to be: those that stood and were killed, and those that are missing and of which the
    /// kernel will report nothing.
    fn recall(&mut self) {
        for thread in std::mem::take(self.standing) {
            match ptrace::look_at(thread.tid()) {
                Ok(Some(wait)) => self.report(thread, wait),
                Ok(None) | Err(_) if thread.registers().is_ok() => self.standing.push(thread),
                // It goes to the stop at its exit by itself.
                Ok(None) | Err(_) => self.missing.push(Running::born(thread.tid())),
            }
        }
        for thread in std::mem::take(&mut self.missing) {
            let tid = thread.tid();
            // In this order: what it reports it does once it stands, or has ended.
            let stands = ptrace::registers(tid).is_ok();
            let ended = inspect::thread_has_ended(self.pid, tid);
            match ptrace::look_at(tid) {
                Ok(Some(wait)) => self.report(thread.reported(), wait),
                // Its stop was reported already.
                Ok(None) if stands => self.standing.push(thread.reported()),
                // A main thread that has ended is reported with the last of its process.
                Ok(None) if ended && tid == self.pid => {}
                // Without a report a thread vanishes only if it executes another program: then it is the main thread.
                Ok(None) if ended && inspect::process_of(tid).is_none() => {
                    let main = self.pid;
                    if !self.missing.iter().any(|one| one.tid() == main) {
                        self.missing.push(Running::born(main));
                    }
                }
                Ok(None) | Err(_) => self.missing.push(thread),
            }
        }
    }
}

/// Any stop but the one that was asked for takes the request away.
fn resume_and_ask(thread: Stopped, signal: i32) -> Result<Running> {
    let running = thread.resume(signal)?;
    // A thread that is gone will be reported as such.
    let _ = running.interrupt();
    Ok(running)
}

/// How a process is held while it is not in an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nobody traces it.
    Bare,
    /// We trace it: it was promoted, or has its filter from one that was, and goes on only so.
    Traced,
}

/// Lets threads go that stand because they were asked to, running and held as before.
pub fn let_go(pid: i32, threads: Vec<Stopped>, held: Held) {
    for thread in threads {
        let halted = thread.is_in_group_stop();
        if !halted {
            // What fails concerns a thread that is gone.
            let _ = leave_to_kernel(&thread, pid);
        }
        let _ = match held {
            Held::Bare => thread.detach(0),
            Held::Traced if halted => thread.listen().map(drop),
            Held::Traced => thread.resume(0).map(drop),
        };
    }
}
