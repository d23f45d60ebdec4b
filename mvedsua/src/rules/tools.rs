//! What `mvedsua rules ...` does, as functions over text.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use regex::bytes::Regex;

use super::ast::{Direction, ItemKind, Repeat, Scope};
use super::call::OwnedCall;
use super::diagnostic::{Code, Severity, has_errors};
use super::fault::{Fault, RuleError};
use super::format::{format, literal};
use super::loader::{Loaded, load};
use super::names::{self, Flow, Signature};
use super::parser::parse;
use super::program::{Do, Noise, Outcome, Rule, RuleSet, Subject};
use super::source::SourceMap;
use super::testing;
use crate::report::flags;

/// What a tool has to say, and whether it is good news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The text for the user.
    pub text: String,
    /// False when the command should fail.
    pub ok: bool,
}

/// Loads a rule file from disk.
///
/// # Errors
/// When the file itself cannot be read; what is wrong inside is among the diagnostics.
pub fn load_file(path: &Path) -> std::io::Result<Loaded> {
    load(path, &|path| std::fs::read_to_string(path))
}

/// One text that means the same as a file with all that it includes, for a bundle.
#[must_use]
pub fn flatten(loaded: &Loaded) -> String {
    let mut flat = String::new();
    // What is included comes before who includes it.
    for tree in &loaded.trees {
        let Some(first) = tree.items.first() else {
            continue;
        };
        let mut text = loaded.sources.file(first.span.file).text.to_string();
        let includes = tree
            .items
            .iter()
            .filter(|item| matches!(item.kind, ItemKind::Include(_)));
        for item in includes.rev() {
            text.replace_range(item.span.start as usize..item.span.end as usize, "");
        }
        flat.push_str(text.trim());
        flat.push_str("\n\n");
    }
    flat
}

/// `rules check`: diagnostics and a summary.
#[must_use]
pub fn check(loaded: &Loaded) -> Report {
    let mut text = loaded.render();
    let count = |severity| {
        loaded
            .diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    };
    let (errors, lints) = (count(Severity::Error), count(Severity::Lint));
    if !text.is_empty() {
        text.push('\n');
    }
    match &loaded.rules {
        Some(set) => {
            let of = |d| set.rules.iter().filter(|r| r.direction == d).count();
            let _ = writeln!(
                text,
                "ok: {} forward rules, {} reverse rules, {} ignore lines, {} tests, {lints} lints",
                of(Direction::Forward),
                of(Direction::Reverse),
                set.noise.len(),
                set.tests.len(),
            );
        }
        None => {
            let _ = writeln!(text, "refused: {errors} errors, {lints} lints");
        }
    }
    Report {
        text,
        ok: loaded.rules.is_some(),
    }
}

/// `rules fmt`: the text in its one layout, or the errors that prevent it.
#[must_use]
pub fn fmt(name: &str, text: &str) -> Report {
    let mut sources = SourceMap::new();
    let id = sources.add(name, text);
    let (tree, diagnostics) = parse(id, text);
    if has_errors(&diagnostics) {
        let text = diagnostics
            .iter()
            .map(|d| d.render(&sources))
            .collect::<Vec<_>>()
            .join("\n");
        return Report { text, ok: false };
    }
    Report {
        text: format(&tree),
        ok: true,
    }
}

/// `rules test`: one line for each case.
#[must_use]
pub fn test(loaded: Loaded) -> Report {
    if loaded.rules.is_none() {
        return check(&loaded);
    }
    let Some(set) = loaded.rules.map(Arc::new) else {
        return Report {
            text: String::new(),
            ok: false,
        };
    };
    let mut text = String::new();
    let outcomes = testing::run(&set);
    let mut failed = 0;
    for outcome in &outcomes {
        match &outcome.failure {
            None => {
                let _ = writeln!(text, "ok      {}", outcome.name);
            }
            Some(why) => {
                failed += 1;
                let _ = writeln!(
                    text,
                    "FAILED  {}\n        {}: {why}",
                    outcome.name,
                    Code::TEST_FAILED
                );
            }
        }
    }
    let _ = writeln!(text, "{} passed, {failed} failed", outcomes.len() - failed);
    Report {
        text,
        ok: failed == 0,
    }
}

