//! What calls do to the descriptors of their process: several may stand for one open file, and what is kept
//! for an open file goes when the last of them is closed.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use mvedsua_common::table;

// Of the kernel's headers, where they have not changed since they came.
const F_DUPFD: i32 = 0;
const F_DUPFD_CLOEXEC: i32 = 1030;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

/// What a call does to the descriptors of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These stand for nothing any more.
    Closed(RangeInclusive<i64>),
    /// `to` stands for what `of` stands for, and no more for what it stood for.
    Duplicated {
        /// The descriptor that was there.
        of: i64,
        /// The other one.
        to: i64,
    },
    /// A connection was accepted.
    Accepted(i64),
}

struct Numbers {
    close: u16,
    close_range: u16,
    dup: u16,
    dup2: u16,
    dup3: u16,
    fcntl: u16,
    accept: u16,
    accept4: u16,
}

static NUMBERS: LazyLock<Numbers> = LazyLock::new(|| Numbers {
    close: table::number("close"),
    close_range: table::number("close_range"),
    dup: table::number("dup"),
    dup2: table::number("dup2"),
    dup3: table::number("dup3"),
    fcntl: table::number("fcntl"),
    accept: table::number("accept"),
    accept4: table::number("accept4"),
});

impl Change {
    /// What the call with these arguments, which returned `result`, did.
    #[must_use]
    pub fn of(nr: u16, args: &[u64; 6], result: i64) -> Option<Self> {
        let numbers = &*NUMBERS;
        let fd = |at: usize| i64::from(args[at] as i32);
        if nr == numbers.close {
            // Linux lets go of the number whatever else it says.
            return Some(Self::Closed(fd(0)..=fd(0)));
        }
        if result < 0 {
            return None;
        }
        if nr == numbers.close_range {
            let closes = args[2] as u32 & CLOSE_RANGE_CLOEXEC == 0;
            return closes.then_some(Self::Closed(
                i64::from(args[0] as u32)..=i64::from(args[1] as u32),
            ));
        }
        if nr == numbers.accept || nr == numbers.accept4 {
            return Some(Self::Accepted(result));
        }
        let fcntl = nr == numbers.fcntl && [F_DUPFD, F_DUPFD_CLOEXEC].contains(&(args[1] as i32));
        let duplicates = fcntl || [numbers.dup, numbers.dup2, numbers.dup3].contains(&nr);
        // `dup2` of a descriptor onto itself does nothing.
        (duplicates && fd(0) != result).then_some(Self::Duplicated {
            of: fd(0),
            to: result,
        })
    }

    /// Whether calls with this number may change something.
    #[must_use]
    pub fn may_be(nr: u16) -> bool {
        let n = &*NUMBERS;
        [
            n.close,
            n.close_range,
            n.dup,
            n.dup2,
            n.dup3,
            n.fcntl,
            n.accept,
            n.accept4,
        ]
        .contains(&nr)
    }
}

/// Names the open files of a process by numbers, the same for all descriptors that stand for one.
///
/// A file that was never duplicated is named by its descriptor.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenFiles {
    /// By descriptor. One that is closed is in it as well if its number is the name of another's file.
    names: BTreeMap<i64, i64>,
    /// How many names that are no descriptor were given.
    given: i64,
}

impl OpenFiles {
    /// The name of what the descriptor stands for.
    pub(super) fn name(&self, fd: i64) -> i64 {
        self.names.get(&fd).copied().unwrap_or(fd)
    }

    /// Follows a change. `gone` is called with the name of each open file that no descriptor stands for
    /// any more.
    pub(super) fn follow(&mut self, change: &Change, known: &[i64], gone: &mut dyn FnMut(i64)) {
        match change {
            Change::Closed(range) => {
                // Of a wide range only what something is known of is of interest.
                let mut closed: Vec<i64> =
                    self.names.range(range.clone()).map(|(fd, _)| *fd).collect();
                closed.extend(known.iter().filter(|fd| range.contains(fd)));
                closed.sort_unstable();
                closed.dedup();
                for fd in closed {
                    self.close(fd, gone);
                }
            }
            Change::Accepted(fd) => self.close(*fd, gone),
            Change::Duplicated { of, to } => {
                self.close(*to, gone);
                let name = self.name(*of);
                self.names.insert(*of, name);
                self.names.insert(*to, name);
            }
        }
    }

