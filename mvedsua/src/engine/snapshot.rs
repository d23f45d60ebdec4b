//! t1 and t2: from a single leader to a follower that consumes events.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollTimeout, poll};

use super::apply::{Applied, ApplyError, Placed, place};
use super::armed::Armed;
use super::attach::refused;
use super::descendants::{Built, Descendants};
use super::ending::end_all;
use super::family::Tree;
use super::following::{Following, Parts};
use super::guard::Watched;
use super::home::Home;
use super::readings::Slots;
use super::rules::Rules;
use super::side::Side;
use super::stragglers::Stragglers;
use super::transfer::Timers;
use crate::dsu::Bundle;
use crate::follower;
use crate::matcher::EpollData;
use crate::recorder::Recorder;
use crate::session::{Failure, UpdateOptions};
use crate::sys::ptrace;
use crate::sys::seccomp::Listener;
use crate::sys::wakeup::Wakeup;
use crate::tracee::clock_slots;
use crate::tracee::pid_namespace::PidNamespace;
use crate::tracee::snapshot::{self, FOLLOWER_OPTIONS, LEADER_OPTIONS, TREE_OPTIONS, populate};
use crate::tracee::standstill::{self, Held, seize_all};
use crate::tracee::stub::{self, Vdso};
use crate::tracee::thread::{Running, Stopped};
use crate::tracee::{Result, TraceeError, inspect};

/// An update that has begun.
pub(super) struct Begun {
    pub(super) following: Following,
    /// How long the leader stood still.
    pub(super) pause: Duration,
    /// When the copy was taken (t1).
    pub(super) copied: SystemTime,
    /// What the bundle brought.
    pub(super) applied: Option<Applied>,
}

/// Options of a promoted process, while it leads alone and while it leads an update.
pub(super) const KEPT_OPTIONS: u32 =
    LEADER_OPTIONS | ptrace::O_TRACEFORK | ptrace::O_TRACEVFORK | ptrace::O_SUSPEND_SECCOMP;

/// Why an update did not begin. The leader is as it was.
pub(super) enum NotBegun {
    /// It may at another moment: threads stand in functions that the bundle changes. Their stacks.
    Busy(String),
    /// It may at another moment: a thread does not stop. Which, and why.
    Stuck(String),
    /// It is refused.
    Refused(Failure),
}

