//! The types of one build as C declarations.
//!
//! Tags stand in the text between [`OPEN`] and [`CLOSE`], without a prefix: only once both builds
//! are rendered is it known whether a type is the same in both. What C cannot express becomes
//! an array of bytes of the right size.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gimli::constants as dw;

use crate::dsu::dwarf::{DebugInfo, Die, DieKey};
use crate::dsu::types::layout_text;

/// Starts a tag in rendered text.
pub(super) const OPEN: char = '\u{1}';
/// Ends a tag in rendered text.
pub(super) const CLOSE: char = '\u{2}';

/// A definition, rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Definition {
    /// `struct`, `union` or `enum`.
    pub(super) keyword: &'static str,
    /// Everything from the keyword to the closing brace, without the semicolon.
    pub(super) text: String,
    /// Bytes.
    pub(super) size: u64,
    /// Members that can be named: name and offset.
    pub(super) offsets: Vec<(String, u64)>,
    /// Tags that must be complete before.
    pub(super) inside: BTreeSet<String>,
    /// Its members, when all of it could be expressed.
    pub(super) members: Vec<Member>,
}

/// One member of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Name in C; `None` for anonymous structs and unions.
    pub(super) name: Option<String>,
    /// Bytes from the start.
    pub(super) offset: u64,
    /// Bits from the start, and number of bits, of a bit field.
    pub(super) bits: Option<(u64, u64)>,
    /// Its type.
    pub(super) key: DieKey,
    /// Declaration with the tag marks, without its name: equal text means equal type.
    pub(super) text: String,
}

/// The types of one build.
pub(super) struct CTypes<'a> {
    /// Where they come from.
    pub(super) debug: &'a DebugInfo,
    /// Name that a typedef gives to an unnamed struct.
    typedefs: HashMap<u32, Arc<str>>,
    /// Tag of each complete definition.
    tags: HashMap<u32, String>,
    /// Definition that stands for a tag.
    chosen: BTreeMap<String, u32>,
}

impl<'a> CTypes<'a> {
    pub(super) fn new(debug: &'a DebugInfo) -> Self {
        let mut types = Self {
            debug,
            typedefs: HashMap::new(),
            tags: HashMap::new(),
            chosen: BTreeMap::new(),
        };
        for die in debug.dies.iter().filter(|d| d.tag == dw::DW_TAG_typedef) {
            if let (Some(name), Some((index, target))) =
                (&die.name, die.ty.and_then(|t| debug.get(t)))
                && keyword(target).is_some()
                && target.name.is_none()
            {
                types.typedefs.entry(index).or_insert_with(|| name.clone());
            }
        }
        // One name may stand for several types, private to their units: all but the first get a number.
        let mut known: HashMap<(String, Vec<String>), String> = HashMap::new();
        for (index, die) in debug.dies.iter().enumerate() {
            let index = index as u32;
            if keyword(die).is_none() || die.declaration {
                continue;
            }
            let Some(base) = types.base_tag(index) else {
                continue;
            };
            let next = types.chosen.len();
            let tag = known
                .entry((base.clone(), layout_text(debug, index)))
                .or_insert_with(|| {
                    if types.chosen.contains_key(&base) {
                        format!("{base}__{next}")
                    } else {
                        base
                    }
                })
                .clone();
            types.chosen.entry(tag.clone()).or_insert(index);
            types.tags.insert(index, tag);
        }
        types
    }

    fn base_tag(&self, index: u32) -> Option<String> {
        let die = &self.debug.dies[index as usize];
        let mut parts = vec![
            die.name
                .clone()
                .or_else(|| self.typedefs.get(&index).cloned())?
                .to_string(),
        ];
        let mut parent = die.parent;
        while let Some(up) = parent {
            let outer = &self.debug.dies[up as usize];
            let named = keyword(outer).is_some() || outer.tag == dw::DW_TAG_namespace;
            // C knows no scopes: a struct declared inside of another has a name of its own there.
            if let (true, Some(name)) = (named, &outer.name) {
                parts.push(name.to_string());
            }
            parent = outer.parent;
        }
        parts.reverse();
        Some(identifier(&parts.join("__")))
    }

    /// The tag of a struct, union or enum; for one that is only declared, the tag of its definition.
    pub(super) fn tag(&self, index: u32) -> Option<String> {
        self.tags
            .get(&index)
            .cloned()
            .or_else(|| self.base_tag(index))
    }

