//! t4 to t6: the follower becomes the leader, on request or because the leader crashed.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mvedsua_common::event::FLAG_SIGNAL;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::following::{Following, Stop};
use super::home::Kept;
use super::lane::Item;
use super::replay::{RESTART_ALWAYS, is_interrupted, replace_thread_id};
use super::rollback::pass;
use super::side::{Side, Why};
use super::snapshot::KEPT_OPTIONS;
use super::transfer::Timers;
use crate::follower::Arrival;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::snapshot::FOLLOWER_OPTIONS;
use crate::tracee::thread::Stopped;

/// Longest time for the follower to consume what is left while the leader stands still.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How a promotion ended.
pub(super) enum Promoted {
    /// The new leader serves; the old process still exists, stopped.
    Done(Box<Exchanged>),
    /// It could not be made; the old leader serves on and the follower follows.
    NotNow(Box<Following>, String),
    /// The update cannot go on.
    Failed(Box<Following>, Stop),
}

/// The two processes after the exchange, both stopped.
pub(super) struct Exchanged {
    /// The new leader: traced, its filter suspended.
    pub(super) kept: Kept,
    /// The old leader, all its threads stopped.
    pub(super) old: Side,
    /// The rest of the update: counts, ring, recorder.
    pub(super) following: Following,
    /// Since when nobody serves.
    pub(super) start: Instant,
}

impl Following {
    /// Exchanges the roles. The leader is stopped, the follower consumes what is left, gets what
    /// the kernel keeps for the leader, and goes on in its place.
    pub(super) fn promote(mut self) -> Promoted {
        if let Some(why) = self.obstacle() {
            return Promoted::NotNow(Box::new(self), why);
        }
        self.give_ahead();
        let start = Instant::now();
        if let Err(stop) = self.halt_leader() {
            return Promoted::Failed(Box::new(self), stop);
        }
        // It went on until now, and may have made a child meanwhile. The follower holds its
        // connections by now and must not follow on with them: it would keep open what the leader
        // closes.
        if let Some(why) = self.obstacle() {
            let stop = Stop::roll_back(format!("at the moment of promotion, {why}"));
            return Promoted::Failed(Box::new(self), stop);
        }
        self.exchange(start)
    }

    /// The leader crashed and its threads are held: the follower takes its place.
    pub(super) fn take_over(mut self) -> Promoted {
        if self.transformation.is_running() {
            let why = "its state was still being transformed".to_owned();
            return Promoted::NotNow(Box::new(self), why);
        }
        let start = Instant::now();
        if let Err(stop) = self.halt_leader() {
            return Promoted::Failed(Box::new(self), stop);
        }
        self.exchange(start)
    }

    fn exchange(mut self, start: Instant) -> Promoted {
        match self.drain_and_move(start) {
            Ok(side) => {
                let kept = Kept::new(side, self.listener.clone());
                let old = std::mem::replace(&mut self.leader, Side::new(0));
                Promoted::Done(Box::new(Exchanged {
                    kept,
                    old,
                    following: self,
                    start,
                }))
            }
            Err(stop) => Promoted::Failed(Box::new(self), stop),
        }
    }

