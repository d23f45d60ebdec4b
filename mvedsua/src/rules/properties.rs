//! Properties that hold for all files and all calls.
//!
//! `PROPTEST_CASES=1000000 cargo test --release -p mvedsua rules::properties` is the long soak.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::ast::*;
use super::call::{Call, OwnedCall};
use super::engine::Engine;
use super::expected::Expected;
use super::format::format;
use super::loader::load_text;
use super::parser::parse;
use super::program::RuleSet;
use super::source::{FileId, Span};
use super::testing;

/// Builds a syntax tree out of bytes: what proptest shrinks is the bytes.
struct Tree<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

const NAMES: [&str; 12] = [
    "a", "b", "fd", "s", "n", "_key", "PUT", "when", "log", "x1", "nothing", "rule",
];
const CALLS: [&str; 8] = [
    "read",
    "write",
    "close",
    "request",
    "reply",
    "openat",
    "getpid",
    "epoll_wait",
];

impl Tree<'_> {
    fn pick(&mut self, below: u8) -> u8 {
        self.bytes.next().copied().unwrap_or(0) % below.max(1)
    }
    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.pick(3) == 2).then(|| make(self))
    }
    fn list<T>(&mut self, least: u8, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..least + self.pick(3)).map(|_| make(self)).collect()
    }
    fn name(&mut self) -> Name {
        let text = NAMES[usize::from(self.pick(12))].to_owned();
        Name {
            text,
            span: Span::default(),
        }
    }
    fn call_name(&mut self) -> Name {
        let text = CALLS[usize::from(self.pick(8))].to_owned();
        Name {
            text,
            span: Span::default(),
        }
    }
    fn text(&mut self) -> Vec<TextPart> {
        let mut parts: Vec<TextPart> = Vec::new();
        for _ in 0..self.pick(5) {
            if self.pick(3) == 0 {
                parts.push(TextPart::Hole(self.name().text));
            } else {
                let odd = [
                    b'a', b'$', b'{', b'"', b'\\', b'\n', 0, 0xff, 0xc3, 0xa4, b'7', b'_', b'}',
                    0x7f,
                ];
                let bytes: Vec<u8> = (0..1 + self.pick(4))
                    .map(|_| odd[usize::from(self.pick(14))])
                    .collect();
                match parts.last_mut() {
                    Some(TextPart::Literal(last)) => last.extend(bytes),
                    _ => parts.push(TextPart::Literal(bytes)),
                }
            }
        }
        parts
    }
    /// A number from `-below` on, in one of the ways to write it.
    fn number(&mut self, below: i64) -> Number {
        let value = i64::from(self.pick(255)) - below;
        let (sign, size) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
        let written = match self.pick(5) {
            0 => format!("{sign}0x{size:x}"),
            1 => format!("{sign}0x{size:04X}"),
            2 => format!("{sign}0o{size:o}"),
            3 => format!("{sign}{size}_"),
            _ => return value.into(),
        };
        Number { value, written }
    }
    fn field(&mut self) -> Field {
        let name = self.name();
        if self.pick(2) == 1 {
            let number = self.number(0);
            return Field {
                name,
                kind: FieldKind::Bytes(number.value as u32),
                written: Some(number),
            };
        }
        Field {
            name,
            kind: FieldKind::Number(4, self.pick(2) == 1),
            written: None,
        }
    }
    fn messages(&mut self) -> ItemKind {
        if self.pick(2) == 1 {
            let number = self.number(0);
            return ItemKind::Messages(Framing::Fixed(number.value as u32), Some(number));
        }
        ItemKind::Messages(Framing::Delimited(vec![self.pick(255)]), None)
    }
    fn regex(&mut self) -> String {
        ["a/b", "^(?<a>x+)\\s", "[^/]\\/", "a\\\\"][usize::from(self.pick(4))].replace("\\/", "/")
    }
    fn expr(&mut self, depth: u8) -> Expr {
        let pick = if depth == 0 {
            self.pick(3)
        } else {
            self.pick(10)
        };
        let inner = |t: &mut Self| Box::new(t.expr(depth - 1));
        let kind = match pick {
            0 => ExprKind::Int(self.number(100)),
            1 => ExprKind::Name(self.name().text),
            2 => ExprKind::Text(self.text()),
            3 => ExprKind::Deref(inner(self)),
            4 => {
                let dollar = self.pick(2) == 1;
                ExprKind::Call(self.name(), dollar, self.list(0, |t| t.expr(depth - 1)))
            }
            5 => ExprKind::Unary("!", inner(self)),
            6 => match *inner(self) {
                Expr {
                    kind: ExprKind::Int(_),
                    ..
                } => ExprKind::Int((-1).into()),
                other => ExprKind::Unary("-", Box::new(other)),
            },
            7 => {
                let right = Expr {
                    span: Span::default(),
                    kind: ExprKind::Regex(self.regex()),
                };
                ExprKind::Binary("~", inner(self), Box::new(right))
            }
            8 => {
                let (op, _) = super::parser::BINARY[usize::from(self.pick(14))];
                ExprKind::Binary(op, inner(self), inner(self))
            }
            _ => ExprKind::Slice(inner(self), self.maybe(inner), self.maybe(inner)),
        };
        Expr {
            span: Span::default(),
            kind,
        }
    }
    fn arg(&mut self) -> Arg {
        let kind = match self.pick(4) {
            0 => ArgKind::Any,
            1 => ArgKind::SameFd,
            _ => ArgKind::Value(self.expr(2)),
        };
        Arg {
            label: self.maybe(Self::name),
            span: Span::default(),
            kind,
        }
    }
    fn repeat(&mut self) -> Repeat {
        [
            Repeat::Once,
            Repeat::Once,
            Repeat::Optional,
            Repeat::Any,
            Repeat::Some,
        ][usize::from(self.pick(5))]
    }
    fn block(&mut self) -> Block {
        Block {
            statements: self.list(0, Self::statement),
            tail: Trivia::default(),
        }
    }
    fn statement(&mut self) -> Statement {
        let kind = match self.pick(4) {
            0 => StatementKind::Take(self.list(1, |t| t.maybe(Self::name)), self.expr(2)),
            1 => StatementKind::Assign {
                name: self.name(),
                add: self.pick(2) == 1,
                deref: self.pick(2) == 1,
                value: self.expr(3),
            },
            2 => StatementKind::Return(self.expr(3)),
            _ => StatementKind::Log(self.expr(2)),
        };
        Statement {
            trivia: Trivia::default(),
            span: Span::default(),
            kind,
        }
    }
    fn pattern(&mut self) -> Pattern {
        Pattern {
            span: Span::default(),
            call: self.call_name(),
            args: self.list(0, Self::arg),
            result: self.maybe(|t| t.expr(2)),
            repeat: self.repeat(),
            guard: self.maybe(Self::block),
            alias: self.maybe(Self::name),
        }
    }
    fn template(&mut self) -> Template {
        Template {
            span: Span::default(),
            call: self.call_name(),
            args: Some(self.list(0, Self::arg)),
            result: self.maybe(|t| t.expr(2)),
            repeat: self.repeat(),
            pieces: self.pick(4) == 3,
            body: self.maybe(Self::block),
        }
    }
    fn rule(&mut self) -> Rule {
        let outcome = match self.pick(8) {
            0 => Outcome::Nothing(self.maybe(Self::block)),
            1 => Outcome::Same(self.maybe(Self::block)),
            2 => Outcome::Tolerate(self.maybe(Self::block)),
            3 => Outcome::Retry(self.expr(2)),
            4 => Outcome::Terminate(self.expr(2)),
            5 => Outcome::Log(self.expr(2)),
            _ => Outcome::Calls(self.list(1, Self::template)),
        };
        Rule {
            header: self.maybe(|t| Header {
                name: t.name(),
                reversible: t.pick(2) == 1,
                scope: t.maybe(|t| {
                    if t.pick(2) == 1 {
                        Scope::Fd
                    } else {
                        Scope::Thread
                    }
                }),
                calls: t.maybe(|t| t.number(0)),
                ms: t.maybe(|t| t.number(0)),
            }),
            patterns: self.list(1, Self::pattern),
            when: self.maybe(|t| t.expr(3)),
            outcome,
        }
    }
    fn item(&mut self, depth: u8) -> Item {
        let kind = match self.pick(12) {
            0 => ItemKind::Const(self.name(), self.expr(3)),
            1 => ItemKind::State {
                scope: StateScope::Connection,
                name: self.name(),
                value: self.expr(1),
            },
            2 => ItemKind::Parser(
                self.name(),
                ParserBody::Regex(self.regex(), Span::default()),
            ),
            3 => ItemKind::Parser(
                self.name(),
                ParserBody::Split(b"\r".to_vec(), self.list(1, Self::name)),
            ),
            4 => ItemKind::Parser(self.name(), ParserBody::Fields(self.list(1, Self::field))),
            5 => self.messages(),
            6 => ItemKind::Ignore(Ignore {
                pattern: self.pattern(),
                fields: self.list(1, |t| IgnoreField {
                    name: t.name(),
                    regex: t.maybe(|t| (t.regex(), Span::default())),
                }),
            }),
            7 if depth > 0 => ItemKind::Stage {
                direction: Direction::Reverse,
                items: self.list(0, |t| t.item(0)),
                tail: Trivia::default(),
            },
            _ => ItemKind::Rule(Box::new(self.rule())),
        };
        Item {
            trivia: Trivia::default(),
            span: Span::default(),
            kind,
        }
    }
}

