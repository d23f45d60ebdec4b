//! Which CPUs the follower and its engine run on: not those that the leader uses.
//!
//! Where the scheduler puts them it has no idea of who comes first. They run often and for short, and push the leader
//! and its clients from one CPU to the other; each wake-up of a client goes to another CPU then, for many times the
//! price, and it is the leader that pays it. So while the follower keeps up, the CPUs that the leader is at work on
//! are left to it, as many as the CPU time that it uses. A follower that falls behind gets all of them: the leader
//! waits for it in the end.
//!
//! Where the leader is, its records say. The threads of the follower get back what their counterparts have before one
//! of them leads (`halt_leader`, `give_scheduling`).

use std::time::{Duration, Instant};

use super::following::Following;
use super::pair::ROOT;
use crate::sys::scheduling::{self, CpuSet};

/// So many calls are looked at before a decision: at 5,000 requests/s of a Redis a fifteenth of a second.
const WINDOW: u32 = 1024;
/// Of a window, calls on CPUs that are ours make us move when they are more than this many: a leader that changes
/// its CPU for a moment is not followed about.
const STRAYED: u32 = WINDOW * 3 / 4;
/// CPU time that a leader of one thread may seem to have used in a second: more is a second one's.
const ONE_CPU: f64 = 1.15;

/// Where the leader's calls of late were made, and what came of it.
#[derive(Debug)]
pub(super) struct Placement {
    /// Calls since the last decision, by CPU.
    calls: Vec<u32>,
    /// Their number.
    seen: u32,
    /// When the last decision was made, and the CPU time that the leader had used.
    looked: Option<(Instant, Duration)>,
    confined: Option<Confined>,
}

/// The follower and the engine's thread keep off some CPUs.
#[derive(Debug)]
struct Confined {
    /// Those, which are left to the leader.
    left: Vec<usize>,
    /// Where the engine's thread may run by itself.
    own: CpuSet,
    /// What a thread of the follower gets back whose counterpart is gone.
    home: CpuSet,
}

impl Placement {
    pub(super) const fn new() -> Self {
        Self {
            calls: Vec::new(),
            seen: 0,
            looked: None,
            confined: None,
        }
    }

    /// A thread of the leader came out of a call on this CPU.
    pub(super) fn count(&mut self, cpu: u32) {
        let cpu = cpu as usize;
        if cpu >= self.calls.len() {
            self.calls.resize(cpu + 1, 0);
        }
        self.calls[cpu] += 1;
        self.seen += 1;
    }

    /// CPUs that are left to the leader.
    fn left(&self) -> &[usize] {
        self.confined
            .as_ref()
            .map_or(&[], |confined| &confined.left)
    }
}

/// Which CPUs are to be left to a leader that uses `used` of `all`, after a window of so many `calls` by CPU; `left` are
/// those that are left to it now. With nothing to be left over there are none.
fn decide(calls: &[u32], used: f64, all: usize, left: &[usize]) -> Vec<usize> {
    let wanted = (used - ONE_CPU).max(0.0).ceil() as usize + 1;
    if wanted >= all {
        return Vec::new();
    }
    let strayed: u32 = (0..calls.len())
        .filter(|cpu| !left.contains(cpu))
        .map(|cpu| calls[cpu])
        .sum();
    if left.len() == wanted && strayed <= STRAYED {
        return left.to_vec();
    }
    let mut most: Vec<usize> = (0..calls.len()).filter(|cpu| calls[*cpu] > 0).collect();
    most.sort_by_key(|cpu| std::cmp::Reverse(calls[*cpu]));
    most.truncate(wanted);
    most
}

impl Drop for Placement {
    fn drop(&mut self) {
        if let Some(confined) = &self.confined {
            // What it was: the cpuset may have changed meanwhile, and then the kernel has seen to it.
            let _ = scheduling::run_on(0, &confined.own);
        }
    }
}

impl Following {
    /// To be called often: decides now and then where the follower and this thread run.
    pub(super) fn place(&mut self) {
        if self.placement.seen < WINDOW {
            return;
        }
        let calls = std::mem::take(&mut self.placement.calls);
        self.placement.seen = 0;
        let Some(used) = self.used_cpus() else {
            return;
        };
        let all = match &self.placement.confined {
            Some(confined) => confined.own.count(),
            None => scheduling::cpus(0).map_or(0, |own| own.count()),
        };
        let left = decide(&calls, used, all, self.placement.left());
        if left.is_empty() || self.is_far_behind() || !self.pairs.root().leader.runs() {
            self.run_anywhere();
        } else if left != self.placement.left() {
            self.leave_to_leader(left);
        }
    }

