//! Debian's `redis-server` under load, through everything that an update can go through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bare::Before;
use mvedsua_tests::process::{self, Signal};
use mvedsua_tests::resp::{Client, Reply, encode};
use mvedsua_tests::supervised::{LIMIT, NAME, Supervised};
use mvedsua_tests::{Need, can_run, wait_until};

const KEYS: u32 = 5_000;
const RATE: u32 = 2_000;
const NEEDS: &[Need] = &[Need::Root, Need::Program("redis-server")];

/// Instead of a number of requests per second.
const AS_FAST_AS_IT_ANSWERS: u32 = 0;

fn redis() -> Result<Supervised> {
    Supervised::redis(&[], KEYS, RATE)
}

/// A load that is faster than the follower: the leader is held back until it has caught up, at the update as
/// at the promotion, and whoever is held at the moment of the exchange does not serve on.
#[test]
fn promotions_under_a_load_that_is_faster_than_the_follower() -> Result<()> {
    let name = "promotions_under_a_load_that_is_faster_than_the_follower";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut server = Supervised::redis(&[], KEYS, AS_FAST_AS_IT_ANSWERS)?;
    for _ in 0..4 {
        server.update(&[])?;
        server.more_requests(20_000)?;
        server.mvedsua.promote(NAME)?;
        server.more_requests(20_000)?;
        let status = server.status()?;
        ensure!(
            status.stage == "updated-leader" && status.events.diverged == 0,
            "{status:?}"
        );
        server.mvedsua.finalize(NAME)?;
        server.server.reap();
    }
    server.finish()
}

/// What a rolled-back server must look like.
fn rolled_back(server: &Supervised, before: &Before, reason: &str) -> Result<()> {
    let status = server.ended_as("rolled-back")?;
    let last = status.last_update.context("an outcome")?;
    ensure!(
        last.reason.contains(reason),
        "{reason:?} expected: {last:?}"
    );
    before.check()
}