fn tree(bytes: &[u8]) -> File {
    let mut tree = Tree {
        bytes: bytes.iter(),
    };
    File {
        items: tree.list(1, |t| t.item(1)),
        tail: Trivia::default(),
    }
}

/// A bit of everything that the interpreter can do.
const EVERYTHING: &str = r#"
messages line "\r\n";
parser parse$ = /^(?<cmd>[A-Z]+)(?:-(?<typ>[a-z]+))?(?: (?<key>[^ \r\n]+))?(?: (?<val>.*\r\n))?/;
parser num = fields a: u8, b: u32le, c: rest;
state connection seen = false;
state service total = 0;
rule put: request(., "PUT $k $v\r\n") when !seen => request(., "PUT-string $k $v\r\n");
rule quit: request(., "QUIT\r\n"), reply(., /^bye/) => request(., "EXIT\r\n"), reply(., "ciao\r\n"), reply(., "!\r\n");
rule see: request(., "FEAT\r\n") => same { seen = true; total += 1; };
rule drop: reply(., /^debug/) => nothing;
rule bad: read(3, s) { (cmd, typ, _, _) = parse$(s); return cmd == "PUT" && typ != NULL; } as r => r(3, "bad-cmd", 7);
rule seq within 4 calls: read(., "a", _), write(., t)*, close(.) => close(.), write(., "x$t");
rule thr on thread within 5 ms: getpid(), epoll_wait(_, _), write(., t)+ as w => w, getpid() = 3;
rule num: write(6, s) { (a, b, c) = num(s); return a < b; } => write(6, c + s[1..3]) in pieces;
rule opt: close(9) as c => fstat(_)* = 0, c, close(8)? = 0;
rule stop: write(2, /^panic/) => terminate follower "panic $total";
ignore write(2, s) in s /[0-9]+/;
"#;

