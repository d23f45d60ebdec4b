//! `get_robust_list(2)`.

use super::{Result, check};

/// Head and length of the robust-futex list of thread `tid`.
///
/// # Errors
/// `EPERM` without ptrace access, `ESRCH` when it is gone.
pub fn get(tid: i32) -> Result<(u64, u64)> {
    let mut head: u64 = 0;
    let mut len: u64 = 0;
    // SAFETY: both locals outlive the call, which writes one word to each.
    check(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((head, len))
}
