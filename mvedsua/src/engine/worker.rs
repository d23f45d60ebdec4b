//! The engine thread: requests in, status and timeline out, an update in between.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{oneshot, watch};

use super::attach::refused;
use super::attempt::{Attempt, tried_again};
use super::ending::end_all;
use super::finalize::Exchanged;
use super::following::{Following, Stop, describe};
use super::handle::{Request, Shared};
use super::home::Home;
use super::life::{Life, Live};
use super::pending::{Exchange, PendingPromotion};
use super::promote::Promoted;
use super::reverse::reverse;
use super::rollback::hear;
use super::stragglers::Stragglers;
use crate::rules::tools::Divergence;
use crate::session::{
    Command, Done, Failure, FollowerStatus, LastUpdate, Mark, Outcome, OutdatedLeader,
    SingleLeader, Stage, UpdatedLeader,
};
use crate::sys::wakeup::Wakeup;
use crate::tracee::inspect;

/// Longest time that a promotion waits for the follower to catch up.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(30);
/// For this long a follower may come near by itself before the leader is held back for it.
const OWN_PACE: Duration = Duration::from_millis(500);
/// How often the status is refreshed while an update runs.
const REFRESH: Duration = Duration::from_millis(100);

/// The engine thread's state.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) requests: Receiver<Request>,
    pub(super) wakeup: Wakeup,
    /// The children of the service are followed.
    pub(super) tree: bool,
    /// A promotion that waits for the follower to catch up: the leader serves on meanwhile.
    promotion: Option<PendingPromotion>,
    /// Who waits for the end of `update`.
    pub(super) waiting: Option<oneshot::Sender<Result<Done, Failure>>>,
    /// An update that waits for a moment at which it can begin.
    pub(super) attempt: Option<Attempt>,
    /// What is still ours of a bare server whose snapshot was given up.
    pub(super) stragglers: Stragglers,
    /// What the running update leaves behind for `last_update`.
    pub(super) left: Left,
    /// The update that runs and is not promoted, as it would be tried again.
    pub(super) runs: Option<Attempt>,
    refreshed: Instant,
    pub(super) started: Instant,
    /// When its follower began to consume events: later, if its state was transformed first.
    pub(super) consumes_since: Instant,
}

/// What an update says at its end besides the reason.
#[derive(Default)]
pub(super) struct Left {
    retry: bool,
    pub(super) divergence: Option<Box<Divergence>>,
}

