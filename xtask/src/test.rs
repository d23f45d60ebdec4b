//! `cargo xtask test`: does all set-up, builds everything, runs every test.
//!
//! Everything is built in the release profile: the end-to-end tests drive the binary that users run,
//! and one profile keeps a clean run short.

use std::fs;
use std::io::{self, Write};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mvedsua_tests::{cannot_run, mvedsua};

use crate::watchdog::{self, End};
use crate::{build_ebpf, command, mvedsua_binary, paths, programs, setup};

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
    programs::run_if_possible();

    let summary = paths::own().join("cannot-run");
    fs::create_dir_all(paths::own())?;
    if summary.exists() {
        fs::remove_file(&summary)?;
    }

    let mut bad = Vec::new();
    let mut ran = 0;
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
        let mut seen = Seen::default();
        let end = watchdog::run(&mut command, run.limit, &mut seen)?;
        ran += seen.tests_run();
        match end {
            End::Passed => {}
            End::Failed => bad.push(format!("{}: failed", run.name)),
            End::Hung(test) => bad.push(format!("{}: {test} hung", run.name)),
        }
    }

    println!("\n== summary ==");
    for line in fs::read_to_string(&summary).unwrap_or_default().lines() {
        println!("could not run: {line}");
    }
    if !bad.is_empty() {
        bail!("{}", bad.join("; "));
    }
    // A misspelt filter must not look like success.
    ensure!(
        ran > 0,
        "no test has a name with {:?} in it",
        options.filter.as_deref().unwrap_or("")
    );
    println!("{ran} tests have run and passed");
    Ok(())
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

/// Passes output on to the terminal and keeps it.
#[derive(Default)]
struct Seen(Vec<u8>);

impl Seen {
    /// How many tests passed or failed, from the closing lines of libtest.
    fn tests_run(&self) -> u64 {
        String::from_utf8_lossy(&self.0)
            .lines()
            .filter_map(|line| line.strip_prefix("test result: "))
            .flat_map(|line| line.split([';', '.']))
            .filter_map(|part| {
                part.trim()
                    .strip_suffix(" passed")
                    .or(part.trim().strip_suffix(" failed"))
            })
            .filter_map(|count| count.parse::<u64>().ok())
            .sum()
    }
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        io::stdout().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_say_how_many_tests_ran() {
        let text = "test a ... ok\n\
            test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.77s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(Seen(text.into()).tests_run(), 15);
        assert_eq!(Seen("running 0 tests\n".into()).tests_run(), 0);
    }
}
