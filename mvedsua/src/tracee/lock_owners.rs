//! Locks in a process's memory that name their owner by its thread id (glibc).
//!
//! A thread that makes a call may hold a lock. A plain mutex is let go whoever says so; but a recursive, an
//! error-checking and a robust mutex, and a rwlock that is held for writing, are let go only by the thread whose id they
//! hold. The new leader's threads have other ids than the old one's, so its locks must hold those.
//!
//! Where locks are nobody knows: they are looked for by their shape, in as much memory as there is time for. One with
//! priority inheritance is the kernel's to know (`FUTEX_LOCK_PI`), and is left alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::Result;
use super::inspect;
use crate::sys::memory;

/// Most memory that is looked through, in bytes, while nobody serves: a millisecond or two. Small mappings come first:
/// those of programs and libraries, where most locks are.
const MOST: u64 = 4 << 20;
const PAGE: usize = 4096;
/// What is read at once.
const PIECE: usize = 64 << 10;
/// As long as the longest lock.
const OVERLAP: usize = 64;

/// A word that holds the id of the thread that owns a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Address of the word.
    pub address: u64,
    /// The id in it.
    pub tid: i32,
}

/// The owners of locks that are held in a process that stands, by threads with these ids (as the process sees them).
///
/// # Errors
/// When the process is gone.
pub fn all_of(pid: i32, tids: &BTreeSet<i32>) -> Result<Vec<Owner>> {
    within(pid, tids, MOST)
}

fn within(pid: i32, tids: &BTreeSet<i32>, most: u64) -> Result<Vec<Owner>> {
    let mut maps = inspect::maps(pid)?;
    maps.retain(|map| map.write && !map.shared);
    maps.sort_by_key(|map| map.end - map.start);
    let pages = File::open(format!("/proc/{pid}/pagemap")).ok();
    let mut owners = Vec::new();
    let mut buffer = vec![0u8; PIECE];
    let mut left = most;
    for map in maps {
        for (start, end) in present(pages.as_ref(), map.start, map.end) {
            let end = end.min(start.saturating_add(left));
            left -= end - start;
            let mut at = start;
            while at < end {
                let piece = &mut buffer[..(end - at).min(PIECE as u64) as usize];
                // What went away meanwhile holds no lock.
                if memory::read(pid, at, piece).is_ok() {
                    find(piece, at, tids, &mut owners);
                }
                // A lock may lie across the end of a piece.
                let last = at + piece.len() as u64 == end;
                at += (piece.len() - if last { 0 } else { OVERLAP }) as u64;
            }
            if left == 0 {
                tracing::debug!(pid, "not all memory was looked through for locks");
                return Ok(owners);
            }
        }
    }
    Ok(owners)
}

/// The stretches of pages that are the process's own and in memory (`pagemap`): no others were written to.
fn present(pages: Option<&File>, start: u64, end: u64) -> Vec<(u64, u64)> {
    const PRESENT: u64 = 1 << 63;
    const OF_FILE: u64 = 1 << 61;
    let Some(pages) = pages else {
        return vec![(start, end)];
    };
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    let mut entries = vec![0u8; 8 * 4096];
    let mut at = start;
    while at < end {
        let count = ((end - at) / PAGE as u64).min(4096) as usize;
        let entries = &mut entries[..8 * count];
        if pages.read_exact_at(entries, at / PAGE as u64 * 8).is_err() {
            break;
        }
        for entry in entries.chunks_exact(8) {
            let entry = u64::from_le_bytes(entry.try_into().expect("8 bytes"));
            if entry & PRESENT != 0 && entry & OF_FILE == 0 {
                match stretches.last_mut() {
                    Some(last) if last.1 == at => last.1 += PAGE as u64,
                    _ => stretches.push((at, at + PAGE as u64)),
                }
            }
            at += PAGE as u64;
        }
    }
    stretches
}

fn find(bytes: &[u8], start: u64, tids: &BTreeSet<i32>, owners: &mut Vec<Owner>) {
    /// Most memory holds none of the ids: whether a block does is told without a branch for each word.
    const BLOCK: usize = 256;
    let (Some(&least), Some(&most)) = (tids.first(), tids.last()) else {
        return;
    };
    let span = (most - least) as u32;
    let words = Words(bytes);
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        let may_hold = block.chunks_exact(4).fold(false, |found, word| {
            let word = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            found | (word.wrapping_sub(least) as u32 <= span)
        });
        if !may_hold {
            continue;
        }
        for at in number * BLOCK / 4..(number * BLOCK + block.len()) / 4 {
            let Some(word) = words.get(at).filter(|word| tids.contains(word)) else {
                continue;
            };
            if !is_of_mutex(&words, at) && !is_of_rwlock(&words, at) {
                continue;
            }
            let own = |at: usize| Owner {
                address: start + 4 * at as u64,
                tid: word,
            };
            owners.push(own(at));
            // A robust mutex has it in its lock word as well.
            if at >= 2
                && words
                    .get(at - 2)
                    .is_some_and(|lock| lock & FUTEX_TID == word)
            {
                owners.push(own(at - 2));
            }
        }
    }
}

