//! Names of the kernel interface, as rules use them: calls, their arguments, errors.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use mvedsua_common::spec::{Arg, Class, Dir, Len, Syscall};
use mvedsua_common::table;

use super::diagnostic::nearest;
use crate::report::flags;

/// What an argument position of a call stands for in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The register as a number.
    Number(u8),
    /// The memory that the argument points to.
    Data(u8),
    /// Memory if it was recorded, else the register (the argument of a multiplexed call).
    Either(u8),
    /// How long the text of argument `data` is: for a buffer that the kernel fills the bytes that
    /// it put there (0 for a failed call), for one that it reads the register itself.
    Length {
        /// The register that holds the size.
        arg: u8,
        /// The argument whose text it measures.
        data: u8,
        /// True when the kernel fills the buffer, so that the result is the length.
        filled: bool,
    },
    /// The result.
    Result,
    /// The text of a message.
    Text,
}

/// Which way a call moves the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flow {
    /// From the peer to the server: `read`, `recvfrom` ...
    In,
    /// From the server to the peer: `write`, `sendto` ...
    Out,
}

/// What rules need to know about a call.
#[derive(Clone, Debug)]
pub struct Signature {
    /// Its line in the table.
    pub call: &'static Syscall,
    /// What each argument position stands for; as many as the call takes.
    pub slots: Vec<Slot>,
    /// Its first file descriptor.
    pub fd: Option<u8>,
    /// The argument that holds the bytes of a transfer, and which way they go.
    pub data: Option<(u8, Flow)>,
    /// The register with the size that was asked for.
    pub size: Option<u8>,
    /// It moves several messages, whose number is the result and stands after them.
    pub several: bool,
}

impl Signature {
    /// Signature of a call of the table.
    #[must_use]
    pub fn of(call: &'static Syscall) -> Self {
        let count = call.names.len().min(6);
        let mut slots: Vec<Slot> = (0..count).map(|i| slot(call, i)).collect();
        let fd = (0..count).find(|i| call.args[*i] == Arg::Fd).map(as_u8);
        let mut data = None;
        let mut size = None;
        let several = |arg: &Arg| matches!(arg, Arg::Mem(_, Len::Mmsg));
        for (i, arg) in call.args.iter().enumerate().take(count) {
            let (dir, length) = match *arg {
                Arg::Mem(dir, Len::Arg(length, 1) | Len::RetCapped(length, 1)) => {
                    (dir, Some(length))
                }
                Arg::Mem(dir, Len::Ret(1)) => (dir, size_after(call, i)),
                Arg::Mem(dir, Len::Iov(_) | Len::Msg | Len::Mmsg) => (dir, None),
                _ => continue,
            };
            let flow = if dir == Dir::In { Flow::Out } else { Flow::In };
            if data.is_some() {
                continue;
            }
            data = Some((as_u8(i), flow));
            size = length;
            if let Some(length) = length
                && let Some(slot) = slots.get_mut(usize::from(length))
            {
                *slot = Slot::Length {
                    arg: length,
                    data: as_u8(i),
                    filled: flow == Flow::In,
                };
            }
        }
        Self {
            call,
            slots,
            fd,
            data,
            size,
            several: call.args.iter().any(several),
        }
    }

    /// The position of the argument with that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<usize> {
        self.call
            .names
            .iter()
            .take(self.slots.len())
            .position(|n| *n == name)
    }

    /// Which way the call moves bytes of the stream of a descriptor, if it does.
    #[must_use]
    pub fn stream(&self) -> Option<Flow> {
        self.fd.filter(|_| !self.several)?;
        self.data.map(|(_, flow)| flow)
    }
}

/// The register after buffer `i` when it says how large the buffer is.
fn size_after(call: &Syscall, i: usize) -> Option<u8> {
    let name = call.names.get(i + 1)?;
    let number = matches!(call.args[i + 1], Arg::Int | Arg::Long);
    (number
        && ["count", "len", "siz"]
            .iter()
            .any(|part| name.contains(part)))
    .then(|| as_u8(i + 1))
}

fn as_u8(i: usize) -> u8 {
    u8::try_from(i).unwrap_or(0)
}

