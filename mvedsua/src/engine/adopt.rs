//! What a successor of a killed agent finds, and how it takes it over.
//!
//! A leader in an update is traced without `O_EXITKILL`: it runs on, with patched clock functions and
//! the follower gone. A promoted process had its filter suspended by its tracer; without one its
//! calls are filtered again and *wait*, since it holds its own listener. Its new tracer fetches that
//! listener, suspends the filter, and lets what waits go.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::home::{Home, Kept};
use super::rollback::{Family, free_unknown};
use super::side::Side;
use super::snapshot::KEPT_OPTIONS;
use super::unit;
use crate::sys::pidfd;
use crate::sys::seccomp::Listener;
use crate::tracee::pid_namespace::PidNamespace;
use crate::tracee::snapshot::{LEADER_OPTIONS, TREE_OPTIONS};
use crate::tracee::standstill::seize_running;
use crate::tracee::stub::Vdso;
use crate::tracee::{Result, TraceeError, inspect, rebuild};

/// True if the process was promoted by an agent: it holds the listener of its own filter.
pub(super) fn is_promoted(pid: i32) -> bool {
    own_listener(pid).is_some()
}

/// The number under which a promoted process holds the listener of its own filter. It is looked for, since
/// the limit that the number was chosen by may have changed.
pub(super) fn own_listener(pid: i32) -> Option<i32> {
    if inspect::status_field(pid, pid, "Seccomp").as_deref() != Some("2") {
        return None;
    }
    let is_listener = |fd: &i32| {
        std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))
            .is_ok_and(|target| target.to_string_lossy() == "anon_inode:seccomp notify")
    };
    let mut numbers = inspect::descriptors(pid).ok()?;
    numbers.reverse();
    numbers.into_iter().map(|(fd, _)| fd).find(is_listener)
}

/// Kills a copy, with its tree, that a killed agent was about to promote. It stands still in its filter, and
/// the process `leader` that it was to replace serves on.
pub fn discard_copy(pid: i32, leader: i32) {
    if !is_promoted(pid) || !unit::give_back(pid, leader) {
        return;
    }
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    // A tree's copy lives in a namespace of its own.
    if namespace(pid) != namespace(leader)
        && let Ok(namespace) = PidNamespace::adopt(Path::new("/proc/self/exe"), pid)
    {
        let _ = namespace.kill();
    }
    // It may have ended by itself since.
    let _ = pidfd::kill(pid);
}

/// Something of a killed agent's is in its vDSO.
fn is_patched(pid: i32, vdso: &Vdso) -> bool {
    vdso.is_pristine(pid).is_ok_and(|pristine| !pristine)
}

/// It has its parent's memory, and with it the vDSO (`vfork`). The parent cannot stop before it goes on.
fn is_borrower(pid: i32) -> bool {
    inspect::parent(pid).is_some_and(|parent| pidfd::share_memory(parent, pid))
}

/// Makes those processes of a service go on that a killed agent left in an update, and stopped.
pub(super) fn continue_all_left(root: i32) {
    let is_stopped = |pid: i32| {
        inspect::status_field(pid, pid, "State").is_some_and(|state| state.starts_with('T'))
    };
    let mut tree = inspect::descendants(root);
    tree.push(root);
    tree.retain(|pid| is_stopped(*pid));
    for pid in tree {
        if Vdso::of(pid).is_ok_and(|vdso| vdso.is_led(pid)) {
            continue_left(pid);
        }
    }
}

/// Makes a process go on that a killed agent left in an update, and stopped: by its recorder, most likely, and that
/// agent's guard, which does the same, sees only those that nobody traces, and may come too late.
pub(super) fn continue_left(pid: i32) {
    tracing::warn!(pid, "a killed agent left this process stopped; it goes on");
    // One that is gone needs it no more.
    let _ = pidfd::open(pid).and_then(|process| pidfd::signal(process.as_fd(), libc::SIGCONT));
}

/// How the process `pid` is held from now on. Repairs what a killed agent left.
///
/// # Errors
/// When the process cannot be traced.
pub(super) fn home_of(pid: i32) -> Result<Home> {
    if is_promoted(pid) {
        return adopt(pid).map(Home::Kept);
    }
    let mut home = Home::Bare(pid);
    let vdso = Vdso::of(pid)?;
    let sides = seize_patched(pid, &vdso)?;
    if !sides.is_empty() {
        let pids: Vec<i32> = sides.iter().map(|side| side.pid).collect();
        tracing::warn!(
            ?pids,
            "restoring the clock functions that a killed agent left patched"
        );
        Family::of(sides, true).free(&vdso, &mut home, true);
    }
    Ok(home)
}

