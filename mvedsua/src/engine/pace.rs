//! Catching up under a load that is faster than the follower.
//!
//! Left alone such a load fills the ring, and the leader then runs at the follower's pace with a full
//! ring between them: the follower is never near. So when it has to get near (t3, a promotion) and does
//! not by itself, the leader is let only half as far as the follower comes: the room that it may use
//! shrinks by half of what the follower consumes, until next to nothing is left. It is held as if the
//! ring were full, for a moment at a time; it is never stopped until the whole backlog is gone.

use std::time::{Duration, Instant};

use super::following::{Following, Stop};
use crate::session::{OnFull, RingStatus};

/// The room shrinks no further: some hundred calls.
const FLOOR: u64 = 16 * 1024;
/// Most bytes of events that are set aside for a follower that is being transformed: as much as the default ring.
const ASIDE: u64 = 64 << 20;
/// Most bytes of payloads that were fetched from the leader's memory and wait for the follower; a thread is held at its
/// call beyond that.
const FETCHED: u64 = 64 << 20;
/// So many bytes are to be free before a thread that was held for room goes on, a hundred calls of a Redis: the
/// follower consumes them in two or three milliseconds, and no client waits for longer. With much less the leader
/// would be stopped for every few calls, with much more (a quarter of the ring, until 2026-11-25) it stood for seconds.
const STRETCH: u64 = 8 * 1024;
/// How often the room is set anew.
const STEP: Duration = Duration::from_millis(1);

/// A leader that is held back.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes that may wait for the follower, in the ring and set aside.
    room: u64,
    /// Bytes that the follower had consumed at the last look.
    consumed: u64,
    looked: Instant,
}

impl Following {
    /// To be called often: with `wanted` the leader is held back until the follower is near, without it
    /// has the whole ring. A ring that must not block (`--on-full rollback`) is left as it is.
    ///
    /// # Errors
    /// When the recorder cannot be told.
    pub(super) fn pace(&mut self, wanted: bool) -> Result<(), Stop> {
        // A follower whose state is being transformed consumes nothing: the leader would stand until it is done.
        let consumes = !self.transformation.is_running();
        if !wanted || !consumes || self.options.on_full == OnFull::Rollback {
            if self.pace.take().is_some() {
                self.set_margin()?;
            }
            return Ok(());
        }
        let ring = &self.recorder.ring;
        let consumed = ring.consumed_bytes();
        match &mut self.pace {
            None => {
                let room = (ring.used_bytes() + ring.aside_bytes()).max(FLOOR);
                self.pace = Some(Pace {
                    room,
                    consumed,
                    looked: Instant::now(),
                });
            }
            Some(pace) if pace.looked.elapsed() >= STEP => {
                let done = consumed - pace.consumed;
                pace.room = pace.room.saturating_sub(done / 2).max(FLOOR);
                pace.consumed = consumed;
                pace.looked = Instant::now();
            }
            Some(_) => return Ok(()),
        }
        self.set_margin()
    }

    /// Bytes of the ring that the leader may use.
    pub(super) fn room(&self) -> u64 {
        let ring = &self.recorder.ring;
        self.pace.as_ref().map_or(ring.capacity(), |pace| {
            let room = pace.room.saturating_sub(ring.aside_bytes()).max(FLOOR);
            room.min(ring.capacity())
        })
    }

    /// While the follower is transformed nothing is consumed, and a ring holds a load for as long as its size
    /// says. What does not fit is set aside in the agent's memory, and so is what comes behind it until the
    /// follower is through with that: the ring alone is in use again then.
    pub(super) fn set_aside(&mut self) {
        let ring = &self.recorder.ring;
        let waits = self.transformation.is_running() && ring.used_bytes() > ring.capacity() / 4;
        if waits || ring.aside_bytes() > 0 {
            let most = self
                .pace
                .as_ref()
                .map_or(ASIDE, |pace| pace.room.min(ASIDE));
            self.recorder.ring.set_aside(most);
        }
    }

    /// How the ring stands, for the status.
    pub(super) fn ring_status(&self) -> RingStatus {
        let ring = &self.recorder.ring;
        RingStatus {
            capacity_bytes: ring.capacity(),
            used_bytes: ring.used_bytes(),
            aside_bytes: ring.aside_bytes(),
            high_water_bytes: self.high_water.max(ring.used_bytes()),
            blocked_ms: self.blocked().as_secs_f64() * 1e3,
        }
    }

    /// True when a thread that was held for room may go on.
    pub(super) fn has_room(&self) -> bool {
        let room = self.recorder.room();
        let free = STRETCH.min(room / 4);
        self.recorder.ring.used_bytes() < room - free && self.fetched.bytes() < FETCHED
    }
}
