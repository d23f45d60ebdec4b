//! Our own heap.

/// Gives free memory back to the kernel (`malloc_trim(3)`), also from between memory that is in use. To be
/// called after work that needed much for a short time.
pub fn trim() {
    // SAFETY: no pointers; the allocator takes its own locks.
    unsafe { libc::malloc_trim(0) };
}
