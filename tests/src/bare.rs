//! Is a server as it was before Mvedsua touched it?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::process;

/// What must be the same before and after.
#[derive(Debug)]
pub struct Before {
    pid: i32,
    /// Descriptors and what they are.
    descriptors: BTreeMap<i32, PathBuf>,
    threads: usize,
    children: BTreeSet<i32>,
}

impl Before {
    /// Notes the state of the process.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        Self {
            pid,
            descriptors: process::descriptor_targets(pid),
            threads: process::threads(pid).len(),
            children: process::children(pid).into_iter().collect(),
        }
    }

    /// Notes the state of the process and of all its descendants.
    #[must_use]
    pub fn of_tree(pid: i32) -> Vec<Self> {
        let all = std::iter::once(pid).chain(process::descendants(pid));
        all.map(Self::of).collect()
    }

    /// Checks that the process is bare: no thread traced or filtered, the vDSO that every process
    /// has, and the descriptors, threads and child processes of before.
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
        let now = Self::of(pid);
        // Those of a session before may have ended since.
        let rest = |state: &Self| (state.descriptors.clone(), state.threads);
        ensure!(
            rest(&now) == rest(self) && now.children.is_subset(&self.children),
            "process {pid} has changed: {self:?} before, {now:?} now"
        );
        Ok(())
    }
}
