//! What ptrace reports of the two sides: births, deaths, signals, and our own stops.

use std::time::Instant;

use mvedsua_common::event::{FLAG_RESTARTED, FLAG_SIGNAL};

use super::faults::Danger;
use super::following::{Following, Stop};
use super::lane::{Cloning, Delivered, FAULTS, InCall, Item};
use super::pair::ROOT;
use super::renamed::is_sent;
use super::replay::{RESTART_WITHOUT_HANDLER, is_interrupted};
use super::side::Why;
use crate::recorder::EventRef;
use crate::sys::pidfd;
use crate::sys::ptrace::{self, Registers, Wait};
use crate::tracee::context::{self, Undecided};
use crate::tracee::thread::{Running, Stopped, is_recorders_stop};
use crate::tracee::{Naming, TraceeError, inspect, signal_frame};

/// `si_code` of the signals that the engine queues for the follower: negative, as the kernel demands
/// of another process, and used by nobody else.
pub(super) const QUEUED_BY_US: i32 = -0x4d56;

impl Following {
    pub(super) fn leader_report(&mut self, pair: usize, tid: i32, wait: Wait) -> Result<(), Stop> {
        if matches!(wait, Wait::Exited(_) | Wait::Killed(_)) {
            return self.leader_thread_gone(pair, tid, wait);
        }
        let Some(thread) = self.pairs[pair].leader.reported(tid) else {
            return Ok(());
        };
        if wait == Wait::Interrupted && self.pairs[pair].slots.is_expected(tid) {
            self.give_slot(pair, &thread)?;
        }
        match wait {
            // That a signal has stopped the process is seen by whoever looks at what stands.
            Wait::Interrupted | Wait::GroupStop(_) if self.stopping => {
                self.pairs[pair].leader.stands_as_asked(thread, wait)?;
            }
            Wait::Interrupted if self.is_crowded() => {
                self.pairs[pair].leader.add_stopped(thread, Why::RingFull);
                self.blocked_since.get_or_insert_with(Instant::now);
            }
            Wait::Signal(signal) => return self.leader_signal(pair, thread, signal),
            Wait::GroupStop(_) => self.pairs[pair].leader.add_running(thread.listen()?),
            Wait::Event(libc::PTRACE_EVENT_CLONE) => {
                let born = thread.event_message()? as i32;
                self.leader_birth(pair, tid, born)?;
                self.pairs[pair].leader.add_running(thread.resume(0)?);
            }
            Wait::Event(libc::PTRACE_EVENT_FORK) => {
                let borne = self.leader_bore(pair, &thread);
                let running = if self.is_crowded() {
                    thread.resume_into_interrupt()?
                } else {
                    thread.resume(0)?
                };
                self.pairs[pair].leader.add_running(running);
                return borne;
            }
            Wait::Event(libc::PTRACE_EVENT_VFORK) => {
                self.leader_vforked(thread.event_message()? as i32);
                self.pairs[pair].leader.add_running(thread.resume(0)?);
            }
            Wait::Event(libc::PTRACE_EVENT_EXEC) => {
                self.pairs[pair].leader.add_running(thread.resume(0)?);
                return Err(Stop::roll_back(
                    "the leader executed another program, which cannot be followed",
                ));
            }
            Wait::Event(libc::PTRACE_EVENT_EXIT) => return self.leader_exit(pair, thread),
            _ => self.pairs[pair].leader.add_running(thread.resume(0)?),
        }
        Ok(())
    }

    /// The kernel may report a new thread's birth stop before its creator's event, or after it.
    fn leader_birth(&mut self, pair: usize, creator: i32, born: i32) -> Result<(), Stop> {
        if let Some(birth) = self.births.take_alone(born) {
            self.births.add(creator, birth);
        } else if inspect::threads(self.pairs[pair].leader.pid)?.contains(&born) {
            let birth = self.birth_of(born);
            self.births.add(creator, birth);
            self.pairs[pair].slots.expect_birth(born);
            self.pairs[pair].leader.add_running(Running::born(born));
            self.set_margin()?;
        }
        // Else a process made with an unusual exit signal: `newborn` hears of its birth stop.
        Ok(())
    }

