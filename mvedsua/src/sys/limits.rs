//! Resource limits of another process (`prlimit64(2)`).

use super::{Result, check};

/// Number of limits that Linux knows (`RLIM_NLIMITS` of `<asm-generic/resource.h>`).
const LIMITS: u32 = 16;

/// Gives process `to` every limit, soft and hard, that process `from` has.
///
/// # Errors
/// `ESRCH` when one of them is gone, `EPERM` without `CAP_SYS_RESOURCE` for a limit that would have to be raised,
/// or if `to` has another user than we have.
pub fn copy(from: i32, to: i32) -> Result<()> {
    copy_those(from, to, |_| true)
}

/// The same without the two limits, of descriptors and of processes, below which what the process has already
/// may lie: they are set when it needs no more. A limit of descriptors that is to be raised is raised at once.
///
/// # Errors
/// As [`copy`].
pub fn copy_all_but_counts(from: i32, to: i32) -> Result<()> {
    let counts = [libc::RLIMIT_NOFILE, libc::RLIMIT_NPROC];
    copy_those(from, to, |resource| !counts.contains(&resource))?;
    let files = of(from)?[libc::RLIMIT_NOFILE as usize];
    if files.rlim_cur > of(to)?[libc::RLIMIT_NOFILE as usize].rlim_cur {
        exchange(to, libc::RLIMIT_NOFILE, files)?;
    }
    Ok(())
}

fn copy_those(from: i32, to: i32, which: impl Fn(u32) -> bool) -> Result<()> {
    let limits = of(from)?.into_iter().zip(of(to)?);
    for (resource, (wanted, has)) in (0..).zip(limits).filter(|(resource, _)| which(*resource)) {
        if (wanted.rlim_cur, wanted.rlim_max) != (has.rlim_cur, has.rlim_max) {
            exchange(to, resource, wanted)?;
        }
    }
    Ok(())
}

/// All limits, by number. The call that reads them is refused for a process of another user without
/// `CAP_SYS_RESOURCE`; `/proc/PID/limits` (proc_pid_limits(5)) has them, too, in the same order.
fn of(pid: i32) -> Result<Vec<libc::rlimit64>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let malformed = || std::io::Error::other(format!("/proc/{pid}/limits is not understood"));
    let limits: Option<Vec<libc::rlimit64>> = text.lines().skip(1).map(parse).collect();
    limits
        .filter(|limits| limits.len() == LIMITS as usize)
        .ok_or_else(malformed)
}

/// A line: the name in a column of 25 characters, soft and hard limit, unit.
fn parse(line: &str) -> Option<libc::rlimit64> {
    let mut words = line.get(25..)?.split_whitespace().map(|word| match word {
        "unlimited" => Some(libc::RLIM64_INFINITY),
        number => number.parse().ok(),
    });
    Some(libc::rlimit64 {
        rlim_cur: words.next()??,
        rlim_max: words.next()??,
    })
}

/// Sets a limit.
fn exchange(pid: i32, resource: u32, new: libc::rlimit64) -> Result<()> {
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the structure outlives the call; a null pointer for the old limit is not written to.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const new, none) })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn another_process_gets_our_limits() {
        let mut child = Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep exists");
        let (own, pid) = (std::process::id() as i32, child.id() as i32);
        let of = |pid| {
            let limit = super::of(pid).expect("readable")[libc::RLIMIT_CORE as usize];
            (limit.rlim_cur, limit.rlim_max)
        };
        let lower = libc::rlimit64 {
            rlim_cur: 0,
            rlim_max: of(own).1,
        };
        exchange(pid, libc::RLIMIT_CORE, lower).expect("may be lowered");
        let other = libc::rlimit64 {
            rlim_cur: of(own).0.min(4096),
            ..lower
        };
        exchange(own, libc::RLIMIT_CORE, other).expect("may be lowered");
        let result = copy(own, pid);
        let (ours, theirs) = (of(own), of(pid));
        child.kill().expect("ours");
        child.wait().expect("reap");
        result.expect("copied");
        assert_eq!(ours, theirs);
    }
}
