//! `PTRACE_SEIZE` with an end.
//!
//! The kernel lets nobody seize a thread while another of its process is in `execve` (`cred_guard_mutex`): the request waits.
//! That `execve` waits in turn until all other threads have ended, which those that are seized already do only when their
//! tracer, who waits, lets them: both for ever (seen, Linux 6.18). A signal does not end the wait either, since the kernel
//! makes the request again behind its handler (`-ERESTARTNOINTR`). So the handler steps over it.

use std::arch::global_asm;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::time::Duration;

use super::Result;

/// How long a [`Limited`] request may wait. Without an `execve` it takes microseconds.
pub const LIMIT: Duration = Duration::from_millis(10);

// ptrace(request, tid, address, data), from a `syscall` instruction whose place is known.
global_asm!(
    ".pushsection .text",
    ".balign 16",
    "mvedsua_seize:",
    "mov eax, {number}",
    "mov r10, rcx",
    "mvedsua_seize_call:",
    "syscall",
    "ret",
    ".popsection",
    number = const libc::SYS_ptrace,
);

unsafe extern "C" {
    fn mvedsua_seize(request: u64, tid: i64, address: usize, data: usize) -> i64;
    fn mvedsua_seize_call();
}

/// Length of a `syscall` instruction.
const SYSCALL: i64 = 2;

/// The thread is about to make the request, again or for the first time: it has failed with `EINTR` instead.
extern "C" fn step_over(
    _signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel hands over this thread's context, which nobody else has.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let call = mvedsua_seize_call as *const () as i64;
    if registers[libc::REG_RIP as usize] == call {
        registers[libc::REG_RIP as usize] = call + SYSCALL;
        registers[libc::REG_RAX as usize] = -i64::from(libc::EINTR);
    }
}

/// The signal; nobody else uses it.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 7
}

/// As long as it lives, a request of [`seize`] of this thread fails with `EINTR` when it waits for long, and sometimes
/// without that.
#[derive(Debug)]
pub struct Limited(Option<libc::timer_t>);

impl Limited {
    /// Without a timer, of which there is a limit, requests wait.
    #[must_use]
    pub fn new() -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: all zeroes is a valid `sigaction`; the handler touches its own thread's context alone.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = step_over as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
                libc::sigaction(signal(), &raw const action, std::ptr::null_mut());
            }
        });
        // SAFETY: all zeroes is a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        let mut timer = MaybeUninit::uninit();
        // SAFETY: both live across the call.
        let made = unsafe {
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr())
        };
        if made != 0 {
            return Self(None);
        }
        // SAFETY: the call has filled it in.
        let timer = unsafe { timer.assume_init() };
        let every = libc::timespec {
            tv_sec: 0,
            tv_nsec: LIMIT.as_nanos() as i64,
        };
        // The signal may come a moment before the request waits: so there are more.
        let times = libc::itimerspec {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: the timer is ours, `times` lives across the call.
        let _ = unsafe { libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()) };
        Self(Some(timer))
    }
}

impl Default for Limited {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if let Some(timer) = self.0 {
            // SAFETY: the timer is ours and nobody uses it any more.
            let _ = unsafe { libc::timer_delete(timer) };
        }
    }
}

/// `PTRACE_SEIZE` with `O_*` options: the thread goes on running.
///
/// # Errors
/// `EPERM` when it has a tracer already or must not be traced, `ESRCH` when it is gone, `EINTR` if the time is
/// [`Limited`].
pub fn seize(tid: i32, options: u32) -> Result<()> {
    super::mortal::step();
    // SAFETY: the request takes no pointers; a wrong tid only yields ESRCH. The call follows the C calling convention: it
    // changes no register that a callee must keep.
    let result = unsafe {
        mvedsua_seize(
            u64::from(libc::PTRACE_SEIZE),
            i64::from(tid),
            0,
            options as usize,
        )
    };
    if result < 0 {
        return Err(std::io::Error::from_raw_os_error(-result as i32));
    }
    Ok(())
}
