//! System calls made inside a traced process.
//!
//! [`Plain`] is for followers: registers are changed and put back. [`Guarded`] is for leaders: the
//! original context lies in a signal frame on the thread's stack and the code that follows every
//! call is `rt_sigreturn`, so the thread finds back by itself if this agent dies at any moment.

use super::context::{Context, Undecided, no_room};
use super::stub::Vdso;
use super::thread::Stopped;
use super::{Naming, Result, TraceeError, inspect};
use crate::sys::pid_namespace::clone_args;
use crate::sys::ptrace::{self, Registers, Wait};
use crate::sys::{memory, pidfd};

/// Below the stack pointer the x86-64 ABI lets a function keep this many bytes.
const RED_ZONE: u64 = 128;
/// Bytes kept below the frame for answers of injected calls.
const SCRATCH: u64 = 256;

/// Points `regs` at `entry`, about to make call `nr`.
fn prepare(regs: &mut Registers, entry: u64, nr: u16, args: &[u64; 6]) {
    regs.rip = entry;
    regs.rax = u64::from(nr);
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = *args;
    // Not in a call: the kernel's restart logic must leave these registers alone.
    regs.orig_rax = u64::MAX;
}

/// Runs a thread that stands before a `syscall` instruction until that call has returned. A thread
/// or process that the call makes is reported through `born`.
///
/// # Errors
/// When it ends, or stops for another reason.
pub(crate) fn step_over_call(
    mut thread: Stopped,
    call: &'static str,
    born: &mut dyn FnMut(i32) -> Result<()>,
) -> Result<(Stopped, i64)> {
    let tid = thread.tid();
    let mut inside = false;
    let mut stop_wanted = false;
    loop {
        let Some((stopped, wait)) = thread.resume_to_syscall()?.wait()? else {
            return Err(TraceeError::Unexpected {
                tid,
                expected: call,
                got: "its end".into(),
            });
        };
        thread = stopped;
        match wait {
            Wait::Syscall if inside => {
                let result = thread.registers()?.rax as i64;
                if stop_wanted {
                    // Whoever stops the process stops it now.
                    let pid = inspect::process_of(tid).unwrap_or(tid);
                    let _ = pidfd::kill_thread(pid, tid, libc::SIGSTOP);
                }
                return Ok((thread, result));
            }
            // It cannot be blocked: the recorder's is dropped, a user's comes after the call.
            Wait::Signal(libc::SIGSTOP) => {
                let info = ptrace::signal_info(tid).named("read a signal's information", tid)?;
                stop_wanted |= info.si_code != libc::SI_KERNEL;
            }
            Wait::Syscall => inside = true,
            Wait::Event(libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK) => {
                born(thread.event_message()? as i32)?;
            }
            // Of a process that a signal has stopped each request to stop is answered so.
            Wait::Interrupted | Wait::GroupStop(_) => {}
            other => {
                return Err(TraceeError::Unexpected {
                    tid,
                    expected: call,
                    got: format!("{other:?}"),
                });
            }
        }
    }
}

fn into_result(call: &'static str, tid: i32, result: i64) -> Result<u64> {
    if (-4095..0).contains(&result) {
        let source = std::io::Error::from_raw_os_error(-result as i32);
        Err(TraceeError::Injected { call, tid, source })
    } else {
        Ok(result as u64)
    }
}

/// Calls inside a follower.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    /// The vDSO whose stub (inherited from the leader) the calls are made from.
    pub vdso: &'a Vdso,
}

impl Plain<'_> {
    /// Makes a call and puts the registers back. `born` is told of a new thread.
    ///
    /// # Errors
    /// When the thread is gone or stops for another reason. The call's own error is in the result.
    pub fn call_with(
        self,
        thread: &mut Stopped,
        call: &'static str,
        nr: u16,
        args: &[u64; 6],
        born: &mut dyn FnMut(i32) -> Result<()>,
    ) -> Result<i64> {
        let original = thread.registers()?;
        let mut regs = original;
        prepare(&mut regs, self.vdso.call_address(), nr, args);
        thread.set_registers(&regs)?;
        let tid = thread.tid();
        // The typed handle goes through the run and comes back for the same thread.
        let taken = std::mem::replace(thread, super::thread::Running::born(tid).reported());
        let (stopped, result) = step_over_call(taken, call, born)?;
        stopped.set_registers(&original)?;
        *thread = stopped;
        Ok(result)
    }

    /// Like [`Plain::call_with`] for a call that makes no thread and must succeed.
    ///
    /// # Errors
    /// Also when the call itself fails.
    pub fn call_ok(
        self,
        thread: &mut Stopped,
        call: &'static str,
        nr: u16,
        args: &[u64; 6],
    ) -> Result<u64> {
        let tid = thread.tid();
        let result = self.call_with(thread, call, nr, args, &mut |_| Ok(()))?;
        into_result(call, tid, result)
    }
}

