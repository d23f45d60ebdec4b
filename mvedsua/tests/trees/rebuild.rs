//! Descendants built again as children of their parents' copies.

use mvedsua::sys::ptrace;
use mvedsua::tracee::context::Context;
use mvedsua::tracee::inspect;
use mvedsua::tracee::pid_namespace::PidNamespace;
use mvedsua::tracee::rebuild::{self, Member, Original, Rebuilt};
use mvedsua::tracee::snapshot::{self, LEADER_OPTIONS};
use mvedsua::tracee::standstill;
use mvedsua::tracee::stub::Vdso;
use mvedsua::tracee::thread::Stopped;

use crate::family::Family;
use crate::program;

/// A stopped process of a family.
struct Part {
    pid: i32,
    parent: usize,
    captured: Vec<snapshot::Captured>,
    contexts: Vec<Context>,
    slots: Option<u64>,
    original: Option<Original>,
}

/// A copy of a whole family, all of it stopped; the originals are stopped, too, or killed.
pub struct Copies {
    namespace: PidNamespace,
    root: Vec<(i32, Stopped)>,
    pub rebuilt: Vec<Rebuilt>,
}

fn parent_of(pid: i32, all: &[i32]) -> usize {
    let parent = inspect::status_field(pid, pid, "PPid").and_then(|p| p.parse().ok());
    all.iter()
        .position(|pid| Some(*pid) == parent)
        .unwrap_or_default()
}

/// Copies all processes of a family, which is stopped in one moment. Afterwards it is killed.
pub fn copy(family: &mut Family) -> Result<Copies, String> {
    let pids = family.pids.clone();
    let root = pids[0];
    let told = |e: mvedsua::tracee::TraceeError| e.to_string();
    let vdso = Vdso::of(root).map_err(told)?;
    let mut namespace = PidNamespace::create(program(), root).expect("a namespace");
    let mut parts = Vec::new();
    for pid in &pids {
        let vdso = Vdso::of(*pid).map_err(told)?;
        vdso.write_stub(*pid).map_err(told)?;
        let (mut threads, _) =
            standstill::seize_all(*pid, LEADER_OPTIONS, standstill::Held::Bare).map_err(told)?;
        snapshot::leave_clocks(*pid, &mut threads, &vdso).map_err(told)?;
        let capture = snapshot::capture(*pid, threads, &vdso, true).map_err(told)?;
        parts.push(Part {
            pid: *pid,
            parent: parent_of(*pid, &pids),
            contexts: capture.threads.iter().map(|c| c.context.clone()).collect(),
            captured: capture.threads,
            slots: capture.slots,
            original: None,
        });
    }
    for part in &mut parts[1..] {
        let vdso = Vdso::of(part.pid).map_err(told)?;
        part.original = Some(Original::read(part.pid, &mut part.captured, &vdso).map_err(told)?);
    }
    let first = &mut parts[0];
    let mut captured = std::mem::take(&mut first.captured);
    let copied = snapshot::take(
        root,
        &mut captured,
        &vdso,
        first.slots,
        Some(&namespace),
        &mut |_, _| {},
    )
    .map_err(told)?;
    for part in &mut parts[1..] {
        // The main thread was asked before.
        let mut captured = std::mem::take(&mut part.captured);
        captured.retain(|c| c.context.tid != part.pid);
        let vdso = Vdso::of(part.pid).map_err(told)?;
        for thread in snapshot::send_home(captured, &vdso, part.slots).map_err(told)? {
            thread.resume(0).map_err(told)?;
        }
        let slots = part.slots;
        snapshot::learn(part.pid, &mut part.contexts, part.pid, slots).map_err(told)?;
    }
    // Whatever happens to the originals from here on, the copies have all that they need.
    let mut threads = snapshot::populate(
        root,
        copied.follower,
        &parts[0].contexts,
        &vdso,
        Some(&mut namespace),
    )
    .map_err(told)?;
    let members: Vec<Member<'_>> = parts[1..]
        .iter()
        .map(|part| Member {
            original: part.original.as_ref().expect("read above"),
            contexts: &part.contexts,
            parent: part.parent.checked_sub(1),
        })
        .collect();
    let rebuilt = rebuild::rebuild(root, &mut threads[0].1, &members, &vdso, &mut namespace);
    drop(members);
    let rebuilt = match rebuilt {
        Ok(rebuilt) => rebuilt,
        Err(error) => {
            // Nothing of it is left, but for the root's copy.
            assert_eq!(inspect::children(threads[0].1.tid()), [] as [i32; 0]);
            namespace.kill().expect("it lives");
            return Err(error.to_string());
        }
    };
    Ok(Copies {
        namespace,
        root: threads,
        rebuilt,
    })
}

