//! Serves the control socket, and stops without leaving a follower behind.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::protocol::{Answer, Ask, Hello, Problem, REQUEST_LIMIT, Request, Response};
use super::refusal::Refusal;
use super::registry::Registry;
use super::service::{Service, Supervised};
use super::socket::{ControlSocket, Gate};
use crate::engine::Target;
use crate::session::{Children, Command, Stage, TimelineEntry};

/// Connections served at once; the next one is told so and closed.
const CONNECTIONS: usize = 128;
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// A client that takes so long to read a line is cut off.
const SLOWEST_READER: Duration = Duration::from_secs(10);
/// Time between two items of `watch`.
const WATCH_PERIOD: Duration = Duration::from_millis(100);
/// Timeline entries in an item of `watch`.
const WATCH_EVENTS: usize = 20;
/// How long a stopping agent waits for its updates to be rolled back.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(30);
/// How long a stopping agent waits for its last answers to be written.
const FAREWELL: Duration = Duration::from_secs(2);

/// What every connection needs.
struct Agent<S> {
    registry: Arc<Registry<S>>,
    /// Public keys (minisign) with which every bundle must be signed, whoever asks.
    signers: Vec<String>,
    gate: Gate,
    /// True once the agent is stopping.
    stopping: watch::Receiver<bool>,
}

