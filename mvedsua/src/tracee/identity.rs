//! Who a process is in the eyes of others: users, groups, capabilities, root, and what is to become of it
//! when its parent ends. Read of the leader's process and given to its copy when that is promoted.
//!
//! Until then a copy keeps the identity that it was made with: it makes no call by itself, and what is
//! done in it needs privileges that the leader's process may have given away.

use super::inject::{Guarded, Plain};
use super::stub::Vdso;
use super::thread::{Running, Stopped};
use super::{Naming, Result, TraceeError, context::Context, inspect};
use crate::sys::memory;

/// Capabilities of Linux, as words of `/proc/PID/status`: 64 bits.
const CAPABILITIES: u32 = 64;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The identity of a process, all of whose threads have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Real, effective, saved, and that for files.
    users: [u32; 4],
    groups: [u32; 4],
    more_groups: Vec<u32>,
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    no_new_privileges: bool,
    /// `SECBIT_*`, `SECBIT_KEEP_CAPS` among them.
    secure_bits: u64,
    dumpable: u64,
    death_signal: i32,
    adopts_orphans: bool,
}

/// `SUID_DUMP_ROOT`: what the kernel sets by itself, and nobody else may.
const DUMPABLE_BY_ITSELF: u64 = 2;
/// `SECBIT_KEEP_CAPS`.
const KEEP_CAPS: u64 = 1 << 4;

/// Descriptors in the copy of directories of the leader's process; they are closed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    /// Its root (`/proc/PID/root`), if that is another one than the copy's.
    pub root: Option<i32>,
    /// Its working directory, needed when the root changes.
    pub directory: Option<i32>,
}

impl Identity {
    /// That of the stopped process whose main thread is given, which answers a few questions and stands where
    /// it stood afterwards. The stub must have been written ([`Vdso::write_stub`]).
    ///
    /// # Errors
    /// When it is gone, or its threads differ.
    pub fn read(main: &mut Stopped, vdso: &Vdso) -> Result<Self> {
        let pid = main.tid();
        let taken = std::mem::replace(main, Running::born(pid).reported());
        let context = Context::read(&taken, pid)?;
        let mut guarded = Guarded::begin(taken, &context, vdso)?;
        let nr = mvedsua_common::table::number("prctl");
        let mut ask =
            |what: i32, at: u64| guarded.call("prctl", nr, &[what as u64, at, 0, 0, 0, 0]);
        let secure_bits = ask(libc::PR_GET_SECUREBITS, 0)?;
        let dumpable = ask(libc::PR_GET_DUMPABLE, 0)?;
        let at = guarded.scratch();
        let mut word = |what: i32| -> Result<i32> {
            guarded.call("prctl", nr, &[what as u64, at, 0, 0, 0, 0])?;
            let mut bytes = [0; 4];
            memory::read(pid, at, &mut bytes).named("read an answer", pid)?;
            Ok(i32::from_le_bytes(bytes))
        };
        let death_signal = word(libc::PR_GET_PDEATHSIG)?;
        let adopts_orphans = word(libc::PR_GET_CHILD_SUBREAPER)? != 0;
        *main = guarded.end()?;
        let identity = Self {
            secure_bits,
            dumpable,
            death_signal,
            adopts_orphans,
            ..Self::of_thread(pid, pid)?
        };
        match Self::odd_thread(pid)? {
            None => Ok(identity),
            Some(tid) => Err(TraceeError::Unsuitable(format!(
                "thread {tid} of process {pid} has another identity than its process"
            ))),
        }
    }

    /// A thread that is somebody else than the main thread of its process: capabilities belong to threads.
    ///
    /// # Errors
    /// When it is gone.
    pub fn odd_thread(pid: i32) -> Result<Option<i32>> {
        let main = Self::of_thread(pid, pid)?;
        for tid in inspect::threads(pid)? {
            let theirs = Self::of_thread(pid, tid)?;
            if !main.looks_like(&theirs) || !theirs.looks_like(&main) {
                return Ok(Some(tid));
            }
        }
        Ok(None)
    }

