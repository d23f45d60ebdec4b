//! The rules of an update: the leader's calls go through them on their way to the queues.
//!
//! A call that no rule concerns is queued as without rules, in place in the ring. Others are copied,
//! handed to the rule engine, and queued when it has decided about them; their place in the global order
//! is kept meanwhile. What else happens to such a thread (signals, interrupted calls, its end) waits
//! behind them. To the rule engine a thread is the number of its lane, for a thread id can come again,
//! and a call's `seq` is its place in the order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mvedsua_common::event::{
    EventHeader, FLAG_OUT_OF_LINE, FLAG_SIGNAL, PART_MSG_DATA, PART_WHOLE,
};

use super::attach::refused;
use super::following::{Following, Stop};
use super::lane::Item;
use super::pair::ROOT;
use super::replay::{is_interrupted, record};
use super::rules_told::Told;
use crate::dsu::trusted;
use crate::matcher::{self, Record};
use crate::recorder::EventRef;
use crate::rules::ast::{Direction, Repeat};
use crate::rules::call::Call;
use crate::rules::carry::Carry;
use crate::rules::engine::Engine;
use crate::rules::expected::{Expected, ExpectedCall};
use crate::rules::loader::{self, load_text};
use crate::rules::names;
use crate::rules::program::RuleSet;
use crate::rules::{RuleError, tools};
use crate::session::{Failure, UpdateOptions};

/// A call of the leader that rules look at: a copy of its record. The record's room in the ring is
/// given back when the last clone is gone, so that the leader waits for a slow follower as without rules.
#[derive(Clone, Debug)]
pub(super) struct Copied(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    header: EventHeader,
    payload: Vec<u8>,
    joined: Option<Joined>,
    lane: u32,
    place: u64,
    event: Option<EventRef>,
    back: Sender<EventRef>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            // Nobody receives any more when the whole ring goes.
            let _ = self.back.send(event);
        }
    }
}

impl Copied {
    fn new(
        (header, payload): (EventHeader, Vec<u8>),
        lane: usize,
        place: u64,
        event: EventRef,
        back: &Sender<EventRef>,
    ) -> Self {
        let joined = joined(&Record {
            header,
            payload: &payload,
        });
        Self(Arc::new(Inner {
            header,
            payload,
            joined,
            lane: lane as u32,
            place,
            event: Some(event),
            back: back.clone(),
        }))
    }

    /// The record, for comparing and answering.
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            header: self.0.header,
            payload: &self.0.payload,
        }
    }

    /// What waited at the end of this call was no signal for the thread after all.
    pub(super) fn expect_no_signal(&mut self) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.header.flags &= !FLAG_SIGNAL;
        }
    }

    /// The untouched call as it was in the ring, with its payload if that was fetched out of line;
    /// itself if something else refers to it still.
    fn into_event(self) -> Result<(EventRef, Vec<u8>), Self> {
        match Arc::try_unwrap(self.0) {
            Ok(mut inner) => match inner.event.take() {
                Some(event) => Ok((event, std::mem::take(&mut inner.payload))),
                None => Err(Self(Arc::new(inner))),
            },
            Err(shared) => Err(Self(shared)),
        }
    }
}

/// The text of an argument as rules see it.
fn payload<'a>(record: &Record<'a>, joined: &'a Option<Joined>, arg: u8) -> Option<&'a [u8]> {
    match joined {
        Some((at, text)) if *at == arg => Some(text),
        _ => record
            .parts()
            .find(|part| part.arg == arg && matches!(part.flags, PART_WHOLE | PART_MSG_DATA))
            .map(|part| part.data),
    }
}

/// The argument with several messages, and their texts without seams.
type Joined = (u8, Vec<u8>);

fn joined(record: &Record<'_>) -> Option<Joined> {
    let signature = names::signature(record.header.nr).filter(|signature| signature.several)?;
    let (at, _) = signature.data?;
    (record.header.ret > 0).then(|| (at, matcher::joined(record, at)))
}

