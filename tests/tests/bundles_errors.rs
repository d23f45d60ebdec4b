//! Errors in updates, on a Redis under load: whatever is wrong with the new version, clients notice
//! nothing, the old version goes on, and the report says what was wrong (section 6.2 of the MVEDSUA paper).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bare::Before;
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::load::Protocol;
use mvedsua_tests::mvedsua::LastUpdate;
use mvedsua_tests::programs::{Build, REDIS_HMGET, REDIS_U7, REDIS_U10};
use mvedsua_tests::resp::Reply;
use mvedsua_tests::supervised::{LIMIT, NAME, Supervised};
use mvedsua_tests::{Need, Server, can_run, process, wait_until};

const KEYS: u32 = 5_000;
const RATE: u32 = 2_000;

/// A command that is an error to Redis; in [`REDIS_HMGET`] it is a crash.
const HMGET: [&str; 3] = ["HMGET", "key:00000001", "field"];

fn program(name: &str) -> PathBuf {
    let build = Build::find(name).expect("asked for before");
    build.program().to_owned()
}

fn redis(name: &str) -> Result<Supervised> {
    let server = Server::redis_of(&program(name), &[])?;
    Supervised::start(server, Protocol::Redis, KEYS, RATE)
}

/// The update has been rolled back and the server is bare; what is said of it.
fn rolled_back(server: &Supervised, before: &Before) -> Result<LastUpdate> {
    let status = server.ended_as("rolled-back")?;
    before.check()?;
    server.more_requests(500)?;
    status.last_update.context("an outcome")
}

fn wrong_type(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with("WRONGTYPE"))
}

#[test]
fn a_new_version_that_crashes_on_one_command_is_rolled_back() -> Result<()> {
    let name = "a_new_version_that_crashes_on_one_command_is_rolled_back";
    let needs = [Need::Root, Need::Build(REDIS_U10), Need::Build(REDIS_HMGET)];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let server = redis(REDIS_U10)?;
    let mut client = server.server.client()?;
    client.command(&["PING"])?;
    let before = Before::of(server.server.pid());
    let bundle = Bundle::of(&server.mvedsua, REDIS_U10, REDIS_HMGET, &[])?;
    ensure!(bundle.functions(&server.mvedsua)? == ["hmgetCommand"]);
    for _ in 0..2 {
        server.apply(&bundle, &[])?;
        server.more_requests(1_000)?;
        client.command(&["HSET", "hash", "field", "x"])?;
        let reply = client.command(&["HMGET", "hash", "field"])?;
        ensure!(
            reply == Reply::Array(Some(vec![Reply::Bulk(Some(b"x".to_vec()))])),
            "{reply:?}"
        );
        client.command(&["DEL", "hash"])?;
        ensure!(server.status()?.events.diverged == 0);
        let reply = client.command(&HMGET)?;
        ensure!(wrong_type(&reply), "{reply:?}");
        let last = rolled_back(&server, &before)?;
        ensure!(last.reason.contains("SIGSEGV"), "{last:?}");
        let report = last.report.context("a crash has a report")?;
        ensure!(
            report.contains("hmgetCommand") || report.contains("dictFind"),
            "it does not say where: {report}"
        );
        // The same client still asks the same server.
        ensure!(wrong_type(&client.command(&HMGET)?));
    }
    server.finish()
}

#[test]
fn a_new_version_that_crashes_after_its_promotion_gives_way_to_the_old_one() -> Result<()> {
    let name = "a_new_version_that_crashes_after_its_promotion_gives_way_to_the_old_one";
    let needs = [Need::Root, Need::Build(REDIS_U10), Need::Build(REDIS_HMGET)];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let mut server = redis(REDIS_U10)?;
    let old = server.server.pid();
    let bundle = Bundle::of(&server.mvedsua, REDIS_U10, REDIS_HMGET, &[])?;
    server.apply(&bundle, &[])?;
    server.mvedsua.promote(NAME)?;
    server.more_requests(1_000)?;
    let mut client = server.server.client()?;
    let reply = client.command(&HMGET)?;
    ensure!(wrong_type(&reply), "{reply:?}");
    let status = server.ended_as("took-over")?;
    ensure!(status.leader.pid == old, "{status:?}");
    server.more_requests(500)?;
    server.idle_answer()?;
    ensure!(wrong_type(&client.command(&HMGET)?));
    server.finish()
}

