//! Rules over messages on connections: one call may carry several messages, or part of one.
//!
//! Calls come in order, per thread. Those of a connection are taken apart into messages; a message
//! is *decided* when it is known what the follower gets (or gives) in its place, and a call goes on
//! when all messages with a part in it are decided. A message that arrived in several calls leaves
//! in as many: each but the last takes as much as it had, the last one the rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::ast::Framing;
use super::call::Call;
use super::diagnostic::Code;
use super::engine::{Effects, RuleCount, transferred};
use super::eval::{FUEL, Frame};
use super::excerpt::Excerpt;
use super::expected::{Expected, ExpectedCall, Stop};
use super::fault::Fault;
use super::framing::{self, Frame as Framed};
use super::index::Index;
use super::matching::{Fact, Found, sequence};
use super::names::{self, Flow};
use super::program::{DEFAULT_HELD, DEFAULT_HELD_CALLS, Outcome, RuleId, RuleSet};
use super::rewrite;
use super::state::States;

/// The messages of one process.
pub(super) struct Messages<C> {
    framing: Option<Framing>,
    /// By the name of the open file.
    streams: BTreeMap<(i64, Flow), Stream>,
    threads: BTreeMap<u32, Thread<C>>,
    held: usize,
    /// Writes of which rules left nothing.
    removed: u64,
    next: u64,
}

/// What is known of one direction of a connection.
#[derive(Clone, Default)]
struct Stream {
    /// The start of a message that has not ended yet.
    tail: Vec<u8>,
    /// What looking for its end has cost.
    work: usize,
    /// The stream is not in this framing, and is left alone.
    broken: bool,
}

struct Thread<C> {
    calls: VecDeque<Carrier<C>>,
    messages: VecDeque<Message>,
    /// Until when the oldest undecided message may be held.
    until: Duration,
}

/// A call that waits until its messages are decided.
struct Carrier<C> {
    id: u64,
    item: Expected<C>,
    stop: Option<Stop>,
}

/// A message, or the part of one that is in one call.
struct Message {
    flow: Flow,
    fd: i64,
    /// The name of the open file that the descriptor stands for.
    file: i64,
    text: Vec<u8>,
    /// Calls that carry it, and how many bytes each has.
    parts: VecDeque<(u64, usize)>,
    complete: bool,
    decided: bool,
    /// What stands in its place, and the rule that says so.
    new: Option<(Vec<u8>, usize)>,
    /// Bytes that have left.
    left: usize,
    seq: u64,
    since: Duration,
}

type Failed = (usize, Fault);

impl<C: Call + Clone> Messages<C> {
    pub(super) fn new(framing: Option<Framing>) -> Self {
        Self {
            framing,
            streams: BTreeMap::new(),
            threads: BTreeMap::new(),
            held: 0,
            removed: 0,
            next: 0,
        }
    }

    /// Of a process that this one's has just made. Of a message whose start has come it will see but the
    /// end, which passes unchanged.
    pub(super) fn for_child(&self) -> Self {
        Self {
            streams: self.streams.clone(),
            ..Self::new(self.framing.clone())
        }
    }

    pub(super) fn is_holding(&self) -> bool {
        self.held > 0
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn threads(&self) -> Vec<u32> {
        self.threads.keys().copied().collect()
    }

    /// Place in the global order of the oldest call of a thread that is held.
    pub(super) fn oldest_held(&self, tid: u32) -> Option<u64> {
        let thread = self.threads.get(&tid)?;
        thread.calls.front().map(|carrier| carrier.item.seq())
    }

    /// When the oldest undecided message is given up at the latest.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.threads
            .values()
            .filter(|t| !t.calls.is_empty())
            .map(|t| t.until)
            .min()
    }

    /// The open file is gone, or new.
    pub(super) fn forget(&mut self, file: i64) {
        self.streams.remove(&(file, Flow::In));
        self.streams.remove(&(file, Flow::Out));
    }

