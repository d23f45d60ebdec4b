//! vsftpd becomes a next version, sessions and all, with the rules for it that are shipped.
//!
//! The next version greets otherwise, knows another command, and writes its log otherwise (`cargo xtask programs`
//! makes it); each of this is a divergence without the rule for it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::content::Content;
use mvedsua_tests::ftp::Mode;
use mvedsua_tests::mvedsua::Status;
use mvedsua_tests::programs::{VSFTPD, VSFTPD_NEXT};
use mvedsua_tests::{Mvedsua, Need, Vsftpd, can_run, vsftpd};

const NAME: &str = "ftp";
const LIMIT: Duration = Duration::from_secs(60);

/// Whether this machine can run a server, and has both versions of it.
fn can_run_both(test: &str) -> bool {
    let builds = [Need::Build(VSFTPD), Need::Build(VSFTPD_NEXT)];
    can_run(test, &[vsftpd::NEEDS, &builds].concat())
}

/// The rules that are shipped.
const RULES: &str = include_str!("../../rules/vsftpd/new-commands.rules");

/// Functions of vsftpd whose blocks have static variables of one name: they did not change.
const IN_ORDER: [&str; 4] = [
    "--in-order",
    "process_post_login",
    "--in-order",
    "vsf_ls_populate_dir_list",
];

/// A vsftpd with an agent and a bundle.
struct Ftp {
    mvedsua: Mvedsua,
    server: Vsftpd,
    bundle: Bundle,
    rules: tempfile::TempDir,
}

impl Ftp {
    fn start(options: &[&str]) -> Result<Self> {
        let mvedsua = Mvedsua::start()?;
        let options = [&IN_ORDER, options].concat();
        let bundle = Bundle::of(&mvedsua, VSFTPD, VSFTPD_NEXT, &options)?;
        Ok(Self {
            server: Vsftpd::start(&[])?,
            bundle,
            mvedsua,
            rules: tempfile::tempdir()?,
        })
    }

    /// The next version follows, with these rules.
    fn update(&self, rules: &str) -> Result<()> {
        let file: PathBuf = self.rules.path().join("some.rules");
        std::fs::write(&file, rules)?;
        let (bundle, file) = (self.bundle.path(), file.display().to_string());
        let bundle = bundle.to_string_lossy();
        let words = [
            "update",
            NAME,
            &bundle,
            "--rules",
            &file,
            "--hang-limit",
            "20s",
        ];
        self.mvedsua.run(&words)?.ok()?;
        Ok(())
    }

    /// The follower has done all that was done until now, and has `processes` processes.
    fn follows(&self, processes: usize) -> Result<Status> {
        let status = self.mvedsua.wait_for(NAME, LIMIT, |status| {
            status.follower.is_none_or(|f| f.lag_events == 0)
        })?;
        let follower = status.follower.with_context(|| {
            let last = status.last_update.as_ref();
            let report = last.and_then(|last| last.report.clone());
            format!("no follower: {:?}\n{}", last, report.unwrap_or_default())
        })?;
        self.server.tree_of(status.leader.pid, processes)?;
        self.server.tree_of(follower.pid, processes)?;
        let status = self.mvedsua.status(NAME)?;
        ensure!(status.events.diverged == 0, "{status:?}");
        Ok(status)
    }

    /// The copy was thrown away, for that reason.
    fn rolled_back(&self, why: &str) -> Result<()> {
        let status = self
            .mvedsua
            .wait_for(NAME, LIMIT, |status| status.last_update.is_some())?;
        let last = status.last_update.context("waited for it")?;
        let report = last.report.clone().unwrap_or_default();
        ensure!(
            last.outcome == "rolled-back" && report.contains(why),
            "{}\n{report}",
            last.reason
        );
        Ok(())
    }
}

/// The shipped rules without the part that is written so.
fn without(part: &str) -> Result<String> {
    let (before, after) = RULES
        .split_once(part)
        .with_context(|| format!("no {part} in the rules"))?;
    Ok(format!("{before}{after}"))
}

const UNKNOWN: &str = r#"rule unknown:
    recvfrom(., _, _, MSG_PEEK),
      read(., _),
      write(., "500 Unknown command", _)
      => recvfrom(., "FOOBAR\r\n", _, MSG_PEEK),
      read(., "FOOBAR\r\n", count: _),
      write(., "500 Unknown command", _);
"#;
const PROCESS: &str = r"text /\[pid ([0-9]+)\]/, ";
const TIME: &str =
    r", text /^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{4}/";
const GREETING: &str = r#"ignore write(_, "220 ", _) in buf /\(vsFTPd ([0-9.]+)\)/;"#;

