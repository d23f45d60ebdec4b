//! From a bundle and the addresses of one process to the exact list of memory writes. Pure: what
//! carries the plan out needs no knowledge of bundles.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::DsuError;
use super::image::hex;
use super::manifest::{FixupKind, Import, JUMP, Manifest, PieceKind, Target};

const PAGE: u64 = 4096;

/// Where in a process the things of a build are: loaded as one image, or left behind by bundles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The build that the process runs.
    pub build_id: Vec<u8>,
    /// The whole image lies at its addresses plus this.
    bias: Option<u64>,
    /// Start and end in the build, and address in the process: what a bundle placed.
    placed: Vec<(u64, u64, u64)>,
    /// The same for what stayed from before.
    kept: Vec<(u64, u64, u64)>,
}

fn look_up(ranges: &[(u64, u64, u64)], addr: u64) -> Option<u64> {
    let at = ranges.partition_point(|r| r.0 <= addr);
    ranges[..at]
        .iter()
        .rev()
        .take(4)
        .find(|r| addr < r.1)
        .map(|r| r.2 + (addr - r.0))
}

impl Placement {
    /// A process that was started from the build and never updated. `bias` is 0 for fixed-address builds.
    #[must_use]
    pub const fn loaded(build_id: Vec<u8>, bias: u64) -> Self {
        Self {
            build_id,
            bias: Some(bias),
            placed: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// The address by which the program knows something: what function pointers hold.
    #[must_use]
    pub fn known_as(&self, addr: u64) -> Option<u64> {
        match self.bias {
            Some(bias) => bias.checked_add(addr),
            None => look_up(&self.kept, addr).or_else(|| look_up(&self.placed, addr)),
        }
    }

    /// The address of the code that runs for a function: where a bundle placed it, if one did.
    #[must_use]
    pub fn runs_at(&self, addr: u64) -> Option<u64> {
        match self.bias {
            Some(bias) => bias.checked_add(addr),
            None => look_up(&self.placed, addr).or_else(|| look_up(&self.kept, addr)),
        }
    }

    fn is_placed(&self, addr: u64) -> bool {
        self.bias.is_none() && look_up(&self.placed, addr).is_some()
    }

    /// The placement after a bundle was applied at `base`.
    #[must_use]
    pub fn after(&self, manifest: &Manifest, base: u64) -> Self {
        let stays = manifest.transform.as_ref().map_or(u64::MAX, |t| t.start);
        let placed = manifest
            .pieces
            .iter()
            .filter(|p| p.addr < stays)
            .map(|p| {
                (
                    p.addr,
                    p.addr + p.bytes.len() as u64,
                    base.wrapping_add(p.addr),
                )
            })
            .collect();
        let kept = manifest
            .map
            .iter()
            .filter_map(|m| Some((m.new_addr, m.new_addr + m.len, self.known_as(m.old_addr)?)))
            .collect();
        Self {
            build_id: manifest.new.build_id.clone(),
            bias: None,
            placed,
            kept,
        }
    }
}

/// Protection of mapped pages. There is no writable and executable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `PROT_READ`.
    Read,
    /// `PROT_READ | PROT_EXEC`.
    ReadExecute,
    /// `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

/// Pages to map in the reserved range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First byte, page-aligned.
    pub addr: u64,
    /// Bytes, whole pages.
    pub len: u64,
    /// Protection once everything is written.
    pub protection: Protection,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Address in the process.
    pub addr: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What must be there before; `None` in pages that the plan itself maps.
    pub expected: Option<Expected>,
    /// What it is, for messages.
    pub what: String,
}

/// Bytes that must be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// For each byte the bits that count.
    pub mask: Vec<u8>,
}

impl Expected {
    fn exact(bytes: Vec<u8>) -> Self {
        let mask = vec![0xff; bytes.len()];
        Self { bytes, mask }
    }

    /// The bytes found are the ones expected.
    #[must_use]
    pub fn matches(&self, found: &[u8]) -> bool {
        found.len() == self.bytes.len()
            && found
                .iter()
                .zip(&self.bytes)
                .zip(&self.mask)
                .all(|((a, b), m)| a & m == b & m)
    }
}

