//! What the kernel leaves on a stack when it enters a signal's handler: `struct rt_sigframe` of x86-64
//! (arch/x86/include/asm/sigframe.h), a return address, `struct ucontext` (flags, link, stack, `struct sigcontext`,
//! mask), and `siginfo_t`.

use super::Result;
use super::thread::Stopped;
use crate::sys::memory;

/// Offset of the saved signal mask.
pub const MASK: usize = CONTEXT + 256;
/// Offset of the `siginfo_t`, which is there only for handlers that asked for it (`SA_SIGINFO`).
pub const INFO: usize = MASK + 8;

const FLAGS: usize = 8;
const LINK: usize = 16;
const CONTEXT: usize = 8 + 8 + 8 + 24;
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
    /// What lies where the `siginfo_t` is if the handler asked for it.
    pub info: [u8; INFO_BYTES],
}

/// The frames of the handlers in which a stopped thread is, the innermost first, those within `most` bytes from the top of
/// its stack. What only looks like one, left there by a handler that has returned, is among them.
///
/// # Errors
/// When the thread is gone.
pub fn all_of(thread: &Stopped, most: usize) -> Result<Vec<Frame>> {
    let tid = thread.tid();
    let from = thread.registers()?.rsp & !7;
    let stack = memory::read_available(tid, from, most);
    let places = (0..stack.len().saturating_sub(BYTES - 1)).step_by(8);
    let frames =
        places.filter_map(|place| frame(&stack[place..place + BYTES], from + place as u64));
    Ok(frames.collect())
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
        info: bytes[INFO..BYTES].try_into().expect("that long"),
    })
}
