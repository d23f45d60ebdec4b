//! Our own consumer of a `BPF_MAP_TYPE_RINGBUF`.
//!
//! aya's consumer hands out one record at a time and gives its space back at once. The engine needs to
//! look at records in place, keep some of them while their thread waits, and finish them out of
//! order. So this one has a read cursor ahead of the position that it publishes to the kernel (a little late):
//!
//! ```text
//!   published  consumed         cursor            producer (kernel)
//!   |-- free --|---- peeked ----|------ new ------|------ free ------
//! ```
//!
//! Layout of the map's mmap, see `kernel/bpf/ringbuf.c`: page 0 holds the consumer's position
//! (writable), page 1 the producer's (read-only), then the data twice in a row (read-only), so that
//! every record is contiguous. Positions are bytes since the start and only grow.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use mvedsua_common::event::EventHeader;

use super::RecorderError;
use crate::matcher::Record;

/// The kernel's own header in front of each record: length with two flag bits, and a page offset.
const RECORD_HEADER: u64 = 8;
/// So many bytes may be free before the kernel is told. It looks at the position with every record, and each time that
/// we write it the leader has to fetch it from another CPU.
const LAG: u64 = 4096;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// A record that was peeked and not released: while this exists its bytes stay in the ring.
///
/// Not `Clone`, for that is what makes it safe to look at the bytes. One that is dropped instead
/// of released keeps its space of the ring for ever.
#[derive(Debug)]
#[must_use = "give it back with `Ring::release`, or the ring fills up"]
pub struct EventRef {
    /// Header of the record.
    pub header: EventHeader,
    /// Position of the record's data since the start of the ring: grows with every record, in the
    /// order of the syscall exits.
    pub position: u64,
    /// Counts the peeked records.
    sequence: u64,
}

/// The consumer's side of the ring.
#[derive(Debug)]
pub struct Ring {
    consumer: Mapping,
    producer: Mapping,
    /// Bytes of the data area (a power of two).
    capacity: u64,
    page: u64,
    /// Position of the next record that nobody has seen.
    cursor: u64,
    /// Everything before is free.
    consumed: u64,
    /// Position published to the kernel, less than [`LAG`] bytes behind `consumed`.
    published: u64,
    /// The producer's position when it was looked at last (that, too, takes it away from the leader's CPU).
    produced: u64,
    /// So many records at the front of `peeked` were copied out of the ring ([`Ring::set_aside`]).
    aside: usize,
    /// Bytes of ring that these took.
    aside_bytes: u64,
    /// Sequence number of `peeked[0]`.
    first: u64,
    /// Records that are not released, in order: those set aside, then those between `consumed` and `cursor`.
    peeked: VecDeque<Peeked>,
    malformed: u64,
}

#[derive(Debug)]
struct Peeked {
    /// Bytes of ring that it takes, header and padding included.
    span: u32,
    released: bool,
    /// Its bytes, if they are not in the ring any more.
    copy: Option<Box<[u8]>>,
}

impl Ring {
    /// Maps the ring of `capacity` bytes that `fd` stands for.
    ///
    /// # Errors
    /// [`RecorderError::MapRing`] if the kernel refuses the mapping (address space, permissions).
    pub(super) fn map(fd: impl AsFd, capacity: u64) -> Result<Self, RecorderError> {
        let page = page_size();
        let fd = fd.as_fd();
        let failed = |bytes| move |source| RecorderError::MapRing { bytes, source };
        let consumer =
            Mapping::new(&fd, 0, page, libc::PROT_READ | libc::PROT_WRITE).map_err(failed(page))?;
        let all = page + 2 * capacity;
        let producer = Mapping::new(&fd, page, all, libc::PROT_READ).map_err(failed(all))?;
        Ok(Self::over(consumer, producer, capacity, page))
    }

    fn over(consumer: Mapping, producer: Mapping, capacity: u64, page: u64) -> Self {
        let mut ring = Self {
            consumer,
            producer,
            capacity,
            page,
            cursor: 0,
            consumed: 0,
            published: 0,
            produced: 0,
            aside: 0,
            aside_bytes: 0,
            first: 0,
            peeked: VecDeque::with_capacity(1024),
            malformed: 0,
        };
        ring.consumed = ring.consumer_position().load(Ordering::Acquire);
        ring.cursor = ring.consumed;
        ring.published = ring.consumed;
        ring.produced = ring.consumed;
        ring
    }

