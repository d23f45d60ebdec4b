//! The recorder on the real kernel: needs root (CAP_BPF, CAP_PERFMON). These tests fail, and say
//! so, where eBPF cannot be loaded; they never pass without having recorded something.

mod recorder {
    pub mod victim;
}

use std::{ffi::CString, ptr::null_mut};

use mvedsua::recorder::Recorder;
use mvedsua_common::clock::{
    NEAR_SLOTS, READINGS_AT, Reading, SLOT_BYTES, SLOTS, SlotHeader, WHAT_BITS,
};
use mvedsua_common::event::{
    FLAG_OUT_OF_LINE, FLAG_RESTARTED, FLAG_RING_FULL, FLAG_SIGNAL, MAX_PAYLOAD, MAX_RECORD, NO_ARG,
    PART_MSG_CONTROL, PART_MSG_DATA, PART_MSG_HEADER, PART_MSG_NAME, PART_READINGS, PART_WHOLE,
};
use recorder::victim::Victim;

const READ: u16 = 0;
const WRITE: u16 = 1;
const WRITEV: u16 = 20;
const NANOSLEEP: u16 = 35;
const SENDMSG: u16 = 46;
const RECVMSG: u16 = 47;
const EPOLL_WAIT: u16 = 232;
const OPENAT: u16 = 257;

/// `len` bytes that are all different within any 251 of them.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Both ends of a pipe that holds a mebibyte.
fn pipe() -> (i32, i32) {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: no memory is involved.
    assert!(unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 1 << 20) } >= 1 << 20);
    (ends[0], ends[1])
}

#[test]
fn a_program_of_the_system_is_recorded_from_open_to_write() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let bytes = pattern(3000);
    std::fs::write(file.path(), &bytes).expect("write the file");
    let path = file.path().to_str().expect("plain name").to_owned();
    let mut victim = Victim::shell(&format!("exec dd if={path} bs=4096 count=1 status=none"));

    let name = format!("{path}\0").into_bytes();
    let opened = victim.find(OPENAT, |event| event.part(1, PART_WHOLE) == Some(&name));
    assert!(opened.header.ret >= 0);
    let read = victim.find(READ, |event| event.header.ret == 3000);
    let written = victim.find(WRITE, |event| event.header.ret == 3000);
    for event in [&read, &written] {
        assert_eq!(
            victim.recorder.ring.event(event).part(1, PART_WHOLE),
            Some(&bytes[..])
        );
        assert_eq!(
            (event.header.tgid, event.header.tid),
            (victim.pid(), victim.pid())
        );
        assert_eq!(
            event.header.args[2],
            if event.header.nr == READ { 4096 } else { 3000 }
        );
    }
    assert!(opened.position < read.position && read.position < written.position);
    for event in [opened, written, read] {
        victim.recorder.ring.release(event);
    }
    victim.ends();
    let counters = victim.recorder.counters().expect("counters");
    assert_eq!(
        (counters.lost, counters.out_of_line, counters.ring_full),
        (0, 0, 0)
    );
}

#[test]
fn every_length_up_to_the_largest_is_recorded_whole() {
    // The largest read whose part (with its header) still fits.
    let largest = MAX_PAYLOAD - 8;
    let lengths = [0, 1, 7, 8, 9, 4095, 4097, largest - 1, largest];
    let bytes = pattern(largest);
    let mut victim = Victim::fork(|| {
        let (out, into) = pipe();
        let mut buffer = vec![0u8; largest];
        for len in lengths {
            // SAFETY: both buffers have `largest` bytes.
            unsafe {
                libc::write(into, bytes.as_ptr().cast(), len);
                if len > 0 {
                    libc::read(out, buffer.as_mut_ptr().cast(), largest);
                }
            }
        }
    });
    for len in lengths {
        for nr in [WRITE, READ].into_iter().take(if len == 0 { 1 } else { 2 }) {
            let event = victim.find(nr, |event| event.header.ret == len as i64);
            assert_eq!(event.header.flags, 0, "{len} bytes");
            let seen = victim
                .recorder
                .ring
                .event(&event)
                .part(1, PART_WHOLE)
                .unwrap_or_default();
            assert_eq!(seen, &bytes[..len], "call {nr}");
            victim.recorder.ring.release(event);
        }
    }
    victim.ends();
}

