//! From the request for an update to a follower that consumes events, with further tries when the moment
//! was no good: threads stand in code that a bundle changes (the paper's timing errors), its transformer
//! cannot work now, or a rule asks for another try.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::attach::{check, check_tree_soon, refused};
use super::following::{Following, Stop};
use super::home::Home;
use super::life::Life;
use super::snapshot::{Begun, NotBegun, begin};
use super::timeline::unix_ms;
use super::worker::{Left, Worker};
use crate::dsu::{Bundle, DsuError, PublicKey, hex, trusted};
use crate::session::{
    Command, Done, Failure, LastUpdate, Mark, NextTry, Outcome, SingleLeader, Stage, UpdateKind,
    UpdateOptions, WaitFor,
};
use crate::tracee::standstill;
use crate::tracee::version::Version;

/// An update that was asked for and has not begun; or one that runs, as it would be tried again.
pub(super) struct Attempt {
    options: UpdateOptions,
    bundle: Option<Bundle>,
    reply: oneshot::Sender<Result<Done, Failure>>,
    /// Tries so far.
    tried: u32,
    /// When the next one is due.
    pub(super) next: Instant,
    /// Why it waits for that.
    why: String,
}

impl Attempt {
    /// The update will not be.
    pub(super) fn give_up(self, failure: Failure) {
        // Whoever asked may have gone away.
        let _ = self.reply.send(Err(failure));
    }

    /// Other tries that are left, and the time between two.
    fn tries(&self) -> (u32, Duration) {
        let UpdateOptions {
            retry, retry_delay, ..
        } = self.options;
        (
            retry.saturating_add(1).saturating_sub(self.tried),
            retry_delay,
        )
    }
}

/// Reads the bundle and checks that it is for what the process runs, all before the process is touched.
fn open(options: &UpdateOptions, pid: i32) -> Result<Option<Bundle>, Failure> {
    let UpdateKind::Bundle {
        path, signed_by, ..
    } = &options.kind
    else {
        return Ok(None);
    };
    let unusable = |error: DsuError| refused(error.code(), error.text());
    let keys: Vec<PublicKey> = signed_by
        .iter()
        .map(|key| PublicKey::parse(key))
        .collect::<Result<_, _>>()
        .map_err(unusable)?;
    let bundle = trusted::read(path, &keys).map_err(unusable)?;
    let version = Version::of(pid).map_err(|error| refused("E243", error.to_string()))?;
    let runs = version.placement().build_id;
    let old = &bundle.manifest.old;
    if runs != old.build_id {
        let what = if runs.is_empty() {
            "a program without a build-id".to_owned()
        } else {
            let by = version
                .mark
                .as_ref()
                .map_or("", |_| ", which an earlier update made of it");
            format!("build {}{by}", hex(&runs))
        };
        return Err(refused(
            "E241",
            format!(
                "{} is for build {} ({}) and process {pid} runs {what}; build a bundle whose --old is that build",
                path.display(),
                hex(&old.build_id),
                old.name,
            ),
        ));
    }
    Ok(Some(bundle))
}

/// What a promotion is told whose update was rolled back under way and waits for its next try.
pub(super) fn tried_again(why: &str) -> Failure {
    Failure::RolledBack {
        reason: format!("{why}; it is tried again, promote it when it has caught up"),
        report: None,
    }
}

impl Worker {
    /// A request for an update.
    pub(super) fn update(
        &mut self,
        token: SingleLeader,
        home: Home,
        options: UpdateOptions,
        reply: oneshot::Sender<Result<Done, Failure>>,
    ) -> Life {
        match open(&options, home.pid()) {
            Ok(bundle) => self.attempt(
                token,
                home,
                Attempt {
                    options,
                    bundle,
                    reply,
                    tried: 0,
                    next: Instant::now(),
                    why: String::new(),
                },
            ),
            Err(failure) => {
                tracing::warn!(name = self.name, %failure, "update refused");
                let _ = reply.send(Err(failure));
                Life::Single(token, home)
            }
        }
    }

