//! Bundles applied to running programs, from `mvedsua update NAME U.mvu` to the new version serving.

use anyhow::{Context, Result, ensure};
use mvedsua_tests::mvedsua::Outcome;
use mvedsua_tests::pair::{Lines, Pair};
use mvedsua_tests::{Mvedsua, Need, can_run};

const NAME: &str = "lines";
const NEEDS: &[Need] = &[Need::Root, Need::Program("cc")];

/// A pair of builds, version 1 running and attached.
struct Service {
    pair: Pair,
    mvedsua: Mvedsua,
    lines: Lines,
}

impl Service {
    fn start(files: &[&str], flags: &[&str]) -> Result<Self> {
        let pair = Pair::compile(files, flags)?;
        let mvedsua = Mvedsua::start()?;
        let lines = Lines::start(&pair.program(1))?;
        mvedsua.attach(lines.pid(), NAME)?;
        Ok(Self {
            pair,
            mvedsua,
            lines,
        })
    }

    fn bundle(&self, from: u32, to: u32, options: &[&str]) -> Result<String> {
        self.pair.bundle(&self.mvedsua, from, to, options)
    }

    /// Updates and makes the new version serve alone.
    fn change(&mut self, bundle: &str) -> Result<()> {
        self.mvedsua.run(&["update", NAME, bundle])?.ok()?;
        self.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
        let status = self.mvedsua.status(NAME)?;
        self.lines.succeeded_by(status.leader.pid);
        Ok(())
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

/// Old globals keep their values, new ones have theirs, and each bundle builds on what the last one left.
fn there_and_back(flags: &[&str]) -> Result<()> {
    let mut service = Service::start(&["main.c", "basic.c"], flags)?;
    let forth = service.bundle(1, 2, &[])?;
    let back = service.bundle(2, 1, &[])?;
    service.check("5", "old: total 5 calls 1 other 4")?;
    service.change(&forth)?;
    service.check("7", "new: total 12 calls 2 other 5 largest 7 before -1")?;
    service.change(&back)?;
    service.check("1", "old: total 13 calls 3 other 6")?;
    service.change(&forth)?;
    service.check("2", "new: total 15 calls 4 other 7 largest 2 before -1")?;
    Ok(())
}

/// t1 is the copy and t2 the update of it: what lies between is at least the time that applying took.
#[test]
fn the_timeline_tells_the_copy_from_the_update() -> Result<()> {
    if !can_run("the_timeline_tells_the_copy_from_the_update", NEEDS) {
        return Ok(());
    }
    let service = Service::start(&["main.c", "basic.c"], &[])?;
    let bundle = service.bundle(1, 2, &[])?;
    service.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    let events = service.mvedsua.events(NAME)?;
    let at = |mark: &str| {
        events
            .iter()
            .find(|entry| entry.mark.as_deref() == Some(mark))
            .with_context(|| format!("no {mark} in {events:?}"))
    };
    let (t1, t2, t3) = (at("t1")?, at("t2")?, at("t3")?);
    let took: f64 = t2
        .what
        .split_once(" was applied in ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .with_context(|| format!("it does not say how long: {t2:?}"))?;
    // Below a millisecond the two could not be told apart.
    ensure!(took > 1.0, "{t2:?}");
    // Both are cut to whole milliseconds.
    ensure!(
        (t2.unix_ms - t1.unix_ms) as f64 + 1.0 > took,
        "{t1:?}, {t2:?}"
    );
    ensure!(t3.unix_ms >= t2.unix_ms, "{t2:?}, {t3:?}");
    Ok(())
}

#[test]
fn versions_follow_each_other_in_one_process() -> Result<()> {
    if !can_run("versions_follow_each_other_in_one_process", NEEDS) {
        return Ok(());
    }
    there_and_back(&[])
}

#[test]
fn a_fixed_address_program_is_updated_too() -> Result<()> {
    if !can_run("a_fixed_address_program_is_updated_too", NEEDS) {
        return Ok(());
    }
    there_and_back(&["-fno-pie", "-no-pie"])
}

#[test]
fn new_behaviour_without_a_rule_is_a_divergence_and_the_old_version_goes_on() -> Result<()> {
    let name = "new_behaviour_without_a_rule_is_a_divergence_and_the_old_version_goes_on";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut service = Service::start(&["main.c", "basic.c"], &[])?;
    let forth = service.bundle(1, 2, &[])?;
    service.mvedsua.run(&["update", NAME, &forth])?.ok()?;
    service.check("5", "old: total 5 calls 1 other 4")?;
    let status = service
        .mvedsua
        .wait_for(NAME, std::time::Duration::from_secs(20), |status| {
            status.last_update.is_some()
        })?;
    let last = status.last_update.context("waited for it")?;
    ensure!(last.outcome == "rolled-back", "{last:?}");
    let report = last.report.context("a divergence has a report")?;
    ensure!(
        report.contains("old: total") && report.contains("new: total"),
        "{report}"
    );
    service.check("6", "old: total 11 calls 2 other 5")
}

#[test]
fn a_bundle_for_another_build_is_refused() -> Result<()> {
    if !can_run("a_bundle_for_another_build_is_refused", NEEDS) {
        return Ok(());
    }
    let mut service = Service::start(&["main.c", "basic.c"], &[])?;
    let back = service.bundle(2, 1, &[])?;
    let outcome = service.mvedsua.run(&["update", NAME, &back])?;
    ensure!(
        outcome.code == 5 && outcome.stderr.contains("E241"),
        "{outcome:?}"
    );
    let outcome = service.mvedsua.run(&["update", NAME, "/dev/null"])?;
    ensure!(
        outcome.code == 5 && outcome.stderr.contains("E453"),
        "{outcome:?}"
    );
    service.check("5", "old: total 5 calls 1 other 4")
}

/// A pair of keys without a password, as `minisign -G -W` makes it; and the public half of another.
const SECRET: &str = "untrusted comment: a key for tests\nRWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAuEBupmN59lifCAO7iHM0cpSLzsG+8eopyZQfduv+JxK6hdin5Hh1drLYUfl/9bk7d/nGjSXGOUS4TY3L2i+nFScaWLtk+0jLU+M28P3hhMgciZCUqS0jmbochsbLatswBh3vBqQnr+Q=\n";
const PUBLIC: &str = "untrusted comment: a key for tests\nRWS4QG6mY3n2WLLYUfl/9bk7d/nGjSXGOUS4TY3L2i+nFScaWLtk+0jL\n";
const STRANGER: &str =
    "untrusted comment: another\nRWSpevdkd0n8d2JCb7W0dLTFmmaQ6QARK6xZV4sEmvuus68z8hAT9/wM\n";

#[test]
fn a_required_signature_must_be_there() -> Result<()> {
    if !can_run("a_required_signature_must_be_there", NEEDS) {
        return Ok(());
    }
    let mut service = Service::start(&["main.c", "basic.c"], &[])?;
    let path = |name: &str| service.pair.dir().join(name);
    let file = |name: &str, text: &str| -> Result<String> {
        std::fs::write(path(name), text)?;
        Ok(path(name).to_string_lossy().into_owned())
    };
    let (secret, public) = (file("team.key", SECRET)?, file("team.pub", PUBLIC)?);
    let stranger = file("stranger.pub", STRANGER)?;
    let bundle = service.bundle(1, 2, &[])?;
    let update = |mvedsua: &Mvedsua, key: &str| {
        mvedsua.run(&["update", NAME, &bundle, "--require-signature", key])
    };
    let refused = |outcome: Outcome| -> Result<()> {
        ensure!(
            outcome.code == 5 && outcome.stderr.contains("E454"),
            "{outcome:?}"
        );
        Ok(())
    };
    refused(update(&service.mvedsua, &public)?)?;
    let sign = ["bundle", "sign", &bundle, "--key", &secret];
    service.mvedsua.run(&sign)?.ok()?;
    refused(update(&service.mvedsua, &stranger)?)?;
    update(&service.mvedsua, &public)?.ok()?;
    service.mvedsua.rollback(NAME)?;

    // An agent that requires it does so whoever asks, and for what a request requires besides.
    service.mvedsua.kill_agent();
    let options = ["--require-signature", stranger.as_str()];
    service.mvedsua.start_agent_with_options(&options)?;
    refused(service.mvedsua.run(&["update", NAME, &bundle])?)?;
    refused(update(&service.mvedsua, &public)?)?;
    service.mvedsua.kill_agent();
    let options = ["--require-signature", public.as_str()];
    service.mvedsua.start_agent_with_options(&options)?;
    service.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    service.mvedsua.rollback(NAME)?;
    std::fs::remove_file(format!("{bundle}.minisig"))?;
    refused(service.mvedsua.run(&["update", NAME, &bundle])?)?;
    service.check("5", "old: total 5 calls 1 other 4")
}

#[test]
fn a_thread_in_a_changed_function_is_waited_for_and_then_named() -> Result<()> {
    let name = "a_thread_in_a_changed_function_is_waited_for_and_then_named";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut service = Service::start(&["eventloop.c"], &[])?;
    let bundle = service.bundle(1, 2, &[])?;
    // It is asked all the time: a leader that were let go before its recorder would be stopped by that for ever.
    let words = ["--retry", "2", "--retry-delay", "10ms"];
    let (mvedsua, lines) = (&service.mvedsua, &mut service.lines);
    let mut asked = 0;
    let outcome = std::thread::scope(|scope| {
        let update =
            scope.spawn(|| mvedsua.run(&[&["update", NAME, &bundle], &words[..]].concat()));
        while !update.is_finished() {
            asked += 1;
            let answer = lines.ask("w")?;
            ensure!(answer == format!("old {asked} w"), "{answer}");
        }
        update.join().expect("no panic")
    })?;
    ensure!(
        outcome.code == 5
            && outcome.stderr.contains("E240")
            && outcome.stderr.contains("at 3 moments")
            && outcome.stderr.contains("stands in serve"),
        "{outcome:?}"
    );
    ensure!(
        outcome.stderr.contains("eventloop.c") && outcome.stderr.contains("main"),
        "the stack is shown: {outcome:?}"
    );
    service.check("x", &format!("old {} x", asked + 1))?;
    // It can be given up while it waits for a better moment.
    let words = ["--retry", "1000", "--wait", "none"];
    std::thread::scope(|scope| -> Result<()> {
        let mvedsua = &service.mvedsua;
        let bundle = &bundle;
        let update =
            scope.spawn(move || mvedsua.run(&[&["update", NAME, bundle], &words[..]].concat()));
        let waits = mvedsua_tests::wait_until(std::time::Duration::from_secs(20), || {
            mvedsua
                .run(&["promote", NAME])
                .is_ok_and(|o| o.stderr.contains("waits for its next try"))
        });
        ensure!(waits, "it does not wait: {:?}", mvedsua.events(NAME));
        mvedsua.rollback(NAME)?;
        let outcome = update.join().expect("no panic")?;
        ensure!(outcome.code == 3, "{outcome:?}");
        Ok(())
    })?;
    service.check("y", &format!("old {} y", asked + 2))
}

#[test]
fn an_old_frame_may_be_left_to_run_out() -> Result<()> {
    if !can_run("an_old_frame_may_be_left_to_run_out", NEEDS) {
        return Ok(());
    }
    let mut service = Service::start(&["eventloop.c"], &[])?;
    service.check("x", "old 1 x")?;
    let bundle = service.bundle(1, 2, &["--control", "serve=leave"])?;
    service.change(&bundle)?;
    service.check("y", "new 2 y")
}

/// The new loop is entered with the arguments of the old one, and returns to its caller.
fn entered_afresh(flags: &[&str]) -> Result<()> {
    let mut service = Service::start(&["pollloop.c"], flags)?;
    service.check("x", "loop 1 2 x")?;
    let forth = service.bundle(1, 2, &["--control", "serve=restart"])?;
    let back = service.bundle(2, 1, &["--control", "serve=restart"])?;
    service.change(&forth)?;
    service.check("y", "loop 2 1004 y")?;
    service.change(&back)?;
    service.check("z", "loop 1 1006 z")?;
    service.change(&forth)?;
    service.check("z", "loop 2 2008 z")?;
    // The frames below are whole: the loop ends, and main with it.
    let last = service.lines.end()?;
    ensure!(last == "end 2008 2008 ok", "{last:?}");
    Ok(())
}

#[test]
fn an_event_loop_is_entered_afresh() -> Result<()> {
    if !can_run("an_event_loop_is_entered_afresh", NEEDS) {
        return Ok(());
    }
    entered_afresh(&[])
}

#[test]
fn an_event_loop_without_optimisation_is_entered_afresh() -> Result<()> {
    if !can_run(
        "an_event_loop_without_optimisation_is_entered_afresh",
        NEEDS,
    ) {
        return Ok(());
    }
    entered_afresh(&["-O0"])
}

#[test]
fn a_function_that_does_not_wait_cannot_be_entered_afresh() -> Result<()> {
    let name = "a_function_that_does_not_wait_cannot_be_entered_afresh";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut service = Service::start(&["eventloop.c"], &[])?;
    // It reads: the lock of its stdin would be lost with the frames that are dropped.
    let bundle = service.bundle(1, 2, &["--control", "serve=restart"])?;
    let outcome = service
        .mvedsua
        .run(&["update", NAME, &bundle, "--retry", "0"])?;
    ensure!(
        outcome.code == 5 && outcome.stderr.contains("does not wait in a system call"),
        "{outcome:?}"
    );
    service.check("x", "old 1 x")
}

/// What the two versions of `eventloop.c` say differently, for both stages.
const SAYS: &str = r#"
rule says reversible:
    write(1, "old $rest", _) => write(1, "new $rest", _);
"#;

#[test]
fn the_rules_of_a_bundle_are_applied_in_both_stages() -> Result<()> {
    let name = "the_rules_of_a_bundle_are_applied_in_both_stages";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    let mut service = Service::start(&["eventloop.c"], &[])?;
    let rules = service.pair.dir().join("says.rules");
    std::fs::write(&rules, SAYS)?;
    let rules = rules.to_string_lossy().into_owned();
    let options = ["--control", "serve=leave", "--rules", &rules];
    let bundle = service.bundle(1, 2, &options)?;
    let rewritten = |service: &Service, stage: &str| -> Result<()> {
        service
            .mvedsua
            .wait_for(NAME, std::time::Duration::from_secs(20), |status| {
                status.stage == stage && status.events.rewritten == 1
            })
            .map(drop)
    };
    service.mvedsua.run(&["update", NAME, &bundle])?.ok()?;
    service.check("x", "old 1 x")?;
    rewritten(&service, "outdated-leader")?;
    service.mvedsua.promote(NAME)?;
    service
        .lines
        .succeeded_by(service.mvedsua.status(NAME)?.leader.pid);
    service.check("y", "new 2 y")?;
    rewritten(&service, "updated-leader")?;
    service.mvedsua.finalize(NAME)?;
    service.check("z", "new 3 z")
}

#[test]
fn a_bundle_with_rules_that_do_not_check_is_not_written() -> Result<()> {
    let pair = Pair::compile(&["main.c", "basic.c"], &[])?;
    let rules = pair.dir().join("bad.rules");
    std::fs::write(&rules, "wirte(1, _) => nothing;")?;
    let mvedsua = Mvedsua::without_agent()?;
    let error = pair
        .bundle(&mvedsua, 1, 2, &["--rules", &rules.to_string_lossy()])
        .expect_err("the rules do not check");
    ensure!(format!("{error:#}").contains("E408"), "{error:#}");
    Ok(())
}