    /// A report of a thread that is of neither side, as far as is known.
    pub(super) fn strange_report(&mut self, tid: i32, wait: Wait) -> Result<(), Stop> {
        if wait == Wait::Interrupted {
            return self.newborn(tid);
        }
        if matches!(wait, Wait::Exited(_) | Wait::Killed(_)) {
            self.stranger_gone(tid);
        }
        self.pairs.root_mut().leader.wards.report(tid, wait);
        Ok(())
    }

    /// A thread of nobody's that stopped at its birth, before its creator's event named it.
    fn newborn(&mut self, tid: i32) -> Result<(), Stop> {
        let process = inspect::process_of(tid).unwrap_or(0);
        let thread = Running::born(tid).reported();
        if let Some(pair) = self.pairs.of_leader_process(process) {
            let birth = self.birth_of(tid);
            self.births.add_alone(birth);
            self.give_slot(pair, &thread)?;
            if self.stopping {
                self.pairs[pair].leader.add_stopped(thread, Why::Asked);
            } else {
                self.pairs[pair].leader.add_running(thread.resume(0)?);
            }
            self.set_margin()
        } else if let Some(pair) = self.pairs.of_follower_process(process) {
            self.follower_birth(pair, thread)
        } else {
            self.stranger(thread);
            Ok(())
        }
    }

    /// The ring keeps one largest record free for every thread that may be in a call.
    pub(super) fn set_margin(&mut self) -> Result<(), Stop> {
        let threads: usize = self.pairs.iter().map(|pair| pair.leader.count()).sum();
        let threads = threads.max(1) as u64 + 1;
        let margin = threads * (mvedsua_common::event::MAX_RECORD as u64 + 16);
        let capacity = self.recorder.ring.capacity();
        if margin > capacity / 2 {
            return Err(Stop::roll_back(format!(
                "a ring of {capacity} bytes is too small for {threads} threads: use --ring with at least {}",
                (margin * 2).next_power_of_two()
            )));
        }
        self.recorder
            .set_margin(margin.max(capacity - self.room()))?;
        Ok(())
    }

    fn leader_signal(&mut self, pair: usize, thread: Stopped, signal: i32) -> Result<(), Stop> {
        let tid = thread.tid();
        let info = ptrace::signal_info(tid)
            .map_err(|e| Stop::roll_back(format!("reading a signal of thread {tid}: {e}")))?;
        // All calls that the thread has finished are in the ring by now.
        self.drain_ring()?;
        if signal == libc::SIGSTOP && info.si_code == libc::SI_KERNEL {
            return self.leader_held(pair, thread);
        }
        let danger = self.danger_of(pair, tid, signal);
        if danger == Danger::Deadly {
            self.pairs[pair].leader.add_stopped(thread, Why::Dying);
            return Err(Stop::LeaderCrashed {
                how: died_of(signal),
                held: true,
            });
        }
        // It may come before the recorder's own.
        self.fetch_payload(pair, tid)?;
        let again = self.pairs[pair].leader.leave_call_to_kernel(&thread)?;
        let mut regs = thread.registers()?;
        // The handler must not return into what we wrote into the vDSO: that may be gone by then.
        let side = &self.pairs[pair].leader;
        if self.pairs[pair].vdso.evade(side.pid, &mut regs)? {
            thread.set_registers(&regs)?;
        }
        self.collect_readings(pair, tid)?;
        let pid = self.pairs[pair].leader.pid;
        // We left it to the kernel ourselves: nobody has seen that one end.
        let is_noted =
            again.is_none() && regs.orig_rax as i64 >= 0 && is_interrupted(regs.rax as i64);
        if inspect::has_no_effect(pid, tid, signal)
            && self.is_undisturbed(tid, signal, &regs, is_noted)?
        {
            self.pairs[pair].leader.add_running(thread.resume(signal)?);
            return Ok(());
        }
        let in_call = match (regs.orig_rax as i64, regs.rax as i64) {
            (nr, ret) if nr >= 0 && is_interrupted(ret) && is_local(nr as u16) => {
                InCall::Local(nr as u16)
            }
            // Its record was taken back for a signal without effect, right before this one.
            (nr, ret) if is_noted && self.is_unnoted(tid, nr as u64) => {
                InCall::Again(Undecided::of(&regs, || false).map_or(ret, Undecided::code))
            }
            _ => again.map_or(InCall::No, |call| InCall::Again(call.code())),
        };
        let stops = matches!(
            signal,
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU
        );
        let more = inspect::disturbing_signals(pid, tid) != 0;
        let (thread, wait) = match danger {
            Danger::Handled => match self.let_into_handler(pair, thread, signal)? {
                Some(entered) => entered,
                None => return Ok(()),
            },
            _ => (thread, Wait::Signal(signal)),
        };
        if !stops {
            self.push(
                tid,
                Item::Signal(Box::new(Delivered {
                    info,
                    in_call,
                    more,
                })),
            )?;
        }
        let running = match wait {
            Wait::Signal(signal) => thread.resume(signal)?,
            Wait::GroupStop(_) => thread.listen()?,
            _ => thread.resume(0)?,
        };
        self.pairs[pair].leader.add_running(running);
        Ok(())
    }

