//! Our own heap.

/// Gives free memory back to the kernel (`malloc_trim(3)`), also from between memory that is in use. To be
/// called after work that needed much for a short time.
pub fn trim() {
    // SAFETY: no pointers; the allocator takes its own locks.
    unsafe { libc::malloc_trim(0) };
}

/// From now on large blocks are always mappings of their own, which go back when they are freed (`mallopt(3)`). The
/// allocator else learns from the first of them to keep up to twice as much at the end of a heap, where [`trim`] does
/// not reach if it is another thread's than the main one's: 9 MiB, once in a thousand updates (seen). To be called
/// at the start of the program.
pub fn give_back_large_blocks() {
    const LARGE: i32 = 256 << 10;
    // SAFETY: no pointers; no other thread is there yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}
