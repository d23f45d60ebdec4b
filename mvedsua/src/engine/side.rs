//! One of the two processes of an update, with all its threads under ptrace.

use std::collections::HashMap;

use super::wards::Wards;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::thread::{Running, Stopped};
use crate::tracee::{Result, TraceeError, context, inspect};

/// A thread of a [`Side`].
#[derive(Debug)]
pub(super) enum Thread {
    /// Runs, or sleeps in the kernel.
    Running(Running),
    /// Stands in a ptrace stop, and why.
    Stopped(Stopped, Why),
}

/// Why a thread is kept stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// We asked for it ([`Side::stop_all`]).
    Asked,
    /// The ring is nearly full.
    RingFull,
    /// It is about to die.
    Dying,
    /// A thread of the follower at its birth, before its creator's event named it.
    Newborn,
    /// A transformer is at work in another thread, or about to start in this one.
    Transforming,
}

/// A process and its threads.
#[derive(Debug)]
pub(super) struct Side {
    /// Thread group leader.
    pub(super) pid: i32,
    threads: HashMap<i32, Thread>,
    /// Its child processes, if it was promoted.
    pub(super) wards: Wards,
}

impl Side {
    pub(super) fn new(pid: i32) -> Self {
        Self {
            pid,
            threads: HashMap::new(),
            wards: Wards::default(),
        }
    }

    pub(super) fn add_running(&mut self, thread: Running) {
        self.threads.insert(thread.tid(), Thread::Running(thread));
    }

    pub(super) fn add_stopped(&mut self, thread: Stopped, why: Why) {
        self.threads
            .insert(thread.tid(), Thread::Stopped(thread, why));
    }

    pub(super) fn has(&self, tid: i32) -> bool {
        self.threads.contains_key(&tid)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.threads.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.threads.len()
    }

    pub(super) fn tids(&self) -> Vec<i32> {
        self.threads.keys().copied().collect()
    }

    /// The kernel reported this thread as stopped: the handle to do something about it.
    pub(super) fn reported(&mut self, tid: i32) -> Option<Stopped> {
        match self.threads.remove(&tid)? {
            Thread::Running(running) => Some(running.reported()),
            Thread::Stopped(stopped, _) => Some(stopped),
        }
    }

    pub(super) fn ended(&mut self, tid: i32) {
        self.threads.remove(&tid);
    }

    /// Takes all threads that are stopped for this reason.
    pub(super) fn take_stopped(&mut self, because: Why) -> Vec<Stopped> {
        let tids: Vec<i32> = self
            .threads
            .iter()
            .filter(|(_, thread)| matches!(thread, Thread::Stopped(_, why) if *why == because))
            .map(|(tid, _)| *tid)
            .collect();
        tids.into_iter()
            .filter_map(|tid| self.reported(tid))
            .collect()
    }

    /// Takes a thread that was reported at its birth before anybody knew it.
    pub(super) fn take_newborn(&mut self, tid: i32) -> Option<Stopped> {
        match self.threads.get(&tid) {
            Some(Thread::Stopped(_, Why::Newborn)) => self.reported(tid),
            _ => None,
        }
    }

