//! The double clone into a pid namespace.

use mvedsua::sys::ptrace;
use mvedsua::tracee::inspect;
use mvedsua::tracee::pid_namespace::PidNamespace;
use mvedsua::tracee::snapshot::{self, LEADER_OPTIONS};
use mvedsua::tracee::standstill;
use mvedsua::tracee::stub::Vdso;
use mvedsua::tracee::thread::{Running, Stopped};

use crate::family::{Family, wait_until};
use crate::program;

/// Copies process `pid` into `namespace`, with all threads; the leader runs again, its vDSO restored, and
/// untraced. The copy's threads stand, main thread first.
fn copy(pid: i32, namespace: &mut PidNamespace) -> Vec<(i32, Stopped)> {
    let vdso = Vdso::of(pid).expect("a vDSO");
    vdso.write_stub(pid).expect("it lives");
    let (mut threads, _) =
        standstill::seize_all(pid, LEADER_OPTIONS, standstill::Held::Bare).expect("stopped");
    snapshot::leave_clocks(pid, &mut threads, &vdso).expect("no handler");
    let capture = snapshot::capture(pid, threads, &vdso, true).expect("captured");
    let (mut captured, slots) = (capture.threads, capture.slots);
    let mut contexts: Vec<_> = captured.iter().map(|c| c.context.clone()).collect();
    let (mut others, mut cloner) = (Vec::new(), 0);
    let copied = snapshot::take(
        pid,
        &mut captured,
        &vdso,
        slots,
        Some(namespace),
        &mut |made, rest| {
            cloner = made.tid();
            others.push(made);
            others.extend(
                rest.into_iter()
                    .map(|other| other.resume(0).expect("it lives")),
            );
        },
    )
    .expect("copied");
    snapshot::learn(pid, &mut contexts, cloner, slots).expect("answered");
    free(pid, others, &vdso);
    snapshot::populate(pid, copied.follower, &contexts, &vdso, Some(namespace)).expect("populated")
}

/// Lets the leader go, as soon as its threads have come home from the stub.
fn free(pid: i32, threads: Vec<Running>, vdso: &Vdso) {
    let mut stopped = Vec::new();
    for mut thread in threads {
        stopped.push(loop {
            thread.interrupt().expect("it lives");
            let (stopped, wait) = thread.wait().expect("waited").expect("it lives");
            // The event of its clone may not have been asked for.
            let home = !vdso.contains(stopped.registers().expect("it lives").rip);
            if home && wait == ptrace::Wait::Interrupted {
                break stopped;
            }
            thread = stopped.resume(0).expect("it lives");
        });
    }
    vdso.restore(pid).expect("it lives");
    standstill::let_go(pid, stopped, standstill::Held::Bare);
}

/// Lets a copy run by itself.
fn let_go(threads: Vec<(i32, Stopped)>) {
    let pid = threads[0].1.tid();
    Vdso::of(pid)
        .expect("known")
        .restore(pid)
        .expect("it lives");
    for (_, thread) in threads {
        thread.set_options(0).expect("it lives");
        thread.detach(0).expect("it lives");
    }
}

fn end_of(ids: &[i32]) -> i32 {
    *ids.last().expect("it lives")
}

#[test]
fn the_copy_has_the_leaders_id_and_lives_until_its_end() {
    let mut family = Family::start(&[]);
    let leader = family.parent();
    let before = family.ask("state");
    let mut namespace = PidNamespace::create(program(), leader).expect("a namespace");
    let init = namespace.init_pid();
    let threads = copy(leader, &mut namespace);
    let copy = threads[0].1.tid();
    assert_ne!(copy, leader);
    assert_eq!(end_of(&inspect::ids(copy)), end_of(&inspect::ids(leader)));
    assert_eq!(family.ask("state"), before, "the leader goes on");
    assert!(inspect::children(leader).is_empty());

    family.kill();
    namespace.set_next(4321).expect("chosen");
    let_go(threads);
    // The pipes are the same, and so is the process by its own account, but for its parent (outside).
    let after = family.ask("state");
    let parent = format!("ppid {}", std::process::id());
    assert_eq!(
        after,
        before
            .replace(&parent, "ppid 0")
            .replace(&sid_of(&before), "sid 0 pgrp 0")
    );
    assert_eq!(family.ask("fork"), "forked 4321");
    assert!(family.ask("wait").starts_with("waited 4321 status 768"));
    drop(namespace);
    assert_eq!(family.ask("fork"), "forked 4322", "it survives the handle");
    family.tell("exit 0");
    wait_until("the init ends with the last process", || {
        inspect::status_field(init, init, "State").is_none_or(|s| s.starts_with(['Z', 'X']))
    });
}

