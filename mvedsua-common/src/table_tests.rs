//! The table against what others know: names and numbers (`syscalls`), struct sizes (`libc`).

extern crate std;

use std::collections::BTreeSet;
use std::mem::size_of;
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use super::{ALL, SYSCALLS, by_name, syscall};
use crate::spec::{Arg, Class, Command, Len, Syscall};

/// Every description that a call or one of its commands gives to argument `index`.
fn meanings(call: &Syscall, index: usize) -> Vec<Arg> {
    let mut all = vec![call.args[index]];
    if let Some((at, commands)) = call.commands
        && usize::from(at) + 1 == index
    {
        all.extend(commands.iter().map(|c| c.arg));
    }
    all
}

/// All commands of the table.
fn commands() -> impl Iterator<Item = (&'static Syscall, &'static Command)> {
    SYSCALLS
        .iter()
        .filter_map(|call| Some((call, call.commands?.1)))
        .flat_map(|(call, commands)| commands.iter().map(move |c| (call, c)))
}

#[test]
fn numbers_are_sorted_and_have_no_gap() {
    let expected: Vec<u16> = (0..=336).chain(424..=469).collect();
    let found: Vec<u16> = SYSCALLS.iter().map(|call| call.nr).collect();
    assert_eq!(found, expected);
}

#[test]
fn names_are_those_of_the_syscalls_crate() {
    for call in SYSCALLS {
        let known = syscalls::Sysno::new(usize::from(call.nr)).map(|s| s.name());
        assert_eq!(known, Some(call.name), "number {}", call.nr);
    }
    let here: BTreeSet<usize> = SYSCALLS.iter().map(|c| usize::from(c.nr)).collect();
    let missing: Vec<_> = syscalls::Sysno::iter()
        .filter(|s| !here.contains(&(s.id() as usize)))
        .collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

#[test]
fn lookup_by_number_and_by_name_agree() {
    for call in SYSCALLS {
        assert_eq!(syscall(call.nr).map(|c| c.name), Some(call.name));
        assert_eq!(by_name(call.name).map(|c| c.nr), Some(call.nr));
    }
    for nr in [337, 423, 470, 511, 512, u16::MAX] {
        assert!(syscall(nr).is_none(), "{nr}");
    }
    assert!(by_name("no_such_call").is_none());
    assert_eq!(ALL.len(), SYSCALLS.len());
}

#[test]
fn names_and_arguments_are_equally_many() {
    for call in SYSCALLS {
        let used = call.args.iter().take_while(|a| **a != Arg::Unused).count();
        assert_eq!(used, call.arity(), "{}", call.name);
        assert!(
            call.args[used..].iter().all(|a| *a == Arg::Unused),
            "{}: a hole",
            call.name
        );
        let distinct: BTreeSet<_> = call.names.iter().collect();
        assert_eq!(
            distinct.len(),
            call.names.len(),
            "{}: a name twice",
            call.name
        );
    }
}

#[test]
fn lengths_refer_to_an_argument_that_can_be_one() {
    for call in SYSCALLS {
        for index in 0..6 {
            for meaning in meanings(call, index) {
                let (refers_to, word) = match meaning {
                    Arg::Mem(_, Len::Arg(at, _) | Len::RetCapped(at, _))
                    | Arg::Mem(_, Len::Iov(at) | Len::FdSet(at))
                    | Arg::SockaddrIn(at)
                    | Arg::PollFds(at) => (at, false),
                    Arg::Mem(_, Len::Word(at)) | Arg::SockaddrOut(at) => (at, true),
                    _ => continue,
                };
                let target = call.args[usize::from(refers_to)];
                let fits = if word {
                    target == Arg::LenWord
                } else {
                    matches!(target, Arg::Int | Arg::Long)
                };
                assert!(fits, "{}: argument {index} refers to {target:?}", call.name);
            }
        }
    }
}

#[test]
fn multiplexed_calls_have_commands_and_only_they() {
    for call in SYSCALLS {
        assert_eq!(
            call.class == Class::Multiplexed,
            call.commands.is_some(),
            "{}",
            call.name
        );
        let Some((at, commands)) = call.commands else {
            continue;
        };
        assert_eq!(
            call.args[usize::from(at)],
            Arg::Int,
            "{}: the command",
            call.name
        );
        assert_eq!(
            call.args[usize::from(at) + 1],
            Arg::Opaque,
            "{}: its argument",
            call.name
        );
        let values: BTreeSet<_> = commands.iter().map(|c| c.value).collect();
        assert_eq!(values.len(), commands.len(), "{}: a value twice", call.name);
        let names: BTreeSet<_> = commands.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), commands.len(), "{}: a name twice", call.name);
    }
    for (call, command) in commands() {
        assert_ne!(
            command.class,
            Class::Multiplexed,
            "{} {}",
            call.name,
            command.name
        );
    }
}