/// A constant to copy from a library of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Address to read.
    pub from: u64,
    /// Address to write, in a mapped page.
    pub to: u64,
    /// Bytes.
    pub len: u64,
}

/// Code in which no thread may stand, nor return to, while the plan is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// First byte in the process.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// The function.
    pub name: String,
}

/// Everything that turns a process of the old build into one of the new. To carry it out: check
/// every `expected`; reserve; map each mapping readable and writable; write `fill`, then make `copies`; give each mapping
/// its protection; call `__register_frame(unwind)` if there is one; write `switch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Range to reserve without access: address and bytes.
    pub reserve: (u64, u64),
    /// Pages in it that are used.
    pub mappings: Vec<Mapping>,
    /// Contents of these pages.
    pub fill: Vec<Write>,
    /// Constants to copy from libraries.
    pub copies: Vec<Copy>,
    /// Changes of the old image, to be made last and with all threads stopped.
    pub switch: Vec<Write>,
    /// Argument for `__register_frame`.
    pub unwind: Option<u64>,
    /// Old code that must not be active.
    pub busy: Vec<Busy>,
    /// The transformer, to be run between `unwind` and `switch`.
    pub transform: Option<TransformPlan>,
    /// What the process is afterwards.
    pub after: Placement,
}

/// A transformer in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformPlan {
    /// Its pages, to be unmapped when it is done: address and bytes.
    pub range: (u64, u64),
    /// Where to start it.
    pub entry: u64,
    /// Address of its control block.
    pub control: u64,
    /// Start, end and name of its functions.
    pub functions: Vec<Busy>,
    /// Variables that have moved: old address, new address, bytes.
    pub moved: Vec<(u64, u64, u64)>,
}

/// Finds a base for a bundle: free address space as near as possible to the old image.
///
/// `image` is the range of the old image in the process; `taken` all its mappings, sorted, which
/// include the image. Returns `None` when nothing within reach is free.
#[must_use]
pub fn choose_base(manifest: &Manifest, image: (u64, u64), taken: &[(u64, u64)]) -> Option<u64> {
    let (low, high) = manifest.span();
    let (low, high) = (low & !(PAGE - 1), high.checked_next_multiple_of(PAGE)?);
    let len = high - low;
    let top = if manifest.pie { 1 << 47 } else { 1 << 31 };
    let mut candidates = Vec::new();
    let mut free_from = 0x1_0000;
    for (start, end) in taken.iter().copied().chain([(top, top)]) {
        let free_to = start.min(top);
        if free_to >= free_from + len {
            // Both ends of the hole, one page away from the neighbours.
            candidates.push(free_from);
            candidates.push((free_to - len) & !(PAGE - 1));
        }
        free_from = free_from.max(end.next_multiple_of(PAGE));
    }
    let reach = |at: u64| (at + len).max(image.1) - at.min(image.0);
    candidates
        .into_iter()
        .filter(|at| *at >= low && reach(*at) < 1 << 31)
        .min_by_key(|at| reach(*at))
        .map(|at| at - low)
}

