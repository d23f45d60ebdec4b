//! The key-value store with 1,000,000 entries whose type changes: how long their transformation takes, and what
//! clients see meanwhile, by the size of the ring (the paper's Figure 7).

use std::fmt::Write;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::examples::Example;
use mvedsua_tests::load::{Dataset, Interval, Load, LoadOptions, Protocol};
use mvedsua_tests::mvedsua::TimelineEntry;
use mvedsua_tests::{Mvedsua, Server};

use super::updates::{both, last, reached};
use super::{GOAL_MS, RATE, median};

const NAME: &str = "kvstore";
const ENTRIES: u32 = 1_000_000;
const RINGS: [&str; 3] = ["1M", "64M", "512M"];

/// Width of an interval of the load's record: what was served meanwhile is counted by them.
const INTERVAL: Duration = Duration::from_millis(50);

/// What was measured with one size of the ring; one value per update, in milliseconds.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Transformed {
    /// As given to `--ring`.
    pub ring: String,
    /// The transformer's run, as the timeline says.
    pub transformation_ms: Vec<f64>,
    /// From `mvedsua update` to `outdated-leader`.
    pub outdated_leader_ms: Vec<f64>,
    /// Requests per second that the old version answered from t1 (the copy is taken) to t2 (it is transformed).
    pub served_per_s: Vec<f64>,
    /// Time for which threads of the server waited for room in the ring.
    pub blocked_ms: Vec<f64>,
    /// The longest latency from before `mvedsua update` to after the end of the old version.
    pub update_ms: Vec<f64>,
    /// The longest latency in a span of the same length without an update.
    pub native_ms: Vec<f64>,
}

/// Updates there and back, `rounds` for each size of the ring.
///
/// # Errors
/// When a step fails, or a client saw an error.
pub fn measure(rounds: u32) -> Result<Vec<Transformed>> {
    let server = Server::example(Example::Kvstore, 1)?;
    let mut data = Dataset::of(Protocol::Lines, ENTRIES);
    data.write_all(server.addr())?;
    let mvedsua = Mvedsua::start()?;
    let bundle = |from, to, declaration: &str| {
        let file = crate::paths::root()
            .join("examples/kvstore")
            .join(declaration);
        let options = ["--transform", &file.to_string_lossy()];
        Bundle::of_example(&mvedsua, Example::Kvstore, from, to, &options)
    };
    let bundles = [bundle(1, 2, "v1-v2.toml")?, bundle(2, 1, "v2-v1.toml")?];
    mvedsua.attach(server.pid(), NAME)?;
    let options = LoadOptions {
        rate: Some(RATE),
        interval: INTERVAL,
        ..LoadOptions::default()
    };
    let load = Load::start(server.addr(), options, data)?;
    let mut store = Store {
        mvedsua,
        server,
        load,
        bundles,
    };
    let mut all = Vec::new();
    for ring in RINGS {
        println!("bench: {ENTRIES} entries transformed with a ring of {ring}");
        let mut measured = Transformed {
            ring: ring.into(),
            ..Transformed::default()
        };
        for _ in 0..rounds {
            store.round(&mut measured)?;
        }
        all.push(measured);
    }
    let report = store.load.stop();
    let errors = report.errors;
    ensure!(errors.total() == 0, "clients saw errors: {errors:?}");
    let verified = report.data.verify(store.server.addr())?;
    ensure!(
        verified.is_complete(ENTRIES),
        "entries are lost or wrong: {verified:?}"
    );
    Ok(all)
}

/// A loaded store, with the bundles there and back.
struct Store {
    mvedsua: Mvedsua,
    server: Server,
    load: Load,
    /// The next one is the first.
    bundles: [Bundle; 2],
}

impl Store {
    fn round(&mut self, measured: &mut Transformed) -> Result<()> {
        let follows = Duration::from_secs(1);
        let path = self.bundles[0].path().to_string_lossy().into_owned();
        let _ = self.load.phase();
        let start = Instant::now();
        let asked = UNIX_EPOCH.elapsed()?.as_secs_f64() * 1e3;
        let words = ["update", NAME, &path, "--ring", &measured.ring];
        self.mvedsua.run(&words)?.ok()?;
        self.bundles.swap(0, 1);
        let events = self.mvedsua.events(NAME)?;
        let (t1, t2, t3) = (
            last(&events, "t1")?,
            last(&events, "t2")?,
            last(&events, "t3")?,
        );
        measured.transformation_ms.push(transformed(t2)?);
        measured.outdated_leader_ms.push(t3.unix_ms as f64 - asked);
        measured.served_per_s.push(self.served(t1, t2)?);
        std::thread::sleep(follows);
        // The counts begin anew with the promotion.
        let blocked = self.mvedsua.status(NAME)?.ring.blocked_ms;
        measured.blocked_ms.push(blocked);
        self.mvedsua.promote(NAME)?;
        self.mvedsua.finalize(NAME)?;
        self.server.reap();
        std::thread::sleep(follows);
        let span = start.elapsed();
        measured.update_ms.push(self.longest());
        std::thread::sleep(span);
        measured.native_ms.push(self.longest());
        Ok(())
    }

