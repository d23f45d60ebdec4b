//! Memory: what of it is a process's own, and how another process gets the same.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use super::Original;
use super::areas::{self, ADVICE, Area, Mapped, Stretch, advice, differences};
use super::files;
use crate::sys::memory;
use crate::tracee::inject::Plain;
use crate::tracee::thread::Stopped;
use crate::tracee::{Naming, Result, TraceeError};

const PAGE: u64 = 4096;
/// More of its own memory than this may no descendant have: it is read while the server stands still.
const MOST_BYTES: usize = 1 << 30;

/// Pages that are a process's own: written by it, or by a parent of which it was forked.
#[derive(Debug)]
pub struct Pages {
    /// Address and bytes, in ascending order.
    runs: Vec<(u64, Vec<u8>)>,
}

fn memory_of(pid: i32, write: bool) -> Result<File> {
    // Through this file, protections do not count.
    let mut options = File::options();
    options.read(true).write(write);
    options
        .open(format!("/proc/{pid}/mem"))
        .named("open the memory", pid)
}

impl Pages {
    /// Reads those of a stopped process.
    ///
    /// # Errors
    /// When it has too many, or is gone.
    pub fn read(pid: i32, areas: &[Area]) -> Result<Self> {
        let memory = memory_of(pid, false)?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).named("open the page map", pid)?;
        let mut pages = Self { runs: Vec::new() };
        let mut total = 0;
        for area in areas.iter().filter(|area| area.is_private()) {
            for (start, end) in own_pages(&pagemap, area).named("read the page map", pid)? {
                let len = (end - start) as usize;
                total += len;
                if total > MOST_BYTES {
                    return Err(TraceeError::Unsuitable(format!(
                        "process {pid} has more than {} MiB of memory of its own, too much to be read in one pause",
                        MOST_BYTES >> 20
                    )));
                }
                let mut bytes = vec![0; len];
                memory
                    .read_exact_at(&mut bytes, start)
                    .named("read the memory", pid)?;
                pages.runs.push((start, bytes));
            }
        }
        Ok(pages)
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.runs.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// The parts of a range of addresses that are in none of these pages.
    fn without(&self, (start, end): (u64, u64)) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        let first = self
            .runs
            .partition_point(|(run, bytes)| run + bytes.len() as u64 <= start);
        for (run, bytes) in &self.runs[first..] {
            if *run >= end {
                break;
            }
            if *run > at {
                gaps.push((at, *run));
            }
            at = at.max(run + bytes.len() as u64);
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// The pages whose bytes are others in a process: address and what belongs there.
    fn other_in(&self, memory: &File) -> std::io::Result<Vec<(u64, &[u8])>> {
        let mut other = Vec::new();
        let mut theirs = Vec::new();
        for (start, bytes) in &self.runs {
            theirs.resize(bytes.len(), 0);
            memory.read_exact_at(&mut theirs, *start)?;
            let pages = bytes
                .chunks(PAGE as usize)
                .zip(theirs.chunks(PAGE as usize));
            for (index, (wanted, has)) in pages.enumerate() {
                if wanted != has {
                    other.push((start + index as u64 * PAGE, wanted));
                }
            }
        }
        Ok(other)
    }
}

/// The ranges of an area's pages that are the process's own (`/proc/PID/pagemap`).
fn own_pages(pagemap: &File, area: &Area) -> std::io::Result<Vec<(u64, u64)>> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    /// Entries that are read at once.
    const AT_ONCE: usize = 8192;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut entries = vec![0u8; 8 * AT_ONCE];
    let mut at = area.start;
    while at < area.end {
        let count = (((area.end - at) / PAGE) as usize).min(AT_ONCE);
        let entries = &mut entries[..8 * count];
        pagemap.read_exact_at(entries, at / PAGE * 8)?;
        for entry in entries.chunks_exact(8) {
            let entry = u64::from_le_bytes(entry.try_into().expect("8 bytes"));
            let own = entry & OF_FILE == 0 && entry & (PRESENT | SWAPPED) != 0;
            if own {
                match ranges.last_mut() {
                    Some((_, end)) if *end == at => *end += PAGE,
                    _ => ranges.push((at, at + PAGE)),
                }
            }
            at += PAGE;
        }
    }
    Ok(ranges)
}

/// A stopped process whose memory is arranged anew.
struct Arranged<'a> {
    child: &'a mut Stopped,
    plain: Plain<'a>,
    /// Memory of the main thread's stack, which is there before and afterwards.
    scratch: u64,
}

