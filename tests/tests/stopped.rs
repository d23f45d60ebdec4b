//! A server that a signal has stopped (`kill -STOP`), before, in and after an update.

use std::time::Duration;

use anyhow::{Result, ensure};
use mvedsua_tests::process::{self, Signal};
use mvedsua_tests::{Mvedsua, Need, Victim, can_run, wait_until};

const NEEDS: &[Need] = &[Need::Root, Need::Program("cc")];
const LIMIT: Duration = Duration::from_secs(20);
const NAME: &str = "stopped";

fn updated() -> Result<(Mvedsua, Victim)> {
    let victim = Victim::start("diverges")?;
    Ok((update(&victim)?, victim))
}

fn update(victim: &Victim) -> Result<Mvedsua> {
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(victim.pid(), NAME)?;
    mvedsua.update_identity(NAME, &[])?;
    victim.wait_rounds(10)?;
    Ok(mvedsua)
}

/// Stops a process.
fn stop(pid: i32) -> Result<()> {
    /// A traced process stands for a moment now and then.
    const LOOKS: u32 = 50;
    process::send(pid, Signal::SIGSTOP)?;
    let mut looks = 0;
    let stands = wait_until(LIMIT, || {
        looks = if process::stands(pid) { looks + 1 } else { 0 };
        looks >= LOOKS
    });
    ensure!(stands, "it does not stop");
    Ok(())
}

/// Stops a process in the middle of a sleep, which the stop interrupts and which goes on behind it.
fn stop_asleep(pid: i32) -> Result<()> {
    /// The number of `clock_nanosleep`, as `/proc/PID/syscall` begins.
    const SLEEP: &str = "230 ";
    let sleeps = || {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
        call.is_ok_and(|call| call.starts_with(SLEEP))
    };
    for _ in 0..20 {
        ensure!(wait_until(LIMIT, sleeps), "it never sleeps");
        stop(pid)?;
        if sleeps() {
            return Ok(());
        }
        process::send(pid, Signal::SIGCONT)?;
    }
    anyhow::bail!("it never sleeps for long enough")
}

fn refuses(mvedsua: &Mvedsua, words: &[&str], why: &str) -> Result<()> {
    let refused = mvedsua.run(words)?;
    ensure!(
        refused.code == 5 && refused.stderr.contains(why),
        "{refused:?}"
    );
    Ok(())
}

/// It stands still: nothing that was done to it has made it go on.
fn still_stands(victim: &Victim, rounds: u64) -> Result<()> {
    ensure!(process::stands(victim.pid()), "it runs");
    ensure!(victim.rounds() == rounds, "it went on");
    Ok(())
}

/// The agent dies, and its guard ends, before anything else happens.
fn kill_with_guard(mvedsua: &mut Mvedsua) -> Result<()> {
    let agent = mvedsua.agent_pid();
    let guards = agent.map(process::children).unwrap_or_default();
    ensure!(!guards.is_empty(), "the agent has no guard");
    mvedsua.kill_agent();
    let gone = || guards.iter().all(|guard| !process::is_alive(*guard));
    ensure!(wait_until(LIMIT, gone), "the guard does not end");
    Ok(())
}

#[test]
fn a_stopped_leader_is_rolled_back_and_stays_stopped() -> Result<()> {
    if !can_run("a_stopped_leader_is_rolled_back_and_stays_stopped", NEEDS) {
        return Ok(());
    }
    let victim = Victim::start("diverges")?;
    let before = victim.footprint()?;
    let mvedsua = update(&victim)?;
    stop_asleep(victim.pid())?;
    let rounds = victim.rounds();
    refuses(&mvedsua, &["promote", NAME], "kill -CONT")?;
    mvedsua.rollback(NAME)?;
    ensure!(process::is_untraced(victim.pid()));
    still_stands(&victim, rounds)?;
    process::send(victim.pid(), Signal::SIGCONT)?;
    victim.wait_rounds(10)?;
    ensure!(victim.footprint()? == before, "it is not as it was");
    victim.end()
}

#[test]
fn a_stopped_leader_is_promoted_when_it_goes_on() -> Result<()> {
    if !can_run("a_stopped_leader_is_promoted_when_it_goes_on", NEEDS) {
        return Ok(());
    }
    let (mvedsua, mut victim) = updated()?;
    stop(victim.pid())?;
    refuses(&mvedsua, &["promote", NAME], "kill -CONT")?;
    process::send(victim.pid(), Signal::SIGCONT)?;
    victim.wait_rounds(10)?;
    mvedsua.promote(NAME)?;
    mvedsua.finalize(NAME)?;
    victim.promoted(mvedsua.status(NAME)?.leader.pid)?;
    victim.wait_rounds(10)?;

    // The promoted process is traced all the time, and can be stopped all the same.
    stop(victim.pid())?;
    let rounds = victim.rounds();
    refuses(&mvedsua, &["update", NAME, "--identity"], "error[E204]")?;
    still_stands(&victim, rounds)?;
    process::send(victim.pid(), Signal::SIGCONT)?;
    victim.wait_rounds(10)?;
    mvedsua.update_identity(NAME, &[])?;
    victim.wait_rounds(10)?;
    // And so it is when its next update is rolled back.
    stop(victim.pid())?;
    let rounds = victim.rounds();
    mvedsua.rollback(NAME)?;
    still_stands(&victim, rounds)?;
    process::send(victim.pid(), Signal::SIGCONT)?;
    victim.wait_rounds(10)?;
    victim.end()
}

/// The recorder may have stopped it in the agent's last moment, and the guard may have come too late.
#[test]
fn a_leader_that_a_killed_agent_left_stopped_goes_on() -> Result<()> {
    if !can_run("a_leader_that_a_killed_agent_left_stopped_goes_on", NEEDS) {
        return Ok(());
    }
    let (mut mvedsua, victim) = updated()?;
    kill_with_guard(&mut mvedsua)?;
    stop(victim.pid())?;
    mvedsua.start_agent()?;
    victim.wait_rounds(10)?;
    ensure!(process::is_untraced(victim.pid()));
    mvedsua.update_identity(NAME, &[])?;
    victim.wait_rounds(10)?;
    mvedsua.rollback(NAME)?;
    victim.end()
}

#[test]
fn a_promoted_leader_that_a_killed_agent_left_stopped_goes_on() -> Result<()> {
    if !can_run(
        "a_promoted_leader_that_a_killed_agent_left_stopped_goes_on",
        NEEDS,
    ) {
        return Ok(());
    }
    let (mut mvedsua, mut victim) = updated()?;
    mvedsua.promote(NAME)?;
    let promoted = mvedsua.status(NAME)?.leader.pid;
    victim.wait_rounds(10)?;
    kill_with_guard(&mut mvedsua)?;
    victim.promoted(promoted)?;
    stop(promoted)?;
    mvedsua.start_agent()?;
    victim.wait_rounds(10)?;
    mvedsua.update_identity(NAME, &[])?;
    victim.wait_rounds(10)?;
    mvedsua.rollback(NAME)?;
    victim.end()
}
