//! `cargo xtask build-ebpf`: builds the recorder programs.

use anyhow::{Result, ensure};

use crate::setup::Tools;
use crate::{command, paths, setup};

#[derive(clap::Args)]
pub struct Options {
    /// Fail on warnings
    #[arg(long)]
    deny_warnings: bool,
}

/// Does the set-up and builds.
///
/// # Errors
/// When the set-up or the compiler fails.
pub fn run(options: &Options) -> Result<()> {
    build(&setup::tools()?, options.deny_warnings)
}

/// Builds with what the set-up has found; does nothing when the object is up to date.
///
/// # Errors
/// When the compiler fails or the crate is not there.
pub fn build(tools: &Tools, deny_warnings: bool) -> Result<()> {
    let folder = paths::ebpf();
    ensure!(
        folder.join("Cargo.toml").is_file(),
        "{} does not exist",
        folder.display()
    );
    let mut cargo = tools.toolchain.cargo(&tools.linker)?;
    cargo.current_dir(&folder).args([
        "build",
        "--release",
        "--target",
        "bpfel-unknown-none",
        "-Zbuild-std=core",
    ]);
    if folder.join("Cargo.lock").is_file() {
        cargo.arg("--locked");
    }
    if deny_warnings {
        // Not RUSTFLAGS: they would make it build everything anew, and hide those of the crate.
        cargo.args(["-Zwarnings", "--config", "build.warnings=\"deny\""]);
    }
    command::run(&mut cargo)?;
    let object = paths::ebpf_object();
    ensure!(
        object.is_file(),
        "cargo succeeded but {} does not exist",
        object.display()
    );
    Ok(())
}