    /// That of a process that is dying and answers no questions. What only it could say is as the kernel has it in a
    /// process that has changed its users.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of_dying(pid: i32) -> Result<Self> {
        Ok(Self {
            dumpable: DUMPABLE_BY_ITSELF,
            ..Self::of_thread(pid, pid)?
        })
    }

    /// Whether two processes are the same as far as `/proc` says, but for `no_new_privs`, which a filter may have
    /// brought the second.
    #[must_use]
    pub fn is_same(pid: i32, other: i32) -> bool {
        let both = (Self::of_thread(pid, pid), Self::of_thread(other, other));
        matches!(both, (Ok(one), Ok(other)) if one.looks_like(&other))
    }

    /// What `/proc` says of a thread.
    fn of_thread(pid: i32, tid: i32) -> Result<Self> {
        let status = inspect::status(pid, tid).unwrap_or_default();
        let field = |name: &'static str| {
            inspect::status_line(&status, name)
                .map(str::to_owned)
                .ok_or_else(|| {
                    TraceeError::Unsuitable(format!("the status of thread {tid} has no {name}"))
                })
        };
        let numbers = |name| -> Result<Vec<u32>> {
            let text = field(name)?;
            Ok(text
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect())
        };
        let four = |name| -> Result<[u32; 4]> {
            numbers(name)?.try_into().map_err(|_| {
                TraceeError::Unsuitable(format!("thread {tid} does not have four ids as {name}"))
            })
        };
        let mask = |name| -> Result<u64> {
            u64::from_str_radix(&field(name)?, 16).map_err(|_| {
                TraceeError::Unsuitable(format!("the {name} of thread {tid} is no number"))
            })
        };
        Ok(Self {
            users: four("Uid")?,
            groups: four("Gid")?,
            more_groups: numbers("Groups")?,
            inheritable: mask("CapInh")?,
            permitted: mask("CapPrm")?,
            effective: mask("CapEff")?,
            bounding: mask("CapBnd")?,
            ambient: mask("CapAmb")?,
            no_new_privileges: field("NoNewPrivs")? == "1",
            secure_bits: 0,
            dumpable: 0,
            death_signal: 0,
            adopts_orphans: false,
        })
    }

    /// Equal in what `/proc` says. The `other` may have `no_new_privs` of its own: an unprivileged process needs it
    /// for a filter, and keeps it.
    fn looks_like(&self, other: &Self) -> bool {
        let seen = |identity: &Self| Self {
            secure_bits: 0,
            dumpable: 0,
            death_signal: 0,
            adopts_orphans: false,
            no_new_privileges: false,
            ..identity.clone()
        };
        seen(self) == seen(other) && self.no_new_privileges <= other.no_new_privileges
    }

    /// Gives a process, all of whose threads are given, stopped, the main thread first, this identity. It must be
    /// as privileged as the root of the tree.
    ///
    /// # Errors
    /// When the process refuses a call, or is somebody else afterwards. It must not be promoted then.
    pub fn give(&self, threads: &mut [Stopped], vdso: &Vdso, places: Places) -> Result<()> {
        let Some(main) = threads.first_mut() else {
            return Ok(());
        };
        let pid = main.tid();
        let mut giving = Giving::new(main, vdso)?;
        if let Some(root) = places.root {
            giving.write(&[b".\0"])?;
            giving.call("fchdir", [root as u64, 0, 0, 0, 0, 0])?;
            giving.call("chroot", [giving.at, 0, 0, 0, 0, 0])?;
            giving.call("close", [root as u64, 0, 0, 0, 0, 0])?;
        }
        if let Some(directory) = places.directory {
            giving.call("fchdir", [directory as u64, 0, 0, 0, 0, 0])?;
            giving.call("close", [directory as u64, 0, 0, 0, 0, 0])?;
        }
        for thread in threads.iter_mut() {
            self.give_thread(pid, &mut Giving::new(thread, vdso)?)?;
        }
        let mut giving = Giving::new(&mut threads[0], vdso)?;
        // Changes of users make a process undumpable and forget the signal of its parent's death.
        if self.dumpable < DUMPABLE_BY_ITSELF {
            giving.prctl(libc::PR_SET_DUMPABLE, self.dumpable)?;
        }
        giving.prctl(libc::PR_SET_PDEATHSIG, self.death_signal as u64)?;
        giving.prctl(libc::PR_SET_CHILD_SUBREAPER, self.adopts_orphans.into())?;
        for thread in threads.iter() {
            let has = Self::of_thread(pid, thread.tid())?;
            if !self.looks_like(&has) {
                return Err(TraceeError::Unsuitable(format!(
                    "thread {} did not get the identity that it was to have: {has:?} instead of {self:?}",
                    thread.tid()
                )));
            }
        }
        Ok(())
    }

    /// Credentials belong to threads. The order: whatever needs a privilege before the privilege goes.
    fn give_thread(&self, pid: i32, giving: &mut Giving<'_>) -> Result<()> {
        let has = Self::of_thread(pid, giving.thread.tid())?;
        if self.looks_like(&has) && self.secure_bits == 0 {
            return Ok(());
        }
        for capability in 0..CAPABILITIES {
            if has.bounding & !self.bounding & (1 << capability) != 0 {
                giving.prctl(libc::PR_CAPBSET_DROP, capability.into())?;
            }
        }
        let groups: Vec<[u8; 4]> = self.more_groups.iter().map(|id| id.to_le_bytes()).collect();
        let bytes: Vec<&[u8]> = groups.iter().map(|id| &id[..]).collect();
        giving.write(&bytes)?;
        giving.call("setgroups", [groups.len() as u64, giving.at, 0, 0, 0, 0])?;
        // Capabilities survive the change of users, and are set afterwards.
        giving.prctl(libc::PR_SET_SECUREBITS, self.secure_bits | KEEP_CAPS)?;
        for (all, files, ids) in [
            ("setresgid", "setfsgid", self.groups),
            ("setresuid", "setfsuid", self.users),
        ] {
            let [real, effective, saved, fs] = ids.map(u64::from);
            giving.call(all, [real, effective, saved, 0, 0, 0])?;
            giving.call(files, [fs, 0, 0, 0, 0, 0])?;
        }
        giving.capabilities(self.permitted, self.permitted, self.inheritable)?;
        for capability in 0..CAPABILITIES {
            if self.ambient & (1 << capability) != 0 {
                let args = [
                    libc::PR_CAP_AMBIENT as u64,
                    libc::PR_CAP_AMBIENT_RAISE as u64,
                    capability.into(),
                    0,
                    0,
                    0,
                ];
                giving.call("prctl", args)?;
            }
        }
        giving.prctl(
            libc::PR_SET_KEEPCAPS,
            u64::from(self.secure_bits & KEEP_CAPS != 0),
        )?;
        giving.capabilities(self.effective, self.permitted, self.inheritable)?;
        if self.no_new_privileges {
            giving.prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        }
        Ok(())
    }
}

