use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::rules::ast::Direction;
use crate::rules::call::OwnedCall;
use crate::rules::diagnostic::Code;
use crate::rules::expected::Expected;
use crate::rules::loader::load_text;
use crate::rules::testing;

/// Checks and runs a rule file in which every test case must pass.
#[track_caller]
fn passes(text: &str) {
    let loaded = load_text("t.rules", text);
    let rendered = loaded.render();
    let set = Arc::new(loaded.rules.unwrap_or_else(|| panic!("{rendered}")));
    let outcomes = testing::run(&set);
    assert!(!outcomes.is_empty(), "no test in the text");
    for outcome in outcomes {
        assert_eq!(outcome.failure, None, "{}", outcome.name);
    }
}

/// The one reason why the test cases of a text fail.
#[track_caller]
fn fails(text: &str) -> String {
    let loaded = load_text("t.rules", text);
    let rendered = loaded.render();
    let set = Arc::new(loaded.rules.unwrap_or_else(|| panic!("{rendered}")));
    let failures: Vec<String> = testing::run(&set)
        .into_iter()
        .filter_map(|o| o.failure)
        .collect();
    assert_eq!(failures.len(), 1, "{failures:?}");
    failures.into_iter().next().unwrap_or_default()
}

const PARSE: &str = r#"parser parse$ = /^(?<cmd>[A-Z]+)(?:-(?<typ>[a-z]+))? (?<key>[^ \r\n]+)(?: (?<val>[^\r\n]*\r\n))?/;
"#;

#[test]
fn the_papers_rules_run_as_they_stand() {
    let tests = r#"
test "a typed PUT is made a bad command" {
    given { read(5, "PUT-number k 1\r\n"); }
    expect { read(5, "bad-cmd", 7); }
}
test "a plain PUT becomes a PUT-string" {
    given { read(5, "PUT k v\r\n"); write(5, "OK\r\n"); }
    expect { read(5, "PUT-string k v\r\n", 16); write(5, "OK\r\n"); }
}
test "an unknown command is FOOBAR to the follower, whose answer is longer" {
    given { read(5, "FEAT\r\n"); clock_gettime(1); read(6, "x"); write(5, "500 Unknown command.\r\n"); }
    expect { read(5, "FOOBAR\r\n"); clock_gettime(1); read(6, "x"); write(5, "500 Unknown command: FOOBAR\r\n"); }
}
test "a known command stays as it is" {
    given { read(5, "NOOP\r\n"); write(5, "200 OK.\r\n"); }
    expect { read(5, "NOOP\r\n"); write(5, "200 OK.\r\n"); }
}
"#;
    passes(&format!(
        "{PARSE}{}{tests}",
        crate::rules::parser::tests::PAPER
    ));
}

#[test]
fn a_failing_case_says_where_and_why() {
    let why = fails("test \"x\" {\ngiven { read(5, \"a\"); }\nexpect {\nread(5, \"b\");\n}\n}");
    assert_eq!(why, "t.rules:4: the follower gets \"a\"");
    let why =
        fails("test \"x\" { given { write(5, \"a\"); close(5); } expect { write(5, \"a\"); } }");
    assert!(why.contains("expected to do more: close"), "{why}");
    let why = fails("test \"x\" { given {} expect { close(5); } }");
    assert!(why.contains("nothing more"), "{why}");
}

#[test]
fn calls_are_dropped_inserted_reordered_split_and_merged() {
    passes(
        r#"
rule drop: write(2, /^debug/) => nothing;
rule insert: close(7) as c => getpid() = 42, c;
rule swap: write(., "a"), write(., "b") => write(., "b"), write(., "a");
rule split: write(8, "hello world") as w => w(8, "hello "), write(8, "world");
rule merge: write(9, a), write(9, b) => write(9, a + b);
rule many: write(10, s)+, close(10) as c => write(10, s), c;
test "dropped" { given { write(2, "debug: x"); write(2, "x"); } expect { write(2, "x"); } }
test "inserted" { given { close(7); } expect { getpid() = 42; close(7); } }
test "reordered" { given { write(5, "a"); write(5, "b"); } expect { write(5, "b"); write(5, "a"); } }
test "split" { given { write(8, "hello world"); } expect { write(8, "hello "); write(8, "world"); } }
test "merged" { given { write(9, "hello "); write(9, "world"); } expect { write(9, "hello world"); } }
test "any number" {
    given { write(10, "x"); write(10, "y"); write(10, "z"); close(10); }
    expect { write(10, "xyz"); close(10); }
}
"#,
    );
}

