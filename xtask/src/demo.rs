//! `cargo xtask demo`: Debian's security update of Redis applied to a running one under load, and then
//! two faulty ones that are rolled back: a copy that writes one wrong bit, and a version that crashes.
//!
//! Not one client error and not one lost key: both are counted, and anything but zero fails.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::load::{Dataset, Load, LoadOptions, LoadReport};
use mvedsua_tests::mvedsua::{Status, TimelineEntry};
use mvedsua_tests::programs::{Build, REDIS_HMGET, REDIS_U7, REDIS_U10};
use mvedsua_tests::resp::Reply;
use mvedsua_tests::{Mvedsua, Server, process};

use crate::chart::Chart;
use crate::stages::{bands, moments, seconds};
use crate::{build_ebpf, mvedsua_binary, paths, programs, setup};

const NAME: &str = "redis";

/// How long the fault may take to be found.
const FAULT_LIMIT: Duration = Duration::from_secs(60);

/// The write of the copy in which a bit is flipped.
const FLIPPED: &str = "20000";

/// Exit code of an update that was rolled back while the command waited.
const ROLLED_BACK: i32 = 3;

/// An error to Redis, and a crash to the version of the second update.
const FAULT: [&str; 3] = ["HMGET", "key:00000001", "field"];

#[derive(clap::Args)]
pub struct Options {
    /// Keys in the server
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
    /// Requests per second over 50 connections; 0 for as many as the server answers. The follower
    /// answers every call of its own through the agent, so a leader at full speed has to wait for it
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// Seconds in each stage
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Does all set-up, builds, and shows it.
///
/// # Errors
/// When a step fails, a client saw an error, a key is lost or changed, or the injected fault was not
/// found.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo follows a process: run it as root (sudo -E cargo xtask demo)"
    );
    build_ebpf::build(&setup::tools()?, false)?;
    mvedsua_binary::build()?;
    programs::redis()?;

    let mvedsua = Mvedsua::start()?;
    let bundles = Bundles::build(&mvedsua)?;

    step("start redis-server 7.0.15-1~deb12u7 of Debian, and write the keys");
    let old = Build::find(REDIS_U7).context("just built")?;
    let mut server = Server::redis_of(old.program(), &[])?;
    let mut data = Dataset::new(options.keys);
    data.write_all(server.addr()).context("writing the keys")?;
    println!(
        "    {} keys in process {} on {}",
        options.keys,
        server.pid(),
        server.addr()
    );
    let rate = (options.rate > 0).then_some(options.rate);
    let load = Load::start(
        server.addr(),
        LoadOptions {
            rate,
            ..LoadOptions::default()
        },
        data,
    )?;
    let origin = SystemTime::now();

    let shown = show(options, &bundles, &mvedsua, &server, &load);
    if let Err(error) = &shown {
        eprintln!(
            "demo: {error:#}\n--- log of the agent ---\n{}",
            mvedsua.log()
        );
    }

    step("stop the load, and read every key back");
    let events = mvedsua.events(NAME).unwrap_or_default();
    let report = load.stop();
    server.reap();
    let verified = report
        .data
        .verify(server.addr())
        .context("reading the keys back")?;
    println!(
        "    {} keys right, {} missing, {} wrong; DBSIZE {}",
        verified.right, verified.missing, verified.wrong, verified.dbsize
    );
    let errors = report.errors;
    println!(
        "    client errors: {} of connections, {} replies, {} values",
        errors.connection, errors.reply, errors.value
    );

    print_timeline(&events, origin);
    let file = paths::root().join("target/demo/demo.svg");
    draw(&file, options, &report, &events, origin)?;
    println!("\nchart: {}", file.display());

    shown?;
    ensure!(errors.total() == 0, "clients saw {} errors", errors.total());
    ensure!(
        verified.is_complete(options.keys),
        "the keys are not what they must be: {verified:?}"
    );
    println!(
        "demo: the update went live, two faulty ones were rolled back; no client error, no lost key"
    );
    Ok(())
}

/// What the two updates bring. Built before the load: usually another machine does that.
struct Bundles {
    good: Bundle,
    faulty: Bundle,
}

impl Bundles {
    fn build(mvedsua: &Mvedsua) -> Result<Self> {
        step("mvedsua bundle build --old redis-server.u7 --new redis-server.u10 -o u10.mvu");
        let start = Instant::now();
        let good = Bundle::of(mvedsua, REDIS_U7, REDIS_U10, &[])?;
        let took = start.elapsed().as_secs_f64();
        let functions = good.functions(mvedsua)?;
        println!(
            "    {} functions, {} KiB, built in {took:.1} s: {}",
            functions.len(),
            fs::metadata(good.path())?.len() / 1024,
            functions.join(", ")
        );
        step("mvedsua bundle build --old redis-server.u10 --new redis-server.hmget -o hmget.mvu");
        let faulty = Bundle::of(mvedsua, REDIS_U10, REDIS_HMGET, &[])?;
        println!("    {}", faulty.functions(mvedsua)?.join(", "));
        Ok(Self { good, faulty })
    }
}

