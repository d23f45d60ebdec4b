//! A thousand update / rollback cycles on one `redis-server`: nothing may grow.

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bare::Before;
use mvedsua_tests::supervised::{NAME, Supervised};
use mvedsua_tests::{Need, can_run, process};

/// Environment variable with another number of cycles.
const CYCLES: &str = "MVEDSUA_SOAK_CYCLES";

/// Cycles after which memory has found its level.
const WARM: u32 = 20;

/// What must not grow, of a process.
#[derive(Clone, Copy, Debug)]
struct Size {
    descriptors: usize,
    threads: usize,
    zombies: usize,
    resident_kib: u64,
}

impl Size {
    fn of(pid: i32) -> Result<Self> {
        Ok(Self {
            descriptors: process::descriptors(pid).len(),
            threads: process::threads(pid).len(),
            zombies: process::zombie_children(pid).len(),
            resident_kib: process::resident_kib(pid).context("resident memory")?,
        })
    }

    /// Memory may breathe by 8 MiB, whatever the number of cycles; nothing else may change.
    fn check(self, now: Self, whose: &str) -> Result<()> {
        ensure!(
            now.descriptors <= self.descriptors
                && now.threads <= self.threads
                && now.zombies == 0
                && now.resident_kib <= self.resident_kib + 8 * 1024,
            "{whose} has grown: {self:?} before, {now:?} now"
        );
        Ok(())
    }
}

#[test]
fn a_thousand_updates_and_rollbacks_leave_nothing_behind() -> Result<()> {
    if !can_run(
        "a_thousand_updates_and_rollbacks_leave_nothing_behind",
        &[Need::Root, Need::Program("redis-server")],
    ) {
        return Ok(());
    }
    let cycles = match std::env::var(CYCLES) {
        Ok(count) => count.parse().with_context(|| format!("{CYCLES}={count}"))?,
        Err(_) => 1_000,
    };
    let server = Supervised::redis(&[], 5_000, 500)?;
    let leader = server.server.pid();
    let agent = server.mvedsua.agent_pid().context("an agent")?;
    let before = Before::of(leader);
    let mut warm = None;
    let mut pauses = Vec::new();
    for cycle in 0..cycles {
        if cycle == WARM {
            warm = Some((Size::of(agent)?, Size::of(leader)?));
        }
        let status = server
            .update(&[])
            .with_context(|| format!("cycle {cycle}"))?;
        pauses.extend(status.pauses_ms.snapshot);
        server.more_requests(10)?;
        server.mvedsua.rollback(NAME)?;
        before.check().with_context(|| format!("cycle {cycle}"))?;
        if cycle % 50 == 49 {
            let (agent, leader) = (Size::of(agent)?, Size::of(leader)?);
            println!(
                "after {} cycles: agent {agent:?}, server {leader:?}",
                cycle + 1
            );
        }
    }
    pauses.sort_by(f64::total_cmp);
    println!(
        "pauses: median {:?} ms, longest {:?} ms",
        pauses.get(pauses.len() / 2),
        pauses.last()
    );
    let (agent_warm, leader_warm) = warm.context("too few cycles to say anything")?;
    agent_warm.check(Size::of(agent)?, "the agent")?;
    leader_warm.check(Size::of(leader)?, "the server")?;
    server.finish()
}

#[test]
fn one_server_goes_on_at_every_single_step() -> Result<()> {
    let needs = [Need::Root, Need::Program("cc")];
    if !can_run("one_server_goes_on_at_every_single_step", &needs) {
        return Ok(());
    }
    mvedsua_tests::deaths::through_steps("diverges", 1, mvedsua_tests::deaths::Reached::End)
        .map(drop)
}

/// Every version serves for a while, and no write of any is lost.
#[test]
fn a_hundred_promotions_under_load_lose_nothing() -> Result<()> {
    let needs = [Need::Root, Need::Program("redis-server")];
    if !can_run("a_hundred_promotions_under_load_lose_nothing", &needs) {
        return Ok(());
    }
    let mut server = Supervised::redis(&[], 2_000, 3_000)?;
    for promotion in 0..100 {
        let step = (|| {
            server.update(&[])?;
            server.more_requests(300)?;
            if promotion % 2 == 0 {
                server.promote_finalize()?;
            } else {
                server.mvedsua.promote(NAME)?;
                server.more_requests(300)?;
                server.mvedsua.finalize(NAME)?;
                server.server.reap();
            }
            server.more_requests(300)
        })();
        step.with_context(|| format!("promotion {promotion}"))?;
    }
    server.finish()
}

/// The server goes on, and what it says is right, through many deaths of the agent and successors.
#[test]
fn a_hundred_deaths_of_the_agent_change_nothing() -> Result<()> {
    let needs = [Need::Root, Need::Program("redis-server")];
    if !can_run("a_hundred_deaths_of_the_agent_change_nothing", &needs) {
        return Ok(());
    }
    let mut server = Supervised::redis(&[], 2_000, 3_000)?;
    let leader = server.server.pid();
    for death in 0..100 {
        let step = (|| {
            server.update(&[])?;
            server.more_requests(200)?;
            server.mvedsua.kill_agent();
            server.more_requests(200).context("without an agent")?;
            server.mvedsua.start_agent()?;
            let status = server.status()?;
            anyhow::ensure!(status.leader.pid == leader, "{status:?}");
            server.more_requests(200).context("with a successor")
        })();
        step.with_context(|| format!("death {death}"))?;
    }
    server.finish()
}
