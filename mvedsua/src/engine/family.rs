//! Child processes that are followed: born, ended and waited for while an update runs.
//!
//! A child of the leader is reported by ptrace at its birth, before it has run, and recorded from there
//! on. The follower makes its own child by the same call, and the two are a pair: the n-th birth of the
//! one thread is that of the other. What the leader's `wait4` got is answered from the log like any call, but only
//! once the follower's own child has ended, too; that one is then waited for inside the follower, so that
//! both trees stay equal.
//!
//! A child that shares its maker's memory (`vfork`) is the leader's alone: it is about to execute another program.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mvedsua_common::table::number;

use super::following::{Following, Stop, makes};
use super::guard::Watched;
use super::lane::{Birth, Item};
use super::pair::{Child, Kin, Pair, ROOT};
use super::readings::Slots;
use super::replay::record_of;
use super::roles::roles;
use super::side::Side;
use crate::sys::memory;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::inject::Plain;
use crate::tracee::inspect;
use crate::tracee::pid_namespace::PidNamespace;
use crate::tracee::snapshot::{FOLLOWER_OPTIONS, TREE_OPTIONS};
use crate::tracee::thread::{Running, Stopped};

/// What a child may be made with and still be a process of its own: other flags would have it share with its
/// maker what promotion gives to each.
const SHARING: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_PARENT) as u64;

/// Where `si_pid` is in the `siginfo_t` of a `waitid`.
const PID_IN_SIGINFO: usize = 16 - 4;

/// A signal that comes right behind a call comes within this time,
const SIGNAL_PATIENCE: Duration = Duration::from_millis(5);
/// unless the thread has not run so long after that: on a busy machine it may have to wait for a CPU,
const RUN_PATIENCE: Duration = Duration::from_millis(1);
/// though hardly for this long.
const LONGEST_PATIENCE: Duration = Duration::from_millis(500);

/// What is kept of a tree besides its pairs.
#[derive(Debug)]
pub(super) struct Tree {
    /// Where the follower's processes live, with the ids of the leader's.
    namespace: PidNamespace,
    /// How many pid namespaces the leader's root is below ours.
    depth: usize,
    /// The lane whose thread of the follower makes a thread or process now: one at a time, or they would
    /// get each other's ids.
    bearing: Option<usize>,
    /// The id that was given last: the kernel gives the one after it by itself.
    last_id: i32,
    /// Processes of either side that were reported at their birth before their maker was.
    strangers: HashMap<i32, Stopped>,
    /// Processes that share their maker's memory and have not been reported at their birth yet.
    alone: HashSet<i32>,
}

impl Tree {
    /// Of the leader `root`, whose copy lives in `namespace`.
    pub(super) fn new(namespace: PidNamespace, root: i32) -> Self {
        Self {
            namespace,
            depth: inspect::ids(root).len().saturating_sub(1),
            bearing: None,
            last_id: 0,
            strangers: HashMap::new(),
            alone: HashSet::new(),
        }
    }

    /// Kills all processes of the follower, those too of which nobody has heard yet.
    pub(super) fn kill(&self) {
        // It may have ended with them.
        let _ = self.namespace.kill();
    }

    /// Children that share their maker's memory, some of which have not been reported yet.
    pub(super) fn take_alone(&mut self) -> HashSet<i32> {
        std::mem::take(&mut self.alone)
    }

    /// Nobody has named them yet; whose they are nobody will say any more.
    pub(super) fn take_strangers(&mut self) -> impl Iterator<Item = Stopped> {
        std::mem::take(&mut self.strangers).into_values()
    }
}

/// The flags of the call that made a child, whose maker stands in its event.
fn flags_of(thread: &Stopped) -> Result<u64, Stop> {
    let regs = thread.registers()?;
    let nr = regs.orig_rax as u16;
    if nr == roles().clone {
        return Ok(regs.rdi);
    }
    if nr != roles().clone3 {
        return Ok(libc::SIGCHLD as u64);
    }
    let mut flags = [0u8; 8];
    memory::read(thread.tid(), regs.rdi, &mut flags)
        .map_err(|e| Stop::roll_back(format!("reading clone3's arguments: {e}")))?;
    Ok(u64::from_le_bytes(flags))
}

