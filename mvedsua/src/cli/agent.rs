//! `mvedsua agent`

use std::path::PathBuf;

use super::{Context, public_key};
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
  sudo mvedsua agent --require-signature /etc/mvedsua/team.pub
  sudo mvedsua agent --socket /run/mvedsua/second.sock")]
pub struct Args {
    /// Let members of this group command the agent, besides root
    #[arg(long)]
    group: Option<String>,
    /// Apply only bundles that are signed with this minisign key (a .pub file), whoever asks
    #[arg(long, value_name = "PUBKEY")]
    require_signature: Option<PathBuf>,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let signers = match &self.require_signature {
            Some(path) => vec![public_key(path)?],
            None => Vec::new(),
        };
        Ok(daemon::run(
            &context.socket,
            self.group.as_deref(),
            signers,
        )?)
    }
}