    /// A signal without effect is about to be delivered to a thread of the leader. Natively nobody would have noticed: the
    /// call that it has interrupted is made again, and its record taken back, so that the follower waits for the result that
    /// the call will have. `is_noted`: that call has a record, or should have one. Returns false if that cannot be: then the
    /// program sees what happened, on both sides.
    fn is_undisturbed(
        &mut self,
        tid: i32,
        signal: i32,
        regs: &Registers,
        is_noted: bool,
    ) -> Result<bool, Stop> {
        let nr = regs.orig_rax;
        let Some(index) = self.lanes.of_leader(tid) else {
            return Ok(!is_noted);
        };
        let pid = self.pairs[self.lanes[index].pair].leader.pid;
        let others = inspect::disturbing_signals(pid, tid) != 0;
        if is_noted {
            // What cannot be made again is no interrupted call.
            let Some(call) = Undecided::of(regs, || false) else {
                return Ok(false);
            };
            match self.order.last_mut(index) {
                Some(Item::Call(event)) if is_record_of(nr, event) => {
                    if others {
                        // Theirs may be the handler for which it ends.
                        event.header.ret = call.code();
                    } else if let Some(Item::Call(event)) = self.order.take_last(index) {
                        self.recorder.ring.release(event);
                    }
                }
                // It was taken back for one before, or there was none.
                _ if regs.rax as i64 == RESTART_WITHOUT_HANDLER || is_local(nr as u16) => {}
                // A rule keeps it.
                _ => return Ok(false),
            }
        }
        context::spare_from(signal, pid, tid)?;
        if !others {
            self.expect_no_signal(index);
        }
        Ok(true)
    }

    /// The last thing that is known of a thread is not the record of this call, in which it was interrupted.
    fn is_unnoted(&mut self, tid: i32, nr: u64) -> bool {
        let Some(index) = self.lanes.of_leader(tid) else {
            return false;
        };
        !matches!(self.order.last_mut(index), Some(Item::Call(event)) if is_record_of(nr, event))
    }

    /// What waited when the last call of a thread of the leader returned comes to nothing.
    pub(super) fn expect_no_signal(&mut self, index: usize) {
        match self.order.last_mut(index) {
            Some(Item::Call(event)) => event.header.flags &= !FLAG_SIGNAL,
            Some(Item::Expected(expected)) => {
                if let Some(call) = &mut expected.origin {
                    call.expect_no_signal();
                }
            }
            _ => {}
        }
    }

