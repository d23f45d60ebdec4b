//! t1: a copy of a whole process, all threads exactly where they were.
//!
//! The leader's pause holds only what must be done while it stands still: reading its threads'
//! contexts, patching its vDSO and the clone itself ([`take`]). The follower's threads are made
//! and set up while the leader serves again ([`populate`]).

use mvedsua_common::clock::SLOTS;

use super::clock_slots;
use super::context::Context;
use super::inject::{Guarded, Plain};
use super::inspect;
use super::stub::{Clocks, Vdso};
use super::thread::{Running, Stopped};
use super::{Naming, Result, TraceeError};
use crate::sys::ptrace::{self, Wait};

/// Options with which a leader is traced while an update runs: all events, no `O_EXITKILL`.
pub const LEADER_OPTIONS: u32 =
    ptrace::O_TRACECLONE | ptrace::O_TRACEEXEC | ptrace::O_TRACEEXIT | ptrace::O_TRACESYSGOOD;
/// Options of a follower: it shares the leader's sockets and must never outlive its tracer.
pub const FOLLOWER_OPTIONS: u32 = LEADER_OPTIONS | ptrace::O_EXITKILL;
/// Steps after which a thread that does not leave the vDSO is given up on.
const MOST_STEPS: usize = 20_000;

/// A stopped thread of the leader and what was read from it.
#[derive(Debug)]
pub struct Captured {
    /// The thread, stopped, its registers rewound.
    pub thread: Stopped,
    /// Its state.
    pub context: Context,
}

/// What [`take`] leaves: the leader's other threads are still stopped.
#[derive(Debug)]
pub struct Copied {
    /// The follower's only thread so far, stopped.
    pub follower: Stopped,
    /// The thread of the leader that made the clone; it runs.
    pub cloner: Running,
    /// The middle process, already gone: the clone and the wait for it are in the cloner's record.
    pub middle: i32,
    /// What threads of the leader that serve again reported meanwhile: they stand in those stops.
    pub deferred: Vec<(i32, Wait)>,
}

/// What [`capture`] read, and how clocks are read from now on.
#[derive(Debug)]
pub struct Capture {
    /// The threads.
    pub threads: Vec<Captured>,
    /// Address of the slots for clock readings: thread `n` has the `n`th. `None`: there are none, clocks are
    /// read by system calls.
    pub slots: Option<u64>,
}

/// Reads the contexts of all threads of the stopped process `pid` and makes sure that none stands
/// inside the vDSO code, which is then patched. With `write_down` clock readings need no system call if the
/// machine and the process allow that.
///
/// # Errors
/// When a thread cannot be read; the threads given are lost from view then, but not changed.
pub fn capture(pid: i32, threads: Vec<Stopped>, vdso: &Vdso, write_down: bool) -> Result<Capture> {
    vdso.write_stub(pid)?;
    let mut captured = Vec::with_capacity(threads.len());
    for thread in threads {
        let thread = leave_vdso(thread, vdso)?;
        let context = Context::read(&thread, pid)?;
        if vdso.contains(context.regs.rip) {
            return Err(TraceeError::Unsuitable(format!(
                "thread {} does not leave the vDSO; try again",
                context.tid
            )));
        }
        captured.push(Captured { thread, context });
    }
    let has_slots = write_down
        && vdso.can_log()
        && captured.len() <= SLOTS
        && captured
            .iter()
            .all(|c| clock_slots::gs_is_free(&c.context.regs));
    let mut slots = None;
    let mut complete = Vec::with_capacity(captured.len());
    for Captured {
        thread,
        mut context,
    } in captured
    {
        let map = has_slots && complete.is_empty();
        let (thread, mapped) = context.complete(thread, vdso, pid, map)?;
        slots = slots.or(mapped);
        complete.push(Captured { thread, context });
    }
    if let Some(slots) = slots {
        // Whoever finds this code finds the slots, too: so it comes before anything that points there.
        vdso.write_clock_code(pid, slots)?;
        for (index, captured) in complete.iter_mut().enumerate() {
            let slot = clock_slots::slot(slots, index);
            clock_slots::clear(pid, slot)?;
            captured.context.regs.gs_base = slot;
            captured.thread.set_registers(&captured.context.regs)?;
        }
    }
    vdso.patch(
        pid,
        if slots.is_some() {
            Clocks::Log
        } else {
            Clocks::Calls
        },
    )?;
    Ok(Capture {
        threads: complete,
        slots,
    })
}

/// Steps a thread out of the vDSO.
fn leave_vdso(mut thread: Stopped, vdso: &Vdso) -> Result<Stopped> {
    for _ in 0..MOST_STEPS {
        if !vdso.contains(thread.registers()?.rip) {
            break;
        }
        thread = thread.single_step()?;
    }
    Ok(thread)
}

