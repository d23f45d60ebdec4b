//! Name -> service. Each name and each process at most once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::task::JoinHandle;

use super::name;
use super::refusal::Refusal;
use super::roster::{self, Roster};
use super::service::{Service, Supervised};
use crate::session::TimelineEntry;

/// How many ended services are remembered with their timelines.
const REMEMBERED: usize = 32;

enum Entry<S> {
    /// An attach is under way.
    Reserved { pid: i32 },
    Running {
        service: Supervised<S>,
        /// None only in the moment between the insertion and the actor's start.
        actor: Option<JoinHandle<()>>,
    },
}

impl<S: Service> Entry<S> {
    fn pids(&self) -> Vec<i32> {
        match self {
            Self::Reserved { pid } => vec![*pid],
            Self::Running { service, .. } => {
                let status = service.engine.status();
                let follower = status.follower.map(|f| f.pid);
                std::iter::once(status.leader.pid).chain(follower).collect()
            }
        }
    }
}

/// A service that is not supervised any more.
#[derive(Clone, Debug)]
struct Ended {
    name: String,
    timeline: Vec<TimelineEntry>,
}

struct Inner<S> {
    services: BTreeMap<String, Entry<S>>,
    ended: VecDeque<Ended>,
    /// None: nothing is to be written (an agent that starts or stops; tests).
    roster: Option<Roster>,
}

/// All services of one agent.
pub struct Registry<S> {
    inner: Mutex<Inner<S>>,
}

impl<S> std::fmt::Debug for Registry<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl<S: Service> Default for Registry<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// A name and a process that are kept free for an attach that is under way; given back when
/// dropped without [`Reservation::fill`].
#[derive(Debug)]
#[must_use]
pub struct Reservation<S: Service> {
    registry: Arc<Registry<S>>,
    name: String,
    pid: i32,
}

