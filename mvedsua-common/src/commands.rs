//! The commands of the multiplexed calls: what `ioctl`, `fcntl`, `prctl` ... mean by their command.
//!
//! What is not listed is refused: an unknown command may read or write memory that nobody copies.

use crate::spec::Arg::{Fd, Int, Long, Mem, Opaque, Path, Struct, Unused};
use crate::spec::Class::{FdChanging, Local, Refused, Replayed};
use crate::spec::Dir::{In, InOut, Out};
use crate::spec::Len::Ret;
use crate::spec::{Arg, Class, Command};

/// One command, with neither a new descriptor nor a lasting effect.
const fn cmd(value: u32, name: &'static str, class: Class, arg: Arg) -> Command {
    Command {
        value,
        name,
        class,
        arg,
        returns_fd: false,
        lasting: false,
    }
}

const INT_IN: Arg = Struct(In, 4, "int");
const INT_OUT: Arg = Struct(Out, 4, "int");
const IFREQ: Arg = Struct(InOut, 40, "ifreq");

/// Commands of `fcntl(2)`. `F_GETLK64` & co (12 to 14) exist on 32-bit machines only.
#[rustfmt::skip]
pub(crate) const FCNTL: &[Command] = &[
    cmd(0, "F_DUPFD", FdChanging, Int).fd(),
    cmd(1, "F_GETFD", Replayed, Unused),
    cmd(2, "F_SETFD", FdChanging, Int),
    cmd(3, "F_GETFL", Replayed, Unused),
    // The flags belong to the open file, which leader and follower share.
    cmd(4, "F_SETFL", Replayed, Int),
    // Record locks belong to the leader's process; promotion takes them over.
    cmd(5, "F_GETLK", Replayed, Struct(InOut, 32, "flock")),
    cmd(6, "F_SETLK", Replayed, Struct(In, 32, "flock")).lasts(),
    cmd(7, "F_SETLKW", Replayed, Struct(In, 32, "flock")).lasts(),
    cmd(8, "F_SETOWN", Replayed, Int).lasts(),
    cmd(9, "F_GETOWN", Replayed, Unused),
    cmd(10, "F_SETSIG", Replayed, Int),
    cmd(11, "F_GETSIG", Replayed, Unused),
    cmd(15, "F_SETOWN_EX", Replayed, Struct(In, 8, "f_owner_ex")).lasts(),
    cmd(16, "F_GETOWN_EX", Replayed, Struct(Out, 8, "f_owner_ex")),
    cmd(17, "F_GETOWNER_UIDS", Replayed, Struct(Out, 8, "uid_t[2]")),
    // These locks belong to the open file, which is shared: nothing to take over.
    cmd(36, "F_OFD_GETLK", Replayed, Struct(InOut, 32, "flock")),
    cmd(37, "F_OFD_SETLK", Replayed, Struct(In, 32, "flock")),
    cmd(38, "F_OFD_SETLKW", Replayed, Struct(In, 32, "flock")),
    cmd(1024, "F_SETLEASE", Replayed, Int).lasts(),
    cmd(1025, "F_GETLEASE", Replayed, Unused),
    cmd(1026, "F_NOTIFY", Replayed, Int).lasts(),
    cmd(1027, "F_DUPFD_QUERY", Replayed, Fd),
    cmd(1028, "F_CREATED_QUERY", Replayed, Unused),
    cmd(1029, "F_CANCELLK", Replayed, Struct(In, 32, "flock")),
    cmd(1030, "F_DUPFD_CLOEXEC", FdChanging, Int).fd(),
    cmd(1031, "F_SETPIPE_SZ", Replayed, Int),
    cmd(1032, "F_GETPIPE_SZ", Replayed, Unused),
    cmd(1033, "F_ADD_SEALS", Replayed, Int),
    cmd(1034, "F_GET_SEALS", Replayed, Unused),
    cmd(1035, "F_GET_RW_HINT", Replayed, Struct(Out, 8, "uint64_t")),
    cmd(1036, "F_SET_RW_HINT", Replayed, Struct(In, 8, "uint64_t")),
    cmd(1037, "F_GET_FILE_RW_HINT", Replayed, Struct(Out, 8, "uint64_t")),
    cmd(1038, "F_SET_FILE_RW_HINT", Replayed, Struct(In, 8, "uint64_t")),
];