    /// One try.
    pub(super) fn attempt(
        &mut self,
        token: SingleLeader,
        mut home: Home,
        mut attempt: Attempt,
    ) -> Life {
        let pid = home.pid();
        attempt.tried += 1;
        let begun = self
            .no_stragglers(pid)
            .and_then(|()| Ok(check(pid, matches!(home, Home::Kept(_)))?))
            .and_then(|()| {
                if self.tree {
                    check_tree_soon(pid, matches!(home, Home::Kept(_)))?;
                }
                let options = attempt.options.clone();
                let bundle = attempt.bundle.as_ref();
                begin(
                    &mut home,
                    options,
                    bundle,
                    self.tree,
                    &mut self.stragglers,
                    &self.wakeup,
                )
            });
        match begun {
            Ok(begun) => {
                let following = self.begun(pid, begun, attempt);
                Life::Updating(token.snapshot(), Box::new(following), home)
            }
            Err(NotBegun::Busy(stacks)) => {
                let why = "threads stand in functions that the update changes";
                let tried = attempt.tried;
                self.not_now(attempt, why.into(), &format!(":\n{stacks}"), || {
                    refused(
                        "E240",
                        format!(
                            "at {tried} moments threads stood in functions that the update changes, so it was not \
                             begun; raise --retry or --retry-delay, or give the bundle a [control] line for a function \
                             that never returns (docs/bundles.md). At the last one:\n{stacks}"
                        ),
                    )
                });
                Life::Single(token, home)
            }
            Err(NotBegun::Stuck(why)) => {
                let tried = attempt.tried;
                self.not_now(attempt, why.clone(), "", || {
                    refused(
                        "E220",
                        format!(
                            "the snapshot failed at {tried} moments and nothing was changed: {why}"
                        ),
                    )
                });
                Life::Single(token, home)
            }
            Err(NotBegun::Refused(failure)) => {
                tracing::warn!(name = self.name, %failure, "update refused");
                self.change(|status| status.next_try = None);
                attempt.give_up(failure);
                Life::Single(token, home)
            }
        }
    }

    /// A thread that does not stop is not waited for by another try.
    fn no_stragglers(&self, pid: i32) -> Result<(), NotBegun> {
        let stuck = |tid| NotBegun::Stuck(standstill::stuck(pid, tid).to_string());
        self.stragglers.any().map_or(Ok(()), |tid| Err(stuck(tid)))
    }

    /// The moment was no good for the update, `why`, with `more` for the log: it is tried again, or else is `refused`.
    fn not_now(
        &mut self,
        attempt: Attempt,
        why: String,
        more: &str,
        refused: impl FnOnce() -> Failure,
    ) {
        let told = format!("try {}: {why}{more}", attempt.tried);
        self.mark(None, Stage::SingleLeader, told);
        if attempt.tries().0 == 0 {
            self.change(|status| status.next_try = None);
            attempt.give_up(refused());
        } else {
            self.wait_to_try(attempt, why);
            self.tell_next_try();
        }
    }

    /// A request while an update waits for its moment.
    pub(super) fn while_waiting(
        &mut self,
        command: &Command,
        reply: oneshot::Sender<Result<Done, Failure>>,
    ) {
        if let Command::Rollback { reason } = command
            && let Some(attempt) = self.attempt.take()
        {
            let reason = format!("before it began: {reason}");
            self.mark(None, Stage::SingleLeader, format!("given up {reason}"));
            self.change(|status| status.next_try = None);
            attempt.give_up(Failure::RolledBack {
                reason,
                report: None,
            });
            let message = "the update was given up before it began".into();
            let _ = reply.send(Ok(Done { message }));
            return;
        }
        let why = self.attempt.as_ref().map_or("", |attempt| &attempt.why);
        let message = format!(
            "an update of '{0}' waits for its next try ({why}); wait, or give it up with `mvedsua rollback {0}`",
            self.name
        );
        let _ = reply.send(Err(refused("E230", message)));
    }

    /// The update is to be tried again after its delay.
    fn wait_to_try(&mut self, mut attempt: Attempt, why: String) {
        // A delay that no clock can tell is for ever: `rollback` ends it.
        let longest = Duration::from_secs(1 << 32);
        attempt.next = Instant::now() + attempt.tries().1.min(longest);
        attempt.why = why;
        self.attempt = Some(attempt);
    }

    /// Says in the status that an update waits for its next try.
    fn tell_next_try(&self) {
        let next = self.attempt.as_ref().map(|attempt| NextTry {
            tried: attempt.tried,
            left: attempt.tries().0,
            unix_ms: unix_ms(SystemTime::now())
                .saturating_add(attempt.tries().1.as_millis() as u64),
            why: attempt.why.clone(),
        });
        self.change(|status| status.next_try = next);
    }

