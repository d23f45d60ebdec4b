//! Transformers at work in a follower: state that changes its layout while the server serves, and
//! mistakes in transformers, each of which only costs the update.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::kvstore::{self, Client};
use mvedsua_tests::pair::{Lines, Pair};
use mvedsua_tests::programs::{Build, MEMCACHED_NEW, MEMCACHED_OLD, REDIS_U7, REDIS_U10};
use mvedsua_tests::{Mvedsua, Need, Server, can_run, process};

const NAME: &str = "store";
const NEEDS: &[Need] = &[Need::Root, Need::Program("cc")];
const ENTRIES: u64 = 1000;

/// A store with a thousand entries, attached.
struct Store {
    pair: Pair,
    mvedsua: Mvedsua,
    lines: Lines,
}

impl Store {
    fn start(files: &[&str]) -> Result<Self> {
        let pair = Pair::compile(files, &[])?;
        let mvedsua = Mvedsua::start()?;
        let mut lines = Lines::start(&pair.program(1))?;
        ensure!(lines.ask(&format!("fill {ENTRIES}"))? == "ok");
        mvedsua.attach(lines.pid(), NAME)?;
        Ok(Self {
            pair,
            mvedsua,
            lines,
        })
    }

    /// A bundle with the shipped transformer, with one of its mistakes (0: none).
    fn bundle(&self, mistake: u32) -> Result<String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/store_transform.c");
        let path = self.pair.dir().join(format!("mistake{mistake}.c"));
        let text = format!(
            "#define MISTAKE {mistake}\n#include \"{}\"\n",
            source.display()
        );
        std::fs::write(&path, text)?;
        let transform = path.to_string_lossy().into_owned();
        self.pair
            .bundle(&self.mvedsua, 1, 2, &["--transform", &transform])
    }

    /// A bundle with a declared transformer of `tests/bundles`.
    fn declared(&self, file: &str) -> Result<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("bundles")
            .join(file);
        let transform = path.to_string_lossy().into_owned();
        self.pair
            .bundle(&self.mvedsua, 1, 2, &["--transform", &transform])
    }

    fn check(&mut self, line: &str, answer: &str) -> Result<()> {
        let got = self.lines.ask(line)?;
        ensure!(
            got == answer,
            "{line:?} was answered {got:?}, not {answer:?}"
        );
        Ok(())
    }
}

/// The victim with clients, attached.
fn hub() -> Result<Store> {
    let pair = Pair::compile(&["hub.c"], &[])?;
    let mvedsua = Mvedsua::start()?;
    let lines = Lines::start(&pair.program(1))?;
    mvedsua.attach(lines.pid(), NAME)?;
    Ok(Store {
        pair,
        mvedsua,
        lines,
    })
}

#[test]
fn a_thousand_entries_get_their_new_layout_in_the_follower() -> Result<()> {
    let name = "a_thousand_entries_get_their_new_layout_in_the_follower";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut store = Store::start(&["store.c", "main.c"])?;
    let bundle = store.bundle(0)?;
    store.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    // Both versions answer the same, and the old one's answers are seen.
    for key in [0, 7, 999] {
        store.check(&format!("has {key}"), &format!("v{}", key * 7))?;
    }
    store.check("set 1000 more", "ok")?;
    store.check("walk", "1001 entries sum 500500 latest 1000")?;
    let events = format!("{:?}", store.mvedsua.events(NAME)?);
    ensure!(
        events.contains("mistake0.c transformed 1000 objects"),
        "{events}"
    );
    store.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    store
        .lines
        .succeeded_by(store.mvedsua.status(NAME)?.leader.pid);
    store.check("get 7", "v49 type 1 reads 1")?;
    store.check("get 1000", "more type 1 reads 1")?;
    store.check(
        "sum",
        "1001 entries sum 500500 used 1001 latest 1000 changes 1001",
    )
}

