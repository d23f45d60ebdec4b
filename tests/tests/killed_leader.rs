//! `kill -9` of a leader that is far ahead of its follower: what it did is in the ring, and its clients notice nothing.

use anyhow::{Context, Result, ensure};
use mvedsua_tests::mvedsua::Status;
use mvedsua_tests::process::{self, Signal};
use mvedsua_tests::supervised::{LIMIT, NAME, Supervised};
use mvedsua_tests::{Mvedsua, Need, Victim, can_run, wait_until};

const KEYS: u32 = 5_000;
const RATE: u32 = 2_000;

/// So many promotions, and so many more requests before the leader is killed in the next one.
const MOMENTS: u64 = 8;
const REQUESTS: u64 = 100;

/// So many events behind, the follower is let go on when the leader is killed.
const BACKLOG: u64 = 3_000;

#[test]
fn the_follower_takes_over_from_a_killed_leader_with_a_backlog() -> Result<()> {
    let name = "the_follower_takes_over_from_a_killed_leader_with_a_backlog";
    if !can_run(name, &[Need::Root, Need::Program("redis-server")]) {
        return Ok(());
    }
    let mut server = Supervised::redis(&[], KEYS, RATE)?;
    server.update(&[])?;
    let follower = server.follower()?;
    process::send(follower, Signal::SIGSTOP)?;
    server.mvedsua.wait_for(NAME, LIMIT, |s| {
        s.follower.is_some_and(|f| f.lag_events > BACKLOG)
    })?;
    server.takes_over(Signal::SIGKILL, || {
        Ok(process::send(follower, Signal::SIGCONT)?)
    })?;
    server.finish()
}

/// At whatever moment of its promotion: somebody serves afterwards, with every connection.
#[test]
fn a_leader_may_be_killed_while_it_is_promoted() -> Result<()> {
    let name = "a_leader_may_be_killed_while_it_is_promoted";
    if !can_run(name, &[Need::Root, Need::Program("redis-server")]) {
        return Ok(());
    }
    for moment in 0..MOMENTS {
        let mut server = Supervised::redis(&[], KEYS, 0)?;
        server.update(&[])?;
        let old = server.status()?.leader.pid;
        std::thread::scope(|scope| {
            let promotion = scope.spawn(|| server.mvedsua.run(&["promote", NAME]));
            server.more_requests(moment * REQUESTS)?;
            process::send(old, Signal::SIGKILL)?;
            // It says what became of it, whatever that is.
            promotion.join().expect("it does not panic").map(drop)
        })?;
        let serves = |status: &Status| {
            let new = status.leader.pid;
            status.stage == "single-leader" && new != old && process::is_alive(new)
        };
        server
            .mvedsua
            .wait_for(NAME, LIMIT, serves)
            .with_context(|| format!("moment {moment}: {}", server.mvedsua.log()))?;
        server.server.reap();
        server.more_requests(1_000)?;
        server.idle_answer()?;
        server.finish()?;
    }
    Ok(())
}

/// In one of the many short stops in which it waits for room.
#[test]
fn a_leader_may_be_killed_while_it_is_held_for_room() -> Result<()> {
    let name = "a_leader_may_be_killed_while_it_is_held_for_room";
    if !can_run(name, &[Need::Root, Need::Program("redis-server")]) {
        return Ok(());
    }
    for moment in 1..=MOMENTS {
        let mut server = Supervised::redis(&[], KEYS, 0)?;
        server
            .run("update", &["--identity", "--ring", "1M", "--wait", "none"])?
            .ok()?;
        server.mvedsua.wait_for(NAME, LIMIT, |status| {
            status.ring.blocked_ms > 10.0 * moment as f64
        })?;
        server.takes_over(Signal::SIGKILL, || Ok(()))?;
        server.finish()?;
    }
    Ok(())
}

/// Its parent, this test, does not wait for it.
#[test]
fn a_server_that_has_ended_is_no_service_any_more() -> Result<()> {
    let name = "a_server_that_has_ended_is_no_service_any_more";
    if !can_run(name, &[Need::Root, Need::Program("cc")]) {
        return Ok(());
    }
    let victim = Victim::start("fds")?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_without_children(victim.pid(), "fds")?;
    process::send(victim.pid(), Signal::SIGKILL)?;
    ensure!(wait_until(LIMIT, || mvedsua.status("fds").is_err()));
    Ok(())
}

/// Nobody can take over: then the leader dies of its signal, as it would have without us, and does not live on.
#[test]
fn a_leader_without_a_successor_dies_as_it_would_have() -> Result<()> {
    let name = "a_leader_without_a_successor_dies_as_it_would_have";
    if !can_run(name, &[Need::Root, Need::Program("cc")]) {
        return Ok(());
    }
    for signal in [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGKILL] {
        let victim = Victim::start("fds")?;
        let mvedsua = Mvedsua::start()?;
        mvedsua.attach_without_children(victim.pid(), "fds")?;
        mvedsua.update_identity("fds", &["--hang-limit", "4s"])?;
        let status = mvedsua.status("fds")?;
        let follower = status.follower.context("it follows")?.pid;
        process::send(follower, Signal::SIGSTOP)?;
        mvedsua.wait_for("fds", LIMIT, |status| {
            status.follower.is_some_and(|f| f.lag_events > 0)
        })?;
        process::send(victim.pid(), signal)?;
        let ended = wait_until(LIMIT, || {
            !process::is_alive(victim.pid()) && !process::is_alive(follower)
        });
        ensure!(ended, "{signal}\n{}", mvedsua.log());
        ensure!(wait_until(LIMIT, || mvedsua.status("fds").is_err()));
    }
    Ok(())
}

/// A handler that tells of a crash does not keep the follower from taking over: one that the kernel takes away as it enters
/// it is not waited for, of another the leader dies after a while.
#[test]
fn a_leader_that_handles_its_last_fault_is_taken_over_from() -> Result<()> {
    let name = "a_leader_that_handles_its_last_fault_is_taken_over_from";
    if !can_run(name, &[Need::Root, Need::Program("cc")]) {
        return Ok(());
    }
    // `enum fault` in `handlers.c`.
    for (what, number) in [("it dies in its handler", 3), ("a last word", 4)] {
        let mut victim = Victim::start("handlers")?;
        let switch = victim.switch()?;
        let mvedsua = Mvedsua::start()?;
        mvedsua.attach_without_children(victim.pid(), "h")?;
        mvedsua.update_identity("h", &[])?;
        let follower = mvedsua.status("h")?.follower.context("it follows")?.pid;
        victim.wait_rounds(20)?;
        switch.turn(victim.pid(), number)?;
        mvedsua
            .wait_for("h", LIMIT, |status| status.leader.pid == follower)
            .with_context(|| format!("{what}: {}", mvedsua.log()))?;
        victim.promoted(follower)?;
        victim.wait_rounds(20).context(what)?;
        victim.end()?;
    }
    Ok(())
}
