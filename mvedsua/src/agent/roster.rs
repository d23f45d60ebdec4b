//! The list of supervised processes on disk, for the successor of an agent that died.
//!
//! It lies beside the socket (in `/run`, so it does not outlive the machine's boot). A process
//! is the same one only if its start time is the same too.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::session::Children;

/// One supervised service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Name of the service.
    pub name: String,
    /// The process that leads.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
    /// What becomes of its child processes.
    #[serde(default)]
    pub children: Children,
    /// The process that follows while an update runs, with its start time: if the agent dies at the
    /// moment of a promotion, it may be the one that goes on.
    #[serde(default)]
    pub follower: Option<(i32, u64)>,
}

/// Which processes of a service are left after the agent died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survivors {
    /// The process that serves, to be supervised again.
    pub leader: i32,
    /// A copy that was about to take its place; it stands still in its filter.
    pub copy: Option<i32>,
}

/// `PF_EXITING` of `<linux/sched.h>`: the thread is on its way out.
const PF_EXITING: u32 = 4;
/// Bit of `SIGKILL` in a set of signals.
const SIGKILL: u64 = 1 << 8;

/// Start time of a process in clock ticks since boot; none if there is no such process. One that was
/// killed is none any more, even if its memory is still being given back or its parent does not wait for
/// it: the old version dies with the agent at the end of a promotion, and the new one must not be taken
/// for superfluous then.
fn start_time(pid: i32) -> Option<u64> {
    let process = procfs::process::Process::new(pid).ok()?;
    let stat = process.stat().ok()?;
    let alone = stat.num_threads <= 1;
    if matches!(stat.state, 'Z' | 'X') && alone {
        return None;
    }
    if stat.flags & PF_EXITING != 0 && alone {
        return None;
    }
    let status = process.status().ok()?;
    if (status.sigpnd | status.shdpnd) & SIGKILL != 0 {
        return None;
    }
    Some(stat.starttime)
}

impl Line {
    /// The line for a process; none if it is gone.
    #[must_use]
    pub fn of(name: String, pid: i32, follower: Option<i32>, children: Children) -> Option<Self> {
        Some(Self {
            name,
            pid,
            started: start_time(pid)?,
            children,
            follower: follower.and_then(|pid| Some((pid, start_time(pid)?))),
        })
    }

    /// Those of its processes that still run, and are still the same.
    #[must_use]
    pub fn survivors(&self) -> Option<Survivors> {
        let copy = self
            .follower
            .filter(|(pid, started)| start_time(*pid) == Some(*started))
            .map(|(pid, _)| pid);
        if start_time(self.pid) == Some(self.started) {
            return Some(Survivors {
                leader: self.pid,
                copy,
            });
        }
        copy.map(|leader| Survivors { leader, copy: None })
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct Roster {
    path: PathBuf,
}

impl Roster {
    /// The roster of the agent that listens on `socket`.
    #[must_use]
    pub fn beside(socket: &Path) -> Self {
        Self {
            path: socket.with_extension("services.json"),
        }
    }

    /// What the last agent on this socket was supervising.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood.
    pub fn read(&self) -> io::Result<Vec<Line>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the whole list, atomically: an agent may be killed at any moment.
    ///
    /// # Errors
    /// The file or its folder is not writable.
    pub fn write(&self, lines: &[Line]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(lines)?)?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let roster = Roster::beside(&folder.path().join("control.sock"));
        assert_eq!(roster.read().unwrap(), []);
        let me = i32::try_from(std::process::id()).unwrap();
        let lines = vec![Line::of("me".into(), me, None, Children::Alone).unwrap()];
        roster.write(&lines).unwrap();
        assert_eq!(roster.read().unwrap(), lines);
        roster.write(&[]).unwrap();
        assert_eq!(roster.read().unwrap(), []);
        fs::write(folder.path().join("control.services.json"), "[{").unwrap();
        assert!(roster.read().is_err());
    }

    #[test]
    fn a_process_that_was_killed_is_none_any_more() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let line = Line::of("sleeper".into(), pid, None, Children::Auto).unwrap();
        assert!(line.survivors().is_some());
        child.kill().unwrap();
        // Nobody has waited for it: it may be dying or a zombie.
        assert_eq!(line.survivors(), None);
        child.wait().unwrap();
        assert_eq!(line.survivors(), None);
    }

    #[test]
    fn a_reused_process_id_is_not_the_same_process() {
        let me = i32::try_from(std::process::id()).unwrap();
        let mut line = Line::of("me".into(), me, None, Children::Auto).unwrap();
        let alone = Some(Survivors {
            leader: me,
            copy: None,
        });
        assert_eq!(line.survivors(), alone);
        line.started -= 1;
        assert_eq!(line.survivors(), None);
        line.follower = Some((me, line.started + 1));
        assert_eq!(line.survivors(), alone, "the copy goes on in its place");
        assert_eq!(
            Line::of("none".into(), i32::MAX, None, Children::Auto),
            None
        );
    }
}
