//! A pair of threads, one of the leader and one of the follower, and what happens between them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use mvedsua_common::clock::Reading;

use super::rules::Copied;
use crate::follower::Arrival;
use crate::recorder::EventRef;
use crate::rules::expected::ExpectedCall;

/// One thing that a thread of the leader did or that happened to it.
#[derive(Debug)]
pub(super) enum Item {
    /// It came back from a system call.
    Call(EventRef),
    /// It came back from a system call, or will seem to have: what rules expect of the follower.
    Expected(Box<ExpectedCall<Copied>>),
    /// A rule ends the update here.
    Verdict(Box<crate::rules::expected::Stop>),
    /// It read a clock without one.
    Reading(Reading),
    /// A signal was delivered to it.
    Signal(Box<Delivered>),
    /// It ended.
    Exit,
}

/// A signal that a thread of the leader got.
#[derive(Debug)]
pub(super) struct Delivered {
    /// What the kernel said about it.
    pub(super) info: libc::siginfo_t,
    /// Where it found the thread.
    pub(super) in_call: InCall,
    /// Another one waited to be delivered at the same place.
    pub(super) more: bool,
}

/// A signal mask that is in force for one delivery: that of a `ppoll` and its like, which the follower
/// did not make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Masked {
    /// The mask that the call was given.
    pub(super) temporary: u64,
    /// The thread's own mask, once the temporary one is in force.
    pub(super) own: Option<u64>,
}

impl Delivered {
    /// The thread's own fault: no one has sent it.
    pub(super) fn is_fault(&self) -> bool {
        self.info.si_code > 0 && FAULTS.contains(&self.info.si_signo)
    }
}

/// Signals that a program gets for its own fault. The leader's death by one of them is a crash.
pub(super) const FAULTS: &[i32] = &[
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGSYS,
    libc::SIGTRAP,
];

/// A fault of a thread, as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault(pub(super) libc::siginfo_t);

/// Where a signal found the leader's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InCall {
    /// Running, or at the exit of a recorded call.
    No,
    /// About to make a call again that the snapshot interrupted, as if it had been interrupted by the signal: what the
    /// kernel was told (`-ERESTART*`).
    Again(i64),
    /// Inside a local call (a futex), which is not recorded: the follower's thread sleeps there.
    Local(u16),
}

/// A call that made a thread, on its way through the follower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cloning {
    /// What the leader's thread got from it: the new thread's id as its maker sees it.
    pub(super) result: i32,
    /// The lane of the new thread.
    pub(super) lane: usize,
    /// The new thread's id in the leader's pid namespace.
    pub(super) id: i32,
}

/// A thread pair.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Its number is free for another.
    closed: bool,
    /// The pair of processes that the two belong to.
    pub(super) pair: usize,
    /// The leader's thread.
    pub(super) leader: i32,
    /// The follower's thread, once it exists.
    pub(super) follower: Option<i32>,
    /// The follower's thread is gone.
    pub(super) ended: bool,
    /// The call in which the follower's thread waits for its verdict.
    pub(super) waiting: Option<Arrival>,
    /// The call that the follower's thread was sent back to make again when it was stopped for a promotion.
    pub(super) again: Option<Arrival>,
    /// Lanes that the leader's thread has opened by making threads and whose thread the follower has not
    /// made yet, in order.
    pub(super) bears: VecDeque<Cloning>,
    /// The follower's thread was let into a `clone`, or `fork`.
    pub(super) cloning: Option<Cloning>,
    /// The follower's thread returns from that `clone`: the result to give it.
    pub(super) cloned: Option<i32>,
    /// The leader's thread is about to end, or has: nothing comes after that.
    pub(super) leaving: bool,
    /// The leader's thread is gone.
    pub(super) leader_gone: bool,
    /// The child that the follower's thread waits for on its way out of a call, by the id that it sees.
    pub(super) reaps: Option<i32>,
    /// The follower's thread has made a fault, for which the leader's has to come.
    pub(super) fault: Option<Fault>,
    /// Signals that were queued for the follower's thread: the leader's `siginfo_t` of each.
    pub(super) queued: Vec<libc::siginfo_t>,
    /// One of those that were queued so far was sent by a process, perhaps by its own.
    pub(super) was_sent_one: bool,
    /// Until the queued signals are delivered.
    pub(super) masked: Option<Masked>,
    /// Address of both threads' slot for clock readings; 0: they have none.
    pub(super) slot: u64,
    /// The follower's thread knows its slot.
    pub(super) has_slot: bool,
    /// Readings that were put into the slot and that the thread may not have taken yet.
    pub(super) handed: VecDeque<Reading>,
    /// Readings that it was given and did not take before its next call: they are expected now.
    pub(super) returned: VecDeque<Reading>,
    /// Since when the last thing that is known of the leader's thread is kept from the follower's, because a signal
    /// may come right behind it; and if that is long ago, how long the leader's had run then.
    pub(super) kept_since: Option<(Instant, Option<Duration>)>,
}

impl Lane {
    /// Both threads are gone and have left nothing to be done.
    pub(super) fn is_done(&self) -> bool {
        !self.closed && self.ended && self.leader_gone && self.bears.is_empty()
    }
}