/// Commands of `ioctl(2)` that servers use.
#[rustfmt::skip]
pub(crate) const IOCTL: &[Command] = &[
    // Any file.
    cmd(0x541b, "FIONREAD", Replayed, INT_OUT),
    cmd(0x5421, "FIONBIO", Replayed, INT_IN),
    cmd(0x5452, "FIOASYNC", Replayed, INT_IN),
    cmd(0x5451, "FIOCLEX", FdChanging, Unused),
    cmd(0x5450, "FIONCLEX", FdChanging, Unused),
    cmd(0x5460, "FIOQSIZE", Replayed, Struct(Out, 8, "loff_t")),
    cmd(0x8901, "FIOSETOWN", Replayed, INT_IN).lasts(),
    cmd(0x8903, "FIOGETOWN", Replayed, INT_OUT),
    cmd(0x0002, "FIGETBSZ", Replayed, INT_OUT),
    cmd(0x4004_9409, "FICLONE", Replayed, Fd),
    cmd(0x4020_940d, "FICLONERANGE", Replayed, Struct(In, 32, "file_clone_range")),
    // The kernel moves an `int`, whatever the number says.
    cmd(0x8008_6601, "FS_IOC_GETFLAGS", Replayed, INT_OUT),
    cmd(0x4008_6602, "FS_IOC_SETFLAGS", Replayed, INT_IN),
    cmd(0x8008_7601, "FS_IOC_GETVERSION", Replayed, INT_OUT),
    // Terminals.
    cmd(0x5401, "TCGETS", Replayed, Struct(Out, 36, "termios")),
    cmd(0x5402, "TCSETS", Replayed, Struct(In, 36, "termios")),
    cmd(0x5403, "TCSETSW", Replayed, Struct(In, 36, "termios")),
    cmd(0x5404, "TCSETSF", Replayed, Struct(In, 36, "termios")),
    cmd(0x802c_542a, "TCGETS2", Replayed, Struct(Out, 44, "termios2")),
    cmd(0x402c_542b, "TCSETS2", Replayed, Struct(In, 44, "termios2")),
    cmd(0x402c_542c, "TCSETSW2", Replayed, Struct(In, 44, "termios2")),
    cmd(0x402c_542d, "TCSETSF2", Replayed, Struct(In, 44, "termios2")),
    cmd(0x5409, "TCSBRK", Replayed, Int),
    cmd(0x540a, "TCXONC", Replayed, Int),
    cmd(0x540b, "TCFLSH", Replayed, Int),
    cmd(0x5425, "TCSBRKP", Replayed, Int),
    cmd(0x540c, "TIOCEXCL", Replayed, Unused),
    cmd(0x540d, "TIOCNXCL", Replayed, Unused),
    cmd(0x540e, "TIOCSCTTY", Replayed, Int).lasts(),
    cmd(0x5422, "TIOCNOTTY", Replayed, Unused).lasts(),
    cmd(0x540f, "TIOCGPGRP", Replayed, INT_OUT),
    cmd(0x5410, "TIOCSPGRP", Replayed, INT_IN),
    cmd(0x5429, "TIOCGSID", Replayed, INT_OUT),
    // Also SIOCOUTQ.
    cmd(0x5411, "TIOCOUTQ", Replayed, INT_OUT),
    cmd(0x5413, "TIOCGWINSZ", Replayed, Struct(Out, 8, "winsize")),
    cmd(0x5414, "TIOCSWINSZ", Replayed, Struct(In, 8, "winsize")),
    cmd(0x5415, "TIOCMGET", Replayed, INT_OUT),
    cmd(0x5418, "TIOCMSET", Replayed, INT_IN),
    cmd(0x5423, "TIOCSETD", Replayed, INT_IN),
    cmd(0x5424, "TIOCGETD", Replayed, INT_OUT),
    cmd(0x8004_5430, "TIOCGPTN", Replayed, INT_OUT),
    cmd(0x4004_5431, "TIOCSPTLCK", Replayed, INT_IN),
    cmd(0x5441, "TIOCGPTPEER", FdChanging, Int).fd(),
    // Sockets and network interfaces.
    cmd(0x8902, "SIOCSPGRP", Replayed, INT_IN).lasts(),
    cmd(0x8904, "SIOCGPGRP", Replayed, INT_OUT),
    cmd(0x8905, "SIOCATMARK", Replayed, INT_OUT),
    cmd(0x8906, "SIOCGSTAMP", Replayed, Struct(Out, 16, "timeval")),
    cmd(0x8907, "SIOCGSTAMPNS", Replayed, Struct(Out, 16, "timespec")),
    cmd(0x894b, "SIOCOUTQNSD", Replayed, INT_OUT),
    cmd(0x8910, "SIOCGIFNAME", Replayed, IFREQ),
    // `struct ifconf` and the data of SIOCETHTOOL lie behind a second pointer.
    cmd(0x8912, "SIOCGIFCONF", Refused, Opaque),
    cmd(0x8946, "SIOCETHTOOL", Refused, Opaque),
    cmd(0x8913, "SIOCGIFFLAGS", Replayed, IFREQ),
    cmd(0x8914, "SIOCSIFFLAGS", Replayed, IFREQ),
    cmd(0x8915, "SIOCGIFADDR", Replayed, IFREQ),
    cmd(0x8916, "SIOCSIFADDR", Replayed, IFREQ),
    cmd(0x8917, "SIOCGIFDSTADDR", Replayed, IFREQ),
    cmd(0x8919, "SIOCGIFBRDADDR", Replayed, IFREQ),
    cmd(0x891b, "SIOCGIFNETMASK", Replayed, IFREQ),
    cmd(0x891c, "SIOCSIFNETMASK", Replayed, IFREQ),
    cmd(0x891d, "SIOCGIFMETRIC", Replayed, IFREQ),
    cmd(0x8921, "SIOCGIFMTU", Replayed, IFREQ),
    cmd(0x8922, "SIOCSIFMTU", Replayed, IFREQ),
    cmd(0x8927, "SIOCGIFHWADDR", Replayed, IFREQ),
    cmd(0x8933, "SIOCGIFINDEX", Replayed, IFREQ),
    cmd(0x8942, "SIOCGIFTXQLEN", Replayed, IFREQ),
    cmd(0x8970, "SIOCGIFMAP", Replayed, IFREQ),
    // Block devices and the random device.
    cmd(0x125e, "BLKROGET", Replayed, INT_OUT),
    cmd(0x1260, "BLKGETSIZE", Replayed, Struct(Out, 8, "unsigned long")),
    cmd(0x1261, "BLKFLSBUF", Replayed, Unused),
    cmd(0x1268, "BLKSSZGET", Replayed, INT_OUT),
    cmd(0x8008_1270, "BLKBSZGET", Replayed, INT_OUT),
    cmd(0x8008_1272, "BLKGETSIZE64", Replayed, Struct(Out, 8, "uint64_t")),
    cmd(0x1278, "BLKIOMIN", Replayed, INT_OUT),
    cmd(0x1279, "BLKIOOPT", Replayed, INT_OUT),
    cmd(0x127b, "BLKPBSZGET", Replayed, INT_OUT),
    cmd(0x8004_5200, "RNDGETENTCNT", Replayed, INT_OUT),
    cmd(0x4004_5201, "RNDADDTOENTCNT", Replayed, INT_IN),
];