#[test]
fn optional_calls_and_pieces() {
    passes(
        r#"
rule stat: close(7) as c => fstat(_, _)* = 0, c;
rule pieces: write(8, s) => write(8, s) in pieces;
test "none" { given { close(7); } expect { close(7); } }
test "two" { given { close(7); } expect { fstat(3); fstat(4); close(7); } }
test "pieces" { given { write(8, "abcdef"); close(8); } expect { write(8, "ab"); write(8, "cdef"); close(8); } }
"#,
    );
}

#[test]
fn look_ahead_gives_up_in_calls_and_in_time() {
    passes(
        r#"
rule calls within 3 calls: read(., "x"), write(., "y") => nothing;
rule time within 50 ms: read(., "t"), write(., "y") => nothing;
test "calls" {
    given { read(5, "x"); getpid() = 1; getpid() = 1; write(5, "y"); }
    expect { read(5, "x"); getpid() = 1; getpid() = 1; write(5, "y"); }
}
test "time" {
    given { read(5, "t"); after 60 ms; write(5, "y"); }
    expect { read(5, "t"); write(5, "y"); }
}
test "in time" { given { read(5, "t"); after 40 ms; write(5, "y"); } expect { } }
test "another call on the descriptor ends it" {
    given { read(5, "t"); close(5); }
    expect { read(5, "t"); close(5); }
}
test "another thread does not" {
    given { thread 1: read(5, "t"); thread 2: read(6, "z"); thread 1: write(5, "y"); }
    expect { thread 2: read(6, "z"); }
}
"#,
    );
}

#[test]
fn a_whole_thread_can_be_followed() {
    passes(
        r#"
rule boot on thread: getpid(), openat(_, "/etc/x") as o, close(_) as c => o, c;
test "clock reads do not matter" {
    given { getpid() = 1; clock_gettime(1); openat(-100, "/etc/x") = 3; close(3); }
    expect { clock_gettime(1); openat(-100, "/etc/x") = 3; close(3); }
}
test "another call does" {
    given { getpid() = 1; getppid() = 1; openat(-100, "/etc/x") = 3; close(3); }
    expect { getpid() = 1; getppid() = 1; openat(-100, "/etc/x") = 3; close(3); }
}
"#,
    );
}

#[test]
fn results_and_errors_can_be_matched_and_given() {
    passes(
        r#"
rule again: read(fd, _) = -1 EAGAIN => read(fd, _) = EINTR;
rule missing: openat(_, "/etc/new", flags: 0) = n when n >= 0 => openat(_, "/etc/new") = ENOENT;
test "errno" { given { read(5) = EAGAIN; read(5, "x"); } expect { read(5) = -1 EINTR; read(5, "x"); } }
test "result" { given { openat(-100, "/etc/new") = 3; } expect { openat(-100, "/etc/new") = ENOENT; } }
test "not both" { given { openat(-100, "/etc/new") = EACCES; } expect { openat(-100, "/etc/new") = EACCES; } }
"#,
    );
}

#[test]
fn a_short_or_failed_write_stays_one() {
    passes(
        r#"
write(fd, "hello") => write(fd, "goodbye");
write(fd, "hel") => write(fd, "goodbye");
test "whole" { given { write(5, "hello"); } expect { write(5, "goodbye") = 7; } }
test "short" { given { write(5, "hello", 9) = 3; } expect { write(5, "goodbye") = 3; } }
"#,
    );
}

#[test]
fn verdicts() {
    passes(
        r#"
rule t: write(2, /panic: (?<what>.*)/) => terminate follower "it said $what";
rule r: write(2, "later") => retry "not now";
rule tol: write(3, _) => tolerate;
rule l: write(4, s) => log "wrote $s";
test "terminate" { given { write(2, "panic: x"); close(1); } expect { terminate follower "it said x"; } }
test "retry" { given { write(2, "later"); } expect { retry "not now"; } }
test "tolerate" { given { write(3, "a"); } expect { write(3, "bbbb"); } }
test "log" { given { write(4, "a"); } expect { write(4, "a"); } }
"#,
    );
}

