//! Debian's Redis update on a loaded server: how long its bundle takes to build, how long an update takes
//! until the new version follows, and the longest latency that clients see over the whole of it.

use std::fmt::Write;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::load::{Dataset, Load, LoadOptions};
use mvedsua_tests::mvedsua::TimelineEntry;
use mvedsua_tests::programs::{Build, REDIS_U7, REDIS_U10};
use mvedsua_tests::{Mvedsua, Server};

use super::{GOAL_MS, RATE, median};

const NAME: &str = "redis";

/// Goal for building the bundle.
const BUILD_GOAL_S: f64 = 20.0;

/// What was measured of updates with a bundle.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Updates {
    /// Seconds that `bundle build` took, once per round.
    pub build_s: Vec<f64>,
    /// Bytes of the bundle.
    pub bundle_bytes: u64,
    /// Functions in it.
    pub functions: usize,
    /// Per size of the server.
    pub sizes: Vec<Size>,
    /// Per size of the ring, with the largest server.
    pub rings: Vec<Ring>,
}

/// One size of the server; one value per update, in milliseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Size {
    /// Keys in the server.
    pub keys: u32,
    /// The leader's pause at the snapshot.
    pub pause_ms: Vec<f64>,
    /// From `mvedsua update` until it answered: the new version has caught up.
    pub caught_up_ms: Vec<f64>,
    /// Applying the bundle to the copy, as the timeline says.
    pub applied_ms: Vec<f64>,
    /// From `mvedsua update` to t3 (`outdated-leader`), in whole milliseconds.
    pub outdated_leader_ms: Vec<f64>,
}

/// One size of the ring; one value per round, in milliseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Ring {
    /// As given to `--ring`.
    pub ring: String,
    /// The longest latency in a span without an update.
    pub native_ms: Vec<f64>,
    /// The longest latency in a span of the same length with update, promotion and end.
    pub update_ms: Vec<f64>,
}

/// Measures everything; `rounds` values of each.
///
/// # Errors
/// When a step fails, or a client saw an error.
pub fn measure(rounds: u32) -> Result<Updates> {
    let mvedsua = Mvedsua::start()?;
    let mut updates = Updates {
        build_s: Vec::new(),
        bundle_bytes: 0,
        functions: 0,
        sizes: Vec::new(),
        rings: Vec::new(),
    };
    for _ in 0..rounds {
        let start = Instant::now();
        let bundle = Bundle::of(&mvedsua, REDIS_U7, REDIS_U10, &[])?;
        updates.build_s.push(start.elapsed().as_secs_f64());
        updates.bundle_bytes = std::fs::metadata(bundle.path())?.len();
        updates.functions = bundle.functions(&mvedsua)?.len();
    }
    for keys in [1_000, 100_000, 1_000_000] {
        println!("bench: updates with {keys} keys");
        let mut run = Run::start(keys)?;
        updates.sizes.push(run.size(keys, rounds)?);
        if keys == 1_000_000 {
            for ring in ["1M", "64M", "512M"] {
                println!("bench: updates with a ring of {ring}");
                updates.rings.push(run.ring(ring, rounds)?);
            }
        }
        run.end(keys)?;
    }
    Ok(updates)
}

/// A loaded Redis u7, with the bundles there and back.
struct Run {
    mvedsua: Mvedsua,
    server: Server,
    load: Load,
    /// The next one is the first.
    bundles: [Bundle; 2],
}

impl Run {
    fn start(keys: u32) -> Result<Self> {
        let build = Build::find(REDIS_U7).context("cargo xtask programs has built it")?;
        let server = Server::redis_of(build.program(), &[])?;
        let mut data = Dataset::new(keys);
        data.write_all(server.addr())?;
        let mvedsua = Mvedsua::start()?;
        let bundles = [
            Bundle::of(&mvedsua, REDIS_U7, REDIS_U10, &[])?,
            Bundle::of(&mvedsua, REDIS_U10, REDIS_U7, &[])?,
        ];
        mvedsua.attach(server.pid(), NAME)?;
        let options = LoadOptions {
            rate: Some(RATE),
            ..LoadOptions::default()
        };
        let load = Load::start(server.addr(), options, data)?;
        Ok(Self {
            mvedsua,
            server,
            load,
            bundles,
        })
    }

    fn size(&mut self, keys: u32, rounds: u32) -> Result<Size> {
        let mut size = Size {
            keys,
            pause_ms: Vec::new(),
            caught_up_ms: Vec::new(),
            applied_ms: Vec::new(),
            outdated_leader_ms: Vec::new(),
        };
        for _ in 0..rounds {
            let start = Instant::now();
            let asked = UNIX_EPOCH.elapsed()?.as_secs_f64() * 1e3;
            self.update("64M")?;
            size.caught_up_ms.push(start.elapsed().as_secs_f64() * 1e3);
            let events = self.mvedsua.events(NAME)?;
            let t2 = last(&events, "t2")?;
            let t3 = last(&events, "t3")?;
            size.applied_ms.push(applied(&t2.what)?);
            size.outdated_leader_ms.push(t3.unix_ms as f64 - asked);
            let pause = self.mvedsua.status(NAME)?.pauses_ms.snapshot;
            size.pause_ms.push(pause.context("a snapshot has a pause")?);
            self.finalize()?;
        }
        Ok(size)
    }

    fn ring(&mut self, ring: &str, rounds: u32) -> Result<Ring> {
        let mut result = Ring {
            ring: ring.into(),
            native_ms: Vec::new(),
            update_ms: Vec::new(),
        };
        let follows = Duration::from_secs(2);
        for _ in 0..rounds {
            let _ = self.load.phase();
            let start = Instant::now();
            self.update(ring)?;
            std::thread::sleep(follows);
            self.finalize()?;
            std::thread::sleep(follows / 2);
            let span = start.elapsed();
            result.update_ms.push(self.longest());
            std::thread::sleep(span);
            result.native_ms.push(self.longest());
        }
        Ok(result)
    }