/// `rules explain`: each rule in plain English, in the order in which they are tried.
#[must_use]
pub fn explain(loaded: &Loaded) -> Report {
    let Some(set) = &loaded.rules else {
        return check(loaded);
    };
    let mut text = String::new();
    for direction in [Direction::Forward, Direction::Reverse] {
        let rules: Vec<&Rule> = set
            .rules
            .iter()
            .filter(|r| r.direction == direction)
            .collect();
        if rules.is_empty() {
            continue;
        }
        let who = match direction {
            Direction::Forward => "while the old version leads and the new one follows",
            Direction::Reverse => "while the new version leads and the old one follows",
        };
        let _ = writeln!(
            text,
            "{} ({who}); the first rule that applies wins:\n",
            direction.word()
        );
        for rule in rules {
            explain_rule(&mut text, set, rule);
        }
    }
    for noise in &set.noise {
        let when = noise.direction.map_or("both stages", Direction::word);
        let fields: Vec<String> = noise
            .fields
            .iter()
            .map(|field| ignored(noise, field))
            .collect();
        let _ = writeln!(
            text,
            "ignore ({}, {when}): of {} {}",
            set.sources.place(noise.span),
            noise.pattern.shown,
            fields.join(", ")
        );
    }
    Report { text, ok: true }
}

/// A field that is not compared, or the part of it that is not.
fn ignored(noise: &Noise, (slot, regex): &(names::Slot, Option<Arc<Regex>>)) -> String {
    let name = match (slot, &noise.pattern.subject) {
        (names::Slot::Result, _) => "the result",
        (names::Slot::Text, _) | (_, Subject::Message(_)) => "the text",
        (
            names::Slot::Number(at)
            | names::Slot::Data(at)
            | names::Slot::Either(at)
            | names::Slot::Length { arg: at, .. },
            Subject::Call(signature),
        ) => signature.call.names[usize::from(*at)],
    };
    match regex {
        Some(regex) => format!("{name} where /{regex}/ matches"),
        None => name.to_owned(),
    }
}

