//! Structural comparison of the named types of two builds.
//!
//! A type is described by its layout: size, members with offset and type, dimensions. Pointers name
//! what they point to and go no deeper, so that a change is reported where it was made. Names of
//! parameters, `const`, and `int x[0]` against `int x[]` do not count.

use std::collections::{BTreeMap, BTreeSet};

use gimli::constants as dw;
use serde::{Deserialize, Serialize};

use super::dwarf::{DebugInfo, Die, DieKey};

/// What changed in a named type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TypeChangeKind {
    /// Objects of the type look different in memory: the update needs a transformer for it.
    Layout,
    /// An enumerator that both builds have stands for another number.
    Renumbered,
    /// Only names of members or new enumerators: objects stay valid.
    NamesOnly,
}

/// A named type that differs between the builds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeChange {
    /// Kind and name, such as `struct client`.
    pub name: String,
    /// How it changed.
    pub kind: TypeChangeKind,
    /// Layout in the old build; several lines when units disagree.
    pub old: String,
    /// Layout in the new build.
    pub new: String,
}

/// Layouts by name: a set, since two units may have private types of the same name.
#[derive(Debug, Default)]
pub struct TypeTable {
    layouts: BTreeMap<String, BTreeSet<Layout>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Layout {
    /// Without member names.
    shape: Vec<String>,
    /// With them, for people; one item per member.
    text: Vec<String>,
    /// Enumerators.
    values: Vec<(String, i64)>,
}

impl TypeTable {
    /// Collects every complete named type.
    #[must_use]
    pub fn new(debug: &DebugInfo) -> Self {
        let mut table = Self::default();
        for (index, die) in debug.dies.iter().enumerate() {
            let index = index as u32;
            let (name, target, target_index) = match die.tag {
                dw::DW_TAG_structure_type
                | dw::DW_TAG_class_type
                | dw::DW_TAG_union_type
                | dw::DW_TAG_enumeration_type => {
                    let Some(name) = type_name(debug, index) else {
                        continue;
                    };
                    (name, die, index)
                }
                // `typedef struct { ... } name` names a type that has no other name.
                dw::DW_TAG_typedef => {
                    let (Some(name), Some((target_index, target))) =
                        (&die.name, die.ty.and_then(|t| debug.get(t)))
                    else {
                        continue;
                    };
                    if target.name.is_some() || keyword(target).is_none() {
                        continue;
                    }
                    (
                        format!("{} (typedef) {name}", keyword(target).unwrap_or("type")),
                        target,
                        target_index,
                    )
                }
                _ => continue,
            };
            if target.declaration {
                continue;
            }
            let layout = layout(debug, target_index);
            table.layouts.entry(name).or_default().insert(layout);
        }
        table
    }

    /// Types that both builds have and that differ.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<TypeChange> {
        let mut changes = Vec::new();
        for (name, old_layouts) in &self.layouts {
            let Some(new_layouts) = new.layouts.get(name) else {
                continue;
            };
            if new_layouts.is_subset(old_layouts) {
                continue;
            }
            let shapes = |set: &BTreeSet<Layout>| {
                set.iter().map(|l| l.shape.clone()).collect::<BTreeSet<_>>()
            };
            let kind = if !shapes(new_layouts).is_subset(&shapes(old_layouts)) {
                TypeChangeKind::Layout
            } else if renumbered(old_layouts, new_layouts) {
                TypeChangeKind::Renumbered
            } else {
                TypeChangeKind::NamesOnly
            };
            let (old_text, new_text) = difference(old_layouts, new_layouts);
            changes.push(TypeChange {
                name: name.clone(),
                kind,
                old: old_text,
                new: new_text,
            });
        }
        changes
    }
}

/// An enumerator keeps its number, except the last of the list, which often only counts the others.
fn renumbered(old: &BTreeSet<Layout>, new: &BTreeSet<Layout>) -> bool {
    let last = |set: &BTreeSet<Layout>| {
        set.iter()
            .filter_map(|l| l.values.last().map(|v| v.0.clone()))
            .collect::<BTreeSet<_>>()
    };
    let (last_old, last_new) = (last(old), last(new));
    old.iter().any(|o| {
        new.iter().any(|n| {
            o.values.iter().any(|(name, value)| {
                !(last_old.contains(name) && last_new.contains(name))
                    && n.values
                        .iter()
                        .any(|(other, number)| other == name && number != value)
            })
        })
    })
}

