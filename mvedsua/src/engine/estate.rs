//! What a process leaves to its counterpart at a promotion besides what every leader leaves (`transfer`): its
//! identity, its namespaces, its root and working directory, and its locks. A process of a followed tree always does,
//! a process alone if it has changed any of that since the snapshot, or holds locks.
//!
//! Until then a process of the follower's is as privileged as its original was at the snapshot, or as the copy of the
//! tree's root: it makes no call by itself, and its calls at the promotion need privileges that its counterpart may
//! have given away.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use mvedsua_common::table::number;

use super::following::{Following, Stop};
use super::pair::{Pair, ROOT};
use super::side::Why;
use crate::follower::{Arrival, parking_number};
use crate::sys::{limits, memory};
use crate::tracee::context::Context;
use crate::tracee::identity::{Identity, Places};
use crate::tracee::inject::{Guarded, Plain};
use crate::tracee::inspect;
use crate::tracee::pid_namespace;
use crate::tracee::standstill::traced_by_us;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Stopped;
use crate::tracee::{Naming, Result, TraceeError};

/// Namespaces that a process is put into with setns(2), as they are called in `/proc/PID/ns`. They are the
/// original's own, not copies.
const NAMESPACES: [(&str, i32); 3] = [
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
];

/// Namespaces that must be those of the copy already.
const SHARED: [&str; 4] = ["mnt", "user", "cgroup", "time"];

/// What one process leaves.
#[derive(Debug, Default)]
pub(super) struct Estate {
    /// `None`: its copy is who it is, or was at the snapshot and dies.
    identity: Option<Identity>,
    /// Where the copy has to go, with the number under which it has it.
    root: Option<(File, i32)>,
    directory: Option<(File, i32)>,
    namespaces: Vec<(File, i32, i32)>,
    pub(super) locks: Vec<Lock>,
}

/// A record lock (fcntl(2)) of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    fd: i32,
    exclusive: bool,
    /// First byte.
    start: i64,
    /// How many; 0: to the end of the file, wherever that will be.
    length: i64,
}

/// What `/proc/locks` says about the record locks of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldLocks {
    /// It holds some.
    pub(super) any: bool,
    /// A process that waits for one of them. It would get it in an exchange: nobody else holds the lock between the end of
    /// the one that did and the other's request.
    pub(super) waiter: Option<i32>,
}

impl HeldLocks {
    pub(super) fn of(pid: i32) -> Self {
        Self::parse(
            &std::fs::read_to_string("/proc/locks").unwrap_or_default(),
            pid,
        )
    }

    /// `1: POSIX  ADVISORY  WRITE 1234 00:2a:5678 0 EOF`, and who waits for that one: `1: -> POSIX ...`.
    fn parse(all: &str, pid: i32) -> Self {
        let mut held = Self::default();
        let mut ours = false;
        for line in all.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [_, "->", "POSIX", _, _, of, ..] if ours => held.waiter = of.parse().ok(),
                [_, "->", ..] => {}
                [_, "POSIX", _, _, of, ..] => {
                    ours = of.parse() == Ok(pid);
                    held.any |= ours;
                }
                _ => ours = false,
            }
        }
        held
    }
}

impl Lock {
    /// Whether a process holds any (`/proc/locks`): a look at each of ten thousand descriptors takes its time. So does
    /// this: the kernel waits for an RCU grace period first (`locks_start`), 15 ms here.
    pub(super) fn any(pid: i32) -> bool {
        HeldLocks::of(pid).any
    }

