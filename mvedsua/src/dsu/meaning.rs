//! What an address names, and whether two addresses of two builds name the same.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::catalog::{Catalog, EntityKind, Pairing};
use super::code::{Access, Code};
use super::debug_files::Build;
use super::image::Reloc;

/// Longest unnamed constant that is compared when nothing tells where it ends, in bytes.
const LONGEST_CONSTANT: u64 = 64 << 10;

/// A build with its named things and decoded functions.
#[derive(Debug)]
pub struct Side {
    /// Image, symbols, debug information.
    pub build: Build,
    /// Named things.
    pub catalog: Catalog,
    /// Decoded functions, by id.
    pub code: HashMap<usize, Code>,
    /// Unnamed addresses that something refers to, sorted.
    anchors: Vec<u64>,
}

/// What an address of a build names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A place in a named thing: id and offset.
    Entity(usize, u64),
    /// A function of a library, through its stub.
    Stub(String),
    /// A word that the dynamic linker fills: a slot of the global offset table.
    Slot(Reloc),
    /// Data without a name.
    Unnamed,
    /// Code without a name.
    UnnamedCode,
    /// In no section.
    Outside,
}

impl Side {
    /// Decodes every function.
    #[must_use]
    pub fn new(build: Build, catalog: Catalog) -> Self {
        let code: HashMap<usize, Code> = catalog
            .entities
            .iter()
            .enumerate()
            .filter(|(_, e)| e.kind == EntityKind::Function)
            .map(|(id, e)| (id, Code::decode(&build.image, e)))
            .collect();
        let mut side = Self {
            build,
            catalog,
            code,
            anchors: Vec::new(),
        };
        let mut anchors: Vec<u64> = side
            .code
            .values()
            .flat_map(|c| c.insns.iter())
            .flat_map(|i| i.refs.iter())
            .filter(|r| r.access != Access::ThreadOffset)
            .map(|r| r.addr)
            .collect();
        anchors.extend(side.build.image.relocs.values().filter_map(|r| {
            if let Reloc::Image(a) = r {
                Some(*a)
            } else {
                None
            }
        }));
        if !side.build.image.pie {
            for section in side.build.image.sections.iter().filter(|s| !s.exec) {
                anchors.extend(
                    section
                        .data
                        .chunks_exact(8)
                        .map(|w| u64::from_le_bytes(w.try_into().expect("8 bytes"))),
                );
            }
        }
        anchors.retain(|a| side.meaning(*a) == Meaning::Unnamed);
        anchors.sort_unstable();
        anchors.dedup();
        side.anchors = anchors;
        side
    }

    /// What an address names.
    #[must_use]
    pub fn meaning(&self, addr: u64) -> Meaning {
        let image = &self.build.image;
        if let Some(stub) = image.plt.get(&addr) {
            return Meaning::Stub(stub.symbol.clone());
        }
        let Some(section) = image.section_at(addr) else {
            return Meaning::Outside;
        };
        if section.name.starts_with(".got") {
            if let Some(reloc) = image.relocs.get(&addr) {
                return Meaning::Slot(reloc.clone());
            }
            // In a fixed-address build the linker fills such a slot itself.
            if let Some(word) = image.word(addr).filter(|w| image.section_at(*w).is_some()) {
                return Meaning::Slot(Reloc::Image(word));
            }
        }
        match self.catalog.at(addr) {
            Some(id) => {
                let entity = &self.catalog.entities[id];
                // A part of a function that lies elsewhere is never its entry.
                let offset = addr.checked_sub(entity.addr).unwrap_or(u64::MAX);
                Meaning::Entity(id, offset)
            }
            None if section.exec => Meaning::UnnamedCode,
            None => Meaning::Unnamed,
        }
    }

    /// A value that nobody would load as an address: in no section, or inside of a function.
    #[must_use]
    pub fn is_number(&self, value: u64) -> bool {
        match self.meaning(value) {
            Meaning::Outside | Meaning::UnnamedCode => true,
            Meaning::Entity(id, offset) => {
                offset != 0 && self.catalog.entities[id].kind == EntityKind::Function
            }
            _ => false,
        }
    }

