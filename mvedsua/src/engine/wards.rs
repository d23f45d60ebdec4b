//! Child processes of a promoted process.
//!
//! They inherited its filter, and as long as a tracer suspends that they run as if it were not there.
//! They are no part of an update: whatever the kernel reports of them passes.

use std::collections::HashSet;

use crate::sys::ptrace::{self, Wait};
use crate::tracee::thread::is_recorders_stop;
use crate::tracee::{context, inspect};

/// The threads of such processes, traced with the options of the promoted process.
#[derive(Debug, Default)]
pub(super) struct Wards(HashSet<i32>);

impl Wards {
    /// A thread that is traced already.
    pub(super) fn insert(&mut self, tid: i32) {
        self.0.insert(tid);
    }

    /// The process ids of those that still live, for a message.
    pub(super) fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .0
            .iter()
            .filter_map(|tid| inspect::process_of(*tid))
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Handles what they have to report.
    pub(super) fn hear(&mut self) {
        for tid in self.0.iter().copied().collect::<Vec<i32>>() {
            while let Ok(Some(wait)) = ptrace::look_at(tid) {
                self.report(tid, wait);
            }
        }
    }

    /// Handles the report of a thread that is of neither side of an update. A child that is traced
    /// from its birth and has no filter needs no tracer: it is let go.
    pub(super) fn report(&mut self, tid: i32, wait: Wait) {
        // What fails concerns a thread that has been killed meanwhile, which is reported by itself.
        let _ = match wait {
            Wait::Exited(_) | Wait::Killed(_) => {
                self.0.remove(&tid);
                Ok(())
            }
            Wait::Interrupted if !self.0.contains(&tid) && !is_filtered(tid) => {
                ptrace::detach(tid, 0)
            }
            Wait::GroupStop(_) => ptrace::listen(tid),
            Wait::Signal(signal) if is_recorders_stop(tid, signal) => ptrace::resume(tid, 0),
            Wait::Signal(signal) => {
                let _ = context::spare_from(signal, tid, tid);
                ptrace::resume(tid, signal)
            }
            Wait::Interrupted | Wait::Syscall | Wait::Event(_) => {
                self.0.insert(tid);
                ptrace::resume(tid, 0)
            }
        };
    }
}

fn is_filtered(tid: i32) -> bool {
    inspect::status_field(tid, tid, "Seccomp").as_deref() == Some("2")
}