#[test]
fn a_payload_that_is_too_large_stops_the_thread_at_that_exit() {
    let largest = MAX_PAYLOAD - 8;
    let bytes = pattern(largest + 1);
    let mut victim = Victim::fork(|| {
        let (_out, into) = pipe();
        // SAFETY: the buffer has that many bytes.
        unsafe {
            libc::write(into, bytes.as_ptr().cast(), largest + 1);
            libc::write(into, bytes.as_ptr().cast(), 3);
        }
    });
    victim.stops();
    let event = victim.find(WRITE, |event| event.header.ret == largest as i64 + 1);
    assert_eq!(event.header.flags, FLAG_OUT_OF_LINE);
    assert_eq!(event.header.parts, 0);
    victim.recorder.ring.release(event);
    assert!(
        victim.recorder.ring.peek_new().is_none(),
        "the thread ran on after the exit"
    );
    victim.goes_on();
    let after = victim.find(WRITE, |event| event.header.ret == 3);
    assert_eq!(
        victim.recorder.ring.event(&after).part(1, PART_WHOLE),
        Some(&bytes[..3])
    );
    victim.recorder.ring.release(after);
    victim.ends();
    assert_eq!(victim.recorder.counters().expect("counters").out_of_line, 1);
}

#[test]
fn memory_that_is_not_resident_goes_out_of_line() {
    let mut victim = Victim::fork(|| {
        // SAFETY: a fresh mapping of our own; /dev/null never looks at the bytes, so nobody touches it.
        unsafe {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
            let page = libc::mmap(
                null_mut(),
                4096,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            libc::write(null, page, 100);
        }
    });
    victim.stops();
    let event = victim.find(WRITE, |event| event.header.ret == 100);
    assert_eq!(
        (event.header.flags, event.header.parts),
        (FLAG_OUT_OF_LINE, 0)
    );
    victim.recorder.ring.release(event);
    victim.goes_on();
    victim.ends();
}

#[test]
fn vectors_are_put_end_to_end() {
    let bytes = pattern(10_000);
    let vector = |from: usize, len: usize| libc::iovec {
        iov_base: bytes[from..].as_ptr().cast_mut().cast(),
        iov_len: len,
    };
    let few: Vec<libc::iovec> = [
        (0, 3),
        (3, 0),
        (3, 5000),
        (5003, 1),
        (5004, 0),
        (5004, 96),
        (5100, 900),
        (6000, 4000),
    ]
    .map(|(from, len)| vector(from, len))
    .into();
    let many: Vec<libc::iovec> = (0..9).map(|n| vector(n, 1)).collect();
    let mut victim = Victim::fork(|| {
        let (_out, into) = pipe();
        // SAFETY: the vectors point into `bytes`.
        unsafe {
            libc::writev(into, few.as_ptr(), few.len() as i32);
            libc::writev(into, many.as_ptr(), many.len() as i32);
        }
    });
    let event = victim.find(WRITEV, |event| event.header.ret == 10_000);
    let parts: Vec<_> = victim
        .recorder
        .ring
        .event(&event)
        .parts()
        .map(|part| (part.arg, part.flags))
        .collect();
    assert_eq!(parts, [(1, PART_WHOLE)]);
    assert_eq!(
        victim.recorder.ring.event(&event).part(1, PART_WHOLE),
        Some(&bytes[..])
    );
    victim.recorder.ring.release(event);
    victim.stops();
    let event = victim.find(WRITEV, |event| event.header.ret == 9);
    assert_eq!(
        event.header.flags, FLAG_OUT_OF_LINE,
        "nine vectors are more than are gathered"
    );
    victim.recorder.ring.release(event);
    victim.goes_on();
    victim.ends();
}

#[test]
fn a_message_is_recorded_in_pieces() {
    let bytes = pattern(300);
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = CString::new(folder.path().join("s").to_str().expect("plain name")).expect("no NUL");
    let name_len = 2 + path.as_bytes_with_nul().len();
    let mut victim = Victim::fork(|| {
        // SAFETY: plain C structs, for which all zeroes is a value; all pointers are to locals.
        unsafe {
            let mut address: libc::sockaddr_un = std::mem::zeroed();
            address.sun_family = libc::AF_UNIX as u16;
            for (to, from) in address.sun_path.iter_mut().zip(path.as_bytes()) {
                *to = *from as libc::c_char;
            }
            let receiver = libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0);
            libc::bind(receiver, (&raw const address).cast(), name_len as u32);
            let sender = libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0);

            let mut vectors = [
                libc::iovec {
                    iov_base: bytes.as_ptr().cast_mut().cast(),
                    iov_len: 100,
                },
                libc::iovec {
                    iov_base: bytes[100..].as_ptr().cast_mut().cast(),
                    iov_len: 200,
                },
            ];
            // One descriptor is passed along.
            let mut control = [0u64; 3];
            let head = control.as_mut_ptr().cast::<libc::cmsghdr>();
            (*head).cmsg_len = 20;
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            *control.as_mut_ptr().add(2).cast::<i32>() = 1;
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_name = (&raw mut address).cast();
            message.msg_namelen = name_len as u32;
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_iovlen = 2;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = 24;
            libc::sendmsg(sender, &message, 0);

            let mut buffer = [0u8; 512];
            vectors = [
                libc::iovec {
                    iov_base: buffer.as_mut_ptr().cast(),
                    iov_len: 1,
                },
                libc::iovec {
                    iov_base: buffer[1..].as_mut_ptr().cast(),
                    iov_len: 511,
                },
            ];
            let mut received = [0u64; 16];
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_name = null_mut();
            message.msg_namelen = 0;
            message.msg_control = received.as_mut_ptr().cast();
            message.msg_controllen = 128;
            libc::recvmsg(receiver, &mut message, 0);
        }
    });
    let sent = victim.find(SENDMSG, |event| event.header.ret == 300);
    let pieces: Vec<_> = victim
        .recorder
        .ring
        .event(&sent)
        .parts()
        .map(|part| (part.arg, part.flags, part.data.len()))
        .collect();
    assert_eq!(
        pieces,
        [
            (1, PART_MSG_HEADER, 56),
            (1, PART_MSG_NAME, name_len),
            (1, PART_MSG_DATA, 300),
            (1, PART_MSG_CONTROL, 24)
        ]
    );
    let event = victim.recorder.ring.event(&sent);
    assert_eq!(event.part(1, PART_MSG_DATA), Some(&bytes[..]));
    assert_eq!(
        event.part(1, PART_MSG_NAME).map(|name| &name[2..]),
        Some(path.as_bytes_with_nul())
    );
    victim.recorder.ring.release(sent);

    let received = victim.find(RECVMSG, |event| event.header.ret == 300);
    let event = victim.recorder.ring.event(&received);
    let pieces: Vec<_> = event
        .parts()
        .map(|part| (part.arg, part.flags, part.data.len()))
        .collect();
    assert_eq!(
        pieces,
        [
            (1, PART_MSG_HEADER, 56),
            (1, PART_MSG_DATA, 300),
            (1, PART_MSG_CONTROL, 24)
        ]
    );
    assert_eq!(event.part(1, PART_MSG_DATA), Some(&bytes[..]));
    victim.recorder.ring.release(received);
    victim.ends();
}

