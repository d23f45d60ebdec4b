//! Checks of single source files.

use std::sync::LazyLock;

use regex_lite::Regex;

use super::blank::code_only;
use super::{File, Finding};

/// Longest file, in lines.
const LONGEST: usize = 800;

/// Parts of the library that must not know the kernel.
const PURE: [&str; 3] = ["session", "matcher", "rules"];

/// Where `unsafe` may be: raw kernel interfaces, the mapped ring, the promise to aya that the structs in
/// the recorder's maps are plain bytes, the recorder itself, and tests whose victims make odd calls on
/// purpose. (The compiler's lints ask for a reason everywhere.)
const UNSAFE: [&str; 8] = [
    "mvedsua/src/sys/",
    "mvedsua/src/sys.rs",
    "mvedsua/src/recorder/ring.rs",
    "mvedsua/src/recorder/map_value.rs",
    "mvedsua-ebpf/",
    "mvedsua/tests/",
    "tests/victims/",
    "tests/bundles/",
];

/// Where numbers of system calls may be named besides the table: who makes calls, or injects them.
const CALLS: [&str; 9] = [
    "mvedsua-common/src/",
    "mvedsua/src/sys/",
    "mvedsua/src/sys.rs",
    "mvedsua/src/tracee/inject",
    "mvedsua-ebpf/",
    "mvedsua/tests/",
    "tests/victims/",
    "tests/src/",
    "xtask/",
];

/// Names that say nothing about what a file holds.
const VAGUE: [&str; 8] = [
    "util", "utils", "helper", "helpers", "manager", "misc", "common", "stuff",
];

macro_rules! pattern {
    ($name:ident, $text:literal) => {
        static $name: LazyLock<Regex> =
            LazyLock::new(|| Regex::new($text).expect("a constant pattern"));
    };
}

pattern!(KERNEL_CRATE, r"\b(aya|libc|nix)::|\buse (aya|libc|nix)\b");
pattern!(
    OWN_MODULE,
    r"\bcrate::(sys|tracee|recorder|follower|engine|agent)\b"
);
pattern!(
    GROUPED_USE,
    r"\buse crate::\{[^;]*\b(sys|tracee|recorder|follower|engine|agent)\b[^;]*;"
);
pattern!(UNSAFE_WORD, r"\bunsafe\b");
pattern!(
    CALL_NUMBER,
    r"\bSYS_[a-z0-9_]+\b|\bSysno::|\bmatch [a-z_.]*\bnr\b"
);
pattern!(IGNORED, r"#\[ignore\b|#\[cfg_attr\([^\]]*\bignore\b");
pattern!(SLEEP, r"\b(thread|time)::sleep\(");
pattern!(TESTS_BEGIN, r"#\[cfg\(test\)\]");

/// Vague file and folder names.
pub fn name(file: &File) -> Vec<Finding> {
    let vague = file.path.split('/').find(|part| {
        let stem = part.split('.').next().unwrap_or(part);
        VAGUE.iter().any(|vague| {
            stem == *vague
                || stem.ends_with(&format!("_{vague}"))
                || stem.starts_with(&format!("{vague}_"))
        })
    });
    vague
        .map(|part| {
            finding(
                file,
                1,
                format!("the name {part} says nothing"),
                "name it after what it holds",
            )
        })
        .into_iter()
        .collect()
}

/// All checks of one Rust file.
pub fn check(file: &File) -> Vec<Finding> {
    let code = code_only(&file.text);
    let mut findings = Vec::new();
    findings.extend(length(file));
    findings.extend(kernel_in_pure_core(file, &code));
    findings.extend(sleeps(file, &code));
    if !allowed(file, &UNSAFE) {
        let remedy = "raw kernel interfaces live in mvedsua/src/sys: call a safe function there";
        findings.extend(every(file, &code, &UNSAFE_WORD, "unsafe", remedy));
    }
    if !allowed(file, &CALLS) {
        let remedy = "read mvedsua-common/src/table.rs; only mvedsua/src/sys and tracee/inject* name numbers";
        findings.extend(every(
            file,
            &code,
            &CALL_NUMBER,
            "a second list of system calls",
            remedy,
        ));
    }
    let remedy = "a test that cannot run says so: mvedsua_tests::cannot_run";
    findings.extend(every(file, &code, &IGNORED, "an ignored test", remedy));
    findings
}

fn length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    (lines > LONGEST).then(|| {
        finding(
            file,
            lines,
            format!("{lines} lines, more than {LONGEST}"),
            "split it",
        )
    })
}

fn kernel_in_pure_core(file: &File, code: &str) -> Vec<Finding> {
    let pure = PURE.iter().any(|part| {
        file.path.starts_with(&format!("mvedsua/src/{part}/"))
            || file.path == format!("mvedsua/src/{part}.rs")
    });
    if !pure {
        return Vec::new();
    }
    let what = "the pure core imports a kernel mechanism";
    let remedy = "session, matcher and rules decide; let the caller bring what they need";
    [&*KERNEL_CRATE, &*OWN_MODULE, &*GROUPED_USE]
        .into_iter()
        .flat_map(|pattern| every(file, code, pattern, what, remedy))
        .collect()
}

