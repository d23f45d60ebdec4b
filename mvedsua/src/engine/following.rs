//! A running update: the pump that takes events from the ring, calls from the follower and reports
//! from ptrace, and keeps the two sides equal.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::armed::Armed;
use super::clocks::Clocks;
use super::estate::HeldLocks;
use super::family::Tree;
use super::files::{Places, open_files};
use super::guard::Watched;
use super::lane::{Births, Cloning, Item, Lanes};
use super::pace::Pace;
use super::pair::{Pair, Pairs, ROOT};
use super::payload::Fetched;
use super::placement::Placement;
use super::readings::Slots;
use super::rules::Rules;
use super::side::{Side, Why};
use super::transforming::Transformation;
use super::unit::MainProcess;
use crate::follower::Arrival;
use crate::matcher::{EpollData, Order};
use crate::recorder::{EventRef, Recorder};
use crate::rules::tools::Divergence;
use crate::session::{Events, OnFull, Stage, UpdateKind, UpdateOptions};
use crate::sys::ptrace::{self, Wait};
use crate::sys::seccomp::Listener;
use crate::sys::wakeup::Wakeup;
use crate::tracee::inspect;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Running;

/// While the follower has nothing to do, the ring is looked at this often: the leader wakes nobody.
const RING_LOOK: Duration = Duration::from_millis(1);
/// With so many events in the queues the ring is not looked at for every call,
const SUPPLY: u64 = 32;
/// but once in this time: far less than anybody is waited for.
const FRESH: Duration = Duration::from_millis(1);
/// Longest sleep while events wait for the follower: hang and order limits are checked as often.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);
/// While an answer is kept from the follower for a signal that may come: it is looked for this often.
const KEPT_LOOK: Duration = Duration::from_micros(100);
/// When no thread can go on in the global order for this long, the order is relaxed by one event.
pub(super) const ORDER_PATIENCE: Duration = Duration::from_millis(50);
/// With this few events behind, the follower has caught up (t3).
const CAUGHT_UP_EVENTS: u64 = 256;
/// A leader under load writes on while we look: this much that is not in the queues yet is as good as none.
const CAUGHT_UP_BYTES: u64 = 16 * 1024;
/// With this many threads and processes that the follower has yet to make the leader makes no more.
const CROWD: usize = 256;
/// Consumed calls that are kept for a divergence report.
const HISTORY: usize = 24;

/// Why an update cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The follower must go; one line, and a report.
    RollBack(String, Option<String>),
    /// The leader died or is about to; this is how. Its threads are held if `held`.
    LeaderCrashed { how: String, held: bool },
    /// The leader ended of its own accord.
    LeaderEnded(String),
    /// The update may work at another moment: why not now.
    Later(String),
}

impl Stop {
    /// A report begins with the stage in which it was made.
    pub(super) fn in_stage(self, stage: Stage) -> Self {
        match self {
            Self::RollBack(why, Some(report)) => {
                Self::RollBack(why, Some(format!("stage       {stage}\n{report}")))
            }
            other => other,
        }
    }

    pub(super) fn roll_back(reason: impl Into<String>) -> Self {
        Self::RollBack(reason.into(), None)
    }
}

/// Errors of the mechanisms mean that the follower cannot be trusted any more.
impl From<crate::tracee::TraceeError> for Stop {
    fn from(error: crate::tracee::TraceeError) -> Self {
        Self::roll_back(error.to_string())
    }
}

impl From<crate::recorder::RecorderError> for Stop {
    fn from(error: crate::recorder::RecorderError) -> Self {
        Self::roll_back(error.to_string())
    }
}

/// What a user is told: one line, and a report if there is one.
pub(super) fn describe(stop: Stop) -> (String, Option<String>) {
    match stop {
        Stop::Later(reason) => (reason, None),
        Stop::RollBack(reason, report) => (reason, report),
        Stop::LeaderCrashed { how, .. } => (format!("the leader crashed: {how}"), None),
        Stop::LeaderEnded(how) => (format!("the leader ended: {how}"), None),
    }
}

/// A call that was matched, for the report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) tid: i32,
    pub(super) nr: u16,
    pub(super) args: [u64; 6],
    pub(super) ret: i64,
}

/// The return of a `clone` in the thread that it made: a new thread of the follower makes no call
/// there.
fn is_birth(event: &EventRef) -> bool {
    event.header.ret == 0 && makes(event.header.nr)
}

