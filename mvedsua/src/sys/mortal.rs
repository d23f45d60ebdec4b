//! For the tests of the first law: an agent that dies of `SIGKILL` between two chosen steps.
//!
//! A *step* is a request of ptrace(2) or a write over a process's own code: whatever changes a process
//! that is not ours. With [`DIE_AT_STEP`] in its environment the agent kills itself before its n-th step,
//! so that a test can go through all of them. Without it a step costs one load of a flag.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Environment variable with the number of the step, from 1, that is not made any more.
pub const DIE_AT_STEP: &str = "MVEDSUA_DIE_AT_STEP";

static ARMED: AtomicBool = AtomicBool::new(false);
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Reads the environment. To be called once, before any process is touched.
pub fn arm() {
    let step = std::env::var(DIE_AT_STEP).ok().and_then(|n| n.parse().ok());
    if let Some(step) = step {
        LEFT.store(step, Ordering::Relaxed);
        ARMED.store(true, Ordering::Relaxed);
    }
}

/// A step is about to be made.
pub(super) fn step() {
    if ARMED.load(Ordering::Relaxed) && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Nothing may run any more, destructors least of all.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL);
    }
}
