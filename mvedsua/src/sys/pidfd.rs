//! `pidfd_open(2)`, `pidfd_getfd(2)` (Linux 5.6) and signals to one thread.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{Result, check};

/// A descriptor that names process `pid` until it is reaped.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers; the result is a new descriptor that nobody else owns.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A duplicate, close-on-exec, of descriptor `fd` of another process.
///
/// # Errors
/// `EBADF` when it has no such descriptor, `EPERM` without ptrace access to it, `ESRCH` when it is gone.
pub fn duplicate(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers; the result is a new descriptor that nobody else owns.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// True if two processes have the same memory, as a child of `vfork` and its maker have until it executes a program
/// (`kcmp(2)`, Linux 3.5).
#[must_use]
pub fn share_memory(one: i32, other: i32) -> bool {
    const KCMP_VM: i32 = 1;
    // SAFETY: plain integers.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}

/// Queues `signal` for one thread with a `siginfo_t` whose `si_code` must be negative
/// (`rt_tgsigqueueinfo(2)`).
///
/// # Errors
/// `ESRCH` when it is gone, `EAGAIN` when too many signals are queued.
pub fn queue_signal(tgid: i32, tid: i32, signal: i32, info: &libc::siginfo_t) -> Result<()> {
    // SAFETY: `info` outlives the call and is only read.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            tgid,
            tid,
            signal,
            std::ptr::from_ref(info),
        )
    })
    .map(drop)
}

/// `tgkill(2)`.
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn kill_thread(tgid: i32, tid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, signal) }).map(drop)
}

/// Sends a signal to the process that a pidfd names (`pidfd_send_signal(2)`, Linux 5.1).
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
    // SAFETY: a null `info` stands for what kill(2) sends.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            flags,
        )
    })
    .map(drop)
}

/// Kills a whole process with `SIGKILL`.
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn kill(pid: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe {
        libc::kill(pid, libc::SIGKILL)
    }))
    .map(drop)
}
