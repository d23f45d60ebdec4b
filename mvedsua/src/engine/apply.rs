//! t2: a bundle is applied to the stopped follower, before it follows. The leader serves meanwhile and
//! knows nothing of it; whatever fails, the follower is thrown away.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use mvedsua_common::spec::Class;
use mvedsua_common::table;

use super::activeness::{Moment, Scene};
use crate::dsu::{
    Bundle, DsuError, Import, Manifest, Plan, Protection, Write, choose_base, hex, plan,
};
use crate::sys::memory;
use crate::tracee::call::{self, CallError, Limits};
use crate::tracee::inject::Plain;
use crate::tracee::inspect;
use crate::tracee::module::{Definition, Libraries};
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Stopped;
use crate::tracee::version::{Mark, Named, PlacedFrames, Version};
use crate::tracee::{Result, TraceeError};

pub(super) const PAGE: u64 = 4096;
/// `MAP_PRIVATE | MAP_ANONYMOUS`, and where it must lie nowhere else.
pub(super) const ANYWHERE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
const EXACTLY: u64 = ANYWHERE | libc::MAP_FIXED_NOREPLACE as u64;
pub(super) const OVER: u64 = ANYWHERE | libc::MAP_FIXED as u64;
/// Longest time for a function of a library that is called while a bundle is applied.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of so many bundles the call frame information is kept in the process.
const MOST_FRAMES: usize = 8;

/// A bundle was applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    /// Functions that were placed.
    pub(super) functions: usize,
    /// Bytes of code and data that were placed.
    pub(super) bytes: usize,
    /// Time from the first look at the follower to the last write.
    pub(super) took: Duration,
}

/// Why a bundle was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// At another moment it may work: threads stand in code that changes. Their stacks.
    #[error("threads stand in functions that the update changes:\n{0}")]
    Busy(String),
    /// The bundle does not fit the process.
    #[error(transparent)]
    Dsu(#[from] DsuError),
    /// The process is not what it should be.
    #[error(
        "{what} at {address:#x} is not what the bundle was made for: it has {found}, and {expected} belongs there; was the program patched by somebody else?"
    )]
    Memory {
        /// What should be there.
        what: String,
        /// Where.
        address: u64,
        /// Hexadecimal.
        found: String,
        /// Hexadecimal.
        expected: String,
    },
    /// No free addresses within reach of the program.
    #[error("there is no room of {bytes} bytes within 2 GiB of the program")]
    NoRoom {
        /// What is needed.
        bytes: u64,
    },
    /// A function of a library did not do what it is for.
    #[error("calling {function} inside the follower: {source}")]
    Call {
        /// The function.
        function: String,
        /// What became of it.
        source: CallError,
    },
    /// The mechanism failed.
    #[error(transparent)]
    Tracee(#[from] TraceeError),
}

/// A bundle whose code and data are in the process, and not in force yet: [`Placed::finish`] does that,
/// once a transformer has run if there is one.
pub(super) struct Placed {
    /// What was planned.
    pub(super) plan: Plan,
    /// File that the transformer was made from.
    pub(super) transformer: Option<String>,
    mark: Mark,
    version: Version,
    functions: usize,
    bytes: usize,
    start: Instant,
}

/// Places the bundle in the stopped process `pid`, whose threads are given with the ids of the leader's.
/// No filter may be in force: calls are made inside it.
///
/// # Errors
/// See [`ApplyError`]; the process must be thrown away then.
pub(super) fn place(
    bundle: &Bundle,
    pid: i32,
    threads: &mut [(i32, Stopped)],
    vdso: &Vdso,
) -> std::result::Result<Placed, ApplyError> {
    let start = Instant::now();
    let manifest = &bundle.manifest;
    let version = Version::of(pid)?;
    let plan = plan_for(manifest, pid, &version, &mut threads[0].1, vdso)?;
    for write in &plan.switch {
        check(pid, write)?;
    }
    let scene = Scene {
        pid,
        busy: &plan.busy,
        manifest,
        placement: &version.placement(),
        placed: version.mark.as_ref().map_or(&[], |(mark, _)| &mark.frames),
    };
    let restarts = match scene.moment(threads)? {
        Moment::Good(restarts) => restarts,
        Moment::Bad(text) => return Err(ApplyError::Busy(text)),
    };
    if plan.transform.is_some()
        && let Some(text) = scene.allocating(threads)?
    {
        return Err(ApplyError::Busy(text));
    }
    let thread = &mut threads[0].1;
    let inside = Inside { pid, vdso };
    inside.place(thread, &plan)?;
    if let Some(table) = plan.unwind {
        let libraries = Libraries::of(pid, &version.program)?;
        let name = "__register_frame";
        let found = libraries.find(name, None).ok_or(DsuError::Unresolved {
            symbol: name.into(),
            version: None,
            library: Some("libgcc_s.so.1".into()),
        })?;
        inside.call(thread, name, found.address, &[table])?;
    }
    let mark = Mark {
        placement: plan.after.clone(),
        name: manifest.new.name.clone(),
        functions: functions(manifest, &plan),
        frames: frames(manifest, &plan, &version),
    };
    for (at, regs) in restarts {
        threads[at].1.set_registers(&regs)?;
    }
    Ok(Placed {
        plan,
        transformer: manifest.transform.as_ref().map(|t| t.source.clone()),
        mark,
        version,
        functions: manifest.report.functions.len(),
        bytes: manifest.pieces.iter().map(|p| p.bytes.len()).sum(),
        start,
    })
}

