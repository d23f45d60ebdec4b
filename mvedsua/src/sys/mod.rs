//! Every raw kernel interface that the agent uses, one file per kernel concept.
//!
//! *Architecture Invariant:* `unsafe` and raw system calls live here (and in the recorder's ring
//! mapping), each with the invariants that it relies on. Nothing here knows what an update is.

pub mod features;
pub mod heap;
pub mod limits;
pub mod memory;
pub mod mortal;
pub mod named_datagram;
pub mod open;
pub mod pid_namespace;
pub mod pidfd;
pub mod ptrace;
pub mod robust_list;
pub mod scheduling;
pub mod seccomp;
pub mod seize;
pub mod setsid;
pub mod wakeup;

/// Result of a raw kernel interface.
pub type Result<T> = std::io::Result<T>;

/// Turns the C convention "-1 and errno" into a [`Result`].
fn check(ret: libc::c_long) -> Result<libc::c_long> {
    if ret < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}
