//! t5: the new version leads, and the old one follows it, until it is finalized or rolled back.
//!
//! A process alone goes on as the follower itself. Of a tree the old processes cannot: each would need a filter of
//! its own, with a listener of its own, and its children other ids than the leader's get. So the tree that stands still is
//! copied once more, as at a snapshot, below the new leader's pid namespace, and ends. The new leader serves meanwhile.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::descendants::{Built, Descendants, Entrant};
use super::ending::{close_descriptors, end_all};
use super::estate::Lock;
use super::family::Tree;
use super::finalize::{Exchanged, Relieved, take_locks};
use super::following::{Following, Parts};
use super::guard::Watched;
use super::home::Home;
use super::lane::Lanes;
use super::pair::{Pair, ROOT};
use super::pending_signals::{block, unblock};
use super::readings::Slots;
use super::rollback::Family;
use super::side::{Side, Why};
use super::snapshot::{Contexts, Made, furnish, throw_away};
use super::transfer::disarm;
use crate::follower;
use crate::recorder::Recorder;
use crate::sys::ptrace;
use crate::sys::seccomp::Listener;
use crate::sys::wakeup::Wakeup;
use crate::tracee::clock_slots;
use crate::tracee::inspect;
use crate::tracee::lock_owners;
use crate::tracee::pid_namespace::PidNamespace;
use crate::tracee::snapshot::{self, FOLLOWER_OPTIONS};
use crate::tracee::standstill::settle;
use crate::tracee::stub::{self, Vdso};
use crate::tracee::{Result, TraceeError};

/// The turned update and how long nobody served; or the new leader alone, and why.
type Reversed = std::result::Result<(Following, Home, Duration), Box<(Home, String)>>;

/// The exchanged processes go on with their roles turned round: the new leader serves and is
/// recorded, the old one follows it.
///
/// # Errors
/// When the old version cannot be made a follower: it is gone then, and the new one serves alone.
pub(super) fn reverse(exchanged: Exchanged, wakeup: &Wakeup) -> Reversed {
    if exchanged.following.tree.is_some() {
        reverse_tree(exchanged, wakeup)
    } else {
        reverse_process(exchanged, wakeup)
    }
}

/// Threads of the new leader and of the old one, each pair with its slot.
type Owners = Vec<(i32, i32, u64)>;

/// A process of the old tree that is copied, and its counterpart that leads.
struct Turned {
    /// Number of the pair before.
    before: usize,
    /// Place of its parent among these, which comes first; `None`: the root.
    parent: Option<usize>,
    new: Side,
    old: Side,
    /// Locks that the new one is to take.
    locks: Vec<Lock>,
}

