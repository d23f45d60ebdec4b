use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::rules::ast::Direction;
use crate::rules::call::OwnedCall;
use crate::rules::engine::Engine;
use crate::rules::expected::Expected;
use crate::rules::loader::load_text;

/// One page of memory from address [`BASE`] on.
struct Page(Vec<u8>);

const BASE: u64 = 0x1000;

impl Page {
    fn with(text: &[u8]) -> Self {
        let mut page = Self(vec![0; 4096]);
        page.0[..text.len()].copy_from_slice(text);
        page
    }

    fn range(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Fault> {
        let start = address.checked_sub(BASE).ok_or(Fault { address })? as usize;
        let end = start.checked_add(len).ok_or(Fault { address })?;
        (end <= self.0.len())
            .then_some(start..end)
            .ok_or(Fault { address })
    }
}

impl Memory for Page {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let range = self.range(address, buffer.len())?;
        buffer.copy_from_slice(&self.0[range]);
        Ok(())
    }
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        let range = self.range(address, data.len())?;
        self.0[range].copy_from_slice(data);
        Ok(())
    }
}

fn nr(name: &str) -> u16 {
    names::call(name).expect("in the table").nr
}

fn leader(name: &str, text: &str) -> OwnedCall {
    let len = text.len() as u64;
    OwnedCall {
        nr: nr(name),
        args: [5, 0x7000, len, 0, 0, 0],
        ret: len as i64,
        parts: vec![(1, text.into())],
        ..OwnedCall::default()
    }
}

/// What a rule makes of the leader's call.
fn rule(rule: &str, call: OwnedCall) -> ExpectedCall<OwnedCall> {
    let set = load_text("t", rule).rules.expect("it checks");
    let mut engine = Engine::new(Arc::new(set), Direction::Forward);
    let mut out = VecDeque::new();
    engine
        .feed(call, Duration::ZERO, &mut out)
        .expect("no error");
    match out.pop_front() {
        Some(Expected::Call(call)) => *call,
        other => panic!("{other:?}"),
    }
}

fn write(fd: u64, len: usize) -> Call {
    Call {
        nr: nr("write"),
        args: [fd, BASE, len as u64, 0, 0, 0],
    }
}

#[test]
fn a_write_that_failed_has_no_noise_to_be_ignored() {
    let noise = r#"ignore write(_, text) in text /pid ([0-9]+)/;"#;
    let broken = names::error("EPIPE").expect("it is known");
    let failed = OwnedCall {
        ret: broken,
        parts: Vec::new(),
        ..leader("write", "500 OOPS: ")
    };
    let expected = rule(noise, failed);
    let record = Record {
        header: mvedsua_common::event::EventHeader {
            len: 0,
            nr: nr("write"),
            flags: 0,
            tgid: 1,
            tid: 1,
            ret: broken,
            args: [5, 0x7000, 10, 0, 0, 0],
            parts: u32::MAX,
            cpu: 0,
        },
        payload: &[],
    };
    let mut memory = Page::with(b"500 OOPS: ");
    let held = expect(
        &expected,
        Some(&record),
        &write(5, 10),
        &mut memory,
        &mut Vec::new(),
    );
    assert_eq!(held, Ok(None));
}

fn held(expected: &ExpectedCall<OwnedCall>, call: &Call, memory: &[u8]) -> Result<(), Difference> {
    let mut memory = Page::with(memory);
    expect(expected, None, call, &mut memory, &mut Vec::new()).map(|_| ())
}

#[test]
fn a_write_must_be_what_the_rule_says() {
    let expected = rule(
        r#"write(fd, "1.0") => write(fd, "1.10")"#,
        leader("write", "1.0"),
    );
    assert_eq!(held(&expected, &write(5, 4), b"1.10"), Ok(()));
    let difference = held(&expected, &write(5, 4), b"1.20").expect_err("other bytes");
    assert_eq!(difference.arg, Some(1));
    assert!(
        matches!(difference.what, What::Bytes(_, _, 2)),
        "{difference:?}"
    );
    // A longer one, another descriptor, another call.
    assert_eq!(
        held(&expected, &write(5, 5), b"1.100")
            .expect_err("more")
            .arg,
        Some(1)
    );
    assert_eq!(
        held(&expected, &write(6, 4), b"1.10").expect_err("fd").arg,
        Some(0)
    );
    let mut other = write(5, 4);
    other.nr = nr("sendto");
    assert_eq!(
        held(&expected, &other, b"1.10").expect_err("call").what,
        What::Call
    );
    // Unreadable memory is a difference, not an error.
    let mut bad = write(5, 4);
    bad.args[1] = 16;
    assert_eq!(
        held(&expected, &bad, b"").expect_err("unmapped").what,
        What::Fault(16)
    );
}

