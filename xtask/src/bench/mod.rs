//! `cargo xtask bench`: what Mvedsua costs a whole server.
//!
//! Native and supervised runs alternate within one invocation, on servers that were started the same
//! way, so that a machine that changes its pace changes it for both.

mod lifecycle;
mod pauses;
mod report;
mod throughput;
mod transformation;
mod updates;

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{build_ebpf, command, mvedsua_binary, paths, programs, setup};

/// Requests per second while updates are measured: as in the demo.
const RATE: u32 = 5_000;

/// Goal: the longest latency over an update is at most so much above native's.
const GOAL_MS: f64 = 20.0;

#[derive(clap::Args)]
pub struct Options {
    /// One round of short runs: shows that everything works, measures little
    #[arg(long)]
    quick: bool,
    /// Only what is about updates with a bundle
    #[arg(long)]
    updates_only: bool,
    /// Only throughput, latency and CPU time in each stage
    #[arg(long, conflicts_with = "updates_only")]
    throughput_only: bool,
    /// Rounds of throughput [default: 5; 1 with --quick]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds for which each stage is measured [default: 10; 2 with --quick]
    #[arg(long)]
    seconds: Option<u64>,
    /// Requests per second of the paced runs, which alternate with saturated ones; 0 for those alone
    #[arg(long, default_value_t = 5000)]
    rate: u32,
}

/// What was measured in one invocation.
#[derive(serde::Serialize)]
struct Results {
    /// `uname -srm` and the number of CPUs.
    machine: String,
    /// `redis-server --version`.
    server: String,
    quick: bool,
    runs: Vec<throughput::Run>,
    pauses: Vec<pauses::Pauses>,
    updates: Option<updates::Updates>,
    life_cycle: Option<lifecycle::LifeCycle>,
    transformation: Vec<transformation::Transformed>,
}

/// Measures, and writes `target/bench/report.md`, `report.json` and `lifecycle.svg`.
///
/// # Errors
/// When a step fails or a client saw an error: numbers of a faulty run are worth nothing.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark follows a process: run it as root"
    );
    build_ebpf::build(&setup::tools()?, false)?;
    mvedsua_binary::build()?;
    programs::redis()?;

    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 5 });
    let seconds = options
        .seconds
        .unwrap_or(if options.quick { 2 } else { 10 });
    let paced = (options.rate > 0).then_some(Some(options.rate));
    let mut results = Results {
        machine: machine()?,
        server: command::output(Command::new("redis-server").arg("--version"))?
            .trim()
            .to_owned(),
        quick: options.quick,
        runs: Vec::new(),
        pauses: Vec::new(),
        updates: None,
        life_cycle: None,
        transformation: Vec::new(),
    };
    let rounds = if options.updates_only { 0 } else { rounds };
    for round in 1..=rounds {
        for rate in paced.into_iter().chain([None]) {
            println!(
                "bench: throughput at {}, round {round} of {rounds}",
                report::load(rate)
            );
            results
                .runs
                .extend(throughput::round(round, seconds, rate)?);
        }
    }
    let sizes: &[u32] = if options.updates_only || options.throughput_only {
        &[]
    } else {
        &[1_000, 1_000_000]
    };
    for &keys in sizes {
        println!("bench: pauses with {keys} keys");
        results
            .pauses
            .push(pauses::measure(keys, if options.quick { 2 } else { 7 })?);
    }

    let folder = paths::root().join("target/bench");
    fs::create_dir_all(&folder)?;
    if !options.throughput_only {
        results.updates = Some(updates::measure(if options.quick { 2 } else { 5 })?);
        println!("bench: the life of an update, second by second");
        results.life_cycle = Some(lifecycle::measure(&folder.join("lifecycle.svg"))?);
        results.transformation = transformation::measure(if options.quick { 2 } else { 4 })?;
    }

    fs::write(
        folder.join("report.json"),
        serde_json::to_string_pretty(&results)?,
    )?;
    let text = report::markdown(&results);
    fs::write(folder.join("report.md"), &text)?;
    println!("\n{text}\nbench: written to {}", folder.display());
    Ok(())
}

fn machine() -> Result<String> {
    let kernel = command::output(Command::new("uname").arg("-srm"))?;
    let cpus = std::thread::available_parallelism()?;
    Ok(format!("{}, {cpus} CPUs", kernel.trim()))
}

/// The value in the middle; of two, the lower one. `None` of nothing.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0]), Some(1.0));
        assert_eq!(median([]), None);
    }
}
