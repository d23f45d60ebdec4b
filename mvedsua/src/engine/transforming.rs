//! Between t1 and t2: the bundle's transformer at work in one thread of the follower, while its other threads stand
//! and the leader serves. The pump goes on: what the leader does meanwhile waits in the ring.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mvedsua_common::spec::Class;
use mvedsua_common::table;

use super::apply::{ANYWHERE, Applied, Inside, OVER, PAGE, Placed};
use super::following::{Following, Stop};
use super::leader_events::died_of;
use super::pair::ROOT;
use super::side::Why;
use crate::dsu::{CONTROL_LEN, Moved, TransformControl, TransformPlan, TransformState};
use crate::session::{TransformationStatus, UpdateKind};
use crate::sys::memory;
use crate::sys::ptrace::{self, Registers, Wait};
use crate::tracee::inject::Plain;
use crate::tracee::inspect;
use crate::tracee::symbol;
use crate::tracee::thread::Stopped;
use crate::tracee::unwind::Unwinder;

/// Bytes of the stack that a transformer gets.
const STACK: u64 = 8 << 20;
/// Most of a stack that is looked through for pointers to moved objects, in bytes.
const MOST_STACK: u64 = 64 << 20;

/// How far the follower's state is.
pub(super) enum Transformation {
    /// There is nothing to transform, or it was done and told.
    None,
    /// The transformer runs.
    Running(Box<Transforming>),
    /// It has just ended, and the new version is in force.
    Finished(Finished),
}

/// A transformer that has done its work.
pub(super) struct Finished {
    /// The bundle.
    pub(super) applied: Applied,
    /// File that it was made from.
    pub(super) name: String,
    /// Objects that it said it has done.
    pub(super) objects: u64,
    /// Objects that it has declared with `mvedsua_moved`.
    pub(super) declared: u64,
    /// How long it ran.
    pub(super) took: Duration,
}

/// A transformer at work.
pub(super) struct Transforming {
    placed: Placed,
    tid: i32,
    original: Registers,
    extended: Vec<u8>,
    /// Address and bytes of its stack with the page below.
    stack: (u64, u64),
    /// Between entry and exit of a system call.
    inside: bool,
    started: Instant,
    limit: Duration,
    /// Its last word on its progress.
    progress: (u64, u64),
}

impl Transformation {
    pub(super) const fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// File of the transformer that runs.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Running(running) => running.placed.transformer.as_deref(),
            _ => None,
        }
    }

    pub(super) fn progress(&self) -> Option<TransformationStatus> {
        match self {
            Self::Running(running) => Some(TransformationStatus::new(
                running.progress.0,
                running.progress.1,
                running.started.elapsed().as_secs_f64(),
            )),
            _ => None,
        }
    }

    /// Tells once that it has ended.
    pub(super) fn take_finished(&mut self) -> Option<Finished> {
        if !matches!(self, Self::Finished(_)) {
            return None;
        }
        match std::mem::replace(self, Self::None) {
            Self::Finished(finished) => Some(finished),
            _ => None,
        }
    }
}

/// What a system call of the transformer means.
#[derive(Debug, PartialEq, Eq)]
enum Asks {
    /// It is about memory of its own, or reads a clock, as allocators do to give memory back.
    Harmless,
    /// It would wait for a lock that nobody gives back: all other threads stand.
    Lock,
    /// It would reach the world outside.
    Other,
}

fn asks(nr: u16, args: &[u64; 6]) -> Asks {
    const COMMAND: u64 = 0x7f;
    let is = |name| nr == table::number(name);
    if is("futex") {
        let waits = [
            libc::FUTEX_WAIT,
            libc::FUTEX_WAIT_BITSET,
            libc::FUTEX_LOCK_PI,
            libc::FUTEX_WAIT_REQUEUE_PI,
            libc::FUTEX_LOCK_PI2,
        ];
        let command = (args[1] & COMMAND) as i32;
        return if waits.contains(&command) {
            Asks::Lock
        } else {
            Asks::Harmless
        };
    }
    // Code comes from the bundle only, and is never writable.
    if (is("mmap") || is("mprotect")) && args[2] & libc::PROT_EXEC as u64 != 0 {
        return Asks::Other;
    }
    let anonymous = args[3] & libc::MAP_ANONYMOUS as u64 != 0;
    let memory = ["munmap", "mremap", "mprotect", "brk", "madvise"]
        .into_iter()
        .any(is);
    let clock = table::syscall(nr).is_some_and(|call| call.class_of(args) == Class::Time);
    if memory || clock || (is("mmap") && anonymous) {
        Asks::Harmless
    } else {
        Asks::Other
    }
}

