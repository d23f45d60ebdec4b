//! `mvedsua promote`

use super::Context;
use crate::agent::protocol::Problem;
use crate::session::Command;

/// Let the updated copy serve in place of the old version
///
/// Every connection stays. The old version follows from then on and takes over again if the new one
/// crashes, until `finalize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua promote redis-server
  sudo mvedsua promote redis-server --finalize")]
pub struct Args {
    /// The service
    name: String,
    /// Drop the old version at once
    #[arg(long)]
    finalize: bool,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        context.command(
            &self.name,
            "promoting",
            Command::Promote {
                finalize: self.finalize,
            },
        )
    }
}
