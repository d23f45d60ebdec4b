//! The processes below the root of a leader's tree at a snapshot: stopped in the root's pause, read, let go
//! with it, and built again below its copy.
//!
//! Each becomes a pair of its own. What one of them did before it was stopped is in what was read of it, what
//! it does later is recorded: so each must be recorded from its own stop on, and all in one pause, so that none is
//! born or waited for in between.

use std::collections::HashMap;
use std::sync::Arc;

use super::apply::{ApplyError, place};
use super::ending::end_all;
use super::family::told;
use super::files::{Places, open_files};
use super::following::Following;
use super::guard::Watched;
use super::pair::{Child, Pair, ROOT};
use super::readings::Slots;
use super::side::{Side, Why};
use crate::dsu::Bundle;
use crate::matcher::EpollData;
use crate::recorder::Recorder;
use crate::tracee::context::Context;
use crate::tracee::pid_namespace::PidNamespace;
use crate::tracee::rebuild::{self, Member, Original};
use crate::tracee::snapshot::{self, Captured, FOLLOWER_OPTIONS, TREE_OPTIONS};
use crate::tracee::standstill::{self, Held, seize_all};
use crate::tracee::stub::{Clocks, Vdso};
use crate::tracee::thread::{Running, Stopped};
use crate::tracee::{Result, TraceeError, clock_slots, inspect};

/// A process of the leader's tree that is not its root.
pub(super) struct Descendant {
    pid: i32,
    /// Its parent's place among the descendants; `None`: the root.
    parent: Option<usize>,
    /// Its threads, but for those that are in `captured` or `aimed`.
    pub(super) side: Side,
    captured: Vec<Captured>,
    /// About to go on.
    aimed: Vec<Stopped>,
    contexts: Vec<Context>,
    slots: Option<u64>,
    original: Option<Original>,
    /// `None`: it leads no more.
    watched: Option<Watched>,
    /// Its vDSO has the stub in it, and nothing else of ours.
    is_written: bool,
}

/// All of them.
pub(super) struct Descendants {
    root: i32,
    /// Parents before their children.
    all: Vec<Descendant>,
}

/// A descendant that was built again, with its threads running or (`Why::Asked`) still stopped.
pub(super) struct Built {
    pub(super) follower: Side,
    /// Pairs of threads: the original's, the copy's.
    pub(super) lanes: Vec<(i32, i32)>,
}

/// A pair of processes of which both are there.
pub(super) struct Entrant {
    /// Number of the pair that made it.
    pub(super) parent: usize,
    pub(super) leader: Side,
    pub(super) follower: Side,
    /// Pairs of threads: the leader's, the follower's.
    pub(super) lanes: Vec<(i32, i32)>,
    pub(super) epoll: EpollData,
    pub(super) slots: Slots,
    pub(super) tid_addresses: HashMap<i32, u64>,
    pub(super) watched: Option<Watched>,
}

impl Descendants {
    /// Those of process `root`; none is looked for yet.
    pub(super) const fn of(root: i32) -> Self {
        Self {
            root,
            all: Vec::new(),
        }
    }

