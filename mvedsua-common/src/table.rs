//! The table: every system call of Linux 6.18 on x86-64, one row per call.
//!
//! A row reads `sys!(number, name, class, argument: what it is, ...)`. How to choose a class:
//!
//! - the outside world sees it, or it depends on the outside world: [`Replayed`](crate::spec::Class::Replayed);
//! - it makes, moves or closes a descriptor: [`FdChanging`](crate::spec::Class::FdChanging), with `.fd()` when it returns one;
//! - it only concerns the caller's own memory, masks or locks: [`Local`](crate::spec::Class::Local);
//! - it changes what its process *is* to the kernel: [`Replayed`](crate::spec::Class::Replayed) with `.lasts()`, so that
//!   promotion makes it again;
//! - what it moves cannot be copied by this table, or nobody could follow it: [`Refused`](crate::spec::Class::Refused).
//!
//! Calls that the kernel only answers with `ENOSYS` are replayed: both sides get the same answer.
//! Sizes are those of the kernel's structs, checked against `libc`'s by the tests of this module.

use crate::commands::{ARCH_PRCTL, FCNTL, IOCTL, PRCTL, SEMCTL, SYSLOG};
use crate::spec::Arg::{
    EpollEvent, EpollEvents, Fd, Int, LenWord, Long, Mem, Opaque, Path, PollFds, SockaddrIn,
    SockaddrOut, Struct,
};
use crate::spec::Class::{FdChanging, Local, Multiplexed, Process, Refused, Replayed, Time};
use crate::spec::Dir::{In, InOut, Out, OutAlways};
use crate::spec::Len::{Arg as By, FdSet, Iov, Mmsg, Msg, Ret, RetCapped, Str, Word};
use crate::spec::{Arg, Syscall};

/// Numbers at and above this one are no system calls.
const NUMBERS: usize = 512;

/// The six argument slots of a call that takes those of `given`.
const fn six(given: &[Arg]) -> [Arg; 6] {
    let mut all = [Arg::Unused; 6];
    let mut i = 0;
    while i < given.len() {
        all[i] = given[i];
        i += 1;
    }
    all
}

/// One row.
macro_rules! sys {
    ($nr:literal, $name:literal, $class:ident $(, $arg:ident: $what:expr)* $(,)?) => {
        Syscall {
            nr: $nr,
            name: $name,
            class: $class,
            names: &[$(stringify!($arg)),*],
            args: six(&[$($what),*]),
            commands: None,
            returns_fd: false,
            lasting: false,
        }
    };
}

const SIGSET: Arg = Struct(In, 8, "sigset_t");
const SIGSET_OUT: Arg = Struct(Out, 8, "sigset_t");
const SIGINFO_OUT: Arg = Struct(Out, 128, "siginfo_t");
const TIMESPEC: Arg = Struct(In, 16, "timespec");
/// For how long a thread means to sleep. Not compared: it has no effect on anybody else, the leader's
/// sleep decides when the follower wakes, and a thread that works in the background (memcached's LRU
/// maintainer) computes it from how far the other threads happen to be.
const SLEEP: Arg = Opaque;
const TIMESPEC_OUT: Arg = Struct(Out, 16, "timespec");
/// The time left of a wait: written on interruption too.
const TIMESPEC_LEFT: Arg = Struct(OutAlways, 16, "timespec");
const TIMEVAL_LEFT: Arg = Struct(OutAlways, 16, "timeval");
const ITIMERVAL: Arg = Struct(In, 32, "itimerval");
const ITIMERVAL_OUT: Arg = Struct(Out, 32, "itimerval");
const ITIMERSPEC: Arg = Struct(In, 32, "itimerspec");
const ITIMERSPEC_OUT: Arg = Struct(Out, 32, "itimerspec");
const STAT: Arg = Struct(Out, 144, "stat");
const STATFS: Arg = Struct(Out, 120, "statfs");
const RLIMIT: Arg = Struct(In, 16, "rlimit");
const RLIMIT_OUT: Arg = Struct(Out, 16, "rlimit");
const RUSAGE: Arg = Struct(Out, 144, "rusage");
const SCHED_PARAM: Arg = Struct(In, 4, "sched_param");
const TIMEX: Arg = Struct(InOut, 208, "timex");
const OFFSET: Arg = Struct(InOut, 8, "loff_t");
const FD_PAIR: Arg = Struct(Out, 8, "int[2]");
const INT_OUT: Arg = Struct(Out, 4, "int");
const UINT_OUT: Arg = Struct(Out, 4, "unsigned int");
/// A string that is no path.
const STRING: Arg = Mem(In, Str);

