//! Symbolic names for flag and enumeration arguments.

use mvedsua_common::spec::Syscall;

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD,
    F_OK, R_OK, SEEK_CUR, SEEK_END, SEEK_SET, SHUT_RD, SHUT_RDWR, SHUT_WR, W_OK, X_OK,
};

/// Builds `(value, name)` pairs from constants of `libc`.
macro_rules! named {
    ($($constant:ident),* $(,)?) => {
        &[$((libc::$constant as u32, stringify!($constant))),*]
    };
}

type Names = &'static [(u32, &'static str)];

/// How an integer argument is written.
#[derive(Clone, Copy)]
enum Style {
    /// One of the values, or-ed with flags.
    Bits {
        choice: Names,
        mask: u32,
        flags: Names,
    },
    /// A file mode.
    Octal,
}

const NONE: Names = &[];
const fn choice(choice: Names) -> Style {
    Style::Bits {
        choice,
        mask: u32::MAX,
        flags: NONE,
    }
}
const fn flags(flags: Names) -> Style {
    Style::Bits {
        choice: NONE,
        mask: 0,
        flags,
    }
}

const OPEN: Style = Style::Bits {
    choice: named![O_RDONLY, O_WRONLY, O_RDWR],
    mask: libc::O_ACCMODE as u32,
    // O_TMPFILE and O_SYNC contain O_DIRECTORY and O_DSYNC: they come first.
    flags: named![
        O_TMPFILE,
        O_SYNC,
        O_APPEND,
        O_ASYNC,
        O_CLOEXEC,
        O_CREAT,
        O_DIRECT,
        O_DIRECTORY,
        O_DSYNC,
        O_EXCL,
        O_NOATIME,
        O_NOCTTY,
        O_NOFOLLOW,
        O_NONBLOCK,
        O_PATH,
        O_TRUNC,
    ],
};
const SOCKET_TYPE: Style = Style::Bits {
    choice: named![SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET],
    mask: 0xf,
    flags: named![SOCK_NONBLOCK, SOCK_CLOEXEC],
};
const PROT: Style = Style::Bits {
    choice: named![PROT_NONE],
    mask: 0,
    flags: named![PROT_READ, PROT_WRITE, PROT_EXEC],
};
const MAP: Style = Style::Bits {
    choice: named![MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE],
    mask: 3,
    flags: named![
        MAP_ANONYMOUS,
        MAP_FIXED,
        MAP_FIXED_NOREPLACE,
        MAP_DENYWRITE,
        MAP_GROWSDOWN,
        MAP_HUGETLB,
        MAP_LOCKED,
        MAP_NORESERVE,
        MAP_POPULATE,
        MAP_STACK,
    ],
};
const DOMAIN: Style = choice(&[
    (AF_UNIX as u32, "AF_UNIX"),
    (AF_INET as u32, "AF_INET"),
    (AF_INET6 as u32, "AF_INET6"),
    (AF_NETLINK as u32, "AF_NETLINK"),
    (AF_PACKET as u32, "AF_PACKET"),
]);
const WHENCE: Style = choice(&[
    (SEEK_SET as u32, "SEEK_SET"),
    (SEEK_CUR as u32, "SEEK_CUR"),
    (SEEK_END as u32, "SEEK_END"),
]);
const HOW: Style = choice(&[
    (SHUT_RD as u32, "SHUT_RD"),
    (SHUT_WR as u32, "SHUT_WR"),
    (SHUT_RDWR as u32, "SHUT_RDWR"),
]);
const EPOLL_OP: Style = choice(&[
    (EPOLL_CTL_ADD as u32, "EPOLL_CTL_ADD"),
    (EPOLL_CTL_DEL as u32, "EPOLL_CTL_DEL"),
    (EPOLL_CTL_MOD as u32, "EPOLL_CTL_MOD"),
]);
const ACCESS: Style = Style::Bits {
    choice: &[(F_OK as u32, "F_OK")],
    mask: 0,
    flags: &[
        (R_OK as u32, "R_OK"),
        (W_OK as u32, "W_OK"),
        (X_OK as u32, "X_OK"),
    ],
};
const CLOCK: Style = choice(named![
    CLOCK_REALTIME,
    CLOCK_MONOTONIC,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_THREAD_CPUTIME_ID,
    CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME_COARSE,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_BOOTTIME,
]);
const MSG: Style = flags(named![
    MSG_CMSG_CLOEXEC,
    MSG_CONFIRM,
    MSG_DONTROUTE,
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
]);
const AT: Style = flags(named![
    AT_EMPTY_PATH,
    AT_NO_AUTOMOUNT,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    AT_REMOVEDIR,
]);
const LEVEL: Style = choice(named![
    SOL_SOCKET,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPPROTO_UDP
]);