impl Call for Copied {
    fn nr(&self) -> u16 {
        self.0.header.nr
    }
    fn args(&self) -> &[u64; 6] {
        &self.0.header.args
    }
    fn ret(&self) -> i64 {
        self.0.header.ret
    }
    fn tid(&self) -> u32 {
        self.0.lane
    }
    fn seq(&self) -> u64 {
        self.0.place
    }
    fn payload(&self, arg: u8) -> Option<&[u8]> {
        payload(&self.record(), &self.0.joined, arg)
    }
}

/// A call still in the ring, to ask whether any rule concerns it.
struct InPlace<'a>(Record<'a>, Option<Joined>);

impl Call for InPlace<'_> {
    fn nr(&self) -> u16 {
        self.0.header.nr
    }
    fn args(&self) -> &[u64; 6] {
        &self.0.header.args
    }
    fn ret(&self) -> i64 {
        self.0.header.ret
    }
    fn tid(&self) -> u32 {
        0
    }
    fn seq(&self) -> u64 {
        0
    }
    fn payload(&self, arg: u8) -> Option<&[u8]> {
        payload(&self.0, &self.1, arg)
    }
}

/// The rules at work on one process pair.
pub(super) struct Applied {
    pub(super) engine: Engine<Copied>,
    /// What the follower has still to read of texts that became longer.
    pub(super) carry: Carry,
}

impl Applied {
    /// For the process `leader`, whose connections are those that it has now.
    fn new(mut engine: Engine<Copied>, leader: i32) -> Self {
        if engine.rules().framing.is_some() {
            for fd in super::connections::of(leader) {
                engine.add_connection(fd);
            }
        }
        let mut carry = Carry::new();
        for of_one in super::connections::duplicates(leader) {
            engine.add_duplicates(&of_one);
            carry.add_duplicates(&of_one);
        }
        Self { engine, carry }
    }
}

/// The rules of a running update.
pub(super) struct Rules {
    /// The file, as the operator named it.
    pub(super) file: String,
    pub(super) set: Arc<RuleSet>,
    pub(super) direction: Direction,
    /// By number of the pair: a descriptor, or what is held, means something in its own process only.
    pub(super) applied: BTreeMap<usize, Applied>,
    out: VecDeque<Expected<Copied>>,
    /// By lane, while calls of it are undecided: what comes after them and is no matter of rules.
    behind: BTreeMap<usize, VecDeque<(u64, Item)>>,
    /// By lane: a call whose payload is yet to be fetched from the leader's memory.
    unread: BTreeMap<usize, (u64, EventRef)>,
    /// Lanes in which calls are undecided.
    undecided: BTreeSet<usize>,
    freed: Receiver<EventRef>,
    back: Sender<EventRef>,
    clock: Instant,
    /// A rule asked to try the update again later.
    pub(super) retry: bool,
    pub(super) told: Told,
}

/// Reads a rule file for an update, and what it includes.
///
/// # Errors
/// [`Failure::Refused`] with all diagnostics when it cannot be read or does not check.
pub(super) fn load(file: &Path) -> Result<Arc<RuleSet>, Failure> {
    // What rules say decides which update is believed: they are asked for what a bundle is.
    let read =
        |path: &Path| trusted::read_text(path).map_err(|error| std::io::Error::other(error.text()));
    let loaded = loader::load(file, &read).map_err(|error| {
        refused(
            "E226",
            format!("the rules of the update cannot be used: {error}"),
        )
    })?;
    let report = tools::check(&loaded);
    loaded.rules.map(Arc::new).ok_or_else(|| {
        let file = file.display();
        refused(
            "E227",
            format!(
                "the rule file {file} does not check:\n{}",
                report.text.trim_end()
            ),
        )
    })
}

/// The rules that a bundle brings.
///
/// # Errors
/// [`Failure::Refused`] with all diagnostics when they do not check, which `bundle build` has excluded.
pub(super) fn of_bundle(text: &str) -> Result<Arc<RuleSet>, Failure> {
    let loaded = load_text(OF_BUNDLE, text);
    let report = tools::check(&loaded);
    loaded.rules.map(Arc::new).ok_or_else(|| {
        refused(
            "E227",
            format!(
                "the bundle's rules do not check:\n{}",
                report.text.trim_end()
            ),
        )
    })
}

/// How the rules of a bundle are named.
const OF_BUNDLE: &str = "the bundle's rules";

