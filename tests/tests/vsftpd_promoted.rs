//! A tree of processes that is promoted, goes back, and takes over.

use anyhow::{Context, Result, ensure};
use mvedsua_tests::ftp::Mode;
use mvedsua_tests::process::Signal;
use mvedsua_tests::sessions::{Ftp, LIMIT, NAME, Sessions};
use mvedsua_tests::vsftpd::NEEDS;
use mvedsua_tests::{can_run, process, wait_until};

#[test]
fn sessions_that_came_while_a_copy_followed_are_promoted() -> Result<()> {
    if !can_run(
        "sessions_that_came_while_a_copy_followed_are_promoted",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut ftp = Ftp::start()?;
    ftp.mvedsua.attach_with_children(ftp.server.pid(), NAME)?;
    ftp.update()?;
    let mut sessions = Sessions::open(&ftp.server, 2)?;
    ftp.follows(1 + Sessions::PROCESSES)?;
    ftp.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    ftp.server.reap();
    sessions.go_on()?;
    sessions.end(&ftp.server, 2)?;
    let status = ftp.mvedsua.status(NAME)?;
    ftp.server.tree_of(status.leader.pid, 1)
}

#[test]
fn a_tree_with_sessions_is_promoted_and_updated_again() -> Result<()> {
    if !can_run("a_tree_with_sessions_is_promoted_and_updated_again", NEEDS) {
        return Ok(());
    }
    let mut ftp = Ftp::start()?;
    let mut early = ftp.server.connect(Mode::Passive)?;
    let mut first = Sessions::open(&ftp.server, 1)?;
    let root = ftp.server.pid();
    // Without being told so, it is taken with the children that it has.
    ftp.mvedsua.attach(root, NAME)?;
    ftp.update()?;
    let mut later = Sessions::open(&ftp.server, 2)?;
    ftp.follows(3 + 2 * Sessions::PROCESSES)?;
    first.go_on()?;
    later.go_on()?;
    let old = process::descendants(root);
    let follower = ftp.mvedsua.status(NAME)?.follower.context("it follows")?;
    ftp.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    ftp.server.reap();
    let status = ftp.mvedsua.status(NAME)?;
    ensure!(status.leader.pid == follower.pid, "{status:?}");
    let left = old
        .iter()
        .chain([&root])
        .find(|pid| process::is_alive(**pid));
    ensure!(left.is_none(), "process {left:?} of the old tree is left");
    first.go_on()?;
    later.go_on()?;
    let last = Sessions::open(&ftp.server, 3)?;
    early.login("anonymous", "late")?;
    early.is_usable()?;
    first.end(&ftp.server, 1)?;
    later.end(&ftp.server, 2)?;
    last.end(&ftp.server, 3)?;
    early.quit()?;
    ftp.server.tree_of(status.leader.pid, 1)?;
    // Every transfer was made once.
    let uploads = ftp.server.log_lines("OK UPLOAD");
    ensure!(uploads.len() == 3, "{uploads:?}");
    // The copy is as good as the original.
    let sessions = Sessions::open(&ftp.server, 4)?;
    promoted_once_more(&ftp, sessions, 4)?;
    let status = ftp.mvedsua.status(NAME)?;
    ftp.server.tree_of(status.leader.pid, 1)
}

/// Sessions of all kinds that were there before the update, and others that came in it; the tree leads now, and the old
/// one follows.
fn leading() -> Result<(Ftp, Sessions, Sessions)> {
    let mut ftp = Ftp::start()?;
    let mut first = Sessions::open(&ftp.server, 1)?;
    ftp.mvedsua.attach(ftp.server.pid(), NAME)?;
    ftp.update()?;
    let mut later = Sessions::open(&ftp.server, 2)?;
    ftp.follows(1 + 2 * Sessions::PROCESSES)?;
    first.go_on()?;
    later.go_on()?;
    let old: Vec<i32> = process::descendants(ftp.server.pid())
        .into_iter()
        .chain([ftp.server.pid()])
        .collect();
    let follower = ftp.mvedsua.status(NAME)?.follower;
    let follower = follower.context("it follows")?.pid;
    let promoted = ftp.mvedsua.promote(NAME);
    promoted.with_context(|| ftp.mvedsua.log())?;
    let status = ftp.mvedsua.status(NAME)?;
    ensure!(
        status.stage == "updated-leader" && status.leader.pid == follower,
        "{status:?}\n{}",
        ftp.ended()
    );
    // The old processes are copied once more, and end.
    ensure!(
        wait_until(LIMIT, || {
            ftp.server.reap();
            !old.iter().any(|pid| process::is_alive(*pid))
        }),
        "of {old:?} something is left"
    );
    Ok((ftp, first, later))
}

#[test]
fn a_tree_leads_and_is_finalized() -> Result<()> {
    if !can_run("a_tree_leads_and_is_finalized", NEEDS) {
        return Ok(());
    }
    let (mut ftp, mut first, mut later) = leading()?;
    first.go_on()?;
    later.go_on()?;
    let mut new = Sessions::open(&ftp.server, 3)?;
    ftp.follows(1 + 3 * Sessions::PROCESSES)?;
    new.go_on()?;
    first.end(&ftp.server, 1)?;
    ftp.follows(1 + 2 * Sessions::PROCESSES)?;
    let follower = ftp.mvedsua.status(NAME)?.follower;
    let follower = follower.context("it follows")?.pid;
    ftp.mvedsua.run(&["finalize", NAME])?.ok()?;
    ftp.server.reap();
    ensure!(!process::is_alive(follower));
    later.end(&ftp.server, 2)?;
    new.end(&ftp.server, 3)?;
    let status = ftp.mvedsua.status(NAME)?;
    ftp.server.tree_of(status.leader.pid, 1)?;
    let uploads = ftp.server.log_lines("OK UPLOAD");
    ensure!(uploads.len() == 3, "{uploads:?}");
    // It is as good as any.
    let sessions = Sessions::open(&ftp.server, 4)?;
    promoted_once_more(&ftp, sessions, 4)
}

/// The next update works like the first: nothing but these sessions is there, and they come to their end.
fn promoted_once_more(ftp: &Ftp, sessions: Sessions, round: u64) -> Result<()> {
    ftp.update()?;
    ftp.follows(1 + Sessions::PROCESSES)?;
    ftp.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    sessions.end(&ftp.server, round)
}

#[test]
fn a_tree_leads_and_goes_back() -> Result<()> {
    if !can_run("a_tree_leads_and_goes_back", NEEDS) {
        return Ok(());
    }
    let (mut ftp, mut first, later) = leading()?;
    first.go_on()?;
    let mut new = Sessions::open(&ftp.server, 3)?;
    ftp.follows(1 + 3 * Sessions::PROCESSES)?;
    later.end(&ftp.server, 2)?;
    ftp.follows(1 + 2 * Sessions::PROCESSES)?;
    let status = ftp.mvedsua.status(NAME)?;
    let follower = status.follower.context("it follows")?.pid;
    ftp.mvedsua.rollback(NAME)?;
    ftp.server.reap();
    let status = ftp.mvedsua.status(NAME)?;
    ensure!(
        status.stage == "single-leader" && status.leader.pid == follower,
        "{status:?}"
    );
    first.go_on()?;
    new.go_on()?;
    let last = Sessions::open(&ftp.server, 4)?;
    first.end(&ftp.server, 1)?;
    new.end(&ftp.server, 3)?;
    last.end(&ftp.server, 4)?;
    ftp.server.tree_of(follower, 1)?;
    let uploads = ftp.server.log_lines("OK UPLOAD");
    ensure!(uploads.len() == 4, "{uploads:?}");
    // And once more, all the way.
    let sessions = Sessions::open(&ftp.server, 5)?;
    ftp.update()?;
    ftp.follows(1 + Sessions::PROCESSES)?;
    ftp.mvedsua.promote(NAME)?;
    ftp.follows(1 + Sessions::PROCESSES)?;
    ftp.mvedsua.run(&["finalize", NAME])?.ok()?;
    sessions.end(&ftp.server, 5)
}

/// The leading root is killed; whoever follows takes its place, with all sessions.
fn takes_over(ftp: &mut Ftp, sessions: [Sessions; 2], signal: Signal) -> Result<()> {
    let status = ftp.mvedsua.status(NAME)?;
    let follower = status.follower.context("it follows")?.pid;
    process::send(status.leader.pid, signal)?;
    let taken = ftp
        .mvedsua
        .wait_for(NAME, LIMIT, |status| status.leader.pid == follower);
    taken.with_context(|| format!("{signal}\n{}", ftp.mvedsua.log()))?;
    ftp.server.reap();
    for (mut sessions, round) in sessions.into_iter().zip(1..) {
        sessions.go_on()?;
        sessions.end(&ftp.server, round)?;
    }
    let last = Sessions::open(&ftp.server, 7)?;
    last.end(&ftp.server, 7)?;
    ftp.server.tree_of(follower, 1)?;
    let uploads = ftp.server.log_lines("OK UPLOAD");
    ensure!(uploads.len() == 3, "{uploads:?}");
    Ok(())
}

#[test]
fn a_copied_tree_takes_over() -> Result<()> {
    if !can_run("a_copied_tree_takes_over", NEEDS) {
        return Ok(());
    }
    for signal in [Signal::SIGSEGV, Signal::SIGKILL, Signal::SIGABRT] {
        let mut ftp = Ftp::start()?;
        let first = Sessions::open(&ftp.server, 1)?;
        ftp.mvedsua.attach(ftp.server.pid(), NAME)?;
        ftp.update()?;
        let later = Sessions::open(&ftp.server, 2)?;
        ftp.follows(1 + 2 * Sessions::PROCESSES)?;
        takes_over(&mut ftp, [first, later], signal)?;
    }
    Ok(())
}

#[test]
fn the_old_tree_takes_over_from_the_new_one() -> Result<()> {
    if !can_run("the_old_tree_takes_over_from_the_new_one", NEEDS) {
        return Ok(());
    }
    for signal in [Signal::SIGSEGV, Signal::SIGKILL] {
        let (mut ftp, mut first, later) = leading()?;
        first.go_on()?;
        ftp.follows(1 + 2 * Sessions::PROCESSES)?;
        takes_over(&mut ftp, [first, later], signal)?;
    }
    Ok(())
}

#[test]
fn a_tree_that_leads_outlives_its_agent() -> Result<()> {
    if !can_run("a_tree_that_leads_outlives_its_agent", NEEDS) {
        return Ok(());
    }
    let (mut ftp, first, later) = leading()?;
    let status = ftp.mvedsua.status(NAME)?;
    let follower = status.follower.context("it follows")?.pid;
    ftp.mvedsua.kill_agent();
    ensure!(wait_until(LIMIT, || !process::is_alive(follower)));
    ftp.mvedsua.start_agent()?;
    let after = ftp.mvedsua.status(NAME)?;
    ensure!(
        after.stage == "single-leader" && after.leader.pid == status.leader.pid,
        "{after:?}"
    );
    let new = Sessions::open(&ftp.server, 3)?;
    first.end(&ftp.server, 1)?;
    later.end(&ftp.server, 2)?;
    promoted_once_more(&ftp, new, 3)
}

/// An operator ends the listener; the sessions go on to their end, as they would without an agent.
#[test]
fn sessions_outlive_the_root_of_their_promoted_tree() -> Result<()> {
    if !can_run("sessions_outlive_the_root_of_their_promoted_tree", NEEDS) {
        return Ok(());
    }
    for finalized in [true, false] {
        let (mut ftp, mut first, later) = leading()?;
        if finalized {
            ftp.mvedsua.run(&["finalize", NAME])?.ok()?;
        }
        let root = ftp.mvedsua.status(NAME)?.leader.pid;
        process::send(root, Signal::SIGTERM)?;
        ensure!(wait_until(LIMIT, || {
            ftp.server.reap();
            !process::is_alive(root)
        }));
        let went_on = first.go_on().and_then(|()| first.end(&ftp.server, 1));
        went_on.with_context(|| format!("finalized: {finalized}\n{}", ftp.mvedsua.log()))?;
        later.end(&ftp.server, 2)?;
        // Then there is nothing left to supervise.
        ensure!(wait_until(LIMIT, || ftp.mvedsua.status(NAME).is_err()));
    }
    Ok(())
}