    /// The next record that was not peeked yet, if the kernel has completed one. Never waits.
    pub fn peek_new(&mut self) -> Option<EventRef> {
        loop {
            if self.cursor >= self.produced {
                self.produced = self.now();
                if self.cursor >= self.produced {
                    return None;
                }
            }
            let word = self.record_word(self.cursor).load(Ordering::Acquire);
            if word & BUSY != 0 {
                return None;
            }
            let len = word & !(BUSY | DISCARDED);
            let span = (RECORD_HEADER as u32 + len).next_multiple_of(8);
            let position = self.cursor + RECORD_HEADER;
            self.cursor += u64::from(span);
            let header = if word & DISCARDED != 0 {
                None
            } else {
                let header =
                    Record::parse(self.bytes(position, u64::from(len))).map(|event| event.header);
                self.malformed += u64::from(header.is_none());
                header
            };
            let sequence = self.first + self.peeked.len() as u64;
            self.peeked.push_back(Peeked {
                span,
                released: header.is_none(),
                copy: None,
            });
            match header {
                Some(header) => {
                    return Some(EventRef {
                        header,
                        position,
                        sequence,
                    });
                }
                None => self.free(),
            }
        }
    }

    /// The record that `event` stands for, in place.
    #[must_use]
    pub fn event(&self, event: &EventRef) -> Record<'_> {
        let copy = self
            .index(event)
            .and_then(|index| self.peeked[index].copy.as_deref());
        if let Some(bytes) = copy {
            return Record::of_checked(event.header, bytes);
        }
        assert!(
            self.consumed < event.position && event.position < self.cursor,
            "an event of another ring was passed"
        );
        Record::of_checked(
            event.header,
            self.bytes(event.position, u64::from(event.header.len)),
        )
    }

    /// Where the record is in `peeked`.
    fn index(&self, event: &EventRef) -> Option<usize> {
        let index = usize::try_from(event.sequence.checked_sub(self.first)?).ok()?;
        (index < self.peeked.len()).then_some(index)
    }

    /// The record is done with. Its space goes back to the kernel when all records before it
    /// were released as well, by the page ([`Ring::publish`]).
    pub fn release(&mut self, event: EventRef) {
        let index = self.index(&event).expect("an event of this ring");
        self.peeked[index].released = true;
        if index == 0 {
            self.free();
        }
    }

    /// Copies peeked records to memory of our own, the oldest first, and gives their space back to the
    /// kernel, until `limit` bytes of ring are set aside. They stay what they are to everybody else.
    pub fn set_aside(&mut self, limit: u64) {
        while let Some(next) = self.peeked.get(self.aside) {
            let span = u64::from(next.span);
            if self.aside_bytes + span > limit {
                break;
            }
            let copy = (!next.released).then(|| {
                self.bytes(self.consumed + RECORD_HEADER, span - RECORD_HEADER)
                    .into()
            });
            self.peeked[self.aside].copy = copy;
            self.aside += 1;
            self.aside_bytes += span;
            self.consumed += span;
        }
        self.free();
        self.publish();
    }

    /// Lets go of the released records at the front.
    fn free(&mut self) {
        while let Some(Peeked {
            span,
            released: true,
            ..
        }) = self.peeked.front()
        {
            let span = u64::from(*span);
            if self.aside > 0 {
                self.aside -= 1;
                self.aside_bytes -= span;
            } else {
                self.consumed += span;
            }
            self.first += 1;
            self.peeked.pop_front();
        }
        if self.consumed - self.published >= LAG {
            self.publish();
        }
    }

    /// Tells the kernel of all room that is free. To be called when somebody waits for room, and before a rest: a
    /// little of it (less than 4 KiB) is told late otherwise.
    pub fn publish(&mut self) {
        if self.published != self.consumed {
            self.consumer_position()
                .store(self.consumed, Ordering::Release);
            self.published = self.consumed;
        }
    }

    /// Bytes of the ring that are in use, kernel headers included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.producer_position().load(Ordering::Acquire) - self.consumed
    }

    /// Bytes that are recorded and not yet peeked.
    #[must_use]
    pub fn new_bytes(&self) -> u64 {
        self.producer_position()
            .load(Ordering::Acquire)
            .saturating_sub(self.cursor)
    }

    /// Where the record ends that was begun last: a moment, for [`Ring::has_seen`].
    #[must_use]
    pub fn now(&self) -> u64 {
        self.producer_position().load(Ordering::Acquire)
    }

    /// All records that were begun until a [moment](Ring::now) were peeked. (One that another CPU is still writing hides
    /// those behind it, which may be done.)
    #[must_use]
    pub const fn has_seen(&self, moment: u64) -> bool {
        self.cursor >= moment
    }

    /// Bytes of ring that records took which were set aside and are not released.
    #[must_use]
    pub const fn aside_bytes(&self) -> u64 {
        self.aside_bytes
    }

    /// Bytes of ring that released records took since the start.
    #[must_use]
    pub const fn consumed_bytes(&self) -> u64 {
        self.consumed - self.aside_bytes
    }

    /// Bytes that the ring holds.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Records that were peeked and not released.
    #[must_use]
    pub fn held(&self) -> usize {
        self.peeked.len()
    }

    /// Records that could not be read and were skipped. Anything but zero is a bug of the recorder.
    pub(super) fn malformed(&self) -> u64 {
        self.malformed
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, at least 8 bytes long and lives as long as `self`;
        // the kernel accesses the word atomically.
        unsafe { self.consumer.start.cast::<AtomicU64>().as_ref() }
    }

    fn producer_position(&self) -> &AtomicU64 {
        // SAFETY: as in `consumer_position`; we only ever load, since the page is read-only.
        unsafe { self.producer.start.cast::<AtomicU64>().as_ref() }
    }

    /// Length and flags of the record whose kernel header is at `position`.
    fn record_word(&self, position: u64) -> &AtomicU32 {
        let offset = self.page + (position & (self.capacity - 1));
        // SAFETY: the offset is inside of the first copy of the data, and a multiple of 8 since all
        // records are; the kernel writes the word atomically and we only load.
        unsafe {
            self.producer
                .start
                .add(offset as usize)
                .cast::<AtomicU32>()
                .as_ref()
        }
    }

    /// `len` bytes from `position`, which must be in a complete record that is not released.
    fn bytes(&self, position: u64, len: u64) -> &[u8] {
        assert!(
            len <= self.capacity,
            "a record of {len} bytes in a ring of {} bytes",
            self.capacity
        );
        let offset = self.page + (position & (self.capacity - 1));
        // SAFETY: offset + len is inside of the doubled data area (offset < page + capacity, len <=
        // capacity). The kernel does not write there while the record is between the
        // published consumer position and the producer position, which every caller makes sure of: a
        // new record is, and an `EventRef` that exists was not released.
        unsafe {
            slice::from_raw_parts(
                self.producer.start.add(offset as usize).as_ptr(),
                len as usize,
            )
        }
    }
}

