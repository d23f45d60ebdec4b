//! One build as it lies in memory: its sections, dynamic relocations, imports and raw symbols.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

use super::error::DsuError;

/// A section that is mapped when the program runs.
#[derive(Debug)]
pub struct Section {
    /// Name, for messages.
    pub name: String,
    /// Address in the image.
    pub addr: u64,
    /// Bytes in memory.
    pub size: u64,
    /// The bytes; shorter than `size` when the rest is zero (`.bss`).
    pub data: Vec<u8>,
    /// Holds instructions.
    pub exec: bool,
    /// Can be written while the program runs (false for what `PT_GNU_RELRO` protects).
    pub writable: bool,
}

/// What the dynamic linker puts at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloc {
    /// The run-time address of an address of this image.
    Image(u64),
    /// The address of a symbol of a library, plus a number.
    Import(String, i64),
    /// The thread-pointer offset of a TLS variable: of a library, or at an offset in this image.
    Tls(String, i64),
    /// Anything else: relocation type number. Never compared as equal, never carried.
    Other(u32),
}

/// What is known about a symbol that the program takes from a library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportInfo {
    /// Symbol version, such as `GLIBC_2.34`.
    pub version: Option<String>,
    /// Library that the version came from, such as `libc.so.6`.
    pub library: Option<String>,
    /// May be absent at run time.
    pub weak: bool,
}

/// Kind of a raw symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SymbolKind {
    /// `STT_FUNC`.
    Function,
    /// `STT_OBJECT`.
    Object,
    /// `STT_TLS`: the address is an offset into the TLS template.
    Tls,
    /// `STT_GNU_IFUNC`.
    Ifunc,
    /// `STT_NOTYPE` in a mapped section: assembly labels.
    Label,
}

/// An entry of the symbol table.
#[derive(Clone, Debug)]
pub struct RawSymbol {
    /// Name without its version.
    pub name: String,
    /// Address in the image, or the TLS offset.
    pub addr: u64,
    /// Bytes, 0 when not known.
    pub size: u64,
    /// Kind.
    pub kind: SymbolKind,
    /// Visible outside of its compilation unit.
    pub global: bool,
    /// The `STT_FILE` symbol before it, for locals.
    pub file: Option<String>,
}

/// A build, parsed.
#[derive(Debug)]
pub struct Image {
    /// Where it was read from.
    pub path: PathBuf,
    /// The build-id note.
    pub build_id: Vec<u8>,
    /// Position independent.
    pub pie: bool,
    /// Mapped sections, by address.
    pub sections: Vec<Section>,
    /// What the dynamic linker writes, by address.
    pub relocs: BTreeMap<u64, Reloc>,
    /// Stubs of the procedure linkage table: address of the stub to the symbol.
    pub plt: BTreeMap<u64, PltStub>,
    /// Copy relocations: address in this image to the symbol of the library.
    pub copies: BTreeMap<u64, String>,
    /// Imported symbols by name.
    pub imports: HashMap<String, ImportInfo>,
    /// `DT_NEEDED`.
    pub needed: Vec<String>,
    /// Size of the TLS segment rounded up to its alignment: offset 0 is at `-tls_size` from the thread pointer.
    pub tls_size: u64,
    /// Initial bytes of the TLS template; the rest is zero.
    tls_data: Vec<u8>,
}

/// A stub through which a library function is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PltStub {
    /// The function.
    pub symbol: String,
    /// The GOT slot that the stub jumps through.
    pub slot: u64,
    /// Bytes of the stub.
    pub size: u64,
}

fn bad(path: &Path, reason: impl Into<String>) -> DsuError {
    DsuError::NotComparable {
        path: path.into(),
        reason: reason.into(),
    }
}