/// Sleeping in tests, except in a loop that looks at a condition and says so (`// poll: why`) on that
/// line or the one before.
fn sleeps(file: &File, code: &str) -> Vec<Finding> {
    let in_tests = file.path.starts_with("tests/") || file.path.contains("/tests/");
    let first = if in_tests {
        0
    } else {
        TESTS_BEGIN
            .find(code)
            .map_or(usize::MAX, |found| found.start())
    };
    let lines: Vec<&str> = file.text.lines().collect();
    let marked = |line: usize| {
        [line.checked_sub(2), line.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|at| lines.get(at).is_some_and(|text| text.contains("// poll:")))
    };
    SLEEP
        .find_iter(code)
        .filter(|found| found.start() >= first)
        .map(|found| line_of(code, found.start()))
        .filter(|&line| !marked(line))
        .map(|line| {
            finding(
                file,
                line,
                "a sleep in a test".into(),
                "wait for the condition: mvedsua_tests::wait_until",
            )
        })
        .collect()
}

fn allowed(file: &File, places: &[&str]) -> bool {
    places.iter().any(|place| file.path.starts_with(place))
}

fn every(
    file: &File,
    code: &str,
    pattern: &Regex,
    what: &str,
    remedy: &'static str,
) -> Vec<Finding> {
    pattern
        .find_iter(code)
        .map(|found| {
            let shown = found
                .as_str()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            finding(
                file,
                line_of(code, found.start()),
                format!("{what} (`{shown}`)"),
                remedy,
            )
        })
        .collect()
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

fn finding(file: &File, line: usize, what: String, remedy: &'static str) -> Finding {
    Finding {
        file: file.path.clone(),
        line,
        what,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let file = File {
            path: path.into(),
            text: text.into(),
        };
        check(&file)
            .into_iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn the_pure_core_must_not_know_the_kernel() {
        let matcher = "mvedsua/src/matcher/queue.rs";
        assert_eq!(lines(matcher, "use nix::unistd;\n"), [1]);
        assert_eq!(lines(matcher, "\nuse crate::sys::pidfd;\n"), [2]);
        assert_eq!(
            lines(
                matcher,
                "use crate::{\n    session::Stage,\n    tracee,\n};\n"
            ),
            [1]
        );
        assert_eq!(
            lines("mvedsua/src/session.rs", "fn f() { libc::getpid(); }\n"),
            [1]
        );
        assert!(
            lines(
                matcher,
                "use crate::session::Stage; // not nix::\nuse super::follower_call;\n"
            )
            .is_empty()
        );
        assert!(lines("mvedsua/src/tracee/mod.rs", "use nix::unistd;\n").is_empty());
    }

    #[test]
    fn unsafe_stays_in_its_places() {
        let text = "// unsafe\nfn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(lines("mvedsua/src/engine/mod.rs", text), [3]);
        assert_eq!(lines("mvedsua/src/recorder/load.rs", text), [3]);
        assert!(lines("mvedsua/src/sys/ptrace.rs", text).is_empty());
        assert!(lines("mvedsua/src/recorder/ring.rs", text).is_empty());
        assert!(
            lines(
                "xtask/src/main.rs",
                "#![deny(unsafe_op_in_unsafe_fn)]\nlet s = \"unsafe\";\n"
            )
            .is_empty()
        );
    }

    #[test]
    fn there_is_one_list_of_system_calls() {
        assert_eq!(lines("mvedsua/src/report/call.rs", "match nr {\n"), [1]);
        assert_eq!(
            lines("mvedsua/src/report/call.rs", "match event.nr {\n"),
            [1]
        );
        assert_eq!(
            lines("mvedsua/src/follower/mod.rs", "if nr == libc::SYS_read {\n"),
            [1]
        );
        assert!(lines("mvedsua/src/tracee/inject.rs", "call(libc::SYS_mmap)").is_empty());
        assert!(lines("mvedsua/src/report/call.rs", "match number { _ => SYSTEM }").is_empty());
    }

    #[test]
    fn tests_are_not_ignored_and_do_not_sleep() {
        assert_eq!(
            lines(
                "tests/tests/redis.rs",
                "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n"
            ),
            [2]
        );
        assert_eq!(
            lines("tests/tests/redis.rs", "std::thread::sleep(d);\n"),
            [1]
        );
        assert!(lines("tests/src/poll.rs", "thread::sleep(d); // poll: here\n").is_empty());
        assert!(lines("tests/src/poll.rs", "// poll: here\nthread::sleep(d);\n").is_empty());
        let unit = "fn f() { thread::sleep(d) }\n#[cfg(test)]\nmod tests {\n    fn g() { tokio::time::sleep(d); }\n}\n";
        assert_eq!(lines("mvedsua/src/agent/mod.rs", unit), [4]);
    }

    #[test]
    fn files_are_short_and_named_after_what_they_hold() {
        assert_eq!(lines("mvedsua/src/a.rs", &"x\n".repeat(801)), [801]);
        assert!(lines("mvedsua/src/a.rs", &"x\n".repeat(800)).is_empty());
        let vague = |path: &str| {
            !name(&File {
                path: path.into(),
                text: String::new(),
            })
            .is_empty()
        };
        for path in [
            "mvedsua/src/util.rs",
            "tests/helpers/mod.rs",
            "src/session_manager.rs",
            "misc",
        ] {
            assert!(vague(path), "{path}");
        }
        for path in [
            "mvedsua-common/src/lib.rs",
            "mvedsua/src/utility_pole.rs",
            "docs/errors.md",
        ] {
            assert!(!vague(path), "{path}");
        }
    }
}
