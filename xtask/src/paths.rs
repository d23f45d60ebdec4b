//! Where things are.

use std::path::{Path, PathBuf};

/// Top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository")
}

/// What the tasks themselves keep.
pub fn own() -> PathBuf {
    root().join("target/xtask")
}

/// The crate of the recorder programs.
pub fn ebpf() -> PathBuf {
    root().join("mvedsua-ebpf")
}

/// The recorder programs, built.
pub fn ebpf_object() -> PathBuf {
    ebpf().join("target/bpfel-unknown-none/release/mvedsua-ebpf")
}

/// The `mvedsua` binary that tests, demo and benchmark drive.
pub fn binary() -> PathBuf {
    root().join("target/release/mvedsua")
}
