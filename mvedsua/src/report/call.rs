//! One system call in the style of strace: `write(fd 8, "+OK\r\n", 5) = 5`.

use std::fmt::Write as _;

use mvedsua_common::spec::{Arg, Class, Len, Syscall};
use mvedsua_common::table;
use nix::errno::Errno;

use super::{flags, structs};

/// Bytes of a string or buffer that are shown.
const SHOWN: usize = 64;

/// The kernel's own codes for an interrupted call, with what becomes of it; programs never see them.
const RESTART: &[(i64, &str, &str)] = &[
    (512, "ERESTARTSYS", "to be restarted if SA_RESTART is set"),
    (513, "ERESTARTNOINTR", "to be restarted"),
    (514, "ERESTARTNOHAND", "to be restarted if no handler runs"),
    (516, "ERESTART_RESTARTBLOCK", "interrupted by a signal"),
];

/// A system call as a line of text.
///
/// `args` are the six argument registers, `ret` the result (`None`: not returned yet), and `memory`
/// gives the bytes that an argument (0 to 5) points to, where they are known; an argument without
/// them is written as its pointer.
#[must_use]
pub fn format_call<'m>(
    nr: u16,
    args: &[u64; 6],
    ret: Option<i64>,
    memory: &dyn Fn(u8) -> Option<&'m [u8]>,
) -> String {
    let Some(call) = table::syscall(nr) else {
        let shown: Vec<String> = args.iter().map(|a| format!("{a:#x}")).collect();
        let result = result(None, args, ret);
        return format!("syscall_{nr}({}){result}", shown.join(", "));
    };
    let mut text = format!("{}(", call.name);
    let mut first = true;
    for index in 0..call.arity() {
        let meaning = call.arg_of(index, args);
        // A command such as F_GETFL takes no argument, although fcntl has a place for one.
        if meaning == Arg::Unused {
            continue;
        }
        if !first {
            text.push_str(", ");
        }
        first = false;
        text.push_str(&argument(call, index, meaning, args, memory));
    }
    let _ = write!(text, "){}", result(Some(call), args, ret));
    text
}

/// One argument.
fn argument<'m>(
    call: &Syscall,
    index: usize,
    meaning: Arg,
    args: &[u64; 6],
    memory: &dyn Fn(u8) -> Option<&'m [u8]>,
) -> String {
    let value = args[index];
    match meaning {
        Arg::Int => {
            let is_command = call
                .commands
                .is_some_and(|(at, _)| usize::from(at) == index);
            return flags::of_argument(call, args, index).unwrap_or_else(|| {
                if is_command {
                    format!("{:#x}", value as u32)
                } else {
                    (value as i32).to_string()
                }
            });
        }
        Arg::Long => return value.cast_signed().to_string(),
        Arg::Fd => return descriptor(value as i32),
        Arg::Unused => return String::new(),
        _ => {}
    }
    if value == 0 {
        return "NULL".to_owned();
    }
    let at = index as u8;
    let Some(bytes) = memory(at) else {
        return format!("{value:#x}");
    };
    match meaning {
        Arg::Path | Arg::Mem(_, Len::Str) => structs::path(bytes),
        Arg::Mem(_, Len::FdSet(_)) => structs::fd_set(bytes),
        Arg::SockaddrIn(_) | Arg::SockaddrOut(_) => structs::sockaddr(bytes),
        Arg::LenWord => structs::length_word(bytes),
        Arg::Struct(_, _, name) => structs::c_struct(name, bytes),
        Arg::EpollEvents => structs::epoll_events(bytes),
        Arg::EpollEvent => structs::epoll_event(bytes),
        Arg::PollFds(_) => structs::pollfds(bytes),
        _ => quoted(bytes),
    }
}

/// A file descriptor, or the constant for the working directory.
fn descriptor(fd: i32) -> String {
    if fd == libc::AT_FDCWD {
        "AT_FDCWD".to_owned()
    } else {
        format!("fd {fd}")
    }
}

/// ` = result`, or nothing while the call has not returned.
fn result(call: Option<&Syscall>, args: &[u64; 6], ret: Option<i64>) -> String {
    let Some(ret) = ret else {
        return String::new();
    };
    if let Some((_, name, fate)) = RESTART.iter().find(|(code, _, _)| *code == -ret) {
        return format!(" = ? {name} ({fate})");
    }
    // The kernel keeps the last 4095 values for errors; anything below them is a result.
    if (-4095..0).contains(&ret) {
        return match Errno::from_raw(-ret as i32) {
            Errno::UnknownErrno => format!(" = -1 errno {}", -ret),
            errno => format!(" = -1 {errno:?} ({})", errno.desc()),
        };
    }
    match call {
        Some(call) if call.returns_fd(args) => format!(" = fd {ret}"),
        // Of the calls on the process's own memory, those that return so much return an address.
        Some(call) if call.class == Class::Local && ret >= 4096 => format!(" = {ret:#x}"),
        _ => format!(" = {ret}"),
    }
}

/// `bytes` as a C string literal, cut after [`SHOWN`] bytes with `...` behind.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    let shown = &bytes[..bytes.len().min(SHOWN)];
    for (i, &byte) in shown.iter().enumerate() {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            // Short octal would swallow a digit that follows.
            _ if shown.get(i + 1).is_some_and(u8::is_ascii_digit) => {
                let _ = write!(text, "\\{byte:03o}");
            }
            _ => {
                let _ = write!(text, "\\{byte:o}");
            }
        }
    }
    text.push('"');
    if bytes.len() > SHOWN {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
