//! The engine: leader calls in, expected follower calls out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::ast::Direction;
use super::call::Call;
use super::descriptors::Change;
use super::eval::{FUEL, Frame};
use super::excerpt::Excerpt;
use super::expected::{Expected, ExpectedCall, Stop, Want};
use super::fault::{Fault, RuleError};
use super::index::{Index, as_noise};
use super::matching::{Fact, Found, matches, payload, sequence};
use super::messages::Messages;
use super::names::Signature;
use super::program::{Outcome, Rule, RuleId, RuleSet};
use super::rewrite;
use super::source::Span;
use super::state::States;
use plan::{Plan, alone, plan, signature_of};

/// How often a rule did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RuleCount {
    /// It applied.
    pub fired: u64,
    /// It held a call to see what follows.
    pub held: u64,
    /// It gave up since the limit of calls or time was reached.
    pub timed_out: u64,
}

impl RuleCount {
    /// Adds what the same rule did in another process.
    pub const fn add(&mut self, other: Self) {
        self.fired += other.fired;
        self.held += other.held;
        self.timed_out += other.timed_out;
    }
}

/// One time that a rule applied, for `rules trace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The rule.
    pub rule: RuleId,
    /// What it applied to: the start of the leader's call, or message, with which it began.
    pub on: Excerpt,
    /// What the rule logged.
    pub logs: Vec<String>,
}

/// Firings that are kept for `rules trace`.
const KEPT_FIRINGS: usize = 256;
/// Most calls held at one time, over all threads.
const MAX_HELD_TOTAL: usize = 1 << 16;

/// What waits in a thread's queue.
enum Held<C> {
    /// A call about which nothing is decided yet.
    Call(C, Duration),
    /// What a rule made of a call.
    Done(Expected<C>),
}

/// Applies the rules of one direction to the calls of one process.
pub struct Engine<C> {
    set: Arc<RuleSet>,
    direction: Direction,
    index: Arc<Index>,
    queues: BTreeMap<u32, VecDeque<Held<C>>>,
    /// An empty queue, for its memory.
    spare: VecDeque<Held<C>>,
    held: usize,
    /// Until when the head of each queue may be held.
    deadlines: BTreeMap<u32, Duration>,
    messages: Messages<C>,
    states: States,
    connections: BTreeSet<i64>,
    counts: Vec<RuleCount>,
    firings: VecDeque<Firing>,
    /// Lines that rules logged in firings that were not kept.
    logs_lost: u64,
    /// Calls of which rules left nothing.
    removed: u64,
    scratch: Vec<u32>,
}

/// What is decided about the call at the head of a queue.
enum Decision {
    /// No rule takes it.
    Release,
    /// A rule waits for what follows, at most until then.
    Hold(Duration),
    /// A rule takes these calls.
    Apply {
        rule: usize,
        taken: Vec<Vec<usize>>,
        plan: Plan,
    },
}

/// What an attempt to apply a rule leaves behind.
pub(super) struct Effects {
    pub(super) writes: Vec<(usize, super::value::Value<'static>)>,
    pub(super) logs: Vec<String>,
    pub(super) connection: i64,
}

impl Effects {
    pub(super) fn of(frame: Frame<'_>) -> Self {
        let connection = frame.connection();
        let writes = frame
            .writes
            .into_iter()
            .map(|(at, v)| (at, v.into_owned()))
            .collect();
        Self {
            writes,
            logs: frame.logs,
            connection,
        }
    }
}

impl<C: Call + Clone> Engine<C> {
    /// An engine for one direction of a rule set.
    #[must_use]
    pub fn new(set: Arc<RuleSet>, direction: Direction) -> Self {
        let index = Arc::new(Index::new(&set, direction));
        let counts = vec![RuleCount::default(); set.rules.len()];
        Self {
            messages: Messages::new(set.framing.clone()),
            set,
            direction,
            index,
            queues: BTreeMap::new(),
            spare: VecDeque::new(),
            held: 0,
            deadlines: BTreeMap::new(),
            states: States::default(),
            connections: BTreeSet::new(),
            counts,
            firings: VecDeque::new(),
            logs_lost: 0,
            removed: 0,
            scratch: Vec::new(),
        }
    }

    /// An engine for a child process of this one's: the same rules, state and connections, nothing
    /// held, nothing counted. Both go their own ways from here on.
    #[must_use]
    pub fn for_child(&self) -> Self {
        let mut child = Self::new(Arc::clone(&self.set), self.direction);
        child.index = Arc::clone(&self.index);
        child.states = self.states.clone();
        child.connections = self.connections.clone();
        child.messages = self.messages.for_child();
        child
    }