fn reverse_tree(exchanged: Exchanged, wakeup: &Wakeup) -> Reversed {
    let Exchanged {
        mut kept,
        mut old,
        children,
        mut strays,
        doomed,
        following,
        start,
        locks,
        ..
    } = exchanged;
    let Following {
        mut recorder,
        options,
        lanes,
        rules,
        pairs,
        armed,
        ..
    } = following;
    let vdso = pairs.root().vdso.clone();
    let mut children = in_order(children, |pair| pairs[pair].child.as_ref()?.parent);

    for side in std::iter::once(&mut old)
        .chain(children.iter_mut().map(|child| &mut child.old))
        .chain(&mut strays)
    {
        close_descriptors(side, &vdso);
    }
    // Whoever closes a file lets go of its locks. What is done for them is no event of the new leader's.
    take_locks(&mut kept.side, &locks, &vdso);
    for child in &mut children {
        take_locks(&mut child.new, &child.locks, &vdso);
    }
    let lead = |new: &mut Side, pair: usize, recorder: &mut Recorder| -> Result<()> {
        new.leave_vdso(&vdso)?;
        if pairs[pair].slots.base().is_some() {
            let owners = with_slots(threads_of(&lanes, pair));
            write_clocks_down(new.pid, &owners, &vdso, recorder)?;
        }
        recorder
            .add_process(new.pid as u32)
            .map_err(|e| TraceeError::Unsuitable(e.to_string()))
    };
    let mut outcome = lead(&mut kept.side, ROOT, &mut recorder);
    let mut watched = vec![Watched::watch(kept.side.pid)];
    for child in &mut children {
        watched.push(Watched::watch(child.new.pid));
        outcome = outcome.and_then(|()| lead(&mut child.new, child.before, &mut recorder));
    }
    tracing::debug!(at = ?start.elapsed(), "promotion: the new leader will be recorded");
    kept.side.resume_all();
    for child in &mut children {
        child.new.resume_all();
    }
    let pause = start.elapsed();

    let made = outcome.and_then(|()| {
        let slots = |pair: usize| pairs[pair].slots.base();
        let copy = copy_again(
            kept.side.pid,
            &mut old,
            &mut children,
            &slots,
            &vdso,
            kept.previous.take(),
        );
        tracing::debug!(at = ?start.elapsed(), "promotion: the old version is copied");
        copy
    });
    end_all(
        std::iter::once(&mut old)
            .chain(children.iter_mut().map(|child| &mut child.old))
            .chain(&mut strays),
        &mut || (),
    );
    drop(doomed);
    let (made, namespace) = match made {
        Ok(made) => made,
        Err(error) => {
            drop(recorder);
            let root = std::mem::replace(&mut kept.side, Side::new(0));
            let mut sides = vec![root];
            sides.extend(children.into_iter().map(|child| child.new));
            let mut home = Home::Kept(kept);
            Family::of(sides, true).free(&vdso, &mut home, false);
            return Err(Box::new((home, error.to_string())));
        }
    };

    let mut leader = std::mem::replace(&mut kept.side, Side::new(0));
    kept.side.pid = leader.pid;
    leader.vdso = Some(Box::new(Vdso::clone(&vdso)));
    let mut watched = watched.into_iter();
    let turned: Vec<(usize, usize, i32)> = std::iter::once((ROOT, ROOT, leader.pid))
        .chain(children.iter().enumerate().map(|(place, child)| {
            // They come in in this order, after the root.
            (child.before, place + 1, child.new.pid)
        }))
        .collect();
    // What belongs to a pair, by the threads that lead now.
    let of_pair = |pair: usize, copies: &[(i32, i32)]| {
        let threads = threads_of(&lanes, pair);
        let lanes = threads.iter().filter_map(|(new, old, _)| {
            let copy = copies.iter().find(|(of, _)| of == old)?;
            Some((*new, copy.1))
        });
        let addresses = threads
            .iter()
            .filter_map(|(new, old, _)| Some((*new, *pairs[pair].tid_addresses.get(old)?)));
        let owners = with_slots(threads.clone());
        let slots = Slots::new(
            pairs[pair].slots.base(),
            owners.iter().map(|(new, _, slot)| (*new, *slot)),
        );
        let addresses: HashMap<i32, u64> = addresses.collect();
        (lanes.collect::<Vec<_>>(), addresses, slots)
    };
    let (root_lanes, tid_addresses, slots) = of_pair(ROOT, &made.pairs);
    let tree = Tree::new(namespace, leader.pid);
    let mut following = Following::new(Parts {
        leader,
        follower: made.side,
        pairs: root_lanes,
        recorder,
        listener: made.listener,
        watched: watched.next().expect("the root's is the first"),
        vdso: vdso.clone(),
        epoll: pairs.root().epoll.reversed(),
        slots,
        rules: rules.map(|rules| Box::new(rules.reversed(&turned))),
        reverse: true,
        tree: Some(tree),
        options,
        wakeup: wakeup.clone(),
        middle: 0,
        cloner: 0,
        armed,
        no_new_privs: made.no_new_privs,
        tid_addresses,
    });
    for ((child, built), watched) in children.into_iter().zip(made.built).zip(watched) {
        let Built {
            follower,
            lanes: copies,
        } = built;
        let (lanes, tid_addresses, slots) = of_pair(child.before, &copies);
        following.take_in(Entrant {
            parent: child.parent.map_or(ROOT, |place| place + 1),
            leader: child.new,
            follower,
            lanes,
            epoll: pairs[child.before].epoll.reversed(),
            slots,
            tid_addresses,
            watched: Some(watched),
        });
    }
    // The leader before may have been held back. No thread was added: there is room.
    if let Err(stop) = following.set_margin() {
        tracing::warn!(?stop, "the ring's margin stays as it was");
    }
    // What the new leader has reported since it serves.
    wakeup.wake();
    Ok((following, Home::Kept(kept), pause))
}

