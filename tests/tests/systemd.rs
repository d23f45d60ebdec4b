//! Servers that are the main process of a systemd unit: systemd goes along with every exchange of roles, and the
//! unit stays what it was for whoever looks at it through `systemctl`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::process::{self, Signal};
use mvedsua_tests::server::free_port;
use mvedsua_tests::systemd::Systemd;
use mvedsua_tests::{Mvedsua, kvstore, victim, wait_until};
use tempfile::TempDir;

const UNIT: &str = "store.service";
const NAME: &str = "store";
const LIMIT: Duration = Duration::from_secs(60);

/// A store that is a unit, its client, and an agent.
struct Unit {
    mvedsua: Mvedsua,
    client: kvstore::Client,
    port: u16,
    systemd: Systemd,
}

fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("mvedsua-systemd-")
        .tempdir()?)
}

impl Unit {
    /// `options` are lines of its `[Service]` section.
    fn start(test: &str, options: &str) -> Result<Option<Self>> {
        let dir = folder()?;
        let program = kvstore::build(1, dir.path())?;
        let port = free_port()?;
        let service = format!("ExecStart={} {port}\n{options}", program.display());
        let Some(systemd) = Systemd::start(test, dir, &[(UNIT, &service)])? else {
            return Ok(None);
        };
        let pid = systemd.start_unit(UNIT)?;
        let addr = (std::net::Ipv4Addr::LOCALHOST, port).into();
        let mut client = None;
        let listens = wait_until(LIMIT, || {
            client = kvstore::Client::connect(addr).ok();
            client.is_some()
        });
        ensure!(listens, "the store does not listen: {}", systemd.log());
        let mvedsua = Mvedsua::start()?;
        mvedsua.attach(pid, NAME)?;
        let mut unit = Self {
            mvedsua,
            client: client.context("a client")?,
            port,
            systemd,
        };
        ensure!(unit.client.ask("PUT a 1")? == "OK");
        Ok(Some(unit))
    }

    /// An update that has caught up; the leader and the follower.
    fn update(&self) -> Result<(i32, i32)> {
        self.mvedsua.update_identity(NAME, &[])?;
        let status = self.mvedsua.status(NAME)?;
        let follower = status.follower.as_ref().context("a follower")?.pid;
        Ok((status.leader.pid, follower))
    }

    /// The connection that was there from the beginning is served, new ones are, and the unit is well.
    fn serves(&mut self, main: i32) -> Result<()> {
        ensure!(self.client.ask("GET a")? == "1");
        let addr = (std::net::Ipv4Addr::LOCALHOST, self.port).into();
        ensure!(kvstore::Client::connect(addr)?.ask("GET a")? == "1");
        self.systemd.is_well(UNIT, main)?;
        // Nothing that systemd was still about to do: it has read all that came before a question.
        self.systemd.systemctl(&["daemon-reload"])?;
        self.systemd.is_well(UNIT, main)
    }
}

#[test]
fn a_unit_is_promoted_finalized_and_stopped() -> Result<()> {
    let test = "a_unit_is_promoted_finalized_and_stopped";
    let Some(mut unit) = Unit::start(test, "NotifyAccess=main\nRestart=always")? else {
        return Ok(());
    };
    let (old, new) = unit.update()?;
    unit.serves(old)?;
    unit.mvedsua.promote(NAME)?;
    unit.serves(new)?;
    unit.mvedsua.finalize(NAME)?;
    ensure!(!process::is_alive(old), "process {old} lives on");
    unit.serves(new)?;
    // And at once, from a process that systemd did not start.
    let (old, new) = unit.update()?;
    unit.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    ensure!(!process::is_alive(old), "process {old} lives on");
    unit.serves(new)?;
    unit.systemd.stop_unit(UNIT)
}