fn slot(call: &Syscall, i: usize) -> Slot {
    let at = as_u8(i);
    if call
        .commands
        .is_some_and(|(command, _)| usize::from(command) + 1 == i)
    {
        return Slot::Either(at);
    }
    match call.args[i] {
        Arg::Unused | Arg::Int | Arg::Long | Arg::Fd | Arg::Opaque => Slot::Number(at),
        _ => Slot::Data(at),
    }
}

/// The call with that name.
#[must_use]
pub fn call(name: &str) -> Option<&'static Syscall> {
    table::by_name(name)
}

/// The call with that number.
#[must_use]
pub fn call_by_number(nr: u16) -> Option<&'static Syscall> {
    table::syscall(nr)
}

/// The signature of the call with that number, made once for all.
#[must_use]
pub fn signature(nr: u16) -> Option<&'static Signature> {
    static SIGNATURES: LazyLock<Vec<Option<Signature>>> = LazyLock::new(|| {
        let last = table::SYSCALLS.iter().map(|c| c.nr).max().unwrap_or(0);
        (0..=last)
            .map(|nr| table::syscall(nr).map(Signature::of))
            .collect()
    });
    SIGNATURES.get(usize::from(nr))?.as_ref()
}

/// The call shows what a later one will read (`MSG_PEEK`).
#[must_use]
pub fn only_looks(nr: u16, args: &[u64; 6]) -> bool {
    const MSG_PEEK: i32 = 2;
    static RECEIVES: LazyLock<[(u16, usize); 2]> = LazyLock::new(|| {
        [
            (table::number("recvfrom"), 3),
            (table::number("recvmsg"), 2),
        ]
    });
    RECEIVES
        .iter()
        .any(|(call, flags)| *call == nr && args[*flags] as i32 & MSG_PEEK != 0)
}

/// A call whose name is like `name`.
#[must_use]
pub fn similar_call(name: &str) -> Option<&'static str> {
    nearest(
        name,
        table::SYSCALLS
            .iter()
            .map(|c| c.name)
            .chain(["request", "reply"]),
    )
}

/// Why calls of this class never reach a rule, if that is so.
#[must_use]
pub fn never_recorded(call: &Syscall) -> Option<&'static str> {
    match call.class {
        Class::Local => {
            Some("each version makes it for itself; it is neither recorded nor compared")
        }
        Class::Refused => Some("a process that makes it cannot be updated at all"),
        _ => None,
    }
}

/// Numbers of the errors that system calls return, by name.
const ERRORS: [(&str, i64); 62] = [
    ("EPERM", 1),
    ("ENOENT", 2),
    ("ESRCH", 3),
    ("EINTR", 4),
    ("EIO", 5),
    ("ENXIO", 6),
    ("E2BIG", 7),
    ("ENOEXEC", 8),
    ("EBADF", 9),
    ("ECHILD", 10),
    ("EAGAIN", 11),
    ("EWOULDBLOCK", 11),
    ("ENOMEM", 12),
    ("EACCES", 13),
    ("EFAULT", 14),
    ("EBUSY", 16),
    ("EEXIST", 17),
    ("EXDEV", 18),
    ("ENODEV", 19),
    ("ENOTDIR", 20),
    ("EISDIR", 21),
    ("EINVAL", 22),
    ("ENFILE", 23),
    ("EMFILE", 24),
    ("ENOTTY", 25),
    ("ETXTBSY", 26),
    ("EFBIG", 27),
    ("ENOSPC", 28),
    ("ESPIPE", 29),
    ("EROFS", 30),
    ("EMLINK", 31),
    ("EPIPE", 32),
    ("EDOM", 33),
    ("ERANGE", 34),
    ("EDEADLK", 35),
    ("ENAMETOOLONG", 36),
    ("ENOLCK", 37),
    ("ENOSYS", 38),
    ("ENOTEMPTY", 39),
    ("ELOOP", 40),
    ("EPROTO", 71),
    ("EOVERFLOW", 75),
    ("ENOTSOCK", 88),
    ("EDESTADDRREQ", 89),
    ("EMSGSIZE", 90),
    ("ENOPROTOOPT", 92),
    ("EPROTONOSUPPORT", 93),
    ("EOPNOTSUPP", 95),
    ("EAFNOSUPPORT", 97),
    ("EADDRINUSE", 98),
    ("EADDRNOTAVAIL", 99),
    ("ENETUNREACH", 101),
    ("ECONNABORTED", 103),
    ("ECONNRESET", 104),
    ("ENOBUFS", 105),
    ("EISCONN", 106),
    ("ENOTCONN", 107),
    ("ETIMEDOUT", 110),
    ("ECONNREFUSED", 111),
    ("EHOSTUNREACH", 113),
    ("EALREADY", 114),
    ("EINPROGRESS", 115),
];

