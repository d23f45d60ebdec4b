//! Signals that wait in the old leader at a promotion, because they are blocked or came while it was stopped.
//! They are queued in the new one as they are: a process may queue for itself whatever it likes.

use mvedsua_common::table::number;

use super::lane::FAULTS;
use super::leader_events::QUEUED_BY_US;
use super::renamed::Renamed;
use crate::sys::{memory, ptrace};
use crate::tracee::inject::Plain;
use crate::tracee::inspect;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Stopped;
use crate::tracee::{Naming, Result};

/// Kernel's `siginfo_t`.
pub(super) const SIGINFO: usize = 128;

/// The signals that wait for a process whose threads are stopped, each in the order of its coming.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// For the process as a whole.
    shared: Vec<[u8; SIGINFO]>,
    /// For one thread.
    own: Vec<(i32, Vec<[u8; SIGINFO]>)>,
}

impl Pending {
    /// Reads them. Threads that are gone have none.
    pub(super) fn of(threads: &[i32], renamed: Renamed) -> Self {
        let carried = |tid, shared| {
            let mut all = ptrace::pending_signals(tid, shared).unwrap_or_default();
            all.retain(is_carried);
            all.iter_mut().for_each(|info| renamed.rename(info));
            all
        };
        Self {
            shared: threads
                .first()
                .map_or(Vec::new(), |tid| carried(*tid, true)),
            own: threads
                .iter()
                .map(|tid| (*tid, carried(*tid, false)))
                .filter(|(_, signals)| !signals.is_empty())
                .collect(),
        }
    }

    /// Queues them in process `pid` by calls that its stopped threads make, all of whose signals are blocked;
    /// `counterpart` says which thread of the old process one stands for.
    ///
    /// # Errors
    /// When a thread refuses.
    pub(super) fn queue(
        &self,
        pid: i32,
        threads: &mut [Stopped],
        vdso: &Vdso,
        counterpart: &dyn Fn(i32) -> Option<i32>,
    ) -> Result<()> {
        // By the ids that it sees itself.
        let own_pid = own_id(pid);
        for thread in threads.iter_mut() {
            let tid = thread.tid();
            let own_tid = own_id(tid);
            let old = counterpart(tid);
            for (_, signals) in self.own.iter().filter(|(of, _)| Some(*of) == old) {
                queue(thread, vdso, signals, &|signal, info| {
                    ("rt_tgsigqueueinfo", [own_pid, own_tid, signal, info, 0, 0])
                })?;
            }
            // For the process as a whole only its main thread may queue what it likes.
            if tid == pid {
                queue(thread, vdso, &self.shared, &|signal, info| {
                    ("rt_sigqueueinfo", [own_pid, signal, info, 0, 0, 0])
                })?;
            }
        }
        Ok(())
    }
}

/// `si_signo` and `si_code`.
pub(super) fn numbers(info: &[u8; SIGINFO]) -> (i32, i32) {
    let word = |at: usize| i32::from_le_bytes(info[at..at + 4].try_into().expect("4 bytes"));
    (word(0), word(8))
}

/// Faults are their process's own, its end is no signal to be handed on, and a stop by the kernel is the
/// recorder's.
fn is_carried(info: &[u8; SIGINFO]) -> bool {
    let (signal, code) = numbers(info);
    signal != libc::SIGKILL
        && !FAULTS.contains(&signal)
        && (signal != libc::SIGSTOP || code != libc::SI_KERNEL)
}