    /// CPUs that the leader kept busy since the last window. `None`: nobody can say.
    fn used_cpus(&mut self) -> Option<f64> {
        let now = Instant::now();
        let times = self.living().into_iter().map(|pair| {
            // One that ends meanwhile is counted by the next window.
            scheduling::cpu_time(self.pairs[pair].leader.pid).unwrap_or_default()
        });
        let time: Duration = times.sum();
        let (then, before) = self.placement.looked.replace((now, time))?;
        Some(time.saturating_sub(before).as_secs_f64() / (now - then).as_secs_f64())
    }

    /// The follower needs all that it can get.
    fn is_far_behind(&self) -> bool {
        let ring = &self.recorder.ring;
        // Nearer again it goes on alone for a while, or it would be sent to and fro.
        let share = if self.placement.confined.is_none() {
            64
        } else {
            16
        };
        self.pace.is_some() || ring.used_bytes() + ring.aside_bytes() > ring.capacity() / share
    }

    fn leave_to_leader(&mut self, left: Vec<usize>) {
        let sets = match self.placement.confined.take() {
            Some(confined) => Ok((confined.own, confined.home)),
            None => scheduling::cpus(0)
                .and_then(|own| Ok((own, scheduling::cpus(self.pairs[ROOT].leader.pid)?))),
        };
        let Ok((own, home)) = sets else {
            return;
        };
        tracing::debug!(?left, "cpus are left to the leader");
        // A set that a cpuset does not allow any more is no set: then all stays as it is.
        if let Some(rest) = own.without(&left) {
            let _ = scheduling::run_on(0, &rest);
        }
        for tid in self.threads_of_follower() {
            // The operator's word on where the server runs holds for the follower, too.
            let cpus = self.counterpart_cpus(tid);
            if let Some(rest) = cpus.and_then(|cpus| cpus.without(&left)) {
                let _ = scheduling::run_on(tid, &rest);
            }
        }
        self.placement.confined = Some(Confined { left, own, home });
    }

    /// The follower and this thread run wherever they might before.
    pub(super) fn run_anywhere(&mut self) {
        let Some(Confined { own, home, .. }) = self.placement.confined.take() else {
            return;
        };
        let _ = scheduling::run_on(0, &own);
        for tid in self.threads_of_follower() {
            let cpus = self.counterpart_cpus(tid);
            // It may be gone already.
            let _ = scheduling::run_on(tid, cpus.as_ref().unwrap_or(&home));
        }
    }

    /// Those without a counterpart yet, too.
    fn threads_of_follower(&self) -> Vec<i32> {
        let sides = self.pairs.iter().map(|pair| &pair.follower);
        sides.flat_map(|side| side.tids()).collect()
    }

    /// Where the leader's thread may run that this one of the follower's stands for; `None` when there is none.
    fn counterpart_cpus(&self, tid: i32) -> Option<CpuSet> {
        let lane = self.lanes.of_follower(tid)?;
        scheduling::cpus(self.lanes[lane].leader).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left to a leader that used so many CPUs, after windows with these calls by CPU.
    #[track_caller]
    fn check(all: usize, used: f64, windows: &[&[u32]], expected: &[usize]) {
        let mut left = Vec::new();
        for calls in windows {
            left = decide(calls, used, all, &left);
        }
        assert_eq!(left, expected);
    }

    #[test]
    fn a_leader_of_one_thread_keeps_the_cpu_that_it_uses_most() {
        check(2, 0.07, &[&[300, 724]], &[1]);
        check(2, 1.02, &[&[1024]], &[0]);
        check(8, 0.9, &[&[0, 0, 0, 1024]], &[3]);
    }

    #[test]
    fn a_leader_that_changes_its_cpu_for_a_moment_is_not_followed_about() {
        check(2, 0.5, &[&[1024, 0], &[400, 624]], &[0]);
        check(2, 0.5, &[&[1024, 0], &[24, 1000]], &[1]);
    }

    #[test]
    fn a_leader_keeps_as_many_as_it_uses() {
        check(8, 2.6, &[&[100, 300, 0, 200, 400]], &[4, 1, 3]);
        check(8, 0.2, &[&[100, 300, 0, 200, 400]], &[4]);
        // One that has fallen silent where it was.
        check(8, 2.6, &[&[0, 0, 1024]], &[2]);
    }

    #[test]
    fn where_nothing_would_be_over_nothing_is_left_to_it() {
        check(2, 1.7, &[&[512, 512]], &[]);
        check(1, 0.1, &[&[1024]], &[]);
        check(2, 1.7, &[&[1024, 0], &[512, 512]], &[]);
    }
}