/// All system calls, by number; for use in constants. At run time use [`SYSCALLS`].
#[rustfmt::skip]
pub const ALL: &[Syscall] = &[
    // 0 to 8, files. Of what is written only the bytes that the kernel took are compared, so that a
    // 10 MB write to a full socket costs what was written; the count itself is compared as a number.
    sys!(0, "read", Replayed, fd: Fd, buf: Mem(Out, Ret(1)), count: Long),
    sys!(1, "write", Replayed, fd: Fd, buf: Mem(In, RetCapped(2, 1)), count: Long),
    sys!(2, "open", FdChanging, pathname: Path, flags: Int, mode: Int).fd(),
    sys!(3, "close", FdChanging, fd: Fd),
    sys!(4, "stat", Replayed, pathname: Path, statbuf: STAT),
    sys!(5, "fstat", Replayed, fd: Fd, statbuf: STAT),
    sys!(6, "lstat", Replayed, pathname: Path, statbuf: STAT),
    sys!(7, "poll", Replayed, fds: PollFds(1), nfds: Int, timeout: Int),
    sys!(8, "lseek", Replayed, fd: Fd, offset: Long, whence: Int),
    // Memory is each side's own; a mapping of a file is noticed by the engine. Signal handlers and
    // masks live in the process, which is a copy.
    sys!(9, "mmap", Local, addr: Opaque, length: Long, prot: Int, flags: Int, fd: Fd, offset: Long),
    sys!(10, "mprotect", Local, addr: Opaque, len: Long, prot: Int),
    sys!(11, "munmap", Local, addr: Opaque, length: Long),
    sys!(12, "brk", Local, addr: Opaque),
    sys!(13, "rt_sigaction", Local, signum: Int, act: Opaque, oldact: Opaque, sigsetsize: Long),
    // Made by each side itself, and recorded all the same: a signal that it unblocks is delivered at
    // its end, and the follower must get it there.
    sys!(14, "rt_sigprocmask", Process, how: Int, set: Opaque, oldset: Opaque, sigsetsize: Long),
    sys!(15, "rt_sigreturn", Local),
    sys!(16, "ioctl", Multiplexed, fd: Fd, op: Int, arg: Opaque).commands(1, IOCTL),
    sys!(17, "pread64", Replayed, fd: Fd, buf: Mem(Out, Ret(1)), count: Long, offset: Long),
    sys!(18, "pwrite64", Replayed, fd: Fd, buf: Mem(In, RetCapped(2, 1)), count: Long, offset: Long),
    sys!(19, "readv", Replayed, fd: Fd, iov: Mem(Out, Iov(2)), iovcnt: Long),
    sys!(20, "writev", Replayed, fd: Fd, iov: Mem(In, Iov(2)), iovcnt: Long),
    sys!(21, "access", Replayed, pathname: Path, mode: Int),
    // Two descriptors, returned through memory.
    sys!(22, "pipe", FdChanging, pipefd: FD_PAIR),
    sys!(23, "select", Replayed, nfds: Int, readfds: Mem(InOut, FdSet(0)), writefds: Mem(InOut, FdSet(0)), exceptfds: Mem(InOut, FdSet(0)), timeout: TIMEVAL_LEFT),
    sys!(24, "sched_yield", Local),
    sys!(25, "mremap", Local, old_address: Opaque, old_size: Long, new_size: Long, flags: Int, new_address: Opaque),
    sys!(26, "msync", Local, addr: Opaque, length: Long, flags: Int),
    sys!(27, "mincore", Local, addr: Opaque, length: Long, vec: Opaque),
    sys!(28, "madvise", Local, addr: Opaque, length: Long, advice: Int),
    // System V shared memory: what others write there makes no call and cannot be recorded.
    sys!(29, "shmget", Refused, key: Int, size: Long, shmflg: Int),
    sys!(30, "shmat", Refused, shmid: Int, shmaddr: Opaque, shmflg: Int),
    sys!(31, "shmctl", Refused, shmid: Int, op: Int, buf: Opaque),
    sys!(32, "dup", FdChanging, oldfd: Fd).fd(),
    sys!(33, "dup2", FdChanging, oldfd: Fd, newfd: Fd).fd(),
    // Waits and timers: the follower's are the leader's, and end when the leader's did.
    sys!(34, "pause", Replayed),
    sys!(35, "nanosleep", Replayed, duration: SLEEP, rem: TIMESPEC_LEFT),
    sys!(36, "getitimer", Replayed, which: Int, curr_value: ITIMERVAL_OUT),
    sys!(37, "alarm", Replayed, seconds: Int).lasts(),
    sys!(38, "setitimer", Replayed, which: Int, new_value: ITIMERVAL, old_value: ITIMERVAL_OUT).lasts(),
    // A follower believes that it is the leader.
    sys!(39, "getpid", Replayed),
    sys!(40, "sendfile", Replayed, out_fd: Fd, in_fd: Fd, offset: OFFSET, count: Long),
    sys!(41, "socket", FdChanging, domain: Int, type: Int, protocol: Int).fd(),
    sys!(42, "connect", Replayed, sockfd: Fd, addr: SockaddrIn(2), addrlen: Int),
    sys!(43, "accept", FdChanging, sockfd: Fd, addr: SockaddrOut(2), addrlen: LenWord).fd(),
    sys!(44, "sendto", Replayed, sockfd: Fd, buf: Mem(In, RetCapped(2, 1)), len: Long, flags: Int, dest_addr: SockaddrIn(5), addrlen: Int),
    // With MSG_TRUNC the result is larger than the buffer.
    sys!(45, "recvfrom", Replayed, sockfd: Fd, buf: Mem(Out, RetCapped(2, 1)), len: Long, flags: Int, src_addr: SockaddrOut(5), addrlen: LenWord),
    sys!(46, "sendmsg", Replayed, sockfd: Fd, msg: Mem(In, Msg), flags: Int),
    // May install passed descriptors; they stand in the control part.
    sys!(47, "recvmsg", Replayed, sockfd: Fd, msg: Mem(InOut, Msg), flags: Int),
    sys!(48, "shutdown", Replayed, sockfd: Fd, how: Int),
    sys!(49, "bind", Replayed, sockfd: Fd, addr: SockaddrIn(2), addrlen: Int),
    sys!(50, "listen", Replayed, sockfd: Fd, backlog: Int),
    sys!(51, "getsockname", Replayed, sockfd: Fd, addr: SockaddrOut(2), addrlen: LenWord),
    sys!(52, "getpeername", Replayed, sockfd: Fd, addr: SockaddrOut(2), addrlen: LenWord),
    sys!(53, "socketpair", FdChanging, domain: Int, type: Int, protocol: Int, sv: FD_PAIR),
    sys!(54, "setsockopt", Replayed, sockfd: Fd, level: Int, optname: Int, optval: Mem(In, By(4, 1)), optlen: Int),
    sys!(55, "getsockopt", Replayed, sockfd: Fd, level: Int, optname: Int, optval: Mem(Out, Word(4)), optlen: LenWord),
    // Processes and threads: each has a handling of its own in the engine.
    sys!(56, "clone", Process, flags: Long, stack: Opaque, parent_tid: Opaque, child_tid: Opaque, tls: Opaque),
    sys!(57, "fork", Process),
    sys!(58, "vfork", Process),
    sys!(59, "execve", Process, pathname: Path, argv: Opaque, envp: Opaque),
    sys!(60, "exit", Process, status: Int),
    sys!(61, "wait4", Process, pid: Int, wstatus: INT_OUT, options: Int, rusage: RUSAGE),
    sys!(62, "kill", Replayed, pid: Int, sig: Int),
    sys!(63, "uname", Replayed, buf: Struct(Out, 390, "utsname")),
    // System V semaphores hold no memory of the process; its messages do (mtype before the text).
    sys!(64, "semget", Replayed, key: Int, nsems: Int, semflg: Int),
    sys!(65, "semop", Replayed, semid: Int, sops: Mem(In, By(2, 6)), nsops: Int),
    sys!(66, "semctl", Multiplexed, semid: Int, semnum: Int, op: Int, arg: Opaque).commands(2, SEMCTL),
    sys!(67, "shmdt", Refused, shmaddr: Opaque),
    sys!(68, "msgget", Refused, key: Int, msgflg: Int),
    sys!(69, "msgsnd", Refused, msqid: Int, msgp: Opaque, msgsz: Long, msgflg: Int),
    sys!(70, "msgrcv", Refused, msqid: Int, msgp: Opaque, msgsz: Long, msgtyp: Long, msgflg: Int),
    sys!(71, "msgctl", Refused, msqid: Int, op: Int, buf: Opaque),
    sys!(72, "fcntl", Multiplexed, fd: Fd, op: Int, arg: Opaque).commands(1, FCNTL),
    // A flock belongs to the open file, which both share.
    sys!(73, "flock", Replayed, fd: Fd, op: Int),
    sys!(74, "fsync", Replayed, fd: Fd),
    sys!(75, "fdatasync", Replayed, fd: Fd),
    sys!(76, "truncate", Replayed, path: Path, length: Long),
    sys!(77, "ftruncate", Replayed, fd: Fd, length: Long),
    sys!(78, "getdents", Replayed, fd: Fd, dirp: Mem(Out, Ret(1)), count: Int),
    sys!(79, "getcwd", Replayed, buf: Mem(Out, Ret(1)), size: Long),
    sys!(80, "chdir", Replayed, path: Path).lasts(),
    sys!(81, "fchdir", Replayed, fd: Fd).lasts(),
    sys!(82, "rename", Replayed, oldpath: Path, newpath: Path),
    sys!(83, "mkdir", Replayed, pathname: Path, mode: Int),
    sys!(84, "rmdir", Replayed, pathname: Path),
    sys!(85, "creat", FdChanging, pathname: Path, mode: Int).fd(),
    sys!(86, "link", Replayed, oldpath: Path, newpath: Path),
    sys!(87, "unlink", Replayed, pathname: Path),
    sys!(88, "symlink", Replayed, target: Path, linkpath: Path),
    sys!(89, "readlink", Replayed, pathname: Path, buf: Mem(Out, Ret(1)), bufsiz: Int),
    sys!(90, "chmod", Replayed, pathname: Path, mode: Int),
    sys!(91, "fchmod", Replayed, fd: Fd, mode: Int),
    sys!(92, "chown", Replayed, pathname: Path, owner: Int, group: Int),
    sys!(93, "fchown", Replayed, fd: Fd, owner: Int, group: Int),
    sys!(94, "lchown", Replayed, pathname: Path, owner: Int, group: Int),
    sys!(95, "umask", Replayed, mask: Int).lasts(),
    sys!(96, "gettimeofday", Time, tv: Struct(Out, 16, "timeval"), tz: Struct(Out, 8, "timezone")),
    sys!(97, "getrlimit", Replayed, resource: Int, rlim: RLIMIT_OUT),
    sys!(98, "getrusage", Replayed, who: Int, usage: RUSAGE),
    sys!(99, "sysinfo", Replayed, info: Struct(Out, 112, "sysinfo")),
    sys!(100, "times", Replayed, buf: Struct(Out, 32, "tms")),
    sys!(101, "ptrace", Refused, op: Int, pid: Int, addr: Opaque, data: Opaque),
    // 102 to 126, identity. A follower must not lose its rights before it is promoted, so ids are
    // changed at promotion.
    sys!(102, "getuid", Replayed),
    sys!(103, "syslog", Multiplexed, type: Int, bufp: Opaque, size: Int).commands(0, SYSLOG),
    sys!(104, "getgid", Replayed),
    sys!(105, "setuid", Replayed, uid: Int).lasts(),
    sys!(106, "setgid", Replayed, gid: Int).lasts(),
    sys!(107, "geteuid", Replayed),
    sys!(108, "getegid", Replayed),
    sys!(109, "setpgid", Replayed, pid: Int, pgid: Int).lasts(),
    sys!(110, "getppid", Replayed),
    sys!(111, "getpgrp", Replayed),
    sys!(112, "setsid", Replayed).lasts(),
    sys!(113, "setreuid", Replayed, ruid: Int, euid: Int).lasts(),
    sys!(114, "setregid", Replayed, rgid: Int, egid: Int).lasts(),
    // With a size of 0 only the number of groups is asked for.
    sys!(115, "getgroups", Replayed, size: Int, list: Mem(Out, RetCapped(0, 4))),
    sys!(116, "setgroups", Replayed, size: Int, list: Mem(In, By(0, 4))).lasts(),
    sys!(117, "setresuid", Replayed, ruid: Int, euid: Int, suid: Int).lasts(),
    sys!(118, "getresuid", Replayed, ruid: UINT_OUT, euid: UINT_OUT, suid: UINT_OUT),
    sys!(119, "setresgid", Replayed, rgid: Int, egid: Int, sgid: Int).lasts(),
    sys!(120, "getresgid", Replayed, rgid: UINT_OUT, egid: UINT_OUT, sgid: UINT_OUT),
    sys!(121, "getpgid", Replayed, pid: Int),
    sys!(122, "setfsuid", Replayed, fsuid: Int).lasts(),
    sys!(123, "setfsgid", Replayed, fsgid: Int).lasts(),
    sys!(124, "getsid", Replayed, pid: Int),
    // Header version 3 (every libcap since 2008): two data structs of 12 bytes.
    sys!(125, "capget", Replayed, hdrp: Struct(InOut, 8, "cap_user_header"), datap: Struct(Out, 24, "cap_user_data[2]")),
    sys!(126, "capset", Replayed, hdrp: Struct(InOut, 8, "cap_user_header"), datap: Struct(In, 24, "cap_user_data[2]")).lasts(),
    // Signals reach the follower when the leader got them; what is pending is the leader's.
    // A queued siginfo may hold pointers and is not compared.
    sys!(127, "rt_sigpending", Replayed, set: SIGSET_OUT, sigsetsize: Long),
    sys!(128, "rt_sigtimedwait", Replayed, set: SIGSET, info: SIGINFO_OUT, timeout: TIMESPEC, sigsetsize: Long),
    sys!(129, "rt_sigqueueinfo", Replayed, tgid: Int, sig: Int, info: Opaque),
    // Waits like pause, with another mask meanwhile: the engine places the signal.
    sys!(130, "rt_sigsuspend", Replayed, mask: SIGSET, sigsetsize: Long),
    sys!(131, "sigaltstack", Local, ss: Opaque, old_ss: Opaque),
    sys!(132, "utime", Replayed, filename: Path, times: Struct(In, 16, "utimbuf")),
    sys!(133, "mknod", Replayed, pathname: Path, mode: Int, dev: Int),
    sys!(134, "uselib", Refused, library: Path),
    sys!(135, "personality", Replayed, persona: Int).lasts(),
    sys!(136, "ustat", Replayed, dev: Int, ubuf: Struct(Out, 32, "ustat")),
    sys!(137, "statfs", Replayed, path: Path, buf: STATFS),
    sys!(138, "fstatfs", Replayed, fd: Fd, buf: STATFS),
    // The last argument is a string, a number or a buffer of unknown size.
    sys!(139, "sysfs", Refused, option: Int, arg1: Opaque, arg2: Opaque),
    sys!(140, "getpriority", Replayed, which: Int, who: Int),
    sys!(141, "setpriority", Replayed, which: Int, who: Int, prio: Int).lasts(),
    sys!(142, "sched_setparam", Replayed, pid: Int, param: SCHED_PARAM).lasts(),
    sys!(143, "sched_getparam", Replayed, pid: Int, param: Struct(Out, 4, "sched_param")),
    sys!(144, "sched_setscheduler", Replayed, pid: Int, policy: Int, param: SCHED_PARAM).lasts(),
    sys!(145, "sched_getscheduler", Replayed, pid: Int),
    sys!(146, "sched_get_priority_max", Replayed, policy: Int),
    sys!(147, "sched_get_priority_min", Replayed, policy: Int),
    sys!(148, "sched_rr_get_interval", Replayed, pid: Int, tp: TIMESPEC_OUT),
    sys!(149, "mlock", Local, addr: Opaque, len: Long),
    sys!(150, "munlock", Local, addr: Opaque, len: Long),
    sys!(151, "mlockall", Local, flags: Int),
    sys!(152, "munlockall", Local),
    // 153 to 176: what rules the whole machine or the address space in ways that cannot be copied.
    sys!(153, "vhangup", Refused),
    sys!(154, "modify_ldt", Refused, func: Int, ptr: Opaque, bytecount: Long),
    sys!(155, "pivot_root", Refused, new_root: Path, put_old: Path),
    sys!(156, "_sysctl", Replayed),
    sys!(157, "prctl", Multiplexed, op: Int, arg2: Opaque, arg3: Opaque, arg4: Opaque, arg5: Opaque).commands(0, PRCTL),
    sys!(158, "arch_prctl", Multiplexed, op: Int, addr: Opaque).commands(0, ARCH_PRCTL),
    sys!(159, "adjtimex", Replayed, buf: TIMEX),
    sys!(160, "setrlimit", Replayed, resource: Int, rlim: RLIMIT).lasts(),
    sys!(161, "chroot", Replayed, path: Path).lasts(),
    sys!(162, "sync", Replayed),
    sys!(163, "acct", Refused, filename: Path),
    sys!(164, "settimeofday", Replayed, tv: Struct(In, 16, "timeval"), tz: Struct(In, 8, "timezone")),
    sys!(165, "mount", Refused, source: Path, target: Path, filesystemtype: STRING, mountflags: Long, data: Opaque),
    sys!(166, "umount2", Refused, target: Path, flags: Int),
    sys!(167, "swapon", Refused, path: Path, swapflags: Int),
    sys!(168, "swapoff", Refused, path: Path),
    sys!(169, "reboot", Refused, magic: Int, magic2: Int, op: Int, arg: Opaque),
    sys!(170, "sethostname", Replayed, name: Mem(In, By(1, 1)), len: Int),
    sys!(171, "setdomainname", Replayed, name: Mem(In, By(1, 1)), len: Int),
    sys!(172, "iopl", Refused, level: Int),
    sys!(173, "ioperm", Refused, from: Long, num: Long, turn_on: Int),
    sys!(174, "create_module", Replayed),
    sys!(175, "init_module", Refused, module_image: Opaque, len: Long, param_values: STRING),
    sys!(176, "delete_module", Refused, name: STRING, flags: Int),
    sys!(177, "get_kernel_syms", Replayed),
    sys!(178, "query_module", Replayed),
    sys!(179, "quotactl", Refused, op: Int, special: Path, id: Int, addr: Opaque),
    sys!(180, "nfsservctl", Replayed),
    sys!(181, "getpmsg", Replayed),
    sys!(182, "putpmsg", Replayed),
    sys!(183, "afs_syscall", Replayed),
    sys!(184, "tuxcall", Replayed),
    sys!(185, "security", Replayed),
    sys!(186, "gettid", Replayed),
    sys!(187, "readahead", Replayed, fd: Fd, offset: Long, count: Long),
    // Extended attributes. With a size of 0 only the length is asked for.
    sys!(188, "setxattr", Replayed, path: Path, name: STRING, value: Mem(In, By(3, 1)), size: Long, flags: Int),
    sys!(189, "lsetxattr", Replayed, path: Path, name: STRING, value: Mem(In, By(3, 1)), size: Long, flags: Int),
    sys!(190, "fsetxattr", Replayed, fd: Fd, name: STRING, value: Mem(In, By(3, 1)), size: Long, flags: Int),
    sys!(191, "getxattr", Replayed, path: Path, name: STRING, value: Mem(Out, RetCapped(3, 1)), size: Long),
    sys!(192, "lgetxattr", Replayed, path: Path, name: STRING, value: Mem(Out, RetCapped(3, 1)), size: Long),
    sys!(193, "fgetxattr", Replayed, fd: Fd, name: STRING, value: Mem(Out, RetCapped(3, 1)), size: Long),
    sys!(194, "listxattr", Replayed, path: Path, list: Mem(Out, RetCapped(2, 1)), size: Long),
    sys!(195, "llistxattr", Replayed, path: Path, list: Mem(Out, RetCapped(2, 1)), size: Long),
    sys!(196, "flistxattr", Replayed, fd: Fd, list: Mem(Out, RetCapped(2, 1)), size: Long),
    sys!(197, "removexattr", Replayed, path: Path, name: STRING),
    sys!(198, "lremovexattr", Replayed, path: Path, name: STRING),
    sys!(199, "fremovexattr", Replayed, fd: Fd, name: STRING),
    sys!(200, "tkill", Replayed, tid: Int, sig: Int),
    sys!(201, "time", Time, tloc: Struct(Out, 8, "time_t")),
    sys!(202, "futex", Local, uaddr: Opaque, op: Int, val: Int, timeout: Opaque, uaddr2: Opaque, val3: Int),
    sys!(203, "sched_setaffinity", Replayed, pid: Int, cpusetsize: Int, mask: Mem(In, By(1, 1))).lasts(),
    sys!(204, "sched_getaffinity", Replayed, pid: Int, cpusetsize: Int, mask: Mem(Out, Ret(1))),
    sys!(205, "set_thread_area", Replayed),
    // The kernel writes the results of asynchronous I/O whenever it likes, with no call to record.
    sys!(206, "io_setup", Refused, nr_events: Int, ctx_idp: Opaque),
    sys!(207, "io_destroy", Refused, ctx_id: Opaque),
    sys!(208, "io_getevents", Refused, ctx_id: Opaque, min_nr: Long, nr: Long, events: Opaque, timeout: TIMESPEC),
    sys!(209, "io_submit", Refused, ctx_id: Opaque, nr: Long, iocbpp: Opaque),
    sys!(210, "io_cancel", Refused, ctx_id: Opaque, iocb: Opaque, result: Opaque),
    sys!(211, "get_thread_area", Replayed),
    sys!(212, "lookup_dcookie", Replayed),
    sys!(213, "epoll_create", FdChanging, size: Int).fd(),
    sys!(214, "epoll_ctl_old", Replayed),
    sys!(215, "epoll_wait_old", Replayed),
    sys!(216, "remap_file_pages", Local, addr: Opaque, size: Long, prot: Int, pgoff: Long, flags: Int),
    sys!(217, "getdents64", Replayed, fd: Fd, dirp: Mem(Out, Ret(1)), count: Int),
    // Returns a thread id, which must be the leader's, and must take effect.
    sys!(218, "set_tid_address", Process, tidptr: Opaque),
    // The recorder puts the call that is restarted in its place.
    sys!(219, "restart_syscall", Local),
    sys!(220, "semtimedop", Replayed, semid: Int, sops: Mem(In, By(2, 6)), nsops: Int, timeout: TIMESPEC),
    sys!(221, "fadvise64", Replayed, fd: Fd, offset: Long, len: Long, advice: Int),
    // A sigevent carries a pointer of the process (sigev_value) and is not compared.
    sys!(222, "timer_create", Replayed, clockid: Int, sevp: Opaque, timerid: Struct(Out, 4, "timer_t")).lasts(),
    sys!(223, "timer_settime", Replayed, timerid: Int, flags: Int, new_value: ITIMERSPEC, old_value: ITIMERSPEC_OUT).lasts(),
    sys!(224, "timer_gettime", Replayed, timerid: Int, curr_value: ITIMERSPEC_OUT),
    sys!(225, "timer_getoverrun", Replayed, timerid: Int),
    sys!(226, "timer_delete", Replayed, timerid: Int).lasts(),
    sys!(227, "clock_settime", Replayed, clockid: Int, tp: TIMESPEC),
    sys!(228, "clock_gettime", Time, clockid: Int, tp: TIMESPEC_OUT),
    sys!(229, "clock_getres", Time, clockid: Int, res: TIMESPEC_OUT),
    sys!(230, "clock_nanosleep", Replayed, clockid: Int, flags: Int, t: SLEEP, remain: TIMESPEC_LEFT),
    sys!(231, "exit_group", Process, status: Int),
    sys!(232, "epoll_wait", Replayed, epfd: Fd, events: EpollEvents, maxevents: Int, timeout: Int),
    sys!(233, "epoll_ctl", Replayed, epfd: Fd, op: Int, fd: Fd, event: EpollEvent),
    sys!(234, "tgkill", Replayed, tgid: Int, tid: Int, sig: Int),
    sys!(235, "utimes", Replayed, filename: Path, times: Struct(In, 32, "timeval[2]")),
    sys!(236, "vserver", Replayed),
    // Placement of the caller's own memory.
    sys!(237, "mbind", Local, addr: Opaque, len: Long, mode: Int, nodemask: Opaque, maxnode: Long, flags: Int),
    sys!(238, "set_mempolicy", Local, mode: Int, nodemask: Opaque, maxnode: Long),
    sys!(239, "get_mempolicy", Local, mode: Opaque, nodemask: Opaque, maxnode: Long, addr: Opaque, flags: Long),
    sys!(240, "mq_open", FdChanging, name: STRING, oflag: Int, mode: Int, attr: Struct(In, 32, "mq_attr")).fd(),
    sys!(241, "mq_unlink", Replayed, name: STRING),
    sys!(242, "mq_timedsend", Replayed, mqdes: Fd, msg_ptr: Mem(In, By(2, 1)), msg_len: Long, msg_prio: Int, abs_timeout: TIMESPEC),
    sys!(243, "mq_timedreceive", Replayed, mqdes: Fd, msg_ptr: Mem(Out, Ret(1)), msg_len: Long, msg_prio: UINT_OUT, abs_timeout: TIMESPEC),
    sys!(244, "mq_notify", Replayed, mqdes: Fd, sevp: Opaque).lasts(),
    // Of mq_attr (64 bytes) the first four words are used; only these are compared.
    sys!(245, "mq_getsetattr", Replayed, mqdes: Fd, newattr: Struct(In, 32, "mq_attr"), oldattr: Struct(Out, 64, "mq_attr")),
    sys!(246, "kexec_load", Refused, entry: Opaque, nr_segments: Long, segments: Opaque, flags: Long),
    sys!(247, "waitid", Process, idtype: Int, id: Int, infop: SIGINFO_OUT, options: Int, rusage: RUSAGE),
    // Keys hang on the kernel's own records of a process and cannot be handed over.
    sys!(248, "add_key", Refused, type: STRING, description: STRING, payload: Opaque, plen: Long, keyring: Int),
    sys!(249, "request_key", Refused, type: STRING, description: STRING, callout_info: STRING, dest_keyring: Int),
    sys!(250, "keyctl", Refused, op: Int, arg2: Opaque, arg3: Opaque, arg4: Opaque, arg5: Opaque),
    sys!(251, "ioprio_set", Replayed, which: Int, who: Int, ioprio: Int).lasts(),
    sys!(252, "ioprio_get", Replayed, which: Int, who: Int),
    sys!(253, "inotify_init", FdChanging).fd(),
    sys!(254, "inotify_add_watch", Replayed, fd: Fd, pathname: Path, mask: Int),
    sys!(255, "inotify_rm_watch", Replayed, fd: Fd, wd: Int),
    // Takes a pid, and a follower that made it would mean the leader.
    sys!(256, "migrate_pages", Refused, pid: Int, maxnode: Long, old_nodes: Opaque, new_nodes: Opaque),
    // 257 to 271, files relative to a directory.
    sys!(257, "openat", FdChanging, dirfd: Fd, pathname: Path, flags: Int, mode: Int).fd(),
    sys!(258, "mkdirat", Replayed, dirfd: Fd, pathname: Path, mode: Int),
    sys!(259, "mknodat", Replayed, dirfd: Fd, pathname: Path, mode: Int, dev: Int),
    sys!(260, "fchownat", Replayed, dirfd: Fd, pathname: Path, owner: Int, group: Int, flags: Int),
    sys!(261, "futimesat", Replayed, dirfd: Fd, pathname: Path, times: Struct(In, 32, "timeval[2]")),
    sys!(262, "newfstatat", Replayed, dirfd: Fd, pathname: Path, statbuf: STAT, flags: Int),
    sys!(263, "unlinkat", Replayed, dirfd: Fd, pathname: Path, flags: Int),
    sys!(264, "renameat", Replayed, olddirfd: Fd, oldpath: Path, newdirfd: Fd, newpath: Path),
    sys!(265, "linkat", Replayed, olddirfd: Fd, oldpath: Path, newdirfd: Fd, newpath: Path, flags: Int),
    sys!(266, "symlinkat", Replayed, target: Path, newdirfd: Fd, linkpath: Path),
    sys!(267, "readlinkat", Replayed, dirfd: Fd, pathname: Path, buf: Mem(Out, Ret(1)), bufsiz: Int),
    sys!(268, "fchmodat", Replayed, dirfd: Fd, pathname: Path, mode: Int),
    sys!(269, "faccessat", Replayed, dirfd: Fd, pathname: Path, mode: Int),
    // The sixth argument points to a pair of pointer and size.
    sys!(270, "pselect6", Replayed, nfds: Int, readfds: Mem(InOut, FdSet(0)), writefds: Mem(InOut, FdSet(0)), exceptfds: Mem(InOut, FdSet(0)), timeout: TIMESPEC_LEFT, sigmask: Opaque),
    sys!(271, "ppoll", Replayed, fds: PollFds(1), nfds: Int, tmo_p: TIMESPEC_LEFT, sigmask: SIGSET, sigsetsize: Long),
    // Namespaces: a follower's descriptors, pids and paths would mean other things than the leader's.
    sys!(272, "unshare", Refused, flags: Int),
    sys!(273, "set_robust_list", Local, head: Opaque, len: Long),
    sys!(274, "get_robust_list", Local, pid: Int, head_ptr: Opaque, len_ptr: Opaque),
    sys!(275, "splice", Replayed, fd_in: Fd, off_in: OFFSET, fd_out: Fd, off_out: OFFSET, len: Long, flags: Int),
    sys!(276, "tee", Replayed, fd_in: Fd, fd_out: Fd, len: Long, flags: Int),
    sys!(277, "sync_file_range", Replayed, fd: Fd, offset: Long, nbytes: Long, flags: Int),
    // Which way the memory moves depends on the end of the pipe, and it may be shared afterwards.
    sys!(278, "vmsplice", Refused, fd: Fd, iov: Opaque, nr_segs: Long, flags: Int),
    sys!(279, "move_pages", Refused, pid: Int, count: Long, pages: Opaque, nodes: Opaque, status: Opaque, flags: Int),
    sys!(280, "utimensat", Replayed, dirfd: Fd, pathname: Path, times: Struct(In, 32, "timespec[2]"), flags: Int),
    sys!(281, "epoll_pwait", Replayed, epfd: Fd, events: EpollEvents, maxevents: Int, timeout: Int, sigmask: SIGSET, sigsetsize: Long),
    // 282 to 294, descriptors of other kinds. The timers of timerfds live in the shared open file.
    sys!(282, "signalfd", FdChanging, fd: Fd, mask: SIGSET, sizemask: Long).fd(),
    sys!(283, "timerfd_create", FdChanging, clockid: Int, flags: Int).fd(),
    sys!(284, "eventfd", FdChanging, initval: Int).fd(),
    sys!(285, "fallocate", Replayed, fd: Fd, mode: Int, offset: Long, len: Long),
    sys!(286, "timerfd_settime", Replayed, fd: Fd, flags: Int, new_value: ITIMERSPEC, old_value: ITIMERSPEC_OUT),
    sys!(287, "timerfd_gettime", Replayed, fd: Fd, curr_value: ITIMERSPEC_OUT),
    sys!(288, "accept4", FdChanging, sockfd: Fd, addr: SockaddrOut(2), addrlen: LenWord, flags: Int).fd(),
    sys!(289, "signalfd4", FdChanging, fd: Fd, mask: SIGSET, sizemask: Long, flags: Int).fd(),
    sys!(290, "eventfd2", FdChanging, initval: Int, flags: Int).fd(),
    sys!(291, "epoll_create1", FdChanging, flags: Int).fd(),
    sys!(292, "dup3", FdChanging, oldfd: Fd, newfd: Fd, flags: Int).fd(),
    sys!(293, "pipe2", FdChanging, pipefd: FD_PAIR, flags: Int),
    sys!(294, "inotify_init1", FdChanging, flags: Int).fd(),
    // The high half of the offset is shifted out on a 64-bit machine and may hold anything.
    sys!(295, "preadv", Replayed, fd: Fd, iov: Mem(Out, Iov(2)), iovcnt: Long, pos_l: Long, pos_h: Opaque),
    sys!(296, "pwritev", Replayed, fd: Fd, iov: Mem(In, Iov(2)), iovcnt: Long, pos_l: Long, pos_h: Opaque),
    sys!(297, "rt_tgsigqueueinfo", Replayed, tgid: Int, tid: Int, sig: Int, info: Opaque),
    sys!(298, "perf_event_open", Refused, attr: Opaque, pid: Int, cpu: Int, group_fd: Fd, flags: Long),
    sys!(299, "recvmmsg", Replayed, sockfd: Fd, msgvec: Mem(InOut, Mmsg), vlen: Int, flags: Int, timeout: Struct(InOut, 16, "timespec")),
    // Reading from it opens descriptors that no call returns.
    sys!(300, "fanotify_init", Refused, flags: Int, event_f_flags: Int).fd(),
    sys!(301, "fanotify_mark", Refused, fanotify_fd: Fd, flags: Int, mask: Long, dirfd: Fd, pathname: Path),
    sys!(302, "prlimit64", Replayed, pid: Int, resource: Int, new_limit: RLIMIT, old_limit: RLIMIT_OUT).lasts(),
    // A file_handle is as long as its own first word says, and 8 bytes more.
    sys!(303, "name_to_handle_at", Refused, dirfd: Fd, pathname: Path, handle: Opaque, mount_id: Opaque, flags: Int),
    sys!(304, "open_by_handle_at", Refused, mount_fd: Fd, handle: Opaque, flags: Int).fd(),
    sys!(305, "clock_adjtime", Replayed, clockid: Int, buf: TIMEX),
    sys!(306, "syncfs", Replayed, fd: Fd),
    sys!(307, "sendmmsg", Replayed, sockfd: Fd, msgvec: Mem(In, Mmsg), vlen: Int, flags: Int),
    sys!(308, "setns", Refused, fd: Fd, nstype: Int),
    sys!(309, "getcpu", Time, cpu: UINT_OUT, node: UINT_OUT, tcache: Opaque),
    // Addresses of another process, or the caller's own, which differ between the two sides.
    sys!(310, "process_vm_readv", Refused, pid: Int, local_iov: Opaque, liovcnt: Long, remote_iov: Opaque, riovcnt: Long, flags: Long),
    sys!(311, "process_vm_writev", Refused, pid: Int, local_iov: Opaque, liovcnt: Long, remote_iov: Opaque, riovcnt: Long, flags: Long),
    sys!(312, "kcmp", Replayed, pid1: Int, pid2: Int, type: Int, idx1: Long, idx2: Long),
    sys!(313, "finit_module", Refused, fd: Fd, param_values: STRING, flags: Int),
    // The first published size of sched_attr; later members are not compared.
    sys!(314, "sched_setattr", Replayed, pid: Int, attr: Struct(In, 48, "sched_attr"), flags: Int).lasts(),
    sys!(315, "sched_getattr", Replayed, pid: Int, attr: Mem(Out, By(2, 1)), size: Int, flags: Int),
    sys!(316, "renameat2", Replayed, olddirfd: Fd, oldpath: Path, newdirfd: Fd, newpath: Path, flags: Int),
    // A second filter on a follower might stop the agent's own calls.
    sys!(317, "seccomp", Refused, op: Int, flags: Int, args: Opaque),
    sys!(318, "getrandom", Replayed, buf: Mem(Out, Ret(1)), buflen: Long, flags: Int),
    sys!(319, "memfd_create", FdChanging, name: STRING, flags: Int).fd(),
    sys!(320, "kexec_file_load", Refused, kernel_fd: Fd, initrd_fd: Fd, cmdline_len: Long, cmdline: Opaque, flags: Long),
    sys!(321, "bpf", Refused, op: Int, attr: Opaque, size: Int),
    sys!(322, "execveat", Process, dirfd: Fd, pathname: Path, argv: Opaque, envp: Opaque, flags: Int),
    sys!(323, "userfaultfd", Refused, flags: Int).fd(),
    sys!(324, "membarrier", Local, op: Int, flags: Int, cpu_id: Int),
    sys!(325, "mlock2", Local, addr: Opaque, len: Long, flags: Int),
    sys!(326, "copy_file_range", Replayed, fd_in: Fd, off_in: OFFSET, fd_out: Fd, off_out: OFFSET, size: Long, flags: Int),
    sys!(327, "preadv2", Replayed, fd: Fd, iov: Mem(Out, Iov(2)), iovcnt: Long, pos_l: Long, pos_h: Opaque, flags: Int),
    sys!(328, "pwritev2", Replayed, fd: Fd, iov: Mem(In, Iov(2)), iovcnt: Long, pos_l: Long, pos_h: Opaque, flags: Int),
    sys!(329, "pkey_mprotect", Local, addr: Opaque, len: Long, prot: Int, pkey: Int),
    sys!(330, "pkey_alloc", Local, flags: Int, access_rights: Int),
    sys!(331, "pkey_free", Local, pkey: Int),
    sys!(332, "statx", Replayed, dirfd: Fd, pathname: Path, flags: Int, mask: Int, statxbuf: Struct(Out, 256, "statx")),
    sys!(333, "io_pgetevents", Refused, ctx_id: Opaque, min_nr: Long, nr: Long, events: Opaque, timeout: TIMESPEC, sig: Opaque),
    sys!(334, "rseq", Local, rseq: Opaque, rseq_len: Int, flags: Int, sig: Int),
    // Made by the trampolines of the kernel's own probes, never by a program.
    sys!(335, "uretprobe", Local),
    sys!(336, "uprobe", Local),

    // 337 to 423 are not assigned; from here on the numbers are those of all architectures.
    sys!(424, "pidfd_send_signal", Replayed, pidfd: Fd, sig: Int, info: Opaque, flags: Int),
    // The submission ring makes no calls that could be recorded.
    sys!(425, "io_uring_setup", Refused, entries: Int, p: Opaque).fd(),
    sys!(426, "io_uring_enter", Refused, fd: Fd, to_submit: Int, min_complete: Int, flags: Int, arg: Opaque, argsz: Long),
    sys!(427, "io_uring_register", Refused, fd: Fd, op: Int, arg: Opaque, nr_args: Int),
    sys!(428, "open_tree", Refused, dirfd: Fd, path: Path, flags: Int).fd(),
    sys!(429, "move_mount", Refused, from_dirfd: Fd, from_path: Path, to_dirfd: Fd, to_path: Path, flags: Int),
    sys!(430, "fsopen", Refused, fsname: STRING, flags: Int).fd(),
    sys!(431, "fsconfig", Refused, fd: Fd, cmd: Int, key: STRING, value: Opaque, aux: Int),
    sys!(432, "fsmount", Refused, fsfd: Fd, flags: Int, attr_flags: Int).fd(),
    sys!(433, "fspick", Refused, dirfd: Fd, path: Path, flags: Int).fd(),
    sys!(434, "pidfd_open", FdChanging, pid: Int, flags: Int).fd(),
    sys!(435, "clone3", Process, cl_args: Opaque, size: Long),
    sys!(436, "close_range", FdChanging, first: Fd, last: Fd, flags: Int),
    sys!(437, "openat2", FdChanging, dirfd: Fd, pathname: Path, how: Mem(In, By(3, 1)), size: Long).fd(),
    sys!(438, "pidfd_getfd", FdChanging, pidfd: Fd, targetfd: Fd, flags: Int).fd(),
    sys!(439, "faccessat2", Replayed, dirfd: Fd, pathname: Path, mode: Int, flags: Int),
    // The pidfd may mean the caller, whose addresses differ between the two sides.
    sys!(440, "process_madvise", Refused, pidfd: Fd, iov: Opaque, n: Long, advice: Int, flags: Int),
    sys!(441, "epoll_pwait2", Replayed, epfd: Fd, events: EpollEvents, maxevents: Int, timeout: TIMESPEC, sigmask: SIGSET, sigsetsize: Long),
    sys!(442, "mount_setattr", Refused, dirfd: Fd, path: Path, flags: Int, attr: Opaque, size: Long),
    sys!(443, "quotactl_fd", Refused, fd: Fd, op: Int, id: Int, addr: Opaque),
    sys!(444, "landlock_create_ruleset", Refused, attr: Opaque, size: Long, flags: Int).fd(),
    sys!(445, "landlock_add_rule", Refused, ruleset_fd: Fd, rule_type: Int, rule_attr: Opaque, flags: Int),
    sys!(446, "landlock_restrict_self", Refused, ruleset_fd: Fd, flags: Int),
    // Memory that nobody else can read: neither could the agent.
    sys!(447, "memfd_secret", Refused, flags: Int).fd(),
    sys!(448, "process_mrelease", Replayed, pidfd: Fd, flags: Int),
    sys!(449, "futex_waitv", Local, waiters: Opaque, nr_futexes: Int, flags: Int, timeout: Opaque, clockid: Int),
    sys!(450, "set_mempolicy_home_node", Local, start: Opaque, len: Long, home_node: Long, flags: Long),
    sys!(451, "cachestat", Replayed, fd: Fd, cstat_range: Struct(In, 16, "cachestat_range"), cstat: Struct(Out, 40, "cachestat"), flags: Int),
    sys!(452, "fchmodat2", Replayed, dirfd: Fd, pathname: Path, mode: Int, flags: Int),
    sys!(453, "map_shadow_stack", Local, addr: Opaque, size: Long, flags: Int),
    sys!(454, "futex_wake", Local, uaddr: Opaque, mask: Long, nr: Int, flags: Int),
    sys!(455, "futex_wait", Local, uaddr: Opaque, val: Long, mask: Long, flags: Int, timeout: Opaque, clockid: Int),
    sys!(456, "futex_requeue", Local, waiters: Opaque, flags: Int, nr_wake: Int, nr_requeue: Int),
    sys!(457, "statmount", Replayed, req: Struct(In, 24, "mnt_id_req"), buf: Mem(Out, By(2, 1)), bufsize: Long, flags: Int),
    sys!(458, "listmount", Replayed, req: Struct(In, 24, "mnt_id_req"), mnt_ids: Mem(Out, Ret(8)), nr_mnt_ids: Long, flags: Int),
    sys!(459, "lsm_get_self_attr", Replayed, attr: Int, ctx: Mem(Out, Word(2)), size: LenWord, flags: Int),
    sys!(460, "lsm_set_self_attr", Refused, attr: Int, ctx: Opaque, size: Int, flags: Int),
    sys!(461, "lsm_list_modules", Replayed, ids: Mem(Out, Ret(8)), size: LenWord, flags: Int),
    sys!(462, "mseal", Local, addr: Opaque, len: Long, flags: Long),
    // The value lies behind a second pointer, in `struct xattr_args`.
    sys!(463, "setxattrat", Refused, dirfd: Fd, path: Path, at_flags: Int, name: STRING, args: Opaque, size: Long),
    sys!(464, "getxattrat", Refused, dirfd: Fd, path: Path, at_flags: Int, name: STRING, args: Opaque, size: Long),
    sys!(465, "listxattrat", Replayed, dirfd: Fd, path: Path, at_flags: Int, list: Mem(Out, RetCapped(4, 1)), size: Long),
    sys!(466, "removexattrat", Replayed, dirfd: Fd, path: Path, at_flags: Int, name: STRING),
    sys!(467, "open_tree_attr", Refused, dirfd: Fd, path: Path, flags: Int, attr: Opaque, size: Long).fd(),
    sys!(468, "file_getattr", Replayed, dirfd: Fd, path: Path, attr: Mem(Out, By(3, 1)), size: Long, flags: Int),
    sys!(469, "file_setattr", Replayed, dirfd: Fd, path: Path, attr: Mem(In, By(3, 1)), size: Long, flags: Int),
];

/// All system calls, by number.
pub static SYSCALLS: &[Syscall] = ALL;

/// For every number the position in the table plus one, or 0.
static INDEX: [u16; NUMBERS] = {
    let mut index = [0; NUMBERS];
    let mut i = 0;
    while i < ALL.len() {
        index[ALL[i].nr as usize] = i as u16 + 1;
        i += 1;
    }
    index
};

/// The system call with number `nr`, in constant time; `None` for a number that Linux 6.18 has not.
#[must_use]
pub fn syscall(nr: u16) -> Option<&'static Syscall> {
    let at = *INDEX.get(usize::from(nr))?;
    SYSCALLS.get(usize::from(at).checked_sub(1)?)
}

/// The system call called `name`, by linear search: for rules and reports, not for the hot path.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Syscall> {
    SYSCALLS.iter().find(|call| call.name == name)
}

/// The number of the call called `name`, for calls that the agent itself makes or singles out.
///
/// # Panics
/// When the table has no such call, which is a misspelling in the source.
#[must_use]
pub fn number(name: &str) -> u16 {
    by_name(name).expect("the table has every call").nr
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
