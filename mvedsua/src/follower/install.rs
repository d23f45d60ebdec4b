//! Puts the filter into a stopped process and fetches its listener.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::filter;
use crate::sys::seccomp::{self, Listener};
use crate::sys::{memory, pidfd};
use crate::tracee::inject::Plain;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Stopped;
use crate::tracee::{Result, TraceeError, inspect};

/// `CAP_SYS_ADMIN`.
const CAP_SYS_ADMIN: u32 = 21;

/// The descriptor number at which a process keeps a duplicate of its own listener: the last one
/// that it can have. With it, filtered calls wait for a successor if the agent dies, instead of
/// failing with `ENOSYS`.
#[must_use]
pub fn parking_number(pid: i32) -> i32 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| {
            line.strip_prefix("Max open files")?
                .split_whitespace()
                .next()?
                .parse::<i64>()
                .ok()
        })
        .unwrap_or(1024);
    (soft.clamp(16, 1 << 20) - 1) as i32
}

/// What was installed.
#[derive(Debug)]
pub struct Installed {
    /// Where the calls arrive.
    pub listener: Arc<Listener>,
    /// `no_new_privs` had to be set, for life.
    pub no_new_privs: bool,
}

/// Closes every descriptor of the process (they are the leader's: a duplicate would keep a
/// connection open that the leader closes) and sees to it that its calls arrive at a listener. All
/// threads must be stopped, `thread` traced with `O_SUSPEND_SECCOMP`, which must stay until the end:
/// the close of the listener is itself a filtered call.
///
/// A process that has inherited our filter from a promoted leader is given with its `listener`: the
/// kernel allows one listener in a process's chain of filters.
///
/// # Errors
/// When the process refuses one of the calls.
pub fn install(
    thread: &mut Stopped,
    pid: i32,
    vdso: &Vdso,
    listener: Option<Arc<Listener>>,
) -> Result<Installed> {
    let plain = Plain { vdso };
    let nr = mvedsua_common::table::number;
    plain.call_ok(
        thread,
        "close_range",
        nr("close_range"),
        &[0, u64::from(u32::MAX), 0, 0, 0, 0],
    )?;
    if let Some(listener) = listener {
        return Ok(Installed {
            listener,
            no_new_privs: false,
        });
    }

    let capable = inspect::status_mask(pid, pid, "CapEff") & (1 << CAP_SYS_ADMIN) != 0;
    if !capable {
        let args = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0];
        plain.call_ok(thread, "prctl", nr("prctl"), &args)?;
    }

    let program = filter::program().map_err(|e| TraceeError::Unsuitable(e.to_string()))?;
    let mut bytes = Vec::with_capacity(16 + program.len() * 8);
    let regs = thread.registers()?;
    let at = (regs.rsp - 8192) & !63;
    // struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    bytes.extend_from_slice(&(program.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(at + 16).to_le_bytes());
    for i in &program {
        bytes.extend_from_slice(&i.code.to_le_bytes());
        bytes.extend_from_slice(&[i.jt, i.jf]);
        bytes.extend_from_slice(&i.k.to_le_bytes());
    }
    let kernel = |what: &'static str| {
        move |source| TraceeError::Kernel {
            what,
            tid: pid,
            source,
        }
    };
    memory::write(pid, at, &bytes).map_err(kernel("write the filter"))?;
    let args = [seccomp::SET_MODE_FILTER, seccomp::FILTER_FLAGS, at, 0, 0, 0];
    let fd = plain.call_ok(thread, "seccomp", nr("seccomp"), &args)?;

    let process = pidfd::open(pid).map_err(kernel("open a pidfd"))?;
    let listener =
        pidfd::duplicate(process.as_fd(), fd as i32).map_err(kernel("fetch the listener"))?;
    plain.call_ok(thread, "close", nr("close"), &[fd, 0, 0, 0, 0, 0])?;
    let listener = Listener::new(listener).map_err(kernel("set up the listener"))?;
    Ok(Installed {
        listener: Arc::new(listener),
        no_new_privs: !capable,
    })
}
