//! Builds of real servers, as `cargo xtask programs` makes and keeps them: where they are.
//!
//! They are in `$XDG_CACHE_HOME/mvedsua/programs` (else `~/.cache/...`), so that they outlive `cargo
//! clean` and serve every clone; [`FOLDER`] names another place.

use std::path::{Path, PathBuf};

/// Environment variable with the folder of the builds.
pub const FOLDER: &str = "MVEDSUA_PROGRAMS";

/// Debian's Redis 7.0.15-1~deb12u7: what runs.
pub const REDIS_U7: &str = "redis-u7";

/// Debian's Redis 7.0.15-1~deb12u10: five CVEs later.
pub const REDIS_U10: &str = "redis-u10";

/// The same as [`REDIS_U10`], with the bug of the paper: `HMGET` of a key that holds no hash crashes.
pub const REDIS_HMGET: &str = "redis-hmget";

/// Debian's memcached 1.6.18-1, with the two options in which the next one's fixes are.
pub const MEMCACHED_OLD: &str = "memcached-1.6.18-1";

/// Debian's memcached 1.6.18-1+deb12u1, with the same options.
pub const MEMCACHED_NEW: &str = "memcached-1.6.18-1+deb12u1";

/// Debian's vsftpd 3.0.3-13+b2, as it is installed.
pub const VSFTPD: &str = "vsftpd-3.0.3";

/// A next version of [`VSFTPD`]: another greeting, another command, another form of its log.
pub const VSFTPD_NEXT: &str = "vsftpd-next";

/// Written last into the folder of a build; holds the recipe that made it.
const STAMP: &str = "recipe";

/// Folder with the program, under the name that it has when it is installed.
pub const PROGRAM: &str = "bin";

/// Folder with its debug files.
pub const DEBUG: &str = "debug";

/// One build: a program with its debug file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    folder: PathBuf,
    program: PathBuf,
}

impl Build {
    /// The build of that name, if it is there.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::at(folder().join(name))
    }

    fn at(folder: PathBuf) -> Option<Self> {
        if !folder.join(STAMP).is_file() {
            return None;
        }
        let mut programs = std::fs::read_dir(folder.join(PROGRAM)).ok()?;
        let program = programs.next()?.ok()?.path();
        Some(Self { folder, program })
    }

    /// Like [`find`](Self::find), if `recipe` is what made it: an older one has to be made again.
    #[must_use]
    pub fn find_made_by(name: &str, recipe: &str) -> Option<Self> {
        let build = Self::find(name)?;
        let made_by = std::fs::read_to_string(build.folder.join(STAMP)).ok()?;
        (made_by == recipe).then_some(build)
    }

    /// Declares that a build in `folder` is complete.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn complete(folder: &Path, recipe: &str) -> std::io::Result<()> {
        std::fs::write(folder.join(STAMP), recipe)
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What to give to `--debug-root`: the folder that holds `.build-id/`. A program that was not
    /// stripped has its DWARF in itself, and then this folder is empty.
    #[must_use]
    pub fn debug_root(&self) -> PathBuf {
        self.folder.join(DEBUG)
    }
}

/// Where the builds are.
#[must_use]
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return folder.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    cache
        .unwrap_or_else(|| home().join(".cache"))
        .join("mvedsua/programs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_there_when_its_stamp_is() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = folder.path().join(PROGRAM).join("server");
        std::fs::create_dir(folder.path().join(PROGRAM)).expect("writable");
        std::fs::write(&program, "").expect("writable");
        assert_eq!(Build::at(folder.path().into()), None, "not complete yet");
        Build::complete(folder.path(), "made so").expect("writable");
        let build = Build::at(folder.path().into()).expect("complete");
        assert_eq!(build.program(), program);
    }
}