/// A call that may have made a thread, in its creator.
fn makes_thread(event: &EventRef) -> bool {
    event.header.ret > 0 && makes(event.header.nr)
}

/// A call that makes a thread or a process.
pub(super) fn makes(nr: u16) -> bool {
    let roles = super::roles::roles();
    [roles.clone, roles.clone3, roles.fork, roles.vfork].contains(&nr)
}

/// A running update.
pub(super) struct Following {
    /// The processes.
    pub(super) pairs: Pairs,
    /// Child processes are followed, too.
    pub(super) tree: Option<Tree>,
    /// Their threads.
    pub(super) lanes: Lanes,
    pub(super) order: Order<Item>,
    pub(super) recorder: Recorder,
    pub(super) listener: Arc<Listener>,
    pub(super) options: UpdateOptions,
    /// The rules, if there are any.
    pub(super) rules: Option<Box<Rules>>,
    /// True after a promotion: the old version follows.
    pub(super) reverse: bool,
    /// The divergence that ended the update, for `rules suggest`.
    pub(super) diverged: Option<Box<Divergence>>,
    pub(super) wakeup: Wakeup,
    /// Threads of the leader that were born and whose creation is not in a queue yet.
    pub(super) births: Births,
    /// What such threads did already.
    pub(super) early: HashMap<i32, Vec<Item>>,
    /// Payloads that were fetched out of line.
    pub(super) fetched: Fetched,
    pub(super) scratch: Vec<u8>,
    pub(super) counts: Events,
    pub(super) clocks: Clocks,
    /// Written payloads so far, for [`UpdateKind::Fault`].
    pub(super) payloads: u64,
    pub(super) history: std::collections::VecDeque<Past>,
    pub(super) progress: Instant,
    pub(super) high_water: u64,
    pub(super) blocked: Duration,
    pub(super) blocked_since: Option<Instant>,
    /// The leader is held back, for the follower to catch up.
    pub(super) pace: Option<Pace>,
    /// Which CPUs are left to the leader.
    pub(super) placement: Placement,
    /// A stop of the whole leader is under way: its threads stay stopped.
    pub(super) stopping: bool,
    /// The same for the follower.
    pub(super) stopping_follower: bool,
    /// The leader has crashed: the follower takes over.
    pub(super) crashed: bool,
    /// The lane of a thread that has handled a fault which its counterpart has not made, and since when that is known.
    pub(super) alone_in_fault: Option<(usize, Instant)>,
    /// The filter needed `no_new_privs`.
    pub(super) no_new_privs: bool,
    /// The follower's state is transformed before it consumes anything.
    pub(super) transformation: Transformation,
    /// What is known of the root's timers.
    pub(super) armed: Armed,
    /// The record locks of the root when that was looked for ahead of a promotion. One that it has taken since is
    /// known by its call.
    pub(super) held_locks: Option<HeldLocks>,
    /// When the ring was emptied into the queues.
    looked: Instant,
    idle_looks: u32,
    /// What can be done for an exchange while the leader serves is done.
    pub(super) is_prepared: bool,
    /// An answer is kept from the follower for a signal that may come.
    pub(super) keeps: bool,
    /// The unit whose main process the leader is, once an exchange is to be made.
    pub(super) unit: Option<MainProcess>,
}

/// What [`Following`] is made of.
pub(super) struct Parts {
    pub(super) leader: Side,
    pub(super) follower: Side,
    pub(super) pairs: Vec<(i32, i32)>,
    pub(super) recorder: Recorder,
    pub(super) listener: Arc<Listener>,
    pub(super) watched: Watched,
    pub(super) vdso: Arc<Vdso>,
    pub(super) epoll: EpollData,
    pub(super) slots: Slots,
    pub(super) options: UpdateOptions,
    pub(super) rules: Option<Box<Rules>>,
    pub(super) reverse: bool,
    pub(super) tree: Option<Tree>,
    pub(super) wakeup: Wakeup,
    pub(super) middle: i32,
    pub(super) cloner: i32,
    pub(super) armed: Armed,
    pub(super) no_new_privs: bool,
    pub(super) tid_addresses: HashMap<i32, u64>,
}

/// Longest wait for records that are done and lie behind one that is still being written.
const HIDDEN_LIMIT: Duration = Duration::from_millis(50);

