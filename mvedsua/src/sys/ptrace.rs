//! `ptrace(2)`: the requests that the engine makes, on threads seized with `PTRACE_SEIZE`.
//!
//! Linux 5.19 or newer. All functions take the thread id of a tracee of the *calling* thread;
//! anything else fails with `ESRCH`.

use std::mem::{MaybeUninit, size_of};
use std::os::raw::c_void;
use std::time::{Duration, Instant};

use nix::poll::ppoll;
use nix::sys::time::TimeSpec;

use super::{Result, check};

pub use libc::user_regs_struct as Registers;

/// Report new threads and processes, exec and exit as ptrace events.
pub const O_TRACECLONE: u32 = libc::PTRACE_O_TRACECLONE as u32;
/// Report `fork` as an event and seize the child.
pub const O_TRACEFORK: u32 = libc::PTRACE_O_TRACEFORK as u32;
/// Report `vfork` as an event and seize the child.
pub const O_TRACEVFORK: u32 = libc::PTRACE_O_TRACEVFORK as u32;
/// Report `execve` as an event.
pub const O_TRACEEXEC: u32 = libc::PTRACE_O_TRACEEXEC as u32;
/// Stop at exit, while memory and files are still there.
pub const O_TRACEEXIT: u32 = libc::PTRACE_O_TRACEEXIT as u32;
/// Mark system call stops with bit 7 of the signal.
pub const O_TRACESYSGOOD: u32 = libc::PTRACE_O_TRACESYSGOOD as u32;
/// Kill the tracee when its tracer goes away: for followers only, never for a leader.
pub const O_EXITKILL: u32 = libc::PTRACE_O_EXITKILL as u32;
/// Suspend the tracee's seccomp filters while it is traced (needs `CAP_SYS_ADMIN`,
/// `CONFIG_CHECKPOINT_RESTORE`, and a tracer without a filter of its own; Linux 4.3).
pub const O_SUSPEND_SECCOMP: u32 = 1 << 21;

const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;
const PTRACE_PEEKSIGINFO: u32 = 0x4209;
const PTRACE_GETSIGMASK: u32 = 0x420a;
const PTRACE_SETSIGMASK: u32 = 0x420b;
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;

/// `struct ptrace_rseq_configuration` (Linux 5.13).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of the thread's `struct rseq`; 0 when none is registered.
    pub abi_pointer: u64,
    /// Its size in bytes.
    pub abi_size: u32,
    /// The signature that was registered with it.
    pub signature: u32,
    /// Registration flags.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

/// What `waitpid` said about a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The thread is gone: exit status.
    Exited(i32),
    /// The thread is gone: fatal signal.
    Killed(i32),
    /// Signal-delivery stop: this signal is about to be delivered.
    Signal(i32),
    /// A system call entry or exit (`PTRACE_SYSCALL`).
    Syscall,
    /// A `PTRACE_EVENT_*` stop other than `PTRACE_EVENT_STOP`.
    Event(i32),
    /// `PTRACE_EVENT_STOP`: an interrupt was served, or a new tracee stopped at its birth.
    Interrupted,
    /// `PTRACE_EVENT_STOP` with a stopping signal: the process is in a group stop.
    GroupStop(i32),
}

fn request(request: u32, tid: i32, addr: usize, data: *mut c_void) -> Result<i64> {
    super::mortal::step();
    // SAFETY: every caller in this file passes an `addr`/`data` pair that the request's contract in
    // ptrace(2) asks for, with buffers that live across the call; a wrong tid only yields ESRCH.
    check(unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            u64::from(request),
            i64::from(tid),
            addr,
            data,
        )
    })
}

fn plain(what: libc::c_uint, tid: i32, data: usize) -> Result<()> {
    request(what, tid, 0, data as *mut c_void).map(drop)
}

/// `PTRACE_INTERRUPT`: the thread will stop with [`Wait::Interrupted`].
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn interrupt(tid: i32) -> Result<()> {
    plain(libc::PTRACE_INTERRUPT, tid, 0)
}

/// `PTRACE_CONT`, delivering `signal` (0: none).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn resume(tid: i32, signal: i32) -> Result<()> {
    plain(libc::PTRACE_CONT, tid, signal as usize)
}

/// `PTRACE_SYSCALL`: runs to the next system call entry or exit.
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn resume_to_syscall(tid: i32) -> Result<()> {
    plain(libc::PTRACE_SYSCALL, tid, 0)
}

/// `PTRACE_SINGLESTEP` out of a signal-delivery stop, delivering `signal`: if it has a handler, the
/// thread stops at the handler's first instruction, its frame set up.
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn step_into_handler(tid: i32, signal: i32) -> Result<()> {
    plain(libc::PTRACE_SINGLESTEP, tid, signal as usize)
}

