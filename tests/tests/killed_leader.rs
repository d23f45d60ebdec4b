//! `kill -9` of a leader that is far ahead of its follower: what it did is in the ring, and its clients notice nothing.

use anyhow::Result;
use mvedsua_tests::process::{self, Signal};
use mvedsua_tests::supervised::{LIMIT, NAME, Supervised};
use mvedsua_tests::{Need, can_run};

const KEYS: u32 = 5_000;
const RATE: u32 = 2_000;

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
