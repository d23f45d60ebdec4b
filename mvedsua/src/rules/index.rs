//! Which rules may begin at a call: by its number, and by how its text starts.

use super::ast::Direction;
use super::call::Call;
use super::descriptors::Change;
use super::names::{self, Flow, Slot};
use super::program::{Pattern, RuleSet, Subject};

/// One past the largest system call number that is looked up.
const NUMBERS: usize = 512;
/// A number that no bucket has.
const NONE: u16 = u16::MAX;

/// Bit of [`Index::flags`]: messages may be in the call.
const STREAM: u8 = 1;
/// Bit of [`Index::flags`]: the call opens, duplicates or closes a connection whose state is kept.
const LIFE: u8 = 2;

/// The index of one rule set and direction.
#[derive(Debug)]
pub(super) struct Index {
    by_number: [u16; NUMBERS],
    flags: [u8; NUMBERS],
    buckets: Vec<Bucket>,
    requests: Bucket,
    replies: Bucket,
}

/// The rules that begin with one call.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Those that may take any text, in order.
    any: Vec<u32>,
    /// Those with a literal start.
    trie: Trie,
    /// Argument with that text.
    data: u8,
}

/// Byte strings and what stands at their ends.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    next: Vec<(u8, u32)>,
    ends: Vec<u32>,
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Trie {
    fn insert(&mut self, text: &[u8], rule: u32) {
        let mut at = 0;
        for byte in text {
            let found = self.nodes[at].next.binary_search_by_key(byte, |(b, _)| *b);
            at = match found {
                Ok(i) => self.nodes[at].next[i].1 as usize,
                Err(i) => {
                    let new = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[at]
                        .next
                        .insert(i, (*byte, u32::try_from(new).unwrap_or(u32::MAX)));
                    new
                }
            };
        }
        self.nodes[at].ends.push(rule);
    }

    /// Calls `found` for what is a prefix of `text`. True when `text` ended before the strings did.
    fn walk(&self, text: &[u8], mut found: impl FnMut(&[u32])) -> bool {
        let mut at = &self.nodes[0];
        for byte in text {
            let Ok(i) = at.next.binary_search_by_key(byte, |(b, _)| *b) else {
                return false;
            };
            at = &self.nodes[at.next[i].1 as usize];
            if !at.ends.is_empty() {
                found(&at.ends);
            }
        }
        !at.next.is_empty()
    }
}

impl Bucket {
    fn add(&mut self, number: u32, pattern: &Pattern) {
        if pattern.prefix.is_empty() {
            self.any.push(number);
        } else {
            self.trie.insert(&pattern.prefix, number);
        }
    }

    fn concerns(&self, text: Option<&[u8]>) -> bool {
        if !self.any.is_empty() {
            return true;
        }
        let mut hit = false;
        if let Some(text) = text {
            self.trie.walk(text, |_| hit = true);
        }
        hit
    }

    fn candidates(&self, text: Option<&[u8]>, out: &mut Vec<u32>) {
        out.extend_from_slice(&self.any);
        if let Some(text) = text {
            self.trie.walk(text, |ends| out.extend_from_slice(ends));
        }
        out.sort_unstable();
    }
}

impl Index {
    pub(super) fn new(set: &RuleSet, direction: Direction) -> Self {
        let mut index = Self {
            by_number: [NONE; NUMBERS],
            flags: [0; NUMBERS],
            buckets: Vec::new(),
            requests: Bucket::default(),
            replies: Bucket::default(),
        };
        let mut messages = false;
        for rule in set.rules.iter().filter(|r| r.direction == direction) {
            messages |= rule.messages;
            index.add(rule.id.0, &rule.patterns[0]);
        }
        // Noise comes after all rules, under numbers of its own.
        for (at, noise) in set.noise.iter().enumerate() {
            if noise.direction.is_none_or(|d| d == direction) {
                index.add(noise_number(at), &noise.pattern);
            }
        }
        for call in mvedsua_common::table::SYSCALLS {
            let Some(flags) = index.flags.get_mut(usize::from(call.nr)) else {
                continue;
            };
            let stream = names::Signature::of(call).stream().is_some();
            *flags |= if messages && stream { STREAM } else { 0 };
            let life = Change::may_be(call.nr);
            *flags |= if life && (messages || !set.states.is_empty()) {
                LIFE
            } else {
                0
            };
        }
        index
    }

