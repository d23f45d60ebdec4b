//! Seccomp user notification (`seccomp_unotify(2)`), the listener's side.
//!
//! Linux 5.19 for `WAIT_KILLABLE_RECV`, 6.6 for `SYNC_WAKE_UP` (used when there).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{Result, check};

/// `SECCOMP_SET_MODE_FILTER`.
pub const SET_MODE_FILTER: u64 = 1;
/// Flags with which a follower's filter is installed: all threads at once, failing as a whole;
/// once a notification was received only a fatal signal interrupts the wait.
pub const FILTER_FLAGS: u64 =
    FLAG_TSYNC | FLAG_NEW_LISTENER | FLAG_TSYNC_ESRCH | FLAG_WAIT_KILLABLE_RECV;
const FLAG_TSYNC: u64 = 1 << 0;
const FLAG_NEW_LISTENER: u64 = 1 << 3;
const FLAG_TSYNC_ESRCH: u64 = 1 << 4;
const FLAG_WAIT_KILLABLE_RECV: u64 = 1 << 5;
/// `SECCOMP_RET_USER_NOTIF`.
pub const RET_USER_NOTIF: u32 = 0x7fc0_0000;

const USER_NOTIF_FLAG_CONTINUE: u32 = 1;
const USER_NOTIF_FD_SYNC_WAKE_UP: u64 = 1;
const ADDFD_FLAG_SETFD: u32 = 1;

const IOCTL_RECV: u64 = iowr(0, size_of::<Notification>());
const IOCTL_SEND: u64 = iowr(1, size_of::<Response>());
const IOCTL_ADDFD: u64 = iow(3, size_of::<AddFd>());
const IOCTL_SET_FLAGS: u64 = iow(4, size_of::<u64>());

const fn iowr(nr: u64, size: usize) -> u64 {
    (3 << 30) | ((size as u64) << 16) | (0x21 << 8) | nr
}

const fn iow(nr: u64, size: usize) -> u64 {
    (1 << 30) | ((size as u64) << 16) | (0x21 << 8) | nr
}

/// `struct seccomp_notif`: a thread waits in a filtered call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Notification {
    /// Cookie of this notification.
    pub id: u64,
    /// The thread, in the listener's pid namespace.
    pub tid: u32,
    /// Always zero.
    pub flags: u32,
    /// System call number.
    pub nr: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Address after the `syscall` instruction.
    pub instruction_pointer: u64,
    /// The six argument registers.
    pub args: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

/// The listener of a filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes over a listener descriptor and asks for same-CPU wake-ups where the kernel has them:
    /// a notify round trip costs 4.7 us on one CPU and 58 us across two.
    ///
    /// # Errors
    /// Any error of setting `O_NONBLOCK`.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        // SAFETY: an ioctl on our own descriptor with a plain integer argument.
        let _ = unsafe { libc::ioctl(fd.as_raw_fd(), IOCTL_SET_FLAGS, USER_NOTIF_FD_SYNC_WAKE_UP) };
        Ok(Self(fd))
    }

    /// Next notification. Blocks when there is none: poll the descriptor first.
    ///
    /// # Errors
    /// `ENOENT` when the thread went away meanwhile, `EINTR`.
    pub fn receive(&self) -> Result<Notification> {
        let mut notification = Notification::default();
        // SAFETY: the kernel wants a zeroed structure of its own size (SECCOMP_GET_NOTIF_SIZES is
        // checked by `doctor`) and fills it in.
        check(i64::from(unsafe {
            libc::ioctl(self.0.as_raw_fd(), IOCTL_RECV, &raw mut notification)
        }))?;
        Ok(notification)
    }

    /// Answers with a result: what the call returns in the thread (`-errno` for an error, and the
    /// kernel's own `-ERESTART*` codes when a signal is pending for it).
    ///
    /// # Errors
    /// `ENOENT` when that thread is gone.
    pub fn respond(&self, id: u64, result: i64) -> Result<()> {
        let (val, error) = if (-4095..0).contains(&result) {
            (0, result as i32)
        } else {
            (result, 0)
        };
        self.send(&Response {
            id,
            val,
            error,
            flags: 0,
        })
    }

    /// Lets the thread make the call itself.
    ///
    /// # Errors
    /// `ENOENT` when that thread is gone.
    pub fn let_run(&self, id: u64) -> Result<()> {
        self.send(&Response {
            id,
            val: 0,
            error: 0,
            flags: USER_NOTIF_FLAG_CONTINUE,
        })
    }

    fn send(&self, response: &Response) -> Result<()> {
        // SAFETY: `response` outlives the call and is only read.
        check(i64::from(unsafe {
            libc::ioctl(self.0.as_raw_fd(), IOCTL_SEND, std::ptr::from_ref(response))
        }))
        .map(drop)
    }

    /// Installs a duplicate of `fd` as descriptor `number` in the process of the waiting thread.
    ///
    /// # Errors
    /// `ENOENT` when that thread is gone, `EBADF` when `number` is over its limit.
    pub fn install_fd(
        &self,
        id: u64,
        fd: BorrowedFd<'_>,
        number: i32,
        cloexec: bool,
    ) -> Result<()> {
        let add = AddFd {
            id,
            flags: ADDFD_FLAG_SETFD,
            srcfd: fd.as_raw_fd() as u32,
            newfd: number as u32,
            newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        loop {
            // SAFETY: `add` outlives the call and is only read.
            let done = check(i64::from(unsafe {
                libc::ioctl(self.0.as_raw_fd(), IOCTL_ADDFD, &raw const add)
            }));
            match done {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
