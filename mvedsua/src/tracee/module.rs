//! ELF files as they are mapped in a process: read through the mapping itself, so that a file which
//! was replaced or deleted since is still the one that runs.

use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, Sym};
use object::{LittleEndian, Object};

use super::inspect::Mapping;
use super::{Naming, Result, TraceeError};

const LE: LittleEndian = LittleEndian;
/// `AT_ENTRY` of the auxiliary vector: where the program begins.
const AT_ENTRY: u64 = 9;

/// A file and where it lies.
#[derive(Debug)]
pub struct Module {
    /// Path, as the memory map has it.
    pub name: String,
    /// Address in the process minus address in the file.
    pub bias: u64,
    data: Vec<u8>,
}

/// A symbol that a library defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Address in the process: of the thing, or of its resolver.
    pub address: u64,
    /// `STT_GNU_IFUNC`: the address is that of a function which returns the address to use.
    pub indirect: bool,
}

impl Module {
    /// Reads the file behind a mapping. `None`: it is no ELF file, or cannot be read.
    #[must_use]
    pub fn of_mapping(pid: i32, map: &Mapping) -> Option<Self> {
        let data = if map.name == "[vdso]" {
            let mut image = vec![0; (map.end - map.start) as usize];
            crate::sys::memory::read(pid, map.start, &mut image).ok()?;
            image
        } else if map.name.starts_with('/') {
            let file = format!("/proc/{pid}/map_files/{:x}-{:x}", map.start, map.end);
            std::fs::read(file).ok()?
        } else {
            return None;
        };
        let parsed = ElfFile64::<LittleEndian>::parse(&*data).ok()?;
        // The last one: a page of the file may hold the end of a segment and the beginning of the next,
        // and a mapping that begins there is that of the next.
        let segment = parsed.elf_program_headers().iter().rfind(|header| {
            let (start, len) = header.file_range(LE);
            // Mappings begin at pages, segments anywhere.
            header.p_type(LE) == elf::PT_LOAD
                && (start & !0xfff) <= map.offset
                && map.offset < start + len
        })?;
        let at = segment
            .p_vaddr(LE)
            .wrapping_add(map.offset)
            .wrapping_sub(segment.p_offset(LE));
        let bias = map.start.wrapping_sub(at);
        Some(Self {
            name: map.name.clone(),
            bias,
            data,
        })
    }

    /// The parsed file.
    ///
    /// # Errors
    /// When it is no 64-bit ELF file, which construction has excluded.
    pub fn file(&self) -> Option<ElfFile64<'_, LittleEndian>> {
        ElfFile64::parse(&*self.data).ok()
    }

    /// The definition of a symbol that the dynamic linker would bind for this name and version
    /// (`None`: the default one). Thread-local ones are not found.
    #[must_use]
    pub fn find(&self, symbol: &str, version: Option<&str>) -> Option<Definition> {
        let header = elf::FileHeader64::<LittleEndian>::parse(&*self.data).ok()?;
        let sections = header.sections(LE, &*self.data).ok()?;
        let symbols = sections.symbols(LE, &*self.data, elf::SHT_DYNSYM).ok()?;
        let versions = sections.versions(LE, &*self.data).ok()?;
        symbols.enumerate().find_map(|(index, candidate)| {
            let named = candidate.name(LE, symbols.strings()).ok()? == symbol.as_bytes();
            let kind = candidate.st_type();
            let defined = candidate.st_shndx(LE) != elf::SHN_UNDEF
                && candidate.st_bind() != elf::STB_LOCAL
                && kind != elf::STT_TLS;
            if !named || !defined {
                return None;
            }
            if let Some(versions) = &versions {
                let at = versions.version_index(LE, index);
                let name = versions
                    .version(at.index())
                    .ok()
                    .flatten()
                    .map(|v| v.name());
                let fits = match version {
                    Some(wanted) => name == Some(wanted.as_bytes()),
                    None => !at.is_hidden(),
                };
                if !fits {
                    return None;
                }
            }
            Some(Definition {
                address: self.bias.wrapping_add(candidate.st_value(LE)),
                indirect: kind == elf::STT_GNU_IFUNC,
            })
        })
    }
}

/// The program that a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its build-id note; empty when it has none.
    pub build_id: Vec<u8>,
    /// Address in the process minus address in the file: 0 for fixed-address programs.
    pub bias: u64,
    /// First address of its image in the process, and the one after its last.
    pub range: (u64, u64),
    /// Addresses in the process of its dynamic section, if it has one.
    pub dynamic: Option<u64>,
    /// Bytes of its thread-local variables, which end at each thread's thread pointer (`fs`).
    pub thread_local: u64,
}

