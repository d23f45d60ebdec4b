//! The `mvedsua` binary that tests, demo and benchmark drive.

use std::process::Command;

use anyhow::Result;
use mvedsua_tests::mvedsua::BINARY;

use crate::{command, paths};

/// Builds it in the release profile, unless `MVEDSUA_BIN` names another one to drive.
///
/// # Errors
/// When it does not build.
pub fn build() -> Result<()> {
    if let Some(other) = std::env::var_os(BINARY) {
        println!("driving {} ({BINARY})", other.display());
        return Ok(());
    }
    let mut cargo = Command::new("cargo");
    command::run(cargo.current_dir(paths::root()).args([
        "build",
        "--release",
        "--package",
        "mvedsua",
    ]))
}