// SAFETY: the mappings belong to this value alone and are not bound to a thread; everything that changes
// state takes `&mut self`.
unsafe impl Send for Ring {}

/// A shared mapping of a file descriptor.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(fd: &impl AsRawFd, offset: u64, len: u64, protection: i32) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping at a place of the kernel's choice; nothing existing is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start =
            NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mmap; references into it borrow the owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn page_size() -> u64 {
    // SAFETY: no memory is involved.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }
        .try_into()
        .expect("the page size is positive")
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::matcher::test_record as record;

    const CAPACITY: u64 = 64 * 1024;

    /// A file with the layout of a ring map (whose second copy of the data is not one), and the
    /// kernel's side of it.
    struct Kernel {
        file: File,
        position: u64,
    }

    impl Kernel {
        fn new() -> (Self, Ring) {
            let file = File::from(memfd_create("ring", MFdFlags::empty()).expect("memfd"));
            file.set_len(2 * page_size() + 2 * CAPACITY).expect("size");
            let ring = Ring::map(&file, CAPACITY).expect("map");
            (Self { file, position: 0 }, ring)
        }

        fn at(&self, position: u64) -> u64 {
            2 * page_size() + position
        }

        /// Reserves a record with these flags; returns where.
        fn put(&mut self, flags: u32, bytes: &[u8]) -> u64 {
            let at = self.position;
            self.file
                .write_all_at(bytes, self.at(at + RECORD_HEADER))
                .expect("write");
            self.file
                .write_all_at(&(bytes.len() as u32 | flags).to_le_bytes(), self.at(at))
                .expect("write");
            self.position += RECORD_HEADER + (bytes.len() as u64).next_multiple_of(8);
            self.file
                .write_all_at(&self.position.to_le_bytes(), page_size())
                .expect("write");
            at
        }

        /// What the kernel knows to be free once it was told of all.
        fn told_by(&self, ring: &mut Ring) -> u64 {
            ring.publish();
            self.consumer()
        }

        fn consumer(&self) -> u64 {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, 0).expect("read");
            u64::from_le_bytes(bytes)
        }
    }

    #[test]
    fn a_busy_record_holds_up_those_behind_it() {
        let (mut kernel, mut ring) = Kernel::new();
        let bytes = record(1, 4, &[(1, 0, b"abcd")]);
        let busy = kernel.put(BUSY, &bytes);
        kernel.put(0, &record(2, 0, &[]));
        assert!(ring.peek_new().is_none());
        kernel
            .file
            .write_all_at(&(bytes.len() as u32).to_le_bytes(), kernel.at(busy))
            .expect("write");
        let first = ring.peek_new().expect("complete now");
        let second = ring.peek_new().expect("complete all the time");
        assert_eq!((first.header.nr, second.header.nr), (1, 2));
        assert_eq!(ring.event(&first).part(1, 0), Some(&b"abcd"[..]));
        ring.release(first);
        ring.release(second);
        assert_eq!(kernel.told_by(&mut ring), kernel.position);
    }

    #[test]
    fn the_kernel_is_told_of_room_by_the_page() {
        let (mut kernel, mut ring) = Kernel::new();
        for _ in 0..3 {
            kernel.put(0, &record(1, 0, &[(1, 0, &[7; 1500])]));
        }
        let span = kernel.position / 3;
        let [a, b, c] = [(); 3].map(|()| ring.peek_new().expect("a record"));
        ring.release(a);
        ring.release(b);
        assert_eq!((kernel.consumer(), ring.used_bytes()), (0, span));
        ring.release(c);
        assert_eq!(kernel.consumer(), 3 * span);
        kernel.put(0, &record(1, 0, &[]));
        let d = ring.peek_new().expect("a record");
        ring.release(d);
        assert_eq!(kernel.consumer(), 3 * span);
        ring.publish();
        assert_eq!(kernel.consumer(), kernel.position);
    }

    #[test]
    fn space_goes_back_with_the_longest_released_prefix() {
        let (mut kernel, mut ring) = Kernel::new();
        let mut ends = Vec::new();
        for nr in 0..4 {
            kernel.put(0, &record(nr, 0, &[]));
            ends.push(kernel.position);
        }
        let [a, b, c, d] = [(); 4].map(|()| ring.peek_new().expect("a record"));
        ring.release(c);
        ring.release(b);
        assert_eq!((kernel.told_by(&mut ring), ring.used_bytes()), (0, ends[3]));
        ring.release(a);
        assert_eq!((kernel.told_by(&mut ring), ring.held()), (ends[2], 1));
        ring.release(d);
        assert_eq!((kernel.told_by(&mut ring), ring.used_bytes()), (ends[3], 0));
    }

    #[test]
    fn what_is_set_aside_stays_readable_and_frees_the_ring() {
        let (mut kernel, mut ring) = Kernel::new();
        let texts: [&[u8]; 4] = [b"one", b"number two", b"three", b"and four"];
        let mut ends = vec![0];
        for (nr, text) in texts.iter().enumerate() {
            kernel.put(0, &record(nr as u16, 0, &[(1, 0, text)]));
            ends.push(kernel.position);
        }
        let [a, b, c, d] = [(); 4].map(|()| ring.peek_new().expect("a record"));
        ring.release(b);
        ring.set_aside(ends[3] - 1);
        assert_eq!((kernel.consumer(), ring.aside_bytes()), (ends[2], ends[2]));
        ring.set_aside(ends[3]);
        assert_eq!(
            (kernel.consumer(), ring.used_bytes()),
            (ends[3], ends[4] - ends[3])
        );
        // The kernel may write there now.
        let junk = vec![0xee; ends[3] as usize];
        kernel
            .file
            .write_all_at(&junk, kernel.at(0))
            .expect("write");
        for (event, text) in [(&a, texts[0]), (&c, texts[2]), (&d, texts[3])] {
            assert_eq!(ring.event(event).part(1, 0), Some(text));
        }
        ring.release(c);
        assert_eq!((ring.consumed_bytes(), ring.held()), (0, 4));
        ring.release(a);
        assert_eq!((ring.consumed_bytes(), ring.aside_bytes()), (ends[3], 0));
        assert_eq!((ring.held(), kernel.told_by(&mut ring)), (1, ends[3]));
        // From here on it is a ring like any other.
        kernel.put(0, &record(9, 0, &[]));
        let e = ring.peek_new().expect("the next");
        ring.release(e);
        assert_eq!(kernel.told_by(&mut ring), ends[3]);
        ring.release(d);
        assert_eq!(
            (kernel.told_by(&mut ring), ring.consumed_bytes()),
            (kernel.position, kernel.position)
        );
    }

    #[test]
    fn discarded_records_are_skipped_and_given_back() {
        let (mut kernel, mut ring) = Kernel::new();
        kernel.put(DISCARDED, &[0; 100]);
        let after_first = kernel.position;
        kernel.put(0, &record(7, 0, &[]));
        let event = ring.peek_new().expect("the second");
        assert_eq!(
            (event.header.nr, kernel.told_by(&mut ring)),
            (7, after_first)
        );
        ring.release(event);
        assert_eq!(
            (kernel.told_by(&mut ring), ring.malformed()),
            (kernel.position, 0)
        );
    }

    #[test]
    fn a_record_that_makes_no_sense_is_counted_not_returned() {
        let (mut kernel, mut ring) = Kernel::new();
        kernel.put(0, &[0xff; 100]);
        kernel.put(0, &[1; 3]);
        assert!(ring.peek_new().is_none());
        assert_eq!((ring.malformed(), ring.used_bytes()), (2, 0));
    }
}
