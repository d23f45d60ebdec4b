//! Rules on live processes: two versions that differ in one thing at a time, with the rule for it and
//! without, while the old version leads and while the new one does.
//!
//! `rules.c` has two versions in one program. The test pokes the other one into the follower's memory,
//! and tells both by a file which of their differences to show.

mod rules {
    pub mod cases;
}

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::mvedsua::{Rules, Status};
use mvedsua_tests::switch::Switch;
use mvedsua_tests::{Mvedsua, Need, Supervised, Victim, can_run, process};
use rules::cases::{ENDED, RECONCILED, rules};

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "r";

/// A victim with an agent, attached.
struct Two {
    victim: Victim,
    mvedsua: Mvedsua,
    switch: Switch,
    rules: PathBuf,
}

impl Two {
    fn start() -> Result<Self> {
        let victim = Victim::start("rules")?;
        let rules_file = victim.dir().join("all.rules");
        std::fs::write(&rules_file, rules())?;
        let mvedsua = Mvedsua::start()?;
        mvedsua.attach(victim.pid(), NAME)?;
        Ok(Self {
            switch: victim.switch()?,
            rules: rules_file,
            victim,
            mvedsua,
        })
    }

    /// An update to the same version, with all rules or none; the follower is another version then.
    fn update(&self, with_rules: bool) -> Result<()> {
        let file = self.rules.display().to_string();
        let options: &[&str] = if with_rules {
            &["--rules", &file, "--retry", "0"]
        } else {
            &[]
        };
        self.mvedsua.update_identity(NAME, options)?;
        self.poke_follower()
    }

    fn status(&self) -> Result<Status> {
        self.mvedsua.status(NAME)
    }

    fn poke_follower(&self) -> Result<()> {
        let status = self.status()?;
        let follower = status
            .follower
            .with_context(|| format!("no follower: {:?}", status.last_update))?;
        self.switch.turn(follower.pid, 1)
    }

    /// Shows a difference for some rounds, and waits until the follower has done them too.
    fn show_for(&self, number: i32, rounds: u64) -> Result<Status> {
        self.victim.show(number)?;
        // The round that is under way may have looked before.
        self.victim.wait_rounds(rounds + 1)?;
        self.victim.show(0)?;
        self.victim.wait_rounds(2)?;
        self.mvedsua.wait_for(NAME, LIMIT, |status| {
            status.follower.is_none_or(|f| f.lag_events < 20)
        })
    }

    /// The update was ended for that reason, and the server is as it was.
    fn ended_with(&self, outcome: &str, reason: &str) -> Result<Status> {
        let status = self
            .mvedsua
            .wait_for(NAME, LIMIT, |status| status.follower.is_none())?;
        self.victim.show(0)?;
        self.victim.wait_rounds(2)?;
        let update = status.last_update.clone().context("no outcome")?;
        ensure!(update.outcome == outcome, "{update:?}");
        ensure!(
            reason.split('|').any(|piece| update.reason.contains(piece)),
            "the reason is: {}\n{}",
            update.reason,
            update.report.unwrap_or_default()
        );
        Ok(status)
    }

    fn is_bare(&self) -> bool {
        process::is_untraced(self.victim.pid()) && process::is_unfiltered(self.victim.pid())
    }
}

/// How often the rule of a case fired in the stage that is in force.
fn fired(status: &Status, number: i32) -> u64 {
    let Some(rules) = &status.rules else { return 0 };
    let name = format!("{}{number}", rules.stage);
    let rule = rules.rules.iter().find(|rule| rule.name == name);
    rule.map_or(0, |rule| rule.fired)
}

/// Shows each difference that a rule reconciles; says what went wrong.
fn reconcile(two: &Two) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for case in RECONCILED {
        let status = two.show_for(case.number, 5)?;
        if status.follower.is_none() {
            let update = status.last_update.context("no outcome")?;
            wrong.push(format!(
                "{} ({}): {}\n{}",
                case.what,
                case.number,
                update.reason,
                update.report.unwrap_or_default()
            ));
            return Ok(wrong);
        }
        if !case.rule.is_empty() {
            two.mvedsua
                .wait_for(NAME, LIMIT, |status| fired(status, case.number) >= 5)
                .with_context(|| format!("the rule for `{}` has to fire", case.what))?;
        }
    }
    Ok(wrong)
}

