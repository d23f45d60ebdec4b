//! The test runner: cases that stand beside the rules.
//!
//! `given` is what the leader does; `expect` is what the follower then does. Each call of `expect`
//! is held against what the engine expects next, so that a case fails where a real follower would
//! diverge, or would get something else than the case says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::ast::{
    ArgKind, Expr, ExprKind, Repeat, Template, Test, TestLine, TestLineKind, TextPart,
};
use super::call::{Call, OwnedCall};
use super::engine::Engine;
use super::expected::{Expected, ExpectedCall, Gets, Want};
use super::format;
use super::names::{self, Flow, Signature, Slot};
use super::program::RuleSet;
use super::source::Span;
use super::value::Value;

/// Size of the buffers with which the leader reads, when a test does not say.
const BUFFER: u64 = 16_384;

/// How one case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// File and line.
    pub place: String,
    /// Why it failed; `None` when it passed.
    pub failure: Option<String>,
}

/// Runs all test cases of a rule set.
#[must_use]
pub fn run(set: &Arc<RuleSet>) -> Vec<Outcome> {
    set.tests
        .iter()
        .map(|(test, span, direction)| {
            let engine = Engine::new(Arc::clone(set), *direction);
            let failure = Case {
                set,
                engine,
                out: VecDeque::new(),
                now: Duration::ZERO,
                seq: 0,
            }
            .run(test)
            .err();
            let failure = failure
                .map(|(at, why)| format!("{}: {why}", set.sources.place(at.unwrap_or(*span))));
            Outcome {
                name: test.name.clone(),
                place: set.sources.place(*span),
                failure,
            }
        })
        .collect()
}

type Failed = (Option<Span>, String);

struct Case<'a> {
    set: &'a RuleSet,
    engine: Engine<OwnedCall>,
    out: VecDeque<Expected<OwnedCall>>,
    now: Duration,
    seq: u64,
}

