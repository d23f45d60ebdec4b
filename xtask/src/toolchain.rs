//! Which compiler builds the recorder programs.
//!
//! `bpfel-unknown-none` needs `core`'s source, an unstable cargo option, and a compiler whose LLVM has
//! the major version that `bpf-linker` was made for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, environment, paths};

/// LLVM of `bpf-linker` 0.10 (its default feature `rust-llvm-22`).
const LLVM: &str = "22";

/// A compiler that can build for `bpfel-unknown-none`.
#[derive(Debug)]
pub struct Toolchain {
    /// For messages.
    pub name: String,
    cargo: PathBuf,
    rustc: PathBuf,
    /// Folder with `libLLVM`, which `bpf-linker` loads at run time.
    llvm: PathBuf,
}

impl Toolchain {
    /// A nightly of rustup that has `rust-src`, else Debian's compiler; `None` when there is neither.
    pub fn find() -> Option<Self> {
        Self::rustup().or_else(Self::debian)
    }

    fn rustup() -> Option<Self> {
        let list = command::output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
        list.lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| name.starts_with("nightly"))
            .find_map(|name| {
                let mut rustc = Command::new("rustup");
                environment::scrub(&mut rustc);
                let sysroot =
                    command::output(rustc.args(["run", name, "rustc", "--print", "sysroot"]))
                        .ok()?;
                let sysroot = PathBuf::from(sysroot.trim());
                Self {
                    name: format!("rustup's {name}"),
                    cargo: sysroot.join("bin/cargo"),
                    rustc: sysroot.join("bin/rustc"),
                    llvm: sysroot.join("lib"),
                }
                .if_fit(&sysroot)
            })
    }

    fn debian() -> Option<Self> {
        Self {
            name: "Debian's rustc-web".into(),
            cargo: "/usr/bin/cargo".into(),
            rustc: "/usr/bin/rustc".into(),
            llvm: format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into(),
        }
        .if_fit(Path::new("/usr"))
    }

    fn if_fit(self, sysroot: &Path) -> Option<Self> {
        let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !source.is_file() || !self.cargo.is_file() || !self.rustc.is_file() {
            return None;
        }
        let mut rustc = Command::new(&self.rustc);
        environment::scrub(&mut rustc);
        let version = command::output(rustc.arg("-vV")).ok()?;
        has_llvm(&version, LLVM).then_some(self)
    }

    /// This toolchain's cargo with `bpf-linker` on the path, told to take its own compiler and to
    /// allow unstable options.
    ///
    /// # Errors
    /// When the `PATH` of this process cannot be extended, or there is no library of the right LLVM.
    pub fn cargo(&self, linker: &Path) -> Result<Command> {
        let mut command = Command::new(&self.cargo);
        environment::scrub(&mut command);
        let folder = linker.parent().expect("a file has a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)))?;
        command
            .env("PATH", path)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", self.only_llvm()?);
        Ok(command)
    }

    /// A folder with the library of our LLVM and nothing else: `bpf-linker` loads the first whose name begins with
    /// `libLLVM`, and a system may have several.
    fn only_llvm(&self) -> Result<PathBuf> {
        let folder = paths::own().join("llvm");
        fs::create_dir_all(&folder)?;
        let files =
            fs::read_dir(&self.llvm).with_context(|| format!("reading {}", self.llvm.display()))?;
        let library = files
            .flatten()
            .find(|file| file.file_name().to_str().is_some_and(is_our_llvm))
            .with_context(|| format!("no library of LLVM {LLVM} in {}", self.llvm.display()))?;
        let link = folder.join("libLLVM.so");
        if fs::read_link(&link).is_ok_and(|target| target == library.path()) {
            return Ok(folder);
        }
        let _ = fs::remove_file(&link);
        symlink(library.path(), &link).with_context(|| format!("making {}", link.display()))?;
        Ok(folder)
    }
}

fn has_llvm(version: &str, major: &str) -> bool {
    version
        .lines()
        .filter_map(|line| line.strip_prefix("LLVM version: "))
        .any(|llvm| llvm.split('.').next() == Some(major))
}

/// `libLLVM.so.22.1`, `libLLVM-22.so`, `libLLVM.so.22.1-rust-1.98.0-nightly`.
fn is_our_llvm(name: &str) -> bool {
    let rest = name
        .strip_prefix("libLLVM.so.")
        .or_else(|| name.strip_prefix("libLLVM-"));
    rest.and_then(|rest| rest.split(['.', '-']).next()) == Some(LLVM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_llvm_decides() {
        let version = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert!(has_llvm(version, "22"));
        assert!(!has_llvm(version, "2"));
        assert!(!has_llvm("rustc 1.63.0\nLLVM version: 14.0.6\n", "22"));
    }

    #[test]
    fn of_several_llvms_ours_is_taken() {
        assert!(is_our_llvm("libLLVM.so.22.1"));
        assert!(is_our_llvm("libLLVM-22.so"));
        assert!(is_our_llvm("libLLVM.so.22.1-rust-1.98.0-nightly"));
        assert!(!is_our_llvm("libLLVM.so.19.1"));
        assert!(!is_our_llvm("libLLVM-14.so.1"));
        assert!(!is_our_llvm("libLLVM.so.2.2"));
    }
}
