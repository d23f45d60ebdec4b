//! `mvedsua attach`

use super::{Context, output, unexpected};
use crate::agent::launch;
use crate::agent::protocol::{Answer, Ask, Problem};

/// Supervise a running server; starts the agent if none runs
///
/// Nothing is installed in the server: it can be updated from now on. Its children belong to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua attach --pid 1234
  sudo mvedsua attach --pid $(pidof redis-server) --name cache
  sudo mvedsua attach --pid 1234 --no-children --json")]
pub struct Args {
    /// Process id of the server
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// How later commands call it [default: the name of its program, made unique]
    #[arg(long)]
    name: Option<String>,
    /// Leave the children of the server alone
    #[arg(long)]
    no_children: bool,
    /// Print the status as JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let mut client = launch::connect_or_start(&context.socket)?;
        let ask = Ask::Attach {
            name: self.name,
            pid: self.pid,
            no_children: self.no_children,
        };
        match client.ask(ask)? {
            Answer::Attached { status } if context.json => output::json(&status),
            Answer::Attached { status } => output::line(&format!(
                "attached to process {} as '{}'",
                status.leader.pid, status.name
            )),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }
}