impl Worker {
    pub(super) fn new(
        name: String,
        shared: Arc<Shared>,
        changed: watch::Sender<u64>,
        requests: Receiver<Request>,
        wakeup: Wakeup,
        tree: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            name,
            shared,
            changed,
            requests,
            wakeup,
            tree,
            promotion: None,
            waiting: None,
            attempt: None,
            stragglers: Stragglers::default(),
            left: Left::default(),
            runs: None,
            refreshed: now,
            started: now,
            consumes_since: now,
        }
    }

    /// Runs until the service ends or is detached.
    pub(super) fn run(mut self, home: Home) {
        let pid = home.pid();
        tracing::info!(name = self.name, pid, "supervising");
        let how = match home {
            Home::Bare(_) => "attached to process",
            Home::Kept(_) => "took over the promoted process",
        };
        self.mark(None, Stage::SingleLeader, format!("{how} {pid}"));
        let mut life = Life::Single(SingleLeader::new(), home);
        loop {
            life = match life {
                Life::Single(token, home) => match self.single(token, home) {
                    Some(life) => life,
                    None => return,
                },
                Life::Ended => return,
                running => self.running(running),
            };
        }
    }

    fn single(&mut self, token: SingleLeader, mut home: Home) -> Option<Life> {
        self.sleep();
        self.wakeup.clear();
        self.stragglers.hear(home.pid());
        if let Home::Kept(kept) = &mut home {
            kept.reports();
            if kept.side.is_gone() && !home.has_wards() {
                self.ended("it has ended");
                return Some(Life::Ended);
            }
        } else if inspect::has_ended(home.pid()) {
            self.ended("it has ended");
            return Some(Life::Ended);
        }
        self.refresh_single(home.pid());
        if let Some(attempt) = self.attempt.take_if(|a| a.next <= Instant::now()) {
            return Some(self.attempt(token, home, attempt));
        }
        match self.requests.try_recv() {
            Err(TryRecvError::Empty) => Some(Life::Single(token, home)),
            Err(TryRecvError::Disconnected) => match home {
                Home::Bare(_) => None,
                // The agent goes down: nothing may be left that a successor cannot adopt.
                Home::Kept(_) => None,
            },
            Ok((command, reply)) if self.attempt.is_some() => {
                self.while_waiting(&command, reply);
                Some(Life::Single(token, home))
            }
            Ok((Command::Update(options), reply)) => Some(self.update(token, home, options, reply)),
            Ok((Command::Detach, reply)) => match home {
                Home::Bare(pid) => {
                    self.mark(None, Stage::SingleLeader, "detached".into());
                    let message = format!("process {pid} is no longer supervised and runs on");
                    let _ = reply.send(Ok(Done { message }));
                    None
                }
                Home::Kept(kept) => {
                    let pid = kept.side.pid;
                    let _ = reply.send(Err(refused(
                        "E231",
                        format!(
                            "process {pid} was promoted once: its filter must stay suspended by the agent. \
                             It can only be detached by a restart of the service"
                        ),
                    )));
                    Some(Life::Single(token, Home::Kept(kept)))
                }
            },
            Ok((other, reply)) => {
                let message = format!(
                    "'{}' is in stage single-leader: there is no update to {}; start one with `mvedsua update {}`",
                    self.name,
                    verb(&other),
                    self.name
                );
                let _ = reply.send(Err(refused("E230", message)));
                Some(Life::Single(token, home))
            }
        }
    }

    /// Sleeps until a request, a ptrace report, or a while has passed.
    fn sleep(&self) {
        let longest = match self.stragglers.any() {
            // It stands still until it is seen to do so.
            Some(_) => Duration::from_millis(1),
            None => Duration::from_millis(500),
        };
        let sleep = self.attempt.as_ref().map_or(longest, |attempt| {
            let due = attempt.next.saturating_duration_since(Instant::now());
            due.min(longest) + Duration::from_millis(1)
        });
        let mut fds = [PollFd::new(self.wakeup.as_fd(), PollFlags::POLLIN)];
        // An interrupted sleep is as good as a short one.
        let _ = poll(&mut fds, PollTimeout::from(sleep.as_millis() as u16));
    }

    /// One round of a running update.
    fn running(&mut self, life: Life) -> Life {
        let (mut following, stage) = match life {
            Life::Updating(token, following, home) => (following, Live::Updating(token, home)),
            Life::Outdated(token, following, home) => (following, Live::Outdated(token, home)),
            Life::Updated(token, following, home) => (following, Live::Updated(token, home)),
            other => return other,
        };
        let rang = match following.pump() {
            Ok(rang) => rang,
            Err(stop) => return self.stopped(following, stage, stop),
        };
        self.look_at_transformation(&mut following);
        if let Err(stop) = following.pace(self.must_catch_up(&stage)) {
            return self.stopped(following, stage, stop);
        }
        if self.refreshed.elapsed() > REFRESH {
            self.refresh(&mut following, stage.stage());
            if let Err(stop) = following.check_loss() {
                return self.stopped(following, stage, stop);
            }
        }
        let stage = match stage {
            Live::Updating(token, home) if following.has_caught_up() => {
                let took = self.started.elapsed().as_secs_f64() * 1e3;
                let message = format!("the follower has caught up after {took:.0} ms");
                self.mark(Some(Mark::T3), Stage::OutdatedLeader, message.clone());
                if let Some(reply) = self.waiting.take() {
                    let _ = reply.send(Ok(Done { message }));
                }
                Live::Outdated(token.caught_up(), home)
            }
            stage => stage,
        };
        let near = self.promotion.is_some() && following.has_caught_up();
        if let Some(pending) = self
            .promotion
            .as_mut()
            .filter(|pending| near && pending.prepared.is_none())
        {
            // The follower falls behind by this, and is waited for once more.
            let prepared = following.prepare();
            pending.prepared = Some(Instant::now());
            if let Err(stop) = prepared {
                return self.stopped(following, stage, stop);
            }
        }
        // What stands in the way since then may pass; what stood there before is told at once.
        let good = self.promotion.is_some()
            && following.has_caught_up()
            && (!following.is_prepared || following.obstacle(true).is_none());
        let ready = self
            .promotion
            .as_ref()
            .is_some_and(|pending| pending.is_ready(good));
        let stage = match (self.promotion.take(), stage) {
            (
                Some(PendingPromotion {
                    exchange: Exchange::Promote { finalize },
                    reply,
                    ..
                }),
                Live::Outdated(token, home),
            ) if ready => {
                return self.promote(following, token, home, finalize, reply);
            }
            (
                Some(PendingPromotion {
                    exchange: Exchange::Back { reason },
                    reply,
                    ..
                }),
                Live::Updated(token, home),
            ) if ready => {
                return self.go_back(following, token, home, &reason, reply);
            }
            (Some(pending), stage) if pending.near.elapsed() > PROMOTION_PATIENCE => {
                let message = format!(
                    "the follower is {} events behind and does not catch up under this load; try again when \
                     the load is lower",
                    following.lag_events()
                );
                self.mark(None, stage.stage(), format!("not promoted: {message}"));
                // Whoever asked may have gone away.
                let _ = pending.reply.send(Err(refused("E233", message)));
                stage
            }
            (mut pending, stage) => {
                if let Some(pending) = &mut pending {
                    pending.look(following.lag_events());
                }
                self.promotion = pending;
                stage
            }
        };
        if !rang {
            return stage.into_life(following);
        }
        match self.requests.try_recv() {
            Ok((command, reply)) => self.command(following, stage, command, reply),
            Err(TryRecvError::Empty) => stage.into_life(following),
            Err(TryRecvError::Disconnected) => {
                self.stopped(following, stage, Stop::roll_back("the agent goes down"))
            }
        }
    }

    /// The follower is to get near, and had its time to do so by itself, or there is none to lose.
    fn must_catch_up(&self, stage: &Live) -> bool {
        let since = match stage {
            Live::Updating(..) => Some(self.consumes_since),
            _ => self.promotion.as_ref().map(|pending| pending.asked),
        };
        self.promotion
            .as_ref()
            .is_some_and(|pending| pending.prepared.is_some())
            || since.is_some_and(|since| since.elapsed() > OWN_PACE)
    }

    fn command(
        &mut self,
        following: Box<Following>,
        stage: Live,
        command: Command,
        reply: oneshot::Sender<Result<Done, Failure>>,
    ) -> Life {
        match (command, stage) {
            (Command::Promote { finalize }, stage @ Live::Outdated(..))
                if self.promotion.is_none() =>
            {
                self.mark(
                    Some(Mark::T4),
                    Stage::OutdatedLeader,
                    "promotion was asked for".into(),
                );
                let exchange = Exchange::Promote { finalize };
                self.promotion = Some(PendingPromotion::new(exchange, reply));
                stage.into_life(following)
            }
            (Command::Rollback { reason }, stage @ Live::Updated(..))
                if self.promotion.is_none() =>
            {
                let exchange = Exchange::Back { reason };
                self.promotion = Some(PendingPromotion::new(exchange, reply));
                stage.into_life(following)
            }
            (Command::Rollback { reason }, stage @ (Live::Updating(..) | Live::Outdated(..))) => {
                let message = format!(
                    "rolled back; process {} serves on, bare",
                    following.pairs.root().leader.pid
                );
                let life = self.stopped(following, stage, Stop::RollBack(reason, None));
                let _ = reply.send(Ok(Done { message }));
                life
            }
            (Command::Finalize, Live::Updated(token, home)) => {
                let old = following.pairs.root().follower.pid;
                let life = self.drop_follower(*following, home, token.finalize());
                self.finish(Outcome::Finalized, "finalized on request".into(), None);
                let message = format!("process {old} is gone; the new version serves alone");
                self.mark(Some(Mark::T6), Stage::SingleLeader, message.clone());
                let _ = reply.send(Ok(Done { message }));
                life
            }
            (command, stage) => {
                let message = format!(
                    "'{}' is in stage {}: it cannot {} now{}",
                    self.name,
                    stage.stage(),
                    verb(&command),
                    match (&command, &stage) {
                        (Command::Promote { .. }, Live::Updating(..)) =>
                            "; wait until the follower has caught up (`mvedsua watch`)",
                        (Command::Finalize, _) => "; promote first",
                        (Command::Update(_) | Command::Detach, _) =>
                            "; finalize or roll back first",
                        _ => "",
                    }
                );
                let _ = reply.send(Err(refused("E230", message)));
                stage.into_life(following)
            }
        }
    }

    fn promote(
        &mut self,
        following: Box<Following>,
        token: OutdatedLeader,
        mut home: Home,
        finalize: bool,
        reply: oneshot::Sender<Result<Done, Failure>>,
    ) -> Life {
        self.mark(None, Stage::Promoting, "the roles are exchanged".into());
        let promoting = token.promote();
        match following.promote(finalize) {
            Promoted::NotNow(following, why) => {
                self.mark(None, Stage::OutdatedLeader, format!("not promoted: {why}"));
                let _ = reply.send(Err(refused("E232", why)));
                Life::Outdated(promoting.abandon(), following, home)
            }
            Promoted::Failed(following, stop) if following.leader_dies() => {
                tracing::warn!(?stop, "the leader was killed during its promotion");
                self.waiting = Some(reply);
                let stage = Live::Outdated(promoting.abandon(), home);
                self.take_over(following, stage, "it was killed")
            }
            Promoted::Failed(mut following, stop) => {
                let stop = match self.again(stop) {
                    Ok(why) => {
                        let _ = reply.send(Err(tried_again(&why)));
                        self.until_next_try(following, &mut home, why);
                        return Life::Single(promoting.roll_back(), home);
                    }
                    Err(stop) => stop,
                };
                let (reason, report) = describe(stop.in_stage(Stage::Promoting));
                let _ = reply.send(Err(Failure::RolledBack {
                    reason: reason.clone(),
                    report: report.clone(),
                }));
                self.refresh_last(&mut following);
                following.abandon(&mut home);
                self.finish(Outcome::RolledBack, reason, report);
                Life::Single(promoting.roll_back(), home)
            }
            Promoted::Done(exchanged) if finalize => {
                self.runs = None;
                let (life, message) = self.finalized(
                    *exchanged,
                    promoting.exchanged_for_good(),
                    Outcome::Finalized,
                    "promoted and finalized",
                );
                let _ = reply.send(match message {
                    Ok(message) => Ok(Done { message }),
                    Err(reason) => Err(Failure::Ended { reason }),
                });
                life
            }
            Promoted::Done(mut exchanged) => {
                self.runs = None;
                exchanged.kept.previous = home.listener();
                match reverse(*exchanged, &self.wakeup) {
                    Ok((mut following, home, pause)) => {
                        let pause = pause.as_secs_f64() * 1e3;
                        // Who asks for the status next must not be told the old leader.
                        self.refresh(&mut following, Stage::UpdatedLeader);
                        self.change(|status| status.pauses_ms.promotion = Some(pause));
                        let message = format!(
                            "process {} leads, the old version follows as {}; paused {pause:.2} ms",
                            following.pairs.root().leader.pid,
                            following.pairs.root().follower.pid
                        );
                        self.mark(Some(Mark::T5), Stage::UpdatedLeader, message.clone());
                        let _ = reply.send(Ok(Done { message }));
                        Life::Updated(promoting.exchanged(), Box::new(following), home)
                    }
                    Err(dropped) => {
                        let (home, why) = *dropped;
                        let message = format!(
                            "promoted; the old version could not follow and was dropped: {why}"
                        );
                        self.finish(Outcome::Finalized, message.clone(), None);
                        self.mark(Some(Mark::T6), Stage::SingleLeader, message.clone());
                        let _ = reply.send(Ok(Done { message }));
                        Life::Single(promoting.exchanged().finalize(), home)
                    }
                }
            }
        }
    }

    /// Rollback after a promotion: the old version, which has followed since, leads again.
    fn go_back(
        &mut self,
        following: Box<Following>,
        token: UpdatedLeader,
        mut home: Home,
        reason: &str,
        reply: oneshot::Sender<Result<Done, Failure>>,
    ) -> Life {
        match following.promote(true) {
            Promoted::Done(exchanged) => {
                let (life, message) = self.finalized(
                    *exchanged,
                    token.take_over(),
                    Outcome::RolledBack,
                    &format!("back to the old version: {reason}"),
                );
                let _ = reply.send(match message {
                    Ok(message) => Ok(Done {
                        message: format!("the old version leads again: {message}"),
                    }),
                    Err(reason) => Err(Failure::Ended { reason }),
                });
                life
            }
            Promoted::NotNow(following, why) => {
                self.mark(None, Stage::UpdatedLeader, format!("not gone back: {why}"));
                let _ = reply.send(Err(refused("E232", why)));
                Life::Updated(token, following, home)
            }
            Promoted::Failed(following, stop) if following.leader_dies() => {
                tracing::warn!(?stop, "the leader was killed on the way back");
                self.waiting = Some(reply);
                let stage = Live::Updated(token, home);
                self.take_over(following, stage, "it was killed")
            }
            Promoted::Failed(following, stop) => {
                let (why, report) = describe(stop);
                let mut following = following;
                self.refresh_last(&mut following);
                following.abandon(&mut home);
                let why = format!("the old version could not lead again and was dropped: {why}");
                self.finish(Outcome::Finalized, why.clone(), report);
                self.mark(Some(Mark::T6), Stage::SingleLeader, why.clone());
                let _ = reply.send(Err(Failure::TookOver { reason: why }));
                Life::Single(token.finalize(), home)
            }
        }
    }

    /// The new leader serves alone from here on.
    pub(super) fn finalized(
        &mut self,
        exchanged: Exchanged,
        token: SingleLeader,
        outcome: Outcome,
        reason: &str,
    ) -> (Life, Result<String, String>) {
        let old = exchanged.old.pid;
        // A way back and a take-over are no moments of the paper's time line.
        let paper = |mark| (outcome == Outcome::Finalized).then_some(mark);
        match exchanged.finalize() {
            Ok((kept, following, pause)) => {
                let pause = pause.as_secs_f64() * 1e3;
                self.change(|status| status.pauses_ms.promotion = Some(pause));
                let pid = kept.side.pid;
                self.refresh_single(pid);
                drop(following);
                self.finish(outcome, reason.to_owned(), None);
                let message =
                    format!("process {pid} serves, process {old} is gone; paused {pause:.2} ms");
                self.mark(paper(Mark::T5), Stage::SingleLeader, message.clone());
                self.mark(
                    paper(Mark::T6),
                    Stage::SingleLeader,
                    "the old version is gone".into(),
                );
                (Life::Single(token, Home::Kept(kept)), Ok(message))
            }
            Err(stop) => {
                let (reason, _) = describe(stop);
                self.ended(&reason);
                (Life::Ended, Err(reason))
            }
        }
    }

    /// The update cannot go on: rolls back, or lets the other version take over.
    fn stopped(&mut self, following: Box<Following>, stage: Live, stop: Stop) -> Life {
        // Whoever waits for the promotion learns what became of the update instead.
        let promoting = self.promotion.take().map(|pending| pending.reply);
        let stop = match self.again(stop) {
            Ok(why) => {
                if let Some(reply) = promoting {
                    let _ = reply.send(Err(tried_again(&why)));
                }
                let (token, mut home) = stage.roll_back();
                self.until_next_try(following, &mut home, why);
                return Life::Single(token, home);
            }
            Err(stop) => stop,
        };
        if promoting.is_some() {
            self.waiting = promoting;
        }
        match (stop.in_stage(stage.stage()), stage) {
            (Stop::RollBack(reason, report), Live::Updated(token, home)) => {
                // The old version diverged, crashed or is not wanted any more: the new one stays.
                let life = self.drop_follower(*following, home, token.finalize());
                self.finish(
                    Outcome::Finalized,
                    format!("the old version was dropped: {reason}"),
                    report,
                );
                self.mark(
                    Some(Mark::T6),
                    Stage::SingleLeader,
                    format!("the old version was dropped: {reason}"),
                );
                life
            }
            (Stop::RollBack(reason, report), stage) => {
                let (token, mut home) = stage.roll_back();
                let mut following = following;
                self.refresh_last(&mut following);
                following.abandon(&mut home);
                self.reply_to_waiting(Failure::RolledBack {
                    reason: reason.clone(),
                    report: report.clone(),
                });
                self.finish(Outcome::RolledBack, reason, report);
                Life::Single(token, home)
            }
            (Stop::LeaderCrashed { how, held: true }, stage) => {
                self.take_over(following, stage, &how)
            }
            (Stop::Later(reason), stage) => {
                self.stopped(following, stage, Stop::RollBack(reason, None))
            }
            (Stop::LeaderCrashed { how, held: false } | Stop::LeaderEnded(how), stage) => {
                self.reply_to_waiting(Failure::Ended {
                    reason: how.clone(),
                });
                let mut following = following;
                if following.tree.is_none() {
                    let root = following.pairs.root_mut();
                    end_all([&mut root.follower], &mut || hear(&mut root.leader));
                    self.ended(&how);
                    return Life::Ended;
                }
                // Its children may go on.
                let (token, mut home) = stage.roll_back();
                following.abandon(&mut home);
                self.orphaned(token, home, &how)
            }
        }
    }

    /// The root of a tree has ended. Children of a promoted one go on only as long as they are traced.
    pub(super) fn orphaned(&mut self, token: SingleLeader, home: Home, how: &str) -> Life {
        if home.has_wards() {
            self.finish(
                Outcome::RolledBack,
                format!("the leader has ended: {how}"),
                None,
            );
            Life::Single(token, home)
        } else {
            self.ended(how);
            Life::Ended
        }
    }

    /// t6 from `updated-leader`: the old version is killed, the new one made plain.
    fn drop_follower(
        &mut self,
        mut following: Following,
        mut home: Home,
        token: SingleLeader,
    ) -> Life {
        self.refresh_last(&mut following);
        following.abandon(&mut home);
        Life::Single(token, home)
    }

    pub(super) fn ended(&mut self, how: &str) {
        if let Some(attempt) = self.attempt.take() {
            attempt.give_up(Failure::Ended {
                reason: how.to_owned(),
            });
        }
        tracing::info!(name = self.name, how, "the service has ended");
        self.mark(
            None,
            Stage::SingleLeader,
            format!("the service has ended: {how}"),
        );
    }

    pub(super) fn finish(&mut self, outcome: Outcome, reason: String, report: Option<String>) {
        tracing::info!(name = self.name, ?outcome, reason, "update ended");
        let left = std::mem::take(&mut self.left);
        let line = format!("rolled back: {reason}");
        self.ended_as(LastUpdate {
            outcome,
            reason,
            report,
            retry: left.retry,
            divergence: left.divergence,
        });
        if outcome == Outcome::RolledBack {
            self.mark(None, Stage::SingleLeader, line);
        }
    }

    fn refresh_single(&self, pid: i32) {
        let threads = inspect::threads(pid).map_or(0, |threads| threads.len() as u32);
        let mut status = self
            .shared
            .status
            .lock()
            .expect("nobody panics holding this");
        status.leader = crate::session::LeaderStatus { pid, threads };
    }

    /// The last look at an update that has ended. Its stage stays until it is known how it ended: who waits for the next
    /// one looks at that.
    pub(super) fn refresh_last(&mut self, following: &mut Following) {
        let stage = self
            .shared
            .status
            .lock()
            .expect("nobody panics holding this")
            .stage;
        self.refresh(following, stage);
    }

    pub(super) fn refresh(&mut self, following: &mut Following, stage: Stage) {
        self.refreshed = Instant::now();
        self.left = Left {
            retry: following.rules.as_ref().is_some_and(|rules| rules.retry),
            divergence: following.diverged.clone(),
        };
        let rules = following.rules_status();
        for line in following.rules_logged() {
            self.mark(None, stage, line);
        }
        let ring = &following.recorder.ring;
        self.change(|status| {
            status.stage = stage;
            status.leader = crate::session::LeaderStatus {
                pid: following.pairs.root().leader.pid,
                threads: following.pairs.root().leader.count() as u32,
            };
            status.follower = Some(FollowerStatus {
                pid: following.pairs.root().follower.pid,
                lag_events: following.lag_events(),
                lag_bytes: ring.used_bytes() + ring.aside_bytes(),
            });
            status.ring = following.ring_status();
            status.events = following.counts;
            if rules.is_some() {
                status.rules = rules;
            }
            status.transformation = following.transformation.progress();
        });
    }
}

fn verb(command: &Command) -> &'static str {
    match command {
        Command::Update(_) => "update",
        Command::Promote { .. } => "promote",
        Command::Finalize => "finalize",
        Command::Rollback { .. } => "roll back",
        Command::Detach => "detach",
    }
}