fn difference(old: &BTreeSet<Layout>, new: &BTreeSet<Layout>) -> (String, String) {
    let lines = |set: &BTreeSet<Layout>| -> Vec<String> {
        set.iter()
            .flat_map(|l| {
                l.text
                    .iter()
                    .cloned()
                    .chain(l.values.iter().map(|(n, v)| format!("{n} = {v}")))
            })
            .collect()
    };
    let (old, new) = (lines(old), lines(new));
    let only = |a: &[String], b: &[String]| {
        let rest: Vec<_> = a
            .iter()
            .filter(|l| !b.contains(l))
            .take(12)
            .cloned()
            .collect();
        if rest.is_empty() {
            "(nothing else)".to_owned()
        } else {
            rest.join("; ")
        }
    };
    (only(&old, &new), only(&new, &old))
}

fn keyword(die: &Die) -> Option<&'static str> {
    Some(match die.tag {
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type => "struct",
        dw::DW_TAG_union_type => "union",
        dw::DW_TAG_enumeration_type => "enum",
        _ => return None,
    })
}

/// Kind and qualified name.
fn type_name(debug: &DebugInfo, index: u32) -> Option<String> {
    let die = &debug.dies[index as usize];
    let mut parts = vec![die.name.as_deref()?.to_owned()];
    let mut parent = die.parent;
    while let Some(up) = parent {
        let outer = &debug.dies[up as usize];
        if matches!(
            outer.tag,
            dw::DW_TAG_namespace
                | dw::DW_TAG_structure_type
                | dw::DW_TAG_class_type
                | dw::DW_TAG_union_type
        ) {
            parts.push(outer.name.as_deref().unwrap_or("{anonymous}").to_owned());
        }
        parent = outer.parent;
    }
    parts.reverse();
    Some(format!("{} {}", keyword(die)?, parts.join("::")))
}

/// The layout of a type with the names of its members, one line each.
#[must_use]
pub fn layout_text(debug: &DebugInfo, index: u32) -> Vec<String> {
    let layout = layout(debug, index);
    let values = layout.values.iter().map(|(n, v)| format!("{n} = {v}"));
    layout.text.into_iter().chain(values).collect()
}

fn layout(debug: &DebugInfo, index: u32) -> Layout {
    let die = &debug.dies[index as usize];
    let mut shape = vec![format!(
        "{} of {} bytes",
        keyword(die).unwrap_or("type"),
        die.size.unwrap_or(0)
    )];
    let mut text = shape.clone();
    let mut values = Vec::new();
    members(debug, index, 0, &mut shape, &mut text, &mut values);
    Layout {
        shape,
        text,
        values,
    }
}

fn members(
    debug: &DebugInfo,
    index: u32,
    depth: u32,
    shape: &mut Vec<String>,
    text: &mut Vec<String>,
    values: &mut Vec<(String, i64)>,
) {
    for (child_index, child) in debug.children(index) {
        match child.tag {
            dw::DW_TAG_member | dw::DW_TAG_inheritance => {
                if child.declaration
                    || (child.offset.is_none() && child.bits.0.is_none() && child.ty.is_none())
                {
                    continue;
                }
                let bits = match child.bits {
                    (None, None) => String::new(),
                    (at, size) => format!(":{}+{}", at.unwrap_or(0), size.unwrap_or(0)),
                };
                let described = child
                    .ty
                    .map_or_else(|| "void".to_owned(), |t| describe(debug, t, depth));
                let at = child.offset.unwrap_or(0);
                shape.push(format!("+{at}{bits} {described}"));
                text.push(format!(
                    "+{at}{bits} {described} {}",
                    child.name.as_deref().unwrap_or("(unnamed)")
                ));
            }
            dw::DW_TAG_enumerator => {
                values.push((
                    child.name.as_deref().unwrap_or("?").to_owned(),
                    child.value.unwrap_or(0),
                ));
            }
            // Rust's enums: a discriminant and one variant per value.
            dw::DW_TAG_variant_part | dw::DW_TAG_variant if depth < 6 => {
                shape.push(format!("variant {:?}", child.value));
                text.push(format!("variant {:?}", child.value));
                members(debug, child_index, depth + 1, shape, text, values);
            }
            _ => {}
        }
    }
}