/// `PTRACE_LISTEN`: leaves the thread in its group stop, still reporting events.
///
/// # Errors
/// `ESRCH` when it is gone, `EIO` when it is not in a group stop.
pub fn listen(tid: i32) -> Result<()> {
    plain(libc::PTRACE_LISTEN, tid, 0)
}

/// `PTRACE_DETACH`, delivering `signal` (0: none): the thread runs on, untraced.
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn detach(tid: i32, signal: i32) -> Result<()> {
    plain(libc::PTRACE_DETACH, tid, signal as usize)
}

/// `PTRACE_SETOPTIONS`.
///
/// # Errors
/// `ESRCH` when it is gone or not stopped, `EPERM` for `O_SUSPEND_SECCOMP` without the privilege.
pub fn set_options(tid: i32, options: u32) -> Result<()> {
    plain(libc::PTRACE_SETOPTIONS, tid, options as usize)
}

/// `PTRACE_GETEVENTMSG`: the new thread's id, or the exit status, of the event just reported.
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn event_message(tid: i32) -> Result<u64> {
    let mut message: u64 = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).cast())?;
    Ok(message)
}

/// Registers for tests to fill in.
#[cfg(test)]
pub(crate) fn zeroed_registers() -> Registers {
    // SAFETY: plain integers, for which all-zero is a value.
    unsafe { std::mem::zeroed() }
}

/// General registers (`PTRACE_GETREGSET`, `NT_PRSTATUS`).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn registers(tid: i32) -> Result<Registers> {
    let mut regs = MaybeUninit::<Registers>::zeroed();
    let mut iov = libc::iovec {
        iov_base: regs.as_mut_ptr().cast(),
        iov_len: size_of::<Registers>(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        NT_PRSTATUS,
        (&raw mut iov).cast(),
    )?;
    // SAFETY: plain integers, zeroed at first and then filled by the kernel.
    Ok(unsafe { regs.assume_init() })
}

/// Sets the general registers (`PTRACE_SETREGSET`, `NT_PRSTATUS`).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn set_registers(tid: i32, regs: &Registers) -> Result<()> {
    let mut copy = *regs;
    let mut iov = libc::iovec {
        iov_base: (&raw mut copy).cast(),
        iov_len: size_of::<Registers>(),
    };
    request(
        libc::PTRACE_SETREGSET,
        tid,
        NT_PRSTATUS,
        (&raw mut iov).cast(),
    )
    .map(drop)
}

/// The extended state (x87, SSE, AVX ...) in the standard XSAVE format (`NT_X86_XSTATE`).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn extended_state(tid: i32) -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; 16 * 1024];
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw mut iov).cast(),
    )?;
    buffer.truncate(iov.iov_len);
    Ok(buffer)
}

/// Sets the extended state that [`extended_state`] returned.
///
/// # Errors
/// `ESRCH` when it is gone or not stopped, `EINVAL` for a malformed state.
pub fn set_extended_state(tid: i32, state: &[u8]) -> Result<()> {
    let mut iov = libc::iovec {
        iov_base: state.as_ptr().cast_mut().cast(),
        iov_len: state.len(),
    };
    request(
        libc::PTRACE_SETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw mut iov).cast(),
    )
    .map(drop)
}

/// The blocked signals, bit n-1 for signal n (`PTRACE_GETSIGMASK`).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn signal_mask(tid: i32) -> Result<u64> {
    let mut mask: u64 = 0;
    request(
        PTRACE_GETSIGMASK,
        tid,
        size_of::<u64>(),
        (&raw mut mask).cast(),
    )?;
    Ok(mask)
}

/// Sets the blocked signals (`PTRACE_SETSIGMASK`).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn set_signal_mask(tid: i32, mask: u64) -> Result<()> {
    let mut mask = mask;
    request(
        PTRACE_SETSIGMASK,
        tid,
        size_of::<u64>(),
        (&raw mut mask).cast(),
    )
    .map(drop)
}

/// The thread's restartable-sequences registration (Linux 5.13).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn rseq_configuration(tid: i32) -> Result<RseqConfiguration> {
    let mut rseq = RseqConfiguration::default();
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<RseqConfiguration>(),
        (&raw mut rseq).cast(),
    )?;
    Ok(rseq)
}

