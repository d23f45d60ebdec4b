//! A call of the follower against what a rule made of the leader's, and what it gets for it.
//!
//! Where a rule says nothing, [`compare`](super::compare) and [`answer`](super::answer()) decide as
//! they do without rules.

use mvedsua_common::event::{PART_MSG_DATA, PART_WHOLE};
use mvedsua_common::spec::{Arg, Dir, Len, Syscall};
use mvedsua_common::table;

use super::answer::{answer_except, put, scatter};
use super::compare::{Comparison, Difference, What, equal};
use super::several::{self, Unfit};
use super::{Call, EpollData, Fault, Memory, Record, each_vector, msghdr, word};
use crate::rules::RuleError;
use crate::rules::call::Call as LeaderCall;
use crate::rules::carry::Carry;
use crate::rules::diagnostic::Code;
use crate::rules::expected::{ExpectedCall, Gets, Want};
use crate::rules::names::{self, Flow};

/// Most bytes of one text of the follower that are looked at.
const MOST: usize = 16 << 20;
/// Most vectors of one call: `UIO_MAXIOV`.
const MOST_VECTORS: u64 = 1024;

/// Holds a call of the follower against what is expected of it. `origin` is the leader's call from
/// which the expectation was made, if it was not inserted. Returns the piece that it brings of a text
/// that may come [in pieces](ExpectedCall::pieces).
///
/// # Errors
/// The first difference, in the order of the arguments.
pub fn expect<C: LeaderCall>(
    expected: &ExpectedCall<C>,
    origin: Option<&Record<'_>>,
    call: &Call,
    memory: &mut dyn Memory,
    scratch: &mut Vec<u8>,
) -> Result<Option<(u8, Vec<u8>)>, Difference> {
    let spec = table::syscall(call.nr).filter(|_| expected.nr == call.nr);
    let Some(spec) = spec else {
        return Err(Difference {
            arg: None,
            what: What::Call,
        });
    };
    let mut piece = None;
    for index in 0..6u8 {
        let at = usize::from(index);
        let arg = spec.arg_of(at, &call.args);
        if arg == Arg::Unused {
            continue;
        }
        let differs = |what| Difference {
            arg: Some(index),
            what,
        };
        let leader = expected.origin.as_ref().and_then(|o| o.payload(index));
        match &expected.args[at] {
            Want::Any => {}
            // Of a call that failed nothing was recorded in which there could be noise.
            want if matches!(want, Want::Leader)
                || matches!(want, Want::Noise(_)) && leader.is_none() =>
            {
                if let Some(record) = origin {
                    Comparison { memory, scratch }
                        .argument(
                            arg,
                            index,
                            record.header.args[at],
                            call.args[at],
                            record,
                            call,
                        )
                        .map_err(differs)?;
                }
            }
            want @ Want::Number(wanted) => {
                let got = register(arg, call.args[at]);
                if want.accepts_number(got) == Some(false) {
                    return Err(differs(What::Value(*wanted as u64, got as u64)));
                }
            }
            want => {
                let most = match want {
                    Want::Text(wanted) => wanted.len().saturating_add(64),
                    Want::Prefix(wanted) => wanted.len(),
                    _ => MOST,
                };
                // Of several messages, as many as the leader sent.
                let sent = origin.and_then(|record| u64::try_from(record.header.ret).ok());
                let got = text(
                    memory,
                    spec,
                    call,
                    at,
                    (sent.filter(|sent| *sent > 0), most),
                )
                .map_err(|Fault { address }| differs(What::Fault(address)))?;
                if expected.pieces && expected.rest(index).starts_with(&got) && !got.is_empty() {
                    piece = Some((index, got));
                } else if want.accepts_text(leader, &got) != Some(true) {
                    let wanted = match want {
                        Want::Text(wanted) | Want::Prefix(wanted) => wanted,
                        _ => leader.unwrap_or(b""),
                    };
                    let what = equal(wanted, &got).err();
                    return Err(differs(what.unwrap_or(What::Bytes(Vec::new(), got, 0))));
                }
            }
        }
    }
    Ok(piece)
}

