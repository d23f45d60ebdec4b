//! A process that is recorded from a known point on.

use std::{
    io::Write,
    os::fd::AsRawFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mvedsua::matcher::Record;
use mvedsua::recorder::{EventRef, Recorder};

const RING: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// A child of the test, and a recorder of its own that records nothing else.
pub struct Victim {
    /// The recorder; attached.
    pub recorder: Recorder,
    pid: i32,
    reaped: bool,
}

impl Victim {
    fn recorder() -> Recorder {
        let mut recorder = Recorder::load(RING)
            .expect("the recorder tests need root and a kernel with eBPF: load the recorder");
        recorder.attach().expect("attach the recorder");
        recorder
    }

    /// A shell that runs `script`.
    #[expect(
        clippy::zombie_processes,
        reason = "it is reaped by its id, in `ends` or when dropped"
    )]
    pub fn shell(script: &str) -> Self {
        let mut recorder = Self::recorder();
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a shell");
        recorder.add_process(child.id()).expect("record the shell");
        child
            .stdin
            .as_mut()
            .expect("piped")
            .write_all(b"go\n")
            .expect("write to the shell");
        Self {
            recorder,
            pid: child.id() as i32,
            reaped: false,
        }
    }

    /// A fork of the test that does `work`, which may only make system calls and touch memory that it
    /// was given or that is its own: the other threads of the test (and their locks) are gone.
    pub fn fork(work: impl FnOnce()) -> Self {
        let mut recorder = Self::recorder();
        let (wait, mut go) = std::io::pipe().expect("a pipe");
        // SAFETY: the child makes system calls and leaves with `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mut byte = 0u8;
            // SAFETY: one byte of room.
            unsafe { libc::read(wait.as_raw_fd(), (&raw mut byte).cast(), 1) };
            work();
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
        recorder.add_process(pid as u32).expect("record the child");
        go.write_all(b"x").expect("write to the child");
        Self {
            recorder,
            pid,
            reaped: false,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// The first event of call `nr` that `wanted` says yes to, waiting for it; all before are released.
    pub fn find(&mut self, nr: u16, wanted: impl Fn(&Record<'_>) -> bool) -> EventRef {
        let start = Instant::now();
        loop {
            match self.recorder.ring.peek_new() {
                Some(event)
                    if event.header.nr == nr && wanted(&self.recorder.ring.event(&event)) =>
                {
                    return event;
                }
                Some(event) => self.recorder.ring.release(event),
                None => {
                    assert!(
                        start.elapsed() < LIMIT,
                        "no such event of call {nr} within {LIMIT:?}"
                    );
                    std::thread::yield_now();
                }
            }
        }
    }

    /// Waits until it is stopped.
    pub fn stops(&mut self) {
        assert!(!self.stops_or_ends(), "it ended instead of stopping");
    }

    /// Waits until it has ended.
    pub fn ends(&mut self) {
        assert!(self.stops_or_ends(), "it stopped instead of ending");
    }

    /// Waits until it is stopped (false) or has ended well (true).
    pub fn stops_or_ends(&mut self) -> bool {
        let mut status = 0;
        // SAFETY: a status word of our own, a child of our own.
        let waited = unsafe { libc::waitpid(self.pid, &mut status, libc::WUNTRACED) };
        assert_eq!(
            waited,
            self.pid,
            "waitpid: {}",
            std::io::Error::last_os_error()
        );
        if libc::WIFSTOPPED(status) {
            assert_eq!(libc::WSTOPSIG(status), libc::SIGSTOP);
            return false;
        }
        self.reaped = true;
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "it ended with status {status:#x}"
        );
        true
    }

    /// Waits until it blocks in call `nr`.
    pub fn waits_in(&self, nr: u16) {
        let start = Instant::now();
        let prefix = format!("{nr} ");
        while !std::fs::read_to_string(format!("/proc/{}/syscall", self.pid))
            .is_ok_and(|s| s.starts_with(&prefix))
        {
            assert!(start.elapsed() < LIMIT, "it does not get to call {nr}");
            std::thread::yield_now();
        }
    }

    /// Stops it.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Continues it.
    pub fn goes_on(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a child that was not reaped, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.pid, signal) }, 0);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(libc::SIGKILL);
            // SAFETY: as in `signal`.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        }
    }
}