/// The signals that wait for a stopped thread, or with `shared` for its process, as the kernel's `siginfo_t`,
/// the first to come first (`PTRACE_PEEKSIGINFO`, Linux 3.10).
///
/// # Errors
/// `ESRCH` when it is gone or not stopped.
pub fn pending_signals(tid: i32, shared: bool) -> Result<Vec<[u8; 128]>> {
    /// `struct ptrace_peeksiginfo_args`.
    #[repr(C)]
    struct Which {
        from: u64,
        flags: u32,
        count: i32,
    }
    let mut all = Vec::new();
    let mut info = [0u8; 128];
    loop {
        let which = Which {
            from: all.len() as u64,
            flags: u32::from(shared),
            count: 1,
        };
        let address = std::ptr::from_ref(&which) as usize;
        if request(PTRACE_PEEKSIGINFO, tid, address, info.as_mut_ptr().cast())? == 0 {
            return Ok(all);
        }
        all.push(info);
    }
}

/// The `siginfo_t` of the signal about to be delivered.
///
/// # Errors
/// `EINVAL` when this is not a signal-delivery stop.
pub fn signal_info(tid: i32) -> Result<libc::siginfo_t> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr().cast())?;
    // SAFETY: a plain C union of integers, zeroed at first and then filled by the kernel.
    Ok(unsafe { info.assume_init() })
}

/// It stands in the stop at its exit, whether that was waited for or not.
#[must_use]
pub fn is_at_exit(tid: i32) -> bool {
    // The stop of an event has a code of its own, above the signal.
    signal_info(tid).is_ok_and(|info| info.si_code >> 8 == libc::PTRACE_EVENT_EXIT)
}

/// A `siginfo_t` as it lies in memory.
#[must_use]
pub fn signal_bytes(info: &libc::siginfo_t) -> [u8; 128] {
    const { assert!(size_of::<libc::siginfo_t>() == 128) };
    let mut bytes = [0u8; 128];
    // SAFETY: both are 128 bytes; every siginfo_t here was zeroed before the kernel filled it in, so
    // that all its bytes have a value.
    unsafe {
        std::ptr::copy_nonoverlapping(std::ptr::from_ref(info).cast(), bytes.as_mut_ptr(), 128);
    }
    bytes
}

/// The address that a fault is about. Of a signal that is no fault: some number.
#[must_use]
pub fn fault_address(info: &libc::siginfo_t) -> u64 {
    // SAFETY: every member of the union is made of integers, so that any bytes are a value; the
    // kernel fills in the whole structure.
    (unsafe { info.si_addr() }) as u64
}

/// Replaces the `siginfo_t` of the signal about to be delivered.
///
/// # Errors
/// `EINVAL` when this is not a signal-delivery stop.
pub fn set_signal_info(tid: i32, info: &libc::siginfo_t) -> Result<()> {
    request(
        libc::PTRACE_SETSIGINFO,
        tid,
        0,
        std::ptr::from_ref(info).cast_mut().cast(),
    )
    .map(drop)
}

/// Next report of a tracee of the calling thread. With `block` it is waited for. `None`: there is none, or without
/// `block` none yet.
///
/// A main thread that has ended before the others of its process is reported with the last of them only, which may
/// stand in a stop of ours: that is `None`, too. (Killed in a stop, it comes to the stop at its exit by itself, and a
/// resume that was meant for the stop before lets it out of that unseen.) So the kernel is not asked to wait: it would
/// for ever.
///
/// # Errors
/// `EINVAL` only for a wrong call.
pub fn wait(tid: i32, block: bool) -> Result<Option<(i32, Wait)>> {
    if block {
        return until_reported(tid, || take_report(tid));
    }
    Ok(take_report(tid)?.some())
}

/// As [`wait`] with `block`, but a stop for a signal is only [looked at](look_at).
///
/// # Errors
/// As there.
pub fn look_until(tid: i32) -> Result<Option<Wait>> {
    let report = until_reported(tid, || look_for(libc::P_PID, tid as libc::id_t))?;
    Ok(report.map(|(_, wait)| wait))
}

fn until_reported(tid: i32, report: impl Fn() -> Result<Report>) -> Result<Option<(i32, Wait)>> {
    let mut start = None;
    loop {
        match report()? {
            Report::None => {}
            there => return Ok(there.some()),
        }
        let start = start.get_or_insert_with(Instant::now);
        if start.elapsed() < QUICK {
            // Most reports come within microseconds, and the server stands still meanwhile.
            std::thread::yield_now();
        } else if is_zombie(tid) {
            // It may have become one a moment ago, with its report.
            return Ok(report()?.some());
        } else {
            // No descriptor tells of a ptrace report to this thread alone.
            let _ = ppoll(&mut [], Some(TimeSpec::from_duration(NAP)), None);
        }
    }
}

/// How long a report is looked for without a rest.
const QUICK: Duration = Duration::from_micros(200);
/// How long it is rested between two looks then.
const NAP: Duration = Duration::from_micros(50);

enum Report {
    Of(i32, Wait),
    None,
    NoTracee,
}

impl Report {
    fn some(self) -> Option<(i32, Wait)> {
        match self {
            Self::Of(tid, wait) => Some((tid, wait)),
            Self::None | Self::NoTracee => None,
        }
    }
}

