//! Rules in process trees: each process has its own connections under the same descriptors, and the state that its
//! maker had; what the rules do in all of them is counted together.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::mvedsua::{Rule, Status};
use mvedsua_tests::switch::Switch;
use mvedsua_tests::{Mvedsua, Need, Victim, can_run, process};

const NEEDS: &[Need] = &[Need::Root, Need::Program("cc")];
const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "tree";

/// What the processes do in a round: see `offspring.c`.
const STATE: i32 = 1;
const CARRIED: i32 = 2;
const CUT_OFF: i32 = 3;

/// What the two versions differ in, for both stages.
const RULES: &str = r#"
state service asked = false;
state connection greeted = false;
parser put = /^PUT (?<key>[^ ]+) (?<val>.*\n)$/;

rule ask: write(_, "ASK\n") => same { asked = true; };
rule forget: write(_, "FORGET\n") => same { asked = false; };
rule greet: write(fd, "HELLO\n") => same { greeted = true; };
rule answer: write(_, "ANSWER 1\n") when asked => write(_, "ANSWER 2\n");
rule leave: write(fd, "BYE 1\n") when greeted => write(fd, "BYE 2\n");
rule put: read(fd, s, _) { (key, val) = put(s); return key != NULL; } as r => r(fd, "PUT-string $key $val");
rule cut_off within 50 ms: write(., "first\n"), write(., "second\n") => nothing;
"#;

/// A server with a child, followed by another version of both.
struct Two {
    // Dropped first: without an agent a killed server has no successor.
    mvedsua: Mvedsua,
    victim: Victim,
    switch: Switch,
}

impl Two {
    fn start() -> Result<Self> {
        let victim = Victim::start("offspring")?;
        std::fs::write(victim.dir().join("tree.rules"), RULES)?;
        let mvedsua = Mvedsua::start()?;
        // It has a child: it is taken with it.
        mvedsua.attach(victim.pid(), NAME)?;
        Ok(Self {
            switch: victim.switch()?,
            victim,
            mvedsua,
        })
    }

    /// Every process of the copy is another version from here on, and so are those that it makes.
    fn update(&self, with_rules: bool) -> Result<()> {
        let file = self.victim.dir().join("tree.rules").display().to_string();
        let options: &[&str] = if with_rules { &["--rules", &file] } else { &[] };
        self.mvedsua.update_identity(NAME, options)?;
        let status = self.mvedsua.status(NAME)?;
        let root = status.follower.context("it follows")?.pid;
        let mut poked = 0;
        for pid in process::descendants(root).into_iter().chain([root]) {
            // One of a single round may be gone.
            poked += usize::from(self.switch.turn(pid, 1).is_ok());
        }
        ensure!(poked >= 2, "{poked} processes");
        Ok(())
    }

    /// Shows a difference for about so many rounds, and waits until the follower has done them too and `counted` is true of what
    /// the rules have done.
    fn show_for(
        &self,
        number: i32,
        rounds: u64,
        counted: impl Fn(&Counts) -> bool,
    ) -> Result<Status> {
        self.victim.show(number)?;
        self.victim.wait_rounds(rounds)?;
        self.victim.show(0)?;
        self.victim.wait_rounds(2)?;
        // They are counted where the leader's calls come in; the follower may come later.
        let status = self.mvedsua.wait_for(NAME, LIMIT, |status| {
            status.follower.is_none() || counted(&Counts::of(status))
        })?;
        let status = self
            .mvedsua
            .wait_matched(NAME, LIMIT, status.events.recorded)?;
        if let Some(update) = &status.last_update {
            let report = update.report.clone().unwrap_or_default();
            anyhow::bail!("{number}: {}\n{report}", update.reason);
        }
        Ok(status)
    }
}

/// What each rule did, in all processes.
struct Counts<'a>(&'a [Rule]);

impl<'a> Counts<'a> {
    fn of(status: &'a Status) -> Self {
        Self(status.rules.as_ref().map_or(&[], |rules| &rules.rules))
    }

    fn fired(&self, name: &str) -> u64 {
        let rule = self.0.iter().find(|rule| rule.name == name);
        rule.map_or(0, |rule| rule.fired)
    }

    fn timed_out(&self, name: &str) -> u64 {
        let rule = self.0.iter().find(|rule| rule.name == name);
        rule.map_or(0, |rule| rule.timed_out)
    }
}

#[test]
fn each_process_has_the_state_of_its_own_connections() -> Result<()> {
    if !can_run("each_process_has_the_state_of_its_own_connections", NEEDS) {
        return Ok(());
    }
    let two = Two::start()?;
    two.update(true)?;
    // The root and the child of the round, which has ended since; never the one that was not asked.
    let both = |rules: &Counts, least: u64| {
        let asked = rules.fired("ask");
        asked >= least
            && ["answer", "leave"]
                .iter()
                .all(|rule| rules.fired(rule) == 2 * asked)
    };
    two.show_for(STATE, 20, |rules| both(rules, 15))?;
    // All three in each round.
    let all = |rules: &Counts| rules.fired("put") >= 45 && rules.fired("put").is_multiple_of(3);
    two.show_for(CARRIED, 20, all)?;
    two.show_for(CUT_OFF, 5, |rules| rules.timed_out("cut_off") >= 3)?;
    let status = two.mvedsua.status(NAME)?;
    let rules = Counts::of(&status);
    ensure!(both(&rules, 15) && all(&rules), "{:?}", status.rules);
    let asked = rules.fired("ask");
    let rewritten = status.events.rewritten;
    ensure!(rewritten >= 4 * asked + rules.fired("put"), "{status:?}");
    // What fired last is told with the process that it fired in.
    let firings = &status.rules.as_ref().context("there are rules")?.firings;
    let threads: BTreeSet<i32> = firings.iter().map(|firing| firing.thread).collect();
    ensure!(threads.len() > 2, "{firings:?}");
    two.mvedsua.rollback(NAME)?;
    two.victim.wait_rounds(5)?;

    // Once more: what was counted was of that update.
    two.update(true)?;
    let status = two.show_for(STATE, 5, |rules| both(rules, 3))?;
    let again = Counts::of(&status).fired("ask");
    ensure!(again < asked, "{:?}", status.rules);
    two.mvedsua.rollback(NAME)?;
    two.victim.end()
}

#[test]
fn without_their_rules_the_versions_diverge_in_a_child() -> Result<()> {
    if !can_run("without_their_rules_the_versions_diverge_in_a_child", NEEDS) {
        return Ok(());
    }
    let two = Two::start()?;
    for (number, why) in [
        (STATE, "write with other bytes in buf"),
        (CARRIED, "write with other bytes in buf"),
    ] {
        two.update(false)?;
        two.victim.show(number)?;
        let status = two
            .mvedsua
            .wait_for(NAME, LIMIT, |status| status.follower.is_none())?;
        two.victim.show(0)?;
        let update = status.last_update.context("no outcome")?;
        ensure!(
            update.outcome == "rolled-back" && update.reason.contains(why),
            "{update:?}"
        );
        two.victim.wait_rounds(5)?;
    }
    two.victim.end()
}
