//! How the scheduler treats a thread: policy and nice value (`sched_setattr(2)`), CPUs, I/O priority. All of
//! another process, from outside.

use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

use super::{Result, check};

/// `sizeof(struct sched_attr)` with the utilization clamps (Linux 5.3).
const ATTR: usize = 56;
/// CPUs that a mask has room for.
const CPUS: usize = 8192;
/// `IOPRIO_WHO_PROCESS`.
const IOPRIO_OF_THREAD: i32 = 1;

/// CPUs on which a thread may run, in the kernel's own form: bit `n % 8` of byte `n / 8` is CPU `n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSet(Vec<u8>);

impl CpuSet {
    /// Number of CPUs in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// The set without these CPUs; `None` when nothing would be left.
    #[must_use]
    pub fn without(&self, cpus: &[usize]) -> Option<Self> {
        let mut rest = self.clone();
        for cpu in cpus {
            if let Some(byte) = rest.0.get_mut(cpu / 8) {
                *byte &= !(1 << (cpu % 8));
            }
        }
        (rest.count() > 0).then_some(rest)
    }
}

/// Gives thread `to` what thread `from` has.
///
/// # Errors
/// `ESRCH` when one of them is gone, `EBUSY` when the new deadlines cannot be kept.
pub fn copy(from: i32, to: i32) -> Result<()> {
    let wanted = attributes(from)?;
    if attributes(to)? != wanted {
        let mut attr = wanted;
        // SAFETY: the buffer is a whole `struct sched_attr` whose first word is its size; the kernel only
        // reads it (or, if it is too large for it, writes its own size there).
        check(unsafe { libc::syscall(libc::SYS_sched_setattr, to, attr.as_mut_ptr(), 0) })?;
    }
    let wanted = cpus(from)?;
    if cpus(to)? != wanted {
        run_on(to, &wanted)?;
    }
    let wanted = io_priority(from)?;
    if io_priority(to)? != wanted {
        // SAFETY: no pointers.
        check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_OF_THREAD, to, wanted) })?;
    }
    Ok(())
}

fn attributes(tid: i32) -> Result<[u8; ATTR]> {
    let mut attr = [0u8; ATTR];
    // SAFETY: the kernel writes at most the size that it is given.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, attr.as_mut_ptr(), ATTR, 0) })?;
    Ok(attr)
}

/// CPUs on which thread `tid` may run (0: the caller), `sched_getaffinity(2)`: what its cpuset leaves of those that it
/// was ever given.
///
/// # Errors
/// `ESRCH` when the thread is gone.
pub fn cpus(tid: i32) -> Result<CpuSet> {
    let mut mask = vec![0u8; CPUS / 8];
    // SAFETY: the kernel writes at most the size that it is given, and returns how much it was.
    let size = check(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            mask.len(),
            mask.as_mut_ptr(),
        )
    })?;
    mask.truncate(size as usize);
    Ok(CpuSet(mask))
}

/// Thread `tid` (0: the caller) is to run on these CPUs alone, `sched_setaffinity(2)`. What it makes runs there, too.
///
/// # Errors
/// `ESRCH` when the thread is gone, `EINVAL` when its cpuset has none of them.
pub fn run_on(tid: i32, cpus: &CpuSet) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as the buffer has.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            tid,
            cpus.0.len(),
            cpus.0.as_ptr(),
        )
    })?;
    Ok(())
}

/// CPU time that a process has used so far, its threads that have ended included (`clock_getcpuclockid(3)`).
///
/// # Errors
/// `ESRCH` or `EINVAL` when it is gone.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?;
    Ok(clock.now()?.into())
}

fn io_priority(tid: i32) -> Result<i64> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_OF_THREAD, tid) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_set_loses_cpus_but_never_all() {
        let set = CpuSet(vec![0b1000_0011, 1]);
        assert_eq!(set.count(), 4);
        let rest = set.without(&[0, 8, 99]);
        assert_eq!(rest, Some(CpuSet(vec![0b1000_0010, 0])));
        assert_eq!(set.without(&[0, 1, 7, 8]), None);
    }

    #[test]
    fn another_process_is_scheduled_as_we_are() {
        let mut sleep = Command::new("sleep");
        let mut child = sleep.arg("60").spawn().expect("sleep exists");
        let (own, pid) = (nix::unistd::gettid().as_raw(), child.id() as i32);
        let mut nicer = attributes(pid).expect("readable");
        // sched_nice: raising it is always allowed.
        nicer[16..20].copy_from_slice(&11i32.to_le_bytes());
        // SAFETY: as in `copy`.
        let set =
            check(unsafe { libc::syscall(libc::SYS_sched_setattr, pid, nicer.as_mut_ptr(), 0) });
        let differed = attributes(pid).ok() != attributes(own).ok();
        let copied = copy(own, pid);
        let equal =
            attributes(pid).ok() == attributes(own).ok() && cpus(pid).ok() == cpus(own).ok();
        child.kill().expect("ours");
        child.wait().expect("reap");
        set.expect("may be raised");
        assert!(differed);
        copied.expect("lowering a nice value needs CAP_SYS_NICE");
        assert!(equal);
    }
}
