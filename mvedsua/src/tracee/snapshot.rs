//! t1: a copy of a whole process, all threads exactly where they were.
//!
//! The leader's pause holds only what must be done while it stands still: reading its threads'
//! contexts, patching its vDSO and the clone itself ([`take`]). What can only be learned from a thread
//! itself it leaves behind on its way out ([`learn`]); the follower's threads are made and set up while the
//! leader serves again ([`populate`]).

use std::time::{Duration, Instant};

use mvedsua_common::clock::SLOTS;

use super::clock_slots;
use super::context::Context;
use super::inject::{Guarded, Plain};
use super::inspect;
use super::pid_namespace::PidNamespace;
use super::stack;
use super::standstill::{Patience, gather};
use super::stub::{Clocks, QUERY_DONE, Vdso};
use super::thread::{Running, Stopped};
use super::{Naming, Result, TraceeError};
use crate::sys::ptrace::{self, Wait};
use crate::sys::{memory, pidfd};

/// Options with which a leader is traced while an update runs: all events, no `O_EXITKILL`.
pub const LEADER_OPTIONS: u32 =
    ptrace::O_TRACECLONE | ptrace::O_TRACEEXEC | ptrace::O_TRACEEXIT | ptrace::O_TRACESYSGOOD;
/// Options of a follower: it shares the leader's sockets and must never outlive its tracer.
pub const FOLLOWER_OPTIONS: u32 = LEADER_OPTIONS | ptrace::O_EXITKILL;
/// What comes to both where children are followed. Not `vfork`: such a child shares its maker's memory.
pub const TREE_OPTIONS: u32 = ptrace::O_TRACEFORK;
/// Moments at which a thread is found inside the vDSO before it is given up on.
const MOST_LOOKS: u32 = 200;
/// How long a thread that was in the vDSO runs between two looks: 1 us to this many.
const LONGEST_RUN: u32 = 32;
/// Longest time for the answers of a thread that runs again. It needs microseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A stopped thread of the leader and what was read from it.
#[derive(Debug)]
pub struct Captured {
    /// The thread, stopped, its registers rewound.
    pub thread: Stopped,
    /// Its state.
    pub context: Context,
}

