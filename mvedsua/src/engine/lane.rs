//! A pair of threads, one of the leader and one of the follower, and what happens between them.

use std::collections::{HashMap, VecDeque};

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

/// Where a signal found the leader's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InCall {
    /// Running, or at the exit of a recorded call.
    No,
    /// Inside a local call (a futex), which is not recorded: the follower's thread sleeps there.
    Local(u16),
}

/// A thread pair.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The leader's thread.
    pub(super) leader: i32,
    /// The follower's thread, once it exists.
    pub(super) follower: Option<i32>,
    /// The follower's thread is gone.
    pub(super) ended: bool,
    /// The call in which the follower's thread waits for its verdict.
    pub(super) waiting: Option<Arrival>,
    /// The follower's thread was let into a `clone`: the thread id that the leader got from it.
    pub(super) cloning: Option<i32>,
    /// The follower's thread returns from that `clone`: the result to give it.
    pub(super) cloned: Option<i32>,
    /// Signals that were queued for the follower's thread: the leader's `siginfo_t` of each.
    pub(super) queued: Vec<libc::siginfo_t>,
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
}

/// All pairs, findable from both sides.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    by_leader: HashMap<i32, usize>,
    by_follower: HashMap<i32, usize>,
    /// Lanes whose thread the follower has not made yet. More than one for a thread id if the leader
    /// is so far ahead that the id came again.
    unborn: HashMap<i32, VecDeque<usize>>,
}

impl Lanes {
    /// Opens a lane for a thread of the leader; its number is that of its queue.
    pub(super) fn open(&mut self, leader: i32) -> usize {
        let index = self.lanes.len();
        self.lanes.push(Lane {
            leader,
            ..Lane::default()
        });
        self.by_leader.insert(leader, index);
        self.unborn.entry(leader).or_default().push_back(index);
        index
    }

    /// The follower's thread of a lane now exists.
    pub(super) fn pair(&mut self, index: usize, follower: i32) {
        let leader = self.lanes[index].leader;
        if let Some(unborn) = self.unborn.get_mut(&leader) {
            unborn.retain(|other| *other != index);
            if unborn.is_empty() {
                self.unborn.remove(&leader);
            }
        }
        self.lanes[index].follower = Some(follower);
        self.by_follower.insert(follower, index);
    }

    pub(super) fn of_leader(&self, tid: i32) -> Option<usize> {
        self.by_leader.get(&tid).copied()
    }

    /// The lane of the thread `leader` that the follower makes next.
    pub(super) fn unborn(&self, leader: i32) -> Option<usize> {
        self.unborn.get(&leader)?.front().copied()
    }

    pub(super) fn of_follower(&self, tid: i32) -> Option<usize> {
        self.by_follower.get(&tid).copied()
    }

    /// The leader's thread is gone; its id may come again for another.
    pub(super) fn leader_ended(&mut self, tid: i32) {
        self.by_leader.remove(&tid);
    }

    /// The follower's thread is gone.
    pub(super) fn follower_ended(&mut self, tid: i32) {
        if let Some(index) = self.by_follower.remove(&tid) {
            self.lanes[index].follower = None;
            self.lanes[index].ended = true;
            self.lanes[index].waiting = None;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter()
    }

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