/// Updates with a mistake: it must be rolled back with this cause, and the old version goes on.
fn rolled_back(mistake: u32, options: &[&str], causes: &[&str]) -> Result<()> {
    let mut store = Store::start(&["store.c", "main.c"])?;
    let bundle = store.bundle(mistake)?;
    let outcome = store
        .mvedsua
        .run(&[&["update", NAME, &bundle], options].concat())?;
    // Some mistakes show only in what the follower then answers, or fails to.
    for line in ["has 3", "walk", "set 3 other", "has 3", "has 999"] {
        let answered = store.lines.ask(line);
        answered.with_context(|| format!("mistake {mistake}: {:?}", store.mvedsua.events(NAME)))?;
    }
    let status = store
        .mvedsua
        .wait_for(NAME, Duration::from_secs(20), |status| {
            status.last_update.is_some()
        })
        .with_context(|| format!("mistake {mistake}: {outcome:?}"))?;
    let last = status.last_update.context("waited for it")?;
    ensure!(last.outcome == "rolled-back", "mistake {mistake}: {last:?}");
    let told = format!("{} {}", last.reason, last.report.unwrap_or_default());
    for cause in causes {
        ensure!(
            told.contains(cause),
            "mistake {mistake}: no {cause:?} in {told}"
        );
    }
    store.check("has 3", "other")?;
    store.check("walk", "1000 entries sum 499500 latest 3")
}

#[test]
fn mistakes_of_transformers_are_rolled_back_with_their_cause() -> Result<()> {
    let name = "mistakes_of_transformers_are_rolled_back_with_their_cause";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let crash = [
        "mistake2.c died of SIGSEGV at 0x8",
        "mvedsua_transform",
        "after 10 objects",
    ];
    rolled_back(
        1,
        &[],
        &["mistake1.c gave up after 10 objects: entry 10 is not good"],
    )?;
    rolled_back(2, &[], &crash)?;
    let endless = [
        "mistake3.c did not end within 300ms after 10 objects",
        "it stands in mvedsua_transform",
    ];
    rolled_back(3, &["--transform-limit", "300ms"], &endless)?;
    rolled_back(4, &[], &["mistake4.c made the system call getpid"])?;
    rolled_back(5, &[], &["mvedsua_transform did not return 0"])?;
    // It forgets to copy the table: the new version finds nothing.
    rolled_back(6, &[], &["none"])?;
    // It leaves a field uninitialised: the new version crashes.
    rolled_back(7, &[], &["SIGSEGV"])?;
    // It frees memory that is still in use.
    rolled_back(9, &[], &[])
}

#[test]
fn epoll_data_registers_and_stacks_follow_a_moved_object() -> Result<()> {
    let name = "epoll_data_registers_and_stacks_follow_a_moved_object";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut hub = hub()?;
    hub.check("x", "stdin 1 first stdin 1")?;
    let bundle = hub.declared("hub_transform.toml")?;
    hub.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    hub.check("x", "stdin 2 first stdin 2")?;
    hub.mvedsua.run(&["promote", NAME])?.ok()?;
    let promoted = hub.mvedsua.status(NAME)?.leader.pid;
    hub.lines.succeeded_by(promoted);
    // The epoll instance holds the new address now, and the old version follows with its own.
    hub.check("x", "stdin 3 first stdin 3")?;
    hub.check("x", "stdin 4 first stdin 4")?;
    let status = hub.mvedsua.status(NAME)?;
    ensure!(
        status.stage == "updated-leader" && status.events.diverged == 0,
        "{status:?}"
    );
    hub.mvedsua.run(&["finalize", NAME])?.ok()?;
    hub.check("x", "stdin 5 first stdin 5")
}

#[test]
fn a_lock_that_a_thread_holds_is_waited_for_and_then_named() -> Result<()> {
    let name = "a_lock_that_a_thread_holds_is_waited_for_and_then_named";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut hub = hub()?;
    let bundle = hub.declared("hub_transform.toml")?;
    hub.check("hold", "stdin 1 first stdin 1")?;
    let words = ["--retry", "2", "--retry-delay", "10ms"];
    let outcome = hub
        .mvedsua
        .run(&[&["update", NAME, &bundle], &words[..]].concat())?;
    ensure!(
        outcome.code == 3
            && outcome.stderr.contains("at 3 moments")
            && outcome
                .stderr
                .contains("a lock that a stopped thread holds"),
        "{outcome:?}"
    );
    hub.check("x", "stdin 2 first stdin 2")?;
    let words = ["--retry", "100000", "--retry-delay", "10ms"];
    std::thread::scope(|scope| -> Result<()> {
        let mvedsua = &hub.mvedsua;
        let bundle = &bundle;
        let update =
            scope.spawn(move || mvedsua.run(&[&["update", NAME, bundle], &words[..]].concat()));
        let waits = mvedsua_tests::wait_until(Duration::from_secs(20), || {
            mvedsua
                .events(NAME)
                .is_ok_and(|events| format!("{events:?}").contains("try 4: "))
        });
        ensure!(waits, "it is not tried again: {:?}", mvedsua.events(NAME));
        let released = hub.lines.ask("release");
        update.join().expect("no panic")?.ok()?;
        ensure!(released? == "stdin 3 first stdin 3");
        Ok(())
    })?;
    hub.check("x", "stdin 4 first stdin 4")
}

