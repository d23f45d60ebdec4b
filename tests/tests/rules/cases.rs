//! The differences between the two versions in `rules.c`, and the rules for them.

/// What stands before the rules, for both stages.
const PREAMBLE: &str = r#"
messages line;
state service feat = false;
parser put = /^PUT (?<key>[^ ]+) (?<val>.*\r\n)$/;
ignore write(_, text) in text /pid ([0-9]+)/;
"#;

/// One difference: what it is, its number in `rules.c`, the rule for it, and what must stand in the
/// reason of the rollback without the rule.
pub struct Case {
    pub what: &'static str,
    pub number: i32,
    pub rule: &'static str,
    pub without: &'static str,
}

const fn case(what: &'static str, number: i32, rule: &'static str, without: &'static str) -> Case {
    Case {
        what,
        number,
        rule,
        without,
    }
}

/// Differences that a rule reconciles.
pub const RECONCILED: &[Case] = &[
    case(
        "tolerated",
        1,
        r#"write(., "tolerated ", _) => tolerate"#,
        "write with other bytes in buf, first at offset 10",
    ),
    case(
        "rewritten",
        2,
        r#"write(fd, "HELLO 1.0\r\n") => write(fd, "HELLO 1.1\r\n")"#,
        "write with other bytes in buf, first at offset 8",
    ),
    case(
        "carried to the next read",
        3,
        r#"read(fd, s, _) { (key, val) = put(s); return key != NULL; } as r => r(fd, "PUT-string $key $val")"#,
        "write with other bytes in buf, first at offset 0",
    ),
    case(
        "dropped",
        4,
        "getpgrp() => nothing",
        "the leader made getpgrp, the follower",
    ),
    case(
        "inserted",
        5,
        "geteuid() as c => getuid() = 42, c",
        "the leader made geteuid, the follower getuid",
    ),
    case(
        "reordered",
        6,
        "getsid(0) as a, getpgid(0) as b => b, a",
        "the leader made getsid, the follower getpgid",
    ),
    case(
        "merged",
        7,
        r#"write(., "hello ", n) as a, write(., "world") => a(., "hello world")"#,
        "write with another count: 6 against 11",
    ),
    case(
        "split",
        8,
        r#"write(., "0123456789\n") as w => w(., "0123456789\n") in pieces"#,
        "write with other bytes in buf, first at offset 4",
    ),
    case(
        "noise",
        9,
        // The `ignore` line is in the preamble.
        "",
        "write with other bytes in buf, first at offset 5",
    ),
    case(
        "any number of",
        10,
        "getegid() as c => getppid()* = 7, c",
        "the leader made getegid, the follower getppid",
    ),
    case(
        "another result",
        11,
        r#"access("/nonexistent") = ENOENT as a => a() = 0"#,
        "the follower died of SIGABRT|the follower write|rt_sigprocmask",
    ),
    case(
        "messages",
        12,
        r#"request(., "PUT $key $val") => request(., "PUT-string $key $val")"#,
        "write with other bytes in buf, first at offset 0",
    ),
    case(
        "vectors",
        14,
        r#"writev(., "abcd") as w => w(., "abXcd")"#,
        "writev with other bytes in iov",
    ),
    case(
        "a message's vectors",
        15,
        r#"recvmsg(., "abcd") as r => r(., "ab--cd")"#,
        "the follower",
    ),
    case(
        "a long text, fetched out of line",
        16,
        r#"write(fd, "L$rest") => write(fd, "M$rest")"#,
        "write with other bytes in buf, first at offset 0",
    ),
    case(
        "known by state",
        17,
        "write(fd, \"OPTS\\n\") when feat => write(fd, \"NOOP\\n\");\nwrite(_, \"FEAT\\n\") => same { feat = true; }",
        "write with other bytes in buf, first at offset 0",
    ),
    case(
        "held across a signal",
        18,
        r#"write(., "hold\n") as a, write(., "held\n") => a(., "hold\nheld\n")"#,
        "write with another count|write with other bytes",
    ),
    case(
        "read vectors",
        20,
        r#"readv(., "short\n") as r => r(., "rather shorter\n")"#,
        "the follower",
    ),
    case(
        "a request where there was none",
        21,
        r#"recvfrom(., _) = EAGAIN as r => r(., "hello")"#,
        "the follower",
    ),
    case(
        "optional",
        22,
        "getgid() as c, write(_, \"optional\\n\") as w => getppid()? = 8, c, w",
        "the leader made getgid, the follower getppid",
    ),
    case(
        "several messages sent at once",
        27,
        r#"sendmmsg(., "one.two") as s => s(., "one.twenty")"#,
        "sendmmsg with other bytes in msgvec",
    ),
    case(
        "several messages read at once",
        28,
        r#"recvmmsg(., "PUT $rest") as r => r(., "PUT-string $rest")"#,
        "the follower",
    ),
    case(
        "a message where there was none",
        29,
        r#"recvmmsg(., _) = EAGAIN as r => r(., "hello")"#,
        "the follower",
    ),
    case(
        "carried, and read through a duplicate",
        31,
        r#"read(., "DUP $rest") as r => r(., "DUP-string $rest")"#,
        "the leader made close, the follower read",
    ),
    case(
        "carried, and forgotten with its connection",
        32,
        r#"read(., "REP $rest") as r => r(., "REP-string $rest")"#,
        "the follower",
    ),
    case(
        "looked at before it is read",
        33,
        r#"recvfrom(., "SEE $rest") as r => r(., "SEE-string $rest")"#,
        "the follower",
    ),
];

/// Rules that end the update, and what must stand in the reason.
pub const ENDED: &[Case] = &[
    case(
        "retry",
        23,
        r#"write(., "busy\n") => retry "it is busy""#,
        "asks to try again later: it is busy",
    ),
    case(
        "terminate",
        24,
        r#"write(fd, "unknown\n") => terminate follower "it knows no such thing""#,
        "ends the update: it knows no such thing",
    ),
    case(
        "out of fuel",
        25,
        // Filled in by `rules`.
        "FUEL",
        "E370",
    ),
    case(
        "too long",
        26,
        r#"write(fd, "T$rest") => write(fd, "$rest$rest$rest$rest$rest")"#,
        "E371",
    ),
    case(
        "a text between two messages",
        30,
        r#"recvmmsg(., "abcd") as r => r(., "ab, cd")"#,
        "E374",
    ),
];

/// The rules of one stage; the rule of case 5 is `forward5` or `reverse5`.
fn section(stage: &str) -> String {
    let mut text = format!("{stage} {{\n");
    for case in RECONCILED.iter().chain(ENDED) {
        let name = format!("rule {stage}{}:", case.number);
        if case.rule == "FUEL" {
            let tests: Vec<String> = (0..60).map(|i| format!("s ~ /{i}q[a-z]*z/")).collect();
            text.push_str(&format!(
                "{name} write(fd, s) {{ return s[0..1] == \"F\" && ({}); }} => tolerate;\n",
                tests.join(" || ")
            ));
        } else if !case.rule.is_empty() {
            text.push_str(&format!("{name} {};\n", case.rule));
        }
    }
    text.push_str(&format!(
        "rule {stage}13 within 50 ms: write(., \"first\\n\"), write(., \"second\\n\") => nothing;\n\
         rule {stage}19: write(fd, \"log me\\n\") => log \"it logs\";\n}}\n"
    ));
    text
}

/// The rule file: every rule, in both stages.
pub fn rules() -> String {
    format!("{PREAMBLE}{}{}", section("forward"), section("reverse"))
}