/// The threads of a pair, as they are turned round.
fn threads_of(lanes: &Lanes, pair: usize) -> Owners {
    let lanes = lanes.iter().filter(|lane| lane.pair == pair);
    lanes
        .filter_map(|lane| Some((lane.follower?, lane.leader, lane.slot)))
        .collect()
}

/// Only threads that have a slot.
fn with_slots(mut threads: Owners) -> Owners {
    threads.retain(|(.., slot)| *slot != 0);
    threads
}

/// The processes of a tree, parents before their children. `parent_of` tells the number of a pair's parent.
fn in_order(mut rest: Vec<Relieved>, parent_of: impl Fn(usize) -> Option<usize>) -> Vec<Turned> {
    let mut ordered: Vec<Turned> = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let place_of = |pair: usize| {
            let parent = parent_of(pair).filter(|parent| *parent != ROOT);
            let place = ordered
                .iter()
                .position(|other| Some(other.before) == parent);
            (parent.is_none() || place.is_some()).then_some(place)
        };
        // One whose parent is gone is a child of the root's as far as that matters.
        let next = rest.iter().position(|one| place_of(one.pair).is_some());
        let at = next.unwrap_or(0);
        let parent = place_of(rest[at].pair).flatten();
        let Relieved {
            pair,
            new,
            old,
            locks,
        } = rest.swap_remove(at);
        ordered.push(Turned {
            before: pair,
            parent,
            new,
            old,
            locks,
        });
    }
    ordered
}

/// Copies the old tree, which stands still, below the pid namespace of the new leader `leader`. What of it is left is
/// for the caller to end.
///
/// # Errors
/// When that cannot be done; no copy is left.
fn copy_again(
    leader: i32,
    old: &mut Side,
    children: &mut [Turned],
    slots_of: &dyn Fn(usize) -> Option<u64>,
    vdso: &Vdso,
    listener: Option<Arc<Listener>>,
) -> Result<(Made, PidNamespace)> {
    let program = Path::new("/proc/self/exe");
    let mut namespace = PidNamespace::create(program, leader)
        .map_err(|error| TraceeError::Unsuitable(error.to_string()))?;
    let pid = old.pid;
    let mut descendants = Descendants::of(pid);
    let copied = (|| {
        relieve(old)?;
        for child in &mut *children {
            relieve(&mut child.old)?;
            let threads = child.old.take_stopped(Why::Asked);
            let pid = child.old.pid;
            descendants.add_relieved(pid, child.parent, threads, slots_of(child.before), vdso)?;
        }
        let mut captured = snapshot::capture_relieved(pid, old.take_stopped(Why::Asked), vdso)?;
        let contexts: Vec<_> = captured.iter().map(|one| one.context.clone()).collect();
        let mut stands = Ok(None);
        let copied = snapshot::take(
            pid,
            &mut captured,
            vdso,
            None,
            Some(&namespace),
            &mut |cloner, others| {
                for other in others {
                    old.add_stopped(other, Why::Asked);
                }
                // It waits for the middle process, and is not to get any further.
                stands = cloner.interrupt().and_then(|()| settle(cloner));
            },
        )?;
        match stands {
            Ok(cloner) => {
                if let Some(cloner) = cloner {
                    old.add_stopped(cloner, Why::Asked);
                }
            }
            Err(error) => {
                throw_away(copied.follower.tid());
                return Err(error);
            }
        }
        Ok((copied.follower, (contexts, pid, slots_of(ROOT))))
    })();
    let made = copied.and_then(|(copy, contexts): (_, Contexts)| {
        let made = furnish(
            pid,
            copy,
            &contexts,
            &descendants,
            vdso,
            listener,
            None,
            Some(&mut namespace),
        );
        made.map_err(|error| TraceeError::Unsuitable(error.to_string()))
    });
    // Their handles went through the copying.
    old.find_threads();
    for child in children {
        child.old.find_threads();
    }
    if made.is_err() {
        let _ = namespace.kill();
    }
    Ok((made?, namespace))
}

