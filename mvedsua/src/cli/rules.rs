//! `mvedsua rules ...`: rule files, checked and tried without any server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use crate::rules::tools::{self, Divergence, Report};

/// Exit code for a file that is refused or a test that fails (`docs/errors.md`).
const REFUSED: u8 = 5;
/// Exit code for a file that cannot be read or written.
const UNREADABLE: u8 = 1;

/// Check, try and explain rule files, without any server
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  mvedsua rules check rules/redis/noise.rules     refuse what does not hold together
  mvedsua rules test rules/kvstore/v1-v2.rules    run the cases beside the rules
  mvedsua rules explain rules/vsftpd/new-commands.rules
  mvedsua rules fmt --check rules/redis/noise.rules
  mvedsua rules suggest report.json               the rule for a recorded divergence")]
pub enum RulesCommand {
    /// Check rule files: names, types, rules that can never apply
    Check {
        /// Rule files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Bring rule files into their one layout
    Fmt {
        /// Rule files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Change nothing; fail if something would change
        #[arg(long)]
        check: bool,
    },
    /// Say in plain English what the rules of a file do
    Explain {
        /// Rule file
        file: PathBuf,
    },
    /// Run the test cases that stand beside the rules
    Test {
        /// Rule files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Propose the rule that would tolerate exactly a recorded divergence
    Suggest {
        /// A divergence report in JSON
        report: PathBuf,
    },
}

impl RulesCommand {
    /// Runs the command and says how it went; prints to the standard output.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let code = match self {
            Self::Check { files } => {
                each(&files, |file| Ok(tools::check(&tools::load_file(file)?)))
            }
            Self::Test { files } => each(&files, |file| Ok(tools::test(tools::load_file(file)?))),
            Self::Explain { file } => {
                each(&[file], |file| Ok(tools::explain(&tools::load_file(file)?)))
            }
            Self::Fmt { files, check } => each(&files, |file| format_file(file, check)),
            Self::Suggest { report } => each(&[report], suggest),
        };
        ExitCode::from(code)
    }
}

/// Does one thing with each file; the worst exit code wins.
fn each(files: &[PathBuf], work: impl Fn(&Path) -> std::io::Result<Report>) -> u8 {
    let mut worst = 0;
    for file in files {
        let code = match work(file) {
            Ok(report) => {
                if files.len() > 1 && !report.text.is_empty() {
                    println!("{}:", file.display());
                }
                print!("{}", report.text);
                if report.ok { 0 } else { REFUSED }
            }
            Err(error) => {
                eprintln!(
                    "{}: {error}; check the path and its permissions",
                    file.display()
                );
                UNREADABLE
            }
        };
        worst = worst.max(code);
    }
    worst
}

fn format_file(file: &Path, check: bool) -> std::io::Result<Report> {
    let text = std::fs::read_to_string(file)?;
    let report = tools::fmt(&file.display().to_string(), &text);
    if !report.ok || report.text == text {
        let text = if report.ok {
            String::new()
        } else {
            report.text
        };
        return Ok(Report {
            text,
            ok: report.ok,
        });
    }
    if check {
        return Ok(Report {
            text: format!("{}: would be changed\n", file.display()),
            ok: false,
        });
    }
    std::fs::write(file, report.text)?;
    Ok(Report {
        text: format!("{}: changed\n", file.display()),
        ok: true,
    })
}

fn suggest(file: &Path) -> std::io::Result<Report> {
    let text = std::fs::read_to_string(file)?;
    let invalid = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    let value: Value =
        serde_json::from_str(&text).map_err(|e| invalid(format!("this is no JSON: {e}")))?;
    let record = value.get("divergence").cloned().unwrap_or(value);
    let divergence: Divergence = serde_json::from_value(record).map_err(|e| {
        invalid(format!(
            "the report has no divergence that can be read: {e}"
        ))
    })?;
    Ok(match tools::suggest(&divergence) {
        Ok(text) => Report { text, ok: true },
        Err(error) => Report {
            text: format!("{error}\n"),
            ok: false,
        },
    })
}
