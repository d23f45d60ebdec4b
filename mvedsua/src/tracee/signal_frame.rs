//! What the kernel leaves on a stack when it enters a signal's handler: `struct rt_sigframe` of x86-64
//! (arch/x86/include/asm/sigframe.h), a return address, `struct ucontext` (flags, link, stack, `struct sigcontext`,
//! mask), and `siginfo_t`.

use super::Result;
use std::ops::Range;

use super::thread::Stopped;
use crate::sys::memory;

/// Offset of the saved signal mask.
pub const MASK: usize = CONTEXT + 256;
/// Offset of the `siginfo_t`, which is there only for handlers that asked for it (`SA_SIGINFO`).
pub const INFO: usize = MASK + 8;

const FLAGS: usize = 8;
const LINK: usize = 16;
const CONTEXT: usize = 8 + 8 + 8 + 24;
/// Offset of a call's first argument; the second is behind it.
pub const RDI: usize = CONTEXT + 8 * 8;
const RSI: usize = RDI + 8;
const RAX: usize = CONTEXT + 13 * 8;
const RSP: usize = CONTEXT + 15 * 8;
const RIP: usize = RSP + 8;
const CS: usize = RIP + 16;
/// Bytes of a `siginfo_t`.
const INFO_BYTES: usize = 128;
const BYTES: usize = INFO + INFO_BYTES;

/// All flags that a frame can have (`UC_FP_XSTATE`, `UC_SIGCONTEXT_SS`, `UC_STRICT_RESTORE_SS`).
const MOST_FLAGS: u64 = 7;
/// The code segment of a 64-bit program.
const USER_CS: u16 = 0x33;

/// A frame on the stack of a stopped thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its address.
    pub at: u64,
    /// Where the handler returns to.
    pub rip: u64,
    /// The stack pointer then.
    pub rsp: u64,
    /// The registers then that hold a call's number and its first two arguments.
    pub call: [u64; 3],
    /// What lies where the `siginfo_t` is if the handler asked for it.
    pub info: [u8; INFO_BYTES],
}

/// The frames of the handlers in which a stopped thread is, the innermost first, those within `most` bytes from the top of
/// its stack, or of another on which it was before. What only looks like one, left there by a handler that has returned, is
/// among them.
///
/// # Errors
/// When the thread is gone.
pub fn all_of(thread: &Stopped, most: usize) -> Result<Vec<Frame>> {
    /// Stacks that are looked at: a thread has two, in most programs one.
    const MOST_STACKS: usize = 4;
    let tid = thread.tid();
    let regs = thread.registers()?;
    let mut top = Some(regs.rsp & !7);
    let mut seen: Vec<Range<u64>> = Vec::new();
    let mut frames = Vec::new();
    while let Some(from) = top.filter(|_| seen.len() < MOST_STACKS) {
        // What the thread's pointer points to is in no stack, and C libraries put it on top of their threads' stacks:
        // behind it the next thread's begins, megabytes that nobody has touched.
        let most = match regs.fs_base.checked_sub(from) {
            Some(room) if room > 0 => most.min(usize::try_from(room).unwrap_or(most)),
            _ => most,
        };
        let stack = memory::read_available(tid, from, most);
        seen.push(from..from + stack.len() as u64);
        let places = (0..stack.len().saturating_sub(BYTES - 1)).step_by(8);
        let found = places.filter_map(|at| frame(&stack[at..at + BYTES], from + at as u64));
        let known = frames.len();
        frames.extend(found);
        // A handler on a stack of its own was entered on another.
        let new: &[Frame] = &frames[known..];
        let mut before = new.iter().rev().map(|frame| frame.rsp & !7);
        top = before.find(|rsp| !seen.iter().any(|stack| stack.contains(rsp)));
    }
    Ok(frames)
}

/// What lies at an address of a stack, if it is a frame: the link is unused, the segment a program's, the stack pointer
/// before the signal above it or on another stack.
fn frame(bytes: &[u8], at: u64) -> Option<Frame> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let is_one = word(LINK) == 0
        && word(CS) as u16 == USER_CS
        && word(FLAGS) <= MOST_FLAGS
        && !(at..at + BYTES as u64).contains(&word(RSP));
    is_one.then(|| Frame {
        at,
        rip: word(RIP),
        rsp: word(RSP),
        call: [word(RAX), word(RDI), word(RSI)],
        info: bytes[INFO..BYTES].try_into().expect("that long"),
    })
}