#[test]
fn a_unit_is_stopped_while_both_versions_run() -> Result<()> {
    let test = "a_unit_is_stopped_while_both_versions_run";
    let Some(mut unit) = Unit::start(test, "NotifyAccess=main\nRestart=always")? else {
        return Ok(());
    };
    let (old, new) = unit.update()?;
    unit.mvedsua.promote(NAME)?;
    unit.serves(new)?;
    unit.systemd.stop_unit(UNIT)?;
    let gone = wait_until(LIMIT, || !process::is_alive(old) && !process::is_alive(new));
    ensure!(gone, "{old} or {new} lives on");
    Ok(())
}

#[test]
fn a_promoted_unit_goes_back() -> Result<()> {
    let test = "a_promoted_unit_goes_back";
    let Some(mut unit) = Unit::start(test, "NotifyAccess=all\nRestart=always")? else {
        return Ok(());
    };
    let (old, new) = unit.update()?;
    unit.mvedsua.promote(NAME)?;
    unit.serves(new)?;
    unit.mvedsua.rollback(NAME)?;
    ensure!(!process::is_alive(new), "process {new} lives on");
    unit.serves(old)?;
    unit.systemd.stop_unit(UNIT)
}

#[test]
fn a_copy_takes_over_a_unit_whose_main_process_crashes() -> Result<()> {
    let test = "a_copy_takes_over_a_unit_whose_main_process_crashes";
    let Some(mut unit) = Unit::start(test, "NotifyAccess=main\nRestart=always")? else {
        return Ok(());
    };
    for signal in [Signal::SIGSEGV, Signal::SIGKILL] {
        let (old, new) = unit.update()?;
        process::send(old, signal)?;
        let status = unit.mvedsua.wait_for(NAME, LIMIT, |status| {
            status.stage == "single-leader" && status.leader.pid == new
        })?;
        let outcome = status.last_update.as_ref().map(|u| u.outcome.as_str());
        ensure!(outcome == Some("took-over"), "{status:?}");
        unit.serves(new)?;
    }
    unit.systemd.stop_unit(UNIT)
}

/// What the refusal tells the operator to run is run, word by word, and the update that was refused is promoted.
#[test]
fn a_unit_that_listens_to_nobody_is_promoted_when_that_was_allowed() -> Result<()> {
    let test = "a_unit_that_listens_to_nobody_is_promoted_when_that_was_allowed";
    let Some(mut unit) = Unit::start(test, "Restart=always")? else {
        return Ok(());
    };
    let (old, new) = unit.update()?;
    for options in [&[][..], &["--finalize"][..]] {
        let refused = unit.mvedsua.run(&[&["promote", NAME], options].concat())?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("E232"),
            "{refused:?}"
        );
    }
    unit.serves(old)?;
    let refused = unit.mvedsua.run(&["promote", NAME])?.stderr;
    let command = refused
        .split_once("mkdir -p")
        .and_then(|(_, rest)| rest.split_once("daemon-reload"))
        .map(|(command, _)| format!("mkdir -p{command}daemon-reload"))
        .with_context(|| refused.clone())?;
    unit.systemd.shell(&command)?;
    unit.serves(old)?;
    unit.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    unit.serves(new)?;
    unit.systemd.stop_unit(UNIT)
}

/// A systemd that is stuck is not waited for at the server's cost: a promotion is refused, or, where it gets stuck while
/// the roles are exchanged, rolled back; and when it goes on the unit has the main process that serves.
#[test]
fn a_systemd_that_does_not_answer_costs_no_server() -> Result<()> {
    let test = "a_systemd_that_does_not_answer_costs_no_server";
    let Some(mut unit) = Unit::start(test, "NotifyAccess=main\nRestart=always")? else {
        return Ok(());
    };
    let (mut old, mut new) = unit.update()?;
    let stands = |pid: i32| process::status_field(pid, "State").is_some_and(|s| s.starts_with('T'));
    let systemd = unit.systemd.pid();
    process::send(systemd, Signal::SIGSTOP)?;
    ensure!(wait_until(LIMIT, || stands(systemd)), "systemd goes on");
    let refused = unit.mvedsua.run(&["promote", NAME, "--finalize"])?;
    process::send(systemd, Signal::SIGCONT)?;
    ensure!(
        refused.code == 5 && refused.stderr.contains("E232"),
        "{refused:?}"
    );
    unit.serves(old)?;
    // While the roles are exchanged the leader stands still, held by its tracer.
    for _ in 0..30 {
        let held = || process::status_field(old, "State").is_some_and(|s| s.starts_with('t'));
        let outcome = unit
            .systemd
            .while_it_stands(held, || unit.mvedsua.run(&["promote", NAME, "--finalize"]))?;
        if outcome.code == 3 {
            ensure!(outcome.stderr.contains("systemd"), "{outcome:?}");
            unit.serves(old)?;
            return unit.systemd.stop_unit(UNIT);
        }
        // It was stopped too late, or so early that nothing had begun.
        if outcome.code == 5 {
            unit.serves(old)?;
        } else {
            outcome.ok()?;
            unit.serves(new)?;
            (old, new) = unit.update()?;
        }
    }
    anyhow::bail!("systemd was never stopped in the middle of an exchange")
}

