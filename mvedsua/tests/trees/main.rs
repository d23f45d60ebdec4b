//! The mechanism of process trees on real processes: needs root.

mod clone;
mod family;
mod identity;
mod namespace;
mod rebuild;

use std::path::Path;

/// The program that the namespaces' own processes are made of.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mvedsua"))
}
