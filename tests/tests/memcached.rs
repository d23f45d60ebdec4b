//! Debian's `memcached` with four worker threads under load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mvedsua_tests::bare::Before;
use mvedsua_tests::supervised::{NAME, Supervised};
use mvedsua_tests::{Need, can_run, process};

const KEYS: u32 = 5_000;
const RATE: u32 = 2_000;
const NEEDS: &[Need] = &[Need::Root, Need::Program("memcached")];

/// How long it is followed.
const FOLLOWED: Duration = Duration::from_secs(30);

#[test]
fn four_worker_threads_are_followed_for_half_a_minute_and_promoted() -> Result<()> {
    if !can_run(
        "four_worker_threads_are_followed_for_half_a_minute_and_promoted",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut server = Supervised::memcached(KEYS, RATE)?;
    let begun = server.update(&[])?;
    let start = Instant::now();
    while start.elapsed() < FOLLOWED {
        server.more_requests(u64::from(RATE))?;
        let status = server.status()?;
        ensure!(
            status.stage == "outdated-leader" && status.events.diverged == 0,
            "{status:?}"
        );
    }
    let done = server.promote_finalize()?;
    println!(
        "snapshot {:?} ms, promotion {:?} ms, {:?} {:?}",
        begun.pauses_ms.snapshot, done.pauses_ms.promotion, done.events, done.ring
    );
    server.more_requests(1_000)?;
    server.idle_answer()?;
    // The copy is as good as the original.
    server.update(&[])?;
    server.more_requests(1_000)?;
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn a_rolled_back_memcached_is_bare() -> Result<()> {
    if !can_run("a_rolled_back_memcached_is_bare", NEEDS) {
        return Ok(());
    }
    let mut server = Supervised::memcached(KEYS, RATE)?;
    let before = Before::of(server.server.pid());
    for _ in 0..3 {
        server.update(&[])?;
        server.more_requests(1_000)?;
        server.mvedsua.rollback(NAME)?;
        server.ended_as("rolled-back")?;
        before.check()?;
    }
    server.idle_answer()?;
    server.finish()
}

#[test]
fn the_copy_takes_over_from_a_memcached_that_crashes() -> Result<()> {
    if !can_run("the_copy_takes_over_from_a_memcached_that_crashes", NEEDS) {
        return Ok(());
    }
    let mut server = Supervised::memcached(KEYS, RATE)?;
    server.update(&[])?;
    server.more_requests(1_000)?;
    let (old, new) = (server.status()?.leader.pid, server.follower()?);
    process::send(old, process::Signal::SIGSEGV)?;
    let status = server.ended_as("took-over")?;
    ensure!(status.leader.pid == new, "{new} expected: {status:?}");
    server.server.reap();
    server.more_requests(1_000)?;
    server.idle_answer()?;
    server.finish()
}
