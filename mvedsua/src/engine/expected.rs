//! One step of the follower where rules have a say: what they expect against the call in which it waits.

use mvedsua_common::event::FLAG_SIGNAL;

use super::following::{Following, Stop, makes};
use super::lane::Item;
use super::roles::roles;
use super::rules::{Copied, Rules};
use crate::follower::{Arrival, ProcessMemory};
use crate::matcher::{self, Difference, Unanswered};
use crate::rules::ast::Repeat;
use crate::rules::carry::Carry;
use crate::rules::descriptors::Change;

/// What is kept for the reads of the follower's process of a pair; `None` without rules.
fn carry(rules: &mut Option<Box<Rules>>, pair: usize) -> Option<&mut Carry> {
    let of = rules.as_mut()?.applied.get_mut(&pair)?;
    Some(&mut of.carry)
}

impl Following {
    /// The next item of a lane is what rules made of a call. Returns whether the follower got further.
    pub(super) fn step_expected(&mut self, index: usize) -> Result<bool, Stop> {
        let pair = self.lanes[index].pair;
        let Some(arrival) = self.lanes[index].waiting else {
            return Ok(false);
        };
        let Some(Item::Expected(expected)) = self.order.next(index).map(|(item, _)| item) else {
            return Ok(false);
        };
        let signal = |call: &Copied| call.record().header.flags & FLAG_SIGNAL != 0;
        if expected.origin.as_ref().is_some_and(signal) && !self.signals_are_known(index, 1) {
            return Ok(false);
        }
        if matches!(self.options.kind, crate::session::UpdateKind::Fault { .. }) {
            self.inject_fault(index, &arrival);
        }
        let Some(Item::Expected(expected)) = self.order.next(index).map(|(item, _)| item) else {
            return Ok(false);
        };
        let record = expected.origin.as_ref().map(Copied::record);
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        let held = matcher::expect(
            expected,
            record.as_ref(),
            &arrival.call,
            &mut memory,
            &mut self.scratch,
        );
        let piece = match held {
            Ok(piece) => piece,
            Err(difference) => return self.unexpected(index, &arrival, &difference),
        };
        let Some(carry) = carry(&mut self.rules, pair) else {
            return Ok(false);
        };
        let given = matcher::give(
            expected,
            record.as_ref(),
            &arrival.call,
            &mut memory,
            &self.pairs[pair].epoll,
            carry,
        );
        let given = self.answered(index, &arrival, given)?;
        self.lanes[index].waiting = None;
        if !given.consumed {
            self.respond(&arrival, given.result)?;
            return Ok(true);
        }
        self.count_expected(index);
        let stays = self.stays(index, piece);
        self.note_registration(index, &arrival)?;
        self.note_file(index);
        self.note_descriptors(pair, &arrival, given.result);
        self.note_reaping(index, arrival.tid);
        if stays {
            self.respond(&arrival, given.result)?;
            return Ok(true);
        }
        let inserted = matches!(
            self.order.next(index),
            Some((Item::Expected(expected), _)) if expected.origin.is_none()
        );
        self.release_front(index);
        let nr = arrival.call.nr;
        if !makes(nr) {
            self.queue_signals_behind(index)?;
        }
        if inserted && nr != roles().rt_sigprocmask {
            self.respond(&arrival, given.result)?;
        } else {
            self.conclude(index, &arrival, given.result)?;
        }
        Ok(true)
    }

    /// The expected call is to be expected again: any number of times, or for the rest of its text.
    fn stays(&mut self, index: usize, piece: Option<(u8, Vec<u8>)>) -> bool {
        let Some(Item::Expected(expected)) = self.order.next_mut(index) else {
            return false;
        };
        let rest = piece.is_some_and(|(at, bytes)| {
            expected.take_piece(at, &bytes) && !expected.rest(at).is_empty()
        });
        rest || expected.repeat == Repeat::Any
    }

    fn count_expected(&mut self, index: usize) {
        match self.order.next(index) {
            Some((Item::Expected(expected), _)) if expected.rule.is_some() => {
                self.counts.rewritten += 1;
            }
            _ => self.counts.matched += 1,
        }
    }

