//! The C programs of `tests/victims`: compiled, started, watched by the rounds that they count.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{process, wait_until};

/// How long a victim may take for its first round, and to end after `SIGTERM`.
const LIMIT: Duration = Duration::from_secs(30);

/// A running victim with a folder of its own; killed on drop.
#[derive(Debug)]
pub struct Victim {
    child: Child,
    dir: TempDir,
    /// Who serves after a promotion.
    successor: Option<i32>,
}

/// So many looks find a victim once at least between two of its children.
const LOOKS: usize = 60;

/// What must be the same before an update and after its roll back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// A hash of the vDSO: its bytes would fill a failed test's message.
    pub vdso: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Child processes, zombies included.
    pub children: usize,
}

impl Victim {
    /// Compiles `tests/victims/NAME.c` and starts it; returns when it has done a few rounds.
    ///
    /// # Errors
    /// When it does not compile, or ends or stands still: with what it said.
    pub fn start(name: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("mvedsua-victim-")
            .tempdir()?;
        let program = compile(name, dir.path())?;
        let log = File::create(dir.path().join("log"))?;
        let child = Command::new(&program)
            .arg(dir.path().join("progress"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let victim = Self {
            child,
            dir,
            successor: None,
        };
        victim.wait_rounds(3)?;
        Ok(victim)
    }

    /// The process that serves.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.successor
            .unwrap_or_else(|| i32::try_from(self.child.id()).expect("process ids are positive"))
    }

    /// The folder of the progress file.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has said: nothing, unless something was not as it must be.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Rounds done so far.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir.path().join("progress")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Waits until it has done `more` rounds from now on.
    ///
    /// # Errors
    /// When it does not within 30 s, or said something.
    pub fn wait_rounds(&self, more: u64) -> Result<()> {
        let until = self.rounds() + more;
        let done = wait_until(LIMIT, || self.rounds() >= until || !self.log().is_empty());
        ensure!(self.log().is_empty(), "the victim says: {}", self.log());
        ensure!(
            done,
            "process {} stands still at round {}",
            self.pid(),
            self.rounds()
        );
        Ok(())
    }

    /// Another process serves now; the one that was started is gone.
    ///
    /// # Errors
    /// When the old one is not gone.
    pub fn promoted(&mut self, pid: i32) -> Result<()> {
        let child = &mut self.child;
        let gone = wait_until(LIMIT, || {
            child.try_wait().is_ok_and(|status| status.is_some())
        });
        ensure!(
            gone,
            "process {} is still there after the promotion",
            self.pid()
        );
        self.successor = Some(pid);
        Ok(())
    }

    /// Takes the footprint: the least of many looks, for a round opens and closes descriptors and
    /// makes children.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn footprint(&self) -> Result<Footprint> {
        let pid = self.pid();
        let mut hasher = DefaultHasher::new();
        vdso(pid)?.hash(&mut hasher);
        let vdso = hasher.finish();
        let least = |look: &dyn Fn() -> usize| {
            let until = self.rounds() + 20;
            let (mut least, mut looks) = (usize::MAX, 0);
            // The rounds tell when enough was seen; `wait_rounds` is who complains about a stand-still. A round may
            // be shorter than the time between two looks.
            let _ = wait_until(LIMIT, || {
                least = least.min(look());
                looks += 1;
                looks >= LOOKS && self.rounds() >= until
            });
            least
        };
        Ok(Footprint {
            vdso,
            descriptors: least(&|| process::descriptors(pid).len()),
            children: least(&|| process::children(pid).len()),
        })
    }

    /// Ends it with `SIGTERM`.
    ///
    /// # Errors
    /// When it does not end, ends with another status than 0 (known of the process that was started),
    /// or has said something.
    pub fn end(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM)?;
        if let Some(pid) = self.successor {
            ensure!(
                wait_until(LIMIT, || !process::is_alive(pid)),
                "process {pid} does not end"
            );
        } else {
            let mut status = None;
            let child = &mut self.child;
            if !wait_until(LIMIT, || {
                status = child.try_wait().ok().flatten();
                status.is_some()
            }) {
                bail!("process {} does not end", self.pid());
            }
            ensure!(
                status.is_some_and(|status| status.success()),
                "{status:?}: {}",
                self.log()
            );
        }
        ensure!(self.log().is_empty(), "the victim says: {}", self.log());
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(pid) = self.successor.filter(|pid| process::is_alive(*pid)) {
            // ESRCH means that it has just ended, which is what we want.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles `tests/victims/NAME.c` into a folder; the program.
///
/// # Errors
/// When it does not compile.
pub fn compile(name: &str, dir: &Path) -> Result<PathBuf> {
    let source =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/victims")).join(format!("{name}.c"));
    let program = dir.join(name);
    let compiled = Command::new("cc")
        .args(["-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .context("running cc")?;
    ensure!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    Ok(program)
}

fn vdso(pid: i32) -> Result<Vec<u8>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps
        .lines()
        .find(|line| line.ends_with("[vdso]"))
        .context("a process without a vDSO")?;
    let (start, end) = line
        .split(' ')
        .next()
        .and_then(|range| range.split_once('-'))
        .context("a range")?;
    let (start, end) = (
        u64::from_str_radix(start, 16)?,
        u64::from_str_radix(end, 16)?,
    );
    let mut bytes = vec![0; usize::try_from(end - start)?];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}
