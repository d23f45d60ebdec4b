//! From the request for an update to a follower that consumes events, with further tries when threads
//! stand in code that a bundle changes (the paper's timing errors).

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::attach::{check, refused};
use super::following::{Following, Stop};
use super::home::Home;
use super::snapshot::{Begun, NotBegun, begin};
use super::worker::{Left, Life, Worker};
use crate::dsu::{Bundle, DsuError, PublicKey, hex, trusted};
use crate::session::{
    Command, Done, Failure, Mark, SingleLeader, Stage, UpdateKind, UpdateOptions, WaitFor,
};
use crate::tracee::version::Version;

/// An update that was asked for and has not begun.
pub(super) struct Attempt {
    options: UpdateOptions,
    bundle: Option<Bundle>,
    reply: oneshot::Sender<Result<Done, Failure>>,
    /// Tries so far.
    tried: u32,
    /// When the next one is due.
    pub(super) next: Instant,
}

impl Attempt {
    /// The update will not be.
    pub(super) fn give_up(self, failure: Failure) {
        // Whoever asked may have gone away.
        let _ = self.reply.send(Err(failure));
    }

    /// Other tries that are left, and the time between two.
    fn tries(&self) -> (u32, Duration) {
        match self.options.kind {
            UpdateKind::Bundle {
                retry, retry_delay, ..
            } => ((retry + 1).saturating_sub(self.tried), retry_delay),
            _ => (0, Duration::ZERO),
        }
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
        let begun = check(pid, matches!(home, Home::Kept(_)))
            .map_err(NotBegun::from)
            .and_then(|()| {
                let options = attempt.options.clone();
                begin(&mut home, options, attempt.bundle.as_ref(), &self.wakeup)
            });
        match begun {
            Ok(begun) => {
                let following = self.begun(pid, begun, attempt);
                Life::Updating(token.snapshot(), Box::new(following), home)
            }
            Err(NotBegun::Busy(stacks)) => {
                self.mark(
                    None,
                    Stage::SingleLeader,
                    format!(
                        "try {}: threads stand in functions that the update changes:\n{stacks}",
                        attempt.tried
                    ),
                );
                let (left, delay) = attempt.tries();
                if left == 0 {
                    let tried = attempt.tried;
                    attempt.give_up(refused(
                        "E240",
                        format!(
                            "at {tried} moments threads stood in functions that the update changes, so it was not \
                             begun; raise --retry or --retry-delay, or give the bundle a [control] line for a function \
                             that never returns (docs/bundles.md). At the last one:\n{stacks}"
                        ),
                    ));
                } else {
                    attempt.next = Instant::now() + delay;
                    self.attempt = Some(attempt);
                }
                Life::Single(token, home)
            }
            Err(NotBegun::Refused(failure)) => {
                tracing::warn!(name = self.name, %failure, "update refused");
                attempt.give_up(failure);
                Life::Single(token, home)
            }
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
            attempt.give_up(Failure::RolledBack {
                reason,
                report: None,
            });
            let message = "the update was given up before it began".into();
            let _ = reply.send(Ok(Done { message }));
            return;
        }
        let message = format!(
            "an update of '{0}' waits for a moment at which no thread stands in the functions that it changes; \
             wait, or give it up with `mvedsua rollback {0}`",
            self.name
        );
        let _ = reply.send(Err(refused("E230", message)));
    }

    /// A moment that was no good for a transformer: the update is tried again, if tries are left. What is to
    /// be told then; else why the update stops.
    pub(super) fn again(&mut self, stop: Stop) -> Result<String, Stop> {
        let attempt = self.transforming.take();
        let Stop::Later(why) = stop else {
            return Err(stop);
        };
        match attempt {
            Some(mut attempt) if attempt.tries().0 > 0 => {
                if let Some(reply) = self.waiting.take() {
                    attempt.reply = reply;
                }
                attempt.next = Instant::now() + attempt.tries().1;
                let told = format!("try {}: {why}", attempt.tried);
                self.attempt = Some(attempt);
                Ok(told)
            }
            Some(attempt) => Err(Stop::roll_back(format!(
                "at {} moments {why}; raise --retry or --retry-delay",
                attempt.tried
            ))),
            None => Err(Stop::roll_back(why)),
        }
    }

    /// t2 is reached once the transformer has ended.
    pub(super) fn look_at_transformation(&mut self, following: &mut Following) {
        let Some(done) = following.transformation.take_finished() else {
            return;
        };
        self.transforming = None;
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
    fn begun(&mut self, pid: i32, begun: Begun, attempt: Attempt) -> Following {
        let pause = begun.pause.as_secs_f64() * 1e3;
        self.started = Instant::now();
        let mut following = begun.following;
        self.left = Left::default();
        self.change(|status| {
            status.pauses_ms = crate::session::Pauses {
                snapshot: Some(pause),
                promotion: None,
            };
            status.last_update = None;
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
            self.transforming = Some(Attempt {
                options: attempt.options.clone(),
                bundle: attempt.bundle,
                // Whoever asked is in `waiting`, or has been answered.
                reply: oneshot::channel().0,
                tried: attempt.tried,
                next: attempt.next,
            });
        } else {
            self.mark(
                Some(Mark::T2),
                Stage::Updating,
                format!("{applied}the follower consumes events"),
            );
        }
        if attempt.options.wait == WaitFor::None {
            let message = format!(
                "process {follower} follows process {pid}; the leader paused {pause:.2} ms"
            );
            let _ = attempt.reply.send(Ok(Done { message }));
        } else {
            self.waiting = Some(attempt.reply);
        }
        following
    }
}
