//! Real servers on loopback ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::examples::Example;
use crate::{process, resp, wait_until};

/// How long a server may take until it accepts connections, or ends.
const LIMIT: Duration = Duration::from_secs(20);

/// Environment variable with the ports to use, `FIRST-LAST`.
pub const PORTS: &str = "MVEDSUA_TEST_PORTS";

/// A server of ours: ended on drop, together with whatever process serves its port by then (after a
/// promotion that is not the process that was started).
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Server {
    /// Debian's `redis-server` with no persistence of its own accord, plus `options` (words as on its
    /// command line, for example `["--io-threads", "2"]`).
    ///
    /// # Errors
    /// When it is not installed or does not accept connections within 20 s.
    pub fn redis(options: &[&str]) -> Result<Self> {
        Self::redis_of(&program("redis-server")?, options)
    }

    /// The same with another build of it.
    ///
    /// # Errors
    /// When it does not accept connections within 20 s.
    pub fn redis_of(program: &Path, options: &[&str]) -> Result<Self> {
        Self::start(|port, dir| {
            let mut command = Command::new(program);
            command
                .args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                ])
                .args(["--appendonly", "no", "--daemonize", "no", "--dir"])
                .arg(dir)
                .args(options);
            Ok(command)
        })
    }

    /// Debian's `memcached` with `threads` worker threads.
    ///
    /// # Errors
    /// When it is not installed or does not accept connections within 20 s.
    pub fn memcached(threads: u32) -> Result<Self> {
        Self::memcached_of(&program("memcached")?, threads)
    }

    /// The same with another build of it.
    ///
    /// # Errors
    /// When it does not accept connections within 20 s.
    pub fn memcached_of(program: &Path, threads: u32) -> Result<Self> {
        Self::start(|port, _| {
            let mut command = Command::new(program);
            command
                .args([
                    "-u",
                    "root",
                    "-l",
                    "127.0.0.1",
                    "-U",
                    "0",
                    "-p",
                    &port.to_string(),
                ])
                .args(["-t", &threads.to_string()]);
            Ok(command)
        })
    }

    /// A server of `examples/` in one of its versions.
    ///
    /// # Errors
    /// When it does not compile, or does not accept connections within 20 s.
    pub fn example(example: Example, version: u32) -> Result<Self> {
        let program = example.build(version)?;
        Self::start(|port, _| {
            let mut command = Command::new(program);
            command.arg(port.to_string());
            Ok(command)
        })
    }

    /// Any program that listens on a TCP port: `command` makes it from a free port and a folder of
    /// its own, which is deleted on drop. Its output goes to `server.log` in that folder.
    ///
    /// # Errors
    /// When it cannot be started or does not accept connections within 20 s; the end of its log is
    /// part of the message.
    pub fn start(command: impl FnOnce(u16, &std::path::Path) -> Result<Command>) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("mvedsua-server-")
            .tempdir()?;
        let port = free_port()?;
        let log = std::fs::File::create(dir.path().join("server.log"))?;
        let mut command = command(port, dir.path())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let mut server = Self { child, port, dir };
        let mut ended = None;
        let listens = wait_until(LIMIT, || {
            ended = server.child.try_wait().ok().flatten();
            ended.is_some() || TcpStream::connect(server.addr()).is_ok()
        });
        if let Some(status) = ended {
            bail!("{command:?} ended at once ({status}):\n{}", server.log());
        }
        if !listens {
            bail!(
                "{command:?} does not listen on port {port}:\n{}",
                server.log()
            );
        }
        Ok(server)
    }

    /// Process id of the process that was started (not of the one that serves after a promotion:
    /// ask `status` for that).
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are positive")
    }

    /// Port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address that it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The folder of the server.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// What it has written to its standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }

    /// A Redis client of this server.
    ///
    /// # Errors
    /// When the server does not accept.
    pub fn client(&self) -> Result<resp::Client> {
        Ok(resp::Client::connect(self.addr(), LIMIT)?)
    }

    /// Reaps the process that was started, if it has ended, so that it is no zombie of the test.
    pub fn reap(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The port is ours alone (see `free_port`), so whoever serves it descends from our child.
        // (An agent may hold a duplicate of the socket while it hands descriptors over.)
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        for pid in process::listeners(self.port) {
            let agent = process::status_field(pid, "Name").is_some_and(|name| name == "mvedsua");
            if pid != self.pid() && pid != own && !agent {
                // ESRCH means that it has just ended, which is what we want.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A panicking test shows what the server said.
        if std::thread::panicking() {
            eprintln!(
                "--- log of the server on port {} ---\n{}",
                self.port,
                self.log()
            );
        }
    }
}

/// Full path of a program on the `PATH` or in the folders for daemons.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} is not installed: run `cargo xtask setup`"))
}

/// A port of 127.0.0.1 that nobody listens on and that no later call in this process returns.
///
/// From 21000-31999, or from what `MVEDSUA_TEST_PORTS` says: below the range that the kernel takes
/// client ports from, so that no outgoing connection can take it first.
///
/// # Errors
/// When the variable is malformed or all ports are in use.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (first, last) = match std::env::var(PORTS) {
        Err(_) => (21000, 31999),
        Ok(text) => text
            .split_once('-')
            .and_then(|(a, b)| Some((a.parse::<u16>().ok()?, b.parse::<u16>().ok()?)))
            .filter(|(a, b)| a <= b)
            .with_context(|| {
                format!("{PORTS}={text}: expected FIRST-LAST, for example 21000-21999")
            })?,
    };
    let count = u32::from(last - first) + 1;
    // Two test programs at once start at different places.
    let start = std::process::id().wrapping_mul(37);
    for _ in 0..count {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = start.wrapping_add(step) % count;
        let port = first + u16::try_from(offset).expect("less than the number of ports");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port in {first}-{last}: set {PORTS} to another range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_at_once_is_an_error_with_its_log() {
        let error = Server::start(|_, _| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo no luck; exit 3"]);
            Ok(command)
        })
        .expect_err("it does not listen");
        assert!(error.to_string().contains("no luck"), "{error}");
    }

    #[test]
    fn two_free_ports_differ() {
        assert_ne!(
            free_port().expect("a port"),
            free_port().expect("another port")
        );
    }
}