/// Calls inside a leader, between [`Guarded::begin`] and [`Guarded::end`].
#[derive(Debug)]
pub struct Guarded<'a> {
    thread: Stopped,
    vdso: &'a Vdso,
    frame: u64,
    scratch: u64,
    context: Registers,
    undecided: Option<Undecided>,
}

impl<'a> Guarded<'a> {
    /// Writes the frame that leads back to `context` on the thread's stack. The stub must have
    /// been written ([`Vdso::write_stub`]).
    ///
    /// # Errors
    /// When there is no room on the stack, or the thread is gone.
    pub fn begin(thread: Stopped, context: &Context, vdso: &'a Vdso) -> Result<Self> {
        let layout = Frame::build(context);
        memory::write(thread.tid(), layout.scratch, &layout.bytes)
            .map_err(|_| no_room(thread.tid()))?;
        Ok(Self {
            thread,
            vdso,
            frame: layout.stack_pointer,
            scratch: layout.scratch,
            context: context.regs,
            undecided: context.undecided,
        })
    }

    /// Address of 256 bytes for answers.
    #[must_use]
    pub const fn scratch(&self) -> u64 {
        self.scratch
    }

    /// The order matters: with the registers set, a dying tracer leaves a thread that makes one
    /// call and returns; signals are blocked after that, and the frame unblocks them.
    fn aim(&self, entry: u64, nr: u16, args: &[u64; 6]) -> Result<()> {
        self.aim_with(self.context, entry, nr, args)
    }

    /// As [`Guarded::aim`], with registers that the call leaves alone.
    fn aim_with(&self, mut regs: Registers, entry: u64, nr: u16, args: &[u64; 6]) -> Result<()> {
        prepare(&mut regs, entry, nr, args);
        regs.rsp = self.frame;
        self.thread.set_registers(&regs)?;
        ptrace::set_signal_mask(self.thread.tid(), u64::MAX)
            .named("block signals", self.thread.tid())
    }

    /// Makes one call.
    ///
    /// # Errors
    /// When the call fails, or the thread is gone.
    pub fn call(&mut self, call: &'static str, nr: u16, args: &[u64; 6]) -> Result<u64> {
        self.aim(self.vdso.call_address(), nr, args)?;
        let tid = self.thread.tid();
        let taken = std::mem::replace(
            &mut self.thread,
            super::thread::Running::born(tid).reported(),
        );
        let (stopped, result) = step_over_call(taken, call, &mut |_| Ok(()))?;
        self.thread = stopped;
        into_result(call, tid, result)
    }

    /// Runs on through `rt_sigreturn` and returns the thread in its original context, stopped. A call that was
    /// interrupted is left to the kernel again.
    ///
    /// # Errors
    /// When the thread is gone, or is not where it was (which would be a defect of this module).
    pub fn end(self) -> Result<Stopped> {
        let (stopped, _) = step_over_call(self.thread, "rt_sigreturn", &mut |_| Ok(()))?;
        let regs = stopped.registers()?;
        if (regs.rip, regs.rsp, regs.rax) != (self.context.rip, self.context.rsp, self.context.rax)
        {
            return Err(TraceeError::Unexpected {
                tid: stopped.tid(),
                expected: "return to its context",
                got: format!(
                    "rip {:#x} rsp {:#x} rax {:#x}",
                    regs.rip, regs.rsp, regs.rax
                ),
            });
        }
        let Some(undecided) = self.undecided else {
            return Ok(stopped);
        };
        // At the exit of a call the kernel decides nothing, on the way out of this stop it does.
        let (stopped, _) = stopped
            .resume_into_interrupt()?
            .expect("stand still in its context", |wait| {
                matches!(wait, Wait::Interrupted | Wait::GroupStop(_))
            })?;
        let mut regs = stopped.registers()?;
        if undecided.is_ahead(&regs) {
            undecided.leave_to_kernel(&mut regs);
            stopped.set_registers(&regs)?;
        }
        Ok(stopped)
    }

