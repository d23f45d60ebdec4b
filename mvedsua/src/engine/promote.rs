//! t4 to t6: the follower becomes the leader, on request or because the leader crashed.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::armed::Armed;
use super::estate::{Estate, HeldLocks, Lock};
use super::finalize::{Exchanged, Relieved};
use super::following::{Following, Stop};
use super::guard::Doomed;
use super::home::Kept;
use super::lane::Item;
use super::pair::{Pair, ROOT};
use super::pending_signals::{Pending, block, unblock, unmark};
use super::renamed::Renamed;
use super::replay::{RESTART_ALWAYS, is_interrupted, replace_thread_id};
use super::side::{Side, Why};
use super::snapshot::KEPT_OPTIONS;
use super::transfer::Timers;
use crate::follower::Arrival;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::context::{Context, Undecided};
use crate::tracee::inspect;
use crate::tracee::lock_owners::{self, Owner};
use crate::tracee::snapshot::FOLLOWER_OPTIONS;
use crate::tracee::thread::{Running, Stopped};

/// Longest time for the follower to consume what is left while the leader stands still.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Longest time that a call of the follower is waited for before the leader is stopped.
const HOLD_LIMIT: Duration = Duration::from_millis(50);

/// How a promotion ended.
pub(super) enum Promoted {
    /// The new leader serves; the old process still exists, stopped.
    Done(Box<Exchanged>),
    /// It could not be made; the old leader serves on and the follower follows.
    NotNow(Box<Following>, String),
    /// The update cannot go on.
    Failed(Box<Following>, Stop),
}

/// A look through the memory of a process that stands, for locks that name their owner, beside what else is done in an
/// exchange.
struct LockOwners(JoinHandle<Vec<Owner>>);

impl LockOwners {
    /// `tids` are those of the leader's threads, which the follower's threads had for their own until now.
    fn look(pid: i32, tids: BTreeSet<i32>) -> Self {
        Self(std::thread::spawn(move || {
            // Of one that is gone nothing is found.
            lock_owners::all_of(pid, &tids).unwrap_or_default()
        }))
    }

    fn found(self) -> Vec<Owner> {
        self.0.join().unwrap_or_default()
    }
}

/// A process of the follower that has all of its counterpart's.
struct Moved {
    pair: usize,
    side: Side,
    /// What it can only take when the old one is gone.
    locks: Vec<Lock>,
}

impl Following {
    /// Does for an exchange what can be done while the leader serves.
    ///
    /// # Errors
    /// When the update cannot go on.
    pub(super) fn prepare(&mut self) -> Result<(), Stop> {
        let held = HeldLocks::of(self.pairs.root().leader.pid);
        self.held_locks = Some(held);
        // A tree's processes come and go.
        if self.tree.is_none() && self.obstacle(true).is_none() && self.look_for_unit().is_ok() {
            self.hold_a_call()?;
            self.make_table(ROOT);
            self.is_prepared = true;
        }
        Ok(())
    }

    /// Descriptors are given to a thread that waits in a call. Under load all are answered as soon as they
    /// come: one is received and left for a moment.
    fn hold_a_call(&mut self) -> Result<(), Stop> {
        let start = Instant::now();
        while self.lanes.iter().all(|lane| lane.waiting.is_none()) && start.elapsed() < HOLD_LIMIT {
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            if matches!(ppoll(&mut fds, Some(TimeSpec::new(0, 1_000_000)), None), Ok(n) if n > 0) {
                self.receive()?;
            }
        }
        Ok(())
    }

