//! What a user reads when an update was rolled back.

use std::fmt::Write as _;

use mvedsua_common::event::{PART_MSG_DATA, PART_WHOLE};
use mvedsua_common::spec::{Arg, Dir, Len};
use mvedsua_common::table;

use super::following::{Following, Stop};
use super::lane::Item;
use super::readings::as_call;
use super::replay::record_of;
use super::rules::Copied;
use crate::follower::{Arrival, ProcessMemory};
use crate::matcher::{Call, Difference, Memory, Record, What};
use crate::report::call::format_call;
use crate::report::hex;
use crate::rules::call::{Call as _, OwnedCall};
use crate::rules::expected::{ExpectedCall, Want};
use crate::rules::tools::Divergence;
use crate::sys::{memory, ptrace};
use crate::tracee::thread::Stopped;
use crate::tracee::{inspect, symbol};

/// Bytes of a follower's buffer that a report reads; the printed part is shorter.
const SHOWN: usize = 4096;
/// Bytes of one text that are kept for `rules suggest`.
const RECORDED: usize = 64 << 10;
/// Calls of the leader, the divergent one included, that are kept for it.
const LOOKED_AHEAD: usize = 9;

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

/// The leader's call for `rules suggest`, at most so many bytes of each text.
fn owned(record: &Record<'_>) -> OwnedCall {
    let parts = record
        .parts()
        .filter(|part| matches!(part.flags, PART_WHOLE | PART_MSG_DATA));
    OwnedCall {
        nr: record.header.nr,
        args: record.header.args,
        ret: record.header.ret,
        tid: record.header.tid,
        seq: 0,
        parts: parts
            .map(|part| {
                (
                    part.arg,
                    part.data[..part.data.len().min(RECORDED)].to_vec(),
                )
            })
            .collect(),
    }
}

impl Following {
    /// The follower does not do what is expected of it: keeps what `rules suggest` needs, and says so.
    pub(super) fn divergence(
        &mut self,
        index: usize,
        arrival: &Arrival,
        difference: &Difference,
    ) -> Stop {
        self.counts.diverged += 1;
        let reading = self.next_reading(index);
        let expectation = match self.order.next(index) {
            _ if let Some(reading) = reading => {
                let name = table::syscall(as_call(&reading).nr).map_or("", |call| call.name);
                format!("the leader made {name}")
            }
            Some((Item::Expected(expected), _)) => {
                let name = table::syscall(expected.nr).map_or("an unknown call", |call| call.name);
                let rule = expected.rule.zip(self.rules.as_ref());
                let rule = rule.map(|(rule, rules)| rules.set.title(rule));
                match rule {
                    Some(rule) => format!("{rule} expects {name}"),
                    None => format!("the leader made {name}"),
                }
            }
            Some((Item::Call(event), _)) => {
                let call = table::syscall(event.header.nr);
                format!(
                    "the leader made {}",
                    call.map_or("an unknown call", |call| call.name)
                )
            }
            _ => "the leader made no call".into(),
        };
        let line = format!(
            "divergence in thread {}: {expectation}, the follower {}{}",
            self.lanes[index].leader,
            arrival.call.name(),
            in_words(difference, &arrival.call)
        );
        let report = self.divergence_report(index, arrival, Some(index), Some(difference));
        self.keep_divergence(index, arrival);
        Stop::RollBack(line, Some(report))
    }

    /// Keeps both calls, and what the leader did next, for `rules suggest`.
    pub(super) fn keep_divergence(&mut self, index: usize, arrival: &Arrival) {
        let pair = self.lanes[index].pair;
        let mut next = (0..LOOKED_AHEAD).filter_map(|n| {
            let item = self.order.nth(index, n)?;
            Some(owned(&record_of(&self.recorder, &self.fetched, item)?))
        });
        let leader = next.next();
        let next = next.collect();
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        let parts = (0..6u8)
            .filter_map(|at| {
                let text = crate::matcher::offered(&mut memory, &arrival.call, at, RECORDED)?;
                Some((at, text))
            })
            .collect();
        let follower = OwnedCall {
            nr: arrival.call.nr,
            args: arrival.call.args,
            parts,
            ..OwnedCall::default()
        };
        self.diverged = Some(Box::new(Divergence {
            reverse: self.reverse,
            leader,
            next,
            follower: Some(follower),
        }));
    }