/// A register as rules see it.
fn register(arg: Arg, raw: u64) -> i64 {
    match arg {
        Arg::Int | Arg::Fd => i64::from(raw as i32),
        _ => raw as i64,
    }
}

/// What an argument of the follower points to, at most `most` bytes; strings without their NUL, of several
/// messages the first `sent` (all, without).
fn text(
    memory: &mut dyn Memory,
    spec: &Syscall,
    call: &Call,
    at: usize,
    (sent, most): (Option<u64>, usize),
) -> Result<Vec<u8>, Fault> {
    let address = call.args[at];
    let value = |at: u8| usize::try_from(call.args[usize::from(at)]).unwrap_or(MOST);
    let size = match spec.arg_of(at, &call.args) {
        _ if address == 0 => 0,
        Arg::Path | Arg::Mem(_, Len::Str) => return string(memory, address),
        Arg::Mem(_, Len::Iov(count)) => {
            return gather(memory, address, call.args[usize::from(count)], most);
        }
        Arg::Mem(_, Len::Msg) => {
            let mut own = [0u8; msghdr::SIZE];
            memory.read(address, &mut own)?;
            return gather(
                memory,
                word(&own, msghdr::IOV),
                word(&own, msghdr::IOV_LEN),
                most,
            );
        }
        Arg::Mem(_, Len::Mmsg) => {
            let all = several::count(call, at as u8);
            let sent = sent.map_or(all, |sent| sent.min(all));
            return several::offered(memory, address, sent, most);
        }
        Arg::Mem(_, Len::Arg(at, times) | Len::RetCapped(at, times)) => {
            value(at).saturating_mul(usize::from(times))
        }
        Arg::Mem(_, Len::Fixed(len)) | Arg::Struct(_, len, _) => usize::from(len),
        Arg::Mem(_, Len::FdSet(at)) => value(at).div_ceil(64) * 8,
        Arg::SockaddrIn(at) => value(at).min(128),
        Arg::EpollEvent => 12,
        Arg::PollFds(at) => value(at).saturating_mul(8),
        _ => 0,
    };
    let mut bytes = vec![0; size.min(most).min(MOST)];
    memory.read(address, &mut bytes)?;
    Ok(bytes)
}

/// What an argument of a call gives to the kernel, at most `most` bytes; `None` if it gives nothing that
/// can be read.
pub fn offered(memory: &mut dyn Memory, call: &Call, at: u8, most: usize) -> Option<Vec<u8>> {
    let spec = table::syscall(call.nr)?;
    let gives = matches!(
        spec.arg_of(usize::from(at), &call.args),
        Arg::Path
            | Arg::Mem(Dir::In, _)
            | Arg::SockaddrIn(_)
            | Arg::Struct(Dir::In, ..)
            | Arg::EpollEvent
            | Arg::PollFds(_)
    );
    (gives && call.args[usize::from(at)] != 0)
        .then(|| text(memory, spec, call, usize::from(at), (None, most)).ok())?
}

/// A string without its NUL, read page by page: what follows it need not be mapped.
fn string(memory: &mut dyn Memory, address: u64) -> Result<Vec<u8>, Fault> {
    const PAGE: u64 = 4096;
    let mut bytes = Vec::new();
    while bytes.len() < mvedsua_common::spec::PATH_MAX {
        let from = address + bytes.len() as u64;
        let mut block = vec![0; (PAGE - from % PAGE) as usize];
        memory.read(from, &mut block)?;
        let end = block.iter().position(|byte| *byte == 0);
        bytes.extend_from_slice(&block[..end.unwrap_or(block.len())]);
        if end.is_some() {
            break;
        }
    }
    Ok(bytes)
}

pub(super) fn gather(
    memory: &mut dyn Memory,
    vectors: u64,
    count: u64,
    most: usize,
) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; total(memory, vectors, count)?.min(most).min(MOST)];
    let len = bytes.len();
    each_vector(
        memory,
        vectors,
        count,
        len,
        &mut |memory, address, range| memory.read(address, &mut bytes[range]),
    )?;
    Ok(bytes)
}

