//! The one contract between the kernel side (`mvedsua-ebpf`) and the agent (`mvedsua`).
//!
//! Everything here is `no_std`, allocates nothing and imports nothing, so that the same source is
//! compiled for `bpfel-unknown-none` and for the host: the record layout ([`event`]) and the
//! declarative syscall table ([`table`]) can therefore never disagree between the two sides.
#![no_std]

pub mod clock;
mod commands;
pub mod event;
pub mod plan;
pub mod spec;
pub mod table;
