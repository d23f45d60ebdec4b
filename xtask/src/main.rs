//! `cargo xtask`: everything that is done to this repository besides building it.
//!
//! One file per command. `cargo xtask demo` and `cargo xtask test` alone do all set-up.

mod bench;
mod build_ebpf;
mod chart;
mod command;
mod demo;
mod environment;
mod fuzz;
mod mvedsua_binary;
mod paths;
mod programs;
mod setup;
mod stages;
mod test;
mod tidy;
mod toolchain;
mod watchdog;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "What is done to this repository besides building it"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing: compiler for the eBPF part, bpf-linker, the servers that tests use
    Setup,
    /// Build the recorder programs (`mvedsua-ebpf`)
    BuildEbpf(build_ebpf::Options),
    /// Fetch and build the servers that tests and demo update, into a cache
    Programs,
    /// Apply Debian's update to a running Redis with 1,000,000 keys under load; then one that is rolled back
    Demo(demo::Options),
    /// Do all set-up, build everything, run every test
    Test(test::Options),
    /// Measure a Redis native and supervised; writes target/bench/report.md and report.json
    Bench(bench::Options),
    /// Look for input that the rule language cannot take
    Fuzz(fuzz::Options),
    /// Check the rules that the compiler does not check
    Tidy,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup => setup::run(),
        Task::BuildEbpf(options) => build_ebpf::run(&options),
        Task::Programs => programs::run(),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Tidy => tidy::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