fn explain_rule(text: &mut String, set: &RuleSet, rule: &Rule) {
    let derived = if rule.derived {
        ", derived from the other stage"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "{} ({}{derived})",
        rule.name,
        set.sources.place(rule.span)
    );
    for (i, pattern) in rule.patterns.iter().enumerate() {
        let lead = if i == 0 {
            "  when the leader makes"
        } else {
            "  and then"
        };
        let times = match pattern.repeat {
            Repeat::Once => "",
            Repeat::Optional => " (or not)",
            Repeat::Any => " (any number of times)",
            Repeat::Some => " (once or more)",
        };
        let _ = write!(text, "{lead} {}{times}", subject(&pattern.subject));
        if !pattern.prefix.is_empty() {
            let _ = write!(text, " whose text starts with {}", literal(&pattern.prefix));
        } else if pattern
            .args
            .iter()
            .any(|(slot, _)| matches!(slot, names::Slot::Data(_) | names::Slot::Text))
        {
            text.push_str(" with a text (looked at on every such call: it has no literal start)");
        }
        let guard = if pattern.guard.is_empty() {
            ""
        } else {
            ", if its guard says so"
        };
        let _ = writeln!(text, "{guard}: {}", pattern.shown);
    }
    if rule.patterns.len() > 1 || rule.patterns[0].repeat != Repeat::Once {
        let on = match rule.scope {
            Scope::Fd => "on one descriptor",
            Scope::Thread => "on one thread, clock readings aside",
        };
        let _ = writeln!(
            text,
            "  {on}; at most {} calls and {} ms are held to see it",
            rule.max_calls,
            rule.max_time.as_millis()
        );
    }
    if rule.when.is_some() {
        let _ = writeln!(text, "  under the condition that {}", rule.when_shown);
    }
    let outcome = match &rule.outcome {
        Outcome::Nothing(_) => "  the follower is expected to make none of them".to_owned(),
        Outcome::Same(_) => "  the follower is expected to make the same calls".to_owned(),
        Outcome::Tolerate(_) => {
            "  the follower is expected to make the same calls, whatever is in them".to_owned()
        }
        // There is no way back to it: the new version serves on alone.
        Outcome::Retry(_) | Outcome::Terminate(_) if rule.direction == Direction::Reverse => {
            "  the old version is dropped".to_owned()
        }
        Outcome::Retry(_) => "  the update is rolled back and tried again later".to_owned(),
        Outcome::Terminate(_) => "  the update is rolled back".to_owned(),
        Outcome::Calls(calls) => {
            let calls: Vec<String> = calls
                .iter()
                .map(|c| {
                    let how = match (c.bare, c.from) {
                        (true, _) => " as it is".to_owned(),
                        (false, Some(_)) => format!(" (changed): {}", c.shown),
                        (false, None) => format!(" (inserted): {}", c.shown),
                    };
                    format!("{}{how}", subject(&c.subject))
                })
                .collect();
            format!(
                "  the follower is expected to make {}",
                calls.join("\n    and then ")
            )
        }
    };
    let _ = writeln!(text, "{outcome}");
    let does = |wanted: fn(&Do) -> bool| statements(rule).any(wanted);
    if does(|statement| matches!(statement, Do::SetState(..))) {
        let names: BTreeSet<&str> = statements(rule)
            .filter_map(|statement| match statement {
                Do::SetState(at, _) => set.states.get(*at).map(|state| state.name.as_str()),
                _ => None,
            })
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        let _ = writeln!(text, "  and sets {}", names.join(", "));
    }
    if does(|statement| matches!(statement, Do::Log(_))) {
        text.push_str("  and writes a line into the timeline\n");
    }
    text.push('\n');
}

/// All statements of a rule.
fn statements(rule: &Rule) -> impl Iterator<Item = &Do> {
    let (own, made) = match &rule.outcome {
        Outcome::Nothing(body) | Outcome::Same(body) | Outcome::Tolerate(body) => {
            (body.as_slice(), &[][..])
        }
        Outcome::Calls(calls) => (&[][..], calls.as_slice()),
        Outcome::Retry(_) | Outcome::Terminate(_) => (&[][..], &[][..]),
    };
    let guards = rule.patterns.iter().flat_map(|pattern| &pattern.guard);
    guards
        .chain(own)
        .chain(made.iter().flat_map(|call| &call.body))
}

fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Call(signature) => format!("`{}`", signature.call.name),
        Subject::Message(Flow::In) => "a request".to_owned(),
        Subject::Message(Flow::Out) => "a reply".to_owned(),
    }
}

/// A recorded divergence, as far as a rule can be made from it. The divergence report carries one
/// as JSON under the key `divergence`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Divergence {
    /// True when the new version was leading.
    pub reverse: bool,
    /// What the leader did next; nothing when the follower did more than the leader.
    pub leader: Option<OwnedCall>,
    /// What it did after that in the same thread, as far as it is known.
    #[serde(default)]
    pub next: Vec<OwnedCall>,
    /// What the follower did instead; nothing when it did less.
    pub follower: Option<OwnedCall>,
}

