//! The timeline of a service: t1 to t6 of the paper, and what happened besides.

use serde::{Deserialize, Serialize};

use super::Stage;

/// A moment that the MVEDSUA paper names (section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// The copy was taken.
    T1,
    /// The follower was updated and starts to consume events.
    T2,
    /// The follower has caught up.
    T3,
    /// Promotion was asked for.
    T4,
    /// The new version leads.
    T5,
    /// The old version is gone.
    T6,
}

/// One line of `mvedsua events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The paper's name of the moment, if it has one.
    pub mark: Option<Mark>,
    /// Stage that the service is in from here on.
    pub stage: Stage,
    /// What happened, in one line.
    pub what: String,
}