#[test]
fn each_shipped_rule_is_needed() -> Result<()> {
    if !can_run_both("each_shipped_rule_is_needed") {
        return Ok(());
    }
    let ftp = Ftp::start(&[])?;
    ftp.mvedsua.attach_with_children(ftp.server.pid(), NAME)?;
    for (part, why) in [
        (GREETING, "220 (vsFTPd 3.0.3)"),
        (PROCESS, "CONNECT: Client"),
        (TIME, "CONNECT: Client"),
        (UNKNOWN, "500 Unknown command."),
    ] {
        ftp.update(&without(part)?)?;
        // The session is the old version's, whatever becomes of the copy.
        let mut client = ftp.server.anonymous(Mode::Passive)?;
        client.command("AVBL", 500)?;
        ftp.rolled_back(why)
            .with_context(|| format!("without {part}"))?;
        client.is_usable()?;
        client.quit()?;
        ftp.server.tree_of(ftp.server.pid(), 1)?;
    }
    Ok(())
}

#[test]
fn sessions_begin_in_the_next_version_and_go_on_in_it() -> Result<()> {
    if !can_run_both("sessions_begin_in_the_next_version_and_go_on_in_it") {
        return Ok(());
    }
    let mut ftp = Ftp::start(&[])?;
    ftp.mvedsua.attach_with_children(ftp.server.pid(), NAME)?;
    ftp.update(RULES)?;
    let mut anonymous = ftp.server.anonymous(Mode::Passive)?;
    let mut local = ftp.server.local(Mode::ExtendedPassive)?;
    let content = Content::new(1, 300_001);
    for _ in 0..3 {
        for client in [&mut anonymous, &mut local] {
            // Only the next version knows it, and is not asked.
            client.command("AVBL", 500)?;
            client.command("XYZZY", 500)?;
            client.is_usable()?;
            client.retrieve(vsftpd::FILE, vsftpd::file())?;
        }
        local.store("up", content)?;
        content.check_file(&ftp.server.home("up"))?;
    }
    let early = ftp.server.connect(Mode::Passive)?;
    ftp.follows(1 + 3 * 2)?;
    let unknown = |status: &Status| {
        let mut rules = status.rules.iter().flat_map(|rules| &rules.rules);
        rules.any(|rule| rule.name == "unknown" && rule.fired == 12)
    };
    // Six times in each session; what ended since counts on.
    early.quit()?;
    let status = ftp.mvedsua.wait_for(NAME, LIMIT, unknown)?;
    ensure!(status.events.rewritten >= 36, "{status:?}");
    ftp.follows(1 + 2 * 2)?;

    ftp.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    ftp.server.reap();
    for client in [&mut anonymous, &mut local] {
        client.command("AVBL", 202)?;
        client.command("ALLO", 500)?;
        client.retrieve(vsftpd::FILE, vsftpd::file())?;
        client.is_usable()?;
    }
    let mut last = ftp.server.local(Mode::Active)?;
    last.command("AVBL", 202)?;
    last.retrieve("up", content)?;
    for client in [anonymous, local, last] {
        client.quit()?;
    }
    let root = ftp.mvedsua.status(NAME)?.leader.pid;
    ftp.server.tree_of(root, 1)
}

/// The shipped rules without the one of that name in their `reverse` section.
fn without_reverse(name: &str) -> Result<String> {
    let (before, rest) = RULES
        .split_once(&format!("    rule {name}:\n"))
        .with_context(|| format!("no rule {name}"))?;
    let (_, after) = rest.split_once(";\n").context("it has an end")?;
    Ok(format!("{before}{after}"))
}

#[test]
fn the_old_version_follows_the_next_one() -> Result<()> {
    if !can_run_both("the_old_version_follows_the_next_one") {
        return Ok(());
    }
    let mut ftp = Ftp::start(&[])?;
    ftp.mvedsua.attach_with_children(ftp.server.pid(), NAME)?;
    ftp.update(RULES)?;
    let mut anonymous = ftp.server.anonymous(Mode::Passive)?;
    let mut local = ftp.server.local(Mode::ExtendedPassive)?;
    ftp.follows(1 + 2 * 2)?;
    ftp.mvedsua.promote(NAME)?;
    ftp.server.reap();
    let mut last = ftp.server.local(Mode::Passive)?;
    let content = Content::new(1, 300_001);
    for client in [&mut anonymous, &mut local, &mut last] {
        client.command("AVBL", 202)?;
        client.command("ALLO", 500)?;
        client.retrieve(vsftpd::FILE, vsftpd::file())?;
        client.is_usable()?;
    }
    local.store("up", content)?;
    content.check_file(&ftp.server.home("up"))?;
    let status = ftp.follows(1 + 3 * 2)?;
    let fired = |name: &str| {
        let mut rules = status.rules.iter().flat_map(|rules| &rules.rules);
        rules.find(|rule| rule.name == name).map(|rule| rule.fired)
    };
    ensure!(
        fired("known_now") == Some(3) && fired("unknown_now") == Some(3),
        "{status:?}"
    );
    // The old version is as it would be without all that.
    ftp.mvedsua.rollback(NAME)?;
    ftp.server.reap();
    for client in [&mut anonymous, &mut local, &mut last] {
        client.command("AVBL", 500)?;
        client.command("ALLO", 202)?;
        client.retrieve(vsftpd::FILE, vsftpd::file())?;
    }
    last.retrieve("up", content)?;
    for client in [anonymous, local, last] {
        client.quit()?;
    }
    let root = ftp.mvedsua.status(NAME)?.leader.pid;
    ftp.server.tree_of(root, 1)
}