#[test]
fn noise_is_not_compared() {
    passes(
        r#"
ignore write(2, s) in s /pid ([0-9]+)/, s /at ([0-9:]+)/;
ignore openat(_, "/var/log", f) in f;
test "noise" { given { write(2, "pid 1 at 10:00 x"); } expect { write(2, "pid 2222 at 11:01 x"); } }
test "flags" { given { openat(-100, "/var/log", 5) = 3; } expect { openat(-100, "/var/log", 7) = 3; } }
"#,
    );
    let why = fails(
        "ignore write(2, s) in s /[0-9]+/; test \"x\" { given { write(2, \"a1\"); } expect { write(2, \"b1\"); } }",
    );
    assert!(why.contains("more than noise"), "{why}");
}

#[test]
fn the_state_of_a_connection_is_that_of_all_its_descriptors() {
    passes(
        r#"
state connection feat = false;
read(fd, "FEAT\n") => same { feat = true; };
write(fd, s) when feat => write(fd, "new $s");
rule end: close(fd) when feat => close(fd), write(2, "closed\n");
test "what was duplicated, and what comes under a number of it afterwards" {
    given {
        read(5, "FEAT\n");
        dup(5) = 7;
        write(7, "a");
        close(5);
        write(7, "b");
        accept4(3) = 5;
        write(5, "c");
        dup2(5, 7) = 7;
        write(7, "d");
    }
    expect {
        read(5, "FEAT\n");
        dup(5);
        write(7, "new a");
        close(5);
        write(2, "closed\n");
        write(7, "new b");
        accept4(3);
        write(5, "c");
        dup2(5, 7);
        write(7, "d");
    }
}
test "all are closed at once" {
    given {
        read(5, "FEAT\n");
        fcntl(5, F_DUPFD_CLOEXEC, 10) = 10;
        close_range(5, 9, 0);
        write(10, "a");
        close_range(3, 4294967295, 4);
        write(10, "b");
        close_range(3, 4294967295, 0);
        write(10, "c");
    }
    expect {
        read(5, "FEAT\n");
        fcntl(5, F_DUPFD_CLOEXEC, 10);
        close_range(5, 9, 0);
        write(10, "new a");
        close_range(3, 4294967295, 4);
        write(10, "new b");
        close_range(3, 4294967295, 0);
        write(10, "c");
    }
}
"#,
    );
}

#[test]
fn messages_go_on_over_what_a_connection_was_duplicated_to() {
    passes(
        r#"
messages line;
request(., "PUT $k\n") => request(., "PUT-string $k\n");
test "one half from each" {
    given {
        connection 5;
        read(5, "PU");
        dup(5) = 7;
        close(5);
        read(7, "T a\nPUT b\n");
    }
    expect {
        read(5, "PU");
        dup(5);
        close(5);
        read(7, "T-string a\nPUT-string b\n");
    }
}
test "another connection comes in its place, a file is none" {
    given {
        connection 5;
        connection 6;
        read(5, "PU");
        dup2(6, 5) = 5;
        read(5, "PUT a\n");
        dup3(9, 5, 0) = 5;
        read(5, "PUT b\n");
    }
    expect {
        read(5, "PU");
        dup2(6, 5);
        read(5, "PUT-string a\n");
        dup3(9, 5, 0);
        read(5, "PUT b\n");
    }
}
"#,
    );
}

#[test]
fn a_number_that_is_not_there_can_be_tested_for() {
    passes(
        r#"
parser p = fields len: u16be, body: rest;
rule word: read(3, s) { (a, b) = words(s); return int(b) != NULL && int(b) > 10; } => read(3, "$a big");
rule short: read(4, s) { (len, body) = p(s); return NULL == len; } => read(4, "short");
test "words" {
    given { read(3, "a 11"); read(3, "a 9"); read(3, "a b"); read(3, "a"); }
    expect { read(3, "a big"); read(3, "a 9"); read(3, "a b"); read(3, "a"); }
}
test "fields" { given { read(4, "x"); read(4, "xy"); } expect { read(4, "short"); read(4, "xy"); } }
"#,
    );
}

