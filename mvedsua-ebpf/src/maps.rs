//! The maps of the recorder. Their names are in `mvedsua_common::event::name`.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use mvedsua_common::{
    clock::{ClockSlot, NEAR_SLOTS, SLOTS},
    event::{Config, Counters, LEADER_WORDS},
    plan::{CallPlan, MAX_COMMANDS, MAX_PLANS},
};

use crate::copy::Scratch;

/// The records. The agent sets the capacity when it loads the object.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Processes that are recorded, one bit each.
#[map]
pub static LEADERS: Array<u64> = Array::with_max_entries(LEADER_WORDS, 0);

/// What to do with each call; written by the agent before it attaches the program.
#[map]
pub static PLANS: Array<CallPlan> = Array::with_max_entries(MAX_PLANS, 0);

/// Command of a multiplexed call -> index in `PLANS`.
#[map]
pub static COMMANDS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_COMMANDS, 0);

/// The ring's capacity and its safety margin.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// One buffer per CPU. A per-CPU array cannot have elements of this size, so this is a plain array
/// indexed by the CPU; the agent sets the number of elements when it loads the object.
#[map]
pub static SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

/// What was recorded, and what went wrong.
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Thread -> number of the call that it will resume through `restart_syscall`. Least recently used
/// entries give way: threads that ended meanwhile leave theirs behind.
#[map]
pub static RESTARTS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(16384, 0);

/// Place of a thread (`clock::near_place`) -> where it writes its clock readings down, and how many of them are in the ring.
#[map]
pub static NEAR_CLOCKS: Array<ClockSlot> = Array::with_max_entries(NEAR_SLOTS, 0);

/// Thread -> the same, if its place in `NEAR_CLOCKS` is another thread's.
#[map]
pub static CLOCKS: HashMap<u32, ClockSlot> = HashMap::with_max_entries(SLOTS as u32, 0);
