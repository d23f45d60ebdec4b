//! `mvedsua doctor`

use std::process::ExitCode;

use super::{Context, output};
use crate::doctor::{Finding, State, examine, is_healthy};

/// Check what this machine offers, and say what misses what
///
/// Each check tries the feature. Exit code 0: everything that is needed is there; 5: something is
/// missing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua doctor
  sudo mvedsua doctor --json | jq '.[] | select(.state != \"fine\")'")]
pub struct Args {
    /// Print JSON: an array of findings
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> ExitCode {
        let agent = context.connect().ok().map(|client| client.agent().pid);
        let findings = examine(agent);
        if context.json {
            output::json(&findings);
        } else {
            output::line(&in_words(&findings));
        }
        if is_healthy(&findings) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(5)
        }
    }
}

fn in_words(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let state = match finding.state {
            State::Fine => "ok     ",
            State::Degraded => "reduced",
            State::Missing => "MISSING",
        };
        lines.push(format!(
            "{state}  {}  {:27}  {}",
            finding.code, finding.feature, finding.seen
        ));
        if let Some(help) = &finding.help {
            lines.push(format!("{:15}needed for: {}", "", finding.needed_for));
            lines.push(format!("{:15}help: {help}", ""));
        }
    }
    let count = |state| {
        findings
            .iter()
            .filter(|finding| finding.state == state)
            .count()
    };
    lines.push(match (count(State::Missing), count(State::Degraded)) {
        (0, 0) => "everything is there".into(),
        (0, n) => format!("everything that is needed is there; {n} could be better"),
        (n, _) => format!("{n} missing: Mvedsua cannot work here"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_what_for_and_what_to_do() {
        let finding = |state, help: Option<&str>| Finding {
            code: "E005".into(),
            feature: "BTF".into(),
            state,
            seen: "no such file".into(),
            needed_for: "the recorder".into(),
            help: help.map(Into::into),
        };
        let text = in_words(&[finding(State::Missing, Some("use another kernel"))]);
        for part in [
            "MISSING",
            "E005",
            "the recorder",
            "use another kernel",
            "cannot work here",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let text = in_words(&[finding(State::Fine, None)]);
        assert!(
            text.ends_with("everything is there") && !text.contains("help"),
            "{text}"
        );
    }
}
