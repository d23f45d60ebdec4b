//! `mvedsua agent`

use super::Context;
use crate::agent::daemon;
use crate::agent::protocol::Problem;

/// Run the agent in the foreground, as systemd does it
///
/// `attach` and `run` start one in the background when none runs. Its log goes to standard error,
/// or to the journal under systemd; MVEDSUA_LOG sets how much (e.g. `debug`). SIGTERM and SIGINT
/// roll running updates back before it ends. The servers go on, except promoted ones: they wait for
/// the next agent.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua agent
  sudo mvedsua agent --group operators
  sudo mvedsua agent --socket /run/mvedsua/second.sock")]
pub struct Args {
    /// Let members of this group command the agent, besides root
    #[arg(long)]
    group: Option<String>,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        Ok(daemon::run(&context.socket, self.group.as_deref())?)
    }
}