/// The thread has just executed `syscall`; other ways into the kernel have other numbers for the calls.
fn by_syscall(pid: i32, regs: &Registers) -> bool {
    let mut code = [0u8; 2];
    memory::read(pid, regs.rip.wrapping_sub(2), &mut code).is_ok() && code == [0x0f, 0x05]
}

/// Does this range lie in memory that the process has?
fn is_mapped(pid: i32, start: u64, len: u64) -> Result<bool, Stop> {
    let Some(end) = start.checked_add(len) else {
        return Ok(false);
    };
    let mut at = start;
    for map in inspect::maps(pid)? {
        if map.start <= at && at < map.end {
            at = map.end;
        }
    }
    Ok(at >= end)
}

impl Transforming {
    fn plan(&self) -> &TransformPlan {
        self.placed
            .plan
            .transform
            .as_ref()
            .expect("only such a bundle is given to `start_transformer`")
    }

    fn control(&self, pid: i32) -> Option<TransformControl> {
        let mut bytes = vec![0; CONTROL_LEN as usize];
        memory::read(pid, self.plan().control, &mut bytes).ok()?;
        TransformControl::parse(&bytes)
    }

    fn name(&self) -> &str {
        self.placed.transformer.as_deref().unwrap_or("?")
    }

    /// Where an address is, in the transformer's own functions too.
    fn place(&self, pid: i32, address: u64) -> String {
        let own = self
            .plan()
            .functions
            .iter()
            .find(|function| function.start <= address && address < function.end);
        match own {
            Some(function) => format!(
                "{}+{:#x} of {}",
                function.name,
                address - function.start,
                self.name()
            ),
            None => symbol::describe(pid, address),
        }
    }

    fn how_far(&self, pid: i32) -> String {
        match self.control(pid) {
            Some(control) if control.done > 0 => format!(" after {} objects", control.done),
            _ => String::new(),
        }
    }
}

impl Following {
    /// Starts the transformer of a placed bundle in the follower's main thread. All threads stand.
    ///
    /// # Errors
    /// When the follower is gone or has no room for a stack.
    pub(super) fn start_transformer(&mut self, placed: Placed) -> Result<(), Stop> {
        let pair = ROOT;
        let pid = self.pairs[pair].follower.pid;
        let limit = match &self.options.kind {
            UpdateKind::Bundle {
                transform_limit, ..
            } => *transform_limit,
            _ => Duration::ZERO,
        };
        let mut thread = self.pairs[pair]
            .follower
            .reported(pid)
            .ok_or_else(|| Stop::roll_back("the follower has no main thread"))?;
        let inside = Inside {
            pid,
            vdso: &self.pairs[pair].vdso,
        };
        // The page below stays without access: a stack that is too small is a crash, not a mystery.
        let stack = inside.map(&mut thread, 0, STACK + PAGE, libc::PROT_NONE, ANYWHERE)?;
        let usable = libc::PROT_READ | libc::PROT_WRITE;
        inside.map(&mut thread, stack + PAGE, STACK, usable, OVER)?;
        let original = thread.registers()?;
        let extended = ptrace::extended_state(pid)
            .map_err(|e| Stop::roll_back(format!("reading the extended state: {e}")))?;
        let running = Transforming {
            placed,
            tid: pid,
            original,
            extended,
            stack: (stack, STACK + PAGE),
            inside: false,
            started: Instant::now(),
            limit,
            progress: (0, 0),
        };
        let mut regs = original;
        regs.rip = running.plan().entry;
        // As after a call: 8 bytes off the 16 that the ABI wants before one.
        regs.rsp = stack + STACK + PAGE - 72;
        regs.rbp = 0;
        regs.orig_rax = u64::MAX;
        regs.eflags &= !0x400;
        thread.set_registers(&regs)?;
        self.transformation = Transformation::Running(Box::new(running));
        self.pairs[pair]
            .follower
            .add_running(thread.resume_to_syscall()?);
        Ok(())
    }