#[test]
fn what_a_failed_call_was_given_is_recorded_and_what_it_would_have_filled_in_is_not() {
    let mut victim = Victim::fork(|| {
        let mut byte = 0u8;
        // SAFETY: one byte of room; the path is a C string.
        unsafe {
            libc::open(c"/no/such/file".as_ptr(), libc::O_RDONLY);
            libc::read(-1, (&raw mut byte).cast(), 1);
            libc::open(8 as *const libc::c_char, libc::O_RDONLY);
        }
    });
    let opened = victim.find(OPENAT, |event| event.header.ret == -i64::from(libc::ENOENT));
    assert_eq!(
        victim.recorder.ring.event(&opened).part(1, PART_WHOLE),
        Some(&b"/no/such/file\0"[..])
    );
    victim.recorder.ring.release(opened);
    let read = victim.find(READ, |event| event.header.ret == -i64::from(libc::EBADF));
    assert_eq!(read.header.parts, 0);
    victim.recorder.ring.release(read);
    let bad = victim.find(OPENAT, |event| event.header.ret == -i64::from(libc::EFAULT));
    assert_eq!((bad.header.flags, bad.header.parts), (0, 0));
    victim.recorder.ring.release(bad);
    victim.ends();
}

#[test]
fn epoll_events_are_recorded_as_many_as_there_are() {
    let mut victim = Victim::fork(|| {
        let (out, into) = pipe();
        // SAFETY: room for eight events.
        unsafe {
            let instance = libc::epoll_create1(0);
            let mut event = libc::epoll_event {
                events: libc::EPOLLIN as u32,
                u64: 0x1122_3344_5566_7788,
            };
            libc::epoll_ctl(instance, libc::EPOLL_CTL_ADD, out, &mut event);
            libc::write(into, b"x".as_ptr().cast(), 1);
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
            libc::epoll_wait(instance, events.as_mut_ptr(), 8, 0);
        }
    });
    let event = victim.find(EPOLL_WAIT, |event| event.header.ret == 1);
    let mut expected = (libc::EPOLLIN as u32).to_le_bytes().to_vec();
    expected.extend_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!(
        victim.recorder.ring.event(&event).part(1, PART_WHOLE),
        Some(&expected[..])
    );
    victim.recorder.ring.release(event);
    victim.ends();
}