impl Arranged<'_> {
    fn call(&mut self, name: &'static str, args: [u64; 6]) -> Result<u64> {
        let nr = mvedsua_common::table::number(name);
        self.plain.call_ok(self.child, name, nr, &args)
    }
}

/// Maps in a fork what the original has mapped, and nothing else.
///
/// # Errors
/// When the fork refuses, or the original has something that cannot be mapped.
pub fn arrange(original: &Original, child: &mut Stopped, plain: Plain<'_>) -> Result<()> {
    let pid = child.tid();
    let areas = &original.areas;
    let stack = areas.iter().find(|area| area.is_stack());
    let stack = stack.ok_or_else(|| {
        TraceeError::Unsuitable(format!("process {} has no main stack", original.pid))
    })?;
    let mut arranged = Arranged {
        child,
        plain,
        // Names of files are written here; what belongs here is written last of all.
        scratch: stack.end - 2 * PAGE,
    };
    let end = arranged.call("brk", [original.heap_end, 0, 0, 0, 0, 0])?;
    if end != original.heap_end {
        return Err(TraceeError::Unsuitable(format!(
            "the heap of process {pid} ends at {end:#x} instead of {:#x}",
            original.heap_end
        )));
    }
    let has = areas::of(pid)?;
    if has
        .iter()
        .any(|area| area.is_stack() && area.start > stack.start)
    {
        // A stack grows when it is touched.
        let args = [libc::PR_GET_TID_ADDRESS as u64, stack.start, 0, 0, 0, 0];
        arranged.call("prctl", args)?;
    }
    let has = areas::of(pid)?;
    let stretches = differences(areas, &has);
    for stretch in &stretches {
        if stretch.wanted.is_none() {
            arranged.unmap(stretch)?;
        }
    }
    for stretch in &stretches {
        match (&stretch.wanted, &stretch.has) {
            (Some(wanted), Some(has)) if wanted.is_same_memory(has) => {
                arranged.protect(stretch, wanted, has)?;
            }
            (Some(wanted), _) => arranged.map(original, areas, stretch, wanted)?,
            (None, _) => {}
        }
    }
    Ok(())
}

impl Arranged<'_> {
    fn unmap(&mut self, stretch: &Stretch) -> Result<()> {
        let len = stretch.end - stretch.start;
        self.call("munmap", [stretch.start, len, 0, 0, 0, 0])
            .map(drop)
    }

    fn protect(&mut self, stretch: &Stretch, wanted: &Mapped, has: &Mapped) -> Result<()> {
        let (start, len) = (stretch.start, stretch.end - stretch.start);
        if wanted.protection != has.protection {
            let protection = wanted.protection as u64;
            self.call("mprotect", [start, len, protection, 0, 0, 0])?;
        }
        let changed = ADVICE.iter().zip(advice(wanted)).zip(advice(has));
        let changed: Vec<_> = changed.filter(|((_, want), has)| want != has).collect();
        // What is cleared may be set by another one of them.
        for set in [false, true] {
            for (((_, to_set, to_clear), want), _) in &changed {
                if *want == set {
                    let advice = if set { *to_set } else { *to_clear };
                    self.call("madvise", [start, len, advice as u64, 0, 0, 0])?;
                }
            }
        }
        Ok(())
    }

    fn map(
        &mut self,
        original: &Original,
        areas: &[Area],
        stretch: &Stretch,
        wanted: &Mapped,
    ) -> Result<()> {
        let (start, len) = (stretch.start, stretch.end - stretch.start);
        let area = areas
            .iter()
            .find(|area| (area.start..area.end).contains(&start));
        let special = area.is_none_or(|area| area.is_kernels() || area.is_vdso());
        if special {
            return Err(TraceeError::Unsuitable(format!(
                "process {} has memory of the kernel at {start:#x} where its parent has none",
                original.pid
            )));
        }
        let mut flags = libc::MAP_FIXED;
        flags |= if wanted.shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        for (flag, bit) in [("gd", libc::MAP_GROWSDOWN), ("nr", libc::MAP_NORESERVE)] {
            if wanted.flags.contains(&flag) {
                flags |= bit;
            }
        }
        let protection = wanted.protection as u64;
        if wanted.has_file() {
            let range = area.map_or((0, 0), |area| (area.start, area.end));
            let fd = self.open(original.pid, range, wanted)?;
            let args = [start, len, protection, flags as u64, fd, wanted.offset];
            let mapped = self.call("mmap", args);
            self.call("close", [fd, 0, 0, 0, 0, 0])?;
            mapped?;
        } else {
            flags |= libc::MAP_ANONYMOUS;
            let args = [start, len, protection, flags as u64, u64::MAX, 0];
            self.call("mmap", args)?;
        }
        let fresh = Mapped {
            flags: Vec::new(),
            ..wanted.clone()
        };
        self.protect(stretch, wanted, &fresh)
    }

    /// Opens the file of a mapping in the process itself.
    fn open(&mut self, original: i32, range: (u64, u64), wanted: &Mapped) -> Result<u64> {
        let pid = self.child.tid();
        let name = files::name_for(pid, original, range).ok_or_else(|| {
            TraceeError::Unsuitable(format!(
                "{} is mapped by process {original} and cannot be opened by its copy",
                wanted.name.0
            ))
        })?;
        let mut bytes = name.as_os_str().as_bytes().to_vec();
        bytes.push(0);
        memory::write(pid, self.scratch, &bytes).named("write a follower's stack", pid)?;
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY) as u64;
        let at = libc::AT_FDCWD as i64 as u64;
        self.call("openat", [at, self.scratch, flags, 0, 0, 0])
    }
}

