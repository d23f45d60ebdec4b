//! What `status --json` says. The field names are a contract with users' scripts.

use serde::{Deserialize, Serialize};

use super::{Children, Stage};
use crate::rules::ast::Direction;
use crate::rules::engine::RuleCount;
use crate::rules::tools::Divergence;

/// State of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name under which the service was attached.
    pub name: String,
    /// Where in its life it is.
    pub stage: Stage,
    /// What becomes of its child processes in an update.
    #[serde(default)]
    pub children: Children,
    /// The process that serves.
    pub leader: LeaderStatus,
    /// The process that follows, if an update runs.
    pub follower: Option<FollowerStatus>,
    /// The ring of the running (else: of the last) update.
    pub ring: RingStatus,
    /// Event counts of the running (else: of the last) update.
    pub events: Events,
    /// The pauses of the leader in the running (else: the last) update.
    pub pauses_ms: Pauses,
    /// The rules of the running (else: of the last) update, if it had any.
    #[serde(default)]
    pub rules: Option<RulesStatus>,
    /// How far the transformer of the running update has come.
    #[serde(default)]
    pub transformation: Option<TransformationStatus>,
    /// How the last update ended.
    pub last_update: Option<LastUpdate>,
    /// When an update is tried again by itself whose moment was no good.
    #[serde(default)]
    pub next_try: Option<NextTry>,
}

/// The next try of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextTry {
    /// Tries so far.
    pub tried: u32,
    /// Tries left.
    pub left: u32,
    /// When the next one is due, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Why the last one did not get through, in one line.
    pub why: String,
}

/// A transformer at work in the follower.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformationStatus {
    /// Objects done, as the transformer counts them.
    pub done: u64,
    /// Objects in all, perhaps an estimate; 0 when it does not say.
    pub total: u64,
    /// Seconds since it was started.
    pub seconds: f64,
    /// Objects per second so far; 0 while none is done.
    pub objects_per_second: f64,
    /// Estimated seconds until all objects are done at this rate; none if it does not say how many there are.
    pub seconds_left: Option<f64>,
}

impl TransformationStatus {
    /// Works out the rate and the estimated end.
    #[must_use]
    pub fn new(done: u64, total: u64, seconds: f64) -> Self {
        let rate = if seconds > 0.0 {
            done as f64 / seconds
        } else {
            0.0
        };
        let known = total >= done && total > 0 && rate > 0.0;
        Self {
            done,
            total,
            seconds,
            objects_per_second: rate,
            seconds_left: known.then(|| (total - done) as f64 / rate),
        }
    }
}

impl std::fmt::Display for TransformationStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} objects", self.done)?;
        if self.total > 0 {
            write!(f, " of {}", self.total)?;
        }
        write!(f, " transformed, {:.0} per second", self.objects_per_second)?;
        match self.seconds_left {
            Some(left) => write!(f, ", {left:.1} s left"),
            None => Ok(()),
        }
    }
}

/// The process that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// Its process id.
    pub pid: i32,
    /// Its threads.
    pub threads: u32,
}

/// The process that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// Its process id.
    pub pid: i32,
    /// Events recorded and not yet matched.
    pub lag_events: u64,
    /// Their bytes, in the ring and set aside.
    pub lag_bytes: u64,
}

/// The ring between leader and follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RingStatus {
    /// Size in bytes; 0 when there was no update yet.
    pub capacity_bytes: u64,
    /// Bytes now in use.
    pub used_bytes: u64,
    /// Bytes that the agent has set aside in its own memory, for a follower that is (or was just) transformed.
    #[serde(default)]
    pub aside_bytes: u64,
    /// Most bytes that were in use.
    pub high_water_bytes: u64,
    /// Total time during which threads of the leader waited for room, in milliseconds.
    pub blocked_ms: f64,
}

/// Event counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Calls of the leader that were recorded.
    pub recorded: u64,
    /// Calls of the follower that were found equal.
    pub matched: u64,
    /// Calls that rules had a part in: rewritten ones, calls of the leader that the follower is not to make
    /// (counted when that is decided), and calls that the follower alone made.
    pub rewritten: u64,
    /// Divergences (the first one ends the update).
    pub diverged: u64,
    /// Times the global order of two threads had to be relaxed.
    pub relaxed: u64,
    /// Clock readings that only one side made.
    pub reconciled: u64,
}

/// Pauses of the leader, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pauses {
    /// While the copy was taken.
    pub snapshot: Option<f64>,
    /// While the roles were exchanged.
    pub promotion: Option<f64>,
}

/// How an update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The new version serves and the old one is gone.
    Finalized,
    /// The follower was thrown away and the old version serves.
    RolledBack,
    /// The leader crashed and the other version took over.
    TookOver,
}

/// The last update of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUpdate {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in one line.
    pub reason: String,
    /// The divergence report, many lines.
    pub report: Option<String>,
    /// A rule ended the update and asked to try it again later, or its transformer did.
    #[serde(default)]
    pub retry: bool,
    /// The divergent calls of both sides, for `mvedsua rules suggest`.
    #[serde(default)]
    pub divergence: Option<Box<Divergence>>,
}

/// The rules of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesStatus {
    /// The rule file.
    pub file: String,
    /// The stage whose rules are in force.
    pub stage: Direction,
    /// Calls of the leader that rules hold now, to see what follows.
    pub held: u64,
    /// Every rule, in the order in which they are tried.
    pub rules: Vec<RuleStatus>,
    /// The latest firings, oldest first; a few dozen at most.
    pub firings: Vec<RuleFiring>,
}

/// How often a rule did what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its name, or `rule-LINE`.
    pub name: String,
    /// File and line.
    pub place: String,
    /// The stage in which it applies.
    pub stage: Direction,
    /// The counts.
    #[serde(flatten)]
    pub count: RuleCount,
}

/// One time that a rule applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFiring {
    /// Milliseconds since the Unix epoch, to a tenth of a second.
    pub unix_ms: u64,
    /// The name of the rule.
    pub rule: String,
    /// The leader's thread.
    pub thread: i32,
    /// The start of the leader's call, or message, with which it began.
    pub on: String,
}

impl Status {
    /// Status of a service that was just attached.
    #[must_use]
    pub fn new(name: String, pid: i32, threads: u32) -> Self {
        Self {
            name,
            stage: Stage::SingleLeader,
            children: Children::Alone,
            leader: LeaderStatus { pid, threads },
            follower: None,
            ring: RingStatus::default(),
            events: Events::default(),
            pauses_ms: Pauses::default(),
            rules: None,
            transformation: None,
            last_update: None,
            next_try: None,
        }
    }
}