/// Bytes that an `iovec` array has room for.
pub(super) fn total(memory: &mut dyn Memory, vectors: u64, count: u64) -> Result<usize, Fault> {
    let mut total = 0usize;
    for index in 0..count.min(MOST_VECTORS) {
        let mut len = [0u8; 8];
        memory.read(vectors + index * 16 + 8, &mut len)?;
        let len = usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX);
        total = total.saturating_add(len);
    }
    Ok(total)
}

/// How many bytes the follower's call offers or has room for; how many messages, if it moves several.
fn size(memory: &mut dyn Memory, call: &Call) -> Result<usize, Fault> {
    let Some(signature) = names::signature(call.nr) else {
        return Ok(0);
    };
    if let Some(size) = signature.size {
        return Ok(usize::try_from(call.args[usize::from(size)]).unwrap_or(usize::MAX));
    }
    let Some((data, _)) = signature.data else {
        return Ok(0);
    };
    let address = call.args[usize::from(data)];
    match signature.call.arg_of(usize::from(data), &call.args) {
        Arg::Mem(_, Len::Iov(count)) => total(memory, address, call.args[usize::from(count)]),
        Arg::Mem(_, Len::Msg) => {
            let mut own = [0u8; msghdr::SIZE];
            memory.read(address, &mut own)?;
            total(memory, word(&own, msghdr::IOV), word(&own, msghdr::IOV_LEN))
        }
        Arg::Mem(_, Len::Mmsg) => Ok(several::count(call, data) as usize),
        _ => Ok(0),
    }
}

/// What became of a call that was as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The result: a value, or `-errno`.
    pub result: i64,
    /// False when the follower got what was [carried](Carry) only: the expected call is still to come.
    pub consumed: bool,
}

/// Why a call that was as expected could not be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The follower's memory cannot be written.
    Fault(Fault),
    /// A limit of the rules.
    Rule(RuleError),
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<RuleError> for Unanswered {
    fn from(error: RuleError) -> Self {
        Self::Rule(error)
    }
}

/// Gives the follower what a call that was as [expected](expect) brings.
///
/// # Errors
/// When its memory cannot be written, or too much would have to be carried to its next read.
pub fn give<C: LeaderCall>(
    expected: &ExpectedCall<C>,
    origin: Option<&Record<'_>>,
    call: &Call,
    memory: &mut dyn Memory,
    epoll: &EpollData,
    carry: &mut Carry,
) -> Result<Given, Unanswered> {
    let mut consumed = true;
    let mut result = match expected.result {
        Gets::Fixed(result) => result,
        Gets::Asked => i64::try_from(size(memory, call)?).unwrap_or(i64::MAX),
    };
    let stream = read_of(call);
    let several = several::argument(call);
    let mut own = 0u8;
    for (at, bytes) in &expected.outputs {
        if several == Some(*at) {
            continue;
        }
        own |= 1 << at;
        if stream.is_none_or(|(_, data)| data != *at) {
            let room = room(call, *at);
            put(
                call,
                *at,
                PART_WHOLE,
                &bytes[..bytes.len().min(room)],
                memory,
            )?;
        }
    }
    if let Some((fd, data)) = stream {
        own |= 1 << data;
        let length = usize::try_from(result).unwrap_or(0);
        let text = expected
            .output(data)
            .filter(|_| length > 0)
            .map(|text| &text[..text.len().min(length)]);
        let capacity = size(memory, call)?;
        let bytes = if names::only_looks(call.nr, &call.args) {
            let bytes = carry.peek(fd, text, capacity);
            consumed = text.is_some() || bytes.is_none();
            bytes
        } else {
            let delivery = carry.read(fd, text, capacity)?;
            consumed = delivery.consumed;
            (text.is_some() || !consumed).then_some(delivery.bytes)
        };
        if let Some(bytes) = bytes {
            store(call, data, &bytes, memory)?;
            result = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        }
    }
    if consumed && let Some(record) = origin {
        answer_except(record, call, memory, epoll, own)?;
        super::finish_messages(record, call, memory)?;
    }
    if let Some(at) = several {
        give_several(expected, origin, call, memory, (at, result))?;
    }
    Ok(Given { result, consumed })
}