    /// The pointer that a data word holds, when it holds one.
    #[must_use]
    pub fn pointer_at(&self, addr: u64) -> Option<Reloc> {
        let image = &self.build.image;
        if let Some(reloc) = image.relocs.get(&addr) {
            return Some(reloc.clone());
        }
        if image.pie || !addr.is_multiple_of(8) {
            return None;
        }
        image
            .word(addr)
            .filter(|w| image.section_at(*w).is_some())
            .map(Reloc::Image)
    }

    /// Where an unnamed constant may end: the next thing that anything refers to or that has a name.
    #[must_use]
    pub fn extent(&self, addr: u64) -> u64 {
        let Some(section) = self.build.image.section_at(addr) else {
            return addr;
        };
        let mut end = section.addr + section.size;
        if let Some((start, _)) = self.catalog.next_start(addr) {
            end = end.min(start);
        }
        if let Some(next) = self
            .anchors
            .get(self.anchors.partition_point(|a| *a <= addr))
        {
            end = end.min(*next);
        }
        end.min(addr + LONGEST_CONSTANT)
    }

    /// The targets of a jump table in a function as instruction numbers: 4-byte offsets from the table in
    /// position-independent code, 8-byte addresses otherwise. Empty when there is no table.
    #[must_use]
    pub fn jump_table(&self, addr: u64, code: &Code) -> Vec<u32> {
        let image = &self.build.image;
        let end = self.extent(addr);
        let relative: Vec<u32> = (addr..end)
            .step_by(4)
            .map_while(|at| {
                let entry = image.bytes(at, 4)?;
                let offset = i32::from_le_bytes(entry.try_into().ok()?);
                code.index
                    .get(&addr.wrapping_add_signed(i64::from(offset)))
                    .copied()
            })
            .collect();
        if !relative.is_empty() {
            return relative;
        }
        (addr..end)
            .step_by(8)
            .map_while(|at| code.index.get(&image.word(at)?).copied())
            .collect()
    }

    /// The address has no bytes in the file: it starts as zero and is there to be written.
    #[must_use]
    pub fn in_bss(&self, addr: u64) -> bool {
        self.build
            .image
            .section_at(addr)
            .is_some_and(|s| addr - s.addr >= s.data.len() as u64)
    }

    /// The whole unnamed range around an address.
    #[must_use]
    pub fn gap(&self, addr: u64) -> Option<(u64, u64)> {
        let section = self.build.image.section_at(addr)?;
        let start = self
            .catalog
            .previous_end(addr)
            .unwrap_or(0)
            .max(section.addr);
        let end = self
            .catalog
            .next_start(addr)
            .map_or(u64::MAX, |n| n.0)
            .min(section.addr + section.size);
        Some((start, end))
    }

    /// The text at an address: printable, ended by a zero byte. Without the zero.
    #[must_use]
    pub fn string_at(&self, addr: u64) -> Option<&[u8]> {
        let tail = self.build.image.tail(addr);
        let end = tail.iter().position(|b| *b == 0)?;
        let text = &tail[..end];
        text.iter()
            .all(|b| {
                *b >= 0x20 && *b != 0x7f || matches!(b, b'\t' | b'\n' | b'\r' | 0x1b | 7 | 8 | 0xc)
            })
            .then_some(text)
    }

    /// The TLS variable at an offset from the thread pointer, with the offset in it.
    #[must_use]
    pub fn tls_variable(&self, offset: i64) -> Option<(usize, u64)> {
        let at = u64::try_from(
            i64::try_from(self.build.image.tls_size)
                .ok()?
                .checked_add(offset)?,
        )
        .ok()?;
        let id = self.catalog.tls_at(at)?;
        Some((id, at - self.catalog.entities[id].addr))
    }

    /// The function refers to a named thing.
    #[must_use]
    pub fn mentions(&self, code: &Code, id: usize) -> bool {
        code.insns
            .iter()
            .flat_map(|i| i.refs.iter())
            .any(|r| r.access != Access::ThreadOffset && self.catalog.at(r.addr) == Some(id))
    }
}

/// Two builds side by side.
#[derive(Debug)]
pub struct Pair {
    /// What runs.
    pub old: Side,
    /// What it becomes.
    pub new: Side,
    /// Which thing is which.
    pub pairing: Pairing,
    known: RefCell<HashMap<(u64, u64), bool>>,
    open: RefCell<HashSet<(u64, u64)>>,
}

