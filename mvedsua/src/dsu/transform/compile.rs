//! Compiles a transformer and joins it with what runs beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::header::ABI;
use crate::dsu::debug_files::read_file;
use crate::dsu::error::DsuError;

const RUNTIME: &str = include_str!("runtime.c");

/// Largest transformer, source or object, in bytes: 16 MiB.
const LARGEST: u64 = 16 << 20;

/// Nothing of the C library, nothing that needs set-up, and every address relative.
const FLAGS: &[&str] = &[
    "-c",
    "-O2",
    "-fPIC",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-common",
    "-fcf-protection=none",
    "-fno-tree-loop-distribute-patterns",
    "-fvisibility=hidden",
    "-Wall",
];

/// What is said to a compiler of C beside.
const C: &[&str] = &[
    "-xc",
    "-ffreestanding",
    "-Werror=implicit-function-declaration",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
];

/// The same for C++: the standard library's headers are of use, not what it has compiled.
const CPP: &[&str] = &[
    "-xc++",
    "-std=c++17",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
];

/// Where the text of a transformer comes from.
pub(super) enum Source<'a> {
    /// A file: source in C or C++, or an object made by another compiler through the same ABI.
    File(&'a Path),
    /// C made from a declaration in this file.
    Generated(&'a Path, &'a str),
}

impl Source<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Generated(path, _) => path,
        }
    }
}

fn run(path: &Path, command: &mut Command) -> Result<String, DsuError> {
    let fail = |output: String| DsuError::Compile {
        path: path.into(),
        output,
    };
    let output = command
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| fail(format!("cc cannot be started: {e}; install a C compiler")))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(fail(text))
    }
}

/// One relocatable object of the transformer and its runtime, and the compiler's warnings.
pub(super) fn compile(source: &Source<'_>, header: &str) -> Result<(Vec<u8>, String), DsuError> {
    let path = source.path();
    let fail = |at: &Path, source| DsuError::Write {
        path: at.into(),
        source,
    };
    let folder = tempfile::tempdir().map_err(|e| fail(&std::env::temp_dir(), e))?;
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| -> Result<PathBuf, DsuError> {
        let file = at(name);
        std::fs::write(&file, text).map_err(|e| fail(&file, e))?;
        Ok(file)
    };
    write("mvedsua_abi.h", ABI)?;
    write("mvedsua.h", header)?;
    let runtime = write("runtime.c", RUNTIME)?;
    let compile = |from: &Path, to: &Path, language: &[&str]| {
        let mut command = Command::new("cc");
        command.args(FLAGS).arg("-I").arg(folder.path());
        command.args(language);
        run(path, command.arg(from).arg("-o").arg(to))
    };
    compile(&runtime, &at("runtime.o"), C)?;
    let mut warnings = String::new();
    let object = at("transform.o");
    match source {
        Source::Generated(_, text) => {
            let file = write("generated.c", text)?;
            warnings = compile(&file, &object, C)?;
        }
        Source::File(file) => {
            let data = read_file(file, LARGEST)?;
            if data.starts_with(b"\x7fELF") {
                std::fs::write(&object, data).map_err(|e| fail(&object, e))?;
            } else {
                let is_cpp = file
                    .extension()
                    .is_some_and(|e| e == "cc" || e == "cpp" || e == "cxx");
                warnings = compile(file, &object, if is_cpp { CPP } else { C })?;
            }
        }
    }
    let all = at("all.o");
    run(
        path,
        Command::new("cc")
            .args(["-r", "-nostdlib", "-o"])
            .arg(&all)
            .arg(at("runtime.o"))
            .arg(&object),
    )?;
    Ok((read_file(&all, LARGEST)?, warnings))
}