#[test]
fn a_restarted_call_keeps_its_number() {
    let mut victim = Victim::fork(|| {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 300_000_000,
        };
        // SAFETY: a time that lives as long as the call.
        unsafe { libc::syscall(i64::from(NANOSLEEP), &time, 0) };
    });
    // A stop and a continue interrupt the sleep without a handler: the kernel restarts it.
    victim.waits_in(NANOSLEEP);
    victim.stop();
    victim.stops();
    let interrupted = victim.find(NANOSLEEP, |_| true);
    assert_eq!(
        (interrupted.header.ret, interrupted.header.flags),
        (-516, FLAG_SIGNAL)
    );
    victim.recorder.ring.release(interrupted);
    victim.goes_on();
    let finished = victim.find(NANOSLEEP, |_| true);
    assert_eq!(
        (finished.header.ret, finished.header.flags),
        (0, FLAG_RESTARTED)
    );
    victim.recorder.ring.release(finished);
    victim.ends();
}

#[test]
fn a_full_ring_stops_the_thread_and_loses_nothing() {
    const CALLS: usize = 4000;
    let bytes = pattern(1024);
    let mut victim = Victim::fork(|| {
        let (out, into) = pipe();
        let mut buffer = [0u8; 1024];
        for n in 0..CALLS {
            // SAFETY: both buffers have 1,024 bytes.
            unsafe {
                libc::write(into, bytes.as_ptr().cast(), 1 + n % 1024);
                libc::read(out, buffer.as_mut_ptr().cast(), 1024);
            }
        }
    });
    let (mut seen, mut stops) = (0, 0);
    while seen < CALLS {
        // Let the ring run full each time, and take everything out when the thread has stopped.
        let last = victim.stops_or_ends();
        stops += u32::from(!last);
        let mut full = 0;
        while let Some(event) = victim.recorder.ring.peek_new() {
            if event.header.nr == WRITE && event.header.ret != 1025 {
                let len = 1 + seen % 1024;
                assert_eq!(event.header.ret, len as i64, "write {seen}");
                assert_eq!(
                    victim.recorder.ring.event(&event).part(1, PART_WHOLE),
                    Some(&bytes[..len])
                );
                seen += 1;
            }
            full += u32::from(event.header.flags & FLAG_RING_FULL != 0);
            victim.recorder.ring.release(event);
        }
        assert_eq!(
            full,
            u32::from(!last),
            "one record says why the thread stopped"
        );
        assert_eq!(victim.recorder.ring.used_bytes(), 0);
        if !last {
            victim.goes_on();
        }
    }
    assert!(
        stops >= 3,
        "the ring of {} bytes was full {stops} times only",
        victim.recorder.ring.capacity()
    );
    let counters = victim.recorder.counters().expect("counters");
    assert_eq!((counters.lost, counters.ring_full), (0, u64::from(stops)));
}

#[test]
fn space_is_given_back_in_order_only() {
    let mut victim = Victim::fork(|| {
        let (_out, into) = pipe();
        for _ in 0..3 {
            // SAFETY: four bytes.
            unsafe { libc::write(into, b"abcd".as_ptr().cast(), 4) };
        }
    });
    let [first, second, third] =
        [(); 3].map(|()| victim.find(WRITE, |event| event.header.ret == 4));
    victim.ends();
    while let Some(event) = victim.recorder.ring.peek_new() {
        victim.recorder.ring.release(event);
    }
    let span = u64::from(first.header.len) + 8;
    let all = victim.recorder.ring.used_bytes();
    victim.recorder.ring.release(third);
    victim.recorder.ring.release(second);
    assert_eq!(victim.recorder.ring.used_bytes(), all);
    assert_eq!(
        victim.recorder.ring.event(&first).part(1, PART_WHOLE),
        Some(&b"abcd"[..])
    );
    victim.recorder.ring.release(first);
    assert_eq!(victim.recorder.ring.used_bytes(), 0);
    assert!(all >= 3 * span);
    assert_eq!(victim.recorder.ring.held(), 0);
}