    /// Takes a call apart and queues it, or lets it pass at once when it concerns no rule.
    pub(super) fn push(
        &mut self,
        item: Expected<C>,
        index: &Index,
        (connections, states): (&BTreeSet<i64>, &States),
        now: Duration,
        out: &mut VecDeque<Expected<C>>,
    ) {
        let tid = item.tid();
        let idle = self.threads.get(&tid).is_none_or(|t| t.calls.is_empty());
        let id = self.next;
        self.next += 1;
        let mut pieces = Vec::new();
        if let (Expected::Same(call), Some(framing)) = (&item, &self.framing)
            && let Some(signature) = names::signature(call.nr())
            && let Some(flow) = signature.stream()
            && let Some(fd) = Fact::Call(call).fd().filter(|fd| connections.contains(fd))
            && let Some(text) =
                transferred(call, signature).filter(|t| !t.is_empty() && call.ret() > 0)
        {
            let file = states.file(fd);
            let looks = names::only_looks(call.nr(), call.args());
            // What is only looked at comes again.
            let mut looked_at;
            let stream = if looks {
                looked_at = self.streams.get(&(file, flow)).cloned().unwrap_or_default();
                &mut looked_at
            } else {
                self.streams.entry((file, flow)).or_default()
            };
            if !stream.broken {
                let thread = self.threads.get_mut(&tid).filter(|_| !looks);
                let open = thread.and_then(|t| {
                    t.messages
                        .iter_mut()
                        .find(|m| !m.complete && !m.decided && (m.file, m.flow) == (file, flow))
                });
                pieces = divide(
                    framing,
                    stream,
                    open,
                    text,
                    (fd, file, flow),
                    id,
                    (call.seq(), now),
                );
                for piece in pieces.iter_mut().filter(|_| looks) {
                    piece.decided |= !piece.complete;
                }
            }
        }
        // What no rule can begin with needs no queue: nothing is held and nothing is copied.
        let undecided = |m: &Message| {
            if m.complete {
                index.may_begin(m.flow, &m.text)
            } else {
                !m.decided && index.may_begin(m.flow, &m.text)
            }
        };
        if idle && !pieces.iter().any(undecided) {
            out.push_back(item);
            return;
        }
        let thread = self.threads.entry(tid).or_insert_with(|| Thread {
            calls: VecDeque::new(),
            messages: VecDeque::new(),
            until: now,
        });
        thread.calls.push_back(Carrier {
            id,
            item,
            stop: None,
        });
        self.held += 1;
        for mut piece in pieces {
            if !piece.complete && !index.may_begin(piece.flow, &piece.text) {
                piece.decided = true;
            }
            thread.messages.push_back(piece);
        }
    }

    /// Takes the number of writes of which rules left nothing.
    pub(super) fn take_removed(&mut self) -> u64 {
        std::mem::take(&mut self.removed)
    }

