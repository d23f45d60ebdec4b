//! Transformers: what turns the state of the old version into that of the new one.
//!
//! A transformer is C (or an object made from Rust through the same ABI) against a header that is
//! generated from both builds. It is compiled and linked into the bundle when that is built, at addresses behind
//! the new image, and runs inside the follower once.

mod compile;
mod control;
mod ctypes;
mod declaration;
mod declared;
mod generated;
mod given;
mod header;
mod object_file;
mod reach;
mod thread_local;

pub use control::{CONTROL_LEN, Control, Moved, State};
pub(super) use given::{Given, declared_text};
pub(super) use thread_local::Touch;

use super::meaning::Pair;
use super::types::TypeChange;

/// The C header that a transformer for these two builds is written against.
pub(super) fn header_text(pair: &Pair, changes: &[TypeChange]) -> String {
    header::render(pair, changes)
}
