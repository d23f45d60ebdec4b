//! Everything that makes a thread what it is, read from a stopped leader thread and given to the
//! follower's copy of it.

use super::clock_slots;
use super::inject::{Guarded, Plain};
use super::stub::Vdso;
use super::thread::Stopped;
use super::{Naming, Result, TraceeError, inspect};
use crate::sys::ptrace::{self, Registers, RseqConfiguration};
use crate::sys::{memory, robust_list};

/// The largest `-ERESTART*` code and the smallest, as the kernel leaves them in `rax` of an
/// interrupted call (`include/linux/errno.h`).
pub(crate) const ERESTART: std::ops::RangeInclusive<i64> = -516..=-512;

/// Flag of an alternate signal stack that there is none.
const SS_DISABLE: u64 = libc::SS_DISABLE as u64;

/// The state of one thread, complete enough to go on from there in another process.
#[derive(Clone, Debug)]
pub struct Context {
    /// The thread it was read from.
    pub tid: i32,
    /// Its id in its own pid namespace.
    pub own_id: i32,
    /// General registers, an interrupted call rewound to its `syscall` instruction.
    pub regs: Registers,
    /// x87, SSE, AVX ... in the standard XSAVE format.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub mask: u64,
    /// Restartable sequences.
    pub rseq: RseqConfiguration,
    /// Robust futexes: head and length.
    pub robust: (u64, u64),
    /// `struct stack_t` of the alternate signal stack: address, flags, size.
    pub altstack: [u64; 3],
    /// Where the kernel clears the thread id at exit (`CLONE_CHILD_CLEARTID`).
    pub tid_address: u64,
    /// `comm`, at most 15 bytes.
    pub name: String,
}

/// The thread stands in a call that was interrupted and that the kernel makes again, or not.
pub(super) fn is_undecided(regs: &Registers) -> bool {
    regs.orig_rax as i64 >= 0 && ERESTART.contains(&(regs.rax as i64))
}

/// If a call was interrupted by our stop, puts the thread back on its `syscall` instruction, so
/// that it makes the call again and nobody sees a spurious `EINTR`. Returns whether it was.
///
/// The kernel restarts most interrupted calls by itself when the thread goes on from the same
/// stop, but not `epoll_wait` and the like, and none after a call was injected. A relative
/// time-out starts anew.
///
/// `genuine_signal_waits` is asked only if it matters: the answer costs a look into `/proc`.
pub fn rewind(regs: &mut Registers, genuine_signal_waits: impl FnOnce() -> bool) -> bool {
    if (regs.orig_rax as i64) < 0 {
        return false;
    }
    let result = regs.rax as i64;
    let interrupted = ERESTART.contains(&result)
        || (result == -i64::from(libc::EINTR) && !genuine_signal_waits());
    if interrupted {
        regs.rip -= 2;
        regs.rax = regs.orig_rax;
        regs.orig_rax = u64::MAX;
    }
    interrupted
}

/// [`rewind`]s a stopped thread; returns its registers.
///
/// # Errors
/// When the thread is gone.
pub fn rewind_thread(thread: &Stopped, pid: i32) -> Result<Registers> {
    let mut regs = thread.registers()?;
    if rewind(&mut regs, || {
        inspect::deliverable_signals(pid, thread.tid()) != 0
    }) {
        thread.set_registers(&regs)?;
    }
    Ok(regs)
}

/// The same if the kernel does not make the interrupted call again by itself when the thread goes on from this very
/// stop. Otherwise that is left to it: it knows whether a signal that comes until then ends the call
/// (`rt_sigsuspend` made again after the handler would wait for a signal that was handled already).
///
/// # Errors
/// When the thread is gone.
pub fn rewind_unrestarted(thread: &Stopped, pid: i32) -> Result<()> {
    if !is_undecided(&thread.registers()?) {
        rewind_thread(thread, pid)?;
    }
    Ok(())
}

