//! The first law while a bundle is applied: wherever the agent is killed, in the middle of placing code, of the
//! transformer's work, of moving pointers or of putting the new version in force, one server goes on with
//! everything that its clients have stored.
//!
//! As `agent_dies.rs`, with `examples/kvstore` and a bundle with a transformer.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::examples::Example;
use mvedsua_tests::kvstore::Client;
use mvedsua_tests::{Mvedsua, Need, Server, can_run, process, wait_until};

const NAME: &str = "store";
/// Every so many steps.
const STRIDE: u64 = 11;
const ENTRIES: u32 = 60;
const LIMIT: Duration = Duration::from_secs(20);

/// How far the agent got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    /// It died while it attached.
    Nothing,
    /// It died during the update.
    Attached,
    /// It died during the promotion.
    Followed,
    /// It died while the old process was dropped.
    Promoted,
    /// It did not die.
    End,
}

/// The bundles between versions 1 and 2, there and back.
struct Bundles {
    forth: Bundle,
    back: Bundle,
}

fn bundle(mvedsua: &Mvedsua, old: u32, new: u32) -> Result<Bundle> {
    let transform = format!(
        "{}/../examples/kvstore/v{old}-v{new}.toml",
        env!("CARGO_MANIFEST_DIR")
    );
    let options = ["--transform", &transform];
    Bundle::of_example(mvedsua, Example::Kvstore, old, new, &options)
}

/// Version 1, run from a folder of its own, so that all its copies can be found.
fn serve() -> Result<Server> {
    let program = Example::Kvstore.build(1)?;
    Server::start(|port, dir| {
        let own = dir.join("kvstore");
        std::fs::copy(&program, &own).context("copying the program")?;
        let mut command = Command::new(own);
        command.arg(port.to_string());
        Ok(command)
    })
}

/// A client that has stored entries before, and knows what it stored.
struct Stored {
    client: Client,
    round: u32,
}

impl Stored {
    /// All entries are there, and another value can be stored, by the old version or the new one.
    fn check(&mut self) -> Result<()> {
        for key in 0..ENTRIES {
            let round = if key == 0 { self.round } else { 0 };
            let answer = self.client.ask(&format!("GET key{key}"))?;
            ensure!(answer == format!("{key}-{round}"), "key{key}: {answer:?}");
        }
        let round = self.round + 1;
        let mut answer = self.client.ask(&format!("PUT key0 0-{round}"))?;
        if answer != "OK" {
            answer = self.client.ask(&format!("PUT-string key0 0-{round}"))?;
        }
        ensure!(answer == "OK", "PUT: {answer:?}");
        self.round = round;
        Ok(())
    }
}

fn die_at(bundles: &Bundles, step: u64) -> Result<Reached> {
    let mut server = serve()?;
    let program = server.dir().join("kvstore");
    let mut stored = Stored {
        client: Client::connect(server.addr())?,
        round: 0,
    };
    for key in 0..ENTRIES {
        let answer = stored.client.ask(&format!("PUT key{key} {key}-0"))?;
        ensure!(answer == "OK", "{answer:?}");
    }
    let mut mvedsua = Mvedsua::without_agent()?;
    mvedsua.start_agent_that_dies(step)?;
    let pid = server.pid().to_string();
    let forth = bundles.forth.path().to_string_lossy().into_owned();
    let commands: [(&[&str], Reached); 4] = [
        (
            &["attach", "--pid", &pid, "--name", NAME],
            Reached::Attached,
        ),
        (&["update", NAME, &forth], Reached::Followed),
        (&["promote", NAME], Reached::Promoted),
        (&["finalize", NAME], Reached::End),
    ];
    let mut reached = Reached::Nothing;
    for (words, then) in commands {
        if !mvedsua.run_or_die(words, LIMIT)? {
            break;
        }
        reached = then;
    }
    let alive = || process::with_program(&program);
    // Before the promotion the old version needs nobody; what was promoted waits for a successor, and so may what
    // died in between.
    if reached <= Reached::Attached {
        stored.check().context("without a successor")?;
        ensure!(
            wait_until(LIMIT, || alive() == [server.pid()]),
            "there are {:?}, not {} alone",
            alive(),
            server.pid()
        );
    }
    if reached == Reached::End {
        // This agent still counts its steps.
        mvedsua.kill_agent();
    }
    mvedsua.start_agent()?;
    stored.check().context("with a successor")?;
    server.reap();
    ensure!(
        wait_until(LIMIT, || alive().len() == 1),
        "there are {:?}\n{}",
        alive(),
        mvedsua.log()
    );
    let pid = alive()[0];
    let known = mvedsua
        .status(NAME)
        .is_ok_and(|status| status.leader.pid == pid);
    if !known {
        mvedsua.attach(pid, NAME)?;
    }
    // It is as good as any of its version: the bundle for that version fits, and goes through.
    let is_new = stored.client.ask("TYPE key1")? == "string";
    ensure!(
        is_new || reached < Reached::Promoted,
        "it is the old version"
    );
    ensure!(
        !is_new || reached > Reached::Attached,
        "it is the new version"
    );
    let next = if is_new {
        &bundles.back
    } else {
        &bundles.forth
    };
    let path = next.path().to_string_lossy().into_owned();
    mvedsua.run(&["update", NAME, &path])?.ok()?;
    stored.client.ask("GET key1")?;
    mvedsua.rollback(NAME)?;
    stored.check().context("after another update")?;
    process::send(pid, process::Signal::SIGKILL)?;
    Ok(reached)
}

#[test]
fn one_store_with_all_entries_goes_on_wherever_the_agent_dies() -> Result<()> {
    let needs = [Need::Root, Need::Program("gcc")];
    let name = "one_store_with_all_entries_goes_on_wherever_the_agent_dies";
    if !can_run(name, &needs) {
        return Ok(());
    }
    let mvedsua = Mvedsua::without_agent()?;
    let bundles = Bundles {
        forth: bundle(&mvedsua, 1, 2)?,
        back: bundle(&mvedsua, 2, 1)?,
    };
    let mut deaths = Vec::new();
    for step in (1..).step_by(STRIDE as usize) {
        let reached =
            die_at(&bundles, step).with_context(|| format!("the agent died before step {step}"))?;
        if reached == Reached::End {
            break;
        }
        deaths.push(reached);
    }
    println!("{} deaths: {deaths:?}", deaths.len());
    let during = deaths.iter().filter(|death| **death == Reached::Attached);
    ensure!(
        during.count() > 10 && deaths.contains(&Reached::Followed),
        "the steps of an update are counted wrongly: {deaths:?}"
    );
    Ok(())
}
