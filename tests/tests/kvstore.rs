//! The rules of `rules/kvstore` on live connections of the example server.
//!
//! Each of these rules gives a follower of the *same* version another command that means the same to it
//! (a typed PUT and "bad-cmd" are both refused by version 1; PUT and PUT-string are the same to version
//! 2), so an identity update shows that they fire, on calls and on messages, and do no harm.

use std::time::Duration;

use anyhow::{Result, ensure};
use mvedsua_tests::kvstore::{self, Client};
use mvedsua_tests::mvedsua::Status;
use mvedsua_tests::{Mvedsua, Need, Server, can_run};

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "kv";

struct Store {
    server: Server,
    mvedsua: Mvedsua,
    _dir: tempfile::TempDir,
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
            _dir: dir,
        })
    }

    fn update(&self, rules: &str) -> Result<()> {
        let file = kvstore::rules(rules);
        self.mvedsua.update_identity(NAME, &["--rules", &file])?;
        Ok(())
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
