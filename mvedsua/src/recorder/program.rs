//! Loads, fills, attaches and detaches the eBPF object.

use std::ops::RangeInclusive;

use aya::{
    Btf, Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{BtfTracePoint, tp_btf::BtfTracePointLinkId},
};
use mvedsua_common::{
    clock::{ClockSlot, near_place},
    event::{Config, Counters, MAX_RECORD, name},
    plan::{CallPlan, MAX_COMMANDS, MAX_PLANS, PLANS_BY_NUMBER, command_key},
    spec::Syscall,
    table::SYSCALLS,
};

use super::{RecorderError, map_value::Value, ring::Ring};

static OBJECT: &[u8] = include_bytes_aligned!(env!("MVEDSUA_EBPF_OBJECT"));

/// The tracepoint at the end of every system call, after the kernel's own work for it.
const TRACEPOINT: &str = "sys_exit";

/// Bytes that a ring can have, if they are a power of two.
pub const RING_SIZES: RangeInclusive<u64> = 1 << 20..=1 << 31;

/// The loaded recorder. Dropping it detaches the program and frees the ring.
pub struct Recorder {
    /// The events. Public, so that they can be looked at while processes are added and removed.
    pub ring: Ring,
    leaders: Array<MapData, u64>,
    config: Array<MapData, Value<Config>>,
    counters: PerCpuArray<MapData, Value<Counters>>,
    near_clocks: Array<MapData, Value<ClockSlot>>,
    /// Whose the places of `near_clocks` are.
    near: std::collections::HashMap<u32, u32>,
    clocks: HashMap<MapData, u32, Value<ClockSlot>>,
    link: Option<BtfTracePointLinkId>,
    object: Ebpf,
    /// See [`Recorder::set_margin`].
    margin: u64,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("ring", &self.ring)
            .field("attached", &self.link.is_some())
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// Creates the maps with a ring of `capacity` bytes and has the program verified. Nothing is
    /// attached yet, and no process is recorded.
    ///
    /// # Errors
    /// [`RecorderError::RingSize`] unless `capacity` is a power of two from 1 MiB to 2 GiB; the other
    /// variants if the kernel refuses (privileges, memory, an object of another version).
    pub fn load(capacity: u64) -> Result<Self, RecorderError> {
        if !capacity.is_power_of_two() || !RING_SIZES.contains(&capacity) {
            return Err(RecorderError::RingSize { bytes: capacity });
        }
        let cpus =
            aya::util::nr_cpus().map_err(|(path, source)| RecorderError::Cpus { path, source })?;
        let mut object = EbpfLoader::new()
            // The object has nothing to relocate by it.
            .btf(None)
            .map_max_entries(name::EVENTS, capacity as u32)
            .map_max_entries(name::SCRATCH, cpus as u32)
            .load(OBJECT)?;

        // The program first: it names its maps by descriptors, and some of them are closed below.
        let btf = Btf::from_sys_fs().map_err(|source| RecorderError::Btf { source })?;
        program(&mut object)?.load(TRACEPOINT, &btf)?;
        fill_plans(&mut object)?;
        let mut recorder = Self {
            ring: map_ring(&object, capacity)?,
            leaders: take(&mut object, name::LEADERS)?,
            config: take(&mut object, name::CONFIG)?,
            counters: take(&mut object, name::COUNTERS)?,
            near_clocks: take(&mut object, name::NEAR_CLOCKS)?,
            near: std::collections::HashMap::new(),
            clocks: take(&mut object, name::CLOCKS)?,
            link: None,
            object,
            margin: 0,
        };
        recorder.set_margin(MAX_RECORD as u64)?;
        Ok(recorder)
    }

    /// Starts recording: from here on every system call of the machine passes the program.
    ///
    /// # Errors
    /// [`RecorderError::Program`] if the kernel refuses.
    pub fn attach(&mut self) -> Result<(), RecorderError> {
        if self.link.is_none() {
            self.link = Some(program(&mut self.object)?.attach()?);
        }
        Ok(())
    }