    fn add(&mut self, number: u32, pattern: &Pattern) {
        let bucket = match &pattern.subject {
            Subject::Message(Flow::In) => &mut self.requests,
            Subject::Message(Flow::Out) => &mut self.replies,
            Subject::Call(signature) => {
                let Some(at) = self.by_number.get_mut(usize::from(signature.call.nr)) else {
                    return;
                };
                if *at == NONE {
                    *at = u16::try_from(self.buckets.len()).unwrap_or(NONE);
                    // The text that patterns start with is nearly always the transferred one.
                    let data = signature.data.map(|(arg, _)| arg);
                    let data = data.or_else(|| {
                        signature.slots.iter().find_map(|s| match s {
                            Slot::Data(arg) => Some(*arg),
                            _ => None,
                        })
                    });
                    self.buckets.push(Bucket {
                        data: data.unwrap_or(0),
                        ..Bucket::default()
                    });
                }
                let bucket = &mut self.buckets[usize::from(*at)];
                if pattern.prefix_slot != Slot::Data(bucket.data) {
                    bucket.any.push(number);
                    return;
                }
                bucket
            }
        };
        bucket.add(number, pattern);
    }

    fn bucket<C: Call>(&self, call: &C) -> Option<&Bucket> {
        let at = *self.by_number.get(usize::from(call.nr()))?;
        self.buckets.get(usize::from(at))
    }

    /// False when no rule can begin at the call and no message or state depends on it. This is
    /// what a call that no rule concerns costs.
    #[inline]
    pub(super) fn concerns<C: Call>(&self, call: &C) -> bool {
        let Some(flags) = self.flags.get(usize::from(call.nr())) else {
            return false;
        };
        *flags != 0
            || self
                .bucket(call)
                .is_some_and(|b| b.concerns(call.payload(b.data)))
    }

    /// Whether [`Index::concerns`] may be true for a call with this number.
    pub(super) fn may_concern(&self, nr: u16) -> bool {
        let nr = usize::from(nr);
        self.flags.get(nr).is_some_and(|flags| *flags != 0)
            || self.by_number.get(nr).is_some_and(|bucket| *bucket != NONE)
    }

    /// The rules that may begin at the call, in order.
    pub(super) fn candidates<C: Call>(&self, call: &C, out: &mut Vec<u32>) {
        out.clear();
        if let Some(bucket) = self.bucket(call) {
            bucket.candidates(call.payload(bucket.data), out);
        }
    }

    /// The rules that may begin at a message, in order.
    pub(super) fn message_candidates(&self, flow: Flow, text: &[u8], out: &mut Vec<u32>) {
        out.clear();
        self.messages(flow).candidates(Some(text), out);
    }

    /// Whether a rule may begin at a message of which only the start is known.
    pub(super) fn may_begin(&self, flow: Flow, start: &[u8]) -> bool {
        let bucket = self.messages(flow);
        let mut hit = !bucket.any.is_empty();
        let longer = bucket.trie.walk(start, |_| hit = true);
        hit || longer
    }

    fn messages(&self, flow: Flow) -> &Bucket {
        match flow {
            Flow::In => &self.requests,
            Flow::Out => &self.replies,
        }
    }

    pub(super) fn is_stream(&self, nr: u16) -> bool {
        self.flags
            .get(usize::from(nr))
            .is_some_and(|f| f & STREAM != 0)
    }

    pub(super) fn is_life(&self, nr: u16) -> bool {
        self.flags
            .get(usize::from(nr))
            .is_some_and(|f| f & LIFE != 0)
    }
}

/// Numbers from here on are those of `ignore` lines.
const NOISE: u32 = 1 << 31;

/// The number under which noise is indexed.
fn noise_number(at: usize) -> u32 {
    NOISE | u32::try_from(at).unwrap_or(0)
}

/// The position of the `ignore` line with that number, if it is one.
pub(super) fn as_noise(number: u32) -> Option<usize> {
    (number & NOISE != 0).then_some((number & !NOISE) as usize)
}
