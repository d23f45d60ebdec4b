//! The handle through which the async world reaches an engine thread.

use std::sync::{Arc, Mutex};

use tokio::sync::{oneshot, watch};

use crate::session::{Command, Done, Failure, Status, TimelineEntry};

/// The process that is to be supervised.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the service: how every later command calls it.
    pub name: String,
    /// Process id of the server (thread group leader).
    pub pid: i32,
    /// Leave the children of the process alone.
    pub no_children: bool,
}

/// What the engine thread publishes.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) status: Mutex<Status>,
    pub(super) timeline: Mutex<Vec<TimelineEntry>>,
}

/// A request on its way to the engine thread.
pub(super) type Request = (Command, oneshot::Sender<Result<Done, Failure>>);

/// Handle of the thread that drives one service. Dropping it ends the thread; the server goes on.
#[derive(Debug)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) changed: watch::Receiver<u64>,
}

impl Engine {
    /// Checks that the process can be followed and starts its engine thread. Nothing is installed
    /// in the process.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the reason; the process was not touched.
    pub fn attach(_target: Target) -> Result<Self, Failure> {
        Err(Failure::Refused {
            code: "E000".into(),
            message: "under construction".into(),
        })
    }

    /// Sends a request and waits for its end. Requests of one service are carried out one by one,
    /// except [`Command::Rollback`], which may overtake a waiting update.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn request(&self, _command: Command) -> Result<Done, Failure> {
        Err(Failure::Refused {
            code: "E000".into(),
            message: "under construction".into(),
        })
    }

    /// The status as of now (refreshed by the engine thread at least ten times a second while an
    /// update runs).
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared
            .status
            .lock()
            .expect("engine never panics holding this")
            .clone()
    }

    /// The whole timeline since the attach.
    #[must_use]
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        self.shared
            .timeline
            .lock()
            .expect("engine never panics holding this")
            .clone()
    }

    /// Counts up with every change of status or timeline; closed when the service has ended or
    /// was detached.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}