    /// What is carried belongs to what descriptors stand for, and goes when no descriptor does any more.
    pub(super) fn note_descriptors(&mut self, pair: usize, arrival: &Arrival, result: i64) {
        if let Some(carry) = carry(&mut self.rules, pair)
            && let Some(change) = Change::of(arrival.call.nr, &arrival.call.args, result)
        {
            carry.follow(&change);
        }
    }

    /// The follower made another call than the rules expect.
    fn unexpected(
        &mut self,
        index: usize,
        arrival: &Arrival,
        difference: &Difference,
    ) -> Result<bool, Stop> {
        if self.order.is_loose(index) {
            self.release_front(index);
            return Ok(true);
        }
        if self.read_carried(index, arrival)? || self.reconcile_clocks(index, arrival)? {
            return Ok(true);
        }
        Err(self.divergence(index, arrival, difference))
    }

    /// Gives the follower, instead of a divergence, what is carried for a read of its own.
    pub(super) fn read_carried(&mut self, index: usize, arrival: &Arrival) -> Result<bool, Stop> {
        let pair = self.lanes[index].pair;
        let Some(carry) = carry(&mut self.rules, pair) else {
            return Ok(false);
        };
        let mut memory = ProcessMemory {
            pid: self.pairs[pair].follower.pid,
        };
        let carried = matcher::give_carried(&arrival.call, &mut memory, carry);
        let Some(result) = self.answered(index, arrival, carried)? else {
            return Ok(false);
        };
        self.lanes[index].waiting = None;
        self.respond(arrival, result)?;
        Ok(true)
    }

    fn answered<T>(
        &mut self,
        index: usize,
        arrival: &Arrival,
        given: Result<T, Unanswered>,
    ) -> Result<T, Stop> {
        given.map_err(|why| match why {
            Unanswered::Rule(error) => error.into(),
            Unanswered::Fault(fault) => self.cannot_store(index, arrival, fault),
        })
    }

    /// While something is carried to the follower's reads, the next item must not be answered past it.
    pub(super) fn is_carried_to(&self, index: usize) -> bool {
        let pair = self.lanes[index].pair;
        let of = |rules: &Rules| {
            let of = rules.applied.get(&pair);
            of.is_some_and(|of| !of.carry.is_empty())
        };
        self.rules.as_deref().is_some_and(of)
            && self.lanes[index]
                .waiting
                .is_some_and(|arrival| matcher::read_of(&arrival.call).is_some())
    }

    /// A rule's verdict ends the update when the follower gets there.
    pub(super) fn step_verdict(&mut self, index: usize) -> Result<bool, Stop> {
        if self.lanes[index].waiting.is_none() {
            return Ok(false);
        }
        let (Some((Item::Verdict(stop), _)), Some(rules)) =
            (self.order.next(index), &mut self.rules)
        else {
            return Ok(false);
        };
        rules.retry |= stop.retry;
        let name = rules.set.title(stop.rule);
        Err(if stop.retry {
            Stop::Later(format!("{name} asks to try again later: {}", stop.why))
        } else {
            Stop::roll_back(format!("{name} ends the update: {}", stop.why))
        })
    }

    /// What goes on out of the global order: loose items are nobody's turn, and a read gets what is
    /// carried to it whatever the leader does.
    pub(super) fn step_aside(&mut self) -> Result<bool, Stop> {
        let mut any = false;
        if self.rules.as_ref().is_some_and(|rules| rules.carries()) {
            for index in 0..self.lanes.len() {
                if let Some(arrival) = self.lanes[index].waiting
                    && self.order.next(index).is_none()
                {
                    any |= self.read_carried(index, &arrival)?;
                }
            }
        }
        if !self.order.has_loose() {
            return Ok(any);
        }
        for index in 0..self.lanes.len() {
            while self.lanes[index].waiting.is_some()
                && self.order.is_loose(index)
                && self.step(index)?
            {
                any = true;
            }
        }
        Ok(any)
    }
}
