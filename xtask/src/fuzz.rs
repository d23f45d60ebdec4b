//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`.
//!
//! cargo-fuzz asks for a nightly compiler, but what libFuzzer needs is coverage, which the stable one puts
//! in with the same flags; only the sanitizers are missing, and code without `unsafe` has little use for
//! them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use mvedsua_tests::examples::Example;

use crate::{command, mvedsua_binary, paths};

/// The targets, with the longest input that is worth a try: a bundle of a small program is as long.
const TARGETS: [(&str, u32); 3] = [
    ("rules_parser", 4096),
    ("rules_interpreter", 4096),
    (BUNDLES, 65_536),
];

/// The target that takes bundles and not rules.
const BUNDLES: &str = "bundle_reader";

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
    #[arg(long, value_parser = TARGETS.map(|target| target.0))]
    target: Option<String>,
}

/// Builds the targets and runs them one after the other, at low priority, from the shipped rules
/// and from bundles of the examples on.
///
/// # Errors
/// When one finds something: the input is in `fuzz/artifacts`.
pub fn run(options: &Options) -> Result<()> {
    let folder = paths::root().join("fuzz");
    command::run(
        Command::new("cargo")
            .current_dir(&folder)
            .env("RUSTFLAGS", FLAGS)
            // The binaries are looked for in the folder itself.
            .env_remove("CARGO_TARGET_DIR")
            // With a target, build scripts are built without the flags.
            .args(["build", "--release", "--target", "x86_64-unknown-linux-gnu"]),
    )?;
    for (target, longest) in TARGETS {
        if options.target.as_deref().is_some_and(|only| only != target) {
            continue;
        }
        let corpus = folder.join("corpus").join(target);
        let artifacts = folder.join("artifacts").join(target);
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&artifacts)?;
        if target == BUNDLES {
            seed_bundles(&corpus)?;
        } else {
            seed(&corpus)?;
        }
        let binary = folder
            .join("target/x86_64-unknown-linux-gnu/release")
            .join(target);
        command::run(
            Command::new("nice")
                .arg(binary)
                .arg(&corpus)
                .arg(format!("-max_total_time={}", options.seconds))
                .arg(format!("-artifact_prefix={}/", artifacts.display()))
                .arg(format!("-max_len={longest}"))
                .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]),
        )?;
    }
    Ok(())
}

/// The shipped rule files, and the tutorial's, to begin with.
fn seed(corpus: &Path) -> Result<()> {
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

/// Bundles of `examples/kvstore`: functions only, and with a transformer and rules.
fn seed_bundles(corpus: &Path) -> Result<()> {
    mvedsua_binary::build()?;
    let rules = paths::root().join("rules/kvstore");
    let examples = paths::root().join("examples/kvstore");
    let steps = [
        (1, 2, "v1-v2.toml", "v1-v2.rules"),
        (2, 1, "v2-v1.toml", ""),
        (2, 3, "", "v2-v3-messages.rules"),
    ];
    for (old, new, transform, file) in steps {
        let mut build = Command::new(paths::binary());
        build.args(["bundle", "build", "--old"]);
        build.arg(Example::Kvstore.build(old)?).arg("--new");
        build.arg(Example::Kvstore.build(new)?);
        if !transform.is_empty() {
            build.arg("--transform").arg(examples.join(transform));
        }
        if !file.is_empty() {
            build.arg("--rules").arg(rules.join(file));
        }
        let name = format!("v{old}-v{new}.mvu");
        command::run(build.arg("-o").arg(corpus.join(name)))?;
    }
    Ok(())
}