impl Placed {
    /// How to walk stacks through what was placed.
    pub(super) fn frames(&self) -> &[PlacedFrames] {
        &self.mark.frames
    }

    /// Bytes of the program's thread-local variables, which end at each thread's thread pointer.
    pub(super) const fn thread_local(&self) -> u64 {
        self.version.program.thread_local
    }

    /// Puts the new version in force: every old entry leads to the new code from now on.
    ///
    /// # Errors
    /// As [`place`].
    pub(super) fn finish(
        &self,
        pid: i32,
        thread: &mut Stopped,
        vdso: &Vdso,
    ) -> std::result::Result<Applied, ApplyError> {
        let inside = Inside { pid, vdso };
        inside.leave_mark(thread, &self.mark, &self.version)?;
        for write in &self.plan.switch {
            inside.write(write)?;
        }
        Ok(Applied {
            functions: self.functions,
            bytes: self.bytes,
            took: self.start.elapsed(),
        })
    }
}

/// Address in the process minus address in the new build.
fn base(manifest: &Manifest, plan: &Plan) -> u64 {
    plan.fill
        .first()
        .zip(manifest.pieces.first())
        .map_or(0, |(write, piece)| write.addr.wrapping_sub(piece.addr))
}

/// How to walk the stacks of all placed functions that may still run.
fn frames(manifest: &Manifest, plan: &Plan, version: &Version) -> Vec<PlacedFrames> {
    let mut all = match &version.mark {
        Some((mark, _)) => mark.frames.clone(),
        None => Vec::new(),
    };
    if let Some(frames) = &manifest.frames {
        let (start, len) = plan.reserve;
        all.push(PlacedFrames {
            range: (start, start + len),
            base: base(manifest, plan),
            frames: frames.clone(),
        });
    }
    // A frame that was left behind so many updates ago is looked at word by word.
    let old = all.len().saturating_sub(MOST_FRAMES);
    all.split_off(old)
}

fn functions(manifest: &Manifest, plan: &Plan) -> Vec<Named> {
    let base = base(manifest, plan);
    let mut named: Vec<Named> = manifest
        .report
        .functions
        .iter()
        .map(|note| Named {
            start: base.wrapping_add(note.new_addr),
            name: note.name.clone(),
        })
        .collect();
    named.sort_by_key(|function| function.start);
    named
}

fn plan_for(
    manifest: &Manifest,
    pid: i32,
    version: &Version,
    thread: &mut Stopped,
    vdso: &Vdso,
) -> std::result::Result<Plan, ApplyError> {
    let taken: Vec<(u64, u64)> = inspect::maps(pid)?
        .iter()
        .map(|map| (map.start, map.end))
        .collect();
    let base = choose_base(manifest, version.program.range, &taken).ok_or_else(|| {
        let (low, high) = manifest.span();
        ApplyError::NoRoom { bytes: high - low }
    })?;
    // Only a few updates need a new symbol: then the libraries' symbol tables are read.
    let libraries = if manifest.imports.is_empty() {
        None
    } else {
        Some(Libraries::of(pid, &version.program)?)
    };
    // The resolver of an indirect function runs inside the follower; what stops it is told below.
    let thread = RefCell::new(thread);
    let failed = RefCell::new(None);
    let resolve = |import: &Import| -> Option<u64> {
        let Definition { address, indirect } = libraries
            .as_ref()?
            .find(&import.symbol, import.version.as_deref())?;
        if !indirect {
            return Some(address);
        }
        let inside = Inside { pid, vdso };
        match inside.call(&mut thread.borrow_mut(), &import.symbol, address, &[]) {
            Ok(chosen) => Some(chosen),
            Err(error) => {
                *failed.borrow_mut() = Some(error);
                None
            }
        }
    };
    let plan = plan(manifest, &version.placement(), base, &resolve);
    match failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(plan?),
    }
}