fn take_report(tid: i32) -> Result<Report> {
    let mut status = 0;
    let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    loop {
        // SAFETY: `status` outlives the call.
        let got = unsafe { libc::waitpid(tid, &raw mut status, flags) };
        if got == 0 {
            return Ok(Report::None);
        }
        if got < 0 {
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::ECHILD) => return Ok(Report::NoTracee),
                _ => return Err(error),
            }
        }
        return Ok(Report::Of(got, decode(status)));
    }
}

/// The thread has ended and is still there. (A thread is found under its own id, too.)
fn is_zombie(tid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{tid}/stat")).is_ok_and(|stat| {
        let behind_the_name = stat.rsplit(") ").next();
        behind_the_name.is_some_and(|rest| rest.starts_with(['Z', 'X']))
    })
}

/// As [`wait`] for any tracee, without blocking, but a stop for a signal is only looked at: the kernel forgets the
/// signal when such a stop is waited for, so that a tracer that is killed before it has resumed the thread takes
/// the signal with it (tried; Linux 6.18, `wait_task_stopped`). Looked at alone it is delivered then.
///
/// The same stop is reported again until the thread is resumed, or it is [`keep`]t.
///
/// # Errors
/// `EINVAL` only for a wrong call.
pub fn look() -> Result<Option<(i32, Wait)>> {
    Ok(look_for(libc::P_ALL, 0)?.some())
}

/// As [`look`] for one tracee.
///
/// # Errors
/// As there.
pub fn look_at(tid: i32) -> Result<Option<Wait>> {
    let report = look_for(libc::P_PID, tid as libc::id_t)?.some();
    Ok(report.map(|(_, wait)| wait))
}

/// Whatever a tracee of the calling thread has to report, without taking it.
const LOOK: libc::c_int = libc::WEXITED
    | libc::WSTOPPED
    | libc::WNOHANG
    | libc::WNOWAIT
    | libc::__WALL
    | libc::__WNOTHREAD;

fn look_for(which: libc::idtype_t, id: libc::id_t) -> Result<Report> {
    loop {
        // SAFETY: all zeroes is a valid `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` outlives the call.
        if unsafe { libc::waitid(which, id, &raw mut info, LOOK) } < 0 {
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::ECHILD) => return Ok(Report::NoTracee),
                _ => return Err(error),
            }
        }
        // SAFETY: the kernel has filled in the fields of a child's `siginfo_t`, or left zeroes.
        let (tid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if tid == 0 {
            return Ok(Report::None);
        }
        let stop = info.si_code == libc::CLD_TRAPPED || info.si_code == libc::CLD_STOPPED;
        // The status of a stop is what `waitpid` shifts by eight: a signal, and an event above it.
        if stop && let wait @ Wait::Signal(_) = decode(status << 8 | 0x7f) {
            return Ok(Report::Of(tid, wait));
        }
        // It may have been killed in between: then that is what it reports.
        if let report @ Report::Of(..) = take_report(tid)? {
            return Ok(report);
        }
    }
}

/// A tracee that was left in a stop stands in it still. (Killed there it goes to the stop at its exit by itself, which
/// it has yet to report.)
#[must_use]
pub fn still_stands(tid: i32) -> bool {
    // SAFETY: all zeroes is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // In this order: what it reports it does once it stands again.
    let stands = registers(tid).is_ok();
    // SAFETY: `info` outlives the call.
    let waited = unsafe { libc::waitid(libc::P_PID, tid as u32, &raw mut info, LOOK) };
    // SAFETY: the kernel has filled in the fields of a child's `siginfo_t`, or left zeroes.
    stands && waited == 0 && unsafe { info.si_pid() } == 0
}

/// A stop that was only [looked at](look) is not to be reported again: the thread stays in it.
pub fn keep(tid: i32) {
    let options = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG | libc::WSTOPPED;
    // SAFETY: all zeroes is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // What fails concerns a thread that is gone, which is reported as such.
    // SAFETY: `info` outlives the call. Without `WEXITED` the end of a thread is left to be reported.
    let _ = unsafe { libc::waitid(libc::P_PID, tid as u32, &raw mut info, options) };
}

fn decode(status: i32) -> Wait {
    if libc::WIFEXITED(status) {
        return Wait::Exited(libc::WEXITSTATUS(status));
    }
    if libc::WIFSIGNALED(status) {
        return Wait::Killed(libc::WTERMSIG(status));
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Wait::Syscall,
        0 => Wait::Signal(signal),
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Wait::Interrupted,
        libc::PTRACE_EVENT_STOP => Wait::GroupStop(signal),
        event => Wait::Event(event),
    }
}
