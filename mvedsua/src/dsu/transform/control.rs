//! The control block that a transformer shares with the agent, and its table of moved objects, as
//! `runtime.c` lays them out.

use std::collections::HashMap;

/// Bytes of the control block.
pub const CONTROL_LEN: u64 = 8 * 8 + 256;

/// Bytes of one slot of the table of moved objects.
const SLOT: u64 = 24;

/// `"MVDUA_A1"`: the block is really there.
const MAGIC: u64 = 0x3141_5f41_5544_564d;

/// Most objects that are believed to have moved: a broken transformer could claim any number.
const MOST: u64 = 1 << 32;

/// How far a transformer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started.
    Idle,
    /// At work.
    Running,
    /// It returned 0.
    Done,
    /// It gave up; [`Control::why`] says why.
    Failed,
}

/// The control block, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// How far it has come.
    pub state: State,
    /// What it returned.
    pub result: i64,
    /// Objects done.
    pub done: u64,
    /// Objects in all, 0 when not known.
    pub total: u64,
    /// Address of the table of moved objects and its slots.
    pub table: (u64, u64),
    /// Objects in it, those that have stayed where they were among them.
    pub objects: u64,
    /// Why it gave up.
    pub why: String,
}

impl Control {
    /// Reads a block; `None` when these bytes are none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() as u64 != CONTROL_LEN {
            return None;
        }
        let word = |i: usize| {
            let field = bytes[8 * i..8 * i + 8].try_into().expect("8 bytes");
            u64::from_le_bytes(field)
        };
        let state = match (word(0), word(1)) {
            (MAGIC, 0) => State::Idle,
            (MAGIC, 1) => State::Running,
            (MAGIC, 2) => State::Done,
            (MAGIC, 3) => State::Failed,
            _ => return None,
        };
        let why = bytes[64..].split(|b| *b == 0).next().unwrap_or_default();
        Some(Self {
            state,
            result: word(2) as i64,
            done: word(3),
            total: word(4),
            table: (word(5), word(6)),
            objects: word(7),
            why: String::from_utf8_lossy(why)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        })
    }

    /// Bytes of the table of moved objects; `None` when they cannot be true.
    #[must_use]
    pub fn table_len(&self) -> Option<u64> {
        let good = self.table.1 == 0 || self.table.1.is_power_of_two() && self.table.1 <= MOST;
        good.then(|| self.table.1 * SLOT)
    }
}

/// Which objects were moved: the transformer's own table, looked up as it looks it up itself. A table of a
/// million objects is 48 MiB, and nothing is built from it while the server may wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    slots: Vec<u8>,
    variables: HashMap<u64, u64>,
}

impl Moved {
    /// From the bytes of the table, and variables that were moved: old address, new address, bytes.
    #[must_use]
    pub fn new(table: Vec<u8>, variables: &[(u64, u64, u64)]) -> Self {
        Self {
            slots: table,
            variables: variables.iter().map(|v| (v.0, v.1)).collect(),
        }
    }

    /// Where the object that starts at an address is now, if it was moved.
    #[must_use]
    pub fn follow(&self, old: u64) -> Option<u64> {
        if let Some(new) = self.variables.get(&old) {
            return Some(*new);
        }
        let capacity = self.slots.len() / SLOT as usize;
        if old == 0 || !capacity.is_power_of_two() {
            return None;
        }
        // `find` of runtime.c.
        let first = (old.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17) as usize;
        for at in first..first + capacity {
            let slot = (at & (capacity - 1)) * SLOT as usize;
            let word = |i: usize| {
                let field = &self.slots[slot + 8 * i..slot + 8 * i + 8];
                u64::from_le_bytes(field.try_into().expect("8 bytes"))
            };
            match word(0) {
                0 => return None,
                found if found == old => return Some(word(1)).filter(|new| *new != old),
                _ => {}
            }
        }
        None
    }

    /// Nothing was moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.variables.is_empty()
    }

    /// Replaces every aligned word of `stack` that is the start of a moved object. Returns the
    /// offsets of the words that changed.
    pub fn follow_words(&self, stack: &mut [u8]) -> Vec<usize> {
        let mut changed = Vec::new();
        for (index, word) in stack.chunks_exact_mut(8).enumerate() {
            let value = u64::from_le_bytes((&*word).try_into().expect("8 bytes"));
            if let Some(new) = self.follow(value) {
                word.copy_from_slice(&new.to_le_bytes());
                changed.push(index * 8);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(state: u64, why: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> = [MAGIC, state, 7, 10, 20, 0x5000, 4, 2]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        bytes.extend_from_slice(why.as_bytes());
        bytes.resize(CONTROL_LEN as usize, 0);
        bytes
    }

    #[test]
    fn a_block_is_read_and_a_broken_one_is_none() {
        let control = Control::parse(&block(3, "no\nroom")).expect("a block");
        assert_eq!(control.state, State::Failed);
        assert_eq!((control.result, control.done, control.total), (7, 10, 20));
        assert_eq!(control.why, "no room");
        assert_eq!(control.table_len(), Some(96));
        assert_eq!(Control::parse(&block(9, "")), None);
        assert_eq!(Control::parse(&block(1, "")[1..]), None);
        let mut wild = control;
        wild.table.1 = u64::MAX;
        assert_eq!(wild.table_len(), None);
    }

    #[test]
    fn words_that_are_starts_of_moved_objects_follow() {
        let mut slots = vec![0u8; 4 * SLOT as usize];
        for (old, new) in [(0x100u64, 0x900u64), (0x200, 0x200)] {
            let mut at = (old.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17) as usize & 3;
            while slots[at * 24..at * 24 + 8] != [0; 8] {
                at = (at + 1) & 3;
            }
            slots[at * 24..at * 24 + 8].copy_from_slice(&old.to_le_bytes());
            slots[at * 24 + 8..at * 24 + 16].copy_from_slice(&new.to_le_bytes());
        }
        let moved = Moved::new(slots, &[(0x300, 0xa00, 8)]);
        let mut stack: Vec<u8> = [0x100u64, 0x108, 0x200, 0x300, 0]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        assert_eq!(moved.follow_words(&mut stack), [0, 24]);
        assert_eq!(stack[..8], 0x900u64.to_le_bytes());
        assert_eq!(stack[8..16], 0x108u64.to_le_bytes());
    }

    #[test]
    fn a_full_or_odd_table_ends_the_search() {
        let full: Vec<u8> = std::iter::repeat_n(0x77u8, 4 * SLOT as usize).collect();
        assert_eq!(Moved::new(full, &[]).follow(0x1000), None);
        assert_eq!(
            Moved::new(vec![1; 3 * SLOT as usize], &[]).follow(0x1000),
            None
        );
        assert_eq!(Moved::default().follow(0x1000), None);
        assert!(Moved::default().is_empty());
    }
}
