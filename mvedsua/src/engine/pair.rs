//! A pair of processes, one of the leader and one of the follower, and what belongs to the two. A server
//! without child processes of its own is one pair, the root.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::files::{Opened, Places};
use super::guard::Watched;
use super::readings::Slots;
use super::side::Side;
use crate::matcher::EpollData;
use crate::sys::ptrace::Wait;
use crate::tracee::stub::Vdso;

/// Number of the pair that all others descend from.
pub(super) const ROOT: usize = 0;

/// What is known of a pair that is not the root.
#[derive(Debug)]
pub(super) struct Child {
    /// Number of the pair that made it.
    pub(super) parent: usize,
    /// The id of the leader's process as its maker sees it.
    pub(super) told: i32,
    /// The same of the follower's.
    pub(super) follower_told: i32,
    /// How the leader's process ended, or is about to.
    pub(super) leader_end: Option<Wait>,
    /// How the follower's process ended.
    pub(super) follower_end: Option<Wait>,
    /// The follower's was killed as the leader's had been.
    pub(super) killed: bool,
    /// Its end was waited for.
    pub(super) reaped: bool,
}

impl Child {
    pub(super) const fn new(parent: usize, told: i32) -> Self {
        Self {
            parent,
            told,
            follower_told: 0,
            leader_end: None,
            follower_end: None,
            killed: false,
            reaped: false,
        }
    }
}

/// A process pair.
pub(super) struct Pair {
    pub(super) leader: Side,
    pub(super) follower: Side,
    pub(super) vdso: Arc<Vdso>,
    pub(super) epoll: EpollData,
    pub(super) slots: Slots,
    /// The files behind the leader's descriptors, as far as the follower has got.
    pub(super) opened: HashMap<i32, Opened>,
    /// Where the leader's names of files lead, as far as the follower has got.
    pub(super) places: Places,
    /// Calls since the snapshot with a lasting effect on the leader that promotion cannot repeat.
    pub(super) lasting: BTreeSet<&'static str>,
    /// Descriptors that the follower was given ahead of a promotion: our duplicates of them, with
    /// their close-on-exec flags.
    pub(super) gifts: HashMap<i32, (OwnedFd, bool)>,
    /// Where each thread of the leader keeps its thread id (`CLONE_CHILD_CLEARTID`).
    pub(super) tid_addresses: HashMap<i32, u64>,
    /// The middle process of the snapshot: its clone and wait are not events of the leader.
    pub(super) middle: i32,
    /// The thread of the leader that made the clone.
    pub(super) cloner: i32,
    /// Of any but the root.
    pub(super) child: Option<Child>,
    /// Held as long as the recorder may stop the leader.
    pub(super) _watched: Watched,
}

impl Pair {
    /// Both processes have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| child.leader_end.is_some() && child.follower_end.is_some())
    }
}

/// All pairs; a pair keeps its number as long as the update runs.
#[derive(Default)]
pub(super) struct Pairs(Vec<Pair>);

impl Pairs {
    /// With nothing but the root.
    pub(super) fn new(root: Pair) -> Self {
        Self(vec![root])
    }

    pub(super) fn root(&self) -> &Pair {
        &self.0[ROOT]
    }

    pub(super) fn root_mut(&mut self) -> &mut Pair {
        &mut self.0[ROOT]
    }

    pub(super) fn into_root(mut self) -> Pair {
        self.0.swap_remove(ROOT)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.0.iter_mut()
    }

    /// The numbers of all pairs.
    pub(super) fn numbers(&self) -> std::ops::Range<usize> {
        0..self.0.len()
    }

    /// The pair whose leader has this thread.
    pub(super) fn of_leader(&self, tid: i32) -> Option<usize> {
        self.0.iter().position(|pair| pair.leader.has(tid))
    }

    /// The pair whose follower has this thread.
    pub(super) fn of_follower(&self, tid: i32) -> Option<usize> {
        self.0.iter().position(|pair| pair.follower.has(tid))
    }

    /// The pair whose leader is this process, which lives: an id comes again.
    pub(super) fn of_leader_process(&self, pid: i32) -> Option<usize> {
        let lives = |pair: &Pair| pair.leader.pid == pid && !pair.leader.is_gone();
        self.0.iter().rposition(lives)
    }

    /// The pair whose follower is this process, which lives.
    pub(super) fn of_follower_process(&self, pid: i32) -> Option<usize> {
        let lives = |pair: &Pair| pair.follower.pid == pid && !pair.follower.is_gone();
        self.0.iter().rposition(lives)
    }

    /// The pair that a process of the leader, of the pair `by`, may wait for under the id `told`: its child, or
    /// one that it has got from another that has ended.
    pub(super) fn child_named(&self, by: usize, told: i32) -> Option<usize> {
        let named = |own: bool| {
            self.0.iter().rposition(|pair| {
                pair.child.as_ref().is_some_and(|child| {
                    child.told == told && !child.reaped && (child.parent == by || !own)
                })
            })
        };
        named(true).or_else(|| named(false))
    }

    /// Takes a new pair in; returns its number.
    pub(super) fn add(&mut self, pair: Pair) -> usize {
        self.0.push(pair);
        self.0.len() - 1
    }

    pub(super) fn into_all(self) -> Vec<Pair> {
        self.0
    }
}

impl std::ops::Index<usize> for Pairs {
    type Output = Pair;

    fn index(&self, number: usize) -> &Pair {
        &self.0[number]
    }
}

impl std::ops::IndexMut<usize> for Pairs {
    fn index_mut(&mut self, number: usize) -> &mut Pair {
        &mut self.0[number]
    }
}