const TEXTS: [&[u8]; 16] = [
    b"",
    b"PUT k v\r\n",
    b"PUT",
    b" k v\r\n",
    b"PUT-number k 1\r\n",
    b"FEAT\r\n",
    b"QUIT\r\n",
    b"bye\r\n",
    b"debug 1\r\n",
    b"a",
    b"b",
    b"panic",
    b"\x01\x05\0\0\0abc",
    b"pid 12",
    b"\r\n\r\n",
    b"PUT a b\r\nQUIT\r\nPUT c",
];

prop_compose! {
    fn call()(
        nr in prop::sample::select(vec![0_u16, 1, 3, 5, 20, 39, 43, 45, 228, 232, 257, 400, 9999]),
        fd in 2_u64..10,
        text in prop_oneof![
            prop::sample::select(TEXTS.to_vec()).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..20),
        ],
        ret in prop_oneof![4 => Just(None), 1 => any::<i64>().prop_map(Some), 1 => (-40_i64..40).prop_map(Some)],
        tid in 1_u32..4,
        data in prop::option::weighted(0.9, 0_u8..7),
        size in prop_oneof![4 => Just(None), 1 => any::<u64>().prop_map(Some)],
        step in 0_u64..3,
    ) -> (OwnedCall, u64) {
        let length = text.len() as u64;
        let ret = ret.unwrap_or(length as i64);
        let parts = data.map(|at| (if at > 5 { at } else { 1 }, text)).into_iter().collect();
        (OwnedCall { nr, args: [fd, 0, size.unwrap_or(length), 0, 0, 0], ret, tid, seq: 0, parts }, step)
    }
}

