//! Resource limits of another process (`prlimit64(2)`).

use super::{Result, check};

/// Number of limits that Linux knows (`RLIM_NLIMITS` of `<asm-generic/resource.h>`).
const LIMITS: u32 = 16;

/// Gives process `to` every limit, soft and hard, that process `from` has.
///
/// # Errors
/// `ESRCH` when one of them is gone, `EPERM` without `CAP_SYS_RESOURCE`.
pub fn copy(from: i32, to: i32) -> Result<()> {
    for resource in 0..LIMITS {
        let wanted = exchange(from, resource, None)?;
        let has = exchange(to, resource, None)?;
        if (wanted.rlim_cur, wanted.rlim_max) != (has.rlim_cur, has.rlim_max) {
            exchange(to, resource, Some(wanted))?;
        }
    }
    Ok(())
}

/// Sets a limit, if there is a new one, and returns the old.
fn exchange(pid: i32, resource: u32, new: Option<libc::rlimit64>) -> Result<libc::rlimit64> {
    let mut old = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = new
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref::<libc::rlimit64>);
    // SAFETY: both structures outlive the call; a null `new` changes nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) })?;
    Ok(old)
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
            let limit = exchange(pid, libc::RLIMIT_CORE, None).expect("readable");
            (limit.rlim_cur, limit.rlim_max)
        };
        let lower = libc::rlimit64 {
            rlim_cur: 0,
            rlim_max: of(own).1,
        };
        exchange(pid, libc::RLIMIT_CORE, Some(lower)).expect("may be lowered");
        let other = libc::rlimit64 {
            rlim_cur: of(own).0.min(4096),
            ..lower
        };
        exchange(own, libc::RLIMIT_CORE, Some(other)).expect("may be lowered");
        let result = copy(own, pid);
        let (ours, theirs) = (of(own), of(pid));
        child.kill().expect("ours");
        child.wait().expect("reap");
        result.expect("copied");
        assert_eq!(ours, theirs);
    }
}