    /// The longest latency since the last call, in milliseconds.
    fn longest(&self) -> f64 {
        self.load.phase().latency_us(1.0) as f64 / 1000.0
    }

    fn update(&mut self, ring: &str) -> Result<()> {
        let path = self.bundles[0].path().to_string_lossy().into_owned();
        let words = ["update", NAME, &path, "--ring", ring];
        self.mvedsua.run(&words)?.ok()?;
        self.bundles.swap(0, 1);
        Ok(())
    }

    fn finalize(&mut self) -> Result<()> {
        self.mvedsua.promote(NAME)?;
        self.mvedsua.finalize(NAME)?;
        self.server.reap();
        Ok(())
    }

    fn end(self, keys: u32) -> Result<()> {
        let report = self.load.stop();
        let errors = report.errors;
        ensure!(errors.total() == 0, "clients saw errors: {errors:?}");
        let verified = report.data.verify(self.server.addr())?;
        ensure!(
            verified.is_complete(keys),
            "keys are lost or wrong: {verified:?}"
        );
        Ok(())
    }
}

/// The line of the timeline with which the last update reached a mark.
pub fn last<'a>(events: &'a [TimelineEntry], mark: &str) -> Result<&'a TimelineEntry> {
    let reached = |event: &&TimelineEntry| event.mark.as_deref() == Some(mark);
    let event = events.iter().rev().find(reached);
    event.with_context(|| format!("{mark} is not in the timeline"))
}

/// The milliseconds in "... was applied in 8.7 ms ...".
fn applied(what: &str) -> Result<f64> {
    let number = what
        .split_once("was applied in ")
        .and_then(|(_, rest)| rest.split_once(" ms"))
        .and_then(|(number, _)| number.parse().ok());
    number.with_context(|| format!("t2 does not say how long the bundle took: {what}"))
}

/// The tables that people read.
pub fn markdown(out: &mut String, updates: &Updates) -> std::fmt::Result {
    let middle = |values: &[f64]| median(values.iter().copied()).unwrap_or(f64::NAN);
    writeln!(out, "\n## Updates with a bundle\n")?;
    writeln!(
        out,
        "Debian's Redis 7.0.15-1~deb12u7 to ~deb12u10 and back, {RATE} requests/s. Median; longest.\n"
    )?;
    writeln!(
        out,
        "- `bundle build`: {} s; {} functions, {} KiB. Goal: {BUILD_GOAL_S} s: {}",
        both(&updates.build_s),
        updates.functions,
        updates.bundle_bytes / 1024,
        reached(longest(&updates.build_s) <= BUILD_GOAL_S)
    )?;
    writeln!(
        out,
        "\n| keys | snapshot's pause, ms | bundle applied in, ms | `update` to outdated-leader, ms | `update` to its answer: caught up, ms |"
    )?;
    writeln!(out, "| ---: | ---: | ---: | ---: | ---: |")?;
    for size in &updates.sizes {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            size.keys,
            both(&size.pause_ms),
            both(&size.applied_ms),
            both(&size.outdated_leader_ms),
            both(&size.caught_up_ms)
        )?;
    }
    writeln!(
        out,
        "\n| ring, 1,000,000 keys | longest latency over an update, ms | native, same span, ms | more, ms | goal: at most {GOAL_MS} more |"
    )?;
    writeln!(out, "| ---: | ---: | ---: | ---: | --- |")?;
    for ring in &updates.rings {
        let more = middle(&ring.update_ms) - middle(&ring.native_ms);
        writeln!(
            out,
            "| {} | {} | {} | {more:.2} | {} |",
            ring.ring,
            both(&ring.update_ms),
            both(&ring.native_ms),
            reached(more <= GOAL_MS)
        )?;
    }
    Ok(())
}

/// Median and longest.
pub fn both(values: &[f64]) -> String {
    let middle = median(values.iter().copied()).unwrap_or(f64::NAN);
    format!("{middle:.2}; {:.2}", longest(values))
}

fn longest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

pub fn reached(yes: bool) -> &'static str {
    if yes { "reached" } else { "**not reached**" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_says_how_long_a_bundle_took() {
        let what = "the bundle for redis-server was applied in 8.7 ms (9 functions, 126361 bytes)";
        assert_eq!(applied(what).expect("it is said"), 8.7);
        assert!(applied("the follower consumes events").is_err());
    }

    #[test]
    fn the_tables_have_a_line_per_size_and_ring() {
        let size = Size {
            keys: 1000,
            pause_ms: vec![1.0],
            caught_up_ms: vec![3.0],
            applied_ms: vec![2.0],
            outdated_leader_ms: vec![2.5],
        };
        let ring = Ring {
            ring: "64M".into(),
            native_ms: vec![10.0, 12.0],
            update_ms: vec![31.0, 40.0],
        };
        let updates = Updates {
            build_s: vec![1.5],
            bundle_bytes: 4096,
            functions: 9,
            sizes: vec![size],
            rings: vec![ring],
        };
        let mut text = String::new();
        markdown(&mut text, &updates).expect("a string takes everything");
        assert!(text.contains("| 1000 | 1.00; 1.00 | 2.00; 2.00 | 2.50; 2.50 | 3.00; 3.00 |"));
        assert!(text.contains("| 64M | 31.00; 40.00 | 10.00; 12.00 | 21.00 | **not reached** |"));
    }
}
