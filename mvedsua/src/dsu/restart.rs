//! What must be known to enter a function afresh whose frame is still on a stack (`--control f=restart`):
//! where its parameters are at each of its instructions, from the DWARF of the old build.

use std::borrow::Cow;

use gimli::{AttributeValue as V, Operation, constants as dw};
use object::{Object as _, ObjectSection as _};
use serde::{Deserialize, Serialize};

use super::debug_files::{Build, read_file};

/// Integer and pointer parameters that the x86-64 calling convention passes in registers.
const MOST: usize = 6;
/// Largest debug file in bytes.
const LARGEST: u64 = 4 << 30;

type Slice<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;

/// Where the value of a parameter is, in terms of one frame. Registers have their DWARF numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In a register.
    Register(u16),
    /// In memory, so far from the frame's canonical address.
    Frame(i64),
    /// In memory, so far from what a register holds.
    Memory(u16, i64),
    /// What a register holds plus this.
    Sum(u16, i64),
    /// Always the same.
    Constant(u64),
}

/// One parameter of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name in the source.
    pub name: String,
    /// Bytes of its type: 1, 2, 4 or 8.
    pub size: u8,
    /// Address ranges of the old build in which its place is known.
    pub places: Vec<(u64, u64, Place)>,
}

/// A function that may be entered afresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Its name, as the redirections have it.
    pub name: String,
    /// Its entry in the old build.
    pub old_addr: u64,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
}

/// Reads the parameters of the function at `addr` of a build.
///
/// # Errors
/// Why the function cannot be entered afresh.
pub fn restart(build: &Build, name: &str, addr: u64) -> Result<Restart, String> {
    let index = build
        .debug
        .subprogram_at(addr)
        .ok_or("the debug information does not know it")?;
    let mut parameters = Vec::new();
    for (_, die) in build.debug.children(index) {
        if die.tag == dw::DW_TAG_unspecified_parameters {
            return Err("it takes a variable number of arguments".into());
        }
        if die.tag != dw::DW_TAG_formal_parameter {
            continue;
        }
        let name = build
            .debug
            .through_origin(die, |d| d.name.clone())
            .map_or_else(|| "?".to_owned(), |n| n.to_string());
        let ty = build.debug.through_origin(die, |d| d.ty);
        let size = ty.and_then(|ty| register_size(build, ty)).ok_or(format!(
            "its parameter {name} is no integer or pointer, so it cannot be given again"
        ))?;
        parameters.push(Parameter {
            name,
            size,
            places: Vec::new(),
        });
    }
    if parameters.len() > MOST {
        return Err(format!("it has more than {MOST} parameters"));
    }
    if !parameters.is_empty() {
        let key = build.debug.dies[index as usize].key;
        let places = read_places(build, key).map_err(|e| e.to_string())?;
        for (parameter, places) in parameters.iter_mut().zip(places) {
            parameter.places = places;
        }
    }
    Ok(Restart {
        name: name.to_owned(),
        old_addr: addr,
        parameters,
    })
}

/// Both versions take the same arguments, as far as registers can tell.
#[must_use]
pub fn same_arguments(old: &Restart, new: &Restart) -> bool {
    let sizes =
        |restart: &Restart| -> Vec<u8> { restart.parameters.iter().map(|p| p.size).collect() };
    sizes(old) == sizes(new)
}

/// Bytes of an integer, enumeration or pointer; `None` for anything else.
fn register_size(build: &Build, mut ty: u64) -> Option<u8> {
    for _ in 0..16 {
        let (_, die) = build.debug.get(ty)?;
        match die.tag {
            dw::DW_TAG_pointer_type
            | dw::DW_TAG_reference_type
            | dw::DW_TAG_rvalue_reference_type => return Some(8),
            dw::DW_TAG_base_type => {
                let float = [dw::DW_ATE_float.0, dw::DW_ATE_complex_float.0];
                return u8::try_from(die.size?)
                    .ok()
                    .filter(|size| *size <= 8 && !float.contains(&die.encoding));
            }
            dw::DW_TAG_enumeration_type => return u8::try_from(die.size?).ok(),
            _ => ty = die.ty?,
        }
    }
    None
}

