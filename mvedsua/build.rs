//! Finds the recorder's object file, which another compiler built for another target.

use std::{env, path::PathBuf};

fn main() {
    let manifest =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let object = manifest
        .parent()
        .expect("the package is a folder of the workspace")
        .join("mvedsua-ebpf/target/bpfel-unknown-none/release/mvedsua-ebpf");
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rerun-if-changed=build.rs");
    if !object.is_file() {
        println!(
            "cargo:error=the recorder's object {} is missing: run `cargo xtask build-ebpf` first",
            object.display()
        );
        return;
    }
    println!("cargo:rustc-env=MVEDSUA_EBPF_OBJECT={}", object.display());
}
