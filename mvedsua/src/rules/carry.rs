//! What was rewritten to a longer text than the follower's buffer takes, kept for its next read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::descriptors::Change;
use super::diagnostic::Code;
use super::fault::{Fault, RuleError};

/// Most bytes that are kept, over all descriptors.
const MAX_CARRIED: usize = 4 << 20;

/// Bytes that the follower has still to read. One for each process.
///
/// They belong to an open file, not to a number: descriptors that were duplicated have them together, and they
/// are forgotten when the last of those is closed.
#[derive(Debug, Default)]
pub struct Carry {
    /// By descriptor, where there are such bytes or others stand for the same open file.
    waiting: BTreeMap<i32, Waiting>,
}

/// The bytes of one open file.
type Waiting = Rc<RefCell<Vec<u8>>>;

/// What one read of the follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether the expected read is done with it. If not, it stays the next one of its thread.
    pub consumed: bool,
}

impl Carry {
    /// Nothing carried.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True when nothing waits on any descriptor: reads that no rule rewrote need no delivery.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.values().all(|text| text.borrow().is_empty())
    }

    /// For a process that this one's has made: its descriptors stand for the same open files, so that what
    /// waits now is for whoever reads first.
    #[must_use]
    pub fn for_child(&self) -> Self {
        Self {
            waiting: self.waiting.clone(),
        }
    }

    /// These descriptors stand for one open file.
    pub fn add_duplicates(&mut self, descriptors: &[i32]) {
        let waiting = Waiting::default();
        for fd in descriptors {
            self.waiting.insert(*fd, Rc::clone(&waiting));
        }
    }

    /// The follower's call has done this to its descriptors.
    pub fn follow(&mut self, change: &Change) {
        let number = |fd: i64| i32::try_from(fd).unwrap_or(i32::MAX);
        match change {
            Change::Closed(range) => {
                self.waiting
                    .retain(|fd, _| !range.contains(&i64::from(*fd)));
            }
            Change::Accepted(fd) => {
                self.waiting.remove(&number(*fd));
            }
            Change::Duplicated { of, to } => {
                let shared = Rc::clone(self.waiting.entry(number(*of)).or_default());
                self.waiting.insert(number(*to), shared);
            }
        }
    }

    /// The follower makes the read that is expected of it, with a buffer of `capacity` bytes.
    /// `text` is what the expected read returns; `None` for one that failed or met the end.
    ///
    /// # Errors
    /// When more would be carried than is allowed. The update is to be rolled back.
    pub fn read(
        &mut self,
        fd: i32,
        text: Option<&[u8]>,
        capacity: usize,
    ) -> Result<Delivery, RuleError> {
        let mut bytes = self.take(fd);
        let Some(text) = text else {
            // What waits comes before the error or the end that the leader met.
            let consumed = bytes.is_empty();
            let rest = bytes.split_off(capacity.min(bytes.len()));
            self.put(fd, rest)?;
            return Ok(Delivery { bytes, consumed });
        };
        bytes.extend_from_slice(text);
        let rest = bytes.split_off(capacity.min(bytes.len()));
        self.put(fd, rest)?;
        Ok(Delivery {
            bytes,
            consumed: true,
        })
    }

    /// The follower makes a read that is not expected of it: what waits for it, if something does.
    ///
    /// # Errors
    /// As [`Carry::read`].
    pub fn again(&mut self, fd: i32, capacity: usize) -> Result<Option<Vec<u8>>, RuleError> {
        let waits = |text: &Waiting| !text.borrow().is_empty();
        if capacity == 0 || !self.waiting.get(&fd).is_some_and(waits) {
            return Ok(None);
        }
        self.read(fd, None, capacity).map(|d| Some(d.bytes))
    }

    /// The follower looks at what it would read (`MSG_PEEK`), with room for `capacity` bytes: what waits comes
    /// first, and all of it stays. `None` if the leader's call failed or met the end, and nothing waits.
    #[must_use]
    pub fn peek(&self, fd: i32, text: Option<&[u8]>, capacity: usize) -> Option<Vec<u8>> {
        let mut bytes = self
            .waiting
            .get(&fd)
            .map_or_else(Vec::new, |text| text.borrow().clone());
        if text.is_none() && bytes.is_empty() {
            return None;
        }
        bytes.extend_from_slice(text.unwrap_or_default());
        bytes.truncate(capacity);
        Some(bytes)
    }

    fn take(&mut self, fd: i32) -> Vec<u8> {
        let Some(text) = self.waiting.get(&fd) else {
            return Vec::new();
        };
        let bytes = text.take();
        if Rc::strong_count(text) == 1 {
            self.waiting.remove(&fd);
        }
        bytes
    }

    fn put(&mut self, fd: i32, bytes: Vec<u8>) -> Result<(), RuleError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let total: usize = self.waiting.values().map(|text| text.borrow().len()).sum();
        if total + bytes.len() > MAX_CARRIED {
            let fault = Fault::new(
                Code::CAPACITY,
                format!("more than {MAX_CARRIED} bytes wait to be read by the follower"),
            );
            return Err(fault.in_rule(format!("carry-over on fd {fd}")));
        }
        self.waiting.entry(fd).or_default().replace(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_comes_with_the_next_read() {
        let mut carry = Carry::new();
        let first = carry
            .read(5, Some(b"PUT-string k v\r\n"), 10)
            .expect("it fits");
        assert_eq!(
            first,
            Delivery {
                bytes: b"PUT-string".to_vec(),
                consumed: true
            }
        );
        let second = carry.read(5, Some(b"GET k\r\n"), 10).expect("it fits");
        assert_eq!(second.bytes, b" k v\r\nGET ");
        assert_eq!(
            carry.again(5, 100).expect("it fits"),
            Some(b"k\r\n".to_vec())
        );
        assert_eq!(carry.again(5, 100).expect("it fits"), None);
        assert!(carry.is_empty());
    }

    #[test]
    fn what_waits_comes_before_an_error_or_the_end() {
        let mut carry = Carry::new();
        carry.read(5, Some(b"abc"), 2).expect("it fits");
        let next = carry.read(5, None, 2).expect("it fits");
        assert_eq!(
            next,
            Delivery {
                bytes: b"c".to_vec(),
                consumed: false
            }
        );
        let end = carry.read(5, None, 2).expect("it fits");
        assert_eq!(
            end,
            Delivery {
                bytes: Vec::new(),
                consumed: true
            }
        );
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut carry = Carry::new();
        let text = vec![0; MAX_CARRIED + 10];
        let error = carry.read(5, Some(&text), 1).expect_err("too much");
        assert_eq!(error.code, Code::CAPACITY);
    }
    fn carrying() -> Carry {
        let mut carry = Carry::new();
        carry.read(5, Some(b"abc"), 1).expect("it fits");
        carry
    }

    fn closed(fd: i64) -> Change {
        Change::Closed(fd..=fd)
    }

    const DUPLICATED: Change = Change::Duplicated { of: 5, to: 7 };

    #[test]
    fn what_waits_goes_with_the_last_descriptor_of_its_file() {
        let mut carry = carrying();
        carry.follow(&DUPLICATED);
        carry.follow(&closed(5));
        assert_eq!(carry.again(5, 1).expect("it fits"), None);
        assert_eq!(carry.again(7, 1).expect("it fits"), Some(b"b".to_vec()));
        carry.follow(&closed(7));
        assert!(carry.is_empty());

        let mut carry = carrying();
        carry.follow(&Change::Duplicated { of: 9, to: 5 });
        assert!(carry.is_empty(), "another file has come in its place");
        carry.read(5, Some(b"xyz"), 1).expect("it fits");
        assert_eq!(carry.again(9, 9).expect("it fits"), Some(b"yz".to_vec()));

        let mut carry = carrying();
        carry.follow(&Change::Closed(6..=i64::from(u32::MAX)));
        assert!(!carry.is_empty());
        carry.follow(&Change::Closed(3..=i64::from(u32::MAX)));
        assert!(carry.is_empty());
    }

    #[test]
    fn what_waits_is_read_once_by_whichever_descriptor_and_process() {
        let mut carry = Carry::new();
        carry.add_duplicates(&[5, 7]);
        carry.read(5, Some(b"abc"), 1).expect("it fits");
        let mut child = carry.for_child();
        assert_eq!(child.again(7, 1).expect("it fits"), Some(b"b".to_vec()));
        child.follow(&Change::Closed(0..=9));
        assert_eq!(carry.again(5, 9).expect("it fits"), Some(b"c".to_vec()));
        assert!(carry.is_empty() && child.is_empty());
    }

    #[test]
    fn a_look_takes_nothing() {
        let carry = carrying();
        assert_eq!(carry.peek(5, Some(b"de"), 3), Some(b"bcd".to_vec()));
        assert_eq!(carry.peek(5, None, 9), Some(b"bc".to_vec()));
        assert_eq!(carry.peek(6, None, 9), None);
        assert_eq!(carry.peek(6, Some(b"de"), 1), Some(b"d".to_vec()));
        assert!(!carry.is_empty());
    }
}
