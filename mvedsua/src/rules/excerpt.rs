//! The start of a call or message, small enough to be kept for every firing of a rule.

use super::call::Call;
use super::matching::Fact;
use super::names::{self, Flow};

/// Bytes of text that are kept.
const KEPT: usize = 40;

/// What a rule applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Place of the leader's call in the global order.
    pub seq: u64,
    /// Its thread.
    pub tid: u32,
    /// System call number; of a message, none.
    pub nr: Option<u16>,
    /// Which way a message goes.
    flow: Option<Flow>,
    /// The descriptor; -1 without one.
    pub fd: i32,
    length: u32,
    text: [u8; KEPT],
}

impl Excerpt {
    /// The start of a call: the text that it transfers, else the first that it names.
    pub(super) fn of_call<C: Call>(call: &C) -> Self {
        let at = names::signature(call.nr()).and_then(|s| s.data.map(|(at, _)| at));
        let text = match at {
            Some(at) => call.payload(at),
            None => (0..6).find_map(|at| call.payload(at)),
        };
        let fd = Fact::Call(call).fd().unwrap_or(-1);
        Self::new(call.seq(), call.tid(), fd, text.unwrap_or(b"")).with(Some(call.nr()), None)
    }

    /// The start of a message.
    pub(super) fn of_message(flow: Flow, fd: i64, text: &[u8], seq: u64, tid: u32) -> Self {
        Self::new(seq, tid, fd, text).with(None, Some(flow))
    }

    fn new(seq: u64, tid: u32, fd: i64, text: &[u8]) -> Self {
        let mut kept = [0; KEPT];
        let length = text.len().min(KEPT);
        kept[..length].copy_from_slice(&text[..length]);
        Self {
            seq,
            tid,
            nr: None,
            flow: None,
            fd: i32::try_from(fd).unwrap_or(-1),
            length: u32::try_from(text.len()).unwrap_or(u32::MAX),
            text: kept,
        }
    }

    fn with(mut self, nr: Option<u16>, flow: Option<Flow>) -> Self {
        (self.nr, self.flow) = (nr, flow);
        self
    }
}

/// In the manner of a rule: `read(5, "PUT k v\r\n")`, longer texts with dots.
impl std::fmt::Display for Excerpt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match (self.nr, self.flow) {
            (Some(nr), _) => names::call_by_number(nr).map_or("?", |call| call.name),
            (None, Some(Flow::Out)) => "reply",
            (None, _) => "request",
        };
        write!(f, "{name}(")?;
        if self.fd >= 0 {
            write!(f, "{}", self.fd)?;
        }
        if self.length > 0 {
            let whole = self.length as usize <= KEPT;
            let text = &self.text[..(self.length as usize).min(KEPT)];
            let comma = if self.fd >= 0 { ", " } else { "" };
            let dots = if whole { "" } else { "..." };
            write!(f, "{comma}{}{dots}", super::format::literal(text))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::call::OwnedCall;

    #[test]
    fn it_reads_like_a_rule() {
        let mut call = OwnedCall {
            args: [5, 0, 100, 0, 0, 0],
            parts: vec![(1, b"PUT k v\r\n".to_vec())],
            ..OwnedCall::default()
        };
        assert_eq!(
            Excerpt::of_call(&call).to_string(),
            r#"read(5, "PUT k v\r\n")"#
        );
        call.parts[0].1 = vec![b'a'; 100];
        let text = Excerpt::of_call(&call).to_string();
        assert_eq!(text, format!("read(5, \"{}\"...)", "a".repeat(KEPT)));
        let message = Excerpt::of_message(Flow::Out, 7, b"+OK", 1, 1);
        assert_eq!(message.to_string(), r#"reply(7, "+OK")"#);
    }
}