#[test]
fn each_reverse_rule_is_needed() -> Result<()> {
    if !can_run_both("each_reverse_rule_is_needed") {
        return Ok(());
    }
    for (rule, command, answer) in [("unknown_now", "ALLO", 500), ("known_now", "AVBL", 202)] {
        let mut ftp = Ftp::start(&[])?;
        ftp.mvedsua.attach_with_children(ftp.server.pid(), NAME)?;
        ftp.update(&without_reverse(rule)?)?;
        let mut client = ftp.server.anonymous(Mode::Passive)?;
        ftp.follows(1 + 2)?;
        ftp.mvedsua.promote(NAME)?;
        ftp.server.reap();
        client.command(command, answer)?;
        let status = ftp
            .mvedsua
            .wait_for(NAME, LIMIT, |status| status.last_update.is_some())?;
        let last = status.last_update.context("waited for it")?;
        let report = last.report.clone().unwrap_or_default();
        // The old version says what it says to that command; the new one stays.
        ensure!(
            last.outcome == "finalized" && report.contains(&answer.to_string()),
            "without {rule}: {last:?}\n{report}"
        );
        client.command(command, answer)?;
        client.quit()?;
        ftp.server.tree_of(status.leader.pid, 1)?;
    }
    Ok(())
}

/// What the next version writes into its log stands in the log of every process that was there before it.
#[test]
fn sessions_that_were_there_become_the_next_version() -> Result<()> {
    if !can_run_both("sessions_that_were_there_become_the_next_version") {
        return Ok(());
    }
    // They wait in the loop of their commands, and before the login in what comes before that: old frames of
    // these functions run to their end, and all that they call is new.
    let control = ["--control", "process_post_login=leave"];
    let before = ["--control", "init_connection=leave"];
    let mut ftp = Ftp::start(&[control, before].concat())?;
    let mut early = ftp.server.connect(Mode::Passive)?;
    let mut idle = ftp.server.anonymous(Mode::Passive)?;
    let mut down = ftp.server.anonymous(Mode::ExtendedPassive)?;
    let mut download = down.download(vsftpd::FILE, vsftpd::file())?;
    download.read(1 << 20)?;
    let mut up = ftp.server.local(Mode::Passive)?;
    let content = Content::new(2, 2_000_001);
    let mut upload = up.upload("up", content)?;
    upload.write(1_000_003)?;
    ftp.mvedsua.attach(ftp.server.pid(), NAME)?;
    ftp.update(RULES)?;
    let mut later = ftp.server.local(Mode::Passive)?;
    download.read(1 << 20)?;
    upload.write(500_000)?;
    idle.retrieve(vsftpd::FILE, vsftpd::file())?;
    later.retrieve(vsftpd::FILE, vsftpd::file())?;
    ftp.follows(1 + 5 * 2)?;

    ftp.mvedsua.run(&["promote", NAME, "--finalize"])?.ok()?;
    ftp.server.reap();
    let written = ftp.server.log_lines("").len();
    down.finish_download(download)?;
    up.finish_upload(upload)?;
    content.check_file(&ftp.server.home("up"))?;
    for client in [&mut idle, &mut later] {
        client.retrieve(vsftpd::FILE, vsftpd::file())?;
    }
    early.login("anonymous", "late")?;
    early.retrieve(vsftpd::FILE, vsftpd::file())?;
    // What was written before has process ids, and what is written now another number.
    let lines = ftp.server.log_lines("");
    let (old, new) = lines.split_at(written);
    let ids: BTreeSet<u64> = old.iter().filter_map(|line| number_of(line)).collect();
    for what in ["OK DOWNLOAD", "OK UPLOAD", "OK LOGIN"] {
        let of: Vec<&String> = new.iter().filter(|line| line.contains(what)).collect();
        ensure!(!of.is_empty(), "no {what}: {new:?}");
        let is_new = |line: &String| number_of(line).is_some_and(|number| !ids.contains(&number));
        ensure!(of.iter().all(|line| is_new(line)), "{what}: {of:?}");
    }
    // Loops that were left go on as they were; those that begin now are new.
    idle.command("AVBL", 500)?;
    later.command("AVBL", 202)?;
    early.command("AVBL", 202)?;
    for client in [early, idle, down, up, later] {
        client.quit()?;
    }
    let root = ftp.mvedsua.status(NAME)?.leader.pid;
    ftp.server.tree_of(root, 1)
}

/// The number in `[pid N]` of a line of the log.
fn number_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("[pid ")?;
    rest.split_once(']')?.0.parse().ok()
}
