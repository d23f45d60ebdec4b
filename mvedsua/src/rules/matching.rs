//! Does a rule's left side match what the leader did?

use std::borrow::Cow;

use memchr::memmem;
use mvedsua_common::spec::{Arg, Class, Len};

use super::ast::{Repeat, Scope};
use super::call::Call;
use super::eval::Frame;
use super::fault::Fault;
use super::names::{self, Flow, Signature, Slot};
use super::program::{ArgPattern, Pattern, Rule, Subject};
use super::value::Value;

/// What a pattern is held against: a call, or a message.
#[derive(Clone, Copy)]
pub(super) enum Fact<'a> {
    Call(&'a dyn Call),
    Message { flow: Flow, fd: i64, text: &'a [u8] },
}

impl<'a> Fact<'a> {
    /// The value in a slot.
    pub(super) fn value(self, slot: Slot, signature: Option<&Signature>) -> Value<'a> {
        let (call, signature) = match (self, signature) {
            (Self::Message { fd, text, .. }, _) => {
                return if slot == Slot::Text {
                    Value::text(text)
                } else {
                    Value::Int(fd)
                };
            }
            (Self::Call(call), Some(signature)) => (call, signature),
            (Self::Call(_), None) => return Value::Null,
        };
        let register = |at: u8| {
            let raw = call.args()[usize::from(at)];
            match signature.call.args[usize::from(at)] {
                Arg::Int | Arg::Fd => i64::from(raw as i32),
                _ => raw as i64,
            }
        };
        match slot {
            Slot::Number(at) => Value::Int(register(at)),
            Slot::Data(at) => payload(call, signature, at).map_or(Value::Null, Value::text),
            Slot::Either(at) => {
                payload(call, signature, at).map_or_else(|| Value::Int(register(at)), Value::text)
            }
            Slot::Length { filled: true, .. } => Value::Int(call.ret().max(0)),
            Slot::Length { arg, .. } => Value::Int(register(arg)),
            Slot::Result => Value::Int(call.ret()),
            Slot::Text => Value::Null,
        }
    }

    fn is(self, subject: &Subject) -> bool {
        match (self, subject) {
            (Self::Call(call), Subject::Call(signature)) => call.nr() == signature.call.nr,
            (Self::Message { flow, .. }, Subject::Message(wanted)) => flow == *wanted,
            _ => false,
        }
    }

    /// The first descriptor of the call.
    pub(super) fn fd(self) -> Option<i64> {
        match self {
            Self::Message { fd, .. } => Some(fd),
            Self::Call(call) => {
                let entry = names::call_by_number(call.nr())?;
                let at = entry.args.iter().position(|a| *a == Arg::Fd)?;
                Some(i64::from(call.args()[at] as i32))
            }
        }
    }

    fn is_clock(self) -> bool {
        match self {
            Self::Message { .. } => false,
            Self::Call(call) => {
                names::call_by_number(call.nr()).is_some_and(|c| c.class == Class::Time)
            }
        }
    }
}

/// The bytes behind an argument; strings without their final NUL.
pub(super) fn payload<'a>(call: &'a dyn Call, signature: &Signature, at: u8) -> Option<&'a [u8]> {
    let bytes = call.payload(at)?;
    let string = matches!(
        signature.call.args[usize::from(at)],
        Arg::Path | Arg::Mem(_, Len::Str)
    );
    Some(if string {
        bytes.strip_suffix(b"\0").unwrap_or(bytes)
    } else {
        bytes
    })
}

/// Holds one pattern against one fact. Variables are bound only when it matches.
pub(super) fn matches<'a>(
    frame: &mut Frame<'a>,
    pattern: &'a Pattern,
    fact: Fact<'a>,
) -> Result<bool, Fault> {
    if !fact.is(&pattern.subject) {
        return Ok(false);
    }
    frame.burn(1)?;
    let mark = frame.mark();
    // A repeated pattern binds afresh each time; what it had is put together afterwards.
    let before: Vec<_> = pattern
        .collects
        .iter()
        .map(|var| (*var, frame.unset(*var)))
        .collect();
    let matched = matches_once(frame, pattern, fact)?;
    if !matched {
        frame.undo(mark);
    }
    for (var, old) in before {
        if !matched {
            if let Some(old) = old {
                frame.set_var(var, old);
            }
            continue;
        }
        let joined = match (old, frame.var(var).cloned()) {
            (Some(Value::Text(a)), Some(Value::Text(b))) => {
                frame.burn((a.len() + b.len()) / 64)?;
                let mut text = a.into_owned();
                text.extend_from_slice(&b);
                Some(Value::Text(Cow::Owned(text)))
            }
            (Some(Value::Int(a)), Some(Value::Int(b))) => Some(Value::Int(a.saturating_add(b))),
            _ => None,
        };
        if let Some(joined) = joined {
            frame.set_var(var, joined);
        }
    }
    Ok(matched)
}