/// The id of `child` as `maker` sees it.
pub(super) fn told(maker: i32, child: i32) -> i32 {
    let (levels, ids) = (inspect::ids(maker).len(), inspect::ids(child));
    levels
        .checked_sub(1)
        .and_then(|level| ids.get(level))
        .copied()
        .unwrap_or(child)
}

impl Following {
    /// The id of a thread of the leader in the pid namespace of the leader's root.
    fn root_id(&self, tid: i32) -> i32 {
        let depth = self.tree.as_ref().map_or(0, |tree| tree.depth);
        inspect::ids(tid).get(depth).copied().unwrap_or(tid)
    }

    /// A new thread of the leader.
    pub(super) fn birth_of(&self, tid: i32) -> Birth {
        Birth {
            tid,
            told: inspect::own_id(tid),
            id: self.root_id(tid),
            pair: None,
        }
    }

    /// A thread of the follower is about to make one, which is to get the id of the leader's.
    pub(super) fn number_next(&mut self, index: usize) -> Result<(), Stop> {
        if let Some(tree) = &mut self.tree
            && let Some(made) = self.lanes[index].cloning
        {
            tree.bearing = Some(index);
            if made.id == tree.last_id + 1 {
                return Ok(());
            }
            tree.namespace.set_next(made.id).map_err(|e| {
                Stop::roll_back(format!(
                    "giving the follower's thread the id {}: {e}",
                    made.id
                ))
            })?;
        }
        Ok(())
    }

    /// Another thread of the follower makes one just now.
    pub(super) fn must_wait_to_bear(&self, index: usize) -> bool {
        self.tree
            .as_ref()
            .is_some_and(|tree| tree.bearing.is_some())
            && matches!(self.order.next(index), Some((Item::Call(event), _)) if makes(event.header.nr))
    }

    /// The follower has made a thread, which must have this id.
    pub(super) fn has_id(&mut self, born: i32, id: i32) -> Result<(), Stop> {
        let Some(tree) = &mut self.tree else {
            return Ok(());
        };
        tree.bearing = None;
        // The follower's namespace is one below the leader's.
        let got = inspect::ids(born).get(tree.depth + 1).copied();
        if got == Some(id) {
            tree.last_id = id;
            return Ok(());
        }
        Err(Stop::roll_back(format!(
            "the follower's thread {born} has the id {got:?} in its pid namespace and was to have {id}"
        )))
    }

    /// A process at its birth, before its maker's event says whose it is.
    pub(super) fn stranger(&mut self, thread: Stopped) {
        if let Some(tree) = &mut self.tree
            && !tree.alone.remove(&thread.tid())
        {
            tree.strangers.insert(thread.tid(), thread);
        } else {
            // A child process of the leader's: its alone.
            self.let_alone(thread.tid());
        }
    }

    fn let_alone(&mut self, tid: i32) {
        let leader = &mut self.pairs.root_mut().leader;
        leader.wards.report(tid, Wait::Interrupted);
    }

    /// A process of which nobody knew whose it is has ended.
    pub(super) fn stranger_gone(&mut self, pid: i32) {
        let _ = self.take_stranger(pid);
    }

    /// A process whose birth was reported before that of its maker was.
    fn take_stranger(&mut self, pid: i32) -> Option<Stopped> {
        self.tree.as_mut()?.strangers.remove(&pid)
    }

    /// A thread of the leader, a promoted process, has made a child that shares its memory.
    pub(super) fn leader_vforked(&mut self, child: i32) {
        if self.take_stranger(child).is_some() {
            self.let_alone(child);
        } else if let Some(tree) = &mut self.tree {
            tree.alone.insert(child);
        }
    }