/// One line for a type as a member, parameter or variable has it.
#[must_use]
pub fn describe(debug: &DebugInfo, key: DieKey, depth: u32) -> String {
    let Some((index, die)) = debug.get(key) else {
        return "?".into();
    };
    if depth > 12 {
        return "...".into();
    }
    let inner = |next: u32| {
        die.ty
            .map_or_else(|| "void".to_owned(), |t| describe(debug, t, next))
    };
    match die.tag {
        dw::DW_TAG_const_type
        | dw::DW_TAG_volatile_type
        | dw::DW_TAG_restrict_type
        | dw::DW_TAG_atomic_type => inner(depth),
        dw::DW_TAG_typedef => {
            let target = die.ty.and_then(|t| debug.get(t));
            match target {
                Some((_, t)) if t.name.is_none() && keyword(t).is_some() => {
                    die.name.as_deref().unwrap_or("?").to_owned()
                }
                _ => inner(depth),
            }
        }
        dw::DW_TAG_pointer_type => format!("*{}", pointee(debug, die, depth + 1)),
        dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type => {
            format!("&{}", pointee(debug, die, depth + 1))
        }
        dw::DW_TAG_ptr_to_member_type => format!("member*{}", inner(depth + 1)),
        dw::DW_TAG_array_type => {
            let dims: String = debug
                .children(index)
                .filter(|(_, c)| c.tag == dw::DW_TAG_subrange_type)
                .map(|(_, c)| format!("[{}]", c.count.unwrap_or(0)))
                .collect();
            format!("{}{dims}", inner(depth + 1))
        }
        dw::DW_TAG_subroutine_type => {
            let params: Vec<String> = debug
                .children(index)
                .map(|(_, c)| {
                    c.ty.map_or_else(|| "...".to_owned(), |t| describe(debug, t, depth + 2))
                })
                .collect();
            format!("{}({})", inner(depth + 2), params.join(","))
        }
        dw::DW_TAG_base_type => format!("{}:{}", base_name(die), die.size.unwrap_or(0)),
        dw::DW_TAG_structure_type
        | dw::DW_TAG_class_type
        | dw::DW_TAG_union_type
        | dw::DW_TAG_enumeration_type => {
            match type_name(debug, index) {
                // The size of what lies inside is part of the outer layout; offsets show it.
                Some(name) => name,
                None => {
                    let layout = layout_at(debug, index, depth + 1);
                    format!("{{{}}}", layout.join("; "))
                }
            }
        }
        _ => die.name.as_deref().unwrap_or("?").to_owned(),
    }
}

fn layout_at(debug: &DebugInfo, index: u32, depth: u32) -> Vec<String> {
    let die = &debug.dies[index as usize];
    let (mut shape, mut text, mut values) = (
        vec![format!(
            "{} of {}",
            keyword(die).unwrap_or("type"),
            die.size.unwrap_or(0)
        )],
        Vec::new(),
        Vec::new(),
    );
    members(debug, index, depth, &mut shape, &mut text, &mut values);
    shape
}

/// What a pointer points to: by name, or only its kind; never by layout.
fn pointee(debug: &DebugInfo, die: &Die, depth: u32) -> String {
    let Some((index, target)) = die.ty.and_then(|t| debug.get(t)) else {
        return "void".into();
    };
    match keyword(target) {
        Some(word) => type_name(debug, index).unwrap_or_else(|| format!("{word} (unnamed)")),
        None => describe(debug, target.key, depth),
    }
}

fn base_name(die: &Die) -> &'static str {
    match gimli::DwAte(die.encoding) {
        dw::DW_ATE_boolean => "bool",
        dw::DW_ATE_float | dw::DW_ATE_complex_float => "float",
        dw::DW_ATE_signed | dw::DW_ATE_signed_char => "int",
        dw::DW_ATE_unsigned | dw::DW_ATE_unsigned_char => "uint",
        dw::DW_ATE_UTF => "char",
        _ => "base",
    }
}
