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

/// Words of the `LEADERS` map, one bit per process id. The kernel's `PID_MAX_LIMIT` is 2^22.
///
/// A bitmap and not a hash, because this look-up happens at every system call of the machine: the
/// verifier turns it into two loads.
pub const LEADER_WORDS: u32 = (1 << 22) / 64;

/// The payload did not fit, or was not resident: the thread is stopped with `SIGSTOP` at this exit
/// and the agent fetches the payload itself.
pub const FLAG_OUT_OF_LINE: u16 = 1 << 0;
/// The thread was stopped with `SIGSTOP` at this exit because the ring is nearly full.
pub const FLAG_RING_FULL: u16 = 1 << 1;
/// The kernel entered through `restart_syscall(2)`; `nr` is the call that was restarted.
pub const FLAG_RESTARTED: u16 = 1 << 2;
/// A signal waited for the thread at this exit: it is delivered, as a rule, before the thread runs
/// its own code again.
pub const FLAG_SIGNAL: u16 = 1 << 3;

/// Mask of the bits of [`PartHeader::flags`] that say which piece of its argument a part is.
pub const PART_PIECE: u8 = 0x07;
/// The part is the argument's memory itself. The data of an `iovec` array (`readv`, `writev`) is
/// one such part: what the vectors hold, put end to end, as many bytes as the result says.
pub const PART_WHOLE: u8 = 0;
/// The `struct msghdr` (56 bytes) as it is after the call. A `struct msghdr` argument is recorded
/// as up to four parts with the same `arg`, in this order: header, name, data, control; a piece
/// that is empty has no part.
pub const PART_MSG_HEADER: u8 = 1;
/// What `msg_name` points to: `msg_namelen` bytes *as the kernel left it*, which after `recvmsg`
/// can be more than the process had room for.
pub const PART_MSG_NAME: u8 = 2;
/// What the vectors hold, put end to end, as many bytes as the result says.
pub const PART_MSG_DATA: u8 = 3;
/// What `msg_control` points to: `msg_controllen` bytes as the kernel left it.
pub const PART_MSG_CONTROL: u8 = 4;
/// Not an argument's memory: clock readings that the thread made since its call before
/// ([`crate::clock`]). The data is the number of the first (8 bytes; it counts all readings of the
/// thread's slot), then a [`crate::clock::Reading`] each. [`PartHeader::arg`] is [`NO_ARG`].
pub const PART_READINGS: u8 = 5;
/// [`PartHeader::arg`] of a part that belongs to no argument.
pub const NO_ARG: u8 = 6;

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
    /// CPU on which the thread came out of the call.
    pub cpu: u32,
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

/// Names of the recorder's maps and program, as the agent looks them up in the object.
pub mod name {
    /// The program, attached to the tracepoint `sys_exit` (`tp_btf`).
    pub const PROGRAM: &str = "record_exit";
    /// `BPF_MAP_TYPE_RINGBUF`: the records.
    pub const EVENTS: &str = "EVENTS";
    /// Array of [`super::LEADER_WORDS`] words: bit `p % 64` of word `p / 64` says that process `p` is
    /// recorded.
    pub const LEADERS: &str = "LEADERS";
    /// Array of [`crate::plan::CallPlan`].
    pub const PLANS: &str = "PLANS";
    /// Hash map: [`crate::plan::command_key`] -> index in `PLANS`.
    pub const COMMANDS: &str = "COMMANDS";
    /// Array with one element: [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Array with one element per possible CPU: where a record is built.
    pub const SCRATCH: &str = "SCRATCH";
    /// Array with [`crate::clock::NEAR_SLOTS`] elements: the [`crate::clock::ClockSlot`] of a thread, if it is found
    /// there.
    pub const NEAR_CLOCKS: &str = "NEAR_CLOCKS";
    /// Hash map: thread id -> [`crate::clock::ClockSlot`], of those that are not in `NEAR_CLOCKS`.
    pub const CLOCKS: &str = "CLOCKS";
    /// Per-CPU array with one element: [`super::Counters`].
    pub const COUNTERS: &str = "COUNTERS";
}

/// What the agent tells the recorder, in the one-element array `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Free bytes of the ring under which a thread is stopped at its syscall exit.
    pub margin: u64,
    /// Capacity of the ring in bytes.
    pub capacity: u64,
    /// `_TIF_SIGPENDING` of the running kernel: the bit of `thread_info.flags` that says that a signal
    /// waits.
    pub signal_pending: u64,
}

/// Rounds `len` up to [`PART_ALIGN`].
#[must_use]
pub const fn padded(len: usize) -> usize {
    (len + PART_ALIGN - 1) & !(PART_ALIGN - 1)
}

const _: () = assert!(size_of::<EventHeader>() == 80);
const _: () = assert!(size_of::<PartHeader>() == 8);