/// The story itself; returns at the first step that fails.
fn show(
    options: &Options,
    bundles: &Bundles,
    mvedsua: &Mvedsua,
    server: &Server,
    load: &Load,
) -> Result<()> {
    step("native: nothing of ours is there");
    watch(options, load, "native");

    step(&format!(
        "mvedsua attach --pid {} --name {NAME}",
        server.pid()
    ));
    say(&mvedsua.attach(server.pid(), NAME)?);
    watch(options, load, "single-leader");

    step(&format!("mvedsua update {NAME} u10.mvu"));
    say(&update(mvedsua, &bundles.good)?);
    watch(options, load, "outdated-leader");
    show_status(&mvedsua.status(NAME)?);

    step(&format!("mvedsua promote {NAME}"));
    say(&mvedsua.promote(NAME)?);
    watch(options, load, "updated-leader");
    show_status(&mvedsua.status(NAME)?);

    step(&format!("mvedsua finalize {NAME}"));
    say(&mvedsua.finalize(NAME)?);
    watch(options, load, "single-leader");
    let status = mvedsua.status(NAME)?;
    ensure!(
        status.leader.pid != server.pid(),
        "the promoted process is not the one that serves"
    );

    step(&format!(
        "mvedsua update {NAME} --identity, and one bit of what the copy writes is flipped"
    ));
    let flipped = mvedsua.run(&["update", NAME, "--identity", "--inject-fault", FLIPPED])?;
    ensure!(
        flipped.code == 0 || flipped.code == ROLLED_BACK,
        "the update failed: {flipped:?}"
    );
    found(mvedsua, "other bytes in")?;
    watch(options, load, "single-leader");

    step(&format!(
        "mvedsua update {NAME} hmget.mvu: a version that crashes on HMGET of a key that holds no hash"
    ));
    say(&update(mvedsua, &bundles.faulty)?);
    watch(options, load, "outdated-leader");

    step(&format!("a client asks: {}", FAULT.join(" ")));
    let answer = server.client()?.command(&FAULT)?;
    println!("    it is answered: {answer:?}");
    ensure!(
        matches!(&answer, Reply::Error(text) if text.starts_with("WRONGTYPE")),
        "the client did not get the old version's answer"
    );
    found(mvedsua, "")?;
    watch(options, load, "single-leader");
    Ok(())
}

/// Waits for the rollback of a faulty update, for a reason that contains `why`, and shows its report.
fn found(mvedsua: &Mvedsua, why: &str) -> Result<()> {
    let status = mvedsua.wait_for(NAME, FAULT_LIMIT, |status| {
        status.follower.is_none()
            && status
                .last_update
                .as_ref()
                .is_some_and(|last| last.outcome == "rolled-back")
    })?;
    let last = status.last_update.as_ref().context("just seen")?;
    println!("    rolled back: {}", last.reason);
    say(last.report.as_deref().unwrap_or("(no report)"));
    ensure!(last.reason.contains(why), "that was not the fault");
    ensure!(
        process::is_alive(status.leader.pid),
        "the leader did not survive the rollback"
    );
    Ok(())
}

fn update(mvedsua: &Mvedsua, bundle: &Bundle) -> Result<String> {
    let path = bundle.path().to_string_lossy().into_owned();
    mvedsua.run(&["update", NAME, &path])?.ok()
}

fn step(what: &str) {
    println!("\n=> {what}");
}

fn say(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

/// Lets the load run for the seconds of a stage and prints what each second was like.
fn watch(options: &Options, load: &Load, stage: &str) {
    let _ = load.phase();
    for _ in 0..options.seconds {
        std::thread::sleep(Duration::from_secs(1));
        let phase = load.phase();
        println!(
            "    {stage:<16} {:>7.0} requests/s   p50 {:>6} us   longest {:>8.2} ms   errors {}",
            phase.throughput(),
            phase.latency_us(0.5),
            phase.latency_us(1.0) as f64 / 1000.0,
            phase.errors.total()
        );
    }
}

fn show_status(status: &Status) {
    let pause = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
    println!(
        "    {}: leader {}, {} events recorded, {} matched, snapshot pause {}, promotion pause {}, leader blocked {:.1} ms",
        status.stage,
        status.leader.pid,
        status.events.recorded,
        status.events.matched,
        pause(status.pauses_ms.snapshot),
        pause(status.pauses_ms.promotion),
        status.ring.blocked_ms
    );
}

fn print_timeline(events: &[TimelineEntry], origin: SystemTime) {
    println!("\ntimeline (seconds since the start of the load)");
    for event in events {
        let mark = event.mark.as_deref().unwrap_or("");
        println!(
            "    {:>8.3}  {mark:<3} {:<16} {}",
            seconds(event, origin),
            event.stage,
            event.what
        );
    }
}

fn draw(
    file: &Path,
    options: &Options,
    report: &LoadReport,
    events: &[TimelineEntry],
    origin: SystemTime,
) -> Result<()> {
    fs::create_dir_all(file.parent().expect("in target/demo"))?;
    // The last second is not a whole one.
    let whole = report.intervals.len().saturating_sub(1).max(1);
    let intervals = &report.intervals[..whole.min(report.intervals.len())];
    let marked: Vec<(f64, &TimelineEntry)> = events
        .iter()
        .map(|event| (seconds(event, origin), event))
        .collect();
    let load = if options.rate > 0 {
        format!("{} requests/s offered", options.rate)
    } else {
        "full load".into()
    };
    Chart {
        title: format!(
            "Redis 7.0.15-1~deb12u7 to u10 with {} keys, 50 clients, {load}",
            grouped(options.keys)
        ),
        intervals,
        bands: &bands(&marked, intervals.len() as f64),
        moments: &moments(&marked),
    }
    .write(file)
}

/// A number with its thousands apart: 1,000,000.
pub fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or(""))
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(grouped(12_345), "12,345");
        assert_eq!(grouped(7), "7");
    }
}
