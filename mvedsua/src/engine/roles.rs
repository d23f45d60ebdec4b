//! The few calls that the engine has to carry out by other means than answering them, by number.

use std::sync::OnceLock;

use mvedsua_common::table;

/// Numbers of the calls with a handling of their own, looked up in the table once.
#[derive(Debug)]
pub(super) struct Roles {
    pub(super) clone: u16,
    pub(super) clone3: u16,
    pub(super) fork: u16,
    pub(super) vfork: u16,
    pub(super) wait4: u16,
    pub(super) waitid: u16,
    pub(super) close: u16,
    pub(super) close_range: u16,
    pub(super) exit: u16,
    pub(super) exit_group: u16,
    pub(super) rt_sigprocmask: u16,
    pub(super) rt_sigsuspend: u16,
    pub(super) epoll_ctl: u16,
    pub(super) execve: u16,
    pub(super) execveat: u16,
    pub(super) set_tid_address: u16,
    pub(super) clock_gettime: u16,
    pub(super) gettimeofday: u16,
    pub(super) time: u16,
    pub(super) chdir: u16,
    pub(super) fchdir: u16,
    pub(super) chroot: u16,
    pub(super) setsid: u16,
    pub(super) setpgid: u16,
    pub(super) setitimer: u16,
    pub(super) alarm: u16,
    pub(super) timer_settime: u16,
    pub(super) timer_delete: u16,
}

/// The numbers.
pub(super) fn roles() -> &'static Roles {
    static ROLES: OnceLock<Roles> = OnceLock::new();
    ROLES.get_or_init(|| {
        let nr = table::number;
        Roles {
            clone: nr("clone"),
            clone3: nr("clone3"),
            fork: nr("fork"),
            vfork: nr("vfork"),
            wait4: nr("wait4"),
            waitid: nr("waitid"),
            close: nr("close"),
            close_range: nr("close_range"),
            exit: nr("exit"),
            exit_group: nr("exit_group"),
            rt_sigprocmask: nr("rt_sigprocmask"),
            rt_sigsuspend: nr("rt_sigsuspend"),
            epoll_ctl: nr("epoll_ctl"),
            execve: nr("execve"),
            execveat: nr("execveat"),
            set_tid_address: nr("set_tid_address"),
            clock_gettime: nr("clock_gettime"),
            gettimeofday: nr("gettimeofday"),
            time: nr("time"),
            chdir: nr("chdir"),
            fchdir: nr("fchdir"),
            chroot: nr("chroot"),
            setsid: nr("setsid"),
            setpgid: nr("setpgid"),
            setitimer: nr("setitimer"),
            alarm: nr("alarm"),
            timer_settime: nr("timer_settime"),
            timer_delete: nr("timer_delete"),
        }
    })
}
