//! Chooses what a bundle places and binds every reference of it: to another piece, back to the old
//! image, or to a library.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::catalog::{EntityKind, is_class_table};
use super::code::{Access, Code, Ref};
use super::error::Blocker;
use super::image::Reloc;
use super::manifest::{Fixup, FixupKind, Import, JUMP, LibraryCopy, Piece, PieceKind, Target};
use super::meaning::{Meaning, Pair};

/// Where a reference of a piece leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    /// To a piece: the relative position is right already.
    Placed,
    /// To this address of the old build.
    Old(u64),
    /// To nothing that matters: a dead entry of a table that belongs to a function which stays.
    Dead,
}

/// Collects pieces and fix-ups until nothing is missing.
pub(super) struct Carrier<'a> {
    pub(super) pair: &'a Pair,
    /// New functions that must not stay old: changed ones and those that touch what moved.
    pub(super) replaced: &'a BTreeSet<usize>,
    /// New objects that replace smaller constants.
    moved: &'a BTreeSet<usize>,
    /// New functions that are placed.
    pub(super) functions: BTreeSet<usize>,
    /// New objects that are placed.
    pub(super) objects: BTreeSet<usize>,
    ranges: BTreeMap<u64, (u64, PieceKind)>,
    fixups: BTreeMap<u64, Fixup>,
    imports: Vec<Import>,
    import_index: HashMap<String, u32>,
    pub(super) blockers: BTreeSet<Blocker>,
    pub(super) notes: BTreeSet<String>,
    /// Placed data whose pointers are not bound yet: start, end, owner.
    data: Vec<(u64, u64, String)>,
    /// Constants that come from libraries.
    pub(super) copies: Vec<LibraryCopy>,
    queue: Vec<usize>,
    pub(super) old_stubs: HashMap<&'a str, u64>,
    pub(super) old_slots: HashMap<(&'a str, i64), u64>,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        pair: &'a Pair,
        replaced: &'a BTreeSet<usize>,
        moved: &'a BTreeSet<usize>,
    ) -> Self {
        let old = &pair.old.build.image;
        let lazy: BTreeSet<u64> = old.plt.values().map(|s| s.slot).collect();
        Self {
            pair,
            replaced,
            moved,
            functions: BTreeSet::new(),
            objects: BTreeSet::new(),
            ranges: BTreeMap::new(),
            fixups: BTreeMap::new(),
            imports: Vec::new(),
            import_index: HashMap::new(),
            blockers: BTreeSet::new(),
            notes: BTreeSet::new(),
            data: Vec::new(),
            copies: Vec::new(),
            queue: replaced.iter().copied().collect(),
            old_stubs: old
                .plt
                .iter()
                .map(|(addr, stub)| (stub.symbol.as_str(), *addr))
                .collect(),
            // A slot behind a stub may still point to the resolver: it can be called through, not read.
            old_slots: old
                .relocs
                .iter()
                .filter(|(at, _)| {
                    !lazy.contains(at)
                        && old
                            .section_at(**at)
                            .is_some_and(|s| s.name.starts_with(".got"))
                })
                .filter_map(|(at, r)| {
                    if let Reloc::Import(name, addend) = r {
                        Some(((name.as_str(), *addend), *at))
                    } else {
                        None
                    }
                })
                .collect(),
        }
    }

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

    /// Places everything that is needed.
    pub(super) fn run(&mut self) {
        for id in self.moved {
            self.place_object(*id);
        }
        if let Some((addr, size)) = self.exception_tables() {
            self.range(addr, size, PieceKind::Constant);
        }
        loop {
            if let Some(id) = self.queue.pop() {
                if self.functions.insert(id) {
                    self.place_function(id);
                }
            } else if let Some((start, end, owner)) = self.data.pop() {
                self.bind_data(start, end, &owner);
            } else {
                break;
            }
        }
    }

    /// `.eh_frame` of a build in which exceptions are caught, with what it refers to.
    fn exception_tables(&mut self) -> Option<(u64, u64)> {
        let image = &self.pair.new.build.image;
        let table = image
            .sections
            .iter()
            .find(|s| s.name == ".gcc_except_table" && s.size > 0)?;
        let frames = image.sections.iter().find(|s| s.name == ".eh_frame")?;
        if !image.pie {
            self.notes.insert("exceptions cannot pass through new code: fixed-address builds name the personality routine by address".into());
            return None;
        }
        self.range(table.addr, table.size, PieceKind::Constant);
        let slots: Vec<usize> = (0..self.pair.new.catalog.entities.len())
            .filter(|id| {
                self.pair.new.catalog.entities[*id]
                    .names
                    .iter()
                    .any(|n| n.starts_with("DW.ref."))
            })
            .collect();
        for id in slots {
            let entity = &self.pair.new.catalog.entities[id];
            self.range(entity.addr, entity.size, PieceKind::Constant);
            self.data
                .push((entity.addr, entity.addr + entity.size, entity.label()));
        }
        Some((frames.addr, frames.size))
    }

    fn range(&mut self, addr: u64, size: u64, kind: PieceKind) {
        if size == 0 {
            return;
        }
        let entry = self.ranges.entry(addr).or_insert((size, kind));
        entry.0 = entry.0.max(size);
    }

    fn place_function(&mut self, id: usize) {
        let pair = self.pair;
        let entity = &pair.new.catalog.entities[id];
        let label = entity.label();
        let Some(code) = pair.new.code.get(&id) else {
            return self.block("E434", label, "it has no code that could be read");
        };
        if let Some(at) = code.undecodable {
            return self.block(
                "E434",
                label,
                format!("the bytes at {at:#x} of the new build are no instruction"),
            );
        }
        if code.thread_base && pair.tls_differs() {
            self.block("E433", label.clone(), "it reads the thread pointer, and the layout of the thread-local variables differs between the builds; a running thread's block cannot be rearranged");
        }
        for (addr, size) in &code.parts {
            // The padding behind a short function too: the next bundle's jump may need it.
            let room = pair
                .new
                .catalog
                .next_start(*addr)
                .map_or(u64::MAX, |n| n.0 - addr);
            self.range(*addr, (*size).max(room.min(JUMP as u64)), PieceKind::Code);
        }
        for insn in &code.insns {
            for reference in &insn.refs {
                self.bind_code(&label, code, insn.at, insn.len, reference);
            }
        }
    }

    fn bind_code(&mut self, label: &str, code: &Code, at: u64, len: u8, reference: &Ref) {
        if reference.access == Access::ThreadOffset {
            return self.check_tls(label, reference.addr as i64);
        }
        if code.covers(reference.addr) {
            if !reference.relative {
                self.fix(label, at, len, reference, Target::New(reference.addr));
            }
            return;
        }
        if reference.access == Access::Immediate && !self.is_address(label, reference.addr) {
            return;
        }
        self.check_neighbours(label, code, reference);
        match self.bind(label, reference.addr, reference.access) {
            Some(Bind::Old(old)) => self.fix(label, at, len, reference, Target::Old(old)),
            Some(Bind::Placed) if !reference.relative => {
                self.fix(label, at, len, reference, Target::New(reference.addr))
            }
            Some(Bind::Dead) => self.block(
                "E435",
                label,
                format!(
                    "it uses {:#x} of the new build, in the middle of another function",
                    reference.addr
                ),
            ),
            Some(Bind::Placed) | None => {}
        }
    }

    fn fix(&mut self, label: &str, at: u64, len: u8, reference: &Ref, target: Target) {
        let place = at + u64::from(reference.field);
        let (kind, addend) = match (reference.relative, reference.width) {
            (true, 4) => (FixupKind::Relative32, i64::from(reference.field) - i64::from(len)),
            (false, 4) if matches!(reference.access, Access::Immediate) => (FixupKind::Unsigned32, 0),
            (false, 4) => (FixupKind::Signed32, 0),
            (false, 8) => (FixupKind::Absolute64, 0),
            _ => return self.block("E435", label, format!("the jump at {at:#x} of the new build is too short to reach its target from elsewhere")),
        };
        self.fixups.insert(
            place,
            Fixup {
                at: place,
                kind,
                target,
                addend,
            },
        );
    }

    fn check_tls(&mut self, label: &str, offset: i64) {
        let pair = self.pair;
        let Some((id, _)) = pair.new.tls_variable(offset) else {
            return self.block(
                "E433",
                label,
                format!("it uses a thread-local variable at {offset}, which has no name"),
            );
        };
        let variable = &pair.new.catalog.entities[id];
        let distance = |side: &super::meaning::Side, id: usize| {
            side.catalog.entities[id].addr as i64 - side.build.image.tls_size as i64
        };
        match pair.pairing.to_old[id] {
            None => self.block("E433", variable.label(), format!("{label} uses this new thread-local variable; running threads have no room for it")),
            Some(old) if distance(&pair.old, old) != distance(&pair.new, id) => {
                self.block("E433", variable.label(), format!("{label} uses this thread-local variable, which has another offset in the new build"));
            }
            Some(_) => {}
        }
    }

    /// Fixed-address builds load addresses as plain numbers. What is surely a number is left alone,
    /// what may be either is refused.
    fn is_address(&mut self, label: &str, value: u64) -> bool {
        let side = &self.pair.new;
        if side.is_number(value) {
            return false;
        }
        let doubtful = match side.meaning(value) {
            Meaning::Unnamed => {
                let starts = side.gap(value).is_some_and(|g| g.0 == value)
                    || side
                        .build
                        .image
                        .bytes(value - 1, 1)
                        .is_none_or(|b| b == [0]);
                !starts || side.string_at(value).is_none()
            }
            Meaning::Entity(id, offset) => offset > side.catalog.entities[id].size,
            _ => false,
        };
        if doubtful {
            self.block("E443", label, format!("{value:#x} in it may be a number or the address of a constant; build both versions with -fPIE -pie to tell"));
        }
        !doubtful
    }

    /// An address just behind an array may mean its end, and not what lies there. When both
    /// readings lead to different places, nobody can tell which was meant.
    fn check_neighbours(&mut self, label: &str, code: &Code, reference: &Ref) {
        if !matches!(reference.access, Access::Address | Access::Immediate) {
            return;
        }
        let (pair, addr) = (self.pair, reference.addr);
        let (old, new) = (&pair.old.catalog, &pair.new.catalog);
        let Some(before) = new.ending_at(addr).filter(|id| {
            let entity = &new.entities[*id];
            // Nobody runs through a class table to its end.
            !entity.by_content && !entity.names.iter().any(|symbol| is_class_table(symbol))
        }) else {
            return;
        };
        let is_array = new.entities[before].kind == EntityKind::Object
            && new.entities[before]
                .type_text
                .as_deref()
                .is_none_or(|t| t.ends_with(']'));
        if !is_array || new.entities[before].size == 0 || !pair.new.mentions(code, before) {
            return;
        }
        let Some(old_before) = pair.pairing.to_old[before] else {
            return;
        };
        let as_end = old.entities[old_before].addr + old.entities[old_before].size;
        let as_itself = match pair.new.meaning(addr) {
            Meaning::Entity(id, 0) => pair.pairing.to_old[id].map(|o| old.entities[o].addr),
            _ => None,
        };
        if as_itself != Some(as_end) || self.moved.contains(&before) {
            self.block(
                "E430",
                label,
                format!("{addr:#x} of the new build may be the end of {} or the start of what lies behind it, and these are apart in the old build", new.entities[before].label()),
            );
        }
    }

    /// Decides where a reference of new code or data leads.
    pub(super) fn bind(&mut self, owner: &str, addr: u64, access: Access) -> Option<Bind> {
        let pair = self.pair;
        let new = &pair.new;
        match new.meaning(addr) {
            Meaning::Stub(symbol) => {
                if let Some(old) = self.old_stubs.get(symbol.as_str()) {
                    return Some(Bind::Old(*old));
                }
                let stub = &new.build.image.plt[&addr];
                let (slot, size) = (stub.slot, stub.size);
                self.range(addr, size, PieceKind::Code);
                self.place_slot(owner, slot, &Reloc::Import(symbol, 0))
            }
            Meaning::Slot(reloc) => self.bind_slot(owner, addr, &reloc),
            Meaning::Entity(id, offset) => match new.catalog.entities[id].kind {
                EntityKind::Function => self.bind_function(owner, id, offset, access),
                EntityKind::Object => self.bind_object(owner, id, offset, access),
                EntityKind::Ifunc | EntityKind::Tls => {
                    self.block(
                        "E437",
                        owner,
                        format!(
                            "it uses {}, which is chosen when the program starts",
                            new.catalog.entities[id].label()
                        ),
                    );
                    None
                }
            },
            Meaning::Unnamed => self.place_gap(owner, addr, access),
            Meaning::UnnamedCode => {
                self.block(
                    "E432",
                    owner,
                    format!("it uses code at {addr:#x} of the new build, which has no symbol"),
                );
                None
            }
            Meaning::Outside => {
                self.block(
                    "E431",
                    owner,
                    format!("it uses {addr:#x} of the new build, which is in no section"),
                );
                None
            }
        }
    }

    fn bind_slot(&mut self, owner: &str, addr: u64, reloc: &Reloc) -> Option<Bind> {
        match reloc {
            Reloc::Import(name, addend) => match self.old_slots.get(&(name.as_str(), *addend)) {
                Some(old) => Some(Bind::Old(*old)),
                None => self.place_slot(owner, addr, reloc),
            },
            Reloc::Image(_) => self.place_slot(owner, addr, reloc),
            Reloc::Tls(..) | Reloc::Other(_) => {
                let old = &self.pair.old.build.image;
                let found = old.relocs.iter().find(|(at, r)| {
                    old.section_at(**at)
                        .is_some_and(|s| s.name.starts_with(".got"))
                        && self.pair.same_pointer(r, reloc)
                });
                if let Some((at, _)) = found {
                    return Some(Bind::Old(*at));
                }
                self.block(
                    "E433",
                    owner,
                    "it uses a thread-local variable that the old build does not use in this way",
                );
                None
            }
        }
    }

    fn place_slot(&mut self, owner: &str, slot: u64, reloc: &Reloc) -> Option<Bind> {
        self.range(slot, 8, PieceKind::Constant);
        self.bind_pointer(owner, slot, reloc);
        Some(Bind::Placed)
    }

    /// The libraries that only the new build is linked with: a symbol without a version does not say whose it is.
    fn new_libraries(&self) -> Option<String> {
        let (old, new) = (&self.pair.old.build.image, &self.pair.new.build.image);
        let only: Vec<&str> = (new.needed.iter())
            .filter(|library| !old.needed.contains(library))
            .map(String::as_str)
            .collect();
        (!only.is_empty()).then(|| only.join(" or "))
    }

    pub(super) fn import(&mut self, symbol: &str) -> u32 {
        if let Some(index) = self.import_index.get(symbol) {
            return *index;
        }
        let info = self
            .pair
            .new
            .build
            .image
            .imports
            .get(symbol)
            .cloned()
            .unwrap_or_default();
        let index = self.imports.len() as u32;
        self.imports.push(Import {
            symbol: symbol.into(),
            version: info.version,
            library: info.library.or_else(|| self.new_libraries()),
            weak: info.weak,
        });
        self.import_index.insert(symbol.into(), index);
        index
    }

    /// Where a pointer of data leads; `None` when that was refused, or does not matter.
    pub(super) fn pointer_target(&mut self, owner: &str, reloc: &Reloc) -> Option<(Target, i64)> {
        match reloc {
            Reloc::Import(name, addend) => Some((Target::Import(self.import(name)), *addend)),
            Reloc::Image(addr) => match self.bind(owner, *addr, Access::Address)? {
                Bind::Old(old) => Some((Target::Old(old), 0)),
                Bind::Placed => Some((Target::New(*addr), 0)),
                Bind::Dead => None,
            },
            Reloc::Tls(..) | Reloc::Other(_) => {
                self.block("E433", owner, "a pointer in it is made by the dynamic linker in a way that cannot be repeated");
                None
            }
        }
    }

    fn bind_pointer(&mut self, owner: &str, at: u64, reloc: &Reloc) {
        let Some((target, addend)) = self.pointer_target(owner, reloc) else {
            return;
        };
        let kind = FixupKind::Absolute64;
        self.fixups.insert(
            at,
            Fixup {
                at,
                kind,
                target,
                addend,
            },
        );
    }

    fn bind_function(
        &mut self,
        owner: &str,
        id: usize,
        offset: u64,
        access: Access,
    ) -> Option<Bind> {
        let pair = self.pair;
        let entity = &pair.new.catalog.entities[id];
        let old = pair.pairing.to_old[id];
        let placed = self.replaced.contains(&id) || old.is_none();
        if offset != 0 {
            // A pointer in a table to a place in a function: it matters only to that function.
            if access == Access::Address && !self.functions.contains(&id) && !placed {
                return Some(Bind::Dead);
            }
            if self.functions.contains(&id) && access == Access::Address {
                return Some(Bind::Placed);
            }
            return Some(Bind::Dead);
        }
        let called = matches!(access, Access::Call | Access::Branch);
        match old {
            // The old entry stays what function pointers hold: it leads to the new code.
            Some(old) if !(called && placed) => {
                Some(Bind::Old(pair.old.catalog.entities[old].addr))
            }
            _ => {
                if old.is_none() && entity.ambiguous {
                    self.block(
                        "E436",
                        owner,
                        format!(
                            "it uses {}, and several functions of a build have that name",
                            entity.label()
                        ),
                    );
                    return None;
                }
                self.queue.push(id);
                Some(Bind::Placed)
            }
        }
    }

    fn bind_object(&mut self, owner: &str, id: usize, offset: u64, access: Access) -> Option<Bind> {
        let pair = self.pair;
        let entity = &pair.new.catalog.entities[id];
        if entity.by_content || self.moved.contains(&id) {
            self.place_object(id);
            return Some(Bind::Placed);
        }
        // Nobody points into the middle of a number, but code may mean a place before what follows.
        let is_scalar = entity.type_text.as_deref().is_some_and(|t| {
            t.starts_with(['*', 'i', 'u', 'f', 'b']) && t.contains(':') && !t.contains(['[', ' '])
        });
        if offset != 0 && is_scalar && matches!(access, Access::Address | Access::Immediate) {
            self.block("E430", owner, format!("it uses an address {offset} bytes into {}, which may mean the variable behind it", entity.label()));
            return None;
        }
        match pair.pairing.to_old[id] {
            Some(old) => Some(Bind::Old(pair.old.catalog.entities[old].addr + offset)),
            None if entity.ambiguous => {
                let function = entity.keys.iter().find_map(|key| key.function.as_ref());
                let hint = function.map_or_else(String::new, |function| {
                    format!(
                        "; if both builds declare as many, and they are the same in their order, say --in-order {function}"
                    )
                });
                let label = entity.label();
                self.block(
                    "E436",
                    owner,
                    format!(
                        "it uses {label}, and several variables of a build have that name{hint}"
                    ),
                );
                None
            }
            None => {
                self.place_object(id);
                Some(Bind::Placed)
            }
        }
    }

    fn place_object(&mut self, id: usize) {
        if !self.objects.insert(id) {
            return;
        }
        let entity = &self.pair.new.catalog.entities[id];
        if entity.size == 0 {
            return self.block("E431", entity.label(), "its size is not known");
        }
        if let Some(symbol) = self.pair.new.build.image.copies.get(&entity.addr) {
            if entity.writable {
                return self.block(
                    "E444",
                    symbol.clone(),
                    "this variable of a library is used for the first time, by a copy that the library itself would have to use; build the new version with -fPIE -mno-direct-extern-access or -fPIC",
                );
            }
            let import = self.import(symbol);
            self.copies.push(LibraryCopy {
                at: entity.addr,
                len: entity.size,
                import,
            });
        }
        let kind = if entity.writable {
            PieceKind::Variable
        } else {
            PieceKind::Constant
        };
        self.range(entity.addr, entity.size, kind);
        self.data
            .push((entity.addr, entity.addr + entity.size, entity.label()));
    }

    /// Constants without a name: strings, numbers, jump tables. Where one ends is not known, so the
    /// whole range between two named things is placed.
    fn place_gap(&mut self, owner: &str, addr: u64, access: Access) -> Option<Bind> {
        let side = &self.pair.new;
        let (start, end) = side.gap(addr)?;
        let bytes = side.build.image.bytes(start, end.checked_sub(start)?)?;
        if side.in_bss(addr) {
            self.block(
                "E431",
                owner,
                format!("it uses a variable at {addr:#x} of the new build, which has no symbol"),
            );
            return None;
        }
        let no_pointers = side.build.image.relocs.range(start..end).next().is_none();
        let forms_address = matches!(access, Access::Address | Access::Immediate);
        if forms_address && end - start < 64 && no_pointers && bytes.iter().all(|b| *b == 0) {
            self.block("E430", owner, format!("it uses {addr:#x} of the new build, which is padding: an address before or behind a variable"));
            return None;
        }
        // `&array[-1]` shows as an address a little before an array, in the tail of something else.
        let starts_something = addr == start
            || side.string_at(addr).is_some()
            || bytes.get((addr - start) as usize - 1) == Some(&0);
        if forms_address
            && !starts_something
            && side
                .catalog
                .next_start(addr)
                .is_some_and(|n| n.0 - addr <= 64 && !side.catalog.entities[n.1].by_content)
        {
            self.block("E430", owner, format!("it uses {addr:#x} of the new build, which may be a constant or a place before the variable behind it"));
            return None;
        }
        if !self.ranges.contains_key(&start) {
            self.range(start, end - start, PieceKind::Constant);
            self.data.push((
                start,
                end,
                format!("the constants at {start:#x} of the new build"),
            ));
        }
        Some(Bind::Placed)
    }

    fn bind_data(&mut self, start: u64, end: u64, owner: &str) {
        let side = &self.pair.new;
        let places: Vec<(u64, Reloc)> = if side.build.image.pie {
            side.build
                .image
                .relocs
                .range(start..end)
                .map(|(at, r)| (*at, r.clone()))
                .collect()
        } else {
            (start.next_multiple_of(8)..end.saturating_sub(7))
                .step_by(8)
                .filter_map(|at| Some((at, side.pointer_at(at)?)))
                .collect()
        };
        for (at, reloc) in places {
            self.bind_pointer(owner, at, &reloc);
        }
    }

    /// Words of data that point into functions, decided once it is known which functions are placed.
    fn late_pointers(&mut self) {
        let side = &self.pair.new;
        let mut late = Vec::new();
        for (start, (size, kind)) in &self.ranges {
            if *kind == PieceKind::Code {
                continue;
            }
            for at in (start.next_multiple_of(8)..(start + size).saturating_sub(7)).step_by(8) {
                if let Some(Reloc::Image(addr)) = side.pointer_at(at)
                    && let Meaning::Entity(id, offset) = side.meaning(addr)
                    && offset != 0
                    && self.functions.contains(&id)
                    && side.catalog.entities[id].kind == EntityKind::Function
                {
                    late.push(Fixup {
                        at,
                        kind: FixupKind::Absolute64,
                        target: Target::New(addr),
                        addend: 0,
                    });
                }
            }
        }
        for fixup in late {
            self.fixups.insert(fixup.at, fixup);
        }
    }

    /// The pieces, the fix-ups and the imports.
    pub(super) fn finish(&mut self) -> (Vec<Piece>, Vec<Fixup>, Vec<Import>) {
        self.late_pointers();
        let image = &self.pair.new.build.image;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut lost = Vec::new();
        for (addr, (size, kind)) in &self.ranges {
            let done = pieces.last().map_or(0, |p| p.addr + p.bytes.len() as u64);
            let (from, to) = ((*addr).max(done), addr + size);
            if from >= to {
                continue;
            }
            match image.bytes(from, to - from) {
                Some(bytes) => pieces.push(Piece {
                    addr: from,
                    kind: *kind,
                    bytes,
                }),
                None => lost.push(*addr),
            }
        }
        for addr in lost {
            self.block(
                "E431",
                format!("{addr:#x} of the new build"),
                "it reaches over the end of its section",
            );
        }
        let mut kinds: BTreeMap<u64, PieceKind> = BTreeMap::new();
        let mut clashes = Vec::new();
        for piece in &pieces {
            for page in (piece.addr >> 12)..=((piece.addr + piece.bytes.len() as u64 - 1) >> 12) {
                let other = kinds.entry(page).or_insert(piece.kind);
                if *other != piece.kind
                    && (*other == PieceKind::Code || piece.kind == PieceKind::Code)
                    && (*other == PieceKind::Variable || piece.kind == PieceKind::Variable)
                {
                    clashes.push(page << 12);
                }
                // The kinds grow: constants may be executable or writable without harm, never both.
                if *other == PieceKind::Constant {
                    *other = piece.kind;
                }
            }
        }
        for page in clashes {
            self.block(
                "E438",
                format!("page {page:#x} of the new build"),
                "code and variables share this page; link with -z separate-code",
            );
        }
        (
            pieces,
            self.fixups.values().copied().collect(),
            self.imports.clone(),
        )
    }
}
