//! `mvedsua agent`: the server with signals, systemd and the services of its predecessor.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::refusal::Refusal;
use super::registry::Registry;
use super::roster::Roster;
use super::service::Service;
use super::socket::{AllowedGroup, ControlSocket};
use super::{logging, server};
use crate::engine::Engine;

/// Runs the agent until SIGTERM or SIGINT. It applies only bundles that are signed with each of the
/// minisign keys `signers`.
///
/// # Errors
/// It could not start: another agent, no permission, no such group.
pub fn run(socket: &Path, group: Option<&str>, signers: Vec<String>) -> Result<(), Refusal> {
    crate::sys::mortal::arm();
    crate::sys::heap::give_back_large_blocks();
    logging::start();
    if let Err(error) = crate::engine::start_guard() {
        tracing::warn!(%error, "no guard: if this agent is killed during an update, the server may stay stopped");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The control plane has little to do, and the machine's CPUs belong to the services.
        .worker_threads(2)
        .thread_name("mvedsua-agent")
        .enable_all()
        .build()
        .map_err(|error| Refusal::Internal {
            what: format!("cannot start threads: {error}"),
        })?;
    runtime.block_on(run_in_runtime(socket, group, signers))
}

async fn run_in_runtime(
    socket: &Path,
    group: Option<&str>,
    signers: Vec<String>,
) -> Result<(), Refusal> {
    let group = group.map(AllowedGroup::named).transpose()?;
    let roster = Roster::beside(socket);
    let internal = |error: std::io::Error| Refusal::Internal {
        what: format!("signals: {error}"),
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
    // Before the services are taken over: with the lock held we are the only successor, and
    // clients that connect now wait for their hello.
    let control = ControlSocket::listen(socket, group)?;
    let registry = Arc::new(Registry::new());
    take_over::<Engine>(&registry, roster).await;
    tracing::info!(
        socket = %socket.display(),
        version = env!("CARGO_PKG_VERSION"),
        services = registry.all().len(),
        "ready"
    );
    tell_systemd(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(feed_watchdog(limit));
    }
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        tell_systemd(&[NotifyState::Stopping]);
    };
    server::serve(control, registry, signers, shutdown).await;
    tracing::info!("stopped");
    Ok(())
}

/// Attaches again what the last agent on this socket supervised, if those very processes live.
async fn take_over<S: Service>(registry: &Arc<Registry<S>>, roster: Roster) {
    let lines = roster.read().unwrap_or_else(|error| {
        tracing::error!(%error, "the list of services of the last agent cannot be read");
        Vec::new()
    });
    for line in lines {
        let Some(survivors) = line.survivors() else {
            tracing::warn!(
                service = line.name,
                pid = line.pid,
                "has ended in the meantime"
            );
            continue;
        };
        if let Some(copy) = survivors.copy {
            tracing::warn!(
                service = line.name,
                copy,
                "drops a copy that was not promoted"
            );
            crate::engine::discard_copy(copy, survivors.leader);
        }
        let name = Some(line.name.clone());
        // A child that it has at this moment must not cost the service its supervision.
        match server::attach(registry, name, survivors.leader, line.children).await {
            Ok(_) => tracing::info!(service = line.name, pid = survivors.leader, "taken over"),
            Err(problem) => {
                tracing::error!(
                    service = line.name,
                    pid = line.pid,
                    "not taken over: {problem}"
                );
            }
        }
    }
    // Only now: a successor of ours, should we be killed half-way, begins with the same list.
    registry.keep_roster(roster);
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// Tells systemd twice per interval that the runtime still makes progress.
async fn feed_watchdog(limit: Duration) {
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        tell_systemd(&[NotifyState::Watchdog]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::roster::Line;
    use crate::agent::scripted::{Scripted, until};
    use crate::session::Children;

    #[tokio::test]
    async fn a_successor_takes_over_the_processes_that_still_live() {
        let folder = tempfile::tempdir().unwrap();
        let roster = Roster::beside(&folder.path().join("control.sock"));
        let me = i32::try_from(std::process::id()).unwrap();
        let alive = Line::of("redis".into(), me, None, Children::Alone).unwrap();
        let reused = Line {
            name: "gone".into(),
            started: alive.started - 1,
            ..alive.clone()
        };
        roster.write(&[reused, alive.clone()]).unwrap();

        let registry = Arc::new(Registry::new());
        take_over::<Scripted>(&registry, roster.clone()).await;
        assert_eq!(registry.all().len(), 1);
        assert_eq!(
            registry.get("redis").unwrap().engine.status().leader.pid,
            me
        );
        assert_eq!(
            roster.read().unwrap(),
            std::slice::from_ref(&alive),
            "options are kept, the dead is not"
        );

        // An agent that stops in order leaves the list to its successor ...
        registry.freeze_roster();
        registry.close().await;
        assert_eq!(roster.read().unwrap(), [alive]);
        // ... and a service that ends by itself is taken from it.
        let registry = Arc::new(Registry::new());
        take_over::<Scripted>(&registry, roster.clone()).await;
        registry
            .get("redis")
            .unwrap()
            .engine
            .end("killed by signal 11");
        until(|| roster.read().unwrap().is_empty()).await;
    }
}