#[test]
fn only_what_is_not_made_in_a_follower_lasts() {
    for call in SYSCALLS.iter().filter(|c| c.lasting) {
        assert_eq!(call.class, Class::Replayed, "{}", call.name);
    }
    for (call, command) in commands().filter(|(_, c)| c.lasting) {
        assert_eq!(
            command.class,
            Class::Replayed,
            "{} {}",
            call.name,
            command.name
        );
    }
}

#[test]
fn who_returns_a_descriptor_changes_descriptors() {
    for call in SYSCALLS.iter().filter(|c| c.returns_fd) {
        let class = call.class;
        assert!(
            matches!(class, Class::FdChanging | Class::Refused),
            "{}",
            call.name
        );
    }
    for (call, command) in commands().filter(|(_, c)| c.returns_fd) {
        assert_eq!(
            command.class,
            Class::FdChanging,
            "{} {}",
            call.name,
            command.name
        );
    }
}

#[test]
fn a_command_decides_over_class_argument_and_descriptor() {
    let fcntl = by_name("fcntl").expect("fcntl");
    let dup = [3, libc::F_DUPFD_CLOEXEC as u64, 10, 0, 0, 0];
    assert_eq!(fcntl.class_of(&dup), Class::FdChanging);
    assert_eq!(fcntl.arg_of(2, &dup), Arg::Int);
    assert!(fcntl.returns_fd(&dup));
    let lock = [3, libc::F_SETLK as u64, 0x7fff_0000, 0, 0, 0];
    assert_eq!(fcntl.class_of(&lock), Class::Replayed);
    assert!(fcntl.is_lasting(&lock) && !fcntl.returns_fd(&lock));
    let unknown = [3, 0xdead, 0, 0, 0, 0];
    assert_eq!(fcntl.class_of(&unknown), Class::Refused);
    assert_eq!(fcntl.arg_of(2, &unknown), Arg::Opaque);
}

#[test]
fn the_reference_calls_are_classed_as_the_design_says() {
    let class = |name| by_name(name).map(|c| c.class);
    for name in [
        "read",
        "write",
        "getpid",
        "epoll_wait",
        "nanosleep",
        "kill",
        "rt_sigsuspend",
    ] {
        assert_eq!(class(name), Some(Class::Replayed), "{name}");
    }
    for name in ["mmap", "futex", "rt_sigreturn", "rseq", "sched_yield"] {
        assert_eq!(class(name), Some(Class::Local), "{name}");
    }
    for name in [
        "rt_sigprocmask",
        "clone",
        "clone3",
        "fork",
        "execve",
        "wait4",
        "exit_group",
        "set_tid_address",
    ] {
        assert_eq!(class(name), Some(Class::Process), "{name}");
    }
    for name in [
        "io_uring_setup",
        "ptrace",
        "shmat",
        "seccomp",
        "io_submit",
        "bpf",
        "unshare",
    ] {
        assert_eq!(class(name), Some(Class::Refused), "{name}");
    }
    for name in ["clock_gettime", "gettimeofday", "time", "getcpu"] {
        assert_eq!(class(name), Some(Class::Time), "{name}");
    }
    for name in ["accept4", "close", "pipe2", "dup2", "timerfd_create"] {
        assert_eq!(class(name), Some(Class::FdChanging), "{name}");
    }
}