/// Computes the plan. `base` plus an address of the new build is where that lies in the process;
/// `resolve` finds the symbols that the old build does not have, at the addresses that the dynamic linker would bind.
///
/// # Errors
/// When the process runs another build, a symbol is missing, or a target is out of reach.
pub fn plan(
    manifest: &Manifest,
    process: &Placement,
    base: u64,
    resolve: &dyn Fn(&Import) -> Option<u64>,
) -> Result<Plan, DsuError> {
    let fail = |reason: String| DsuError::Plan(reason);
    if manifest.old.build_id != process.build_id {
        return Err(fail(format!(
            "it is for build {} ({}), and the process runs {}",
            hex(&manifest.old.build_id),
            manifest.old.name,
            hex(&process.build_id)
        )));
    }
    if !base.is_multiple_of(PAGE) {
        return Err(fail(format!("the base {base:#x} is not at a page")));
    }
    let mut symbols = Vec::with_capacity(manifest.imports.len());
    for import in &manifest.imports {
        match resolve(import) {
            Some(addr) => symbols.push(addr),
            None if import.weak => symbols.push(0),
            None => {
                return Err(DsuError::Unresolved {
                    symbol: import.symbol.clone(),
                    version: import.version.clone(),
                    library: import.library.clone(),
                });
            }
        }
    }
    let address = |target: Target| match target {
        Target::Old(addr) => process.known_as(addr).ok_or_else(|| {
            fail(format!(
                "nothing of the running program is known at {addr:#x} of {}",
                manifest.old.name
            ))
        }),
        Target::New(addr) => Ok(base.wrapping_add(addr)),
        Target::Import(index) => Ok(symbols[index as usize]),
    };
    let mut fill: Vec<Write> = manifest
        .pieces
        .iter()
        .map(|p| Write {
            addr: base.wrapping_add(p.addr),
            bytes: p.bytes.clone(),
            expected: None,
            what: format!("{:?} of {} at {:#x}", p.kind, manifest.new.name, p.addr),
        })
        .collect();
    for fixup in &manifest.fixups {
        let index = manifest.pieces.partition_point(|p| p.addr <= fixup.at) - 1;
        let offset = (fixup.at - manifest.pieces[index].addr) as usize;
        let place = base.wrapping_add(fixup.at);
        let target = address(fixup.target)?.wrapping_add_signed(fixup.addend);
        let reach = || {
            fail(format!(
                "the reference at {:#x} of {} to {target:#x} is out of reach from {place:#x}",
                fixup.at, manifest.new.name
            ))
        };
        let field = &mut fill[index].bytes[offset..];
        match fixup.kind {
            FixupKind::Relative32 => {
                let distance =
                    i32::try_from(target.wrapping_sub(place) as i64).map_err(|_| reach())?;
                field[..4].copy_from_slice(&distance.to_le_bytes());
            }
            FixupKind::Signed32 => {
                // Fields that hold an index before an array wrap below zero.
                field[..4].copy_from_slice(
                    &i32::try_from(target as i64)
                        .map_err(|_| reach())?
                        .to_le_bytes(),
                );
            }
            FixupKind::Unsigned32 => {
                field[..4]
                    .copy_from_slice(&u32::try_from(target).map_err(|_| reach())?.to_le_bytes());
            }
            FixupKind::Absolute64 => field[..8].copy_from_slice(&target.to_le_bytes()),
        }
    }
    let mut switch = Vec::new();
    for patch in &manifest.patches {
        let mut expected = Expected::exact(patch.old.clone());
        for (offset, target) in &patch.old_pointers {
            let range = *offset as usize..*offset as usize + 8;
            match target {
                Some(target) => {
                    expected.bytes[range].copy_from_slice(&address(*target)?.to_le_bytes())
                }
                None => expected.mask[range].fill(0),
            }
        }
        let mut bytes = patch.new.clone();
        for (offset, target, addend) in &patch.new_pointers {
            bytes[*offset as usize..*offset as usize + 8]
                .copy_from_slice(&address(*target)?.wrapping_add_signed(*addend).to_le_bytes());
        }
        switch.push(Write {
            addr: address(Target::Old(patch.old_addr))?,
            bytes,
            expected: Some(expected),
            what: format!("constant {}", patch.name),
        });
    }
    let mut busy = Vec::new();
    for redirect in &manifest.redirects {
        let unknown = || {
            fail(format!(
                "nothing is known of {} at {:#x} of {}",
                redirect.name, redirect.old_addr, manifest.old.name
            ))
        };
        let runs_at = process.runs_at(redirect.old_addr).ok_or_else(unknown)?;
        let known_as = process.known_as(redirect.old_addr).ok_or_else(unknown)?;
        let new = base.wrapping_add(redirect.new_addr);
        let mut mask = vec![0xff; JUMP];
        if process.is_placed(redirect.old_addr) {
            for (at, byte) in mask
                .iter_mut()
                .enumerate()
                .filter(|(at, _)| redirect.address_bytes >> at & 1 == 1)
            {
                let _ = at;
                *byte = 0;
            }
        }
        let what = format!("entry of {}", redirect.name);
        let expected = Some(Expected {
            bytes: redirect.expected.to_vec(),
            mask,
        });
        switch.push(Write {
            addr: runs_at,
            bytes: jump(runs_at, new)
                .ok_or_else(|| fail(format!("{} is out of reach", redirect.name)))?,
            expected,
            what: what.clone(),
        });
        if known_as != runs_at {
            // An earlier bundle's jump: lead it straight to the newest version.
            let before = jump(known_as, runs_at)
                .ok_or_else(|| fail(format!("{} is out of reach", redirect.name)))?;
            let bytes = jump(known_as, new)
                .ok_or_else(|| fail(format!("{} is out of reach", redirect.name)))?;
            switch.push(Write {
                addr: known_as,
                bytes,
                expected: Some(Expected::exact(before)),
                what,
            });
        }
        busy.push(Busy {
            start: runs_at,
            end: runs_at + redirect.old_size,
            name: redirect.name.clone(),
        });
        for (addr, size) in &redirect.old_parts {
            if let Some(start) = process.runs_at(*addr) {
                busy.push(Busy {
                    start,
                    end: start + size,
                    name: redirect.name.clone(),
                });
            }
        }
    }
    let transform = match &manifest.transform {
        None => None,
        Some(t) => Some(TransformPlan {
            range: (base.wrapping_add(t.start), t.end - t.start),
            entry: base.wrapping_add(t.entry),
            control: base.wrapping_add(t.control),
            functions: t
                .functions
                .iter()
                .map(|(addr, len, name)| Busy {
                    start: base.wrapping_add(*addr),
                    end: base.wrapping_add(addr.saturating_add(*len)),
                    name: name.clone(),
                })
                .collect(),
            moved: t
                .moved
                .iter()
                .map(|(old, new, len)| {
                    Ok((address(Target::Old(*old))?, base.wrapping_add(*new), *len))
                })
                .collect::<Result<_, DsuError>>()?,
        }),
    };
    let (low, high) = manifest.span();
    let start = base.wrapping_add(low & !(PAGE - 1));
    Ok(Plan {
        reserve: (
            start,
            base.wrapping_add(high.next_multiple_of(PAGE))
                .wrapping_sub(start),
        ),
        mappings: mappings(manifest, base).map_err(fail)?,
        fill,
        copies: manifest
            .copies
            .iter()
            .map(|c| Copy {
                from: symbols[c.import as usize],
                to: base.wrapping_add(c.at),
                len: c.len,
            })
            .collect(),
        switch,
        unwind: manifest.unwind.map(|addr| base.wrapping_add(addr)),
        busy,
        transform,
        after: process.after(manifest, base),
    })
}

