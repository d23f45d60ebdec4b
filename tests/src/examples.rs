//! The servers of `examples/`, compiled in each of their versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// An example server: its language, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// C: a key-value store in versions 1 to 3, after Figure 1 of the paper.
    Kvstore,
    /// C++: exceptions, virtual functions, containers, templates; versions 1 to 3.
    Shelf,
    /// Rust: a thread per connection, panics; versions 1 to 3.
    Board,
}

impl Example {
    /// All of them, each with the number of its versions.
    pub const ALL: [(Self, u32); 3] = [(Self::Kvstore, 3), (Self::Shelf, 3), (Self::Board, 3)];

    /// Its source files; the program's own one first.
    fn sources(self) -> Vec<PathBuf> {
        let files: &[&str] = match self {
            Self::Kvstore => &["kvstore/kvstore.c"],
            Self::Shelf => &["shelf/shelf.cc"],
            Self::Board => &["board/board.rs", "board/commands.rs"],
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        files.iter().map(|file| folder.join(file)).collect()
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
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/examples");
        std::fs::create_dir_all(&target)?;
        let program = target.join(format!("{}-v{version}", self.name()));
        let modified = |path: &Path| path.metadata().and_then(|meta| meta.modified());
        let mut written = Vec::new();
        for source in self.sources() {
            written.push(modified(&source).with_context(|| source.display().to_string())?);
        }
        if modified(&program).is_ok_and(|built| written.iter().all(|source| built > *source)) {
            return Ok(program);
        }
        // In a folder of our own first: another test may compile it at the same time.
        let work = tempfile::tempdir_in(&target)?;
        let fresh = work.path().join("program");
        match self {
            Self::Kvstore => compile("gcc", &["-std=c11"], version, &self.sources(), &fresh)?,
            Self::Shelf => compile("g++", &["-std=c++17"], version, &self.sources(), &fresh)?,
            Self::Board => {
                let sources = self.sources();
                let library = work.path().join("libcommands.rlib");
                let kind = ["--crate-type", "rlib", "--crate-name", "commands"];
                rustc(&kind, version, &sources[1], &library)?;
                let uses = format!("commands={}", library.display());
                rustc(&["--extern", &uses], version, &sources[0], &fresh)?;
            }
        }
        std::fs::rename(&fresh, &program)?;
        Ok(program)
    }
}

fn compile(
    compiler: &str,
    options: &[&str],
    version: u32,
    sources: &[PathBuf],
    output: &Path,
) -> Result<()> {
    let mut command = Command::new(compiler);
    command
        .args(options)
        .args(["-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id"])
        .arg(format!("-DVERSION={version}"))
        .args(sources);
    run(command.arg("-o").arg(output))
}

fn rustc(options: &[&str], version: u32, source: &Path, output: &Path) -> Result<()> {
    let mut command = Command::new("rustc");
    command
        .args(["-g", "-O", "--edition", "2024", "-Dwarnings"])
        // So that each function is there once, under one name.
        .args(["-Ccodegen-units=1", "-Clink-arg=-Wl,--build-id"])
        .args(["--check-cfg", "cfg(v2, v3)"])
        .args((2..=version).flat_map(|v| ["--cfg".to_owned(), format!("v{v}")]))
        .args(options)
        .arg(source);
    run(command.arg("-o").arg(output))
}

fn run(compiler: &mut Command) -> Result<()> {
    let output = compiler
        .output()
        .with_context(|| format!("starting {compiler:?}"))?;
    ensure!(
        output.status.success(),
        "{compiler:?}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