    /// Stops all processes below the root, which is stopped already, and traces them with `options`; they were `held`
    /// so until now. The stub is written into each.
    ///
    /// # Errors
    /// When one cannot be stopped, or has ended and its parent has not taken notice of that yet: those that stand
    /// are in `self` and must be [let go](Descendants::let_go).
    pub(super) fn stop(&mut self, options: u32, held: Held, vdso: &Vdso) -> Result<()> {
        let mut parents = vec![(self.root, None)];
        let mut outcome = Ok(());
        while let Some((parent, place)) = parents.pop() {
            for pid in inspect::children(parent) {
                let stood = self.stop_one(pid, place, options, held);
                match stood.and_then(|()| self.prepare_last(vdso)) {
                    Ok(()) => parents.push((pid, Some(self.all.len() - 1))),
                    // All others would stand for as long again.
                    Err(error @ TraceeError::Stuck { .. }) => return Err(error),
                    // The others, too, may be ours since their birth.
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
        }
        outcome
    }

    /// Lets all of them go as they were, and were `held`, before they were stopped.
    pub(super) fn let_go(&mut self, held: Held, vdso: &Vdso) {
        for mut one in std::mem::take(&mut self.all) {
            let threads = one.side.take_stopped(Why::Asked);
            if one.is_written
                && let Err(error) = vdso.restore(one.pid)
            {
                tracing::warn!(pid = one.pid, %error, "the vDSO was not restored");
            }
            standstill::let_go(one.pid, threads, held);
        }
    }

    fn stop_one(
        &mut self,
        pid: i32,
        parent: Option<usize>,
        options: u32,
        held: Held,
    ) -> Result<()> {
        let ends = || {
            TraceeError::Passing(format!(
                "child process {pid} has just ended and was not waited for yet; try again"
            ))
        };
        let threads = match seize_all(pid, options, held) {
            Ok((threads, _)) => threads,
            Err(_) if inspect::is_dying(pid) => Vec::new(),
            // It is no part of the tree any more in a moment.
            Err(error @ TraceeError::Executes(_)) => {
                return Err(TraceeError::Passing(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        if threads.is_empty() {
            return Err(ends());
        }
        let mut side = Side::new(pid);
        for thread in threads {
            side.add_stopped(thread, Why::Asked);
        }
        self.all.push(Descendant {
            pid,
            parent,
            side,
            captured: Vec::new(),
            aimed: Vec::new(),
            contexts: Vec::new(),
            slots: None,
            original: None,
            watched: Some(Watched::watch(pid)),
            is_written: false,
        });
        Ok(())
    }

    /// Writes the stub into the last of them.
    fn prepare_last(&mut self, vdso: &Vdso) -> Result<()> {
        let Some(one) = self.all.last_mut() else {
            return Ok(());
        };
        // Before anything is written where another program may have something else.
        rebuild::check_layout(one.pid, self.root)?;
        let mut threads = one.side.take_stopped(Why::Asked);
        let free = snapshot::leave_clocks(one.pid, &mut threads, vdso);
        for thread in threads {
            one.side.add_stopped(thread, Why::Asked);
        }
        free?;
        one.is_written = true;
        vdso.write_stub(one.pid)?;
        one.side.vdso = Some(Box::new(vdso.clone()));
        Ok(())
    }

    /// Adds the process `pid` of a tree that leads no more, all of whose `threads` stand, behind its `parent`, and reads it.
    /// Whatever happens, its threads stand still, in nobody's hands.
    ///
    /// # Errors
    /// When it cannot be read or built again.
    pub(super) fn add_relieved(
        &mut self,
        pid: i32,
        parent: Option<usize>,
        threads: Vec<Stopped>,
        slots: Option<u64>,
        vdso: &Vdso,
    ) -> Result<()> {
        let mut captured = snapshot::capture_relieved(pid, threads, vdso)?;
        let original = Original::read(pid, &mut captured, vdso)?;
        self.all.push(Descendant {
            pid,
            parent,
            side: Side::new(pid),
            contexts: captured.into_iter().map(|one| one.context).collect(),
            captured: Vec::new(),
            aimed: Vec::new(),
            slots,
            original: Some(original),
            watched: None,
            is_written: false,
        });
        Ok(())
    }

    /// In the pause: reads each of them, and records it from here on. With `write_down` they keep clock
    /// readings, if that is possible.
    ///
    /// # Errors
    /// When one cannot be read or built again. [`Descendants::take_back`] then.
    pub(super) fn capture(
        &mut self,
        vdso: &Vdso,
        write_down: bool,
        recorder: &mut Recorder,
    ) -> Result<()> {
        let unsuitable = |e: crate::recorder::RecorderError| TraceeError::Unsuitable(e.to_string());
        for one in &mut self.all {
            let threads = one.side.take_stopped(Why::Asked);
            let snapshot::Capture { threads, slots } =
                snapshot::capture(one.pid, threads, vdso, write_down)?;
            (one.captured, one.slots) = (threads, slots);
            one.contexts = one.captured.iter().map(|c| c.context.clone()).collect();
            one.original = Some(Original::read(one.pid, &mut one.captured, vdso)?);
            if slots.is_some() {
                for context in &one.contexts {
                    recorder
                        .set_clock(context.tid as u32, context.regs.gs_base)
                        .map_err(unsuitable)?;
                }
            }
            recorder.add_process(one.pid as u32).map_err(unsuitable)?;
            let (main, rest): (Vec<Captured>, Vec<Captured>) = std::mem::take(&mut one.captured)
                .into_iter()
                .partition(|captured| captured.context.tid == one.pid);
            // The main thread has answered all questions.
            one.aimed = main.into_iter().map(|captured| captured.thread).collect();
            one.aimed.extend(snapshot::send_home(rest, vdso, slots)?);
        }
        Ok(())
    }

    /// Lets all go on: the pause is over.
    pub(super) fn go_on(&mut self) {
        for one in &mut self.all {
            one.side.add_undecided(&one.contexts);
            for thread in std::mem::take(&mut one.aimed) {
                let tid = thread.tid();
                // One that is gone will be reported as such.
                let running = thread.resume(0).unwrap_or_else(|_| Running::born(tid));
                one.side.add_running(running);
            }
        }
    }

    /// After a failure in the pause, whose handles are gone with the error: the threads are still ours, and
    /// where they were.
    pub(super) fn take_back(&mut self, recorder: &mut Recorder) {
        for one in &mut self.all {
            let _ = recorder.remove_process(one.pid as u32);
            one.captured.clear();
            one.aimed.clear();
            for tid in inspect::threads(one.pid).unwrap_or_default() {
                if !one.side.has(tid) && standstill::traced_by_us(one.pid, tid) {
                    one.side.add_running(Running::born(tid));
                }
            }
        }
    }

    /// What their threads told on their way out of the pause.
    ///
    /// # Errors
    /// When one does not go on.
    pub(super) fn learn(&mut self) -> Result<()> {
        for one in &mut self.all {
            snapshot::learn(one.pid, &mut one.contexts, one.pid, one.slots)?;
        }
        Ok(())
    }

    /// Builds all of them again below the stopped copy of the root, whose filter they inherit, and applies the
    /// bundle to each. They are still stopped then.
    ///
    /// # Errors
    /// When one cannot be built: none is left then.
    pub(super) fn build(
        &self,
        copy: &mut Stopped,
        vdso: &Vdso,
        namespace: &mut PidNamespace,
        bundle: Option<&Bundle>,
    ) -> std::result::Result<Vec<Built>, ApplyError> {
        let mut members = Vec::with_capacity(self.all.len());
        for one in &self.all {
            let original = one.original.as_ref().ok_or_else(|| {
                TraceeError::Unsuitable(format!("process {} was not read", one.pid))
            })?;
            members.push(Member {
                original,
                contexts: &one.contexts,
                parent: one.parent,
            });
        }
        let made = rebuild::rebuild(self.root, copy, &members, vdso, namespace)?;
        let mut built = Vec::with_capacity(made.len());
        let mut outcome = Ok(());
        for (one, mut made) in self.all.iter().zip(made) {
            if outcome.is_ok() {
                outcome = one.furnish(made.pid, &mut made.threads, vdso, bundle);
            }
            let mut follower = Side::new(made.pid);
            let mut lanes = Vec::with_capacity(made.threads.len());
            for (leader, thread) in made.threads {
                lanes.push((leader, thread.tid()));
                follower.add_stopped(thread, Why::Asked);
            }
            built.push(Built { follower, lanes });
        }
        match outcome {
            Ok(()) => Ok(built),
            Err(error) => {
                discard(built);
                Err(error)
            }
        }
    }

    /// Their sides, for a leader that is not followed.
    pub(super) fn into_sides(self) -> impl Iterator<Item = Side> {
        self.all.into_iter().map(|one| one.side)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Descendant {
    /// What is changed in its copy before that runs.
    fn furnish(
        &self,
        copy: i32,
        threads: &mut [(i32, Stopped)],
        vdso: &Vdso,
        bundle: Option<&Bundle>,
    ) -> std::result::Result<(), ApplyError> {
        if self.slots.is_some() {
            for context in &self.contexts {
                clock_slots::clear(copy, context.regs.gs_base)?;
            }
            vdso.patch(copy, Clocks::Replay)?;
        }
        if let Some(bundle) = bundle {
            // It transforms nothing: the root's copy, to which it is applied first, would have been refused with it.
            place(bundle, copy, threads, vdso)?.finish(copy, &mut threads[0].1, vdso)?;
        }
        Ok(())
    }
}

/// Kills copies that will not follow.
pub(super) fn discard(mut built: Vec<Built>) {
    let copies = built.iter_mut().map(|one| &mut one.follower);
    end_all(copies, &mut || ());
}

/// Lets copies that are complete run.
///
/// # Errors
/// When one is gone.
pub(super) fn start(built: &mut [Built]) -> Result<()> {
    for one in built {
        for thread in one.follower.take_stopped(Why::Asked) {
            thread.set_options(FOLLOWER_OPTIONS | TREE_OPTIONS)?;
            one.follower.add_running(thread.resume(0)?);
        }
    }
    Ok(())
}

impl Following {
    /// Opens a pair for each descendant and its copy.
    pub(super) fn take_in_all(&mut self, descendants: Descendants, built: Vec<Built>) {
        for (one, built) in descendants.all.into_iter().zip(built) {
            let owners = one.contexts.iter().map(|c| (c.tid, c.regs.gs_base));
            let slots = Slots::new(one.slots, owners.filter(|_| one.slots.is_some()));
            let addresses = one.contexts.iter().map(|c| (c.tid, c.tid_address));
            let number = self.take_in(Entrant {
                // They were taken in in the same order, after the root.
                parent: one.parent.map_or(ROOT, |place| place + 1),
                leader: one.side,
                follower: built.follower,
                lanes: built.lanes,
                epoll: Default::default(),
                slots,
                tid_addresses: addresses.collect(),
                watched: one.watched,
            });
            if let Some(rules) = &mut self.rules {
                rules.take_in(number, one.pid);
            }
        }
    }

    /// Opens a pair; returns its number.
    pub(super) fn take_in(&mut self, entrant: Entrant) -> usize {
        let Entrant {
            parent,
            leader,
            follower,
            lanes,
            epoll,
            slots,
            tid_addresses,
            watched,
        } = entrant;
        let parents = &self.pairs[parent];
        let mut child = Child::new(parent, told(parents.leader.pid, leader.pid));
        child.follower_told = told(parents.follower.pid, follower.pid);
        let pair = Pair {
            opened: open_files(leader.pid),
            places: Places::of(leader.pid),
            leader,
            follower,
            vdso: Arc::clone(&parents.vdso),
            epoll,
            slots,
            lasting: Default::default(),
            estate_changed: false,
            tid_addresses,
            middle: 0,
            cloner: 0,
            child: Some(child),
            watched,
        };
        let number = self.pairs.add(pair);
        for (leader, follower) in lanes {
            self.pair_up(number, leader, follower);
        }
        number
    }
}