    /// The recorder stopped the thread at the exit of a call: for its payload, for room, or both.
    fn leader_held(&mut self, pair: usize, thread: Stopped) -> Result<(), Stop> {
        let tid = thread.tid();
        // Killed in this stop it goes to that of its exit, which is yet to be reported, and must not be let out of it.
        if !is_recorders_stop(tid, libc::SIGSTOP) {
            self.pairs[pair].leader.add_running(Running::born(tid));
            return Ok(());
        }
        // It must not be left in this stop: if this agent died, the kernel would deliver the
        // SIGSTOP. In the stop of an interrupt it would just run on.
        let thread = thread.resume_into_interrupt()?;
        let report = ptrace::wait(tid, true).named("wait", tid)?;
        let thread = match report.map(|(_, wait)| wait) {
            Some(wait @ (Wait::Exited(_) | Wait::Killed(_))) => {
                return self.leader_thread_gone(pair, tid, wait);
            }
            Some(Wait::Event(libc::PTRACE_EVENT_EXIT)) => {
                return self.leader_exit(pair, thread.reported());
            }
            Some(wait @ Wait::Signal(libc::SIGSTOP)) => {
                return Err(Stop::from(TraceeError::Unexpected {
                    tid,
                    expected: "stop at the exit of its call",
                    got: format!("{wait:?}"),
                }));
            }
            Some(_) => thread.reported(),
            // The other threads, which end as well, are yet to be reported.
            None => {
                self.pairs[pair].leader.add_running(thread);
                return Ok(());
            }
        };
        self.fetch_payload(pair, tid)?;
        if self.has_room() {
            self.recorder.ring.publish();
            self.pairs[pair].leader.add_running(thread.resume(0)?);
            return Ok(());
        }
        self.pairs[pair].leader.add_stopped(thread, Why::RingFull);
        self.blocked_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    pub(super) fn leader_exit(&mut self, pair: usize, thread: Stopped) -> Result<(), Stop> {
        let tid = thread.tid();
        let status = thread.event_message()? as i32;
        self.drain_ring()?;
        self.fetch_payload(pair, tid)?;
        self.collect_readings(pair, tid)?;
        // No end that the program came to: its follower's thread goes on from its last call.
        let killed =
            pair == ROOT && libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        if !killed {
            self.push(tid, Item::Exit)?;
        }
        let whole = is_group_exit(self.pairs[pair].leader.pid, tid, status);
        if whole && pair != ROOT {
            self.pairs[pair].leader.add_running(thread.resume(0)?);
            return self.child_ends(pair, ended_as(status));
        }
        if !whole {
            self.pairs[pair].leader.add_running(thread.resume(0)?);
            return Ok(());
        }
        if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
            self.pairs[pair].leader.add_running(thread.resume(0)?);
            return Err(Stop::LeaderEnded("it exited with status 0".into()));
        }
        if libc::WIFSIGNALED(status) && !killed && !FAULTS.contains(&libc::WTERMSIG(status)) {
            self.pairs[pair].leader.add_running(thread.resume(0)?);
            return Err(Stop::LeaderEnded(died_of(libc::WTERMSIG(status))));
        }
        self.pairs[pair].leader.add_stopped(thread, Why::Dying);
        let how = if libc::WIFEXITED(status) {
            format!("it exited with status {}", libc::WEXITSTATUS(status))
        } else {
            died_of(libc::WTERMSIG(status))
        };
        Err(Stop::LeaderCrashed { how, held: true })
    }

    pub(super) fn leader_thread_gone(
        &mut self,
        pair: usize,
        tid: i32,
        wait: Wait,
    ) -> Result<(), Stop> {
        // One that was killed may not have reported that it was about to end. Its last calls bring what it read of the
        // clocks, as long as it has a slot.
        self.drain_ring()?;
        self.pairs[pair].leader.ended(tid);
        self.take_slot_back(pair, tid);
        let lane = self.lanes.leader_ended(tid);
        if lane.is_none() {
            self.births.add_gone(tid);
        }
        if !self.early.contains_key(&tid) {
            self.births.forget(tid);
        }
        if self.pairs[pair].leader.is_gone() && pair != ROOT {
            self.child_gone(pair, wait)?;
        }
        if pair == ROOT && self.pairs[pair].leader.is_gone() {
            return Err(match wait {
                Wait::Exited(0) => Stop::LeaderEnded("it exited with status 0".into()),
                Wait::Exited(status) => Stop::LeaderCrashed {
                    how: format!("it exited with status {status}"),
                    held: false,
                },
                Wait::Killed(signal) => Stop::LeaderEnded(died_of(signal)),
                _ => Stop::LeaderEnded("it is gone".into()),
            });
        }
        if let Some(index) = lane {
            self.close_lane(index);
        }
        Ok(())
    }

