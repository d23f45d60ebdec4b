//! Every call of the table, signals, threads, process trees and descriptors of every kind, under an
//! identity follower: nothing may differ, and afterwards the server is as it was or the follower is
//! the server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::mvedsua::{Outcome, Status};
use mvedsua_tests::{Mvedsua, Need, Victim, can_run, process, wait_until};
use nix::sys::signal::Signal;

const NEEDS: &[Need] = &[Need::Root, Need::Program("cc")];
/// Timers keep their ids from Linux 6.15 on (`PR_TIMER_CREATE_RESTORE_IDS`).
const LASTING: &[Need] = &[Need::Root, Need::Program("cc"), Need::Linux(6, 15)];
const LIMIT: Duration = Duration::from_secs(60);

/// Starts the victim, has it followed for `rounds` rounds, and checks that nothing differed.
fn followed(name: &str, rounds: u64) -> Result<(Mvedsua, Victim)> {
    let victim = Victim::start(name)?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_without_children(victim.pid(), name)?;
    follow(&mvedsua, &victim, name, rounds)?;
    Ok((mvedsua, victim))
}

fn follow(mvedsua: &Mvedsua, victim: &Victim, name: &str, rounds: u64) -> Result<()> {
    mvedsua.update_identity(name, &[])?;
    let at_start = mvedsua.status(name)?;
    victim.wait_rounds(rounds)?;
    // At least one call a round; the agent looks at the ring now and then.
    let wanted = at_start.events.recorded + rounds;
    let status = mvedsua.wait_for(name, LIMIT, |status| {
        status.follower.is_none() || status.events.recorded > wanted
    })?;
    ensure_equal(&status)?;
    ensure_equal(&mvedsua.wait_matched(name, LIMIT, status.events.recorded)?)
}

fn ensure_equal(status: &Status) -> Result<()> {
    let report = status
        .last_update
        .as_ref()
        .and_then(|update| update.report.clone())
        .unwrap_or_default();
    ensure!(status.stage == "outdated-leader", "{status:?}\n{report}");
    ensure!(
        status
            .follower
            .is_some_and(|follower| process::is_alive(follower.pid)),
        "{status:?}"
    );
    ensure!(status.events.diverged == 0, "{status:?}");
    // Each relaxation costs 50 ms; a few are the price of lock order that no call shows.
    ensure!(
        status.events.relaxed * 1000 <= status.events.matched,
        "{status:?}"
    );
    Ok(())
}

/// Rolls back: the victim is as it was before it was attached.
fn rolled_back(name: &str, rounds: u64) -> Result<()> {
    let victim = Victim::start(name)?;
    let before = victim.footprint()?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_without_children(victim.pid(), name)?;
    follow(&mvedsua, &victim, name, rounds)?;
    let follower = mvedsua
        .status(name)?
        .follower
        .map_or(0, |follower| follower.pid);
    mvedsua.rollback(name)?;
    ensure!(process::is_untraced(victim.pid()) && process::is_unfiltered(victim.pid()));
    ensure!(
        !process::is_alive(follower),
        "the follower {follower} is still there"
    );
    victim.wait_rounds(rounds)?;
    assert_eq!(victim.footprint()?, before);
    victim.end()
}

/// Promotes and finalizes: the follower goes on where the victim was.
fn promoted(name: &str, rounds: u64) -> Result<()> {
    let (mvedsua, mut victim) = followed(name, rounds)?;
    let follower = mvedsua
        .status(name)?
        .follower
        .map_or(0, |follower| follower.pid);
    mvedsua.run(&["promote", name, "--finalize"])?.ok()?;
    let status = mvedsua
        .status(name)
        .with_context(|| format!("the victim says: {}", victim.log()))?;
    ensure!(
        status.leader.pid == follower && status.stage == "single-leader",
        "{status:?}"
    );
    victim.promoted(follower)?;
    victim.wait_rounds(rounds)?;
    victim.end()
}

