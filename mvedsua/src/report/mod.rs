//! What a person reads after a divergence: the calls on both sides and the bytes that differ.
//!
//! Pure formatting: nothing here touches the traced processes.

pub mod call;
pub(crate) mod flags;
pub mod hex;
mod structs;
