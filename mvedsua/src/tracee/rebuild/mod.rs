//! A descendant of the leader, built again as a child of its parent's copy.
//!
//! A copy that the descendant made of itself would be nobody's child: its parent's copy could never wait for
//! it. So the parent's copy forks, and the new process is given what the original has: in the common
//! pause [`Original::read`] takes the original's memory and signal handlers, and [`rebuild`] gives
//! them to the new process while the leader serves again. What makes up its identity in the eyes of others
//! (users, capabilities, root ...) it gets only when it is promoted ([`super::identity`]): until then it makes no
//! call by itself and needs the privileges of the root's copy.

mod areas;
mod files;
mod groups;
mod handlers;
mod layout;
mod memory;

use self::areas::Area;
use self::groups::Groups;
use self::handlers::Handlers;
use self::layout::Layout;
use self::memory::Pages;
use super::context::Context;
use super::inject::{Guarded, Plain};
use super::pid_namespace::PidNamespace;
use super::snapshot::{self, Captured, FOLLOWER_OPTIONS};
use super::stub::Vdso;
use super::thread::{Running, Stopped};
use super::{Naming, Result, TraceeError, inspect};
use crate::sys::pid_namespace::{CLONE_ARGS_BYTES, clone_args};
use crate::sys::ptrace::{self, Wait};
use crate::sys::{memory as other_memory, pidfd};

/// With these options a process of a tree is rebuilt and follows: its children are traced, too.
const OPTIONS: u32 =
    FOLLOWER_OPTIONS | ptrace::O_TRACEFORK | ptrace::O_TRACEVFORK | ptrace::O_SUSPEND_SECCOMP;

/// A stopped process as it has to be built again.
#[derive(Debug)]
pub struct Original {
    pid: i32,
    /// In its pid namespaces, from the agent's on.
    ids: Vec<i32>,
    /// The signal that its parent gets at its end.
    exit_signal: i32,
    groups: Groups,
    layout: Layout,
    /// Where its heap ends, to the byte.
    heap_end: u64,
    handlers: Handlers,
    areas: Vec<Area>,
    pages: Pages,
}

impl Original {
    /// Reads a process whose threads, all of them stopped, are in `captured`; it must be called after
    /// [`snapshot::capture`], before they go on. The main thread asks a few questions for it.
    ///
    /// # Errors
    /// When there is something about it that cannot be built again, with the reason; its threads are where
    /// they were.
    pub fn read(pid: i32, captured: &mut [Captured], vdso: &Vdso) -> Result<Self> {
        let main = captured
            .iter_mut()
            .find(|captured| captured.context.tid == pid)
            .ok_or_else(|| {
                TraceeError::Unsuitable(format!("the main thread of process {pid} has ended"))
            })?;
        let stat = layout::stat(pid)?;
        let areas = areas::of(pid)?;
        areas::check(pid, &areas)?;
        // The typed handle goes through the calls and comes back for the same thread.
        let taken = std::mem::replace(&mut main.thread, Running::born(pid).reported());
        let mut guarded = Guarded::begin(taken, &main.context, vdso)?;
        let nr = mvedsua_common::table::number;
        let heap_end = guarded.call("brk", nr("brk"), &[0; 6])?;
        let handlers = Handlers::ask(pid, &mut guarded)?;
        main.thread = guarded.end()?;
        // Last: the questions wrote something below the stack pointer.
        let pages = Pages::read(pid, &areas)?;
        Ok(Self {
            pid,
            ids: inspect::ids(pid),
            exit_signal: stat.exit_signal(),
            groups: Groups::of(&stat, pid),
            layout: Layout::of(pid, &stat)?,
            heap_end,
            handlers,
            areas,
            pages,
        })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// How much of its memory was read, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.bytes()
    }
}

/// One descendant to build.
#[derive(Debug)]
pub struct Member<'a> {
    /// What it is to be.
    pub original: &'a Original,
    /// Its threads.
    pub contexts: &'a [Context],
    /// Index of its parent among the members; `None`: the root.
    pub parent: Option<usize>,
}

/// A descendant that was built: stopped, its filter (if it inherited one) suspended.
#[derive(Debug)]
pub struct Rebuilt {
    /// Process id of the original.
    pub original: i32,
    /// Process id of the copy.
    pub pid: i32,
    /// Pairs of (original's thread id, copy's thread), the main thread first.
    pub threads: Vec<(i32, Stopped)>,
}

