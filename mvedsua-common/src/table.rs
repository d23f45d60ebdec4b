//! The table.
use crate::spec::{Arg, Class, Dir, Len, Syscall};

/// `restart_syscall(2)`.
pub const RESTART_SYSCALL: u16 = 219;

const U: Arg = Arg::Unused;
macro_rules! call {
    ($nr:literal, $name:literal, $class:ident, $args:expr) => {
        Syscall {
            nr: $nr,
            name: $name,
            class: Class::$class,
            names: &[],
            args: $args,
            commands: None,
            returns_fd: false,
        }
    };
}

/// All calls.
pub static SYSCALLS: &[Syscall] = &[
    call!(
        0,
        "read",
        Replayed,
        [Arg::Fd, Arg::Mem(Dir::Out, Len::Ret(1)), Arg::Long, U, U, U]
    ),
    call!(
        1,
        "write",
        Replayed,
        [Arg::Fd, Arg::Mem(Dir::In, Len::Ret(1)), Arg::Long, U, U, U]
    ),
    call!(9, "mmap", Local, [U, U, U, U, U, U]),
    call!(
        20,
        "writev",
        Replayed,
        [Arg::Fd, Arg::Mem(Dir::In, Len::Iov(2)), Arg::Int, U, U, U]
    ),
    call!(
        35,
        "nanosleep",
        Replayed,
        [
            Arg::Struct(Dir::In, 16, "timespec"),
            Arg::Struct(Dir::Out, 16, "timespec"),
            U,
            U,
            U,
            U
        ]
    ),
    call!(
        46,
        "sendmsg",
        Replayed,
        [Arg::Fd, Arg::Mem(Dir::In, Len::Msg), Arg::Int, U, U, U]
    ),
    call!(
        47,
        "recvmsg",
        Replayed,
        [Arg::Fd, Arg::Mem(Dir::Out, Len::Msg), Arg::Int, U, U, U]
    ),
    call!(
        228,
        "clock_gettime",
        Time,
        [Arg::Int, Arg::Struct(Dir::Out, 16, "timespec"), U, U, U, U]
    ),
    call!(
        232,
        "epoll_wait",
        Replayed,
        [Arg::Fd, Arg::EpollEvents, Arg::Int, Arg::Int, U, U]
    ),
    call!(
        257,
        "openat",
        FdChanging,
        [Arg::Fd, Arg::Path, Arg::Int, Arg::Int, U, U]
    ),
];