/// Nobody can tell systemd of a successor: it must see the end of the service as it was, and start it again if
/// that is what the unit says.
#[test]
fn a_unit_that_listens_to_nobody_ends_with_its_main_process() -> Result<()> {
    let test = "a_unit_that_listens_to_nobody_ends_with_its_main_process";
    let Some(unit) = Unit::start(test, "Restart=no")? else {
        return Ok(());
    };
    let (old, new) = unit.update()?;
    process::send(old, Signal::SIGKILL)?;
    let result = unit.systemd.result_of(UNIT)?;
    ensure!(result == "signal", "{result}");
    let gone = wait_until(LIMIT, || !process::is_alive(old) && !process::is_alive(new));
    ensure!(gone, "{old} or {new} lives on");
    Ok(())
}

/// From its second promotion on a tree's main process is no child of systemd, which takes it all the same.
#[test]
fn a_unit_with_child_processes_is_promoted() -> Result<()> {
    let test = "a_unit_with_child_processes_is_promoted";
    let dir = folder()?;
    let program = victim::compile("offspring", dir.path())?;
    let progress = dir.path().join("progress");
    let service = format!(
        "NotifyAccess=main\nExecStart={} {}",
        program.display(),
        progress.display()
    );
    let Some(systemd) = Systemd::start(test, dir, &[(UNIT, &service)])? else {
        return Ok(());
    };
    let rounds = || -> u64 {
        let text = std::fs::read_to_string(&progress).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let goes_on = || {
        let until = rounds() + 10;
        wait_until(LIMIT, || rounds() >= until)
    };
    let pid = systemd.start_unit(UNIT)?;
    ensure!(goes_on(), "it does not run: {}", systemd.log());
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_with_children(pid, NAME)?;
    for words in [
        &[&["promote", NAME, "--finalize"][..]][..],
        &[&["promote", NAME], &["finalize", NAME]],
        &[&["promote", NAME], &["rollback", NAME]],
    ] {
        mvedsua.update_identity(NAME, &[])?;
        for words in words {
            mvedsua.run(words)?.ok()?;
            let main = mvedsua.status(NAME)?.leader.pid;
            ensure!(goes_on(), "it stands still: {}", mvedsua.log());
            systemd.is_well(UNIT, main)?;
        }
    }
    systemd.stop_unit(UNIT)
}

/// The agent dies before some of the steps of a promotion: systemd must never take that for the end of the service,
/// and must know the process that serves, once a successor of the agent is there.
#[test]
fn a_unit_goes_on_wherever_the_agent_dies() -> Result<()> {
    die_at_steps("a_unit_goes_on_wherever_the_agent_dies", 17)
}

/// The one moment in which the main process is a copy that does not serve: it must not end with the agent.
#[test]
fn a_unit_goes_on_when_the_agent_dies_after_it_named_the_copy() -> Result<()> {
    let test = "a_unit_goes_on_when_the_agent_dies_after_it_named_the_copy";
    let Some(mut unit) = Unit::start(test, "NotifyAccess=main\nRestart=always")? else {
        return Ok(());
    };
    let systemd = unit.systemd.pid();
    for _ in 0..30 {
        let (old, new) = unit.update()?;
        let agent = unit.mvedsua.agent_pid().context("an agent")?;
        // It has said what it had to, and waits until systemd has read it.
        let waits = || {
            process::threads(agent).into_iter().any(|tid| {
                let call = std::fs::read_to_string(format!("/proc/{agent}/task/{tid}/syscall"));
                call.is_ok_and(|call| call.starts_with("45 "))
            })
        };
        let named = std::thread::scope(|scope| -> Result<bool> {
            let promotion = scope.spawn(|| unit.mvedsua.run(&["promote", NAME, "--finalize"]));
            let held = || process::status_field(old, "State").is_some_and(|s| s.starts_with('t'));
            while !held() && !promotion.is_finished() {
                std::thread::yield_now();
            }
            process::send(systemd, Signal::SIGSTOP)?;
            let met = wait_until(LIMIT, || waits() || promotion.is_finished());
            if met && !promotion.is_finished() {
                process::send(agent, Signal::SIGSTOP)?;
            }
            process::send(systemd, Signal::SIGCONT)?;
            if promotion.is_finished() {
                return Ok(false);
            }
            let named = wait_until(LIMIT, || {
                unit.systemd.main(UNIT).is_ok_and(|pid| pid == new)
            });
            process::send(agent, Signal::SIGKILL)?;
            ensure!(
                named,
                "systemd was not told of {new}: {}",
                unit.systemd.log()
            );
            Ok(true)
        })?;
        if named {
            unit.mvedsua.kill_agent();
            ensure!(unit.client.ask("GET a")? == "1");
            unit.systemd.is_well(UNIT, new)?;
            ensure!(process::is_alive(old), "the server {old} is gone");
            unit.mvedsua.start_agent()?;
            ensure!(unit.mvedsua.status(NAME)?.leader.pid == old);
            ensure!(
                wait_until(LIMIT, || !process::is_alive(new)),
                "the copy {new} is left"
            );
            unit.serves(old)?;
            return unit.systemd.stop_unit(UNIT);
        }
        // systemd was stopped too late or too early. The next update is another try.
        if unit.mvedsua.status(NAME)?.stage == "outdated-leader" {
            unit.mvedsua.rollback(NAME)?;
        }
    }
    anyhow::bail!("systemd was never stopped in the middle of an exchange")
}

fn die_at_steps(test: &str, stride: u64) -> Result<()> {
    let Some(mut unit) = Unit::start(test, "NotifyAccess=main\nRestart=always")? else {
        return Ok(());
    };
    let (mut step, mut deaths) = (1, 0);
    loop {
        let done = die_at(&mut unit, step).with_context(|| format!("step {step}"))?;
        if done {
            break;
        }
        deaths += 1;
        step += stride;
    }
    ensure!(deaths > 5, "{deaths} deaths: the steps are counted wrongly");
    unit.systemd.stop_unit(UNIT)
}

/// Returns whether the agent has got to the end without dying.
fn die_at(unit: &mut Unit, step: u64) -> Result<bool> {
    // The one before has to let go of what it holds.
    unit.mvedsua.kill_agent();
    let promoted_before = unit.systemd.main(UNIT)?;
    unit.mvedsua.start_agent()?;
    // A process that was promoted once stays with the agent: its successors count from their start, so that
    // taking it over is among the steps.
    unit.mvedsua.kill_agent();
    unit.mvedsua.start_agent_that_dies(step)?;
    let mut done = true;
    for words in [
        &["update", NAME, "--identity"][..],
        &["promote", NAME],
        &["finalize", NAME],
    ] {
        done = unit.mvedsua.run_or_die(words, LIMIT)?;
        if !done {
            break;
        }
    }
    unit.mvedsua.kill_agent();
    unit.mvedsua.start_agent()?;
    let leader = unit.mvedsua.status(NAME)?.leader.pid;
    unit.serves(leader)
        .with_context(|| format!("before, {promoted_before} led: {}", unit.mvedsua.log()))?;
    Ok(done)
}