    /// The engine of the other stage, after the roles were exchanged: the same counts, and what the
    /// state variables hold. Connections are to be named anew; nothing may be held any more.
    #[must_use]
    pub fn reversed(self, direction: Direction) -> Self {
        let mut turned = Self::new(self.set, direction);
        turned.states = self.states;
        turned.counts = self.counts;
        turned.firings = self.firings;
        turned
    }

    /// False when the call can be passed by: no rule begins with it, and no message or state depends on
    /// it. It must still be [fed](Engine::feed) while [calls of its thread are held](Engine::oldest_held).
    #[inline]
    #[must_use]
    pub fn concerns<V: Call>(&self, call: &V) -> bool {
        self.index.concerns(call)
    }

    /// Whether [`Engine::concerns`] may be true for any call with this number.
    #[must_use]
    pub fn may_concern(&self, nr: u16) -> bool {
        self.index.may_concern(nr)
    }

    /// Place in the global order of the oldest call of a thread that is held; `None` when all of its
    /// calls are decided.
    #[must_use]
    pub fn oldest_held(&self, tid: u32) -> Option<u64> {
        // What messages hold came before what is still in the queue.
        self.messages
            .oldest_held(tid)
            .or_else(|| match self.queues.get(&tid)?.front()? {
                Held::Call(call, _) => Some(call.seq()),
                Held::Done(expected) => Some(expected.seq()),
            })
    }

    /// Says that `fd` is a connection. The engine learns of those that are accepted from then on;
    /// this is for those that were open at the snapshot.
    pub fn add_connection(&mut self, fd: i32) {
        self.connections.insert(i64::from(fd));
    }

    /// Says that these descriptors stand for one stream. The engine learns of what is duplicated from then on.
    pub fn add_duplicates(&mut self, descriptors: &[i32]) {
        for pair in descriptors.windows(2) {
            let change = Change::Duplicated {
                of: i64::from(pair[0]),
                to: i64::from(pair[1]),
            };
            self.states.follow(&change, Vec::new());
        }
    }

    /// Takes the leader's next call and appends to `out` what is decided by it: nothing while a
    /// rule holds the call, or several calls at once. `now` is any clock that does not go back.
    ///
    /// # Errors
    /// When a rule fails or exceeds a limit. The update is to be rolled back; the engine is of no
    /// further use.
    #[inline]
    pub fn feed(
        &mut self,
        call: C,
        now: Duration,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        if self.held == 0 && !self.messages.is_holding() && !self.index.concerns(&call) {
            out.push_back(Expected::Same(call));
            return Ok(());
        }
        self.feed_slow(call, now, out)
    }

    fn feed_slow(
        &mut self,
        call: C,
        now: Duration,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        let tid = call.tid();
        if self.held >= MAX_HELD_TOTAL {
            let fault = Fault::new(
                super::diagnostic::Code::CAPACITY,
                format!("more than {MAX_HELD_TOTAL} calls would be held"),
            );
            return Err(fault.in_rule("look-ahead"));
        }
        self.held += 1;
        if let Some(queue) = self.queues.get_mut(&tid) {
            queue.push_back(Held::Call(call, now));
            return self.drain(tid, now, false, out);
        }
        // Mostly the call is decided at once, and its thread needs no queue to wait in.
        let mut queue = std::mem::take(&mut self.spare);
        queue.push_back(Held::Call(call, now));
        let result = self.drain_queue(&mut queue, now, false, out);
        if queue.is_empty() {
            self.spare = queue;
        } else {
            self.queues.insert(tid, queue);
        }
        result
    }

    /// Releases what was held too long. Call it when [`Engine::deadline`] has passed.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn tick(
        &mut self,
        now: Duration,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        for tid in self.queues.keys().copied().collect::<Vec<_>>() {
            self.drain(tid, now, false, out)?;
        }
        self.messages_tick(now, false, out)
    }