    /// A report of the follower while its transformer runs.
    pub(super) fn transformer_report(&mut self, tid: i32, wait: Wait) -> Result<(), Stop> {
        let pair = ROOT;
        let pid = self.pairs[pair].follower.pid;
        let Some(thread) = self.pairs[pair].follower.reported(tid) else {
            return Ok(());
        };
        let Transformation::Running(running) = &mut self.transformation else {
            return Ok(());
        };
        if tid != running.tid {
            // It stands until the transformer has ended.
            self.pairs[pair]
                .follower
                .add_stopped(thread, Why::Transforming);
            return Ok(());
        }
        match wait {
            Wait::Syscall if running.inside => running.inside = false,
            Wait::Syscall => {
                let regs = thread.registers()?;
                let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
                let nr = regs.orig_rax as u16;
                let verdict = if by_syscall(pid, &regs) {
                    asks(nr, &args)
                } else {
                    Asks::Other
                };
                if verdict != Asks::Harmless {
                    let stop = refused(running, pid, nr, &regs, &verdict);
                    self.pairs[pair]
                        .follower
                        .add_stopped(thread, Why::Transforming);
                    return Err(stop);
                }
                running.inside = true;
            }
            Wait::Signal(signal) => {
                let state = running.control(pid);
                if signal == libc::SIGTRAP {
                    match state.map(|control| (control.state, control)) {
                        Some((TransformState::Done, control)) => {
                            return self.transformed(thread, &control);
                        }
                        Some((TransformState::Failed, control)) => {
                            let reason = format!(
                                "the transformer {} gave up{}: {}",
                                running.name(),
                                running.how_far(pid),
                                control.why
                            );
                            self.pairs[pair]
                                .follower
                                .add_stopped(thread, Why::Transforming);
                            return Err(Stop::roll_back(reason));
                        }
                        _ => {}
                    }
                }
                let info = ptrace::signal_info(tid).map_err(|e| {
                    Stop::roll_back(format!("reading a signal of thread {tid}: {e}"))
                })?;
                // A signal from outside is the leader's business: the follower gets its copy of it.
                if info.si_code > 0 {
                    let stop = crashed(running, pid, &thread, signal, &info);
                    self.pairs[pair]
                        .follower
                        .add_stopped(thread, Why::Transforming);
                    return Err(stop);
                }
            }
            Wait::Exited(_) | Wait::Killed(_) => {
                self.pairs[pair].follower.ended(tid);
                return Err(Stop::roll_back(
                    "the follower ended while it was transformed",
                ));
            }
            _ => {}
        }
        self.pairs[pair]
            .follower
            .add_running(thread.resume_to_syscall()?);
        Ok(())
    }

    /// Looks after the transformer's progress and its time limit.
    pub(super) fn watch_transformer(&mut self) -> Result<(), Stop> {
        let pair = ROOT;
        let pid = self.pairs[pair].follower.pid;
        let Transformation::Running(running) = &mut self.transformation else {
            return Ok(());
        };
        if let Some(control) = running.control(pid) {
            running.progress = (control.done, control.total);
        }
        self.progress = Instant::now();
        if running.started.elapsed() < running.limit {
            return Ok(());
        }
        let stands = ptrace::interrupt(running.tid)
            .ok()
            .and_then(|()| ptrace::wait(running.tid, true).ok())
            .and_then(|_| ptrace::registers(running.tid).ok())
            .map_or_else(String::new, |regs| {
                format!("; it stands in {}", running.place(pid, regs.rip))
            });
        Err(Stop::roll_back(format!(
            "the transformer {} did not end within {}{}{stands}; raise --transform-limit if it only needs more time",
            running.name(),
            humantime::format_duration(running.limit),
            running.how_far(pid),
        )))
    }