/// A process that leads no more, to be copied: its filter, if it has one, is suspended, and it is ahead of its calls.
fn relieve(old: &mut Side) -> Result<()> {
    old.set_options_stopped(FOLLOWER_OPTIONS | ptrace::O_SUSPEND_SECCOMP)?;
    old.rewind_stopped()
}

/// A process alone: the old one itself follows.
fn reverse_process(exchanged: Exchanged, wakeup: &Wakeup) -> Reversed {
    let Exchanged {
        mut kept,
        mut old,
        locks,
        owners: held,
        following,
        start,
        // Those of a tree.
        ..
    } = exchanged;
    let Following {
        recorder,
        options,
        lanes,
        rules,
        pairs,
        armed,
        ..
    } = following;
    let Pair {
        vdso,
        epoll,
        tid_addresses,
        slots,
        ..
    } = pairs.into_root();
    let mut recorder = recorder;
    let (old_pid, new_pid) = (old.pid, kept.side.pid);
    let watched = Watched::watch(kept.side.pid);
    let base = slots.base();
    let threads = threads_of(&lanes, ROOT);
    let owners = with_slots(threads.clone());
    let logging = kept.side.leave_vdso(&vdso).and_then(|()| match base {
        Some(_) => {
            let pid = kept.side.pid;
            write_clocks_down(pid, &owners, &vdso, &mut recorder)
                .and_then(|()| take_clocks(old_pid, &owners, &vdso))
        }
        None => Ok(()),
    });
    tracing::debug!(at = ?start.elapsed(), "promotion: the clocks are turned round");
    // Whoever closes a file lets go of its locks. What is done for them is no event of the new leader's.
    close_descriptors(&mut old, &vdso);
    take_locks(&mut kept.side, &locks, &vdso);
    let recorded = recorder.add_process(kept.side.pid as u32);
    // Their interrupted calls are made again by the kernel itself.
    kept.side.resume_all();
    let pause = start.elapsed();

    let pairs: Vec<(i32, i32)> = threads.iter().map(|(new, old, _)| (*new, *old)).collect();
    let addresses = pairs
        .iter()
        .filter_map(|(leader, follower)| Some((*leader, *tid_addresses.get(follower)?)))
        .collect::<HashMap<i32, u64>>();
    // While it stands: between two of its calls it may take a lock or let one go.
    for (leader, follower) in &pairs {
        let (from, to) = (inspect::own_id(*follower), inspect::own_id(*leader));
        if let Some(address) = addresses.get(leader) {
            super::replay::replace_thread_id(old_pid, *address, from, to);
        }
        for owner in held.iter().filter(|owner| owner.tid == from) {
            lock_owners::give(old_pid, *owner, to);
        }
    }
    let made = match recorded
        .map_err(|e| TraceeError::Unsuitable(e.to_string()))
        .and(logging)
    {
        Ok(()) => turn_follower(old, &vdso, kept.previous.take()),
        Err(error) => {
            end_all([&mut old], &mut || ());
            Err(error)
        }
    };
    match made {
        Ok((side, installed)) => {
            let mut leader = std::mem::replace(&mut kept.side, Side::new(0));
            leader.vdso = Some(Box::new(Vdso::clone(&vdso)));
            let pairs = pairs
                .into_iter()
                .filter(|(_, follower)| side.has(*follower))
                .collect();
            let mut following = Following::new(Parts {
                leader,
                follower: side,
                pairs,
                recorder,
                listener: installed.listener,
                watched,
                vdso,
                epoll: epoll.reversed(),
                slots: Slots::new(base, owners.iter().map(|(new, _, slot)| (*new, *slot))),
                rules: rules.map(|rules| Box::new(rules.reversed(&[(ROOT, ROOT, new_pid)]))),
                reverse: true,
                tree: None,
                options,
                wakeup: wakeup.clone(),
                middle: 0,
                cloner: 0,
                armed,
                no_new_privs: installed.no_new_privs,
                tid_addresses: addresses,
            });
            kept.side.pid = following.pairs.root().leader.pid;
            // The leader before may have been held back. No thread was added: there is room.
            if let Err(stop) = following.set_margin() {
                tracing::warn!(?stop, "the ring's margin stays as it was");
            }
            Ok((following, Home::Kept(kept), pause))
        }
        Err(error) => {
            drop(recorder);
            let side = std::mem::replace(&mut kept.side, Side::new(0));
            let mut home = Home::Kept(kept);
            super::rollback::free_leader(side, &vdso, &mut home, false);
            Err(Box::new((home, error.to_string())))
        }
    }
}