/// Memory as the words of which locks are made.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn get(&self, at: usize) -> Option<i32> {
        let bytes = self.0.get(4 * at..)?.first_chunk()?;
        Some(i32::from_le_bytes(*bytes))
    }

    /// The words from `first` on.
    fn some<const N: usize>(&self, first: usize) -> Option<[i32; N]> {
        let mut words = [0; N];
        for (place, word) in words.iter_mut().enumerate() {
            *word = self.get(first + place)?;
        }
        Some(words)
    }
}

/// `FUTEX_TID_MASK`.
const FUTEX_TID: i32 = 0x3fff_ffff;
/// `PTHREAD_MUTEX_PRIO_INHERIT_NP` in the kind of a mutex.
const INHERITS: i32 = 32;

/// `pthread_mutex_t` (`struct __pthread_mutex_s`): lock, count, owner, users, kind.
fn is_of_mutex(words: &Words<'_>, at: usize) -> bool {
    let all = at.checked_sub(2).and_then(|first| words.some(first));
    let Some([lock, count, owner, users, kind]) = all else {
        return false;
    };
    let held = matches!(lock, 1 | 2) || lock & FUTEX_TID == owner;
    held && (0..1 << 20).contains(&count)
        && (1..1 << 16).contains(&users)
        && (0..512).contains(&kind)
        && kind & INHERITS == 0
}

/// `pthread_rwlock_t`: readers and flags, writers, two futexes, two words of padding, the writer, shared or not.
fn is_of_rwlock(words: &Words<'_>, at: usize) -> bool {
    /// `PTHREAD_RWLOCK_WRLOCKED`.
    const WRITTEN: i32 = 2;
    let all = at.checked_sub(6).and_then(|first| words.some(first));
    let Some([readers, writers, _, _, pad, more, _, shared]) = all else {
        return false;
    };
    readers & WRITTEN != 0
        && (0..1 << 20).contains(&writers)
        && (pad, more) == (0, 0)
        && (shared == 0 || shared == 1)
}

/// Gives a lock of a process that stands to the thread `to`, if it is still held by the one that was found.
pub fn give(pid: i32, owner: Owner, to: i32) {
    let mut word = [0u8; 4];
    if memory::read(pid, owner.address, &mut word).is_err() {
        return;
    }
    let now = i32::from_le_bytes(word);
    let changed = if now == owner.tid {
        to
    } else if now & FUTEX_TID == owner.tid {
        now & !FUTEX_TID | to
    } else {
        return;
    };
    // What cannot be written is no lock.
    let _ = memory::write(pid, owner.address, &changed.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::*;

    fn found(words: &[i32]) -> Vec<u64> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut owners = Vec::new();
        find(&bytes, 0, &BTreeSet::from([4711, 4713]), &mut owners);
        owners.iter().map(|owner| owner.address).collect()
    }

    #[test]
    fn locks_are_found_by_their_shape() {
        assert_eq!(found(&[1, 2, 4711, 1, 1, 0]), [8], "recursive");
        assert_eq!(found(&[2, 0, 4713, 1, 2, 0]), [8], "checks errors");
        assert_eq!(found(&[4711, 0, 4711, 1, 16, 0]), [8, 0], "robust");
        assert_eq!(found(&[3, 0, 1, 0, 0, 0, 4711, 0]), [24], "a rwlock");
    }

    #[test]
    fn other_words_are_left_alone() {
        assert!(found(&[0, 0, 4711, 1, 1, 0]).is_empty(), "not held");
        assert!(found(&[1, 2, 4712, 1, 1, 0]).is_empty(), "by another");
        assert!(found(&[4711, 0, 4711, 1, 32, 0]).is_empty(), "the kernel's");
        assert!(
            found(&[1, 0, 1, 0, 0, 0, 4711, 0]).is_empty(),
            "held for reading"
        );
        assert!(found(&[4711]).is_empty());
        assert!(found(&[7, 8, 4711, 9, 4711]).is_empty());
    }

    #[test]
    fn a_lock_of_this_process_is_found_and_given() {
        let tid = nix::unistd::gettid().as_raw();
        let lock = Box::new([1, 1, tid, 1, 1, 0, 0, 0, 0, 0].map(AtomicI32::new));
        let address = lock[2].as_ptr() as u64;
        let pid = std::process::id() as i32;
        let owners = within(pid, &BTreeSet::from([tid]), u64::MAX).expect("this process");
        let owner = owners.iter().find(|owner| owner.address == address);
        give(pid, *owner.expect("it is found"), 99);
        assert_eq!(lock[2].load(Ordering::Relaxed), 99);
    }
}
