//! Debian's `vsftpd`: a server with a tree of processes.

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bare::Before;
use mvedsua_tests::content::Content;
use mvedsua_tests::ftp::Mode;
use mvedsua_tests::sessions::{Ftp, LIMIT, NAME, Sessions};
use mvedsua_tests::vsftpd::NEEDS;
use mvedsua_tests::{Mvedsua, Vsftpd, can_run, process, vsftpd, wait_until};

/// The instrument itself: transfers of every kind, held in the middle, on a server that nobody touches.
#[test]
fn a_bare_vsftpd_serves_sessions_and_held_transfers() -> Result<()> {
    if !can_run("a_bare_vsftpd_serves_sessions_and_held_transfers", NEEDS) {
        return Ok(());
    }
    let server = Vsftpd::start(&[])?;
    let mut idle = server.anonymous(Mode::Passive)?;
    let mut early = server.connect(Mode::Passive)?;
    let mut down = server.anonymous(Mode::ExtendedPassive)?;
    let mut up = server.local(Mode::Active)?;
    // The listener, and two processes for each session.
    server.tree_of(server.pid(), 9)?;
    let mut download = down.download(vsftpd::FILE, vsftpd::file())?;
    download.read(1 << 20)?;
    let content = Content::new(2, 3_000_001);
    let mut upload = up.upload("up", content)?;
    upload.write(1_000_003)?;
    ensure!(server.log_lines("OK DOWNLOAD").is_empty() && server.log_lines("OK UPLOAD").is_empty());
    down.finish_download(download)?;
    up.finish_upload(upload)?;
    content.check_file(&server.home("up"))?;
    ensure!(server.log_lines("OK DOWNLOAD").len() == 1 && server.log_lines("OK UPLOAD").len() == 1);
    let mut local = server.local(Mode::Passive)?;
    local.retrieve("up", content)?;
    let list = local.list("")?;
    ensure!(
        list.len() == 2
            && list
                .iter()
                .any(|line| line.ends_with(" up") && line.contains(" 3000001 ")),
        "{list:?}"
    );
    // An anonymous user may not write.
    idle.command("STOR x", 550)?;
    early.login("anonymous", "late")?;
    for client in [&mut idle, &mut early, &mut down, &mut up, &mut local] {
        client.is_usable()?;
    }
    for client in [idle, early, down, up, local] {
        client.quit()?;
    }
    server.tree_of(server.pid(), 1)
}

#[test]
fn a_bare_vsftpd_loses_bytes_and_the_client_sees_it() -> Result<()> {
    if !can_run("a_bare_vsftpd_loses_bytes_and_the_client_sees_it", NEEDS) {
        return Ok(());
    }
    let server = Vsftpd::start(&[])?;
    let mut client = server.local(Mode::Passive)?;
    let content = Content::new(3, 100_000);
    client.store("short", content)?;
    // A file that changed: the first wrong byte is named.
    let wrong = client.retrieve("short", Content::new(4, 100_000));
    ensure!(wrong.is_err_and(|error| error.to_string().contains("byte ")));
    // A session whose process is killed in the middle of a transfer.
    let mut client = server.anonymous(Mode::Passive)?;
    let mut download = client.download(vsftpd::FILE, vsftpd::file())?;
    download.read(1000)?;
    let session = process::descendants(server.pid());
    for pid in session {
        process::send(pid, process::Signal::SIGKILL)?;
    }
    ensure!(client.finish_download(download).is_err());
    ensure!(client.is_usable().is_err());
    Ok(())
}

/// Every process is as it was, once sessions that were ended are reaped.
fn becomes_bare(before: &[Before]) -> Result<()> {
    let check = || before.iter().try_for_each(Before::check);
    if wait_until(LIMIT, || check().is_ok()) {
        return Ok(());
    }
    check()
}

