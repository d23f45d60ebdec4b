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
    /// Most often there is less, and large pieces of the heap are not given back soon.
    const STEP: usize = 64 << 10;
    let mut all = Vec::new();
    while all.len() < limit {
        let (from, wanted) = (all.len(), STEP.min(limit - all.len()));
        all.resize(from + wanted, 0);
        let got = read_some(pid, address.wrapping_add(from as u64), &mut all[from..]);
        all.truncate(from + got);
        if got < wanted {
            break;
        }
    }
    all
}

/// Fills the beginning of `buffer`, as much of it as is mapped; returns how much.
fn read_some(pid: i32, address: u64, buffer: &mut [u8]) -> usize {
    // What the kernel cannot read whole of a piece ends the transfer before it: so each is of one page.
    let mut pieces = Vec::with_capacity((buffer.len() >> 12) + 2);
    let (mut at, mut left) = (address, buffer.len());
    while left > 0 {
        let page_end = (at | 0xfff).wrapping_add(1);
        let length = (page_end.wrapping_sub(at) as usize).min(left);
        pieces.push(libc::iovec {
            iov_base: at as *mut _,
            iov_len: length,
        });
        (at, left) = (page_end, left - length);
    }
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: `local` covers exactly `buffer`, which is exclusively borrowed; the remote addresses are checked by the
    // kernel, and `pieces` outlives the call.
    let got = check(unsafe {
        let count = pieces.len() as libc::c_ulong;
        libc::process_vm_readv(pid, &raw const local, 1, pieces.as_ptr(), count, 0) as i64
    });
    got.map_or(0, |got| got as usize)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_is_read_and_no_more() {
        let page = 4096;
        // SAFETY: a new private mapping, of which the third page is taken away; nobody else knows of it.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(
                std::ptr::null_mut(),
                3 * page,
                libc::PROT_READ,
                flags,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED);
            let third = start.byte_add(2 * page);
            assert_eq!(libc::mprotect(third, page, libc::PROT_NONE), 0);
            start as u64
        };
        let pid = std::process::id() as i32;
        let available = |from: u64, limit| read_available(pid, from, limit).len();
        assert_eq!(available(start + 100, 50), 50);
        assert_eq!(available(start + 100, 3 * page), 2 * page - 100);
        assert_eq!(available(start + 2 * page as u64, 8), 0, "nothing is there");
        // SAFETY: as above.
        assert_eq!(unsafe { libc::munmap(start as *mut _, 3 * page) }, 0);
    }
}
