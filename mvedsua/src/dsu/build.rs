//! From two builds to a bundle, or to the reasons why there is none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::carry::Carrier;
use super::catalog::{Catalog, Entity, EntityKind, match_units};
use super::code::Access;
use super::compare::{Difference, Verdict};
use super::debug_files::{Build, DebugSearch};
use super::error::{Blocker, DsuError};
use super::file::Bundle;
use super::image::Reloc;
use super::leave::{
    Indirect, called_by_private_convention, comes_back_to_its_first_bytes, jumps_by_table,
};
use super::manifest::{BuildName, CallFrames, Control, JUMP, Manifest, Patch, Redirect};
use super::meaning::{Pair, Side};
use super::report::{FunctionNote, ObjectNote, Report, Risk, Why};
use super::restart::{Restart, restart, same_arguments};
use super::risk::usually_on_stack;
use super::transform::Given;
use super::types::{TypeChange, TypeChangeKind, TypeTable};

/// What to compare and what the operator has decided.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// The build that runs.
    pub old: PathBuf,
    /// The build that it becomes.
    pub new: PathBuf,
    /// Where the old build's debug file is.
    pub debug_old: DebugSearch,
    /// Where the new build's debug file is.
    pub debug_new: DebugSearch,
    /// Text of the rule file.
    pub rules: Option<String>,
    /// The `[control]` section.
    pub control: BTreeMap<String, Control>,
    /// Variables whose initial value differs and whose running value stays.
    pub keep_values: BTreeSet<String>,
    /// Types (`struct x`) that differ, of which no object outlives a call.
    pub accept_types: BTreeSet<String>,
    /// Functions whose static variables of one name are the same in both builds in the order of their declarations.
    pub in_order: BTreeSet<String>,
    /// The transformer: C, or a relocatable object.
    pub transform: Option<PathBuf>,
}

/// The outcome of a comparison: a manifest, and what speaks against using it.
#[derive(Debug)]
pub struct Analysis {
    /// What a bundle would say; complete only when nothing blocks it.
    pub manifest: Manifest,
    /// Why no bundle can be made.
    pub blockers: Vec<Blocker>,
}

/// Builds a bundle.
///
/// # Errors
/// When a build cannot be read, or a change cannot be carried ([`DsuError::Blocked`] lists all).
pub fn build(options: &BuildOptions) -> Result<Bundle, DsuError> {
    let analysis = analyse(options)?;
    if analysis.blockers.is_empty() {
        Bundle::new(analysis.manifest)
    } else {
        Err(DsuError::Blocked(analysis.blockers))
    }
}

/// The C header for a transformer of two builds.
///
/// # Errors
/// When a build cannot be read, or both are the same.
pub fn header(options: &BuildOptions) -> Result<String, DsuError> {
    let (pair, changes) = load(options)?;
    Ok(super::transform::header_text(&pair, &changes))
}

/// The C source that a declared transformer stands for: to look at it, or to go on from it by hand.
///
/// # Errors
/// When a build cannot be read, or the declaration leaves something open.
pub fn declared(options: &BuildOptions, path: &Path) -> Result<String, DsuError> {
    let (pair, changes) = load(options)?;
    super::transform::declared_text(path, &pair, &changes)
}

/// Reads both builds and compares their types.
fn load(options: &BuildOptions) -> Result<(Pair, Vec<TypeChange>), DsuError> {
    // Parsing is independent, and the machine has more than one processor.
    let (old, new) = std::thread::scope(|scope| {
        let old = scope.spawn(|| Build::load(&options.old, &options.debug_old));
        let new = Build::load(&options.new, &options.debug_new);
        (old.join(), new)
    });
    let old = old.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let new = new?;
    if old.image.build_id == new.image.build_id {
        return Err(DsuError::SameBuild {
            build_id: old.image.build_id_hex(),
        });
    }
    if old.image.pie != new.image.pie {
        return Err(DsuError::Incompatible {
            reason: "one is position independent and the other is not".into(),
        });
    }
    let type_changes = TypeTable::new(&old.debug).changes(&TypeTable::new(&new.debug));
    let rename = match_units(&old, &new);
    let (old_catalog, new_catalog) = (
        Catalog::new(&old, &HashMap::new()),
        Catalog::new(&new, &rename),
    );
    let pair = Pair::new(
        Side::new(old, old_catalog),
        Side::new(new, new_catalog),
        &options.in_order,
    );
    Ok((pair, type_changes))
}

