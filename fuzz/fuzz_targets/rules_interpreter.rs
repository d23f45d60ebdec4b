//! Any rules on any calls, and any follower against what they expect: nothing panics, nothing is held for
//! ever, nothing leaves in a thread where it did not come in, and nothing is written outside of the room
//! that the follower's call has.
//!
//! The input is a rule file, a NUL, and calls; a file that does not check is replaced by a shipped one.
#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mvedsua::matcher::{self, EpollData, Fault, Memory};
use mvedsua::rules::ast::Direction;
use mvedsua::rules::call::{Call, OwnedCall};
use mvedsua::rules::carry::Carry;
use mvedsua::rules::engine::Engine;
use mvedsua::rules::expected::Expected;
use mvedsua::rules::loader::load_text;
use mvedsua::rules::names;
use mvedsua::rules::program::RuleSet;

static SHIPPED: LazyLock<Vec<Arc<RuleSet>>> = LazyLock::new(|| {
    let texts = [
        concat!(
            include_str!("../../rules/kvstore/parse.rules"),
            "read(fd, s, _) { (cmd, typ, _, _) = parse$(s); return cmd == PUT && typ != NULL; } as r => r(fd, \"bad-cmd\", 7);"
        ),
        include_str!("../../rules/kvstore/v2-v3-messages.rules"),
        include_str!("../../rules/redis/new-command.rules"),
        include_str!("../../rules/redis/noise.rules"),
        include_str!("../../rules/vsftpd/new-commands.rules"),
        include_str!("../../rules/memcached/noise.rules"),
        r#"write(., "a"), write(., s)* , write(., "b") as c => c(., "$s") in pieces;
           read(., _) as r, close(.) as c => c, r; getpid() as g => getuid()* = 1, getgid()? = 2, g;"#,
    ];
    texts
        .iter()
        .map(|text| Arc::new(load_text("shipped", text).rules.expect("it checks")))
        .collect()
});

/// Calls of all shapes: a name and how often its text is worth a thought.
const CALLS: [&str; 14] = [
    "read",
    "write",
    "close",
    "accept4",
    "getpid",
    "getuid",
    "openat",
    "clock_gettime",
    "recvfrom",
    "writev",
    "readv",
    "access",
    "epoll_wait",
    "sendto",
];

/// 64 KiB from address 4096 on that can be read and written, and nothing else.
struct Room(Vec<u8>);

const BASE: u64 = 4096;

impl Room {
    fn range(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Fault> {
        let at = address
            .checked_sub(BASE)
            .and_then(|at| usize::try_from(at).ok());
        let range = at.and_then(|at| Some(at..at.checked_add(len)?));
        range
            .filter(|range| range.end <= self.0.len())
            .ok_or(Fault { address })
    }
}

impl Memory for Room {
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

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
    fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?).min(self.0.len());
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(text)
    }
}

/// The next call of the leader.
fn call(input: &mut Input<'_>, seq: u64) -> Option<OwnedCall> {
    let kind = input.byte()?;
    let entry = names::call(CALLS[usize::from(kind) % CALLS.len()])?;
    let place = input.byte()?;
    let text = input.text()?.to_vec();
    let mut call = OwnedCall {
        nr: entry.nr,
        tid: u32::from(place >> 6),
        seq,
        ret: text.len() as i64,
        ..OwnedCall::default()
    };
    call.args[0] = u64::from(place & 7);
    let signature = names::signature(entry.nr)?;
    if let Some((data, _)) = signature.data {
        call.args[usize::from(data)] = BASE + 64;
        call.parts.push((data, text));
        if let Some(size) = signature.size {
            call.args[usize::from(size)] = call.ret as u64 + u64::from(kind >> 5);
        }
    }
    if kind & 0x10 != 0 {
        call.ret = -11;
        call.parts.clear();
    }
    Some(call)
}

fuzz_target!(|bytes: &[u8]| {
    let at = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let (text, calls) = bytes.split_at(at);
    let loaded = load_text("fuzz", &String::from_utf8_lossy(text));
    let set = match loaded.rules {
        Some(rules) if !rules.rules.is_empty() || !rules.noise.is_empty() => Arc::new(rules),
        _ => Arc::clone(&SHIPPED[text.len() % SHIPPED.len()]),
    };
    let mut input = Input(calls);
    let flags = input.byte().unwrap_or(0);
    let direction = if flags & 1 == 0 {
        Direction::Forward
    } else {
        Direction::Reverse
    };
    let mut engine = Engine::new(set, direction);
    engine.add_connection(5);
    engine.add_connection(6);
    let mut out = VecDeque::new();
    let mut now = Duration::ZERO;
    let mut fed = 0u64;
    let mut failed = false;
    while let Some(call) = call(&mut input, fed) {
        fed += 1;
        now += Duration::from_millis(u64::from(call.args[0]) * 40);
        if engine.feed(call, now, &mut out).is_err() {
            failed = true;
            break;
        }
        if engine.deadline().is_some_and(|until| until <= now)
            && engine.tick(now, &mut out).is_err()
        {
            failed = true;
            break;
        }
    }
    if !failed && engine.flush(now, &mut out).is_ok() {
        assert_eq!(engine.held(), 0, "something is still held after the end");
        for tid in 0..4 {
            assert_eq!(engine.oldest_held(tid), None);
        }
    }
    follow(&mut out, fed, calls);
});

/// A follower that makes about what is expected of it.
fn follow(out: &mut VecDeque<Expected<OwnedCall>>, fed: u64, bytes: &[u8]) {
    let mut carry = Carry::new();
    let mut scratch = Vec::new();
    let epoll = EpollData::default();
    for (n, expected) in out.drain(..).enumerate() {
        assert!(expected.tid() < 4 && expected.seq() < fed.max(1));
        let Expected::Call(mut expected) = expected else {
            continue;
        };
        let mut room = Room(vec![0xa5; 1 << 16]);
        let small = bytes.get(n).copied().unwrap_or(0);
        let mut own = matcher::Call {
            nr: expected.nr,
            args: expected.origin.as_ref().map_or([0; 6], |call| *call.args()),
        };
        let signature = names::signature(own.nr);
        let data = signature
            .and_then(|s| s.data)
            .map(|(data, _)| usize::from(data));
        if let Some(data) = data {
            own.args[data] = BASE + 64;
            if let Some(size) = signature.and_then(|s| s.size) {
                own.args[usize::from(size)] = u64::from(small);
            }
            // For vectors: two of them, the second behind the first.
            let vectors = [
                BASE + 1024,
                u64::from(small) / 2,
                BASE + 4096,
                u64::from(small) / 2,
            ];
            if signature.is_some_and(|s| s.size.is_none()) {
                for (i, word) in vectors.iter().enumerate() {
                    let _ = room.write(BASE + 64 + 8 * i as u64, &word.to_le_bytes());
                }
                own.args[2] = 2;
            }
        }
        let held = matcher::expect(&expected, None, &own, &mut room, &mut scratch);
        if let Ok(Some((at, piece))) = held {
            expected.take_piece(at, &piece);
        }
        let before = room.0.clone();
        let given = matcher::give(&expected, None, &own, &mut room, &epoll, &mut carry);
        if let Ok(given) = given
            && data.is_some()
            && matcher::read_of(&own).is_some()
            && signature.is_some_and(|s| s.size.is_some())
        {
            assert!(
                given.result <= i64::from(small),
                "more than the follower has room for"
            );
            let end = 64 + usize::from(small);
            assert_eq!(
                before[end..],
                room.0[end..],
                "written behind the follower's buffer"
            );
        }
    }
}
