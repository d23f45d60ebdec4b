//! `mvedsua rollback`

use super::Context;
use crate::agent::protocol::Problem;
use crate::session::Command;

/// Back to the old version: throw the copy away, or after a promotion let the old process lead again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua rollback redis-server
  sudo mvedsua rollback redis-server --reason rehearsal")]
pub struct Args {
    /// The service
    name: String,
    /// Why, for the timeline
    #[arg(long, value_name = "TEXT", default_value = "asked for by the operator")]
    reason: String,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        context.command(
            &self.name,
            "rolling back",
            Command::Rollback {
                reason: self.reason,
            },
        )
    }
}
