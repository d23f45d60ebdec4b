//! Threads of a server that is not in an update, which are ours all the same: they were asked to stop for a snapshot
//! and had not done so when it was given up, or were born at that moment.
//!
//! The kernel lets a tracer go only of a thread that stands. So each is let go when it comes to its stop; the others
//! serve meanwhile. If this agent dies the kernel lets go of all.

use std::collections::HashSet;

use crate::sys::ptrace::{self, Wait};
use crate::tracee::inspect;
use crate::tracee::standstill::{self, Held, traced_by_us};
use crate::tracee::thread::{Running, is_recorders_stop};

/// Those of one server.
#[derive(Debug, Default)]
pub(super) struct Stragglers(HashSet<i32>);

impl Stragglers {
    /// Takes in what is still ours of a server that is to be free, and of its children, and asks it to stop; lets go
    /// what stands.
    pub(super) fn find(&mut self, root: i32) {
        for pid in inspect::descendants(root).into_iter().chain([root]) {
            for tid in inspect::threads(pid).unwrap_or_default() {
                if traced_by_us(pid, tid) && self.0.insert(tid) {
                    // One that is gone will be reported as such.
                    let _ = ptrace::interrupt(tid);
                }
            }
        }
        self.let_go();
    }

    /// One of them, if there is any. (A main thread that has ended is reported with the last of its process.)
    pub(super) fn any(&self) -> Option<i32> {
        let lives = |tid: &i32| !inspect::thread_has_ended(*tid, *tid);
        self.0.iter().copied().find(lives)
    }

    /// Lets those go that stand by now. To be called until there are none, and often: each stands still until then.
    pub(super) fn hear(&mut self, root: i32) {
        if self.0.is_empty() {
            return;
        }
        self.let_go();
        if self.0.is_empty() {
            // Its child was not named by a thread that was killed at that moment.
            self.find(root);
        }
    }

    fn let_go(&mut self) {
        for tid in self.0.iter().copied().collect::<Vec<i32>>() {
            // In this order: what it reports it does once it stands.
            let stands = ptrace::registers(tid).is_ok();
            let report = ptrace::look_at(tid).ok().flatten();
            let pid = inspect::process_of(tid).unwrap_or(tid);
            let signal = match report {
                Some(Wait::Exited(_) | Wait::Killed(_)) => {
                    self.0.remove(&tid);
                    continue;
                }
                Some(Wait::Signal(signal)) if !is_recorders_stop(tid, signal) => signal,
                Some(Wait::Event(
                    libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK,
                )) => {
                    // It is ours, and stands at its birth or will.
                    let born = ptrace::event_message(tid).map(|born| born as i32);
                    self.0.extend(born);
                    0
                }
                Some(Wait::Interrupted) => {
                    let thread = Running::born(tid).reported();
                    standstill::let_go(pid, vec![thread], Held::Bare);
                    self.forget_if_free(pid, tid);
                    continue;
                }
                None if !stands => {
                    self.forget_if_free(pid, tid);
                    continue;
                }
                Some(_) | None => 0,
            };
            // One that was killed in its stop is on its way to its exit, and is let go there.
            let _ = ptrace::detach(tid, signal);
            self.forget_if_free(pid, tid);
        }
    }

    /// A thread that has taken the main one's place to execute another program is found under that one's id.
    fn forget_if_free(&mut self, pid: i32, tid: i32) {
        if !traced_by_us(pid, tid) {
            self.0.remove(&tid);
        }
    }
}