/// All pairs, findable from both sides. A number comes again once its pair is closed: a server that makes a
/// process for each request would else have ever more of them to look through.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    closed: Vec<usize>,
    unmade: usize,
    by_leader: HashMap<i32, usize>,
    by_follower: HashMap<i32, usize>,
}

/// A thread of the leader that was born.
#[derive(Clone, Copy, Debug)]
pub(super) struct Birth {
    pub(super) tid: i32,
    /// Its id as its maker sees it: the result of the call.
    pub(super) told: i32,
    /// Its id in the pid namespace of the leader's root.
    pub(super) id: i32,
    /// The pair that it is the first thread of, if it is a process.
    pub(super) pair: Option<usize>,
}

/// Threads of the leader that were born and whose creation is not in a queue yet, by their maker, in order.
#[derive(Debug, Default)]
pub(super) struct Births {
    made: HashMap<i32, VecDeque<Birth>>,
    /// Those that were reported at their birth before their maker was: it may be told of one that has ended.
    alone: HashMap<i32, Birth>,
    /// Those that are gone already.
    gone: HashSet<i32>,
}

impl Births {
    /// The leader's thread `creator` has made a thread.
    pub(super) fn add(&mut self, creator: i32, born: Birth) {
        let made = self.made.entry(creator).or_default();
        made.push_back(born);
    }

    /// A thread was reported before its maker.
    pub(super) fn add_alone(&mut self, born: Birth) {
        self.alone.insert(born.tid, born);
    }

    /// Such a thread, whose maker is reported now.
    pub(super) fn take_alone(&mut self, tid: i32) -> Option<Birth> {
        self.alone.remove(&tid)
    }

    /// The next one that `creator` has made, if that is what it sees under the id `told`.
    pub(super) fn take(&mut self, creator: i32, told: i32) -> Option<Birth> {
        let made = self.made.get_mut(&creator)?;
        let born = made.pop_front_if(|next| next.told == told)?;
        if made.is_empty() {
            self.made.remove(&creator);
        }
        Some(born)
    }

    /// A thread is gone whose creation is not in a queue yet.
    pub(super) fn add_gone(&mut self, tid: i32) {
        self.gone.insert(tid);
    }

    /// Its creation is in a queue now: is it gone?
    pub(super) fn take_gone(&mut self, tid: i32) -> bool {
        self.gone.remove(&tid)
    }

    /// The thread is gone; its id may come again for another.
    pub(super) fn forget(&mut self, creator: i32) {
        self.made.remove(&creator);
    }
}

impl Lanes {
    /// Opens a lane for a thread of the leader; its number is that of its queue.
    pub(super) fn open(&mut self, pair: usize, leader: i32) -> usize {
        let lane = Lane {
            pair,
            leader,
            ..Lane::default()
        };
        let index = if let Some(index) = self.closed.pop() {
            self.lanes[index] = lane;
            index
        } else {
            self.lanes.push(lane);
            self.lanes.len() - 1
        };
        self.by_leader.insert(leader, index);
        self.unmade += 1;
        index
    }

    /// Closes a lane of which both threads are gone and whose queue is empty.
    pub(super) fn close(&mut self, index: usize) {
        self.lanes[index] = Lane {
            closed: true,
            ended: true,
            ..Lane::default()
        };
        self.closed.push(index);
    }

    /// The follower's thread of a lane now exists.
    pub(super) fn pair(&mut self, index: usize, follower: i32) {
        self.unmade -= 1;
        self.lanes[index].follower = Some(follower);
        self.by_follower.insert(follower, index);
    }

    pub(super) fn of_leader(&self, tid: i32) -> Option<usize> {
        self.by_leader.get(&tid).copied()
    }

    pub(super) fn of_follower(&self, tid: i32) -> Option<usize> {
        self.by_follower.get(&tid).copied()
    }

    /// The leader's thread is gone; its id may come again for another. Returns its lane.
    pub(super) fn leader_ended(&mut self, tid: i32) -> Option<usize> {
        let index = self.by_leader.remove(&tid)?;
        self.lanes[index].leader_gone = true;
        Some(index)
    }

    /// The follower's thread is gone. Returns its lane.
    pub(super) fn follower_ended(&mut self, tid: i32) -> Option<usize> {
        let index = self.by_follower.remove(&tid)?;
        self.lanes[index].follower = None;
        self.lanes[index].ended = true;
        self.lanes[index].waiting = None;
        Some(index)
    }

    /// Those that are open.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.numbered().map(|(_, lane)| lane)
    }

    /// Those that are open, with their numbers.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| !lane.closed)
    }

    /// How many threads of the leader the follower has still to make.
    pub(super) const fn unmade(&self) -> usize {
        self.unmade
    }

    /// The numbers are below this; a closed one has ended, expects nothing, and is of the pair 0.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }
}

impl std::ops::Index<usize> for Lanes {
    type Output = Lane;

    fn index(&self, index: usize) -> &Lane {
        &self.lanes[index]
    }
}

impl std::ops::IndexMut<usize> for Lanes {
    fn index_mut(&mut self, index: usize) -> &mut Lane {
        &mut self.lanes[index]
    }
}