    /// Decides messages of one thread until a rule applies (which is returned, to be counted),
    /// or nothing more can be decided.
    #[expect(
        clippy::too_many_arguments,
        reason = "the engine lends what it is made of, one by one"
    )]
    pub(super) fn step(
        &mut self,
        tid: u32,
        set: &RuleSet,
        states: &States,
        index: &Index,
        now: Duration,
        all: bool,
        counts: &mut [RuleCount],
    ) -> Result<Option<(usize, Effects, Excerpt)>, Failed> {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return Ok(None);
        };
        let calls = thread.calls.len();
        let mut candidates = Vec::new();
        while let Some(at) = thread.messages.iter().position(|m| !m.decided) {
            let head = &thread.messages[at];
            let waited = now.saturating_sub(head.since);
            if !head.complete {
                if !all && waited < DEFAULT_HELD && calls < DEFAULT_HELD_CALLS {
                    thread.until = head.since + DEFAULT_HELD;
                    return Ok(None);
                }
                thread.messages[at].decided = true;
                continue;
            }
            index.message_candidates(head.flow, &head.text, &mut candidates);
            let rest = thread.messages.len() - at;
            let known = (0..rest)
                .find(|i| !thread.messages[at + i].complete)
                .unwrap_or(rest);
            let mut fuel = FUEL;
            let mut verdict = None;
            for number in &candidates {
                let number = *number as usize;
                let rule = &set.rules[number];
                let mut frame = Frame::new(set, states, fuel, head.fd);
                let fail = |fault| (number, fault);
                let messages = &thread.messages;
                let found = sequence(&mut frame, rule, known, |i| {
                    let m = &messages[at + i];
                    (!m.decided).then_some(Fact::Message {
                        flow: m.flow,
                        fd: m.fd,
                        text: &m.text,
                    })
                })
                .map_err(fail)?;
                let taken = match found {
                    Found::No => None,
                    Found::Yes(taken) => Some(taken),
                    Found::Partial(whole) => {
                        if !all && waited < rule.max_time && calls < rule.max_calls {
                            thread.until = head.since + rule.max_time;
                            return Ok(None);
                        }
                        counts[number].timed_out += u64::from(whole.is_none());
                        whole
                    }
                };
                if let Some(taken) = taken {
                    let texts =
                        |p: usize| taken[p].first().map(|i| messages[at + i].text.as_slice());
                    let plan =
                        plan(&mut frame, set, number, texts, &taken, messages, at).map_err(fail)?;
                    if let Some(plan) = plan {
                        verdict = Some((number, taken, plan, Effects::of(frame)));
                        break;
                    }
                }
                fuel = frame.fuel;
            }
            let Some((number, taken, plan, effects)) = verdict else {
                thread.messages[at].decided = true;
                continue;
            };
            let head = &thread.messages[at];
            let seq = head.seq;
            let excerpt = Excerpt::of_message(head.flow, head.fd, &head.text, seq, tid);
            let id = thread.messages[at].parts.front().map(|(id, _)| *id);
            if let MessagePlan::Stop(retry, why) = &plan
                && let Some(carrier) = thread.calls.iter_mut().find(|c| Some(c.id) == id)
            {
                let rule = RuleId(u32::try_from(number).unwrap_or(u32::MAX));
                carrier.stop = Some(Stop {
                    rule,
                    retry: *retry,
                    why: why.clone(),
                    tid,
                    seq,
                });
            }
            let mut texts = match plan {
                MessagePlan::Texts(texts) => texts,
                MessagePlan::Keep | MessagePlan::Stop(..) => BTreeMap::new(),
            };
            for i in taken.into_iter().flatten() {
                let message = &mut thread.messages[at + i];
                message.decided = true;
                message.new = texts.remove(&(at + i)).map(|text| (text, number));
            }
            return Ok(Some((number, effects, excerpt)));
        }
        Ok(None)
    }

    /// Lets calls go whose messages are all decided.
    pub(super) fn release(
        &mut self,
        tid: u32,
        out: &mut VecDeque<Expected<C>>,
    ) -> Result<(), Failed> {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return Ok(());
        };
        while let Some(carrier) = thread.calls.front() {
            let id = carrier.id;
            let waits = thread
                .messages
                .iter()
                .any(|m| !m.decided && m.parts.iter().any(|(p, _)| *p == id));
            if waits {
                break;
            }
            let Some(Carrier { item, stop, .. }) = thread.calls.pop_front() else {
                break;
            };
            self.held -= 1;
            out.extend(stop.map(Expected::Stop));
            let mut text = Vec::new();
            let mut changed = None;
            for message in &mut thread.messages {
                if message.parts.front().is_none_or(|(part, _)| *part != id) {
                    continue;
                }
                let Some((_, length)) = message.parts.pop_front() else {
                    continue;
                };
                changed = changed.or(message.new.as_ref().map(|(_, rule)| *rule));
                let last = message.parts.is_empty() && message.complete;
                let whole = message
                    .new
                    .as_ref()
                    .map_or(message.text.as_slice(), |(new, _)| new);
                let from = message.left.min(whole.len());
                let to = if last {
                    whole.len()
                } else {
                    (from + length).min(whole.len())
                };
                text.extend_from_slice(&whole[from..to]);
                message.left = to;
            }
            thread
                .messages
                .retain(|m| !m.parts.is_empty() || !m.decided);
            match (changed, item) {
                (Some(rule), Expected::Same(call)) => match rewritten(call, text, rule)? {
                    Some(expected) => out.push_back(expected),
                    None => self.removed += 1,
                },
                (_, item) => out.push_back(item),
            }
        }
        if thread.calls.is_empty() && thread.messages.is_empty() {
            self.threads.remove(&tid);
        }
        Ok(())
    }
}