impl Image {
    /// Parses `data`, the content of `path`.
    ///
    /// # Errors
    /// When it is no x86-64 Linux executable, or has no build-id.
    pub fn parse(path: &Path, data: &[u8]) -> Result<Self, DsuError> {
        let file = ElfFile64::<LittleEndian>::parse(data).map_err(|e| bad(path, e.to_string()))?;
        let header = file.elf_header();
        if header.e_machine(LittleEndian) != elf::EM_X86_64 {
            return Err(bad(path, "it is not for x86-64"));
        }
        let kind = header.e_type(LittleEndian);
        let pie = kind == elf::ET_DYN;
        if !pie && kind != elf::ET_EXEC {
            return Err(bad(
                path,
                "it is neither a PIE nor a fixed-address executable",
            ));
        }
        let build_id = file
            .build_id()
            .map_err(|e| bad(path, e.to_string()))?
            .filter(|id| !id.is_empty())
            .ok_or_else(|| DsuError::NoBuildId { path: path.into() })?
            .to_vec();

        let mut relro = (0, 0);
        let mut tls_size = 0;
        let mut tls_data = Vec::new();
        for ph in file.elf_program_headers() {
            let (addr, size) = (ph.p_vaddr(LittleEndian), ph.p_memsz(LittleEndian));
            match ph.p_type(LittleEndian) {
                elf::PT_GNU_RELRO => relro = (addr, addr.saturating_add(size)),
                elf::PT_TLS => {
                    tls_data = ph
                        .data(LittleEndian, data)
                        .map_err(|()| bad(path, "the TLS segment is broken"))?
                        .to_vec();
                    let align = ph.p_align(LittleEndian).max(1);
                    tls_size = size
                        .checked_next_multiple_of(align)
                        .ok_or_else(|| bad(path, "the TLS segment is broken"))?;
                }
                _ => {}
            }
        }

        let mut image = Self {
            path: path.into(),
            build_id,
            pie,
            sections: Vec::new(),
            relocs: BTreeMap::new(),
            plt: BTreeMap::new(),
            copies: BTreeMap::new(),
            imports: HashMap::new(),
            needed: Vec::new(),
            tls_size,
            tls_data,
        };
        let mut relr = Vec::new();
        for section in file.sections() {
            let object::SectionFlags::Elf {
                sh_flags, sh_type, ..
            } = section.flags()
            else {
                continue;
            };
            let sh_flags = sh_flags.0;
            if sh_flags & elf::SHF_ALLOC.0 == 0 || sh_flags & elf::SHF_TLS.0 != 0 {
                continue;
            }
            let name = section.name().unwrap_or("?").to_owned();
            let data = if sh_type == elf::SHT_NOBITS {
                &[][..]
            } else {
                section.data().map_err(|e| bad(path, e.to_string()))?
            };
            if sh_type.0 == 19 {
                relr = data.to_vec();
            }
            let (addr, size) = (section.address(), section.size());
            let end = addr
                .checked_add(size)
                .ok_or_else(|| bad(path, "a section wraps around"))?;
            image.sections.push(Section {
                name,
                addr,
                size,
                data: data.to_vec(),
                exec: sh_flags & elf::SHF_EXECINSTR.0 != 0,
                writable: sh_flags & elf::SHF_WRITE.0 != 0 && !(addr >= relro.0 && end <= relro.1),
            });
        }
        image.sections.sort_by_key(|s| s.addr);
        image.read_relocations(&file, path)?;
        image.read_relr(&relr);
        image.read_imports(&file, path)?;
        image.find_stubs();
        Ok(image)
    }