    /// A thread of the leader has made a child process; it stands in that event.
    pub(super) fn leader_bore(&mut self, pair: usize, thread: &Stopped) -> Result<(), Stop> {
        let (creator, child) = (thread.tid(), thread.event_message()? as i32);
        if self.tree.is_none() {
            return Ok(());
        }
        if flags_of(thread)? & SHARING != 0 {
            if self.take_stranger(child).is_some() {
                self.let_alone(child);
            }
            return Err(Stop::roll_back(
                "the leader made a child process that shares its descriptors or memory with it, which cannot be followed",
            ));
        }
        let told = told(creator, child);
        self.recorder.add_process(child as u32)?;
        let parent = &self.pairs[pair];
        let mut born = Pair {
            leader: Side::new(child),
            follower: Side::new(0),
            vdso: parent.vdso.clone(),
            epoll: Default::default(),
            slots: Slots::inherited(&parent.slots, creator, child),
            opened: HashMap::new(),
            places: Default::default(),
            lasting: Default::default(),
            estate_changed: false,
            tid_addresses: HashMap::new(),
            middle: 0,
            cloner: 0,
            child: Some(Child::new(pair, told)),
            watched: Some(Watched::watch(child)),
        };
        born.leader.vdso = parent.leader.vdso.clone();
        born.leader.add_running(Running::born(child));
        let number = self.pairs.add(born);
        let birth = Birth {
            tid: child,
            told,
            id: self.root_id(child),
            pair: Some(number),
        };
        self.births.add(creator, birth);
        if self.take_stranger(child).is_some() {
            self.leader_report(number, child, Wait::Interrupted)?;
        }
        self.set_margin()
    }

    /// A thread of the follower has made the child process of `pair`.
    pub(super) fn follower_bore(
        &mut self,
        parent: usize,
        creator: i32,
        pair: usize,
        born: i32,
    ) -> Result<(), Stop> {
        let seen = told(creator, born);
        let (opened, epoll) = (
            self.pairs[parent].opened.clone(),
            self.pairs[parent].epoll.clone(),
        );
        let places = self.pairs[parent].places.clone();
        let child = &mut self.pairs[pair];
        (child.opened, child.epoll, child.places) = (opened, epoll, places);
        if let Some(rules) = &mut self.rules {
            rules.follower_bore(parent, pair);
        }
        child.follower = Side::new(born);
        child.follower.add_running(Running::born(born));
        if let Some(of) = &mut child.child {
            of.follower_told = seen;
        }
        if self.take_stranger(born).is_some() {
            self.follower_report(pair, born, Wait::Interrupted)?;
        }
        Ok(())
    }

    /// A process of the leader's tree, not its root, is about to end, or has.
    pub(super) fn child_ends(&mut self, pair: usize, how: Wait) -> Result<(), Stop> {
        if let Some(child) = &mut self.pairs[pair].child {
            child.leader_end.get_or_insert(how);
        }
        self.compare_ends(pair)
    }

    /// The last thread of a process of the leader's tree is gone. All its calls are in its queue.
    pub(super) fn child_gone(&mut self, pair: usize, how: Wait) -> Result<(), Stop> {
        self.recorder
            .remove_process(self.pairs[pair].leader.pid as u32)?;
        // Its id may come again for another.
        self.pairs[pair].watched = None;
        // One that was killed may have had no time to report that it was about to end.
        for index in 0..self.lanes.len() {
            if self.lanes[index].pair == pair && !self.lanes[index].leaving {
                self.queue(index, Item::Exit)?;
            }
        }
        self.child_ends(pair, how)
    }

    /// The same for the follower's.
    pub(super) fn follower_child_gone(&mut self, pair: usize, how: Wait) -> Result<(), Stop> {
        // What the leader's does next may be in the ring still.
        self.drain_ring()?;
        if let Some(child) = &mut self.pairs[pair].child {
            child.follower_end = Some(how);
        }
        for index in 0..self.lanes.len() {
            if self.lanes[index].pair == pair
                && matches!(
                    self.order.next(index),
                    Some((Item::Call(_) | Item::Expected(_) | Item::Reading(_), _))
                )
            {
                let report = self.hang_report();
                return Err(Stop::RollBack(
                    format!(
                        "child process {} of the follower ended ({how:?}) where the leader's went on",
                        self.pairs[pair].follower.pid
                    ),
                    Some(report),
                ));
            }
        }
        self.compare_ends(pair)
    }

    fn compare_ends(&mut self, pair: usize) -> Result<(), Stop> {
        let pair = &self.pairs[pair];
        let Some(child) = &pair.child else {
            return Ok(());
        };
        match (child.leader_end, child.follower_end) {
            (Some(leader), Some(follower)) if leader != follower => Err(Stop::roll_back(format!(
                "child process {} of the leader ended with {leader:?}, its counterpart with {follower:?}",
                pair.leader.pid
            ))),
            _ => Ok(()),
        }
    }

