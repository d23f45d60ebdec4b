//! The environment that `cargo xtask` got from the cargo which runs it, and what another cargo must
//! not see of it.

use std::process::Command;

/// Takes out of `command` all that the outer cargo and rustup have put into the environment, so that
/// another cargo (Debian's, or the one of another toolchain) is not steered by it. Settings of the
/// user's network and registry stay.
pub fn scrub(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(steers_cargo) {
            command.env_remove(name);
        }
    }
}

fn steers_cargo(name: &str) -> bool {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_HTTPS_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_INCREMENTAL",
    ];
    const STEERING: [&str; 7] = [
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "OUT_DIR",
    ];
    if name == "CARGO"
        || (name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept)))
    {
        return true;
    }
    STEERING.contains(&name) || name.starts_with("RUSTC_") || name.starts_with("RUSTDOCFLAGS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_cargo_goes_and_the_network_settings_stay() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
        ] {
            assert!(steers_cargo(name), "{name}");
        }
        for name in [
            "RUSTC_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
            "CARGO_PKG_NAME",
            "CARGO_BUILD_TARGET",
        ] {
            assert!(steers_cargo(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_CAINFO",
            "CARGO_REGISTRIES_X_INDEX",
            "RUSTUP_HOME",
            "PATH",
            "HOME",
        ] {
            assert!(!steers_cargo(name), "{name}");
        }
    }
}