#[test]
fn a_promoted_copy_serves_on_and_can_be_updated_again_and_again() -> Result<()> {
    if !can_run(
        "a_promoted_copy_serves_on_and_can_be_updated_again_and_again",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = redis()?;
    for round in 1..=3 {
        let begun = server.update(&[])?;
        server.more_requests(3_000)?;
        let followed = server.status()?;
        ensure!(
            followed.events.matched > begun.events.matched,
            "{followed:?}"
        );
        let done = server.promote_finalize()?;
        println!(
            "round {round}: snapshot {:?} ms, promotion {:?} ms, {:?}",
            begun.pauses_ms.snapshot, done.pauses_ms.promotion, done.events
        );
        server.more_requests(1_000)?;
        server.idle_answer()?;
    }
    // It is traced for life, and says so rather than leave it filtered.
    let refused = server.run("detach", &[])?;
    ensure!(
        refused.code == 5 && refused.stderr.contains("E231"),
        "{refused:?}"
    );
    server.finish()
}

#[test]
fn a_copy_of_a_promoted_copy_can_be_rolled_back() -> Result<()> {
    if !can_run("a_copy_of_a_promoted_copy_can_be_rolled_back", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    server.promote_finalize()?;
    let promoted = server.status()?.leader.pid;
    for _ in 0..3 {
        server.update(&[])?;
        server.more_requests(500)?;
        server.mvedsua.rollback(NAME)?;
        let status = server.ended_as("rolled-back")?;
        ensure!(status.leader.pid == promoted, "{status:?}");
        ensure!(process::children(promoted).is_empty());
        server.more_requests(500)?;
    }
    server.update(&[])?;
    server.more_requests(500)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn a_rolled_back_server_is_bare() -> Result<()> {
    if !can_run("a_rolled_back_server_is_bare", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    let before = Before::of(server.server.pid());
    before.check()?;
    for _ in 0..3 {
        server.update(&[])?;
        server.more_requests(1_000)?;
        let follower = server.follower()?;
        ensure!(
            before.check().is_err(),
            "nothing is installed during an update"
        );
        server.mvedsua.rollback(NAME)?;
        rolled_back(&server, &before, "")?;
        ensure!(!process::is_alive(follower), "the follower lives on");
    }
    server.idle_answer()?;
    server.mvedsua.detach(NAME)?;
    server.finish()
}

#[test]
fn a_flipped_byte_is_found_and_reported() -> Result<()> {
    if !can_run("a_flipped_byte_is_found_and_reported", NEEDS) {
        return Ok(());
    }
    let server = redis()?;
    let before = Before::of(server.server.pid());
    for writes in ["0", "17", "1000"] {
        let outcome = server.run("update", &["--identity", "--inject-fault", writes])?;
        ensure!(outcome.code == 3, "{outcome:?}");
        for part in ["first difference at byte 0", "leader", "follower", "write("] {
            ensure!(outcome.stderr.contains(part), "no {part:?} in {outcome:?}");
        }
        rolled_back(&server, &before, "divergence in thread")?;
        let status = server.status()?;
        ensure!(status.events.diverged == 1, "{status:?}");
        server.more_requests(300)?;
    }
    server.finish()
}

#[test]
fn a_follower_that_crashes_or_is_killed_is_rolled_back() -> Result<()> {
    if !can_run("a_follower_that_crashes_or_is_killed_is_rolled_back", NEEDS) {
        return Ok(());
    }
    let server = redis()?;
    let before = Before::of(server.server.pid());
    for (signal, reason) in [
        (Signal::SIGSEGV, "SIGSEGV"),
        (Signal::SIGABRT, "SIGABRT"),
        (Signal::SIGKILL, "SIGKILL"),
    ] {
        server.update(&[])?;
        server.more_requests(500)?;
        process::send(server.follower()?, signal)?;
        rolled_back(&server, &before, reason)?;
        server.more_requests(300)?;
    }
    server.finish()
}

#[test]
fn a_follower_that_hangs_is_rolled_back() -> Result<()> {
    if !can_run("a_follower_that_hangs_is_rolled_back", NEEDS) {
        return Ok(());
    }
    let server = redis()?;
    let before = Before::of(server.server.pid());
    server.update(&["--hang-limit", "1s"])?;
    server.more_requests(500)?;
    process::send(server.follower()?, Signal::SIGSTOP)?;
    rolled_back(&server, &before, "no progress")?;
    server.finish()
}

#[test]
fn the_follower_takes_over_from_a_crashed_leader_when_it_has_caught_up() -> Result<()> {
    if !can_run(
        "the_follower_takes_over_from_a_crashed_leader_when_it_has_caught_up",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    server.more_requests(1_000)?;
    server.takes_over(Signal::SIGSEGV, || Ok(()))?;
    server.update(&[])?;
    server.more_requests(500)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn the_follower_takes_over_from_a_crashed_leader_with_a_backlog() -> Result<()> {
    if !can_run(
        "the_follower_takes_over_from_a_crashed_leader_with_a_backlog",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    let follower = server.follower()?;
    process::send(follower, Signal::SIGSTOP)?;
    server.mvedsua.wait_for(NAME, LIMIT, |s| {
        s.follower.is_some_and(|f| f.lag_events > 3_000)
    })?;
    server.takes_over(Signal::SIGSEGV, || {
        Ok(process::send(follower, Signal::SIGCONT)?)
    })?;
    server.finish()
}

#[test]
fn the_follower_takes_over_while_it_still_catches_up() -> Result<()> {
    if !can_run("the_follower_takes_over_while_it_still_catches_up", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    server
        .run("update", &["--identity", "--wait", "none"])?
        .ok()?;
    server.takes_over(Signal::SIGSEGV, || Ok(()))?;
    server.finish()
}

#[test]
fn the_follower_takes_over_from_a_leader_that_was_killed() -> Result<()> {
    if !can_run(
        "the_follower_takes_over_from_a_leader_that_was_killed",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    server.takes_over(Signal::SIGKILL, || Ok(()))?;
    server.finish()
}

#[test]
fn a_full_ring_blocks_the_leader_and_nothing_is_lost() -> Result<()> {
    if !can_run("a_full_ring_blocks_the_leader_and_nothing_is_lost", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&["--ring", "1M", "--hang-limit", "60s"])?;
    server.more_requests(500)?;
    let follower = server.follower()?;
    process::send(follower, Signal::SIGSTOP)?;
    // Two seconds to fill the ring at this load, and the rest of five to stand still.
    let full = server
        .mvedsua
        .wait_for(NAME, LIMIT, |status| status.ring.blocked_ms > 3_000.0)?;
    ensure!(full.ring.capacity_bytes == 1 << 20, "{full:?}");
    ensure!(full.ring.used_bytes <= full.ring.capacity_bytes, "{full:?}");
    ensure!(
        full.ring.high_water_bytes > full.ring.capacity_bytes / 2,
        "{full:?}"
    );
    process::send(follower, Signal::SIGCONT)?;
    server.more_requests(3_000)?;
    let caught_up = server.mvedsua.wait_for(NAME, LIMIT, |status| {
        status.follower.is_some_and(|f| f.lag_events < 200)
    })?;
    println!("{:?} {:?}", caught_up.ring, caught_up.events);
    ensure!(
        caught_up.events.diverged == 0 && caught_up.stage == "outdated-leader",
        "{caught_up:?}"
    );
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn a_full_ring_rolls_back_when_told_so() -> Result<()> {
    if !can_run("a_full_ring_rolls_back_when_told_so", NEEDS) {
        return Ok(());
    }
    let server = redis()?;
    let before = Before::of(server.server.pid());
    server.update(&[
        "--ring",
        "1M",
        "--hang-limit",
        "60s",
        "--on-full",
        "rollback",
    ])?;
    process::send(server.follower()?, Signal::SIGSTOP)?;
    rolled_back(&server, &before, "the ring is full")?;
    server.finish()
}

#[test]
fn the_old_version_follows_the_new_one_until_it_is_finalized() -> Result<()> {
    if !can_run(
        "the_old_version_follows_the_new_one_until_it_is_finalized",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = redis()?;
    for _ in 0..2 {
        let (old, new) = promoted(&server)?;
        server.more_requests(2_000)?;
        let status = server.status()?;
        ensure!(
            status.stage == "updated-leader"
                && status.leader.pid == new
                && status.follower.is_some_and(|f| f.pid == old)
                && status.events.diverged == 0,
            "{status:?}"
        );
        println!("updated-leader: {:?} {:?}", status.pauses_ms, status.events);
        server.mvedsua.finalize(NAME)?;
        let status = server.ended_as("finalized")?;
        ensure!(status.leader.pid == new, "{status:?}");
        ensure!(!process::is_alive(old), "the old version lives on");
        server.server.reap();
        server.more_requests(500)?;
        server.idle_answer()?;
    }
    server.finish()
}

#[test]
fn the_old_version_takes_over_from_a_new_one_that_crashes() -> Result<()> {
    if !can_run(
        "the_old_version_takes_over_from_a_new_one_that_crashes",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = redis()?;
    let (old, _) = promoted(&server)?;
    server.more_requests(1_000)?;
    server.takes_over(Signal::SIGSEGV, || Ok(()))?;
    ensure!(server.status()?.leader.pid == old);
    server.update(&[])?;
    server.more_requests(500)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn an_old_version_that_crashes_is_dropped() -> Result<()> {
    if !can_run("an_old_version_that_crashes_is_dropped", NEEDS) {
        return Ok(());
    }
    let server = redis()?;
    let (old, new) = promoted(&server)?;
    server.more_requests(500)?;
    process::send(old, Signal::SIGSEGV)?;
    let status = server.ended_as("finalized")?;
    ensure!(status.leader.pid == new, "{status:?}");
    server.finish()
}

/// Updates and promotes without the end: the old and the new process.
fn promoted(server: &Supervised) -> Result<(i32, i32)> {
    server.update(&[])?;
    server.more_requests(1_000)?;
    let (old, new) = (server.status()?.leader.pid, server.follower()?);
    server.mvedsua.promote(NAME)?;
    let status = server.status()?;
    ensure!(
        status.stage == "updated-leader" && status.leader.pid == new,
        "{status:?}"
    );
    Ok((old, new))
}

/// Starts a `BGSAVE` that takes a few seconds; returns the saver.
fn slow_save(client: &mut Client, leader: i32) -> Result<i32> {
    done(client, &["CONFIG", "SET", "rdb-key-save-delay", "1000"])?;
    let reply = client.command(&["BGSAVE"])?;
    ensure!(
        matches!(&reply, Reply::Status(s) if s.contains("started")),
        "{reply:?}"
    );
    done(client, &["CONFIG", "SET", "rdb-key-save-delay", "0"])?;
    let children = process::children(leader);
    ensure!(children.len() == 1, "one saver expected: {children:?}");
    Ok(children[0])
}

fn save_ended(client: &mut Client) -> Result<()> {
    let mut field = Ok(String::new());
    ensure!(
        wait_until(LIMIT, || {
            field = client.info_field("persistence", "rdb_bgsave_in_progress");
            !matches!(&field, Ok(value) if value == "1")
        }),
        "BGSAVE does not end: {field:?}"
    );
    field?;
    let status = client.info_field("persistence", "rdb_last_bgsave_status")?;
    ensure!(status == "ok", "BGSAVE ended with {status}");
    Ok(())
}

#[test]
fn a_background_save_is_the_leaders_alone() -> Result<()> {
    if !can_run("a_background_save_is_the_leaders_alone", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    // First of a bare leader, then of one that was promoted and stays traced.
    for _ in 0..2 {
        server.update(&[])?;
        let (leader, follower) = (server.status()?.leader.pid, server.follower()?);
        let mut client = server.server.client()?;
        let dump = server.server.dir().join("dump.rdb");
        let saver = slow_save(&mut client, leader)?;
        ensure!(
            process::children(follower).is_empty(),
            "the follower saves too"
        );
        let refused = server.run("promote", &["--finalize"])?;
        ensure!(
            refused.code == 5
                && refused.stderr.contains("E232")
                && refused.stderr.contains(&saver.to_string()),
            "{refused:?}"
        );
        ensure!(server.status()?.stage == "outdated-leader");
        save_ended(&mut client)?;
        ensure!(!process::is_alive(saver));
        ensure!(std::fs::read(&dump)?.starts_with(b"REDIS"));
        std::fs::remove_file(&dump)?;
        server.more_requests(500)?;
        server.promote_finalize()?;
        server.idle_answer()?;
    }
    // A promoted leader without an update saves as well; the next update waits for that.
    let mut client = server.server.client()?;
    let leader = server.status()?.leader.pid;
    let saver = slow_save(&mut client, leader)?;
    let refused = server.run("update", &["--identity"])?;
    ensure!(
        refused.code == 5
            && refused.stderr.contains("E225")
            && refused.stderr.contains(&saver.to_string()),
        "{refused:?}"
    );
    save_ended(&mut client)?;
    server.update(&[])?;
    server.mvedsua.rollback(NAME)?;
    ensure!(process::zombie_children(leader).is_empty());
    server.finish()
}

#[test]
fn the_agent_may_die_while_nothing_is_updated() -> Result<()> {
    if !can_run("the_agent_may_die_while_nothing_is_updated", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    let before = Before::of(server.server.pid());
    server.update(&[])?;
    server.mvedsua.rollback(NAME)?;
    server.mvedsua.kill_agent();
    server.more_requests(500)?;
    before.check()?;
    server.mvedsua.start_agent()?;
    // The successor knows the service.
    server.update(&[])?;
    server.more_requests(500)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn the_agent_may_die_while_a_follower_follows() -> Result<()> {
    if !can_run("the_agent_may_die_while_a_follower_follows", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    let before = Before::of(server.server.pid());
    server.update(&[])?;
    server.more_requests(500)?;
    let follower = server.follower()?;
    let leader = server.server.pid();
    server.mvedsua.kill_agent();
    ensure!(
        wait_until(LIMIT, || !process::is_alive(follower)),
        "the follower outlives its agent"
    );
    server.more_requests(1_000)?;
    ensure!(process::is_untraced(leader) && process::is_unfiltered(leader));
    server.idle_answer()?;
    // The successor takes back what was patched, and goes on from there.
    server.mvedsua.start_agent()?;
    // It answers when it has taken over.
    server.status()?;
    before.check()?;
    server.update(&[])?;
    server.more_requests(500)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn the_agent_may_die_after_a_promotion() -> Result<()> {
    if !can_run("the_agent_may_die_after_a_promotion", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    server.promote_finalize()?;
    for _ in 0..3 {
        server.more_requests(500)?;
        server.mvedsua.kill_agent();
        // Calls wait for the successor now.
        server.mvedsua.start_agent()?;
        server.more_requests(1_000)?;
        server.idle_answer()?;
    }
    server.update(&[])?;
    server.more_requests(500)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn the_agent_may_die_while_a_promoted_leader_is_followed() -> Result<()> {
    if !can_run(
        "the_agent_may_die_while_a_promoted_leader_is_followed",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    server.promote_finalize()?;
    server.update(&[])?;
    server.more_requests(500)?;
    let follower = server.follower()?;
    server.mvedsua.kill_agent();
    ensure!(
        wait_until(LIMIT, || !process::is_alive(follower)),
        "the follower outlives its agent"
    );
    server.mvedsua.start_agent()?;
    server.more_requests(1_000)?;
    server.idle_answer()?;
    server.update(&[])?;
    server.more_requests(500)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn the_agent_may_die_while_a_promoted_leader_saves() -> Result<()> {
    if !can_run("the_agent_may_die_while_a_promoted_leader_saves", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    server.promote_finalize()?;
    let mut client = server.server.client()?;
    let saver = slow_save(&mut client, server.status()?.leader.pid)?;
    server.mvedsua.kill_agent();
    ensure!(process::is_alive(saver), "the save was over too soon");
    server.mvedsua.start_agent()?;
    // The saver, too, is filtered: it must be taken over with its parent.
    save_ended(&mut client)?;
    server.finish()
}

#[test]
fn the_agent_may_die_while_the_ring_is_full() -> Result<()> {
    if !can_run("the_agent_may_die_while_the_ring_is_full", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&["--ring", "1M", "--hang-limit", "60s"])?;
    process::send(server.follower()?, Signal::SIGSTOP)?;
    server
        .mvedsua
        .wait_for(NAME, LIMIT, |status| status.ring.blocked_ms > 0.0)?;
    // The leader is held in mid-air, and must not stay there.
    server.mvedsua.kill_agent();
    server.more_requests(1_000)?;
    server.idle_answer()?;
    server.finish()
}

/// Sends a command; the answer must be `OK`.
fn done(client: &mut Client, words: &[&str]) -> Result<()> {
    let reply = client.command(words)?;
    ensure!(
        reply == Reply::Status("OK".into()),
        "{words:?} answered {reply:?}"
    );
    Ok(())
}

fn is(client: &mut Client, words: &[&str], expected: &Reply) -> Result<()> {
    let reply = client.command(words)?;
    ensure!(
        reply == *expected,
        "{words:?} answered {reply:?}, not {expected:?}"
    );
    Ok(())
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(Some(text.into()))
}

#[test]
fn commands_of_every_kind_are_followed() -> Result<()> {
    if !can_run("commands_of_every_kind_are_followed", NEEDS) {
        return Ok(());
    }
    let mut server = Supervised::redis(&["--enable-debug-command", "yes"], KEYS, 1_000)?;
    server.update(&[])?;
    let mut client = server.server.client()?;
    every_kind(&mut client, &mut server.server.client()?)?;
    ten_megabytes(&mut client)?;
    pipelined(&mut client)?;
    client.command(&["DEL", "big", "pipelined"])?;
    let status = server.status()?;
    ensure!(
        status.stage == "outdated-leader" && status.events.diverged == 0,
        "{status:?}"
    );
    println!("{:?} {:?}", status.ring, status.events);
    server.promote_finalize()?;
    // And again by the copy that was promoted, with nothing to compare with.
    every_kind(&mut client, &mut server.server.client()?)?;
    server.finish()
}

/// Leaves no key behind, so that the check at the end finds exactly the keys of the load.
fn every_kind(client: &mut Client, other: &mut Client) -> Result<()> {
    done(client, &["CONFIG", "SET", "slowlog-log-slower-than", "0"])?;
    done(client, &["CONFIG", "SET", "maxclients", "5000"])?;
    client.command(&["INFO", "all"])?;
    client.command(&["SLOWLOG", "GET", "5"])?;
    client.command(&["CLIENT", "LIST"])?;
    client.command(&["MEMORY", "DOCTOR"])?;
    client.command(&["LATENCY", "DOCTOR"])?;
    done(
        client,
        &["CONFIG", "SET", "slowlog-log-slower-than", "10000"],
    )?;

    done(client, &["MULTI"])?;
    for _ in 0..2 {
        is(
            client,
            &["INCR", "t:counter"],
            &Reply::Status("QUEUED".into()),
        )?;
    }
    let both = Reply::Array(Some(vec![Reply::Integer(1), Reply::Integer(2)]));
    is(client, &["EXEC"], &both)?;
    client.command(&["DEL", "t:counter"])?;

    other.command(&["SUBSCRIBE", "t:news"])?;
    is(client, &["PUBLISH", "t:news", "hello"], &Reply::Integer(1))?;
    let message = ["message", "t:news", "hello"].map(bulk).to_vec();
    ensure!(other.receive()? == Reply::Array(Some(message)));
    other.command(&["UNSUBSCRIBE"])?;

    let mut pop = Vec::new();
    encode(&mut pop, &[b"BLPOP", b"t:list", b"0"]);
    other.send(&pop)?;
    ensure!(wait_until(LIMIT, || {
        client
            .info_field("clients", "blocked_clients")
            .is_ok_and(|count| count == "1")
    }));
    is(client, &["RPUSH", "t:list", "x"], &Reply::Integer(1))?;
    ensure!(other.receive()? == Reply::Array(Some(vec![bulk("t:list"), bulk("x")])));
    is(client, &["BLPOP", "t:list", "0.05"], &Reply::Array(None))?;

    done(client, &["DEBUG", "SLEEP", "0.1"])?;
    done(client, &["SET", "t:gone", "1", "PX", "100"])?;
    ensure!(wait_until(LIMIT, || {
        client
            .command(&["EXISTS", "t:gone"])
            .is_ok_and(|r| r == Reply::Integer(0))
    }));
    let script = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
    is(
        client,
        &["EVAL", script, "1", "t:script", "7"],
        &Reply::Integer(7),
    )?;
    client.command(&["RANDOMKEY"])?;
    client.command(&["SCAN", "0", "COUNT", "100"])?;
    client.command(&["XADD", "t:stream", "*", "field", "value"])?;
    client.command(&["UNLINK", "t:script", "t:stream"])?;
    client.command(&["OBJECT", "HELP"])?;
    client.command(&["TIME"])?;
    Ok(())
}

fn ten_megabytes(client: &mut Client) -> Result<()> {
    let value: String = (0..10_000_000u32)
        .map(|i| char::from(b'a' + (i * 7 % 26) as u8))
        .collect();
    done(client, &["SET", "big", &value])?;
    let reply = client.command(&["GET", "big"])?;
    ensure!(
        reply == Reply::Bulk(Some(value.into_bytes())),
        "10 MB came back changed"
    );
    Ok(())
}

fn pipelined(client: &mut Client) -> Result<()> {
    const COUNT: i64 = 10_000;
    let mut out = Vec::new();
    for _ in 0..COUNT {
        encode(&mut out, &[b"INCR", b"pipelined"]);
    }
    client.send(&out)?;
    for expected in 1..=COUNT {
        let reply = client.receive()?;
        ensure!(
            reply == Reply::Integer(expected),
            "{reply:?} instead of {expected}"
        );
    }
    Ok(())
}

#[test]
fn connections_come_and_go_while_it_is_followed() -> Result<()> {
    if !can_run("connections_come_and_go_while_it_is_followed", NEEDS) {
        return Ok(());
    }
    let mut server = redis()?;
    server.update(&[])?;
    let mut kept = Vec::new();
    for round in 0..300 {
        let mut client = Client::connect(server.server.addr(), Duration::from_secs(20))?;
        is(&mut client, &["ECHO", "x"], &bulk("x"))?;
        if round % 3 == 0 {
            kept.push(client);
        }
    }
    server.promote_finalize()?;
    for client in &mut kept {
        is(client, &["ECHO", "y"], &bulk("y"))?;
    }
    server.finish()
}