/// `rules suggest`: the rule that would tolerate exactly this divergence.
///
/// # Errors
/// When there is no call on either side, or one that rules cannot name.
pub fn suggest(divergence: &Divergence) -> Result<String, RuleError> {
    let fail = |why: &str| Fault::new(Code::SUGGEST, why).in_rule("rules suggest");
    let mut fd = Fd::Same;
    if let (Some(leader), Some(follower)) = (&divergence.leader, &divergence.follower)
        && leader.nr == follower.nr
        && let Some(at) = names::signature(leader.nr).and_then(|s| s.fd)
        && leader.args[usize::from(at)] as i32 != follower.args[usize::from(at)] as i32
    {
        fd = Fd::Number;
    }
    let side = |call: &OwnedCall, pattern: bool| -> Result<String, RuleError> {
        let signature = names::signature(call.nr)
            .filter(|s| names::never_recorded(s.call).is_none())
            .ok_or_else(|| fail("rules cannot speak of this call"))?;
        Ok(call_text(call, signature, pattern, fd))
    };
    let mut remarks = String::new();
    let (left, right) = match (&divergence.leader, &divergence.follower) {
        (None, None) => return Err(fail("the record has no call on either side")),
        (Some(leader), None) => (side(leader, true)?, "nothing".to_owned()),
        (Some(leader), Some(follower)) if leader.nr == follower.nr => {
            (side(leader, true)?, side(follower, false)?)
        }
        (Some(leader), Some(follower)) => {
            let (made, inserted) = (side(leader, true)?, side(follower, false)?);
            // The follower makes what the leader makes later: it leaves the calls before out.
            let later = divergence.next.iter().position(|next| {
                next.nr == follower.nr && side(next, false).is_ok_and(|next| next == inserted)
            });
            if let Some(later) = later {
                let mut left = vec![made];
                for next in &divergence.next[..later] {
                    left.push(side(next, true)?);
                }
                (left.join(", "), "nothing".to_owned())
            } else {
                let result = result_text(follower.ret);
                let _ = write!(
                    remarks,
                    "// The follower seems to make one call more, which gets the result {result}: say what it is to\n\
                     // get. If it makes that call in place of the leader's:\n\
                     // rule suggested: {made} => {inserted} = {result};\n"
                );
                (
                    format!("{made} as made"),
                    format!("{inserted} = {result}, made"),
                )
            }
        }
        (None, Some(_)) => {
            return Err(fail(
                "the follower makes a call after all of the leader's: name a call of the leader before or after it, and write `call(...) as c => c, inserted(...) = result`",
            ));
        }
    };
    let section = if divergence.reverse {
        Direction::Reverse
    } else {
        Direction::Forward
    };
    let text = format!(
        "{} {{\n    rule suggested: {left} => {right};\n}}\n",
        section.word()
    );
    let report = fmt("suggested", &text);
    if !report.ok {
        return Err(fail(&format!(
            "the rule would not be accepted: {}",
            report.text
        )));
    }
    Ok(remarks + &report.text)
}

/// How a descriptor is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fd {
    /// As `.`: its number differs from run to run.
    Same,
    /// As a number, since it is what the two calls differ in.
    Number,
}

/// A call as text.
fn call_text(call: &OwnedCall, signature: &Signature, pattern: bool, fd: Fd) -> String {
    let mut args = Vec::new();
    for (i, slot) in signature.slots.iter().enumerate() {
        let name = signature.call.names[i];
        let text = call
            .parts
            .iter()
            .find(|(at, _)| usize::from(*at) == i)
            .map(|(_, t)| t.as_slice());
        let text = text.map(|t| t.strip_suffix(b"\0").unwrap_or(t));
        let input = !matches!(signature.data, Some((data, Flow::In)) if usize::from(data) == i);
        match (slot, text) {
            _ if Some(i) == signature.fd.map(usize::from) && fd == Fd::Same => {
                args.push(".".to_owned());
            }
            (names::Slot::Data(_) | names::Slot::Either(_), Some(text)) if input || pattern => {
                args.push(format!("{name}: {}", literal(text)));
            }
            (names::Slot::Number(_), _) if is_compared(signature, i) => {
                args.push(format!("{name}: {}", number_text(call, signature, i)));
            }
            _ => {}
        }
    }
    format!("{}({})", signature.call.name, args.join(", "))
}

