//! The `mvedsua` command: one file per subcommand, which says what can be written there and
//! passes it on. What the commands do is elsewhere.

mod agent;
mod attach;
mod bundle;
mod completions;
mod detach;
mod doctor;
mod events;
mod finalize;
mod guard;
mod man;
mod output;
mod pid_namespace;
mod progress;
mod promote;
mod rate;
mod rollback;
mod rules;
mod run;
mod screen;
mod size;
mod status;
mod update;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::agent::DEFAULT_SOCKET;
use crate::agent::client::Client;
use crate::agent::protocol::{Answer, Ask, Problem};
use crate::dsu::{DsuError, PublicKey};
use crate::session::Command;

/// Updates a running, stateful server with no pause and no trust in the update
///
/// Mvedsua copies the running server, updates the copy, lets it do again what the server does, and
/// compares. Equal: promote it, and it serves in the server's place with every connection intact.
/// Not equal, crashed or hung: it is thrown away, and the server has not noticed.
#[derive(Debug, Parser)]
#[command(
    name = "mvedsua",
    version,
    after_help = "\
Examples:
  sudo mvedsua doctor                              what this machine offers
  sudo mvedsua attach --pid $(pidof redis-server)  supervise a server (starts the agent)
  sudo mvedsua update redis-server --identity      copy it and let the copy follow
  sudo mvedsua watch redis-server                  look on
  sudo mvedsua promote redis-server --finalize     let the copy serve

Exit codes:
  0 done   1 failed (e.g. no agent)   2 usage   3 rolled back   4 no such service   5 refused
  Every error has a code (E...); docs/errors.md says what to do about each."
)]
struct Cli {
    /// Control socket of the agent
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET, display_order = 900)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    Attach(attach::Args),
    Run(run::Args),
    Update(update::Args),
    Promote(promote::Args),
    Finalize(finalize::Args),
    Rollback(rollback::Args),
    Detach(detach::Args),
    Status(status::Args),
    Events(events::Args),
    Watch(watch::Args),
    Doctor(doctor::Args),
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    #[command(subcommand)]
    Rules(rules::RulesCommand),
    Agent(agent::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    Guard(guard::Args),
    #[command(hide = true, subcommand)]
    PidNamespace(pid_namespace::Role),
}

/// The base64 line of a minisign key in a file.
fn public_key(path: &Path) -> Result<String, Problem> {
    let key = path
        .canonicalize()
        .map_err(|source| DsuError::Read {
            path: path.into(),
            source,
        })
        .and_then(|path| PublicKey::load(&path));
    match key {
        Ok(key) => Ok(key.line().to_owned()),
        Err(error) => Err(Problem {
            code: error.code().into(),
            message: error.text(),
            help: None,
            exit_code: 5,
            report: None,
        }),
    }
}

/// What every subcommand is told.
struct Context {
    socket: PathBuf,
    json: bool,
}

impl Context {
    fn connect(&self) -> Result<Client, Problem> {
        Ok(Client::connect(&self.socket)?)
    }

