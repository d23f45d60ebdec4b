//! The leader has crashed: the follower takes over, or nobody does.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::ending::end_all;
use super::following::{Following, describe};
use super::life::{Life, Live};
use super::promote::Promoted;
use super::rollback::hear;
use super::side::Side;
use super::worker::Worker;
use crate::session::{Failure, Outcome};
use crate::tracee::inspect;

/// A process that dies of its signal is seen to do so within this time.
const DEATH: Duration = Duration::from_millis(500);

impl Worker {
    pub(super) fn take_over(&mut self, following: Box<Following>, stage: Live, how: &str) -> Life {
        let reason = format!("the leader crashed: {how}");
        tracing::warn!(name = self.name, reason, "taking over");
        match following.take_over() {
            Promoted::Done(exchanged) => {
                let (token, _gone) = stage.take_over();
                let pid = exchanged.kept.side.pid;
                self.reply_to_waiting(Failure::TookOver {
                    reason: format!("{reason}; process {pid} serves now"),
                });
                self.finalized(*exchanged, token, Outcome::TookOver, &reason)
                    .0
            }
            Promoted::NotNow(following, why) => {
                self.not_taken_over(following, stage, &reason, &why)
            }
            Promoted::Failed(following, stop) => {
                self.not_taken_over(following, stage, &reason, &describe(stop).0)
            }
        }
    }

    /// Nobody could take over: the leader dies as it would have died without us. If it lives on in spite of that, it is
    /// let go as after any other update; above all a promoted process must never be without a tracer.
    fn not_taken_over(
        &mut self,
        mut following: Box<Following>,
        stage: Live,
        reason: &str,
        why: &str,
    ) -> Life {
        let why = format!("{reason}, and the follower could not take over: {why}");
        tracing::error!(name = self.name, why, "nobody took over");
        let (token, mut home) = stage.roll_back();
        let root = following.pairs.root_mut();
        let pid = root.leader.pid;
        if following.tree.is_none() {
            end_all([&mut root.follower], &mut || ());
        }
        root.leader.let_die();
        root.leader.resume_all();
        if following.tree.is_none() && dies(&mut root.leader) {
            self.reply_to_waiting(Failure::Ended {
                reason: why.clone(),
            });
            self.ended(&why);
            return Life::Ended;
        }
        self.refresh_last(&mut following);
        following.abandon(&mut home);
        if inspect::has_ended(pid) {
            self.reply_to_waiting(Failure::Ended {
                reason: why.clone(),
            });
            return self.orphaned(token, home, &why);
        }
        self.reply_to_waiting(Failure::RolledBack {
            reason: why.clone(),
            report: None,
        });
        self.finish(Outcome::RolledBack, why, None);
        Life::Single(token, home)
    }

    pub(super) fn reply_to_waiting(&mut self, failure: Failure) {
        if let Some(reply) = self.waiting.take() {
            // Whoever asked may have gone away.
            let _ = reply.send(Err(failure));
        }
    }
}

/// Waits for the end of a leader that nobody took over from. False: it lives on.
fn dies(leader: &mut Side) -> bool {
    let start = Instant::now();
    while !leader.is_gone() {
        hear(leader);
        if start.elapsed() > DEATH && !is_dying(leader.pid) {
            return false;
        }
        // No descriptor tells of a ptrace report to this thread alone.
        let _ = poll(&mut [], PollTimeout::from(1u8));
    }
    true
}

/// A core may take long to be written.
fn is_dying(pid: i32) -> bool {
    inspect::status_field(pid, pid, "CoreDumping").as_deref() == Some("1") || inspect::is_dying(pid)
}