    /// The update that runs stops. If the moment was no good and tries are left, it is to be tried again: why,
    /// then, and whoever waits for the update goes on waiting. Else why it stops for good.
    pub(super) fn again(&mut self, stop: Stop) -> Result<String, Stop> {
        let running = self.runs.take();
        let Stop::Later(why) = stop else {
            return Err(stop);
        };
        match running {
            Some(mut attempt) if attempt.tries().0 > 0 => {
                if let Some(reply) = self.waiting.take() {
                    attempt.reply = reply;
                }
                self.wait_to_try(attempt, why.clone());
                Ok(why)
            }
            Some(attempt) => Err(Stop::roll_back(format!(
                "at {} moments {why}; raise --retry or --retry-delay",
                attempt.tried
            ))),
            None => Err(Stop::roll_back(why)),
        }
    }

    /// The follower of an update that is [tried again](Self::again) is thrown away.
    pub(super) fn until_next_try(
        &mut self,
        mut following: Box<Following>,
        home: &mut Home,
        why: String,
    ) {
        self.refresh_last(&mut following);
        following.abandon(home);
        let next = self.attempt.as_ref().map_or(String::new(), |attempt| {
            format!(
                "try {}: {why}; the next one in {}",
                attempt.tried,
                humantime::format_duration(attempt.tries().1)
            )
        });
        let left = std::mem::take(&mut self.left);
        // In this order: who sees that the update ended must see that it will be tried again.
        self.tell_next_try();
        self.ended_as(LastUpdate {
            outcome: Outcome::RolledBack,
            reason: why,
            report: None,
            retry: true,
            divergence: left.divergence,
        });
        self.mark(None, Stage::SingleLeader, next);
    }

    /// What the status says of an update that has ended.
    pub(super) fn ended_as(&self, last: LastUpdate) {
        self.change(|status| {
            status.stage = Stage::SingleLeader;
            status.follower = None;
            status.transformation = None;
            // The ring is gone; how full it was at most stays to be seen.
            (status.ring.used_bytes, status.ring.aside_bytes) = (0, 0);
            status.last_update = Some(last);
        });
    }

    /// t2 is reached once the transformer has ended.
    pub(super) fn look_at_transformation(&mut self, following: &mut Following) {
        let Some(done) = following.transformation.take_finished() else {
            return;
        };
        self.consumes_since = Instant::now();
        let what = format!(
            "{} transformed {} objects in {:.1} ms and declared {}; the new version is in force ({} functions, {} bytes), \
             the follower consumes events",
            done.name,
            done.objects,
            done.took.as_secs_f64() * 1e3,
            done.declared,
            done.applied.functions,
            done.applied.bytes,
        );
        self.mark(Some(Mark::T2), Stage::Updating, what);
        self.change(|status| status.transformation = None);
    }

    /// t1 and t2 are reached.
    fn begun(&mut self, pid: i32, begun: Begun, mut attempt: Attempt) -> Following {
        let pause = begun.pause.as_secs_f64() * 1e3;
        self.started = Instant::now();
        self.consumes_since = self.started;
        let mut following = begun.following;
        self.left = Left::default();
        self.change(|status| {
            status.pauses_ms = crate::session::Pauses {
                snapshot: Some(pause),
                promotion: None,
            };
            status.last_update = None;
            status.next_try = None;
            status.rules = None;
        });
        let follower = following.pairs.root().follower.pid;
        self.refresh(&mut following, Stage::Updating);
        // The bundle was applied since.
        self.mark_at(
            begun.copied,
            Some(Mark::T1),
            Stage::Updating,
            format!("snapshot of process {pid} as {follower}, the leader paused {pause:.2} ms"),
        );
        if following.no_new_privs {
            self.mark(
                None,
                Stage::Updating,
                format!("process {follower} now has no_new_privs: its set-uid programs lose their effect"),
            );
        }
        let applied = match (&attempt.bundle, begun.applied) {
            (Some(bundle), Some(applied)) => format!(
                "the bundle for {} was applied in {:.1} ms ({} functions, {} bytes); ",
                bundle.manifest.new.name,
                applied.took.as_secs_f64() * 1e3,
                applied.functions,
                applied.bytes
            ),
            _ => String::new(),
        };
        if let Some(transformer) = following.transformation.name() {
            let what = format!("the bundle was placed, its transformer {transformer} runs");
            self.mark(None, Stage::Updating, what);
        } else {
            self.mark(
                Some(Mark::T2),
                Stage::Updating,
                format!("{applied}the follower consumes events"),
            );
        }
        // Whoever asked is in `waiting` from here on, or has been answered.
        let reply = std::mem::replace(&mut attempt.reply, oneshot::channel().0);
        if attempt.options.wait == WaitFor::None {
            let message = format!(
                "process {follower} follows process {pid}; the leader paused {pause:.2} ms"
            );
            let _ = reply.send(Ok(Done { message }));
        } else {
            self.waiting = Some(reply);
        }
        self.runs = Some(attempt);
        following
    }
}
