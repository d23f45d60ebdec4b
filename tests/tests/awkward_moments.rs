//! Snapshots at moments at which a server cannot be stopped, or is another program a moment later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::{Mvedsua, Need, Victim, can_run, process, wait_until};

const NEEDS: &[Need] = &[Need::Root, Need::Program("cc")];
const LIMIT: Duration = Duration::from_secs(60);
/// So many updates of a server that executes itself all the time.
const UPDATES: usize = 40;

/// Whatever becomes of the update is told, and the server serves.
#[test]
fn a_server_that_executes_itself_all_the_time_is_not_harmed() -> Result<()> {
    if !can_run(
        "a_server_that_executes_itself_all_the_time_is_not_harmed",
        NEEDS,
    ) {
        return Ok(());
    }
    let victim = Victim::start("executes")?;
    let mvedsua = Mvedsua::start()?;
    // Between two programs it has no memory, and cannot be looked at.
    let pid = victim.pid().to_string();
    let words = [
        "attach",
        "--pid",
        &pid,
        "--name",
        "v",
        "--children",
        "alone",
    ];
    let attached = wait_until(LIMIT, || {
        mvedsua.run(&words).is_ok_and(|outcome| outcome.code == 0)
    });
    ensure!(attached, "not attached: {}", mvedsua.log());
    for update in 0..UPDATES {
        let outcome = mvedsua.run(&["update", "v", "--identity", "--wait", "none"])?;
        let told = || format!("update {update}: {outcome:?}\n{}", mvedsua.log());
        victim.wait_rounds(10).with_context(told)?;
        // It may have been rolled back by itself.
        mvedsua.run(&["rollback", "v"])?;
        ensure!(mvedsua.status("v")?.follower.is_none(), "{}", told());
        victim.wait_rounds(10).with_context(told)?;
    }
    ensure!(process::is_untraced(victim.pid()));
    victim.end()
}

/// A server that has a thread which no request to stop wakes, and what is followed by a byte for the FIFO.
fn lender() -> Result<(Victim, Mvedsua)> {
    let victim = Victim::start("lends")?;
    let has_child = || !process::children(victim.pid()).is_empty();
    ensure!(wait_until(LIMIT, has_child), "it makes no child");
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_without_children(victim.pid(), "v")?;
    Ok((victim, mvedsua))
}

fn give_back(victim: &Victim) -> Result<()> {
    let has_child = || !process::children(victim.pid()).is_empty();
    ensure!(has_child(), "the child has ended by itself");
    std::fs::write(victim.dir().join("progress.hold"), "x")?;
    ensure!(wait_until(LIMIT, || !has_child()), "the child does not end");
    Ok(())
}

#[test]
fn a_thread_that_does_not_stop_does_not_hold_the_others() -> Result<()> {
    if !can_run(
        "a_thread_that_does_not_stop_does_not_hold_the_others",
        NEEDS,
    ) {
        return Ok(());
    }
    let (victim, mvedsua) = lender()?;
    for _ in 0..3 {
        let outcome = mvedsua.run(&["update", "v", "--identity", "--retry", "0"])?;
        ensure!(
            outcome.code == 5
                && outcome.stderr.contains("E220")
                && outcome.stderr.contains("does not stop (it is in vfork)"),
            "{outcome:?}"
        );
        victim.wait_rounds(50)?;
    }
    give_back(&victim)?;
    let free = wait_until(LIMIT, || process::is_untraced(victim.pid()));
    ensure!(free, "it is not let go: {}", mvedsua.log());
    mvedsua.update_identity("v", &[])?;
    victim.wait_rounds(50)?;
    mvedsua.rollback("v")?;
    victim.wait_rounds(50)?;
    ensure!(process::is_untraced(victim.pid()));
    victim.end()
}

#[test]
fn an_update_is_tried_again_when_a_thread_did_not_stop() -> Result<()> {
    if !can_run("an_update_is_tried_again_when_a_thread_did_not_stop", NEEDS) {
        return Ok(());
    }
    let (victim, mvedsua) = lender()?;
    let often = ["--retry", "1000", "--retry-delay", "50ms"];
    std::thread::scope(|scope| -> Result<()> {
        let update = scope.spawn(|| mvedsua.update_identity("v", &often));
        let waits = mvedsua.wait_for("v", LIMIT, |status| status.next_try.is_some());
        let rounds = victim.wait_rounds(50);
        // First of all: the update would wait for it.
        give_back(&victim)?;
        waits?;
        rounds?;
        update.join().expect("it does not panic").map(drop)
    })?;
    victim.wait_rounds(50)?;
    mvedsua.rollback("v")?;
    victim.end()
}

/// Nobody may be left traced, or in a stop.
#[test]
fn a_thread_that_did_not_stop_is_free_when_the_agent_dies() -> Result<()> {
    if !can_run(
        "a_thread_that_did_not_stop_is_free_when_the_agent_dies",
        NEEDS,
    ) {
        return Ok(());
    }
    let (victim, mut mvedsua) = lender()?;
    let outcome = mvedsua.run(&["update", "v", "--identity", "--retry", "0"])?;
    ensure!(outcome.code == 5, "{outcome:?}");
    mvedsua.kill_agent();
    victim.wait_rounds(50)?;
    give_back(&victim)?;
    ensure!(wait_until(LIMIT, || process::is_untraced(victim.pid())));
    victim.wait_rounds(50)?;
    victim.end()
}