#[test]
fn sessions_that_come_while_a_copy_follows() -> Result<()> {
    if !can_run("sessions_that_come_while_a_copy_follows", NEEDS) {
        return Ok(());
    }
    let ftp = Ftp::start()?;
    ftp.mvedsua.attach_with_children(ftp.server.pid(), NAME)?;
    let before = Before::of_tree(ftp.server.pid());
    ftp.update()?;
    let mut first = Sessions::open(&ftp.server, 1)?;
    ftp.follows(1 + Sessions::PROCESSES)?;
    first.go_on()?;
    first.finish(&ftp.server, 1)?;
    ftp.follows(1 + Sessions::PROCESSES)?;
    let mut second = Sessions::open(&ftp.server, 2)?;
    ftp.follows(1 + 2 * Sessions::PROCESSES)?;
    // Rolled back in the middle of the transfers: the server's tree is as it is, and bare.
    ftp.mvedsua.rollback(NAME)?;
    let tree = Before::of_tree(ftp.server.pid());
    ensure!(
        tree.len() == 1 + 2 * Sessions::PROCESSES,
        "{:?}",
        process::descendants(ftp.server.pid())
    );
    tree.iter().try_for_each(Before::check)?;
    second.go_on()?;
    first.end(&ftp.server, 1)?;
    second.end(&ftp.server, 2)?;
    // Nothing was done twice.
    let uploads = ftp.server.log_lines("OK UPLOAD");
    ensure!(uploads.len() == 2, "{uploads:?}");
    becomes_bare(&before)
}

#[test]
fn a_tree_with_sessions_is_followed_and_rolled_back() -> Result<()> {
    if !can_run("a_tree_with_sessions_is_followed_and_rolled_back", NEEDS) {
        return Ok(());
    }
    let ftp = Ftp::start()?;
    let mut early = ftp.server.connect(Mode::Passive)?;
    let mut first = Sessions::open(&ftp.server, 1)?;
    let root = ftp.server.pid();
    ftp.server.tree_of(root, 3 + Sessions::PROCESSES)?;
    ftp.mvedsua.attach_with_children(root, NAME)?;
    for goes_on in [false, true] {
        ftp.update()?;
        if goes_on {
            first.go_on()?;
        }
        ftp.follows(3 + Sessions::PROCESSES)?;
        let before = Before::of_tree(root);
        ftp.mvedsua.rollback(NAME)?;
        becomes_bare(&before)?;
        first.go_on()?;
    }

    // Once more, and this time they come to their end while they are followed.
    ftp.update()?;
    let mut later = Sessions::open(&ftp.server, 2)?;
    early.login("anonymous", "late")?;
    ftp.follows(3 + 2 * Sessions::PROCESSES)?;
    first.go_on()?;
    later.go_on()?;
    first.end(&ftp.server, 1)?;
    early.is_usable()?;
    ftp.follows(3 + Sessions::PROCESSES)?;
    ftp.mvedsua.rollback(NAME)?;
    later.end(&ftp.server, 2)?;
    early.quit()?;
    ftp.server.tree_of(root, 1)?;
    // Every transfer was made once.
    let uploads = ftp.server.log_lines("OK UPLOAD");
    ensure!(uploads.len() == 2, "{uploads:?}");
    // The last session's process may not have been waited for yet.
    ensure!(wait_until(LIMIT, || process::children(root).is_empty()));
    Before::of(root).check()
}

/// Every so many steps of the promotion of a tree an agent dies.
const STRIDE: u64 = 151;

