//! A promotion, or the way back, that was asked for and waits until the follower is near.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::session::{Done, Failure};

/// Once prepared, an exchange waits no longer than this for a good moment: what it was given
/// keeps connections open that the leader closes meanwhile.
const AFTER_PREPARING: Duration = Duration::from_secs(2);

/// An exchange of roles that the operator asks for.
pub(super) enum Exchange {
    /// t4: to the new version; with `finalize`, for good.
    Promote { finalize: bool },
    /// After a promotion: back to the old version, for good, and why.
    Back { reason: String },
}

/// A promotion that was asked for.
pub(super) struct PendingPromotion {
    pub(super) exchange: Exchange,
    pub(super) reply: oneshot::Sender<Result<Done, Failure>>,
    pub(super) asked: Instant,
    /// Since when the follower has not come nearer, and how near it was (events).
    pub(super) near: Instant,
    nearest: u64,
    /// When all was done that can be done while the leader serves.
    pub(super) prepared: Option<Instant>,
}

impl PendingPromotion {
    pub(super) fn new(exchange: Exchange, reply: oneshot::Sender<Result<Done, Failure>>) -> Self {
        let now = Instant::now();
        Self {
            exchange,
            reply,
            asked: now,
            near: now,
            nearest: u64::MAX,
            prepared: None,
        }
    }

    /// The moment has come, given whether it is a good one.
    pub(super) fn is_ready(&self, good: bool) -> bool {
        self.prepared
            .is_some_and(|since| good || since.elapsed() > AFTER_PREPARING)
    }

    /// The follower is `lag` events behind: a tenth less than at best so far is progress.
    pub(super) fn look(&mut self, lag: u64) {
        if lag < self.nearest - self.nearest / 10 {
            self.nearest = lag;
            self.near = Instant::now();
        }
    }
}