    /// Stops recording; the events that are in the ring stay.
    ///
    /// # Errors
    /// [`RecorderError::Program`] if the kernel refuses.
    pub fn detach(&mut self) -> Result<(), RecorderError> {
        if let Some(link) = self.link.take() {
            program(&mut self.object)?.detach(link)?;
        }
        Ok(())
    }

    /// Records the process `tgid` (as the initial pid namespace sees it) from its next syscall exit on.
    ///
    /// # Errors
    /// [`RecorderError::Map`] if the kernel refuses, or `tgid` is no process id.
    pub fn add_process(&mut self, tgid: u32) -> Result<(), RecorderError> {
        self.change_leaders(tgid, |word, bit| word | bit)
    }

    /// Records the process `tgid` no more. Not an error if it was not recorded.
    ///
    /// The kernel reuses process ids: call this as soon as the process was reaped.
    ///
    /// # Errors
    /// See [`Recorder::add_process`].
    pub fn remove_process(&mut self, tgid: u32) -> Result<(), RecorderError> {
        self.change_leaders(tgid, |word, bit| word & !bit)
    }

    /// Changes the word with the bit of `tgid`. We are the only writer, so nothing is lost between
    /// the read and the write.
    fn change_leaders(
        &mut self,
        tgid: u32,
        change: impl Fn(u64, u64) -> u64,
    ) -> Result<(), RecorderError> {
        let index = tgid / 64;
        let word = self.leaders.get(&index, 0).map_err(failed(name::LEADERS))?;
        self.leaders
            .set(index, change(word, 1 << (tgid % 64)), 0)
            .map_err(failed(name::LEADERS))
    }

    /// Sets the free space of the ring, in bytes, under which a thread is stopped at its exit. At
    /// least one largest record per thread that can be in a call; that much is the caller's to know.
    ///
    /// # Errors
    /// [`RecorderError::Map`] if the kernel refuses.
    pub fn set_margin(&mut self, bytes: u64) -> Result<(), RecorderError> {
        let config = Config {
            margin: bytes,
            capacity: self.ring.capacity(),
            signal_pending: signal_pending_bit(),
        };
        self.config
            .set(0, Value(config), 0)
            .map_err(failed(name::CONFIG))?;
        self.margin = bytes;
        Ok(())
    }

    /// Bytes of the ring that may be in use before a thread is stopped at its exit.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.ring.capacity().saturating_sub(self.margin)
    }

    /// From its next recorded call on the clock readings in the thread's slot at `address`, which has
    /// none yet, are recorded with its calls.
    ///
    /// # Errors
    /// [`RecorderError::Map`] if the kernel refuses.
    pub fn set_clock(&mut self, tid: u32, address: u64) -> Result<(), RecorderError> {
        let slot = ClockSlot {
            address,
            taken: 0,
            tid: u64::from(tid),
        };
        let place = near_place(tid);
        if *self.near.entry(place).or_insert(tid) == tid {
            return self
                .near_clocks
                .set(place, Value(slot), 0)
                .map_err(failed(name::NEAR_CLOCKS));
        }
        self.clocks
            .insert(tid, Value(slot), 0)
            .map_err(failed(name::CLOCKS))
    }

    /// The thread has no slot any more. Not an error if it had none.
    pub fn remove_clock(&mut self, tid: u32) {
        let place = near_place(tid);
        if self.near.get(&place) == Some(&tid) {
            self.near.remove(&place);
            // There is such a place, so the kernel has nothing to say against it.
            let _ = self.near_clocks.set(place, Value(ClockSlot::default()), 0);
        }
        // The kernel's only other answer than success is that there is none.
        let _ = self.clocks.remove(&tid);
    }

    /// The counters, summed over all CPUs. `lost` also counts records that the agent could not read.
    ///
    /// # Errors
    /// [`RecorderError::Map`] if the kernel refuses.
    pub fn counters(&self) -> Result<Counters, RecorderError> {
        let per_cpu = self.counters.get(&0, 0).map_err(failed(name::COUNTERS))?;
        let mut sum = Counters {
            lost: self.ring.malformed(),
            ..Counters::default()
        };
        for Value(cpu) in per_cpu.iter() {
            sum.recorded += cpu.recorded;
            sum.out_of_line += cpu.out_of_line;
            sum.ring_full += cpu.ring_full;
            sum.lost += cpu.lost;
        }
        Ok(sum)
    }
}