/// A thread that is given an identity.
struct Giving<'a> {
    thread: &'a mut Stopped,
    plain: Plain<'a>,
    /// Room below its stack pointer.
    at: u64,
}

impl<'a> Giving<'a> {
    fn new(thread: &'a mut Stopped, vdso: &'a Vdso) -> Result<Self> {
        let at = (thread.registers()?.rsp - 8192) & !63;
        let plain = Plain { vdso };
        Ok(Self { thread, plain, at })
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<()> {
        let tid = self.thread.tid();
        let bytes = parts.concat();
        // At most a few: 65536 groups would need another place.
        if bytes.len() > 4096 {
            return Err(TraceeError::Unsuitable(format!(
                "the process of thread {tid} has too many groups to be promoted"
            )));
        }
        memory::write(tid, self.at, &bytes).named("write a follower's stack", tid)
    }

    fn call(&mut self, name: &'static str, args: [u64; 6]) -> Result<()> {
        let nr = mvedsua_common::table::number(name);
        self.plain.call_ok(self.thread, name, nr, &args).map(drop)
    }

    fn prctl(&mut self, what: i32, value: u64) -> Result<()> {
        self.call("prctl", [what as u64, value, 0, 0, 0, 0])
    }

    fn capabilities(&mut self, effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
        let mut words = vec![CAPABILITY_VERSION, 0];
        for shift in [0, 32] {
            words.extend([effective, permitted, inheritable].map(|set| (set >> shift) as u32));
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(&[&bytes])?;
        self.call("capset", [self.at, self.at + 8, 0, 0, 0, 0])
    }
}
