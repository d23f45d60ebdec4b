//! Processes under ptrace: stopping them, copying all their threads, making calls inside them.
//!
//! *Architecture Invariant:* whatever is changed in a **leader** undoes itself if this agent dies at
//! any instruction: calls injected into it end in an `rt_sigreturn` on a frame that holds the
//! original context ([`inject::Guarded`]), and nothing else alters its registers. A **follower** is
//! killed with its tracer (`PTRACE_O_EXITKILL`), so it may be handled plainly.

pub mod call;
mod clock_code;
pub mod clock_slots;
pub mod context;
pub mod identity;
pub mod inject;
pub mod inspect;
pub mod lock_owners;
pub mod module;
pub mod pid_namespace;
pub mod posix_timers;
pub mod rebuild;
pub mod signal_frame;
pub mod snapshot;
pub mod stack;
pub mod standstill;
pub mod stub;
pub mod symbol;
pub mod thread;
pub mod unwind;
pub mod version;

use thiserror::Error;

/// What can go wrong with a traced process.
#[derive(Debug, Error)]
pub enum TraceeError {
    /// A request to the kernel failed.
    #[error("{what} of thread {tid}: {source}")]
    Kernel {
        /// The request.
        what: &'static str,
        /// The thread it concerned.
        tid: i32,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The thread stopped for another reason than the one waited for.
    #[error("thread {tid} was to {expected} but reported {got}")]
    Unexpected {
        /// The thread.
        tid: i32,
        /// What was waited for.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A call injected into the process failed.
    #[error("{call} inside process {tid} failed: {source}")]
    Injected {
        /// Name of the call.
        call: &'static str,
        /// The thread that made it.
        tid: i32,
        /// Its error.
        source: std::io::Error,
    },
    /// A process of a tree cannot be taken at this moment; a bit later it will have gone.
    #[error("{0}")]
    Passing(String),
    /// A signal has stopped the process.
    #[error("process {0} is stopped by a signal; let it run first (kill -CONT {0})")]
    Halted(i32),
    /// A thread was asked to stop and does not.
    #[error("thread {tid} does not stop ({what}); try again")]
    Stuck {
        /// The thread.
        tid: i32,
        /// What it does instead.
        what: String,
    },
    /// The process is about to run another program, or does already: what was known of it is true no more.
    #[error("process {0} executes another program just now; try again")]
    Executes(i32),
    /// The process is not in a state in which it can be handled; trying again may help.
    #[error("{0}")]
    Unsuitable(String),
}

/// Result of handling a traced process.
pub type Result<T> = std::result::Result<T, TraceeError>;

/// Names the request and the thread in an error of [`crate::sys`].
pub(crate) trait Naming<T> {
    fn named(self, what: &'static str, tid: i32) -> Result<T>;
}

impl<T> Naming<T> for std::io::Result<T> {
    fn named(self, what: &'static str, tid: i32) -> Result<T> {
        self.map_err(|source| TraceeError::Kernel { what, tid, source })
    }
}
