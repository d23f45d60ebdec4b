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
    /// That call.
    pub undecided: Option<Undecided>,
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

/// `-ERESTARTNOHAND`: the call ends with `EINTR` if a handler runs, else it is made again.
const RESTART_UNLESS_HANDLED: i64 = -514;
/// `-ERESTART_RESTARTBLOCK`: the same, but what is made again is kept by the kernel (the time that is left), and lost
/// with the next call that the thread makes.
const RESTART_FROM_BLOCK: i64 = -516;
/// The call has ended with `EINTR`, as far as the kernel is concerned.
const INTERRUPTED: i64 = -(libc::EINTR as i64);
/// Length of the `syscall` instruction.
const SYSCALL: u64 = 2;

/// A call that our stop interrupted. Whether it is made again or ends with `EINTR` the kernel decides when it knows
/// whether a handler runs first (`arch_do_signal_or_restart`, `handle_signal`): it looks at the registers that a
/// thread has when it goes on from the stop of an interrupt, or of a signal's delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// Address of its `syscall` instruction.
    at: u64,
    nr: u64,
    /// One of [`ERESTART`].
    code: i64,
}

impl Undecided {
    /// The call in which the thread stands. `genuine_signal_waits` is asked only if it matters (`epoll_wait` and the
    /// like are never made again by the kernel: they have ended with `EINTR` because of us, or of a signal): the
    /// answer costs a look into `/proc`.
    pub fn of(regs: &Registers, genuine_signal_waits: impl FnOnce() -> bool) -> Option<Self> {
        let (nr, result) = (regs.orig_rax, regs.rax as i64);
        if (nr as i64) < 0 {
            return None;
        }
        let code = if result == RESTART_FROM_BLOCK {
            RESTART_UNLESS_HANDLED
        } else if ERESTART.contains(&result) {
            result
        } else if result == INTERRUPTED && can_be_made_again(nr) && !genuine_signal_waits() {
            RESTART_UNLESS_HANDLED
        } else {
            return None;
        };
        let at = regs.rip - SYSCALL;
        Some(Self { at, nr, code })
    }

    /// The kernel's `-ERESTART*`.
    #[must_use]
    pub const fn code(self) -> i64 {
        self.code
    }

    /// The thread is about to make the call again.
    #[must_use]
    pub const fn is_ahead(self, regs: &Registers) -> bool {
        regs.rip == self.at && regs.orig_rax == u64::MAX && regs.rax == self.nr
    }

    /// The same call of another thread, which [is about](Self::is_ahead) to make it, perhaps from elsewhere in another
    /// version. `None`: it is about to do something else.
    #[must_use]
    pub fn of_counterpart(self, regs: &Registers) -> Option<Self> {
        let there = Self {
            at: regs.rip,
            ..self
        };
        there.is_ahead(regs).then_some(there)
    }

    /// Puts a thread for which that [is so](Self::is_ahead) back into the call, for the kernel to decide. It must be in
    /// one of the two stops.
    pub const fn leave_to_kernel(self, regs: &mut Registers) {
        regs.rip += SYSCALL;
        regs.orig_rax = self.nr;
        regs.rax = self.code as u64;
    }
}

/// A call that has ended with `EINTR` has done nothing, but for this one: the descriptor is gone, and may be another's by
/// now.
fn can_be_made_again(nr: u64) -> bool {
    static CLOSE: std::sync::OnceLock<u16> = std::sync::OnceLock::new();
    nr != u64::from(*CLOSE.get_or_init(|| mvedsua_common::table::number("close")))
}

/// If a call was interrupted by our stop, puts the thread back on its `syscall` instruction, so
/// that it makes the call again and nobody sees a spurious `EINTR`: where a call is injected, or for a copy. A relative
/// time-out starts anew. `genuine_signal_waits` as for [`Undecided::of`].
pub fn rewind(
    regs: &mut Registers,
    genuine_signal_waits: impl FnOnce() -> bool,
) -> Option<Undecided> {
    let undecided = Undecided::of(regs, genuine_signal_waits);
    if undecided.is_some() {
        regs.rip -= SYSCALL;
        regs.rax = regs.orig_rax;
        regs.orig_rax = u64::MAX;
    }
    undecided
}

/// [`rewind`]s a stopped thread; returns its registers, and the call.
///
/// # Errors
/// When the thread is gone.
pub fn rewind_thread(thread: &Stopped, pid: i32) -> Result<(Registers, Option<Undecided>)> {
    let mut regs = thread.registers()?;
    let undecided = rewind(&mut regs, || {
        inspect::disturbing_signals(pid, thread.tid()) != 0
    });
    if undecided.is_some() {
        thread.set_registers(&regs)?;
    }
    Ok((regs, undecided))
}