    /// Stops all threads of the leader. Their interrupted calls are taken back: they will be made
    /// again, by whoever leads.
    fn halt_leader(&mut self) -> Result<(), Stop> {
        self.stopping = true;
        self.leader.interrupt_all();
        let start = Instant::now();
        while self.leader.running().next().is_some() {
            if start.elapsed() > DRAIN_LIMIT {
                return Err(Stop::roll_back("the leader's threads do not stop"));
            }
            match ptrace::wait(-1, false) {
                Ok(Some((tid, wait))) => {
                    match self.report(tid, wait) {
                        // A crash or exit seen while stopping is what a take-over is for.
                        Err(Stop::LeaderCrashed { held: true, .. }) | Ok(()) => {}
                        Err(stop) => return Err(stop),
                    }
                    if wait != Wait::Interrupted {
                        // Any other stop takes the request to stop away, and may have brought a thread.
                        self.leader.interrupt_all();
                    }
                }
                Ok(None) => {
                    for (tid, wait) in self.leader.settle_stragglers() {
                        self.report(tid, wait)?;
                    }
                    // No descriptor tells of a ptrace report to this thread alone.
                    let _ = ppoll(&mut [], Some(TimeSpec::new(0, 50_000)), None);
                }
                Err(error) => return Err(Stop::roll_back(format!("waitpid: {error}"))),
            }
        }
        self.stopping = false;
        // Those that were held for room are not let go when there is some: they would serve on, unrecorded.
        for thread in self.leader.take_stopped(Why::RingFull) {
            self.leader.add_stopped(thread, Why::Asked);
        }
        if let Some(since) = self.blocked_since.take() {
            self.blocked += since.elapsed();
        }
        self.leader.leave_vdso(&self.vdso)?;
        self.drain_ring()?;
        self.fetch_left_behind()?;
        self.flush_rules()?;
        self.leader.rewind_stopped()?;
        for index in 0..self.lanes.len() {
            if let Some(Item::Call(event)) = self.order.last_mut(index) {
                // What waited was our own interrupt; a signal would stand in the queue by now.
                event.header.flags &= !FLAG_SIGNAL;
            }
            if let Some(Item::Expected(expected)) = self.order.last_mut(index)
                && let Some(call) = &mut expected.origin
            {
                call.expect_no_signal();
            }
            if let Some(Item::Call(event)) = self.order.last_mut(index)
                && is_interrupted(event.header.ret)
                && let Some(Item::Call(event)) = self.order.take_last(index)
            {
                self.recorder.ring.release(event);
            }
        }
        self.collect_all_readings()
    }