    /// Those that a process holds, by the `lock:` lines of `/proc/PID/fdinfo` (proc_pid_fdinfo(5)). Several
    /// descriptors of one file tell of the same lock.
    pub(super) fn of(pid: i32) -> Result<Vec<Self>> {
        let mut locks: Vec<Self> = Vec::new();
        for (fd, _) in inspect::descriptors(pid)? {
            let text = match std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) {
                // Closed meanwhile, which a process that stands does not do: so are its locks.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                text => text.named("read about a descriptor", pid)?,
            };
            for line in text.lines().filter_map(|line| line.strip_prefix("lock:")) {
                locks.extend(Self::parse(fd, line));
            }
        }
        Ok(locks)
    }

    /// `1: POSIX  ADVISORY  WRITE 1234 00:2a:5678 0 EOF`. Locks of other kinds belong to the open file.
    fn parse(fd: i32, line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, kind, _, _, start, end] = words[..] else {
            return None;
        };
        let start = start.parse().ok()?;
        let length = match end {
            "EOF" => 0,
            last => last.parse::<i64>().ok()? - start + 1,
        };
        Some(Self {
            fd,
            exclusive: kind == "WRITE",
            start,
            length,
        })
    }

    /// `struct flock` (fcntl(2)) of x86-64.
    fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        let kind = if self.exclusive {
            libc::F_WRLCK
        } else {
            libc::F_RDLCK
        };
        bytes[..2].copy_from_slice(&(kind as i16).to_le_bytes());
        bytes[2..4].copy_from_slice(&(libc::SEEK_SET as i16).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// Takes them in the stopped process `pid`, through this thread of it. Its predecessor has let go of them. It is
    /// to outlive this agent by now, so it finds back by itself from each step.
    ///
    /// # Errors
    /// When the thread is lost; what was refused, since somebody else was quicker, comes with the thread.
    pub(super) fn take(
        locks: &[Self],
        pid: i32,
        thread: Stopped,
        vdso: &Vdso,
    ) -> Result<(Stopped, Result<()>)> {
        let tid = thread.tid();
        let context = Context::read(&thread, pid)?;
        let mut guarded = Guarded::begin(thread, &context, vdso)?;
        let at = guarded.scratch();
        let taken = locks.iter().try_for_each(|lock| {
            memory::write(tid, at, &lock.bytes()).named("write the new leader's stack", tid)?;
            let args = [lock.fd as u64, libc::F_SETLK as u64, at, 0, 0, 0];
            guarded.call("fcntl", number("fcntl"), &args).map(drop)
        });
        Ok((guarded.end()?, taken))
    }
}

/// Device and inode of what a link of `/proc/PID` leads to.
fn place(pid: i32, name: &str) -> Option<(u64, u64)> {
    let found = std::fs::metadata(format!("/proc/{pid}/{name}")).ok()?;
    Some((found.dev(), found.ino()))
}

fn namespace(pid: i32, kind: &str) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// Session and process group.
fn session_and_group(pid: i32) -> Option<(i32, i32)> {
    let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
    Some((stat.session, stat.pgrp))
}

impl Following {
    /// The pairs that live, the root first.
    pub(super) fn living(&self) -> Vec<usize> {
        let lives = |pair: &usize| {
            *pair == ROOT
                || !self.pairs[*pair].leader.is_gone() && !self.pairs[*pair].follower.is_gone()
        };
        self.pairs.numbers().into_iter().filter(lives).collect()
    }

    /// All children have got as far as the leader's: each has its counterpart, or both have ended. One that the
    /// follower is about to make has not, though it is gone in the leader and nothing is left of what it did: born
    /// later it would stand at its birth, in nobody's hands, and its maker would wait for it for ever.
    pub(super) fn is_complete(&self) -> bool {
        let is_whole = |pair: &Pair| {
            pair.child.is_none()
                || pair.follower.pid != 0 && pair.leader.is_gone() == pair.follower.is_gone()
        };
        self.pairs.iter().all(is_whole)
    }

    /// Why a tree cannot be promoted, by what can be seen from outside.
    pub(super) fn obstacle_of_tree(&self) -> Option<String> {
        let leaders: Vec<i32> = self.pairs.iter().map(|pair| pair.leader.pid).collect();
        let alone = self.pairs.root().leader.wards.pids();
        // One whose birth has not been heard of yet is traced, and will be a pair.
        let is_being_born = |child: i32| traced_by_us(child, child) && !alone.contains(&child);
        for number in self.living() {
            let Pair {
                leader, follower, ..
            } = &self.pairs[number];
            let pid = leader.pid;
            let other = inspect::children(pid).into_iter().find(|child| {
                !leaders.contains(child) && !inspect::is_dying(*child) && !is_being_born(*child)
            });
            if let Some(child) = other {
                return Some(format!(
                    "process {pid} has a child process ({child}) that is not followed, since it runs another program or \
                     shares memory with it; try again when it has ended"
                ));
            }
            // A pair that is just being made is looked at when it is complete.
            if follower.pid == 0 || follower.is_gone() {
                continue;
            }
            for kind in SHARED {
                // One that is about to end has none any more.
                let both = namespace(pid, kind).zip(namespace(follower.pid, kind));
                if both.is_some_and(|(own, copy)| own != copy) {
                    return Some(format!(
                        "process {pid} has gone into another {kind} namespace, which cannot be carried over yet"
                    ));
                }
            }
        }
        None
    }