    /// The transformer has returned: everything that holds a pointer to a moved object follows, the
    /// new version is put in force, and the follower begins to consume.
    fn transformed(&mut self, thread: Stopped, control: &TransformControl) -> Result<(), Stop> {
        let pair = ROOT;
        let pid = self.pairs[pair].follower.pid;
        let Transformation::Running(running) =
            std::mem::replace(&mut self.transformation, Transformation::None)
        else {
            return Ok(());
        };
        let took = running.started.elapsed();
        let mut thread = thread;
        let tid = thread.tid();
        let failed = |what: &str, e: std::io::Error| {
            Stop::roll_back(format!("{what} of the transformed follower: {e}"))
        };
        let broken = || {
            Stop::roll_back(format!(
                "the transformer {} has broken its own table of moved objects",
                running.name()
            ))
        };
        let len = control.table_len().ok_or_else(broken)?;
        // Before room is made for it: the words of a transformer are no reason to ask for gigabytes.
        if !is_mapped(pid, control.table.0, len)? {
            return Err(broken());
        }
        let mut slots = vec![0; len as usize];
        memory::read(pid, control.table.0, &mut slots)
            .map_err(|e| failed("reading the moved objects", e))?;
        let moved = Arc::new(Moved::new(slots, &running.plan().moved));
        ptrace::set_extended_state(tid, &running.extended)
            .map_err(|e| failed("setting the extended state", e))?;
        thread.set_registers(&running.original)?;
        let plain = Plain {
            vdso: &self.pairs[pair].vdso,
        };
        let nr = table::number("munmap");
        for (start, bytes) in [
            running.stack,
            running.plan().range,
            (control.table.0, len.next_multiple_of(PAGE)),
        ] {
            if bytes > 0 {
                plain.call_ok(&mut thread, "munmap", nr, &[start, bytes, 0, 0, 0, 0])?;
            }
        }
        let mut threads = self.pairs[pair].follower.take_stopped(Why::Transforming);
        threads.push(thread);
        let mut unwinder = Unwinder::new(pid, running.placed.frames())?;
        for thread in &threads {
            follow(pid, thread, &moved, &mut unwinder)?;
            follow_thread_local(pid, thread, &moved, running.placed.thread_local())?;
        }
        let mut thread = threads.pop().expect("it was pushed last");
        let applied = running
            .placed
            .finish(pid, &mut thread, &self.pairs[pair].vdso)
            .map_err(|e| Stop::roll_back(format!("putting the new version in force: {e}")))?;
        threads.push(thread);
        self.pairs[pair].epoll.objects_moved(moved);
        for thread in threads {
            thread.set_options(self.follower_options())?;
            self.pairs[pair].follower.add_running(thread.resume(0)?);
        }
        self.progress = Instant::now();
        self.transformation = Transformation::Finished(Finished {
            applied,
            name: running.name().to_owned(),
            objects: control.done,
            declared: control.objects,
            took,
        });
        Ok(())
    }
}

fn refused(running: &Transforming, pid: i32, nr: u16, regs: &Registers, verdict: &Asks) -> Stop {
    let at = running.place(pid, regs.rip);
    if *verdict == Asks::Lock {
        return Stop::Later(format!(
            "the transformer {} needs a lock that a stopped thread holds, in {at}",
            running.name()
        ));
    }
    let name = table::syscall(nr).map_or("of an unknown number", |call| call.name);
    Stop::roll_back(format!(
        "the transformer {} made the system call {name} in {at}{}; only calls for memory and clocks are allowed",
        running.name(),
        running.how_far(pid)
    ))
}

fn crashed(
    running: &Transforming,
    pid: i32,
    thread: &Stopped,
    signal: i32,
    info: &libc::siginfo_t,
) -> Stop {
    let regs = thread.registers().ok();
    let at = regs.map_or_else(String::new, |regs| {
        format!(" in {}", running.place(pid, regs.rip))
    });
    let about = match signal {
        libc::SIGSEGV | libc::SIGBUS => format!(" at {:#x}", ptrace::fault_address(info)),
        _ => String::new(),
    };
    Stop::roll_back(format!(
        "the transformer {} {}{about}{at}{}",
        running.name(),
        died_of(signal),
        running.how_far(pid)
    ))
}