/// True if a rule, of either stage, has to do with readings of clocks: it has to see them as calls.
pub(super) fn read_clocks(set: &Arc<RuleSet>) -> bool {
    let roles = super::roles::roles();
    [Direction::Forward, Direction::Reverse]
        .into_iter()
        .any(|direction| {
            let engine: Engine<Copied> = Engine::new(set.clone(), direction);
            [roles.clock_gettime, roles.gettimeofday, roles.time]
                .into_iter()
                .any(|nr| engine.may_concern(nr))
        })
}

impl Rules {
    /// The forward rules, for the stage in which the old version leads; `leader` is the root.
    pub(super) fn forward(options: &UpdateOptions, set: Arc<RuleSet>, leader: i32) -> Self {
        let file = options
            .rules
            .as_ref()
            .map(|file| file.display().to_string());
        let file = file.unwrap_or_else(|| OF_BUNDLE.to_owned());
        let mut rules = Self::new(file, set, Direction::Forward);
        rules.take_in(ROOT, leader);
        rules
    }

    fn new(file: String, set: Arc<RuleSet>, direction: Direction) -> Self {
        let (back, freed) = channel();
        Self {
            file,
            told: Told::new(&set),
            set,
            direction,
            applied: BTreeMap::new(),
            out: VecDeque::new(),
            behind: BTreeMap::new(),
            unread: BTreeMap::new(),
            undecided: BTreeSet::new(),
            freed,
            back,
            clock: Instant::now(),
            retry: false,
        }
    }

    /// The reverse rules, after the roles were exchanged. `turned` has the pairs: the number of each before
    /// and now, and its new leader.
    pub(super) fn reversed(mut self, turned: &[(usize, usize, i32)]) -> Self {
        let direction = Direction::Reverse;
        let mut reversed = Self::new(self.file, self.set, direction);
        for (before, now, leader) in turned {
            if let Some(applied) = self.applied.remove(before) {
                let engine = applied.engine.reversed(direction);
                reversed.applied.insert(*now, Applied::new(engine, *leader));
            }
        }
        for (_, gone) in self.applied {
            self.told.keep_counts(&gone.engine);
        }
        reversed.told = self.told;
        reversed
    }

    /// A process that lives when the update begins.
    pub(super) fn take_in(&mut self, pair: usize, leader: i32) {
        let engine = Engine::new(Arc::clone(&self.set), self.direction);
        self.applied.insert(pair, Applied::new(engine, leader));
    }

    /// A process of the leader has made another: that one begins with the state that its maker has now.
    fn bear(&mut self, parent: usize, pair: usize) {
        let Some(maker) = self.applied.get(&parent) else {
            return;
        };
        let child = Applied {
            engine: maker.engine.for_child(),
            carry: Carry::new(),
        };
        self.applied.insert(pair, child);
    }

    /// A process of the follower has made another, which may read what is kept for its maker: their
    /// descriptors are the same.
    pub(super) fn follower_bore(&mut self, parent: usize, pair: usize) {
        let maker = self.applied.get(&parent);
        let carry = maker.map(|maker| maker.carry.for_child());
        if let Some((carry, child)) = carry.zip(self.applied.get_mut(&pair)) {
            child.carry = carry;
        }
    }

    /// Both processes of a pair are gone. What its rules did stays in the counts.
    pub(super) fn close(&mut self, pair: usize) {
        if let Some(gone) = self.applied.remove(&pair) {
            self.told.keep_counts(&gone.engine);
        }
    }

    fn of(&self, pair: usize) -> Result<&Applied, Stop> {
        self.applied.get(&pair).ok_or_else(|| no_rules(pair))
    }

    /// Something is kept for a read of any process of the follower.
    pub(super) fn carries(&self) -> bool {
        self.applied.values().any(|of| !of.carry.is_empty())
    }

    /// When the oldest held call is to be released at the latest.
    fn deadline(&self) -> Option<Duration> {
        let deadlines = self.applied.values().filter_map(|of| of.engine.deadline());
        deadlines.min()
    }
}

/// Every pair has its rules from its beginning on.
fn no_rules(pair: usize) -> Stop {
    Stop::roll_back(format!("the rules do not know the process pair {pair}"))
}

impl From<RuleError> for Stop {
    fn from(error: RuleError) -> Self {
        Self::roll_back(error.to_string())
    }
}