fn matches_once<'a>(
    frame: &mut Frame<'a>,
    pattern: &'a Pattern,
    fact: Fact<'a>,
) -> Result<bool, Fault> {
    let signature = match &pattern.subject {
        Subject::Call(signature) => Some(signature.as_ref()),
        Subject::Message(_) => None,
    };
    for (slot, arg) in &pattern.args {
        let value = fact.value(*slot, signature);
        let fits = match (arg, &value) {
            (ArgPattern::Exact(wanted), Value::Text(text)) => text.as_ref() == wanted.as_slice(),
            (ArgPattern::Prefix(wanted), Value::Text(text)) => text.starts_with(wanted),
            (ArgPattern::Exact(_) | ArgPattern::Prefix(_), _) => false,
            (ArgPattern::Is(code), _) => frame.eval(code)? == value,
            (ArgPattern::Var(var), _) => bind(frame, *var, value),
            (ArgPattern::Regex(regex, groups), Value::Text(text)) => {
                frame.burn(text.len() / 64)?;
                if groups.is_empty() {
                    regex.is_match(text)
                } else if let Some(captures) = regex.captures(text) {
                    groups.iter().all(|(group, var)| {
                        let taken = captures.get(*group).map_or(Value::Null, |m| {
                            Value::Text(super::value::part(text, m.start(), m.end()))
                        });
                        bind(frame, *var, taken)
                    })
                } else {
                    false
                }
            }
            (ArgPattern::Holes { start, holes, open }, Value::Text(text)) => {
                frame.burn(text.len() / 64)?;
                fill(frame, start, holes, *open, text)
            }
            (ArgPattern::Regex(..) | ArgPattern::Holes { .. }, _) => false,
        };
        if !fits {
            return Ok(false);
        }
    }
    frame.run(&pattern.guard)
}

/// Fills the holes of a text. The leftmost place for what follows a hole is always right: any other
/// leaves less for the holes after it.
#[expect(
    clippy::ptr_arg,
    reason = "a part of a borrowed text is borrowed as well, which a slice would not tell"
)]
fn fill<'a>(
    frame: &mut Frame<'a>,
    start: &[u8],
    holes: &[(u16, Vec<u8>)],
    open: bool,
    text: &Cow<'a, [u8]>,
) -> bool {
    if !text.starts_with(start) {
        return false;
    }
    let mut at = start.len();
    for (i, (var, after)) in holes.iter().enumerate() {
        let rest = &text[at..];
        let last = i + 1 == holes.len();
        let length = if last && !open {
            rest.strip_suffix(after.as_slice()).map(<[u8]>::len)
        } else if after.is_empty() {
            Some(rest.len())
        } else {
            memmem::find(rest, after)
        };
        let Some(length) = length else {
            return false;
        };
        let taken = Value::Text(super::value::part(text, at, at + length));
        if !bind(frame, *var, taken) {
            return false;
        }
        at += length + after.len();
    }
    true
}

fn bind<'a>(frame: &mut Frame<'a>, var: u16, value: Value<'a>) -> bool {
    match frame.var(var) {
        Some(known) => *known == value,
        None => {
            frame.set_var(var, value);
            true
        }
    }
}

/// How far a sequence has got.
pub(super) enum Found {
    /// It does not match and never will.
    No,
    /// It may match when more has come; the flag says that it would match as it is, too.
    Partial(Option<Vec<Vec<usize>>>),
    /// It matches: the positions of each pattern's calls.
    Yes(Vec<Vec<usize>>),
}

/// Holds all patterns of a rule against the facts from the first on. `fact(i)` is `None` for what
/// is already decided.
pub(super) fn sequence<'a>(
    frame: &mut Frame<'a>,
    rule: &'a Rule,
    count: usize,
    fact: impl Fn(usize) -> Option<Fact<'a>>,
) -> Result<Found, Fault> {
    let patterns = &rule.patterns;
    let mut taken: Vec<Vec<usize>> = Vec::new();
    let mut at = 0;
    let mut times = 0;
    let mut fd = None;
    let optional = |q: usize| matches!(patterns[q].repeat, Repeat::Optional | Repeat::Any);
    let more = |q: usize, times: usize| {
        times == 0 || matches!(patterns[q].repeat, Repeat::Any | Repeat::Some)
    };
    let complete = |at: usize, times: usize| {
        (times > 0 || optional(at)) && (at + 1..patterns.len()).all(optional)
    };
    for i in 0..count {
        let Some(found) = fact(i) else { continue };
        if !taken.is_empty() {
            let aside = match rule.scope {
                Scope::Fd => found.fd() != fd,
                Scope::Thread => {
                    found.is_clock() && !patterns[at..].iter().any(|p| found.is(&p.subject))
                }
            };
            if aside {
                frame.burn(1)?;
                continue;
            }
        }
        // What comes later is tried first, so that `a*, a` works.
        let mut hit = None;
        if times > 0 || optional(at) {
            for (q, pattern) in patterns.iter().enumerate().skip(at + 1) {
                if matches(frame, pattern, found)? {
                    hit = Some(q);
                    break;
                }
                if !optional(q) {
                    break;
                }
            }
        }
        if hit.is_none() && more(at, times) && matches(frame, &patterns[at], found)? {
            hit = Some(at);
        }
        let Some(q) = hit else {
            return Ok(if complete(at, times) && !taken.is_empty() {
                Found::Yes(filled(taken, patterns.len()))
            } else {
                Found::No
            });
        };
        if taken.is_empty() {
            fd = found.fd();
        }
        times = if q == at { times + 1 } else { 1 };
        at = q;
        if taken.len() <= q {
            taken.resize_with(q + 1, Vec::new);
        }
        taken[q].push(i);
        if at + 1 == patterns.len() && !more(at, times) {
            return Ok(Found::Yes(taken));
        }
    }
    if taken.is_empty() {
        return Ok(Found::No);
    }
    let whole = complete(at, times);
    Ok(Found::Partial(whole.then(|| filled(taken, patterns.len()))))
}

fn filled(mut taken: Vec<Vec<usize>>, len: usize) -> Vec<Vec<usize>> {
    taken.resize_with(len, Vec::new);
    taken
}
