//! Reads a transformer's relocatable object and turns it into pieces and fix-ups of a bundle, as a
//! static linker would.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use object::elf;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    SectionIndex, SymbolIndex,
};

use crate::dsu::manifest::{Fixup, FixupKind, Piece, PieceKind, Target};

const PAGE: u64 = 4096;
/// Bytes of `jmp *slot(%rip)` with padding.
const STUB: u64 = 8;

/// A field to fill.
struct Relocation {
    section: usize,
    offset: u64,
    kind: elf::RelocationType,
    addend: i64,
    symbol: Symbol,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Symbol {
    /// A place in a section of the object.
    Own(usize, u64),
    /// By name.
    Undefined(String),
}

struct Section {
    kind: PieceKind,
    align: u64,
    bytes: Vec<u8>,
}

/// A transformer as the compiler left it.
pub(super) struct Transformer {
    sections: Vec<Section>,
    relocations: Vec<Relocation>,
    /// Defined symbols: section, offset, size, is a function.
    defined: BTreeMap<String, (usize, u64, u64, bool)>,
    /// Types that it says it takes care of, such as `struct entry`.
    pub(super) handles: BTreeSet<String>,
    /// The builds that its header was made from.
    pub(super) builds: Option<String>,
}

/// A transformer in the numbering of the new image.
pub(in crate::dsu) struct Linked {
    pub(in crate::dsu) pieces: Vec<Piece>,
    pub(in crate::dsu) fixups: Vec<Fixup>,
    /// Start, bytes and name of each function.
    pub(in crate::dsu) functions: Vec<(u64, u64, String)>,
    /// Address of `mvedsua_start`.
    pub(in crate::dsu) entry: u64,
    /// Address of `mvedsua_control`.
    pub(in crate::dsu) control: u64,
    pub(in crate::dsu) end: u64,
}

impl Transformer {
    /// Parses an object.
    ///
    /// # Errors
    /// With what cannot be carried in it.
    pub(super) fn parse(data: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(data).map_err(|e| e.to_string())?;
        if file.architecture() != object::Architecture::X86_64
            || file.kind() != object::ObjectKind::Relocatable
        {
            return Err("it is no relocatable object for x86-64".into());
        }
        let mut transformer = Self {
            sections: Vec::new(),
            relocations: Vec::new(),
            defined: BTreeMap::new(),
            handles: BTreeSet::new(),
            builds: None,
        };
        let mut index: HashMap<SectionIndex, usize> = HashMap::new();
        for section in file.sections() {
            let name = section.name().map_err(|e| e.to_string())?.to_owned();
            let object::SectionFlags::Elf { sh_flags, .. } = section.flags() else {
                continue;
            };
            if sh_flags.0 & elf::SHF_ALLOC.0 == 0
                || name == ".eh_frame"
                || name.starts_with(".note")
            {
                continue;
            }
            let data = section.data().map_err(|e| e.to_string())?;
            let text = || {
                data.split(|b| *b == 0)
                    .map(|t| String::from_utf8_lossy(t).into_owned())
                    .filter(|t| !t.is_empty())
            };
            match name.as_str() {
                ".mvedsua.handles" => {
                    transformer.handles = text().collect();
                    continue;
                }
                ".mvedsua.builds" => {
                    transformer.builds = text().next();
                    continue;
                }
                _ => {}
            }
            if sh_flags.0 & elf::SHF_TLS.0 != 0 {
                return Err(format!("it has thread-local variables ({name})"));
            }
            if [
                ".init_array",
                ".fini_array",
                ".ctors",
                ".dtors",
                ".preinit_array",
            ]
            .iter()
            .any(|n| name.starts_with(n))
                && section.size() > 0
            {
                return Err(format!(
                    "it has code that a program would run before main ({name})"
                ));
            }
            let size = section.size();
            if size > 64 << 20 {
                return Err(format!("{name} is larger than 64 MiB"));
            }
            let mut bytes = data.to_vec();
            bytes.resize(size as usize, 0);
            let kind = if sh_flags.0 & elf::SHF_EXECINSTR.0 != 0 {
                PieceKind::Code
            } else if sh_flags.0 & elf::SHF_WRITE.0 != 0 && !name.starts_with(".data.rel.ro") {
                PieceKind::Variable
            } else {
                PieceKind::Constant
            };
            index.insert(section.index(), transformer.sections.len());
            transformer.sections.push(Section {
                kind,
                align: section.align().max(1),
                bytes,
            });
        }
        transformer.read_symbols(&file, &index)?;
        Ok(transformer)
    }