impl Following {
    pub(super) fn new(parts: Parts) -> Self {
        let mut lanes = Lanes::default();
        let mut order = Order::default();
        for (leader, follower) in parts.pairs {
            let index = lanes.open(ROOT, leader);
            lanes.pair(index, follower);
            lanes[index].slot = parts.slots.of(leader);
            lanes[index].has_slot = true;
            order.open_again(index);
        }
        let root = Pair {
            opened: open_files(parts.leader.pid),
            places: Places::of(parts.leader.pid),
            leader: parts.leader,
            follower: parts.follower,
            vdso: parts.vdso,
            epoll: parts.epoll,
            slots: parts.slots,
            lasting: std::collections::BTreeSet::new(),
            estate_changed: false,
            tid_addresses: parts.tid_addresses,
            middle: parts.middle,
            cloner: parts.cloner,
            child: None,
            watched: Some(parts.watched),
        };
        Self {
            pairs: Pairs::new(root),
            tree: parts.tree,
            lanes,
            order,
            recorder: parts.recorder,
            listener: parts.listener,
            options: parts.options,
            rules: parts.rules,
            reverse: parts.reverse,
            diverged: None,
            wakeup: parts.wakeup,
            births: Births::default(),
            early: HashMap::new(),
            fetched: Fetched::default(),
            scratch: vec![0; 64 * 1024],
            counts: Events::default(),
            clocks: Clocks::default(),
            payloads: 0,
            history: std::collections::VecDeque::with_capacity(HISTORY),
            progress: Instant::now(),
            high_water: 0,
            blocked: Duration::ZERO,
            blocked_since: None,
            pace: None,
            placement: Placement::new(),
            stopping: false,
            stopping_follower: false,
            crashed: false,
            alone_in_fault: None,
            no_new_privs: parts.no_new_privs,
            transformation: Transformation::None,
            armed: parts.armed,
            held_locks: None,
            looked: Instant::now(),
            idle_looks: 0,
            is_prepared: false,
            keeps: false,
            unit: None,
        }
    }

    /// Number of events that wait for the follower.
    pub(super) fn lag_events(&self) -> u64 {
        self.order.len() as u64
    }

    /// True when the follower is as far as the leader, to within a few calls, and the fault that it
    /// was to make (`--inject-fault`) lies behind it: whoever waits for that learns of it.
    pub(super) fn has_caught_up(&self) -> bool {
        !self.transformation.is_running()
            && !matches!(self.options.kind, UpdateKind::Fault { after } if self.payloads <= after)
            && self.lag_events() <= CAUGHT_UP_EVENTS
            && self.recorder.ring.new_bytes() <= CAUGHT_UP_BYTES
    }

    /// One round: sleeps until something is to be done, at most a moment, and does it. Returns true
    /// when the engine's own wake-up rang, i.e. there may be a request.
    pub(super) fn pump(&mut self) -> Result<bool, Stop> {
        let rang = self.sleep_and_receive()?;
        let transforms = self.transformation.is_running();
        // With enough in the queues there is no need to look at the ring again.
        let mut advanced = !transforms && self.is_supplied() && self.advance()?;
        if !advanced {
            self.drain_ring()?;
            self.tick_rules()?;
            if transforms {
                self.watch_transformer()?;
            } else {
                // The usual case, a call whose event is there already, is answered at once.
                advanced = self.advance()?;
            }
        }
        if advanced {
            self.idle_looks = 0;
        } else if !transforms {
            self.look_for_readings()?;
        }
        if !advanced || self.pace.is_some() || self.blocked_since.is_some() {
            self.recorder.ring.publish();
        }
        if rang {
            self.wakeup.clear();
            self.reports()?;
        }
        self.set_aside();
        self.relieve()?;
        self.check_limits()?;
        self.place();
        Ok(rang)
    }

    /// Enough is in the queues, and what is in the ring comes after all that in the global order. Looking there takes
    /// the ends of the ring away from the leader's CPU, which has to fetch them back. Whatever rests on an item that is
    /// *not* in a queue looks all the same: with a look that old, nothing can be known to be missing.
    fn is_supplied(&self) -> bool {
        self.lag_events() >= SUPPLY && self.looked.elapsed() < FRESH
    }