impl Pair {
    /// Puts two builds side by side. Static variables of one name in the functions `in_order` are told apart by
    /// the order of their declarations.
    #[must_use]
    pub fn new(old: Side, new: Side, in_order: &BTreeSet<String>) -> Self {
        let mut pairing = Pairing::new(&old.catalog, &new.catalog);
        pairing.pair_in_order(&old.catalog, &new.catalog, in_order);
        Self {
            old,
            new,
            pairing,
            known: RefCell::default(),
            open: RefCell::default(),
        }
    }

    /// Both addresses name the same. `functions` are the two functions that use them, if any.
    #[must_use]
    pub fn same(
        &self,
        old: u64,
        new: u64,
        access: Access,
        functions: Option<(&Code, &Code)>,
    ) -> bool {
        if access == Access::ThreadOffset {
            return self.same_tls(old as i64, new as i64);
        }
        if let Some((old_code, new_code)) = functions {
            match (old_code.index.get(&old), new_code.index.get(&new)) {
                (Some(a), Some(b)) => return a == b,
                (None, None) if !old_code.covers(old) && !new_code.covers(new) => {}
                _ => return false,
            }
        }
        // The same number on both sides that is no address of anything on one of them is a number.
        if access == Access::Immediate
            && old == new
            && (self.old.is_number(old) || self.new.is_number(new))
        {
            return true;
        }
        match (self.old.meaning(old), self.new.meaning(new)) {
            (Meaning::Stub(a), Meaning::Stub(b)) => a == b,
            (Meaning::Slot(a), Meaning::Slot(b)) => self.same_pointer(&a, &b),
            (Meaning::Entity(a, x), Meaning::Entity(b, y))
                if self.pairing.to_old[b] == Some(a) && x == y =>
            {
                x == 0 || self.old.catalog.entities[a].kind == EntityKind::Object
            }
            (Meaning::Entity(a, x), Meaning::Entity(b, y))
                if x == y && self.both_by_content(a, b) =>
            {
                let (a, b) = (&self.old.catalog.entities[a], &self.new.catalog.entities[b]);
                a.size == b.size
                    && self.same_guarded(a.addr, b.addr, || self.same_bytes(a.addr, b.addr, a.size))
            }
            (Meaning::Outside, Meaning::Outside) => {
                let ending = |side: &Side, addr: u64| {
                    side.build
                        .image
                        .sections
                        .iter()
                        .filter(|s| s.addr + s.size == addr)
                        .map(|s| s.name.clone())
                        .next_back()
                };
                matches!((ending(&self.old, old), ending(&self.new, new)), (Some(a), Some(b)) if a == b)
            }
            (Meaning::Unnamed, Meaning::Unnamed) => self.same_constant(old, new, access, functions),
            _ => functions.is_some_and(|f| self.same_end(old, new, access, f)),
        }
    }

    /// `&array[N]`, the address after the last element: it belongs to the array, not to what
    /// happens to lie behind it, when the function uses the array.
    fn same_end(&self, old: u64, new: u64, access: Access, functions: (&Code, &Code)) -> bool {
        if !matches!(access, Access::Address | Access::Immediate) {
            return false;
        }
        let (Some(a), Some(b)) = (
            self.old.catalog.ending_at(old),
            self.new.catalog.ending_at(new),
        ) else {
            return false;
        };
        self.pairing.to_old[b] == Some(a)
            && self.old.catalog.entities[a].size == self.new.catalog.entities[b].size
            && self.old.mentions(functions.0, a)
            && self.new.mentions(functions.1, b)
    }

    fn same_tls(&self, old: i64, new: i64) -> bool {
        match (self.old.tls_variable(old), self.new.tls_variable(new)) {
            (Some((a, x)), Some((b, y))) => self.pairing.to_old[b] == Some(a) && x == y,
            _ => false,
        }
    }

    /// Two pointers, as the dynamic linker makes them, point to the same.
    #[must_use]
    pub fn same_pointer(&self, old: &Reloc, new: &Reloc) -> bool {
        match (old, new) {
            (Reloc::Image(a), Reloc::Image(b)) => self.same(*a, *b, Access::Address, None),
            (Reloc::Import(a, x), Reloc::Import(b, y)) => a == b && x == y,
            (Reloc::Tls(a, x), Reloc::Tls(b, y)) if a.is_empty() && b.is_empty() => {
                let at = |value: i64, size: u64| value.wrapping_sub(size as i64);
                self.same_tls(
                    at(*x, self.old.build.image.tls_size),
                    at(*y, self.new.build.image.tls_size),
                )
            }
            (Reloc::Tls(a, x), Reloc::Tls(b, y)) => a == b && x == y,
            _ => false,
        }
    }