/// Options of `prctl(2)`. Those that tell the kernel about the process's own memory are local.
///
/// Left out on purpose, and so refused: `PR_SET_SYSCALL_USER_DISPATCH` (would take our filter's
/// place), `PR_SET_MDWE` (forbids the new code of an update) and all of other machines.
#[rustfmt::skip]
pub(crate) const PRCTL: &[Command] = &[
    cmd(1, "PR_SET_PDEATHSIG", Replayed, Int).lasts(),
    cmd(2, "PR_GET_PDEATHSIG", Replayed, INT_OUT),
    cmd(3, "PR_GET_DUMPABLE", Replayed, Unused),
    cmd(4, "PR_SET_DUMPABLE", Replayed, Int).lasts(),
    cmd(7, "PR_GET_KEEPCAPS", Replayed, Unused),
    cmd(8, "PR_SET_KEEPCAPS", Replayed, Int).lasts(),
    cmd(13, "PR_GET_TIMING", Replayed, Unused),
    cmd(14, "PR_SET_TIMING", Replayed, Int),
    cmd(15, "PR_SET_NAME", Local, Path),
    cmd(16, "PR_GET_NAME", Replayed, Struct(Out, 16, "char[16]")),
    cmd(21, "PR_GET_SECCOMP", Replayed, Unused),
    cmd(22, "PR_SET_SECCOMP", Refused, Int),
    cmd(23, "PR_CAPBSET_READ", Replayed, Int),
    cmd(24, "PR_CAPBSET_DROP", Replayed, Int).lasts(),
    cmd(25, "PR_GET_TSC", Replayed, INT_OUT),
    cmd(26, "PR_SET_TSC", Local, Int),
    cmd(27, "PR_GET_SECUREBITS", Replayed, Unused),
    cmd(28, "PR_SET_SECUREBITS", Replayed, Int).lasts(),
    cmd(29, "PR_SET_TIMERSLACK", Replayed, Long).lasts(),
    cmd(30, "PR_GET_TIMERSLACK", Replayed, Unused),
    cmd(31, "PR_TASK_PERF_EVENTS_DISABLE", Replayed, Unused),
    cmd(32, "PR_TASK_PERF_EVENTS_ENABLE", Replayed, Unused),
    cmd(33, "PR_MCE_KILL", Replayed, Int).lasts(),
    cmd(34, "PR_MCE_KILL_GET", Replayed, Unused),
    cmd(35, "PR_SET_MM", Local, Int),
    cmd(36, "PR_SET_CHILD_SUBREAPER", Replayed, Int).lasts(),
    cmd(37, "PR_GET_CHILD_SUBREAPER", Replayed, INT_OUT),
    cmd(38, "PR_SET_NO_NEW_PRIVS", Replayed, Int).lasts(),
    cmd(39, "PR_GET_NO_NEW_PRIVS", Replayed, Unused),
    cmd(40, "PR_GET_TID_ADDRESS", Local, Opaque),
    cmd(41, "PR_SET_THP_DISABLE", Local, Int),
    cmd(42, "PR_GET_THP_DISABLE", Local, Unused),
    cmd(47, "PR_CAP_AMBIENT", Replayed, Int).lasts(),
    cmd(52, "PR_GET_SPECULATION_CTRL", Replayed, Int),
    cmd(53, "PR_SET_SPECULATION_CTRL", Replayed, Int).lasts(),
    cmd(57, "PR_SET_IO_FLUSHER", Replayed, Int).lasts(),
    cmd(58, "PR_GET_IO_FLUSHER", Replayed, Unused),
    cmd(67, "PR_SET_MEMORY_MERGE", Local, Int),
    cmd(68, "PR_GET_MEMORY_MERGE", Local, Unused),
    cmd(78, "PR_FUTEX_HASH", Local, Int),
    cmd(0x4155_5856, "PR_GET_AUXV", Local, Opaque),
    cmd(0x5356_4d41, "PR_SET_VMA", Local, Int),
    cmd(0x5961_6d61, "PR_SET_PTRACER", Replayed, Int).lasts(),
];

