//! Is a server as it was before Mvedsua touched it?

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::process;

/// What must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
pub struct Before {
    pid: i32,
    /// Descriptors and what they are.
    descriptors: BTreeMap<i32, PathBuf>,
    threads: usize,
}

impl Before {
    /// Notes the state of the process.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        Self {
            pid,
            descriptors: process::descriptor_targets(pid),
            threads: process::threads(pid).len(),
        }
    }

    /// Checks that the process is bare: no thread traced or filtered, the vDSO that every process
    /// has, no child left over, and the descriptors and threads of before.
    ///
    /// # Errors
    /// Names what is different.
    pub fn check(&self) -> Result<()> {
        let pid = self.pid;
        ensure!(process::is_alive(pid), "process {pid} is gone");
        ensure!(process::is_untraced(pid), "process {pid} is still traced");
        ensure!(process::is_unfiltered(pid), "process {pid} has a filter");
        let own = process::vdso(i32::try_from(std::process::id())?).context("own vDSO")?;
        let theirs = process::vdso(pid).context("vDSO of the server")?;
        let differs = own.iter().zip(&theirs).position(|(a, b)| a != b);
        ensure!(
            own.len() == theirs.len() && differs.is_none(),
            "the vDSO of process {pid} is not that of other processes, first at {differs:?}"
        );
        let children = process::children(pid);
        ensure!(
            children.is_empty(),
            "process {pid} has children: {children:?}"
        );
        let now = Self::of(pid);
        ensure!(
            now == *self,
            "process {pid} has changed: {self:?} before, {now:?} now"
        );
        Ok(())
    }
}