#[test]
fn a_case_says_what_each_thread_is_to_do_in_any_order() {
    passes(
        r#"
rule swap on thread: getpid(), getppid() => getppid() = 1, getpid();
test "the held call of one thread does not hold the other" {
    given { thread 1: getpid() = 7; thread 2: write(5, "z"); thread 1: getppid() = 1; write(5, "x") = EPIPE; }
    expect { thread 1: getppid(); thread 1: getpid(); write(5, "z"); write(5, "x"); }
}
"#,
    );
    assert!(
        fails("test \"t\" { given { thread 2: getpid() = 7; } expect { thread 1: getpid(); } }")
            .contains("nothing more is expected")
    );
}

#[test]
fn what_was_only_looked_at_is_no_part_of_a_message() {
    passes(
        r#"
messages line;
request(., "PUT $k\n") => request(., "PUT-string $k\n");
test "half of it, and all of it" {
    given {
        connection 5;
        recvfrom(5, "PU", flags: MSG_PEEK);
        recvfrom(5, "PUT a\n", flags: MSG_PEEK);
        recvfrom(5, "PUT a\nPU", flags: 0);
        recvfrom(5, "T b\n", flags: MSG_PEEK);
        recvfrom(5, "T b\n", flags: 0);
    }
    expect {
        recvfrom(5, "PU", flags: MSG_PEEK);
        recvfrom(5, "PUT-string a\n", flags: MSG_PEEK);
        recvfrom(5, "PUT-string a\nPU", flags: 0);
        recvfrom(5, "T b\n", flags: MSG_PEEK);
        recvfrom(5, "T-string b\n", flags: 0);
    }
}
"#,
    );
}

#[test]
fn state_of_connections_and_of_the_service() {
    passes(
        r#"
state connection feat = false;
state service count = 0;
rule feat: read(fd, "FEAT\r\n") => same { feat = true; count += 1; };
rule utf: read(fd, "UTF8\r\n") when feat => read(fd, "OPTS UTF8 ON\r\n");
rule third: read(_, "COUNT\r\n") when count >= 2 => read(_, "MANY\r\n");
test "only where FEAT was issued, and until it is closed" {
    given { read(5, "FEAT\r\n"); read(5, "UTF8\r\n"); read(6, "UTF8\r\n"); close(5); read(5, "UTF8\r\n"); }
    expect { read(5, "FEAT\r\n"); read(5, "OPTS UTF8 ON\r\n"); read(6, "UTF8\r\n"); close(5); read(5, "UTF8\r\n"); }
}
test "all connections count" {
    given { read(5, "FEAT\r\n"); read(6, "COUNT\r\n"); read(6, "FEAT\r\n"); read(7, "COUNT\r\n"); }
    expect { read(5, "FEAT\r\n"); read(6, "COUNT\r\n"); read(6, "FEAT\r\n"); read(7, "MANY\r\n"); }
}
"#,
    );
}

#[test]
fn messages_within_and_across_calls() {
    passes(
        r#"
messages line "\r\n";
rule put reversible: request(., "PUT $key $val\r\n") => request(., "PUT-string $key $val\r\n");
test "several commands in one read" {
    given { connection 5; read(5, "GET a\r\nPUT k v w\r\nGET b\r\nPUT x"); read(5, " y\r\n"); close(5); }
    expect { read(5, "GET a\r\nPUT-string k v w\r\nGET b\r\nPUT-s"); read(5, "tring x y\r\n"); close(5); }
}
test "back" reverse {
    given { connection 5; read(5, "PUT-string k v\r\n"); }
    expect { read(5, "PUT k v\r\n"); }
}
test "a half that no rule concerns is not held" {
    given { connection 5; read(5, "GET"); getpid() = 1; read(5, " a\r\nPUT a b\r\n"); }
    expect { read(5, "GET"); getpid() = 1; read(5, " a\r\nPUT-string a b\r\n"); }
}
test "a half that does not go on in time is given as it is" {
    given { connection 5; read(5, "PUT k"); after 2000 ms; read(5, " v\r\nPUT a b\r\n"); }
    expect { read(5, "PUT k"); read(5, " v\r\nPUT-string a b\r\n"); }
}
test "other descriptors are left alone" {
    given { read(5, "PUT k v\r\n"); }
    expect { read(5, "PUT k v\r\n"); }
}
test "an accepted connection is one" {
    given { accept4(3) = 9; read(9, "PUT k v\r\n"); close(9); read(9, "PUT k v\r\n"); }
    expect { accept4(3) = 9; read(9, "PUT-string k v\r\n"); close(9); read(9, "PUT k v\r\n"); }
}
"#,
    );
}