/// The bytes that a write replaces must be the ones that the bundle knows.
fn check(pid: i32, write: &Write) -> std::result::Result<(), ApplyError> {
    let Some(expected) = &write.expected else {
        return Ok(());
    };
    let mut found = vec![0; expected.bytes.len()];
    let read = memory::read(pid, write.addr, &mut found);
    if read.is_ok() && expected.matches(&found) {
        return Ok(());
    }
    let short = |bytes: &[u8]| hex(&bytes[..bytes.len().min(16)]);
    Err(ApplyError::Memory {
        what: write.what.clone(),
        address: write.addr,
        found: if read.is_ok() {
            short(&found)
        } else {
            "no memory".into()
        },
        expected: short(&expected.bytes),
    })
}

/// Changes inside of the stopped follower.
pub(super) struct Inside<'a> {
    pub(super) pid: i32,
    pub(super) vdso: &'a Vdso,
}

impl Inside<'_> {
    pub(super) fn map(
        &self,
        thread: &mut Stopped,
        address: u64,
        len: u64,
        protection: i32,
        flags: u64,
    ) -> Result<u64> {
        let plain = Plain { vdso: self.vdso };
        let nr = table::number("mmap");
        let args = [address, len, protection as u64, flags, u64::MAX, 0];
        plain.call_ok(thread, "mmap", nr, &args)
    }

    /// Maps and fills the pieces. Pages get their final protection at once: nothing is ever writable and
    /// executable, the bytes come through `/proc/PID/mem`.
    fn place(&self, thread: &mut Stopped, plan: &Plan) -> std::result::Result<(), ApplyError> {
        let (start, len) = plan.reserve;
        if len == 0 {
            return Ok(());
        }
        self.map(thread, start, len, libc::PROT_NONE, EXACTLY)?;
        for mapping in &plan.mappings {
            let protection = match mapping.protection {
                Protection::Read => libc::PROT_READ,
                Protection::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
                Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            };
            self.map(thread, mapping.addr, mapping.len, protection, OVER)?;
        }
        for write in &plan.fill {
            self.write(write)?;
        }
        for copy in &plan.copies {
            let mut bytes = vec![0; copy.len as usize];
            self.named(
                "read a library",
                memory::read(self.pid, copy.from, &mut bytes),
            )?;
            self.named(
                "write a copy",
                memory::force_write(self.pid, copy.to, &bytes),
            )?;
        }
        Ok(())
    }

    fn write(&self, write: &Write) -> Result<()> {
        let written = memory::force_write(self.pid, write.addr, &write.bytes);
        self.named("write the new version", written)
    }

    fn named<T>(&self, what: &'static str, result: std::io::Result<T>) -> Result<T> {
        result.map_err(|source| TraceeError::Kernel {
            what,
            tid: self.pid,
            source,
        })
    }

    /// Says in the process itself what it runs from now on, instead of what an earlier bundle said.
    fn leave_mark(&self, thread: &mut Stopped, mark: &Mark, version: &Version) -> Result<()> {
        let (bytes, len) = mark.to_bytes()?;
        // With a page without access on both sides: the kernel joins equal neighbours, and a mark is
        // found by the beginning of its mapping.
        let at = self.map(thread, 0, len + 2 * PAGE, libc::PROT_NONE, ANYWHERE)? + PAGE;
        self.map(thread, at, len, libc::PROT_READ, OVER)?;
        self.named("write the mark", memory::force_write(self.pid, at, &bytes))?;
        if let Some((_, (old, old_len))) = &version.mark {
            let plain = Plain { vdso: self.vdso };
            let nr = table::number("munmap");
            let args = [old - PAGE, old_len + 2 * PAGE, 0, 0, 0, 0];
            plain.call_ok(thread, "munmap", nr, &args)?;
        }
        Ok(())
    }

    fn call(
        &self,
        thread: &mut Stopped,
        name: &str,
        address: u64,
        args: &[u64],
    ) -> std::result::Result<u64, ApplyError> {
        let limits = Limits {
            deadline: Instant::now() + PATIENCE,
            allowed: &|nr, args| {
                table::syscall(nr).is_some_and(|call| call.class_of(args) == Class::Local)
            },
        };
        call::function(thread, self.vdso, address, args, None, limits).map_err(|source| {
            ApplyError::Call {
                function: name.to_owned(),
                source,
            }
        })
    }
}