/// Looks at `/proc/PID/exe`: the very file that was executed, whatever became of its name.
///
/// # Errors
/// When the process is gone or its program is no 64-bit ELF file.
pub fn program(pid: i32) -> Result<Program> {
    let data = std::fs::read(format!("/proc/{pid}/exe")).named("read the program", pid)?;
    let unreadable =
        || TraceeError::Unsuitable(format!("the program of process {pid} cannot be understood"));
    let file = ElfFile64::<LittleEndian>::parse(&*data).map_err(|_| unreadable())?;
    let entry = super::inspect::auxiliary(pid, AT_ENTRY)?.ok_or_else(unreadable)?;
    let bias = entry.wrapping_sub(file.elf_header().e_entry.get(LE));
    let loads = || {
        file.elf_program_headers()
            .iter()
            .filter(|header| header.p_type(LE) == elf::PT_LOAD)
    };
    let start = loads()
        .map(|h| h.p_vaddr(LE))
        .min()
        .ok_or_else(unreadable)?;
    let end = loads()
        .map(|h| h.p_vaddr(LE).saturating_add(h.p_memsz(LE)))
        .max()
        .ok_or_else(unreadable)?;
    let dynamic = file
        .elf_program_headers()
        .iter()
        .find(|header| header.p_type(LE) == elf::PT_DYNAMIC)
        .map(|header| bias.wrapping_add(header.p_vaddr(LE)));
    let thread_local = file
        .elf_program_headers()
        .iter()
        .find(|header| header.p_type(LE) == elf::PT_TLS)
        .and_then(|header| {
            let align = header.p_align(LE).max(1);
            header.p_memsz(LE).checked_next_multiple_of(align)
        });
    Ok(Program {
        build_id: file.build_id().ok().flatten().unwrap_or_default().to_vec(),
        bias,
        range: (
            bias.wrapping_add(start) & !0xfff,
            bias.wrapping_add(end).next_multiple_of(4096),
        ),
        dynamic,
        thread_local: thread_local.unwrap_or(0),
    })
}

/// The libraries of a process in the order in which the dynamic linker searches them.
#[derive(Debug)]
pub struct Libraries(Vec<Module>);

impl Libraries {
    /// Follows the dynamic linker's own list (`DT_DEBUG`, `struct link_map` of `<link.h>`). A
    /// program without one has no libraries.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: i32, program: &Program) -> Result<Self> {
        const DT_DEBUG: u64 = 21;
        const MOST: usize = 4096;
        let maps = super::inspect::maps(pid)?;
        let word = |address: u64| {
            let mut bytes = [0u8; 8];
            crate::sys::memory::read(pid, address, &mut bytes)
                .ok()
                .map(|()| u64::from_le_bytes(bytes))
        };
        let mut found = Vec::new();
        let mut at = program.dynamic;
        let debug = loop {
            let Some(entry) = at else { break None };
            match word(entry) {
                Some(DT_DEBUG) => break word(entry + 8),
                Some(tag) if tag != 0 => at = Some(entry + 16),
                _ => break None,
            }
        };
        // struct r_debug { int version; struct link_map *map; ... }
        let mut node = debug.filter(|d| *d != 0).and_then(|d| word(d + 8));
        while let Some(address) = node.filter(|a| *a != 0 && found.len() < MOST) {
            // struct link_map { addr; name; dynamic section; next; previous }
            let dynamic = word(address + 16).unwrap_or(0);
            if let Some(map) = maps.iter().find(|m| m.start <= dynamic && dynamic < m.end)
                && let Some(module) = Module::of_mapping(pid, map)
            {
                found.push(module);
            }
            node = word(address + 24);
        }
        Ok(Self(found))
    }

    /// The first definition in search order.
    #[must_use]
    pub fn find(&self, symbol: &str, version: Option<&str>) -> Option<Definition> {
        self.0
            .iter()
            .find_map(|module| module.find(symbol, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mappings_of_a_file_have_one_bias() {
        let pid = std::process::id() as i32;
        let mut biases: std::collections::BTreeMap<(String, u64), Vec<u64>> = Default::default();
        let mut run = (0, 0);
        for map in super::super::inspect::maps(pid).expect("readable") {
            // What the loader has mapped lies together; another test may have mapped the file once more.
            run = (if run.1 == map.start { run.0 } else { map.start }, map.end);
            if let Some(module) = Module::of_mapping(pid, &map) {
                let key = (module.name, run.0);
                biases.entry(key).or_default().push(module.bias);
            }
        }
        // libgcc_s.so.1 is among them, whose third and fourth segment share a page of the file.
        assert!(biases.len() > 2, "{biases:x?}");
        for (name, found) in biases {
            assert!(
                found.iter().all(|bias| *bias == found[0]),
                "{name:x?}: {found:x?}"
            );
        }
    }

    #[test]
    fn this_very_process_is_understood() {
        let pid = std::process::id() as i32;
        let program = program(pid).expect("readable");
        let here = this_very_process_is_understood as *const () as u64;
        assert!(program.range.0 <= here && here < program.range.1);
        let libraries = Libraries::of(pid, &program).expect("readable");
        let found = libraries
            .find("getpid", Some("GLIBC_2.2.5"))
            .expect("libc has it");
        assert_eq!(found.address, libc::getpid as *const () as u64);
        assert!(!found.indirect);
        assert_eq!(libraries.find("getpid", None), Some(found));
        assert_eq!(libraries.find("getpid", Some("GLIBC_9.9")), None);
        let copy = libraries.find("memcpy", None).expect("libc has it");
        assert!(copy.indirect, "glibc chooses one for the processor");
    }
}