    /// All that the threads of the leader's child did has been done again but for their ends.
    fn all_at_their_end(&self, pair: usize) -> bool {
        (0..self.lanes.len())
            .filter(|index| self.lanes[*index].pair == pair)
            .all(|index| {
                self.lanes[index].leaving
                    && matches!(self.order.next(index), None | Some((Item::Exit, _)))
            })
    }

    /// A thread of the leader's child has ended with its whole process: so must the follower's, in its own
    /// way. Returns whether it got further.
    pub(super) fn step_end(&mut self, index: usize) -> Result<bool, Stop> {
        let pair = self.lanes[index].pair;
        let Some(how) = self.pairs[pair].child.as_ref().and_then(|c| c.leader_end) else {
            return Ok(false);
        };
        if !self.all_at_their_end(pair) {
            return Ok(false);
        }
        match (how, self.lanes[index].waiting) {
            (Wait::Exited(status), Some(arrival)) if arrival.call.nr == roles().exit_group => {
                let own = arrival.call.args[0] as i32 & 0xff;
                if own != status {
                    return Err(Stop::roll_back(format!(
                        "divergence in thread {}: the leader's child process exited with status {status}, the \
                         follower's with {own}",
                        self.lanes[index].leader
                    )));
                }
                self.lanes[index].waiting = None;
                self.let_run(&arrival)?;
                Ok(true)
            }
            // A signal that can be caught was given to the follower where the leader got it.
            (Wait::Killed(libc::SIGKILL), _) if !self.pairs[pair].follower.is_gone() => {
                let child = self.pairs[pair].child.as_mut();
                if child.is_some_and(|child| !std::mem::replace(&mut child.killed, true)) {
                    let _ = crate::sys::pidfd::kill(self.pairs[pair].follower.pid);
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// The child whose end the next call of a lane, a `wait4` or `waitid`, has taken notice of.
    pub(super) fn reaped(&self, index: usize) -> Option<Kin> {
        let (item, _) = self.order.next(index)?;
        let record = record_of(&self.recorder, &self.fetched, item)?;
        let header = record.header;
        let id = if header.nr == roles().wait4 {
            if header.ret <= 0 {
                return None;
            }
            let status = record
                .data(1)
                .and_then(|data| data.first_chunk::<4>())
                .map(|word| i32::from_le_bytes(*word));
            if status.is_some_and(|s| libc::WIFSTOPPED(s) || libc::WIFCONTINUED(s)) {
                return None;
            }
            header.ret as i32
        } else if header.nr == roles().waitid {
            if header.ret != 0 || header.args[3] & libc::WNOWAIT as u64 != 0 {
                return None;
            }
            let info = record.data(2)?;
            let word = |at: usize| Some(i32::from_le_bytes(info.get(at..at + 4)?.try_into().ok()?));
            let code = word(8)?;
            if [libc::CLD_STOPPED, libc::CLD_CONTINUED, libc::CLD_TRAPPED].contains(&code) {
                return None;
            }
            word(PID_IN_SIGINFO)?
        } else {
            return None;
        };
        self.pairs.child_named(self.lanes[index].pair, id)
    }

    /// False while the next call of a lane waits for a child that has not ended in the follower yet.
    pub(super) fn may_reap(&self, index: usize) -> bool {
        self.tree.is_none()
            || match self.reaped(index) {
                Some(Kin::Pair(child)) => self.pairs[child].has_ended(),
                Some(Kin::Zombie(_)) | None => true,
            }
    }

    /// A signal may come right behind the last thing that is known of a lane, before the leader's thread runs on: a
    /// child that ends closes its end of a pipe first, and is reported to its parent then. The follower is not
    /// answered until the leader's thread is seen asleep in its next call, or has run for a while.
    pub(super) fn may_get_a_signal(&mut self, index: usize) -> bool {
        if self.tree.is_none()
            || self.lanes[index].waiting.is_none()
            || self.order.nth(index, 1).is_some()
        {
            self.lanes[index].kept_since = None;
            return false;
        }
        let leader = &self.pairs[self.lanes[index].pair].leader;
        let tid = self.lanes[index].leader;
        let (since, had_run) = self.lanes[index]
            .kept_since
            .get_or_insert_with(|| (Instant::now(), None));
        let stands = !leader.has(tid) || !leader.runs();
        let kept = since.elapsed();
        let long_enough = kept > SIGNAL_PATIENCE
            && inspect::run_time(leader.pid, tid).is_none_or(|has_run| {
                let more = has_run.saturating_sub(*had_run.get_or_insert(has_run));
                more > RUN_PATIENCE || kept > LONGEST_PATIENCE
            });
        if stands || long_enough || inspect::is_asleep(leader.pid, tid) {
            // A signal that came before it fell asleep would be known by now.
            self.lanes[index].kept_since = None;
            return false;
        }
        self.keeps = true;
        true
    }

    /// The next call of a lane was equal: if it has waited for a child, the follower's thread waits for its own,
    /// too, on its way out of the call.
    pub(super) fn note_reaping(&mut self, index: usize, tid: i32) {
        if self.tree.is_none() {
            return;
        }
        let follower_told = match self.reaped(index) {
            Some(Kin::Pair(pair)) => {
                let Some(child) = &mut self.pairs[pair].child else {
                    return;
                };
                child.reaped = true;
                let told = child.follower_told;
                self.close_pair(pair);
                told
            }
            Some(Kin::Zombie(place)) => self.pairs.take_zombie(place),
            None => return,
        };
        self.lanes[index].reaps = Some(follower_told);
        let parent = self.lanes[index].pair;
        self.pairs[parent].follower.interrupt(tid);
    }

    /// A thread is gone on both sides, and nothing is left of what it did: its lane is closed.
    pub(super) fn close_lane(&mut self, index: usize) {
        let lane = &self.lanes[index];
        let done = lane.is_done()
            && self.order.is_idle(index)
            && !self.is_in_rules_hands(index)
            && self.tree.as_ref().is_none_or(|t| t.bearing != Some(index));
        if done {
            let (pair, leader) = (lane.pair, lane.leader);
            self.lanes.close(index);
            self.pairs[pair].tid_addresses.remove(&leader);
            self.close_pair(pair);
        }
    }

    /// The same for a pair of processes.
    fn close_pair(&mut self, number: usize) {
        let pair = &self.pairs[number];
        if number != ROOT
            && pair.has_ended()
            && pair.leader.is_gone()
            && pair.follower.is_gone()
            && self.lanes.iter().all(|lane| lane.pair != number)
        {
            self.pairs.close(number);
            if let Some(rules) = &mut self.rules {
                rules.close(number);
            }
        }
    }

    /// A thread of the follower stands on its way out of a wait: it waits for its own child.
    pub(super) fn reap(&mut self, pair: usize, thread: &mut Stopped) -> Result<(), Stop> {
        let tid = thread.tid();
        let Some(index) = self.lanes.of_follower(tid) else {
            return Ok(());
        };
        let Some(id) = self.lanes[index].reaps.take() else {
            return Ok(());
        };
        let failed = |e| Stop::roll_back(format!("changing the signal mask of thread {tid}: {e}"));
        let own = ptrace::signal_mask(tid).map_err(failed)?;
        ptrace::set_signal_mask(tid, u64::MAX).map_err(failed)?;
        let options = FOLLOWER_OPTIONS | TREE_OPTIONS;
        thread.set_options(options | ptrace::O_SUSPEND_SECCOMP)?;
        let plain = Plain {
            vdso: &self.pairs[pair].vdso,
        };
        let how = (libc::WNOHANG | libc::__WALL) as u64;
        let args = [id as u64, 0, how, 0, 0, 0];
        let got = plain.call_ok(thread, "wait4", number("wait4"), &args)?;
        thread.set_options(options)?;
        ptrace::set_signal_mask(tid, own).map_err(failed)?;
        if got as i32 != id {
            return Err(Stop::roll_back(format!(
                "the follower's child process {id} has ended and cannot be waited for"
            )));
        }
        Ok(())
    }

    /// Options of a process of the follower.
    pub(super) const fn follower_options(&self) -> u32 {
        if self.tree.is_some() {
            FOLLOWER_OPTIONS | TREE_OPTIONS
        } else {
            FOLLOWER_OPTIONS
        }
    }
}