    /// Unnamed constants are the same when their contents are.
    fn same_constant(
        &self,
        old: u64,
        new: u64,
        access: Access,
        functions: Option<(&Code, &Code)>,
    ) -> bool {
        let sections = (
            self.old.build.image.section_at(old),
            self.new.build.image.section_at(new),
        );
        let (Some(a), Some(b)) = sections else {
            return false;
        };
        // In `.data`, only what the compiler made has no name: initial values of arrays on the stack.
        if a.writable != b.writable || self.old.in_bss(old) || self.new.in_bss(new) {
            return false;
        }
        if let Access::Memory(size) = access {
            return self.same_bytes(old, new, u64::from(size));
        }
        if let Some((old_code, new_code)) =
            functions.filter(|f| f.0.indirect_jump && f.1.indirect_jump)
        {
            let (a, b) = (
                self.old.jump_table(old, old_code),
                self.new.jump_table(new, new_code),
            );
            if !a.is_empty() || !b.is_empty() {
                return a == b;
            }
        }
        self.same_guarded(old, new, || self.same_contents(old, new))
    }

    fn both_by_content(&self, old: usize, new: usize) -> bool {
        self.old.catalog.entities[old].by_content && self.new.catalog.entities[new].by_content
    }

    /// Remembers the answer, and takes a cycle of constants that point to each other as equal
    /// unless a difference shows up.
    fn same_guarded(&self, old: u64, new: u64, compare: impl FnOnce() -> bool) -> bool {
        let key = (old, new);
        if let Some(known) = self.known.borrow().get(&key) {
            return *known;
        }
        if !self.open.borrow_mut().insert(key) {
            return true;
        }
        let result = compare();
        self.open.borrow_mut().remove(&key);
        // What was found under an open assumption holds only once nothing is assumed any more.
        if !result || self.open.borrow().is_empty() {
            self.known.borrow_mut().insert(key, result);
        }
        result
    }

    fn same_contents(&self, old: u64, new: u64) -> bool {
        let (old_end, new_end) = (self.old.extent(old), self.new.extent(new));
        if let (Some(a), Some(b)) = (self.old.string_at(old), self.new.string_at(new)) {
            if a != b {
                return false;
            }
            // A short one may be the start of something else: then what follows counts, unless it is padding.
            let length = a.len() as u64 + 1;
            let padding = |side: &Side, start: u64, end: u64| {
                end <= start + length
                    || end - start - length < 8
                    || side
                        .build
                        .image
                        .bytes(start + length, end - start - length)
                        .is_none_or(|b| b.iter().all(|b| *b == 0))
            };
            if length > 4 || (padding(&self.old, old, old_end) && padding(&self.new, new, new_end))
            {
                return true;
            }
        }
        let length = (old_end - old).max(new_end - new);
        self.same_bytes(old, new, length)
    }

    /// So many bytes are equal, pointers in them taken by what they point to.
    #[must_use]
    pub fn same_bytes(&self, old: u64, new: u64, length: u64) -> bool {
        let (Some(a), Some(b)) = (
            self.old.build.image.bytes(old, length),
            self.new.build.image.bytes(new, length),
        ) else {
            return false;
        };
        let mut at = 0;
        while at < length {
            let pointers = if length - at >= 8 {
                (self.old.pointer_at(old + at), self.new.pointer_at(new + at))
            } else {
                (None, None)
            };
            match pointers {
                (Some(x), Some(y)) => {
                    if !self.same_pointer(&x, &y) {
                        return false;
                    }
                    at += 8;
                }
                (None, None) => {
                    // Up to the next place where a pointer may start.
                    let step = (8 - (old + at) % 8).min(length - at);
                    let range = at as usize..(at + step) as usize;
                    if a[range.clone()] != b[range] {
                        return false;
                    }
                    at += step;
                }
                _ => return false,
            }
        }
        true
    }
}
