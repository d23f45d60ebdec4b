//! `mvedsua update`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::{Context, public_key, size};
use crate::agent::protocol::Problem;
use crate::session::{Command, OnFull, UpdateKind, UpdateOptions, WaitFor};

/// Copy the server, update the copy, and let it follow
///
/// Answers when the copy has caught up (exit code 0) or was thrown away (exit code 3, with the
/// report on standard error). The server serves all the time.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
// Made by clap it would have the group before the name.
#[command(override_usage = "mvedsua update <NAME> <BUNDLE|--identity> [OPTIONS]")]
#[command(after_help = "\
Examples:
  sudo mvedsua update redis-server redis-u10.mvu
  sudo mvedsua update redis-server redis-u10.mvu --require-signature /etc/mvedsua/team.pub
  sudo mvedsua update redis-server redis-u10.mvu --retry 20 --retry-delay 100ms
  sudo mvedsua update redis-server --identity
  sudo mvedsua update redis-server --identity --ring 256M --hang-limit 5s
  sudo mvedsua update redis-server --identity --rules rules/redis/noise.rules
  sudo mvedsua update redis-server --identity --on-full rollback --wait none")]
pub struct Args {
    /// The service
    name: String,
    /// The bundle to apply, made by `mvedsua bundle build`
    #[arg(value_name = "BUNDLE", group = "what")]
    bundle: Option<PathBuf>,
    /// Update to the very same program: the whole mechanism with no change of code
    #[arg(long, group = "what")]
    identity: bool,
    /// For tests and the demo: flip a byte of what the copy writes, after N writes
    #[arg(long, value_name = "N", hide = true, requires = "identity")]
    inject_fault: Option<u64>,
    /// How often to try again when threads stand in functions that the bundle changes, or a rule asks for it
    #[arg(long, value_name = "N", default_value_t = 8)]
    retry: u32,
    /// Time between two tries, e.g. 500ms
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_limit)]
    retry_delay: Duration,
    /// How the versions are expected to differ (docs/rules.md); a file that does not check is refused
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Apply it only if it is signed with this minisign key (a .pub file)
    #[arg(long, value_name = "PUBKEY", requires = "bundle")]
    require_signature: Option<PathBuf>,
    /// Longest time for the bundle's transformer, e.g. 1m
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_limit)]
    transform_limit: Duration,
    /// Memory between server and copy: a power of two, e.g. 64M or 1G
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::parse_ring)]
    ring: u64,
    /// Throw the copy away when it makes no progress for so long, e.g. 500ms, 5s, 1m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_limit)]
    hang_limit: Duration,
    /// What to do when the ring is full: let the server wait, or throw the copy away
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = WhenFull::Block)]
    on_full: WhenFull,
    /// Until when to wait
    #[arg(long, value_name = "STATE", value_enum, default_value_t = Until::CaughtUp)]
    wait: Until,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhenFull {
    Block,
    Rollback,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Until {
    /// The copy has caught up
    CaughtUp,
    /// The copy was taken
    None,
}

fn parse_limit(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(limit) if limit.is_zero() => Err("a copy needs some time; write e.g. 5s".into()),
        Ok(limit) => Ok(limit),
        Err(error) => Err(format!("{error}; write e.g. 500ms, 5s or 1m")),
    }
}

/// A file for the agent, which works in another folder and follows no link: those on the path are followed
/// here, where the path was typed. What cannot be is for the agent to name.
fn for_agent(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.into())
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let signed_by = match &self.require_signature {
            Some(path) => vec![public_key(path)?],
            None => Vec::new(),
        };
        let kind = match (self.bundle, self.inject_fault) {
            (Some(bundle), _) => UpdateKind::Bundle {
                path: for_agent(&bundle),
                signed_by,
                transform_limit: self.transform_limit,
            },
            (None, Some(after)) => UpdateKind::Fault { after },
            (None, None) => UpdateKind::Identity,
        };
        let options = UpdateOptions {
            kind,
            rules: self.rules.as_deref().map(for_agent),
            retry: self.retry,
            retry_delay: self.retry_delay,
            ring_bytes: self.ring,
            hang_limit: self.hang_limit,
            on_full: match self.on_full {
                WhenFull::Block => OnFull::Block,
                WhenFull::Rollback => OnFull::Rollback,
            },
            wait: match self.wait {
                Until::CaughtUp => WaitFor::CaughtUp,
                Until::None => WaitFor::None,
            },
        };
        context.command(&self.name, "updating", Command::Update(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_people_write_them() {
        assert_eq!(parse_limit("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_limit("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_limit("1m"), Ok(Duration::from_secs(60)));
        for bad in ["", "5", "0s", "-1s", "soon"] {
            assert!(parse_limit(bad).is_err(), "{bad:?}");
        }
    }
}
