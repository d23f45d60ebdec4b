//! Mvedsua updates a running, stateful server with no pause and no trust in the update.
//!
//! `ARCHITECTURE.md` at the top of the repository has the code map and the invariants.

pub mod agent;
pub mod cli;
pub mod doctor;
pub mod dsu;
pub mod engine;
pub mod follower;
pub mod matcher;
pub mod recorder;
pub mod report;
pub mod rules;
pub mod session;
pub mod sys;
pub mod systemd;
pub mod tracee;