type Places = Vec<(u64, u64, Place)>;

/// For each formal parameter of the subprogram with this key, where it is.
fn read_places(build: &Build, key: u64) -> Result<Vec<Places>, Box<dyn std::error::Error>> {
    let data = read_file(&build.debug_path, LARGEST)?;
    let file = object::File::parse(&*data)?;
    let sections = gimli::DwarfSections::load(|id| -> Result<Cow<'_, [u8]>, object::Error> {
        match file.section_by_name(id.name()) {
            Some(section) => section.uncompressed_data(),
            None => Ok(Cow::Borrowed(&[])),
        }
    })?;
    let dwarf = sections.borrow(|data| Slice::new(data, gimli::LittleEndian));
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let Some(base) = header.debug_info_offset().map(|o| o.0 as u64) else {
            continue;
        };
        let end = base + header.length_including_self() as u64;
        if !(base..end).contains(&key) {
            continue;
        }
        let unit = dwarf.unit(header)?;
        let mut tree = unit.entries_tree(Some(gimli::UnitOffset((key - base) as usize)))?;
        let root = tree.root()?;
        let whole: Vec<(u64, u64)> = {
            let mut ranges = dwarf.die_ranges(&unit, root.entry())?;
            let mut found = Vec::new();
            while let Some(range) = ranges.next()? {
                found.push((range.begin, range.end));
            }
            found
        };
        let base = match root.entry().attr_value(dw::DW_AT_frame_base) {
            Some(V::Exprloc(expression)) => match expression.operations(unit.encoding()).next()? {
                Some(Operation::Register { register }) => Some(register.0),
                _ => None,
            },
            _ => None,
        };
        let place = |expression, encoding| match (place(expression, encoding)?, base) {
            (Place::Frame(offset), Some(register)) => Some(Place::Memory(register, offset)),
            (place, _) => Some(place),
        };
        let mut all = Vec::new();
        let mut children = root.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != dw::DW_TAG_formal_parameter {
                continue;
            }
            let mut places = Vec::new();
            match entry.attr_value(dw::DW_AT_location) {
                Some(V::Exprloc(expression)) => {
                    if let Some(place) = place(expression, unit.encoding()) {
                        places.extend(whole.iter().map(|(start, end)| (*start, *end, place)));
                    }
                }
                Some(value) => {
                    if let Some(mut list) = dwarf.attr_locations(&unit, value)? {
                        while let Some(entry) = list.next()? {
                            if let Some(place) = place(entry.data, unit.encoding()) {
                                places.push((entry.range.begin, entry.range.end, place));
                            }
                        }
                    }
                }
                None => {}
            }
            all.push(places);
        }
        return Ok(all);
    }
    Ok(Vec::new())
}

/// The simple forms that compilers use for parameters; `None` for any other.
fn place(expression: gimli::Expression<Slice<'_>>, encoding: gimli::Encoding) -> Option<Place> {
    let mut operations = expression.operations(encoding);
    let first = operations.next().ok()??;
    let second = operations.next().ok()?;
    if operations.next().ok()?.is_some() {
        return None;
    }
    match (first, second) {
        (Operation::Register { register }, None) => Some(Place::Register(register.0)),
        (Operation::FrameOffset { offset }, None) => Some(Place::Frame(offset)),
        (
            Operation::RegisterOffset {
                register, offset, ..
            },
            None,
        ) => Some(Place::Memory(register.0, offset)),
        (
            Operation::RegisterOffset {
                register, offset, ..
            },
            Some(Operation::StackValue),
        ) => Some(Place::Sum(register.0, offset)),
        (Operation::UnsignedConstant { value }, Some(Operation::StackValue)) => {
            Some(Place::Constant(value))
        }
        (Operation::SignedConstant { value }, Some(Operation::StackValue)) => {
            Some(Place::Constant(value as u64))
        }
        _ => None,
    }
}