    /// Asks something of a session, with a spinner where somebody looks on, and prints the answer.
    fn command(&self, name: &str, doing: &'static str, command: Command) -> Result<(), Problem> {
        let mut client = self.connect()?;
        let ask = Ask::Command {
            name: name.into(),
            command,
        };
        let answer = progress::while_waiting(&self.socket, name, doing, || client.ask(ask))?;
        match answer {
            Answer::Done { message, status } => {
                if self.json {
                    output::json(&serde_json::json!({ "message": message, "status": status }));
                } else {
                    output::line(&message);
                }
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// The agent answered something else than what was asked.
fn unexpected(answer: &Answer) -> Problem {
    let what = format!("it answered {answer:?}");
    crate::agent::client::ClientError::Nonsense { what }.into()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = match &cli.command {
        Subcommands::Attach(args) => args.json,
        Subcommands::Run(args) => args.json,
        Subcommands::Update(args) => args.json,
        Subcommands::Promote(args) => args.json,
        Subcommands::Finalize(args) => args.json,
        Subcommands::Rollback(args) => args.json,
        Subcommands::Detach(args) => args.json,
        Subcommands::Status(args) => args.json,
        Subcommands::Events(args) => args.json,
        Subcommands::Watch(args) => args.json,
        Subcommands::Doctor(args) => args.json,
        Subcommands::Bundle(_)
        | Subcommands::Rules(_)
        | Subcommands::Agent(_)
        | Subcommands::Guard(_)
        | Subcommands::PidNamespace(_)
        | Subcommands::Completions(_)
        | Subcommands::Man(_) => false,
    };
    let context = Context {
        socket: cli.socket,
        json,
    };
    let result = match cli.command {
        Subcommands::Attach(args) => args.run(&context),
        Subcommands::Run(args) => args.run(&context),
        Subcommands::Update(args) => args.run(&context),
        Subcommands::Promote(args) => args.run(&context),
        Subcommands::Finalize(args) => args.run(&context),
        Subcommands::Rollback(args) => args.run(&context),
        Subcommands::Detach(args) => args.run(&context),
        Subcommands::Status(args) => args.run(&context),
        Subcommands::Events(args) => args.run(&context),
        Subcommands::Watch(args) => args.run(&context),
        Subcommands::Doctor(args) => return args.run(&context),
        Subcommands::Bundle(command) => return bundle::main(command),
        Subcommands::Rules(command) => return command.run(&context),
        Subcommands::Agent(args) => args.run(&context),
        Subcommands::Completions(args) => {
            args.run();
            Ok(())
        }
        Subcommands::Man(args) => args.run(),
        Subcommands::Guard(args) => {
            args.run();
            Ok(())
        }
        Subcommands::PidNamespace(role) => {
            role.run();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output::problem(&problem, json);
            ExitCode::from(problem.exit_code)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_examples() {
        let command = Cli::command();
        let shown = |subcommand: &&clap::Command| !subcommand.is_hide_set();
        for subcommand in command.get_subcommands().filter(shown) {
            let name = subcommand.get_name();
            let help = subcommand
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.starts_with("Example"), "{name}: {help:?}");
            assert!(
                help.contains(&format!("mvedsua {name}")),
                "{name}: {help:?}"
            );
            assert!(subcommand.get_about().is_some(), "{name}");
        }
    }

    #[test]
    fn every_example_can_be_parsed() {
        let mut count = 0;
        let mut command = Cli::command();
        let texts: Vec<_> = std::iter::once(command.clone())
            .chain(command.get_subcommands().cloned())
            .filter_map(|c| c.get_after_help().map(ToString::to_string))
            .collect();
        command.build();
        for line in texts.iter().flat_map(|text| text.lines()) {
            // Description after two blanks; what the shell would replace or cut off.
            let line = line.trim_start().split("  ").next().unwrap_or_default();
            let line = line.split([';', '|', '>']).next().unwrap_or_default();
            let line = line.replace("$(pidof redis-server)", "1234");
            let words: Vec<_> = line
                .split_whitespace()
                .skip_while(|w| *w == "sudo")
                .collect();
            if words.first() != Some(&"mvedsua") {
                continue;
            }
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{line}\n{error}");
            }
            count += 1;
        }
        assert!(count > 20, "only {count} examples were found");
    }

    #[test]
    fn an_update_says_what_it_becomes() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("mvedsua update redis").is_err(), "no kind given");
        assert!(
            parse("mvedsua update redis --identity --ring 3M").is_err(),
            "no power of two"
        );
        assert!(parse("mvedsua update redis --identity --hang-limit 0s").is_err());
        assert!(parse("mvedsua update redis --identity --on-full explode").is_err());
        assert!(parse("mvedsua attach --pid 0").is_err());
        assert!(parse("mvedsua run").is_err());
    }
}
