//! The whole life of an update, second by second, as in the paper's Figure 6: a Redis with 1,000,000 keys at
//! full load, native, supervised, updated, promoted, and alone again.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::load::{Dataset, Interval, Load, LoadOptions};
use mvedsua_tests::mvedsua::TimelineEntry;
use mvedsua_tests::programs::{Build, REDIS_U7, REDIS_U10};
use mvedsua_tests::{Mvedsua, Server};

use crate::chart::{Band, Chart};
use crate::demo::grouped;
use crate::stages::{bands, moments, seconds};

const NAME: &str = "redis";
const KEYS: u32 = 1_000_000;

/// How long each stage is looked at.
const STAGE: Duration = Duration::from_secs(5);

/// What was measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LifeCycle {
    /// Keys in the server.
    pub keys: u32,
    /// Second by second.
    pub seconds: Vec<Interval>,
    /// The stages, in seconds from the start of the load.
    pub stages: Vec<Stretch>,
    /// `t1` to `t6`, in seconds from the start of the load.
    pub marks: Vec<(String, f64)>,
}

/// The seconds that lie wholly within one stage.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Stretch {
    /// As `status` names it; before the attach `native`.
    pub stage: String,
    /// Seconds from the start of the load.
    pub from: f64,
    /// Seconds from the start of the load.
    pub to: f64,
    /// Requests per second, over its whole seconds; none if it has no whole second.
    pub requests_per_s: Option<f64>,
    /// The longest latency in any second that it has a part of, in milliseconds.
    pub longest_ms: f64,
}

/// Goes through it once, and draws it to `chart`.
///
/// # Errors
/// When a step fails, or a client saw an error.
pub fn measure(chart: &Path) -> Result<LifeCycle> {
    let build = Build::find(REDIS_U7).context("cargo xtask programs has built it")?;
    let mut server = Server::redis_of(build.program(), &[])?;
    let mut data = Dataset::new(KEYS);
    data.write_all(server.addr())?;
    let mvedsua = Mvedsua::start()?;
    let bundle = Bundle::of(&mvedsua, REDIS_U7, REDIS_U10, &[])?;
    let load = Load::start(server.addr(), LoadOptions::default(), data)?;
    let look = || std::thread::sleep(STAGE);
    look();
    mvedsua.attach(server.pid(), NAME)?;
    look();
    let path = bundle.path().to_string_lossy().into_owned();
    mvedsua.run(&["update", NAME, &path])?.ok()?;
    look();
    mvedsua.promote(NAME)?;
    look();
    mvedsua.finalize(NAME)?;
    look();
    let events = mvedsua.events(NAME)?;
    let report = load.stop();
    server.reap();
    let errors = report.errors;
    ensure!(errors.total() == 0, "clients saw errors: {errors:?}");
    let verified = report.data.verify(server.addr())?;
    ensure!(
        verified.is_complete(KEYS),
        "keys are lost or wrong: {verified:?}"
    );
    // The last second is not a whole one.
    let whole = &report.intervals[..report.intervals.len().saturating_sub(1)];
    let told: Vec<(f64, &TimelineEntry)> = events
        .iter()
        .map(|event| (seconds(event, report.started), event))
        .collect();
    let bands = bands(&told, whole.len() as f64);
    let moments = moments(&told);
    Chart {
        title: format!(
            "A Redis with {} keys at full load through Debian's update u7 to u10",
            grouped(KEYS)
        ),
        intervals: whole,
        bands: &bands,
        moments: &moments,
    }
    .write(chart)?;
    Ok(LifeCycle {
        keys: KEYS,
        seconds: whole.to_vec(),
        stages: bands.iter().map(|band| stretch(band, whole)).collect(),
        marks: moments.into_iter().map(|m| (m.name, m.at)).collect(),
    })
}

fn stretch(band: &Band, intervals: &[Interval]) -> Stretch {
    let inside = |at: usize| at as f64 >= band.from && (at + 1) as f64 <= band.to;
    let touched = |at: usize| (at as f64) < band.to && (at + 1) as f64 > band.from;
    let (mut count, mut requests, mut longest) = (0u32, 0, 0);
    for (at, interval) in intervals.iter().enumerate() {
        if inside(at) {
            count += 1;
            requests += interval.requests;
        }
        if touched(at) {
            longest = longest.max(interval.longest_us);
        }
    }
    Stretch {
        stage: band.stage.clone(),
        from: band.from,
        to: band.to,
        requests_per_s: (count > 0).then(|| requests as f64 / f64::from(count)),
        longest_ms: longest as f64 / 1000.0,
    }
}

/// The table that people read.
pub fn markdown(out: &mut String, life: &LifeCycle) -> std::fmt::Result {
    writeln!(out, "\n## Throughput over the life of an update\n")?;
    writeln!(
        out,
        "As the paper's Figure 6: Redis with {} keys, 50 connections, full load; drawn in `lifecycle.svg`, second by second in `report.json`.\n",
        grouped(life.keys)
    )?;
    writeln!(
        out,
        "| stage | from s | to s | requests/s | against native | longest latency, ms |"
    )?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
    let native = life.stages.first().and_then(|stage| stage.requests_per_s);
    for stage in &life.stages {
        let rate = stage
            .requests_per_s
            .map_or("-".into(), |rate| format!("{rate:.0}"));
        let against = stage
            .requests_per_s
            .zip(native)
            .map_or("-".into(), |(rate, native)| {
                format!("{:+.1} %", (rate / native - 1.0) * 100.0)
            });
        writeln!(
            out,
            "| {} | {:.1} | {:.1} | {rate} | {against} | {:.2} |",
            stage.stage, stage.from, stage.to, stage.longest_ms
        )?;
    }
    let marks: Vec<String> = life
        .marks
        .iter()
        .map(|(name, at)| format!("{name} {at:.3} s"))
        .collect();
    writeln!(out, "\n{}", marks.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_has_the_throughput_of_its_whole_seconds_and_every_latency_it_touches() {
        let interval = |requests, longest_us| Interval {
            requests,
            errors: 0,
            longest_us,
        };
        let intervals = [
            interval(100, 1_000),
            interval(50, 9_000),
            interval(80, 2_000),
            interval(60, 3_000),
        ];
        let band = |from, to| Band {
            from,
            to,
            stage: "updating".into(),
        };
        let found = stretch(&band(1.5, 4.0), &intervals);
        assert_eq!(found.requests_per_s, Some(70.0));
        assert_eq!(found.longest_ms, 9.0);
        assert_eq!(stretch(&band(1.2, 1.8), &intervals).requests_per_s, None);
        let life = LifeCycle {
            keys: 1_000_000,
            seconds: intervals.to_vec(),
            stages: vec![
                stretch(&band(0.0, 1.0), &intervals),
                stretch(&band(2.0, 4.0), &intervals),
            ],
            marks: vec![("t1".into(), 1.25)],
        };
        let mut text = String::new();
        markdown(&mut text, &life).expect("a string takes everything");
        assert!(
            text.contains("| updating | 2.0 | 4.0 | 70 | -30.0 % | 3.00 |"),
            "{text}"
        );
        assert!(text.contains("t1 1.250 s"), "{text}");
    }
}
