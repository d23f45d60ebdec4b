//! What was rewritten to a longer text than the follower's buffer takes, kept for its next read.

use std::collections::BTreeMap;

use super::diagnostic::Code;
use super::fault::{Fault, RuleError};

/// Most bytes that are kept, over all descriptors.
const MAX_CARRIED: usize = 4 << 20;

/// Bytes that the follower has still to read, by descriptor. One for each process.
#[derive(Clone, Debug, Default)]
pub struct Carry {
    waiting: BTreeMap<i32, Vec<u8>>,
    total: usize,
}

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
        self.waiting.is_empty()
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
        if capacity == 0 || !self.waiting.contains_key(&fd) {
            return Ok(None);
        }
        self.read(fd, None, capacity).map(|d| Some(d.bytes))
    }

    /// The descriptor was closed.
    pub fn forget(&mut self, fd: i32) {
        self.take(fd);
    }

    fn take(&mut self, fd: i32) -> Vec<u8> {
        let bytes = self.waiting.remove(&fd).unwrap_or_default();
        self.total -= bytes.len();
        bytes
    }

    fn put(&mut self, fd: i32, bytes: Vec<u8>) -> Result<(), RuleError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.total + bytes.len() > MAX_CARRIED {
            let fault = Fault::new(
                Code::CAPACITY,
                format!("more than {MAX_CARRIED} bytes wait to be read by the follower"),
            );
            return Err(fault.in_rule(format!("carry-over on fd {fd}")));
        }
        self.total += bytes.len();
        self.waiting.insert(fd, bytes);
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
}
