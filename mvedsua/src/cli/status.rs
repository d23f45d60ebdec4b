//! `mvedsua status`

use std::fmt::Write as _;

use indicatif::{BinaryBytes, HumanCount};

use super::{Context, output, unexpected};
use crate::agent::protocol::{Answer, Ask, Problem};
use crate::session::Status;

/// Show the services, or all about one of them
///
/// With --json: the object of one service, or an array of all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo mvedsua status
  sudo mvedsua status redis-server
  sudo mvedsua status redis-server --json | jq .stage")]
pub struct Args {
    /// The service [default: all]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<(), Problem> {
        let one = self.name.is_some();
        let answer = context.connect()?.ask(Ask::Status { name: self.name })?;
        let Answer::Status { services } = answer else {
            return Err(unexpected(&answer));
        };
        match services.as_slice() {
            [service] if one && context.json => output::json(service),
            [service] if one => output::line(&in_full(service)),
            all if context.json => output::json(&all),
            [] => output::line("no services; `mvedsua attach --pid PID` adds one"),
            all => output::line(&table(all)),
        }
        Ok(())
    }
}

/// One line per service, in columns.
fn table(services: &[Status]) -> String {
    let widest = services
        .iter()
        .map(|s| s.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!(
        "{:widest$}  {:15}  {:>8}  {:>8}  {:>12}",
        "NAME", "STAGE", "LEADER", "FOLLOWER", "LAG EVENTS"
    );
    for service in services {
        let (follower, lag) = service.follower.map_or_else(
            || ("-".into(), "-".into()),
            |f| (f.pid.to_string(), HumanCount(f.lag_events).to_string()),
        );
        let _ = write!(
            text,
            "\n{:widest$}  {:15}  {:>8}  {follower:>8}  {lag:>12}",
            service.name, service.stage, service.leader.pid
        );
    }
    text
}

/// A duration in milliseconds, if there is one.
fn pause(ms: Option<f64>) -> String {
    ms.map_or_else(|| "none yet".into(), |ms| format!("{ms:.2} ms"))
}

/// Everything about one service.
fn in_full(status: &Status) -> String {
    let Status {
        leader,
        follower,
        ring,
        events,
        pauses_ms,
        transformation,
        ..
    } = status;
    let mut text = format!("{}: {}", status.name, status.stage);
    let mut row = |title: &str, what: String| {
        let _ = write!(text, "\n  {title:12} {what}");
    };
    row(
        "leader",
        format!("pid {}, {} thread(s)", leader.pid, leader.threads),
    );
    if let Some(follower) = follower {
        row(
            "follower",
            format!(
                "pid {}, {} event(s) ({}) behind",
                follower.pid,
                HumanCount(follower.lag_events),
                BinaryBytes(follower.lag_bytes)
            ),
        );
    }
    if let Some(transformation) = transformation {
        row("transformer", transformation.to_string());
    }
    if ring.capacity_bytes > 0 {
        row(
            "ring",
            format!(
                "{} of {} used, at most {}{}; the leader waited {:.1} ms for room",
                BinaryBytes(ring.used_bytes),
                BinaryBytes(ring.capacity_bytes),
                BinaryBytes(ring.high_water_bytes),
                match ring.aside_bytes {
                    0 => String::new(),
                    bytes => format!("; {} set aside", BinaryBytes(bytes)),
                },
                ring.blocked_ms
            ),
        );
        row(
            "events",
            format!(
                "{} recorded, {} matched, {} rewritten, {} diverged, {} relaxed, {} clock readings reconciled",
                HumanCount(events.recorded),
                HumanCount(events.matched),
                HumanCount(events.rewritten),
                HumanCount(events.diverged),
                HumanCount(events.relaxed),
                HumanCount(events.reconciled)
            ),
        );
        row(
            "pauses",
            format!(
                "snapshot {}, promotion {}",
                pause(pauses_ms.snapshot),
                pause(pauses_ms.promotion)
            ),
        );
    }
    if let Some(rules) = &status.rules {
        let fired: u64 = rules.rules.iter().map(|rule| rule.count.fired).sum();
        row(
            "rules",
            format!(
                "{} ({} rules in force), fired {} time(s); `mvedsua rules trace {}`",
                rules.file,
                rules.stage.word(),
                HumanCount(fired),
                status.name
            ),
        );
    }
    if let Some(last) = &status.last_update {
        let outcome = match last.outcome {
            crate::session::Outcome::Finalized => "finalized",
            crate::session::Outcome::RolledBack => "rolled back",
            crate::session::Outcome::TookOver => "the other version took over",
        };
        row("last update", format!("{outcome}: {}", last.reason));
        if last.retry && status.next_try.is_none() {
            row("", "another try at another moment was asked for".into());
        }
        for line in last.report.iter().flat_map(|report| report.lines()) {
            row("", line.into());
        }
    }
    if let Some(next) = &status.next_try {
        row(
            "next try",
            format!(
                "waits for a better moment: {} ({} tries so far, {} left); `mvedsua rollback {}` gives it up",
                next.why, next.tried, next.left, status.name
            ),
        );
    }
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{FollowerStatus, LastUpdate, Outcome, RingStatus, Stage};

    fn busy() -> Status {
        let mut status = Status::new("redis".into(), 100, 5);
        status.stage = Stage::Updating;
        status.follower = Some(FollowerStatus {
            pid: 200,
            lag_events: 12345,
            lag_bytes: 2 << 20,
        });
        status.ring = RingStatus {
            capacity_bytes: 64 << 20,
            ..RingStatus::default()
        };
        status.pauses_ms.snapshot = Some(2.125);
        let report = Some("first line\n\nsecond line".into());
        status.last_update = Some(LastUpdate {
            outcome: Outcome::RolledBack,
            reason: "it hung".into(),
            report,
            retry: false,
            divergence: None,
        });
        status
    }

    #[test]
    fn the_table_has_a_row_per_service() {
        let text = table(&[busy(), Status::new("memcached".into(), 7, 4)]);
        let rows: Vec<_> = text.lines().collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(
            rows[1].split_whitespace().collect::<Vec<_>>(),
            ["redis", "updating", "100", "200", "12,345"]
        );
        assert_eq!(
            rows[2].split_whitespace().collect::<Vec<_>>(),
            ["memcached", "single-leader", "7", "-", "-"]
        );
    }

    #[test]
    fn a_service_in_full_shows_what_the_operator_asks_for() {
        let text = in_full(&busy());
        for part in [
            "redis: updating",
            "pid 100, 5 thread(s)",
            "pid 200, 12,345 event(s) (2.00 MiB) behind",
            "snapshot 2.12 ms, promotion none yet",
            "rolled back: it hung",
            "second line",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!in_full(&Status::new("x".into(), 1, 1)).contains("ring"));
    }
}