    /// Why the old version of a tree that is promoted could not follow: its processes are copied once more for that.
    pub(super) fn obstacle_to_a_way_back(&self) -> Option<String> {
        let for_good = "promote the tree for good, with --finalize";
        if let Err(error) = pid_namespace::check(self.pairs.root().leader.pid) {
            return Some(format!("{error}: {for_good}"));
        }
        self.living().into_iter().find_map(|number| {
            let Pair { leader, child, .. } = &self.pairs[number];
            let pid = leader.pid;
            child.as_ref().filter(|child| child.parent.is_none()).map(|_| {
                format!(
                    "the process that made process {pid} has ended, and without it no copy can be made: {for_good}"
                )
            })
        })
    }

    /// What the stopped process of a pair leaves. Its main thread answers questions.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read_estate(&mut self, pair: usize) -> std::result::Result<Estate, Stop> {
        let Pair {
            leader,
            follower,
            vdso,
            estate_changed,
            ..
        } = &mut self.pairs[pair];
        let (pid, copy) = (leader.pid, follower.pid);
        let differs = || !Identity::is_same(pid, copy);
        let mut estate = Estate::default();
        if let Some(mut thread) = leader.take(pid, Why::Asked) {
            let identity = (self.tree.is_some() || *estate_changed || differs())
                .then(|| Identity::read(&mut thread, vdso));
            leader.add_stopped(thread, Why::Asked);
            estate.identity = identity.transpose()?;
        } else if differs() {
            // It dies. Its successor must not have what it has given away.
            estate.identity = Some(Identity::of_dying(pid)?);
        }
        let open = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            File::open(&path).map_err(|e| Stop::roll_back(format!("opening {path}: {e}")))
        };
        let root_differs = place(pid, "root") != place(copy, "root");
        if root_differs {
            estate.root = Some((open("root")?, -1));
        }
        if root_differs || place(pid, "cwd") != place(copy, "cwd") {
            estate.directory = Some((open("cwd")?, -1));
        }
        for (kind, flag) in NAMESPACES {
            if namespace(pid, kind) != namespace(copy, kind) {
                let file = open(&format!("ns/{kind}"))?;
                estate.namespaces.push((file, flag, -1));
            }
        }
        estate.locks = Lock::of(pid)?;
        Ok(estate)
    }

    /// Whether a process leaves more than `transfer` knows of.
    pub(super) fn has_estate(&self, pair: usize) -> bool {
        let Pair {
            leader,
            follower,
            estate_changed,
            ..
        } = &self.pairs[pair];
        self.tree.is_some()
            || *estate_changed
            || !Identity::is_same(leader.pid, follower.pid)
            || self
                .held_locks
                .map_or_else(|| Lock::any(leader.pid), |held| held.any)
    }

    /// Gives the copy a way to the places of an estate, under numbers that the leader's process does not use.
    /// They are added to those that are `given`.
    ///
    /// # Errors
    /// When there is no room in its table.
    pub(super) fn give_places(
        &self,
        pair: usize,
        estate: &mut Estate,
        through: &Arrival,
        given: &mut Vec<i32>,
    ) -> std::result::Result<(), Stop> {
        let mut next = parking_number(self.pairs[pair].follower.pid);
        let Estate {
            root,
            directory,
            namespaces,
            ..
        } = estate;
        let places = root
            .iter_mut()
            .chain(directory)
            .map(|(file, at)| (file, at));
        let namespaces = namespaces.iter_mut().map(|(file, _, at)| (file, at));
        for (file, at) in places.chain(namespaces) {
            while next > 0 && given.contains(&next) {
                next -= 1;
            }
            self.listener
                .install_fd(through.id, file.as_fd(), next, true)
                .map_err(|e| {
                    Stop::roll_back(format!(
                        "giving descriptor {next} to process {} at promotion: {e}",
                        self.pairs[pair].follower.pid
                    ))
                })?;
            *at = next;
            given.push(next);
        }
        Ok(())
    }

    /// Makes the stopped process of the follower's tree, all of whose threads are given, the main thread first, what
    /// its counterpart is in the eyes of others. It loses its privileges by that.
    ///
    /// # Errors
    /// When it refuses a call, or is in another session or process group than it was to be.
    pub(super) fn give_estate(
        &self,
        pair: usize,
        threads: &mut [Stopped],
        estate: &Estate,
    ) -> std::result::Result<(), Stop> {
        let Pair {
            leader,
            follower,
            vdso,
            ..
        } = &self.pairs[pair];
        self.check_groups(pair)?;
        let plain = Plain { vdso };
        for (_, flag, at) in &estate.namespaces {
            let all: &mut [Stopped] = threads;
            for thread in &mut *all {
                let args = [*at as u64, *flag as u64, 0, 0, 0, 0];
                plain.call_ok(thread, "setns", number("setns"), &args)?;
            }
            let args = [*at as u64, 0, 0, 0, 0, 0];
            plain.call_ok(&mut all[0], "close", number("close"), &args)?;
        }
        // From outside, as long as it has our user.
        limits::copy(leader.pid, follower.pid).map_err(|e| {
            Stop::roll_back(format!(
                "setting the resource limits of process {} at promotion: {e}",
                follower.pid
            ))
        })?;
        let places = Places {
            root: estate.root.as_ref().map(|(_, at)| *at),
            directory: estate.directory.as_ref().map(|(_, at)| *at),
        };
        match &estate.identity {
            Some(identity) => identity.give(threads, vdso, places)?,
            None if places.root.is_none() && places.directory.is_none() => {}
            None => {
                return Err(TraceeError::Unsuitable(format!(
                    "process {} dies and cannot be asked who it is",
                    leader.pid
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Whether the copy of a child is in the copies of the sessions and groups that the child is in. Those that
    /// the root is in lie outside of the tree.
    fn check_groups(&self, pair: usize) -> std::result::Result<(), Stop> {
        if pair == ROOT {
            return Ok(());
        }
        let root = session_and_group(self.pairs.root().leader.pid);
        let (leader, follower) = (self.pairs[pair].leader.pid, self.pairs[pair].follower.pid);
        let pairs = (session_and_group(leader), session_and_group(follower), root);
        let (Some(theirs), Some(own), Some(root)) = pairs else {
            return Err(Stop::roll_back(format!("process {leader} is gone")));
        };
        for (what, theirs, own, of_root) in [
            ("session", theirs.0, own.0, root.0),
            ("process group", theirs.1, own.1, root.1),
        ] {
            let of_tree = self
                .pairs
                .iter()
                .filter(|pair| pair.leader.pid == theirs)
                .last();
            if let Some(of_tree) = of_tree
                && theirs != of_root
                && of_tree.follower.pid != own
            {
                return Err(Stop::roll_back(format!(
                    "the copy {follower} of process {leader} is in {what} {own} and was to be in {}",
                    of_tree.follower.pid
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_locks_are_told_from_others() {
        let line = "\t1: POSIX  ADVISORY  WRITE 1234 00:2a:5678 10 19";
        let lock = Lock::parse(7, line).expect("one");
        let wanted = Lock {
            fd: 7,
            exclusive: true,
            start: 10,
            length: 10,
        };
        assert_eq!(lock, wanted);
        let line = "\t1: POSIX  ADVISORY  READ 1234 00:2a:5678 0 EOF";
        assert_eq!(Lock::parse(7, line).expect("one").length, 0);
        for other in ["FLOCK", "OFDLCK", "LEASE"] {
            let line = format!("\t1: {other}  ADVISORY  WRITE 1234 00:2a:5678 0 EOF");
            assert_eq!(Lock::parse(7, &line), None);
        }
    }

    #[test]
    fn who_waits_for_a_lock_is_found() {
        let all = "1: POSIX  ADVISORY  WRITE 12 00:2a:5678 0 EOF\n\
                   1: -> POSIX  ADVISORY  WRITE 34 00:2a:5678 0 EOF\n\
                   2: FLOCK  ADVISORY  WRITE 56 00:2a:5679 0 EOF\n\
                   2: -> FLOCK  ADVISORY  WRITE 12 00:2a:5679 0 EOF\n";
        let held = |any, waiter| HeldLocks { any, waiter };
        assert_eq!(HeldLocks::parse(all, 12), held(true, Some(34)));
        assert_eq!(HeldLocks::parse(all, 34), held(false, None));
        assert_eq!(HeldLocks::parse(all, 56), held(false, None));
    }

    #[test]
    fn the_locks_of_a_process_are_found() {
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().expect("a file");
        let fd = file.as_raw_fd();
        let lock = nix::libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 3,
            l_len: 4,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&lock)).expect("locked");
        let found = Lock::of(std::process::id() as i32).expect("readable");
        let own: Vec<&Lock> = found.iter().filter(|lock| lock.fd == fd).collect();
        assert_eq!(own.len(), 1);
        assert_eq!(
            (own[0].start, own[0].length, own[0].exclusive),
            (3, 4, true)
        );
    }
}