/// Codes of `arch_prctl(2)`: all about the calling thread's own registers and address space.
#[rustfmt::skip]
pub(crate) const ARCH_PRCTL: &[Command] = &[
    cmd(0x1001, "ARCH_SET_GS", Local, Opaque),
    cmd(0x1002, "ARCH_SET_FS", Local, Opaque),
    cmd(0x1003, "ARCH_GET_FS", Local, Opaque),
    cmd(0x1004, "ARCH_GET_GS", Local, Opaque),
    cmd(0x1011, "ARCH_GET_CPUID", Local, Unused),
    cmd(0x1012, "ARCH_SET_CPUID", Local, Int),
    cmd(0x1021, "ARCH_GET_XCOMP_SUPP", Local, Opaque),
    cmd(0x1022, "ARCH_GET_XCOMP_PERM", Local, Opaque),
    cmd(0x1023, "ARCH_REQ_XCOMP_PERM", Local, Int),
    // Asked for by C libraries at start; kernels answer EINVAL.
    cmd(0x3001, "ARCH_CET_STATUS", Local, Opaque),
    cmd(0x4001, "ARCH_GET_UNTAG_MASK", Local, Opaque),
    cmd(0x4002, "ARCH_ENABLE_TAGGED_ADDR", Local, Int),
    cmd(0x4003, "ARCH_GET_MAX_TAG_BITS", Local, Opaque),
    cmd(0x5001, "ARCH_SHSTK_ENABLE", Local, Int),
    cmd(0x5002, "ARCH_SHSTK_DISABLE", Local, Int),
    cmd(0x5003, "ARCH_SHSTK_LOCK", Local, Int),
    cmd(0x5004, "ARCH_SHSTK_UNLOCK", Local, Int),
    cmd(0x5005, "ARCH_SHSTK_STATUS", Local, Opaque),
];