/// Compares two builds.
///
/// # Errors
/// When a build cannot be read, or both are the same.
pub fn analyse(options: &BuildOptions) -> Result<Analysis, DsuError> {
    let (pair, type_changes) = load(options)?;
    let mut notes = Vec::new();
    let given = match &options.transform {
        Some(path) => {
            let (given, warnings) = Given::load(path, &pair, &type_changes)?;
            notes.extend(warnings.lines().map(|l| format!("compiler: {l}")));
            Some(given)
        }
        None => None,
    };
    let mut analyser = Analyser {
        pair: &pair,
        options,
        given,
        report: Report {
            types: type_changes,
            notes,
            ..Report::default()
        },
        blockers: BTreeSet::new(),
        patches: Vec::new(),
        pending: Vec::new(),
    };
    analyser.types();
    let (mut replaced, differences) = analyser.functions();
    let moved = analyser.objects();
    let touching = analyser.touching(&moved, &mut replaced);
    Ok(analyser.finish(replaced, &moved, differences, touching))
}

pub(super) struct Analyser<'a> {
    pub(super) pair: &'a Pair,
    pub(super) options: &'a BuildOptions,
    pub(super) given: Option<Given>,
    pub(super) report: Report,
    pub(super) blockers: BTreeSet<Blocker>,
    pub(super) patches: Vec<Patch>,
    /// Pointers of patches that are not bound yet: patch, offset, pointer.
    pub(super) pending: Vec<(usize, u32, Reloc)>,
}