/// Makes the contents of a process's private memory, which is arranged already, those of the original.
///
/// # Errors
/// When the process refuses, or is gone.
pub fn write_pages(
    areas: &[Area],
    pages: &Pages,
    child: &mut Stopped,
    plain: Plain<'_>,
) -> Result<()> {
    let pid = child.tid();
    let nr = mvedsua_common::table::number("madvise");
    for (start, end) in superfluous(areas, pages, pid)? {
        // Back to zeroes, or to what the file says.
        let args = [start, end - start, libc::MADV_DONTNEED as u64, 0, 0, 0];
        plain.call_ok(child, "madvise", nr, &args)?;
    }
    let memory = memory_of(pid, true)?;
    for (at, bytes) in pages.other_in(&memory).named("read the memory", pid)? {
        memory
            .write_all_at(bytes, at)
            .named("write the memory", pid)?;
    }
    Ok(())
}

/// Ranges of pages that are a fork's own, and not the original's.
fn superfluous(areas: &[Area], pages: &Pages, pid: i32) -> Result<Vec<(u64, u64)>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).named("open the page map", pid)?;
    let mut all = Vec::new();
    for area in areas
        .iter()
        .filter(|area| area.is_private() && !area.is_vdso())
    {
        for range in own_pages(&pagemap, area).named("read the page map", pid)? {
            all.extend(pages.without(range));
        }
    }
    Ok(all)
}

/// Whether all of a process's memory is as it is to be; what is not.
///
/// # Errors
/// With that, in words.
pub fn verify(areas: &[Area], pages: &Pages, pid: i32) -> std::result::Result<(), String> {
    let told = |e: TraceeError| e.to_string();
    if let Some(stretch) = differences(areas, &areas::of(pid).map_err(told)?).first() {
        return Err(format!(
            "{:#x}-{:#x} is mapped otherwise ({:?} instead of {:?})",
            stretch.start, stretch.end, stretch.has, stretch.wanted
        ));
    }
    let memory = memory_of(pid, false).map_err(told)?;
    let other = pages.other_in(&memory).map_err(|e| e.to_string())?;
    if let Some((at, _)) = other.first() {
        return Err(format!("the page at {at:#x} has other contents"));
    }
    // Pages of zeroes that are only looked at become a process's own, in the eyes of the page map.
    for (start, end) in superfluous(areas, pages, pid).map_err(told)? {
        let anonymous = areas
            .iter()
            .any(|area| (area.start..area.end).contains(&start) && !area.mapped.has_file());
        let mut bytes = vec![0; (end - start) as usize];
        memory
            .read_exact_at(&mut bytes, start)
            .map_err(|e| e.to_string())?;
        if !anonymous || bytes.iter().any(|byte| *byte != 0) {
            return Err(format!(
                "the page at {start:#x} was never written by the original"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_between_pages_are_found() {
        let pages = Pages {
            runs: vec![(0x2000, vec![0; 0x1000]), (0x4000, vec![0; 0x2000])],
        };
        assert_eq!(
            pages.without((0x1000, 0x8000)),
            [(0x1000, 0x2000), (0x3000, 0x4000), (0x6000, 0x8000)]
        );
        assert_eq!(pages.without((0x4000, 0x5000)), []);
        assert_eq!(pages.without((0x5000, 0x7000)), [(0x6000, 0x7000)]);
        assert_eq!(pages.without((0x9000, 0xa000)), [(0x9000, 0xa000)]);
    }
}