impl Following {
    /// The rules hold something of this lane.
    pub(super) fn is_in_rules_hands(&self, index: usize) -> bool {
        self.rules.as_ref().is_some_and(|rules| {
            rules.undecided.contains(&index)
                || rules.unread.contains_key(&index)
                || rules.behind.contains_key(&index)
        })
    }

    /// The leader's process of the pair `parent` has made that of `pair`, and nothing of that one's is queued yet.
    pub(super) fn rules_for(&mut self, parent: usize, pair: usize) {
        if let Some(rules) = &mut self.rules {
            rules.bear(parent, pair);
        }
    }

    /// Queues what happened in a thread of the leader, by way of the rules.
    pub(super) fn push_ruled(&mut self, index: usize, item: Item) -> Result<(), Stop> {
        let pair = self.lanes[index].pair;
        let Some(rules) = &mut self.rules else {
            self.order.push(index, item);
            return Ok(());
        };
        let waits = rules.undecided.contains(&index);
        let event = match item {
            // Its final result comes later, or a signal; see `step_interrupted`.
            Item::Call(event) if !is_interrupted(event.header.ret) => event,
            other => {
                if waits {
                    let place = self.order.keep(index);
                    rules
                        .behind
                        .entry(index)
                        .or_default()
                        .push_back((place, other));
                } else {
                    self.order.push(index, other);
                }
                return Ok(());
            }
        };
        let missing =
            event.header.flags & FLAG_OUT_OF_LINE != 0 && !self.fetched.has(event.position);
        let engine = &rules.of(pair)?.engine;
        let concerned = waits
            || if missing {
                engine.may_concern(event.header.nr)
            } else {
                let record = record(&self.recorder, &self.fetched, &event);
                let joined = joined(&record);
                engine.concerns(&InPlace(record, joined))
            };
        if !concerned {
            self.order.push(index, Item::Call(event));
            return Ok(());
        }
        let place = self.order.keep(index);
        rules.undecided.insert(index);
        if missing {
            rules.unread.insert(index, (place, event));
            return Ok(());
        }
        self.feed(index, place, event)
    }

    /// The record of a thread whose payload is to be fetched, if rules wait for it.
    pub(super) fn unread(&self, tid: i32) -> Option<&EventRef> {
        let index = self.lanes.of_leader(tid)?;
        let (_, event) = self.rules.as_ref()?.unread.get(&index)?;
        Some(event)
    }

    /// The payload that rules wait for was fetched.
    pub(super) fn feed_fetched(&mut self, tid: i32) -> Result<(), Stop> {
        let index = self.lanes.of_leader(tid);
        let waiting = index.zip(self.rules.as_mut()).and_then(|(index, rules)| {
            let (place, event) = rules.unread.remove(&index)?;
            Some((index, place, event))
        });
        match waiting {
            Some((index, place, event)) => self.feed(index, place, event),
            None => Ok(()),
        }
    }

    fn feed(&mut self, index: usize, place: u64, event: EventRef) -> Result<(), Stop> {
        let Some(rules) = &mut self.rules else {
            return Ok(());
        };
        let view = record(&self.recorder, &self.fetched, &event);
        let header = view.header;
        let payload = match self.fetched.remove(event.position) {
            Some(fetched) => fetched,
            None => self.recorder.ring.event(&event).payload.to_vec(),
        };
        let call = Copied::new((header, payload), index, place, event, &rules.back);
        let now = rules.clock.elapsed();
        let pair = self.lanes[index].pair;
        let Rules { applied, out, .. } = &mut **rules;
        let of = applied.get_mut(&pair).ok_or_else(|| no_rules(pair))?;
        of.engine.feed(call, now, out)?;
        self.settle(Some(index));
        Ok(())
    }

    /// Releases what rules have held long enough.
    pub(super) fn tick_rules(&mut self) -> Result<(), Stop> {
        let Some(rules) = &mut self.rules else {
            return Ok(());
        };
        let now = rules.clock.elapsed();
        if rules.deadline().is_some_and(|until| until <= now) {
            for of in rules.applied.values_mut() {
                of.engine.tick(now, &mut rules.out)?;
            }
            self.settle(None);
        }
        Ok(())
    }