#[test]
fn thread_local_pointers_follow_a_moved_object() -> Result<()> {
    let name = "thread_local_pointers_follow_a_moved_object";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let pair = Pair::compile(&["perthread.c", "main.c"], &[])?;
    let mvedsua = Mvedsua::start()?;
    let transform = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/bundles/perthread_transform.toml"
    );
    let options = ["--transform", transform, "--keep-value", "mine"];
    let bundle = pair.bundle(&mvedsua, 1, 2, &options)?;
    let mut lines = Lines::start(&pair.program(1))?;
    ensure!(lines.ask("add")? == "number 1 in the object, 1");
    mvedsua.attach(lines.pid(), NAME)?;
    mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    ensure!(lines.ask("add")? == "number 2 in the object, 2");
    mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    lines.succeeded_by(mvedsua.status(NAME)?.leader.pid);
    ensure!(lines.ask("add")? == "number 3 in the object, 3");
    ensure!(lines.ask("extra")? == "extra 100");
    Ok(())
}

/// The paper's store, as it goes through its versions on live connections.
struct Kvstore {
    dir: tempfile::TempDir,
    server: Server,
    mvedsua: Mvedsua,
    clients: Vec<Client>,
}

impl Kvstore {
    fn bundle(&self, from: u32, to: u32, options: &[&str]) -> Result<String> {
        let path = |name: String| self.dir.path().join(name).to_string_lossy().into_owned();
        let program = |version: u32| path(format!("kvstore-v{version}"));
        let output = path(format!("{from}-{to}.mvu"));
        let (old, new) = (program(from), program(to));
        let words = [
            &[
                "bundle", "build", "--old", &old, "--new", &new, "-o", &output,
            ],
            options,
        ]
        .concat();
        self.mvedsua.run(&words)?.ok()?;
        Ok(output)
    }

    /// What both versions answer in the same way, on every connection; `put` is what they call a PUT.
    fn serve(&mut self, put: &str) -> Result<()> {
        for (at, client) in self.clients.iter_mut().enumerate() {
            for key in (at..KEYS).step_by(997) {
                ensure!(client.ask(&format!("GET key{key}"))? == format!("value{key}"));
            }
            let key = format!("own{at}");
            ensure!(client.ask(&format!("{put} {key} x"))? == "OK");
            ensure!(client.ask(&format!("GET {key}"))? == "x");
        }
        Ok(())
    }

    fn change(&mut self, bundle: &str, put: [&str; 2]) -> Result<()> {
        self.mvedsua.run(&["update", NAME, bundle])?.ok()?;
        self.serve(put[0]).context("while two versions run")?;
        self.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
        self.serve(put[1]).context("after the promotion")
    }
}

/// Entries of the store.
const KEYS: usize = 20_000;

#[test]
fn kvstore_goes_through_its_versions_and_back_in_one_process() -> Result<()> {
    let name = "kvstore_goes_through_its_versions_and_back_in_one_process";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let program = kvstore::build(1, dir.path())?;
    kvstore::build(2, dir.path())?;
    kvstore::build(3, dir.path())?;
    let server = kvstore::serve(&program)?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(server.pid(), NAME)?;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(server.addr())?);
    }
    for key in 0..KEYS {
        clients[0].send(&format!("PUT key{key} value{key}\r\n"))?;
        if key % 100 == 99 {
            for _ in 0..100 {
                ensure!(clients[0].reply()? == "OK");
            }
        }
    }
    let mut store = Kvstore {
        dir,
        server,
        mvedsua,
        clients,
    };
    let example = |name: &str| format!("{}/../examples/kvstore/{name}", env!("CARGO_MANIFEST_DIR"));
    let rules = kvstore::rules("v1-v2.rules");
    let forth = example("v1-v2.toml");
    let forth = store.bundle(1, 2, &["--transform", &forth, "--rules", &rules])?;
    store.change(&forth, ["PUT", "PUT"])?;
    let client = &mut store.clients[1];
    ensure!(client.ask("TYPE key7")? == "string");
    ensure!(client.ask("PUT-number n 5")? == "OK");
    ensure!(client.ask("TYPE n")? == "number");

    let rules = kvstore::rules("v2-v3.rules");
    let on = store.bundle(2, 3, &["--rules", &rules])?;
    store.change(&on, ["PUT", "PUT-string"])?;
    ensure!(store.clients[2].ask("TYPE n")? == "number");

    let back = store.bundle(3, 2, &[])?;
    store.change(&back, ["PUT-string", "PUT"])?;
    let back = example("v2-v1.toml");
    let back = store.bundle(2, 1, &["--transform", &back])?;
    store.change(&back, ["PUT", "PUT"])?;
    ensure!(store.clients[3].ask("TYPE n")? == "ERR unknown command");
    ensure!(store.clients[3].ask("GET n")? == "5");
    // And forth again, on what all of them have left.
    store.change(&forth, ["PUT", "PUT"])?;
    ensure!(store.clients[4].ask("TYPE n")? == "string");
    ensure!(Client::connect(store.server.addr())?.ask("GET key19999")? == "value19999");
    Ok(())
}

