//! t6: the old version ends, the new one serves alone.

use std::time::{Duration, Instant};

use super::ending::{close_descriptors, end_all};
use super::estate::Lock;
use super::following::{Following, Stop};
use super::guard::Doomed;
use super::home::{Home, Kept};
use super::rollback::{Family, hear};
use super::side::{Side, Why};
use crate::tracee::lock_owners::Owner;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Running;

/// The two processes after the exchange, both stopped, and those of their trees.
pub(super) struct Exchanged {
    /// The new leader: traced, its filter suspended.
    pub(super) kept: Kept,
    /// The old leader, all its threads stopped.
    pub(super) old: Side,
    /// Locks that the new leader is to take.
    pub(super) locks: Vec<Lock>,
    /// The other processes of a tree.
    pub(super) children: Vec<Relieved>,
    /// Processes of the old tree that nobody took the place of: they were about to end.
    pub(super) strays: Vec<Side>,
    /// Old processes end with the agent, whatever they are about to do.
    pub(super) doomed: Option<Doomed>,
    /// Locks that the old leader holds, if it is to follow.
    pub(super) owners: Vec<Owner>,
    /// The rest of the update: counts, ring, recorder.
    pub(super) following: Following,
    /// Since when nobody serves.
    pub(super) start: Instant,
}

/// A process of a tree, below its root, and the one that took its place.
pub(super) struct Relieved {
    /// Number of the pair.
    pub(super) pair: usize,
    pub(super) new: Side,
    pub(super) old: Side,
    /// Locks that the new one is to take.
    pub(super) locks: Vec<Lock>,
}

impl Exchanged {
    /// t5 and t6 in one: the new leader serves, as plain as it can be, and the old process ends.
    /// Returns how long nobody served.
    ///
    /// # Errors
    /// When the new leader is gone.
    pub(super) fn finalize(mut self) -> Result<(Kept, Following, Duration), Stop> {
        if self.following.tree.is_some() {
            return Ok(self.finalize_tree());
        }
        let vdso = self.following.pairs.root().vdso.clone();
        let side = &mut self.kept.side;
        side.rewind_stopped()?;
        if !self.locks.is_empty() {
            end_all([&mut self.old], &mut || ());
            take_locks(side, &self.locks, &vdso);
        }
        close_descriptors(&mut self.old, &vdso);
        let side = &mut self.kept.side;
        // It serves all the same; an end of it is reported by itself.
        if let Err(error) = side.restore_vdso(&vdso, false) {
            tracing::warn!(pid = side.pid, %error, "the vDSO was not restored");
        }
        side.resume_all();
        let pause = self.start.elapsed();
        end_all([&mut self.old], &mut || hear(&mut self.kept.side));
        Ok((self.kept, self.following, pause))
    }

    /// The same for a tree. Locks are let go only by the end of those who hold them.
    fn finalize_tree(self) -> (Kept, Following, Duration) {
        let Self {
            mut kept,
            old,
            locks,
            children,
            strays,
            doomed,
            following,
            start,
            ..
        } = self;
        let vdso = following.pairs.root().vdso.clone();
        let root = std::mem::replace(&mut kept.side, Side::new(0));
        let (mut olds, mut news) = (vec![old], vec![(root, locks)]);
        for child in children {
            olds.push(child.old);
            news.push((child.new, child.locks));
        }
        olds.extend(strays);
        if news.iter().any(|(_, locks)| !locks.is_empty()) {
            end_all(&mut olds, &mut || ());
        }
        for old in &mut olds {
            close_descriptors(old, &vdso);
        }
        let mut family = Family::of(Vec::with_capacity(news.len()), true);
        for (mut side, locks) in news {
            take_locks(&mut side, &locks, &vdso);
            family.sides.push(side);
        }
        let mut home = Home::Kept(kept);
        family.free(&vdso, &mut home, false);
        let pause = start.elapsed();
        let Home::Kept(mut kept) = home else {
            unreachable!("it was made above");
        };
        end_all(&mut olds, &mut || hear(&mut kept.side));
        drop(doomed);
        (kept, following, pause)
    }
}

/// The stopped process takes locks that nobody has any more. What fails is told: there is no way back.
pub(super) fn take_locks(side: &mut Side, locks: &[Lock], vdso: &Vdso) {
    if locks.is_empty() {
        return;
    }
    let Some(thread) = side.take_main() else {
        return;
    };
    let tid = thread.tid();
    let taken = match Lock::take(locks, side.pid, thread, vdso) {
        Ok((thread, taken)) => {
            side.add_stopped(thread, Why::Asked);
            taken
        }
        Err(error) => {
            // It is still ours, and finds back by itself.
            side.add_stopped(Running::born(tid).reported(), Why::Asked);
            Err(error)
        }
    };
    if let Err(error) = taken {
        tracing::error!(pid = side.pid, %error, "the new leader did not get a lock of the old one");
    }
}