    pub(super) fn follower_report(
        &mut self,
        pair: usize,
        tid: i32,
        wait: Wait,
    ) -> Result<(), Stop> {
        if matches!(wait, Wait::Exited(_) | Wait::Killed(_)) {
            self.pairs[pair].follower.ended(tid);
            let lane = self.lanes.follower_ended(tid);
            if self.pairs[pair].follower.is_gone() && pair != ROOT {
                self.follower_child_gone(pair, wait)?;
            } else if self.pairs[pair].follower.is_gone() {
                return Err(Stop::roll_back(match wait {
                    Wait::Killed(signal) => format!("the follower was killed by signal {signal}"),
                    _ => "the follower ended".into(),
                }));
            }
            if let Some(index) = lane {
                self.close_lane(index);
            }
            return Ok(());
        }
        if self.transformation.is_running() {
            return self.transformer_report(tid, wait);
        }
        let Some(mut thread) = self.pairs[pair].follower.reported(tid) else {
            return Ok(());
        };
        if wait == Wait::Interrupted {
            self.reap(pair, &mut thread)?;
            self.share_slot(&thread)?;
        }
        match wait {
            Wait::Interrupted if self.put_mask_into_force(tid)? => {
                self.pairs[pair].follower.add_running(thread.resume(0)?);
            }
            // Of a signal that comes first the leader's thread has had its own: it will follow from the handler.
            Wait::Interrupted if self.stopping_follower => {
                self.pairs[pair].follower.stands_as_asked(thread, wait)?;
            }
            Wait::Signal(signal) => return self.follower_signal(pair, thread, signal),
            Wait::GroupStop(_) => self.pairs[pair].follower.add_running(thread.listen()?),
            Wait::Event(libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK) => {
                return self.follower_cloned(pair, thread);
            }
            Wait::Syscall => {
                // The exit of the clone that `follower_cloned` waits for: the follower gets the
                // thread id that the leader got.
                if let Some(index) = self.lanes.of_follower(tid)
                    && let Some(result) = self.lanes[index].cloned.take()
                {
                    let mut regs = thread.registers()?;
                    regs.rax = result as u64;
                    thread.set_registers(&regs)?;
                }
                self.pairs[pair].follower.add_running(thread.resume(0)?);
            }
            Wait::Event(libc::PTRACE_EVENT_EXIT) => {
                let status = thread.event_message()? as i32;
                let whole = is_group_exit(self.pairs[pair].follower.pid, tid, status);
                self.pairs[pair].follower.add_running(thread.resume(0)?);
                if whole && pair == ROOT {
                    return Err(Stop::roll_back(if libc::WIFSIGNALED(status) {
                        format!("the follower {}", died_of(libc::WTERMSIG(status)))
                    } else {
                        format!(
                            "the follower exited with status {}",
                            libc::WEXITSTATUS(status)
                        )
                    }));
                }
            }
            _ => self.pairs[pair].follower.add_running(thread.resume(0)?),
        }
        Ok(())
    }

    /// The thread leaves a call that waited with another signal mask and was interrupted: the signals
    /// that are queued for it may only get through that mask.
    fn put_mask_into_force(&mut self, tid: i32) -> Result<bool, Stop> {
        let failed = |e| Stop::roll_back(format!("changing the signal mask of thread {tid}: {e}"));
        let Some(index) = self.lanes.of_follower(tid) else {
            return Ok(false);
        };
        let Some(masked) = self.lanes[index]
            .masked
            .as_mut()
            .filter(|masked| masked.own.is_none())
        else {
            return Ok(false);
        };
        masked.own = Some(ptrace::signal_mask(tid).map_err(failed)?);
        ptrace::set_signal_mask(tid, masked.temporary).map_err(failed)?;
        Ok(true)
    }

