//! The example key-value store, its three versions compiled and served, and a client for it.
//!
//! `examples/kvstore` is the server of the MVEDSUA paper's Figure 1; `rules/kvstore` holds the rules
//! between its versions.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Server;

/// Longest time that a reply may take.
const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// Compiles version 1, 2 or 3 into `dir`, as its Makefile does, so that bundles can be made of two of
/// them; returns the program.
///
/// # Errors
/// When it does not compile.
pub fn build(version: u32, dir: &Path) -> Result<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kvstore/kvstore.c");
    let program = dir.join(format!("kvstore-v{version}"));
    let compiled = Command::new("cc")
        .args([
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-std=c11",
            "-Wl,--build-id",
        ])
        .arg(format!("-DVERSION={version}"))
        .arg("-o")
        .arg(&program)
        .arg(source)
        .output()
        .context("running cc")?;
    ensure!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    Ok(program)
}

/// Starts a version that [`build`] made.
///
/// # Errors
/// When it does not listen.
pub fn serve(program: &Path) -> Result<Server> {
    let program = program.to_owned();
    Server::start(move |port, _| {
        let mut command = Command::new(&program);
        command.arg(port.to_string());
        Ok(command)
    })
}

/// Path of a rule file between two versions, such as `v1-v2.rules`.
#[must_use]
pub fn rules(name: &str) -> String {
    format!("{}/../rules/kvstore/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A connection to the store.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(REPLY_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            replies: BufReader::new(stream.try_clone()?),
            stream,
        })
    }

    /// Sends bytes as they are: several commands, or part of one.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &str) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_bytes())?)
    }

    /// The next reply, without its line end.
    ///
    /// # Errors
    /// When none comes within 30 s, or the connection ends.
    pub fn reply(&mut self) -> Result<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line).context("no reply")?;
        ensure!(line.ends_with("\r\n"), "the connection ended: {line:?}");
        line.truncate(line.len() - 2);
        Ok(line)
    }

    /// One command and its reply.
    ///
    /// # Errors
    /// As [`Client::reply`].
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.send(&format!("{command}\r\n"))?;
        self.reply().with_context(|| format!("asked {command:?}"))
    }
}
