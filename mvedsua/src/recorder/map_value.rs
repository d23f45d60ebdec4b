//! The structs that the agent and the recorder program share through maps, for aya's typed access.

use mvedsua_common::clock::ClockSlot;
use mvedsua_common::event::{Config, Counters};
use mvedsua_common::plan::CallPlan;

/// A map value: a wrapper, because aya's trait can be given to types of this crate only.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Value<T>(pub(super) T);

// SAFETY: `repr(C)` structs of integers without padding bytes, see their size assertions.
unsafe impl aya::Pod for Value<CallPlan> {}
// SAFETY: as above.
unsafe impl aya::Pod for Value<Config> {}
// SAFETY: as above.
unsafe impl aya::Pod for Value<Counters> {}
// SAFETY: as above.
unsafe impl aya::Pod for Value<ClockSlot> {}
