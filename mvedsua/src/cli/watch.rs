//! `mvedsua watch`

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::rate::Rate;
use super::{Context, output, screen, unexpected};
use crate::agent::protocol::{Answer, Ask, Problem};
use crate::session::Status;

/// Look on: stage, lag, ring, rate and the last events of a service
///
/// Ends with q. Where standard output is no terminal: one line per second.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua watch redis-server
  sudo mvedsua watch redis-server | tee update.log
  sudo mvedsua watch redis-server --json")]
pub struct Args {
    /// The service
    name: String,
    /// One status per second as JSON, one object per line
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let mut client = context.connect()?;
        let id = client.send(Ask::Watch { name: self.name })?;
        if !context.json && std::io::stdout().is_terminal() {
            return screen::show(client, id);
        }
        let mut rate = Rate::default();
        let mut printed: Option<Instant> = None;
        loop {
            match client.next(id)? {
                Answer::Changed { status, .. } => {
                    let now = Instant::now();
                    rate.observe(now, status.events.matched);
                    // Items come about a second apart when nothing happens: a little early is right.
                    if printed.is_some_and(|at| now - at < Duration::from_millis(950)) {
                        continue;
                    }
                    printed = Some(now);
                    if context.json {
                        output::json(&status);
                    } else {
                        output::line(&one_line(&status, rate.now()));
                    }
                }
                Answer::End { reason } => {
                    eprintln!("the service is not supervised any more: {reason}");
                    return Ok(());
                }
                other => return Err(unexpected(&other)),
            }
        }
    }
}

fn one_line(status: &Status, matched_per_second: u64) -> String {
    let (follower, lag) = status
        .follower
        .map_or_else(|| ("-".into(), 0), |f| (f.pid.to_string(), f.lag_events));
    format!(
        "{} leader={} follower={follower} lag={lag} ring={}/{} matched/s={matched_per_second}",
        status.stage, status.leader.pid, status.ring.used_bytes, status.ring.capacity_bytes,
    )
}
