//! The life of one supervised service: its stages, what may be asked of it, and what it reports.
//!
//! Pure: nothing here touches the kernel. The engine ([`crate::engine`]) drives a session and the
//! agent ([`crate::agent`]) serves what it says to the command line.

mod options;
mod stage;
mod status;
mod timeline;

pub use options::{Children, Command, Done, Failure, OnFull, UpdateKind, UpdateOptions, WaitFor};
pub use stage::{OutdatedLeader, Promoting, SingleLeader, Stage, UpdatedLeader, Updating};
pub use status::{
    Events, FollowerStatus, LastUpdate, LeaderStatus, NextTry, Outcome, Pauses, RingStatus,
    RuleFiring, RuleStatus, RulesStatus, Status, TransformationStatus,
};
pub use timeline::{Mark, TimelineEntry};
