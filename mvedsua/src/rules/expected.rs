//! What the follower is expected to do: the engine's output.

use std::sync::Arc;

use regex::bytes::Regex;

use super::ast::Repeat;
use super::call::Call;
use super::program::RuleId;

/// One step that the follower is expected to make, in the order of its thread.
#[derive(Debug)]
pub enum Expected<C> {
    /// The leader's call, untouched by any rule: compare and replay it as without rules.
    Same(C),
    /// A call that rules describe.
    Call(Box<ExpectedCall<C>>),
    /// The update is to end here.
    Stop(Stop),
}

/// A verdict that ends the update when the follower gets this far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The rule.
    pub rule: RuleId,
    /// True: roll back and try again later. False: roll back.
    pub retry: bool,
    /// The rule's words.
    pub why: String,
    /// The thread.
    pub tid: u32,
    /// Place in the global order of the call that led to it.
    pub seq: u64,
}

/// A call that the follower is expected to make, as a rule describes it.
#[derive(Debug)]
pub struct ExpectedCall<C> {
    /// The rule; `None` when only `ignore` lines had a part in it.
    pub rule: Option<RuleId>,
    /// System call number.
    pub nr: u16,
    /// The thread.
    pub tid: u32,
    /// Place in the global order. An inserted call has that of the call before it.
    pub seq: u64,
    /// The leader's call that it is made from; `None` for an inserted one.
    pub origin: Option<C>,
    /// What each argument of the follower must be.
    pub args: [Want; 6],
    /// What it returns.
    pub result: Gets,
    /// Bytes for the follower's memory in place of the leader's, by argument. Arguments that are
    /// not listed get what the leader got (nothing, without an origin).
    pub outputs: Vec<(u8, Vec<u8>)>,
    /// How often the follower may make it: [`Repeat::Optional`] and [`Repeat::Any`] may be skipped.
    pub repeat: Repeat,
    /// The text may come in several calls; see [`ExpectedCall::take_piece`].
    pub pieces: bool,
}

/// What an argument of the follower must be.
#[derive(Clone, Debug, Default)]
pub enum Want {
    /// Equal to the leader's, compared as the table says.
    #[default]
    Leader,
    /// Anything.
    Any,
    /// This number.
    Number(i64),
    /// These bytes.
    Text(Vec<u8>),
    /// Bytes that start with these.
    Prefix(Vec<u8>),
    /// Equal to the leader's but for what the expressions match.
    Noise(Vec<Arc<Regex>>),
}

impl PartialEq for Want {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leader, Self::Leader) | (Self::Any, Self::Any) => true,
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Text(a), Self::Text(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Noise(a), Self::Noise(b)) => a
                .iter()
                .map(|r| r.as_str())
                .eq(b.iter().map(|r| r.as_str())),
            _ => false,
        }
    }
}

/// What the follower's call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gets {
    /// This: a value or `-errno`.
    Fixed(i64),
    /// As many bytes as the follower asked to write.
    Asked,
}

impl Want {
    /// Whether a number (a register that is no pointer) is accepted; `None` when it is to be
    /// compared with the leader's.
    #[must_use]
    pub fn accepts_number(&self, got: i64) -> Option<bool> {
        match self {
            Self::Leader => None,
            Self::Any => Some(true),
            Self::Number(wanted) => Some(*wanted == got),
            Self::Text(_) | Self::Prefix(_) | Self::Noise(_) => Some(false),
        }
    }

    /// Whether the bytes behind an argument are accepted; `None` when they are to be compared with
    /// the leader's as they are.
    #[must_use]
    pub fn accepts_text(&self, leader: Option<&[u8]>, got: &[u8]) -> Option<bool> {
        match self {
            Self::Leader => None,
            Self::Any => Some(true),
            Self::Text(wanted) => Some(wanted == got),
            Self::Prefix(wanted) => Some(got.starts_with(wanted)),
            Self::Noise(noise) => Some(leader.is_some_and(|l| equal_but_for(noise, l, got))),
            Self::Number(_) => Some(false),
        }
    }
}

