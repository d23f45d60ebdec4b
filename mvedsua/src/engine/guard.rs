//! A small process that outlives the agent, against the one harm that the agent's death could do.
//!
//! For room in the ring, or for a large payload, the recorder stops the leader's thread with a SIGSTOP,
//! of which its tracer makes a wait. If the agent is killed in that moment,
//! nobody holds the signal back any more and the whole server would stand still for ever (tried). The
//! guard learns of the agent's end from the end of its standard input and lets such servers go on.
//!
//! It cannot tell our SIGSTOP from one of an operator: a leader that somebody has stopped by hand
//! during an update goes on, too, when the agent is killed.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::{pidfd, setsid};
use crate::tracee::inspect;

/// When no server has been found stopped for this long after the agent's end, none will be: the
/// recorder is gone with the agent's descriptors, before the guard's input ends.
const SETTLED: Duration = Duration::from_millis(300);

/// A process that has no tracer any more and has not ended after this long was let go and not killed.
const SPARED: Duration = Duration::from_secs(1);

/// Standard input of this agent's guard.
static GUARD: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

/// Starts the guard of this process, an agent. It ends with the agent.
///
/// # Errors
/// When no process can be started.
pub fn start() -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("guard")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut guard = setsid::undisturbed(&mut command).spawn()?;
    let input = guard.stdin.take().expect("it is piped");
    // Dropping the handle does not end the process. It is never waited for: it outlives us.
    drop(guard);
    let _ = GUARD.set(Mutex::new(input));
    Ok(())
}

/// A process that the guard watches until this is dropped.
#[derive(Debug)]
pub(super) struct Watched(i32);

impl Watched {
    /// From now on. Without a guard (in tests of the engine alone) nothing happens.
    pub(super) fn watch(pid: i32) -> Self {
        tell('+', pid);
        Self(pid)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        tell('-', self.0);
    }
}

/// Processes that are to end with another one, their root, if the agent ends.
#[derive(Debug)]
pub(super) struct Doomed(i32);

impl Doomed {
    /// From now on: if the agent ends, and the process `root` with it, the guard kills these.
    pub(super) fn with(root: i32, others: Vec<i32>) -> Self {
        let mut line = format!("!{root}");
        for pid in others {
            line.push_str(&format!(" {pid}"));
        }
        tell_line(line);
        Self(root)
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        tell('?', self.0);
    }
}

fn tell(what: char, pid: i32) {
    tell_line(format!("{what}{pid}"));
}

fn tell_line(mut line: String) {
    line.push('\n');
    let Some(input) = GUARD.get() else { return };
    let mut input = input
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // One write, less than PIPE_BUF (of a tree of several hundred processes more, but whoever is
    // half-way through that has not decided yet): never half a line.
    if let Err(error) = input.write_all(line.as_bytes()) {
        tracing::warn!(%error, "the guard is gone: if this agent is killed during an update, the server may stay stopped");
    }
}

/// What the guard does, until the agent's end and a moment after it.
pub fn run() {
    let mut watched: HashMap<i32, OwnedFd> = HashMap::new();
    let mut doomed: HashMap<i32, (Option<OwnedFd>, Vec<OwnedFd>)> = HashMap::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let Some((what, pids)) = line.split_at_checked(1) else {
            continue;
        };
        let mut pids = pids.split(' ').filter_map(|pid| pid.parse::<i32>().ok());
        let Some(pid) = pids.next() else { continue };
        match what {
            "-" => drop(watched.remove(&pid)),
            "!" => {
                let others = pids.filter_map(|pid| pidfd::open(pid).ok());
                doomed.insert(pid, (pidfd::open(pid).ok(), others.collect()));
            }
            "?" => drop(doomed.remove(&pid)),
            _ => {
                if let Ok(process) = pidfd::open(pid) {
                    watched.insert(pid, process);
                }
            }
        }
    }
    for (root, (handle, others)) in doomed {
        if !handle.is_some_and(|root_handle| is_spared(root, &root_handle)) {
            for process in others {
                // It may have ended already.
                let _ = pidfd::signal(process.as_fd(), libc::SIGKILL);
            }
        }
    }
    if watched.is_empty() {
        return;
    }
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < SETTLED {
        for (pid, process) in &watched {
            // By its descriptor: the number may be another process's by now.
            if is_or_will_be_stopped(*pid) && pidfd::signal(process.as_fd(), libc::SIGCONT).is_ok()
            {
                quiet_since = Instant::now();
            }
        }
        // A stop is no event that a stranger can wait for.
        let _ = poll(&mut [], PollTimeout::from(5u8));
    }
}

/// Waits until the process `root`, whose tracer has just ended or is about to, has died with it (false), or goes on
/// without one. The kernel kills it before it lets it go, and then it takes its time to die, during which nothing tells
/// of that (seen: an old tree whose root was just dying went on beside the new one).
fn is_spared(root: i32, handle: &OwnedFd) -> bool {
    let mut untraced = None;
    loop {
        let mut end = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        if poll(&mut end, PollTimeout::from(1u8)).is_ok_and(|ended| ended > 0)
            || inspect::is_dying(root)
        {
            return false;
        }
        if inspect::status_field(root, root, "TracerPid").as_deref() == Some("0")
            && untraced.get_or_insert_with(Instant::now).elapsed() > SPARED
        {
            return true;
        }
    }
}

/// Stopped by a signal, with no tracer that could be the reason; or about to be, as soon as a thread of it runs, which
/// takes its time on a busy machine.
fn is_or_will_be_stopped(pid: i32) -> bool {
    inspect::threads(pid).is_ok_and(|tids| {
        tids.iter().any(|tid| {
            let field = |name| inspect::status_field(pid, *tid, name);
            (inspect::stop_is_pending(pid, *tid)
                || field("State").is_some_and(|state| state.starts_with('T')))
                && field("TracerPid").as_deref() == Some("0")
        })
    })
}