/// Index of the thread that makes the clone: one with room on its stack, the main thread if it has.
fn cloner_of(pid: i32, captured: &[Captured]) -> usize {
    captured
        .iter()
        .position(|c| c.context.tid == pid)
        .unwrap_or(0)
}

/// Clones the stopped process. `cloned` is called as soon as the copy exists, for the leader to be
/// resumed.
///
/// # Errors
/// When the clone fails: the leader's threads are as they were, those in `captured` still stopped.
pub fn take(
    pid: i32,
    captured: &mut Vec<Captured>,
    vdso: &Vdso,
    cloned: &mut dyn FnMut(Vec<Captured>),
) -> Result<Copied> {
    let Captured { thread, context } = captured.swap_remove(cloner_of(pid, captured));
    let tid = context.tid;
    let mut cloner = Some(
        Guarded::begin(thread, &context, vdso)?
            .into_clone()?
            .resume_to_syscall()?,
    );
    let (mut entered, mut middle, mut follower, mut follower_tid) = (false, None, None, None);
    let mut middle_gone = false;
    let mut serves = false;
    let mut deferred = Vec::new();
    while follower.is_none() || !middle_gone {
        let Some((who, wait)) = ptrace::wait(-1, true).named("wait for the clone", tid)? else {
            return Err(TraceeError::Unexpected {
                tid,
                expected: "clone itself",
                got: "the end of all threads".into(),
            });
        };
        // The cloner after its clone, the other threads after theirs, and whoever they bring to life.
        if (who == tid && serves) || (who != tid && inspect::process_of(who) == Some(pid)) {
            deferred.push((who, wait));
        } else if who == tid {
            let stopped = cloner.take().expect("reported, so it ran").reported();
            match wait {
                Wait::Syscall if !entered => {
                    entered = true;
                    cloner = Some(stopped.resume_to_syscall()?);
                }
                Wait::Syscall => {
                    let result = stopped.registers()?.rax as i64;
                    serves = true;
                    // From here on the stub leads it back to its context without our help.
                    cloner = Some(stopped.resume(0)?);
                    if result < 0 {
                        let source = std::io::Error::from_raw_os_error(-result as i32);
                        return Err(TraceeError::Injected {
                            call: "clone",
                            tid,
                            source,
                        });
                    }
                }
                Wait::Event(libc::PTRACE_EVENT_CLONE) => {
                    middle = Some(stopped.event_message()? as i32);
                    cloner = Some(stopped.resume_to_syscall()?);
                }
                Wait::Interrupted => cloner = Some(stopped.resume_to_syscall()?),
                other => {
                    return Err(TraceeError::Unexpected {
                        tid,
                        expected: "clone itself",
                        got: format!("{other:?}"),
                    });
                }
            }
        } else if Some(who) == follower_tid || (middle.is_some() && middle != Some(who)) {
            if wait == Wait::Interrupted {
                follower = Some(Running::born(who).reported());
                follower_tid = Some(who);
            }
        } else {
            // The middle process: its birth may be reported before the event that names it.
            middle = Some(who);
            match wait {
                Wait::Exited(_) | Wait::Killed(_) => {
                    middle_gone = true;
                    if follower_tid.is_none() {
                        let source = std::io::Error::other("the middle process made no copy");
                        return Err(TraceeError::Injected {
                            call: "clone",
                            tid,
                            source,
                        });
                    }
                }
                Wait::Event(libc::PTRACE_EVENT_CLONE) => {
                    follower_tid = Some(Running::born(who).reported().event_message()? as i32);
                    cloned(std::mem::take(captured));
                    ptrace::resume(who, 0).named("resume", who)?;
                }
                _ => ptrace::resume(who, 0).named("resume", who)?,
            }
        }
    }
    let follower = follower.expect("the loop ends with it");
    follower.set_options(FOLLOWER_OPTIONS | ptrace::O_SUSPEND_SECCOMP)?;
    Ok(Copied {
        follower,
        cloner: cloner.expect("it was resumed"),
        middle: middle.expect("it made the copy"),
        deferred,
    })
}

