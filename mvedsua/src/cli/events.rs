//! `mvedsua events`

use super::{Context, output, unexpected};
use crate::agent::protocol::{Answer, Ask, Problem};
use crate::session::TimelineEntry;

/// Show the timeline of a service: t1 to t6, and what happened besides
///
/// Times are UTC. A service that ended lately still has its timeline. With --json: an array; with
/// --follow and --json: one object per line.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua events redis-server
  sudo mvedsua events redis-server --follow
  sudo mvedsua events redis-server --json | jq '.[].what'")]
pub struct Args {
    /// The service
    name: String,
    /// Go on with what happens from now on
    #[arg(long)]
    follow: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let mut client = context.connect()?;
        let id = client.send(Ask::Events {
            name: self.name,
            follow: self.follow,
        })?;
        loop {
            match client.next(id)? {
                Answer::Events { entries } if self.follow => print(&entries, context.json),
                Answer::Events { entries } if context.json => {
                    output::json(&entries);
                    return Ok(());
                }
                Answer::Events { entries } => {
                    print(&entries, false);
                    return Ok(());
                }
                Answer::End { reason } => {
                    eprintln!("the timeline is over: {reason}");
                    return Ok(());
                }
                other => return Err(unexpected(&other)),
            }
        }
    }
}

fn print(entries: &[TimelineEntry], json: bool) {
    for entry in entries {
        if json {
            output::json(entry);
        } else {
            output::line(&output::event(entry));
        }
    }
}