    /// Aims the thread at the two questions that only it can be asked
    /// ([`Context::complete`]), whose answers it leaves at `answers`; it is still stopped. Once resumed it
    /// needs no tracer, and stops nowhere on its way back to its context.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn into_query(self, answers: u64) -> Result<Stopped> {
        let nr = mvedsua_common::table::number("prctl");
        let args = [libc::PR_GET_TID_ADDRESS as u64, answers, 0, 0, 0, 0];
        self.aim(self.vdso.query_address(), nr, &args)?;
        Ok(self.thread)
    }

    /// Aims the thread at the double clone; it is still stopped. Once resumed it needs no tracer.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn into_clone(self) -> Result<Stopped> {
        let nr = mvedsua_common::table::number("clone");
        let flags = (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES) as u64;
        self.aim(self.vdso.clone_address(), nr, &[flags, 0, 0, 0, 0, 0])?;
        Ok(self.thread)
    }

    /// Aims the thread at the double clone into a pid namespace ([`Vdso::write_clone_into`]): that of the
    /// process with the id `init` as this thread sees it. The copy gets the id `own` there.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn into_clone_into(self, init: i32, own: i32) -> Result<Stopped> {
        let nr = mvedsua_common::table::number("clone");
        let tid = self.thread.tid();
        let (args, id) = (self.scratch, self.scratch + SCRATCH / 2);
        memory::write(tid, id, &own.to_le_bytes()).map_err(|_| no_room(tid))?;
        memory::write(tid, args, &clone_args(0, 0, id, 1)).map_err(|_| no_room(tid))?;
        // The middle process has a descriptor table of its own: it opens something.
        let flags = (libc::CLONE_VM | libc::CLONE_FS) as u64;
        let mut regs = self.context;
        regs.r12 = init as u64;
        regs.r13 = libc::CLONE_NEWPID as u64;
        regs.r14 = args;
        self.aim_with(regs, self.vdso.clone_address(), nr, &[flags, 0, 0, 0, 0, 0])?;
        Ok(self.thread)
    }
}

/// `struct rt_sigframe` of x86-64 without its return address and `siginfo`, as `rt_sigreturn` reads
/// it (arch/x86/include/asm/sigframe.h, uapi/asm/sigcontext.h).
struct Frame {
    bytes: Vec<u8>,
    scratch: u64,
    stack_pointer: u64,
}

/// `sizeof(struct ucontext)` of the kernel: flags, link, stack, sigcontext, mask.
const UCONTEXT: usize = 8 + 8 + 24 + 256 + 8;
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Offset of `struct _fpx_sw_bytes` in the legacy area.
const SW_RESERVED: usize = 464;

impl Frame {
    fn build(context: &Context) -> Self {
        let regs = &context.regs;
        let xsize = context.xstate.len();
        let top = regs.rsp - RED_ZONE;
        let fpstate = (top - (xsize as u64 + 4)) & !63;
        let stack_pointer = (fpstate - UCONTEXT as u64) & !15;
        let scratch = stack_pointer - SCRATCH;
        let mut bytes = vec![0u8; (top - scratch) as usize];

        let mut words = [0u64; UCONTEXT / 8];
        words[0] = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
        // uc_stack with flags that sigaltstack(2) rejects: rt_sigreturn then leaves the alternate
        // stack as it is (restore_altstack ignores the error).
        words[2..5].copy_from_slice(&[0, 0xffff, 0]);
        words[5..23].copy_from_slice(&[
            regs.r8,
            regs.r9,
            regs.r10,
            regs.r11,
            regs.r12,
            regs.r13,
            regs.r14,
            regs.r15,
            regs.rdi,
            regs.rsi,
            regs.rbp,
            regs.rbx,
            regs.rdx,
            regs.rax,
            regs.rcx,
            regs.rsp,
            regs.rip,
            regs.eflags,
        ]);
        words[23] = regs.cs | (regs.ss << 48);
        words[28] = fpstate;
        words[UCONTEXT / 8 - 1] = context.mask;
        let at = (stack_pointer - scratch) as usize;
        for (i, word) in words.iter().enumerate() {
            bytes[at + 8 * i..at + 8 * i + 8].copy_from_slice(&word.to_le_bytes());
        }

        let at = (fpstate - scratch) as usize;
        let state = &mut bytes[at..at + xsize + 4];
        state[..xsize].copy_from_slice(&context.xstate);
        // In the ptrace format the first word of the software bytes is the feature mask.
        let features: [u8; 8] = state[SW_RESERVED..SW_RESERVED + 8]
            .try_into()
            .expect("8 bytes");
        state[SW_RESERVED..SW_RESERVED + 4].copy_from_slice(&FP_XSTATE_MAGIC1.to_le_bytes());
        state[SW_RESERVED + 4..SW_RESERVED + 8].copy_from_slice(&(xsize as u32 + 4).to_le_bytes());
        state[SW_RESERVED + 8..SW_RESERVED + 16].copy_from_slice(&features);
        state[SW_RESERVED + 16..SW_RESERVED + 20].copy_from_slice(&(xsize as u32).to_le_bytes());
        state[xsize..xsize + 4].copy_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
        Self {
            bytes,
            scratch,
            stack_pointer,
        }
    }
}