/// Feeds calls and flushes; what came out, or nothing when a rule failed.
fn run(
    set: Arc<RuleSet>,
    direction: Direction,
    calls: &[(OwnedCall, u64)],
) -> Option<Vec<Expected<OwnedCall>>> {
    let mut engine = Engine::new(set, direction);
    engine.add_connection(4);
    engine.add_connection(5);
    let mut out = VecDeque::new();
    let mut now = Duration::ZERO;
    for (i, (call, step)) in calls.iter().enumerate() {
        now += Duration::from_millis(*step);
        let call = OwnedCall {
            seq: i as u64,
            ..call.clone()
        };
        engine.feed(call, now, &mut out).ok()?;
        if engine.deadline().is_some_and(|d| d <= now) {
            engine.tick(now, &mut out).ok()?;
        }
        assert_eq!(engine.deadline().is_some(), engine.held() > 0);
    }
    engine.flush(now, &mut out).ok()?;
    assert_eq!(engine.held(), 0);
    Some(out.into())
}

proptest! {
    #[test]
    fn formatting_is_stable_and_keeps_the_meaning(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let tree = tree(&bytes);
        let once = format(&tree);
        let (again, diagnostics) = parse(FileId(0), &once);
        prop_assert_eq!(&diagnostics, &[], "{}", once);
        prop_assert_eq!(&again, &tree, "{}", &once);
        prop_assert_eq!(format(&again), once);
    }

    #[test]
    fn no_text_makes_the_parser_or_the_checker_panic(
        words in prop::collection::vec(prop_oneof![
            3 => prop::sample::select(vec!["read", "(", ")", "=>", "{", "}", ",", ";", "fd", "s", "\"a$b\"", "/x/", ".", "_", "=", "rule", "r",
                ":", "as", "when", "return", "7", "+", "*", "$(", "nothing", "messages line", "request", "state service", "const", "test \"t\" {",
                "given {", "expect {", "ignore", "in", "\n", "// c\n", "parser", "split", "into", "[", "..", "]", "reversible"]).prop_map(str::to_owned),
            1 => any::<String>(),
        ], 0..60),
    ) {
        let loaded = load_text("t", &words.join(" "));
        let _ = loaded.render();
        if let Some(set) = loaded.rules {
            let _ = testing::run(&Arc::new(set));
        }
    }

    #[test]
    fn comments_are_never_lost(at in 0_usize..40, text in "[a-z]{1,8}") {
        let source = "const a = 1;\nread(fd, s) {\n  x = 1;\n  return x == a;\n}\n  => write(fd,\n s) { s = \"x\"; };\nreverse {\n}\n";
        let places: Vec<usize> = source.match_indices([' ', '\n']).map(|(i, _)| i).collect();
        let at = places[at % places.len()];
        let source = format!("{} // {text}\n{}", &source[..at], &source[at..]);
        let (tree, diagnostics) = parse(FileId(0), &source);
        prop_assert_eq!(diagnostics, vec![]);
        let once = format(&tree);
        prop_assert_eq!(once.matches(&format!("// {text}\n")).count(), 1, "{}", once);
        prop_assert_eq!(format(&parse(FileId(0), &once).0), once);
    }

    #[test]
    fn without_rules_what_comes_out_is_what_went_in(calls in prop::collection::vec(call(), 0..40)) {
        let set = Arc::new(load_text("t", "").rules.expect("an empty file"));
        let out = run(set, Direction::Forward, &calls).expect("no rule, no error");
        prop_assert_eq!(out.len(), calls.len());
        for (i, (out, (call, _))) in out.iter().zip(&calls).enumerate() {
            let Expected::Same(same) = out else { panic!("not the same") };
            prop_assert_eq!(same, &OwnedCall { seq: i as u64, ..call.clone() });
        }
    }

    #[test]
    fn arbitrary_calls_meet_everything(calls in prop::collection::vec(call(), 0..60)) {
        let set = Arc::new(load_text("t", EVERYTHING).rules.expect("it checks"));
        if let Some(out) = run(set, Direction::Forward, &calls) {
            // What no rule has touched keeps its order in its thread, once each.
            for tid in 1..4 {
                let seqs: Vec<u64> = out.iter().filter(|e| e.tid() == tid).filter_map(|e| match e {
                    Expected::Same(call) if call.nr() != 1 && call.nr() != 3 => Some(call.seq()),
                    _ => None,
                }).collect();
                prop_assert!(seqs.windows(2).all(|w| w[0] < w[1]), "{seqs:?}");
            }
        }
    }

    #[test]
    fn arbitrary_calls_meet_arbitrary_rules(bytes in prop::collection::vec(any::<u8>(), 0..60), calls in prop::collection::vec(call(), 0..30)) {
        let text = format(&tree(&bytes));
        if let Some(set) = load_text("t", &text).rules {
            let set = Arc::new(set);
            run(Arc::clone(&set), Direction::Forward, &calls);
            run(set, Direction::Reverse, &calls);
        }
    }
}