/// Registers and stack of a stopped thread that hold the start of a moved object.
fn follow(pid: i32, thread: &Stopped, moved: &Moved, unwinder: &mut Unwinder) -> Result<(), Stop> {
    if moved.is_empty() {
        return Ok(());
    }
    let mut regs = thread.registers()?;
    let stack = unwinder.walk(&regs);
    for register in [
        &mut regs.rax,
        &mut regs.rbx,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rsi,
        &mut regs.rdi,
        &mut regs.rbp,
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
    ] {
        if let Some(new) = moved.follow(*register) {
            *register = new;
        }
    }
    thread.set_registers(&regs)?;
    let maps = inspect::maps(pid)?;
    let Some(map) = maps
        .iter()
        .find(|map| map.start <= regs.rsp && regs.rsp < map.end && map.write)
    else {
        return Ok(());
    };
    // The outermost frame bounds the stack, where it is known: a mapping may go on behind it.
    let outermost = stack
        .frames
        .last()
        .and_then(|frame| frame.register(gimli::X86_64::RSP))
        .filter(|_| stack.complete)
        .map_or(u64::MAX, |rsp| rsp.saturating_add(PAGE));
    let start = (regs.rsp - 128).max(map.start).next_multiple_of(8);
    let end = map.end.min(outermost).min(start + MOST_STACK);
    follow_range(pid, thread, moved, start, end)
}

/// The same in the program's thread-local variables of a thread, so many bytes below its thread pointer.
fn follow_thread_local(pid: i32, thread: &Stopped, moved: &Moved, bytes: u64) -> Result<(), Stop> {
    let end = thread.registers()?.fs_base;
    let start = end.saturating_sub(bytes) & !7;
    if moved.is_empty() || bytes == 0 || end == 0 {
        return Ok(());
    }
    follow_range(pid, thread, moved, start, end & !7)
}

fn follow_range(
    pid: i32,
    thread: &Stopped,
    moved: &Moved,
    start: u64,
    end: u64,
) -> Result<(), Stop> {
    let failed = |e: std::io::Error| {
        Stop::roll_back(format!(
            "following moved objects in {start:#x}-{end:#x} of thread {}: {e}",
            thread.tid()
        ))
    };
    let mut bytes = vec![0; end.saturating_sub(start) as usize];
    memory::read(pid, start, &mut bytes).map_err(failed)?;
    for at in moved.follow_words(&mut bytes) {
        memory::write(pid, start + at as u64, &bytes[at..at + 8]).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_for_memory_of_its_own_pass() {
        let with = |name: &str, second: u64, fourth: u64| {
            asks(table::number(name), &[0, second, 0, fourth, 0, 0])
        };
        assert_eq!(with("brk", 0, 0), Asks::Harmless);
        assert_eq!(
            with("mmap", 4096, libc::MAP_ANONYMOUS as u64),
            Asks::Harmless
        );
        assert_eq!(with("mmap", 4096, 0), Asks::Other, "a file");
        assert_eq!(with("write", 0, 0), Asks::Other);
        assert_eq!(with("clone", 0, 0), Asks::Other);
        assert_eq!(with("clock_gettime", 0, 0), Asks::Harmless);
        let exec = libc::PROT_EXEC as u64;
        for name in ["mprotect", "mmap"] {
            let args = [0, 4096, exec, libc::MAP_ANONYMOUS as u64, 0, 0];
            assert_eq!(asks(table::number(name), &args), Asks::Other, "{name}");
        }
        let private = libc::FUTEX_PRIVATE_FLAG as u64;
        assert_eq!(
            with("futex", libc::FUTEX_WAIT as u64 | private, 0),
            Asks::Lock
        );
        assert_eq!(
            with("futex", libc::FUTEX_WAKE as u64 | private, 0),
            Asks::Harmless
        );
    }
}