/// All signals of the stopped thread are blocked.
fn queue(
    thread: &mut Stopped,
    vdso: &Vdso,
    signals: &[[u8; SIGINFO]],
    call: &dyn Fn(u64, u64) -> (&'static str, [u64; 6]),
) -> Result<()> {
    let tid = thread.tid();
    let at = (thread.registers()?.rsp - 4096) & !63;
    for info in signals {
        memory::write(tid, at, info).named("write the new leader's stack", tid)?;
        let (name, args) = call(numbers(info).0 as u64, at);
        Plain { vdso }.call_ok(thread, name, number(name), &args)?;
    }
    Ok(())
}

/// Signals of the leader's that were `queued` for a thread of the follower and have not been delivered bear our
/// mark: they are taken out and queued as the leader had them. Others of the same numbers are nobody's.
///
/// # Errors
/// When the thread refuses.
pub(super) fn unmark(
    thread: &mut Stopped,
    pid: i32,
    vdso: &Vdso,
    queued: &[libc::siginfo_t],
    renamed: Renamed,
) -> Result<()> {
    if queued.is_empty() {
        return Ok(());
    }
    let tid = thread.tid();
    let at = (thread.registers()?.rsp - 4096) & !63;
    let (info_at, limit_at) = (at + 64, at + 8);
    let set = queued
        .iter()
        .fold(0u64, |set, info| set | 1 << (info.si_signo - 1));
    let mut left: Vec<&libc::siginfo_t> = queued.iter().collect();
    let mut found = Vec::new();
    loop {
        let mut bytes = [0u8; 64];
        bytes[..8].copy_from_slice(&set.to_le_bytes());
        memory::write(tid, at, &bytes).named("write the follower's stack", tid)?;
        let args = [at, info_at, limit_at, 8, 0, 0];
        let nr = number("rt_sigtimedwait");
        let plain = Plain { vdso };
        if plain.call_with(thread, "rt_sigtimedwait", nr, &args, &mut |_| Ok(()))? < 0 {
            break;
        }
        let mut info = [0u8; SIGINFO];
        memory::read(tid, info_at, &mut info).named("read a signal", tid)?;
        let (signal, code) = numbers(&info);
        let same = |other: &&libc::siginfo_t| other.si_signo == signal;
        if code == QUEUED_BY_US
            && let Some(at) = left.iter().position(same)
        {
            let mut info = ptrace::signal_bytes(left.remove(at));
            renamed.rename(&mut info);
            found.push(info);
        }
    }
    queue(thread, vdso, &found, &|signal, info| {
        (
            "rt_tgsigqueueinfo",
            [own_id(pid), own_id(tid), signal, info, 0, 0],
        )
    })
}

/// The id that a thread sees itself, as an argument.
fn own_id(tid: i32) -> u64 {
    inspect::own_id(tid) as u64
}

/// Blocks all signals of a stopped thread, so that none is delivered in the middle of an injected call. Returns
/// its mask.
///
/// # Errors
/// When it is gone.
pub(super) fn block(thread: &Stopped) -> Result<u64> {
    let tid = thread.tid();
    let mask = ptrace::signal_mask(tid).named("read the signal mask", tid)?;
    ptrace::set_signal_mask(tid, u64::MAX).named("block signals", tid)?;
    Ok(mask)
}

/// Undoes [`block`].
///
/// # Errors
/// When it is gone.
pub(super) fn unblock(thread: &Stopped, mask: u64) -> Result<()> {
    ptrace::set_signal_mask(thread.tid(), mask).named("set the signal mask", thread.tid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_and_our_own_stops_stay_behind() {
        let info = |signal: i32, code: i32| {
            let mut info = [0; SIGINFO];
            info[..4].copy_from_slice(&signal.to_le_bytes());
            info[8..12].copy_from_slice(&code.to_le_bytes());
            info
        };
        assert!(is_carried(&info(libc::SIGTERM, libc::SI_USER)));
        assert!(is_carried(&info(libc::SIGCHLD, libc::CLD_EXITED)));
        assert!(is_carried(&info(libc::SIGSTOP, libc::SI_USER)));
        assert!(!is_carried(&info(libc::SIGSTOP, libc::SI_KERNEL)));
        assert!(!is_carried(&info(libc::SIGKILL, libc::SI_USER)));
        assert!(!is_carried(&info(libc::SIGSEGV, 1)));
    }
}