    /// Exchanges the roles. The leader is stopped, the follower consumes what is left, gets what
    /// the kernel keeps for the leader, and goes on in its place. With `finalize` the old version is to follow
    /// no more.
    pub(super) fn promote(mut self, finalize: bool) -> Promoted {
        let unit = self.look_for_unit().err();
        if let Some(why) = unit.or_else(|| self.obstacle(finalize)) {
            self.is_prepared = false;
            return Promoted::NotNow(Box::new(self), why);
        }
        let start = Instant::now();
        if let Err(stop) = self.halt_leader() {
            return Promoted::Failed(Box::new(self), stop);
        }
        // It went on until now, and may have made a child meanwhile. The follower holds its
        // connections by now and must not follow on with them: it would keep open what the leader
        // closes.
        if let Some(why) = self.obstacle(finalize) {
            if self.tree.is_some() {
                // It was given nothing yet.
                self.resume_leader();
                return Promoted::NotNow(Box::new(self), why);
            }
            let stop = Stop::roll_back(format!("at the moment of promotion, {why}"));
            return Promoted::Failed(Box::new(self), stop);
        }
        tracing::debug!(at = ?start.elapsed(), "promotion: the leader stands");
        let follows = !finalize && self.tree.is_none();
        self.exchange(start, follows)
    }

    /// The leader is about to die, of whatever: it serves no more.
    pub(super) fn leader_dies(&self) -> bool {
        inspect::is_dying(self.pairs.root().leader.pid)
    }

    /// The leader crashed and its threads are held: the follower takes its place.
    pub(super) fn take_over(mut self) -> Promoted {
        let start = Instant::now();
        self.crashed = true;
        if let Err(why) = self.look_for_unit() {
            return Promoted::Failed(Box::new(self), Stop::roll_back(why));
        }
        if let Err(stop) = self.halt_leader() {
            return Promoted::Failed(Box::new(self), stop);
        }
        // The leader is past help: its clients wait for as long as the transformer has still to work.
        while self.transformation.is_running() {
            match but_for_a_crash(self.pump()) {
                Ok(_) => {}
                // There is no later.
                Err(Stop::Later(why)) => {
                    return Promoted::Failed(Box::new(self), Stop::roll_back(why));
                }
                Err(stop) => return Promoted::Failed(Box::new(self), stop),
            }
        }
        self.exchange(start, false)
    }

    fn exchange(mut self, start: Instant, follows: bool) -> Promoted {
        // The old one's own, if it is to follow: it stands elsewhere, perhaps between two calls.
        let olds = follows.then(|| {
            let root = self.pairs.root().leader.pid;
            LockOwners::look(root, self.own_ids())
        });
        match self.drain_and_move(start) {
            Ok((moved, doomed)) => {
                let owners = olds.map_or_else(Vec::new, LockOwners::found);
                let (mut root, mut children) = (None, Vec::new());
                for Moved { pair, side, locks } in moved {
                    let old = self.pairs[pair].relieve();
                    if pair == ROOT {
                        root = Some((side, old, locks));
                    } else {
                        children.push(Relieved {
                            pair,
                            new: side,
                            old,
                            locks,
                        });
                    }
                }
                let (side, old, locks) =
                    root.unwrap_or_else(|| (Side::new(0), Side::new(0), Vec::new()));
                let strays = self.pairs.iter_mut().map(Pair::relieve);
                let strays = strays.filter(|side| !side.is_gone()).collect();
                Promoted::Done(Box::new(Exchanged {
                    kept: Kept::new(side, self.listener.clone()),
                    old,
                    locks,
                    children,
                    strays,
                    doomed,
                    owners,
                    following: self,
                    start,
                }))
            }
            Err(stop) => {
                self.leave_unit();
                Promoted::Failed(Box::new(self), stop)
            }
        }
    }