/// Session and group, which lie outside of the namespace.
fn sid_of(state: &str) -> String {
    let from = state.find("sid").expect("there");
    let to = state.find(" uid").expect("there");
    state[from..to].to_owned()
}

#[test]
fn threads_have_their_ids() {
    let mut family = Family::start(&["threads"]);
    let leader = family.pids[1];
    let mut namespace = PidNamespace::create(program(), leader).expect("a namespace");
    let threads = copy(leader, &mut namespace);
    assert_eq!(threads.len(), 3);
    for (original, thread) in &threads {
        assert_eq!(
            end_of(&inspect::ids(*original)),
            end_of(&inspect::ids(thread.tid()))
        );
    }
    let ids: Vec<i32> = threads[1..].iter().map(|(original, _)| *original).collect();
    family.kill();
    let pid = threads[0].1.tid();
    let_go(threads);
    // Nobody holds the writing end of its orders any more but itself.
    let _ = (ids, pid);
    namespace.kill().expect("it lives");
    wait_until("the copy ends", || inspect::ids(pid).is_empty());
}

/// The variable that makes the test below its own agent.
const AGENT_OF: &str = "MVEDSUA_TEST_AGENT_OF";

#[test]
fn an_agent_killed_at_any_step_leaves_the_leader_alone() {
    if let Ok(pid) = std::env::var(AGENT_OF) {
        mvedsua::sys::mortal::arm();
        let pid = pid.parse().expect("a process id");
        let mut namespace = PidNamespace::create(program(), pid).expect("a namespace");
        // It dies with the agent at the latest.
        copy(pid, &mut namespace);
        return;
    }
    let test = "clone::an_agent_killed_at_any_step_leaves_the_leader_alone";
    let mut deaths = 0;
    // Every third one: several in a row are about another thread each.
    for step in (1..).step_by(3) {
        let mut family = Family::start(&["threads"]);
        let leader = family.pids[1];
        let before = family.ask("to 0 state");
        let agent = std::process::Command::new(std::env::current_exe().expect("known"))
            .args(["--exact", test, "--nocapture"])
            .env(AGENT_OF, leader.to_string())
            .env(mvedsua::sys::mortal::DIE_AT_STEP, step.to_string())
            .output()
            .expect("it starts");
        let done = agent.status.success();
        deaths += i32::from(!done);
        use std::os::unix::process::ExitStatusExt as _;
        let killed = agent.status.signal() == Some(libc::SIGKILL);
        let told = String::from_utf8_lossy(&agent.stdout);
        assert!(done || killed, "step {step}: {told}");
        wait_until("nobody but the family lives", || {
            inspect::children(leader).is_empty() && copies_of(leader).is_empty()
        });
        let name = std::fs::read_to_string(format!("/proc/{leader}/comm")).unwrap_or_default();
        assert_eq!(name, "family\n", "step {step}");
        assert_eq!(family.ask("to 0 state"), before, "step {step}");
        if done {
            break;
        }
    }
    assert!(deaths > 20, "only {deaths} steps");
}

/// Processes outside the leader that have its id in their own namespace, and have not ended (whenever init
/// may reap them).
fn copies_of(leader: i32) -> Vec<i32> {
    let own = end_of(&inspect::ids(leader));
    std::fs::read_dir("/proc")
        .expect("readable")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != leader && inspect::ids(*pid).last() == Some(&own))
        .filter(|pid| {
            inspect::status_field(*pid, *pid, "State").is_some_and(|s| !s.starts_with('Z'))
        })
        .collect()
}
