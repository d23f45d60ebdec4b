//! The handle through which the async world reaches an engine thread.

use std::sync::{Arc, Mutex, mpsc};

use tokio::sync::{oneshot, watch};

use super::adopt::{continue_all_left, home_of, is_promoted};
use super::attach::{check, check_tree, refused};
use super::worker::Worker;
use crate::session::{Children, Command, Done, Failure, Status, TimelineEntry};
use crate::sys::wakeup::Wakeup;
use crate::tracee::inspect;

/// The process that is to be supervised.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the service: how every later command calls it.
    pub name: String,
    /// Process id of the server (thread group leader).
    pub pid: i32,
    /// What becomes of the children of the process.
    pub children: Children,
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
    requests: Option<mpsc::Sender<Request>>,
    wakeup: Wakeup,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The thread finds its requests closed, rolls back what runs, and ends.
        self.requests = None;
        self.wakeup.wake();
    }
}

/// A server that cannot be taken with its children can be taken without.
fn or_alone(failure: Failure) -> Failure {
    match failure {
        Failure::Refused { code, message } => Failure::Refused {
            code,
            message: format!(
                "{message} (it has child processes, which are taken with it unless you say --children alone)"
            ),
        },
        other => other,
    }
}

impl Engine {
    /// Checks that the process can be followed and starts its engine thread. Nothing is installed
    /// in the process; what a killed agent left there is repaired.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the reason; the process was not touched, but that it goes on if a killed agent left it
    /// stopped in an update.
    pub fn attach(target: Target) -> Result<Self, Failure> {
        let promoted = is_promoted(target.pid);
        continue_all_left(target.pid);
        check(target.pid, promoted)?;
        let follow = match target.children {
            Children::Follow => true,
            Children::Alone => false,
            Children::Auto => !inspect::children(target.pid).is_empty(),
        };
        if follow && target.children == Children::Auto {
            check_tree(target.pid, promoted).map_err(or_alone)?;
        }
        let children = if follow {
            Children::Follow
        } else {
            Children::Alone
        };
        let threads = inspect::threads(target.pid).map_or(0, |threads| threads.len() as u32);
        let wakeup =
            Wakeup::new().map_err(|e| refused("E223", format!("no engine can be started: {e}")))?;
        let (sender, requests) = mpsc::channel();
        let (changed_sender, changed) = watch::channel(0);
        let shared = Arc::new(Shared {
            status: Mutex::new(Status {
                children,
                ..Status::new(target.name.clone(), target.pid, threads)
            }),
            timeline: Mutex::new(Vec::new()),
        });
        let worker = Worker::new(
            target.name.clone(),
            shared.clone(),
            changed_sender,
            requests,
            wakeup.clone(),
            follow,
        );
        let (ready_sender, ready) = mpsc::channel();
        std::thread::Builder::new()
            .name(format!("engine-{}", target.name))
            .spawn(move || {
                // Tracing binds to this thread, so whatever a killed agent left is repaired here.
                let home = home_of(target.pid);
                let told = home.as_ref().map(|_| ()).map_err(ToString::to_string);
                if ready_sender.send(told).is_ok()
                    && let Ok(home) = home
                {
                    worker.run(home);
                }
            })
            .map_err(|e| refused("E223", format!("no engine can be started: {e}")))?;
        match ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(refused("E224", format!("process {}: {why}", target.pid))),
            Err(_) => return Err(refused("E223", "the engine ended at its start")),
        }
        Ok(Self {
            shared,
            changed,
            requests: Some(sender),
            wakeup,
        })
    }

    /// Sends a request and waits for its end. Requests of one service are carried out one by one,
    /// except [`Command::Rollback`], which may overtake a waiting update.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn request(&self, command: Command) -> Result<Done, Failure> {
        let (reply, answer) = oneshot::channel();
        let ended = || Failure::Ended {
            reason: "its engine has stopped".into(),
        };
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        requests.send((command, reply)).map_err(|_| ended())?;
        self.wakeup.wake();
        answer.await.unwrap_or_else(|_| Err(ended()))
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