#[test]
fn an_old_version_that_crashes_where_the_new_one_does_not_is_taken_over_from() -> Result<()> {
    let name = "an_old_version_that_crashes_where_the_new_one_does_not_is_taken_over_from";
    let needs = [Need::Root, Need::Build(REDIS_U10), Need::Build(REDIS_HMGET)];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let mut server = redis(REDIS_HMGET)?;
    let bundle = Bundle::of(&server.mvedsua, REDIS_HMGET, REDIS_U10, &[])?;
    server.apply(&bundle, &[])?;
    server.more_requests(1_000)?;
    let (old, new) = (server.status()?.leader.pid, server.follower()?);
    let mut client = server.server.client()?;
    // The command that crashes the old version is answered by the new one, on the same connection.
    let reply = client.command(&HMGET)?;
    ensure!(wrong_type(&reply), "{reply:?}");
    let status = server.ended_as("took-over")?;
    ensure!(status.leader.pid == new, "{status:?}");
    server.server.reap();
    ensure!(!process::is_alive(old), "the crashed version lives on");
    server.more_requests(1_000)?;
    server.idle_answer()?;
    ensure!(wrong_type(&client.command(&HMGET)?));
    server.finish()
}

#[test]
fn a_follower_that_runs_out_of_memory_is_rolled_back() -> Result<()> {
    let name = "a_follower_that_runs_out_of_memory_is_rolled_back";
    let needs = [
        Need::Root,
        Need::Build(REDIS_U7),
        Need::Build(REDIS_U10),
        Need::Program("prlimit"),
    ];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let server = redis(REDIS_U7)?;
    let mut client = server.server.client()?;
    client.command(&["PING"])?;
    let before = Before::of(server.server.pid());
    let bundle = Bundle::of(&server.mvedsua, REDIS_U7, REDIS_U10, &[])?;
    server.apply(&bundle, &[])?;
    server.more_requests(500)?;
    // From now on it gets no memory that it does not have yet.
    let limited = Command::new("prlimit")
        .args(["--pid", &server.follower()?.to_string(), "--as=1000000"])
        .status()?;
    ensure!(limited.success(), "{limited}");
    let value = "x".repeat(64 << 20);
    let reply = client.command(&["SET", "large", &value])?;
    ensure!(reply == Reply::Status("OK".into()), "{reply:?}");
    let last = rolled_back(&server, &before)?;
    println!("{}", last.reason);
    client.command(&["DEL", "large"])?;
    // With as much memory as it wants it goes through.
    server.apply(&bundle, &[])?;
    server.more_requests(500)?;
    server.mvedsua.rollback(NAME)?;
    server.finish()
}

#[test]
fn bundles_that_are_not_for_this_server_touch_nothing() -> Result<()> {
    let name = "bundles_that_are_not_for_this_server_touch_nothing";
    let needs = [
        Need::Root,
        Need::Build(REDIS_U7),
        Need::Build(REDIS_U10),
        Need::Build(REDIS_HMGET),
    ];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let server = redis(REDIS_U7)?;
    let before = Before::of(server.server.pid());
    let refused = |bundle: &Bundle, code: &str| -> Result<()> {
        let path = bundle.path().to_string_lossy().into_owned();
        let outcome = server.run("update", &[&path])?;
        ensure!(
            outcome.code == 5 && outcome.stderr.contains(code),
            "{code} expected: {outcome:?}"
        );
        before.check()
    };
    let other = Bundle::of(&server.mvedsua, REDIS_U10, REDIS_HMGET, &[])?;
    refused(&other, "E241")?;
    let bundle = Bundle::of(&server.mvedsua, REDIS_U7, REDIS_U10, &[])?;
    let whole = std::fs::read(bundle.path())?;
    bundle.truncate()?;
    refused(&bundle, "E450")?;
    for at in [0, 9, 30, 60, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(bundle.path(), flipped)?;
        let code = if at == 9 { "E451" } else { "E450" };
        refused(&bundle, code)?;
    }
    std::fs::write(bundle.path(), &whole)?;
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(mode))
    };
    mode(0o666)?;
    refused(&bundle, "E453")?;
    mode(0o644)?;
    server.apply(&bundle, &[])?;
    server.more_requests(500)?;
    server.mvedsua.rollback(NAME)?;
    ensure!(wait_until(LIMIT, || before.check().is_ok()));
    server.finish()
}