/// `jmp rel32`.
fn jump(from: u64, to: u64) -> Option<Vec<u8>> {
    let distance = i32::try_from(to.wrapping_sub(from.wrapping_add(JUMP as u64)) as i64).ok()?;
    let mut bytes = vec![0xe9];
    bytes.extend_from_slice(&distance.to_le_bytes());
    Some(bytes)
}

/// Pages with one protection each, neighbours joined.
fn mappings(manifest: &Manifest, base: u64) -> Result<Vec<Mapping>, String> {
    let mut pages: BTreeMap<u64, Protection> = BTreeMap::new();
    for piece in &manifest.pieces {
        let wanted = match piece.kind {
            PieceKind::Code => Protection::ReadExecute,
            PieceKind::Constant => Protection::Read,
            PieceKind::Variable => Protection::ReadWrite,
        };
        for page in piece.addr / PAGE..=(piece.addr + piece.bytes.len() as u64 - 1) / PAGE {
            let now = pages.entry(page).or_insert(wanted);
            if *now == Protection::Read {
                *now = wanted;
            } else if wanted != Protection::Read && wanted != *now {
                return Err(format!(
                    "page {:#x} would be writable and executable",
                    page * PAGE
                ));
            }
        }
    }
    let mut joined: Vec<Mapping> = Vec::new();
    for (page, protection) in pages {
        let addr = base.wrapping_add(page * PAGE);
        match joined.last_mut() {
            Some(last) if last.protection == protection && last.addr + last.len == addr => {
                last.len += PAGE
            }
            _ => joined.push(Mapping {
                addr,
                len: PAGE,
                protection,
            }),
        }
    }
    Ok(joined)
}
