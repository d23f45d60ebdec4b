//! What the engine thread tells of its service as it happens: the timeline, and that the status changed.

use std::time::{SystemTime, UNIX_EPOCH};

use super::worker::Worker;
use crate::session::{Mark, Stage, Status, TimelineEntry};

/// Milliseconds since the Unix epoch.
pub(super) fn unix_ms(when: SystemTime) -> u64 {
    when.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

impl Worker {
    /// A line of the timeline about now.
    pub(super) fn mark(&mut self, mark: Option<Mark>, stage: Stage, what: String) {
        self.mark_at(SystemTime::now(), mark, stage, what);
    }

    /// The same about an earlier moment, which must not lie before that of the last line.
    pub(super) fn mark_at(
        &mut self,
        when: SystemTime,
        mark: Option<Mark>,
        stage: Stage,
        what: String,
    ) {
        let unix_ms = unix_ms(when);
        tracing::info!(name = self.name, ?mark, %stage, what);
        self.shared
            .timeline
            .lock()
            .expect("nobody panics holding this")
            .push(TimelineEntry {
                unix_ms,
                mark,
                stage,
                what,
            });
        self.change(|status| status.stage = stage);
    }

    pub(super) fn change(&self, edit: impl FnOnce(&mut Status)) {
        edit(
            &mut self
                .shared
                .status
                .lock()
                .expect("nobody panics holding this"),
        );
        self.changed.send_modify(|count| *count += 1);
    }
}