    pub(super) fn count_stopped(&self, because: Why) -> usize {
        let counts =
            |thread: &&Thread| matches!(thread, Thread::Stopped(_, why) if *why == because);
        self.threads.values().filter(counts).count()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Running> {
        self.threads.values().filter_map(|thread| match thread {
            Thread::Running(running) => Some(running),
            Thread::Stopped(..) => None,
        })
    }

    /// Asks one running thread to stop.
    pub(super) fn interrupt(&self, tid: i32) {
        if let Some(Thread::Running(thread)) = self.threads.get(&tid) {
            // One that is gone will be reported as such.
            let _ = thread.interrupt();
        }
    }

    /// Asks every running thread to stop.
    pub(super) fn interrupt_all(&self) {
        for thread in self.running() {
            // A thread that is gone will be reported as such.
            let _ = thread.interrupt();
        }
    }

    /// Sets the options of all threads that are stopped.
    pub(super) fn set_options_stopped(&self, options: u32) -> Result<()> {
        for thread in self.threads.values() {
            if let Thread::Stopped(stopped, _) = thread {
                stopped.set_options(options)?;
            }
        }
        Ok(())
    }

    /// Settles threads that run as far as we know and of which the kernel will report nothing: those
    /// whose stop was reported already, and those that have ended (a main thread that left before the
    /// others is reported with the last of them). Returns reports that came meanwhile.
    pub(super) fn settle_stragglers(&mut self) -> Vec<(i32, Wait)> {
        let mut reports = Vec::new();
        for tid in self.tids() {
            if !matches!(self.threads.get(&tid), Some(Thread::Running(_))) {
                continue;
            }
            if ptrace::registers(tid).is_ok() {
                // It stands, and stays so: only now does "no report" mean that there will be none.
                match ptrace::wait(tid, false) {
                    Ok(Some(report)) => reports.push(report),
                    _ => {
                        if let Some(stopped) = self.reported(tid) {
                            self.add_stopped(stopped, Why::Asked);
                        }
                    }
                }
            } else if inspect::status_field(self.pid, tid, "State")
                .is_none_or(|s| s.starts_with(['Z', 'X']))
            {
                // A thread that ended stays until its tracer has heard of it.
                let _ = ptrace::wait(tid, false);
                self.ended(tid);
            }
        }
        reports
    }

    /// Lets all stopped threads run.
    pub(super) fn resume_all(&mut self) {
        for tid in self.tids() {
            if let Some(Thread::Stopped(..)) = self.threads.get(&tid)
                && let Some(stopped) = self.reported(tid)
                && let Ok(running) = stopped.resume(0)
            {
                self.add_running(running);
            }
        }
    }

    /// Kills the process and waits until nothing of it is left. Reports of other tracees that come
    /// meanwhile are handed to `other`.
    pub(super) fn kill(&mut self, other: &mut dyn FnMut(i32, Wait)) {
        if self.threads.is_empty() {
            return;
        }
        let _ = crate::sys::pidfd::kill(self.pid);
        while !self.threads.is_empty() {
            match ptrace::wait(-1, true) {
                Ok(Some((tid, Wait::Exited(_) | Wait::Killed(_)))) if self.has(tid) => {
                    self.ended(tid)
                }
                Ok(Some((tid, _))) if self.has(tid) => {
                    // An exit stop: on with it.
                    let _ = ptrace::resume(tid, 0);
                }
                Ok(Some((tid, wait))) => other(tid, wait),
                Ok(None) | Err(_) => break,
            }
        }
        self.threads.clear();
    }

    /// Rewinds the calls that our stop interrupted. Returns the threads of which this is true.
    pub(super) fn rewind_stopped(&self) -> Result<Vec<i32>> {
        let mut rewound = Vec::new();
        for thread in self.threads.values() {
            if let Thread::Stopped(stopped, Why::Asked) = thread {
                let mut regs = stopped.registers()?;
                let genuine = inspect::deliverable_signals(self.pid, stopped.tid()) != 0;
                if context::rewind(&mut regs, genuine) {
                    stopped.set_registers(&regs)?;
                    rewound.push(stopped.tid());
                }
            }
        }
        Ok(rewound)
    }

    /// Steps every stopped thread out of the vDSO (code and stub), so that it can be written.
    ///
    /// # Errors
    /// When a thread cannot be brought out: what is in the vDSO must stay then.
    pub(super) fn leave_vdso(&mut self, vdso: &crate::tracee::stub::Vdso) -> Result<()> {
        let mut outcome = Ok(());
        for tid in self.tids() {
            let Some(Thread::Stopped(_, why)) = self.threads.get(&tid) else {
                continue;
            };
            let why = *why;
            let Some(stopped) = self.reported(tid) else {
                continue;
            };
            let stopped = step_out(stopped, vdso).unwrap_or_else(|error| {
                outcome = Err(error);
                // It is still ours and must not be forgotten.
                Running::born(tid).reported()
            });
            self.add_stopped(stopped, why);
        }
        outcome
    }
}

/// Signals are held back meanwhile: the frame of a handler entered here would lead back into what is
/// about to change. A thread in the injection stub blocks them itself, and gets its own mask back by
/// its `rt_sigreturn`.
fn step_out(mut thread: Stopped, vdso: &crate::tracee::stub::Vdso) -> Result<Stopped> {
    const MOST_STEPS: usize = 20_000;
    let tid = thread.tid();
    if !vdso.contains(thread.registers()?.rip) {
        return Ok(thread);
    }
    let kernel = |what: &'static str| move |source| TraceeError::Kernel { what, tid, source };
    let own = ptrace::signal_mask(tid).map_err(kernel("read the signal mask"))?;
    ptrace::set_signal_mask(tid, u64::MAX).map_err(kernel("block signals"))?;
    let blocked = ptrace::signal_mask(tid).map_err(kernel("read the signal mask"))?;
    let out = (|| {
        for _ in 0..MOST_STEPS {
            thread = thread.single_step()?;
            if !vdso.contains(thread.registers()?.rip) {
                return Ok(thread);
            }
        }
        Err(TraceeError::Unsuitable(format!(
            "thread {tid} does not leave the vDSO"
        )))
    })();
    if ptrace::signal_mask(tid).is_ok_and(|now| now == blocked) {
        ptrace::set_signal_mask(tid, own).map_err(kernel("unblock signals"))?;
    }
    out
}