    /// Releases everything that is held: the leader has ended, or the roles are exchanged.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn flush(
        &mut self,
        now: Duration,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        for tid in self.queues.keys().copied().collect::<Vec<_>>() {
            self.drain(tid, now, true, out)?;
        }
        self.messages_tick(now, true, out)
    }

    /// When the oldest held call is to be released at the latest; `None` while nothing is held.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.deadlines
            .values()
            .copied()
            .chain(self.messages.deadline())
            .min()
    }

    /// Number of calls that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held + self.messages.held()
    }

    /// Counts of each rule, of both stages.
    pub fn counts(&self) -> impl Iterator<Item = (&Rule, RuleCount)> {
        self.set.rules.iter().zip(self.counts.iter().copied())
    }

    /// The stage whose rules are in force.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Takes the number of lines that rules logged and that [`Engine::take_firings`] will not bring.
    pub fn take_lost_logs(&mut self) -> u64 {
        std::mem::take(&mut self.logs_lost)
    }

    /// Takes the number of calls of the leader of which nothing is expected of the follower, since rules
    /// dropped them or merged them into others.
    pub fn take_removed(&mut self) -> u64 {
        std::mem::take(&mut self.removed) + self.messages.take_removed()
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.set
    }

    /// Takes the latest firings (at most 256 are kept), oldest first.
    pub fn take_firings(&mut self) -> Vec<Firing> {
        self.firings.drain(..).collect()
    }

    fn place(&self, name: &str, span: Span) -> String {
        format!("rule `{name}` ({})", self.set.sources.place(span))
    }

    fn fail(&self, rule: usize, fault: Fault) -> RuleError {
        let rule = &self.set.rules[rule];
        fault.in_rule(self.place(&rule.name, rule.span))
    }

    fn drain(
        &mut self,
        tid: u32,
        now: Duration,
        all: bool,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        let Some(mut queue) = self.queues.remove(&tid) else {
            return Ok(());
        };
        self.deadlines.remove(&tid);
        let result = self.drain_queue(&mut queue, now, all, out);
        if !queue.is_empty() {
            self.queues.insert(tid, queue);
        }
        result
    }

    fn drain_queue(
        &mut self,
        queue: &mut VecDeque<Held<C>>,
        now: Duration,
        all: bool,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        loop {
            match queue.front() {
                None => return Ok(()),
                Some(Held::Done(_)) => {
                    if let Some(Held::Done(done)) = queue.pop_front() {
                        self.pass(done, now, out)?;
                    }
                    continue;
                }
                Some(Held::Call(..)) => {}
            }
            let mut effects = None;
            match self.decide(queue, now, all, &mut effects)? {
                Decision::Hold(until) => {
                    if let Some(Held::Call(call, _)) = queue.front() {
                        self.deadlines.insert(call.tid(), until);
                    }
                    return Ok(());
                }
                Decision::Release => {
                    if let Some(Held::Call(call, _)) = queue.pop_front() {
                        self.held -= 1;
                        self.lifetime(&call);
                        let expected = self.noise(call)?;
                        self.pass(expected, now, out)?;
                    }
                }
                Decision::Apply { rule, taken, plan } => {
                    let first = taken[0].first().copied().unwrap_or(0);
                    if let Some(Held::Call(call, _)) = queue.get(first) {
                        let on = Excerpt::of_call(call);
                        self.commit(rule, on, effects)?;
                    }
                    // Whatever the rule makes of them, the leader has made these calls.
                    for i in taken.iter().flatten() {
                        if let Some(Held::Call(call, _)) = queue.get(*i) {
                            self.lifetime(call);
                        }
                    }
                    self.apply(queue, rule, &taken, plan);
                }
            }
        }
    }

    fn commit(
        &mut self,
        rule: usize,
        on: Excerpt,
        effects: Option<Effects>,
    ) -> Result<(), RuleError> {
        let mut logs = Vec::new();
        if let Some(effects) = effects {
            for (at, value) in effects.writes {
                let set = Arc::clone(&self.set);
                self.states
                    .set(&set, at, effects.connection, value)
                    .map_err(|f| self.fail(rule, f))?;
            }
            logs = effects.logs;
        }
        self.counts[rule].fired += 1;
        if self.firings.len() == KEPT_FIRINGS
            && let Some(old) = self.firings.pop_front()
        {
            self.logs_lost += old.logs.len() as u64;
        }
        let rule = self.set.rules[rule].id;
        self.firings.push_back(Firing { rule, on, logs });
        Ok(())
    }

    fn decide(
        &mut self,
        queue: &VecDeque<Held<C>>,
        now: Duration,
        all: bool,
        effects: &mut Option<Effects>,
    ) -> Result<Decision, RuleError> {
        let Some(Held::Call(head, since)) = queue.front() else {
            return Ok(Decision::Release);
        };
        let mut candidates = std::mem::take(&mut self.scratch);
        self.index.candidates(head, &mut candidates);
        let connection = Fact::Call(head).fd().unwrap_or(-1);
        let mut fuel = FUEL;
        let mut decision = Ok(Decision::Release);
        for number in &candidates {
            if as_noise(*number).is_some() {
                break;
            }
            let at = *number as usize;
            let rule = &self.set.rules[at];
            let mut frame = Frame::new(&self.set, &self.states, fuel, connection);
            let tried = attempt(&mut frame, rule, queue);
            let tried = match tried {
                Err(fault) => Err(fault),
                Ok(Found::No) => Ok(None),
                Ok(Found::Yes(taken)) => Ok(Some(taken)),
                Ok(Found::Partial(whole)) => {
                    let calls = queue.iter().filter(|h| matches!(h, Held::Call(..))).count();
                    if !all && calls < rule.max_calls && now.saturating_sub(*since) < rule.max_time
                    {
                        if calls == 1 {
                            self.counts[at].held += 1;
                        }
                        decision = Ok(Decision::Hold(*since + rule.max_time));
                        break;
                    }
                    if whole.is_none() {
                        self.counts[at].timed_out += 1;
                    }
                    Ok(whole)
                }
            };
            let planned = tried.and_then(|taken| match taken {
                None => Ok(None),
                Some(taken) => plan(&mut frame, rule, &taken, queue).map(|p| p.map(|p| (taken, p))),
            });
            fuel = frame.fuel;
            match planned {
                Ok(None) => {}
                Ok(Some((taken, plan))) => {
                    *effects = Some(Effects::of(frame));
                    decision = Ok(Decision::Apply {
                        rule: at,
                        taken,
                        plan,
                    });
                    break;
                }
                Err(fault) => {
                    decision = Err(self.fail(at, fault));
                    break;
                }
            }
        }
        self.scratch = candidates;
        decision
    }

    /// Carries a plan out: the queue afterwards holds what was made, and between it the calls that
    /// the rule did not take.
    fn apply(
        &mut self,
        queue: &mut VecDeque<Held<C>>,
        rule: usize,
        taken: &[Vec<usize>],
        plan: Plan,
    ) {
        let rule_set = Arc::clone(&self.set);
        let rule = &rule_set.rules[rule];
        let plan = match alone(queue, rule, taken, plan) {
            Ok(()) => {
                self.held -= 1;
                return;
            }
            Err(plan) => plan,
        };
        let mut entries: Vec<Option<Held<C>>> = queue.drain(..).map(Some).collect();
        let mut calls: BTreeMap<usize, C> = BTreeMap::new();
        for i in taken.iter().flatten() {
            if let Some(Held::Call(call, _)) = entries[*i].take() {
                self.held -= 1;
                calls.insert(*i, call);
            }
        }
        let mut cursor = 0;
        let mut flush_to = |queue: &mut VecDeque<Held<C>>, to: usize| {
            while cursor < to.min(entries.len()) {
                queue.extend(entries[cursor].take());
                cursor += 1;
            }
        };
        match plan {
            Plan::Nothing => self.removed += calls.len() as u64,
            Plan::Same | Plan::Tolerate => {
                for (i, call) in calls {
                    flush_to(queue, i);
                    queue.push_back(Held::Done(if matches!(plan, Plan::Same) {
                        Expected::Same(call)
                    } else {
                        let mut expected = ExpectedCall::like(call, Some(rule.id));
                        if let Some(signature) = signature_of(rule, expected.nr) {
                            rewrite::tolerate(&mut expected, signature);
                        }
                        Expected::Call(Box::new(expected))
                    }));
                }
            }
            Plan::Stop(retry, why) => {
                let (tid, seq) = calls.values().next().map_or((0, 0), |c| (c.tid(), c.seq()));
                queue.push_back(Held::Done(Expected::Stop(Stop {
                    rule: rule.id,
                    retry,
                    why,
                    tid,
                    seq,
                })));
            }
            Plan::Calls(drafts) => {
                let Outcome::Calls(templates) = &rule.outcome else {
                    return;
                };
                let (tid, mut seq) = calls.values().next().map_or((0, 0), |c| (c.tid(), c.seq()));
                let mut left: BTreeSet<usize> = calls.keys().copied().collect();
                for (template, draft) in templates.iter().zip(drafts) {
                    let positions = template
                        .from
                        .and_then(|from| taken.get(from))
                        .map_or(&[][..], Vec::as_slice);
                    let Some(draft) = draft else {
                        for i in positions {
                            if let Some(call) = calls.get(i) {
                                left.remove(i);
                                flush_to(queue, *i);
                                seq = call.seq();
                                queue.push_back(Held::Done(Expected::Same(call.clone())));
                            }
                        }
                        continue;
                    };
                    let origin = positions.first().and_then(|i| calls.get(i)).cloned();
                    if let (Some(i), Some(call)) = (positions.first(), &origin) {
                        left.remove(i);
                        flush_to(queue, *i);
                        seq = call.seq();
                    }
                    let expected = draft.expect(rule.id, tid, seq, origin);
                    queue.push_back(Held::Done(Expected::Call(Box::new(expected))));
                }
                self.removed += left.len() as u64;
            }
        }
        flush_to(queue, usize::MAX);
    }

    /// A call that no rule took, with what `ignore` lines say of it.
    fn noise(&self, call: C) -> Result<Expected<C>, RuleError> {
        let mut numbers = Vec::new();
        self.index.candidates(&call, &mut numbers);
        let mut wants: Option<[Want; 6]> = None;
        let mut any_result = false;
        for noise in numbers.into_iter().filter_map(as_noise) {
            let noise = &self.set.noise[noise];
            let mut frame = Frame::new(&self.set, &self.states, FUEL, -1);
            let fits = matches(&mut frame, &noise.pattern, Fact::Call(&call))
                .map_err(|f| f.in_rule(self.place("ignore", noise.span)))?;
            if !fits {
                continue;
            }
            let wants = wants.get_or_insert_with(Default::default);
            for (slot, regex) in &noise.fields {
                super::noise::ignore(
                    wants,
                    &mut any_result,
                    *slot,
                    regex.as_ref(),
                    &noise.pattern.subject,
                );
            }
        }
        let Some(wants) = wants else {
            return Ok(Expected::Same(call));
        };
        let mut expected = ExpectedCall::like(call, None);
        expected.args = wants;
        if any_result && let Some(signature) = super::names::signature(expected.nr) {
            let origin = expected.origin.as_ref().map(|o| o as &dyn Call);
            expected.result = rewrite::asked(origin, signature);
        }
        Ok(Expected::Call(Box::new(expected)))
    }

    /// Hands a decided call on: to the messages, or out.
    fn pass(
        &mut self,
        expected: Expected<C>,
        now: Duration,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        let is_stream =
            matches!(&expected, Expected::Same(call) if self.index.is_stream(call.nr()));
        if is_stream || self.messages.is_holding() {
            let tid = expected.tid();
            self.messages.push(
                expected,
                &self.index,
                (&self.connections, &self.states),
                now,
                out,
            );
            return self.messages_drain(tid, now, false, out);
        }
        out.push_back(expected);
        Ok(())
    }

    /// Follows descriptors as they come and go.
    fn lifetime(&mut self, call: &C) {
        if !self.index.is_life(call.nr()) {
            return;
        }
        let Some(change) = Change::of(call.nr(), call.args(), call.ret()) else {
            return;
        };
        let known = match &change {
            Change::Closed(range) => self.connections.range(range.clone()).copied().collect(),
            _ => Vec::new(),
        };
        for gone in self.states.follow(&change, known) {
            self.messages.forget(gone);
        }
        match change {
            Change::Closed(range) => self.connections.retain(|fd| !range.contains(fd)),
            Change::Accepted(fd) => {
                self.connections.insert(fd);
            }
            Change::Duplicated { of, to } if self.connections.contains(&of) => {
                self.connections.insert(to);
            }
            Change::Duplicated { to, .. } => {
                self.connections.remove(&to);
            }
        }
    }

    fn messages_tick(
        &mut self,
        now: Duration,
        all: bool,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        for tid in self.messages.threads() {
            self.messages_drain(tid, now, all, out)?;
        }
        Ok(())
    }

    fn messages_drain(
        &mut self,
        tid: u32,
        now: Duration,
        all: bool,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), RuleError> {
        loop {
            let set = Arc::clone(&self.set);
            let step = self.messages.step(
                tid,
                &set,
                &self.states,
                &self.index,
                now,
                all,
                &mut self.counts,
            );
            match step {
                Ok(None) => break,
                Ok(Some((rule, effects, on))) => self.commit(rule, on, Some(effects))?,
                Err((rule, fault)) => return Err(self.fail(rule, fault)),
            }
        }
        self.messages
            .release(tid, out)
            .map_err(|(rule, fault)| self.fail(rule, fault))
    }
}

fn attempt<'a, C: Call>(
    frame: &mut Frame<'a>,
    rule: &'a Rule,
    queue: &'a VecDeque<Held<C>>,
) -> Result<Found, Fault> {
    sequence(frame, rule, queue.len(), |i| match &queue[i] {
        Held::Call(call, _) => Some(Fact::Call(call)),
        Held::Done(_) => None,
    })
}

/// The text that a call transfers, if it transfers one.
pub(super) fn transferred<'a, C: Call>(call: &'a C, signature: &Signature) -> Option<&'a [u8]> {
    let (data, _) = signature.data?;
    payload(call, signature, data)
}

mod plan;
#[cfg(test)]
mod tests;
