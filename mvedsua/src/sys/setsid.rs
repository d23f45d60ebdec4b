//! Sessions of the terminal kind (`setsid(2)`): children that outlive who started them.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

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
