//! What goes to standard output and standard error, and in which form.

use std::io::{self, ErrorKind, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::agent::protocol::Problem;
use crate::session::TimelineEntry;

/// One line (or several) on standard output. When nobody reads it any more (`| head`), there is
/// nothing left to do, and the process ends.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("cannot write to standard output: {error}");
        std::process::exit(1);
    }
}

/// One JSON document on a line of its own.
pub fn json(value: &impl Serialize) {
    line(&serde_json::to_string(value).expect("numbers, strings and named fields only"));
}

/// A problem: for people on standard error; with `--json` for scripts on standard output as well.
pub fn problem(problem: &Problem, as_json: bool) {
    if as_json {
        json(&serde_json::json!({ "error": problem }));
    }
    let kind = if problem.exit_code == 0 {
        "note"
    } else {
        "error"
    };
    let mut text = format!("{kind}[{}]: {}\n", problem.code, problem.message);
    if let Some(report) = &problem.report {
        text.push('\n');
        text.push_str(report.trim_end());
        text.push_str("\n\n");
    }
    if let Some(help) = &problem.help {
        text.push_str(&format!("help: {help}\n"));
    }
    // Nothing can be said any more when standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A time, in UTC.
pub fn time(unix_ms: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms))
}

/// A timeline entry on one line.
pub fn event(entry: &TimelineEntry) -> String {
    let at = time(entry.unix_ms);
    let mark = entry
        .mark
        .map_or_else(String::new, |mark| format!("{mark:?}").to_lowercase());
    format!("{at}  {mark:2}  {:15}  {}", entry.stage, entry.what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Mark, Stage};

    #[test]
    fn an_event_is_one_line() {
        let entry = TimelineEntry {
            unix_ms: 1_700_000_000_123,
            mark: Some(Mark::T1),
            stage: Stage::Updating,
            what: "copied in 2.1 ms".into(),
        };
        assert_eq!(
            event(&entry),
            "2023-11-14T22:13:20.123Z  t1  updating         copied in 2.1 ms"
        );
    }
}