/// The result of a call that failed with the error of that name: `-errno`.
#[must_use]
pub fn error(name: &str) -> Option<i64> {
    ERRORS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, number)| -number)
}

/// The other constants of the kernel interface: the commands of the table's multiplexed calls, and the flags and
/// choices that reports print. What a report says can so be written in a rule as it stands.
static CONSTANTS: LazyLock<BTreeMap<&'static str, i64>> =
    LazyLock::new(|| all_constants().collect());

fn all_constants() -> impl Iterator<Item = (&'static str, i64)> {
    let commands = (table::SYSCALLS.iter())
        .filter_map(|call| call.commands)
        .flat_map(|(_, commands)| commands)
        .map(|command| (command.name, command.value));
    commands
        .chain(flags::constants())
        .map(|(name, value)| (name, i64::from(value.cast_signed())))
}

/// The number that a name of the kernel interface stands for: `F_GETFL`, `O_NONBLOCK`, `EPOLL_CTL_ADD`; for errors
/// the result of a call that failed with it.
#[must_use]
pub fn constant(name: &str) -> Option<i64> {
    error(name).or_else(|| CONSTANTS.get(name).copied())
}

/// A constant whose name is like `name`.
#[must_use]
pub fn similar_constant(name: &str) -> Option<&'static str> {
    let errors = ERRORS.iter().map(|(name, _)| *name);
    nearest(name, errors.chain(CONSTANTS.keys().copied()))
}

/// The name of the error that a result stands for.
#[must_use]
pub fn error_name(result: i64) -> Option<&'static str> {
    ERRORS
        .iter()
        .find(|(_, number)| -number == result)
        .map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(name: &str) -> Signature {
        Signature::of(call(name).expect("in the table"))
    }

    #[test]
    fn the_length_of_a_read_is_what_it_got_and_of_a_write_what_it_offers() {
        let read = signature("read");
        assert_eq!(
            read.slots[2],
            Slot::Length {
                arg: 2,
                data: 1,
                filled: true
            }
        );
        assert_eq!(read.stream(), Some(Flow::In));
        let write = signature("write");
        assert_eq!(
            write.slots[2],
            Slot::Length {
                arg: 2,
                data: 1,
                filled: false
            }
        );
        assert_eq!(write.stream(), Some(Flow::Out));
    }

    #[test]
    fn constants_have_the_values_of_the_kernel() {
        for (name, value) in [
            ("F_GETFL", 3),
            ("F_DUPFD_CLOEXEC", 1030),
            ("FIONBIO", 0x5421),
            ("O_NONBLOCK", 0o4000),
            ("O_RDONLY", 0),
            ("EPOLL_CTL_ADD", 1),
            ("EPOLLET", i32::MIN),
            ("SOCK_CLOEXEC", 0o2_000_000),
            ("MSG_NOSIGNAL", 0x4000),
            ("AT_FDCWD", -100),
            ("EAGAIN", -11),
        ] {
            assert_eq!(constant(name), Some(i64::from(value)), "{name}");
        }
        assert_eq!(similar_constant("EPOLL_CTL_AD"), Some("EPOLL_CTL_ADD"));
        assert_eq!(similar_constant("O_NONBLOK"), Some("O_NONBLOCK"));
        assert_eq!(similar_constant("NOTHING_LIKE_IT"), None);
    }

    #[test]
    fn no_name_stands_for_two_numbers() {
        for (name, value) in all_constants() {
            assert_eq!(constant(name), Some(value), "{name}");
        }
    }

    #[test]
    fn similar_names_are_found() {
        assert_eq!(similar_call("raed"), Some("read"));
        assert_eq!(error_name(-11), Some("EAGAIN"));
        assert_eq!(error("EPIPE"), Some(-32));
    }
}
