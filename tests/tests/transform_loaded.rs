//! Transformers at work while clients load the server: a million entries, programs in C++ and Rust, and each of
//! the paper's errors in a state transformation, of which clients notice nothing.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bare::Before;
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::examples::Example;
use mvedsua_tests::kvstore::Client;
use mvedsua_tests::load::Protocol;
use mvedsua_tests::mvedsua::Transformation;
use mvedsua_tests::programs::{Build, REDIS_U7, REDIS_U10};
use mvedsua_tests::resp::Reply;
use mvedsua_tests::supervised::{NAME, Supervised};
use mvedsua_tests::{Need, Server, can_run, process};

const RATE: u32 = 2_000;

/// A file of the repository.
fn file(path: &str) -> String {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join(path)
        .to_string_lossy()
        .into_owned()
}

fn loaded(example: Example, version: u32, keys: u32) -> Result<Supervised> {
    let server = Server::example(example, version)?;
    Supervised::start(server, Protocol::Lines, keys, RATE)
}

/// What `status` said of the transformer while it ran, with the requests answered by then.
type Seen = Vec<(Transformation, u64)>;

/// Updates, and looks at the status meanwhile.
fn watched(server: &Supervised, bundle: &Bundle) -> Result<Seen> {
    let mut seen = Seen::new();
    std::thread::scope(|scope| {
        let update = scope.spawn(|| server.apply(bundle, &[]));
        while !update.is_finished() {
            let status = server.status()?;
            seen.extend(status.transformation.map(|t| (t, server.answered())));
        }
        update.join().expect("no panic").map(drop)
    })?;
    Ok(seen)
}

#[test]
fn a_million_entries_get_their_type_while_the_store_serves() -> Result<()> {
    let name = "a_million_entries_get_their_type_while_the_store_serves";
    if !can_run(name, &[Need::Root, Need::Program("gcc")]) {
        return Ok(());
    }
    const ENTRIES: u32 = 1_000_000;
    let mut server = loaded(Example::Kvstore, 1, ENTRIES)?;
    let transform = file("examples/kvstore/v1-v2.toml");
    let options = ["--transform", &transform];
    let bundle = Bundle::of_example(&server.mvedsua, Example::Kvstore, 1, 2, &options)?;
    // It may be so quick that nobody has seen it at work twice; then once more.
    let mut seen = Seen::new();
    for _ in 0..10 {
        seen = watched(&server, &bundle)?;
        if seen.iter().filter(|(t, _)| t.done > 0).count() > 1 {
            break;
        }
        server.mvedsua.rollback(NAME)?;
    }
    let at_work: Vec<_> = seen.iter().filter(|(t, _)| t.done > 0).collect();
    ensure!(at_work.len() > 1, "it was not seen at work: {seen:?}");
    for (transformation, _) in &at_work {
        ensure!(
            transformation.objects_per_second > 0.0
                && transformation.seconds_left.is_some()
                && (transformation.done..=2 * u64::from(ENTRIES)).contains(&transformation.total),
            "{transformation:?}"
        );
    }
    // The old version has answered clients meanwhile.
    let (first, last) = (at_work[0], at_work[at_work.len() - 1]);
    ensure!(
        first.0.done < last.0.done && first.1 < last.1,
        "{first:?} {last:?}"
    );
    let events = format!("{:?}", server.mvedsua.events(NAME)?);
    ensure!(
        events.contains("v1-v2.toml transformed 1000000 objects"),
        "{events}"
    );
    server.more_requests(4_000)?;
    server.promote_finalize()?;
    let mut client = Client::connect(server.server.addr())?;
    for key in (0..ENTRIES).step_by(99_991) {
        ensure!(client.ask(&format!("TYPE key:{key:08}"))? == "string");
    }
    server.more_requests(2_000)?;
    server.finish()
}

#[test]
fn mistakes_of_transformers_cost_loaded_clients_nothing() -> Result<()> {
    let name = "mistakes_of_transformers_cost_loaded_clients_nothing";
    if !can_run(name, &[Need::Root, Need::Program("gcc")]) {
        return Ok(());
    }
    let server = loaded(Example::Kvstore, 1, 5_000)?;
    let dir = tempfile::tempdir()?;
    let with = |mistake: u32| -> Result<Bundle> {
        let path = dir.path().join(format!("mistake{mistake}.c"));
        let source = file("tests/bundles/kvstore_transform.c");
        let text = format!("#define MISTAKE {mistake}\n#include \"{source}\"\n");
        std::fs::write(&path, text)?;
        let options = ["--transform", &path.to_string_lossy()];
        Bundle::of_example(&server.mvedsua, Example::Kvstore, 1, 2, &options)
    };
    let before = Before::of(server.server.pid());
    let crash = ["mistake5.c died of SIGSEGV at 0x8", "after 10 objects"];
    let causes: [(u32, &[&str]); 5] = [
        // The first of them shows in an answer, the next two in one, or in a crash.
        (1, &["write", "NONE"]),
        (2, &["follower"]),
        (3, &["follower"]),
        (4, &["mistake4.c did not end within 2s after 10 objects"]),
        (5, &crash),
    ];
    for (mistake, causes) in causes {
        let bundle = with(mistake)?;
        let path = bundle.path().to_string_lossy().into_owned();
        // On a machine with much else to do the others take their time, too.
        let limit = if mistake == 4 { "2s" } else { "1min" };
        let outcome = server.run("update", &[&path, "--transform-limit", limit])?;
        let status = server.ended_as("rolled-back")?;
        let last = status.last_update.context("waited for it")?;
        let told = format!("{} {}", last.reason, last.report.unwrap_or_default());
        for cause in causes {
            ensure!(
                told.contains(cause),
                "mistake {mistake}: no {cause:?} in {told}; {outcome:?}"
            );
        }
        before.check().with_context(|| format!("{mistake}"))?;
        server.more_requests(500)?;
    }
    // Without one it goes through.
    let good = with(0)?;
    server.apply(&good, &[])?;
    server.more_requests(1_000)?;
    server.mvedsua.rollback(NAME)?;
    server.finish()
}

