//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`.
//!
//! cargo-fuzz asks for a nightly compiler, but what libFuzzer needs is coverage, which the stable one puts
//! in with the same flags; only the sanitizers are missing, and code without `unsafe` has little use for
//! them.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, paths};

const TARGETS: [&str; 2] = ["rules_parser", "rules_interpreter"];

/// What cargo-fuzz passes, without the sanitizer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

#[derive(clap::Args)]
pub struct Options {
    /// How long to run each target, in seconds
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Only this one
    #[arg(long, value_parser = TARGETS)]
    target: Option<String>,
}

/// Builds the targets and runs them one after the other, at low priority, from the shipped rules on.
///
/// # Errors
/// When one finds something: the input is in `fuzz/artifacts`.
pub fn run(options: &Options) -> Result<()> {
    let folder = paths::root().join("fuzz");
    command::run(
        Command::new("cargo")
            .current_dir(&folder)
            .env("RUSTFLAGS", FLAGS)
            // With a target, build scripts are built without the flags.
            .args(["build", "--release", "--target", "x86_64-unknown-linux-gnu"]),
    )?;
    for target in TARGETS {
        if options.target.as_deref().is_some_and(|only| only != target) {
            continue;
        }
        let corpus = folder.join("corpus").join(target);
        let artifacts = folder.join("artifacts").join(target);
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&artifacts)?;
        seed(&corpus)?;
        let binary = folder
            .join("target/x86_64-unknown-linux-gnu/release")
            .join(target);
        command::run(
            Command::new("nice")
                .arg(binary)
                .arg(&corpus)
                .arg(format!("-max_total_time={}", options.seconds))
                .arg(format!("-artifact_prefix={}/", artifacts.display()))
                .args([
                    "-max_len=4096",
                    "-timeout=10",
                    "-rss_limit_mb=2048",
                    "-print_final_stats=1",
                ]),
        )?;
    }
    Ok(())
}

/// The shipped rule files, and the tutorial's, to begin with.
fn seed(corpus: &std::path::Path) -> Result<()> {
    for folder in std::fs::read_dir(paths::root().join("rules"))? {
        for file in std::fs::read_dir(folder?.path())? {
            let file = file?.path();
            let name = file.file_name().context("a file has a name")?;
            std::fs::copy(&file, corpus.join(name))?;
        }
    }
    let document = std::fs::read_to_string(paths::root().join("docs/rules.md"))?;
    for (n, block) in document.split("```rules\n").skip(1).enumerate() {
        let text = block.split("```").next().unwrap_or_default();
        std::fs::write(corpus.join(format!("tutorial-{n}")), text)?;
    }
    Ok(())
}