/// A thread that goes on from the very stop that interrupted its call is left to the kernel, which knows of a signal
/// that comes until then (`rt_sigsuspend` made again after the handler would wait for a signal that was handled
/// already). Calls of which the kernel thinks that they have ended (`epoll_wait`) are made undecided, too. Returns the
/// call.
///
/// # Errors
/// When the thread is gone.
pub fn leave_to_kernel(thread: &Stopped, pid: i32) -> Result<Option<Undecided>> {
    let mut regs = thread.registers()?;
    let undecided = Undecided::of(&regs, || {
        inspect::disturbing_signals(pid, thread.tid()) != 0
    });
    if let Some(undecided) = undecided
        && !ERESTART.contains(&(regs.rax as i64))
    {
        regs.rax = undecided.code as u64;
        thread.set_registers(&regs)?;
    }
    Ok(undecided)
}

/// A thread that was stopped within a restartable sequence (rseq(2)) goes to where that begins anew, as the kernel would
/// have it: what is injected brings it out of the sequence unseen, since the kernel looks only at where it stands.
/// Returns whether it was within one. `registration` is the address of its `struct rseq`, or 0.
fn abort_restartable_sequence(pid: i32, registration: u64, regs: &mut Registers) -> bool {
    /// Offset of `rseq_cs` in `struct rseq`.
    const SEQUENCE: u64 = 8;
    if registration == 0 {
        return false;
    }
    let mut word = [0u8; 8];
    if memory::read(pid, registration + SEQUENCE, &mut word).is_err() || word == [0; 8] {
        return false;
    }
    // `struct rseq_cs`: version and flags, start, length, where to go.
    let mut sequence = [0u8; 32];
    if memory::read(pid, u64::from_le_bytes(word), &mut sequence).is_err() {
        return false;
    }
    let at = |at: usize| u64::from_le_bytes(sequence[at..at + 8].try_into().expect("8 bytes"));
    if regs.rip.wrapping_sub(at(8)) >= at(16) {
        return false;
    }
    regs.rip = at(24);
    memory::write(pid, registration + SEQUENCE, &[0; 8]).is_ok()
}

/// To be called before a signal is delivered to a thread that stands for it. One that the program
/// [ignores](inspect::has_no_effect) natively interrupts nothing; of a traced process it does, and what the kernel ends
/// with `EINTR` then (`epoll_wait` and the like) is left to it undecided, so that it is made again.
///
/// # Errors
/// When the thread is gone.
pub fn spare_from(signal: i32, pid: i32, tid: i32) -> Result<()> {
    let mut regs = ptrace::registers(tid).named("read registers", tid)?;
    if regs.rax as i64 == INTERRUPTED
        && let Some(undecided) = Undecided::of(&regs, || !inspect::has_no_effect(pid, tid, signal))
    {
        regs.rax = undecided.code as u64;
        ptrace::set_registers(tid, &regs).named("write registers", tid)?;
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
        let (mut regs, undecided) = rewind_thread(thread, pid)?;
        let rseq = ptrace::rseq_configuration(tid).named("read the rseq registration", tid)?;
        if undecided.is_none() && abort_restartable_sequence(pid, rseq.abi_pointer, &mut regs) {
            thread.set_registers(&regs)?;
        }
        Ok(Self {
            tid,
            own_id: inspect::ids(tid).last().copied().unwrap_or(tid),
            regs,
            undecided,
            xstate: ptrace::extended_state(tid).named("read the extended state", tid)?,
            mask: ptrace::signal_mask(tid).named("read the signal mask", tid)?,
            rseq,
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
        assert!(rewind(&mut interrupted, || false).is_some());
        assert_eq!(
            (interrupted.rip, interrupted.rax, interrupted.orig_rax),
            (0x1000, 232, u64::MAX)
        );

        let close = i64::from(mvedsua_common::table::number("close"));
        assert!(
            rewind(&mut regs(-4, close), || false).is_none(),
            "its descriptor is gone"
        );

        let mut restart = regs(-516, 35);
        assert!(rewind(&mut restart, || true).is_some());
        assert_eq!(restart.rax, 35);

        assert!(
            rewind(&mut regs(-4, 232), || true).is_none(),
            "a signal handler will run: EINTR is genuine"
        );
        assert!(
            rewind(&mut regs(-11, 0), || false).is_none(),
            "EAGAIN is a result"
        );
        assert!(
            rewind(&mut regs(-4, -1), || false).is_none(),
            "not in a call"
        );
    }

    #[test]
    fn a_rewound_call_is_left_to_the_kernel() {
        for (result, code) in [(-512, -512), (-514, -514), (-516, -514), (-4, -514)] {
            let mut now = regs(result, 232);
            let undecided = rewind(&mut now, || false).expect("interrupted");
            assert!(undecided.is_ahead(&now));
            undecided.leave_to_kernel(&mut now);
            assert_eq!((now.rip, now.rax as i64, now.orig_rax), (0x1002, code, 232));
            assert!(!undecided.is_ahead(&now));
        }
    }
}