/// Size of the struct that the table calls `name`, from `libc`; `None` where `libc` has no such
/// type or one of another size than the kernel's.
fn size_in_libc(name: &str) -> Option<usize> {
    Some(match name {
        "int" | "unsigned int" => size_of::<libc::c_int>(),
        "int[2]" | "uid_t[2]" => 2 * size_of::<libc::c_int>(),
        "char[16]" => 16,
        "unsigned long" => size_of::<libc::c_ulong>(),
        "uint64_t" => size_of::<u64>(),
        "loff_t" => size_of::<libc::off64_t>(),
        "time_t" => size_of::<libc::time_t>(),
        "stat" => size_of::<libc::stat>(),
        "statx" => size_of::<libc::statx>(),
        "statfs" => size_of::<libc::statfs>(),
        "rlimit" => size_of::<libc::rlimit>(),
        "rusage" => size_of::<libc::rusage>(),
        "timespec" => size_of::<libc::timespec>(),
        "timespec[2]" => 2 * size_of::<libc::timespec>(),
        "timeval" => size_of::<libc::timeval>(),
        "timeval[2]" => 2 * size_of::<libc::timeval>(),
        "timezone" => 2 * size_of::<libc::c_int>(),
        "itimerval" => size_of::<libc::itimerval>(),
        "itimerspec" => size_of::<libc::itimerspec>(),
        "utsname" => size_of::<libc::utsname>(),
        "sysinfo" => size_of::<libc::sysinfo>(),
        "siginfo_t" => size_of::<libc::siginfo_t>(),
        "sched_param" => size_of::<libc::sched_param>(),
        "timex" => size_of::<libc::timex>(),
        "tms" => size_of::<libc::tms>(),
        "utimbuf" => size_of::<libc::utimbuf>(),
        "flock" => size_of::<libc::flock>(),
        "ifreq" => size_of::<libc::ifreq>(),
        "winsize" => size_of::<libc::winsize>(),
        "termios2" => size_of::<libc::termios2>(),
        "semid_ds" => size_of::<libc::semid_ds>(),
        "seminfo" => size_of::<libc::seminfo>(),
        "file_clone_range" => size_of::<libc::file_clone_range>(),
        _ => return None,
    })
}

/// Structs that `libc` does not have as the kernel does, with the kernel's size: measured with
/// `sizeof` against the kernel's own headers, or (`sigset_t`, `timer_t`, `termios`) smaller than the C library's.
const KERNEL_ONLY: &[(&str, u16)] = &[
    ("cachestat", 40),
    ("cachestat_range", 16),
    ("cap_user_data[2]", 24),
    ("cap_user_header", 8),
    ("f_owner_ex", 8),
    ("mnt_id_req", 24),
    ("sched_attr", 48),
    ("sigset_t", 8),
    ("termios", 36),
    ("timer_t", 4),
    ("ustat", 32),
];

