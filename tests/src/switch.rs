//! Victims with several versions in one program: a test turns one of them into another by a word of its memory, and
//! tells all of them by a file what to do.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use crate::Victim;

/// The word that says which version a process is.
#[derive(Clone, Copy, Debug)]
pub struct Switch(u64);

impl Switch {
    /// Makes process `pid` the version `number`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn turn(self, pid: i32, number: i32) -> Result<()> {
        let path = format!("/proc/{pid}/mem");
        let memory = File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {path}"))?;
        memory
            .write_all_at(&number.to_le_bytes(), self.0)
            .with_context(|| format!("writing {path}"))
    }
}

impl Victim {
    /// Its switch, whose address it has written into a file: the same in all copies.
    ///
    /// # Errors
    /// When it has none.
    pub fn switch(&self) -> Result<Switch> {
        let path = self.dir().join("progress.switch");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        Ok(Switch(text.trim().parse()?))
    }

    /// Tells all versions what to do in each round from now on.
    ///
    /// # Errors
    /// When it is none that can be told.
    pub fn show(&self, number: i32) -> Result<()> {
        let path = self.dir().join("progress.case");
        let file = File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(file.write_all_at(&number.to_le_bytes(), 0)?)
    }
}