#[test]
fn a_path_is_compared_without_what_follows_it() {
    let mut open = OwnedCall {
        nr: nr("access"),
        args: [0x7000, 4, 0, 0, 0, 0],
        ret: -2,
        ..OwnedCall::default()
    };
    open.parts.push((0, b"/old\0".to_vec()));
    let expected = rule(r#"access("/old") as a => a("/newer")"#, open);
    let call = Call {
        nr: nr("access"),
        args: [BASE, 4, 0, 0, 0, 0],
    };
    assert_eq!(held(&expected, &call, b"/newer\0rubbish"), Ok(()));
    assert!(held(&expected, &call, b"/newer.\0").is_err());
    assert!(held(&expected, &call, b"/newe\0").is_err());
}

#[test]
fn vectors_are_one_text() {
    let mut writev = leader("writev", "abcd");
    writev.args[2] = 2;
    let expected = rule(r#"writev(., "abcd") as w => w(., "abXcd")"#, writev);
    let call = Call {
        nr: nr("writev"),
        args: [5, BASE, 2, 0, 0, 0],
    };
    let mut memory = Vec::new();
    for word in [BASE + 64, 3, BASE + 80, 2] {
        memory.extend_from_slice(&word.to_le_bytes());
    }
    memory.resize(96, 0);
    memory[64..67].copy_from_slice(b"abX");
    memory[80..82].copy_from_slice(b"cd");
    assert_eq!(held(&expected, &call, &memory), Ok(()));
    memory[81] = b'D';
    assert!(held(&expected, &call, &memory).is_err());
    // Lengths that no process can have.
    memory[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(held(&expected, &call, &memory).is_err());
}

fn read(len: u64) -> Call {
    Call {
        nr: nr("read"),
        args: [5, BASE, len, 0, 0, 0],
    }
}

#[test]
fn a_read_never_gets_more_than_it_has_room_for() {
    let expected = rule(
        r#"read(fd, "PUT $rest") => read(fd, "PUT-string $rest")"#,
        leader("read", "PUT k v\r\n"),
    );
    let mut carry = Carry::new();
    let epoll = EpollData::default();
    let mut page = Page::with(&[0xee; 64]);
    let given = give(&expected, None, &read(10), &mut page, &epoll, &mut carry).expect("it fits");
    assert_eq!((given.result, given.consumed), (10, true));
    assert_eq!(&page.0[..12], b"PUT-string\xee\xee");
    // The follower reads on, though nothing more is expected of it.
    let carried = give_carried(&read(100), &mut page, &mut carry).expect("it fits");
    assert_eq!(carried, Some(6));
    assert_eq!(&page.0[..7], b" k v\r\nr");
    assert_eq!(give_carried(&read(100), &mut page, &mut carry), Ok(None));
}

#[test]
fn what_is_carried_comes_before_the_end_that_the_leader_met() {
    let long = rule(r#"read(fd, "a") => read(fd, "abc")"#, leader("read", "a"));
    let end = ExpectedCall::like(leader("read", ""), None);
    let (mut carry, epoll) = (Carry::new(), EpollData::default());
    let mut page = Page::with(b"");
    let mut give = |expected: &_, carry: &mut _| {
        let given = give(expected, None, &read(2), &mut page, &epoll, carry).expect("it fits");
        (given.result, given.consumed)
    };
    assert_eq!(give(&long, &mut carry), (2, true));
    assert_eq!(give(&end, &mut carry), (1, false));
    assert_eq!(give(&end, &mut carry), (0, true));
}

#[test]
fn what_is_only_looked_at_is_still_to_be_read() {
    let expected = rule(
        r#"recvfrom(fd, "PUT $rest") => recvfrom(fd, "PUT-string $rest")"#,
        leader("recvfrom", "PUT k v\r\n"),
    );
    let receive = |len, flags| Call {
        nr: nr("recvfrom"),
        args: [5, BASE, len, flags, 0, 0],
    };
    // MSG_PEEK
    let look = receive(12, 2);
    let (mut carry, epoll) = (Carry::new(), EpollData::default());
    let mut page = Page::with(&[0xee; 64]);
    let mut give = |call: &Call, carry: &mut Carry| {
        let given = give(&expected, None, call, &mut page, &epoll, carry).expect("it fits");
        (given, page.0[..given.result as usize].to_vec())
    };
    let (given, text) = give(&look, &mut carry);
    assert_eq!((given.consumed, &text[..]), (true, &b"PUT-string k"[..]));
    assert!(carry.is_empty());
    let (_, text) = give(&receive(10, 0), &mut carry);
    assert_eq!(text, b"PUT-string");
    let looked = give_carried(&look, &mut page, &mut carry).expect("it fits");
    assert_eq!((looked, &page.0[..6]), (Some(6), &b" k v\r\n"[..]));
    let read = give_carried(&receive(100, 0), &mut page, &mut carry).expect("it fits");
    assert_eq!(read, Some(6));
    assert_eq!(give_carried(&look, &mut page, &mut carry), Ok(None));
}

#[test]
fn a_write_that_is_accepted_as_it_comes_is_answered_with_its_own_size() {
    let expected = rule(r#"write(_, "x", _) => tolerate"#, leader("write", "xy"));
    let (mut carry, epoll) = (Carry::new(), EpollData::default());
    assert_eq!(held(&expected, &write(9, 7), b"another"), Ok(()));
    let mut page = Page::with(b"");
    let given = give(&expected, None, &write(9, 7), &mut page, &epoll, &mut carry);
    assert_eq!(given.map(|given| given.result), Ok(7));
}

#[test]
fn a_struct_that_a_rule_makes_too_long_is_cut() {
    let clock = OwnedCall {
        nr: nr("clock_gettime"),
        args: [1, 0x7000, 0, 0, 0, 0],
        parts: vec![(1, vec![1; 16])],
        ..OwnedCall::default()
    };
    let text = "\\xff".repeat(40);
    let expected = rule(
        &format!(r#"clock_gettime(_, _) as c => c(_, tp: "{text}")"#),
        clock,
    );
    let call = Call {
        nr: nr("clock_gettime"),
        args: [1, BASE, 0, 0, 0, 0],
    };
    let (mut carry, epoll) = (Carry::new(), EpollData::default());
    let mut page = Page::with(b"");
    give(&expected, None, &call, &mut page, &epoll, &mut carry).expect("it fits");
    assert_eq!(&page.0[..16], [0xff; 16]);
    assert_eq!(&page.0[16..40], [0; 24]);
}
