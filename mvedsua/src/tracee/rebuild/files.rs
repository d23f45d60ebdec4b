//! A name by which a process can open a file that another one has mapped.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::tracee::inspect;

/// The name that leads process `pid` (with its own root) to the file of a mapping of process `original` at
/// `start` to `end`: its path, or its entry in `map_files` if it was deleted or replaced.
pub fn name_for(pid: i32, original: i32, (start, end): (u64, u64)) -> Option<PathBuf> {
    let range = format!("map_files/{start:x}-{end:x}");
    let mapped = PathBuf::from(format!("/proc/{original}/{range}"));
    let wanted = std::fs::metadata(&mapped).ok()?;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let leads_there = |name: &PathBuf| {
        let inside = name.strip_prefix("/").unwrap_or(name);
        std::fs::metadata(root.join(inside))
            .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    // As the agent sees it; below the process's root it is called otherwise.
    let path = std::fs::read_link(&mapped).ok()?;
    let own_root = std::fs::read_link(&root).ok()?;
    let by_path = path
        .strip_prefix(&own_root)
        .ok()
        .map(|p| Path::new("/").join(p));
    // A procfs may be that of any of its pid namespaces.
    let by_id = inspect::ids(original)
        .into_iter()
        .map(|id| PathBuf::from(format!("/proc/{id}/{range}")));
    by_path.into_iter().chain(by_id).find(leads_there)
}
