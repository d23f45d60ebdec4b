//! Starts `family.c` and speaks with it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mvedsua::tracee::inspect;

const LIMIT: Duration = Duration::from_secs(30);

/// Waits for a condition that no descriptor tells of.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::yield_now();
    }
}

/// The compiled program and a library that it can load, for all tests.
fn compiled() -> &'static (tempfile::TempDir, PathBuf) {
    static FOLDER: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::Builder::new()
            .prefix("mvedsua-family-")
            .tempdir()
            .expect("a temporary folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/trees/family.c");
        let program = folder.path().join("family");
        let cc = |command: &mut Command| {
            let output = command.output().expect("cc is installed");
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{told}");
        };
        cc(Command::new("cc")
            .args(["-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&program)
            .args([source, "-ldl"]));
        let text = folder.path().join("library.c");
        std::fs::write(
            &text,
            "static int n; int big[3000] = {1}; int count(void) { return ++n * big[0]; }\n",
        )
        .expect("writable");
        cc(Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(folder.path().join("library.so"))
            .arg(text));
        (folder, program)
    })
}

/// A family; what is left of it when dropped is killed.
pub struct Family {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// All processes, the parent first, then its children in order, then grandchildren.
    pub pids: Vec<i32>,
}

impl Family {
    /// Starts it; returns when everybody is ready.
    pub fn start(kinds: &[&str]) -> Self {
        let (folder, program) = compiled();
        let mut child = Command::new(program)
            .args(kinds)
            .env("LIBRARY", folder.path().join("library.so"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the family starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut family = Self {
            child,
            input,
            output,
            pids: Vec::new(),
        };
        let nested = kinds.first() == Some(&"nest");
        let grand = kinds.iter().filter(|kind| **kind == "grand").count();
        let size = if nested { 1 } else { 1 + kinds.len() + grand };
        for _ in 0..size {
            let line = family.answer();
            assert!(line.starts_with("ready "), "{line}");
        }
        family.pids = descendants(family.child.id() as i32);
        if !nested {
            assert_eq!(family.pids.len(), size, "{:?}", family.pids);
        }
        family
    }

    /// Its first process.
    pub fn parent(&self) -> i32 {
        self.pids[0]
    }

    /// Sends a line to the parent (`to N ...` for a child).
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("not closed");
        writeln!(input, "{line}").expect("it reads");
    }

    /// Sends a line and returns the answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// The next line that anybody says.
    pub fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("readable");
        assert!(!answer.is_empty(), "everybody is gone");
        answer.trim_end().to_owned()
    }

    /// Kills the processes that were started, not their copies.
    pub fn kill(&mut self) {
        for pid in std::mem::take(&mut self.pids).into_iter().rev() {
            let _ = mvedsua::sys::pidfd::kill(pid);
            wait_until("it ends", || {
                inspect::status_field(pid, pid, "State").is_none_or(|s| s.starts_with('Z'))
            });
        }
        let _ = self.child.wait();
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        for pid in &self.pids {
            let _ = mvedsua::sys::pidfd::kill(*pid);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process with all below it, parents first.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        all.extend(inspect::children(all[at]));
        at += 1;
    }
    all
}
