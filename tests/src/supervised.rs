//! A server under load with an agent of its own: what most end-to-end tests start from.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bundle::Bundle;
use crate::idle::Idle;
use crate::load::{Dataset, Load, LoadOptions, Protocol};
use crate::mvedsua::{Outcome, Status};
use crate::process::Signal;
use crate::{Mvedsua, Server, process, wait_until};

/// Name of the service.
pub const NAME: &str = "server";

/// Established connections that do nothing meanwhile.
const IDLE: usize = 100;

/// How long anything that a test waits for may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A loaded server, attached as [`NAME`].
#[derive(Debug)]
pub struct Supervised {
    /// The agent; ended first.
    pub mvedsua: Mvedsua,
    /// The server.
    pub server: Server,
    load: Load,
    idle: Idle,
    keys: u32,
}

impl Supervised {
    /// A `redis-server` with `options`, `keys` keys, 20 connections that make `rate` requests per
    /// second together (half of them writes), and 100 idle ones.
    ///
    /// # Errors
    /// When the server, the load or the agent does not start, or the attach is refused.
    pub fn redis(options: &[&str], keys: u32, rate: u32) -> Result<Self> {
        Self::start(Server::redis(options)?, Protocol::Redis, keys, rate)
    }

    /// The same for `memcached` with 4 worker threads.
    ///
    /// # Errors
    /// As for [`redis`](Self::redis).
    pub fn memcached(keys: u32, rate: u32) -> Result<Self> {
        Self::start(Server::memcached(4)?, Protocol::Memcached, keys, rate)
    }

    /// The same for any server of a protocol that the load knows. A `rate` of 0: as fast as it answers.
    ///
    /// # Errors
    /// As for [`redis`](Self::redis).
    pub fn start(server: Server, protocol: Protocol, keys: u32, rate: u32) -> Result<Self> {
        let mvedsua = Mvedsua::start()?;
        let idle = Idle::open(server.addr(), protocol, IDLE)?;
        let mut data = Dataset::of(protocol, keys);
        data.write_all(server.addr())?;
        let options = LoadOptions {
            connections: 20,
            read_percent: 50,
            rate: (rate > 0).then_some(rate),
            // Redis serves all connections in one thread.
            own_keys: protocol != Protocol::Redis,
            ..LoadOptions::default()
        };
        let load = Load::start(server.addr(), options, data)?;
        let supervised = Self {
            mvedsua,
            server,
            load,
            idle,
            keys,
        };
        supervised.more_requests(100)?;
        supervised.mvedsua.attach(supervised.server.pid(), NAME)?;
        Ok(supervised)
    }

    /// Sends the leader a signal that it dies of and does what comes `afterwards`: the follower must serve then,
    /// with every connection.
    ///
    /// # Errors
    /// When it does not, or a client saw an error.
    pub fn takes_over(
        &mut self,
        signal: Signal,
        afterwards: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (old, new) = (self.status()?.leader.pid, self.follower()?);
        process::send(old, signal)?;
        afterwards()?;
        let status = self.ended_as("took-over")?;
        ensure!(status.leader.pid == new, "{new} expected: {status:?}");
        ensure!(
            status
                .last_update
                .as_ref()
                .is_some_and(|u| u.reason.contains(signal.as_str())),
            "{status:?}"
        );
        self.server.reap();
        ensure!(!process::is_alive(old), "the crashed leader lives on");
        self.more_requests(1_000)?;
        self.idle_answer()
    }