/// The first reading that comes with a call of a thread that has written one down in its slot, the recorder being told
/// of that slot by `tell` (the thread, the slot's address).
fn recorded_reading(tell: impl FnOnce(&mut Recorder, u32, u64)) -> Option<Reading> {
    #[repr(C, align(4096))]
    struct Slot([u8; SLOT_BYTES as usize]);
    let mut slot = Box::new(Slot([0; SLOT_BYTES as usize]));
    let address = (&raw mut *slot).cast::<u8>();
    let (told, tell_it) = pipe();
    let (_out, into) = pipe();
    let mut victim = Victim::fork(|| {
        let mut byte = 0u8;
        let reading = Reading {
            seconds: 77,
            fraction: 5,
            what: 1 | 1 << WHAT_BITS,
        };
        // SAFETY: the slot is a page of ours, a header and then readings; one byte of room, four bytes to write.
        unsafe {
            libc::read(told, (&raw mut byte).cast(), 1);
            address
                .add(READINGS_AT as usize)
                .cast::<Reading>()
                .write(reading);
            (*address.cast::<SlotHeader>()).count = 1;
            libc::write(into, b"abcd".as_ptr().cast(), 4);
        }
    });
    let tid = victim.pid();
    tell(&mut victim.recorder, tid, address as u64);
    // SAFETY: one byte.
    assert_eq!(unsafe { libc::write(tell_it, b"x".as_ptr().cast(), 1) }, 1);
    let call = victim.find(WRITE, |event| event.header.ret == 4);
    let event = victim.recorder.ring.event(&call);
    let readings = event.part(NO_ARG, PART_READINGS).map(<[u8]>::to_vec);
    victim.recorder.ring.release(call);
    victim.ends();
    let readings = readings?;
    let word = |at: usize| u64::from_le_bytes(readings[at..at + 8].try_into().expect("eight"));
    assert_eq!((readings.len(), word(0)), (8 + size_of::<Reading>(), 0));
    Some(Reading {
        seconds: word(8),
        fraction: word(16) as u32,
        what: (word(16) >> 32) as u32,
    })
}

#[test]
fn readings_come_with_the_next_call_whoever_has_the_threads_place() {
    type Tell = fn(&mut Recorder, u32, u64);
    let set = |recorder: &mut Recorder, tid, address| {
        recorder.set_clock(tid, address).expect("a slot");
    };
    let cases: [(&str, bool, Tell); 6] = [
        ("no slot", false, |_, _, _| {}),
        ("its place", true, set),
        ("the hash map", true, |recorder, tid, address| {
            recorder.set_clock(tid + NEAR_SLOTS, 8).expect("its place");
            recorder.set_clock(tid, address).expect("the hash map");
        }),
        ("both, and taken", false, |recorder, tid, address| {
            recorder.set_clock(tid + NEAR_SLOTS, 8).expect("its place");
            recorder.set_clock(tid, address).expect("the hash map");
            recorder.remove_clock(tid + NEAR_SLOTS);
            recorder.set_clock(tid, address).expect("its place");
            recorder.remove_clock(tid);
        }),
        ("taken from its place", false, |recorder, tid, address| {
            recorder.set_clock(tid, address).expect("a slot");
            recorder.remove_clock(tid);
        }),
        (
            "taken from the hash map",
            false,
            |recorder, tid, address| {
                recorder.set_clock(tid + NEAR_SLOTS, 8).expect("its place");
                recorder.set_clock(tid, address).expect("the hash map");
                recorder.remove_clock(tid);
            },
        ),
    ];
    for (name, comes, tell) in cases {
        let reading = recorded_reading(tell);
        assert_eq!(
            reading.map(|reading| (reading.seconds, reading.fraction)),
            comes.then_some((77, 5)),
            "{name}"
        );
    }
}

/// The hash map has room for `SLOTS` threads; a thread that finds its place free needs none there.
#[test]
fn only_threads_whose_place_is_anothers_are_in_the_hash_map() {
    let mut recorder = Recorder::load(1 << 20).expect("load the recorder");
    let with_the_place_of_one = |n: u32| 1 + n * NEAR_SLOTS;
    let mut set = |tid| recorder.set_clock(tid, 8);
    for n in 0..=SLOTS as u32 {
        set(with_the_place_of_one(n)).expect("the first in its place, the others in the hash map");
    }
    let more = with_the_place_of_one(SLOTS as u32 + 1);
    set(more).expect_err("the hash map is full");
    for tid in 2..1000 {
        set(tid).expect("its own place");
    }
    recorder.remove_clock(with_the_place_of_one(0));
    recorder
        .set_clock(more, 8)
        .expect("the place is free again");
}

#[test]
fn a_ring_of_a_wrong_size_is_refused_before_anything_is_loaded() {
    for bytes in [0, 4096, (1 << 20) - 1, 3 << 20, 1 << 32] {
        let refused = Recorder::load(bytes).expect_err("a size that the kernel does not take");
        assert!(
            matches!(refused, mvedsua::recorder::RecorderError::RingSize { .. }),
            "{refused}"
        );
    }
    const { assert!(MAX_RECORD < 1 << 20) };
}
