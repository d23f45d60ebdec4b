//! `mvedsua rules ...`: rule files, checked and tried without any server, and what rules do in a running
//! update.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::{Context, output, unexpected};
use crate::agent::protocol::{Answer, Ask, Problem};
use crate::rules::tools::{self, Divergence, Report};
use crate::session::{RulesStatus, Status};

/// Exit code for a file that is refused or a test that fails (`docs/errors.md`).
const REFUSED: u8 = 5;
/// Exit code for a file that cannot be read or written.
const UNREADABLE: u8 = 1;

/// Check, try and explain rule files; see what rules do to a running update
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  mvedsua rules check rules/redis/noise.rules     refuse what does not hold together
  mvedsua rules test rules/kvstore/v1-v2.rules    run the cases beside the rules
  mvedsua rules explain rules/vsftpd/new-commands.rules
  mvedsua rules fmt --check rules/redis/noise.rules
  sudo mvedsua rules trace redis-server           which rules fired, how often, on what
  sudo mvedsua rules suggest redis-server         the rule for the divergence that ended its update
  mvedsua rules suggest status.json               the same from a saved `status --json`")]
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
        /// A file with what `status NAME --json` printed, else the name of a service
        source: String,
    },
    /// Show which rules fired, how often, and on what
    Trace {
        /// The service
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl RulesCommand {
    /// Runs the command and says how it went; prints to the standard output.
    #[must_use]
    pub fn run(self, context: &Context) -> ExitCode {
        let code = match self {
            Self::Check { files } => {
                each(&files, |file| Ok(tools::check(&tools::load_file(file)?)))
            }
            Self::Test { files } => each(&files, |file| Ok(tools::test(tools::load_file(file)?))),
            Self::Explain { file } => {
                each(&[file], |file| Ok(tools::explain(&tools::load_file(file)?)))
            }
            Self::Fmt { files, check } => each(&files, |file| format_file(file, check)),
            Self::Suggest { source } if Path::new(&source).exists() => {
                each(&[source.into()], suggest_from_file)
            }
            Self::Suggest { source } => told(suggest_for_service(context, &source), false),
            Self::Trace { name, json } => told(trace(context, &name, json), json),
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
                let advice = if error.kind() == std::io::ErrorKind::InvalidData {
                    "a rule file is text in UTF-8: write other bytes as \\xNN"
                } else {
                    "check the path and its permissions"
                };
                eprintln!("{}: {error}; {advice}", file.display());
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

/// Prints what was asked of the agent.
fn told(result: Result<Report, Problem>, json: bool) -> u8 {
    match result {
        Ok(report) => {
            print!("{}", report.text);
            if report.ok { 0 } else { REFUSED }
        }
        Err(problem) => {
            output::problem(&problem, json);
            problem.exit_code
        }
    }
}

fn status(context: &Context, name: &str) -> Result<Status, Problem> {
    let ask = Ask::Status {
        name: Some(name.into()),
    };
    match context.connect()?.ask(ask)? {
        Answer::Status { mut services } if services.len() == 1 => Ok(services.remove(0)),
        other => Err(unexpected(&other)),
    }
}

fn trace(context: &Context, name: &str, json: bool) -> Result<Report, Problem> {
    let status = status(context, name)?;
    if json {
        output::json(&status.rules);
        return Ok(good(String::new()));
    }
    Ok(good(match &status.rules {
        None => format!("the last update of '{name}' had no rules\n"),
        Some(rules) => trace_text(rules),
    }))
}

fn good(text: String) -> Report {
    Report { text, ok: true }
}

/// The counts of the rules of both stages, and the latest firings.
fn trace_text(rules: &RulesStatus) -> String {
    let mut text = format!(
        "{}: the {} rules are in force, {} call(s) held\n\n{:>10} {:>10} {:>10}  {:8} RULE\n",
        rules.file,
        rules.stage.word(),
        rules.held,
        "FIRED",
        "HELD",
        "GAVE UP",
        "STAGE"
    );
    for rule in &rules.rules {
        let _ = writeln!(
            text,
            "{:>10} {:>10} {:>10}  {:8} {} ({})",
            rule.count.fired,
            rule.count.held,
            rule.count.timed_out,
            rule.stage.word(),
            rule.name,
            rule.place
        );
    }
    if !rules.firings.is_empty() {
        text.push_str("\nthe latest firings, oldest first:\n");
    }
    for firing in &rules.firings {
        let _ = writeln!(
            text,
            "{}  thread {}  {}: {}",
            output::time(firing.unix_ms),
            firing.thread,
            firing.rule,
            firing.on
        );
    }
    text
}

fn suggest_for_service(context: &Context, name: &str) -> Result<Report, Problem> {
    let divergence = status(context, name)?
        .last_update
        .and_then(|u| u.divergence);
    match divergence {
        Some(divergence) => Ok(suggested(&divergence)),
        None => Err(Problem {
            code: "E382".into(),
            message: format!("the last update of '{name}' did not end in a divergence"),
            help: Some(format!("`mvedsua status {name}` says how it ended")),
            exit_code: REFUSED,
            report: None,
        }),
    }
}

fn suggested(divergence: &Divergence) -> Report {
    match tools::suggest(divergence) {
        Ok(text) => good(text),
        Err(error) => Report {
            text: format!("{error}\n"),
            ok: false,
        },
    }
}

/// Where a divergence may stand in what the commands print.
const KEYS: [&str; 2] = ["/divergence", "/last_update/divergence"];

fn suggest_from_file(file: &Path) -> std::io::Result<Report> {
    let text = std::fs::read_to_string(file)?;
    // What can be taken for a rule stands alone in the output.
    let none = |why: String| {
        eprintln!("error[E382]: {why}");
        eprintln!(
            "help: save what `status NAME --json` prints after an update that ended in a divergence"
        );
        Ok(Report {
            text: String::new(),
            ok: false,
        })
    };
    let value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(error) => return none(format!("{} is no JSON: {error}", file.display())),
    };
    let record = KEYS.iter().find_map(|key| value.pointer(key).cloned());
    let Ok(divergence) = serde_json::from_value::<Divergence>(record.unwrap_or(value)) else {
        return none(format!("{} tells of no divergence", file.display()));
    };
    Ok(suggested(&divergence))
}
