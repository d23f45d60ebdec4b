//! What wakes an engine thread: one `eventfd` each, written by requests and on every `SIGCHLD`.
//!
//! ptrace reports come with `SIGCHLD` to the agent as a whole, and signals merge, so every engine is
//! woken and asks `waitpid` about its own tracees.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Once};

use super::{Result, check};

const SLOTS: usize = 256;
static WAKEUPS: [AtomicI32; SLOTS] = [const { AtomicI32::new(-1) }; SLOTS];

extern "C" fn on_sigchld(_signal: libc::c_int) {
    // Only async-signal-safe calls: write(2) on non-blocking eventfds; errno is put back.
    // SAFETY: errno's location is valid for the thread that runs the handler.
    let errno = unsafe { *libc::__errno_location() };
    for slot in &WAKEUPS {
        let fd = slot.load(Ordering::Acquire);
        if fd >= 0 {
            write_one(fd);
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn write_one(fd: RawFd) {
    let one: u64 = 1;
    // SAFETY: writes 8 bytes from a local; the result is of no interest (EAGAIN means "already awake").
    let _ = unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

/// An engine's alarm clock. Clones wake the same engine.
#[derive(Clone, Debug)]
pub struct Wakeup(Arc<Slot>);

#[derive(Debug)]
struct Slot {
    fd: OwnedFd,
    index: usize,
}

impl Wakeup {
    /// Makes one and registers it for `SIGCHLD`.
    ///
    /// # Errors
    /// `EMFILE`, also when more than 256 engines run.
    pub fn new() -> Result<Self> {
        static HANDLER: Once = Once::new();
        // SAFETY: no pointers; the result is a new descriptor that nobody else owns.
        let fd = check(i64::from(unsafe {
            libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
        }))?;
        // SAFETY: as above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let raw = fd.as_raw_fd();
        let index = WAKEUPS
            .iter()
            .position(|slot| {
                slot.compare_exchange(-1, raw, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            })
            .ok_or_else(|| std::io::Error::from_raw_os_error(libc::EMFILE))?;
        HANDLER.call_once(|| {
            // SAFETY: the handler only makes async-signal-safe calls; the structure is zeroed
            // before its fields are set.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_sigchld as extern "C" fn(libc::c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
            }
        });
        Ok(Self(Arc::new(Slot { fd, index })))
    }

    /// Wakes the engine.
    pub fn wake(&self) {
        write_one(self.0.fd.as_raw_fd());
    }

    /// Forgets the wake-ups so far.
    pub fn clear(&self) {
        let mut count: u64 = 0;
        // SAFETY: reads 8 bytes into a local; EAGAIN means "nothing to forget".
        let _ = unsafe { libc::read(self.0.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        WAKEUPS[self.index].store(-1, Ordering::Release);
    }
}
