//! What a process does about its signals.

use crate::sys::memory;
use crate::tracee::inject::{Guarded, Plain};
use crate::tracee::thread::Stopped;
use crate::tracee::{Naming, Result, inspect};

/// `struct sigaction` of the kernel: handler, flags, restorer, mask.
const BYTES: usize = 32;
/// Signals of Linux.
const LAST: i32 = 64;

/// The actions that are not just the default.
#[derive(Debug)]
pub struct Handlers(Vec<(i32, [u8; BYTES])>);

/// Bit n-1 set: signal n is caught or ignored.
fn special(pid: i32) -> u64 {
    inspect::status_mask(pid, pid, "SigCgt") | inspect::status_mask(pid, pid, "SigIgn")
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

impl Handlers {
    /// Asks a stopped process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ask(pid: i32, guarded: &mut Guarded<'_>) -> Result<Self> {
        // The default action of SIGCHLD has flags that matter.
        let asked = special(pid) | bit(libc::SIGCHLD);
        let mut actions = Vec::new();
        let nr = mvedsua_common::table::number("rt_sigaction");
        for signal in (1..=LAST).filter(|signal| asked & bit(*signal) != 0) {
            let at = guarded.scratch();
            guarded.call("rt_sigaction", nr, &[signal as u64, 0, at, 8, 0, 0])?;
            let mut action = [0; BYTES];
            memory::read(pid, at, &mut action).named("read a signal's action", pid)?;
            actions.push((signal, action));
        }
        Ok(Self(actions))
    }

    /// Gives a process, which may have others, these handlers.
    ///
    /// # Errors
    /// When it refuses.
    pub fn give(&self, child: &mut Stopped, plain: Plain<'_>) -> Result<()> {
        let pid = child.tid();
        let has = special(pid);
        let nr = mvedsua_common::table::number("rt_sigaction");
        let at = super::scratch(child)?;
        for signal in (1..=LAST).filter(|s| *s != libc::SIGKILL && *s != libc::SIGSTOP) {
            let wanted = self.0.iter().find(|(which, _)| *which == signal);
            let action = match wanted {
                Some((_, action)) => *action,
                None if has & bit(signal) != 0 => [0; BYTES],
                None => continue,
            };
            memory::write(pid, at, &action).named("write a follower's stack", pid)?;
            plain.call_ok(child, "rt_sigaction", nr, &[signal as u64, at, 0, 8, 0, 0])?;
        }
        Ok(())
    }
}