#[test]
fn struct_sizes_are_the_kernels() {
    let mut wrong: Vec<String> = Vec::new();
    for call in SYSCALLS {
        for meaning in (0..6).flat_map(|i| meanings(call, i)) {
            let Arg::Struct(_, size, name) = meaning else {
                continue;
            };
            // Of mq_attr what is given is the four used words; what is returned is all of it.
            let right = match name {
                "mq_attr" => [32, size_of::<libc::mq_attr>()].contains(&usize::from(size)),
                _ => size_in_libc(name).map_or_else(
                    || KERNEL_ONLY.contains(&(name, size)),
                    |known| known == usize::from(size),
                ),
            };
            if !right {
                wrong.push(format!("{}: {name} of {size} bytes", call.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(size_of::<libc::epoll_event>(), 12);
    assert_eq!(size_of::<libc::pollfd>(), 8);
    assert_eq!(size_of::<libc::sembuf>(), 6);
}

#[test]
fn command_values_are_those_of_the_c_headers() {
    let known: &[(&str, &str, u64)] = &[
        ("fcntl", "F_SETLKW", libc::F_SETLKW as u64),
        ("fcntl", "F_DUPFD_CLOEXEC", libc::F_DUPFD_CLOEXEC as u64),
        ("fcntl", "F_OFD_SETLK", libc::F_OFD_SETLK as u64),
        ("fcntl", "F_SETPIPE_SZ", libc::F_SETPIPE_SZ as u64),
        ("fcntl", "F_ADD_SEALS", libc::F_ADD_SEALS as u64),
        ("ioctl", "FIONREAD", libc::FIONREAD),
        ("ioctl", "FIONBIO", libc::FIONBIO),
        ("ioctl", "FIOCLEX", libc::FIOCLEX),
        ("ioctl", "TCGETS", libc::TCGETS),
        ("ioctl", "TCGETS2", libc::TCGETS2),
        ("ioctl", "TCSETSF2", libc::TCSETSF2),
        ("ioctl", "TIOCGWINSZ", libc::TIOCGWINSZ),
        ("ioctl", "TIOCSPGRP", libc::TIOCSPGRP),
        ("ioctl", "SIOCGIFADDR", libc::SIOCGIFADDR),
        ("ioctl", "SIOCGIFINDEX", libc::SIOCGIFINDEX),
        ("ioctl", "FICLONE", libc::FICLONE),
        ("ioctl", "FS_IOC_GETFLAGS", libc::FS_IOC_GETFLAGS),
        ("ioctl", "BLKSSZGET", libc::BLKSSZGET),
        ("prctl", "PR_SET_NAME", libc::PR_SET_NAME as u64),
        (
            "prctl",
            "PR_SET_NO_NEW_PRIVS",
            libc::PR_SET_NO_NEW_PRIVS as u64,
        ),
        ("prctl", "PR_SET_VMA", libc::PR_SET_VMA as u64),
        ("prctl", "PR_SET_PTRACER", libc::PR_SET_PTRACER as u64),
        ("semctl", "SETVAL", libc::SETVAL as u64),
        ("semctl", "GETALL", libc::GETALL as u64),
    ];
    for &(call, name, value) in known {
        let found = commands().find(|(c, k)| c.name == call && k.name == name);
        assert_eq!(
            found.map(|(_, k)| u64::from(k.value)),
            Some(value),
            "{call} {name}"
        );
    }
}

#[test]
fn the_table_can_be_evaluated_in_a_constant() {
    const REPLAYED: usize = {
        let mut count = 0;
        let mut i = 0;
        while i < ALL.len() {
            if matches!(ALL[i].class, Class::Replayed) {
                count += 1;
            }
            i += 1;
        }
        count
    };
    let counted = SYSCALLS
        .iter()
        .filter(|c| c.class == Class::Replayed)
        .count();
    assert_eq!(REPLAYED, counted);
}

#[test]
fn padding_lies_within_its_struct() {
    let mut with_padding = 0;
    for meaning in SYSCALLS
        .iter()
        .flat_map(|c| (0..6).flat_map(|i| meanings(c, i)))
    {
        let Arg::Struct(_, size, name) = meaning else {
            continue;
        };
        for &(from, to) in crate::spec::unread(name) {
            assert!(from < to && to <= usize::from(size), "{name}: {from}..{to}");
            with_padding += 1;
        }
    }
    assert!(
        with_padding > 0,
        "no struct of the table is known to `unread`"
    );
    assert_eq!(crate::spec::unread("stat"), &[]);
}
