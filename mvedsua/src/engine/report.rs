//! What a user reads when an update was rolled back.

use std::fmt::Write as _;

use mvedsua_common::spec::{Arg, Dir, Len};
use mvedsua_common::table;

use super::following::Following;
use super::lane::Item;
use super::replay::record;
use crate::follower::{Arrival, ProcessMemory};
use crate::matcher::{Call, Difference, Memory, What};
use crate::report::call::format_call;
use crate::report::hex;
use crate::sys::{memory, ptrace};
use crate::tracee::symbol;
use crate::tracee::thread::Stopped;

/// Bytes of a follower's buffer that a report reads; the printed part is shorter.
const SHOWN: usize = 4096;

/// The difference as the end of a sentence.
pub(super) fn in_words(difference: &Difference, call: &Call) -> String {
    let Some(arg) = difference.arg else {
        return String::new();
    };
    let name = table::syscall(call.nr)
        .and_then(|spec| spec.names.get(usize::from(arg)).copied())
        .unwrap_or("?");
    match &difference.what {
        What::Call => String::new(),
        What::Value(leader, follower) => {
            format!(" with another {name}: {leader} against {follower}")
        }
        What::Bytes(_, _, at) => format!(" with other bytes in {name}, first at offset {at}"),
        What::Fault(address) => format!(" whose {name} cannot be read at {address:#x}"),
    }
}

impl Following {
    /// The whole report of a divergence: both calls decoded, the first differing byte, the events
    /// before, and where the follower is in its code.
    pub(super) fn divergence_report(
        &self,
        index: usize,
        arrival: &Arrival,
        expected: Option<usize>,
        difference: Option<&Difference>,
    ) -> String {
        let lane = &self.lanes[index];
        let mut text = String::new();
        let _ = writeln!(
            text,
            "thread      leader {} / follower {}",
            lane.leader, arrival.tid
        );
        let _ = match expected.and_then(|index| self.order.next(index)) {
            Some((Item::Call(event), _)) => {
                let record = record(&self.recorder, &self.fetched, event);
                let header = &record.header;
                let line = format_call(header.nr, &header.args, Some(header.ret), &|arg| {
                    record.data(arg)
                });
                writeln!(text, "leader      {line}")
            }
            _ => writeln!(text, "leader      (its thread ended)"),
        };
        let own = self.follower_memory(&arrival.call);
        let line = format_call(arrival.call.nr, &arrival.call.args, None, &|arg| {
            own.get(usize::from(arg)).and_then(Option::as_deref)
        });
        let _ = writeln!(text, "follower    {line}");
        if let Some(Difference {
            what: What::Bytes(leader, follower, at),
            ..
        }) = difference
        {
            let _ = writeln!(
                text,
                "first difference at byte {at} (leader above, follower below):"
            );
            let _ = writeln!(text, "{}", hex::context(leader, follower, *at).trim_end());
        }
        let _ = writeln!(
            text,
            "follower at {}",
            symbol::describe(self.follower.pid, arrival.instruction_pointer)
        );
        self.append_history(&mut text);
        text
    }

    /// Bytes that the follower's arguments point to, for the report.
    fn follower_memory(&self, call: &Call) -> Vec<Option<Vec<u8>>> {
        let pid = self.follower.pid;
        (0..6)
            .map(|index| {
                let address = call.args[index];
                let arg = table::syscall(call.nr)?.arg_of(index, &call.args);
                let value = |at: u8| call.args[usize::from(at)] as usize;
                let len = match arg {
                    Arg::Path | Arg::Mem(Dir::In, Len::Str) => {
                        let mut text = memory::read_available(pid, address, 4096);
                        let end = text
                            .iter()
                            .position(|byte| *byte == 0)
                            .map_or(text.len(), |at| at + 1);
                        text.truncate(end);
                        return Some(text);
                    }
                    Arg::Mem(Dir::In, Len::RetCapped(at, times) | Len::Arg(at, times)) => {
                        value(at).checked_mul(usize::from(times))?
                    }
                    Arg::Mem(Dir::In, Len::Fixed(len)) | Arg::Struct(Dir::In, len, _) => {
                        usize::from(len)
                    }
                    Arg::SockaddrIn(at) => value(at).min(128),
                    Arg::EpollEvent => 12,
                    Arg::PollFds(at) => value(at).checked_mul(8)?,
                    _ => return None,
                };
                let mut bytes = vec![0; len.min(SHOWN)];
                ProcessMemory { pid }.read(address, &mut bytes).ok()?;
                Some(bytes)
            })
            .collect()
    }

    fn append_history(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "the {} calls before, equal on both sides:",
            self.history.len()
        );
        for past in &self.history {
            let line = format_call(past.nr, &past.args, Some(past.ret), &|_| None);
            let _ = writeln!(text, "  {:>7}  {line}", past.tid);
        }
    }

    /// A follower that hangs: where each of its threads is and what waits for it.
    pub(super) fn hang_report(&self) -> String {
        let mut text = String::new();
        for (index, lane) in (0..self.lanes.len()).map(|index| (index, &self.lanes[index])) {
            let expected = match self.order.next(index) {
                Some((Item::Call(event), turn)) => format!(
                    "{} is expected{}",
                    table::syscall(event.header.nr).map_or("a call", |call| call.name),
                    if turn { "" } else { ", out of turn" }
                ),
                Some((Item::Signal(signal), _)) => {
                    format!("signal {} is expected", signal.info.si_signo)
                }
                Some((Item::Exit, _)) => "its end is expected".into(),
                None => "nothing is expected".into(),
            };
            let place = match (lane.follower, &lane.waiting) {
                (_, Some(arrival)) => format!(
                    "waits in {} at {}",
                    arrival.call.name(),
                    symbol::describe(self.follower.pid, arrival.instruction_pointer)
                ),
                (Some(tid), None) => {
                    let file = format!("/proc/{}/task/{tid}/syscall", self.follower.pid);
                    let call = std::fs::read_to_string(file).unwrap_or_default();
                    format!("runs or sleeps in the kernel ({})", call.trim_end())
                }
                (None, None) => "has no follower thread".into(),
            };
            let _ = writeln!(
                text,
                "thread {}: {expected}; the follower {place}",
                lane.leader
            );
        }
        self.append_history(&mut text);
        text
    }

    /// A crash of the follower: the signal, the address, and where it was.
    pub(super) fn crash_report(
        &self,
        thread: &Stopped,
        signal: i32,
        info: &libc::siginfo_t,
    ) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "follower thread {} got signal {signal}", thread.tid());
        let address = ptrace::fault_address(info);
        let _ = writeln!(text, "fault address {address:#x}, code {}", info.si_code);
        if let Ok(regs) = thread.registers() {
            let _ = writeln!(
                text,
                "follower at {}",
                symbol::describe(self.follower.pid, regs.rip)
            );
            let mut frames = symbol::frames(self.follower.pid, regs.rip, regs.rbp, regs.rsp);
            frames.truncate(16);
            for frame in frames {
                let _ = writeln!(text, "  called from {frame}");
            }
        }
        self.append_history(&mut text);
        text
    }
}
