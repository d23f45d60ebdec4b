//! Bundles of real servers applied to running ones under load: Debian's Redis and memcached, and the
//! servers of `examples/`. The errors in updates of the paper are in `bundles_errors.rs`.

use std::time::Duration;

use anyhow::{Result, ensure};
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::examples::Example;
use mvedsua_tests::load::Protocol;
use mvedsua_tests::programs::{Build, MEMCACHED_NEW, MEMCACHED_OLD, REDIS_U7, REDIS_U10};
use mvedsua_tests::resp::Client;
use mvedsua_tests::supervised::{NAME, Supervised};
use mvedsua_tests::{Mvedsua, Need, Server, can_run};

const KEYS: u32 = 5_000;
const RATE: u32 = 2_000;

/// How long a server may take for one line.
const LINE: Duration = Duration::from_secs(20);

/// The program of a build that `can_run` has found.
fn program(name: &str) -> std::path::PathBuf {
    let build = Build::find(name).expect("asked for before");
    build.program().to_owned()
}

/// Applies the bundle, lets the new version follow for a while, and makes it serve alone.
fn change(server: &mut Supervised, bundle: &Bundle) -> Result<()> {
    let begun = server.apply(bundle, &[])?;
    server.more_requests(1_500)?;
    let done = server.promote_finalize()?;
    println!(
        "snapshot {:?} ms, promotion {:?} ms, {:?}",
        begun.pauses_ms.snapshot, done.pauses_ms.promotion, done.events
    );
    server.more_requests(1_000)?;
    server.idle_answer()
}

#[test]
fn redis_goes_from_u7_to_u10_and_back_and_forth_in_one_process() -> Result<()> {
    let name = "redis_goes_from_u7_to_u10_and_back_and_forth_in_one_process";
    let needs = [Need::Root, Need::Build(REDIS_U7), Need::Build(REDIS_U10)];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let redis = Server::redis_of(&program(REDIS_U7), &[])?;
    let mut server = Supervised::start(redis, Protocol::Redis, KEYS, RATE)?;
    let forth = Bundle::of(&server.mvedsua, REDIS_U7, REDIS_U10, &[])?;
    let back = Bundle::of(&server.mvedsua, REDIS_U10, REDIS_U7, &[])?;
    // Each is for what the one before has left, and for nothing else.
    for (bundle, other) in [(&forth, &back), (&back, &forth), (&forth, &back)] {
        let path = other.path().to_string_lossy().into_owned();
        let refused = server.run("update", &[&path])?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("E241"),
            "{refused:?}"
        );
        change(&mut server, bundle)?;
    }
    server.finish()
}

#[test]
fn the_old_redis_follows_the_new_one_and_takes_back() -> Result<()> {
    let name = "the_old_redis_follows_the_new_one_and_takes_back";
    let needs = [Need::Root, Need::Build(REDIS_U7), Need::Build(REDIS_U10)];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let redis = Server::redis_of(&program(REDIS_U7), &[])?;
    let mut server = Supervised::start(redis, Protocol::Redis, KEYS, RATE)?;
    let forth = Bundle::of(&server.mvedsua, REDIS_U7, REDIS_U10, &[])?;
    server.apply(&forth, &[])?;
    server.more_requests(1_000)?;
    let old = server.status()?.leader.pid;
    server.mvedsua.promote(NAME)?;
    server.more_requests(1_500)?;
    let status = server.status()?;
    ensure!(
        status.stage == "updated-leader" && status.events.diverged == 0,
        "{status:?}"
    );
    server.mvedsua.rollback(NAME)?;
    ensure!(server.status()?.leader.pid == old);
    server.more_requests(1_000)?;
    // The old version was not changed, so the same bundle fits again.
    change(&mut server, &forth)?;
    server.finish()
}