fn program(object: &mut Ebpf) -> Result<&mut BtfTracePoint, RecorderError> {
    let program = object
        .program_mut(name::PROGRAM)
        .ok_or(RecorderError::Missing {
            name: name::PROGRAM,
        })?;
    Ok(program.try_into()?)
}

/// `_TIF_SIGPENDING`, which is in no header for users and in no BTF. x86 took over the generic
/// numbering of the bits in Linux 6.18. A kernel that has another one makes signals less exact (they
/// come before the next call instead of at the end of the last) and harms nobody.
fn signal_pending_bit() -> u64 {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let generic =
        crate::doctor::kernel_version::parse(&release).is_none_or(|version| version >= (6, 18));
    1 << if generic { 1 } else { 2 }
}

/// Compiles the table into the maps that the program reads.
fn fill_plans(object: &mut Ebpf) -> Result<(), RecorderError> {
    let mut plans: Array<MapData, Value<CallPlan>> = take(object, name::PLANS)?;
    let mut commands: HashMap<MapData, u64, u32> = take(object, name::COMMANDS)?;
    let mut next = PLANS_BY_NUMBER as u32;
    // Numbers that are not in the table, and at index `next` unknown commands: recorded, no parts.
    for nr in 0..=next {
        plans
            .set(nr, Value(CallPlan::HEADER_ONLY), 0)
            .map_err(failed(name::PLANS))?;
    }
    for call in SYSCALLS {
        plans
            .set(u32::from(call.nr), Value(CallPlan::of_call(call)), 0)
            .map_err(failed(name::PLANS))?;
        for (value, plan) in command_plans(call) {
            next += 1;
            if next >= MAX_PLANS || next - PLANS_BY_NUMBER as u32 > MAX_COMMANDS {
                return Err(RecorderError::TableTooLarge {
                    name: name::PLANS,
                    room: MAX_PLANS,
                });
            }
            plans
                .set(next, Value(plan), 0)
                .map_err(failed(name::PLANS))?;
            commands
                .insert(command_key(u64::from(call.nr), value), next, 0)
                .map_err(failed(name::COMMANDS))?;
        }
    }
    Ok(())
}

/// The plan of each command of a multiplexed call.
fn command_plans(call: &Syscall) -> impl Iterator<Item = (u32, CallPlan)> {
    call.commands.into_iter().flat_map(move |(at, commands)| {
        commands.iter().map(move |command| {
            let mut registers = [0; 6];
            registers[usize::from(at)] = u64::from(command.value);
            let args = std::array::from_fn(|index| call.arg_of(index, &registers));
            (command.value, CallPlan::of_args(command.class, &args))
        })
    })
}

/// Maps the object's ring into the agent.
fn map_ring(object: &Ebpf, capacity: u64) -> Result<Ring, RecorderError> {
    match object.map(name::EVENTS) {
        Some(aya::maps::Map::RingBuf(map)) => Ring::map(map.fd(), capacity),
        _ => Err(RecorderError::Missing { name: name::EVENTS }),
    }
}

/// Takes a map out of the object, as the type that aya gives it.
fn take<M>(object: &mut Ebpf, name: &'static str) -> Result<M, RecorderError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = object
        .take_map(name)
        .ok_or(RecorderError::Missing { name })?;
    M::try_from(map).map_err(failed(name))
}

fn failed(name: &'static str) -> impl Fn(aya::maps::MapError) -> RecorderError {
    move |source| RecorderError::Map { name, source }
}