#[test]
fn with_its_rule_no_difference_is_a_divergence() -> Result<()> {
    if !can_run(
        "with_its_rule_no_difference_is_a_divergence",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let two = Two::start()?;
    two.update(true)?;
    let wrong = reconcile(&two)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let status = two.status()?;
    ensure!(
        status.events.diverged == 0 && status.events.rewritten > 50,
        "{status:?}"
    );

    // What only one of the two makes counts as rewritten, too.
    for (number, each) in [(4, 1), (5, 1), (8, 2)] {
        let before = two.status()?.events.rewritten;
        two.show_for(number, 5)?;
        two.mvedsua
            .wait_for(NAME, LIMIT, |status| {
                status.events.rewritten >= before + 5 * each
            })
            .with_context(|| format!("case {number} has to count"))?;
    }

    // A rule that waits in vain gives up in time, and what it held goes on unchanged.
    two.show_for(13, 3)?;
    let status = two.mvedsua.wait_for(NAME, LIMIT, |status| {
        let mut rules = status.rules.iter().flat_map(|rules| &rules.rules);
        rules.any(|rule| rule.name == "forward13" && rule.timed_out >= 3 && rule.fired == 0)
    })?;
    ensure!(status.follower.is_some(), "{status:?}");

    // What rules log stands in the timeline.
    two.show_for(19, 3)?;
    two.mvedsua
        .wait_for(NAME, LIMIT, |status| fired(status, 19) >= 3)?;
    two.mvedsua.rollback(NAME)?;
    let events = two.mvedsua.events(NAME)?;
    ensure!(
        events
            .iter()
            .any(|e| e.what.contains("rule `forward19`") && e.what.ends_with("logs: it logs")),
        "{events:?}"
    );
    assert!(two.is_bare());
    two.victim.end()
}

#[test]
fn the_same_rules_hold_while_the_new_version_leads() -> Result<()> {
    if !can_run(
        "the_same_rules_hold_while_the_new_version_leads",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let mut two = Two::start()?;
    let file = two.rules.display().to_string();
    two.mvedsua.update_identity(NAME, &["--rules", &file])?;
    let new = two.status()?.follower.context("no follower")?.pid;
    two.mvedsua.promote(NAME)?;
    // The old process follows from here on, as another version.
    two.poke_follower()?;
    let wrong = reconcile(&two)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let status = two.status()?;
    ensure!(
        status.stage == "updated-leader" && status.events.diverged == 0,
        "{status:?}"
    );
    let rules = status.rules.context("no rules")?;
    ensure!(rules.stage == "reverse", "{rules:?}");
    ensure!(
        rules
            .rules
            .iter()
            .all(|r| r.fired == 0 || r.stage == "reverse"),
        "{rules:?}"
    );
    // A verdict drops the old version.
    two.victim.show(24)?;
    two.ended_with("finalized", "ends the update: it knows no such thing")?;
    two.victim.promoted(new)?;
    two.victim.wait_rounds(3)?;
    two.victim.end()
}

#[test]
fn without_its_rule_each_difference_is_found() -> Result<()> {
    if !can_run(
        "without_its_rule_each_difference_is_found",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let two = Two::start()?;
    let mut wrong = Vec::new();
    for case in RECONCILED {
        two.update(false)?;
        two.victim.show(case.number)?;
        if let Err(error) = two.ended_with("rolled-back", case.without) {
            wrong.push(format!("{} ({}): {error:#}", case.what, case.number));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(two.is_bare());
    two.victim.end()
}

#[test]
fn verdicts_and_limits_end_the_update_and_harm_nobody() -> Result<()> {
    if !can_run(
        "verdicts_and_limits_end_the_update_and_harm_nobody",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let two = Two::start()?;
    let mut wrong = Vec::new();
    for case in ENDED {
        two.update(true)?;
        two.victim.show(case.number)?;
        match two.ended_with("rolled-back", case.without) {
            Ok(status) => {
                let retry = status.last_update.is_some_and(|update| update.retry);
                ensure!(
                    retry == (case.what == "retry"),
                    "{}: retry is {retry}",
                    case.what
                );
            }
            Err(error) => wrong.push(format!("{} ({}): {error:#}", case.what, case.number)),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(two.is_bare());
    two.victim.end()
}

/// What a rule says that asks for another try.
const BUSY: &str = "rule `forward23`";

#[test]
fn a_rule_that_asks_for_it_gets_another_try_until_the_moment_is_good() -> Result<()> {
    if !can_run(
        "a_rule_that_asks_for_it_gets_another_try_until_the_moment_is_good",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let two = Two::start()?;
    let file = two.rules.display().to_string();
    let options = ["--rules", &file, "--retry", "1000", "--retry-delay", "20ms"];
    two.mvedsua.update_identity(NAME, &options)?;
    two.victim.show(23)?;
    // Nobody asks for it: the update that had caught up is rolled back and tried again, and again.
    let status = two.mvedsua.wait_for(NAME, LIMIT, |status| {
        // While one is under way there is none that was rolled back.
        status.next_try.as_ref().is_some_and(|next| next.tried > 2) && status.last_update.is_some()
    })?;
    let next = status.next_try.context("there is one")?;
    ensure!(
        next.left == 1001 - next.tried && next.why.contains(BUSY) && next.unix_ms > 0,
        "{next:?}"
    );
    let last = status.last_update.context("it was rolled back")?;
    ensure!(last.retry && last.outcome == "rolled-back", "{last:?}");
    two.victim.show(0)?;
    let status = two.mvedsua.wait_for(NAME, LIMIT, |status| {
        status.stage == "outdated-leader" && status.next_try.is_none()
    })?;
    ensure!(status.last_update.is_none(), "{status:?}");
    let events = two.mvedsua.events(NAME)?;
    let tries = events
        .iter()
        .filter(|e| e.what.contains(BUSY) && e.what.ends_with("it is busy; the next one in 20ms"));
    ensure!(tries.count() > 2, "{events:?}");
    two.mvedsua.rollback(NAME)?;
    assert!(two.is_bare());
    two.victim.end()
}

#[test]
fn tries_that_rules_ask_for_come_to_an_end() -> Result<()> {
    if !can_run(
        "tries_that_rules_ask_for_come_to_an_end",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let two = Two::start()?;
    let file = two.rules.display().to_string();
    let update = |retry: &str, delay: &str| {
        two.mvedsua.run(&[
            "update",
            NAME,
            "--identity",
            "--wait",
            "none",
            "--rules",
            &file,
            "--retry",
            retry,
            "--retry-delay",
            delay,
        ])
    };
    two.victim.show(23)?;
    update("2", "10ms")?.ok()?;
    let status = two.mvedsua.wait_for(NAME, LIMIT, |status| {
        let last = status.last_update.as_ref();
        last.is_some_and(|last| last.reason.contains("at 3 moments"))
    })?;
    let last = status.last_update.context("it was rolled back")?;
    ensure!(
        last.retry && last.reason.contains(BUSY) && status.next_try.is_none(),
        "{last:?}"
    );

    // One that waits for its next try is the update that there is, and can be given up.
    update("2", "1h")?.ok()?;
    two.mvedsua
        .wait_for(NAME, LIMIT, |status| status.next_try.is_some())?;
    ensure!(two.is_bare());
    for words in [
        &["promote", NAME][..],
        &["update", NAME, "--identity"],
        &["detach", NAME],
    ] {
        let refused = two.mvedsua.run(words)?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("E230") && refused.stderr.contains(BUSY),
            "{refused:?}"
        );
    }
    two.mvedsua.rollback(NAME)?;
    let status = two.status()?;
    ensure!(
        status.next_try.is_none() && status.stage == "single-leader",
        "{status:?}"
    );
    two.victim.show(0)?;
    two.update(true)?;
    two.mvedsua.rollback(NAME)?;
    two.victim.end()
}

#[test]
fn a_file_that_does_not_check_is_refused_before_anything_is_touched() -> Result<()> {
    if !can_run(
        "a_file_that_does_not_check_is_refused_before_anything_is_touched",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let two = Two::start()?;
    let before = two.victim.footprint()?;
    let broken = two.victim.dir().join("broken.rules");
    std::fs::write(&broken, "raed(fd, \"x\") => read(fd, \"y\");\n")?;
    let update = |file: &str| {
        two.mvedsua
            .run(&["update", NAME, "--identity", "--rules", file])
    };
    let refused = update(&broken.display().to_string())?;
    ensure!(
        refused.code == 5 && refused.stderr.contains("E227"),
        "{refused:?}"
    );
    // With file, line, caret and a suggestion.
    for piece in ["E310", "broken.rules:1:1", "^^^^", "`read`"] {
        ensure!(
            refused.stderr.contains(piece),
            "{piece}: {}",
            refused.stderr
        );
    }
    for missing in ["/nonexistent.rules", "/dev/zero"] {
        let refused = update(missing)?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("E226"),
            "{refused:?}"
        );
    }
    // Nobody but root may say how an update is judged: neither in the file nor in what it includes.
    let folder = two.victim.dir();
    let open_to_all = folder.join("open.rules");
    std::fs::write(&open_to_all, "")?;
    std::fs::set_permissions(&open_to_all, Permissions::from_mode(0o666))?;
    let foreign = folder.join("foreign.rules");
    std::fs::write(&foreign, "")?;
    std::os::unix::fs::chown(&foreign, Some(65534), None)?;
    for (file, why) in [
        (&open_to_all, "can write it"),
        (&foreign, "belongs to user 65534"),
    ] {
        let refused = update(&file.display().to_string())?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("E226") && refused.stderr.contains(why),
            "{refused:?}"
        );
        let including = folder.join("including.rules");
        let name = file.file_name().context("a file")?.to_string_lossy();
        std::fs::write(&including, format!("include \"{name}\";\n"))?;
        let refused = update(&including.display().to_string())?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("E227") && refused.stderr.contains(why),
            "{refused:?}"
        );
    }
    // A link is followed where the command is typed, and nowhere else.
    let link = folder.join("link.rules");
    std::os::unix::fs::symlink(&two.rules, &link)?;
    std::fs::write(folder.join("including.rules"), "include \"link.rules\";\n")?;
    let refused = update(&folder.join("including.rules").display().to_string())?;
    ensure!(
        refused.code == 5 && refused.stderr.contains("symbolic link"),
        "{refused:?}"
    );
    let events = two.mvedsua.events(NAME)?;
    ensure!(events.iter().all(|e| e.mark.is_none()), "{events:?}");
    assert_eq!(two.victim.footprint()?, before);
    update(&link.display().to_string())?.ok()?;
    two.mvedsua.rollback(NAME)?;
    two.victim.end()
}

#[test]
fn a_suggested_rule_reconciles_the_divergence_that_it_was_made_from() -> Result<()> {
    if !can_run(
        "a_suggested_rule_reconciles_the_divergence_that_it_was_made_from",
        &[Need::Root, Need::Program("cc")],
    ) {
        return Ok(());
    }
    let two = Two::start()?;
    let suggested = two.victim.dir().join("suggested.rules");
    // Rewritten and dropped: what a rule can be proposed for from the two calls alone.
    for number in [2, 4] {
        two.update(false)?;
        two.victim.show(number)?;
        two.ended_with("rolled-back", "divergence")?;
        let rule = two.mvedsua.run(&["rules", "suggest", NAME])?.ok()?;
        // The same from a report that was saved.
        let saved = two.victim.dir().join("status.json");
        let status = two.mvedsua.run(&["status", NAME, "--json"])?.ok()?;
        std::fs::write(&saved, status)?;
        let from_file = two
            .mvedsua
            .run(&["rules", "suggest", &saved.display().to_string()])?;
        assert_eq!(from_file.ok()?, rule);
        std::fs::write(&suggested, &rule)?;
        let file = suggested.display().to_string();
        two.mvedsua.update_identity(NAME, &["--rules", &file])?;
        two.poke_follower()?;
        two.show_for(number, 5)?;
        let status = two.mvedsua.wait_for(NAME, LIMIT, |status| {
            let fired = |rules: &Rules| rules.rules.iter().any(|rule| rule.fired >= 5);
            status.follower.is_none() || status.rules.as_ref().is_some_and(fired)
        })?;
        ensure!(
            status.follower.is_some(),
            "{rule}\n{:?}",
            status.last_update
        );
        let trace = two.mvedsua.run(&["rules", "trace", NAME])?.ok()?;
        ensure!(
            trace.contains("suggested (") && trace.contains("the latest firings"),
            "{trace}"
        );
        two.mvedsua.rollback(NAME)?;
        let none = two.mvedsua.run(&["rules", "suggest", NAME])?;
        ensure!(none.code == 5 && none.stderr.contains("E382"), "{none:?}");
        let status = two.mvedsua.run(&["status", NAME, "--json"])?.ok()?;
        std::fs::write(&saved, status)?;
        let none = two
            .mvedsua
            .run(&["rules", "suggest", &saved.display().to_string()])?;
        ensure!(
            none.code == 5 && none.stderr.contains("E382") && none.stdout.is_empty(),
            "{none:?}"
        );
    }
    two.victim.end()
}

/// Path of a shipped rule file.
fn shipped(name: &str) -> String {
    format!("{}/../rules/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_shipped_rules_change_nothing_about_an_identity_update_of_redis() -> Result<()> {
    if !can_run(
        "the_shipped_rules_change_nothing_about_an_identity_update_of_redis",
        &[Need::Root, Need::Program("redis-server")],
    ) {
        return Ok(());
    }
    let redis = Supervised::redis(&[], 10_000, 1500)?;
    shipped_rules_change_nothing(redis, &["redis/noise.rules", "redis/new-command.rules"])
}

#[test]
fn the_shipped_rules_change_nothing_about_an_identity_update_of_memcached() -> Result<()> {
    if !can_run(
        "the_shipped_rules_change_nothing_about_an_identity_update_of_memcached",
        &[Need::Root, Need::Program("memcached")],
    ) {
        return Ok(());
    }
    let memcached = Supervised::memcached(5_000, 1500)?;
    shipped_rules_change_nothing(memcached, &["memcached/noise.rules"])
}

fn shipped_rules_change_nothing(mut server: Supervised, files: &[&str]) -> Result<()> {
    for rules in files {
        server.update(&["--rules", &shipped(rules)])?;
        server.more_requests(2000)?;
        let status = server.status()?;
        ensure!(
            status.stage == "outdated-leader" && status.events.diverged == 0,
            "{rules}: {status:?}"
        );
        server.run("promote", &[])?.ok()?;
        server.more_requests(2000)?;
        let status = server.status()?;
        ensure!(
            status.stage == "updated-leader" && status.events.diverged == 0,
            "{rules}: {status:?}"
        );
        server.run("rollback", &[])?.ok()?;
        server.more_requests(200)?;
    }
    server.idle_answer()?;
    server.finish()
}

/// Every request is held until its reply is seen, and both are then expected as they are: what is held
/// keeps its place among the calls of all threads.
const HOLDS: &str = "
rule redis: read(., _) as r, write(., _) as w => r, w;
rule memcached: read(., /^[gs]et /) as r, sendmsg(., _) as w => r, w;
";

fn holding_every_request_changes_nothing(mut server: Supervised, rule: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("holds.rules");
    std::fs::write(&file, HOLDS)?;
    server.update(&["--rules", &file.display().to_string()])?;
    server.more_requests(3000)?;
    let status = server.mvedsua.wait_for("server", LIMIT, |status| {
        // Whichever rule comes first is who holds a call for all of them.
        let all = || status.rules.iter().flat_map(|rules| &rules.rules);
        let held: u64 = all().map(|rule| rule.held).sum();
        let fired = all().any(|r| r.name == rule && r.fired > 1000);
        status.follower.is_none() || (fired && held > 1000)
    })?;
    ensure!(
        status.stage == "outdated-leader" && status.events.diverged == 0,
        "{status:?}"
    );
    server.promote_finalize()?;
    server.finish()
}

#[test]
fn holding_every_request_of_redis_changes_nothing() -> Result<()> {
    if !can_run(
        "holding_every_request_of_redis_changes_nothing",
        &[Need::Root, Need::Program("redis-server")],
    ) {
        return Ok(());
    }
    holding_every_request_changes_nothing(Supervised::redis(&[], 10_000, 1500)?, "redis")
}

#[test]
fn holding_every_request_of_memcached_changes_nothing() -> Result<()> {
    if !can_run(
        "holding_every_request_of_memcached_changes_nothing",
        &[Need::Root, Need::Program("memcached")],
    ) {
        return Ok(());
    }
    holding_every_request_changes_nothing(Supervised::memcached(1000, 500)?, "memcached")
}
