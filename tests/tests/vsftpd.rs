//! Debian's `vsftpd`: a server with a tree of processes.

use anyhow::{Result, ensure};
use mvedsua_tests::content::Content;
use mvedsua_tests::ftp::Mode;
use mvedsua_tests::{Need, Vsftpd, can_run, process, vsftpd};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("vsftpd"),
    Need::Program("useradd"),
    Need::Program("chpasswd"),
];

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
