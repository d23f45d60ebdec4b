//! Where an address is in a program: symbol and, where debug information exists, file and line.

use std::path::PathBuf;

use super::inspect::{self, Mapping};

/// `function+0x12 (file.c:34) in /usr/bin/server`, as much of it as can be found out.
#[must_use]
pub fn describe(pid: i32, address: u64) -> String {
    let maps = inspect::maps(pid).unwrap_or_default();
    let Some(map) = maps
        .iter()
        .find(|map| map.start <= address && address < map.end)
    else {
        return format!("{address:#x}");
    };
    in_mapping(pid, map, address).unwrap_or_else(|| {
        let placed = map
            .name
            .is_empty()
            .then(|| super::version::describe(pid, address));
        if let Some(Some(placed)) = placed {
            return placed;
        }
        let name = if map.name.is_empty() {
            "anonymous memory"
        } else {
            &map.name
        };
        format!("{:#x} in {name}", address - map.start + map.offset)
    })
}

fn in_mapping(pid: i32, map: &Mapping, address: u64) -> Option<String> {
    if !map.name.starts_with('/') {
        return None;
    }
    // Through the mapping itself, so that a replaced or deleted file is still the right one.
    let path = PathBuf::from(format!(
        "/proc/{pid}/map_files/{:x}-{:x}",
        map.start, map.end
    ));
    let loader = addr2line::Loader::new(path).ok()?;
    let offset = address - map.start + map.offset;
    let probe = file_address(pid, map, offset)?;
    let symbol = loader.find_symbol(probe).map(ToOwned::to_owned);
    let line = loader
        .find_location(probe)
        .ok()
        .flatten()
        .and_then(|location| Some(format!(" ({}:{})", location.file?, location.line?)));
    Some(match symbol {
        Some(symbol) => format!("{symbol}{} in {}", line.unwrap_or_default(), map.name),
        None => format!("{offset:#x} in {}", map.name),
    })
}

/// File offset to the address space of the file's own headers.
fn file_address(pid: i32, map: &Mapping, offset: u64) -> Option<u64> {
    use object::{Object, ObjectSegment};
    let bytes = std::fs::read(format!(
        "/proc/{pid}/map_files/{:x}-{:x}",
        map.start, map.end
    ))
    .ok()?;
    let file = object::File::parse(&*bytes).ok()?;
    file.segments().find_map(|segment| {
        let (start, len) = segment.file_range();
        (start <= offset && offset < start + len).then(|| segment.address() + offset - start)
    })
}

/// Callers of the code at `rip`, innermost first, by the chain of frame pointers where the code
/// keeps one; the return address on top of the stack is tried first, for leaf functions.
#[must_use]
pub fn frames(pid: i32, rip: u64, rbp: u64, rsp: u64) -> Vec<String> {
    let maps = inspect::maps(pid).unwrap_or_default();
    let is_code = |address: u64| {
        maps.iter()
            .any(|map| map.execute && map.start <= address && address < map.end)
    };
    let mut found = Vec::new();
    let word = |address: u64| {
        let mut bytes = [0u8; 8];
        crate::sys::memory::read(pid, address, &mut bytes)
            .ok()
            .map(|()| u64::from_le_bytes(bytes))
    };
    if let Some(top) = word(rsp).filter(|top| is_code(*top) && *top != rip) {
        found.push(describe(pid, top));
    }
    let mut frame = rbp;
    while found.len() < 32 {
        let (Some(next), Some(caller)) = (word(frame), word(frame.wrapping_add(8))) else {
            break;
        };
        if !is_code(caller) || next <= frame {
            break;
        }
        found.push(describe(pid, caller));
        frame = next;
    }
    found
}
