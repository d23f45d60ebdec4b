//! A process that takes the place of another has another id: it must find itself where that one was.

use super::following::{Following, Stop};
use super::pending_signals::{SIGINFO, numbers};
use crate::follower::Arrival;
use crate::sys::memory;
use crate::tracee::thread::Stopped;
use crate::tracee::{Naming, Result, inspect, signal_frame};

/// Calls that send a signal, and how many of their first arguments say to whom.
const SIGNAL_SENDERS: [(&str, usize); 5] = [
    ("kill", 1),
    ("tkill", 1),
    ("tgkill", 2),
    ("rt_sigqueueinfo", 1),
    ("rt_tgsigqueueinfo", 2),
];

/// Where `si_pid` is in a `siginfo_t`.
const SENDER: usize = 16;
/// `si_code`s of signals that a process has sent, whose `si_pid` says which (sigaction(2)): `SI_USER`, `SI_QUEUE`,
/// `SI_MESGQ`, `SI_TKILL`.
const SENT: [i32; 4] = [
    libc::SI_USER,
    libc::SI_QUEUE,
    libc::SI_MESGQ,
    libc::SI_TKILL,
];

/// Whether the `si_code` is that of a signal that a process has sent.
pub(super) fn is_sent(code: i32) -> bool {
    SENT.contains(&code)
}

/// A process that takes the place of another is another sender: a program that looks who has sent it a signal (libc
/// does, when it changes the users of all threads) must find itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renamed {
    /// The ids as the processes see them.
    pub(super) from: i32,
    pub(super) to: i32,
}

impl Renamed {
    /// Whether that is a signal that the process has sent to itself.
    fn concerns(self, info: &[u8; SIGINFO]) -> bool {
        is_sent(numbers(info).1) && info[SENDER..SENDER + 4] == self.from.to_le_bytes()
    }

    pub(super) fn rename(self, info: &mut [u8; SIGINFO]) {
        if self.concerns(info) {
            info[SENDER..SENDER + 4].copy_from_slice(&self.to.to_le_bytes());
        }
    }

    /// In the frames of the handlers in which a stopped thread is, those near the top of its stack: it may be about to
    /// look.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn rename_in_frames(self, thread: &Stopped) -> Result<()> {
        /// As far as is looked, in bytes.
        const MOST: usize = 64 << 10;
        let tid = thread.tid();
        for frame in signal_frame::all_of(thread, MOST)? {
            if (1..=64).contains(&numbers(&frame.info).0) && self.concerns(&frame.info) {
                let sender = frame.at + (signal_frame::INFO + SENDER) as u64;
                memory::write(tid, sender, &self.to.to_le_bytes()).named("write a frame", tid)?;
            }
        }
        Ok(())
    }
}

impl Following {
    /// A thread is about to send a signal to its own process, whose ids it has looked up before: they are its own now.
    pub(super) fn rename_receiver(
        &self,
        pair: usize,
        thread: &Stopped,
        again: &Arrival,
        renamed: Renamed,
    ) -> std::result::Result<(), Stop> {
        let ids = SIGNAL_SENDERS
            .iter()
            .find(|(name, _)| *name == again.call.name());
        let Some((_, ids)) = ids else { return Ok(()) };
        let mut regs = thread.registers()?;
        let call = [
            u64::from(again.call.nr),
            again.call.args[0],
            again.call.args[1],
        ];
        let stands_before_it = regs.orig_rax == u64::MAX && [regs.rax, regs.rdi, regs.rsi] == call;
        let mut frame = None;
        if !stands_before_it {
            // Or a handler comes before it: its frame holds the registers for the call.
            let mut frames = signal_frame::all_of(thread, 1024)?.into_iter();
            frame = frames.find(|frame| frame.at == regs.rsp && frame.call == call);
            if frame.is_none() {
                return Ok(());
            }
        }
        let seen = |tid: i32| inspect::own_id(tid) as u64;
        let own = |id: u64| {
            if id == renamed.from as u64 {
                return renamed.to as u64;
            }
            let mut lanes = self.lanes.iter().filter(|lane| lane.pair == pair);
            let of = lanes.find(|lane| lane.follower.is_some() && seen(lane.leader) == id);
            of.and_then(|lane| lane.follower).map_or(id, seen)
        };
        let mut args = [call[1], call[2]];
        for arg in args.iter_mut().take(*ids) {
            *arg = own(*arg);
        }
        if let Some(frame) = frame {
            let bytes: Vec<u8> = args.iter().flat_map(|arg| arg.to_le_bytes()).collect();
            let at = frame.at + signal_frame::RDI as u64;
            return Ok(
                memory::write(thread.tid(), at, &bytes).named("write a frame", thread.tid())?
            );
        }
        [regs.rdi, regs.rsi] = args;
        Ok(thread.set_registers(&regs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_to_oneself_comes_from_the_successor() {
        let renamed = Renamed { from: 100, to: 200 };
        let sender = |code: i32, pid: i32| {
            let mut info = [0; SIGINFO];
            info[8..12].copy_from_slice(&code.to_le_bytes());
            info[SENDER..SENDER + 4].copy_from_slice(&pid.to_le_bytes());
            renamed.rename(&mut info);
            i32::from_le_bytes(info[SENDER..SENDER + 4].try_into().expect("4 bytes"))
        };
        assert_eq!(sender(libc::SI_TKILL, 100), 200);
        assert_eq!(sender(libc::SI_TKILL, 101), 101, "another's");
        assert_eq!(sender(libc::SI_TIMER, 100), 100, "a timer's id");
        assert_eq!(sender(libc::CLD_EXITED, 100), 100, "a child's");
    }
}