/// The new leader, which stands, writes its clock readings down from here on. `owners` are its threads, the old
/// leader's, and their slots.
fn write_clocks_down(
    new: i32,
    owners: &[(i32, i32, u64)],
    vdso: &Vdso,
    recorder: &mut Recorder,
) -> Result<()> {
    for (tid, before, slot) in owners {
        clock_slots::clear(new, *slot)?;
        recorder.remove_clock(*before as u32);
        recorder
            .set_clock(*tid as u32, *slot)
            .map_err(|e| TraceeError::Unsuitable(e.to_string()))?;
    }
    vdso.patch(new, stub::Clocks::Log)
}

/// The old leader, which stands, takes those readings.
fn take_clocks(old: i32, owners: &[(i32, i32, u64)], vdso: &Vdso) -> Result<()> {
    for (.., slot) in owners {
        clock_slots::clear(old, *slot)?;
    }
    vdso.patch(old, stub::Clocks::Replay)
}

/// Makes the stopped old leader a follower and lets it go. It is killed if that fails.
fn turn_follower(
    mut old: Side,
    vdso: &Vdso,
    listener: Option<Arc<Listener>>,
) -> Result<(Side, follower::Installed)> {
    let pid = old.pid;
    let rewound = old.rewind_stopped();
    let mut threads = old.take_stopped(Why::Asked);
    let result = (|| {
        rewound?;
        for thread in &threads {
            thread.set_options(FOLLOWER_OPTIONS | ptrace::O_SUSPEND_SECCOMP)?;
        }
        let first = threads
            .first_mut()
            .ok_or_else(|| TraceeError::Unsuitable("the old version has no thread left".into()))?;
        // Signals that are on their way to it are no longer its own, and must not come in between.
        let mask = block(first)?;
        disarm(first, pid, vdso)?;
        let installed = follower::install(first, pid, vdso, listener)?;
        unblock(first, mask)?;
        Ok(installed)
    })();
    match result {
        Ok(installed) => {
            for thread in threads {
                thread.set_options(FOLLOWER_OPTIONS)?;
                old.add_running(thread.resume(0)?);
            }
            Ok((old, installed))
        }
        Err(error) => {
            for thread in threads {
                old.add_stopped(thread, Why::Asked);
            }
            end_all([&mut old], &mut || ());
            Err(error)
        }
    }
}
