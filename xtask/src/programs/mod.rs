//! `cargo xtask programs`: fetches and builds what tests and demo update.
//!
//! Debian's source packages, built with Debian's own tools into a cache
//! ([`mvedsua_tests::programs`]); nothing of them is committed. What is there already is not built
//! again: a second run takes no time and needs no network.

mod debian;
mod memcached;
mod redis;
mod vsftpd;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use mvedsua_tests::examples::Example;
use mvedsua_tests::programs::{Build, DEBUG, PROGRAM, folder};

use debian::Debian;

/// Builds what is missing.
///
/// # Errors
/// When something cannot be fetched or built: the end of its log is part of the message.
pub fn run() -> Result<()> {
    let start = Instant::now();
    redis::build()?;
    memcached::build()?;
    vsftpd::build()?;
    for (example, versions) in Example::ALL {
        for version in 1..=versions {
            example.build(version)?;
        }
    }
    println!(
        "programs: everything is there ({} s), in {}",
        start.elapsed().as_secs(),
        folder().display()
    );
    Ok(())
}

/// Builds what is missing of Redis alone.
///
/// # Errors
/// See [`run`].
pub fn redis() -> Result<()> {
    redis::build()
}

/// Like [`run`] for what can do without: a failure is told, and the tests that need what is missing
/// say so by name.
pub fn run_if_possible() {
    if let Err(error) = run() {
        eprintln!("programs: {error:#}");
        eprintln!(
            "programs: the tests that need what is missing cannot run; the summary names them"
        );
    }
}

/// What makes all of `names` at once, when one of them is missing: `make` gets a folder to work in and
/// returns for each name the program and the folder of its debug files.
fn cached(
    names: &[&str],
    recipe: &str,
    make: impl FnOnce(&Debian, &Path) -> Result<Vec<Made>>,
) -> Result<()> {
    let missing: Vec<_> = names
        .iter()
        .filter(|name| Build::find_made_by(name, recipe).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder()).with_context(|| format!("making {}", folder().display()))?;
    let work = tempfile::Builder::new()
        .prefix("work-")
        .tempdir_in(folder())?;
    // `apt-get source` downloads as its own user.
    open_to_all(work.path())?;
    let debian = Debian::prepare(&folder().join("apt"), &work.path().join("log"))?;
    for made in make(&debian, work.path())? {
        keep(&made, recipe, work.path())?;
    }
    Ok(())
}

/// One finished build, still in the folder where it was made.
struct Made {
    name: &'static str,
    program: PathBuf,
    /// Its name where it is installed.
    program_name: &'static str,
    /// Holds `.build-id/`; `None` when the program itself has its DWARF.
    debug: Option<PathBuf>,
}

/// Moves a build into the cache: whole or not at all.
fn keep(made: &Made, recipe: &str, work: &Path) -> Result<()> {
    let fresh = work.join(format!("kept-{}", made.name));
    fs::create_dir(&fresh)?;
    let bin = fresh.join(PROGRAM);
    fs::create_dir(&bin)?;
    fs::copy(&made.program, bin.join(made.program_name))
        .with_context(|| format!("no program at {}", made.program.display()))?;
    match &made.debug {
        Some(debug) => fs::rename(debug, fresh.join(DEBUG))
            .with_context(|| format!("no debug files at {}", debug.display()))?,
        None => fs::create_dir(fresh.join(DEBUG))?,
    }
    Build::complete(&fresh, recipe)?;
    let place = folder().join(made.name);
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::rename(&fresh, &place)?;
    Ok(())
}

fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(
        folder,
        fs::Permissions::from_mode(0o755),
    )?)
}
