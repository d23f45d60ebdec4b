//! A pair of processes, one of the leader and one of the follower, and what belongs to the two. A server
//! without child processes of its own is one pair, the root.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::files::Opened;
use super::guard::Watched;
use super::readings::Slots;
use super::side::Side;
use crate::matcher::EpollData;
use crate::tracee::stub::Vdso;

/// Number of the pair that all others descend from.
pub(super) const ROOT: usize = 0;

/// A process pair.
pub(super) struct Pair {
    pub(super) leader: Side,
    pub(super) follower: Side,
    pub(super) vdso: Arc<Vdso>,
    pub(super) epoll: EpollData,
    pub(super) slots: Slots,
    /// The files behind the leader's descriptors, as far as the follower has got.
    pub(super) opened: HashMap<i32, Opened>,
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
    /// Held as long as the recorder may stop the leader.
    pub(super) _watched: Watched,
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

    /// The pair whose leader is this process.
    pub(super) fn of_leader_process(&self, pid: i32) -> Option<usize> {
        self.0.iter().position(|pair| pair.leader.pid == pid)
    }

    /// The pair whose follower is this process.
    pub(super) fn of_follower_process(&self, pid: i32) -> Option<usize> {
        self.0.iter().position(|pair| pair.follower.pid == pid)
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