    fn read_symbols(
        &mut self,
        file: &object::File<'_>,
        index: &HashMap<SectionIndex, usize>,
    ) -> Result<(), String> {
        let place = |at: SymbolIndex| -> Result<Symbol, String> {
            let symbol = file.symbol_by_index(at).map_err(|e| e.to_string())?;
            let name = symbol.name().unwrap_or("?");
            if symbol.is_common() {
                return Err(format!(
                    "{name} is a common symbol: compile with -fno-common"
                ));
            }
            match symbol.section_index().and_then(|s| index.get(&s)) {
                Some(section) => Ok(Symbol::Own(*section, symbol.address())),
                None => Ok(Symbol::Undefined(name.to_owned())),
            }
        };
        for symbol in file.symbols() {
            if let (Some(section), Ok(name)) = (
                symbol.section_index().and_then(|s| index.get(&s)),
                symbol.name(),
            ) && symbol.kind() != object::SymbolKind::Section
                && !name.is_empty()
            {
                let function = symbol.kind() == object::SymbolKind::Text;
                self.defined.insert(
                    name.to_owned(),
                    (*section, symbol.address(), symbol.size(), function),
                );
            }
        }
        for section in file.sections() {
            let Some(at) = index.get(&section.index()) else {
                continue;
            };
            for (offset, relocation) in section.relocations() {
                let RelocationFlags::Elf { r_type } = relocation.flags() else {
                    continue;
                };
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    return Err(format!("the relocation at {offset:#x} names no symbol"));
                };
                self.relocations.push(Relocation {
                    section: *at,
                    offset,
                    kind: r_type,
                    addend: relocation.addend(),
                    symbol: place(symbol)?,
                });
            }
        }
        Ok(())
    }

    /// Symbols that others must define.
    pub(super) fn undefined(&self) -> BTreeSet<&str> {
        self.relocations
            .iter()
            .filter_map(|r| match &r.symbol {
                Symbol::Undefined(name) => Some(name.as_str()),
                Symbol::Own(..) => None,
            })
            .collect()
    }

    /// The reference only calls its target: then the target's newest code is meant, not the
    /// address by which the program knows it.
    fn is_call(&self, relocation: &Relocation) -> bool {
        match relocation.kind {
            elf::R_X86_64_PLT32 => true,
            // call *slot(%rip), jmp *slot(%rip)
            elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX => {
                let bytes = &self.sections[relocation.section].bytes;
                let at = relocation.offset as usize;
                matches!(
                    at.checked_sub(2).and_then(|a| bytes.get(a..at)),
                    Some([0xff, 0x15 | 0x25])
                )
            }
            _ => false,
        }
    }