#[test]
fn memcached_with_four_worker_threads_is_updated_and_goes_back() -> Result<()> {
    let name = "memcached_with_four_worker_threads_is_updated_and_goes_back";
    let needs = [
        Need::Root,
        Need::Build(MEMCACHED_OLD),
        Need::Build(MEMCACHED_NEW),
    ];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let memcached = Server::memcached_of(&program(MEMCACHED_OLD), 4)?;
    let mut server = Supervised::start(memcached, Protocol::Memcached, KEYS, RATE)?;
    let forth = Bundle::of(&server.mvedsua, MEMCACHED_OLD, MEMCACHED_NEW, &[])?;
    let back = Bundle::of(&server.mvedsua, MEMCACHED_NEW, MEMCACHED_OLD, &[])?;
    let names = forth.functions(&server.mvedsua)?;
    ensure!(
        names == ["sasl_server_userdb_checkpass (sasl_defs.c)"],
        "{names:?}"
    );
    for bundle in [&forth, &back, &forth] {
        change(&mut server, bundle)?;
    }
    server.finish()
}

/// Asks an example server one line; it must give that answer.
fn asks(client: &mut Client, line: &str, expected: &str) -> Result<()> {
    client.send(format!("{line}\r\n").as_bytes())?;
    let answer = client.receive_with(|input| {
        let end = input.windows(2).position(|two| two == b"\r\n");
        Ok(end.map(|end| (String::from_utf8_lossy(&input[..end]).into_owned(), end + 2)))
    })?;
    ensure!(
        answer == expected,
        "{line:?} was answered {answer:?}, not {expected:?}"
    );
    Ok(())
}

/// An example under load, and one more client.
fn example(example: Example, version: u32, protocol: Protocol) -> Result<(Supervised, Client)> {
    let server = Server::example(example, version)?;
    let server = Supervised::start(server, protocol, KEYS, RATE)?;
    let client = Client::connect(server.server.addr(), LINE)?;
    Ok((server, client))
}

#[test]
fn a_server_in_cpp_gets_a_class_and_goes_on_throwing() -> Result<()> {
    let name = "a_server_in_cpp_gets_a_class_and_goes_on_throwing";
    if !can_run(name, &[Need::Root, Need::Program("g++")]) {
        return Ok(());
    }
    let (mut server, mut client) = example(Example::Shelf, 1, Protocol::Lines)?;
    let forth = Bundle::of_example(&server.mvedsua, Example::Shelf, 1, 2, &[])?;
    asks(
        &mut client,
        "ADD n 9223372036854775807",
        "9223372036854775807",
    )?;
    asks(&mut client, "ADD n x", "ERR not a number")?;
    asks(
        &mut client,
        "ADD key:00000001 1",
        "ERR key:00000001 is a text",
    )?;
    server.apply(&forth, &[])?;
    // While both versions run, exceptions pass through old and new code alike.
    for _ in 0..100 {
        asks(&mut client, "ADD n x", "ERR not a number")?;
        asks(
            &mut client,
            "ADD key:00000001 1",
            "ERR key:00000001 is a text",
        )?;
        asks(&mut client, "NO such", "ERR unknown command")?;
    }
    server.more_requests(1_000)?;
    server.promote_finalize()?;
    asks(&mut client, "ADD n 1", "ERR the number would be too large")?;
    asks(&mut client, "ADD n -7", "9223372036854775800")?;
    asks(&mut client, "PUSH l a", "1")?;
    asks(&mut client, "PUSH l b c", "2")?;
    asks(&mut client, "GET l", "a b c")?;
    asks(&mut client, "ADD l 1", "ERR l is a list")?;
    asks(&mut client, "PUSH n 1", "ERR n is a number")?;
    asks(&mut client, "PUT l text", "OK")?;
    asks(&mut client, "GET l", "text")?;
    server.more_requests(1_000)?;
    server.idle_answer()?;
    server.finish_with(2)
}