#[test]
fn requests_and_their_replies() {
    passes(
        r#"
messages resp;
rule hello: request(., m) { (cmd) = resp(m); return upper(cmd) == "HELLO"; }, reply(., /^-ERR/)
    => request(., resp_array("PING")), reply(., "+PONG\r\n");
test "a request is rewritten once its reply is known" {
    given {
        connection 5;
        read(5, "*1\r\n$5\r\nhello\r\n");
        epoll_wait(4) = 1;
        write(5, "-ERR unknown command\r\n");
    }
    expect { read(5, "*1\r\n$4\r\nPING\r\n"); epoll_wait(4) = 1; write(5, "+PONG\r\n"); }
}
test "another reply" {
    given { connection 5; read(5, "*1\r\n$5\r\nhello\r\n"); write(5, "+OK\r\n"); }
    expect { read(5, "*1\r\n$5\r\nhello\r\n"); write(5, "+OK\r\n"); }
}
"#,
    );
}

#[test]
fn parsers_of_each_kind() {
    passes(
        r#"
parser csv = split "," into a, b, rest;
parser head = fields kind: u8, len: u16be, body: rest;
rule csv: read(5, s) { (a, b, rest) = csv(s); return b == "2"; } => read(5, "$rest$a");
rule head: read(6, s) { (k, l, b) = head(s); return k == 1 && l == 258; } => read(6, b);
rule words: read(7, s) { (a, b) = words(s); return a == "x"; } => read(7, b);
test "split" { given { read(5, "1,2,3,4"); } expect { read(5, "3,41"); } }
test "fields" { given { read(6, "\x01\x01\x02abc"); } expect { read(6, "abc"); } }
test "words" { given { read(7, " x  yy\n"); } expect { read(7, "yy"); } }
"#,
    );
}