/// What [`take`] leaves.
#[derive(Debug)]
pub struct Copied {
    /// The follower's only thread so far, stopped.
    pub follower: Stopped,
    /// The id under which the cloner has seen the middle process, already gone: the clone and the wait for it
    /// are in the cloner's record.
    pub middle: i32,
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

/// Brings the stopped threads of process `pid`, all of them, out of the clock functions, which are about to be patched: none stands in the vDSO then, and none
/// is in the handler of a signal that came there. Such a handler returns into a reading that was begun before the update,
/// and which each side would finish by itself; or to what was overwritten meanwhile; or to the code of a killed agent.
///
/// # Errors
/// [`TraceeError::Passing`] if a handler is not through, [`TraceeError::Unsuitable`] if one is on no [known
/// stack](stack). In any case `threads` are those that stand.
pub fn leave_clocks(pid: i32, threads: &mut Vec<Stopped>, vdso: &Vdso) -> Result<()> {
    leave_vdso(pid, threads, vdso)?;
    let listed = inspect::threads(pid)?;
    // Most often there are no others, and in the pause each look counts.
    let is_new = |tid: &i32| {
        !inspect::thread_has_ended(pid, *tid) && !threads.iter().any(|one| one.tid() == *tid)
    };
    if listed.len() > threads.len() && listed.iter().any(is_new) {
        return Err(TraceeError::Passing(format!(
            "a thread of process {pid} was born at the moment of the snapshot; try again"
        )));
    }
    match vdso.may_return(&*threads)? {
        None => stack::check(pid, threads),
        Some(tid) => Err(TraceeError::Passing(format!(
            "thread {tid} may be in the handler of a signal that came while it read a clock; try again when the \
             handler is through"
        ))),
    }
}

/// Reads the contexts of all threads of the stopped process `pid`, none of which may stand in the vDSO or return there
/// ([`leave_clocks`]): that is then patched. With `write_down` clock readings need no system call if the
/// machine and the process allow that.
///
/// # Errors
/// When a thread cannot be read; the threads given are lost from view then, but not changed.
pub fn capture(pid: i32, threads: Vec<Stopped>, vdso: &Vdso, write_down: bool) -> Result<Capture> {
    let mut complete = Vec::with_capacity(threads.len());
    for thread in threads {
        let context = Context::read(&thread, pid)?;
        complete.push(Captured { thread, context });
    }
    let has_slots = write_down
        && vdso.can_log()
        && complete.len() <= SLOTS
        && complete
            .iter()
            .all(|c| clock_slots::gs_is_free(&c.context.regs));
    let cloner = cloner_of(pid, &complete);
    let slots = ask(pid, &mut complete, cloner, vdso, has_slots)?;
    if let Some(slots) = slots {
        // Whoever finds this code finds the slots, too: so it comes before anything that points there.
        vdso.write_clock_code(pid, slots)?;
        for (index, captured) in complete.iter_mut().enumerate() {
            let slot = clock_slots::slot(slots, index);
            clock_slots::clear(pid, slot)?;
            captured.context.regs.gs_base = slot;
            captured.thread.set_registers(&captured.context.regs)?;
        }
    } else {
        // Nowhere to leave their answers later.
        for at in (0..complete.len()).filter(|at| *at != cloner) {
            ask(pid, &mut complete, at, vdso, false)?;
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

/// Reads the threads of the stopped process `pid`, which is to be copied once more and will never go on: its vDSO stays
/// as it is, and none of them runs anything of its own meanwhile.
///
/// # Errors
/// When a thread cannot be read; those that were given are lost from view then.
pub fn capture_relieved(pid: i32, threads: Vec<Stopped>, vdso: &Vdso) -> Result<Vec<Captured>> {
    let mut complete = Vec::with_capacity(threads.len());
    for thread in threads {
        let context = Context::read(&thread, pid)?;
        complete.push(Captured { thread, context });
    }
    for at in 0..complete.len() {
        ask(pid, &mut complete, at, vdso, false)?;
        let context = &mut complete[at].context;
        context.name = name_of(pid, context.tid);
    }
    Ok(complete)
}

/// `comm` of a thread.
fn name_of(pid: i32, tid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"));
    name.unwrap_or_default().trim_end().to_owned()
}

/// [`Context::complete`] for one thread of many.
fn ask(
    pid: i32,
    captured: &mut [Captured],
    at: usize,
    vdso: &Vdso,
    map_slots: bool,
) -> Result<Option<u64>> {
    let Captured { thread, context } = &mut captured[at];
    // The typed handle goes through the calls and comes back for the same thread.
    let taken = std::mem::replace(thread, Running::born(context.tid).reported());
    let (stopped, slots) = context.complete(taken, vdso, pid, map_slots)?;
    *thread = stopped;
    Ok(slots)
}

/// Lets the threads that stand inside the vDSO run until they stand elsewhere. They are never stepped: an agent
/// that died after such a step would leave them a trap, and with it the end of the server. Those that have ended
/// meanwhile are not among `threads` any more.
fn leave_vdso(pid: i32, threads: &mut Vec<Stopped>, vdso: &Vdso) -> Result<()> {
    let mut running = Vec::new();
    for look in 0..MOST_LOOKS {
        for thread in std::mem::take(threads) {
            // One that was killed meanwhile is on its way to its exit, where it has to be let go.
            let inside = thread.registers().map(|regs| vdso.contains(regs.rip));
            match inside {
                Ok(false) => threads.push(thread),
                Ok(true) => {
                    let tid = thread.tid();
                    running.push(thread.resume(0).unwrap_or_else(|_| Running::born(tid)));
                }
                Err(_) => running.push(Running::born(thread.tid())),
            }
        }
        if running.is_empty() {
            return Ok(());
        }
        // A request to stop that comes at once would find them where they are.
        let until = Instant::now() + Duration::from_micros(u64::from(1 + look % LONGEST_RUN));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        for thread in &running {
            // One that is gone will be reported as such.
            let _ = thread.interrupt();
        }
        gather(pid, threads, std::mem::take(&mut running), Patience::Short)?;
    }
    Err(TraceeError::Unsuitable(format!(
        "a thread of process {pid} does not leave the vDSO; try again"
    )))
}

/// Adds to the contexts of [`capture`] what the threads told on their way out of the pause, and their names.
/// They must have been let go. The `cloner` was asked before. A thread that was asked twice to stop does so
/// again on its way: it is sent on.
///
/// # Errors
/// When one does not get there: it was stopped by a user, or is gone.
pub fn learn(pid: i32, contexts: &mut [Context], cloner: i32, slots: Option<u64>) -> Result<()> {
    let start = Instant::now();
    for context in contexts.iter_mut() {
        let tid = context.tid;
        context.name = name_of(pid, tid);
        if slots.is_none() || tid == cloner {
            continue;
        }
        let from = clock_slots::answers(context.regs.gs_base);
        let mut answer = [0u8; QUERY_DONE + 4];
        loop {
            memory::read(pid, from, &mut answer).named("read a thread's answers", tid)?;
            if answer[QUERY_DONE] == 1 {
                break;
            }
            if start.elapsed() > ANSWER_LIMIT {
                return Err(TraceeError::Unsuitable(format!(
                    "thread {tid} does not go on after the snapshot; try again"
                )));
            }
            match ptrace::look_at(tid).named("wait", tid)? {
                Some(Wait::Interrupted) => ptrace::resume(tid, 0).named("resume", tid)?,
                // Killed by an `execve` of another, which waits for it, or with its process.
                Some(Wait::Event(libc::PTRACE_EVENT_EXIT) | Wait::Exited(_) | Wait::Killed(_)) => {
                    let _ = ptrace::resume(tid, 0);
                    return Err(TraceeError::Unsuitable(format!(
                        "thread {tid} ended at the moment of the snapshot; try again"
                    )));
                }
                _ => {}
            }
            std::thread::yield_now();
        }
        context.take_answer(&answer);
    }
    Ok(())
}

/// Index of the thread that makes the clone: the main thread if it lives.
fn cloner_of(pid: i32, captured: &[Captured]) -> usize {
    captured
        .iter()
        .position(|c| c.context.tid == pid)
        .unwrap_or(0)
}

/// Aims captured threads at their contexts, if they have `slots` by way of the questions of [`learn`]. They
/// are still stopped. None of them may be the one that was asked already.
///
/// # Errors
/// When one has no room on its stack: all are where they were, or about to answer.
pub fn send_home(captured: Vec<Captured>, vdso: &Vdso, slots: Option<u64>) -> Result<Vec<Stopped>> {
    captured
        .into_iter()
        .map(|Captured { thread, context }| match slots {
            Some(_) => {
                let answers = clock_slots::answers(context.regs.gs_base);
                Guarded::begin(thread, &context, vdso)?.into_query(answers)
            }
            None => Ok(thread),
        })
        .collect()
}

/// Clones the stopped process, whose threads go on by way of the questions of [`learn`] if they have
/// `slots`. With `into` the copy lives in that pid namespace, with the id that the leader has in its own.
/// `cloned` is called as soon as the copy exists, with the thread that made the clone, which runs and waits for the middle
/// process in the stub, and the others, for the leader to be resumed.
///
/// # Errors
/// When the clone fails: the leader's threads are as they were, or about to answer those questions; all but
/// the one that was to clone are still stopped.
pub fn take(
    pid: i32,
    captured: &mut Vec<Captured>,
    vdso: &Vdso,
    slots: Option<u64>,
    into: Option<&PidNamespace>,
    cloned: &mut dyn FnMut(Running, Vec<Stopped>),
) -> Result<Copied> {
    if captured.is_empty() {
        return Err(TraceeError::Unsuitable(format!(
            "process {pid} has no thread left to be copied by"
        )));
    }
    let Captured { thread, context } = captured.swap_remove(cloner_of(pid, captured));
    let tid = context.tid;
    let others = send_home(std::mem::take(captured), vdso, slots)?;
    let ids = inspect::ids(pid);
    if into.is_some() {
        vdso.write_clone_into(pid)?;
    }
    let guarded = Guarded::begin(thread, &context, vdso)?;
    let aimed = match (into, ids.last()) {
        (None, _) => guarded.into_clone()?,
        (Some(namespace), Some(own)) => {
            // As the thread sees it.
            let init = inspect::ids(namespace.init_pid());
            let init = init.get(ids.len() - 1).copied().ok_or_else(|| {
                TraceeError::Unsuitable(format!(
                    "process {pid} does not see the pid namespace of its copy"
                ))
            })?;
            guarded.into_clone_into(init, *own)?
        }
        (Some(_), None) => {
            return Err(TraceeError::Unsuitable(format!("process {pid} has no id")));
        }
    };
    // Each is waited for by its id: what the threads that serve again report stays with the kernel, above all their
    // signals, until somebody handles it.
    let (cloner, middle) = clone_middle(aimed)?;
    // It stands at its birth. The last of its ids that the leader's namespace knows.
    let told = inspect::ids(middle.tid())
        .get(ids.len().saturating_sub(1))
        .copied();
    let middle_tid = middle.tid();
    let middle_told = told.unwrap_or(middle_tid);
    let copied = (|| {
        let (middle, follower) = clone_follower(middle, tid)?;
        cloned(cloner, others);
        let (follower, _) =
            follower.expect("stop at its birth", |wait| wait == Wait::Interrupted)?;
        let mut middle = middle.resume(0)?;
        while let Some((stopped, _)) = middle.wait()? {
            middle = stopped.resume(0)?;
        }
        Ok(follower)
    })();
    let follower: Stopped = copied.inspect_err(|_| {
        // The cloner waits for it.
        let _ = pidfd::kill(middle_tid);
    })?;
    follower.set_options(FOLLOWER_OPTIONS | ptrace::O_SUSPEND_SECCOMP)?;
    if into.is_some()
        && let Err(error) = has_id(&follower, ids.last().copied())
    {
        // Nobody else knows of it.
        let _ = pidfd::kill(follower.tid());
        let _ = Running::born(follower.tid()).wait();
        return Err(error);
    }
    Ok(Copied {
        follower,
        middle: middle_told,
    })
}

/// Lets the cloner make the middle process, and go home; that stands at its birth.
fn clone_middle(aimed: Stopped) -> Result<(Running, Stopped)> {
    let tid = aimed.tid();
    let unexpected = |got: String| TraceeError::Unexpected {
        tid,
        expected: "clone itself",
        got,
    };
    let mut cloner = aimed.resume_to_syscall()?;
    let (mut entered, mut middle) = (false, None);
    loop {
        let Some((stopped, wait)) = cloner.wait()? else {
            return Err(unexpected("its end".into()));
        };
        match wait {
            Wait::Syscall if !entered => entered = true,
            Wait::Syscall => {
                let result = stopped.registers()?.rax as i64;
                // From here on the stub leads it back to its context without our help.
                let cloner = stopped.resume(0)?;
                let Some(born) = middle else {
                    let source = std::io::Error::from_raw_os_error(-result as i32);
                    return Err(TraceeError::Injected {
                        call: "clone",
                        tid,
                        source,
                    });
                };
                let at_birth = |wait| wait == Wait::Interrupted;
                let (middle, _) = Running::born(born).expect("stop at its birth", at_birth)?;
                return Ok((cloner, middle));
            }
            Wait::Event(libc::PTRACE_EVENT_CLONE) => middle = Some(stopped.event_message()? as i32),
            Wait::Interrupted => {}
            other => return Err(unexpected(format!("{other:?}"))),
        }
        cloner = stopped.resume_to_syscall()?;
    }
}

/// Lets the middle process, made by thread `tid`, make the copy, after which it stands still.
fn clone_follower(middle: Stopped, tid: i32) -> Result<(Stopped, Running)> {
    let mut running = middle.resume(0)?;
    loop {
        let Some((stopped, wait)) = running.wait()? else {
            let source = std::io::Error::other("the middle process made no copy");
            return Err(TraceeError::Injected {
                call: "clone",
                tid,
                source,
            });
        };
        if wait == Wait::Event(libc::PTRACE_EVENT_CLONE) {
            let copy = stopped.event_message()? as i32;
            return Ok((stopped, Running::born(copy)));
        }
        running = stopped.resume(0)?;
    }
}

/// Whether a new thread has the id, in its own pid namespace, that it was to get.
fn has_id(thread: &Stopped, wanted: Option<i32>) -> Result<()> {
    let got = inspect::ids(thread.tid()).last().copied();
    if got == wanted {
        return Ok(());
    }
    Err(TraceeError::Unsuitable(format!(
        "thread {} of the copy has the id {got:?} in its pid namespace and was to have {wanted:?}",
        thread.tid()
    )))
}

/// Makes the follower's threads from the contexts of the leader's: pairs of (leader's thread id,
/// follower's thread), the main thread first. A follower in a pid namespace of its own is given with
/// that: its threads get the ids of the leader's.
///
/// # Errors
/// When the follower refuses a call; it is killed with its handles' tracer then.
pub fn populate(
    leader: i32,
    follower: Stopped,
    contexts: &[Context],
    vdso: &Vdso,
    mut namespace: Option<&mut PidNamespace>,
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
        if let Some(namespace) = namespace.as_deref_mut() {
            namespace
                .set_next(context.own_id)
                .map_err(|e| TraceeError::Unsuitable(e.to_string()))?;
        }
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
        if namespace.is_some() {
            has_id(&thread, Some(context.own_id))?;
        }
        rest.push((context.tid, context.apply(thread, vdso)?));
    }
    let mut pairs = vec![(leader, first)];
    pairs.append(&mut rest);
    Ok(pairs)
}
