//! `mvedsua detach`

use super::Context;
use crate::agent::protocol::Problem;
use crate::session::Command;

/// Stop supervising a server; refused while an update runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua detach redis-server")]
pub struct Args {
    /// The service
    name: String,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        context.command(&self.name, "detaching", Command::Detach)
    }
}