    /// The whole report of a divergence: both calls decoded, the first differing byte, the events
    /// before, and where the follower is in its code.
    pub(super) fn divergence_report(
        &self,
        index: usize,
        arrival: &Arrival,
        expected: Option<usize>,
        difference: Option<&Difference>,
    ) -> String {
        let pair = self.lanes[index].pair;
        let lane = &self.lanes[index];
        let mut text = String::new();
        let _ = writeln!(
            text,
            "thread      leader {} / follower {}",
            lane.leader, arrival.tid
        );
        let reading = expected.and_then(|index| self.next_reading(index));
        let _ = match expected.and_then(|index| self.order.next(index)) {
            _ if let Some(reading) = reading => {
                let header = as_call(&reading);
                let line = format_call(header.nr, &header.args, Some(header.ret), &|_| None);
                writeln!(text, "leader      {line}")
            }
            Some((item, _)) if let Some(line) = self.leaders_call(item) => {
                writeln!(text, "leader      {line}")
            }
            Some((Item::Expected(_), _)) => {
                writeln!(text, "leader      (made no such call: a rule inserted it)")
            }
            _ => writeln!(text, "leader      (its thread ended)"),
        };
        if let Some((Item::Expected(expected), _)) =
            expected.and_then(|index| self.order.next(index))
        {
            let _ = writeln!(text, "expected    {}", self.in_a_rules_words(expected));
        }
        let line = self.followers_call(pair, &arrival.call);
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
            symbol::describe(self.pairs[pair].follower.pid, arrival.instruction_pointer)
        );
        self.append_history(&mut text);
        text
    }

    /// The leader's call with what it read and wrote, if this is one.
    fn leaders_call(&self, item: &Item) -> Option<String> {
        let record = record_of(&self.recorder, &self.fetched, item)?;
        let header = &record.header;
        Some(format_call(
            header.nr,
            &header.args,
            Some(header.ret),
            &|arg| record.data(arg),
        ))
    }

    /// A call that a follower has not made yet, with what its arguments point to.
    fn followers_call(&self, pair: usize, call: &Call) -> String {
        let own = self.follower_memory(pair, call);
        format_call(call.nr, &call.args, None, &|arg| {
            own.get(usize::from(arg)).and_then(Option::as_deref)
        })
    }

    /// What a rule expects: the call with the texts that it asks for, and the rule.
    fn in_a_rules_words(&self, expected: &ExpectedCall<Copied>) -> String {
        let args = expected.origin.as_ref().map_or([0; 6], |call| *call.args());
        let line = format_call(expected.nr, &args, None, &|arg| match expected
            .args
            .get(usize::from(arg))?
        {
            Want::Text(text) | Want::Prefix(text) => Some(text),
            _ => expected.output(arg),
        });
        let rule = expected.rule.zip(self.rules.as_ref());
        let rule = rule.map_or_else(
            || "an `ignore` line".into(),
            |(rule, rules)| rules.set.title(rule),
        );
        format!("{line}, by {rule}")
    }

    /// Bytes that the follower's arguments point to, for the report.
    fn follower_memory(&self, pair: usize, call: &Call) -> Vec<Option<Vec<u8>>> {
        let pid = self.pairs[pair].follower.pid;
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
        for (index, lane) in self.lanes.numbered() {
            let pair = lane.pair;
            let expected = match self.order.next(index) {
                Some((item @ Item::Call(event), turn)) => format!(
                    "{} is expected{}{}",
                    self.leaders_call(item).unwrap_or_else(|| "a call".into()),
                    if turn { "" } else { ", out of turn" },
                    if self.lacks_payload(event) {
                        ", its payload is not here yet"
                    } else {
                        ""
                    }
                ),
                Some((Item::Signal(signal), _)) => {
                    format!("signal {} is expected", signal.info.si_signo)
                }
                Some((Item::Reading(_), _)) => "a reading of a clock is expected".into(),
                Some((Item::Exit, _)) => "its end is expected".into(),
                Some((Item::Expected(expected), _)) => {
                    format!("by a rule {} is expected", self.in_a_rules_words(expected))
                }
                Some((Item::Verdict(stop), _)) => format!("a rule ends the update: {}", stop.why),
                None => "nothing is expected".into(),
            };
            let place = match (lane.follower, &lane.waiting) {
                (_, Some(arrival)) => format!(
                    "waits in {} at {}",
                    self.followers_call(pair, &arrival.call),
                    symbol::describe(self.pairs[pair].follower.pid, arrival.instruction_pointer)
                ),
                (Some(tid), None) => {
                    let pid = self.pairs[pair].follower.pid;
                    match inspect::current_call(pid, tid) {
                        Some(call) => format!(
                            "is in {} at {}",
                            format_call(call.nr, &call.args, None, &|_| None),
                            symbol::describe(pid, call.instruction_pointer)
                        ),
                        None => "runs".into(),
                    }
                }
                (None, None) => "has no follower thread".into(),
            };
            let _ = writeln!(
                text,
                "thread {}: {expected}; the follower {place}",
                lane.leader
            );
        }
        for index in (0..self.lanes.len()).filter(|index| !self.may_reap(*index)) {
            let (tid, child) = (self.lanes[index].leader, self.reaped(index));
            let _ = writeln!(text, "thread {tid} has waited for {child:?}");
        }
        self.append_history(&mut text);
        text
    }

    /// A crash of the follower: the signal, the address, and where it was.
    pub(super) fn crash_report(
        &self,
        pair: usize,
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
                symbol::describe(self.pairs[pair].follower.pid, regs.rip)
            );
            let mut frames =
                symbol::frames(self.pairs[pair].follower.pid, regs.rip, regs.rbp, regs.rsp);
            frames.truncate(16);
            for frame in frames {
                let _ = writeln!(text, "  called from {frame}");
            }
        }
        self.append_history(&mut text);
        text
    }
}