    /// Delivers a signal that got through a temporary mask. The handler must return to the thread's own
    /// mask, which the kernel would have put into the frame; setting it before the delivery would
    /// block the signal again.
    fn deliver_masked(
        &self,
        pair: usize,
        thread: Stopped,
        signal: i32,
        own: u64,
    ) -> Result<Stopped, Stop> {
        let (tid, pid) = (thread.tid(), self.pairs[pair].follower.pid);
        let failed = |e| Stop::roll_back(format!("changing the signal mask of thread {tid}: {e}"));
        if inspect::caught_signals(pid, tid) & (1 << (signal - 1)) == 0 {
            ptrace::set_signal_mask(tid, own).map_err(failed)?;
            return Ok(thread);
        }
        let thread = thread.step_into_handler(signal)?;
        let frame = thread.registers()?.rsp;
        crate::sys::memory::write(pid, frame + signal_frame::MASK as u64, &own.to_le_bytes())
            .map_err(failed)?;
        Ok(thread)
    }

    /// A new thread of the follower stopped at its birth, before or after its creator's event.
    fn follower_birth(&mut self, pair: usize, thread: Stopped) -> Result<(), Stop> {
        thread.set_options(self.follower_options())?;
        if self.lanes.of_follower(thread.tid()).is_some() {
            self.share_slot(&thread)?;
            self.pairs[pair].follower.add_running(thread.resume(0)?);
        } else {
            self.pairs[pair].follower.add_stopped(thread, Why::Newborn);
        }
        Ok(())
    }

    fn follower_cloned(&mut self, pair: usize, thread: Stopped) -> Result<(), Stop> {
        let (creator, born) = (thread.tid(), thread.event_message()? as i32);
        let lane = self.lanes.of_follower(creator);
        let Some((creator_lane, Cloning { result, lane, id })) =
            lane.and_then(|index| Some((index, self.lanes[index].cloning.take()?)))
        else {
            return Err(Stop::roll_back(format!(
                "thread {creator} of the follower made a thread that the leader did not make"
            )));
        };
        self.has_id(born, id)?;
        self.lanes.pair(lane, born);
        self.lanes[creator_lane].cloned = Some(result);
        // The words in which the new thread's id was stored must hold the leader's. The creator still
        // stands in the call that says where they are.
        if self.lanes[lane].pair == pair {
            self.write_thread_id(creator_lane, born, lane, result);
        }
        self.pairs[pair]
            .follower
            .add_running(thread.resume_to_syscall()?);
        if self.lanes[lane].pair != pair {
            return self.follower_bore(pair, creator, self.lanes[lane].pair, born);
        }
        if let Some(thread) = self.pairs[pair].follower.take(born, Why::Newborn) {
            self.share_slot(&thread)?;
            self.pairs[pair].follower.add_running(thread.resume(0)?);
        } else {
            self.pairs[pair].follower.add_running(Running::born(born));
        }
        Ok(())
    }

