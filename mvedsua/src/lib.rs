//! Mvedsua updates a running, stateful server with no pause and no trust in the update.
//!
//! `ARCHITECTURE.md` at the top of the repository has the code map and the invariants.

pub mod agent;
pub mod engine;
pub mod rules;
pub mod session;
