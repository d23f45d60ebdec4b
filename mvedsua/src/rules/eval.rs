//! Expressions and statements at run time, within fuel and size limits.

use std::borrow::Cow;

use memchr::memmem;

use super::ast::FieldKind;
use super::diagnostic::Code;
use super::fault::Fault;
use super::framing;
use super::program::{Builtin, Code as Ex, Do, FD, Op, ParserCode, RuleSet, Taker, Var};
use super::state::States;
use super::value::{Value, part};

/// Steps that one decision (does a rule apply, and what does it make of it) may take. A step is a
/// node of an expression, a pattern, or 64 bytes of text.
pub const FUEL: u32 = 200_000;
/// Longest text that a rule may make, in bytes.
pub const MAX_TEXT: usize = 1 << 20;

type Run<T> = Result<T, Fault>;

/// The state of one attempt to apply one rule.
pub(super) struct Frame<'a> {
    pub(super) set: &'a RuleSet,
    pub(super) states: &'a States,
    pub(super) vars: Vec<Option<Value<'a>>>,
    /// Variables in the order in which they were set, so that a failed pattern can be undone.
    trail: Vec<Var>,
    /// State variables that the rule has set; stored only when it has applied as a whole.
    pub(super) writes: Vec<(usize, Value<'a>)>,
    pub(super) logs: Vec<String>,
    pub(super) fuel: u32,
    /// What a parser took apart last, and its results.
    taken_from: Option<(Taker, &'a [u8])>,
    taken: Vec<Value<'a>>,
    /// Descriptor whose connection state is meant when the rule has no `.`.
    pub(super) connection: i64,
}

impl<'a> Frame<'a> {
    pub(super) fn new(set: &'a RuleSet, states: &'a States, fuel: u32, connection: i64) -> Self {
        Self {
            set,
            states,
            vars: Vec::new(),
            trail: Vec::new(),
            writes: Vec::new(),
            logs: Vec::new(),
            fuel,
            taken_from: None,
            taken: Vec::new(),
            connection,
        }
    }

    pub(super) fn burn(&mut self, steps: usize) -> Run<()> {
        match u32::try_from(steps)
            .ok()
            .and_then(|s| self.fuel.checked_sub(s))
        {
            Some(left) => {
                self.fuel = left;
                Ok(())
            }
            None => Err(Fault::new(
                Code::FUEL,
                format!("it needs more than {FUEL} steps"),
            )),
        }
    }

    pub(super) fn var(&self, var: Var) -> Option<&Value<'a>> {
        self.vars.get(usize::from(var)).and_then(Option::as_ref)
    }

    pub(super) fn set_var(&mut self, var: Var, value: Value<'a>) {
        let at = usize::from(var);
        if self.vars.len() <= at {
            if self.vars.capacity() == 0 {
                // Most rules have few variables: this is the only allocation for them.
                self.vars.reserve((at + 1).max(8));
                self.trail.reserve(16);
            }
            self.vars.resize(at + 1, None);
        }
        self.vars[at] = Some(value);
        self.trail.push(var);
    }

    pub(super) fn mark(&self) -> usize {
        self.trail.len()
    }

    /// Unsets what was set since `mark`.
    pub(super) fn undo(&mut self, mark: usize) {
        for var in self.trail.drain(mark..) {
            self.vars[usize::from(var)] = None;
        }
    }

    pub(super) fn unset(&mut self, var: Var) -> Option<Value<'a>> {
        self.vars.get_mut(usize::from(var)).and_then(Option::take)
    }

    /// The connection that the rule is about.
    pub(super) fn connection(&self) -> i64 {
        match self.var(FD) {
            Some(Value::Int(fd)) => *fd,
            _ => self.connection,
        }
    }

    /// Runs statements; the answer is that of `return`.
    pub(super) fn run(&mut self, code: &'a [Do]) -> Run<bool> {
        for statement in code {
            self.burn(1)?;
            match statement {
                Do::Return(value) => return self.truth(value),
                Do::Set(var, value) => {
                    let value = self.eval(value)?;
                    self.set_var(*var, value);
                }
                Do::SetState(at, value) => {
                    let value = self.eval(value)?;
                    self.writes.push((*at, value));
                }
                Do::Log(value) => {
                    let text = self.text(value)?;
                    self.logs
                        .push(String::from_utf8_lossy(&part(&text, 0, 400)).into_owned());
                }
                Do::Take(taker, value, targets) => {
                    let results = match self.eval(value)? {
                        Value::Text(text) => self.take_once(*taker, text)?,
                        _ => Vec::new(),
                    };
                    for (at, var) in targets {
                        let result = results.get(*at).cloned().unwrap_or(Value::Null);
                        self.set_var(*var, result);
                    }
                    self.taken = results;
                }
            }
        }
        Ok(true)
    }

    pub(super) fn truth(&mut self, code: &'a Ex) -> Run<bool> {
        match self.eval(code)? {
            Value::Bool(value) => Ok(value),
            other => Err(mismatch("a truth value", &other)),
        }
    }

    pub(super) fn int(&mut self, code: &'a Ex) -> Run<i64> {
        match self.eval(code)? {
            Value::Int(value) => Ok(value),
            other => Err(mismatch("a number", &other)),
        }
    }

    pub(super) fn text(&mut self, code: &'a Ex) -> Run<Cow<'a, [u8]>> {
        match self.eval(code)? {
            Value::Text(value) => Ok(value),
            other => Err(mismatch("a text", &other)),
        }
    }

    pub(super) fn eval(&mut self, code: &'a Ex) -> Run<Value<'a>> {
        self.burn(1)?;
        Ok(match code {
            Ex::Value(value) => borrow(value),
            Ex::Var(var) => self.var(*var).cloned().unwrap_or(Value::Null),
            Ex::State(at) => match self.writes.iter().rev().find(|(a, _)| a == at) {
                Some((_, value)) => value.clone(),
                None => borrow(self.states.get(self.set, *at, self.connection())),
            },
            Ex::Join(parts) => {
                // Room for a line of text, so that it does not grow part by part.
                let mut text = Vec::with_capacity(128);
                for code in parts {
                    match self.eval(code)? {
                        Value::Text(bytes) => self.append(&mut text, &bytes)?,
                        Value::Int(value) => {
                            self.append(&mut text, value.to_string().as_bytes())?
                        }
                        other => return Err(mismatch("a text or a number", &other)),
                    }
                }
                Value::Text(Cow::Owned(text))
            }
            Ex::Not(inner) => Value::Bool(!self.truth(inner)?),
            Ex::Neg(inner) => Value::Int(self.int(inner)?.checked_neg().ok_or_else(overflow)?),
            Ex::Binary(op, left, right) => self.binary(*op, left, right)?,
            Ex::Matches(text, regex) => match self.eval(text)? {
                Value::Text(text) => {
                    self.burn(text.len() / 64)?;
                    Value::Bool(regex.is_match(&text))
                }
                _ => Value::Bool(false),
            },
            Ex::Call(function, args) => self.call(*function, args)?,
            Ex::Parse(taker, text) => match self.eval(text)? {
                Value::Text(text) => self
                    .take(*taker, &text)?
                    .into_iter()
                    .next()
                    .unwrap_or(Value::Null),
                _ => Value::Null,
            },
            Ex::Slice(inner, from, to) => {
                let text = self.text(inner)?;
                let mut side = |code: &'a Option<Box<Ex>>, default: usize| match code {
                    Some(code) => Ok(usize::try_from(self.int(code)?).unwrap_or(0)),
                    None => Ok(default),
                };
                let (from, to) = (side(from, 0)?, side(to, text.len())?);
                Value::Text(part(&text, from, to))
            }
        })
    }

    fn append(&mut self, text: &mut Vec<u8>, bytes: &[u8]) -> Run<()> {
        self.burn(bytes.len() / 64)?;
        if text.len() + bytes.len() > MAX_TEXT {
            return Err(Fault::new(
                Code::TEXT_LIMIT,
                format!("a text would have more than {MAX_TEXT} bytes"),
            ));
        }
        text.extend_from_slice(bytes);
        Ok(())
    }

    fn binary(&mut self, op: Op, left: &'a Ex, right: &'a Ex) -> Run<Value<'a>> {
        match op {
            Op::And => return Ok(Value::Bool(self.truth(left)? && self.truth(right)?)),
            Op::Or => return Ok(Value::Bool(self.truth(left)? || self.truth(right)?)),
            _ => {}
        }
        let (left, right) = (self.eval(left)?, self.eval(right)?);
        Ok(match (op, left, right) {
            (Op::Eq, a, b) => Value::Bool(a == b),
            (Op::Ne, a, b) => Value::Bool(a != b),
            (Op::Add, Value::Text(a), Value::Text(b)) => {
                let mut text = Vec::with_capacity(a.len() + b.len());
                self.append(&mut text, &a)?;
                self.append(&mut text, &b)?;
                Value::Text(Cow::Owned(text))
            }
            (op, Value::Int(a), Value::Int(b)) => match op {
                Op::Lt => Value::Bool(a < b),
                Op::Le => Value::Bool(a <= b),
                Op::Gt => Value::Bool(a > b),
                Op::Ge => Value::Bool(a >= b),
                Op::Sub => Value::Int(a.checked_sub(b).ok_or_else(overflow)?),
                Op::Mul => Value::Int(a.checked_mul(b).ok_or_else(overflow)?),
                Op::BitOr => Value::Int(a | b),
                Op::BitAnd => Value::Int(a & b),
                _ => Value::Int(a.checked_add(b).ok_or_else(overflow)?),
            },
            (_, a, b) => {
                return Err(mismatch(
                    "two values of one type",
                    if matches!(a, Value::Int(_)) { &b } else { &a },
                ));
            }
        })
    }

    fn call(&mut self, function: Builtin, args: &'a [Ex]) -> Run<Value<'a>> {
        if function == Builtin::Str {
            return Ok(match self.eval(&args[0])? {
                Value::Int(value) => Value::Text(value.to_string().into_bytes().into()),
                Value::Text(text) => Value::Text(text),
                other => return Err(mismatch("a number or a text", &other)),
            });
        }
        if function == Builtin::Int {
            return Ok(match self.eval(&args[0])? {
                // What a parser did not find is no number.
                Value::Null => Value::Null,
                Value::Text(text) => {
                    self.burn(text.len() / 64)?;
                    let text = std::str::from_utf8(text.trim_ascii()).ok();
                    let number = text.and_then(|text| text.parse().ok());
                    number.map_or(Value::Null, Value::Int)
                }
                other => return Err(mismatch("a text", &other)),
            });
        }
        let mut texts = Vec::with_capacity(args.len());
        for arg in args {
            let text = self.text(arg)?;
            self.burn(text.len() / 64)?;
            texts.push(text);
        }
        let find = |a: &[u8], b: &[u8]| memmem::find(a, b);
        let number = |n: usize| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
        let whole = |texts: &[Cow<'a, [u8]>]| texts.first().cloned().unwrap_or(Cow::Borrowed(b""));
        Ok(match (function, texts.as_slice()) {
            (Builtin::Len, [a]) => number(a.len()),
            (Builtin::Lower, [a]) => Value::Text(a.to_ascii_lowercase().into()),
            (Builtin::Upper, [a]) => Value::Text(a.to_ascii_uppercase().into()),
            (Builtin::Trim, [a]) => {
                let from = a.len() - a.trim_ascii_start().len();
                Value::Text(part(a, from, from + a.trim_ascii().len()))
            }
            (Builtin::StartsWith, [a, b]) => Value::Bool(a.starts_with(b)),
            (Builtin::EndsWith, [a, b]) => Value::Bool(a.ends_with(b)),
            (Builtin::Contains, [a, b]) => Value::Bool(find(a, b).is_some()),
            (Builtin::Find, [a, b]) => find(a, b).map_or(Value::Int(-1), number),
            (Builtin::Replace, [a, b, c]) => {
                let mut out = Vec::new();
                let mut rest: &[u8] = a;
                // The tables of the search are made once, not for each place that is found.
                let finder = memmem::Finder::new(b.as_ref());
                while !b.is_empty()
                    && let Some(at) = finder.find(rest)
                {
                    self.burn(1)?;
                    self.append(&mut out, &rest[..at])?;
                    self.append(&mut out, c)?;
                    rest = &rest[at + b.len()..];
                }
                self.append(&mut out, rest)?;
                Value::Text(out.into())
            }
            (Builtin::RespArray, texts) => {
                let mut out = Vec::new();
                self.append(&mut out, format!("*{}\r\n", texts.len()).as_bytes())?;
                for text in texts {
                    self.append(&mut out, format!("${}\r\n", text.len()).as_bytes())?;
                    self.append(&mut out, text)?;
                    self.append(&mut out, b"\r\n")?;
                }
                Value::Text(out.into())
            }
            (_, texts) => Value::Text(whole(texts)),
        })
    }

    /// The results of a parser. The guard and the right side of a rule often take the same text apart:
    /// what was taken last is kept.
    fn take_once(&mut self, taker: Taker, text: Cow<'a, [u8]>) -> Run<Vec<Value<'a>>> {
        let Cow::Borrowed(bytes) = text else {
            self.taken_from = None;
            return self.take(taker, &text);
        };
        let same = |(last, from): (Taker, &[u8])| last == taker && std::ptr::eq(from, bytes);
        if self.taken_from.is_some_and(same) {
            self.burn(1)?;
            return Ok(std::mem::take(&mut self.taken));
        }
        let results = self.take(taker, &text)?;
        self.taken_from = Some((taker, bytes));
        Ok(results)
    }

    /// The results of a parser; none when it does not match.
    fn take(&mut self, taker: Taker, text: &Cow<'a, [u8]>) -> Run<Vec<Value<'a>>> {
        self.burn(1 + text.len() / 64)?;
        let parser = match taker {
            Taker::Words => {
                let mut out = Vec::new();
                let mut at = 0;
                for word in text.split(u8::is_ascii_whitespace).take(256) {
                    if !word.is_empty() {
                        out.push(Value::Text(part(text, at, at + word.len())));
                    }
                    at += word.len() + 1;
                }
                return Ok(out);
            }
            Taker::Resp => {
                let elements = framing::resp_elements(text);
                return Ok(elements
                    .into_iter()
                    .map(|(a, b)| Value::Text(part(text, a, b)))
                    .collect());
            }
            Taker::Parser(at) => &self.set.parsers[at],
        };
        Ok(match &parser.body {
            ParserCode::Regex(regex, groups) => match regex.captures(text) {
                Some(captures) => groups
                    .iter()
                    .map(|group| {
                        captures
                            .get(*group)
                            .map_or(Value::Null, |m| Value::Text(part(text, m.start(), m.end())))
                    })
                    .collect(),
                None => Vec::new(),
            },
            ParserCode::Split(delimiter) => {
                let mut out = Vec::new();
                let mut from = 0;
                for i in 0..parser.results.len() {
                    let last = i + 1 == parser.results.len();
                    let end = memmem::find(&text[from..], delimiter);
                    match end {
                        Some(end) if !last => {
                            out.push(Value::Text(part(text, from, from + end)));
                            from += end + delimiter.len();
                        }
                        _ => {
                            out.push(Value::Text(part(text, from, text.len())));
                            break;
                        }
                    }
                }
                out
            }
            ParserCode::Fields(fields) => {
                let mut out = Vec::new();
                let mut from = 0;
                for field in fields {
                    let size = match field {
                        FieldKind::Bytes(n) => *n as usize,
                        FieldKind::Number(n, _) => usize::from(*n),
                        FieldKind::Rest => text.len() - from,
                    };
                    let Some(bytes) = text.get(from..from.saturating_add(size)) else {
                        return Ok(Vec::new());
                    };
                    out.push(match field {
                        FieldKind::Number(_, big) => {
                            let fold = |acc: u64, b: &u8| acc << 8 | u64::from(*b);
                            let value = if *big {
                                bytes.iter().fold(0, fold)
                            } else {
                                bytes.iter().rev().fold(0, fold)
                            };
                            Value::Int(i64::from_ne_bytes(value.to_ne_bytes()))
                        }
                        _ => Value::Text(part(text, from, from + size)),
                    });
                    from += size;
                }
                out
            }
        })
    }
}

fn borrow<'a>(value: &'a Value<'static>) -> Value<'a> {
    match value {
        Value::Text(text) => Value::text(text),
        Value::Null => Value::Null,
        Value::Bool(b) => Value::Bool(*b),
        Value::Int(i) => Value::Int(*i),
    }
}

fn mismatch(wanted: &str, found: &Value<'_>) -> Fault {
    Fault::new(
        Code::VALUE,
        format!("expected {wanted}, found {}", found.kind()),
    )
}

fn overflow() -> Fault {
    Fault::new(Code::VALUE, "a number does not fit 64 bits")
}
