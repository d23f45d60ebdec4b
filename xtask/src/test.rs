//! `cargo xtask test`: does all set-up, builds everything, runs every test.
//!
//! Everything is built in the release profile: the end-to-end tests drive the binary that users run,
//! and one profile keeps a clean run short.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mvedsua_tests::{cannot_run, mvedsua};

use crate::watchdog::{self, End};
use crate::{build_ebpf, command, mvedsua_binary, paths, setup};

/// How long one test may be silent.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// How long one soak test may be silent.
const SOAK_LIMIT: Duration = Duration::from_secs(60 * 60);

#[derive(clap::Args)]
pub struct Options {
    /// Also run the long tests (`tests/tests/soak*.rs`)
    #[arg(long)]
    soak: bool,
    /// Run only the tests whose name contains this
    filter: Option<String>,
}

/// Runs the tests.
///
/// # Errors
/// When set-up or build fails, or a test fails or hangs: all of them are named.
pub fn run(options: &Options) -> Result<()> {
    build_ebpf::build(&setup::tools()?, false)?;
    mvedsua_binary::build()?;

    let summary = paths::own().join("cannot-run");
    fs::create_dir_all(paths::own())?;
    if summary.exists() {
        fs::remove_file(&summary)?;
    }

    let mut bad = Vec::new();
    for run in runs(options.soak)? {
        println!("\n== {} ==", run.name);
        // By itself, so that the time to build does not count as silence of a test.
        command::run(cargo_test(&run.selection).arg("--no-run"))?;
        let mut command = cargo_test(&run.selection);
        command.arg("--");
        command.args(&options.filter);
        if run.alone {
            command.arg("--test-threads=1");
        }
        command.env(cannot_run::CANNOT_RUN_FILE, &summary);
        if std::env::var_os(mvedsua::BINARY).is_none() {
            command.env(mvedsua::BINARY, paths::binary());
        }
        match watchdog::run(&mut command, run.limit, &mut std::io::stdout())? {
            End::Passed => {}
            End::Failed => bad.push(format!("{}: failed", run.name)),
            End::Hung(test) => bad.push(format!("{}: {test} hung", run.name)),
        }
    }

    println!("\n== summary ==");
    for line in fs::read_to_string(&summary).unwrap_or_default().lines() {
        println!("could not run: {line}");
    }
    if bad.is_empty() {
        println!("every test that could run has passed");
        return Ok(());
    }
    bail!("{}", bad.join("; "))
}

/// One `cargo test`.
struct Run {
    name: String,
    selection: Vec<String>,
    /// One test at a time: each drives real servers, on few CPUs.
    alone: bool,
    limit: Duration,
}

/// All runs: unit and integration tests together, then every file of end-to-end tests by itself, so
/// that one that hangs does not take the others with it.
fn runs(soak: bool) -> Result<Vec<Run>> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let mut runs = vec![
        Run {
            name: "unit and integration tests".into(),
            selection: words(&[
                "--workspace",
                "--exclude",
                "mvedsua-tests",
                "--no-fail-fast",
            ]),
            alone: false,
            limit: LIMIT,
        },
        Run {
            name: "test library".into(),
            selection: words(&["--package", "mvedsua-tests", "--lib"]),
            alone: false,
            limit: LIMIT,
        },
    ];
    let folder = paths::root().join("tests/tests");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .flatten()
        .filter_map(|entry| target_name(&entry.path()))
        .collect();
    files.sort();
    for name in files {
        let is_soak = name.starts_with("soak");
        if is_soak && !soak {
            continue;
        }
        runs.push(Run {
            selection: words(&["--package", "mvedsua-tests", "--test", &name]),
            name,
            alone: true,
            limit: if is_soak { SOAK_LIMIT } else { LIMIT },
        });
    }
    Ok(runs)
}

/// Name of the test target that cargo makes of a file or folder in `tests/tests`.
fn target_name(path: &std::path::Path) -> Option<String> {
    let is_target = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file();
    is_target
        .then(|| path.file_stem()?.to_str().map(str::to_owned))
        .flatten()
}

fn cargo_test(selection: &[String]) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(paths::root())
        .args(["test", "--release"])
        .args(selection);
    command
}