impl Case<'_> {
    fn run(mut self, test: &Test) -> Result<(), Failed> {
        let wanted_error = test.expect.iter().find_map(|line| match &line.kind {
            TestLineKind::Error(code) => Some((line.span, code)),
            _ => None,
        });
        let mut result = Ok(());
        for line in &test.given {
            result = self.given(line)?;
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = self.engine.flush(self.now, &mut self.out);
        }
        match (result, wanted_error) {
            (Err(error), Some((_, code))) if error.code.to_string() == *code => return Ok(()),
            (Err(error), _) => return Err((None, error.to_string())),
            (Ok(()), Some((span, code))) => {
                return Err((Some(span), format!("no error {code} came")));
            }
            (Ok(()), None) => {}
        }
        for line in &test.expect {
            self.expect(line)?;
        }
        while let Some(next) = self.out.pop_front() {
            if !skippable(&next) {
                return Err((
                    None,
                    format!("the follower is expected to do more: {}", describe(&next)),
                ));
            }
        }
        Ok(())
    }

    fn given(&mut self, line: &TestLine) -> Result<Result<(), super::RuleError>, Failed> {
        let fail = |why: String| (Some(line.span), why);
        match &line.kind {
            TestLineKind::Connection(fd) => {
                let fd =
                    i32::try_from(fd.value).map_err(|_| fail("no file descriptor".to_owned()))?;
                self.engine.add_connection(fd);
                Ok(Ok(()))
            }
            TestLineKind::After(ms) => {
                self.now += Duration::from_millis(ms.value.unsigned_abs());
                Ok(self.engine.tick(self.now, &mut self.out))
            }
            TestLineKind::Call(thread, template) => {
                let signature = signature(template).map_err(fail)?;
                let call = self
                    .call(template, &signature, thread.as_ref().map_or(1, |n| n.value))
                    .map_err(fail)?;
                Ok(self.engine.feed(call, self.now, &mut self.out))
            }
            _ => Err(fail("this may only be expected, not given".to_owned())),
        }
    }

    fn value(&self, expr: &Expr) -> Result<Value<'static>, String> {
        let wrong = || format!("`{}` is not a fixed value", format::format_expr(expr));
        match &expr.kind {
            ExprKind::Int(number) => Ok(Value::Int(number.value)),
            ExprKind::Name(name) => self
                .set
                .consts
                .get(name)
                .cloned()
                .or_else(|| names::constant(name).map(Value::Int))
                .ok_or_else(wrong),
            ExprKind::Binary("|", left, right) => match (self.value(left)?, self.value(right)?) {
                (Value::Int(a), Value::Int(b)) => Ok(Value::Int(a | b)),
                _ => Err(wrong()),
            },
            ExprKind::Text(parts) => {
                let mut text = Vec::new();
                for part in parts {
                    match part {
                        TextPart::Literal(bytes) => text.extend_from_slice(bytes),
                        TextPart::Hole(name) => match self.set.consts.get(name) {
                            Some(Value::Text(bytes)) => text.extend_from_slice(bytes),
                            _ => return Err(wrong()),
                        },
                    }
                }
                Ok(Value::Text(text.into()))
            }
            _ => Err(wrong()),
        }
    }

    /// The arguments of a template by slot; `_` is left out.
    fn args(
        &self,
        template: &Template,
        signature: &Signature,
    ) -> Result<Vec<(Slot, Value<'static>)>, String> {
        let mut out = Vec::new();
        for (i, arg) in template.args.iter().flatten().enumerate() {
            let slot = match &arg.label {
                None => signature.slots.get(i).copied(),
                Some(label) => signature
                    .named(&label.text)
                    .map(|at| match signature.slots[at] {
                        Slot::Length { arg, .. } => Slot::Number(arg),
                        slot => slot,
                    }),
            };
            let Some(slot) = slot else {
                return Err(format!(
                    "`{}` has no such argument; it takes ({})",
                    signature.call.name,
                    signature.call.names.join(", ")
                ));
            };
            match &arg.kind {
                ArgKind::Any => {}
                ArgKind::SameFd => {
                    return Err("`.` has no meaning in a test: write the number".to_owned());
                }
                ArgKind::Value(expr) => out.push((slot, self.value(expr)?)),
            }
        }
        if let Some(result) = &template.result {
            out.push((Slot::Result, self.value(result)?));
        }
        Ok(out)
    }

    /// The leader's call that a line describes.
    fn call(
        &mut self,
        template: &Template,
        signature: &Signature,
        thread: i64,
    ) -> Result<OwnedCall, String> {
        self.seq += 1;
        let tid = u32::try_from(thread).map_err(|_| "no thread number".to_owned())?;
        let mut call = OwnedCall {
            nr: signature.call.nr,
            tid,
            seq: self.seq,
            ..OwnedCall::default()
        };
        let mut result = None;
        let mut length = None;
        for (slot, value) in self.args(template, signature)? {
            match (slot, value) {
                (Slot::Number(at) | Slot::Either(at), Value::Int(value)) => {
                    call.args[usize::from(at)] = value as u64
                }
                (Slot::Length { .. }, Value::Int(value)) => length = Some(value),
                (Slot::Data(at) | Slot::Either(at), Value::Text(text)) => {
                    call.parts.push((at, text.into_owned()))
                }
                (Slot::Result, Value::Int(value)) => result = Some(value),
                (_, value) => return Err(format!("{} cannot stand here", value.kind())),
            }
        }
        if let Some((data, _)) = signature.data.filter(|_| signature.several) {
            let number = &mut call.args[usize::from(data) + 1];
            *number = (*number).max(1);
            call.ret = result.unwrap_or(*number as i64);
        } else if let Some((data, flow)) = signature.data {
            let text = call
                .parts
                .iter_mut()
                .find(|(at, _)| *at == data)
                .map(|(_, text)| text);
            let has = text
                .as_ref()
                .map_or(0, |t| i64::try_from(t.len()).unwrap_or(0));
            let length = length.unwrap_or(has);
            call.ret = result.unwrap_or(length);
            if let Some(size) = signature.size.map(usize::from)
                && call.args[size] == 0
            {
                call.args[size] = if flow == Flow::In {
                    BUFFER
                } else {
                    length.unsigned_abs()
                };
            }
            // Only what was transferred is recorded.
            if let Some(text) = text {
                text.truncate(usize::try_from(call.ret).unwrap_or(0));
            }
        } else {
            call.ret = result.unwrap_or(0);
        }
        Ok(call)
    }

    fn expect(&mut self, line: &TestLine) -> Result<(), Failed> {
        let fail = |why: String| (Some(line.span), why);
        match &line.kind {
            TestLineKind::Stop(retry, why) => {
                let Value::Text(why) = self.value(why).map_err(fail)? else {
                    return Err(fail("the reason is a text".to_owned()));
                };
                match self.next(None) {
                    Some(Expected::Stop(stop))
                        if stop.retry == *retry && stop.why.as_bytes() == why.as_ref() =>
                    {
                        // Nothing after it matters.
                        self.out.clear();
                        Ok(())
                    }
                    Some(other) => Err(fail(format!("instead: {}", describe(&other)))),
                    None => Err(fail("nothing more is expected of the follower".to_owned())),
                }
            }
            TestLineKind::Call(thread, template) => {
                let signature = signature(template).map_err(fail)?;
                let args = self.args(template, &signature).map_err(fail)?;
                self.follower_call(thread.as_ref().map(|n| n.value), &signature, &args)
                    .map_err(fail)
            }
            TestLineKind::Error(_) => Ok(()),
            TestLineKind::Connection(_) | TestLineKind::After(_) => {
                Err(fail("this may only be given, not expected".to_owned()))
            }
        }
    }

    /// Takes what is expected next, of one thread or of all.
    fn next(&mut self, thread: Option<i64>) -> Option<Expected<OwnedCall>> {
        let is_of = |next: &Expected<OwnedCall>| thread.is_none_or(|t| t == i64::from(next.tid()));
        let at = self.out.iter().position(is_of)?;
        self.out.remove(at)
    }

    /// The follower makes a call: takes what is expected of it, skipping what may be missing.
    fn follower_call(
        &mut self,
        thread: Option<i64>,
        signature: &Signature,
        args: &[(Slot, Value<'static>)],
    ) -> Result<(), String> {
        let mut why = "nothing more is expected of the follower".to_owned();
        while let Some(next) = self.next(thread) {
            let mut call = match next {
                Expected::Same(call) => ExpectedCall::like(call, None),
                Expected::Call(call) => *call,
                Expected::Stop(stop) => {
                    return Err(format!("the rules end the update: {}", stop.why));
                }
            };
            match accepts(&mut call, signature, args) {
                Ok(()) => {
                    let data = signature.data.map_or(0, |(data, _)| data);
                    if call.repeat == Repeat::Any || (call.pieces && !call.rest(data).is_empty()) {
                        self.out.push_front(Expected::Call(Box::new(call)));
                    }
                    return Ok(());
                }
                Err(reason) => {
                    why = reason;
                    if !matches!(call.repeat, Repeat::Optional | Repeat::Any) {
                        return Err(why);
                    }
                }
            }
        }
        Err(why)
    }
}

fn signature(template: &Template) -> Result<Signature, String> {
    let name = &template.call.text;
    names::call(name)
        .map(Signature::of)
        .ok_or_else(|| format!("there is no system call `{name}`"))
}

fn skippable<C>(expected: &Expected<C>) -> bool {
    matches!(expected, Expected::Call(call) if matches!(call.repeat, Repeat::Optional | Repeat::Any))
}

/// What is expected, in a few words.
fn describe(expected: &Expected<OwnedCall>) -> String {
    match expected {
        Expected::Same(call) => {
            call_text(call.nr, call.parts.first().map(|(_, text)| text.as_slice()))
        }
        Expected::Call(call) => {
            let text = call.args.iter().find_map(|w| match w {
                Want::Text(text) | Want::Prefix(text) => Some(text.as_slice()),
                _ => None,
            });
            let text = text.or_else(|| call.outputs.first().map(|(_, text)| text.as_slice()));
            let own = call
                .origin
                .as_ref()
                .and_then(|o| o.parts.first())
                .map(|(_, text)| text.as_slice());
            call_text(call.nr, text.or(own))
        }
        Expected::Stop(stop) if stop.retry => format!("retry \"{}\"", stop.why),
        Expected::Stop(stop) => format!("terminate follower \"{}\"", stop.why),
    }
}

fn call_text(nr: u16, text: Option<&[u8]>) -> String {
    let name = names::call_by_number(nr).map_or("?", |c| c.name);
    match text {
        Some(text) => format!("{name} {}", format::literal(text)),
        None => name.to_owned(),
    }
}

fn accepts(
    call: &mut ExpectedCall<OwnedCall>,
    signature: &Signature,
    args: &[(Slot, Value<'static>)],
) -> Result<(), String> {
    if call.nr != signature.call.nr {
        let expected = names::call_by_number(call.nr).map_or("?", |c| c.name);
        return Err(format!("the follower is expected to call `{expected}`"));
    }
    let mut text_length = None;
    for (slot, value) in args {
        match (slot, value) {
            (Slot::Number(at) | Slot::Either(at), Value::Int(got)) => {
                number(call, signature, *at, *got)?
            }
            (Slot::Data(at) | Slot::Either(at), Value::Text(got)) => {
                text_length = Some(i64::try_from(got.len()).unwrap_or(i64::MAX));
                text(call, signature, *at, got)?;
            }
            (
                Slot::Length {
                    filled: false, arg, ..
                },
                Value::Int(got),
            ) => number(call, signature, *arg, *got)?,
            (Slot::Length { .. } | Slot::Result, Value::Int(got)) => match call.result {
                Gets::Fixed(result) if result != *got => {
                    return Err(format!("it returns {result}"));
                }
                _ => {}
            },
            (_, value) => return Err(format!("{} cannot stand here", value.kind())),
        }
    }
    if let (Some(length), Gets::Fixed(result)) = (text_length, call.result)
        && signature.data.is_some()
        && !signature.several
        && !args.iter().any(|(slot, _)| *slot == Slot::Result)
        // Of one that failed the text is not known.
        && result >= 0
        && length != result
        && !call.pieces
    {
        return Err(format!("it returns {result}, the text has {length} bytes"));
    }
    Ok(())
}

fn number(
    call: &ExpectedCall<OwnedCall>,
    signature: &Signature,
    at: u8,
    got: i64,
) -> Result<(), String> {
    let name = signature.call.names[usize::from(at)];
    let leader = call.origin.as_ref().map(|o| o.args[usize::from(at)] as i64);
    match call.args[usize::from(at)].accepts_number(got) {
        Some(true) => Ok(()),
        None if leader.is_none_or(|l| l == got) => Ok(()),
        None => Err(format!("`{name}` is {}", leader.unwrap_or(0))),
        Some(false) => Err(format!(
            "`{name}` is to be {:?}",
            call.args[usize::from(at)]
        )),
    }
}

fn text(
    call: &mut ExpectedCall<OwnedCall>,
    signature: &Signature,
    at: u8,
    got: &[u8],
) -> Result<(), String> {
    let given = matches!(signature.data, Some((data, Flow::In)) if data == at);
    if given || call.outputs.iter().any(|(arg, _)| *arg == at) {
        let output = call.output(at).unwrap_or(b"");
        return if output == got {
            Ok(())
        } else {
            Err(format!("the follower gets {}", format::literal(output)))
        };
    }
    if call.pieces {
        return if call.take_piece(at, got) {
            Ok(())
        } else {
            Err(format!(
                "the next piece starts {}",
                format::literal(call.rest(at))
            ))
        };
    }
    let leader = call.origin.as_ref().and_then(|o| o.payload(at));
    match call.args[usize::from(at)].accepts_text(leader, got) {
        Some(true) => Ok(()),
        // What a call that failed was to give is not known.
        None if call.origin.as_ref().is_some_and(|o| o.ret < 0) => Ok(()),
        None if leader.unwrap_or(b"") == got => Ok(()),
        None => Err(format!(
            "the follower is to give {}",
            format::literal(leader.unwrap_or(b""))
        )),
        Some(false) => Err(match &call.args[usize::from(at)] {
            Want::Text(text) => format!("the follower is to give {}", format::literal(text)),
            Want::Prefix(text) => format!(
                "the follower is to give a text that starts with {}",
                format::literal(text)
            ),
            _ => format!(
                "it differs from {} in more than noise",
                format::literal(leader.unwrap_or(b""))
            ),
        }),
    }
}