/// A number as text: by its names, where the language has some that stand for it.
fn number_text(call: &OwnedCall, signature: &Signature, at: usize) -> String {
    use mvedsua_common::spec::Arg;
    const CWD: &str = "AT_FDCWD";
    let raw = call.args[at];
    let value = match signature.call.args[at] {
        Arg::Long => return raw.cast_signed().to_string(),
        Arg::Fd if names::constant(CWD) == Some(i64::from(raw as i32)) => return CWD.into(),
        Arg::Fd => return (raw as i32).to_string(),
        _ => i64::from(raw as i32),
    };
    let named = flags::of_argument(signature.call, &call.args, at).filter(|text| {
        let number = |part: &str| {
            let digits = part.strip_prefix("0x").map(|hex| (hex, 16));
            let digits = digits.or_else(|| part.strip_prefix("0o").map(|octal| (octal, 8)));
            let (digits, radix) = digits.unwrap_or((part, 10));
            let number = names::constant(part);
            number.or_else(|| i64::from_str_radix(digits, radix).ok())
        };
        let parts: Option<Vec<i64>> = text.split('|').map(number).collect();
        parts.is_some_and(|parts| parts.iter().fold(0, |all, part| all | part) == value)
    });
    named.map_or_else(|| value.to_string(), |text| text.replace('|', " | "))
}

/// A result as text: an error by its name.
fn result_text(result: i64) -> String {
    names::error_name(result).map_or_else(|| result.to_string(), str::to_owned)
}

