//! The mapped areas of a process, with all that `/proc/PID/smaps` says about how they are mapped.

use crate::tracee::{Naming, Result, TraceeError};

/// A line of the memory map, and the flags of `VmFlags:` (proc_pid_smaps(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// How it is mapped.
    pub mapped: Mapped,
}

/// How memory is mapped, the address apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// `PROT_*`.
    pub protection: i32,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// Offset in the file at the first address; 0 of memory without a file.
    pub offset: u64,
    /// Device and inode of the file; `00:00` and 0 of memory without.
    pub file: (String, u64),
    /// Path or `[name]`; not compared.
    pub name: Name,
    /// Those of [`ADVICE`], and of [`KINDS`], that are set.
    pub flags: Vec<&'static str>,
}

/// A name that does not make a difference: a heap, a stack or a deleted file may be called otherwise.
#[derive(Clone, Debug)]
pub struct Name(pub String);

impl PartialEq for Name {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Name {}

/// Flags that madvise(2) sets, with the advice that sets and the one that clears each (0: none).
pub const ADVICE: [(&str, i32, i32); 8] = [
    ("dd", libc::MADV_DONTDUMP, libc::MADV_DODUMP),
    ("dc", libc::MADV_DONTFORK, libc::MADV_DOFORK),
    ("wf", libc::MADV_WIPEONFORK, libc::MADV_KEEPONFORK),
    ("hg", libc::MADV_HUGEPAGE, 0),
    ("nh", libc::MADV_NOHUGEPAGE, 0),
    ("mg", libc::MADV_MERGEABLE, libc::MADV_UNMERGEABLE),
    ("rr", libc::MADV_RANDOM, libc::MADV_NORMAL),
    ("sr", libc::MADV_SEQUENTIAL, libc::MADV_NORMAL),
];

/// Flags that mmap(2) sets.
pub const KINDS: [&str; 2] = ["gd", "nr"];

/// Flags of memory that cannot be built again, and what they mean.
const REFUSED: [(&str, &str); 9] = [
    ("lo", "locked memory (mlock)"),
    ("ht", "huge pages of hugetlbfs"),
    ("io", "memory of a device"),
    ("pf", "memory of a device"),
    ("um", "memory that userfaultfd watches"),
    ("uw", "memory that userfaultfd watches"),
    ("ui", "memory that userfaultfd watches"),
    ("ss", "a shadow stack"),
    ("sl", "sealed memory (mseal)"),
];

impl Area {
    /// The kernel's own areas, which are the same in every fork.
    pub fn is_kernels(&self) -> bool {
        self.mapped.name.0.starts_with("[vvar") || self.mapped.name.0 == "[vsyscall]"
    }

    /// Code of the kernel, of which the agent has changed a private copy.
    pub fn is_vdso(&self) -> bool {
        self.mapped.name.0 == "[vdso]"
    }

    /// Its memory is its own: what is written there nobody else sees.
    pub fn is_private(&self) -> bool {
        !self.mapped.shared && !self.is_kernels()
    }

    /// The main thread's stack.
    pub fn is_stack(&self) -> bool {
        self.mapped.name.0 == "[stack]"
    }

    /// As it is mapped from `at` on.
    pub fn mapped_at(&self, at: u64) -> Mapped {
        let mut mapped = self.mapped.clone();
        if mapped.has_file() {
            mapped.offset += at - self.start;
        }
        mapped
    }
}

impl Mapped {
    /// There is a file behind it.
    pub fn has_file(&self) -> bool {
        self.file.1 != 0
    }

    /// The same memory, whatever may be done with it.
    pub fn is_same_memory(&self, other: &Self) -> bool {
        let grows = |mapped: &Self| mapped.flags.contains(&"gd");
        (self.shared, self.offset, &self.file, grows(self))
            == (other.shared, other.offset, &other.file, grows(other))
    }
}

/// The areas of a process.
///
/// # Errors
/// When it is gone.
pub fn of(pid: i32) -> Result<Vec<Area>> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/smaps")).named("read the memory map", pid)?;
    let (areas, refused) = parse(&text);
    match refused {
        None => Ok(areas),
        Some((start, what)) => Err(TraceeError::Unsuitable(format!(
            "process {pid} has {what} at {start:#x}, which cannot be built again in a copy"
        ))),
    }
}

/// Refuses memory that cannot be built again.
///
/// # Errors
/// With the reason.
pub fn check(pid: i32, areas: &[Area]) -> Result<()> {
    match areas
        .iter()
        .find(|area| area.mapped.shared && area.mapped.protection & libc::PROT_WRITE != 0)
    {
        None => Ok(()),
        Some(area) => Err(TraceeError::Unsuitable(format!(
            "process {pid} has writable shared memory at {:#x}, which cannot be built again in a copy",
            area.start
        ))),
    }
}

type Refused = (u64, &'static str);

fn parse(text: &str) -> (Vec<Area>, Option<Refused>) {
    let mut areas: Vec<Area> = Vec::new();
    let mut refused = None;
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let Some(area) = areas.last_mut() else {
                continue;
            };
            let flags: Vec<&str> = flags.split_whitespace().collect();
            let known = ADVICE.iter().map(|(flag, ..)| *flag).chain(KINDS);
            area.mapped.flags = known.filter(|flag| flags.contains(flag)).collect();
            if !area.is_kernels() && !area.is_vdso() {
                let bad = REFUSED.iter().find(|(flag, _)| flags.contains(flag));
                refused = refused.or(bad.map(|(_, what)| (area.start, *what)));
            }
        } else if let Some(area) = parse_area(line) {
            areas.push(area);
        }
    }
    (areas, refused)
}