/// Which argument of which calls is written how; an empty list of calls means any.
const STYLES: &[(&[&str], &str, Style)] = &[
    (&["open", "openat"], "flags", OPEN),
    (&["mmap"], "flags", MAP),
    (&["mmap", "mprotect", "pkey_mprotect"], "prot", PROT),
    (&["socket", "socketpair"], "domain", DOMAIN),
    (&["socket", "socketpair"], "type", SOCKET_TYPE),
    (
        &["accept4"],
        "flags",
        flags(named![SOCK_NONBLOCK, SOCK_CLOEXEC]),
    ),
    (
        &["pipe2", "dup3"],
        "flags",
        flags(named![O_CLOEXEC, O_DIRECT, O_NONBLOCK]),
    ),
    (&["epoll_create1"], "flags", flags(named![EPOLL_CLOEXEC])),
    (
        &["eventfd2"],
        "flags",
        flags(named![EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE]),
    ),
    (
        &["timerfd_create"],
        "flags",
        flags(named![TFD_CLOEXEC, TFD_NONBLOCK]),
    ),
    (
        &["signalfd4"],
        "flags",
        flags(named![SFD_CLOEXEC, SFD_NONBLOCK]),
    ),
    (&["epoll_ctl"], "op", EPOLL_OP),
    (&["lseek"], "whence", WHENCE),
    (&["shutdown"], "how", HOW),
    (&["access", "faccessat", "faccessat2"], "mode", ACCESS),
    (
        &[
            "newfstatat",
            "unlinkat",
            "linkat",
            "fchownat",
            "utimensat",
            "statx",
        ],
        "flags",
        AT,
    ),
    (
        &[
            "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg",
        ],
        "flags",
        MSG,
    ),
    (&["setsockopt", "getsockopt"], "level", LEVEL),
    (&[], "clockid", CLOCK),
    (&[], "mode", Style::Octal),
    (&[], "mask", Style::Octal),
];

const EPOLL: Names = named![
    EPOLLIN,
    EPOLLPRI,
    EPOLLOUT,
    EPOLLERR,
    EPOLLHUP,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLRDBAND,
    EPOLLWRNORM,
    EPOLLWRBAND,
    EPOLLMSG,
    EPOLLEXCLUSIVE,
    EPOLLWAKEUP,
    EPOLLONESHOT,
    EPOLLET,
];
const POLL: Names = named![
    POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLRDNORM, POLLRDBAND, POLLWRNORM,
    POLLWRBAND, POLLRDHUP,
];

/// Constants that reports do not print, since what they mean hangs on another argument or on more than one call.
const OTHERS: Names = named![
    SO_ACCEPTCONN,
    SO_BROADCAST,
    SO_BUSY_POLL,
    SO_DOMAIN,
    SO_ERROR,
    SO_INCOMING_CPU,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_PASSCRED,
    SO_PEERCRED,
    SO_PRIORITY,
    SO_PROTOCOL,
    SO_RCVBUF,
    SO_RCVLOWAT,
    SO_RCVTIMEO,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_SNDBUF,
    SO_SNDLOWAT,
    SO_SNDTIMEO,
    SO_TIMESTAMP,
    SO_TYPE,
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_FASTOPEN,
    TCP_INFO,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_MAXSEG,
    TCP_NODELAY,
    TCP_QUICKACK,
    TCP_SYNCNT,
    TCP_USER_TIMEOUT,
    IP_TOS,
    IP_TTL,
    IPV6_V6ONLY,
    FD_CLOEXEC,
    AT_FDCWD,
    LOCK_SH,
    LOCK_EX,
    LOCK_NB,
    LOCK_UN,
    WNOHANG,
    WUNTRACED,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGABRT,
    SIGKILL,
    SIGUSR1,
    SIGUSR2,
    SIGPIPE,
    SIGALRM,
    SIGTERM,
    SIGCHLD,
    SIGCONT,
    SIGSTOP,
    SIGTSTP,
    SIGWINCH,
];

