//! Memory of another process: `process_vm_readv(2)`/`writev` for data, `/proc/PID/mem` where the
//! page protection must be overridden (code, the vDSO).

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Result, check};

/// Reads `buffer.len()` bytes at `address` of `pid`, all or nothing.
///
/// # Errors
/// `EFAULT` when a page is not mapped, `ESRCH` when the process is gone.
pub fn read(pid: i32, address: u64, buffer: &mut [u8]) -> Result<()> {
    if buffer.is_empty() {
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut _,
        iov_len: buffer.len(),
    };
    // SAFETY: `local` covers exactly `buffer`, which is exclusively borrowed; the remote address is
    // checked by the kernel.
    let got = check(unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) as i64
    })?;
    whole(got, buffer.len())
}

/// Writes `data` at `address` of `pid`, all or nothing as far as the caller can rely on it.
///
/// # Errors
/// `EFAULT` when a page is not mapped writable, `ESRCH` when the process is gone.
pub fn write(pid: i32, address: u64, data: &[u8]) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut _,
        iov_len: data.len(),
    };
    // SAFETY: `local` covers exactly `data`, which the kernel only reads.
    let put = check(unsafe {
        libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) as i64
    })?;
    whole(put, data.len())
}

fn whole(done: i64, wanted: usize) -> Result<()> {
    if done as usize == wanted {
        Ok(())
    } else {
        Err(std::io::Error::from_raw_os_error(libc::EFAULT))
    }
}

/// Reads up to `limit` bytes, as many as are mapped, e.g. for a string of unknown length.
#[must_use]
pub fn read_available(pid: i32, address: u64, limit: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut at = address;
    while all.len() < limit {
        let page_end = (at | 0xfff).wrapping_add(1);
        let step = ((page_end - at) as usize).min(limit - all.len());
        let mut chunk = vec![0; step];
        if read(pid, at, &mut chunk).is_err() {
            break;
        }
        all.extend_from_slice(&chunk);
        at = page_end;
    }
    all
}

/// Overwrites memory whatever its protection (`/proc/PID/mem`, needs ptrace access). A private
/// page is copied first, so that no other process sees the change.
///
/// # Errors
/// `EIO` when a page is not mapped.
pub fn force_write(pid: i32, address: u64, data: &[u8]) -> Result<()> {
    super::mortal::step();
    let file = File::options()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    file.write_all_at(data, address)
}
