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

/// Opens a file for reading as a process does whose root directory is `root`: a link, or `..`, leads nowhere
/// else. Opening neither waits for a pipe's other end nor takes a terminal.
///
/// # Errors
/// Whatever `openat2(2)` says; `EXDEV` or `ELOOP` for a "magic" link of procfs.
pub fn within(root: &File, path: &Path) -> Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    Ok(File::from(openat2(root, path, how)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn within_a_root_directory_nothing_leads_out_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("made");
        std::fs::write(root.join("etc/file"), "inside").expect("written");
        std::fs::write(folder.path().join("file"), "outside").expect("written");
        std::os::unix::fs::symlink("/etc/file", root.join("link")).expect("linked");
        let root = File::open(&root).expect("opened");
        for name in ["/etc/file", "etc/file", "/link", "/../../etc/file"] {
            let mut text = String::new();
            let mut file = within(&root, Path::new(name)).expect(name);
            file.read_to_string(&mut text).expect("read");
            assert_eq!(text, "inside", "{name}");
        }
        assert!(within(&root, Path::new("/../file")).is_err());
    }
}
