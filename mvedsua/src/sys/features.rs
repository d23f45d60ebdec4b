//! Real probes of the kernel features that Mvedsua stands on. A version number says what a kernel
//! could do; whether it does depends on its configuration, on security modules and on who asks.
//!
//! Each probe makes what it tests and takes it away again; where it needs another process, it
//! forks one that touches nothing.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// A forked child that is killed and reaped when this is dropped.
struct Child(Pid);

impl Child {
    /// Forks a child that waits to be killed. It dies with us.
    fn idle() -> io::Result<Self> {
        // SAFETY: the child makes async-signal-safe calls only, until it is killed.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => Ok(Self(child)),
            // SAFETY: prctl and pause are async-signal-safe and take no pointers here.
            ForkResult::Child => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            },
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only if the child is gone already.
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

/// Runs `probe` in a forked child, for what cannot be undone in a process. The child reports its
/// error number as exit status.
///
/// `probe` may make async-signal-safe calls only.
fn in_child(probe: fn() -> Result<(), Errno>) -> io::Result<()> {
    // SAFETY: see above; the child leaves with `_exit`, so nothing of ours runs twice.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let status = probe().err().map_or(0, |errno| errno as i32);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
            other => Err(io::Error::other(format!("the probe ended with {other:?}"))),
        },
    }
}

