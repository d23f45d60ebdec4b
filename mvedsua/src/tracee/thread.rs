//! A traced thread, stopped or running, as two types that cannot be cloned.

use std::time::{Duration, Instant};

use super::{Naming, Result, TraceeError, inspect};
use crate::sys::ptrace::{self, Wait};
use crate::sys::seize;

/// How long a signal that is about to be delivered is waited for.
const SIGNAL_WAIT: Duration = Duration::from_micros(20);
/// How long, if the thread gets no CPU.
const LONGEST_SIGNAL_WAIT: Duration = Duration::from_millis(5);

/// The signal for which a thread is stopped is the `SIGSTOP` of a recorder, not a user's: the kernel itself
/// sends none. It must never be delivered, or the server stands still when nobody traces it any more.
#[must_use]
pub fn is_recorders_stop(tid: i32, signal: i32) -> bool {
    signal == libc::SIGSTOP
        && ptrace::signal_info(tid).is_ok_and(|info| info.si_code == libc::SI_KERNEL)
}

/// A signal that is caught waits for the thread, and is not blocked.
fn is_deliverable(tid: i32) -> bool {
    // A thread is found under its own id, too.
    inspect::deliverable_signals(tid, tid) & inspect::caught_signals(tid, tid) != 0
}

/// A traced thread that is in a ptrace stop.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
}

/// A traced thread that runs (or sleeps in the kernel).
#[derive(Debug)]
pub struct Running {
    tid: i32,
}

impl Running {
    /// Seizes a thread with `PTRACE_O_*` options; it goes on running.
    ///
    /// # Errors
    /// When it is gone, traced by somebody else, or protected.
    pub fn seize(tid: i32, options: u32) -> Result<Self> {
        seize::seize(tid, options).named("seize", tid)?;
        Ok(Self { tid })
    }

    /// The thread that the kernel seized by itself, because its creator is traced with
    /// `PTRACE_O_TRACECLONE` and the like. `tid` must come from such an event.
    #[must_use]
    pub const fn born(tid: i32) -> Self {
        Self { tid }
    }

    /// Its thread id.
    #[must_use]
    pub const fn tid(&self) -> i32 {
        self.tid
    }

    /// Asks it to stop; the stop is reported later as [`Wait::Interrupted`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn interrupt(&self) -> Result<()> {
        ptrace::interrupt(self.tid).named("interrupt", self.tid)
    }

    /// A signal has stopped its process, and we left it [in that stop](Stopped::listen).
    #[must_use]
    pub fn is_listening(&self) -> bool {
        // In this order: a thread that stands does not go on by itself, and in other stops it can be looked into.
        let stands = inspect::status_field(self.tid, self.tid, "State")
            .is_some_and(|state| state.starts_with('t'));
        stands && ptrace::registers(self.tid).is_err()
    }

    /// The thread was reported as stopped.
    #[must_use]
    pub const fn reported(self) -> Stopped {
        Stopped { tid: self.tid }
    }

    /// Waits for its next report. `None`: it is gone.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait(self) -> Result<Option<(Stopped, Wait)>> {
        match ptrace::wait(self.tid, true).named("wait", self.tid)? {
            None | Some((_, Wait::Exited(_) | Wait::Killed(_))) => Ok(None),
            Some((_, wait)) => Ok(Some((Stopped { tid: self.tid }, wait))),
        }
    }

    /// As [`wait`](Self::wait), but a signal is only looked at before it is delivered: it does not go with this agent.
    ///
    /// # Errors
    /// As there.
    pub fn look(self) -> Result<Option<(Stopped, Wait)>> {
        match ptrace::look_until(self.tid).named("wait", self.tid)? {
            None | Some(Wait::Exited(_) | Wait::Killed(_)) => Ok(None),
            Some(wait) => Ok(Some((Stopped { tid: self.tid }, wait))),
        }
    }

    /// Waits for its next report, which must be of the kind that `accept` says.
    ///
    /// # Errors
    /// When it is gone or reports something else.
    pub fn expect(
        self,
        expected: &'static str,
        accept: impl Fn(Wait) -> bool,
    ) -> Result<(Stopped, Wait)> {
        let tid = self.tid;
        match self.wait()? {
            Some((stopped, wait)) if accept(wait) => Ok((stopped, wait)),
            Some((_, wait)) => Err(TraceeError::Unexpected {
                tid,
                expected,
                got: format!("{wait:?}"),
            }),
            None => Err(TraceeError::Unexpected {
                tid,
                expected,
                got: "its end".into(),
            }),
        }
    }
}

impl Stopped {
    /// Its thread id.
    #[must_use]
    pub const fn tid(&self) -> i32 {
        self.tid
    }

    /// Lets it run, delivering `signal` (0: none).
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(self, signal: i32) -> Result<Running> {
        ptrace::resume(self.tid, signal).named("resume", self.tid)?;
        Ok(Running { tid: self.tid })
    }

