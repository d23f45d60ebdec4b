//! One of the two processes of an update, with all its threads under ptrace.

use std::collections::HashMap;

use super::wards::Wards;
use crate::sys::memory;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::context::{self, Context};
use crate::tracee::inject::{self, Guarded};
use crate::tracee::stub::Vdso;
use crate::tracee::thread::{Running, Stopped};
use crate::tracee::{Naming, Result, TraceeError, clock_slots, inspect};

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
    /// While its vDSO is patched: what with.
    pub(super) vdso: Option<Box<Vdso>>,
    /// Its child processes, if it was promoted.
    pub(super) wards: Wards,
}

impl Side {
    pub(super) fn new(pid: i32) -> Self {
        Self {
            pid,
            threads: HashMap::new(),
            vdso: None,
            wards: Wards::default(),
        }
    }

    pub(super) fn add_running(&mut self, thread: Running) {
        self.threads.insert(thread.tid(), Thread::Running(thread));
    }

    /// It stays in its stop until somebody takes it out, and is not reported for it again.
    pub(super) fn add_stopped(&mut self, thread: Stopped, why: Why) {
        ptrace::keep(thread.tid());
        self.threads
            .insert(thread.tid(), Thread::Stopped(thread, why));
    }

    pub(super) fn has(&self, tid: i32) -> bool {
        self.threads.contains_key(&tid)
    }

    /// Also of one of which nobody has heard yet, since it was born a moment ago. (Without it the process would
    /// not end: a thread that is killed stops at its exit.)
    pub(super) fn is_of(&self, tid: i32) -> bool {
        self.has(tid) || inspect::process_of(tid) == Some(self.pid)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.threads.is_empty()
    }

    /// Some thread is not stopped.
    pub(super) fn runs(&self) -> bool {
        self.running().next().is_some()
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
        for (tid, thread) in &self.threads {
            // One that is dying already stands at its exit, and the kernel drops the signal; no other
            // gets any further.
            if matches!(thread, Thread::Stopped(..)) {
                let _ = ptrace::resume(*tid, 0);
            }
        }
        while !self.threads.is_empty() {
            match ptrace::wait(-1, true) {
                Ok(Some((tid, Wait::Exited(_) | Wait::Killed(_)))) if self.has(tid) => {
                    self.ended(tid)
                }
                Ok(Some((tid, _))) if self.is_of(tid) => {
                    // An exit stop: on with it.
                    let _ = ptrace::resume(tid, 0);
                }
                Ok(Some((tid, wait))) => other(tid, wait),
                Ok(None) | Err(_) => break,
            }
        }
        self.threads.clear();
    }

    /// Rewinds the calls that our stop interrupted.
    pub(super) fn rewind_stopped(&self) -> Result<()> {
        self.each_asked(|thread| context::rewind_thread(thread, self.pid).map(drop))
    }

    /// Rewinds those that the kernel does not make again by itself.
    pub(super) fn rewind_unrestarted(&self) -> Result<()> {
        self.each_asked(|thread| context::rewind_unrestarted(thread, self.pid))
    }

    fn each_asked(&self, mut what: impl FnMut(&Stopped) -> Result<()>) -> Result<()> {
        self.threads.values().try_for_each(|thread| match thread {
            Thread::Stopped(stopped, Why::Asked) => what(stopped),
            _ => Ok(()),
        })
    }

    /// Before a signal's handler is entered: it must not return into what we wrote into the vDSO, which may
    /// be gone by then.
    pub(super) fn evade(&self, thread: &Stopped) {
        let Some(vdso) = &self.vdso else { return };
        let moved = thread.registers().and_then(|mut regs| {
            if vdso.evade(self.pid, &mut regs)? {
                thread.set_registers(&regs)?;
            }
            Ok(())
        });
        if let Err(error) = moved {
            tracing::warn!(tid = thread.tid(), %error, "a thread was not moved out of the vDSO");
        }
    }