    /// Tags by which a type of this name (`struct x`, `struct (typedef) x`) is known.
    pub(super) fn tags_named(&self, name: &str) -> Vec<String> {
        let plain = name.split_once(' ').map_or(name, |n| n.1);
        // A namespace without a name is no part of a tag.
        let base = identifier(
            &plain
                .strip_prefix("(typedef) ")
                .unwrap_or(plain)
                .replace("{anonymous}::", "")
                .replace("::", "__"),
        );
        self.chosen
            .keys()
            .filter(|tag| {
                **tag == base
                    || tag
                        .strip_prefix(&base)
                        .and_then(|t| t.strip_prefix("__"))
                        .is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit()))
            })
            .cloned()
            .collect()
    }

    /// The definition behind a tag, rendered; `None` when there is only a declaration.
    pub(super) fn definition(&self, tag: &str) -> Option<Definition> {
        let index = *self.chosen.get(tag)?;
        let die = &self.debug.dies[index as usize];
        let keyword = keyword(die)?;
        let size = die.size.unwrap_or(0);
        let head = format!("{keyword} {OPEN}{tag}{CLOSE}");
        if keyword == "enum" {
            return Some(Definition {
                keyword,
                text: head,
                size,
                offsets: Vec::new(),
                inside: BTreeSet::new(),
                members: Vec::new(),
            });
        }
        let mut inside = BTreeSet::new();
        match self.body(index, &mut inside, 0) {
            Some((packed, body)) => {
                let members = self.members(index).unwrap_or_default();
                let mut offsets = Vec::new();
                self.offsets(index, 0, &mut offsets);
                let attribute = if packed {
                    " __attribute__((packed))"
                } else {
                    ""
                };
                Some(Definition {
                    keyword,
                    text: head.replacen(keyword, &format!("{keyword}{attribute}"), 1) + " " + &body,
                    size,
                    offsets,
                    inside,
                    members,
                })
            }
            None => Some(Definition {
                keyword,
                text: format!(
                    "{head} {{ /* not expressible in C */\n    unsigned char bytes[{size}];\n}}"
                ),
                size,
                offsets: Vec::new(),
                inside: BTreeSet::new(),
                members: Vec::new(),
            }),
        }
    }

    /// Enumerators of an enum.
    pub(super) fn enumerators(&self, tag: &str) -> Vec<(String, i64)> {
        let Some(index) = self.chosen.get(tag) else {
            return Vec::new();
        };
        self.debug
            .children(*index)
            .filter(|(_, d)| d.tag == dw::DW_TAG_enumerator)
            .filter_map(|(_, d)| Some((identifier(d.name.as_deref()?), d.value?)))
            .collect()
    }

    fn offsets(&self, index: u32, base: u64, found: &mut Vec<(String, u64)>) {
        for member in self.members(index).unwrap_or_default() {
            if member.bits.is_some() {
                continue;
            }
            match (member.name, self.strip(member.key)) {
                (Some(name), _) => found.push((name, base + member.offset)),
                (None, Some((inner, _))) => self.offsets(inner, base + member.offset, found),
                (None, None) => {}
            }
        }
    }

    /// The members of a struct or union; `None` when they are not like those of C.
    pub(super) fn members(&self, index: u32) -> Option<Vec<Member>> {
        let mut members = Vec::new();
        for (at, child) in self.debug.children(index) {
            match child.tag {
                dw::DW_TAG_variant_part | dw::DW_TAG_variant => return None,
                dw::DW_TAG_member | dw::DW_TAG_inheritance
                    if !child.declaration && child.ty.is_some() =>
                {
                    let key = child.ty?;
                    let offset = child.offset.unwrap_or(0);
                    let bits = child
                        .bits
                        .1
                        .map(|size| (offset * 8 + child.bits.0.unwrap_or(0), size));
                    let name = match (&child.name, child.tag) {
                        (Some(name), _) => Some(identifier(name)),
                        (None, dw::DW_TAG_inheritance) => Some(format!("base_{at}")),
                        _ => None,
                    };
                    let mut ignored = BTreeSet::new();
                    let text = self.declare(Some(key), String::new(), &mut ignored, 0);
                    members.push(Member {
                        name,
                        offset,
                        bits,
                        key,
                        text,
                    });
                }
                _ => {}
            }
        }
        // Rust keeps them in the order of the source, wherever the compiler has put them.
        members.sort_by_key(|member| member.bits.map_or(member.offset * 8, |bits| bits.0));
        Some(members)
    }

    /// `{ members }` of a struct or union, and whether it must be packed to get the right offsets.
    fn body(
        &self,
        index: u32,
        inside: &mut BTreeSet<String>,
        depth: u32,
    ) -> Option<(bool, String)> {
        let die = &self.debug.dies[index as usize];
        let size = die.size?;
        let members = self.members(index)?;
        let indent = "    ".repeat(depth as usize + 1);
        let close = "    ".repeat(depth as usize);
        let mut text = String::from("{\n");
        let mut line = |t: String| text.push_str(&format!("{indent}{t};\n"));
        if die.tag == dw::DW_TAG_union_type {
            for member in &members {
                line(self.member(member, inside, depth)?);
            }
            let natural = self.natural(index) == Some(size);
            if !natural {
                line(format!("unsigned char mvedsua_size[{size}]"));
            }
            return Some((!natural, format!("{text}{close}}}")));
        }
        if self.natural(index) == Some(size) {
            for member in &members {
                line(self.member(member, inside, depth)?);
            }
            return Some((false, format!("{text}{close}}}")));
        }
        let mut at = 0u64;
        let mut pads = 0;
        let mut pad_to = |at: &mut u64, to: u64, line: &mut dyn FnMut(String)| {
            let part = (8 - *at % 8) % 8;
            let part = part.min(to - *at);
            if part > 0 {
                line(format!("unsigned char : {part}"));
                *at += part;
            }
            let whole = (to - *at) / 8;
            if whole > 0 {
                pads += 1;
                line(format!("unsigned char mvedsua_pad{pads}[{whole}]"));
                *at += whole * 8;
            }
            if to > *at {
                line(format!("unsigned char : {}", to - *at));
                *at = to;
            }
        };
        for member in &members {
            let (start, length) = match member.bits {
                Some(bits) => bits,
                None => (member.offset * 8, self.size(member.key)? * 8),
            };
            if start < at {
                // Members that overlap: the tail of a C++ base class is used again.
                return None;
            }
            pad_to(&mut at, start, &mut line);
            line(self.member(member, inside, depth)?);
            at = start + length;
        }
        if at > size * 8 {
            return None;
        }
        pad_to(&mut at, size * 8, &mut line);
        Some((true, format!("{text}{close}}}")))
    }

    fn member(&self, member: &Member, inside: &mut BTreeSet<String>, depth: u32) -> Option<String> {
        let name = member.name.clone().unwrap_or_default();
        if let Some((_, size)) = member.bits {
            let (_, die) = self.strip(member.key)?;
            let text = if die.tag == dw::DW_TAG_enumeration_type {
                format!("unsigned int {name}")
            } else {
                self.declare(Some(member.key), name, inside, depth)
            };
            return Some(format!("{text} : {size}"));
        }
        Some(
            self.declare(Some(member.key), name, inside, depth)
                .trim_end()
                .to_owned(),
        )
    }

    /// Size that C gives to the members when nothing is packed, if their offsets are those of the build.
    fn natural(&self, index: u32) -> Option<u64> {
        let die = &self.debug.dies[index as usize];
        let (mut at, mut align) = (0u64, 1u64);
        for member in self.members(index)? {
            if member.bits.is_some() {
                return None;
            }
            let (size, own) = (self.size(member.key)?, self.align(member.key)?);
            align = align.max(own);
            if die.tag == dw::DW_TAG_union_type {
                at = at.max(size);
            } else {
                if at.next_multiple_of(own) != member.offset {
                    return None;
                }
                at = member.offset + size;
            }
        }
        Some(at.next_multiple_of(align))
    }

    /// Through typedefs and qualifiers to the type itself.
    pub(super) fn strip(&self, key: DieKey) -> Option<(u32, &'a Die)> {
        let mut key = key;
        for _ in 0..32 {
            let (index, die) = self.debug.get(key)?;
            match die.tag {
                dw::DW_TAG_typedef
                | dw::DW_TAG_const_type
                | dw::DW_TAG_volatile_type
                | dw::DW_TAG_restrict_type
                | dw::DW_TAG_atomic_type => key = die.ty?,
                _ => return Some((index, die)),
            }
        }
        None
    }

    /// Dimensions of an array; an open one counts as 0.
    pub(super) fn dimensions(&self, index: u32) -> Vec<u64> {
        self.debug
            .children(index)
            .filter(|(_, c)| c.tag == dw::DW_TAG_subrange_type)
            .map(|(_, c)| c.count.unwrap_or(0))
            .collect()
    }

    /// Bytes of a type.
    pub(super) fn size(&self, key: DieKey) -> Option<u64> {
        let (index, die) = self.strip(key)?;
        match die.tag {
            dw::DW_TAG_pointer_type
            | dw::DW_TAG_reference_type
            | dw::DW_TAG_rvalue_reference_type => Some(8),
            dw::DW_TAG_array_type => {
                let count: u64 = self.dimensions(index).iter().product();
                Some(self.size(die.ty?)? * count)
            }
            dw::DW_TAG_subroutine_type => None,
            dw::DW_TAG_ptr_to_member_type => Some(die.size.unwrap_or(8)),
            _ if die.declaration => {
                let tag = self.tag(index)?;
                let complete = self.chosen.get(&tag)?;
                self.debug.dies[*complete as usize].size
            }
            _ => die.size,
        }
    }

    fn align(&self, key: DieKey) -> Option<u64> {
        let (index, die) = self.strip(key)?;
        match die.tag {
            dw::DW_TAG_array_type => self.align(die.ty?),
            dw::DW_TAG_base_type => Some(match (gimli::DwAte(die.encoding), die.size?) {
                (dw::DW_ATE_complex_float, size) => size / 2,
                (_, size) => size.clamp(1, 16),
            }),
            dw::DW_TAG_enumeration_type => Some(die.size?.max(1)),
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
                let index = if die.declaration {
                    *self.chosen.get(&self.tag(index)?)?
                } else {
                    index
                };
                if self.natural(index) != self.debug.dies[index as usize].size {
                    return Some(1);
                }
                self.members(index)?
                    .iter()
                    .try_fold(1, |most, m| Some(self.align(m.key)?.max(most)))
            }
            _ => Some(8),
        }
    }

    /// `name` declared with a type. Tags that must be complete for it are added to `inside`.
    pub(super) fn declare(
        &self,
        key: Option<DieKey>,
        name: String,
        inside: &mut BTreeSet<String>,
        depth: u32,
    ) -> String {
        let Some((index, die)) = key.and_then(|k| self.strip(k)) else {
            return format!("void {name}");
        };
        if depth > 16 {
            return format!("void *{name}");
        }
        match die.tag {
            // Rust's `()`, and what points to one.
            dw::DW_TAG_base_type if die.size == Some(0) && name.contains('*') => {
                format!("void {name}")
            }
            dw::DW_TAG_base_type if die.size == Some(0) => format!("unsigned char {name}[0]"),
            dw::DW_TAG_base_type => format!("{} {name}", base_type(die)),
            dw::DW_TAG_pointer_type
            | dw::DW_TAG_reference_type
            | dw::DW_TAG_rvalue_reference_type => {
                let target = die.ty.and_then(|t| self.strip(t));
                let needs_parentheses = target.is_some_and(|(_, t)| {
                    matches!(t.tag, dw::DW_TAG_array_type | dw::DW_TAG_subroutine_type)
                });
                let unnamed =
                    target.is_some_and(|(i, t)| keyword(t).is_some() && self.tag(i).is_none());
                if unnamed {
                    return format!("void *{name}");
                }
                let inner = if needs_parentheses {
                    format!("(*{name})")
                } else {
                    format!("*{name}")
                };
                // What a pointer points to need not be complete.
                self.declare(die.ty, inner, &mut BTreeSet::new(), depth + 1)
            }
            dw::DW_TAG_array_type => {
                let dims: String = self
                    .dimensions(index)
                    .iter()
                    .map(|n| format!("[{n}]"))
                    .collect();
                self.declare(die.ty, format!("{name}{dims}"), inside, depth)
            }
            dw::DW_TAG_subroutine_type => {
                let parameters = self.parameters(index, depth + 1);
                self.declare(
                    die.ty,
                    format!("{name}({parameters})"),
                    &mut BTreeSet::new(),
                    depth + 1,
                )
            }
            dw::DW_TAG_enumeration_type => match (self.tag(index), die.size) {
                (Some(tag), Some(4)) if !die.declaration => {
                    format!("enum {OPEN}{tag}{CLOSE} {name}")
                }
                (_, size) => format!("{} {name}", integer(false, size.unwrap_or(4))),
            },
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
                let word = keyword(die).unwrap_or("struct");
                match self.tag(index) {
                    Some(tag) => {
                        let text = format!("{word} {OPEN}{tag}{CLOSE} {name}");
                        inside.insert(tag);
                        text
                    }
                    None => match self.body(index, inside, depth + 1) {
                        Some((packed, body)) => {
                            let attribute = if packed {
                                " __attribute__((packed))"
                            } else {
                                ""
                            };
                            format!("{word}{attribute} {body} {name}")
                        }
                        None => format!(
                            "struct {{ unsigned char bytes[{}]; }} {name}",
                            die.size.unwrap_or(0)
                        ),
                    },
                }
            }
            dw::DW_TAG_ptr_to_member_type => match die.size.unwrap_or(8) {
                16 => format!("long {name}[2]"),
                _ => format!("long {name}"),
            },
            _ => format!("void *{name}"),
        }
    }

    /// The parameters of a function or function type as C writes them between the parentheses.
    pub(super) fn parameters(&self, index: u32, depth: u32) -> String {
        let mut parts = Vec::new();
        for (_, child) in self.debug.children(index) {
            match child.tag {
                dw::DW_TAG_formal_parameter => {
                    let ty = self.debug.through_origin(child, |d| d.ty);
                    let text = self.declare(ty, String::new(), &mut BTreeSet::new(), depth);
                    parts.push(text.trim_end().to_owned());
                }
                dw::DW_TAG_unspecified_parameters if !parts.is_empty() => parts.push("...".into()),
                _ => {}
            }
        }
        if parts.is_empty() {
            "void".into()
        } else {
            parts.join(", ")
        }
    }
}