    /// A thread that was still running arrives in a call: it is sent back to make it again.
    fn send_back(&mut self) -> Result<(), Stop> {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if !matches!(ppoll(&mut fds, Some(TimeSpec::new(0, 200_000)), None), Ok(n) if n > 0) {
            return Ok(());
        }
        match self.listener.receive() {
            Ok(notification) => self.respond(&Arrival::from(notification), RESTART_ALWAYS),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                Ok(())
            }
            Err(error) => Err(Stop::roll_back(format!("receiving a call: {error}"))),
        }
    }

    fn drain_and_move(&mut self, start: Instant) -> Result<Side, Stop> {
        while !self.drained() {
            if start.elapsed() > DRAIN_LIMIT.max(self.options.hang_limit) {
                return Err(Stop::roll_back(
                    "the follower does not consume what is left of the leader",
                ));
            }
            self.pump()?;
        }
        let through = self.waiting_arrival()?;
        // The calls that are now made inside the leader are no events of it.
        self.recorder.remove_process(self.leader.pid as u32)?;
        let (timers, leader_thread) = match self
            .leader
            .take_stopped(Why::Asked)
            .pop_main(self.leader.pid)
        {
            (Some(thread), rest) => {
                for other in rest {
                    self.leader.add_stopped(other, Why::Asked);
                }
                match self.read_timers(thread) {
                    Ok((thread, timers)) => (timers, Some(thread)),
                    Err(stop) => return Err(stop),
                }
            }
            (None, _) => (Vec::new(), None),
        };
        if let Some(thread) = leader_thread {
            self.leader.add_stopped(thread, Why::Asked);
        }
        let given = self.give_descriptors(&through)?;
        self.halt_follower()?;
        // The kernel does not restart a thread's call any more once one was injected into it.
        self.follower.rewind_stopped()?;
        let mut threads = self.follower.take_stopped(Why::Asked);
        let settled = self.settle_threads(&mut threads, &timers, &given);
        for thread in threads {
            self.follower.add_stopped(thread, Why::Asked);
        }
        settled?;
        let pid = self.follower.pid;
        self.swap_thread_ids(pid, true);
        self.forget_rest();
        // The point of no return, in an order that leaves one server if this agent dies here: until
        // now the follower died with us; then both would live, but the follower's calls wait in its
        // filter; from the next line on the old leader dies with us and the new one waits for a
        // successor.
        self.leader.set_options_stopped(FOLLOWER_OPTIONS)?;
        let mut side = std::mem::replace(&mut self.follower, Side::new(pid));
        side.wards = std::mem::take(&mut self.leader.wards);
        Ok(side)
    }

    fn settle_threads(
        &self,
        threads: &mut [Stopped],
        timers: &Timers,
        given: &[i32],
    ) -> Result<(), Stop> {
        for thread in &*threads {
            thread.set_options(KEPT_OPTIONS)?;
        }
        match threads.first_mut() {
            Some(first) => self.settle_in(first, timers, given),
            None => Err(Stop::roll_back("the follower has no thread left")),
        }
    }

    /// Releases what is left in the ring: the ends of threads, and the leader's calls after the last
    /// that the follower was to see.
    fn forget_rest(&mut self) {
        for index in 0..self.lanes.len() {
            while let Some(item) = self.order.take(index) {
                if let Item::Call(event) = item {
                    self.recorder.ring.release(event);
                }
            }
        }
        self.reclaim();
        while let Some(event) = self.recorder.ring.peek_new() {
            self.recorder.ring.release(event);
        }
    }

    /// Nothing is left of the leader but deaths of threads.
    fn drained(&mut self) -> bool {
        if self.drain_ring().is_err() {
            return false;
        }
        (0..self.lanes.len()).all(|index| {
            matches!(self.order.first_due(index), None | Some(Item::Exit))
                && self.lanes[index].returned.is_empty()
                // One that has ended takes none any more.
                && (self.lanes[index].ended || self.count_taken(index).unwrap_or(false))
        })
    }

    /// A thread of the follower that waits in a call: descriptors are installed through it.
    fn waiting_arrival(&mut self) -> Result<Arrival, Stop> {
        let start = Instant::now();
        loop {
            if let Some(arrival) = self.lanes.iter().find_map(|lane| lane.waiting) {
                return Ok(arrival);
            }
            if start.elapsed() > DRAIN_LIMIT {
                return Err(Stop::roll_back("no thread of the follower makes a call"));
            }
            self.pump()?;
        }
    }

    /// Stops all threads of the follower between two calls. One that waits for its verdict is told
    /// to make the call again; before it gets there it stands in the interrupt's stop.
    fn halt_follower(&mut self) -> Result<(), Stop> {
        self.stopping_follower = true;
        self.follower.interrupt_all();
        for index in 0..self.lanes.len() {
            if let Some(arrival) = self.lanes[index].waiting.take() {
                self.respond(&arrival, RESTART_ALWAYS)?;
            }
        }
        let start = Instant::now();
        while self.follower.running().next().is_some() {
            if start.elapsed() > DRAIN_LIMIT {
                return Err(Stop::roll_back("the follower's threads do not stop"));
            }
            // A thread that was running may arrive in a call meanwhile: it is sent back too.
            if let Ok(Some((tid, wait))) = ptrace::wait(-1, false) {
                if self.follower.has(tid) || !self.leader.has(tid) {
                    self.follower_report(tid, wait)?;
                    if wait != Wait::Interrupted {
                        self.follower.interrupt_all();
                    }
                } else if !matches!(wait, Wait::Interrupted) {
                    self.report(tid, wait)?;
                }
                continue;
            }
            self.send_back()?;
        }
        self.stopping_follower = false;
        Ok(())
    }

    /// In the words that hold their thread ids, the new leader's threads had the old one's.
    fn swap_thread_ids(&self, pid: i32, own: bool) {
        for lane in self.lanes.iter() {
            let Some(tid) = lane.follower else { continue };
            let Some(address) = self.tid_addresses.get(&lane.leader) else {
                continue;
            };
            let (from, to) = if own {
                (lane.leader, tid)
            } else {
                (tid, lane.leader)
            };
            replace_thread_id(pid, *address, from, to);
        }
    }
}

/// Picks the main thread, or any, out of a set of stopped threads.
trait PopMain {
    fn pop_main(self, pid: i32) -> (Option<Stopped>, Vec<Stopped>);
}

impl PopMain for Vec<Stopped> {
    fn pop_main(mut self, pid: i32) -> (Option<Stopped>, Vec<Stopped>) {
        let at = self
            .iter()
            .position(|thread| thread.tid() == pid)
            .unwrap_or(0);
        if self.is_empty() {
            return (None, self);
        }
        let thread = self.swap_remove(at);
        (Some(thread), self)
    }
}

impl Exchanged {
    /// t5 and t6 in one: the new leader serves, as plain as it can be, and the old process ends.
    /// Returns how long nobody served.
    ///
    /// # Errors
    /// When the new leader is gone.
    pub(super) fn finalize(mut self) -> Result<(Kept, Following, Duration), Stop> {
        let side = &mut self.kept.side;
        side.rewind_stopped()?;
        side.restore_vdso(&self.following.vdso, false)?;
        side.resume_all();
        let pause = self.start.elapsed();
        let side = &mut self.kept.side;
        self.old.kill(&mut |tid, wait| pass(side, tid, wait));
        Ok((self.kept, self.following, pause))
    }
}
