//! The rules of `rules/kvstore` on live connections of the example server.
//!
//! Version 2 becomes version 3 by a bundle, with the rules for it and without. Some rules also give a follower of the *same* version
//! another command that means the same to it (a typed PUT and "bad-cmd" are both refused by version 1; PUT
//! and PUT-string are the same to version 2): there an identity update shows that they fire, on calls and
//! on messages, and do no harm.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::kvstore::{self, Client};
use mvedsua_tests::mvedsua::{LastUpdate, Status};
use mvedsua_tests::{Mvedsua, Need, Server, can_run};

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "kv";

struct Store {
    server: Server,
    mvedsua: Mvedsua,
    dir: tempfile::TempDir,
}

impl Store {
    fn start(version: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let server = kvstore::serve(&kvstore::build(version, dir.path())?)?;
        let mvedsua = Mvedsua::start()?;
        mvedsua.attach(server.pid(), NAME)?;
        Ok(Self {
            server,
            mvedsua,
            dir,
        })
    }

    fn update(&self, rules: &str) -> Result<()> {
        let file = kvstore::rules(rules);
        self.mvedsua.update_identity(NAME, &["--rules", &file])?;
        Ok(())
    }

    /// The bundle from one version to the next, with rules or without.
    fn bundle(&self, from: u32, rules: Option<&str>) -> Result<String> {
        let path = |name: String| self.dir.path().join(name).display().to_string();
        let new = kvstore::build(from + 1, self.dir.path())?
            .display()
            .to_string();
        let (old, out) = (path(format!("kvstore-v{from}")), path("update.mvu".into()));
        let mut words = vec!["bundle", "build", "--old", &old, "--new", &new, "-o", &out];
        let file = rules.map(kvstore::rules);
        words.extend(file.iter().flat_map(|file| ["--rules", file]));
        if from == 1 {
            // Version 2 has another entry.
            words.extend([
                "--transform",
                concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../examples/kvstore/v1-v2.toml"
                ),
            ]);
        }
        self.mvedsua.run(&words)?.ok()?;
        Ok(out)
    }

    /// Waits until the follower is gone; how the update ended.
    fn ended(&self) -> Result<LastUpdate> {
        let status = self
            .mvedsua
            .wait_for(NAME, LIMIT, |status| status.follower.is_none())?;
        status.last_update.context("no outcome")
    }

    /// Waits until the rules of the stage have fired so often, and the follower has got there.
    fn fired(&self, times: u64) -> Result<Status> {
        let status = self.mvedsua.wait_for(NAME, LIMIT, |status| {
            let Some(rules) = &status.rules else {
                return false;
            };
            let here = rules.rules.iter().filter(|rule| rule.stage == rules.stage);
            let fired: u64 = here.map(|rule| rule.fired).sum();
            status.follower.is_none_or(|f| f.lag_events == 0) && fired >= times
        })?;
        ensure!(
            status.follower.is_some() && status.events.diverged == 0,
            "{status:?}"
        );
        Ok(status)
    }
}