impl Copies {
    /// Kills the originals and lets the copies run in their place.
    pub fn let_go(self, family: &mut Family) -> PidNamespace {
        for pid in &family.pids {
            let _ = mvedsua::sys::pidfd::kill(*pid);
        }
        // They are this thread's tracees: it must hear of their end, and lets those go that stand at it.
        for pid in std::mem::take(&mut family.pids) {
            // The main thread's end is told last.
            for tid in inspect::threads(pid).unwrap_or_default().into_iter().rev() {
                while let Ok(Some((_, ptrace::Wait::Event(_)))) = ptrace::wait(tid, true) {
                    let _ = ptrace::resume(tid, 0);
                }
            }
        }
        let rest = self.rebuilt.into_iter().map(|rebuilt| rebuilt.threads);
        for threads in std::iter::once(self.root).chain(rest) {
            let pid = threads[0].1.tid();
            Vdso::of(pid)
                .expect("known")
                .restore(pid)
                .expect("it lives");
            for (_, thread) in threads {
                let mut regs = thread.registers().expect("it lives");
                regs.gs_base = 0;
                thread.set_registers(&regs).expect("it lives");
                thread.set_options(0).expect("it lives");
                thread.detach(0).expect("it lives");
            }
        }
        self.namespace
    }

    pub fn pid_of(&self, index: usize) -> i32 {
        match index {
            0 => self.root[0].1.tid(),
            _ => self.rebuilt[index - 1].pid,
        }
    }
}

/// What `state` says without what belongs to the identity that is given at a promotion only.
fn without_identity(state: &str) -> String {
    let mut words: Vec<&str> = state.split(' ').collect();
    for title in ["uid", "euid", "gid", "egid"] {
        let at = words.iter().position(|word| *word == title).expect("there");
        words.drain(at..at + 2);
    }
    words.join(" ")
}

/// The child's word is the original's; it ends as its parent's copy's child.
fn goes_on(kind: &str) {
    let mut family = Family::start(&[kind]);
    let before = family.ask("to 0 state");
    let copies = copy(&mut family).unwrap_or_else(|e| panic!("{kind}: {e}"));
    let (root, child) = (copies.pid_of(0), copies.pid_of(1));
    assert_eq!(inspect::children(root), [child]);
    let original = family.pids[1];
    let status = |pid, field| inspect::status_field(pid, pid, field);
    for field in ["SigCgt", "SigIgn", "SigBlk", "Name", "Threads"] {
        assert_eq!(
            status(child, field),
            status(original, field),
            "{kind}: {field}"
        );
    }
    assert_eq!(inspect::own_id(child), inspect::own_id(original));
    let namespace = copies.let_go(&mut family);
    let after = family.ask("to 0 state");
    assert_eq!(
        without_session(&without_identity(&after)),
        without_session(&without_identity(&before))
    );
    let own = inspect::ids(child);
    let id = own[own.len() - 1 - usize::from(kind == "newpid")];
    family.tell("to 0 exit 7");
    let waited = family.ask("wait");
    assert!(
        waited.starts_with(&format!("waited {id} status 1792 chld 1")),
        "{kind}: {waited}"
    );
    namespace.kill().expect("it lives");
}

/// Sessions and groups that lie outside of the tree are not visible in its namespace.
pub fn without_session(state: &str) -> String {
    let from = state.find(" sid").expect("there");
    let to = state.find(" sum").expect("there");
    format!("{}{}", &state[..from], &state[to..])
}

#[test]
fn a_grown_heap() {
    goes_on("heap");
}

