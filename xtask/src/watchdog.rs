//! Runs a test program and ends it when one of its tests hangs.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::command;

/// How a watched program ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It succeeded.
    Passed,
    /// It failed by itself.
    Failed,
    /// It was killed: this test made no progress within the limit.
    Hung(String),
}

/// Runs `command` in a process group of its own, passes its standard output on to `out`, and kills that group when
/// nothing was printed for `limit`: libtest prints a line when a test begins (with one test thread) and
/// when it ends. The servers and agents that the test has started are in the same group.
///
/// # Errors
/// When the program cannot be started or waited for.
pub fn run(command: &mut Command, limit: Duration, out: &mut dyn Write) -> Result<End> {
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", command::shown(command)))?;
    let group = Pid::from_raw(i32::try_from(child.id()).expect("process ids are positive"));
    let mut stdout = child.stdout.take().expect("piped above");
    let (sender, chunks) = channel::<Vec<u8>>();
    // Ends with the pipe. A daemon that a test has left behind may hold the pipe open: nobody waits for
    // this thread, only for the child.
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(len @ 1..) = stdout.read(&mut chunk) {
            if sender.send(chunk[..len].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut progress = Progress::default();
    let mut deadline = Instant::now() + limit;
    let mut status = None;
    loop {
        match chunks.recv_timeout(Duration::from_millis(200)) {
            Ok(chunk) => {
                out.write_all(&chunk)?;
                out.flush()?;
                progress.saw(&chunk);
                deadline = Instant::now() + limit;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                status = Some(child.wait()?);
            }
            // It ended, and all that it had printed was passed on.
            Err(RecvTimeoutError::Timeout) if status.is_some() => {}
            Err(RecvTimeoutError::Timeout) => {
                status = child.try_wait()?;
                // Ended just now: its last words may still be on their way.
                if status.is_some() || Instant::now() < deadline {
                    continue;
                }
            }
        }
        return match status {
            Some(status) if status.success() => Ok(End::Passed),
            Some(_) => Ok(End::Failed),
            None => {
                let name = progress.running();
                eprintln!(
                    "\ntest {name} made no progress for {} s: killed",
                    limit.as_secs()
                );
                // ESRCH: it ended at this very moment.
                let _ = killpg(group, Signal::SIGKILL);
                child.wait()?;
                Ok(End::Hung(name))
            }
        };
    }
}

/// Follows what libtest prints, to name the test that runs.
#[derive(Default)]
struct Progress {
    /// The last line, as far as it was printed.
    line: String,
}

impl Progress {
    fn saw(&mut self, chunk: &[u8]) {
        let text = String::from_utf8_lossy(chunk);
        match text.rsplit_once('\n') {
            Some((_, rest)) => self.line = rest.to_owned(),
            None => self.line.push_str(&text),
        }
    }

    /// Name of the test that was begun and has not ended. A test's own output ends the line, so the
    /// name is what was printed since the last line end.
    fn running(&self) -> String {
        match self
            .line
            .strip_prefix("test ")
            .and_then(|rest| rest.split(" ... ").next())
        {
            Some(name) => name.to_owned(),
            None => "(no name: not in a test)".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> End {
        run(
            Command::new("sh").args(["-c", script]),
            limit,
            &mut std::io::sink(),
        )
        .expect("sh exists")
    }

    #[test]
    fn what_is_printed_is_passed_on_to_the_last_word() {
        let mut out = Vec::new();
        let script = "for i in 1 2 3; do echo line $i; done; printf end";
        run(
            Command::new("sh").args(["-c", script]),
            Duration::from_secs(60),
            &mut out,
        )
        .expect("sh exists");
        assert_eq!(String::from_utf8_lossy(&out), "line 1\nline 2\nline 3\nend");
    }

    #[test]
    fn the_exit_code_decides() {
        assert_eq!(shell("echo fine", Duration::from_secs(60)), End::Passed);
        assert_eq!(shell("exit 3", Duration::from_secs(60)), End::Failed);
    }

    #[test]
    fn a_hanging_test_is_named_and_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let pid_file = dir.path().join("pid");
        let script = format!(
            "echo 'test a ... ok'; printf 'test soak::b ... '; sleep 1000 & echo $! > {}; wait",
            pid_file.display()
        );
        assert_eq!(
            shell(&script, Duration::from_secs(1)),
            End::Hung("soak::b".into())
        );
        let pid = std::fs::read_to_string(pid_file).expect("written before the hang");
        let pid = pid.trim().parse().expect("a process id");
        assert!(mvedsua_tests::wait_until(Duration::from_secs(10), || {
            !mvedsua_tests::process::is_alive(pid)
        }));
    }

    #[test]
    fn a_left_over_daemon_that_holds_the_output_does_not_hold_us() {
        let end = shell("setsid sleep 5 & echo done", Duration::from_secs(60));
        assert_eq!(end, End::Passed);
    }

    #[test]
    fn the_name_survives_being_printed_in_pieces() {
        let mut progress = Progress::default();
        for piece in ["test x ... ok\nte", "st mod::y", " ... "] {
            progress.saw(piece.as_bytes());
        }
        assert_eq!(progress.running(), "mod::y");
    }
}
