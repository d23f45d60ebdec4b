//! Pid namespaces (`pid_namespaces(7)`): entering one, making one, processes with chosen ids.
//!
//! Linux 5.5 for chosen ids (`clone3` with `set_tid`), 5.8 for [`enter`] with a pidfd.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;

use super::{Result, check};

/// `CLONE_ARGS_SIZE_VER1`: up to `set_tid_size` (Linux 5.5).
pub const CLONE_ARGS_BYTES: usize = 80;
/// `NS_GET_PARENT` (`linux/nsfs.h`, Linux 4.9).
const NS_GET_PARENT: u64 = (0xb7 << 8) | 2;

/// `struct clone_args` for `clone3(2)`: a process like that of fork(2) with these `CLONE_NEW*` flags and
/// this signal at its end (0: none). Its ids are the `count` 32-bit words at `ids`, the innermost pid
/// namespace first; with `count` 0 the kernel chooses.
#[must_use]
pub fn clone_args(flags: u64, exit_signal: i32, ids: u64, count: usize) -> [u8; CLONE_ARGS_BYTES] {
    let words = [
        flags,
        0, // pidfd
        0, // child_tid
        0, // parent_tid
        exit_signal as u64,
        0, // stack
        0, // stack_size
        0, // tls
        ids,
        count as u64,
    ];
    let mut bytes = [0; CLONE_ARGS_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Lets the children that this process makes from now on live in a pid namespace; it stays where it is.
/// `of` is a pidfd of a process there, or a descriptor of the namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` when the namespace is not below the caller's own, `ESRCH`
/// when the process is gone.
pub fn enter(of: BorrowedFd<'_>) -> Result<()> {
    Ok(nix::sched::setns(of, CloneFlags::CLONE_NEWPID)?)
}

/// The namespace in which the pid namespace `of` was made.
///
/// # Errors
/// `EPERM` when it is none of the caller's own or below.
pub fn parent(of: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: no pointers; the result is a new descriptor that nobody else owns.
    let fd = check(i64::from(unsafe {
        libc::ioctl(of.as_raw_fd(), NS_GET_PARENT)
    }))?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Which of the two processes is running after a [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The one that called; the other's id.
    Parent(i32),
    /// The new one.
    Child,
}

/// Forks this process, which must have one thread. With `namespace` the child is the first process of a
/// new pid namespace; it has the `ids` then, the innermost namespace first (empty: the kernel chooses).
///
/// # Errors
/// `ENOSPC` when 32 namespaces are nested already or there are too many, `EPERM` without privilege,
/// `EEXIST` when an id is taken.
pub fn fork(namespace: bool, ids: &[i32]) -> Result<Forked> {
    // Another thread's locks would be held for ever in the child.
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "only a process with one thread may fork");
    let flags = if namespace { libc::CLONE_NEWPID } else { 0 };
    // An address without a number is refused.
    let at = if ids.is_empty() {
        0
    } else {
        ids.as_ptr() as u64
    };
    let args = clone_args(flags as u64, libc::SIGCHLD, at, ids.len());
    // SAFETY: `args` and `ids` outlive the call. Without CLONE_VM the child has a copy of everything, at the
    // same addresses, and this process has no thread whose locks could be missing there.
    let child = check(unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), args.len()) })?;
    Ok(match child {
        0 => Forked::Child,
        child => Forked::Parent(child as i32),
    })
}

/// The word that says which id the next process of the caller's own pid namespace gets
/// (`/proc/sys/kernel/ns_last_pid`, `CONFIG_CHECKPOINT_RESTORE`).
#[derive(Debug)]
pub struct LastId(File);

impl LastId {
    /// Opens it. The namespace is that of whoever reads or writes later.
    ///
    /// # Errors
    /// `ENOENT` when the kernel has none.
    pub fn open() -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true);
        Ok(Self(options.open("/proc/sys/kernel/ns_last_pid")?))
    }

    /// The next process or thread that is made in this namespace gets the id `next`, unless that is taken.
    ///
    /// # Errors
    /// `EPERM` without `CAP_CHECKPOINT_RESTORE`, `EINVAL` for an id that cannot be.
    pub fn set_next(&mut self, next: i32) -> Result<()> {
        self.0.rewind()?;
        self.0.write_all((next - 1).to_string().as_bytes())?;
        // The kernel may have had another opinion.
        let mut text = String::new();
        self.0.rewind()?;
        self.0.read_to_string(&mut text)?;
        if text.trim().parse() == Ok(next - 1) {
            Ok(())
        } else {
            Err(std::io::Error::other(format!(
                "ns_last_pid is {} after {} was written",
                text.trim(),
                next - 1
            )))
        }
    }
}

/// Gives all capabilities of this process away, and makes it one that its user may look at. It has
/// `uid` and `gid` afterwards.
///
/// # Errors
/// `EPERM` when it may not be another user.
pub fn become_powerless(uid: u32, gid: u32) -> Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    if gid != nix::unistd::getgid().as_raw() {
        let gid = Gid::from_raw(gid);
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
    }
    if uid != nix::unistd::getuid().as_raw() {
        let uid = Uid::from_raw(uid);
        setresuid(uid, uid, uid)?;
    }
    let header: [u32; 2] = [VERSION, 0];
    let none = [0u32; 6];
    // SAFETY: version 3 reads a header of two words and two structures of three words each; both locals
    // outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })?;
    // SAFETY: no pointers.
    check(i64::from(unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0)
    }))
    .map(drop)
}

/// Lets the kernel reap the children of this process, those that it inherits, too.
///
/// # Errors
/// None that is known.
pub fn let_children_be_reaped() -> Result<()> {
    // SAFETY: "ignore" is no handler that could run.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Closes every descriptor of this process from 3 on: what a careless starter of the agent left open.
///
/// # Errors
/// None that is known.
pub fn close_all_others() -> Result<()> {
    // SAFETY: no pointers; called in a process that owns no such descriptor by a Rust value that lives on.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }).map(drop)
}

/// Blocks until this process has no child of any kind (reaping those that end).
pub fn wait_for_all_children() {
    loop {
        // SAFETY: a null status is allowed.
        let got = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) };
        if got < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD) {
            return;
        }
    }
}

/// Opens the pid namespace of process `pid`; a descriptor for [`enter`] and [`parent`].
///
/// # Errors
/// `ENOENT` when it is gone, `EACCES` without ptrace access.
pub fn of(pid: i32) -> Result<File> {
    File::open(format!("/proc/{pid}/ns/pid"))
}

/// What tells a namespace from all others: the number of its file.
///
/// # Errors
/// As for a closed descriptor.
pub fn number(namespace: impl AsFd) -> Result<u64> {
    Ok(nix::sys::stat::fstat(namespace)?.st_ino)
}
