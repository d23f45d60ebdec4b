//! `cargo xtask tidy`: the rules of this repository that the compiler does not check.

mod blank;
mod dependencies;
mod errors;
mod source;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, paths};

/// Something that is against a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// File, from the top of the repository.
    file: String,
    /// Line, from 1.
    line: usize,
    /// What is wrong.
    what: String,
    /// What to do about it.
    remedy: &'static str,
}

/// A file of the repository.
pub struct File {
    /// Path from the top of the repository, with `/`.
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Checks all files that git knows or would add.
///
/// # Errors
/// When there are findings, which are printed, or the files cannot be read.
pub fn run() -> Result<()> {
    let files = files(paths::root())?;
    let mut findings = Vec::new();
    for file in &files {
        findings.extend(source::name(file));
        if file.is_rust() {
            findings.extend(source::check(file));
        }
    }
    findings.extend(errors::check(&files));
    findings.extend(dependencies::check(&files)?);
    for finding in &findings {
        println!(
            "{}:{}: {}: {}",
            finding.file, finding.line, finding.what, finding.remedy
        );
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("tidy: {} files, nothing to say", files.len());
    Ok(())
}

fn files(root: &Path) -> Result<Vec<File>> {
    let mut git = Command::new("git");
    git.current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let mut files = Vec::new();
    for path in command::output(&mut git)?.split_terminator('\0') {
        let full = root.join(path);
        // Deleted but not yet committed, or a link to somewhere else.
        if !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("reading {path}"))?;
        // Binary files (recorded traces) have no lines to check.
        let text = String::from_utf8(bytes).unwrap_or_default();
        files.push(File {
            path: path.to_owned(),
            text,
        });
    }
    Ok(files)
}