    /// Stops all threads of the leader. The records of their interrupted calls are taken back: they will be made
    /// again, by whoever leads.
    fn halt_leader(&mut self) -> Result<(), Stop> {
        self.stopping = true;
        self.interrupt_leader();
        let start = Instant::now();
        loop {
            if self.pairs.iter().all(|pair| !pair.leader.runs()) {
                if !self.recall_killed()? {
                    break;
                }
                continue;
            }
            if start.elapsed() > DRAIN_LIMIT {
                return Err(self.do_not_stop("leader", |pair| &pair.leader));
            }
            match ptrace::look() {
                Ok(Some((tid, wait))) => self.halting_report(tid, wait)?,
                Ok(None) => {
                    for pair in self.pairs.numbers() {
                        for (tid, wait) in self.pairs[pair].leader.settle_stragglers() {
                            self.halting_report(tid, wait)?;
                        }
                    }
                    // No descriptor tells of a ptrace report to this thread alone.
                    let _ = ppoll(&mut [], Some(TimeSpec::new(0, 50_000)), None);
                }
                Err(error) => return Err(Stop::roll_back(format!("waitpid: {error}"))),
            }
        }
        self.stopping = false;
        self.run_anywhere();
        // Those that were held for room are not let go when there is some: they would serve on, unrecorded.
        for pair in self.pairs.iter_mut() {
            for thread in pair.leader.take_stopped(Why::RingFull) {
                pair.leader.add_stopped(thread, Why::Asked);
            }
        }
        if let Some(since) = self.blocked_since.take() {
            self.blocked += since.elapsed();
        }
        for pair in self.pairs.iter_mut() {
            pair.leader.leave_vdso(&pair.vdso)?;
        }
        self.drain_ring()?;
        for pair in self.pairs.numbers() {
            self.fetch_left_behind(pair)?;
        }
        self.flush_rules()?;
        for pair in self.pairs.iter() {
            pair.leader.leave_calls_to_kernel()?;
        }
        for index in 0..self.lanes.len() {
            // What waited was our own interrupt: a signal that is caught stands in the queue by now.
            self.expect_no_signal(index);
            if let Some(Item::Call(event)) = self.order.last_mut(index)
                && is_interrupted(event.header.ret)
                && let Some(Item::Call(event)) = self.order.take_last(index)
            {
                self.recorder.ring.release(event);
            }
        }
        for pair in self.pairs.numbers() {
            self.collect_all_readings(pair)?;
        }
        Ok(())
    }

    /// What is reported while the leader is being stopped.
    fn halting_report(&mut self, tid: i32, wait: Wait) -> Result<(), Stop> {
        but_for_a_crash(self.report(tid, wait))?;
        if wait != Wait::Interrupted {
            // Any other stop takes the request to stop away, and may have brought a thread.
            self.interrupt_leader();
        }
        Ok(())
    }

    /// Which threads were asked to stop and do not, and where they are.
    fn do_not_stop(&self, whose: &str, side: impl Fn(&Pair) -> &Side) -> Stop {
        let threads: Vec<String> = self
            .pairs
            .iter()
            .flat_map(|pair| side(pair).what_runs_does())
            .collect();
        Stop::roll_back(format!(
            "these threads of the {whose} do not stop: {}",
            threads.join(", ")
        ))
    }

    /// A thread that stood when its process was killed has left its stop for that of its exit. Returns whether there
    /// was one.
    fn recall_killed(&mut self) -> Result<bool, Stop> {
        let mut any = false;
        for pair in self.pairs.numbers() {
            let (reports, woken) = self.pairs[pair].leader.recall_killed();
            any |= woken || !reports.is_empty();
            for (tid, wait) in reports {
                but_for_a_crash(self.report(tid, wait))?;
            }
        }
        Ok(any)
    }

    /// The exchange will not be: the stopped leader goes on.
    fn resume_leader(&mut self) {
        for pair in self.pairs.iter_mut() {
            for thread in pair.leader.take_standing(Why::Asked) {
                let tid = thread.tid();
                let resumed = if thread.is_in_group_stop() {
                    thread.resume_into_interrupt()
                } else {
                    thread.resume(0)
                };
                // One that is gone will be reported as such.
                let running = resumed.unwrap_or_else(|_| Running::born(tid));
                pair.leader.add_running(running);
            }
        }
    }