#[test]
fn limits_and_wrong_values_are_errors_and_not_panics() {
    passes(
        r#"
rule long: read(5, s) { x = s; return true; } => read(5, s, 100);
rule slice: read(6, s) => read(6, s[5..2] + s[-3..900]);
rule null: read(7, s) { (a, b) = words(s); return true; } => read(7, "$b");
rule sum: read(8, n: _) = n => read(8, "$n") = (9223372036854775807 + n);
rule big: read(9, s) { a = replace(s, "a", s); b = replace(a, "a", a); c = replace(b, "a", b); return len(c) > 0; } => nothing;
test "length" { given { read(5, "abc"); } expect { error E372; } }
test "slices are cut" { given { read(6, "abc"); } expect { read(6, "abc"); } }
test "null" { given { read(7, "abc"); } expect { error E373; } }
test "overflow" { given { read(8, "abc"); } expect { error E373; } }
test "text" { given { read(9, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"); } expect { error E371; } }
"#
        .replace("n: _", "_")
        .as_str(),
    );
}

#[test]
fn fuel_ends_what_takes_too_long() {
    let mut text = String::new();
    for i in 0..3000 {
        text.push_str(&format!("rule r{i}: read(fd, s) {{ return len(s) + len(s) + len(s) + len(s) + len(s) + len(s) + len(s) + len(s) == {i}; }} => nothing;\n"));
    }
    let set = Arc::new(load_text("t", &text).rules.expect("it checks"));
    let mut engine = Engine::new(set, Direction::Forward);
    let call = OwnedCall {
        args: [5, 0, 65536, 0, 0, 0],
        ret: 8192,
        parts: vec![(1, vec![b'x'; 8192])],
        ..OwnedCall::default()
    };
    let error = engine
        .feed(call, Duration::ZERO, &mut VecDeque::new())
        .expect_err("no fuel");
    assert_eq!(error.code, Code::FUEL);
}

#[test]
fn deadlines_are_those_of_the_rule_that_holds() {
    let text = "rule a within 20 ms: read(., \"a\"), close(.) => nothing; rule b within 900 ms: read(., \"b\"), close(.) => nothing;";
    let set = Arc::new(load_text("t", text).rules.expect("it checks"));
    let mut engine = Engine::new(set, Direction::Forward);
    let mut out = VecDeque::new();
    let read = |tid, text: &[u8]| OwnedCall {
        tid,
        args: [u64::from(tid), 0, 9, 0, 0, 0],
        ret: 1,
        parts: vec![(1, text.to_vec())],
        ..OwnedCall::default()
    };
    let ms = Duration::from_millis;
    assert_eq!(engine.deadline(), None);
    engine.feed(read(1, b"b"), ms(5), &mut out).expect("held");
    engine.feed(read(2, b"a"), ms(7), &mut out).expect("held");
    assert_eq!((engine.deadline(), engine.held()), (Some(ms(27)), 2));
    engine.tick(ms(26), &mut out).expect("held");
    assert!(out.is_empty());
    engine.tick(ms(27), &mut out).expect("released");
    assert!(matches!(out.pop_front(), Some(Expected::Same(c)) if c.tid == 2));
    assert_eq!((engine.deadline(), engine.held()), (Some(ms(905)), 1));
    engine.flush(ms(30), &mut out).expect("released");
    assert_eq!((engine.deadline(), engine.held(), out.len()), (None, 0, 1));
}

#[test]
fn messages_are_held_as_long_as_their_rule_says() {
    let text =
        "messages line; rule a within 20 ms: request(., \"a\\n\"), reply(., \"b\\n\") => nothing;";
    let set = Arc::new(load_text("t", text).rules.expect("it checks"));
    let mut engine = Engine::new(set, Direction::Forward);
    engine.add_connection(5);
    let mut out = VecDeque::new();
    let ms = Duration::from_millis;
    let call = OwnedCall {
        args: [5, 0, 9, 0, 0, 0],
        ret: 2,
        parts: vec![(1, b"a\n".to_vec())],
        ..OwnedCall::default()
    };
    engine.feed(call, ms(5), &mut out).expect("held");
    assert_eq!((engine.deadline(), engine.held()), (Some(ms(25)), 1));
    engine.tick(ms(25), &mut out).expect("released");
    assert_eq!((engine.deadline(), engine.held(), out.len()), (None, 0, 1));
}

#[test]
fn holes_take_as_little_as_they_can_and_the_end_is_the_end() {
    passes(
        r#"
rule a: read(5, "a $x b $y b") => read(5, "$x|$y");
rule open: read(6, "a $x b", _) => read(6, "$x");
rule twice: read(7, "$x=$x") => read(7, "same");
test "both" { given { read(5, "a 1 b 2 b 3 b"); } expect { read(5, "1|2 b 3"); } }
test "no end" { given { read(5, "a 1 b 2 b."); } expect { read(5, "a 1 b 2 b."); } }
test "too short for both ends" { given { read(5, "a 1 b b"); } expect { read(5, "a 1 b b"); } }
test "open" { given { read(6, "a 1 b and more"); } expect { read(6, "1"); } }
test "equal" { given { read(7, "k=k"); } expect { read(7, "same"); } }
test "unequal" { given { read(7, "k=l"); } expect { read(7, "k=l"); } }
"#,
    );
}

fn write(text: &str, tid: u32, seq: u64) -> OwnedCall {
    OwnedCall {
        nr: 1,
        args: [5, 0, text.len() as u64, 0, 0, 0],
        ret: text.len() as i64,
        tid,
        seq,
        parts: vec![(1, text.into())],
    }
}

fn engine(text: &str) -> Engine<OwnedCall> {
    let set = load_text("t", text).rules.expect("it checks");
    Engine::new(Arc::new(set), Direction::Forward)
}

#[test]
fn state_and_counts_outlive_the_exchange_of_the_roles() {
    let mut forward = engine(
        "state service seen = false;
         rule sees: write(_, \"FEAT\") => same { seen = true; };
         reverse { rule knows: write(fd, \"x\") when seen => write(fd, \"y\"); }",
    );
    let mut out = VecDeque::new();
    forward
        .feed(write("FEAT", 1, 1), Duration::ZERO, &mut out)
        .expect("no error");
    let mut reverse = forward.reversed(Direction::Reverse);
    reverse
        .feed(write("x", 1, 2), Duration::ZERO, &mut out)
        .expect("no error");
    assert!(matches!(out.pop_front(), Some(Expected::Same(_))));
    assert!(matches!(out.pop_front(), Some(Expected::Call(_))));
    let fired: Vec<u64> = reverse.counts().map(|(_, count)| count.fired).collect();
    assert_eq!(fired, [1, 1]);
    let on: Vec<String> = reverse
        .take_firings()
        .iter()
        .map(|firing| firing.on.to_string())
        .collect();
    assert_eq!(on, [r#"write(5, "FEAT")"#, r#"write(5, "x")"#]);
}

#[test]
fn the_oldest_held_call_of_each_thread_is_known() {
    let mut engine = engine("write(., \"a\"), write(., \"b\") => nothing;");
    let mut out = VecDeque::new();
    let mut feed = |engine: &mut Engine<OwnedCall>, call| {
        engine
            .feed(call, Duration::ZERO, &mut out)
            .expect("no error");
        out.len()
    };
    assert!(engine.concerns(&write("a", 1, 1)) && !engine.concerns(&write("b", 1, 1)));
    assert_eq!(feed(&mut engine, write("a", 1, 1)), 0);
    assert_eq!(
        feed(&mut engine, write("z", 2, 2)),
        1,
        "another thread's passes"
    );
    assert_eq!(feed(&mut engine, write("a", 2, 3)), 1);
    let oldest =
        |engine: &Engine<OwnedCall>| (1..4).map(|t| engine.oldest_held(t)).collect::<Vec<_>>();
    assert_eq!(oldest(&engine), [Some(1), Some(3), None]);
    assert_eq!(feed(&mut engine, write("b", 1, 4)), 1, "dropped");
    assert_eq!(oldest(&engine), [None, Some(3), None]);
    engine.flush(Duration::ZERO, &mut out).expect("no error");
    assert_eq!((oldest(&engine), out.len()), (vec![None; 3], 2));
}

#[test]
fn removed_calls_are_counted_once_each() {
    let rules = r#"
rule drop: write(_, /^debug/) => nothing;
rule swap: write(., "a"), write(., "b") => write(., "b"), write(., "a");
rule merge: write(., "c"), write(., d) => write(., "c" + d);
rule many: write(., "x")+, write(., "y") as last => last;
rule same: write(_, "s") => same;
rule stop: write(_, "stop") => terminate follower "enough";
messages line;
rule gone: reply(_, "GONE\n") => nothing;
"#;
    let mut engine = engine(rules);
    engine.add_connection(5);
    let mut out = VecDeque::new();
    for (texts, expected, removed) in [
        (&["GONE\n"][..], 0, 1),
        (&["GONE\nhere\n"], 1, 0),
        (&["debug 1"], 0, 1),
        (&["a", "b"], 2, 0),
        (&["c", "d"], 1, 1),
        (&["x", "x", "x", "y"], 1, 3),
        (&["s"], 1, 0),
        (&["something else"], 1, 0),
        (&["stop"], 1, 0),
    ] {
        out.clear();
        for (seq, text) in (0..).zip(texts) {
            engine
                .feed(write(text, 1, seq), Duration::ZERO, &mut out)
                .expect("no rule fails");
        }
        engine
            .flush(Duration::ZERO, &mut out)
            .expect("no rule fails");
        assert_eq!(
            (out.len(), engine.take_removed()),
            (expected, removed),
            "{texts:?}: {out:?}"
        );
    }
}

#[test]
fn several_messages_of_one_call_are_one_text_and_stay_as_many() {
    passes(
        r#"
rule sent: sendmmsg(., "one.two") as s => s(., "one.twenty");
rule got: recvmmsg(., "PUT $key") as r => r(., "PUT-string $key");
rule none: recvmmsg(., _) = EAGAIN as r => r(., "hello");
ignore sendmmsg(_, text) in text /pid ([0-9]+)/;
test "sent" { given { sendmmsg(5, "one.two", 2); } expect { sendmmsg(5, "one.twenty", 2) = 2; } }
test "got" { given { recvmmsg(5, "PUT a", 4) = 2; } expect { recvmmsg(5, "PUT-string a", 4) = 2; } }
test "one where there was none" { given { recvmmsg(5) = EAGAIN; } expect { recvmmsg(5, "hello") = 1; } }
test "noise" { given { sendmmsg(5, "pid 1 is up", 2); } expect { sendmmsg(5, "pid 4711 is up", 2); } }
"#,
    );
    let why = fails(
        r#"
rule more: recvmmsg(., "a") as r => r(., "ab") = 3;
test "their number" { given { recvmmsg(5, "a") = 2; } expect { recvmmsg(5, "ab") = 3; } }
"#,
    );
    assert!(why.contains("the number stays"), "{why}");
}