impl Analyser<'_> {
    pub(super) fn block(
        &mut self,
        code: &'static str,
        symbol: impl Into<String>,
        reason: impl Into<String>,
    ) {
        self.blockers.insert(Blocker {
            code,
            symbol: symbol.into(),
            reason: reason.into(),
        });
    }

    fn types(&mut self) {
        for change in self.report.types.clone() {
            if self.options.accept_types.contains(&change.name) {
                self.report.notes.push(format!(
                    "{} differs and was accepted with --accept-type",
                    change.name
                ));
                continue;
            }
            if change.kind != TypeChangeKind::NamesOnly
                && self.given.as_ref().is_some_and(|g| g.handles(&change.name))
            {
                self.report.notes.push(format!(
                    "{} differs, and the transformer says that it takes care of its objects",
                    change.name
                ));
                continue;
            }
            let plain = change.name.replace("(typedef) ", "");
            match change.kind {
                TypeChangeKind::Layout => self.block(
                    "E410",
                    change.name,
                    format!("its layout differs (old: {}; new: {}), and objects of it may be alive: it needs a transformer that says MVEDSUA_HANDLES({}); if none outlives a call, say --accept-type", change.old, change.new, plain),
                ),
                TypeChangeKind::Renumbered => self.block(
                    "E411",
                    change.name,
                    format!("enumerators have other values (old: {}; new: {}), and stored ones would be misread; if none is stored, say --accept-type", change.old, change.new),
                ),
                TypeChangeKind::NamesOnly => {}
            }
        }
    }

    /// The changed functions by new id.
    fn functions(&mut self) -> (BTreeSet<usize>, HashMap<usize, Difference>) {
        let pair = self.pair;
        let (mut replaced, mut differences) = (BTreeSet::new(), HashMap::new());
        for (id, entity) in pair.new.catalog.entities.iter().enumerate() {
            let (EntityKind::Function, Some(old)) = (entity.kind, pair.pairing.to_old[id]) else {
                continue;
            };
            if is_start_file(entity) {
                continue;
            }
            self.report.compared += 1;
            match pair.compare_function(old, id) {
                Verdict::Same => self.report.equal += 1,
                Verdict::LinesOnly(lines) => {
                    let shown: Vec<String> = lines
                        .iter()
                        .take(4)
                        .map(|(a, b)| format!("{a} -> {b}"))
                        .collect();
                    let more = if lines.len() > 4 {
                        format!(" and {} more", lines.len() - 4)
                    } else {
                        String::new()
                    };
                    self.report.lines_only.push(format!(
                        "{}: {}{more}",
                        entity.label(),
                        shown.join(", ")
                    ));
                }
                Verdict::Changed(difference) => {
                    replaced.insert(id);
                    differences.insert(id, difference);
                }
            }
        }
        for (id, entity) in pair.old.catalog.entities.iter().enumerate() {
            if pair.pairing.to_new[id].is_none() && !entity.by_content {
                self.report.removed.push(entity.label());
            }
        }
        (replaced, differences)
    }

    /// Adds the functions that use what has moved.
    fn touching(
        &self,
        moved: &BTreeSet<usize>,
        replaced: &mut BTreeSet<usize>,
    ) -> HashMap<usize, String> {
        let mut touching = HashMap::new();
        for object in moved {
            for (id, code) in &self.pair.new.code {
                if !replaced.contains(id) && self.pair.new.mentions(code, *object) {
                    touching.insert(*id, self.pair.new.catalog.entities[*object].label());
                }
            }
        }
        replaced.extend(touching.keys().copied());
        touching
    }

    fn finish(
        mut self,
        replaced: BTreeSet<usize>,
        moved: &BTreeSet<usize>,
        differences: HashMap<usize, Difference>,
        touching: HashMap<usize, String>,
    ) -> Analysis {
        let pair = self.pair;
        let mut carrier = Carrier::new(pair, &replaced, moved);
        for (patch, offset, reloc) in std::mem::take(&mut self.pending) {
            let patch = &mut self.patches[patch];
            if let Some((target, addend)) = carrier.pointer_target(&patch.name, &reloc) {
                patch.new_pointers.push((offset, target, addend));
            }
        }
        let linked = self.given.as_ref().and_then(|g| g.link(pair, &mut carrier));
        carrier.run();
        let (mut pieces, mut fixups, imports) = carrier.finish();
        let transform = linked.and_then(|mut linked| {
            pieces.append(&mut linked.pieces.clone());
            fixups.append(&mut linked.fixups);
            Some(self.given.take()?.describe(&linked))
        });
        let map = carrier.map();
        self.blockers.append(&mut carrier.blockers);
        self.report.notes.extend(std::mem::take(&mut carrier.notes));

        let risks = usually_on_stack(&pair.old);
        let lines = (Lines::new(&pair.old), Lines::new(&pair.new));
        let mut redirects = Vec::new();
        for id in &carrier.functions {
            let entity = &pair.new.catalog.entities[*id];
            let old = pair.pairing.to_old[*id];
            let why = match (differences.get(id), touching.get(id)) {
                (Some(difference), _) => Why::Changed {
                    first: difference.what.clone(),
                    old_line: lines.0.at(difference.old_at),
                    new_line: lines.1.at(difference.new_at),
                },
                (None, Some(what)) => Why::Touches { what: what.clone() },
                (None, None) => Why::New,
            };
            let old_entity = old.map(|o| &pair.old.catalog.entities[o]);
            self.report.functions.push(FunctionNote {
                name: entity.label(),
                unit: entity.unit.clone(),
                why,
                old_addr: old_entity.map(|o| o.addr),
                new_addr: entity.addr,
                old_size: old_entity.map_or(0, whole_size),
                new_size: whole_size(entity),
                risk: old
                    .and_then(|o| risks.get(&o).cloned())
                    .unwrap_or(Risk::Low),
            });
            if let Some(old) = old {
                self.redirect(old, *id, &mut redirects);
            }
        }
        for (id, entity) in pair.new.catalog.entities.iter().enumerate() {
            if pair.pairing.to_old[id].is_some() || entity.by_content {
                continue;
            }
            match entity.kind {
                EntityKind::Function if !carrier.functions.contains(&id) => {
                    self.report.unused_new.push(entity.label())
                }
                EntityKind::Object if carrier.objects.contains(&id) => {
                    self.report.objects.push(ObjectNote {
                        name: entity.label(),
                        what: format!("new, {} bytes", entity.size),
                    });
                }
                _ => {}
            }
        }
        for import in &imports {
            let library = import
                .library
                .clone()
                .unwrap_or_else(|| format!("one of {}", pair.new.build.image.needed.join(", ")));
            self.report.notes.push(format!(
                "{} is new to the program and comes from {library}",
                import.symbol
            ));
        }
        self.start_up_notes();
        let control = self.control();
        let restarts = self.restarts(&control, &redirects);
        let image = |side: &Side| BuildName {
            build_id: side.build.image.build_id.clone(),
            name: side
                .build
                .image
                .path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
        };
        let frames = pair
            .new
            .build
            .image
            .sections
            .iter()
            .find(|s| s.name == ".eh_frame");
        let manifest = Manifest {
            made_by: env!("CARGO_PKG_VERSION").into(),
            old: image(&pair.old),
            new: image(&pair.new),
            pie: pair.new.build.image.pie,
            frames: frames.map(|section| CallFrames {
                addr: section.addr,
                bytes: section.data.clone(),
            }),
            unwind: frames.map(|section| section.addr).filter(|f| {
                pieces
                    .iter()
                    .any(|p| p.addr <= *f && *f < p.addr + p.bytes.len() as u64)
            }),
            pieces,
            fixups,
            imports,
            copies: std::mem::take(&mut carrier.copies),
            redirects,
            patches: self.patches,
            map,
            control,
            restarts,
            rules: self.options.rules.clone(),
            report: self.report,
            transform,
        };
        Analysis {
            manifest,
            blockers: self.blockers.into_iter().collect(),
        }
    }

    fn redirect(&mut self, old_id: usize, new_id: usize, redirects: &mut Vec<Redirect>) {
        let pair = self.pair;
        let (old, new) = (
            &pair.old.catalog.entities[old_id],
            &pair.new.catalog.entities[new_id],
        );
        let label = old.label();
        // Padding behind a short function may be used up to the next thing.
        let room = pair
            .old
            .catalog
            .next_start(old.addr)
            .map_or(u64::MAX, |n| n.0 - old.addr);
        let padded = old.size >= JUMP as u64
            || (room >= JUMP as u64
                && pair
                    .old
                    .build
                    .image
                    .bytes(old.addr + old.size, JUMP as u64 - old.size)
                    .is_some_and(|b| {
                        b.iter().all(|b| {
                            matches!(
                                b,
                                0x90 | 0xcc
                                    | 0x66
                                    | 0x2e
                                    | 0x0f
                                    | 0x1f
                                    | 0x00
                                    | 0x40
                                    | 0x44
                                    | 0x80
                                    | 0x84
                            )
                        })
                    }));
        let Some(bytes) = pair
            .old
            .build
            .image
            .bytes(old.addr, JUMP as u64)
            .filter(|_| padded)
        else {
            return self.block(
                "E439",
                label,
                format!(
                    "its old code has {} bytes, too few for a jump to the new one",
                    old.size
                ),
            );
        };
        let mut address_bytes = 0u8;
        for insn in pair
            .old
            .code
            .get(&old_id)
            .into_iter()
            .flat_map(|c| &c.insns)
            .filter(|i| i.at >= old.addr && i.at < old.addr + JUMP as u64)
        {
            for reference in insn
                .refs
                .iter()
                .filter(|r| r.access != Access::ThreadOffset)
            {
                for byte in 0..reference.width {
                    let at = insn.at - old.addr + u64::from(reference.field) + u64::from(byte);
                    if at < JUMP as u64 {
                        address_bytes |= 1 << at;
                    }
                }
            }
        }
        redirects.push(Redirect {
            name: label,
            old_addr: old.addr,
            old_size: old.size,
            old_parts: old.parts.clone(),
            new_addr: new.addr,
            expected: bytes.try_into().expect("as many as were asked for"),
            address_bytes,
        });
    }

    fn start_up_notes(&mut self) {
        let section = |side: &Side, name: &str| {
            side.build
                .image
                .sections
                .iter()
                .find(|s| s.name == name)
                .map(|s| (s.addr, s.size))
        };
        for name in [".init_array", ".ctors"] {
            let (old, new) = (section(&self.pair.old, name), section(&self.pair.new, name));
            let same = match (old, new) {
                (Some((a, x)), Some((b, y))) => x == y && self.pair.same_bytes(a, b, x),
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.report.notes.push(format!(
                    "{name} differs: code that runs before main is not run again by an update"
                ));
            }
        }
        let unversioned = self
            .report
            .functions
            .iter()
            .filter(|f| f.name == "main")
            .count();
        if unversioned > 0 {
            self.report.notes.push(
                "main differs: what it does before its loop is not done again by an update".into(),
            );
        }
    }

    /// Whoever is entered afresh is given its arguments again.
    fn restarts(&mut self, control: &[(String, Control)], redirects: &[Redirect]) -> Vec<Restart> {
        let mut found = Vec::new();
        for (name, _) in control.iter().filter(|c| c.1 == Control::Restart) {
            let Some(redirect) = redirects.iter().find(|r| is_named(&r.name, name)) else {
                continue;
            };
            let old = restart(&self.pair.old.build, &redirect.name, redirect.old_addr);
            let new = restart(&self.pair.new.build, &redirect.name, redirect.new_addr);
            let both = old.and_then(|old| {
                if same_arguments(&old, &new?) {
                    Ok(old)
                } else {
                    Err("its new version takes other arguments".to_owned())
                }
            });
            match both {
                Ok(restart) => found.push(restart),
                Err(why) => self.block(
                    "E442",
                    name.clone(),
                    format!("it cannot be entered afresh: {why}"),
                ),
            }
        }
        found
    }

    fn control(&mut self) -> Vec<(String, Control)> {
        let mut lines = Vec::new();
        for (name, control) in &self.options.control {
            if self
                .report
                .functions
                .iter()
                .any(|f| is_named(&f.name, name))
            {
                lines.push((name.clone(), *control));
            } else {
                self.blockers.insert(Blocker {
                    code: "E440",
                    symbol: name.clone(),
                    reason: "the [control] section names it, but it does not change".into(),
                });
            }
        }
        let changed = |entity: &Entity| {
            let label = entity.label();
            self.report.functions.iter().any(|f| f.name == label)
        };
        for (name, _) in lines.iter().filter(|l| l.1 == Control::Leave) {
            let named = || {
                (self.pair.old.catalog.entities.iter().enumerate())
                    .filter(|(_, e)| e.kind == EntityKind::Function && is_named(&e.label(), name))
            };
            if named().any(|(id, _)| comes_back_to_its_first_bytes(self.pair, id)) {
                self.blockers.insert(Blocker { code: "E441", symbol: name.clone(), reason: "it cannot be left in old code: that comes back to its own first bytes, which lead to the new version from now on; use restart, or compile the old one's loop with -falign-loops".into() });
            }
            let by_table: Vec<_> = named()
                .map(|(id, _)| jumps_by_table(self.pair, id))
                .collect();
            if by_table.contains(&Indirect::ToFirstBytes) {
                self.blockers.insert(Blocker { code: "E445", symbol: name.clone(), reason: "it cannot be left in old code: a jump table of it leads to its own first bytes, which lead to the new version from now on; use restart, or compile the old one with -fno-jump-tables and without labels as values".into() });
            } else if by_table.contains(&Indirect::Unknown) {
                self.blockers.insert(Blocker { code: "E445", symbol: name.clone(), reason: "it cannot be left in old code: it has an indirect jump whose table was not found, which may lead to its own first bytes; use restart, or compile the old one with -fno-jump-tables -fno-optimize-sibling-calls".into() });
            }
            let callee =
                named().find_map(|(id, _)| called_by_private_convention(self.pair, id, changed));
            if let Some(callee) = callee {
                self.blockers.insert(Blocker { code: "E441", symbol: name.clone(), reason: format!("it cannot be left in old code: it calls {callee}, which changes, and the compiler has made its arguments fit this one caller; mark that function noinline and global, or use restart") });
            }
        }
        // An old frame that runs on must find the state as it knows it.
        let moved = self
            .report
            .types
            .iter()
            .any(|t| t.kind != TypeChangeKind::NamesOnly);
        if moved {
            for (name, _) in lines.iter().filter(|l| l.1 == Control::Leave) {
                self.blockers.insert(Blocker { code: "E441", symbol: name.clone(), reason: "it cannot be left in old code while types change: its old frame may reach objects of them".into() });
            }
        }
        lines
    }
}

/// A static is also known without its unit, as in the lines of the `[control]` section.
#[must_use]
pub fn is_named(label: &str, wanted: &str) -> bool {
    label
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
}

fn whole_size(entity: &Entity) -> u64 {
    entity.size + entity.parts.iter().map(|p| p.1).sum::<u64>()
}

/// The compiler's own code around `main`: it refers to where sections end, and what of it still
/// runs (at exit) goes on with the old image.
fn is_start_file(entity: &Entity) -> bool {
    let names = ["_start", "_init", "_fini", "_dl_relocate_static_pie"];
    entity.keys[0].unit.as_deref() == Some("crtstuff.c")
        || names.contains(&entity.names[0].as_str())
}

/// Source lines of addresses; none when the debug file cannot be opened again.
struct Lines(Option<addr2line::Loader>);

impl Lines {
    fn new(side: &Side) -> Self {
        Self(addr2line::Loader::new(&side.build.debug_path).ok())
    }

    fn at(&self, addr: u64) -> Option<String> {
        let location = self.0.as_ref()?.find_location(addr).ok()??;
        Some(format!("{}:{}", location.file?, location.line?))
    }
}