impl<S: Service> Registry<S> {
    /// An empty registry. It writes nothing to disk until [`Registry::keep_roster`].
    #[must_use]
    pub fn new() -> Self {
        let (services, ended) = (BTreeMap::new(), VecDeque::new());
        Self {
            inner: Mutex::new(Inner {
                services,
                ended,
                roster: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        // No invariant spans two writes, so what a panicking thread left behind can be used.
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reserves a name (if none is given: one made of `comm`) and a process for an attach.
    ///
    /// # Errors
    /// The name is not valid or taken, or the process is supervised already.
    pub fn reserve(
        self: &Arc<Self>,
        wanted: Option<String>,
        comm: &str,
        pid: i32,
    ) -> Result<Reservation<S>, Refusal> {
        let mut inner = self.lock();
        if let Some((name, _)) = inner.services.iter().find(|(_, e)| e.pids().contains(&pid)) {
            return Err(Refusal::AlreadySupervised {
                pid,
                name: name.clone(),
            });
        }
        let name = match wanted {
            None => name::unique(&name::from_comm(comm), |n| inner.services.contains_key(n)),
            Some(name) if !name::is_valid(&name) => return Err(Refusal::BadName { name }),
            Some(name) => match inner.services.get(&name) {
                Some(entry) => {
                    return Err(Refusal::NameTaken {
                        name,
                        pid: entry.pids()[0],
                    });
                }
                None => name,
            },
        };
        inner.services.insert(name.clone(), Entry::Reserved { pid });
        Ok(Reservation {
            registry: Arc::clone(self),
            name,
            pid,
        })
    }

    /// The service of that name.
    ///
    /// # Errors
    /// There is none; the refusal says which one was probably meant, or how it ended.
    pub fn get(&self, name: &str) -> Result<Supervised<S>, Refusal> {
        let inner = self.lock();
        if let Some(Entry::Running { service, .. }) = inner.services.get(name) {
            return Ok(service.clone());
        }
        if let Some(ended) = inner.ended.iter().rev().find(|e| e.name == name) {
            let how = ended
                .timeline
                .last()
                .map_or("it has ended", |entry| entry.what.as_str());
            return Err(Refusal::Gone {
                name: name.into(),
                how: how.into(),
            });
        }
        let known = inner.services.keys().map(String::as_str);
        let meant = name::nearest(name, known).map(ToOwned::to_owned);
        Err(Refusal::NoSuchService {
            name: name.into(),
            meant,
        })
    }

    /// The timeline of a service that has ended lately.
    #[must_use]
    pub fn timeline_of_ended(&self, name: &str) -> Option<Vec<TimelineEntry>> {
        let inner = self.lock();
        inner
            .ended
            .iter()
            .rev()
            .find(|e| e.name == name)
            .map(|e| e.timeline.clone())
    }

    /// All services in order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Supervised<S>> {
        let running = |entry: &Entry<S>| match entry {
            Entry::Running { service, .. } => Some(service.clone()),
            Entry::Reserved { .. } => None,
        };
        self.lock().services.values().filter_map(running).collect()
    }

    /// Takes a service out; its timeline stays to be asked for. Does nothing if it is out already
    /// (a new service may have its name by now).
    pub fn retire(&self, name: &str, engine: &Arc<S>) {
        let mut inner = self.lock();
        let Some(Entry::Running { service, .. }) = inner.services.get(name) else {
            return;
        };
        if !Arc::ptr_eq(&service.engine, engine) {
            return;
        }
        inner.services.remove(name);
        inner.ended.push_back(Ended {
            name: name.into(),
            timeline: engine.timeline(),
        });
        if inner.ended.len() > REMEMBERED {
            inner.ended.pop_front();
        }
        tracing::info!(service = name, "not supervised any more");
        inner.write_roster();
    }

    /// Writes down which process each service is now.
    pub fn save_roster(&self) {
        self.lock().write_roster();
    }

    /// Writes the services to `roster` now and whenever they change.
    pub fn keep_roster(&self, roster: Roster) {
        let mut inner = self.lock();
        inner.roster = Some(roster);
        inner.write_roster();
    }

    /// Leaves the roster as it is from now on: what an agent that stops was supervising is what its
    /// successor takes over.
    pub fn freeze_roster(&self) {
        self.lock().roster = None;
    }

    /// Forgets every service and waits until their engines are dropped. Whoever still holds a
    /// [`Supervised`] keeps this waiting.
    pub async fn close(&self) {
        let services = std::mem::take(&mut self.lock().services);
        for entry in services.into_values() {
            if let Entry::Running { service, actor, .. } = entry {
                drop(service);
                if let Some(actor) = actor {
                    // It fails only if the actor panicked, and then it is over as well.
                    let _ = actor.await;
                }
            }
        }
    }
}

impl<S: Service> Inner<S> {
    fn write_roster(&self) {
        let Some(roster) = &self.roster else { return };
        let line = |(name, entry): (&String, &Entry<S>)| match entry {
            Entry::Reserved { .. } => None,
            Entry::Running { service, .. } => {
                let status = service.engine.status();
                let follower = status.follower.map(|follower| follower.pid);
                roster::Line::of(name.clone(), status.leader.pid, follower, status.children)
            }
        };
        let lines: Vec<_> = self.services.iter().filter_map(line).collect();
        if let Err(error) = roster.write(&lines) {
            tracing::error!(%error, "the list of services could not be written: a restarted agent would not know them");
        }
    }
}

impl<S: Service> Reservation<S> {
    /// The name that was reserved.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts the engine in the reserved place and starts the actor.
    pub fn fill(self, engine: S) -> Supervised<S> {
        let (service, mailbox) = Supervised::new(self.name.clone(), engine);
        {
            let mut inner = self.registry.lock();
            let entry = Entry::Running {
                service: service.clone(),
                actor: None,
            };
            inner.services.insert(self.name.clone(), entry);
            inner.write_roster();
        }
        // After the insertion: the actor takes the service out when its engine has ended already.
        let started = mailbox.start(service.clone(), Arc::clone(&self.registry));
        if let Some(Entry::Running {
            actor,
            service: here,
            ..
        }) = self.registry.lock().services.get_mut(&self.name)
            && Arc::ptr_eq(&here.engine, &service.engine)
        {
            *actor = Some(started);
        }
        service
    }
}

impl<S: Service> Drop for Reservation<S> {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        let reserved =
            |entry: &Entry<S>| matches!(entry, Entry::Reserved { pid } if *pid == self.pid);
        if inner.services.get(&self.name).is_some_and(reserved) {
            inner.services.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::scripted::{Scripted, until};
    use crate::engine::Target;
    use crate::session::Children;

    fn registry() -> Arc<Registry<Scripted>> {
        Arc::new(Registry::new())
    }

    fn attach(registry: &Arc<Registry<Scripted>>, name: &str, pid: i32) -> Supervised<Scripted> {
        let place = registry.reserve(Some(name.into()), "", pid).unwrap();
        let target = Target {
            name: name.into(),
            pid,
            children: Children::Alone,
        };
        place.fill(Scripted::attach(target).unwrap())
    }

    fn refused<T>(result: Result<T, Refusal>) -> &'static str {
        result.err().expect("refused").code()
    }

    #[tokio::test]
    async fn a_name_and_a_process_are_taken_once() {
        let registry = registry();
        attach(&registry, "redis", 100);
        assert_eq!(
            refused(registry.reserve(Some("redis".into()), "", 200)),
            "E107"
        );
        assert_eq!(
            refused(registry.reserve(Some("other".into()), "", 100)),
            "E108"
        );
        assert_eq!(
            refused(registry.reserve(Some("a/b".into()), "", 200)),
            "E106"
        );
        let second = registry.reserve(None, "redis", 200).unwrap();
        assert_eq!(second.name(), "redis-2");
        // While an attach is under way its place is taken as well ...
        assert_eq!(
            refused(registry.reserve(Some("redis-2".into()), "", 300)),
            "E107"
        );
        assert_eq!(refused(registry.reserve(None, "x", 200)), "E108");
        // ... and free again when it failed.
        drop(second);
        assert_eq!(
            registry.reserve(None, "redis", 200).unwrap().name(),
            "redis-2"
        );
    }

    #[tokio::test]
    async fn an_unknown_name_gets_a_suggestion() {
        let registry = registry();
        attach(&registry, "redis", 100);
        let refusal = registry.get("redsi").err().unwrap();
        assert_eq!(
            refusal.to_string(),
            "no service 'redsi'; did you mean 'redis'?"
        );
        assert_eq!((refusal.code(), refusal.exit_code()), ("E104", 4));
        assert_eq!(
            registry.get("postgres").err().unwrap().to_string(),
            "no service 'postgres'"
        );
    }

    #[tokio::test]
    async fn a_service_that_ended_leaves_the_registry_and_its_timeline() {
        let registry = registry();
        let service = attach(&registry, "redis", 100);
        service.engine.end("killed by signal 11");
        until(|| registry.get("redis").is_err()).await;
        let refusal = registry.get("redis").err().unwrap();
        assert_eq!((refusal.code(), refusal.exit_code()), ("E105", 4));
        assert!(
            refusal.to_string().ends_with("killed by signal 11"),
            "{refusal}"
        );
        assert_eq!(registry.timeline_of_ended("redis").unwrap().len(), 2);
        // The old actor does not take out the new service of that name.
        let new = attach(&registry, "redis", 101);
        registry.retire("redis", &service.engine);
        assert!(Arc::ptr_eq(
            &registry.get("redis").unwrap().engine,
            &new.engine
        ));
    }
}
