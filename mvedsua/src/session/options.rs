//! What may be asked of a session, and how it answers.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the follower becomes before it follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateKind {
    /// The same program: the whole mechanism with no change of code.
    Identity,
    /// The same program, with one byte flipped in the `after`-th write that the follower makes
    /// from the snapshot on. It must be found and rolled back: demo and tests use it.
    Fault {
        /// How many written payloads are left alone before one is changed.
        after: u64,
    },
    /// Another build of the program: a bundle is applied to the copy.
    Bundle {
        /// The bundle file, as an absolute path; the agent reads it once.
        path: PathBuf,
        /// Public keys (the base64 line of minisign) with each of which the bundle must be signed.
        #[serde(default)]
        signed_by: Vec<String>,
        /// Longest time for the bundle's transformer.
        transform_limit: Duration,
    },
}

/// What becomes of the child processes of a server while it is updated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Children {
    /// They are followed if the server has any when it is attached.
    #[default]
    Auto,
    /// They are followed: each gets a counterpart, and the tree is updated as a whole.
    Follow,
    /// They are the server's alone; no promotion while one lives.
    Alone,
}

/// What happens when the leader runs ahead of the follower by a whole ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The leader waits for the follower, as in the paper.
    #[default]
    Block,
    /// The update is rolled back.
    Rollback,
}

/// How long `update` waits before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitFor {
    /// Until the follower has caught up (t3), or the update was rolled back.
    #[default]
    CaughtUp,
    /// Only until the snapshot was taken (t1).
    None,
}

/// The options of one update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateOptions {
    /// What the follower becomes.
    pub kind: UpdateKind,
    /// Rule file that says how the versions are expected to differ: an absolute path, read by the agent.
    #[serde(default)]
    pub rules: Option<PathBuf>,
    /// How often it is tried again when the moment was no good: threads stand in functions that a bundle
    /// changes, its transformer cannot work now, or a rule asks for it.
    pub retry: u32,
    /// Time between two tries.
    pub retry_delay: Duration,
    /// Capacity of the ring in bytes: a power of two, at least 1 MiB.
    pub ring_bytes: u64,
    /// Longest time without progress of the follower while events wait for it.
    pub hang_limit: Duration,
    /// What happens when the ring is full.
    pub on_full: OnFull,
    /// What the request waits for.
    pub wait: WaitFor,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self {
            kind: UpdateKind::Identity,
            rules: None,
            retry: 8,
            retry_delay: Duration::from_millis(500),
            ring_bytes: 64 << 20,
            hang_limit: Duration::from_secs(10),
            on_full: OnFull::Block,
            wait: WaitFor::CaughtUp,
        }
    }
}

/// A request to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// t1: take a copy and let it follow.
    Update(UpdateOptions),
    /// t4: exchange the roles; with `finalize`, drop the old version at once.
    Promote {
        /// Skip the stage `updated-leader`.
        finalize: bool,
    },
    /// t6: drop the old version.
    Finalize,
    /// Back to the old version: throw the copy away, or after a promotion let the old process lead again.
    Rollback {
        /// Why, for the timeline.
        reason: String,
    },
    /// Stop supervising; refused while an update runs.
    Detach,
}

impl Command {
    /// The same; if it is an update with a bundle, that must be signed with each of these keys, too.
    #[must_use]
    pub fn signed_by(mut self, keys: &[String]) -> Self {
        if let Self::Update(options) = &mut self
            && let UpdateKind::Bundle { signed_by, .. } = &mut options.kind
        {
            signed_by.extend_from_slice(keys);
        }
        self
    }
}

/// A request was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// One line for the user: what was reached, with the times that matter.
    pub message: String,
}

/// A request was not carried out. The server goes on unharmed in every case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The request does not fit the stage, or the process cannot be handled; nothing was touched.
    #[error("{message}")]
    Refused {
        /// Stable code, listed in `docs/errors.md`.
        code: String,
        /// What is wrong and what to do about it.
        message: String,
    },
    /// The update was rolled back while the request was under way.
    #[error("the update was rolled back: {reason}")]
    RolledBack {
        /// One line.
        reason: String,
        /// The divergence report, when there is one: many lines.
        report: Option<String>,
    },
    /// The service ended.
    #[error("the service has ended: {reason}")]
    Ended {
        /// How it ended.
        reason: String,
    },
    /// The old version crashed and the new one took over while the request was under way.
    #[error("the new version took over: {reason}")]
    TookOver {
        /// How the leader crashed, and which process serves now.
        reason: String,
    },
}

impl Failure {
    /// The exit code of the command line for this failure (`docs/errors.md`).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::RolledBack { .. } => 3,
            Self::Refused { .. } | Self::Ended { .. } => 5,
            Self::TookOver { .. } => 0,
        }
    }
}
