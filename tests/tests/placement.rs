//! Which CPUs are whose: the follower keeps off those that the leader is at work on, and whoever leads runs where the
//! server did.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use mvedsua_tests::process::{self, Signal};
use mvedsua_tests::supervised::{LIMIT, NAME, Supervised};
use mvedsua_tests::{Need, can_run, wait_until};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("redis-server"),
    // Of one CPU nothing can be left to anybody.
    Need::Cpus(2),
];

/// Waits until all threads of the follower run on fewer CPUs than the server.
fn makes_room(server: &Supervised, everywhere: &BTreeSet<String>) -> Result<()> {
    let (leader, follower) = (server.status()?.leader.pid, server.follower()?);
    let narrower = || {
        let cpus = process::allowed_cpus(follower);
        cpus.len() == 1 && cpus != *everywhere
    };
    ensure!(
        wait_until(LIMIT, narrower),
        "the follower runs on {:?} beside a leader on {:?}; log of the agent:\n{}",
        process::allowed_cpus(follower),
        process::allowed_cpus(leader),
        server.mvedsua.log()
    );
    leads(leader, everywhere)
}

/// The process is as free as the server was.
fn leads(pid: i32, everywhere: &BTreeSet<String>) -> Result<()> {
    let cpus = process::allowed_cpus(pid);
    ensure!(
        cpus == *everywhere,
        "leader {pid} runs on {cpus:?} instead of {everywhere:?}"
    );
    Ok(())
}

/// Followed, rolled back, promoted, and taken over in both stages, once by the old version and once from a leader of
/// which nothing is left.
#[test]
fn the_follower_leaves_the_leaders_cpu_alone_and_a_leader_gets_it_back() -> Result<()> {
    let name = "the_follower_leaves_the_leaders_cpu_alone_and_a_leader_gets_it_back";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut server = Supervised::redis(&[], 1_000, 2_000)?;
    let everywhere = process::allowed_cpus(server.server.pid());
    ensure!(everywhere.len() == 1, "{everywhere:?}");
    let agent = server.mvedsua.agent_pid().unwrap_or_default();
    let of_agent = process::allowed_cpus(agent);

    server.update(&[])?;
    makes_room(&server, &everywhere)?;
    server.run("rollback", &[])?.ok()?;
    leads(server.status()?.leader.pid, &everywhere)?;
    ensure!(
        wait_until(LIMIT, || process::allowed_cpus(agent) == of_agent),
        "the agent runs on {:?} instead of {of_agent:?}",
        process::allowed_cpus(agent)
    );

    server.update(&[])?;
    makes_room(&server, &everywhere)?;
    server.mvedsua.promote(NAME)?;
    leads(server.status()?.leader.pid, &everywhere)?;
    makes_room(&server, &everywhere)?;
    server.takes_over(Signal::SIGSEGV, || Ok(()))?;
    leads(server.status()?.leader.pid, &everywhere)?;

    server.update(&[])?;
    makes_room(&server, &everywhere)?;
    server.takes_over(Signal::SIGKILL, || Ok(()))?;
    leads(server.status()?.leader.pid, &everywhere)?;
    server.finish()
}