    /// Requests of the load that were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.load.intervals().iter().map(|i| i.requests).sum()
    }

    /// Waits until `count` more requests were answered.
    ///
    /// # Errors
    /// When they are not within a minute, or a client saw an error.
    pub fn more_requests(&self, count: u64) -> Result<()> {
        let before = self.answered();
        let came = wait_until(LIMIT, || self.answered() >= before + count);
        let errors = self.load.errors();
        ensure!(errors.total() == 0, "clients saw errors: {errors:?}");
        ensure!(
            came,
            "{} instead of {count} requests answered in {LIMIT:?}; log of the agent:\n{}",
            self.answered() - before,
            self.mvedsua.log()
        );
        Ok(())
    }

    /// `update --identity` with `options`, until the follower has caught up; the status then.
    ///
    /// # Errors
    /// When it does not.
    pub fn update(&self, options: &[&str]) -> Result<Status> {
        self.mvedsua.update_identity(NAME, options)?;
        let status = self.status()?;
        ensure!(
            status.stage == "outdated-leader" && status.follower.is_some(),
            "{status:?}"
        );
        Ok(status)
    }

    /// `update BUNDLE` with `options`, until the follower has caught up; the status then.
    ///
    /// # Errors
    /// When it does not.
    pub fn apply(&self, bundle: &Bundle, options: &[&str]) -> Result<Status> {
        let path = bundle.path().to_string_lossy().into_owned();
        self.run("update", &[&[path.as_str()], options].concat())?
            .ok()?;
        let status = self.status()?;
        ensure!(
            status.stage == "outdated-leader" && status.follower.is_some(),
            "{status:?}"
        );
        Ok(status)
    }

    /// The status.
    ///
    /// # Errors
    /// When the agent does not give it.
    pub fn status(&self) -> Result<Status> {
        self.mvedsua.status(NAME)
    }

    /// Process id of the follower.
    ///
    /// # Errors
    /// When there is none.
    pub fn follower(&self) -> Result<i32> {
        let status = self.status()?;
        let follower = status.follower;
        Ok(follower
            .with_context(|| format!("no follower: {status:?}"))?
            .pid)
    }

    /// `mvedsua WORDS... NAME OPTIONS...`, any exit code.
    ///
    /// # Errors
    /// When it hangs.
    pub fn run(&self, word: &str, options: &[&str]) -> Result<Outcome> {
        self.mvedsua.run(&[&[word, NAME], options].concat())
    }

    /// `promote --finalize`; the follower must be what serves then, and the old process gone.
    ///
    /// # Errors
    /// When any of that is not so.
    pub fn promote_finalize(&mut self) -> Result<Status> {
        let (old, new) = (self.status()?.leader.pid, self.follower()?);
        self.run("promote", &["--finalize"])?.ok()?;
        let status = self.status()?;
        ensure!(
            status.stage == "single-leader" && status.leader.pid == new,
            "{status:?}"
        );
        let outcome = status.last_update.as_ref().map(|u| u.outcome.as_str());
        ensure!(outcome == Some("finalized"), "{status:?}");
        ensure!(!process::is_alive(old), "process {old} still runs");
        ensure!(status.events.diverged == 0, "{status:?}");
        self.server.reap();
        Ok(status)
    }

    /// Waits until the update has ended by itself; the status then.
    ///
    /// # Errors
    /// When it has not after a minute, or not with that outcome.
    pub fn ended_as(&self, outcome: &str) -> Result<Status> {
        let status = self.mvedsua.wait_for(NAME, LIMIT, |status| {
            status.stage == "single-leader" && status.last_update.is_some()
        })?;
        let is = status.last_update.as_ref().map(|u| u.outcome.as_str());
        ensure!(is == Some(outcome), "{outcome} expected: {status:?}");
        ensure!(status.ring.used_bytes == 0, "{status:?}");
        Ok(status)
    }

    /// The idle connections still answer.
    ///
    /// # Errors
    /// When one does not.
    pub fn idle_answer(&mut self) -> Result<()> {
        Ok(self.idle.all_answer()?)
    }

    /// The end: the load must have seen no error, every key must hold its value, and every idle
    /// connection must still answer.
    ///
    /// # Errors
    /// When any of that is not so.
    pub fn finish(self) -> Result<()> {
        self.finish_with(0)
    }

    /// The same, with `more` keys in the server that are not the load's.
    ///
    /// # Errors
    /// See [`finish`](Self::finish).
    pub fn finish_with(mut self, more: u64) -> Result<()> {
        self.more_requests(200)?;
        self.idle.all_answer()?;
        let report = self.load.stop();
        ensure!(
            report.errors.total() == 0,
            "clients saw errors: {:?}",
            report.errors
        );
        let mut found = report.data.verify(self.server.addr())?;
        found.dbsize = found.dbsize.saturating_sub(more);
        ensure!(
            found.is_complete(self.keys),
            "of {} keys: {found:?}",
            self.keys
        );
        Ok(())
    }
}