fn parse_area(line: &str) -> Option<Area> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let permissions = fields.next()?.as_bytes();
    let protection = [
        (b'r', libc::PROT_READ),
        (b'w', libc::PROT_WRITE),
        (b'x', libc::PROT_EXEC),
    ]
    .into_iter()
    .zip(permissions)
    .filter(|((letter, _), has)| letter == *has)
    .fold(libc::PROT_NONE, |all, ((_, bit), _)| all | bit);
    let offset = hex(fields.next()?)?;
    let device = fields.next()?.to_owned();
    let inode = fields.next()?.parse().ok()?;
    Some(Area {
        start,
        end,
        mapped: Mapped {
            protection,
            shared: permissions.get(3) == Some(&b's'),
            offset,
            file: (device, inode),
            name: Name(fields.next().unwrap_or("").trim_start().to_owned()),
            flags: Vec::new(),
        },
    })
}

/// A stretch of addresses in which two processes are mapped in one way each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// How the one process is mapped.
    pub wanted: Option<Mapped>,
    /// How the other one is.
    pub has: Option<Mapped>,
}

/// The stretches in which two processes are mapped otherwise, in ascending order.
pub fn differences(wanted: &[Area], has: &[Area]) -> Vec<Stretch> {
    let mut ends: Vec<u64> = wanted
        .iter()
        .chain(has)
        .flat_map(|area| [area.start, area.end])
        .collect();
    ends.sort_unstable();
    ends.dedup();
    let at = |areas: &[Area], address: u64| {
        let after = areas.partition_point(|area| area.end <= address);
        let area = areas.get(after).filter(|area| area.start <= address)?;
        Some(area.mapped_at(address))
    };
    ends.windows(2)
        .map(|pair| Stretch {
            start: pair[0],
            end: pair[1],
            wanted: at(wanted, pair[0]),
            has: at(has, pair[0]),
        })
        .filter(|stretch| !is_equal(stretch))
        .collect()
}

fn is_equal(stretch: &Stretch) -> bool {
    match (&stretch.wanted, &stretch.has) {
        (None, None) => true,
        (Some(wanted), Some(has)) => {
            wanted.is_same_memory(has)
                && wanted.protection == has.protection
                && advice(wanted).eq(advice(has))
        }
        _ => false,
    }
}

/// Which of [`ADVICE`] are set.
pub fn advice(mapped: &Mapped) -> impl Iterator<Item = bool> + '_ {
    ADVICE.iter().map(|(flag, ..)| mapped.flags.contains(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r-xp 00002000 08:01 77                         /usr/lib/a file.so (deleted)
Rss:                   8 kB
VmFlags: rd ex mr mw me dd sd
3000-9000 rw-p 00000000 00:00 0 
VmFlags: rd wr mr mw me ac nr
7ff000-7ff800 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me gd ac
";

    fn area(start: u64, end: u64, offset: u64, inode: u64) -> Area {
        let mut area = parse(SMAPS).0[0].clone();
        (area.start, area.end) = (start, end);
        (area.mapped.offset, area.mapped.file.1) = (offset, inode);
        area
    }

    #[test]
    fn areas_are_read_with_their_flags() {
        let (areas, refused) = parse(SMAPS);
        assert_eq!(refused, None);
        let [code, plain, stack] = &areas[..] else {
            panic!("{areas:?}")
        };
        assert_eq!(code.mapped.name.0, "/usr/lib/a file.so (deleted)");
        assert_eq!(code.mapped.protection, libc::PROT_READ | libc::PROT_EXEC);
        assert_eq!(code.mapped.flags, ["dd"]);
        assert_eq!(code.mapped_at(0x2000).offset, 0x3000);
        assert_eq!(plain.mapped.flags, ["nr"]);
        assert_eq!(plain.mapped_at(0x4000).offset, 0);
        assert!(stack.is_stack() && stack.mapped.flags == ["gd"]);
        let locked = SMAPS.replace("gd ac", "lo gd");
        assert_eq!(parse(&locked).1, Some((0x7f_f000, "locked memory (mlock)")));
    }

    #[test]
    fn areas_that_are_cut_otherwise_are_equal() {
        let whole = [area(0x1000, 0x5000, 0x2000, 7)];
        let cut = [
            area(0x1000, 0x2000, 0x2000, 7),
            area(0x2000, 0x5000, 0x3000, 7),
        ];
        assert_eq!(differences(&whole, &cut), []);
        let other = [area(0x1000, 0x2000, 0x2000, 7), area(0x2000, 0x5000, 0, 7)];
        let differences = differences(&whole, &other);
        assert_eq!(differences.len(), 1);
        assert_eq!((differences[0].start, differences[0].end), (0x2000, 0x5000));
    }

    #[test]
    fn what_one_lacks_is_a_difference() {
        let (one, two) = (
            [area(0x1000, 0x3000, 0, 7)],
            [area(0x2000, 0x4000, 0x1000, 7)],
        );
        let found = differences(&one, &two);
        let kinds: Vec<_> = found
            .iter()
            .map(|s| (s.start, s.end, s.wanted.is_some(), s.has.is_some()))
            .collect();
        assert_eq!(
            kinds,
            [(0x1000, 0x2000, true, false), (0x3000, 0x4000, false, true)]
        );
    }
}
