//! One of the two processes of an update, with all its threads under ptrace.

use std::collections::HashMap;

use super::wards::Wards;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::context::{self, Context, Undecided};
use crate::tracee::inject::{self, Guarded};
use crate::tracee::standstill::traced_by_us;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::{Running, Stopped};
use crate::tracee::{Result, TraceeError, clock_slots, inspect};

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
    /// Threads that were let go with their interrupted calls before them. A signal comes before such a call, or is
    /// nobody's matter any more.
    undecided: HashMap<i32, Undecided>,
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
            undecided: HashMap::new(),
            vdso: None,
            wards: Wards::default(),
        }
    }

    pub(super) fn add_running(&mut self, thread: Running) {
        self.threads.insert(thread.tid(), Thread::Running(thread));
    }

    /// All threads of the process are ours; takes in those that are not known, running as far as anybody knows.
    pub(super) fn find_threads(&mut self) {
        for tid in inspect::threads(self.pid).unwrap_or_default() {
            if !self.has(tid) {
                self.add_running(Running::born(tid));
            }
        }
    }

    /// It stays in its stop until somebody takes it out, and is not reported for it again.
    pub(super) fn add_stopped(&mut self, thread: Stopped, why: Why) {
        ptrace::keep(thread.tid());
        self.threads
            .insert(thread.tid(), Thread::Stopped(thread, why));
    }

    /// A thread that was asked to stop has done so and stays, unless a signal is to come first: then it is let into
    /// that signal's delivery, and asked again.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn stands_as_asked(&mut self, thread: Stopped, wait: Wait) -> Result<()> {
        if wait == Wait::Interrupted && thread.is_about_to_get_a_signal() {
            let running = thread.let_the_signal_come()?;
            self.add_running(running);
        } else {
            self.add_stopped(thread, Why::Asked);
        }
        Ok(())
    }

    /// A signal has stopped the process, and nothing has made it go on yet.
    pub(super) fn is_stopped_by_a_signal(&self) -> bool {
        self.stopped().any(Stopped::is_in_group_stop) || self.running().any(Running::is_listening)
    }

    pub(super) fn has(&self, tid: i32) -> bool {
        self.threads.contains_key(&tid)
    }

    /// It does not stand in a stop in which somebody has left it.
    pub(super) fn is_running(&self, tid: i32) -> bool {
        matches!(self.threads.get(&tid), Some(Thread::Running(_)))
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
        self.undecided.remove(&tid);
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

    /// The same, but one that was killed meanwhile runs as far as we know, and is not to be let out of the stop at its
    /// exit: that is reported.
    pub(super) fn take_standing(&mut self, because: Why) -> Vec<Stopped> {
        let (standing, killed): (Vec<_>, Vec<_>) = self
            .take_stopped(because)
            .into_iter()
            .partition(|thread| ptrace::still_stands(thread.tid()));
        for thread in killed {
            self.add_running(Running::born(thread.tid()));
        }
        standing
    }

    /// Takes a thread if it is stopped for this reason.
    pub(super) fn take(&mut self, tid: i32, because: Why) -> Option<Stopped> {
        match self.threads.get(&tid) {
            Some(Thread::Stopped(_, why)) if *why == because => self.reported(tid),
            _ => None,
        }
    }

    /// Takes any thread that stands because we asked for it, the main thread only if there is no other.
    pub(super) fn take_helper(&mut self) -> Option<Stopped> {
        let mut tids = self.tids();
        tids.sort_by_key(|tid| *tid == self.pid);
        tids.into_iter().find_map(|tid| self.take(tid, Why::Asked))
    }

    /// Takes the main thread, or any if that one does not stand because we asked for it.
    pub(super) fn take_main(&mut self) -> Option<Stopped> {
        self.take(self.pid, Why::Asked).or_else(|| {
            let mut tids = self.tids().into_iter();
            tids.find_map(|tid| self.take(tid, Why::Asked))
        })
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Running> {
        self.threads.values().filter_map(|thread| match thread {
            Thread::Running(running) => Some(running),
            Thread::Stopped(..) => None,
        })
    }

    /// The threads that stand, for whatever reason.
    pub(super) fn stopped(&self) -> impl Iterator<Item = &Stopped> {
        self.threads.values().filter_map(|thread| match thread {
            Thread::Stopped(stopped, _) => Some(stopped),
            Thread::Running(_) => None,
        })
    }

    /// Of each thread that runs as far as we know: what the kernel says that it does. For a report.
    pub(super) fn what_runs_does(&self) -> Vec<String> {
        let told = |thread: &Running| {
            let tid = thread.tid();
            let line = |file: &str| {
                let text = std::fs::read_to_string(format!("/proc/{}/task/{tid}/{file}", self.pid));
                text.unwrap_or_default().trim_end().to_owned()
            };
            let field = |name| inspect::status_field(self.pid, tid, name);
            let state = field("State").unwrap_or_else(|| "gone".into());
            let traced_by = field("TracerPid").unwrap_or_default();
            format!(
                "{tid} ({state}, traced by {traced_by}, in {}, call {})",
                line("wchan"),
                line("syscall")
            )
        };
        self.running().map(told).collect()
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

    /// No thread that stands in a stop of ours was killed there.
    pub(super) fn stands(&self) -> bool {
        self.stopped()
            .all(|thread| ptrace::still_stands(thread.tid()))
    }

    /// Sets the options of all threads that are stopped.
    pub(super) fn set_options_stopped(&self, options: u32) -> Result<()> {
        self.stopped()
            .try_for_each(|stopped| stopped.set_options(options))
    }

    /// Settles threads that run as far as we know and of which the kernel will report nothing: those
    /// whose stop was reported already, and those that have ended (a main thread that left before the
    /// others is reported with the last of them). Returns reports that came meanwhile.
    pub(super) fn settle_stragglers(&mut self) -> Vec<(i32, Wait)> {
        let mut reports = Vec::new();
        for tid in self.tids() {
            if !self.is_running(tid) {
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
            } else if inspect::thread_has_ended(self.pid, tid) {
                // A thread that ended stays until its tracer has heard of it. Its end is news, but for a main thread that
                // left before the others.
                match ptrace::wait(tid, false) {
                    Ok(Some(report)) => reports.push(report),
                    _ => self.ended(tid),
                }
            }
        }
        reports
    }

    /// Takes in threads that are ours and of which nobody has a handle: an error took it away. Whoever stands at its exit is
    /// let through, unless it is kept there: another may wait for that, in an `execve`, and would not stop before. (Killed
    /// in a stop it may have come there unheard, while that stop was being [kept](ptrace::keep).)
    pub(super) fn find_lost(&mut self) {
        for tid in inspect::threads(self.pid).unwrap_or_default() {
            if matches!(self.threads.get(&tid), Some(Thread::Stopped(_, Why::Dying)))
                || !self.has(tid) && !traced_by_us(self.pid, tid)
            {
                continue;
            }
            let exits = ptrace::is_at_exit(tid);
            if exits {
                // One that is gone will be reported as such.
                let _ = ptrace::resume(tid, 0);
            } else if !self.has(tid) {
                let _ = ptrace::interrupt(tid);
            }
            if exits || !self.has(tid) {
                self.add_running(Running::born(tid));
            }
        }
    }

    /// Finds threads that were left in a stop and are not there any more, which only `SIGKILL` does: they run, and stop
    /// again at their exit. Returns reports of those that have done so, and whether others are on their way.
    pub(super) fn recall_killed(&mut self) -> (Vec<(i32, Wait)>, bool) {
        let (mut reports, mut woken) = (Vec::new(), false);
        for tid in self.tids() {
            if !matches!(self.threads.get(&tid), Some(Thread::Stopped(_, why)) if *why != Why::Dying)
            {
                continue;
            }
            if let Ok(Some(wait)) = ptrace::look_at(tid) {
                reports.push((tid, wait));
            } else if ptrace::registers(tid).is_err() {
                self.add_running(Running::born(tid));
                woken = true;
            }
        }
        (reports, woken)
    }

    /// Lets all stopped threads run.
    pub(super) fn resume_all(&mut self) {
        self.resume_each(|stopped| stopped.resume(0));
    }

    /// As [`resume_all`](Self::resume_all), but their next stop comes at once, and is reported: if a signal has stopped the
    /// process, they are back in that stop then.
    pub(super) fn resume_all_into_interrupt(&mut self) {
        self.resume_each(Stopped::resume_into_interrupt);
    }

    fn resume_each(&mut self, resume: impl Fn(Stopped) -> Result<Running>) {
        for tid in self.tids() {
            let Some(Thread::Stopped(_, why)) = self.threads.get(&tid) else {
                continue;
            };
            // One that was killed meanwhile is not to be let out of the stop at its exit: that is reported.
            if *why != Why::Dying && !ptrace::still_stands(tid) {
                self.add_running(Running::born(tid));
            } else if let Some(stopped) = self.reported(tid)
                && let Ok(running) = resume(stopped)
            {
                self.add_running(running);
            }
        }
    }

    /// Lets threads that stand at their death die of what they would have died of: a signal that was about to be delivered
    /// is. (The kernel forgets one with which a thread is not resumed, and a fault that was no fault, `kill -SEGV`, would
    /// never come again.)
    pub(super) fn let_die(&mut self) {
        for tid in self.tids() {
            let Some(thread) = self.take(tid, Why::Dying) else {
                continue;
            };
            // The stop of an event has a code of its own, above the signal.
            let signal = ptrace::signal_info(tid).ok();
            let signal = signal.filter(|info| info.si_code >> 8 <= 0);
            // One that is gone will be reported as such.
            let running = thread.resume(signal.map_or(0, |info| info.si_signo));
            self.add_running(running.unwrap_or_else(|_| Running::born(tid)));
        }
    }

    /// Nothing is waited for any more.
    pub(super) fn forget(&mut self) {
        self.threads.clear();
    }

    /// Rewinds the calls that our stop interrupted.
    pub(super) fn rewind_stopped(&self) -> Result<()> {
        self.each_asked(|thread| context::rewind_thread(thread, self.pid).map(drop))
    }

    /// The kernel decides what becomes of the calls that our stop interrupted when the threads go on.
    pub(super) fn leave_calls_to_kernel(&self) -> Result<()> {
        self.each_asked(|thread| context::leave_to_kernel(thread, self.pid).map(drop))
    }

    /// The call that our stop interrupted in a thread that stands.
    pub(super) fn undecided(&self, tid: i32) -> Option<Undecided> {
        let Thread::Stopped(stopped, Why::Asked) = self.threads.get(&tid)? else {
            return None;
        };
        context::leave_to_kernel(stopped, self.pid).ok()?
    }

    /// Threads were let go on their way to make their interrupted calls again.
    pub(super) fn add_undecided(&mut self, contexts: &[Context]) {
        let calls = contexts.iter();
        self.undecided
            .extend(calls.filter_map(|context| Some((context.tid, context.undecided?))));
    }

    /// These threads, which stand before their calls, take the place of others that were interrupted in them.
    ///
    /// # Errors
    /// When one is gone.
    pub(super) fn take_over_calls(&mut self, calls: &[(i32, Undecided)]) -> Result<()> {
        for (tid, call) in calls {
            if let Some(Thread::Stopped(stopped, _)) = self.threads.get(tid)
                && let Some(own) = call.of_counterpart(&stopped.registers()?)
            {
                self.undecided.insert(*tid, own);
            }
        }
        Ok(())
    }

    /// Before a signal is delivered: if its thread has not come to make its interrupted call again, that is as if it
    /// had been interrupted by the signal. Returns the call then.
    ///
    /// # Errors
    /// When the thread is gone.
    pub(super) fn leave_call_to_kernel(&mut self, thread: &Stopped) -> Result<Option<Undecided>> {
        let Some(call) = self.undecided.remove(&thread.tid()) else {
            return Ok(None);
        };
        let mut regs = thread.registers()?;
        if !call.is_ahead(&regs) {
            return Ok(None);
        }
        call.leave_to_kernel(&mut regs);
        thread.set_registers(&regs)?;
        Ok(Some(call))
    }

    fn each_asked(&self, mut what: impl FnMut(&Stopped) -> Result<()>) -> Result<()> {
        self.threads.values().try_for_each(|thread| match thread {
            Thread::Stopped(stopped, Why::Asked) => what(stopped),
            _ => Ok(()),
        })
    }

    /// Before a signal's handler is entered: an interrupted call is the kernel's, and the handler must not return into
    /// what we wrote into the vDSO, which may be gone by then.
    pub(super) fn evade(&mut self, thread: &Stopped) {
        if let Err(error) = self.leave_call_to_kernel(thread) {
            tracing::warn!(tid = thread.tid(), %error, "an interrupted call may be made again after a handler");
        }
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
        if slots.is_some() {
            for stopped in self.stopped() {
                let mut regs = stopped.registers()?;
                regs.gs_base = 0;
                stopped.set_registers(&regs)?;
            }
        }
        if foreign && vdso.may_return(self.stopped())?.is_some() {
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
        let Some(thread) = self.take_main() else {
            return false;
        };
        let tid = thread.tid();
        let unmapped = Context::read(&thread, self.pid).and_then(|context| {
            vdso.forget_slots(self.pid)?;
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::tracee::snapshot::LEADER_OPTIONS;
    use crate::tracee::standstill::{Held, seize_all};

    /// Waits in the call that it is told, says what that has returned, and has a handler for `SIGUSR1`.
    const WAITER: &str = r#"
        #include <errno.h>
        #include <poll.h>
        #include <signal.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/epoll.h>
        #include <time.h>
        #include <unistd.h>
        static void on_signal(int number) { (void)number; }
        int main(int argc, char **argv) {
            char byte, *how = argv[argc - 1];
            struct sigaction action = { .sa_handler = on_signal };
            sigset_t none, usr1;
            sigemptyset(&none); sigemptyset(&usr1); sigaddset(&usr1, SIGUSR1);
            if (!strcmp(how, "restarted")) action.sa_flags = SA_RESTART;
            sigaction(SIGUSR1, &action, NULL);
            if (!strcmp(how, "sigsuspend")) sigprocmask(SIG_BLOCK, &usr1, NULL);
            int instance = epoll_create1(0), got = -9;
            struct epoll_event event;
            struct timespec long_time = { 1000, 0 };
            write(1, "r", 1);
            if (!strcmp(how, "pause")) got = pause();
            if (!strcmp(how, "sigsuspend")) got = sigsuspend(&none);
            if (!strcmp(how, "epoll_wait")) got = epoll_wait(instance, &event, 1, -1);
            if (!strcmp(how, "nanosleep")) got = nanosleep(&long_time, NULL);
            if (!strcmp(how, "poll")) got = poll(NULL, 0, -1);
            if (!strcmp(how, "read") || !strcmp(how, "restarted")) got = read(0, &byte, 1);
            write(1, got == -1 && errno == EINTR ? "i" : got == 1 ? "1" : "?", 1);
            return 0;
        }"#;

    fn waiter(folder: &std::path::Path, how: &str) -> Child {
        let (source, program) = (folder.join("waiter.c"), folder.join("waiter"));
        if !program.exists() {
            std::fs::write(&source, WAITER).unwrap();
            let mut cc = Command::new("cc");
            let compiled = cc.arg("-o").arg(&program).arg(&source);
            assert!(compiled.status().unwrap().success());
        }
        let mut command = Command::new(program);
        let command = command
            .arg(how)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        assert_eq!(says(&mut child), b'r');
        let pid = i32::try_from(child.id()).unwrap();
        let start = std::time::Instant::now();
        while !inspect::is_asleep(pid, pid) {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "it does not wait"
            );
            std::thread::yield_now();
        }
        child
    }

    fn says(child: &mut Child) -> u8 {
        let mut byte = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        byte[0]
    }

    /// Stops it in its call, has `what` done with it while a signal comes, and lets it go: what it says.
    fn check(how: &'static str, what: fn(Side, Stopped)) -> u8 {
        let (done, ended) = mpsc::channel();
        // Tracing binds to a thread, and one that hangs must not take the test with it.
        std::thread::spawn(move || {
            let folder = tempfile::tempdir().unwrap();
            let mut child = waiter(folder.path(), how);
            let pid = i32::try_from(child.id()).unwrap();
            let (mut threads, _) = seize_all(pid, LEADER_OPTIONS, Held::Bare).unwrap();
            let mut side = Side::new(pid);
            side.vdso = Some(Box::new(Vdso::of(pid).unwrap()));
            what(side, threads.pop().unwrap());
            if how == "restarted" {
                child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
            }
            done.send(says(&mut child)).unwrap();
            let _ = child.wait();
        });
        ended
            .recv_timeout(Duration::from_secs(30))
            .unwrap_or_else(|_| panic!("{how}: it waits for a signal that was handled already"))
    }

    fn signal(pid: i32) {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGUSR1,
        )
        .unwrap();
    }

    const WAITS: &[(&str, u8)] = &[
        ("pause", b'i'),
        ("sigsuspend", b'i'),
        ("epoll_wait", b'i'),
        ("nanosleep", b'i'),
        ("poll", b'i'),
        ("read", b'i'),
        ("restarted", b'1'),
    ];

    #[test]
    fn a_signal_that_comes_while_a_call_is_injected_ends_the_interrupted_one() {
        for (how, answer) in WAITS {
            let says = check(how, |side, thread| {
                let vdso = side.vdso.as_deref().unwrap();
                vdso.write_stub(side.pid).unwrap();
                let context = Context::read(&thread, side.pid).unwrap();
                let mut guarded = Guarded::begin(thread, &context, vdso).unwrap();
                let nr = mvedsua_common::table::number("getppid");
                guarded.call("getppid", nr, &[0; 6]).unwrap();
                signal(side.pid);
                let thread = guarded.end().unwrap();
                thread.detach(0).unwrap();
            });
            assert_eq!(says, *answer, "{how}");
        }
    }

    /// As after a snapshot, whose stub leads a thread back to its call without us.
    #[test]
    fn a_signal_that_comes_before_a_call_is_made_again_ends_it() {
        for (how, answer) in WAITS {
            let says = check(how, |mut side, thread| {
                let context = Context::read(&thread, side.pid).unwrap();
                side.add_undecided(std::slice::from_ref(&context));
                signal(side.pid);
                let running = thread.resume(0).unwrap();
                let (thread, wait) = running.wait().unwrap().expect("it lives");
                assert_eq!(wait, Wait::Signal(libc::SIGUSR1));
                side.evade(&thread);
                thread.detach(libc::SIGUSR1).unwrap();
            });
            assert_eq!(says, *answer, "{how}");
        }
    }

    #[test]
    fn a_call_is_made_again_if_no_signal_comes() {
        let says = check("restarted", |mut side, thread| {
            side.add_stopped(thread, Why::Asked);
            side.leave_calls_to_kernel().unwrap();
            side.resume_all();
        });
        assert_eq!(says, b'1');
    }
}
