//! `cargo xtask setup`: installs what is missing and says what it does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use mvedsua_tests::server::find_program;

use crate::toolchain::Toolchain;
use crate::{command, environment, paths};

/// `bpf-linker`, as `cargo install` takes it: the version that links with LLVM 22.
const LINKER: &str = "^0.10";

/// Debian's switch that says whether a package may start its daemon.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// First lines of our own [`POLICY`], by which a left-over one is known.
const POLICY_TEXT: &str = "#!/bin/sh\n# Put here by `cargo xtask setup` of mvedsua for one installation, then removed.\nexit 101\n";

/// Programs that tests, demo and benchmark run, and Debian's packages that have them.
const PROGRAMS: [(&str, &str); 6] = [
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("memcached", "memcached"),
    ("vsftpd", "vsftpd"),
    ("gcc", "gcc"),
    // Not the machine's own: started in a container by tests of units.
    ("systemctl", "systemd"),
];

/// Headers for the victim programs in C.
const HEADERS: (&str, &str) = ("/usr/include/stdlib.h", "libc6-dev");

/// Debian's compiler for the recorder programs; `libllvm22` comes along as its dependency.
const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Installs what is missing.
///
/// # Errors
/// When something is missing and cannot be installed: with the command to run by hand.
pub fn run() -> Result<()> {
    tools().map(drop)
}

/// What building the recorder programs needs.
pub struct Tools {
    /// The compiler.
    pub toolchain: Toolchain,
    /// The linker's path.
    pub linker: PathBuf,
}

/// Like [`run`], and returns what was found or installed.
///
/// # Errors
/// See [`run`].
pub fn tools() -> Result<Tools> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    if !Path::new(HEADERS.0).exists() {
        missing.push(HEADERS.1);
    }
    let toolchain = Toolchain::find();
    if toolchain.is_none() {
        missing.extend(COMPILER);
    }
    if !missing.is_empty() {
        install_packages(&missing)?;
    }
    let toolchain = toolchain.or_else(Toolchain::find).context(
        "no compiler for the recorder programs: Debian's rustc-web is installed but has another LLVM than \
         22 (is the suite `bookworm-security` in the sources of apt?), and rustup has no nightly with rust-src",
    )?;
    let linker = linker()?;
    println!(
        "setup: everything is there (compiler for eBPF: {})",
        toolchain.name
    );
    Ok(Tools { toolchain, linker })
}

/// Installs Debian's packages, starting none of their daemons.
///
/// # Errors
/// When they cannot be installed: with the command to run by hand.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    let by_hand = format!(
        "apt-get update && apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    if find_program("apt-get").is_none() {
        bail!("missing, and this is no Debian: {}", packages.join(" "));
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "missing: {}. Only root may install packages: sudo sh -c '{by_hand}'",
            packages.join(" ")
        );
    }
    println!("setup: installing Debian's packages {}", packages.join(" "));
    let quiet = Policy::no_daemons()?;
    // Lists that are old name versions that are gone or, worse, still there: a compiler of the last point release,
    // with an LLVM that is too old. Without a way to read them anew, those that are there may do.
    if let Err(error) = command::run(Command::new("apt-get").args(["update", "--quiet"])) {
        println!("setup: the lists of packages stay as they are: {error:#}");
    }
    command::run(&mut apt_install(packages)).with_context(|| format!("by hand: {by_hand}"))?;
    drop(quiet);
    println!(
        "setup: their daemons were not started (a later boot may: `systemctl disable` them to be sure)"
    );
    Ok(())
}

fn apt_install(packages: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    // --no-remove: `rustc-web` conflicts with `rustc`; a compiler of the user's is never removed.
    apt.args([
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
        "--no-remove",
    ])
    .args(packages)
    .env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// While it lives, no package starts its daemon. An administrator's own policy is left alone.
pub struct Policy {
    ours: bool,
}

impl Policy {
    /// From now on none starts.
    ///
    /// # Errors
    /// When the switch cannot be written.
    pub fn no_daemons() -> Result<Self> {
        let left_over = fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT);
        if Path::new(POLICY).exists() && !left_over {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, POLICY_TEXT)?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!(
                "setup: remove {POLICY} by hand, daemons do not start while it is there: {error}"
            );
        }
    }
}

/// Path of a fitting `bpf-linker`: one on the `PATH`, or ours, which is built when it is missing.
fn linker() -> Result<PathBuf> {
    let ours = paths::own().join("bpf-linker");
    let binary = ours.join("bin/bpf-linker");
    for candidate in find_program("bpf-linker")
        .into_iter()
        .chain([binary.clone()])
    {
        let version = command::output(Command::new(&candidate).arg("--version"));
        if version.is_ok_and(|text| is_fitting_linker(&text)) {
            return Ok(candidate);
        }
    }
    println!("setup: building bpf-linker {LINKER} (two to three minutes, once)");
    let mut cargo = Command::new("cargo");
    environment::scrub(&mut cargo);
    // Outside the workspace, so that none of its settings apply.
    cargo
        .current_dir("/")
        .args(["install", "--locked", "--version", LINKER, "--root"])
        .arg(&ours)
        .arg("bpf-linker");
    command::run(&mut cargo)?;
    Ok(binary)
}

fn is_fitting_linker(version: &str) -> bool {
    version
        .trim()
        .strip_prefix("bpf-linker ")
        .is_some_and(|version| version.starts_with("0.10."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_linker_of_our_llvm_fits() {
        assert!(is_fitting_linker("bpf-linker 0.10.4\n"));
        assert!(!is_fitting_linker("bpf-linker 0.9.15\n"));
        assert!(!is_fitting_linker("bpf-linker 0.1.0\n"));
        assert!(!is_fitting_linker(""));
    }
}