/// Seizes those processes of a tree whose clock functions a killed agent left patched: the root, whose children
/// it followed, and their forks.
fn seize_patched(root: i32, vdso: &Vdso) -> Result<Vec<Side>> {
    let mut sides = Vec::new();
    let mut processes = vec![root];
    while let Some(pid) = processes.pop() {
        // What runs another program has another vDSO.
        if !is_borrower(pid) && rebuild::check_layout(pid, root).is_ok() && is_patched(pid, vdso) {
            match seize(pid, LEADER_OPTIONS | TREE_OPTIONS) {
                Ok(mut side) => {
                    side.vdso = Some(Box::new(vdso.clone()));
                    sides.push(side);
                }
                Err(error) if pid != root => {
                    tracing::warn!(pid, %error, "a child process keeps its clock functions patched");
                    free_unknown(pid);
                }
                Err(error) => return Err(error),
            }
        }
        // Forks that one of ours makes from now on are ours, and reported.
        processes.extend(inspect::children(pid));
    }
    Ok(sides)
}

fn adopt(pid: i32) -> Result<Kept> {
    let kernel = |what: &'static str| {
        move |source| TraceeError::Kernel {
            what,
            tid: pid,
            source,
        }
    };
    let process = pidfd::open(pid).map_err(kernel("open a pidfd"))?;
    let parked = own_listener(pid)
        .ok_or_else(|| TraceeError::Unsuitable(format!("process {pid} holds no listener")))?;
    let listener =
        pidfd::duplicate(process.as_fd(), parked).map_err(kernel("fetch the listener"))?;
    let listener = Arc::new(Listener::new(listener).map_err(kernel("set up the listener"))?);
    let vdso = Vdso::of(pid)?;
    // Seizing suspends the filter at once; a thread that waits in it is not stopped by that.
    let mut side = seize(pid, KEPT_OPTIONS)?;
    let mut sides = Vec::new();
    for child in descendants(pid) {
        match seize(child, KEPT_OPTIONS) {
            // What runs another program has another vDSO.
            Ok(family)
                if !is_borrower(child)
                    && rebuild::check_layout(child, pid).is_ok()
                    && is_patched(child, &vdso) =>
            {
                sides.push(family);
            }
            Ok(family) => {
                for tid in family.tids() {
                    side.wards.insert(tid);
                }
            }
            Err(_) if inspect::is_dying(child) => {}
            Err(error) => return Err(error),
        }
    }
    release_waiting(&listener);
    let mut home = Home::Kept(Kept::new(Side::new(pid), listener));
    if sides.is_empty() && !is_patched(pid, &vdso) {
        if let Home::Kept(kept) = &mut home {
            kept.side = side;
        }
    } else {
        sides.insert(0, side);
        for side in &mut sides {
            side.vdso = Some(Box::new(vdso.clone()));
        }
        Family::of(sides, true).free(&vdso, &mut home, true);
    }
    match home {
        Home::Kept(kept) => Ok(kept),
        Home::Bare(_) => Err(TraceeError::Unsuitable(format!(
            "process {pid} is not a promoted one"
        ))),
    }
}

/// Seizes all threads of a process, which go on running.
fn seize(pid: i32, options: u32) -> Result<Side> {
    let mut side = Side::new(pid);
    for thread in seize_running(pid, options)? {
        side.add_running(thread);
    }
    Ok(side)
}

/// Child processes inherited the filter: they need its suspension too.
fn descendants(pid: i32) -> Vec<i32> {
    let mut all = inspect::descendants(pid);
    all.retain(|pid| inspect::status_field(*pid, *pid, "Seccomp").as_deref() == Some("2"));
    all
}

/// Lets every call go that came to the filter while nobody answered it.
fn release_waiting(listener: &Listener) {
    loop {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let waiting = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
            && fds[0]
                .revents()
                .is_some_and(|revents| revents.contains(PollFlags::POLLIN));
        if !waiting {
            return;
        }
        if let Ok(notification) = listener.receive() {
            // A thread that died meanwhile needs no answer.
            let _ = listener.let_run(notification.id);
        }
    }
}
