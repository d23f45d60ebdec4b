//! Throughput, latency and CPU time of a Redis in each stage.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mvedsua_tests::load::{Dataset, Load, LoadOptions};
use mvedsua_tests::mvedsua::Status;
use mvedsua_tests::{Mvedsua, Server, process};

const NAME: &str = "redis";
const KEYS: u32 = 100_000;

/// Time that a stage has to settle in before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// The stages, in the order in which a round goes through them.
pub const MODES: [&str; 5] = [
    "native",
    "single-leader",
    "two versions (outdated-leader)",
    "promoted (updated-leader)",
    "promoted, finalized",
];

/// One measured stretch.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Run {
    /// Which round, from 1.
    pub round: u32,
    /// Requests per second that were asked for; `None`: as many as the server answers.
    pub rate: Option<u32>,
    /// One of [`MODES`].
    pub mode: &'static str,
    /// Length in seconds.
    pub seconds: f64,
    /// Requests answered per second.
    pub requests_per_s: f64,
    /// Latencies in microseconds.
    pub p50_us: u64,
    /// Latencies in microseconds.
    pub p99_us: u64,
    /// Latencies in microseconds.
    pub max_us: u64,
    /// CPU time of the process that leads, in microseconds per request; what the recorder does in its
    /// system calls is part of it.
    pub leader_cpu_us_per_request: f64,
    /// Counts of the update under way, if one is.
    pub update: Option<Update>,
}

/// What an update did during a run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Update {
    /// Calls recorded per second.
    pub recorded_per_s: f64,
    /// Calls of the follower matched per second.
    pub matched_per_s: f64,
    /// Calls recorded per request.
    pub recorded_per_request: f64,
    /// Time during which threads of the leader waited for room in the ring, in milliseconds per second.
    pub blocked_ms_per_s: f64,
    /// Size of the ring in bytes.
    pub ring_bytes: u64,
    /// Most bytes of it that were in use.
    pub ring_high_water_bytes: u64,
    /// Resident memory of the agent in KiB.
    pub agent_resident_kib: Option<u64>,
    /// Memory in KiB that only the follower has.
    pub follower_private_kib: Option<u64>,
}

/// One server through all stages, and then another one, started the same way, native: so native
/// stands at both ends of a round.
///
/// # Errors
/// When a step fails or a client saw an error.
pub fn round(round: u32, seconds: u64, rate: Option<u32>) -> Result<Vec<Run>> {
    let mut runs = server(round, seconds, rate, supervised)?;
    runs.extend(server(round, seconds, rate, |bench, pid| {
        bench.measure(MODES[0], pid, None)?;
        Ok(None)
    })?);
    Ok(runs)
}

/// All stages of one server. The agent is returned: the promoted server needs one while it serves.
fn supervised(bench: &mut Bench<'_>, pid: i32) -> Result<Option<Mvedsua>> {
    bench.measure(MODES[0], pid, None)?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(pid, NAME)?;
    bench.measure(MODES[1], pid, Some(&mvedsua))?;
    mvedsua.update_identity(NAME, &[])?;
    bench.measure(MODES[2], pid, Some(&mvedsua))?;
    mvedsua.promote(NAME)?;
    bench.measure(MODES[3], mvedsua.status(NAME)?.leader.pid, Some(&mvedsua))?;
    mvedsua.finalize(NAME)?;
    bench.measure(MODES[4], mvedsua.status(NAME)?.leader.pid, Some(&mvedsua))?;
    Ok(Some(mvedsua))
}