    /// The longest latency since the last call, in milliseconds.
    fn longest(&self) -> f64 {
        self.load.phase().latency_us(1.0) as f64 / 1000.0
    }

    /// Requests per second between two moments.
    fn served(&self, from: &TimelineEntry, to: &TimelineEntry) -> Result<f64> {
        let started = self.load.started().duration_since(UNIX_EPOCH)?.as_millis() as f64;
        let at = |event: &TimelineEntry| event.unix_ms as f64 - started;
        Ok(rate(&self.load.intervals(), at(from), at(to)))
    }
}

/// Requests per second of the intervals from one moment to another, in milliseconds; those that lie there
/// in part are counted in part.
fn rate(intervals: &[Interval], from: f64, to: f64) -> f64 {
    let width = INTERVAL.as_secs_f64() * 1e3;
    let requests: f64 = intervals
        .iter()
        .enumerate()
        .map(|(at, interval)| {
            let start = at as f64 * width;
            let inside = (to.min(start + width) - from.max(start)).max(0.0);
            interval.requests as f64 * inside / width
        })
        .sum();
    requests / (to - from) * 1e3
}

/// The milliseconds in "... transformed 1000000 objects in 812.5 ms and ...", which must be all of them.
fn transformed(t2: &TimelineEntry) -> Result<f64> {
    let told = t2.what.split_once(" transformed ").and_then(|(_, rest)| {
        let (objects, rest) = rest.split_once(" objects in ")?;
        let (ms, _) = rest.split_once(" ms")?;
        Some((objects.parse::<u64>().ok()?, ms.parse().ok()?))
    });
    let (objects, ms) =
        told.with_context(|| format!("t2 does not say what was transformed: {}", t2.what))?;
    ensure!(
        objects >= u64::from(ENTRIES),
        "of {ENTRIES} entries {objects} were transformed"
    );
    Ok(ms)
}

/// The table that people read.
pub fn markdown(out: &mut String, all: &[Transformed]) -> std::fmt::Result {
    writeln!(out, "\n## {ENTRIES} entries that change their type\n")?;
    writeln!(
        out,
        "`examples/kvstore` v1 to v2 and back by its declared transformers, {RATE} requests/s, as the paper's Figure 7. Median; longest, in ms.\n"
    )?;
    writeln!(
        out,
        "| ring | transformation | `update` to outdated-leader | requests/s meanwhile | waited for the ring | longest latency over it all | native, same span | more | goal: at most {GOAL_MS} more |"
    )?;
    writeln!(
        out,
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    )?;
    let middle = |values: &[f64]| median(values.iter().copied()).unwrap_or(f64::NAN);
    for one in all {
        let more = middle(&one.update_ms) - middle(&one.native_ms);
        writeln!(
            out,
            "| {} | {} | {} | {:.0} | {} | {} | {} | {more:.2} | {} |",
            one.ring,
            both(&one.transformation_ms),
            both(&one.outdated_leader_ms),
            middle(&one.served_per_s),
            both(&one.blocked_ms),
            both(&one.update_ms),
            both(&one.native_ms),
            reached(more <= GOAL_MS)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_says_what_was_transformed() {
        let told = |what: &str| {
            transformed(&TimelineEntry {
                unix_ms: 0,
                mark: None,
                stage: "updating".into(),
                what: what.into(),
            })
        };
        let whole = "v1-v2.toml transformed 1000000 objects in 812.5 ms and declared 1000001; the";
        assert_eq!(told(whole).expect("it is said"), 812.5);
        assert!(told("v1-v2.toml transformed 999999 objects in 812.5 ms and").is_err());
        assert!(told("the follower consumes events").is_err());
    }

    #[test]
    fn requests_are_counted_by_the_part_of_their_interval() {
        let interval = |requests| Interval {
            requests,
            ..Interval::default()
        };
        let intervals = [interval(10), interval(20), interval(30)];
        // Half of the second and all of the third interval, in 75 ms.
        assert_eq!(rate(&intervals, 75.0, 150.0), 40.0 / 0.075);
    }

    #[test]
    fn the_table_has_a_line_per_ring() {
        let one = Transformed {
            ring: "1M".into(),
            transformation_ms: vec![800.0],
            outdated_leader_ms: vec![900.0],
            served_per_s: vec![4999.6],
            blocked_ms: vec![700.0],
            update_ms: vec![710.0],
            native_ms: vec![10.0],
        };
        let mut text = String::new();
        markdown(&mut text, &[one]).expect("a string takes everything");
        assert!(
            text.contains("| 1M | 800.00; 800.00 | 900.00; 900.00 | 5000 | 700.00; 700.00 | 710.00; 710.00 | 10.00; 10.00 | 700.00 | **not reached** |"),
            "{text}"
        );
    }
}
