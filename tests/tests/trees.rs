//! Servers with child processes that are followed: each child has a counterpart, and the tree is rolled
//! back as a whole.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::mvedsua::Status;
use mvedsua_tests::{Mvedsua, Need, Victim, can_run, process, wait_until};

const NEEDS: &[Need] = &[Need::Root, Need::Program("cc")];
const LIMIT: Duration = Duration::from_secs(60);

fn ensure_equal(status: &Status) -> Result<()> {
    ensure!(
        status.stage == "outdated-leader" && status.events.diverged == 0,
        "{status:?}\n{}",
        status
            .last_update
            .as_ref()
            .and_then(|update| update.report.clone())
            .unwrap_or_default()
    );
    Ok(())
}

/// Has it followed with its children for `rounds` rounds.
fn follow(mvedsua: &Mvedsua, victim: &Victim, name: &str, rounds: u64) -> Result<()> {
    mvedsua.update_identity(name, &[])?;
    victim.wait_rounds(rounds)?;
    ensure_equal(&caught_up(mvedsua, name)?)
}

/// The status once the follower, if there is one, has done all that is recorded now.
fn caught_up(mvedsua: &Mvedsua, name: &str) -> Result<Status> {
    let done = mvedsua.status(name)?.events.recorded;
    mvedsua.wait_matched(name, LIMIT, done)
}

/// No process of the program is traced or filtered.
fn all_bare(program: &Path) -> bool {
    process::with_program(program)
        .iter()
        .all(|pid| process::is_untraced(*pid) && process::is_unfiltered(*pid))
}

/// The follower makes children of its own, and after a rollback no process of the server is held any more.
fn rolled_back(name: &str, rounds: u64) -> Result<()> {
    let victim = Victim::start(name)?;
    let before = victim.footprint()?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_with_children(victim.pid(), name)?;
    follow(&mvedsua, &victim, name, rounds)?;
    let follower = mvedsua
        .status(name)?
        .follower
        .map_or(0, |follower| follower.pid);
    ensure!(
        wait_until(LIMIT, || !process::children(follower).is_empty()),
        "the follower makes no children"
    );
    mvedsua.rollback(name)?;
    ensure!(process::is_untraced(victim.pid()) && process::is_unfiltered(victim.pid()));
    let program = victim.dir().join(name);
    ensure!(
        wait_until(LIMIT, || all_bare(&program)),
        "some are still traced: {:?}",
        process::with_program(&program)
    );
    victim.wait_rounds(rounds)?;
    // How many children it has at a time is not the same in every round.
    ensure!(victim.footprint()?.vdso == before.vdso, "another vDSO");
    victim.end()
}