/// `bpf(2)` with its attributes as 64-bit words. Zeroed words are what an unused field must be.
fn bpf(command: libc::c_long, attributes: &mut [u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes outlive the call, and whatever they point to is the caller's, who
    // keeps it alive for as long.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    owned(fd)
}

/// The file descriptor that a call returned, or its error.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::other("no file descriptor"))?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_MAP_TYPE_RINGBUF: u64 = 27;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u64 = 17;

/// `r0 = 0`
const RETURN_ZERO: u64 = 0x0000_0000_0000_00b7;
/// `r1 = 0`
const FIRST_ARGUMENT_ZERO: u64 = 0x0000_0000_0000_01b7;
/// `call bpf_send_signal_thread` (helper 117)
const SEND_SIGNAL_THREAD: u64 = 0x0000_0075_0000_0085;
/// `exit`
const EXIT: u64 = 0x0000_0000_0000_0095;

/// Two 32-bit fields that lie one after the other.
const fn pair(first: u64, second: u64) -> u64 {
    first | second << 32
}

fn load_raw_tracepoint(program: &[u64]) -> io::Result<OwnedFd> {
    let mut attributes = [0; 16];
    attributes[0] = pair(BPF_PROG_TYPE_RAW_TRACEPOINT, program.len() as u64);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    bpf(BPF_PROG_LOAD, &mut attributes)
}

/// Loads a program that does nothing and attaches it to `raw_tp/sys_exit` for a moment.
///
/// # Errors
/// What `bpf(2)` says.
pub fn raw_tracepoint() -> io::Result<()> {
    let program = load_raw_tracepoint(&[RETURN_ZERO, EXIT])?;
    let mut attributes = [0; 16];
    attributes[0] = c"sys_exit".as_ptr() as u64;
    attributes[1] = u64::from(program.as_raw_fd().unsigned_abs());
    bpf(BPF_RAW_TRACEPOINT_OPEN, &mut attributes).map(drop)
}

/// Loads (and does not attach) a program that calls `bpf_send_signal_thread`.
///
/// # Errors
/// What `bpf(2)` says.
pub fn send_signal_thread() -> io::Result<()> {
    load_raw_tracepoint(&[FIRST_ARGUMENT_ZERO, SEND_SIGNAL_THREAD, RETURN_ZERO, EXIT]).map(drop)
}

/// Makes a BPF ring buffer of one page.
///
/// # Errors
/// What `bpf(2)` says.
pub fn ring_buffer() -> io::Result<()> {
    let mut attributes = [0; 16];
    attributes[0] = BPF_MAP_TYPE_RINGBUF; // and a key size of 0
    attributes[1] = pair(0, 4096); // value size, size in bytes
    bpf(BPF_MAP_CREATE, &mut attributes).map(drop)
}

/// Seizes a child with `PTRACE_O_SUSPEND_SECCOMP`.
///
/// # Errors
/// `EINVAL`: the kernel was built without `CONFIG_CHECKPOINT_RESTORE`. `EPERM`: no
/// `CAP_SYS_ADMIN`, or this process has a seccomp filter itself.
pub fn suspend_seccomp() -> io::Result<()> {
    let child = Child::idle()?;
    // SAFETY: seizes our own child; no memory is passed. The trace ends with the child.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            child.0.as_raw(),
            std::ptr::null_mut::<libc::c_void>(),
            libc::PTRACE_O_SUSPEND_SECCOMP as usize as *mut libc::c_void,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// Installs a filter that allows everything and has a listener, as a follower gets one.
fn install_listener() -> Result<libc::c_int, Errno> {
    let allow = libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let filter = libc::sock_fprog {
        len: 1,
        filter: (&raw const allow).cast_mut(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
        | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the filter and its only instruction live until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    Errno::result(fd).map(|fd| fd as libc::c_int)
}

/// Whether filters may ask user space, and whether such a filter with all flags that followers need
/// can be installed (in a child).
///
/// # Errors
/// `EINVAL`: a flag is unknown, i.e. the kernel is too old. `EACCES`: no `CAP_SYS_ADMIN`.
pub fn user_notification() -> io::Result<()> {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads one word that outlives the call.
    let available = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    Errno::result(available)?;
    in_child(|| install_listener().map(drop))
}

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, i.e. `_IOW('!', 4, __u64)`
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// Whether a listener takes `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (Linux 6.6).
///
/// # Errors
/// `EINVAL`: the kernel is too old; or what [`user_notification`] says.
pub fn sync_wake_up() -> io::Result<()> {
    in_child(|| {
        let listener = install_listener()?;
        // SAFETY: the argument is a number; the listener is ours.
        let result = unsafe { libc::ioctl(listener, NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        Errno::result(result).map(drop)
    })
}

/// Fetches a file descriptor of a child.
///
/// # Errors
/// `ENOSYS`: the kernel is too old. `EPERM`: ptrace access is forbidden.
pub fn pidfd_getfd() -> io::Result<()> {
    let ours = std::fs::File::open("/dev/null")?;
    let child = Child::idle()?;
    // SAFETY: both calls take numbers only.
    unsafe {
        let pidfd = owned(libc::syscall(libc::SYS_pidfd_open, child.0.as_raw(), 0))?;
        owned(libc::syscall(
            libc::SYS_pidfd_getfd,
            pidfd.as_raw_fd(),
            ours.as_raw_fd(),
            0,
        ))?;
    }
    Ok(())
}

/// Reads a child's memory.
///
/// # Errors
/// `EPERM`: ptrace access is forbidden. `ENOSYS`: built without `CONFIG_CROSS_MEMORY_ATTACH`.
pub fn process_vm_readv() -> io::Result<()> {
    static KNOWN: [u8; 8] = *b"mvedsua!";
    let child = Child::idle()?;
    let mut read = [0; KNOWN.len()];
    let remote = nix::sys::uio::RemoteIoVec {
        base: KNOWN.as_ptr() as usize,
        len: KNOWN.len(),
    };
    let local = &mut [io::IoSliceMut::new(&mut read)];
    nix::sys::uio::process_vm_readv(child.0, local, &[remote])?;
    if read == KNOWN {
        Ok(())
    } else {
        Err(io::Error::other("it read something else"))
    }
}

/// `PR_TIMER_CREATE_RESTORE_IDS` (include/uapi/linux/prctl.h): with 1 `timer_create` takes the id from where it
/// would store it, 0 ends that, 2 asks.
pub const RESTORE_TIMER_IDS: i32 = 77;

/// True if the kernel makes POSIX timers with wanted ids (Linux 6.15).
#[must_use]
pub fn can_restore_timer_ids() -> bool {
    // SAFETY: no pointers; this only asks.
    (unsafe { libc::prctl(RESTORE_TIMER_IDS, 2, 0, 0, 0) }) >= 0
}

/// `AT_HWCAP2` of this machine, bit by bit (arch/x86/include/uapi/asm/hwcap2.h).
#[must_use]
pub fn hardware_capabilities() -> u64 {
    // SAFETY: reads the auxiliary vector; no memory of ours is involved.
    unsafe { libc::getauxval(libc::AT_HWCAP2) }
}