fn is_compared(signature: &Signature, at: usize) -> bool {
    use mvedsua_common::spec::Arg;
    matches!(signature.call.args[at], Arg::Int | Arg::Long | Arg::Fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::loader::load_text;

    fn write(text: &str) -> OwnedCall {
        let len = text.len() as u64;
        OwnedCall {
            nr: 1,
            args: [5, 0, len, 0, 0, 0],
            ret: len as i64,
            parts: vec![(1, text.into())],
            ..OwnedCall::default()
        }
    }

    #[test]
    fn a_suggested_rule_checks_and_tolerates_exactly_the_divergence() {
        let divergence = Divergence {
            reverse: false,
            leader: Some(write("+OK\r\n")),
            next: Vec::new(),
            follower: Some(write("+QUEUED\r\n")),
        };
        let rule = suggest(&divergence).expect("a rule");
        let tests = r#"
test "it" { given { write(7, "+OK\r\n"); } expect { write(7, "+QUEUED\r\n"); } }
test "nothing else" { given { write(7, "+OK!\r\n"); } expect { write(7, "+OK!\r\n"); } }
"#;
        let report = test(load_text("t", &format!("{rule}{tests}")));
        assert!(report.ok, "{rule}{}", report.text);
    }

    #[test]
    fn a_missing_call_is_suggested_as_dropped() {
        let rule = suggest(&Divergence {
            reverse: true,
            leader: Some(write("x")),
            next: Vec::new(),
            follower: None,
        })
        .expect("a rule");
        assert!(
            rule.starts_with("reverse {") && rule.contains("=> nothing"),
            "{rule}"
        );
        assert!(load_text("t", &rule).rules.is_some(), "{rule}");
        assert_eq!(
            suggest(&Divergence::default()).expect_err("nothing").code,
            Code::SUGGEST
        );
    }

    #[test]
    fn a_call_that_the_leader_makes_later_means_that_those_before_are_missing() {
        let plain = |nr| OwnedCall {
            nr,
            ..OwnedCall::default()
        };
        let name = |name| names::call(name).expect("in the table").nr;
        let divergence = Divergence {
            reverse: false,
            leader: Some(plain(name("getpgrp"))),
            next: vec![plain(name("getuid")), plain(name("getegid"))],
            follower: Some(plain(name("getegid"))),
        };
        let rule = suggest(&divergence).expect("a rule");
        let tests = r#"
test "it" { given { getpgrp(); getuid(); getegid(); } expect { getegid(); } }
"#;
        let report = test(load_text("t", &format!("{rule}{tests}")));
        assert!(report.ok, "{rule}{}", report.text);
    }

    #[test]
    fn a_call_of_which_the_leader_knows_nothing_is_inserted() {
        let plain = |nr| OwnedCall {
            nr,
            ..OwnedCall::default()
        };
        let name = |name| names::call(name).expect("in the table").nr;
        let divergence = Divergence {
            leader: Some(plain(name("geteuid"))),
            follower: Some(plain(name("getuid"))),
            ..Divergence::default()
        };
        let rule = suggest(&divergence).expect("a rule");
        let tests = r#"
test "it" { given { geteuid() = 3; } expect { getuid() = 0; geteuid() = 3; } }
"#;
        let report = test(load_text("t", &format!("{rule}{tests}")));
        assert!(report.ok, "{rule}{}", report.text);
    }

    #[test]
    fn another_descriptor_is_suggested_by_number() {
        let mut follower = write("x");
        follower.args[0] = 6;
        let divergence = Divergence {
            leader: Some(write("x")),
            follower: Some(follower),
            ..Divergence::default()
        };
        let rule = suggest(&divergence).expect("a rule");
        let tests = r#"
test "it" { given { write(5, "x"); } expect { write(6, "x"); } }
"#;
        let report = test(load_text("t", &format!("{rule}{tests}")));
        assert!(report.ok, "{rule}{}", report.text);
    }

    #[test]
    fn numbers_are_suggested_by_their_names() {
        let call = |name: &str, args: [u64; 6]| OwnedCall {
            nr: names::call(name).expect("in the table").nr,
            args,
            ..OwnedCall::default()
        };
        let number = |name| names::constant(name).expect("it is known").cast_unsigned();
        let at = number("AT_FDCWD");
        let flags = number("O_WRONLY") | number("O_CREAT") | number("O_CLOEXEC");
        for (name, args, named) in [
            (
                "openat",
                [at, 0, flags, 0o644, 0, 0],
                "flags: O_WRONLY | O_CLOEXEC | O_CREAT",
            ),
            ("openat", [at, 0, 0, 0, 0, 0], "openat(., flags: O_RDONLY"),
            (
                "fcntl",
                [5, number("F_SETFL"), 0x800, 0, 0, 0],
                "op: F_SETFL",
            ),
            (
                "socket",
                [2, 1 | 0o4000, 0, 0, 0, 0],
                "socket(domain: AF_INET, type: SOCK_STREAM | SOCK_NONBLOCK",
            ),
            (
                "setsockopt",
                [5, 1, 2, 0, 4, 0],
                "level: SOL_SOCKET, optname: SO_REUSEADDR",
            ),
            (
                "setsockopt",
                [5, 6, 1, 0, 4, 0],
                "level: IPPROTO_TCP, optname: TCP_NODELAY",
            ),
            ("kill", [12, 15, 0, 0, 0, 0], "sig: SIGTERM"),
            ("lseek", [5, 0, 2, 0, 0, 0], "whence: SEEK_END"),
            // What has no name stays a number.
            ("socket", [99, 1, 0, 0, 0, 0], "domain: 99"),
            ("listen", [5, 511, 0, 0, 0, 0], "backlog: 511"),
        ] {
            let divergence = Divergence {
                leader: Some(call(name, args)),
                follower: None,
                ..Divergence::default()
            };
            let rule = suggest(&divergence).expect("a rule");
            assert!(rule.contains(named), "{named}: {rule}");
            let loaded = load_text("t", &rule);
            assert!(loaded.rules.is_some(), "{rule}{}", loaded.render());
        }
        assert_eq!(result_text(-11), "EAGAIN");
        assert_eq!(result_text(7), "7");
    }

    #[test]
    fn every_shipped_way_to_say_it_is_explained() {
        let text = "rule a: read(., \"x\"), write(., _)+ => nothing; reverse { rule b: close(_) as c => c, getpid() = 1; } state service n = 0; rule c: close(7) when n > 1 => same { n += 1; log \"closed\"; } ignore write(2, s) in s /[0-9]/;";
        let report = explain(&load_text("t", text));
        for part in [
            "a (t:1)",
            "starts with \"x\"",
            "once or more",
            "`getpid` (inserted)",
            "ignore (t:1, both stages): of write(2, s) buf where /[0-9]/ matches",
            "read(., \"x\")",
            "under the condition that n > 1",
            "and sets n",
            "writes a line",
        ] {
            assert!(report.text.contains(part), "{part}: {}", report.text);
        }
    }
}