/// A promotion that cannot be made now is refused, and everything goes on.
fn promotion_refused(name: &str, rounds: u64, why: &str) -> Result<()> {
    let (mvedsua, victim) = followed(name, rounds)?;
    let outcome = mvedsua.run(&["promote", name, "--finalize"])?;
    ensure!(outcome.code == 5, "{outcome:?}");
    ensure!(
        outcome.stderr.contains("E232") && outcome.stderr.contains(why),
        "{outcome:?}"
    );
    victim.wait_rounds(rounds)?;
    ensure_equal(&mvedsua.status(name)?)?;
    mvedsua.rollback(name)?;
    victim.wait_rounds(rounds)?;
    victim.end()
}

#[test]
fn every_call_is_followed_and_rolled_back() -> Result<()> {
    if !can_run("every_call_is_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    rolled_back("calls", 100)
}

#[test]
fn handled_faults_and_ignored_signals_are_followed_and_rolled_back() -> Result<()> {
    let name = "handled_faults_and_ignored_signals_are_followed_and_rolled_back";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    rolled_back("handlers", 30)
}

#[test]
fn a_promoted_server_handles_its_faults_and_is_not_interrupted() -> Result<()> {
    let name = "a_promoted_server_handles_its_faults_and_is_not_interrupted";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let (mvedsua, mut victim) = followed("handlers", 30)?;
    mvedsua.promote("handlers")?;
    victim.wait_rounds(30)?;
    // Back to the old version, and forth again.
    mvedsua.rollback("handlers")?;
    victim.wait_rounds(30)?;
    follow(&mvedsua, &victim, "handlers", 30)?;
    let follower = mvedsua
        .status("handlers")?
        .follower
        .map_or(0, |follower| follower.pid);
    mvedsua.run(&["promote", "handlers", "--finalize"])?.ok()?;
    victim.promoted(follower)?;
    victim.wait_rounds(30)?;
    // The promoted one is followed and let go, as one that never was.
    follow(&mvedsua, &victim, "handlers", 30)?;
    mvedsua.rollback("handlers")?;
    victim.wait_rounds(30)?;
    victim.end()
}

/// It changes its user ids, its scheduling and so on, to what they are: all that could not be
/// repeated is named.
#[test]
fn a_server_that_changes_what_it_is_is_not_promoted() -> Result<()> {
    if !can_run("a_server_that_changes_what_it_is_is_not_promoted", NEEDS) {
        return Ok(());
    }
    promotion_refused("calls", 30, "personality")
}

#[test]
fn descriptors_of_every_kind_are_followed_and_rolled_back() -> Result<()> {
    if !can_run(
        "descriptors_of_every_kind_are_followed_and_rolled_back",
        NEEDS,
    ) {
        return Ok(());
    }
    rolled_back("fds", 300)
}

#[test]
fn descriptors_of_every_kind_are_promoted() -> Result<()> {
    if !can_run("descriptors_of_every_kind_are_promoted", NEEDS) {
        return Ok(());
    }
    promoted("fds", 300)
}

#[test]
fn threads_are_followed_and_rolled_back() -> Result<()> {
    if !can_run("threads_are_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    rolled_back("threads", 300)
}

#[test]
fn threads_are_promoted() -> Result<()> {
    if !can_run("threads_are_promoted", NEEDS) {
        return Ok(());
    }
    promoted("threads", 300)
}

#[test]
fn signals_are_followed_and_rolled_back() -> Result<()> {
    if !can_run("signals_are_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    rolled_back("signals", 150)
}

/// It makes children, too, and POSIX timers that come and go.
#[test]
fn signals_are_promoted() -> Result<()> {
    if !can_run("signals_are_promoted", NEEDS) {
        return Ok(());
    }
    promoted_without_children("signals", 50)
}

/// POSIX timers go on under their ids, signals wait on, scheduling is as it was set last.
#[test]
fn what_the_kernel_keeps_goes_over() -> Result<()> {
    if !can_run("what_the_kernel_keeps_goes_over", LASTING) {
        return Ok(());
    }
    rolled_back("lasting", 100)?;
    promoted("lasting", 100)
}

#[test]
fn what_the_kernel_keeps_goes_over_and_comes_back() -> Result<()> {
    if !can_run("what_the_kernel_keeps_goes_over_and_comes_back", LASTING) {
        return Ok(());
    }
    let (mut mvedsua, victim) = followed("lasting", 100)?;
    leads_and_goes_back(&mut mvedsua, &victim, "lasting", (100, 1000), |_| Ok(()))
        .with_context(|| format!("it says: {}\n{}", victim.log(), mvedsua.log()))?;
    victim.end()
}

/// The copy leads for so many rounds and matched events, equal to the old version, which leads again then, and waits
/// for a successor if the agent dies. `looks` once more before that.
fn leads_and_goes_back(
    mvedsua: &mut Mvedsua,
    victim: &Victim,
    name: &str,
    (rounds, events): (u64, u64),
    looks: impl FnOnce(&Mvedsua) -> Result<()>,
) -> Result<()> {
    mvedsua.promote(name)?;
    let before = mvedsua.status(name)?;
    victim.wait_rounds(rounds)?;
    let status = mvedsua.wait_for(name, LIMIT, |status| {
        status.follower.is_none() || status.events.matched > before.events.matched + events
    })?;
    ensure!(
        status.stage == "updated-leader" && status.events.diverged == 0,
        "{status:?}"
    );
    looks(mvedsua)?;
    mvedsua.rollback(name)?;
    ensure!(mvedsua.status(name)?.leader.pid == victim.pid());
    victim.wait_rounds(rounds)?;
    mvedsua.kill_agent();
    ensure!(
        wait_until(LIMIT, || process::is_untraced(victim.pid())),
        "it is gone"
    );
    mvedsua.start_agent()?;
    victim.wait_rounds(rounds)
}

#[test]
fn held_locks_and_signalfds_go_over_and_come_back() -> Result<()> {
    if !can_run("held_locks_and_signalfds_go_over_and_come_back", NEEDS) {
        return Ok(());
    }
    rolled_back("holds", 100)?;
    promoted("holds", 100)?;
    let (mut mvedsua, victim) = followed("holds", 100)?;
    leads_and_goes_back(&mut mvedsua, &victim, "holds", (100, 1000), |_| Ok(()))?;
    victim.end()
}

#[test]
fn clocks_are_followed_and_rolled_back() -> Result<()> {
    if !can_run("clocks_are_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    rolled_back("clocks", 300)?;
    // Each reading was the leader's own, in its place: nothing had to be made good.
    let (mvedsua, victim) = followed("clocks", 300)?;
    ensure_no_reading_differed(&mvedsua)?;
    mvedsua.rollback("clocks")?;
    victim.end()
}

fn ensure_no_reading_differed(mvedsua: &Mvedsua) -> Result<()> {
    let status = mvedsua.status("clocks")?;
    ensure!(
        status.events.matched > 10_000 && status.events.reconciled == 0,
        "{status:?}"
    );
    Ok(())
}

#[test]
fn clocks_are_promoted() -> Result<()> {
    if !can_run("clocks_are_promoted", NEEDS) {
        return Ok(());
    }
    promoted("clocks", 300)
}

/// The slots change hands twice: the old version takes the new one's readings, and then leads again.
#[test]
fn clocks_are_read_on_both_ways() -> Result<()> {
    if !can_run("clocks_are_read_on_both_ways", NEEDS) {
        return Ok(());
    }
    let (mut mvedsua, victim) = followed("clocks", 100)?;
    let looks = ensure_no_reading_differed;
    leads_and_goes_back(&mut mvedsua, &victim, "clocks", (200, 10_000), looks)?;
    victim.end()
}

/// Its clock functions go on writing readings down that nobody takes, with signals in between; the successor
/// restores them while handlers run.
#[test]
fn clocks_outlive_their_agent() -> Result<()> {
    if !can_run("clocks_outlive_their_agent", NEEDS) {
        return Ok(());
    }
    let (mut mvedsua, victim) = followed("clocks", 100)?;
    for _ in 0..5 {
        mvedsua.kill_agent();
        victim.wait_rounds(100)?;
        mvedsua.start_agent()?;
        // It answers when it has taken over.
        ensure!(mvedsua.status("clocks")?.follower.is_none());
        ensure!(process::is_untraced(victim.pid()));
        victim.wait_rounds(50)?;
        follow(&mvedsua, &victim, "clocks", 50)?;
    }
    mvedsua.rollback("clocks")?;
    victim.wait_rounds(50)?;
    victim.end()
}

/// A handler that was entered while the agent was dead returns to the clock code that the agent left, whenever it is
/// through: until then nothing may be copied, and that code stays.
#[test]
fn a_handler_may_return_long_after_the_agents_death() -> Result<()> {
    if !can_run("a_handler_may_return_long_after_the_agents_death", NEEDS) {
        return Ok(());
    }
    handlers_may_return("held", |victim| Ok(victim.pid()))
}

#[test]
fn a_childs_handler_may_return_long_after_the_agents_death() -> Result<()> {
    if !can_run(
        "a_childs_handler_may_return_long_after_the_agents_death",
        NEEDS,
    ) {
        return Ok(());
    }
    let child = |victim: &Victim| {
        // The others come and go.
        let children = process::children(victim.pid());
        children.into_iter().min().context("it has no child")
    };
    handlers_may_return("heldchild", child)
}

/// A reading that was begun before the update is not finished by each version for itself.
#[test]
fn a_handler_may_have_come_within_a_reading_before_the_update() -> Result<()> {
    if !can_run(
        "a_handler_may_have_come_within_a_reading_before_the_update",
        NEEDS,
    ) {
        return Ok(());
    }
    let victim = Victim::start("held")?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach_without_children(victim.pid(), "held")?;
    let hold = victim.dir().join("progress.hold");
    let mut refused = 0;
    // The signal may come between two readings.
    for _ in 0..100 {
        process::send(victim.pid(), Signal::SIGUSR1)?;
        ensure!(
            wait_until(LIMIT, || waits_to_go_on(victim.pid())),
            "{}",
            victim.log()
        );
        let outcome = mvedsua.run(&["update", "held", "--identity"])?;
        let is_refused = is_refused_for_a_handler(&outcome);
        if is_refused {
            ensure!(process::is_untraced(victim.pid()));
            refused += 1;
        } else {
            outcome.ok()?;
        }
        std::fs::write(&hold, "x")?;
        if is_refused {
            victim.wait_rounds(20)?;
            mvedsua.update_identity("held", &[])?;
        }
        let recorded = mvedsua.status("held")?.events.recorded;
        victim.wait_rounds(20)?;
        ensure_equal(&mvedsua.wait_matched("held", LIMIT, recorded + 20)?)?;
        mvedsua.rollback("held")?;
        if refused > 2 {
            return victim.end();
        }
    }
    anyhow::bail!("no signal came within a reading of a clock")
}

/// The held victim's process is in its handler.
fn waits_to_go_on(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with("0 "))
}

fn is_refused_for_a_handler(outcome: &Outcome) -> bool {
    outcome.code == 5 && outcome.stderr.contains("in the handler of a signal")
}

/// `reader`: the process that reads the clock until the signal comes.
fn handlers_may_return(name: &str, reader: impl Fn(&Victim) -> Result<i32>) -> Result<()> {
    let victim = Victim::start(name)?;
    let mut mvedsua = Mvedsua::start()?;
    mvedsua.attach_with_children(victim.pid(), name)?;
    follow(&mvedsua, &victim, name, 20)?;
    let (pid, hold) = (reader(&victim)?, victim.dir().join("progress.hold"));
    let stands = || waits_to_go_on(pid);
    // The signal may come between two readings.
    for _ in 0..30 {
        mvedsua.kill_agent();
        process::send(pid, Signal::SIGUSR1)?;
        ensure!(wait_until(LIMIT, stands), "{}", victim.log());
        mvedsua.start_agent()?;
        ensure!(mvedsua.status(name)?.follower.is_none());
        ensure!(process::is_untraced(pid));
        let is_left = mvedsua.log().contains("may return to the clock code");
        let outcome = mvedsua.run(&["update", name, "--identity"])?;
        if is_refused_for_a_handler(&outcome) {
            ensure!(process::is_untraced(pid));
        } else {
            ensure!(!is_left, "{outcome:?}");
            outcome.ok()?;
            mvedsua.rollback(name)?;
        }
        std::fs::write(&hold, "x")?;
        victim
            .wait_rounds(20)
            .with_context(|| format!("left: {is_left}; it says: {}", victim.log()))?;
        follow(&mvedsua, &victim, name, 20)?;
        if is_left {
            mvedsua.rollback(name)?;
            victim.wait_rounds(20)?;
            return victim.end();
        }
    }
    anyhow::bail!("no signal came within a reading of a clock")
}

/// A thread in `vfork` cannot stop before its child is through: who takes over must not hold that child for it.
#[test]
fn a_server_in_vfork_is_taken_over() -> Result<()> {
    if !can_run("a_server_in_vfork_is_taken_over", NEEDS) {
        return Ok(());
    }
    taken_over_in_vfork(false)?;
    taken_over_in_vfork(true)
}

fn taken_over_in_vfork(promoted: bool) -> Result<()> {
    let name = "borrowed";
    let (mut mvedsua, mut victim) = followed(name, 20)?;
    let mut leader = victim.pid();
    if promoted {
        mvedsua.promote(name)?;
        leader = mvedsua.status(name)?.leader.pid;
        victim.wait_rounds(20)?;
    }
    process::send(leader, Signal::SIGUSR1)?;
    let has_child = || !process::children(leader).is_empty();
    ensure!(wait_until(LIMIT, has_child), "it makes no child");
    mvedsua.kill_agent();
    if promoted {
        victim.promoted(leader)?;
    }
    mvedsua.start_agent()?;
    ensure!(
        wait_until(LIMIT, || !process::is_untraced(leader)),
        "the successor does not seize it: {}",
        mvedsua.log()
    );
    std::fs::write(victim.dir().join("progress.hold"), "x")?;
    victim.wait_rounds(20).with_context(|| mvedsua.log())?;
    ensure!(mvedsua.status(name)?.follower.is_none());
    ensure!(promoted || process::is_untraced(leader));
    follow(&mvedsua, &victim, name, 20)?;
    mvedsua.rollback(name)?;
    victim.end()
}

#[test]
fn process_trees_are_followed_and_rolled_back() -> Result<()> {
    if !can_run("process_trees_are_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    rolled_back("forks", 100)
}

/// While it has children the promotion is refused; between two rounds it has none.
#[test]
fn a_server_is_promoted_when_it_has_no_children() -> Result<()> {
    if !can_run("a_server_is_promoted_when_it_has_no_children", NEEDS) {
        return Ok(());
    }
    promoted_without_children("forks", 50)
}

fn promoted_without_children(name: &str, rounds: u64) -> Result<()> {
    let (mvedsua, mut victim) = followed(name, rounds)?;
    let follower = mvedsua
        .status(name)?
        .follower
        .map_or(0, |follower| follower.pid);
    let mut last = None;
    let done = wait_until(LIMIT, || {
        last = mvedsua.run(&["promote", name, "--finalize"]).ok();
        last.as_ref()
            .is_none_or(|outcome| outcome.code != 5 || !outcome.stderr.contains("child process"))
    });
    ensure!(
        done && last.as_ref().is_some_and(|outcome| outcome.code == 0),
        "{last:?}"
    );
    victim.promoted(follower)?;
    victim.wait_rounds(rounds)?;
    victim.end()
}

/// What others see of who a process is.
fn identity(pid: i32) -> Result<Vec<String>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let names = [
        "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
    ];
    let lines = status.lines().filter(|line| {
        names.iter().any(|name| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(':'))
        })
    });
    let root = std::fs::read_link(format!("/proc/{pid}/root"))?;
    Ok(lines
        .map(str::to_owned)
        .chain([root.display().to_string()])
        .collect())
}

/// The record locks of a process, by `/proc/locks`.
fn locks(pid: i32) -> Result<usize> {
    let all = std::fs::read_to_string("/proc/locks")?;
    let of = |line: &&str| line.split_whitespace().nth(4) == Some(&pid.to_string());
    Ok(all
        .lines()
        .filter(of)
        .filter(|line| line.contains("POSIX"))
        .count())
}

/// A victim that has given its privileges away while it was followed, who it is now, and its follower.
fn dropped() -> Result<(Mvedsua, Victim, Vec<String>, i32)> {
    let (mvedsua, victim) = followed("privileges", 20)?;
    let root = identity(victim.pid())?;
    process::send(victim.pid(), Signal::SIGUSR1)?;
    ensure!(
        wait_until(LIMIT, || identity(victim.pid()).is_ok_and(|now| now
            != root
            && now.contains(&"CapEff:\t0000000000000400".to_owned()))),
        "it gives nothing away: {:?}",
        identity(victim.pid())
    );
    victim.wait_rounds(20)?;
    let follower = mvedsua
        .status("privileges")?
        .follower
        .map_or(0, |follower| follower.pid);
    let dropped = identity(victim.pid())?;
    Ok((mvedsua, victim, dropped, follower))
}

#[test]
fn privileges_that_were_given_away_are_not_promoted() -> Result<()> {
    if !can_run("privileges_that_were_given_away_are_not_promoted", LASTING) {
        return Ok(());
    }
    let (mvedsua, mut victim, dropped, follower) = dropped()?;
    mvedsua.promote("privileges")?;
    assert_eq!(identity(follower)?, dropped);
    victim.wait_rounds(20)?;
    // Back to the old version, and forth again.
    let old = victim.pid();
    mvedsua.rollback("privileges")?;
    assert_eq!(identity(old)?, dropped);
    victim.wait_rounds(20)?;
    mvedsua.update_identity("privileges", &[])?;
    process::send(old, Signal::SIGUSR2)?;
    ensure!(wait_until(LIMIT, || locks(old).is_ok_and(|locks| locks == 1)));
    victim.wait_rounds(20)?;
    // The lock goes with whoever leads.
    let follower = mvedsua
        .status("privileges")?
        .follower
        .map_or(0, |follower| follower.pid);
    mvedsua.promote("privileges")?;
    assert_eq!((locks(old)?, locks(follower)?), (0, 1));
    victim.wait_rounds(20)?;
    mvedsua.rollback("privileges")?;
    assert_eq!(locks(old)?, 1);
    victim.wait_rounds(20)?;
    mvedsua.update_identity("privileges", &[])?;
    let follower = mvedsua
        .status("privileges")?
        .follower
        .map_or(0, |follower| follower.pid);
    mvedsua
        .run(&["promote", "privileges", "--finalize"])?
        .ok()?;
    victim.promoted(follower)?;
    assert_eq!(identity(follower)?, dropped);
    assert_eq!(locks(follower)?, 1);
    victim.wait_rounds(20)?;
    victim.end()
}

#[test]
fn privileges_that_were_given_away_are_not_taken_over() -> Result<()> {
    if !can_run(
        "privileges_that_were_given_away_are_not_taken_over",
        LASTING,
    ) {
        return Ok(());
    }
    for signal in [Signal::SIGSEGV, Signal::SIGKILL] {
        let (mvedsua, mut victim, dropped, follower) = dropped()?;
        process::send(victim.pid(), signal)?;
        mvedsua.wait_for("privileges", LIMIT, |status| status.leader.pid == follower)?;
        victim.promoted(follower)?;
        assert_eq!(identity(follower)?, dropped, "{signal}");
        victim.wait_rounds(20)?;
        victim.end()?;
    }
    Ok(())
}

/// A process that dies makes no calls, so it cannot be asked how far its timers are.
#[test]
fn timers_of_a_crashed_leader_go_on() -> Result<()> {
    if !can_run("timers_of_a_crashed_leader_go_on", LASTING) {
        return Ok(());
    }
    for signal in [Signal::SIGKILL, Signal::SIGSEGV] {
        let (mvedsua, mut victim) = followed("timers", 20)?;
        for stage in ["outdated-leader", "updated-leader"] {
            if stage == "updated-leader" {
                mvedsua.update_identity("timers", &[])?;
                mvedsua.promote("timers")?;
                victim.promoted(mvedsua.status("timers")?.leader.pid)?;
                victim.wait_rounds(20)?;
            }
            let status = mvedsua.status("timers")?;
            let follower = status.follower.map_or(0, |follower| follower.pid);
            ensure!(status.stage == stage && follower != 0, "{status:?}");
            process::send(status.leader.pid, signal)?;
            let taken = mvedsua.wait_for("timers", LIMIT, |status| status.leader.pid == follower);
            taken.with_context(|| format!("{signal} in {stage}: {}", mvedsua.log()))?;
            victim.promoted(follower)?;
            victim
                .wait_rounds(50)
                .with_context(|| format!("{signal} in {stage}: {}", victim.log()))?;
        }
        victim.end()?;
    }
    Ok(())
}
