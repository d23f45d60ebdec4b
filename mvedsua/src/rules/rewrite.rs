//! Right sides: from templates and bound variables to what the follower is expected to do.

use std::borrow::Cow;

use mvedsua_common::spec::{Arg, Dir};

use super::ast::Repeat;
use super::call::Call;
use super::diagnostic::Code;
use super::eval::Frame;
use super::expected::{ExpectedCall, Gets, Want};
use super::fault::Fault;
use super::matching::{Fact, payload};
use super::names::{Flow, Signature, Slot};
use super::program::{ArgTemplate, RuleId, Subject, Template};
use super::value::Value;

/// A call that is to be expected, before it owns the leader's call.
pub(super) struct Draft {
    pub(super) nr: u16,
    pub(super) args: [Want; 6],
    pub(super) result: Gets,
    pub(super) outputs: Vec<(u8, Vec<u8>)>,
    pub(super) repeat: Repeat,
    pub(super) pieces: bool,
}

impl Draft {
    /// The call to be expected, which owns the leader's call that it is made from.
    pub(super) fn expect<C: Call>(
        self,
        rule: RuleId,
        tid: u32,
        seq: u64,
        origin: Option<C>,
    ) -> ExpectedCall<C> {
        ExpectedCall {
            rule: Some(rule),
            nr: self.nr,
            tid,
            seq,
            origin,
            args: self.args,
            result: self.result,
            outputs: self.outputs,
            repeat: self.repeat,
            pieces: self.pieces,
        }
    }
}

/// What a template says about the transferred text and its length.
#[derive(Default)]
struct Transfer<'a> {
    text: Option<Cow<'a, [u8]>>,
    any_text: bool,
    length: Option<i64>,
    any_length: bool,
}

/// Evaluates one template. `origin` is the leader's call that it is made from; `last` says that no
/// other template of the rule comes after it.
pub(super) fn draft<'a>(
    frame: &mut Frame<'a>,
    template: &'a Template,
    origin: Option<&'a dyn Call>,
    last: bool,
) -> Result<Draft, Fault> {
    let Subject::Call(signature) = &template.subject else {
        return Err(Fault::new(Code::CANNOT_BUILD, "a message is no call"));
    };
    // What the statements assign is for this call alone.
    let saved = (!template.body.is_empty() && !last).then(|| frame.vars.clone());
    frame.run(&template.body)?;
    let draft = evaluate(frame, template, signature, origin);
    if let Some(saved) = saved {
        frame.vars = saved;
    }
    draft
}

fn evaluate<'a>(
    frame: &mut Frame<'a>,
    template: &'a Template,
    signature: &'a Signature,
    origin: Option<&'a dyn Call>,
) -> Result<Draft, Fault> {
    let unset = || {
        if origin.is_some() {
            Want::Leader
        } else {
            Want::Any
        }
    };
    let mut draft = Draft {
        nr: signature.call.nr,
        args: std::array::from_fn(|_| unset()),
        result: Gets::Fixed(origin.map_or(0, |o| o.ret())),
        outputs: Vec::new(),
        repeat: template.repeat,
        pieces: template.pieces,
    };
    let mut transfer = Transfer::default();
    for (slot, arg) in &template.args {
        let value = match arg {
            ArgTemplate::Any => None,
            ArgTemplate::Is(code) => Some(frame.eval(code)?),
        };
        place(&mut draft, &mut transfer, signature, *slot, value)?;
    }
    let result = match &template.result {
        Some(code) => Some(frame.int(code)?),
        None => None,
    };
    match signature.data {
        Some((data, Flow::In)) => filled(&mut draft, transfer, signature, data, origin, result)?,
        Some((data, Flow::Out)) => offered(&mut draft, transfer, signature, data, origin)?,
        None => {}
    }
    if let Some(result) = result
        && (result < 0 || !matches!(signature.data, Some((_, Flow::In))))
    {
        draft.result = Gets::Fixed(result);
    }
    Ok(draft)
}