    /// Lets it run to the next system call entry or exit.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume_to_syscall(self) -> Result<Running> {
        ptrace::resume_to_syscall(self.tid).named("resume to syscall", self.tid)?;
        Ok(Running { tid: self.tid })
    }

    /// Delivers the signal that it is stopped for, which must have a handler, and returns when it
    /// stands at the handler's first instruction.
    ///
    /// # Errors
    /// When it is gone or stops for another reason.
    pub fn step_into_handler(self, signal: i32) -> Result<Self> {
        ptrace::step_into_handler(self.tid, signal).named("step into a handler", self.tid)?;
        let (stopped, _) = Running { tid: self.tid }.expect("enter a signal handler", |wait| {
            wait == Wait::Signal(libc::SIGTRAP)
        })?;
        Ok(stopped)
    }

    /// Lets it run on without the signal that it is stopped for, straight into the stop of an
    /// interrupt: a place where it would simply run on if its tracer died.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume_into_interrupt(self) -> Result<Running> {
        ptrace::interrupt(self.tid).named("interrupt", self.tid)?;
        self.resume(0)
    }

    /// It stands in the stop of an interrupt, and a signal that is caught will be delivered before its next
    /// instruction. The kernel looks at requests to stop first (`get_signal`), so nobody has heard of the signal yet.
    ///
    /// Such a thread is not where it seems to be: what becomes of an interrupted call depends on the signal
    /// (`rt_sigsuspend` ends with `EINTR`, and made again it would wait for a signal that was handled already), a call
    /// that has sent it a signal has its effect only with the handler, and a copy has no signal waiting at all.
    #[must_use]
    pub fn is_about_to_get_a_signal(&self) -> bool {
        let waits = |shared| {
            ptrace::pending_signals(self.tid, shared).is_ok_and(|waiting| !waiting.is_empty())
        };
        if !(waits(false) || waits(true)) {
            return false;
        }
        is_deliverable(self.tid)
    }

    /// Lets it run into the stop of that signal's delivery, and asks it to stop again: another thread may have taken
    /// the signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn let_the_signal_come(self) -> Result<Running> {
        let running = self.resume(0)?;
        // A request to stop that comes before the thread has run would come before the signal.
        let start = Instant::now();
        while start.elapsed() < SIGNAL_WAIT
            || (is_deliverable(running.tid) && start.elapsed() < LONGEST_SIGNAL_WAIT)
        {
            if ptrace::registers(running.tid).is_ok() {
                // It stands already: there, or once more because it had been asked to twice. Another request would wait
                // until it is resumed, and come before the signal again, for ever (seen).
                return Ok(running);
            }
            std::thread::yield_now();
        }
        // One that is gone will be reported as such.
        let _ = running.interrupt();
        Ok(running)
    }

    /// It stands because a signal has stopped its process, not (only) because we asked.
    #[must_use]
    pub fn is_in_group_stop(&self) -> bool {
        // The stop's own description: the stopping signal instead of SIGTRAP (`do_jobctl_trap`).
        ptrace::signal_info(self.tid).is_ok_and(|info| {
            info.si_code >> 8 == libc::PTRACE_EVENT_STOP && info.si_signo != libc::SIGTRAP
        })
    }

    /// Leaves it in its group stop; it still reports events.
    ///
    /// # Errors
    /// When it is gone.
    pub fn listen(self) -> Result<Running> {
        ptrace::listen(self.tid).named("listen", self.tid)?;
        Ok(Running { tid: self.tid })
    }

    /// Ends the tracing; the thread runs on, `signal` delivered (0: none).
    ///
    /// # Errors
    /// When it is gone.
    pub fn detach(self, signal: i32) -> Result<()> {
        ptrace::detach(self.tid, signal).named("detach", self.tid)
    }

    /// Sets the `PTRACE_O_*` options.
    ///
    /// # Errors
    /// When it is gone.
    pub fn set_options(&self, options: u32) -> Result<()> {
        ptrace::set_options(self.tid, options).named("set options", self.tid)
    }

    /// Its general registers.
    ///
    /// # Errors
    /// When it is gone.
    pub fn registers(&self) -> Result<ptrace::Registers> {
        ptrace::registers(self.tid).named("read registers", self.tid)
    }

    /// Changes its general registers.
    ///
    /// # Errors
    /// When it is gone.
    pub fn set_registers(&self, regs: &ptrace::Registers) -> Result<()> {
        ptrace::set_registers(self.tid, regs).named("set registers", self.tid)
    }

    /// The message of the event just reported.
    ///
    /// # Errors
    /// When it is gone.
    pub fn event_message(&self) -> Result<u64> {
        ptrace::event_message(self.tid).named("read event message", self.tid)
    }
}
