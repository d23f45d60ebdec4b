//! memcached with logins, where Debian's fix changes what the server does: the rule that says so comes with
//! the bundle, and logins are answered by both versions on all four worker threads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::bare::Before;
use mvedsua_tests::bundle::Bundle;
use mvedsua_tests::programs::{Build, MEMCACHED_NEW, MEMCACHED_OLD};
use mvedsua_tests::{Mvedsua, Need, Server, can_run, process, wait_until};

const NAME: &str = "memcached";
const LIMIT: Duration = Duration::from_secs(20);
const RULES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../rules/memcached/1.6.18-1+deb12u1.rules"
);

/// Status of memcached's answer to a login.
const AUTHENTICATED: u16 = 0;
const REFUSED: u16 = 0x20;

/// `memcached -S` with four workers and two users.
fn memcached(program: &Path) -> Result<Server> {
    Server::start(|port, dir| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
        let host = host.trim();
        let users = format!("alice@{host}:secret\nbob@{host}:hush\n");
        std::fs::write(dir.join("users"), users)?;
        std::fs::write(dir.join("memcached.conf"), "mech_list: plain\n")?;
        let mut command = Command::new(program);
        command
            .args(["-S", "-u", "root", "-l", "127.0.0.1", "-U", "0", "-t", "4"])
            .args(["-p", &port.to_string()])
            .env("MEMCACHED_SASL_PWDB", dir.join("users"))
            .env("SASL_CONF_PATH", dir);
        Ok(command)
    })
}

/// Logs in over the binary protocol on a connection of its own; the status of the answer.
fn login(addr: SocketAddr, user: &str, password: &str) -> Result<u16> {
    const MECHANISM: &[u8] = b"PLAIN";
    let value = format!("\0{user}\0{password}");
    let body = u32::try_from(MECHANISM.len() + value.len())?;
    let mut request = vec![0x80, 0x21, 0, MECHANISM.len() as u8, 0, 0, 0, 0];
    request.extend_from_slice(&body.to_be_bytes());
    request.extend_from_slice(&[0; 12]);
    request.extend_from_slice(MECHANISM);
    request.extend_from_slice(value.as_bytes());
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(&request)?;
    let mut header = [0; 24];
    stream.read_exact(&mut header)?;
    Ok(u16::from_be_bytes([header[6], header[7]]))
}

/// Right and wrong ones of users that there are; enough that every worker thread gets some.
fn known(addr: SocketAddr) -> Result<()> {
    for _ in 0..4 {
        for (user, password, expected) in [
            ("alice", "secret", AUTHENTICATED),
            ("bob", "hush", AUTHENTICATED),
            ("bob", "secret", REFUSED),
        ] {
            let status = login(addr, user, password)?;
            ensure!(status == expected, "{user} with {password}: {status:#x}");
        }
    }
    Ok(())
}

/// The same, and unknown users.
fn logins(addr: SocketAddr) -> Result<()> {
    known(addr)?;
    for _ in 0..4 {
        ensure!(login(addr, "eve", "secret")? == REFUSED);
    }
    known(addr)
}

#[test]
fn logins_go_on_while_the_fix_of_logins_is_applied() -> Result<()> {
    let name = "logins_go_on_while_the_fix_of_logins_is_applied";
    let needs = [
        Need::Root,
        Need::Build(MEMCACHED_OLD),
        Need::Build(MEMCACHED_NEW),
        Need::Path(
            "/usr/lib/x86_64-linux-gnu/sasl2/libplain.so",
            "SASL's PLAIN",
        ),
    ];
    if !can_run(name, &needs) {
        return Ok(());
    }
    let old = Build::find(MEMCACHED_OLD).context("asked for before")?;
    let mut server = memcached(old.program())?;
    let addr = server.addr();
    logins(addr)?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(server.pid(), NAME)?;
    let before = Before::of(server.pid());

    // Without the rule it is a divergence, found at the first login; the old version has answered it.
    let bare = Bundle::of(&mvedsua, MEMCACHED_OLD, MEMCACHED_NEW, &[])?;
    let update = |bundle: &Bundle| {
        let path = bundle.path().to_string_lossy().into_owned();
        mvedsua.run(&["update", NAME, &path])?.ok()
    };
    update(&bare)?;
    ensure!(login(addr, "alice", "secret")? == AUTHENTICATED);
    let status = mvedsua.wait_for(NAME, LIMIT, |status| status.last_update.is_some())?;
    let last = status.last_update.context("waited for it")?;
    ensure!(
        last.outcome == "rolled-back"
            && last.reason.contains("leader made close, the follower read"),
        "{last:?}"
    );
    // Connections of the logins may still be closing.
    ensure!(wait_until(LIMIT, || before.check().is_ok()));

    let bundle = Bundle::of(&mvedsua, MEMCACHED_OLD, MEMCACHED_NEW, &["--rules", RULES])?;
    update(&bundle)?;
    logins(addr)?;
    // The rule is used for each login of a known user.
    mvedsua.wait_for(NAME, LIMIT, |status| {
        status.stage == "outdated-leader" && status.events.rewritten >= 24
    })?;
    mvedsua.promote(NAME)?;
    // Now the old version follows, with the rule the other way round.
    known(addr)?;
    let followed = mvedsua.wait_for(NAME, LIMIT, |status| {
        status.events.matched > 200 && status.follower.is_none_or(|f| f.lag_events == 0)
    })?;
    ensure!(
        followed.stage == "updated-leader" && followed.events.diverged == 0,
        "{followed:?}"
    );
    // What the rule cannot know ends the old version, and nothing else.
    ensure!(login(addr, "eve", "secret")? == REFUSED);
    mvedsua.wait_for(NAME, LIMIT, |status| {
        let last = status.last_update.as_ref();
        last.is_some_and(|last| last.outcome == "finalized")
    })?;
    server.reap();
    ensure!(process::is_alive(mvedsua.status(NAME)?.leader.pid));
    logins(addr)
}
