//! Sessions of the terminal kind (`setsid(2)`): children that outlive who started them.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Lets the child run in a session of its own and ignore `SIGTERM`: neither the terminal's signals
/// nor those that systemd sends to what is left of a service end it.
pub fn undisturbed(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and makes one async-signal-safe call; "ignore" is
    // no handler that could run, and survives the exec.
    unsafe {
        in_new_session(command).pre_exec(|| match libc::signal(libc::SIGTERM, libc::SIG_IGN) {
            libc::SIG_ERR => Err(io::Error::last_os_error()),
            _ => Ok(()),
        })
    }
}

/// Lets the child run in a session of its own, so that no signal of our terminal reaches it. It
/// belongs to init as soon as we have ended.
pub fn in_new_session(command: &mut Command) -> &mut Command {
    let detach = || match nix::unistd::setsid() {
        Ok(_) => Ok(()),
        Err(errno) => Err(io::Error::from(errno)),
    };
    // SAFETY: the closure runs between fork and exec and makes one async-signal-safe call; it
    // touches no memory that another thread may hold locked.
    unsafe { command.pre_exec(detach) }
}