    /// Gives everything an address from `base` on, a page boundary, and binds it. `resolve` finds
    /// an undefined symbol, for a call or for its address.
    ///
    /// # Errors
    /// With the symbol or relocation that cannot be bound.
    pub(super) fn link(
        &self,
        base: u64,
        resolve: &mut dyn FnMut(&str, bool) -> Result<Target, String>,
    ) -> Result<Linked, String> {
        let (slots, stubs) = self.slots();
        let mut at = base;
        let mut places = vec![0u64; self.sections.len()];
        let mut pieces = Vec::new();
        let (mut first_slot, mut first_stub) = (0, 0);
        for kind in [PieceKind::Code, PieceKind::Constant, PieceKind::Variable] {
            at = at.next_multiple_of(PAGE);
            let start = at;
            let mut bytes: Vec<u8> = Vec::new();
            let grow = |at: &mut u64, bytes: &mut Vec<u8>, align: u64, more: &[u8]| {
                let place = at.next_multiple_of(align);
                bytes.resize((place - start) as usize, 0);
                bytes.extend_from_slice(more);
                *at = place + more.len() as u64;
                place
            };
            for (index, section) in self.sections.iter().enumerate() {
                if section.kind == kind {
                    places[index] = grow(&mut at, &mut bytes, section.align, &section.bytes);
                }
            }
            if kind == PieceKind::Code {
                let empty = vec![0xcc; stubs.len() * STUB as usize];
                first_stub = grow(&mut at, &mut bytes, STUB, &empty);
            }
            if kind == PieceKind::Constant {
                first_slot = grow(&mut at, &mut bytes, 8, &vec![0; slots.len() * 8]);
            }
            if !bytes.is_empty() {
                pieces.push(Piece {
                    addr: start,
                    kind,
                    bytes,
                });
            }
        }
        let end = at.next_multiple_of(PAGE);
        let mut image = Image {
            pieces,
            fixups: BTreeMap::new(),
        };
        let own = |symbol: &Symbol| match symbol {
            Symbol::Own(section, offset) => Some(places[*section] + offset),
            Symbol::Undefined(_) => None,
        };
        let slot_at = |key: &(Symbol, bool)| {
            first_slot + 8 * slots.iter().position(|s| s == key).unwrap_or(0) as u64
        };
        for key in &slots {
            let target = match (own(&key.0), &key.0) {
                (Some(addr), _) => Target::New(addr),
                (None, Symbol::Undefined(name)) => resolve(name, key.1)?,
                (None, Symbol::Own(..)) => continue,
            };
            image.absolute(slot_at(key), target, 0);
        }
        for (index, name) in stubs.iter().enumerate() {
            let stub = first_stub + STUB * index as u64;
            let slot = slot_at(&(Symbol::Undefined(name.clone()), true));
            image.write(stub, &[0xff, 0x25])?;
            image.relative(stub + 2, slot, -4)?;
        }
        for relocation in &self.relocations {
            let place = places[relocation.section] + relocation.offset;
            let unsupported = || {
                format!(
                    "a relocation of type {} cannot be carried: compile with -fPIC, without thread-local variables",
                    relocation.kind.0
                )
            };
            let name = match &relocation.symbol {
                Symbol::Undefined(name) => name.as_str(),
                Symbol::Own(..) => "",
            };
            match relocation.kind {
                elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => {
                    let target = match own(&relocation.symbol) {
                        Some(addr) => addr,
                        None if relocation.kind == elf::R_X86_64_PLT32 => {
                            let index = stubs.iter().position(|s| s == name).unwrap_or(0);
                            first_stub + STUB * index as u64
                        }
                        None => return Err(unsupported()),
                    };
                    image.relative(place, target, relocation.addend)?;
                }
                elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
                    let key = (relocation.symbol.clone(), self.is_call(relocation));
                    image.relative(place, slot_at(&key), relocation.addend)?;
                }
                elf::R_X86_64_64 => {
                    let target = match own(&relocation.symbol) {
                        Some(addr) => Target::New(addr),
                        None => resolve(name, false)?,
                    };
                    image.absolute(place, target, relocation.addend);
                }
                _ => return Err(unsupported()),
            }
        }
        let address = |name: &str| {
            self.defined
                .get(name)
                .map(|(section, offset, ..)| places[*section] + offset)
                .ok_or_else(|| format!("it does not define {name}"))
        };
        let mut functions: Vec<_> = self
            .defined
            .iter()
            .filter(|(_, d)| d.3)
            .map(|(name, (section, offset, size, _))| {
                (places[*section] + offset, *size, name.clone())
            })
            .collect();
        functions.sort();
        Ok(Linked {
            functions,
            entry: address("mvedsua_start")?,
            control: address("mvedsua_control")?,
            end,
            pieces: image.pieces,
            fixups: image.fixups.into_values().collect(),
        })
    }

    /// Words that hold an address, and functions that are called through one of them.
    fn slots(&self) -> (Vec<(Symbol, bool)>, Vec<String>) {
        let (mut slots, mut stubs) = (BTreeSet::new(), BTreeSet::new());
        for relocation in &self.relocations {
            match (relocation.kind, &relocation.symbol) {
                (
                    elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX,
                    symbol,
                ) => {
                    slots.insert((symbol.clone(), self.is_call(relocation)));
                }
                (elf::R_X86_64_PLT32, Symbol::Undefined(name)) => {
                    slots.insert((relocation.symbol.clone(), true));
                    stubs.insert(name.clone());
                }
                _ => {}
            }
        }
        (slots.into_iter().collect(), stubs.into_iter().collect())
    }
}

struct Image {
    pieces: Vec<Piece>,
    fixups: BTreeMap<u64, Fixup>,
}

impl Image {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        for piece in &mut self.pieces {
            if let Some(offset) = at.checked_sub(piece.addr)
                && let Some(field) = piece
                    .bytes
                    .get_mut(offset as usize..offset as usize + bytes.len())
            {
                field.copy_from_slice(bytes);
                return Ok(());
            }
        }
        Err(format!("a relocation at {at:#x} is outside of its section"))
    }

    fn relative(&mut self, at: u64, target: u64, addend: i64) -> Result<(), String> {
        let distance = target.wrapping_add_signed(addend).wrapping_sub(at) as i64;
        let distance = i32::try_from(distance).map_err(|_| "it is too large".to_owned())?;
        self.write(at, &distance.to_le_bytes())
    }

    fn absolute(&mut self, at: u64, target: Target, addend: i64) {
        self.fixups.insert(
            at,
            Fixup {
                at,
                kind: FixupKind::Absolute64,
                target,
                addend,
            },
        );
    }
}
