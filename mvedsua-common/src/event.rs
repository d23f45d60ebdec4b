//! The layout of one recorded system call in the ring.
//!
//! A record is an [`EventHeader`] followed by `parts` *parts*; each part is a [`PartHeader`], its
//! bytes, and padding to [`PART_ALIGN`]. The ring's own order is the global order of syscall exits.

/// Largest payload (all parts with their headers), in bytes, that a record carries inline.
///
/// A call with more is recorded with [`FLAG_OUT_OF_LINE`] and no parts: the leader's thread stops
/// at that very syscall exit and the agent reads the payload from its memory.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// Largest record, in bytes: header and payload. The ring's safety margin is a multiple of this.
pub const MAX_RECORD: usize = size_of::<EventHeader>() + MAX_PAYLOAD;

/// Bytes to which the data of a part is padded, so that every header is aligned.
pub const PART_ALIGN: usize = 8;

/// Number of processes that one session can record at once (capacity of the `LEADERS` map).
pub const MAX_LEADERS: u32 = 4096;

/// The payload did not fit, or was not resident: the thread is stopped with `SIGSTOP` at this exit
/// and the agent fetches the payload itself.
pub const FLAG_OUT_OF_LINE: u16 = 1 << 0;
/// The thread was stopped with `SIGSTOP` at this exit because the ring is nearly full.
pub const FLAG_RING_FULL: u16 = 1 << 1;
/// The kernel entered through `restart_syscall(2)`; `nr` is the call that was restarted.
pub const FLAG_RESTARTED: u16 = 1 << 2;

/// Fixed head of a record. Little endian, 8-byte aligned, no padding bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// Bytes of the whole record, header included.
    pub len: u32,
    /// System call number (x86-64 table).
    pub nr: u16,
    /// `FLAG_*` bits.
    pub flags: u16,
    /// Process id as the initial pid namespace sees it.
    pub tgid: u32,
    /// Thread id as the initial pid namespace sees it.
    pub tid: u32,
    /// What the call returned: a value, `-errno`, or one of the kernel's `-ERESTART*` codes.
    pub ret: i64,
    /// The six argument registers (`rdi rsi rdx r10 r8 r9`).
    pub args: [u64; 6],
    /// Number of parts that follow.
    pub parts: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Head of one part of the payload.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// Bytes of data that follow (before padding).
    pub len: u32,
    /// Index of the argument whose memory this is, 0 to 5.
    pub arg: u8,
    /// `PART_*` bits.
    pub flags: u8,
    /// Always zero.
    pub reserved: u16,
}

/// Counters that the recorder keeps, one per CPU, read by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records written.
    pub recorded: u64,
    /// Records whose payload went out of line.
    pub out_of_line: u64,
    /// Exits at which a thread was stopped because the ring was nearly full.
    pub ring_full: u64,
    /// Records that could not be written at all. Anything but zero ends the update.
    pub lost: u64,
}

/// What the agent tells the recorder, in the one-element array `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Free bytes of the ring under which a thread is stopped at its syscall exit.
    pub margin: u64,
    /// Capacity of the ring in bytes.
    pub capacity: u64,
}

/// Rounds `len` up to [`PART_ALIGN`].
#[must_use]
pub const fn padded(len: usize) -> usize {
    (len + PART_ALIGN - 1) & !(PART_ALIGN - 1)
}

const _: () = assert!(size_of::<EventHeader>() == 80);
const _: () = assert!(size_of::<PartHeader>() == 8);