    fn close(&mut self, fd: i64, gone: &mut dyn FnMut(i64)) {
        let name = self.name(fd);
        self.names.remove(&fd);
        if !self.names.values().any(|other| *other == name) {
            gone(name);
        }
        if self.names.values().any(|other| *other == fd) {
            // The next file under this number needs another name.
            self.given += 1;
            self.names.insert(fd, i64::from(u32::MAX) + self.given);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str, args: [u64; 3], result: i64) -> Option<Change> {
        let [a, b, c] = args;
        Change::of(table::number(name), &[a, b, c, 0, 0, 0], result)
    }

    #[test]
    fn what_calls_do_to_descriptors() {
        let duplicated = |of, to| Some(Change::Duplicated { of, to });
        assert_eq!(made("close", [5, 0, 0], 0), Some(Change::Closed(5..=5)));
        assert_eq!(made("close", [5, 0, 0], -5), Some(Change::Closed(5..=5)));
        assert_eq!(made("dup", [5, 0, 0], 7), duplicated(5, 7));
        assert_eq!(made("dup", [5, 0, 0], -24), None);
        assert_eq!(made("dup2", [5, 7, 0], 7), duplicated(5, 7));
        assert_eq!(made("dup2", [5, 5, 0], 5), None);
        assert_eq!(made("dup3", [5, 7, 0o2_000_000], 7), duplicated(5, 7));
        assert_eq!(made("fcntl", [5, 0, 10], 10), duplicated(5, 10));
        assert_eq!(made("fcntl", [5, 1030, 10], 10), duplicated(5, 10));
        assert_eq!(made("fcntl", [5, 3, 0], 2), None);
        assert_eq!(made("accept4", [3, 0, 0], 8), Some(Change::Accepted(8)));
        assert_eq!(made("accept4", [3, 0, 0], -11), None);
        let all = u64::from(u32::MAX);
        assert_eq!(
            made("close_range", [3, all, 0], 0),
            Some(Change::Closed(3..=i64::from(u32::MAX)))
        );
        assert_eq!(
            made("close_range", [3, all, 4], 0),
            None,
            "only marked to be closed at an exec"
        );
        assert_eq!(made("read", [5, 0, 0], 0), None);
    }

    #[test]
    fn an_open_file_is_gone_with_its_last_descriptor() {
        let mut files = OpenFiles::default();
        let mut follow = |change: Change| {
            let mut gone = Vec::new();
            files.follow(&change, &[5, 7], &mut |name| gone.push(name));
            gone
        };
        let duplicated = |of, to| Change::Duplicated { of, to };
        assert_eq!(follow(duplicated(5, 7)), [7]);
        assert!(follow(Change::Closed(5..=5)).is_empty());
        assert_eq!(
            follow(Change::Accepted(5)).len(),
            1,
            "a new file under a number that was closed"
        );
        assert_eq!(
            follow(Change::Closed(7..=7)),
            [5],
            "the name of the first file"
        );
        let second = follow(Change::Closed(0..=i64::from(u32::MAX)));
        assert!(second.len() == 2 && !second.contains(&5), "{second:?}");
        assert_eq!(files.name(5), 5, "nothing is known of it any more");
    }

    #[test]
    fn names_of_two_open_files_are_never_the_same() {
        let mut files = OpenFiles::default();
        let mut gone = |_| {};
        files.follow(&Change::Duplicated { of: 5, to: 7 }, &[], &mut gone);
        files.follow(&Change::Closed(5..=5), &[], &mut gone);
        files.follow(&Change::Duplicated { of: 5, to: 8 }, &[], &mut gone);
        assert_eq!(files.name(5), files.name(8));
        assert_ne!(files.name(5), files.name(7));
        files.follow(&Change::Closed(5..=5), &[], &mut gone);
        files.follow(&Change::Closed(7..=7), &[], &mut gone);
        assert_ne!(files.name(5), files.name(8));
        assert_eq!(files.name(7), 7);
    }
}