    fn sleep_and_receive(&mut self) -> Result<bool, Stop> {
        let timeout = if self.keeps {
            KEPT_LOOK
        } else if self.transformation.is_running() {
            // What fills the ring meanwhile is set aside in time.
            RING_LOOK
        } else if !self.order.is_empty() {
            self.idle_looks = 0;
            LONGEST_SLEEP
        } else if self.idle_looks < 8 {
            self.idle_looks += 1;
            RING_LOOK
        } else {
            RING_LOOK * 2
        };
        let (mut calls, mut rang) = (false, false);
        {
            let mut fds = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wakeup.as_fd(), PollFlags::POLLIN),
            ];
            // An interrupted poll is a round without news.
            if ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None).is_ok() {
                let ready = |fd: &PollFd<'_>| {
                    fd.revents()
                        .is_some_and(|r| r.intersects(PollFlags::POLLIN))
                };
                (calls, rang) = (ready(&fds[0]), ready(&fds[1]));
            }
        }
        if calls {
            self.receive()?;
        }
        Ok(rang)
    }

    /// Takes one call from the listener; the poll said that there is one.
    pub(super) fn receive(&mut self) -> Result<(), Stop> {
        let arrival = match self.listener.receive() {
            Ok(notification) => Arrival::from(notification),
            // The thread went away between its call and now.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                return Ok(());
            }
            Err(error) => return Err(Stop::roll_back(format!("receiving a call: {error}"))),
        };
        let Some(index) = self.lanes.of_follower(arrival.tid) else {
            return Err(Stop::roll_back(format!(
                "thread {} of the follower has no counterpart",
                arrival.tid
            )));
        };
        if self.is_local(&arrival) {
            return self.map_file(index, &arrival);
        }
        if self.lanes[index].cloning.is_some() && makes(arrival.call.nr) {
            // A signal came between: the kernel makes the call again.
            self.number_next(index)?;
            return self.let_run(&arrival);
        }
        self.lanes[index].waiting = Some(arrival);
        self.settle_readings(index)
    }

    fn is_local(&self, arrival: &Arrival) -> bool {
        mvedsua_common::table::syscall(arrival.call.nr).is_some_and(|call| {
            call.class_of(&arrival.call.args) == mvedsua_common::spec::Class::Local
        })
    }

    /// Moves what is new in the ring to the queues of its threads.
    pub(super) fn drain_ring(&mut self) -> Result<(), Stop> {
        let now = self.recorder.ring.now();
        self.looked = Instant::now();
        let mut hidden = None;
        loop {
            while let Some(event) = self.recorder.ring.peek_new() {
                self.counts.recorded += 1;
                self.placement.count(event.header.cpu);
                if self.is_snapshot_call(&event) || is_birth(&event) {
                    self.recorder.ring.release(event);
                    continue;
                }
                self.note_timer(&event);
                self.queue_readings(&event)?;
                self.push(event.header.tid as i32, Item::Call(event))?;
            }
            // What a thread has done before a signal, a reading or its end must be in its queue before that. A record
            // takes nanoseconds to write, unless the machine takes the CPU away in the middle of it.
            if self.recorder.ring.has_seen(now)
                || hidden.get_or_insert_with(Instant::now).elapsed() > HIDDEN_LIMIT
            {
                break;
            }
            std::thread::yield_now();
        }
        let used = self.recorder.ring.used_bytes();
        self.high_water = self.high_water.max(used);
        Ok(())
    }

    /// Appends an item to a thread's queue. What a new thread does before its creator has returned from
    /// the `clone` is kept until that is in its queue.
    pub(super) fn push(&mut self, tid: i32, item: Item) -> Result<(), Stop> {
        match self.lanes.of_leader(tid) {
            Some(index) => self.queue(index, item)?,
            None => self.early.entry(tid).or_default().push(item),
        }
        Ok(())
    }

    /// Appends an item to the queue of a lane. Behind a call that made a thread that thread's own items have
    /// their place: births and calls of one thread come in the same order.
    pub(super) fn queue(&mut self, index: usize, item: Item) -> Result<(), Stop> {
        let made = match &item {
            Item::Call(event) if makes_thread(event) => event.header.ret as i32,
            _ => {
                self.lanes[index].leaving |= matches!(item, Item::Exit);
                return self.push_ruled(index, item);
            }
        };
        self.push_ruled(index, item)?;
        if let Some(birth) = self.births.take(self.lanes[index].leader, made) {
            let born = birth.tid;
            let parent = self.lanes[index].pair;
            let pair = birth.pair.unwrap_or(parent);
            if pair != parent {
                self.rules_for(parent, pair);
            }
            let lane = self.open_lane(pair, born);
            self.lanes[index].bears.push_back(Cloning {
                result: made,
                lane,
                id: birth.id,
            });
            for item in self.early.remove(&born).unwrap_or_default() {
                self.queue(lane, item)?;
            }
            if self.births.take_gone(born) {
                self.lanes.leader_ended(born);
                if !self.lanes[lane].leaving {
                    self.queue(lane, Item::Exit)?;
                }
            }
        }
        Ok(())
    }

    /// Opens a lane for two threads that both exist, with the same slot.
    pub(super) fn pair_up(&mut self, pair: usize, leader: i32, follower: i32) {
        let index = self.open_lane(pair, leader);
        self.lanes.pair(index, follower);
        self.lanes[index].has_slot = true;
    }

    fn open_lane(&mut self, pair: usize, leader: i32) -> usize {
        let index = self.lanes.open(pair, leader);
        self.order.open_again(index);
        self.lanes[index].slot = self.pairs[pair].slots.of(leader);
        index
    }

    /// The clone and the wait of the snapshot itself, made by the stub in the leader's name. (What its threads
    /// ask on their way out are local calls.) After the wait the id of the middle process may come again, for
    /// a child of the leader's.
    fn is_snapshot_call(&mut self, event: &EventRef) -> bool {
        let header = &event.header;
        let roles = super::roles::roles();
        let root = self.pairs.root_mut();
        let is_its = header.tid as i32 == root.cloner && header.ret == i64::from(root.middle);
        if is_its && header.nr == roles.wait4 {
            (root.middle, root.cloner) = (0, 0);
            return true;
        }
        is_its && header.nr == roles.clone
    }

    /// Answers calls as long as one can be answered in the global order.
    pub(super) fn advance(&mut self) -> Result<bool, Stop> {
        let mut any = false;
        self.keeps = false;
        loop {
            while let Some(index) = self.order.turn() {
                if !self.step(index)? {
                    break;
                }
                any = true;
            }
            if !self.step_out_of_turn()? {
                break;
            }
            any = true;
        }
        if self.step_aside()? {
            any = true;
        }
        if any {
            self.progress = Instant::now();
        }
        Ok(any)
    }

    /// Handles what ptrace has to report of either side. Threads that stop for every call of theirs report faster than
    /// that is done: after some, everything else has its turn.
    pub(super) fn reports(&mut self) -> Result<(), Stop> {
        /// So many are handled at once.
        const MOST: usize = 64;
        for _ in 0..MOST {
            let report = ptrace::look().map_err(|e| Stop::roll_back(format!("waitid: {e}")))?;
            let Some((tid, wait)) = report else {
                return Ok(());
            };
            self.report(tid, wait)?;
        }
        self.wakeup.wake();
        Ok(())
    }

    pub(super) fn report(&mut self, tid: i32, wait: Wait) -> Result<(), Stop> {
        let likely = |lane: usize| self.lanes[lane].pair;
        let leaders = self.lanes.of_leader(tid).map(likely);
        let followers = self.lanes.of_follower(tid).map(likely);
        if let Some(pair) = self.pairs.of_leader(tid, leaders) {
            let outcome = self.leader_report(pair, tid, wait);
            self.or_dying(|pair| &mut pair.leader, pair, (tid, wait), outcome)
        } else if let Some(pair) = self.pairs.of_follower(tid, followers) {
            // It may be left in its stop; and a signal that it loses with this agent is lost with itself.
            ptrace::keep(tid);
            let outcome = self.follower_report(pair, tid, wait);
            self.or_dying(|pair| &mut pair.follower, pair, (tid, wait), outcome)
        } else {
            self.strange_report(tid, wait)
        }
    }

    /// A child process can be killed at any moment, by its maker or (the follower's) by us: what fails with it then
    /// is no failure, and its end will be reported. Whatever fails, the thread stays known.
    fn or_dying(
        &mut self,
        side_of: impl Fn(&mut Pair) -> &mut Side,
        pair: usize,
        (tid, wait): (i32, Wait),
        outcome: Result<(), Stop>,
    ) -> Result<(), Stop> {
        let is_end = matches!(wait, Wait::Exited(_) | Wait::Killed(_));
        if outcome.is_ok() || is_end || !self.pairs.has(pair) {
            return outcome;
        }
        let side = side_of(&mut self.pairs[pair]);
        if !side.has(tid) {
            // The error took its handle away. At its exit another thread may wait for it, in an `execve`.
            if wait == Wait::Event(libc::PTRACE_EVENT_EXIT) {
                // One that is gone will be reported as such.
                let _ = ptrace::resume(tid, 0);
            }
            side.add_running(Running::born(tid));
        }
        if pair == ROOT || !inspect::is_dying(side.pid) {
            return outcome;
        }
        Ok(())
    }

    /// So many processes and threads of the leader have yet to be made by the follower that no more may come: it
    /// would be ever later, and everything else slower for it.
    pub(super) fn is_crowded(&self) -> bool {
        self.lanes.unmade() >= CROWD
            && !self.transformation.is_running()
            && self.options.on_full == OnFull::Block
    }

    /// Lets the leader's threads go on when there is room in the ring again.
    fn relieve(&mut self) -> Result<(), Stop> {
        if self.blocked_since.is_none() {
            return Ok(());
        }
        let has_room = self.has_room();
        let set_aside = has_room && self.recorder.ring.aside_bytes() > 0;
        if self.options.on_full == OnFull::Rollback && !set_aside {
            return Err(Stop::roll_back(
                "the ring is full and --on-full is rollback",
            ));
        }
        if !self.stopping && has_room && self.lanes.unmade() < CROWD / 2 {
            self.recorder.ring.publish();
            for pair in self.pairs.iter_mut() {
                for thread in pair.leader.take_standing(Why::RingFull) {
                    let tid = thread.tid();
                    match thread.resume(0) {
                        Ok(running) => pair.leader.add_running(running),
                        // Its end will be reported.
                        Err(_) if inspect::is_dying(pair.leader.pid) => {
                            pair.leader.add_running(Running::born(tid));
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            if let Some(since) = self.blocked_since.take() {
                self.blocked += since.elapsed();
            }
        }
        Ok(())
    }

    /// The follower must make progress while events wait for it, and threads that wait for each
    /// other's turn are let out of it.
    fn check_limits(&mut self) -> Result<(), Stop> {
        if self.order.is_empty() || self.transformation.is_running() {
            self.progress = Instant::now();
            return Ok(());
        }
        self.check_faults()?;
        let still = self.progress.elapsed();
        if still > ORDER_PATIENCE && self.order.wait_no_longer() {
            // A rule holds a call of one thread; the others go on without it.
            self.advance()?;
            return Ok(());
        }
        if still > ORDER_PATIENCE {
            // The report looks symbols up, for which there is no time unless it is read.
            let told = self.counts.relaxed == 0 && tracing::enabled!(tracing::Level::DEBUG);
            let stuck = told.then(|| self.hang_report());
            for index in 0..self.lanes.len() {
                if self.lanes[index].waiting.is_some()
                    && matches!(self.order.next(index), Some((_, false)))
                    && self.step(index)?
                {
                    if let Some(stuck) = stuck {
                        tracing::debug!(report = stuck, "the global order is relaxed");
                    }
                    self.counts.relaxed += 1;
                    self.progress = Instant::now();
                    return Ok(());
                }
            }
        }
        if still > self.options.hang_limit {
            let report = self.hang_report();
            return Err(Stop::RollBack(
                format!(
                    "the follower made no progress for {} while {} events wait for it",
                    humantime::format_duration(Duration::from_millis(still.as_millis() as u64)),
                    self.lag_events()
                ),
                Some(report),
            ));
        }
        Ok(())
    }

    /// Nothing may ever be lost; asked about ten times a second, since asking costs a system call.
    pub(super) fn check_loss(&self) -> Result<(), Stop> {
        match self.recorder.counters()?.lost {
            0 => Ok(()),
            lost => Err(Stop::roll_back(format!("{lost} records were lost"))),
        }
    }

    pub(super) fn remember(&mut self, tid: i32, header: &mvedsua_common::event::EventHeader) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Past {
            tid,
            nr: header.nr,
            args: header.args,
            ret: header.ret,
        });
    }

    /// True if the `--inject-fault` of this update strikes now: at this written payload.
    pub(super) fn fault_strikes(&mut self) -> bool {
        let UpdateKind::Fault { after } = self.options.kind else {
            return false;
        };
        self.payloads += 1;
        self.payloads == after + 1
    }

    /// Time that the leader's threads waited for room, until now.
    pub(super) fn blocked(&self) -> Duration {
        self.blocked
            + self
                .blocked_since
                .map_or(Duration::ZERO, |since| since.elapsed())
    }
}