#[test]
fn a_tree_of_forks_is_followed_and_rolled_back() -> Result<()> {
    if !can_run("a_tree_of_forks_is_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    rolled_back("forks", 100)
}

/// Children that change their user, root and limits, live in namespaces of their own, get descriptors passed,
/// crash, and are waited for in a handler of `SIGCHLD`.
#[test]
fn sessions_of_all_kinds_are_followed_and_rolled_back() -> Result<()> {
    if !can_run("sessions_of_all_kinds_are_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    rolled_back("sessions", 60)
}

/// A child of the copy that ends where the leader's goes on ends the whole update, and nothing else.
#[test]
fn a_child_of_the_copy_that_is_killed_rolls_all_back() -> Result<()> {
    if !can_run("a_child_of_the_copy_that_is_killed_rolls_all_back", NEEDS) {
        return Ok(());
    }
    let victim = Victim::start("sessions")?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_with_children(victim.pid(), "sessions")?;
    follow(&mvedsua, &victim, "sessions", 30)?;
    let follower = mvedsua
        .status("sessions")?
        .follower
        .map_or(0, |follower| follower.pid);
    let killed = wait_until(LIMIT, || {
        let child = process::children(follower).first().copied();
        child.is_some_and(|pid| process::send(pid, process::Signal::SIGKILL).is_ok())
    });
    ensure!(killed, "the follower makes no children");
    let status = mvedsua.wait_for("sessions", LIMIT, |status| status.follower.is_none())?;
    let outcome = status.last_update.as_ref().map(|u| u.outcome.clone());
    ensure!(outcome.as_deref() == Some("rolled-back"), "{status:?}");
    victim.wait_rounds(30)?;
    victim.end()
}

/// The copies die with the agent; the server's tree goes on by itself, and can be updated again.
#[test]
fn a_tree_outlives_its_agent() -> Result<()> {
    if !can_run("a_tree_outlives_its_agent", NEEDS) {
        return Ok(());
    }
    let victim = Victim::start("sessions")?;
    let mut mvedsua = Mvedsua::start()?;
    mvedsua.attach_with_children(victim.pid(), "sessions")?;
    let program = victim.dir().join("sessions");
    for _ in 0..5 {
        follow(&mvedsua, &victim, "sessions", 20)?;
        mvedsua.kill_agent();
        victim.wait_rounds(50)?;
        // A copy would have another process than the victim's as its root.
        ensure!(wait_until(LIMIT, || all_bare(&program)), "a copy is left");
        mvedsua.start_agent()?;
        ensure!(mvedsua.status("sessions")?.follower.is_none());
    }
    victim.wait_rounds(20)?;
    victim.end()
}

/// Whatever its children are doing at that moment: being born, at work, ended but not waited for.
#[test]
fn a_busy_tree_is_promoted_at_any_moment() -> Result<()> {
    if !can_run("a_busy_tree_is_promoted_at_any_moment", NEEDS) {
        return Ok(());
    }
    let mut victim = Victim::start("offspring")?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(victim.pid(), "offspring")?;
    for _ in 0..10 {
        mvedsua.update_identity("offspring", &[])?;
        mvedsua.run(&["promote", "offspring", "--finalize"])?.ok()?;
        let status = mvedsua.status("offspring")?;
        victim.promoted(status.leader.pid)?;
        victim.wait_rounds(10)?;
    }
    victim.end()
}

/// Promoted with a way back at any moment of a busy tree, followed by the old version, and gone back to.
fn leads_and_goes_back(name: &str, times: u32) -> Result<()> {
    let mut victim = Victim::start(name)?;
    let mut mvedsua = Mvedsua::start()?;
    mvedsua.attach_with_children(victim.pid(), name)?;
    for time in 0..times {
        mvedsua.update_identity(name, &[])?;
        let promoted = mvedsua.promote(name);
        promoted.with_context(|| mvedsua.log())?;
        let status = mvedsua.status(name)?;
        victim.promoted(status.leader.pid)?;
        victim.wait_rounds(10)?;
        let status = caught_up(&mvedsua, name)?;
        let follower = status.follower.map_or(0, |follower| follower.pid);
        ensure!(
            status.stage == "updated-leader" && status.events.diverged == 0 && follower != 0,
            "{time}: {status:?}\n{:?}",
            mvedsua.status(name)?.last_update
        );
        mvedsua.rollback(name)?;
        let status = mvedsua.status(name)?;
        ensure!(status.leader.pid == follower, "{status:?}");
        victim.promoted(follower)?;
        victim.wait_rounds(10)?;
    }
    // It waits for a successor, as one that was promoted does.
    mvedsua.kill_agent();
    mvedsua.start_agent()?;
    victim.wait_rounds(10)?;
    victim.end()
}

#[test]
fn a_busy_tree_leads_and_goes_back() -> Result<()> {
    if !can_run("a_busy_tree_leads_and_goes_back", NEEDS) {
        return Ok(());
    }
    leads_and_goes_back("offspring", 5)
}

#[test]
fn sessions_of_all_kinds_lead_and_go_back() -> Result<()> {
    if !can_run("sessions_of_all_kinds_lead_and_go_back", NEEDS) {
        return Ok(());
    }
    leads_and_goes_back("sessions", 5)
}
