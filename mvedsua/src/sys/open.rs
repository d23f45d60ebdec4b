//! Opening a file that nobody may have put in another's place: `openat2(2)`.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use super::Result;

/// Opens a file for reading. No component of the path may be a symbolic link (or a "magic" one of
/// procfs), and opening neither waits for a pipe's other end nor takes a terminal.
///
/// # Errors
/// `ELOOP` for a link; whatever else `openat2(2)` says.
pub fn without_links(path: &Path) -> Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(File::from(openat2(AT_FDCWD, path, how)?))
}