/// An agent that dies before one of its steps leaves one tree, in which every session goes on. Returns whether it came
/// to its end alive.
fn dies_at(step: u64, promote: &[&str]) -> Result<bool> {
    let mut mvedsua = Mvedsua::without_agent()?;
    let mut server = Vsftpd::start(&[])?;
    let mut idle = server.anonymous(Mode::Passive)?;
    let mut up = server.local(Mode::Passive)?;
    let content = Content::new(step, 2_000_003);
    let mut upload = up.upload("up", content)?;
    upload.write(1_000_003)?;
    let pid = server.pid().to_string();
    mvedsua.start_agent_that_dies(step)?;
    let commands: [&[&str]; 3] = [
        &["attach", "--pid", &pid, "--name", NAME],
        &["update", NAME, "--identity", "--hang-limit", "20s"],
        promote,
    ];
    let mut came = 0;
    for words in commands {
        if !mvedsua.run_or_die(words, LIMIT)? {
            break;
        }
        came += 1;
    }
    if came < 2 {
        // Nothing was asked of it that a successor would have to end.
        idle.is_usable().context("it waits for a successor")?;
    }
    if came == commands.len() {
        // This agent still counts its steps, and will die at one of those by which it goes on.
        for root in server.roots() {
            for pid in process::descendants(root).into_iter().chain([root]) {
                // Copies end with whom they follow.
                let _ = process::send(pid, process::Signal::SIGKILL);
            }
        }
        return Ok(true);
    }
    mvedsua.start_agent()?;
    server.reap();
    ensure!(
        wait_until(LIMIT, || server.roots().len() == 1),
        "there are {:?}\n{}",
        server.roots(),
        mvedsua.log()
    );
    let root = server.roots()[0];
    let how_it_is = |mvedsua: &Mvedsua| {
        let of = |pid: i32| {
            let field = |name| process::status_field(pid, name);
            let call = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
            let wchan = std::fs::read_to_string(format!("/proc/{pid}/wchan"));
            (pid, field("State"), field("TracerPid"), call, wchan)
        };
        let tree = std::iter::once(root).chain(process::descendants(root));
        let tree: Vec<_> = tree.map(of).collect();
        format!("{tree:?}, {pid} at first\n{}", mvedsua.log())
    };
    let complete = server.tree_of(root, 5);
    complete.with_context(|| how_it_is(&mvedsua))?;
    idle.is_usable().with_context(|| how_it_is(&mvedsua))?;
    let written = upload.write(500_000);
    written.with_context(|| how_it_is(&mvedsua))?;
    up.finish_upload(upload)?;
    content.check_file(&server.home("up"))?;
    // It is as good as any: the next update works.
    let status = mvedsua.status(NAME);
    if !status.is_ok_and(|status| status.leader.pid == root) {
        mvedsua.attach(root, NAME)?;
    }
    mvedsua.update_identity(NAME, &["--hang-limit", "20s"])?;
    idle.is_usable()?;
    let status = mvedsua.status(NAME)?;
    ensure!(status.follower.is_some(), "{status:?}\n{}", mvedsua.log());
    mvedsua.rollback(NAME)?;
    idle.is_usable()?;
    let new = server.anonymous(Mode::Passive);
    let new = new.with_context(|| how_it_is(&mvedsua))?;
    for client in [idle, up, new] {
        client.quit()?;
    }
    server.tree_of(root, 1)?;
    ensure!(server.log_lines("OK UPLOAD").len() == 1);
    process::send(root, process::Signal::SIGKILL)?;
    Ok(false)
}

/// Through the steps up to the end of a promotion by these words.
fn dies_anywhere(promote: &[&str]) -> Result<()> {
    let (from, stride) = match std::env::var("MVEDSUA_TEST_STEPS") {
        Ok(text) => {
            let (from, stride) = text.split_once('+').context("FROM+STRIDE")?;
            (from.parse()?, stride.parse()?)
        }
        Err(_) => (1, STRIDE),
    };
    let mut step = from;
    let died = |step| {
        let died = dies_at(step, promote);
        died.with_context(|| format!("the agent died before step {step}"))
    };
    while !died(step)? {
        step += stride;
    }
    println!("{step} steps");
    Ok(())
}

#[test]
fn one_tree_goes_on_wherever_the_agent_dies() -> Result<()> {
    if !can_run("one_tree_goes_on_wherever_the_agent_dies", NEEDS) {
        return Ok(());
    }
    dies_anywhere(&["promote", NAME, "--finalize"])
}

#[test]
fn one_tree_goes_on_wherever_the_agent_dies_with_a_way_back() -> Result<()> {
    let name = "one_tree_goes_on_wherever_the_agent_dies_with_a_way_back";
    if !can_run(name, NEEDS) {
        return Ok(());
    }
    dies_anywhere(&["promote", NAME])
}
