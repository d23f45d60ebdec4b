//! Two builds of a small program that answers lines, bundles between them, and one of them running.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{Mvedsua, process};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Versions 1 and 2 of a program of `tests/bundles`.
#[derive(Debug)]
pub struct Pair {
    dir: TempDir,
}

impl Pair {
    /// Compiles the C files with `-DVERSION=1` and `-DVERSION=2`.
    ///
    /// # Errors
    /// When the compiler is missing or complains.
    pub fn compile(files: &[&str], flags: &[&str]) -> Result<Self> {
        let pair = Self {
            dir: tempfile::Builder::new().prefix("mvedsua-pair-").tempdir()?,
        };
        for version in [1, 2] {
            let done = Command::new("cc")
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/bundles"))
                .args(["-O2", "-g", "-pthread", "-Wl,--build-id"])
                .arg(format!("-DVERSION={version}"))
                .args(files)
                .args(flags)
                .arg("-o")
                .arg(pair.program(version))
                .output()
                .context("running cc")?;
            ensure!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(pair)
    }

    /// Path of a build.
    #[must_use]
    pub fn program(&self, version: u32) -> PathBuf {
        self.dir.path().join(format!("program.{version}"))
    }

    /// Folder for more files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `bundle build` from one version to the other, with more options; the path of the bundle.
    ///
    /// # Errors
    /// When the command fails: with what it said.
    pub fn bundle(
        &self,
        mvedsua: &Mvedsua,
        from: u32,
        to: u32,
        options: &[&str],
    ) -> Result<String> {
        let path = |file: PathBuf| file.to_string_lossy().into_owned();
        let output = path(self.dir.path().join(format!("{from}-{to}.mvu")));
        let (old, new) = (path(self.program(from)), path(self.program(to)));
        let words = [
            &[
                "bundle", "build", "--old", &old, "--new", &new, "-o", &output,
            ],
            options,
        ]
        .concat();
        mvedsua.run(&words)?.ok()?;
        Ok(output)
    }
}

/// A running program that answers each line with one line.
#[derive(Debug)]
pub struct Lines {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    /// Who serves after a promotion.
    successor: Option<i32>,
}

impl Lines {
    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("it has a pipe")?;
        let output = child.stdout.take().context("it has a pipe")?;
        let (send, receive) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            input: Some(input),
            output: receive,
            successor: None,
        })
    }

    /// The process that serves.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.successor
            .unwrap_or_else(|| i32::try_from(self.child.id()).expect("process ids are positive"))
    }

    /// Another process serves now.
    pub fn succeeded_by(&mut self, pid: i32) {
        self.successor = Some(pid);
    }

    /// Sends a line and returns the answer.
    ///
    /// # Errors
    /// When there is none within 20 s.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(
            self.input.as_ref().context("its input is closed")?,
            "{line}"
        )?;
        self.output
            .recv_timeout(LIMIT)
            .with_context(|| format!("no answer to {line:?}"))
    }

    /// Closes its input and returns what it says last.
    ///
    /// # Errors
    /// When it says nothing within 20 s.
    pub fn end(&mut self) -> Result<String> {
        self.input = None;
        self.output.recv_timeout(LIMIT).context("no last words")
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(pid) = self.successor {
            let _ = process::send(pid, process::Signal::SIGKILL);
        }
    }
}