    fn follower_signal(&mut self, pair: usize, thread: Stopped, signal: i32) -> Result<(), Stop> {
        let tid = thread.tid();
        let info = ptrace::signal_info(tid)
            .map_err(|e| Stop::roll_back(format!("reading a signal of thread {tid}: {e}")))?;
        if info.si_code == QUEUED_BY_US {
            // As for the leader: it may be promoted before the handler returns.
            let mut regs = thread.registers()?;
            let side = &self.pairs[pair].follower;
            if self.pairs[pair].vdso.evade(side.pid, &mut regs)? {
                thread.set_registers(&regs)?;
            }
            let index = self.lanes.of_follower(tid);
            let queued = index.map(|index| &mut self.lanes[index].queued);
            let leaders = queued.and_then(|queued| {
                Some(queued.remove(queued.iter().position(|info| info.si_signo == signal)?))
            });
            if let Some(leaders) = leaders {
                ptrace::set_signal_info(tid, &leaders).map_err(|e| {
                    Stop::roll_back(format!("placing a signal in thread {tid}: {e}"))
                })?;
            }
            if let Some(own) = index.and_then(|index| self.lanes[index].masked.take()?.own) {
                let thread = self.deliver_masked(pair, thread, signal, own)?;
                self.pairs[pair].follower.add_running(thread.resume(0)?);
                return Ok(());
            }
            self.pairs[pair]
                .follower
                .add_running(thread.resume(signal)?);
            return Ok(());
        }
        if FAULTS.contains(&signal) {
            let is_caught = || {
                let pid = self.pairs[pair].follower.pid;
                inspect::caught_signals(pid, tid) & (1 << (signal - 1)) != 0
            };
            if info.si_code > 0
                && (pair != ROOT || is_caught())
                && let Some(index) = self.lanes.of_follower(tid)
            {
                return self.follower_faults(index, thread, info);
            }
            let report = self.crash_report(pair, &thread, signal, &info);
            self.pairs[pair].follower.add_stopped(thread, Why::Dying);
            return Err(Stop::RollBack(
                format!("the follower {}", died_of(signal)),
                Some(report),
            ));
        }
        if signal == libc::SIGSTOP && info.si_code == libc::SI_USER {
            // An operator stops the follower by hand. A program cannot see that, so it is no
            // divergence; if it lasts it is a hang.
            self.pairs[pair]
                .follower
                .add_running(thread.resume(signal)?);
            return Ok(());
        }
        // The follower gets the leader's signals and no others: this one is meant for nobody
        // (its own timers and children do not exist as far as it knows).
        self.pairs[pair].follower.add_running(thread.resume(0)?);
        Ok(())
    }

    /// Queues a signal of the leader for the follower's thread of the same lane.
    pub(super) fn queue_signal(&mut self, index: usize, info: libc::siginfo_t) -> Result<(), Stop> {
        let pair = self.lanes[index].pair;
        let Some(tid) = self.lanes[index].follower else {
            return Ok(());
        };
        let mut marked = info;
        marked.si_code = QUEUED_BY_US;
        let signal = info.si_signo;
        self.lanes[index].was_sent_one |= is_sent(info.si_code);
        self.lanes[index].queued.push(info);
        pidfd::queue_signal(self.pairs[pair].follower.pid, tid, signal, &marked)
            .map_err(|e| Stop::roll_back(format!("queueing signal {signal} for thread {tid}: {e}")))
    }
}

/// The event is the record of a call that was interrupted, in which the thread stands with `nr` in its registers.
fn is_record_of(nr: u64, event: &EventRef) -> bool {
    let header = &event.header;
    let same = u64::from(header.nr) == nr || header.flags & FLAG_RESTARTED != 0;
    same && is_interrupted(header.ret)
}

fn is_local(nr: u16) -> bool {
    mvedsua_common::table::syscall(nr)
        .is_some_and(|call| call.class == mvedsua_common::spec::Class::Local)
}

/// The exit status of a ptrace event as its tracer will be told.
fn ended_as(status: i32) -> Wait {
    if libc::WIFSIGNALED(status) {
        Wait::Killed(libc::WTERMSIG(status))
    } else {
        Wait::Exited(libc::WEXITSTATUS(status))
    }
}

pub(super) fn died_of(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(name) => format!("died of {}", name.as_str()),
        Err(_) => format!("died of signal {signal}"),
    }
}

/// At the exit stop of a thread: does the whole process end? A signal always takes all threads; for
/// an exit the kernel says so in no field, but every thread of an `exit_group` has `SIGKILL` pending
/// except the one that called it, which is inside that call.
fn is_group_exit(pid: i32, tid: i32, status: i32) -> bool {
    if libc::WIFSIGNALED(status) || inspect::threads(pid).map_or(true, |threads| threads.len() <= 1)
    {
        return true;
    }
    let exit_group = super::roles::roles().exit_group;
    inspect::current_call(pid, tid).is_some_and(|call| call.nr == exit_group)
        || inspect::status_mask(pid, tid, "SigPnd") & (1 << (libc::SIGKILL - 1)) != 0
}
