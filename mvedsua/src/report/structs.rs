//! Decoded C structs, as far as a reader of a report wants to see into them.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;

use nix::sys::signal::Signal;

use super::call::quoted;
use super::flags;

/// Entries of an array, bytes of an unknown struct that are shown.
const SHOWN: usize = 16;

/// `N` bytes of `bytes` at `at`, zero-padded where it is too short.
fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    for (to, from) in taken.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    taken
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_ne_bytes(take(bytes, at))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_ne_bytes(take(bytes, at))
}

/// `[a, b, ...]`, cut after [`SHOWN`] entries.
fn list(entries: impl ExactSizeIterator<Item = String>) -> String {
    let total = entries.len();
    let mut shown: Vec<String> = entries.take(SHOWN).collect();
    if total > SHOWN {
        shown.push(format!("... {total} in all"));
    }
    format!("[{}]", shown.join(", "))
}

/// The struct that C calls `name`; an unknown one as its first bytes in hex.
pub(super) fn c_struct(name: &str, bytes: &[u8]) -> String {
    let pair = |at, first, second| {
        format!(
            "{{{first}={}, {second}={}}}",
            i64_at(bytes, at),
            i64_at(bytes, at + 8)
        )
    };
    let timespec = |at| pair(at, "tv_sec", "tv_nsec");
    let timeval = |at| pair(at, "tv_sec", "tv_usec");
    match name {
        "int" | "timer_t" | "sched_param" => format!("[{}]", i32_at(bytes, 0)),
        "unsigned int" => format!("[{}]", i32_at(bytes, 0).cast_unsigned()),
        "int[2]" | "uid_t[2]" => format!("[{}, {}]", i32_at(bytes, 0), i32_at(bytes, 4)),
        "loff_t" | "time_t" | "uint64_t" | "unsigned long" => format!("[{}]", i64_at(bytes, 0)),
        "char[16]" => quoted(until_nul(bytes)),
        "timespec" => timespec(0),
        "timespec[2]" => format!("[{}, {}]", timespec(0), timespec(16)),
        "timeval" => timeval(0),
        "timeval[2]" => format!("[{}, {}]", timeval(0), timeval(16)),
        "itimerspec" => format!("{{it_interval={}, it_value={}}}", timespec(0), timespec(16)),
        "itimerval" => format!("{{it_interval={}, it_value={}}}", timeval(0), timeval(16)),
        "rlimit" => pair(0, "rlim_cur", "rlim_max"),
        "sigset_t" => sigset(u64::from_ne_bytes(take(bytes, 0))),
        "stat" => format!(
            "{{st_ino={}, st_mode={:#o}, st_size={}}}",
            i64_at(bytes, 8),
            i32_at(bytes, 24),
            i64_at(bytes, 48)
        ),
        "flock" => format!(
            "{{l_type={}, l_whence={}, l_start={}, l_len={}}}",
            i16::from_ne_bytes(take(bytes, 0)),
            i16::from_ne_bytes(take(bytes, 2)),
            i64_at(bytes, 8),
            i64_at(bytes, 16)
        ),
        _ => format!("{{{name}: {}}}", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    let shown: Vec<String> = bytes
        .iter()
        .take(SHOWN)
        .map(|b| format!("{b:02x}"))
        .collect();
    let rest = if bytes.len() > SHOWN { " ..." } else { "" };
    shown.join(" ") + rest
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// Signals of a mask, by name; real-time signals by number.
fn sigset(mask: u64) -> String {
    let names: Vec<String> = (1..=64)
        .filter(|signal| mask & (1 << (signal - 1)) != 0)
        .map(|signal| {
            Signal::try_from(signal).map_or_else(|_| format!("SIG{signal}"), |s| s.to_string())
        })
        .collect();
    format!("[{}]", names.join(" "))
}

/// A socket address.
pub(super) fn sockaddr(bytes: &[u8]) -> String {
    let family = u16::from_ne_bytes(take(bytes, 0));
    let port = u16::from_be_bytes(take(bytes, 2));
    match i32::from(family) {
        libc::AF_INET if bytes.len() >= 8 => {
            format!(
                "{{AF_INET, {}:{port}}}",
                Ipv4Addr::from(take::<4>(bytes, 4))
            )
        }
        libc::AF_INET6 if bytes.len() >= 24 => {
            format!(
                "{{AF_INET6, [{}]:{port}}}",
                Ipv6Addr::from(take::<16>(bytes, 8))
            )
        }
        libc::AF_UNIX => match bytes.get(2..).unwrap_or_default() {
            [] => "{AF_UNIX}".to_owned(),
            // An abstract name begins with a NUL and may hold more of them.
            [0, name @ ..] => format!("{{AF_UNIX, @{}}}", quoted(name)),
            path => format!("{{AF_UNIX, {}}}", quoted(until_nul(path))),
        },
        _ => format!(
            "{{sa_family={family}, {}}}",
            hex(bytes.get(2..).unwrap_or_default())
        ),
    }
}

/// An array of `struct epoll_event` (packed: 4 bytes mask, 8 bytes data).
pub(super) fn epoll_events(bytes: &[u8]) -> String {
    list(bytes.chunks_exact(12).map(epoll_event))
}

/// One `struct epoll_event`.
pub(super) fn epoll_event(bytes: &[u8]) -> String {
    let events = flags::epoll(u32::from_ne_bytes(take(bytes, 0)));
    format!(
        "{{{events}, data={:#x}}}",
        u64::from_ne_bytes(take(bytes, 4))
    )
}

/// An array of `struct pollfd`.
pub(super) fn pollfds(bytes: &[u8]) -> String {
    list(bytes.chunks_exact(8).map(|entry| {
        let events = flags::poll(u16::from_ne_bytes(take(entry, 4)));
        let revents = u16::from_ne_bytes(take(entry, 6));
        let got = if revents == 0 {
            String::new()
        } else {
            format!(" -> {}", flags::poll(revents))
        };
        format!("{{fd {}, {events}{got}}}", i32_at(entry, 0))
    }))
}

/// The descriptors of an `fd_set`.
pub(super) fn fd_set(bytes: &[u8]) -> String {
    let set: Vec<String> = (0..bytes.len() * 8)
        .filter(|fd| bytes[fd / 8] & (1 << (fd % 8)) != 0)
        .map(|fd| fd.to_string())
        .collect();
    list(set.into_iter())
}

/// A path, up to its NUL.
pub(super) fn path(bytes: &[u8]) -> String {
    quoted(OsStr::from_bytes(until_nul(bytes)).as_bytes())
}

/// A length word.
pub(super) fn length_word(bytes: &[u8]) -> String {
    format!("[{}]", i32_at(bytes, 0).cast_unsigned())
}