    fn read_relocations(
        &mut self,
        file: &ElfFile64<'_, LittleEndian>,
        path: &Path,
    ) -> Result<(), DsuError> {
        let Some(relocations) = file.dynamic_relocations() else {
            return Ok(());
        };
        for (at, reloc) in relocations {
            let object::RelocationFlags::Elf { r_type } = reloc.flags() else {
                continue;
            };
            let addend = reloc.addend();
            let symbol = match reloc.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = file
                        .dynamic_symbol_table()
                        .and_then(|t| object::ObjectSymbolTable::symbol_by_index(&t, index).ok())
                        .ok_or_else(|| {
                            bad(path, format!("the relocation at {at:#x} names no symbol"))
                        })?;
                    let name = symbol
                        .name()
                        .map_err(|e| bad(path, e.to_string()))?
                        .to_owned();
                    Some((name, (!symbol.is_undefined()).then(|| symbol.address())))
                }
                _ => None,
            };
            let reloc = match (r_type, symbol) {
                (elf::R_X86_64_RELATIVE, _) => Reloc::Image(addend as u64),
                (elf::R_X86_64_COPY, Some((name, _))) => {
                    self.copies.insert(at, name);
                    continue;
                }
                (
                    elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_64,
                    Some((name, defined)),
                ) => match defined {
                    Some(addr) => Reloc::Image(addr.wrapping_add_signed(addend)),
                    None => Reloc::Import(name, addend),
                },
                (elf::R_X86_64_TPOFF64, Some((name, _))) => Reloc::Tls(name, addend),
                (elf::R_X86_64_TPOFF64, None) => Reloc::Tls(String::new(), addend),
                (other, _) => Reloc::Other(other.0),
            };
            self.relocs.insert(at, reloc);
        }
        Ok(())
    }

    /// `SHT_RELR`: relative relocations as bitmaps; the addend lies at the place.
    fn read_relr(&mut self, data: &[u8]) {
        let mut base = 0u64;
        let mut places = Vec::new();
        for word in data
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes")))
        {
            if word & 1 == 0 {
                places.push(word);
                base = word.wrapping_add(8);
            } else {
                places.extend(
                    (0..63)
                        .filter(|bit| word >> (bit + 1) & 1 == 1)
                        .map(|bit| base.wrapping_add(bit * 8)),
                );
                base = base.wrapping_add(63 * 8);
            }
        }
        for place in places {
            if let Some(value) = self.word(place) {
                self.relocs.insert(place, Reloc::Image(value));
            }
        }
    }

    fn read_imports(
        &mut self,
        file: &ElfFile64<'_, LittleEndian>,
        path: &Path,
    ) -> Result<(), DsuError> {
        let versions = file
            .elf_section_table()
            .versions(LittleEndian, file.data())
            .map_err(|e| bad(path, e.to_string()))?;
        for symbol in file.dynamic_symbols().filter(|s| s.is_undefined()) {
            let Ok(name) = symbol.name() else { continue };
            let mut info = ImportInfo {
                weak: symbol.is_weak(),
                ..ImportInfo::default()
            };
            if let Some(table) = &versions {
                let index = table.version_index(LittleEndian, symbol.index()).index();
                if let Ok(Some(version)) = table.version(index) {
                    info.version = Some(String::from_utf8_lossy(version.name()).into_owned());
                    info.library = version
                        .file()
                        .map(|f| String::from_utf8_lossy(f).into_owned());
                }
            }
            self.imports.insert(name.to_owned(), info);
        }
        for name in self.copies.values() {
            self.imports.entry(name.clone()).or_default();
        }
        for section in file.sections().filter(|s| s.name() == Ok(".dynamic")) {
            let strings = file
                .section_by_name(".dynstr")
                .and_then(|s| s.data().ok())
                .unwrap_or_default();
            for entry in section.data().unwrap_or_default().chunks_exact(16) {
                let tag = u64::from_le_bytes(entry[..8].try_into().expect("8 bytes"));
                let value = u64::from_le_bytes(entry[8..].try_into().expect("8 bytes"));
                if tag == 1 {
                    let tail = usize::try_from(value)
                        .ok()
                        .and_then(|v| strings.get(v..))
                        .unwrap_or_default();
                    let name = tail.split(|b| *b == 0).next().unwrap_or_default();
                    self.needed.push(String::from_utf8_lossy(name).into_owned());
                }
            }
        }
        Ok(())
    }

    /// Every stub is found by decoding: `[endbr64] [bnd] jmp [rip+slot]`, whichever linker made it.
    fn find_stubs(&mut self) {
        let mut found = Vec::new();
        for section in self
            .sections
            .iter()
            .filter(|s| s.exec && s.name.starts_with(".plt"))
        {
            let step = if section.name == ".plt.got" && section.size % 16 != 0 {
                8
            } else {
                16
            };
            let step = if section.name == ".plt.got" {
                stub_size(section).unwrap_or(step)
            } else {
                step
            };
            let mut at = 0usize;
            while at < section.data.len() {
                let end = (at + step).min(section.data.len());
                let addr = section.addr + at as u64;
                let mut decoder = iced_x86::Decoder::with_ip(
                    64,
                    &section.data[at..end],
                    addr,
                    iced_x86::DecoderOptions::NONE,
                );
                while decoder.can_decode() {
                    let instruction = decoder.decode();
                    if instruction.is_ip_rel_memory_operand()
                        && instruction.flow_control() == iced_x86::FlowControl::IndirectBranch
                    {
                        let slot = instruction.ip_rel_memory_address();
                        if let Some(Reloc::Import(symbol, 0)) = self.relocs.get(&slot) {
                            found.push((
                                addr,
                                PltStub {
                                    symbol: symbol.clone(),
                                    slot,
                                    size: step as u64,
                                },
                            ));
                        }
                        break;
                    }
                    if instruction.is_invalid() {
                        break;
                    }
                }
                at += step;
            }
        }
        self.plt.extend(found);
    }

    /// The section that holds an address.
    #[must_use]
    pub fn section_at(&self, addr: u64) -> Option<&Section> {
        let index = self.sections.partition_point(|s| s.addr <= addr);
        self.sections[..index]
            .iter()
            .rev()
            .take(3)
            .find(|s| addr - s.addr < s.size)
    }

    /// Up to `len` bytes at an address, zero-filled in `.bss`; `None` when it leaves its section.
    #[must_use]
    pub fn bytes(&self, addr: u64, len: u64) -> Option<Vec<u8>> {
        let section = self.section_at(addr)?;
        let start = addr - section.addr;
        if len > section.size - start {
            return None;
        }
        let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
        let mut bytes = section
            .data
            .get(start..section.data.len().min(start + len))
            .unwrap_or_default()
            .to_vec();
        bytes.resize(len, 0);
        Some(bytes)
    }

    /// The file's bytes from an address to the end of its section.
    #[must_use]
    pub fn tail(&self, addr: u64) -> &[u8] {
        self.section_at(addr)
            .and_then(|s| s.data.get(usize::try_from(addr - s.addr).ok()?..))
            .unwrap_or_default()
    }

    /// The little-endian word of 8 bytes at an address.
    #[must_use]
    pub fn word(&self, addr: u64) -> Option<u64> {
        self.bytes(addr, 8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")))
    }

    /// Initial bytes of a thread-local variable.
    #[must_use]
    pub fn tls_bytes(&self, offset: u64, len: u64) -> Vec<u8> {
        let range = usize::try_from(offset).unwrap_or(usize::MAX)..;
        let tail = self.tls_data.get(range).unwrap_or_default();
        let len = usize::try_from(len).unwrap_or(0);
        let mut bytes = tail[..tail.len().min(len)].to_vec();
        bytes.resize(len, 0);
        bytes
    }

    /// Build-id in hexadecimal.
    #[must_use]
    pub fn build_id_hex(&self) -> String {
        hex(&self.build_id)
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `.plt.got` stubs take 8 bytes without and 16 with `endbr64`.
fn stub_size(section: &Section) -> Option<usize> {
    Some(if section.data.get(..4)? == [0xf3, 0x0f, 0x1e, 0xfa] {
        16
    } else {
        8
    })
}

/// The static symbol table of a file, if it has one.
///
/// # Errors
/// When the file cannot be parsed.
pub fn read_symbols(path: &Path, data: &[u8]) -> Result<Vec<RawSymbol>, DsuError> {
    let file = ElfFile64::<LittleEndian>::parse(data).map_err(|e| bad(path, e.to_string()))?;
    let mut current_file = None;
    let mut symbols = Vec::new();
    for symbol in file.symbols() {
        let object::SymbolFlags::Elf { st_info, .. } = symbol.flags() else {
            continue;
        };
        let name = symbol.name().map_err(|e| bad(path, e.to_string()))?;
        let kind = match st_info.0 & 0xf {
            4 => {
                current_file = Some(name.to_owned()).filter(|n| !n.is_empty());
                continue;
            }
            0 => SymbolKind::Label,
            1 => SymbolKind::Object,
            2 => SymbolKind::Function,
            6 => SymbolKind::Tls,
            10 => SymbolKind::Ifunc,
            _ => continue,
        };
        if symbol.is_undefined() || symbol.section_index().is_none() || name.is_empty() {
            continue;
        }
        let global = st_info.0 >> 4 != 0;
        symbols.push(RawSymbol {
            name: name.split('@').next().unwrap_or(name).to_owned(),
            addr: symbol.address(),
            size: symbol.size(),
            kind,
            global,
            file: if global { None } else { current_file.clone() },
        });
    }
    Ok(symbols)
}