impl<C: Call> ExpectedCall<C> {
    /// The leader's call with everything as it was.
    #[must_use]
    pub fn like(call: C, rule: Option<RuleId>) -> Self {
        Self {
            rule,
            nr: call.nr(),
            tid: call.tid(),
            seq: call.seq(),
            result: Gets::Fixed(call.ret()),
            origin: Some(call),
            args: Default::default(),
            outputs: Vec::new(),
            repeat: Repeat::Once,
            pieces: false,
        }
    }

    /// The bytes that the follower's memory gets at argument `arg`.
    #[must_use]
    pub fn output(&self, arg: u8) -> Option<&[u8]> {
        let own = self
            .outputs
            .iter()
            .find(|(at, _)| *at == arg)
            .map(|(_, bytes)| bytes.as_slice());
        own.or_else(|| self.origin.as_ref().and_then(|c| c.payload(arg)))
    }

    /// For a text that may come [in pieces](Self::pieces): takes `got` from its front. True when
    /// it was the next piece; the call is done once [`ExpectedCall::rest`] is empty.
    pub fn take_piece(&mut self, arg: u8, got: &[u8]) -> bool {
        match &mut self.args[usize::from(arg.min(5))] {
            Want::Text(text) if !got.is_empty() && text.starts_with(got) => {
                text.drain(..got.len());
                true
            }
            _ => false,
        }
    }

    /// What is left of a text that comes in pieces.
    #[must_use]
    pub fn rest(&self, arg: u8) -> &[u8] {
        match &self.args[usize::from(arg.min(5))] {
            Want::Text(text) => text,
            _ => &[],
        }
    }
}

impl<C: Call> Expected<C> {
    /// The thread that it is for.
    #[must_use]
    pub fn tid(&self) -> u32 {
        match self {
            Self::Same(call) => call.tid(),
            Self::Call(call) => call.tid,
            Self::Stop(stop) => stop.tid,
        }
    }

    /// Its place in the global order.
    #[must_use]
    pub fn seq(&self) -> u64 {
        match self {
            Self::Same(call) => call.seq(),
            Self::Call(call) => call.seq,
            Self::Stop(stop) => stop.seq,
        }
    }
}

/// True when two texts are equal apart from what the expressions match in each.
fn equal_but_for(noise: &[Arc<Regex>], leader: &[u8], follower: &[u8]) -> bool {
    if leader == follower {
        return true;
    }
    let (mut a, mut b) = (leader.to_vec(), follower.to_vec());
    for regex in noise {
        (a, b) = (without(regex, &a), without(regex, &b));
    }
    a == b
}

/// `text` with a NUL in place of every match, or of every capture of it.
fn without(regex: &Regex, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    let mut cut = |from: usize, to: usize| {
        if from >= at {
            out.extend_from_slice(&text[at..from]);
            out.push(0);
            at = to;
        }
    };
    if regex.captures_len() == 1 {
        for found in regex.find_iter(text) {
            cut(found.start(), found.end());
        }
    } else {
        for found in regex.captures_iter(text) {
            for group in found.iter().skip(1).flatten() {
                cut(group.start(), group.end());
            }
        }
    }
    out.extend_from_slice(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(text: &str) -> Vec<Arc<Regex>> {
        vec![Arc::new(Regex::new(text).expect("a regex"))]
    }

    #[test]
    fn noise_is_what_the_captures_take_and_nothing_else() {
        let want = Want::Noise(noise("pid=([0-9]+) t=([0-9]+)"));
        let leader = b"x pid=12 t=3 y".as_slice();
        assert_eq!(
            want.accepts_text(Some(leader), b"x pid=9999 t=44 y"),
            Some(true)
        );
        assert_eq!(
            want.accepts_text(Some(leader), b"x pid=9999 t=44 z"),
            Some(false)
        );
        assert_eq!(
            want.accepts_text(Some(leader), b"x pid= t=44 y"),
            Some(false)
        );
        let whole = Want::Noise(noise("[0-9]+"));
        assert_eq!(whole.accepts_text(Some(b"a1b22"), b"a333b4"), Some(true));
        assert_eq!(whole.accepts_text(Some(b"a1b22"), b"a333b"), Some(false));
    }
}