impl From<Failure> for NotBegun {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Takes a copy of the leader, applies the bundle to it if there is one, and makes it a follower. On
/// failure the leader is as it was.
///
/// # Errors
/// [`Failure::Refused`] with what stood in the way, or that the moment is not a good one.
pub(super) fn begin(
    home: &mut Home,
    options: UpdateOptions,
    bundle: Option<&Bundle>,
    tree: bool,
    stragglers: &mut Stragglers,
    wakeup: &Wakeup,
) -> std::result::Result<Begun, NotBegun> {
    let pid = home.pid();
    let of_bundle = bundle.and_then(|bundle| bundle.manifest.rules.as_deref());
    let rules = match (&options.rules, of_bundle) {
        (Some(file), _) => Some(super::rules::load(file)?),
        (None, Some(text)) => Some(super::rules::of_bundle(text)?),
        (None, None) => None,
    };
    let write_down = rules
        .as_ref()
        .is_none_or(|set| !super::rules::read_clocks(set));
    let told = |e: TraceeError| match e {
        // Its main thread may end in that.
        TraceeError::Executes(_) => refused("E220", format!("nothing was changed: {e}")),
        _ if inspect::is_dying(pid) => refused("E200", format!("process {pid} has ended already")),
        TraceeError::Halted(_) => refused("E204", e.to_string()),
        _ => refused(
            "E220",
            format!("the snapshot failed and nothing was changed: {e}"),
        ),
    };
    if let Home::Kept(kept) = home
        && kept.side.is_stopped_by_a_signal()
    {
        return Err(told(TraceeError::Halted(pid)).into());
    }
    let vdso = Vdso::of(pid).map_err(told)?;
    if !tree {
        no_wards(home)?;
    }
    let mut namespace = None;
    if tree {
        let program = Path::new("/proc/self/exe");
        let made = PidNamespace::create(program, pid);
        namespace = Some(made.map_err(|e| refused("E214", e.to_string()))?);
    }
    // Everything that takes its time happens before the pause.
    let mut recorder =
        Recorder::load(options.ring_bytes).map_err(|e| refused("E221", e.to_string()))?;
    recorder
        .attach()
        .map_err(|e| refused("E221", e.to_string()))?;

    let watched = Watched::watch(pid);
    let mut descendants = Descendants::of(pid);
    let stopped = stop(home, tree, &vdso, &mut descendants, stragglers);
    let (threads, start) = stopped.map_err(|error| match error {
        TraceeError::Stuck { .. } => NotBegun::Stuck(error.to_string()),
        error => told(error).into(),
    })?;
    let stood = start.elapsed();
    let listener = home.listener();
    let mut leader = Side::new(pid);
    leader.vdso = Some(Box::new(vdso.clone()));
    if !tree && let Err(refusal) = no_wards(home) {
        // One was born since.
        for thread in threads {
            leader.add_stopped(thread, super::side::Why::Asked);
        }
        if let Home::Kept(kept) = home {
            leader.wards = std::mem::take(&mut kept.side.wards);
        }
        super::rollback::free_leader(leader, &vdso, home, false);
        return Err(refusal.into());
    }
    let copied = copy(
        pid,
        threads,
        &vdso,
        write_down,
        namespace.as_ref(),
        &mut recorder,
        &mut leader,
        &mut descendants,
    );
    let (pause, copied_at) = (start.elapsed(), SystemTime::now());
    tracing::debug!(
        ?pause,
        ?stood,
        "the snapshot's pause; how long the threads took to stop"
    );
    let made = copied
        .map_err(ApplyError::from)
        .and_then(|(copied, mut contexts, armed)| {
            let (cloner, middle, slots) = (contexts.1, copied.middle, contexts.2);
            let learned = snapshot::learn(pid, &mut contexts.0, cloner, slots)
                .and_then(|()| descendants.learn());
            if let Err(error) = learned {
                throw_away(copied.follower.tid());
                return Err(error.into());
            }
            let made = furnish(
                pid,
                copied.follower,
                &contexts,
                &descendants,
                &vdso,
                listener,
                bundle,
                namespace.as_mut(),
            )?;
            let addresses = contexts
                .0
                .iter()
                .map(|context| (context.tid, context.tid_address))
                .collect();
            let owners = contexts.0.iter().map(|c| (c.tid, c.regs.gs_base));
            let slots = Slots::new(slots, owners.filter(|_| slots.is_some()));
            Ok((made, cloner, middle, addresses, slots, armed))
        });
    match made {
        Ok((made, cloner, middle, tid_addresses, slots, armed)) => {
            let mut following = Following::new(Parts {
                leader,
                follower: made.side,
                pairs: made.pairs,
                recorder,
                listener: made.listener,
                watched,
                vdso: Arc::new(vdso),
                epoll: EpollData::default(),
                slots,
                rules: rules.map(|set| Box::new(Rules::forward(&options, set, pid))),
                reverse: false,
                tree: namespace.map(|namespace| Tree::new(namespace, pid)),
                options,
                wakeup: wakeup.clone(),
                middle,
                cloner,
                armed,
                no_new_privs: made.no_new_privs,
                tid_addresses,
            });
            // What the leader has reported since it serves again.
            wakeup.wake();
            following.take_in_all(descendants, made.built);
            if let Some(placed) = made.placed
                && let Err(stop) = following.start_transformer(placed)
            {
                following.abandon(home);
                let why = super::following::describe(stop).0;
                return Err(
                    refused("E242", format!("the transformer did not start: {why}")).into(),
                );
            }
            if following.set_margin().is_err() {
                let capacity = following.recorder.ring.capacity();
                following.abandon(home);
                return Err(refused(
                    "E222",
                    format!(
                        "a ring of {capacity} bytes is too small for this many threads; use a larger --ring"
                    ),
                )
                .into());
            }
            Ok(Begun {
                following,
                pause,
                copied: copied_at,
                applied: made.applied,
            })
        }
        Err(error) => {
            // First of all: what it does not copy stops the thread, and nobody would let it go on.
            drop(recorder);
            let sides = std::iter::once(leader).chain(descendants.into_sides());
            let family = super::rollback::Family::of(sides.collect(), tree);
            family.free(&vdso, home, false);
            Err(match error {
                ApplyError::Busy(stacks) => NotBegun::Busy(stacks),
                ApplyError::Tracee(error) if bundle.is_none() => told(error).into(),
                error => refused(
                    "E242",
                    format!("the bundle was not applied and nothing was changed: {error}"),
                )
                .into(),
            })
        }
    }
}

/// The reports of a promoted process's children would be taken for those of the copy at its birth.
fn no_wards(home: &Home) -> std::result::Result<(), Failure> {
    let Home::Kept(kept) = home else {
        return Ok(());
    };
    match kept.side.wards.pids().first() {
        None => Ok(()),
        Some(child) => Err(refused(
            "E225",
            format!(
                "the promoted process {} has a child process ({child}); try again when it has ended",
                kept.side.pid
            ),
        )),
    }
}

/// Begins the leader's pause: all its threads stand, and those of its `descendants` if they are followed.
/// Returns the moment at which the first was asked to stop, too.
///
/// # Errors
/// When they cannot all be stopped, at any of some moments; nobody stands then. Who is still ours of a bare server is
/// among the `stragglers`.
fn stop(
    home: &mut Home,
    tree: bool,
    vdso: &Vdso,
    descendants: &mut Descendants,
    stragglers: &mut Stragglers,
) -> Result<(Vec<Stopped>, Instant)> {
    /// A server that makes children all the time has a dying one at many moments.
    const MOST_MOMENTS: u32 = 100;
    /// Who was born at a bad moment stops within microseconds.
    const LONGEST_STRAGGLE: Duration = Duration::from_millis(500);
    let pid = home.pid();
    let (options, held) = match home {
        Home::Bare(_) if tree => (LEADER_OPTIONS | TREE_OPTIONS, Held::Bare),
        Home::Bare(_) => (LEADER_OPTIONS, Held::Bare),
        Home::Kept(_) => (KEPT_OPTIONS, Held::Traced),
    };
    let mut moment = 0;
    loop {
        moment += 1;
        let asked = Instant::now();
        let stopped = match home {
            Home::Bare(_) => seize_all(pid, options, held),
            Home::Kept(kept) => kept.stop_all().map(|threads| (threads, asked)),
        };
        let error = match stopped {
            Ok((mut threads, start)) => {
                let mut stood = same_program(pid, &threads, vdso)
                    .and_then(|()| snapshot::leave_clocks(pid, &mut threads, vdso));
                if tree {
                    stood = stood.and_then(|()| descendants.stop(options, held, vdso));
                }
                let Err(error) = stood else {
                    if tree && let Home::Kept(kept) = home {
                        // All of them are among the descendants now.
                        kept.side.wards = Default::default();
                    }
                    return Ok((threads, start));
                };
                descendants.let_go(held, vdso);
                standstill::let_go(pid, threads, held);
                if let Home::Kept(kept) = home {
                    kept.side.find_threads();
                }
                error
            }
            Err(error) => error,
        };
        if let Home::Bare(_) = home {
            // Who was born meanwhile is ours, too, and nobody would hear of it.
            stragglers.find(pid);
        }
        if !matches!(error, TraceeError::Passing(_)) || moment == MOST_MOMENTS {
            return Err(error);
        }
        // Each time at another moment of whatever the server does.
        let next = Instant::now() + Duration::from_millis(1 + u64::from(moment % 7));
        loop {
            let _ = poll(&mut [], PollTimeout::from(1u8));
            stragglers.hear(pid);
            if let Home::Kept(kept) = home {
                // Its children are traced: the end of one is ours to see first, and only then its parent's.
                kept.reports();
            }
            if Instant::now() >= next && stragglers.any().is_none() {
                break;
            }
            if next.elapsed() > LONGEST_STRAGGLE {
                return Err(error);
            }
        }
    }
}

/// Nothing of what was learned of the process before its `threads` stood may be true any more: all that was to be
/// written somewhere would go into another program.
fn same_program(pid: i32, threads: &[Stopped], vdso: &Vdso) -> Result<()> {
    if threads.is_empty() {
        return Err(TraceeError::Unsuitable(format!("process {pid} has ended")));
    }
    if vdso.is_in(pid) {
        return Ok(());
    }
    Err(TraceeError::Executes(pid))
}

/// All threads, which of them made the clone, and the slots for clock readings.
pub(super) type Contexts = (Vec<crate::tracee::context::Context>, i32, Option<u64>);

/// The leader's pause; with `write_down` it keeps clock readings from now on, if that is possible.
/// If it is copied `into` a pid namespace its descendants stand in the same pause and are read.
/// Whatever happens, `leader` and `descendants` hold all their threads afterwards.
#[expect(clippy::too_many_arguments, reason = "the parts of one moment")]
fn copy(
    pid: i32,
    threads: Vec<Stopped>,
    vdso: &Vdso,
    write_down: bool,
    into: Option<&PidNamespace>,
    recorder: &mut Recorder,
    leader: &mut Side,
    descendants: &mut Descendants,
) -> Result<(snapshot::Copied, Contexts, Armed)> {
    let tids: Vec<i32> = threads.iter().map(Stopped::tid).collect();
    let result = (|| {
        // All stand, so that it is still the program that was looked at. Nothing leads there yet.
        vdso.write_stub(pid)?;
        let snapshot::Capture {
            threads: mut captured,
            slots,
        } = snapshot::capture(pid, threads, vdso, write_down)?;
        let contexts: Vec<_> = captured.iter().map(|c| c.context.clone()).collect();
        if slots.is_some() {
            for context in &contexts {
                recorder
                    .set_clock(context.tid as u32, context.regs.gs_base)
                    .map_err(|e| TraceeError::Unsuitable(e.to_string()))?;
            }
        }
        descendants.capture(vdso, write_down, recorder)?;
        let armed = read_timers(pid, &mut captured, vdso)?;
        recorder
            .add_process(pid as u32)
            .map_err(|e| TraceeError::Unsuitable(e.to_string()))?;
        let cloner = captured
            .iter()
            .find(|c| c.context.tid == pid)
            .unwrap_or(&captured[0])
            .context
            .tid;
        let mut resumed = Vec::new();
        let captured_at = Instant::now();
        let copied = snapshot::take(
            pid,
            &mut captured,
            vdso,
            slots,
            into,
            &mut |cloner, others| {
                resumed.push(cloner);
                for other in others {
                    if let Ok(running) = other.resume(0) {
                        resumed.push(running);
                    }
                }
                descendants.go_on();
            },
        );
        tracing::debug!(took = ?captured_at.elapsed(), "the clone, until the leader's threads ran");
        leader.add_undecided(&contexts);
        for running in resumed {
            leader.add_running(running);
        }
        Ok((copied?, (contexts, cloner, slots), armed))
    })();
    if result.is_err() {
        descendants.take_back(recorder);
        // The handles are gone with the error; the threads are still ours, and where they were.
        for tid in tids
            .into_iter()
            .filter(|tid| !leader.has(*tid))
            .collect::<Vec<_>>()
        {
            leader.add_running(crate::tracee::thread::Running::born(tid));
        }
    }
    result
}

/// How the timers of the process are, by its main thread or any.
fn read_timers(pid: i32, captured: &mut [snapshot::Captured], vdso: &Vdso) -> Result<Armed> {
    let main = captured.iter().position(|one| one.context.tid == pid);
    let snapshot::Captured { thread, context } = &mut captured[main.unwrap_or(0)];
    // The typed handle goes through the calls and comes back for the same thread.
    let taken = std::mem::replace(thread, Running::born(context.tid).reported());
    let (taken, timers) = Timers::read(pid, taken, context, vdso)?;
    *thread = taken;
    Ok(Armed::new(&timers))
}

/// A follower that is set up.
pub(super) struct Made {
    applied: Option<Applied>,
    /// A transformer has to run first: all threads stand, the filter suspended.
    placed: Option<Placed>,
    pub(super) side: Side,
    pub(super) pairs: Vec<(i32, i32)>,
    pub(super) built: Vec<Built>,
    pub(super) listener: Arc<Listener>,
    pub(super) no_new_privs: bool,
}

/// Makes the copy's threads, applies the bundle, closes its descriptors, installs the filter, builds the
/// descendants, and lets them all go.
#[expect(clippy::too_many_arguments, reason = "all that a follower is made of")]
pub(super) fn furnish(
    leader: i32,
    copy: Stopped,
    contexts: &Contexts,
    descendants: &Descendants,
    vdso: &Vdso,
    listener: Option<Arc<Listener>>,
    bundle: Option<&Bundle>,
    mut namespace: Option<&mut PidNamespace>,
) -> std::result::Result<Made, ApplyError> {
    let tree = namespace.is_some();
    let pid = copy.tid();
    let result = (|| {
        let mut threads = populate(leader, copy, &contexts.0, vdso, namespace.as_deref_mut())?;
        if contexts.2.is_some() {
            for context in &contexts.0 {
                clock_slots::clear(pid, context.regs.gs_base)?;
            }
            vdso.patch(pid, stub::Clocks::Replay)?;
        }
        let mut placed = match bundle {
            Some(bundle) => Some(place(bundle, pid, &mut threads, vdso)?),
            None => None,
        };
        let applied = match placed.take_if(|placed| placed.plan.transform.is_none()) {
            Some(placed) => Some(placed.finish(pid, &mut threads[0].1, vdso)?),
            None => None,
        };
        if placed.is_some() && !descendants.is_empty() {
            return Err(TraceeError::Unsuitable(
                "the bundle transforms state, which is not done yet in child processes that live when an update \
                 begins: update when there are none"
                    .into(),
            )
            .into());
        }
        let installed = follower::install(&mut threads[0].1, pid, vdso, listener)?;
        // From here on they inherit the filter, and an empty table of descriptors.
        let mut built = match &mut namespace {
            Some(namespace) => {
                let copy = &mut threads[0].1;
                descendants.build(copy, vdso, namespace, bundle)?
            }
            None => Vec::new(),
        };
        let mut side = Side::new(pid);
        let pairs = threads.iter().map(|(tid, copy)| (*tid, copy.tid()));
        let pairs = pairs.collect();
        let started = threads.into_iter().try_for_each(|(_, thread)| {
            if placed.is_some() {
                side.add_stopped(thread, super::side::Why::Transforming);
                return Ok(());
            }
            let options = if tree { TREE_OPTIONS } else { 0 };
            thread.set_options(FOLLOWER_OPTIONS | options)?;
            side.add_running(thread.resume(0)?);
            Ok(())
        });
        if let Err(error) = started.and_then(|()| super::descendants::start(&mut built)) {
            super::descendants::discard(built);
            return Err(ApplyError::Tracee(error));
        }
        Ok(Made {
            applied,
            placed,
            side,
            pairs,
            built,
            listener: installed.listener,
            no_new_privs: installed.no_new_privs,
        })
    })();
    if result.is_err() {
        throw_away(pid);
    }
    result
}

/// Kills a copy that will not be a follower.
pub(super) fn throw_away(pid: i32) {
    let mut side = Side::new(pid);
    side.find_threads();
    end_all([&mut side], &mut || ());
}
