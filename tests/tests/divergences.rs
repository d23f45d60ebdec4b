//! Injected divergences of each kind: found, each in the right call, and the server goes on.
//!
//! `diverges.c` behaves differently when it finds a number in a variable of its own; the test pokes
//! that number into the memory of the follower alone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::switch::Switch;
use mvedsua_tests::{Mvedsua, Need, Victim, can_run, process};

const LIMIT: Duration = Duration::from_secs(60);

/// What the follower does, the number of it (`enum fault` in `diverges.c`), and what must stand in
/// the reason, piece by piece.
const FAULTS: &[(&str, i32, &[&str])] = &[
    (
        "another call",
        1,
        &["the leader made getgid, the follower getegid"],
    ),
    (
        "another descriptor",
        2,
        &["the leader made write, the follower write with another fd"],
    ),
    (
        "other flags",
        3,
        &["the follower openat with another flags: 0 against 131072"],
    ),
    (
        "another size",
        4,
        &["the follower write with another count: 8 against 7"],
    ),
    (
        "another path",
        5,
        &["the follower access with other bytes in pathname, first at offset 5"],
    ),
    (
        "another peer",
        6,
        &["the follower sendto with other bytes in dest_addr, first at offset 3"],
    ),
    (
        "other bytes",
        7,
        &["the follower write with other bytes in buf, first at offset 3"],
    ),
    (
        "an extra call",
        8,
        &["the leader made geteuid, the follower getuid"],
    ),
    (
        "a missing call",
        9,
        &["the leader made getpgrp, the follower getegid"],
    ),
    ("a crash", 10, &["the follower died of SIGSEGV"]),
    ("a hang", 11, &["the follower made no progress for"]),
    (
        "an exit",
        12,
        &["the leader made getgid, the follower exit_group"],
    ),
    (
        "another vector",
        13,
        &["the follower writev with other bytes in iov, first at offset 10"],
    ),
    (
        "another message",
        14,
        &["the follower sendmsg with other bytes in msg, first at offset 8"],
    ),
    (
        "another second message",
        15,
        &["the follower sendmmsg with other bytes in msgvec, first at offset 1"],
    ),
    (
        "another command",
        16,
        &["the follower ioctl with another op"],
    ),
    (
        "other events",
        17,
        &["the follower epoll_ctl with other bytes in event, first at offset 0"],
    ),
    (
        "another poll set",
        18,
        &["the follower poll with other bytes in fds, first at offset 4"],
    ),
    (
        "another offset",
        19,
        &["the follower pread64 with another offset: 0 against 16"],
    ),
    (
        "a missing thread",
        20,
        &["the leader made rt_sigprocmask, the follower read"],
    ),
    (
        "an extra thread",
        21,
        &["the leader made read, the follower rt_sigprocmask"],
    ),
    (
        "a call where a thread ends",
        22,
        &["the leader made rt_sigprocmask, the follower getuid"],
    ),
    (
        "no buffer",
        23,
        &["the follower clock_gettime with another tp"],
    ),
    (
        "a bad buffer",
        24,
        &["the follower write whose buf cannot be read at 0x10"],
    ),
    (
        "no room",
        25,
        &["the follower's read cannot store its result at 0x10"],
    ),
    (
        "an abort",
        26,
        &["the leader made getgid, the follower rt_sigprocmask"],
    ),
    (
        "another option",
        27,
        &["the follower setsockopt with another optname: 2 against 6"],
    ),
    (
        "a child",
        28,
        &["the leader made getppid, the follower clone"],
    ),
];

#[test]
fn each_kind_is_found_in_the_right_call() -> Result<()> {
    if !can_run(
        "each_kind_is_found_in_the_right_call",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let victim = Victim::start("diverges")?;
    let before = victim.footprint()?;
    let switch = victim.switch()?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(victim.pid(), "d")?;
    let mut wrong = Vec::new();
    for (what, number, expected) in FAULTS {
        if let Err(error) = diverges(&mvedsua, &victim, switch, *number, expected) {
            wrong.push(format!("{what} ({number}): {error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(victim.footprint()?, before);
    victim.end()
}

/// What the follower does (`enum fault` in `handlers.c`) where the leader handles its faults.
const HANDLED: &[(&str, i32, &[&str])] = &[
    (
        "a fault less",
        1,
        &["the follower calls getppid where the leader handled signal 11"],
    ),
    ("a fault more", 2, &["the follower died of SIGSEGV"]),
];

#[test]
fn a_handled_fault_of_one_side_is_a_divergence() -> Result<()> {
    let name = "a_handled_fault_of_one_side_is_a_divergence";
    if !can_run(name, &[Need::Root, Need::Program("cc")]) {
        return Ok(());
    }
    let victim = Victim::start("handlers")?;
    let switch = victim.switch()?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(victim.pid(), "d")?;
    for (what, number, expected) in HANDLED {
        diverges(&mvedsua, &victim, switch, *number, expected).context(*what)?;
    }
    victim.end()
}

/// The number of clock readings may depend on which thread got a lock, and is no effect.
const CLOCKS: &[(&str, i32)] = &[
    ("more readings", 29),
    ("fewer readings", 30),
    ("another clock", 31),
];

#[test]
fn clock_readings_of_one_side_are_no_divergence() -> Result<()> {
    let name = "clock_readings_of_one_side_are_no_divergence";
    if !can_run(name, &[Need::Root, Need::Program("cc")]) {
        return Ok(());
    }
    let mut victim = Victim::start("diverges")?;
    let switch = victim.switch()?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(victim.pid(), "d")?;
    for (what, number) in CLOCKS {
        mvedsua.update_identity("d", &["--hang-limit", "2s"])?;
        let follower = mvedsua.status("d")?.follower.context("no follower")?.pid;
        switch.turn(follower, *number)?;
        let status = mvedsua.wait_for("d", LIMIT, |status| {
            status.follower.is_none() || status.events.reconciled > 10
        })?;
        ensure!(status.last_update.is_none(), "{what}: {status:?}");
        // It goes on as it was when it serves.
        switch.turn(follower, 0)?;
        mvedsua.run(&["promote", "d", "--finalize"])?.ok()?;
        victim.promoted(mvedsua.status("d")?.leader.pid)?;
        victim.wait_rounds(5)?;
    }
    victim.end()
}

fn diverges(
    mvedsua: &Mvedsua,
    victim: &Victim,
    switch: Switch,
    number: i32,
    expected: &[&str],
) -> Result<()> {
    mvedsua.update_identity("d", &["--hang-limit", "2s"])?;
    let follower = mvedsua.status("d")?.follower.context("no follower")?.pid;
    // It follows well until it is told otherwise.
    victim.wait_rounds(5)?;
    switch.turn(follower, number)?;
    let status = mvedsua.wait_for("d", LIMIT, |status| status.follower.is_none())?;
    let update = status.last_update.context("no outcome")?;
    ensure!(
        update.outcome == "rolled-back" && status.stage == "single-leader",
        "{update:?}"
    );
    for piece in expected {
        ensure!(
            update.reason.contains(piece),
            "the reason is: {}",
            update.reason
        );
    }
    // Besides the reason there is a report that shows where it was.
    let report = update.report.context("no report")?;
    ensure!(
        report.contains("calls before, equal on both sides"),
        "{report}"
    );
    ensure!(report.contains("follower"), "{report}");
    ensure!(process::is_untraced(victim.pid()) && process::is_unfiltered(victim.pid()));
    victim.wait_rounds(5)
}