#[test]
fn mappings_of_all_kinds() {
    goes_on("maps");
}

#[test]
fn a_library_that_was_loaded_since_the_fork() {
    goes_on("dlopen");
}

#[test]
fn a_deleted_file() {
    goes_on("deleted");
}

#[test]
fn whoever_changed_its_root_or_user_stays_privileged_while_it_follows() {
    for kind in ["chroot", "setuid", "caps"] {
        goes_on(kind);
    }
}

#[test]
fn namespaces_of_its_own() {
    for kind in ["newpid", "newnet", "newipc"] {
        goes_on(kind);
    }
}

#[test]
fn several_threads() {
    let mut family = Family::start(&["threads"]);
    let before = family.ask("to 0 thread");
    assert!(before.contains("own 100"), "{before}");
    let copies = copy(&mut family).expect("copied");
    for (original, thread) in &copies.rebuilt[0].threads {
        assert_eq!(inspect::own_id(*original), inspect::own_id(thread.tid()));
    }
    let namespace = copies.let_go(&mut family);
    let mut said: Vec<String> = (0..8).map(|_| family.ask("to 0 thread")).collect();
    said.sort();
    said.dedup();
    // Either of them may read first.
    for line in &said {
        assert!(
            line.ends_with("own 1001") || line.ends_with("own 1002"),
            "{line}"
        );
    }
    family.tell("to 0 exit 7");
    assert!(family.ask("wait").contains("status 1792"));
    namespace.kill().expect("it lives");
}

#[test]
fn signals_and_stacks() {
    for kind in ["handlers", "altstack"] {
        goes_on(kind);
    }
    let mut family = Family::start(&["altstack", "handlers"]);
    let namespace = copy(&mut family).expect("copied").let_go(&mut family);
    let on_stack = family.ask(&format!("to 0 raise {}", libc::SIGUSR2));
    assert!(on_stack.contains("signals 0 1 0"), "{on_stack}");
    let otherwise = family.ask(&format!("to 1 raise {}", libc::SIGUSR1));
    assert!(otherwise.contains("signals 100 0 0"), "{otherwise}");
    let ignored = family.ask(&format!("to 1 raise {}", libc::SIGUSR2));
    assert!(ignored.contains("signals 100 0 0"), "{ignored}");
    namespace.kill().expect("it lives");
}

#[test]
fn sessions_groups_and_grandchildren() {
    let mut family = Family::start(&["setsid", "group", "grand", "heap"]);
    let before: Vec<String> = (0..3)
        .map(|n| family.ask(&format!("to {n} state")))
        .collect();
    let heap = family.ask("to 3 state");
    let copies = copy(&mut family).expect("copied");
    let pids: Vec<i32> = (0..6).map(|n| copies.pid_of(n)).collect();
    assert_eq!(inspect::children(pids[0]), pids[1..5]);
    assert_eq!(inspect::children(pids[3]), pids[5..]);
    let namespace = copies.let_go(&mut family);
    let own = |state: &str| {
        // A group that is led from outside is 0 from inside.
        let words: Vec<&str> = state.split(' ').collect();
        let of =
            |title| words[words.iter().position(|w| *w == title).expect("there") + 1].to_owned();
        (of("pid"), of("sid"), of("pgrp"))
    };
    for (n, before) in before.iter().enumerate() {
        let after = family.ask(&format!("to {n} state"));
        let ((pid, sid, pgrp), was) = (own(&after), own(before));
        assert_eq!((&pid, &pgrp), (&was.0, &was.2));
        if n != 1 {
            assert_eq!(sid, was.1);
        }
    }
    assert_eq!(
        without_session(&family.ask("to 3 state")),
        without_session(&heap)
    );
    namespace.kill().expect("it lives");
}

#[test]
fn what_cannot_be_built_is_refused_with_the_reason() {
    for (kind, reason) in [
        ("locked", "locked memory"),
        ("exec", "it runs another program, or was started anew"),
    ] {
        let mut family = Family::start(&[kind]);
        let error = copy(&mut family).map(|_| ()).expect_err("refused");
        assert!(error.contains(reason), "{kind}: {error}");
    }
}