fn place<'a>(
    draft: &mut Draft,
    transfer: &mut Transfer<'a>,
    signature: &Signature,
    slot: Slot,
    value: Option<Value<'a>>,
) -> Result<(), Fault> {
    match (slot, value) {
        (Slot::Length { .. }, None) => transfer.any_length = true,
        (Slot::Length { .. }, Some(Value::Int(length))) => transfer.length = Some(length),
        (Slot::Number(at) | Slot::Either(at), None) => draft.args[usize::from(at)] = Want::Any,
        (Slot::Number(at) | Slot::Either(at), Some(Value::Int(value))) => {
            draft.args[usize::from(at)] = Want::Number(value);
        }
        (Slot::Data(at), value) if signature.data.is_some_and(|(data, _)| data == at) => {
            match value {
                None => transfer.any_text = true,
                Some(Value::Text(text)) => transfer.text = Some(text),
                Some(other) => return Err(wrong(&other)),
            }
        }
        (Slot::Data(at), None) => {
            if is_input(signature, at) {
                draft.args[usize::from(at)] = Want::Any;
            }
        }
        (Slot::Data(at) | Slot::Either(at), Some(Value::Text(text))) => {
            if is_input(signature, at) {
                draft.args[usize::from(at)] = Want::Text(text.into_owned());
            } else {
                draft.outputs.push((at, text.into_owned()));
            }
        }
        (Slot::Result | Slot::Text, _) => {}
        (_, Some(other)) => return Err(wrong(&other)),
    }
    Ok(())
}

fn wrong(value: &Value<'_>) -> Fault {
    Fault::new(
        Code::VALUE,
        format!("an argument cannot be {}", value.kind()),
    )
}

fn is_input(signature: &Signature, at: u8) -> bool {
    !matches!(
        signature.call.args[usize::from(at)],
        Arg::Mem(Dir::Out | Dir::OutAlways, _)
            | Arg::Struct(Dir::Out | Dir::OutAlways, ..)
            | Arg::SockaddrOut(_)
            | Arg::LenWord
            | Arg::EpollEvents
    )
}

/// A text that the follower gets.
fn filled<'a>(
    draft: &mut Draft,
    transfer: Transfer<'a>,
    signature: &Signature,
    data: u8,
    origin: Option<&'a dyn Call>,
    result: Option<i64>,
) -> Result<(), Fault> {
    let length = transfer.length.or(result);
    if transfer.text.is_none() && length.is_none() {
        return Ok(());
    }
    if length.is_some_and(|l| l < 0) {
        return Ok(());
    }
    let own = origin
        .filter(|o| o.ret() > 0)
        .and_then(|o| payload(o, signature, data));
    let text = transfer.text.unwrap_or(Cow::Borrowed(own.unwrap_or(b"")));
    if signature.several {
        draft.outputs.push((data, text.into_owned()));
        draft.result = Gets::Fixed(number(signature, origin, result)?);
        return Ok(());
    }
    let text = cut(text, length)?;
    draft.result = Gets::Fixed(i64::try_from(text.len()).unwrap_or(i64::MAX));
    draft.outputs.push((data, text));
    Ok(())
}

/// How many messages a call returns whose text is another: as many as the leader's did, else one.
fn number(
    signature: &Signature,
    origin: Option<&dyn Call>,
    said: Option<i64>,
) -> Result<i64, Fault> {
    let number = origin.map(|o| o.ret()).filter(|ret| *ret > 0).unwrap_or(1);
    match said {
        Some(said) if said != number => Err(Fault::new(
            Code::CANNOT_BUILD,
            format!(
                "`{}` of {number} message(s) cannot return {said}: the number stays",
                signature.call.name
            ),
        )),
        _ => Ok(number),
    }
}

/// A text that the follower gives.
fn offered<'a>(
    draft: &mut Draft,
    transfer: Transfer<'a>,
    signature: &Signature,
    data: u8,
    origin: Option<&'a dyn Call>,
) -> Result<(), Fault> {
    let at = usize::from(data);
    if let Some(text) = transfer.text {
        if signature.several {
            draft.args[at] = Want::Text(text.into_owned());
            draft.result = asked(origin, signature);
            return Ok(());
        }
        if transfer.any_length || draft.pieces {
            let text = text.into_owned();
            draft.args[at] = if draft.pieces {
                Want::Text(text)
            } else {
                Want::Prefix(text)
            };
            free_size(draft, signature);
            draft.result = asked(origin, signature);
            return Ok(());
        }
        let text = cut(text, transfer.length)?;
        offer(
            &mut draft.args,
            &mut draft.result,
            signature,
            data,
            text,
            origin,
        );
    } else if transfer.any_text {
        draft.args[at] = Want::Any;
        free_size(draft, signature);
        draft.result = asked(origin, signature);
    }
    if let (Some(length), Some(size)) = (transfer.length, signature.size) {
        draft.args[usize::from(size)] = Want::Number(length);
    }
    if draft.repeat != Repeat::Once || origin.is_none() {
        draft.result = Gets::Asked;
    }
    Ok(())
}

