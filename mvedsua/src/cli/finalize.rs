//! `mvedsua finalize`

use super::Context;
use crate::agent::protocol::Problem;
use crate::session::Command;

/// Drop the old version after a promotion
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua finalize redis-server")]
pub struct Args {
    /// The service
    name: String,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        context.command(&self.name, "finalizing", Command::Finalize)
    }
}
