//! The exact text of typical calls.

use mvedsua_common::table::by_name;

use super::format_call;

/// Formats the call `name` with `parts` as the memory behind its arguments.
fn shown(name: &str, args: [u64; 6], ret: Option<i64>, parts: &[(u8, &[u8])]) -> String {
    let nr = by_name(name).expect("a call of the table").nr;
    format_call(nr, &args, ret, &|at| {
        parts
            .iter()
            .find(|(arg, _)| *arg == at)
            .map(|(_, bytes)| *bytes)
    })
}

const P: u64 = 0x7fff_1000;

#[test]
fn a_write_shows_what_is_written() {
    let text = shown("write", [8, P, 5, 0, 0, 0], Some(5), &[(1, b"+OK\r\n")]);
    assert_eq!(text, r#"write(fd 8, "+OK\r\n", 5) = 5"#);
    let text = shown("write", [8, P, 5, 0, 0, 0], None, &[]);
    assert_eq!(text, "write(fd 8, 0x7fff1000, 5)");
}

#[test]
fn long_and_binary_buffers_are_cut_and_escaped() {
    let zeros = [0_u8; 65];
    let text = shown("write", [1, P, 65, 0, 0, 0], Some(65), &[(1, &zeros)]);
    assert_eq!(
        text,
        format!(r#"write(fd 1, "{}"..., 65) = 65"#, r"\0".repeat(64))
    );
    let text = shown("write", [1, P, 4, 0, 0, 0], Some(4), &[(1, b"\x001\"\\")]);
    assert_eq!(text, r#"write(fd 1, "\0001\"\\", 4) = 4"#);
}

#[test]
fn errors_have_names() {
    let text = shown("read", [5, P, 100, 0, 0, 0], Some(-11), &[]);
    let expected = "read(fd 5, 0x7fff1000, 100) = -1 EAGAIN (Try again)";
    assert_eq!(text, expected);
    let text = shown("read", [5, P, 100, 0, 0, 0], Some(-512), &[]);
    let expected =
        "read(fd 5, 0x7fff1000, 100) = ? ERESTARTSYS (to be restarted if SA_RESTART is set)";
    assert_eq!(text, expected);
    let text = shown("close", [5, 0, 0, 0, 0, 0], Some(-3000), &[]);
    assert_eq!(text, "close(fd 5) = -1 errno 3000");
}

#[test]
fn paths_and_open_flags() {
    let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC) as u64;
    let args = [libc::AT_FDCWD as u64, P, flags, 0o600, 0, 0];
    let text = shown(
        "openat",
        args,
        Some(7),
        &[(1, b"/var/lib/redis/dump.rdb\0")],
    );
    let expected =
        r#"openat(AT_FDCWD, "/var/lib/redis/dump.rdb", O_RDWR|O_CLOEXEC|O_CREAT, 0o600) = fd 7"#;
    assert_eq!(text, expected);
}

#[test]
fn memory_calls_show_addresses() {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let text = shown(
        "mmap",
        [0, 4096, 3, flags, u64::MAX, 0],
        Some(0x7f12_3456_7000),
        &[],
    );
    let expected = "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, fd -1, 0) = 0x7f1234567000";
    assert_eq!(text, expected);
}

#[test]
fn socket_addresses() {
    let flags = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64;
    let text = shown(
        "socket",
        [libc::AF_INET as u64, flags, 0, 0, 0, 0],
        Some(6),
        &[],
    );
    assert_eq!(text, "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0) = fd 6");

    let mut v4 = [0_u8; 16];
    v4[0] = 2;
    v4[2..8].copy_from_slice(&[0x18, 0xeb, 127, 0, 0, 1]);
    let text = shown("connect", [6, P, 16, 0, 0, 0], Some(0), &[(1, &v4)]);
    assert_eq!(text, "connect(fd 6, {AF_INET, 127.0.0.1:6379}, 16) = 0");

    let mut v6 = [0_u8; 28];
    v6[0] = 10;
    v6[3] = 80;
    v6[23] = 1;
    let parts: &[(u8, &[u8])] = &[(1, &v6), (2, &[28, 0, 0, 0])];
    let text = shown("accept4", [6, P, P, 0x800, 0, 0], Some(9), parts);
    assert_eq!(
        text,
        "accept4(fd 6, {AF_INET6, [::1]:80}, [28], SOCK_NONBLOCK) = fd 9"
    );

    let text = shown(
        "bind",
        [6, P, 12, 0, 0, 0],
        Some(0),
        &[(1, b"\x01\0/run/x.s\0")],
    );
    assert_eq!(text, r#"bind(fd 6, {AF_UNIX, "/run/x.s"}, 12) = 0"#);
    let text = shown("bind", [6, P, 6, 0, 0, 0], Some(0), &[(1, b"\x01\0\0abc")]);
    assert_eq!(text, r#"bind(fd 6, {AF_UNIX, @"abc"}, 6) = 0"#);
    let text = shown("accept", [6, 0, 0, 0, 0, 0], Some(9), &[]);
    assert_eq!(text, "accept(fd 6, NULL, NULL) = fd 9");
}

#[test]
fn epoll_poll_and_select() {
    let mut events = [0_u8; 24];
    events[0] = 1;
    events[4] = 8;
    events[12] = 0x14;
    events[16] = 9;
    let text = shown(
        "epoll_wait",
        [5, P, 64, 100, 0, 0],
        Some(2),
        &[(1, &events)],
    );
    let expected =
        "epoll_wait(fd 5, [{EPOLLIN, data=0x8}, {EPOLLOUT|EPOLLHUP, data=0x9}], 64, 100) = 2";
    assert_eq!(text, expected);

    let text = shown(
        "epoll_ctl",
        [5, 1, 8, P, 0, 0],
        Some(0),
        &[(3, &events[..12])],
    );
    assert_eq!(
        text,
        "epoll_ctl(fd 5, EPOLL_CTL_ADD, fd 8, {EPOLLIN, data=0x8}) = 0"
    );

    let fds: &[u8] = &[3, 0, 0, 0, 1, 0, 1, 0, 4, 0, 0, 0, 4, 0, 0, 0];
    let text = shown("poll", [P, 2, u64::MAX, 0, 0, 0], Some(1), &[(0, fds)]);
    assert_eq!(
        text,
        "poll([{fd 3, POLLIN -> POLLIN}, {fd 4, POLLOUT}], 2, -1) = 1"
    );

    let set: &[u8] = &[0b0010_1000, 0, 0, 0, 0, 0, 0, 1];
    let text = shown("select", [57, P, 0, 0, 0, 0], Some(3), &[(1, set)]);
    assert_eq!(text, "select(57, [3, 5, 56], NULL, NULL, NULL) = 3");
}

#[test]
fn commands_have_names_and_their_own_argument() {
    let text = shown(
        "fcntl",
        [3, libc::F_GETFL as u64, 0xdead, 0, 0, 0],
        Some(2),
        &[],
    );
    assert_eq!(text, "fcntl(fd 3, F_GETFL) = 2");
    let dup = libc::F_DUPFD_CLOEXEC as u64;
    let text = shown("fcntl", [3, dup, 10, 0, 0, 0], Some(10), &[]);
    assert_eq!(text, "fcntl(fd 3, F_DUPFD_CLOEXEC, 10) = fd 10");
    let text = shown(
        "ioctl",
        [3, libc::FIONREAD, P, 0, 0, 0],
        Some(0),
        &[(2, &[5, 0, 0, 0])],
    );
    assert_eq!(text, "ioctl(fd 3, FIONREAD, [5]) = 0");
    let text = shown("ioctl", [3, 0xdead, P, 0, 0, 0], Some(-25), &[]);
    assert_eq!(
        text,
        "ioctl(fd 3, 0xdead, 0x7fff1000) = -1 ENOTTY (Not a typewriter)"
    );
}

#[test]
fn structs_are_decoded() {
    let mut ts = [0_u8; 16];
    ts[0] = 1;
    ts[8] = 250;
    let text = shown("clock_gettime", [1, P, 0, 0, 0, 0], Some(0), &[(1, &ts)]);
    assert_eq!(
        text,
        "clock_gettime(CLOCK_MONOTONIC, {tv_sec=1, tv_nsec=250}) = 0"
    );
    let pair: &[u8] = &[3, 0, 0, 0, 4, 0, 0, 0];
    let text = shown(
        "pipe2",
        [P, libc::O_CLOEXEC as u64, 0, 0, 0, 0],
        Some(0),
        &[(0, pair)],
    );
    assert_eq!(text, "pipe2([3, 4], O_CLOEXEC) = 0");
    let mask: &[u8] = &[0b0000_0010, 0x40, 1, 0, 2, 0, 0, 0];
    let text = shown(
        "rt_sigsuspend",
        [P, 8, 0, 0, 0, 0],
        Some(-514),
        &[(0, mask)],
    );
    let expected = "rt_sigsuspend([SIGINT SIGTERM SIGCHLD SIG34], 8) = ? ERESTARTNOHAND (to be restarted if no handler runs)";
    assert_eq!(text, expected);
}

#[test]
fn an_unknown_number_is_still_shown() {
    let text = format_call(400, &[1, 2, 3, 4, 5, 6], Some(-38), &|_| None);
    let expected =
        "syscall_400(0x1, 0x2, 0x3, 0x4, 0x5, 0x6) = -1 ENOSYS (Function not implemented)";
    assert_eq!(text, expected);
}