    /// Nothing more comes of the leader: rules decide with what they have seen.
    pub(super) fn flush_rules(&mut self) -> Result<(), Stop> {
        let Some(rules) = &mut self.rules else {
            return Ok(());
        };
        let now = rules.clock.elapsed();
        for of in rules.applied.values_mut() {
            of.engine.flush(now, &mut rules.out)?;
        }
        self.settle(None);
        Ok(())
    }

    /// Queues what the rules have decided, of one lane or of all.
    fn settle(&mut self, only: Option<usize>) {
        let Some(rules) = &mut self.rules else {
            return;
        };
        let lanes = match only {
            Some(index) => vec![index],
            None => rules.undecided.iter().copied().collect(),
        };
        let pairs: BTreeSet<usize> = lanes.iter().map(|index| self.lanes[*index].pair).collect();
        for pair in &pairs {
            if let Some(of) = rules.applied.get_mut(pair) {
                self.counts.rewritten += of.engine.take_removed();
                rules.told.fired(&mut of.engine, &self.lanes);
            }
        }
        while let Some(expected) = rules.out.pop_front() {
            let (index, place) = (expected.tid() as usize, expected.seq());
            while let Some(item) = behind(&mut rules.behind, index, Some(place)) {
                self.order.fill(index, item.0, item.1, false);
            }
            let mut loose = false;
            let item = match expected {
                Expected::Same(call) => match call.into_event() {
                    Ok((event, payload)) => {
                        if event.header.flags & FLAG_OUT_OF_LINE != 0 {
                            self.fetched.insert(event.position, payload);
                        }
                        Item::Call(event)
                    }
                    Err(call) => Item::Expected(Box::new(ExpectedCall::like(call, None))),
                },
                Expected::Call(call) => {
                    loose = matches!(call.repeat, Repeat::Optional | Repeat::Any);
                    Item::Expected(call)
                }
                Expected::Stop(stop) => Item::Verdict(Box::new(stop)),
            };
            self.order.fill(index, place, item, loose);
        }
        for index in lanes {
            let unread = rules.unread.get(&index).map(|(place, _)| *place);
            let of = rules.applied.get(&self.lanes[index].pair);
            let held = of
                .and_then(|of| of.engine.oldest_held(index as u32))
                .or(unread);
            while let Some(item) = behind(&mut rules.behind, index, held) {
                self.order.fill(index, item.0, item.1, false);
            }
            self.order.settle(index, held);
            if held.is_none() {
                rules.undecided.remove(&index);
            }
        }
        self.reclaim();
    }

    /// Gives the ring back what the rules are done with.
    pub(super) fn reclaim(&mut self) {
        let Some(rules) = &mut self.rules else {
            return;
        };
        for event in rules.freed.try_iter() {
            self.recorder.ring.release(event);
        }
    }

    /// An untouched call as one that a rule has to do with: while something is carried to the
    /// follower's next read, that read has to look.
    pub(super) fn take_in_hand(&mut self, index: usize) {
        let Some(rules) = &mut self.rules else {
            return;
        };
        let Some(item) = self.order.next_mut(index) else {
            return;
        };
        match std::mem::replace(item, Item::Exit) {
            Item::Call(event) => {
                let header = record(&self.recorder, &self.fetched, &event).header;
                let payload = match self.fetched.remove(event.position) {
                    Some(fetched) => fetched,
                    None => self.recorder.ring.event(&event).payload.to_vec(),
                };
                let call = Copied::new((header, payload), index, 0, event, &rules.back);
                *item = Item::Expected(Box::new(ExpectedCall::like(call, None)));
            }
            other => *item = other,
        }
    }
}

/// The next item that waits behind held calls, if its place is before `before` (any, without one).
fn behind(
    behind: &mut BTreeMap<usize, VecDeque<(u64, Item)>>,
    index: usize,
    before: Option<u64>,
) -> Option<(u64, Item)> {
    let queue = behind.get_mut(&index)?;
    let ready = queue
        .front()
        .is_some_and(|(place, _)| before.is_none_or(|before| *place < before));
    let item = if ready { queue.pop_front() } else { None };
    if queue.is_empty() {
        behind.remove(&index);
    }
    item
}
