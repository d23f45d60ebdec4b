//! `mvedsua run`

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Context, output, unexpected};
use crate::agent::launch;
use crate::agent::protocol::{Answer, Problem};

/// Start a server and supervise it
///
/// The server runs in the background, in a session of its own, as nobody's child: it outlives
/// this command and the agent. It must stay in the foreground by itself (e.g. `daemonize no`), else
/// it is gone before it can be followed. It is watched for half a second.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua run -- redis-server --port 6379
  sudo mvedsua run --name cache --log /var/log/cache.log -- memcached -u nobody -p 11211")]
pub struct Args {
    /// How later commands call it [default: the name of the program, made unique]
    #[arg(long)]
    name: Option<String>,
    /// The file for its output, appended to [default: NAME.log beside the control socket]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Print the status as JSON
    #[arg(long)]
    pub json: bool,
    /// The server's command line
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let started = launch::run_server(&context.socket, self.name, self.log, &self.command)?;
        match started.answer {
            Answer::Attached { status } if context.json => output::json(&status),
            Answer::Attached { status } => output::line(&format!(
                "started process {} as '{}'; its output goes to {}",
                status.leader.pid,
                status.name,
                started.log.display()
            )),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }
}
