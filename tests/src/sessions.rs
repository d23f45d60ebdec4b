//! Sessions of `vsftpd` in all their states, across updates.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::content::Content;
use crate::ftp::{Client, Download, Mode, Upload};
use crate::mvedsua::{Mvedsua, Status};
use crate::vsftpd::{self, Vsftpd};

/// The name under which the server is attached.
pub const NAME: &str = "ftp";
/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Sessions of every kind, before, in and after an update.
pub struct Sessions {
    idle: Vec<Client>,
    down: Client,
    download: Option<Download>,
    up: Client,
    upload: Option<Upload>,
    content: Content,
}

impl Sessions {
    /// One at the prompt of each kind of user, one that has not logged in, one in the middle of a
    /// download, and one in the middle of an upload.
    ///
    /// # Errors
    /// When one does not come.
    pub fn open(server: &Vsftpd, round: u64) -> Result<Self> {
        let mut down = server.anonymous(Mode::Passive)?;
        let mut download = down.download(vsftpd::FILE, vsftpd::file())?;
        download.read(1 << 20)?;
        let mut up = server.local(Mode::ExtendedPassive)?;
        let content = Content::new(round, 4_000_001);
        let mut upload = up.upload(&format!("up{round}"), content)?;
        upload.write(1_000_003)?;
        Ok(Self {
            idle: vec![
                server.anonymous(Mode::Active)?,
                server.local(Mode::Passive)?,
            ],
            down,
            download: Some(download),
            up,
            upload: Some(upload),
            content,
        })
    }

    /// How many processes serve them.
    pub const PROCESSES: usize = 8;

    /// A part of each transfer, and a sign of life of each session at the prompt.
    ///
    /// # Errors
    /// When one is broken.
    pub fn go_on(&mut self) -> Result<()> {
        if let Some(download) = &mut self.download {
            download.read(1 << 20)?;
        }
        if let Some(upload) = &mut self.upload {
            upload.write(500_000)?;
        }
        self.idle.iter_mut().try_for_each(Client::is_usable)
    }

    /// The transfers end well, and every session does something more.
    ///
    /// # Errors
    /// When a byte is wrong, or one is broken.
    pub fn finish(&mut self, server: &Vsftpd, round: u64) -> Result<()> {
        let file = format!("up{round}");
        if let Some(download) = self.download.take() {
            self.down
                .finish_download(download)
                .context("the download")?;
        }
        if let Some(upload) = self.upload.take() {
            self.up.finish_upload(upload).context("the upload")?;
        }
        self.content.check_file(&server.home(&file))?;
        self.up.retrieve(&file, self.content)?;
        for client in self.idle.iter_mut().chain([&mut self.down]) {
            client.retrieve(vsftpd::FILE, vsftpd::file())?;
        }
        Ok(())
    }

    /// The same, and then every session ends.
    ///
    /// # Errors
    /// See [`Sessions::finish`].
    pub fn end(mut self, server: &Vsftpd, round: u64) -> Result<()> {
        self.finish(server, round)?;
        let mut all = self.idle.into_iter().chain([self.down, self.up]);
        all.try_for_each(Client::quit)
    }
}

/// A vsftpd with an agent.
pub struct Ftp {
    /// The agent.
    pub mvedsua: Mvedsua,
    /// The server.
    pub server: Vsftpd,
}

impl Ftp {
    /// Both.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start() -> Result<Self> {
        Ok(Self {
            mvedsua: Mvedsua::start()?,
            server: Vsftpd::start(&[])?,
        })
    }

    /// Follows; the follower's tree has as many processes as the leader's.
    ///
    /// # Errors
    /// When it does not.
    pub fn update(&self) -> Result<Status> {
        self.mvedsua
            .update_identity(NAME, &["--hang-limit", "20s"])?;
        self.mvedsua.status(NAME)
    }

    /// What both sides have done so far matches, and both trees have `processes` processes.
    ///
    /// # Errors
    /// When it is not so in the end.
    pub fn follows(&self, processes: usize) -> Result<()> {
        let status = self.mvedsua.wait_for(NAME, LIMIT, |status| {
            status.follower.is_none_or(|f| f.lag_events == 0)
        })?;
        let follower = status
            .follower
            .with_context(|| format!("no follower: {:?}", status.last_update))?;
        self.server.tree_of(status.leader.pid, processes)?;
        self.server.tree_of(follower.pid, processes)?;
        ensure!(status.events.diverged == 0, "{status:?}");
        Ok(())
    }

    /// How the last update ended, for a failed test's message.
    #[must_use]
    pub fn ended(&self) -> String {
        let ended = |status: &Status| status.last_update.is_some();
        match self.mvedsua.wait_for(NAME, LIMIT, ended) {
            Ok(Status {
                last_update: Some(last),
                ..
            }) => format!("{}\n{}", last.reason, last.report.unwrap_or_default()),
            other => format!("{other:?}"),
        }
    }
}