    /// Moves every stopped thread out of what we wrote into the vDSO, so that it can be changed. A thread
    /// that dies stays where it died.
    ///
    /// # Errors
    /// When a thread cannot be brought out: what is in the vDSO must stay then.
    pub(super) fn leave_vdso(&mut self, vdso: &Vdso) -> Result<()> {
        let mut outcome = Ok(());
        for tid in self.tids() {
            let Some(Thread::Stopped(stopped, why)) = self.threads.get(&tid) else {
                continue;
            };
            let why = *why;
            let mut regs = stopped.registers()?;
            if why == Why::Dying {
                continue;
            }
            if vdso.evade(self.pid, &mut regs)? {
                stopped.set_registers(&regs)?;
            } else if vdso.is_in_stub(regs.rip)
                && let Some(stopped) = self.reported(tid)
            {
                let stopped = step_out(stopped, vdso).unwrap_or_else(|error| {
                    outcome = Err(error);
                    // It is still ours and must not be forgotten.
                    Running::born(tid).reported()
                });
                self.add_stopped(stopped, why);
            }
        }
        outcome
    }

    /// Makes the vDSO of the process, all of whose threads are stopped, as the kernel made it, and takes
    /// the slots for clock readings away.
    ///
    /// `foreign`: handlers may have been entered while nobody traced the process. If one could return into
    /// what we wrote, that is left, with nothing leading to it.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn restore_vdso(&mut self, vdso: &Vdso, foreign: bool) -> Result<()> {
        self.leave_vdso(vdso)?;
        vdso.restore_entries(self.pid)?;
        let slots = vdso.slots(self.pid);
        for thread in self.threads.values() {
            if let (Some(_), Thread::Stopped(stopped, _)) = (slots, thread) {
                let mut regs = stopped.registers()?;
                regs.gs_base = 0;
                stopped.set_registers(&regs)?;
            }
        }
        if foreign && self.may_return_to(vdso)? {
            tracing::warn!(
                pid = self.pid,
                "a signal's handler may return to the clock code that a killed agent left: it stays, unused"
            );
            return Ok(());
        }
        self.vdso = None;
        if let Some(slots) = slots
            && !self.unmap_slots(vdso, slots)
        {
            // A thread may be on its way through the stub.
            return Ok(());
        }
        vdso.restore(self.pid)
    }

    /// Returns false when the memory stays, unused.
    fn unmap_slots(&mut self, vdso: &Vdso, slots: u64) -> bool {
        let asked = |thread: &Thread| matches!(thread, Thread::Stopped(_, Why::Asked));
        let Some(tid) = self
            .threads
            .iter()
            .find(|(_, thread)| asked(thread))
            .map(|(tid, _)| *tid)
        else {
            return false;
        };
        let Some(thread) = self.reported(tid) else {
            return false;
        };
        let unmapped = Context::read(&thread, self.pid).and_then(|context| {
            let mut guarded = Guarded::begin(thread, &context, vdso)?;
            clock_slots::unmap(&mut guarded, slots)?;
            guarded.end()
        });
        let done = unmapped.is_ok();
        let thread = unmapped.unwrap_or_else(|error| {
            tracing::warn!(pid = self.pid, %error, "the slots for clock readings stay mapped");
            Running::born(tid).reported()
        });
        self.add_stopped(thread, Why::Asked);
        done
    }

    /// Any word of a thread's stack that could be an address in what we wrote.
    fn may_return_to(&self, vdso: &Vdso) -> Result<bool> {
        /// Most of a stack that is looked at.
        const MOST: u64 = 1 << 20;
        let maps = inspect::maps(self.pid)?;
        for thread in self.threads.values() {
            let Thread::Stopped(stopped, _) = thread else {
                continue;
            };
            let from = stopped.registers()?.rsp & !7;
            let Some(map) = maps.iter().find(|map| (map.start..map.end).contains(&from)) else {
                continue;
            };
            let mut stack = vec![0; (map.end - from).min(MOST) as usize];
            memory::read(self.pid, from, &mut stack).named("read the stack", stopped.tid())?;
            let words = stack.chunks_exact(8);
            if words
                .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
                .any(|word| vdso.is_inside(word))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Lets a thread run out of the injection stub, from one system call to the next: in none of these stops it
/// would come to harm if this agent died. (A single step would leave it a trap.) Signals are held back
/// meanwhile: the frame of a handler entered here would lead back into what is about to change. The thread
/// blocks them itself there, and gets its own mask back by its `rt_sigreturn`.
fn step_out(mut thread: Stopped, vdso: &crate::tracee::stub::Vdso) -> Result<Stopped> {
    /// More than the stub has.
    const MOST_CALLS: usize = 8;
    let tid = thread.tid();
    if !vdso.is_in_stub(thread.registers()?.rip) {
        return Ok(thread);
    }
    let kernel = |what: &'static str| move |source| TraceeError::Kernel { what, tid, source };
    let own = ptrace::signal_mask(tid).map_err(kernel("read the signal mask"))?;
    ptrace::set_signal_mask(tid, u64::MAX).map_err(kernel("block signals"))?;
    let blocked = ptrace::signal_mask(tid).map_err(kernel("read the signal mask"))?;
    let out = (|| {
        for _ in 0..MOST_CALLS {
            thread = inject::step_over_call(thread, "leave the stub", &mut |_| Ok(()))?.0;
            if !vdso.is_in_stub(thread.registers()?.rip) {
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

/// Ends all processes of a tree at once, so that none hears of another's end, and waits for that. Reports of others
/// are handed to `other`.
pub(super) fn kill_all(mut sides: Vec<Side>, other: &mut dyn FnMut(i32, Wait)) {
    sides.retain(|side| !side.is_gone());
    for side in &sides {
        let _ = crate::sys::pidfd::kill(side.pid);
    }
    let mut late = Vec::new();
    while let Some(mut side) = sides.pop() {
        side.kill(&mut |tid, wait| {
            match sides.iter_mut().find(|side| side.has(tid)) {
                Some(side) if matches!(wait, Wait::Exited(_) | Wait::Killed(_)) => side.ended(tid),
                Some(_) => {
                    // The stop at its exit: on with it.
                    let _ = ptrace::resume(tid, 0);
                }
                None => late.push((tid, wait)),
            }
        });
    }
    for (tid, wait) in late {
        other(tid, wait);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::tracee::snapshot::FOLLOWER_OPTIONS;

    /// Says a byte when it has two threads.
    const TWO_THREADS: &str = "
        #include <pthread.h>
        #include <unistd.h>
        static void *other(void *unused) { write(1, \"2\", 1); pause(); return unused; }
        int main(void) { pthread_t t; pthread_create(&t, 0, other, 0); pause(); return 0; }";

    /// Seen on 2026-11-25: a rollback met a follower's thread that had just been born, waited for its end, and
    /// the leader stood still for ever.
    #[test]
    fn a_process_ends_with_a_thread_of_which_nobody_has_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("two.c"), folder.path().join("two"));
        std::fs::write(&source, TWO_THREADS).unwrap();
        let mut cc = Command::new("cc");
        let compiled = cc.arg("-pthread").arg("-o").arg(&program).arg(&source);
        assert!(compiled.status().unwrap().success());
        let (done, ended) = mpsc::channel();
        // Tracing binds to a thread, and one that hangs must not take the test with it.
        std::thread::spawn(move || {
            let mut command = Command::new(program);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut says = [0];
            let mut output = child.stdout.take().unwrap();
            output.read_exact(&mut says).unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let mut side = Side::new(pid);
            for tid in inspect::threads(pid).unwrap() {
                let thread = Running::seize(tid, FOLLOWER_OPTIONS).unwrap();
                if tid == pid {
                    side.add_running(thread);
                }
            }
            assert_eq!(inspect::threads(pid).unwrap().len(), 2);
            side.kill(&mut |_, _| ());
            // Its end was the tracer's to hear of, who is its parent.
            let _ = child.wait();
            let _ = done.send(side.is_gone() && inspect::process_of(pid).is_none());
        });
        assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Ok(true));
    }
}
