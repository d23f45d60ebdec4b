//! Raw kernel interfaces: every `unsafe` system call of the agent, one file per kernel concept.

pub mod features;
pub mod setsid;
