//! A pair of processes, one of the leader and one of the follower, and what belongs to the two. A server
//! without child processes of its own is one pair, the root.

use std::collections::{BTreeSet, HashMap};
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
    /// Number of the pair that made it, while that is there.
    pub(super) parent: Option<usize>,
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
            parent: Some(parent),
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
    /// The leader has changed something of its [estate](super::estate) since the snapshot.
    pub(super) estate_changed: bool,
    /// Where each thread of the leader keeps its thread id (`CLONE_CHILD_CLEARTID`).
    pub(super) tid_addresses: HashMap<i32, u64>,
    /// The middle process of the snapshot: its clone and wait are not events of the leader.
    pub(super) middle: i32,
    /// The thread of the leader that made the clone.
    pub(super) cloner: i32,
    /// Of any but the root.
    pub(super) child: Option<Child>,
    /// Held as long as the recorder may stop the leader.
    pub(super) watched: Option<Watched>,
}

impl Pair {
    /// The leader's process, which leads no more. Its id stays known.
    pub(super) fn relieve(&mut self) -> Side {
        let pid = self.leader.pid;
        std::mem::replace(&mut self.leader, Side::new(pid))
    }

    /// Both processes have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| child.leader_end.is_some() && child.follower_end.is_some())
    }
}

/// A pair of which both processes are gone and whose end nobody in the follower has waited for yet.
#[derive(Clone, Copy, Debug)]
struct Zombie {
    /// The pair that made it, while that is there.
    parent: Option<usize>,
    /// The ids of the leader's and of the follower's process as their makers see them.
    told: i32,
    follower_told: i32,
}

/// Who a process of the leader has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kin {
    /// A pair by this number.
    Pair(usize),
    /// One that is gone, by its place in the list of those: [`Pairs::take_zombie`].
    Zombie(usize),
}

/// All pairs. A pair keeps its number as long as it is there; then another gets it.
#[derive(Default)]
pub(super) struct Pairs {
    pairs: Vec<Option<Pair>>,
    zombies: Vec<Zombie>,
}

impl Pairs {
    /// With nothing but the root.
    pub(super) fn new(root: Pair) -> Self {
        Self {
            pairs: vec![Some(root)],
            zombies: Vec::new(),
        }
    }

    pub(super) fn root(&self) -> &Pair {
        &self[ROOT]
    }

    pub(super) fn root_mut(&mut self) -> &mut Pair {
        &mut self[ROOT]
    }

    pub(super) fn into_root(self) -> Pair {
        self.into_all().swap_remove(ROOT)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.pairs.iter_mut().flatten()
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &Pair)> {
        let numbered = self.pairs.iter().enumerate();
        numbered.filter_map(|(number, pair)| Some((number, pair.as_ref()?)))
    }

    /// The pair is there still.
    pub(super) fn has(&self, number: usize) -> bool {
        self.pairs.get(number).is_some_and(Option::is_some)
    }

    fn find(&self, is: impl Fn(&Pair) -> bool) -> Option<usize> {
        let mut found = self.numbered().filter(|(_, pair)| is(pair));
        found.next().map(|(number, _)| number)
    }

    /// The numbers of all pairs.
    pub(super) fn numbers(&self) -> Vec<usize> {
        self.numbered().map(|(number, _)| number).collect()
    }

    /// The pair whose leader has this thread; it is looked for in `likely` first.
    pub(super) fn of_leader(&self, tid: i32, likely: Option<usize>) -> Option<usize> {
        likely
            .filter(|number| self[*number].leader.has(tid))
            .or_else(|| self.find(|pair| pair.leader.has(tid)))
    }

    /// The pair whose follower has this thread; it is looked for in `likely` first.
    pub(super) fn of_follower(&self, tid: i32, likely: Option<usize>) -> Option<usize> {
        likely
            .filter(|number| self[*number].follower.has(tid))
            .or_else(|| self.find(|pair| pair.follower.has(tid)))
    }

    /// The pair in which this thread of the leader has a slot for its readings. (While a report of a process's only
    /// thread is handled the process has none that anybody knows, and what was found by its id was lost then.)
    pub(super) fn of_slot(&self, tid: i32) -> Option<usize> {
        self.find(|pair| pair.slots.has(tid))
    }

    /// The pair whose leader is this process, which lives: an id comes again.
    pub(super) fn of_leader_process(&self, pid: i32) -> Option<usize> {
        self.find(|pair| pair.leader.pid == pid && !pair.leader.is_gone())
    }

    /// The pair whose follower is this process, which lives.
    pub(super) fn of_follower_process(&self, pid: i32) -> Option<usize> {
        self.find(|pair| pair.follower.pid == pid && !pair.follower.is_gone())
    }

    /// Who a process of the leader, of the pair `by`, may wait for under the id `told`: its child, or one that
    /// it has got from another that has ended.
    pub(super) fn child_named(&self, by: usize, told: i32) -> Option<Kin> {
        let pair = |own: bool| {
            self.find(|pair| {
                pair.child.as_ref().is_some_and(|child| {
                    child.told == told && !child.reaped && (child.parent == Some(by) || !own)
                })
            })
            .map(Kin::Pair)
        };
        let zombie = |own: bool| {
            let mut zombies = self.zombies.iter();
            zombies
                .position(|zombie| zombie.told == told && (zombie.parent == Some(by) || !own))
                .map(Kin::Zombie)
        };
        pair(true)
            .or_else(|| zombie(true))
            .or_else(|| pair(false))
            .or_else(|| zombie(false))
    }

    /// A process that is gone was waited for: the id of the follower's as its maker sees it.
    pub(super) fn take_zombie(&mut self, place: usize) -> i32 {
        self.zombies.swap_remove(place).follower_told
    }

    /// Takes a new pair in; returns its number.
    pub(super) fn add(&mut self, pair: Pair) -> usize {
        if let Some(child) = &pair.child {
            // Nobody waits for one whose id is given anew.
            self.zombies
                .retain(|zombie| zombie.parent != child.parent || zombie.told != child.told);
        }
        if let Some(number) = self.pairs.iter().position(Option::is_none) {
            self.pairs[number] = Some(pair);
            number
        } else {
            self.pairs.push(Some(pair));
            self.pairs.len() - 1
        }
    }

    /// Both processes of a pair are gone: it goes, too, and its children are nobody's own any more.
    pub(super) fn close(&mut self, number: usize) {
        let Some(child) = self.pairs[number].take().and_then(|pair| pair.child) else {
            return;
        };
        if !child.reaped {
            self.zombies.push(Zombie {
                parent: child.parent,
                told: child.told,
                follower_told: child.follower_told,
            });
        }
        for parent in self.iter_mut().filter_map(|pair| {
            let child = pair.child.as_mut()?;
            Some(&mut child.parent)
        }) {
            parent.take_if(|parent| *parent == number);
        }
        for zombie in &mut self.zombies {
            zombie.parent.take_if(|parent| *parent == number);
        }
    }

    pub(super) fn into_all(self) -> Vec<Pair> {
        self.pairs.into_iter().flatten().collect()
    }
}

impl std::ops::Index<usize> for Pairs {
    type Output = Pair;

    fn index(&self, number: usize) -> &Pair {
        self.pairs[number].as_ref().expect("the pair is there")
    }
}

impl std::ops::IndexMut<usize> for Pairs {
    fn index_mut(&mut self, number: usize) -> &mut Pair {
        self.pairs[number].as_mut().expect("the pair is there")
    }
}