/// A bundle whose transformer works for a second or more.
fn takes_its_time(server: &Supervised) -> Result<Bundle> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("slow.c");
    let source = file("tests/bundles/kvstore_transform.c");
    let text = format!("#define MISTAKE 0\n#define SLOW 1000000000ul\n#include \"{source}\"\n");
    std::fs::write(&path, text)?;
    let options = ["--transform", &path.to_string_lossy()];
    Bundle::of_example(&server.mvedsua, Example::Kvstore, 1, 2, &options)
}

#[test]
fn a_server_that_crashes_while_its_copy_is_transformed_is_taken_over() -> Result<()> {
    let name = "a_server_that_crashes_while_its_copy_is_transformed_is_taken_over";
    if !can_run(name, &[Need::Root, Need::Program("gcc")]) {
        return Ok(());
    }
    let mut server = loaded(Example::Kvstore, 1, 5_000)?;
    let mut client = Client::connect(server.server.addr())?;
    ensure!(client.ask("PUT before value")? == "OK");
    let bundle = takes_its_time(&server)?;
    let path = bundle.path().to_string_lossy().into_owned();
    let leader = server.server.pid();
    let outcome = std::thread::scope(|scope| {
        let update = scope.spawn(|| server.run("update", &[&path]));
        let mut died = false;
        while !update.is_finished() {
            let at_work = server.status()?.transformation.is_some_and(|t| t.done > 0);
            if at_work && !died {
                process::send(leader, process::Signal::SIGSEGV)?;
                died = true;
            }
        }
        ensure!(died, "it was not seen at work");
        update.join().expect("no panic")
    })?;
    let told = format!("{}{}", outcome.stdout, outcome.stderr);
    ensure!(told.contains("the leader crashed"), "{outcome:?}");
    server.ended_as("took-over")?;
    server.server.reap();
    // With every connection, and with what the old version had done while the transformer worked.
    ensure!(client.ask("TYPE before")? == "string");
    server.more_requests(2_000)?;
    server.finish_with(1)
}

#[test]
fn a_small_ring_does_not_hold_the_server_while_its_copy_is_transformed() -> Result<()> {
    let name = "a_small_ring_does_not_hold_the_server_while_its_copy_is_transformed";
    if !can_run(name, &[Need::Root, Need::Program("gcc")]) {
        return Ok(());
    }
    let server = Server::example(Example::Kvstore, 1)?;
    let server = Supervised::start(server, Protocol::Lines, 5_000, 3 * RATE)?;
    let bundle = takes_its_time(&server)?;
    let path = bundle.path().to_string_lossy().into_owned();
    let words = ["--ring", "1M", "--on-full", "rollback"];
    // More than such a ring holds.
    let least = 1 << 20;
    let mut aside = 0;
    std::thread::scope(|scope| {
        let update = scope.spawn(|| {
            let words: Vec<&str> = std::iter::once(path.as_str()).chain(words).collect();
            server.run("update", &words)?.ok()
        });
        while !update.is_finished() {
            aside = aside.max(server.status()?.ring.aside_bytes);
        }
        update.join().expect("no panic").map(drop)
    })?;
    ensure!(aside > least, "only {aside} bytes were set aside");
    server.more_requests(1_000)?;
    let status = server.status()?;
    ensure!(
        status.stage == "outdated-leader" && status.events.diverged == 0,
        "{status:?}"
    );
    // What was set aside is consumed, and the ring is in use again.
    ensure!(status.ring.aside_bytes == 0, "{status:?}");
    server.mvedsua.rollback(NAME)?;
    server.more_requests(500)?;
    server.finish()
}