/// Starts a server and its load, lets `story` measure, and checks that nothing was lost meanwhile.
fn server(
    round: u32,
    seconds: u64,
    rate: Option<u32>,
    story: impl FnOnce(&mut Bench<'_>, i32) -> Result<Option<Mvedsua>>,
) -> Result<Vec<Run>> {
    let mut server = Server::redis(&[])?;
    let mut data = Dataset::new(KEYS);
    data.write_all(server.addr())?;
    let load = Load::start(
        server.addr(),
        LoadOptions {
            rate,
            ..LoadOptions::default()
        },
        data,
    )?;
    let mut bench = Bench {
        round,
        rate,
        length: Duration::from_secs(seconds),
        load: &load,
        runs: Vec::new(),
    };
    let agent = story(&mut bench, server.pid())?;
    let runs = bench.runs;
    let report = load.stop();
    server.reap();
    ensure!(
        report.errors.total() == 0,
        "clients saw errors: {:?}",
        report.errors
    );
    let verified = report.data.verify(server.addr())?;
    ensure!(
        verified.is_complete(KEYS),
        "keys are lost or wrong: {verified:?}"
    );
    drop(agent);
    Ok(runs)
}

struct Bench<'a> {
    round: u32,
    rate: Option<u32>,
    length: Duration,
    load: &'a Load,
    runs: Vec<Run>,
}

impl Bench<'_> {
    fn measure(
        &mut self,
        mode: &'static str,
        leader: i32,
        mvedsua: Option<&Mvedsua>,
    ) -> Result<()> {
        let look = || mvedsua.map(|mvedsua| mvedsua.status(NAME)).transpose();
        std::thread::sleep(WARM_UP);
        let status_before = look()?;
        let cpu_before = process::cpu_time(leader)?;
        let start = Instant::now();
        let _ = self.load.phase();
        std::thread::sleep(self.length);
        let phase = self.load.phase();
        let seconds = start.elapsed().as_secs_f64();
        let cpu = process::cpu_time(leader)?.saturating_sub(cpu_before);
        let status = look()?;
        ensure!(phase.requests > 0, "no request was answered in {mode}");
        let requests = phase.requests as f64;
        let update = match (mvedsua, status_before, status) {
            (Some(mvedsua), Some(before), Some(after)) => {
                update(mvedsua, mode, &before, &after, seconds, requests)?
            }
            _ => None,
        };
        let run = Run {
            round: self.round,
            rate: self.rate,
            mode,
            seconds,
            requests_per_s: phase.throughput(),
            p50_us: phase.latency_us(0.5),
            p99_us: phase.latency_us(0.99),
            max_us: phase.latency_us(1.0),
            leader_cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests,
            update,
        };
        println!(
            "    {mode:<32} {:>8.0} requests/s  p50 {:>5} us  p99 {:>6} us  longest {:>8} us  {:>6.2} us CPU/request",
            run.requests_per_s, run.p50_us, run.p99_us, run.max_us, run.leader_cpu_us_per_request
        );
        self.runs.push(run);
        Ok(())
    }
}

/// Difference of two looks at an update; `None` when none ran.
fn update(
    mvedsua: &Mvedsua,
    mode: &str,
    before: &Status,
    after: &Status,
    seconds: f64,
    requests: f64,
) -> Result<Option<Update>> {
    let Some(follower) = &after.follower else {
        ensure!(
            before.follower.is_none() && ![MODES[2], MODES[3]].contains(&mode),
            "the update ended before or while {mode} was measured: {:#?}",
            after.last_update
        );
        return Ok(None);
    };
    let count = |now: u64, then: u64| now.saturating_sub(then) as f64;
    let recorded = count(after.events.recorded, before.events.recorded);
    let agent = mvedsua.agent_pid().context("an update without an agent")?;
    Ok(Some(Update {
        recorded_per_s: recorded / seconds,
        matched_per_s: count(after.events.matched, before.events.matched) / seconds,
        recorded_per_request: recorded / requests,
        blocked_ms_per_s: (after.ring.blocked_ms - before.ring.blocked_ms) / seconds,
        ring_bytes: after.ring.capacity_bytes,
        ring_high_water_bytes: after.ring.high_water_bytes,
        agent_resident_kib: process::resident_kib(agent),
        follower_private_kib: process::private_kib(follower.pid),
    }))
}
