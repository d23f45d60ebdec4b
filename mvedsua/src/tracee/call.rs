//! A function of the process called in one of its stopped threads: for the few things that must
//! happen inside of a follower and are no system calls.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::stub::Vdso;
use super::thread::{Running, Stopped};
use super::{Naming, TraceeError};
use crate::sys::memory;
use crate::sys::ptrace::{self, Wait};

/// Room below the thread's own stack pointer: the red zone of the x86-64 ABI, and some.
const BELOW: u64 = 512;
/// For this long the function is waited for without sleeping.
const QUICK: Duration = Duration::from_micros(300);

/// What the function may do.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// When it must have returned.
    pub deadline: Instant,
    /// The system calls that it may make.
    pub allowed: &'a dyn Fn(u16, &[u64; 6]) -> bool,
}

/// Why a function did not return. The thread's registers are lost then: its process must be killed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A signal that it caused itself.
    #[error("it was killed by {} at {address:#x}, standing at {pc:#x}", signal_name(*signal))]
    Crashed {
        /// The signal.
        signal: i32,
        /// What it was about, for memory faults.
        address: u64,
        /// Where it stood.
        pc: u64,
    },
    /// The deadline has passed.
    #[error("it did not return in time; it stands at {pc:#x}")]
    TooLong {
        /// Where it stands.
        pc: u64,
    },
    /// It made a call that it may not make.
    #[error("it made the system call {name}, which it may not")]
    Forbidden {
        /// The call.
        name: &'static str,
    },
    /// The mechanism failed.
    #[error(transparent)]
    Tracee(#[from] TraceeError),
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned())
}

/// Calls `function(args...)` in a stopped thread, with all other threads stopped, and returns what it
/// returned. The thread goes on afterwards as if nothing had been: general and extended registers
/// are put back. `stack` is the end of a fresh stack, or `None` for the thread's own.
///
/// # Errors
/// See [`CallError`].
pub fn function(
    thread: &mut Stopped,
    vdso: &Vdso,
    function: u64,
    args: &[u64],
    stack: Option<u64>,
    limits: Limits<'_>,
) -> Result<u64, CallError> {
    let tid = thread.tid();
    let original = thread.registers()?;
    let extended = ptrace::extended_state(tid).named("read the extended state", tid)?;
    let back = vdso.trap_address();
    let top = stack.unwrap_or(original.rsp - BELOW) & !15;
    // The address to return to is pushed by the call that is not made here.
    memory::write(tid, top - 8, &back.to_le_bytes()).named("write the follower's stack", tid)?;
    let mut regs = original;
    regs.rip = function;
    regs.rsp = top - 8;
    regs.rax = 0;
    regs.orig_rax = u64::MAX;
    // DF clear, as the ABI wants it at every call.
    regs.eflags &= !0x400;
    let slots = [
        &mut regs.rdi,
        &mut regs.rsi,
        &mut regs.rdx,
        &mut regs.rcx,
        &mut regs.r8,
        &mut regs.r9,
    ];
    assert!(args.len() <= slots.len(), "arguments go into registers");
    for (slot, value) in slots.into_iter().zip(args) {
        *slot = *value;
    }
    thread.set_registers(&regs)?;
    let taken = std::mem::replace(thread, Running::born(tid).reported());
    let stopped = run(taken, back, limits)?;
    let result = stopped.registers()?.rax;
    ptrace::set_extended_state(tid, &extended).named("set the extended state", tid)?;
    stopped.set_registers(&original)?;
    *thread = stopped;
    Ok(result)
}

/// Lets the thread run until it stands at `back`.
fn run(mut thread: Stopped, back: u64, limits: Limits<'_>) -> Result<Stopped, CallError> {
    let tid = thread.tid();
    let mut inside = false;
    loop {
        let running = thread.resume_to_syscall()?;
        let wait = report(tid, limits.deadline)?;
        thread = running.reported();
        match wait {
            None => {
                // It is stopped where it stands, to say where that is.
                let _ = ptrace::interrupt(tid);
                let pc = match ptrace::wait(tid, true) {
                    Ok(Some(_)) => thread.registers().map_or(0, |regs| regs.rip),
                    _ => 0,
                };
                return Err(CallError::TooLong { pc });
            }
            Some(Wait::Syscall) if inside => inside = false,
            Some(Wait::Syscall) => {
                let regs = thread.registers()?;
                let nr = regs.orig_rax as u16;
                let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
                if !(limits.allowed)(nr, &args) {
                    let name = mvedsua_common::table::syscall(nr)
                        .map_or("of an unknown number", |call| call.name);
                    return Err(CallError::Forbidden { name });
                }
                inside = true;
            }
            Some(Wait::Signal(signal)) => {
                let pc = thread.registers()?.rip;
                if signal == libc::SIGILL && pc == back {
                    return Ok(thread);
                }
                let info = ptrace::signal_info(tid).named("read a signal's information", tid)?;
                // A signal from outside is the leader's business: the follower gets its copy of it.
                if info.si_code > 0 {
                    return Err(CallError::Crashed {
                        signal,
                        address: ptrace::fault_address(&info),
                        pc,
                    });
                }
            }
            Some(Wait::Interrupted) => {}
            Some(other) => {
                return Err(CallError::Tracee(TraceeError::Unexpected {
                    tid,
                    expected: "return from a function",
                    got: format!("{other:?}"),
                }));
            }
        }
    }
}

/// The thread's next report; `None` when the deadline came first.
fn report(tid: i32, deadline: Instant) -> Result<Option<Wait>, CallError> {
    let start = Instant::now();
    loop {
        if let Some((_, wait)) = ptrace::wait(tid, false).named("wait", tid)? {
            return Ok(Some(wait));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        if start.elapsed() < QUICK {
            std::thread::yield_now();
        } else {
            // No descriptor tells of a ptrace report to this thread alone.
            let _ = poll(&mut [], PollTimeout::from(1u8));
        }
    }
}