/// Builds the descendants of the process `root`, parents before their children in `members`, below its copy in
/// `namespace`, whose main thread is `copy`. Sessions and process groups within the tree are
/// made as they are, also of the root's copy itself.
///
/// # Errors
/// When one cannot be built, or is not what it was to be in the end. All that were built are gone then.
pub fn rebuild(
    root: i32,
    copy: &mut Stopped,
    members: &[Member<'_>],
    vdso: &Vdso,
    namespace: &mut PidNamespace,
) -> Result<Vec<Rebuilt>> {
    let mut made = Vec::with_capacity(members.len());
    let built = build(root, copy, members, vdso, namespace, &mut made);
    if built.is_err() {
        for pid in made {
            discard(pid);
        }
    }
    built
}

fn build(
    root: i32,
    copy: &mut Stopped,
    members: &[Member<'_>],
    vdso: &Vdso,
    namespace: &mut PidNamespace,
    made: &mut Vec<i32>,
) -> Result<Vec<Rebuilt>> {
    copy.set_options(OPTIONS)?;
    let plain = Plain { vdso };
    let root_layout = Layout::of(root, &layout::stat(root)?)?;
    let levels = inspect::ids(root).len();
    let deeper = inspect::ids(copy.tid()).len().saturating_sub(levels);
    groups::join_as_root(root, copy, plain)?;
    let mut threads: Vec<Stopped> = Vec::with_capacity(members.len());
    for member in members {
        member.original.check_against(&root_layout, root)?;
        let parent = match member.parent {
            Some(parent) => &mut threads[parent],
            None => &mut *copy,
        };
        let mut child = fork(parent, member.original, levels, deeper, plain, made)?;
        let parent = match member.parent {
            Some(parent) => members[parent].original.groups,
            None => Groups::of(&layout::stat(root)?, root),
        };
        groups::join(&member.original.groups, &parent, levels, &mut child, plain)?;
        threads.push(child);
    }
    let mut all = vec![(root, copy.tid())];
    all.extend(
        members
            .iter()
            .map(|m| m.original.pid)
            .zip(made.iter().copied()),
    );
    for member in members {
        groups::verify(&member.original.groups, &all)?;
    }
    let mut rebuilt = Vec::with_capacity(members.len());
    for (member, child) in members.iter().zip(threads) {
        let original = member.original;
        let (child, pid) = (original.fill(child, plain)?, original.pid);
        let copy = child.tid();
        if original.ids.len() > levels && member.contexts.len() > 1 {
            return Err(TraceeError::Unsuitable(format!(
                "process {pid} is in a pid namespace of its own and has several threads"
            )));
        }
        let threads = snapshot::populate(pid, child, member.contexts, vdso, Some(namespace))?;
        for (_, thread) in &threads {
            thread.set_options(OPTIONS)?;
        }
        rebuilt.push(Rebuilt {
            original: pid,
            pid: copy,
            threads,
        });
    }
    Ok(rebuilt)
}

/// Kills a process that was built, and waits for its end.
fn discard(pid: i32) {
    let mut threads = inspect::threads(pid).unwrap_or_default();
    if pidfd::kill(pid).is_err() {
        return;
    }
    while let Some(tid) = threads.pop() {
        loop {
            match ptrace::wait(tid, true) {
                Ok(Some((_, Wait::Exited(_) | Wait::Killed(_)))) | Ok(None) | Err(_) => break,
                // The stop at its exit: on with it.
                Ok(Some(_)) => {
                    let _ = ptrace::resume(tid, 0);
                }
            }
        }
    }
}

/// Below the stack pointer of a follower's stopped thread there is room.
fn scratch(thread: &Stopped) -> Result<u64> {
    Ok((thread.registers()?.rsp - 8192) & !63)
}

/// Makes a child of a copy, with the ids that the original has from the `levels`th namespace on. The copies are so many
/// namespaces `deeper` than the originals.
fn fork(
    parent: &mut Stopped,
    original: &Original,
    levels: usize,
    deeper: usize,
    plain: Plain<'_>,
    made: &mut Vec<i32>,
) -> Result<Stopped> {
    let parent_tid = parent.tid();
    let parent_levels = inspect::ids(parent_tid).len().saturating_sub(deeper);
    let ids = &original.ids[levels - 1..];
    let flags = match original.ids.len().saturating_sub(parent_levels) {
        0 => 0,
        1 if ids.last() == Some(&1) => libc::CLONE_NEWPID,
        _ => {
            return Err(TraceeError::Unsuitable(format!(
                "process {} is in a pid namespace that is not its parent's, and not the first process there",
                original.pid
            )));
        }
    };
    let at = scratch(parent)?;
    let innermost_first: Vec<u8> = ids.iter().rev().flat_map(|id| id.to_le_bytes()).collect();
    let args = clone_args(flags as u64, original.exit_signal, at + 128, ids.len());
    other_memory::write(parent_tid, at, &args).named("write a follower's stack", parent_tid)?;
    other_memory::write(parent_tid, at + 128, &innermost_first)
        .named("write a follower's stack", parent_tid)?;
    let before = parent.registers()?;
    let nr = mvedsua_common::table::number("clone3");
    let args = [at, CLONE_ARGS_BYTES as u64, 0, 0, 0, 0];
    let mut born = None;
    let result = plain.call_with(parent, "clone3", nr, &args, &mut |tid| {
        born = Some(tid);
        Ok(())
    })?;
    let Some(pid) = born else {
        let source = std::io::Error::from_raw_os_error(-result as i32);
        return Err(TraceeError::Injected {
            call: "clone3",
            tid: parent_tid,
            source,
        });
    };
    made.push(pid);
    let (child, _) =
        Running::born(pid).expect("stop at its birth", |wait| wait == Wait::Interrupted)?;
    let mut regs = before;
    regs.orig_rax = u64::MAX;
    child.set_registers(&regs)?;
    let got = inspect::ids(pid);
    if !got.ends_with(ids) {
        return Err(TraceeError::Unsuitable(format!(
            "process {pid} has the ids {got:?} in its pid namespaces and was to have {ids:?}"
        )));
    }
    Ok(child)
}

/// Whether the process `pid` is what forks alone have made of `root`.
///
/// # Errors
/// When it has executed a program since, or is gone.
pub fn check_layout(pid: i32, root: i32) -> Result<()> {
    let layout = Layout::of(root, &layout::stat(root)?)?;
    same_layout(pid, &Layout::of(pid, &layout::stat(pid)?)?, &layout, root)
}

fn same_layout(pid: i32, layout: &Layout, root: &Layout, root_pid: i32) -> Result<()> {
    match layout.differs_from(root) {
        None => Ok(()),
        // Most often it ends soon.
        Some(what) => Err(TraceeError::Passing(format!(
            "process {pid} has another {what} than process {root_pid}: it runs another program, or was started \
             anew; such children cannot be taken with their parent"
        ))),
    }
}

impl Original {
    /// Whether a fork of the root's copy can become this at all.
    fn check_against(&self, root: &Layout, root_pid: i32) -> Result<()> {
        same_layout(self.pid, &self.layout, root, root_pid)
    }

    /// Gives a fresh fork the memory and the handlers of the original.
    fn fill(&self, mut child: Stopped, plain: Plain<'_>) -> Result<Stopped> {
        let pid = child.tid();
        forget_rseq(&mut child, plain)?;
        self.handlers.give(&mut child, plain)?;
        memory::arrange(self, &mut child, plain)?;
        memory::write_pages(&self.areas, &self.pages, &mut child, plain)?;
        memory::verify(&self.areas, &self.pages, pid).map_err(|what| {
            TraceeError::Unsuitable(format!(
                "process {pid} did not become a copy of process {}: {what}",
                self.pid
            ))
        })?;
        Ok(child)
    }
}

/// A fork inherits its parent's registration, in the parent's place.
fn forget_rseq(child: &mut Stopped, plain: Plain<'_>) -> Result<()> {
    /// `RSEQ_FLAG_UNREGISTER`.
    const UNREGISTER: u64 = 1;
    let tid = child.tid();
    let rseq = ptrace::rseq_configuration(tid).named("read the rseq registration", tid)?;
    if rseq.abi_pointer == 0 {
        return Ok(());
    }
    let args = [
        rseq.abi_pointer,
        u64::from(rseq.abi_size),
        UNREGISTER,
        u64::from(rseq.signature),
        0,
        0,
    ];
    let nr = mvedsua_common::table::number("rseq");
    plain.call_ok(child, "rseq", nr, &args).map(drop)
}