/// Tags in rendered text.
pub(super) fn tags_in(text: &str) -> BTreeSet<String> {
    text.split(OPEN)
        .skip(1)
        .filter_map(|part| Some(part.split_once(CLOSE)?.0.to_owned()))
        .collect()
}

pub(super) fn keyword(die: &Die) -> Option<&'static str> {
    Some(match die.tag {
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type => "struct",
        dw::DW_TAG_union_type => "union",
        dw::DW_TAG_enumeration_type => "enum",
        _ => return None,
    })
}

fn integer(signed: bool, size: u64) -> &'static str {
    match (signed, size) {
        (true, 1) => "signed char",
        (false, 1) => "unsigned char",
        (true, 2) => "short",
        (false, 2) => "unsigned short",
        (true, 8) => "long",
        (false, 8) => "unsigned long",
        (true, 16) => "__int128",
        (false, 16) => "unsigned __int128",
        (true, _) => "int",
        (false, _) => "unsigned int",
    }
}

fn base_type(die: &Die) -> String {
    let size = die.size.unwrap_or(4);
    match gimli::DwAte(die.encoding) {
        dw::DW_ATE_boolean if size == 1 => "_Bool".into(),
        dw::DW_ATE_float => match size {
            4 => "float",
            8 => "double",
            _ => "long double",
        }
        .into(),
        dw::DW_ATE_complex_float => match size {
            8 => "_Complex float",
            16 => "_Complex double",
            _ => "_Complex long double",
        }
        .into(),
        dw::DW_ATE_signed => integer(true, size).into(),
        dw::DW_ATE_signed_char if size == 1 => "char".into(),
        dw::DW_ATE_signed_char => integer(true, size).into(),
        _ => integer(false, size).into(),
    }
}

/// A name as C can have it.
pub(super) fn identifier(name: &str) -> String {
    let mut text: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if text.starts_with(|c: char| c.is_ascii_digit()) || text.is_empty() {
        text.insert(0, '_');
    }
    const KEYWORDS: &[&str] = &[
        "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else",
        "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long", "register",
        "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef",
        "union", "unsigned", "void", "volatile", "while", "asm", "typeof",
    ];
    if KEYWORDS.contains(&text.as_str()) {
        text.push('_');
    }
    text
}