#[test]
fn a_server_in_rust_with_a_thread_per_connection_is_updated_and_goes_back() -> Result<()> {
    let name = "a_server_in_rust_with_a_thread_per_connection_is_updated_and_goes_back";
    if !can_run(name, &[Need::Root, Need::Program("rustc")]) {
        return Ok(());
    }
    let (mut server, mut client) = example(Example::Board, 1, Protocol::Lines)?;
    let forth = Bundle::of_example(&server.mvedsua, Example::Board, 1, 2, &[])?;
    let back = Bundle::of_example(&server.mvedsua, Example::Board, 2, 1, &[])?;
    asks(&mut client, "RANGE key:00000000 key:00000100", "100")?;
    asks(&mut client, "LAST 1", "ERR unknown command \"LAST 1\"")?;
    for _ in 0..2 {
        change(&mut server, &forth)?;
        asks(&mut client, "RANGE key:00000000 key:00000100", "100")?;
        asks(&mut client, "RANGE b a", "ERR b is behind a")?;
        asks(&mut client, "PUT z z", "OK")?;
        client.send(b"LAST 1\r\n")?;
        let last = client.receive_with(|input| {
            let end = input.windows(2).position(|two| two == b"\r\n");
            Ok(end.map(|end| (String::from_utf8_lossy(&input[..end]).into_owned(), end + 2)))
        })?;
        ensure!(last.starts_with("z="), "{last}");
        change(&mut server, &back)?;
        // The old version panics again where the new one answers, and lives.
        let mut other = Client::connect(server.server.addr(), LINE)?;
        asks(&mut other, "RANGE b a", "ERR the server has panicked")?;
        asks(&mut client, "GET z", "z")?;
    }
    server.more_requests(500)?;
    server.finish_with(1)
}

#[test]
fn the_key_value_store_loses_a_command_and_gets_it_back() -> Result<()> {
    let name = "the_key_value_store_loses_a_command_and_gets_it_back";
    if !can_run(name, &[Need::Root, Need::Program("gcc")]) {
        return Ok(());
    }
    let (mut server, mut client) = example(Example::Kvstore, 2, Protocol::TypedLines)?;
    let forth = Bundle::of_example(&server.mvedsua, Example::Kvstore, 2, 3, &[])?;
    let back = Bundle::of_example(&server.mvedsua, Example::Kvstore, 3, 2, &[])?;
    asks(&mut client, "PUT a x", "OK")?;
    asks(&mut client, "PUT-number n 12", "OK")?;
    for _ in 0..2 {
        change(&mut server, &forth)?;
        asks(&mut client, "PUT a y", "ERR unknown command")?;
        asks(&mut client, "GET a", "x")?;
        asks(&mut client, "TYPE n", "number")?;
        change(&mut server, &back)?;
        asks(&mut client, "PUT a x", "OK")?;
    }
    server.finish_with(2)
}

#[test]
fn a_type_that_changes_is_named_when_the_bundle_is_built() -> Result<()> {
    let name = "a_type_that_changes_is_named_when_the_bundle_is_built";
    if !can_run(name, &[Need::Program("gcc")]) {
        return Ok(());
    }
    let mvedsua = Mvedsua::without_agent()?;
    let diff = mvedsua_tests::bundle::diff(&mvedsua, Example::Kvstore, 1, 2)?;
    ensure!(diff.stdout.contains("struct entry"), "{diff:?}");
    ensure!(diff.stdout.contains("enum type type"), "{diff:?}");
    Ok(())
}

#[test]
fn what_a_bundle_of_redis_changes_is_said_and_why() -> Result<()> {
    let name = "what_a_bundle_of_redis_changes_is_said_and_why";
    if !can_run(name, &[Need::Build(REDIS_U7), Need::Build(REDIS_U10)]) {
        return Ok(());
    }
    let mvedsua = Mvedsua::without_agent()?;
    let bundle = Bundle::of(&mvedsua, REDIS_U7, REDIS_U10, &[])?;
    let names = bundle.functions(&mvedsua)?;
    for fixed in [
        "_sdsnewlen",
        "zipmapValidateIntegrity",
        "rdbLoadObject",
        "clusterProcessPacket",
        "tlsProcessPendingData",
    ] {
        ensure!(names.iter().any(|name| name == fixed), "{fixed}: {names:?}");
    }
    ensure!(
        names.len() < 40,
        "of more than 4,500 functions: {}",
        names.len()
    );
    let report = bundle.inspect(&mvedsua)?;
    ensure!(report["transform"].is_null(), "{report:#}");
    ensure!(
        report["report"]["types"]
            .as_array()
            .is_some_and(Vec::is_empty),
        "{report:#}"
    );
    let risky = |function: &serde_json::Value| function["risk"] != "low";
    let functions = report["report"]["functions"].as_array();
    ensure!(
        functions.is_some_and(|all| !all.iter().any(risky)),
        "none of them is usually on a stack: {report:#}"
    );
    Ok(())
}