/// jemalloc has a thread of its own, which never leaves it.
#[test]
fn a_transformer_allocates_with_jemalloc_in_a_loaded_redis() -> Result<()> {
    let name = "a_transformer_allocates_with_jemalloc_in_a_loaded_redis";
    let needs = [Need::Root, Need::Build(REDIS_U7), Need::Build(REDIS_U10)];
    if !can_run(name, &needs) {
        return Ok(());
    }
    const KEYS: u32 = 5_000;
    let u7 = Build::find(REDIS_U7).context("asked for before")?;
    let redis = Server::redis_of(u7.program(), &[])?;
    let mut server = Supervised::start(redis, Protocol::Redis, KEYS, RATE)?;
    let transform = file("tests/bundles/redis_transform.c");
    let options = ["--transform", &transform];
    let bundle = Bundle::of(&server.mvedsua, REDIS_U7, REDIS_U10, &options)?;
    let mut client = server.server.client()?;
    let allocator = client.info_field("memory", "mem_allocator")?;
    ensure!(allocator.starts_with("jemalloc"), "{allocator}");
    const OWN: u32 = 3_000;
    for n in 0..OWN {
        let (key, value) = (format!("own:{n}"), n.to_string());
        ensure!(client.command(&["SET", &key, &value])? == Reply::Status("OK".into()));
    }
    server.apply(&bundle, &[])?;
    let events = format!("{:?}", server.mvedsua.events(NAME)?);
    let told = format!("redis_transform.c transformed {} objects", KEYS + OWN);
    ensure!(events.contains(&told), "{events}");
    server.more_requests(2_000)?;
    server.promote_finalize()?;
    // What jemalloc gave to the transformer goes back to it.
    for n in 0..OWN {
        let reply = client.command(&["GETDEL", &format!("own:{n}")])?;
        ensure!(
            reply == Reply::Bulk(Some(n.to_string().into_bytes())),
            "{reply:?}"
        );
    }
    server.more_requests(2_000)?;
    server.finish()
}

#[test]
fn objects_of_a_cpp_class_grow_in_a_loaded_server() -> Result<()> {
    let name = "objects_of_a_cpp_class_grow_in_a_loaded_server";
    if !can_run(name, &[Need::Root, Need::Program("g++")]) {
        return Ok(());
    }
    let mut server = loaded(Example::Shelf, 2, 5_000)?;
    let transform = file("examples/shelf/v2-v3.cc");
    let options = ["--transform", &transform];
    let bundle = Bundle::of_example(&server.mvedsua, Example::Shelf, 2, 3, &options)?;
    let mut client = Client::connect(server.server.addr())?;
    for number in 0..300 {
        let line = format!("ADD number{number} {number}");
        ensure!(client.ask(&line)? == number.to_string());
    }
    ensure!(client.ask("PUSH list a b c")? == "1");
    server.apply(&bundle, &[])?;
    ensure!(client.ask("ADD number7 1")? == "8");
    ensure!(client.ask("GET number8")? == "8");
    ensure!(client.ask("ADD key:00000001 1")? == "ERR key:00000001 is a text");
    server.more_requests(1_000)?;
    server.promote_finalize()?;
    // Counted since the update; the numbers themselves are those of before.
    ensure!(client.ask("ADDS number7")? == "1");
    ensure!(client.ask("ADDS number8")? == "0");
    for number in (10..300).rev() {
        let line = format!("ADD number{number} 1");
        ensure!(client.ask(&line)? == (number + 1).to_string());
    }
    ensure!(client.ask("ADDS number299")? == "1");
    ensure!(client.ask("PUSH list d")? == "2" && client.ask("GET list")? == "a b c d");
    // The destructor of the new version takes what the transformer made.
    ensure!(client.ask("PUT number299 text")? == "OK");
    ensure!(client.ask("ADD number299 1")? == "ERR number299 is a text");
    server.more_requests(1_000)?;
    server.finish_with(301)
}

#[test]
fn the_nodes_of_a_rust_map_grow_in_a_loaded_server() -> Result<()> {
    let name = "the_nodes_of_a_rust_map_grow_in_a_loaded_server";
    if !can_run(
        name,
        &[Need::Root, Need::Program("rustc"), Need::Program("cc")],
    ) {
        return Ok(());
    }
    let mut server = loaded(Example::Board, 2, 5_000)?;
    let transform = file("examples/board/v2-v3.c");
    let options = ["--transform", &transform];
    let bundle = Bundle::of_example(&server.mvedsua, Example::Board, 2, 3, &options)?;
    let mut client = Client::connect(server.server.addr())?;
    ensure!(client.ask("PUT zz first")? == "OK" && client.ask("PUT zz second")? == "OK");
    server.apply(&bundle, &["--retry", "100", "--retry-delay", "20ms"])?;
    for _ in 0..3 {
        ensure!(client.ask("GET zz")? == "second");
    }
    ensure!(client.ask("RANGE key:00000000 key:99999999")? == "5000");
    server.more_requests(1_000)?;
    server.promote_finalize()?;
    ensure!(client.ask("USES zz")? == "written 2x, read 3x");
    ensure!(client.ask("RANGE key:00001000 key:00003000")? == "2000");
    // Nodes are split and grow on.
    for key in 0..500 {
        ensure!(client.ask(&format!("PUT more{key:04} x"))? == "OK");
    }
    ensure!(client.ask("RANGE more more9")? == "500");
    ensure!(client.ask("LAST 1")? == "zz=2x");
    server.more_requests(1_000)?;
    server.finish_with(501)
}