/// What a rule changed of several messages.
fn give_several<C: LeaderCall>(
    expected: &ExpectedCall<C>,
    origin: Option<&Record<'_>>,
    call: &Call,
    memory: &mut dyn Memory,
    (at, result): (u8, i64),
) -> Result<(), Unanswered> {
    let address = call.args[usize::from(at)];
    let output = expected.outputs.iter().find(|(own, _)| *own == at);
    if let Some((_, text)) = output {
        return several::fill(memory, call, at, origin, text).map_err(|unfit| match unfit {
            Unfit::Fault(fault) => fault.into(),
            Unfit::Unclear(message) => RuleError {
                code: Code::CANNOT_BUILD,
                rule: format!("what rules made of `{}`", call.name()),
                message,
            }
            .into(),
        });
    }
    let changed = !matches!(expected.args[usize::from(at)], Want::Leader) || origin.is_none();
    if changed && let Some(Flow::Out) = names::signature(call.nr).and_then(|s| Some(s.data?.1)) {
        several::sent(memory, address, u64::try_from(result).unwrap_or(0))?;
    }
    Ok(())
}

/// The follower reads once more than is expected of it: gives it what is carried, if something is.
/// Returns the result.
///
/// # Errors
/// As [`give`].
pub fn give_carried(
    call: &Call,
    memory: &mut dyn Memory,
    carry: &mut Carry,
) -> Result<Option<i64>, Unanswered> {
    if carry.is_empty() {
        return Ok(None);
    }
    let Some((fd, data)) = read_of(call) else {
        return Ok(None);
    };
    let room = size(memory, call)?;
    let bytes = if names::only_looks(call.nr, &call.args) {
        carry.peek(fd, None, room)
    } else {
        carry.again(fd, room)?
    };
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    store(call, data, &bytes, memory)?;
    Ok(Some(i64::try_from(bytes.len()).unwrap_or(i64::MAX)))
}

/// Descriptor and buffer argument of a call that reads from a stream.
#[must_use]
pub fn read_of(call: &Call) -> Option<(i32, u8)> {
    let signature = names::signature(call.nr).filter(|signature| !signature.several)?;
    let fd = signature.fd?;
    match signature.data? {
        (data, Flow::In) => Some((call.args[usize::from(fd)] as i32, data)),
        _ => None,
    }
}

/// Puts what was read where the follower wants it.
fn store(call: &Call, data: u8, bytes: &[u8], memory: &mut dyn Memory) -> Result<(), Fault> {
    let address = call.args[usize::from(data)];
    let Some(spec) = table::syscall(call.nr) else {
        return Ok(());
    };
    match spec.arg_of(usize::from(data), &call.args) {
        _ if bytes.is_empty() => Ok(()),
        Arg::Mem(_, Len::Iov(count)) => {
            scatter(memory, address, call.args[usize::from(count)], bytes)
        }
        Arg::Mem(_, Len::Msg) => put(call, data, PART_MSG_DATA, bytes, memory),
        _ => memory.write(address, bytes),
    }
}

/// Bytes that a rule may put where an argument points.
fn room(call: &Call, at: u8) -> usize {
    let Some(spec) = table::syscall(call.nr) else {
        return 0;
    };
    let value = |at: u8| usize::try_from(call.args[usize::from(at)]).unwrap_or(0);
    match spec.arg_of(usize::from(at), &call.args) {
        Arg::Mem(_, Len::Arg(at, times) | Len::RetCapped(at, times)) => {
            value(at).saturating_mul(usize::from(times))
        }
        Arg::Mem(Dir::Out | Dir::InOut | Dir::OutAlways, Len::Fixed(len))
        | Arg::Struct(_, len, _) => usize::from(len),
        Arg::Mem(_, Len::FdSet(at)) => value(at).div_ceil(64) * 8,
        Arg::LenWord => 4,
        Arg::PollFds(at) => value(at).saturating_mul(8),
        Arg::EpollEvents => value(2).saturating_mul(12),
        // Their length word tells.
        Arg::SockaddrOut(_) | Arg::Mem(_, Len::Word(_)) => usize::MAX,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