/// Takes the text of a call apart. An open message is continued in place.
fn divide(
    framing: &Framing,
    stream: &mut Stream,
    mut open: Option<&mut Message>,
    text: &[u8],
    (fd, file, flow): (i64, i64, Flow),
    id: u64,
    (seq, since): (u64, Duration),
) -> Vec<Message> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let before = stream.tail.len();
        let rest = &text[at..];
        let frame = if before == 0 {
            framing::next(framing, rest)
        } else {
            stream.tail.extend_from_slice(rest);
            framing::continued(framing, &stream.tail, before, &mut stream.work)
        };
        let (length, complete) = match frame {
            Framed::Complete(length) => (length.saturating_sub(before).clamp(1, rest.len()), true),
            Framed::Partial => (rest.len(), false),
            Framed::Broken => {
                stream.broken = true;
                (rest.len(), true)
            }
        };
        if complete {
            stream.tail.clear();
            stream.work = 0;
        } else if before == 0 {
            stream.tail.extend_from_slice(rest);
        }
        let part = &rest[..length];
        if let (true, Some(message)) = (before > 0, open.take()) {
            message.text.extend_from_slice(part);
            message.parts.push_back((id, length));
            message.complete = complete;
            message.decided |= stream.broken;
        } else {
            pieces.push(Message {
                flow,
                fd,
                file,
                text: part.to_vec(),
                parts: VecDeque::from([(id, length)]),
                complete,
                // The start has been given away already: the rest cannot be rewritten.
                decided: before > 0 || stream.broken,
                new: None,
                left: 0,
                seq,
                since,
            });
        }
        at += length;
    }
    pieces
}

enum MessagePlan {
    Keep,
    Texts(BTreeMap<usize, Vec<u8>>),
    Stop(bool, String),
}

fn plan<'a>(
    frame: &mut Frame<'a>,
    set: &'a RuleSet,
    number: usize,
    texts: impl Fn(usize) -> Option<&'a [u8]>,
    taken: &[Vec<usize>],
    messages: &'a VecDeque<Message>,
    base: usize,
) -> Result<Option<MessagePlan>, Fault> {
    let rule = &set.rules[number];
    if let Some(when) = &rule.when
        && !frame.truth(when)?
    {
        return Ok(None);
    }
    let all = || {
        taken
            .iter()
            .flatten()
            .map(|i| (base + i, Vec::new()))
            .collect::<BTreeMap<_, _>>()
    };
    Ok(Some(match &rule.outcome {
        Outcome::Same(body) | Outcome::Tolerate(body) => {
            frame.run(body)?;
            MessagePlan::Keep
        }
        Outcome::Nothing(body) => {
            frame.run(body)?;
            MessagePlan::Texts(all())
        }
        Outcome::Retry(why) => MessagePlan::Stop(
            true,
            String::from_utf8_lossy(&frame.text(why)?).into_owned(),
        ),
        Outcome::Terminate(why) => MessagePlan::Stop(
            false,
            String::from_utf8_lossy(&frame.text(why)?).into_owned(),
        ),
        Outcome::Calls(templates) => {
            let mut out = all();
            // An inserted message follows the one before it, or goes to the first of its kind.
            let mut last: [Option<usize>; 2] = [None, None];
            for template in templates {
                let super::program::Subject::Message(flow) = template.subject else {
                    continue;
                };
                let own = template.from.and_then(&texts);
                let text = rewrite::message(frame, template, own)?;
                let kind = usize::from(flow == Flow::Out);
                let target = template
                    .from
                    .and_then(|f| taken[f].first().map(|i| base + i))
                    .or(last[kind])
                    .or_else(|| out.keys().copied().find(|i| messages[*i].flow == flow));
                let Some(target) = target else {
                    return Err(Fault::new(
                        Code::CANNOT_BUILD,
                        "there is no message of its kind to put it to",
                    ));
                };
                last[kind] = Some(target);
                out.entry(target).or_default().extend_from_slice(&text);
            }
            MessagePlan::Texts(out)
        }
    }))
}

/// The call with another text.
fn rewritten<C: Call + Clone>(
    call: C,
    text: Vec<u8>,
    rule: usize,
) -> Result<Option<Expected<C>>, Failed> {
    let Some(signature) = names::signature(call.nr()) else {
        return Ok(Some(Expected::Same(call)));
    };
    if text.is_empty() {
        return match signature.stream() {
            Some(Flow::Out) => Ok(None),
            _ => Err((
                rule,
                Fault::new(
                    Code::CANNOT_BUILD,
                    "nothing would be left of a read, which would mean the end of the connection",
                ),
            )),
        };
    }
    let id = RuleId(u32::try_from(rule).unwrap_or(u32::MAX));
    let mut expected = ExpectedCall::like(call, Some(id));
    rewrite::put_text(&mut expected, signature, text);
    Ok(Some(Expected::Call(Box::new(expected))))
}