impl Context {
    /// Reads all that can be read from outside. The thread must be in the stop of an interrupt;
    /// afterwards its registers are rewound.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn read(thread: &Stopped, pid: i32) -> Result<Self> {
        let tid = thread.tid();
        let regs = rewind_thread(thread, pid)?;
        Ok(Self {
            tid,
            own_id: inspect::ids(tid).last().copied().unwrap_or(tid),
            regs,
            xstate: ptrace::extended_state(tid).named("read the extended state", tid)?,
            mask: ptrace::signal_mask(tid).named("read the signal mask", tid)?,
            rseq: ptrace::rseq_configuration(tid).named("read the rseq registration", tid)?,
            robust: robust_list::get(tid).named("read the robust list", tid)?,
            altstack: [0; 3],
            tid_address: 0,
            name: String::new(),
        })
    }

    /// Asks the thread itself for the two things that only it can be asked: its alternate signal
    /// stack and its tid address (`prctl(PR_GET_TID_ADDRESS)`, `CONFIG_CHECKPOINT_RESTORE`). With
    /// `map_slots` it also maps the slots for clock readings; their address is returned, unless that
    /// failed.
    ///
    /// # Errors
    /// When the thread has no room on its stack, or is gone.
    pub fn complete(
        &mut self,
        thread: Stopped,
        vdso: &Vdso,
        pid: i32,
        map_slots: bool,
    ) -> Result<(Stopped, Option<u64>)> {
        let mut guarded = Guarded::begin(thread, self, vdso)?;
        let out = guarded.scratch();
        let nr = mvedsua_common::table::number;
        guarded.call(
            "prctl",
            nr("prctl"),
            &[libc::PR_GET_TID_ADDRESS as u64, out, 0, 0, 0, 0],
        )?;
        guarded.call("sigaltstack", nr("sigaltstack"), &[0, out + 8, 0, 0, 0, 0])?;
        let mut answer = [0u8; 32];
        memory::read(pid, out, &mut answer).named("read the injected calls' answers", self.tid)?;
        self.take_answer(&answer);
        let slots = if map_slots {
            clock_slots::map(&mut guarded).ok()
        } else {
            None
        };
        Ok((guarded.end()?, slots))
    }

    /// What the two calls of [`Context::complete`] stored one behind the other.
    pub(super) fn take_answer(&mut self, answer: &[u8]) {
        let word = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().expect("8 bytes"));
        self.tid_address = word(0);
        self.altstack = [word(8), word(16) & 0xffff_ffff, word(24)];
    }

    /// Gives this context to `thread`, a fresh thread of the follower.
    ///
    /// # Errors
    /// When the follower refuses one of the calls.
    pub fn apply(&self, mut thread: Stopped, vdso: &Vdso) -> Result<Stopped> {
        let nr = mvedsua_common::table::number;
        let tid = thread.tid();
        // The injected calls are made on the leader's registers, so that fs and gs are right.
        let mut regs = self.regs;
        regs.orig_rax = u64::MAX;
        thread.set_registers(&regs)?;
        let plain = Plain { vdso };
        let scratch = (self.regs.rsp - 4096) & !63;
        let pid = tid;
        // Set as "not in use": the fresh thread has no alternate stack yet and is not on one.
        let altstack = match self.altstack {
            // A fork has inherited one that it is not to have.
            [_, _, 0] => [0, SS_DISABLE, 0],
            [at, flags, size] => [at, flags & !1, size],
        };
        memory::write(pid, scratch, &words(&altstack)).named("write the follower's stack", tid)?;
        let mut name = [0u8; 16];
        let len = self.name.len().min(15);
        name[..len].copy_from_slice(&self.name.as_bytes()[..len]);
        memory::write(pid, scratch + 32, &name).named("write the follower's stack", tid)?;
        let mut call = |call: &'static str, args: [u64; 6]| -> Result<()> {
            plain.call_ok(&mut thread, call, nr(call), &args).map(drop)
        };
        call("sigaltstack", [scratch, 0, 0, 0, 0, 0])?;
        if self.robust.0 != 0 {
            call(
                "set_robust_list",
                [self.robust.0, self.robust.1, 0, 0, 0, 0],
            )?;
        }
        call("set_tid_address", [self.tid_address, 0, 0, 0, 0, 0])?;
        if self.rseq.abi_pointer != 0 {
            let rseq = self.rseq;
            call(
                "rseq",
                [
                    rseq.abi_pointer,
                    u64::from(rseq.abi_size),
                    0,
                    u64::from(rseq.signature),
                    0,
                    0,
                ],
            )?;
        }
        call(
            "prctl",
            [libc::PR_SET_NAME as u64, scratch + 32, 0, 0, 0, 0],
        )?;
        ptrace::set_extended_state(tid, &self.xstate).named("set the extended state", tid)?;
        ptrace::set_signal_mask(tid, self.mask).named("set the signal mask", tid)?;
        thread.set_registers(&regs)?;
        Ok(thread)
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A thread whose stack has no room below it is handled at another moment.
pub(super) fn no_room(tid: i32) -> TraceeError {
    TraceeError::Unsuitable(format!(
        "thread {tid} has no room on its stack for the injected call; try again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(rax: i64, orig_rax: i64) -> Registers {
        let mut regs = ptrace::zeroed_registers();
        regs.rip = 0x1002;
        regs.rax = rax as u64;
        regs.orig_rax = orig_rax as u64;
        regs
    }

    #[test]
    fn interrupted_calls_are_rewound_and_others_left_alone() {
        let mut interrupted = regs(-4, 232);
        assert!(rewind(&mut interrupted, || false));
        assert_eq!(
            (interrupted.rip, interrupted.rax, interrupted.orig_rax),
            (0x1000, 232, u64::MAX)
        );

        let mut restart = regs(-516, 35);
        assert!(rewind(&mut restart, || true));
        assert_eq!(restart.rax, 35);

        assert!(
            !rewind(&mut regs(-4, 232), || true),
            "a signal handler will run: EINTR is genuine"
        );
        assert!(!rewind(&mut regs(-11, 0), || false), "EAGAIN is a result");
        assert!(!rewind(&mut regs(-4, -1), || false), "not in a call");
    }
}
