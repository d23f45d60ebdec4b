//! One actor per supervised service. It stands between the connections and the engine: a request
//! goes on when the client that made it hangs up, and the end of the engine is noticed at once.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::protocol::Problem;
use super::refusal::Refusal;
use super::registry::Registry;
use crate::engine::{Engine, Target};
use crate::session::{Command, Done, Failure, Status, TimelineEntry};

/// What the agent needs of an engine. [`Engine`] is the one that exists; tests have a scripted one.
pub trait Service: Send + Sync + Sized + 'static {
    /// See [`Engine::attach`]. May block the calling thread.
    ///
    /// # Errors
    /// The process was not touched.
    fn attach(target: Target) -> Result<Self, Failure>;

    /// See [`Engine::request`].
    fn request(&self, command: Command) -> impl Future<Output = Result<Done, Failure>> + Send;

    /// See [`Engine::status`].
    fn status(&self) -> Status;

    /// See [`Engine::timeline`].
    fn timeline(&self) -> Vec<TimelineEntry>;

    /// See [`Engine::changes`].
    fn changes(&self) -> watch::Receiver<u64>;
}

impl Service for Engine {
    fn attach(target: Target) -> Result<Self, Failure> {
        Self::attach(target)
    }

    fn request(&self, command: Command) -> impl Future<Output = Result<Done, Failure>> + Send {
        self.request(command)
    }

    fn status(&self) -> Status {
        self.status()
    }

    fn timeline(&self) -> Vec<TimelineEntry> {
        self.timeline()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes()
    }
}

/// A command that was carried out, and the status afterwards (none after a detach).
pub type Outcome = Result<(Done, Option<Status>), Problem>;

struct Job {
    command: Command,
    answer: oneshot::Sender<Outcome>,
}

/// A supervised service, as connections see it.
#[derive(Debug)]
pub struct Supervised<S> {
    /// Its name.
    pub name: String,
    /// Its engine: for reading; commands go through [`Supervised::request`].
    pub engine: Arc<S>,
    mailbox: mpsc::UnboundedSender<Job>,
}

impl<S> Clone for Supervised<S> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            engine: Arc::clone(&self.engine),
            mailbox: self.mailbox.clone(),
        }
    }
}

impl<S: Service> Supervised<S> {
    /// The service and the mailbox of its actor, which is yet to be started with
    /// [`Mailbox::start`].
    pub fn new(name: String, engine: S) -> (Self, Mailbox) {
        let (mailbox, jobs) = mpsc::unbounded_channel();
        (
            Self {
                name,
                engine: Arc::new(engine),
                mailbox,
            },
            Mailbox(jobs),
        )
    }

    /// Has a command carried out and waits for its end. It goes on if the caller stops waiting.
    ///
    /// # Errors
    /// The engine's failure, or that the service ended before it took the command.
    pub async fn request(&self, command: Command) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let gone = || Refusal::Gone {
            name: self.name.clone(),
            how: "it has just ended".into(),
        };
        self.mailbox
            .send(Job { command, answer })
            .map_err(|_| gone())?;
        // The sender is dropped unanswered when the actor ended first, or when the engine panicked.
        outcome.await.unwrap_or_else(|_| {
            Err(if self.engine.changes().has_changed().is_err() {
                gone().into()
            } else {
                Refusal::Internal {
                    what: format!("the engine of '{}'", self.name),
                }
                .into()
            })
        })
    }
}

/// The actor's end of the mailbox.
#[derive(Debug)]
pub struct Mailbox(mpsc::UnboundedReceiver<Job>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(&self.command).finish()
    }
}

impl Mailbox {
    /// Starts the actor of `service`. It ends with the engine, and then takes the service out of
    /// the registry; or when the registry drops the service, and then the engine is dropped.
    pub fn start<S: Service>(
        self,
        service: Supervised<S>,
        registry: Arc<Registry<S>>,
    ) -> JoinHandle<()> {
        let engine = service.engine;
        tokio::spawn(act(service.name, engine, self.0, registry))
    }
}

async fn act<S: Service>(
    name: String,
    engine: Arc<S>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    registry: Arc<Registry<S>>,
) {
    let mut changes = engine.changes();
    let mut running = JoinSet::new();
    let processes = || {
        let status = engine.status();
        (
            status.leader.pid,
            status.follower.map(|follower| follower.pid),
        )
    };
    let mut known = processes();
    loop {
        tokio::select! {
            job = jobs.recv() => {
                // None: the registry has let go of the service, and nobody else holds it.
                let Some(job) = job else { break };
                tracing::info!(service = name, command = ?job.command, "asked");
                // Concurrently: the engine itself orders what must be ordered, and a rollback may
                // overtake a waiting update.
                running.spawn(carry_out(name.clone(), Arc::clone(&engine), Arc::clone(&registry), job));
            }
            Some(ended) = running.join_next() => {
                if let Err(panic) = ended {
                    tracing::error!(service = name, %panic, "a request ended in a panic");
                }
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    break;
                }
                let now = processes();
                if now.0 != known.0 {
                    tracing::info!(service = name, from = known.0, to = now.0, "another process leads");
                }
                if now != known {
                    known = now;
                    registry.save_roster();
                }
            }
        }
    }
    registry.retire(&name, &engine);
    while running.join_next().await.is_some() {}
}

async fn carry_out<S: Service>(name: String, engine: Arc<S>, registry: Arc<Registry<S>>, job: Job) {
    let detach = job.command == Command::Detach;
    let outcome = match engine.request(job.command).await {
        Ok(done) => {
            tracing::info!(service = name, "{}", done.message);
            if detach {
                // Before the answer: whoever detached may attach again under the same name.
                registry.retire(&name, &engine);
            }
            Ok((done, (!detach).then(|| engine.status())))
        }
        Err(failure) => {
            tracing::warn!(service = name, "{failure}");
            Err(Problem::from_failure(&name, failure))
        }
    };
    // Nobody waits any more when the client has hung up.
    let _ = job.answer.send(outcome);
}