/// Commands of `semctl(2)`. `GETALL` and `SETALL` move an array as long as the set is large, which
/// the call itself does not say; `SEM_STAT` & co index the kernel's table.
#[rustfmt::skip]
pub(crate) const SEMCTL: &[Command] = &[
    cmd(0, "IPC_RMID", Replayed, Unused),
    // The kernel reads three members and the rest is undefined: not compared.
    cmd(1, "IPC_SET", Replayed, Opaque),
    cmd(2, "IPC_STAT", Replayed, Struct(Out, 104, "semid_ds")),
    cmd(3, "IPC_INFO", Replayed, Struct(Out, 40, "seminfo")),
    cmd(11, "GETPID", Replayed, Unused),
    cmd(12, "GETVAL", Replayed, Unused),
    cmd(13, "GETALL", Refused, Opaque),
    cmd(14, "GETNCNT", Replayed, Unused),
    cmd(15, "GETZCNT", Replayed, Unused),
    cmd(16, "SETVAL", Replayed, Int),
    cmd(17, "SETALL", Refused, Opaque),
];

/// Actions of `syslog(2)`, the kernel's log.
#[rustfmt::skip]
pub(crate) const SYSLOG: &[Command] = &[
    cmd(0, "SYSLOG_ACTION_CLOSE", Replayed, Unused),
    cmd(1, "SYSLOG_ACTION_OPEN", Replayed, Unused),
    cmd(2, "SYSLOG_ACTION_READ", Replayed, Mem(Out, Ret(1))),
    cmd(3, "SYSLOG_ACTION_READ_ALL", Replayed, Mem(Out, Ret(1))),
    cmd(4, "SYSLOG_ACTION_READ_CLEAR", Replayed, Mem(Out, Ret(1))),
    cmd(5, "SYSLOG_ACTION_CLEAR", Replayed, Unused),
    cmd(6, "SYSLOG_ACTION_CONSOLE_OFF", Replayed, Unused),
    cmd(7, "SYSLOG_ACTION_CONSOLE_ON", Replayed, Unused),
    cmd(8, "SYSLOG_ACTION_CONSOLE_LEVEL", Replayed, Unused),
    cmd(9, "SYSLOG_ACTION_SIZE_UNREAD", Replayed, Unused),
    cmd(10, "SYSLOG_ACTION_SIZE_BUFFER", Replayed, Unused),
];