#[test]
fn an_endless_transformer_can_be_given_up_and_leaves_no_successor() -> Result<()> {
    let name = "an_endless_transformer_can_be_given_up_and_leaves_no_successor";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut store = Store::start(&["store.c", "main.c"])?;
    let bundle = store.bundle(3)?;
    for crash in [false, true] {
        let outcome = std::thread::scope(|scope| -> Result<mvedsua_tests::mvedsua::Outcome> {
            let (mvedsua, bundle) = (&store.mvedsua, &bundle);
            // A leader that dies is held until its copy is transformed, or that has taken too long.
            let limit = if crash { "5s" } else { "1m" };
            let words = ["update", NAME, bundle, "--transform-limit", limit];
            let update = scope.spawn(move || mvedsua.run(&words));
            let works = mvedsua_tests::wait_until(Duration::from_secs(20), || {
                mvedsua
                    .run(&["status", NAME])
                    .is_ok_and(|o| o.stdout.contains("10 objects of 1000 transformed"))
            });
            ensure!(works, "no progress: {:?}", mvedsua.events(NAME));
            // The server serves meanwhile.
            ensure!(store.lines.ask("has 3")? == "v21");
            if crash {
                process::send(store.lines.pid(), process::Signal::SIGSEGV)?;
            } else {
                mvedsua.rollback(NAME)?;
            }
            update.join().expect("no panic")
        })?;
        let (code, says) = if crash {
            (5, "did not end within 5s after 10 objects")
        } else {
            (3, "the update was rolled back")
        };
        ensure!(
            outcome.code == code && outcome.stderr.contains(says),
            "{outcome:?}"
        );
        if !crash {
            store.check("has 3", "v21")?;
        }
    }
    Ok(())
}

#[test]
fn headers_of_real_servers_compile_and_their_assertions_hold() -> Result<()> {
    let name = "headers_of_real_servers_compile_and_their_assertions_hold";
    let builds = [
        (REDIS_U7, REDIS_U10, "struct same_redisDb {"),
        (MEMCACHED_OLD, MEMCACHED_NEW, "struct same_conn {"),
    ];
    let needs: Vec<Need> = builds
        .iter()
        .flat_map(|(old, new, _)| [Need::Build(old), Need::Build(new)])
        .chain([Need::Program("cc")])
        .collect();
    if !can_run(name, &needs) {
        return Ok(());
    }
    let mvedsua = Mvedsua::without_agent()?;
    let dir = tempfile::tempdir()?;
    for (old, new, holds) in builds {
        let build = |name: &str| Build::find(name).context("asked for before");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (old, new) = (build(old)?, build(new)?);
        let header = dir.path().join("mvedsua.h");
        let words = [
            "bundle",
            "header",
            "--old",
            &text(old.program()),
            "--new",
            &text(new.program()),
            "--debug-root",
            &text(&old.debug_root()),
            "--debug-root",
            &text(&new.debug_root()),
            "-o",
            &text(&header),
        ];
        mvedsua.run(&words)?.ok()?;
        ensure!(std::fs::read_to_string(&header)?.contains(holds), "{holds}");
        let compiled = std::process::Command::new("cc")
            .args(["-c", "-xc", "-fPIC", "-ffreestanding", "-Wall", "-Werror"])
            .arg(&header)
            .arg("-o")
            .arg(dir.path().join("header.o"))
            .output()?;
        ensure!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
    }
    Ok(())
}