    fn interrupt_leader(&self) {
        for pair in self.pairs.iter() {
            pair.leader.interrupt_all();
        }
    }

    /// A thread is sent back to make its call again, and stops before it does.
    fn have_it_made_again(&mut self, arrival: &Arrival) -> Result<(), Stop> {
        if let Some(index) = self.lanes.of_follower(arrival.tid) {
            self.lanes[index].again = Some(*arrival);
        }
        self.respond(arrival, RESTART_ALWAYS)
    }

    /// A thread that was still running arrives in a call: it is sent back to make it again.
    fn send_back(&mut self) -> Result<(), Stop> {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if !matches!(ppoll(&mut fds, Some(TimeSpec::new(0, 200_000)), None), Ok(n) if n > 0) {
            return Ok(());
        }
        match self.listener.receive() {
            Ok(notification) => self.have_it_made_again(&Arrival::from(notification)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                Ok(())
            }
            Err(error) => Err(Stop::roll_back(format!("receiving a call: {error}"))),
        }
    }

    fn drain_and_move(&mut self, start: Instant) -> Result<(Vec<Moved>, Option<Doomed>), Stop> {
        // In a take-over it may have been transformed until now.
        let drains = Instant::now();
        let mut rang = false;
        while !self.drained() {
            if drains.elapsed() > DRAIN_LIMIT.max(self.options.hang_limit) {
                return Err(Stop::roll_back(
                    "the follower does not consume what is left of the leader",
                ));
            }
            self.let_faults_come()?;
            rang |= but_for_a_crash(self.pump())?;
        }
        if rang {
            // A request that came meanwhile is looked for when it rings.
            self.wakeup.wake();
        }
        tracing::debug!(at = ?start.elapsed(), "promotion: the follower is drained");
        let through = self.waiting_arrivals()?;
        tracing::debug!(at = ?start.elapsed(), "promotion: a thread of it waits");
        // The calls that are now made inside the leader are no events of it.
        for pair in self.pairs.iter() {
            self.recorder.remove_process(pair.leader.pid as u32)?;
        }
        let mut inherited = Vec::with_capacity(through.len());
        for (pair, through) in through {
            let timers = self.timers_of(pair, start)?;
            if pair == ROOT {
                self.armed = Armed::new(&timers);
            }
            let has_estate = self.has_estate(pair);
            let mut estate = has_estate.then(|| self.read_estate(pair)).transpose()?;
            let mut given = self.give_descriptors(pair, &through)?;
            if let Some(estate) = &mut estate {
                self.give_places(pair, estate, &through, &mut given)?;
            }
            inherited.push((pair, timers, estate, given));
        }
        tracing::debug!(at = ?start.elapsed(), "promotion: descriptors given");
        self.halt_follower()?;
        tracing::debug!(at = ?start.elapsed(), "promotion: the follower stands");
        // In a tree it has the leader's ids for itself as well.
        let looked = self.tree.is_none().then(|| {
            let root = self.pairs.root().follower.pid;
            LockOwners::look(root, self.own_ids())
        });
        let mut moved = Vec::with_capacity(inherited.len());
        for (pair, timers, estate, given) in inherited {
            let undecided = self.undecided_calls(pair);
            // The kernel does not restart a thread's call any more once one was injected into it.
            self.pairs[pair].follower.rewind_stopped()?;
            let mut threads = self.pairs[pair].follower.take_stopped(Why::Asked);
            let settled = self.settle_threads(pair, &mut threads, &timers, &given, estate.as_ref());
            for thread in threads {
                self.pairs[pair].follower.add_stopped(thread, Why::Asked);
            }
            settled?;
            self.pairs[pair].follower.take_over_calls(&undecided)?;
            let pid = self.pairs[pair].follower.pid;
            self.swap_thread_ids(pair, pid);
            moved.push((pair, estate.map(|estate| estate.locks).unwrap_or_default()));
        }
        tracing::debug!(at = ?start.elapsed(), "promotion: it is settled");
        let owners = looked.map_or_else(Vec::new, LockOwners::found);
        let follower = self.pairs.root().follower.pid;
        for owner in &owners {
            if let Some(to) = self.own_id_of_counterpart(owner.tid) {
                lock_owners::give(follower, *owner, to);
            }
        }
        tracing::debug!(at = ?start.elapsed(), locks = owners.len(), "promotion: locks have their owners");
        self.forget_rest();
        // The point of no return, in an order that leaves one server if this agent dies here: until
        // now the follower died with us; after the next loop both would live, but the follower's calls wait in its
        // filter; after the one behind it the old leader dies with us and the new one waits for a
        // successor. Of a tree the root is the first: as long as one that outlives this agent is left, so is the root,
        // by which the successor finds them; and of the old one the root decides: when that is gone the guard kills
        // the others.
        for (pair, _) in &moved {
            let follower = &self.pairs[*pair].follower;
            if *pair == ROOT && !follower.stands() {
                return Err(Stop::roll_back("the follower was killed as it was to lead"));
            }
            follower.set_options_stopped(KEPT_OPTIONS)?;
        }
        // A unit ends with its main process: whoever that is must not end with this agent.
        self.lead_unit()?;
        let doomed = self.tree.is_some().then(|| {
            let others = self.pairs.iter().skip(1).map(|pair| &pair.leader);
            let others = others.filter(|leader| !leader.is_gone());
            Doomed::with(
                self.pairs.root().leader.pid,
                others.map(|leader| leader.pid).collect(),
            )
        });
        for pair in self.pairs.iter() {
            match pair.leader.set_options_stopped(FOLLOWER_OPTIONS) {
                // It ends by itself.
                Err(_) if inspect::is_dying(pair.leader.pid) => {}
                outcome => outcome?,
            }
        }
        let moved = moved.into_iter().map(|(number, locks)| {
            let pair = &mut self.pairs[number];
            let pid = pair.follower.pid;
            let mut side = std::mem::replace(&mut pair.follower, Side::new(pid));
            side.wards = std::mem::take(&mut pair.leader.wards);
            side.vdso = pair.leader.vdso.clone();
            Moved {
                pair: number,
                side,
                locks,
            }
        });
        Ok((moved.collect(), doomed))
    }

