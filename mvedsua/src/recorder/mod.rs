//! The recorder as the engine sees it: which processes are recorded, and their events.
//!
//! - [`program`]: loads the eBPF object, fills its maps, attaches and detaches it.
//! - [`ring`]: takes records out of the ring, in place, as [`crate::matcher::Record`]s.
//!
//! Loading takes tens of milliseconds and disturbs nobody, so it is done before the leader is
//! stopped. [`Recorder::attach`] makes every system call of the machine a little slower (that is what a
//! tracepoint costs), so it is done last, and dropping the [`Recorder`] ends it.

mod error;
mod map_value;
mod program;
mod ring;

pub use error::RecorderError;
pub use program::{RING_SIZES, Recorder};
pub use ring::{EventRef, Ring};