/// Every constant that has a name here, for rules: its name, and its value as the 32 bits of an `int`.
pub(crate) fn constants() -> impl Iterator<Item = (&'static str, u32)> {
    let styles = STYLES.iter().flat_map(|(_, _, style)| match *style {
        Style::Octal => [NONE, NONE],
        Style::Bits { choice, flags, .. } => [choice, flags],
    });
    styles
        .chain([EPOLL, POLL, OTHERS])
        .flatten()
        .map(|(value, name)| (*name, *value))
}

/// The symbolic form of an argument of a call, or `None` where a number says enough. Names are joined by `|`.
pub(crate) fn of_argument(call: &Syscall, args: &[u64; 6], at: usize) -> Option<String> {
    let value = args[at] as u32;
    if call.commands.is_some_and(|(of, _)| usize::from(of) == at) {
        return call.command(args).map(|command| command.name.to_owned());
    }
    let prefix = match (call.names[at], args[1] as i32) {
        ("sig", _) => Some("SIG"),
        ("optname", libc::SOL_SOCKET) => Some("SO_"),
        ("optname", libc::IPPROTO_TCP) => Some("TCP_"),
        ("optname", libc::IPPROTO_IP) => Some("IP_"),
        ("optname", libc::IPPROTO_IPV6) => Some("IPV6_"),
        _ => None,
    };
    if let Some(prefix) = prefix {
        let mut others = OTHERS.iter();
        let found = others.find(|(number, name)| *number == value && name.starts_with(prefix))?;
        return Some(found.1.to_owned());
    }
    symbolic(call.name, call.names[at], value)
}

/// The symbolic form of argument `argument` of call `call`, or `None` where a number says enough.
fn symbolic(call: &str, argument: &str, value: u32) -> Option<String> {
    let (_, _, style) = STYLES
        .iter()
        .find(|(calls, arg, _)| *arg == argument && (calls.is_empty() || calls.contains(&call)))?;
    Some(match *style {
        Style::Octal => format!("{value:#05o}"),
        Style::Bits {
            choice,
            mask,
            flags,
        } => bits(choice, mask, flags, value),
    })
}

/// The mask of an epoll event.
pub(super) fn epoll(events: u32) -> String {
    bits(NONE, 0, EPOLL, events)
}

/// The mask of a poll entry.
pub(super) fn poll(events: u16) -> String {
    bits(NONE, 0, POLL, u32::from(events))
}

/// The value within `mask` as one of `choice` and the rest as `flags`; what is unknown in hex.
fn bits(choice: Names, mask: u32, flags: Names, value: u32) -> String {
    let mut rest = value & !mask;
    let mut parts: Vec<String> = Vec::new();
    if let Some((_, name)) = choice
        .iter()
        .find(|(v, _)| *v == value & mask && (mask != 0 || value == 0))
    {
        parts.push((*name).to_owned());
    } else {
        rest |= value & mask;
    }
    for &(bit, name) in flags {
        if bit != 0 && rest & bit == bit {
            parts.push(name.to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 || parts.is_empty() {
        // A lone unknown choice such as a new address family reads best as a plain number.
        parts.push(if flags.is_empty() || rest == 0 {
            rest.to_string()
        } else {
            format!("{rest:#x}")
        });
    }
    parts.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_have_an_access_mode() {
        assert_eq!(symbolic("openat", "flags", 0).as_deref(), Some("O_RDONLY"));
        let append = (libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND) as u32;
        assert_eq!(
            symbolic("open", "flags", append).as_deref(),
            Some("O_WRONLY|O_APPEND|O_CREAT")
        );
        assert_eq!(symbolic("open", "mode", 0o644).as_deref(), Some("0o644"));
    }

    #[test]
    fn unknown_bits_are_kept() {
        assert_eq!(symbolic("mmap", "prot", 0).as_deref(), Some("PROT_NONE"));
        assert_eq!(
            symbolic("mmap", "prot", 0x103).as_deref(),
            Some("PROT_READ|PROT_WRITE|0x100")
        );
        assert_eq!(symbolic("socket", "domain", 99).as_deref(), Some("99"));
        assert_eq!(epoll(0), "0");
        assert_eq!(epoll(0x8000_0001), "EPOLLIN|EPOLLET");
    }

    #[test]
    fn plain_numbers_have_no_symbol() {
        assert_eq!(symbolic("listen", "backlog", 511), None);
    }
}