fn cut(text: Cow<'_, [u8]>, length: Option<i64>) -> Result<Vec<u8>, Fault> {
    let Some(length) = length else {
        return Ok(text.into_owned());
    };
    match usize::try_from(length) {
        Ok(length) if length <= text.len() => {
            let mut text = text.into_owned();
            text.truncate(length);
            Ok(text)
        }
        _ => {
            let message = format!(
                "the length {length} does not fit its text of {} bytes",
                text.len()
            );
            Err(Fault::new(Code::LENGTH, message))
        }
    }
}

/// The size and the vectors of a write may be what they like.
fn free_size(draft: &mut Draft, signature: &Signature) {
    free(&mut draft.args, signature);
}

fn free(args: &mut [Want; 6], signature: &Signature) {
    match (signature.size, signature.data) {
        _ if signature.several => {}
        (Some(size), _) => args[usize::from(size)] = Want::Any,
        // The number of vectors stands after them.
        (None, Some((data, _)))
            if signature
                .call
                .names
                .get(usize::from(data) + 1)
                .is_some_and(|n| n.contains("cnt") || n.contains("vlen")) =>
        {
            args[usize::from(data) + 1] = Want::Any;
        }
        _ => {}
    }
}

/// True when the leader's write was taken by the kernel as a whole.
fn was_whole(origin: &dyn Call, signature: &Signature) -> bool {
    match signature.size {
        Some(size) => {
            u64::try_from(origin.ret()).is_ok_and(|ret| ret == origin.args()[usize::from(size)])
        }
        None if signature.several => signature.data.is_some_and(|(data, _)| {
            let offered = origin.args()[usize::from(data) + 1] as u32;
            origin.ret() == i64::from(offered)
        }),
        None => origin.ret() >= 0,
    }
}

pub(super) fn asked(origin: Option<&dyn Call>, signature: &Signature) -> Gets {
    match origin {
        Some(origin) if !was_whole(origin, signature) => Gets::Fixed(origin.ret()),
        _ => Gets::Asked,
    }
}

/// Expects `text` to be written. Where the leader's write failed or was cut short, so is this one.
fn offer(
    args: &mut [Want; 6],
    result: &mut Gets,
    signature: &Signature,
    data: u8,
    text: Vec<u8>,
    origin: Option<&dyn Call>,
) {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    free(args, signature);
    if let Some(size) = signature.size {
        args[usize::from(size)] = Want::Number(length);
    }
    let at = usize::from(data);
    match origin {
        Some(origin) if !was_whole(origin, signature) => {
            let taken = origin.ret().min(length);
            let seen = usize::try_from(taken).unwrap_or(0).min(text.len());
            args[at] = Want::Prefix(text[..seen].to_vec());
            *result = Gets::Fixed(taken);
        }
        _ => {
            args[at] = Want::Text(text);
            *result = Gets::Fixed(length);
        }
    }
}

/// Puts `text` in the place of what the leader's call transferred.
pub(super) fn put_text<C: Call>(call: &mut ExpectedCall<C>, signature: &Signature, text: Vec<u8>) {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    match signature.data {
        Some((data, Flow::In)) => {
            call.outputs.push((data, text));
            call.result = Gets::Fixed(length);
        }
        Some((data, Flow::Out)) => {
            let origin = call.origin.as_ref().map(|o| o as &dyn Call);
            offer(
                &mut call.args,
                &mut call.result,
                signature,
                data,
                text,
                origin,
            );
        }
        None => {}
    }
}

/// The same call with any arguments and texts.
pub(super) fn tolerate<C: Call>(call: &mut ExpectedCall<C>, signature: &Signature) {
    call.args = std::array::from_fn(|_| Want::Any);
    if matches!(signature.data, Some((_, Flow::Out))) {
        let result = asked(call.origin.as_ref().map(|o| o as &dyn Call), signature);
        call.result = result;
    }
}

/// The value of a message template.
pub(super) fn message<'a>(
    frame: &mut Frame<'a>,
    template: &'a Template,
    own: Option<&'a [u8]>,
) -> Result<Cow<'a, [u8]>, Fault> {
    let saved = (!template.body.is_empty()).then(|| frame.vars.clone());
    frame.run(&template.body)?;
    let mut text = Cow::Borrowed(own.unwrap_or(b""));
    for (slot, arg) in &template.args {
        if let (Slot::Text, ArgTemplate::Is(code)) = (slot, arg) {
            text = frame.text(code)?;
        }
    }
    if let Some(saved) = saved {
        frame.vars = saved;
    }
    Ok(text)
}

/// The call of a fact.
pub(super) fn call_of(fact: Fact<'_>) -> Option<&dyn Call> {
    match fact {
        Fact::Call(call) => Some(call),
        Fact::Message { .. } => None,
    }
}
