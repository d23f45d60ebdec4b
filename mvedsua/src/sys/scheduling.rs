//! How the scheduler treats a thread: policy and nice value (`sched_setattr(2)`), CPUs, I/O priority. All of
//! another process, from outside.

use super::{Result, check};

/// `sizeof(struct sched_attr)` with the utilization clamps (Linux 5.3).
const ATTR: usize = 56;
/// CPUs that a mask has room for.
const CPUS: usize = 8192;
/// `IOPRIO_WHO_PROCESS`.
const IOPRIO_OF_THREAD: i32 = 1;

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
        // SAFETY: the kernel reads as many bytes as the buffer has.
        check(unsafe {
            libc::syscall(
                libc::SYS_sched_setaffinity,
                to,
                wanted.len(),
                wanted.as_ptr(),
            )
        })?;
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

fn cpus(tid: i32) -> Result<Vec<u8>> {
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
    Ok(mask)
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