/// Makes the follower's threads from the contexts of the leader's: pairs of (leader's thread id,
/// follower's thread), the main thread first.
///
/// # Errors
/// When the follower refuses a call; it is killed with its handles' tracer then.
pub fn populate(
    leader: i32,
    follower: Stopped,
    contexts: &[Context],
    vdso: &Vdso,
) -> Result<Vec<(i32, Stopped)>> {
    let clone = mvedsua_common::table::number("clone");
    let main = contexts
        .iter()
        .find(|context| context.tid == leader)
        .ok_or_else(|| {
            TraceeError::Unsuitable(format!("the main thread of process {leader} has ended"))
        })?;
    let mut first = main.apply(follower, vdso)?;
    let mut rest = Vec::with_capacity(contexts.len());
    for context in contexts.iter().filter(|context| context.tid != leader) {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_SETTLS
            | libc::CLONE_CHILD_CLEARTID;
        let args = [
            flags as u64,
            context.regs.rsp,
            0,
            context.tid_address,
            context.regs.fs_base,
            0,
        ];
        let mut born = None;
        let result = Plain { vdso }.call_with(&mut first, "clone", clone, &args, &mut |tid| {
            born = Some(tid);
            Ok(())
        })?;
        let Some(tid) = born else {
            let source = std::io::Error::from_raw_os_error(-result as i32);
            return Err(TraceeError::Injected {
                call: "clone",
                tid: first.tid(),
                source,
            });
        };
        let (thread, _) =
            Running::born(tid).expect("stop at its birth", |wait| wait == Wait::Interrupted)?;
        rest.push((context.tid, context.apply(thread, vdso)?));
    }
    let mut pairs = vec![(leader, first)];
    pairs.append(&mut rest);
    Ok(pairs)
}

/// Stops every thread of a process that is not traced yet: seizes and interrupts them, and looks
/// again until no new one appears. A signal that arrives meanwhile is delivered.
///
/// # Errors
/// When a thread has another tracer; the threads stopped so far are let go.
pub fn seize_all(pid: i32, options: u32) -> Result<Vec<Stopped>> {
    let mut stopped: Vec<Stopped> = Vec::new();
    let outcome = loop {
        let fresh: Vec<i32> = inspect::threads(pid)?
            .into_iter()
            .filter(|tid| stopped.iter().all(|thread| thread.tid() != *tid))
            .collect();
        if fresh.is_empty() {
            break Ok(());
        }
        match seize_some(pid, &fresh, options) {
            Ok(mut more) => stopped.append(&mut more),
            Err(error) => break Err(error),
        }
    };
    match outcome {
        Ok(()) => Ok(stopped),
        Err(error) => {
            release(pid, stopped);
            Err(error)
        }
    }
}

fn seize_some(pid: i32, tids: &[i32], options: u32) -> Result<Vec<Stopped>> {
    let mut running = Vec::new();
    let mut failure = None;
    for &tid in tids {
        match Running::seize(tid, options) {
            Ok(thread) => {
                let _ = thread.interrupt();
                running.push(thread);
            }
            // A thread that ended, or one that the kernel seized at its birth, is no failure.
            Err(TraceeError::Kernel { source, .. })
                if source.raw_os_error() == Some(libc::ESRCH) => {}
            // One that is on its way out is refused with EPERM.
            Err(_) if has_ended(pid, tid) => {}
            Err(_) if traced_by_us(pid, tid) => {
                let thread = Running::born(tid);
                let _ = thread.interrupt();
                running.push(thread);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let mut stopped = Vec::new();
    for thread in running {
        if let Some(thread) = settle(thread)? {
            stopped.push(thread);
        }
    }
    match failure {
        Some(error) => {
            release(pid, stopped);
            Err(error)
        }
        None => Ok(stopped),
    }
}

/// The thread is gone, or will run no more.
fn has_ended(pid: i32, tid: i32) -> bool {
    inspect::status_field(pid, tid, "State").is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// True when the calling thread is the tracer of this thread.
#[must_use]
pub fn traced_by_us(pid: i32, tid: i32) -> bool {
    inspect::status_field(pid, tid, "TracerPid") == Some(nix::unistd::gettid().as_raw().to_string())
}

/// Waits until an interrupted thread stands in the interrupt's stop.
fn settle(mut thread: Running) -> Result<Option<Stopped>> {
    loop {
        let Some((stopped, wait)) = thread.wait()? else {
            return Ok(None);
        };
        thread = match wait {
            Wait::Interrupted => return Ok(Some(stopped)),
            // Any other stop takes the request to stop away: it is made again.
            Wait::Signal(signal) => interrupted_again(stopped.resume(signal)?),
            Wait::GroupStop(signal) => {
                return Err(TraceeError::Unsuitable(format!(
                    "the process is stopped by signal {signal}; continue it first (kill -CONT)"
                )));
            }
            _ => interrupted_again(stopped.resume(0)?),
        };
    }
}

fn interrupted_again(thread: Running) -> Running {
    // A thread that is gone will be reported as such.
    let _ = thread.interrupt();
    thread
}

/// Lets threads go: untraced, running as before. A call that our stop interrupted is made again.
pub fn release(pid: i32, threads: Vec<Stopped>) {
    for thread in threads {
        if let Ok(mut regs) = thread.registers() {
            let genuine = inspect::deliverable_signals(pid, thread.tid()) != 0;
            if super::context::rewind(&mut regs, genuine) {
                let _ = thread.set_registers(&regs);
            }
        }
        let _ = thread.detach(0);
    }
}