#[test]
fn the_papers_rule_1_on_live_connections() -> Result<()> {
    if !can_run(
        "the_papers_rule_1_on_live_connections",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let store = Store::start(1)?;
    let mut before = Client::connect(store.server.addr())?;
    ensure!(before.ask("PUT a 1")? == "OK");
    store.update("v1-v2.rules")?;
    let mut after = Client::connect(store.server.addr())?;
    for client in [&mut before, &mut after] {
        for round in 0..10 {
            ensure!(client.ask(&format!("PUT-number k{round} 1"))? == "ERR unknown command");
            ensure!(client.ask("TYPE a")? == "ERR unknown command");
            ensure!(client.ask("GET a")? == "1");
        }
    }
    let status = store.fired(40)?;
    ensure!(status.events.rewritten >= 40, "{status:?}");
    store.mvedsua.rollback(NAME)?;
    ensure!(before.ask("GET a")? == "1" && after.ask("GET a")? == "1");
    Ok(())
}

#[test]
fn the_papers_rule_2_and_its_reverse_on_live_connections() -> Result<()> {
    if !can_run(
        "the_papers_rule_2_and_its_reverse_on_live_connections",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let store = Store::start(2)?;
    let mut client = Client::connect(store.server.addr())?;
    // As calls: one command a read.
    store.update("v2-v3.rules")?;
    for round in 0..10 {
        ensure!(client.ask(&format!("PUT a {round}"))? == "OK");
        ensure!(client.ask("GET a")? == round.to_string());
        ensure!(client.ask("TYPE a")? == "string");
    }
    store.fired(10)?;
    store.mvedsua.rollback(NAME)?;

    // As messages: several commands in one read, and one in several.
    store.update("v2-v3-messages.rules")?;
    for round in 0..10 {
        client.send(&format!("GET a\r\nPUT a {round}\r\nPUT b {round}\r\nGET a"))?;
        ensure!(client.reply()? == if round == 0 { "9" } else { "x" });
        ensure!(client.reply()? == "OK" && client.reply()? == "OK");
        client.send("\r\nPU")?;
        ensure!(client.reply()? == round.to_string());
        client.send("T a ")?;
        client.send("x\r\n")?;
        ensure!(client.reply()? == "OK");
    }
    store.fired(30)?;
    // The reverse rule was derived: PUT-string is PUT to the old version.
    store.mvedsua.promote(NAME)?;
    let mut other = Client::connect(store.server.addr())?;
    for round in 0..10 {
        ensure!(other.ask(&format!("PUT-string c {round}"))? == "OK");
        ensure!(client.ask("GET c")? == round.to_string());
        ensure!(client.ask("TYPE c")? == "string");
    }
    let status = store.fired(10)?;
    ensure!(status.stage == "updated-leader", "{status:?}");
    // What the old version was given by the rules is what it serves with.
    store.mvedsua.rollback(NAME)?;
    ensure!(client.ask("GET c")? == "9" && other.ask("GET a")? == "x");
    Ok(())
}

#[test]
fn version_3_follows_version_2_by_the_rules_in_its_bundle() -> Result<()> {
    if !can_run(
        "version_3_follows_version_2_by_the_rules_in_its_bundle",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let store = Store::start(2)?;
    let mut client = Client::connect(store.server.addr())?;
    ensure!(client.ask("PUT a 0")? == "OK");
    let bundle = store.bundle(2, Some("v2-v3-messages.rules"))?;
    store.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    for round in 1..=10 {
        ensure!(client.ask(&format!("PUT a {round}"))? == "OK");
        ensure!(client.ask("GET a")? == round.to_string());
        ensure!(client.ask(&format!("PUT-number b {round}"))? == "OK");
    }
    store.fired(10)?;
    store.mvedsua.promote(NAME)?;
    // Version 3 has what was PUT, and version 2 follows it: PUT-string is PUT to it.
    ensure!(client.ask("GET a")? == "10" && client.ask("TYPE b")? == "number");
    for round in 0..10 {
        ensure!(client.ask(&format!("PUT-string a {round}"))? == "OK");
        ensure!(client.ask("GET a")? == round.to_string());
    }
    let status = store.fired(10)?;
    ensure!(status.stage == "updated-leader", "{status:?}");
    // A plain PUT is refused by version 3 and obeyed by version 2; no rule speaks of that.
    ensure!(client.ask("PUT a x")? == "ERR unknown command");
    let update = store.ended()?;
    ensure!(
        update.outcome == "finalized"
            && update
                .reason
                .contains("the old version was dropped: divergence"),
        "{update:?}"
    );
    ensure!(client.ask("GET a")? == "9" && client.ask("PUT-string a y")? == "OK");
    Ok(())
}

#[test]
fn without_the_rules_version_3_is_rolled_back_as_the_paper_predicts() -> Result<()> {
    if !can_run(
        "without_the_rules_version_3_is_rolled_back_as_the_paper_predicts",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let store = Store::start(2)?;
    let mut client = Client::connect(store.server.addr())?;
    let bundle = store.bundle(2, None)?;
    store.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    ensure!(client.ask("PUT-string a 1")? == "OK" && client.ask("GET a")? == "1");
    ensure!(store.mvedsua.status(NAME)?.follower.is_some());
    // Version 3 does not know it any more; the client is served by version 2 and does not notice.
    ensure!(client.ask("PUT a 2")? == "OK");
    let update = store.ended()?;
    ensure!(
        update.outcome == "rolled-back"
            && update
                .reason
                .contains("write with other bytes in buf, first at offset 0"),
        "{update:?}"
    );
    let report = update.report.unwrap_or_default();
    ensure!(
        report.contains("OK\\r\\n") && report.contains("ERR unknown command"),
        "{report}"
    );
    ensure!(client.ask("GET a")? == "2");
    // The same bundle with the rules from the command line.
    let rules = kvstore::rules("v2-v3.rules");
    store
        .mvedsua
        .run(&["update", NAME, &bundle, "--rules", &rules])?
        .ok()?;
    ensure!(client.ask("PUT a 3")? == "OK" && client.ask("GET a")? == "3");
    store.fired(1)?;
    store.mvedsua.rollback(NAME)?;
    ensure!(client.ask("GET a")? == "3");
    Ok(())
}

#[test]
fn version_2_follows_version_1_by_the_papers_rules() -> Result<()> {
    if !can_run(
        "version_2_follows_version_1_by_the_papers_rules",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let store = Store::start(1)?;
    let mut client = Client::connect(store.server.addr())?;
    ensure!(client.ask("PUT a 0")? == "OK");
    let bundle = store.bundle(1, Some("v1-v2.rules"))?;
    store.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    for round in 0..10 {
        ensure!(client.ask(&format!("PUT-number n {round}"))? == "ERR unknown command");
        ensure!(client.ask("GET n")? == "NONE");
        ensure!(client.ask("TYPE a")? == "ERR unknown command");
        ensure!(client.ask(&format!("PUT a {round}"))? == "OK");
        ensure!(client.ask("GET a")? == round.to_string());
    }
    store.fired(20)?;
    store.mvedsua.promote(NAME)?;
    // Version 2 serves what version 1 was told, and version 1 follows it.
    ensure!(client.ask("GET a")? == "9" && client.ask("GET n")? == "NONE");
    for round in 0..10 {
        ensure!(client.ask(&format!("PUT-string a {round}"))? == "OK");
        ensure!(client.ask("PUT-number n x")? == "ERR not a number");
        ensure!(client.ask("TYPE nothing")? == "NONE");
        ensure!(client.ask("GET a")? == round.to_string());
    }
    store.fired(10)?;
    // What version 1 cannot hold ends its following, with the rule's words; the client is served.
    ensure!(client.ask("PUT-number n 5")? == "OK");
    let update = store.ended()?;
    ensure!(
        update.outcome == "finalized"
            && update
                .reason
                .contains("version 1 cannot hold a typed value: finalize the update"),
        "{update:?}"
    );
    ensure!(client.ask("GET n")? == "5" && client.ask("TYPE n")? == "number");
    Ok(())
}

#[test]
fn without_the_papers_rules_a_typed_put_is_a_divergence_in_both_stages() -> Result<()> {
    if !can_run(
        "without_the_papers_rules_a_typed_put_is_a_divergence_in_both_stages",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let store = Store::start(1)?;
    let mut client = Client::connect(store.server.addr())?;
    let bundle = store.bundle(1, None)?;
    store.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    // Version 2 obeys what version 1 refuses.
    ensure!(client.ask("PUT-number n 1")? == "ERR unknown command");
    let update = store.ended()?;
    ensure!(
        update.outcome == "rolled-back" && update.reason.contains("divergence"),
        "{update:?}"
    );
    ensure!(client.ask("GET n")? == "NONE");

    store.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    store.mvedsua.promote(NAME)?;
    ensure!(client.ask("PUT-string a 1")? == "OK");
    let update = store.ended()?;
    ensure!(
        update.outcome == "finalized"
            && update
                .reason
                .contains("the old version was dropped: divergence"),
        "{update:?}"
    );
    ensure!(client.ask("GET a")? == "1");
    Ok(())
}
