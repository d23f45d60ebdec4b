//! `mvedsua attach`

use clap::ValueEnum;

use super::{Context, output, unexpected};
use crate::agent::launch;
use crate::agent::protocol::{Answer, Ask, Problem};
use crate::session::Children;

/// Supervise a running server; starts the agent if none runs
///
/// Nothing is installed in the server: it can be updated from now on.
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
    /// What becomes of the server's child processes [default: follow if it has any now, else alone]
    #[arg(long)]
    children: Option<Whose>,
    /// The same as --children alone
    #[arg(long, conflicts_with = "children")]
    no_children: bool,
    /// Print the status as JSON
    #[arg(long)]
    pub json: bool,
}

/// Who has the children.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Whose {
    /// The whole tree of processes is taken: each gets a counterpart, those made later, too
    Follow,
    /// They are left alone; the copy makes none
    Alone,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let mut client = launch::connect_or_start(&context.socket)?;
        let ask = Ask::Attach {
            name: self.name,
            pid: self.pid,
            children: match self.children {
                Some(Whose::Follow) => Children::Follow,
                Some(Whose::Alone) => Children::Alone,
                None if self.no_children => Children::Alone,
                None => Children::Auto,
            },
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