/// Serves until `shutdown` resolves; bundles must be signed with each of the keys `signers`. Then: no new connections; every running update is rolled
/// back, so that no follower is left behind; the engines are dropped.
pub async fn serve<S: Service>(
    socket: ControlSocket,
    registry: Arc<Registry<S>>,
    signers: Vec<String>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(false);
    let agent = Arc::new(Agent {
        registry: Arc::clone(&registry),
        signers,
        gate: socket.gate(),
        stopping,
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                if let Err(panic) = ended {
                    tracing::error!(%panic, "a connection ended in a panic");
                }
                continue;
            }
            accepted = socket.accept() => accepted,
        };
        match stream {
            Ok(stream) => {
                let agent = Arc::clone(&agent);
                let place = Arc::clone(&places).try_acquire_owned();
                connections.spawn(async move {
                    let full = place.is_err();
                    converse(&agent, stream, full).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Most likely no file descriptors: they come back when connections end.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // From here on the roster stays as it is: it names what the next agent takes over.
    registry.freeze_roster();
    stop.send_replace(true);
    roll_all_back(&registry).await;
    let farewell = async { while connections.join_next().await.is_some() {} };
    if timeout(FAREWELL, farewell).await.is_err() {
        connections.shutdown().await;
    }
    registry.close().await;
    drop(socket);
}

async fn roll_all_back<S: Service>(registry: &Registry<S>) {
    let mut rollbacks = JoinSet::new();
    for service in registry.all() {
        if service.engine.status().stage == Stage::SingleLeader {
            continue;
        }
        rollbacks.spawn(async move {
            let command = Command::Rollback {
                reason: "the agent is stopping".into(),
            };
            match timeout(ROLLBACK_LIMIT, service.request(command)).await {
                Ok(Ok(_)) => {}
                Ok(Err(problem)) => {
                    tracing::error!(service = service.name, "not rolled back: {problem}");
                }
                Err(_) => tracing::error!(service = service.name, "not rolled back in time"),
            }
        });
    }
    while rollbacks.join_next().await.is_some() {}
}

/// The two halves of a connection.
struct Line {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// The client is gone or too slow: the connection ends.
struct Gone;

impl Line {
    async fn send(&mut self, id: Option<u64>, answer: Answer) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(&Response { id, answer }).map_err(|error| {
            tracing::error!(%error, "an answer cannot be written as JSON");
            Gone
        })?;
        line.push(b'\n');
        match timeout(SLOWEST_READER, self.writer.write_all(&line)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// The next line without its newline; none at the end of the connection.
    async fn next(&mut self) -> Option<Result<Vec<u8>, Refusal>> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            let chunk = self.reader.fill_buf().await.ok()?;
            if chunk.is_empty() {
                // A last line without a newline is still a line.
                return (!line.is_empty() && !too_long).then_some(Ok(line));
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            too_long |= line.len() + part.len() >= REQUEST_LIMIT;
            if !too_long {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                // The rest of a line that is too long was read and dropped, so that the client
                // can finish writing it and read the answer.
                return Some(if too_long {
                    Err(Refusal::LineTooLong)
                } else {
                    Ok(line)
                });
            }
        }
    }

    /// Resolves when the client writes something more or hangs up.
    async fn stirs(&mut self) {
        let _ = self.reader.fill_buf().await;
    }
}

async fn converse<S: Service>(agent: &Agent<S>, stream: UnixStream, full: bool) {
    let peer = stream.peer_cred();
    let (reader, writer) = stream.into_split();
    let mut line = Line {
        reader: BufReader::new(reader),
        writer,
    };
    let welcome = match peer {
        Err(_) => return,
        Ok(_) if full => Err(Refusal::TooManyConnections { limit: CONNECTIONS }),
        Ok(peer) => {
            let gate = agent.gate.clone();
            let check = move || gate.check(peer.uid(), peer.gid());
            let checked = tokio::task::spawn_blocking(check).await;
            checked.unwrap_or_else(|e| {
                Err(Refusal::Internal {
                    what: e.to_string(),
                })
            })
        }
    };
    if let Err(refusal) = welcome {
        tracing::warn!(?peer, "connection refused: {refusal}");
        let _ = line.send(None, Answer::Error(refusal.into())).await;
        return;
    }
    if line
        .send(None, Answer::Hello(Hello::of_this_process()))
        .await
        .is_err()
    {
        return;
    }
    let mut stopping = agent.stopping.clone();
    loop {
        let next = tokio::select! {
            next = timeout(IDLE, line.next()) => next,
            () = stops(&mut stopping) => return,
        };
        let Ok(Some(bytes)) = next else { return };
        if bytes
            .as_ref()
            .is_ok_and(|b| b.iter().all(u8::is_ascii_whitespace))
        {
            continue; // somebody at a terminal pressed Enter
        }
        let parsed = bytes.and_then(|bytes| {
            serde_json::from_slice::<Request>(&bytes).map_err(|error| Refusal::Malformed {
                why: error.to_string(),
            })
        });
        let served = match parsed {
            Ok(request) => answer(agent, &mut line, request).await,
            Err(refusal) => line.send(None, Answer::Error(refusal.into())).await,
        };
        if served.is_err() {
            return;
        }
    }
}

async fn answer<S: Service>(
    agent: &Agent<S>,
    line: &mut Line,
    request: Request,
) -> Result<(), Gone> {
    let id = request.id;
    let answered = match request.ask {
        _ if *agent.stopping.borrow() => Err(Refusal::Stopping.into()),
        Ask::Attach {
            name,
            pid,
            children,
        } => attach(&agent.registry, name, pid, children)
            .await
            .map(|service| Answer::Attached {
                status: Box::new(service.engine.status()),
            }),
        Ask::Command { name, command } => match agent.registry.get(&name) {
            Ok(service) => service
                .request(command.signed_by(&agent.signers))
                .await
                .map(|(done, status)| Answer::Done {
                    message: done.message,
                    status: status.map(Box::new),
                }),
            Err(refusal) => Err(refusal.into()),
        },
        Ask::Status { name: None } => {
            let services = agent
                .registry
                .all()
                .iter()
                .map(|s| s.engine.status())
                .collect();
            Ok(Answer::Status { services })
        }
        Ask::Status { name: Some(name) } => match agent.registry.get(&name) {
            Ok(service) => Ok(Answer::Status {
                services: vec![service.engine.status()],
            }),
            Err(refusal) => Err(refusal.into()),
        },
        Ask::Events { name, follow } => match agent.registry.get(&name) {
            Ok(service) if follow => return follow_events(agent, line, id, service).await,
            Ok(service) => Ok(Answer::Events {
                entries: service.engine.timeline(),
            }),
            Err(refusal) => match agent.registry.timeline_of_ended(&name) {
                Some(entries) if !follow => Ok(Answer::Events { entries }),
                _ => Err(refusal.into()),
            },
        },
        Ask::Watch { name } => match agent.registry.get(&name) {
            Ok(service) => return watch_service(agent, line, id, service).await,
            Err(refusal) => Err(refusal.into()),
        },
    };
    line.send(id, answered.unwrap_or_else(Answer::Error)).await
}

/// Resolves when the agent begins to stop.
async fn stops(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone altogether.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Attaches a process under a name, or one made of its `comm`.
///
/// # Errors
/// The agent's or the engine's refusal; the process was not touched.
pub async fn attach<S: Service>(
    registry: &Arc<Registry<S>>,
    name: Option<String>,
    pid: i32,
    children: Children,
) -> Result<Supervised<S>, Problem> {
    let process = procfs::process::Process::new(pid).and_then(|p| p.stat());
    let comm = process.map_err(|_| Refusal::NoSuchProcess { pid })?.comm;
    let place = registry.reserve(name, &comm, pid)?;
    let target = Target {
        name: place.name().into(),
        pid,
        children,
    };
    let attached = tokio::task::spawn_blocking(move || S::attach(target)).await;
    match attached {
        Ok(Ok(engine)) => {
            tracing::info!(service = place.name(), pid, "attached");
            Ok(place.fill(engine))
        }
        Ok(Err(failure)) => {
            tracing::warn!(service = place.name(), pid, "attach refused: {failure}");
            Err(Problem::from_failure(place.name(), failure))
        }
        Err(panic) => Err(Refusal::Internal {
            what: panic.to_string(),
        }
        .into()),
    }
}

const AGENT_STOPS: &str = "the agent is stopping";

fn how_it_ended(timeline: &[TimelineEntry]) -> String {
    timeline.last().map_or_else(
        || "the service has ended".into(),
        |entry| entry.what.clone(),
    )
}

async fn follow_events<S: Service>(
    agent: &Agent<S>,
    line: &mut Line,
    id: Option<u64>,
    service: Supervised<S>,
) -> Result<(), Gone> {
    let mut changes = service.engine.changes();
    let mut stopping = agent.stopping.clone();
    let mut sent = 0;
    let mut ended = false;
    loop {
        let timeline = service.engine.timeline();
        if timeline.len() > sent {
            line.send(
                id,
                Answer::Events {
                    entries: timeline[sent..].to_vec(),
                },
            )
            .await?;
            sent = timeline.len();
        }
        if ended {
            return line
                .send(
                    id,
                    Answer::End {
                        reason: how_it_ended(&timeline),
                    },
                )
                .await;
        }
        tokio::select! {
            changed = changes.changed() => ended = changed.is_err(),
            () = stops(&mut stopping) => {
                return line.send(id, Answer::End { reason: AGENT_STOPS.into() }).await;
            }
            () = line.stirs() => return Ok(()),
        }
    }
}

async fn watch_service<S: Service>(
    agent: &Agent<S>,
    line: &mut Line,
    id: Option<u64>,
    service: Supervised<S>,
) -> Result<(), Gone> {
    let mut changes = service.engine.changes();
    let mut stopping = agent.stopping.clone();
    // A first item at once; then one per change, but not faster than the period; and one a second
    // anyway, so that a rate falls to zero when nothing changes any more.
    let mut period = tokio::time::interval(WATCH_PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now() - Duration::from_secs(1);
    loop {
        let ended = changes.has_changed().is_err();
        if ended
            || changes.has_changed().unwrap_or(false)
            || last.elapsed() >= Duration::from_secs(1)
        {
            changes.mark_unchanged();
            last = Instant::now();
            let timeline = service.engine.timeline();
            let shown = timeline[timeline.len().saturating_sub(WATCH_EVENTS)..].to_vec();
            let status = Box::new(service.engine.status());
            line.send(
                id,
                Answer::Changed {
                    status,
                    last: shown,
                },
            )
            .await?;
            if ended {
                return line
                    .send(
                        id,
                        Answer::End {
                            reason: how_it_ended(&timeline),
                        },
                    )
                    .await;
            }
        }
        tokio::select! {
            _ = period.tick() => {}
            () = stops(&mut stopping) => {
                return line.send(id, Answer::End { reason: AGENT_STOPS.into() }).await;
            }
            () = line.stirs() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
