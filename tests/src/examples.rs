//! The servers of `examples/`, compiled in each of their versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// An example server: its language, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// C: a key-value store in versions 1 to 3, after Figure 1 of the paper.
    Kvstore,
    /// C++: exceptions, virtual functions, containers, templates; versions 1 and 2.
    Shelf,
    /// Rust: a thread per connection, panics; versions 1 and 2.
    Board,
}

impl Example {
    /// All of them, each with the number of its versions.
    pub const ALL: [(Self, u32); 3] = [(Self::Kvstore, 3), (Self::Shelf, 2), (Self::Board, 2)];

    fn source(self) -> PathBuf {
        let path = match self {
            Self::Kvstore => "kvstore/kvstore.c",
            Self::Shelf => "shelf/shelf.cc",
            Self::Board => "board/board.rs",
        };
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../examples")
            .join(path)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvstore => "kvstore",
            Self::Shelf => "shelf",
            Self::Board => "board",
        }
    }

    /// The program in that version: compiled when it is missing or older than its source. With
    /// symbols, DWARF and a build-id, so that a bundle can be made of two.
    ///
    /// # Errors
    /// When it does not compile: with what the compiler said.
    pub fn build(self, version: u32) -> Result<PathBuf> {
        let source = self.source();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/examples");
        std::fs::create_dir_all(&folder)?;
        let program = folder.join(format!("{}-v{version}", self.name()));
        let modified = |path: &Path| path.metadata().and_then(|meta| meta.modified());
        let written = modified(&source).with_context(|| format!("{} ", source.display()))?;
        if modified(&program).is_ok_and(|built| built > written) {
            return Ok(program);
        }
        // Under a name of our own first: another test may compile it at the same time.
        let fresh = folder.join(format!("{}-v{version}.{}", self.name(), std::process::id()));
        let mut compiler = self.compiler(version);
        compiler.arg("-o").arg(&fresh).arg(&source);
        let output = compiler
            .output()
            .with_context(|| format!("starting {compiler:?}"))?;
        ensure!(
            output.status.success(),
            "{compiler:?}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::rename(&fresh, &program)?;
        Ok(program)
    }

    fn compiler(self, version: u32) -> Command {
        let macro_of = format!("-DVERSION={version}");
        let warnings = ["-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id"];
        let mut compiler;
        match self {
            Self::Kvstore => {
                compiler = Command::new("gcc");
                compiler.args(["-std=c11", &macro_of]).args(warnings);
            }
            Self::Shelf => {
                compiler = Command::new("g++");
                compiler.args(["-std=c++17", &macro_of]).args(warnings);
            }
            Self::Board => {
                compiler = Command::new("rustc");
                compiler
                    .args(["-g", "-O", "--edition", "2024", "-Ccodegen-units=1"])
                    .args(["-Dwarnings", "-Clink-arg=-Wl,--build-id"])
                    .args(["--check-cfg", "cfg(v1, v2)"])
                    .args(["--cfg", &format!("v{version}")]);
            }
        }
        compiler
    }
}
