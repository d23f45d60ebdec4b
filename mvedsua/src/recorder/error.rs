//! What can go wrong with the recorder.

use std::io;

/// The recorder could not be loaded, attached or changed. The leader was not touched.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The ring's size is not one that the kernel takes.
    #[error(
        "ring of {bytes} bytes: the size must be a power of two from 1 MiB to 2 GiB; choose another --ring"
    )]
    RingSize {
        /// What was asked for.
        bytes: u64,
    },
    /// The object does not hold what the agent expects.
    #[error(
        "the recorder's object has no {name}: it is of another version, run `cargo xtask build-ebpf` and build again"
    )]
    Missing {
        /// Map or program.
        name: &'static str,
    },
    /// The table has more calls or commands than the maps have room for.
    #[error("the system call table needs more than {room} entries of map {name}")]
    TableTooLarge {
        /// Map.
        name: &'static str,
        /// Its capacity.
        room: u32,
    },
    /// The kernel refused the object's maps.
    #[error(
        "cannot create the recorder's maps (needs CAP_BPF and CAP_PERFMON, and memory for the ring): {0}"
    )]
    Load(#[from] aya::EbpfError),
    /// The kernel's verifier refused the program, or it could not be attached.
    #[error("cannot load or attach the recorder program: {0}")]
    Program(#[from] aya::programs::ProgramError),
    /// A map could not be read or written.
    #[error("cannot use the recorder's map {name}: {source}")]
    Map {
        /// Map.
        name: &'static str,
        /// The kernel's answer.
        source: aya::maps::MapError,
    },
    /// The ring could not be mapped into the agent.
    #[error("cannot map the {bytes} bytes of the ring into the agent: {source}")]
    MapRing {
        /// Length of the mapping.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's own types cannot be read.
    #[error(
        "cannot read /sys/kernel/btf/vmlinux (the recorder needs a kernel with CONFIG_DEBUG_INFO_BTF): {source}"
    )]
    Btf {
        /// What was wrong with it.
        source: aya::BtfError,
    },
    /// The number of CPUs is unknown.
    #[error("cannot read {path}: {source}")]
    Cpus {
        /// File of sysfs.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}