    /// The timers of a process of the stopped leader, as it has them now. If it dies that was heard at `start`.
    fn timers_of(&mut self, pair: usize, start: Instant) -> Result<Timers, Stop> {
        let pid = self.pairs[pair].leader.pid;
        // Not the main thread if there is another: one that is killed in the middle of such a call may get past the stop
        // at its exit, and what a process has is found by its main thread.
        let Some(thread) = self.pairs[pair].leader.take_helper() else {
            // It dies, and cannot be asked.
            return Ok(if pair == ROOT {
                self.armed.timers(pid, start)
            } else {
                Timers::default()
            });
        };
        let tid = thread.tid();
        let vdso = &self.pairs[pair].vdso;
        let asked = Context::read(&thread, pid)
            .and_then(|context| Timers::read(pid, thread, &context, vdso));
        match asked {
            Ok((thread, timers)) => {
                self.pairs[pair].leader.add_stopped(thread, Why::Asked);
                Ok(timers)
            }
            // Killed while it was asked. What is left of it will be reported.
            Err(_) if pair == ROOT && inspect::is_dying(pid) => {
                self.pairs[pair].leader.add_running(Running::born(tid));
                Ok(self.armed.timers(pid, start))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The calls in which the threads of a stopped process of the leader were interrupted, by the threads of the
    /// follower that are to make them: a signal that waited for one may be the new leader's first.
    fn undecided_calls(&self, pair: usize) -> Vec<(i32, Undecided)> {
        let lanes = self.lanes.iter().filter(|lane| lane.pair == pair);
        lanes
            .filter_map(|lane| {
                let call = self.pairs[pair].leader.undecided(lane.leader)?;
                Some((lane.follower?, call))
            })
            .collect()
    }

    fn settle_threads(
        &self,
        pair: usize,
        threads: &mut [Stopped],
        timers: &Timers,
        given: &[i32],
        estate: Option<&Estate>,
    ) -> Result<(), Stop> {
        // An agent that dies in one of the calls that are injected now takes it with it.
        for thread in &*threads {
            thread.set_options(KEPT_OPTIONS | ptrace::O_EXITKILL)?;
        }
        // Masks are in this order.
        threads.sort_by_key(|thread| thread.tid() != self.pairs[pair].follower.pid);
        let masks = threads.iter().map(block).collect::<Result<Vec<_>, _>>()?;
        let first = threads
            .first_mut()
            .ok_or_else(|| Stop::roll_back("the follower has no thread left"))?;
        self.settle_in(pair, first, timers, given)?;
        self.give_scheduling(pair)?;
        if let Some(estate) = estate {
            self.give_estate(pair, threads, estate)?;
        }
        let Pair {
            leader,
            follower,
            vdso,
            ..
        } = &self.pairs[pair];
        let lane = |tid| self.lanes.of_follower(tid).map(|at| &self.lanes[at]);
        let renamed = Renamed {
            from: inspect::own_id(leader.pid),
            to: inspect::own_id(follower.pid),
        };
        for thread in threads.iter_mut() {
            if let Some(lane) = lane(thread.tid()) {
                unmark(thread, follower.pid, vdso, &lane.queued, renamed)?;
                if lane.was_sent_one {
                    renamed.rename_in_frames(thread)?;
                }
                if let Some(again) = &lane.again {
                    self.rename_receiver(pair, thread, again, renamed)?;
                }
            }
        }
        // Last: every signal that has come to the leader until now.
        let pending = Pending::of(&leader.tids(), renamed);
        let counterpart = |tid| Some(lane(tid)?.leader);
        pending.queue(follower.pid, threads, vdso, &counterpart)?;
        for (thread, mask) in threads.iter().zip(masks) {
            unblock(thread, mask)?;
        }
        Ok(())
    }

    /// Releases what is left in the ring: the ends of threads, and the leader's calls after the last
    /// that the follower was to see.
    fn forget_rest(&mut self) {
        for index in 0..self.lanes.len() {
            while let Some(item) = self.order.take(index) {
                if let Item::Call(event) = item {
                    self.recorder.ring.release(event);
                }
            }
        }
        self.reclaim();
        while let Some(event) = self.recorder.ring.peek_new() {
            self.recorder.ring.release(event);
        }
    }

    /// Nothing is left of the leader but deaths of threads.
    fn drained(&mut self) -> bool {
        if self.drain_ring().is_err() || !self.is_complete() {
            return false;
        }
        (0..self.lanes.len()).all(|index| {
            matches!(self.order.first_due(index), None | Some(Item::Exit))
                && self.lanes[index].returned.is_empty()
                && self.lanes[index].fault.is_none()
                // One that has ended takes none any more.
                && (self.lanes[index].ended || self.count_taken(index).unwrap_or(false))
        })
    }

    /// For each process of the follower a thread that waits in a call: descriptors are installed through it.
    fn waiting_arrivals(&mut self) -> Result<Vec<(usize, Arrival)>, Stop> {
        let start = Instant::now();
        loop {
            let living = self.living();
            let waits = |pair: &usize| {
                let mut lanes = self.lanes.iter().filter(|lane| lane.pair == *pair);
                Some((*pair, lanes.find_map(|lane| lane.waiting)?))
            };
            let waiting: Vec<(usize, Arrival)> = living.iter().filter_map(waits).collect();
            // One that was still on its way to its next call may have made a fault instead.
            if waiting.len() == living.len() && self.drained() {
                return Ok(waiting);
            }
            if start.elapsed() > DRAIN_LIMIT {
                let idle = living
                    .iter()
                    .filter(|pair| !waiting.iter().any(|(of, _)| of == *pair));
                let idle: Vec<i32> = idle.map(|pair| self.pairs[*pair].follower.pid).collect();
                return Err(Stop::roll_back(format!(
                    "no thread of these processes of the follower makes a call: {idle:?}"
                )));
            }
            self.let_faults_come()?;
            but_for_a_crash(self.pump())?;
        }
    }

    /// Stops all threads of the follower between two calls. One that waits for its verdict is told
    /// to make the call again; before it gets there it stands in the interrupt's stop.
    fn halt_follower(&mut self) -> Result<(), Stop> {
        self.stopping_follower = true;
        self.interrupt_follower();
        for index in 0..self.lanes.len() {
            if let Some(arrival) = self.lanes[index].waiting.take() {
                self.have_it_made_again(&arrival)?;
            }
        }
        let start = Instant::now();
        while self.pairs.iter().any(|pair| pair.follower.runs()) {
            if start.elapsed() > DRAIN_LIMIT {
                return Err(self.do_not_stop("follower", |pair| &pair.follower));
            }
            // A thread that was running may arrive in a call meanwhile: it is sent back too.
            if let Ok(Some((tid, wait))) = ptrace::look() {
                if self.pairs.of_leader(tid, None).is_none() {
                    self.report(tid, wait)?;
                    if wait != Wait::Interrupted {
                        self.interrupt_follower();
                    }
                } else if wait != Wait::Interrupted || self.leader_runs(tid) {
                    but_for_a_crash(self.report(tid, wait))?;
                }
                continue;
            }
            self.send_back()?;
        }
        self.stopping_follower = false;
        Ok(())
    }

    /// The thread of the leader is not stopped. (One that is may report the stop twice.)
    fn leader_runs(&self, tid: i32) -> bool {
        let mut leaders = self.pairs.iter().map(|pair| &pair.leader);
        leaders.any(|leader| leader.running().any(|thread| thread.tid() == tid))
    }

    fn interrupt_follower(&self) {
        for pair in self.pairs.iter() {
            pair.follower.interrupt_all();
        }
    }

    /// The ids that the leader's threads have for themselves.
    fn own_ids(&self) -> BTreeSet<i32> {
        let lanes = self.lanes.iter().filter(|lane| lane.pair == ROOT);
        lanes.map(|lane| inspect::own_id(lane.leader)).collect()
    }

    /// The id that the follower's thread has for itself, of one of the leader that has this one.
    fn own_id_of_counterpart(&self, leader: i32) -> Option<i32> {
        let lane = self.lanes.iter().find(|lane| {
            lane.pair == ROOT && lane.follower.is_some() && inspect::own_id(lane.leader) == leader
        })?;
        lane.follower.map(inspect::own_id)
    }

    /// In the words that hold their thread ids, the new leader's threads had the old one's.
    fn swap_thread_ids(&self, pair: usize, pid: i32) {
        for lane in self.lanes.iter().filter(|lane| lane.pair == pair) {
            let Some(tid) = lane.follower else { continue };
            let Some(address) = self.pairs[pair].tid_addresses.get(&lane.leader) else {
                continue;
            };
            let (from, to) = (inspect::own_id(lane.leader), inspect::own_id(tid));
            replace_thread_id(pid, *address, from, to);
        }
    }
}

/// A crash or exit that is seen while the leader is relieved is what a take-over is for.
fn but_for_a_crash<T: Default>(outcome: Result<T, Stop>) -> Result<T, Stop> {
    match outcome {
        Err(Stop::LeaderCrashed { held: true, .. }) => Ok(T::default()),
        other => other,
    }
}
