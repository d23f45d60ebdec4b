//! The C header that a transformer is written against: the types of both builds, their variables
//! and their functions.
//!
//! A type that is equal in both builds, with all that it refers to, is declared once as
//! `same_x`; any other as `old_x` and `new_x`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use super::ctypes::{CLOSE, CTypes, Definition, OPEN, identifier, tags_in};
use crate::dsu::catalog::{EntityKind, rust_path};
use crate::dsu::meaning::{Pair, Side};
use crate::dsu::types::{TypeChange, TypeChangeKind};

/// `mvedsua_abi.h`: what a transformer may call.
pub(super) const ABI: &str = include_str!("abi.h");

/// Prefix of the symbols by which a transformer names things of a build, such as `mvedsua.old.head`.
pub(super) const SYMBOL: &str = "mvedsua.";

/// The things of both builds under the names that C code uses for them.
pub(super) struct Names {
    /// Things of the old build.
    pub(super) old: BTreeMap<String, usize>,
    /// Things of the new build.
    pub(super) new: BTreeMap<String, usize>,
}

impl Names {
    /// Names all variables and functions. One whose name is not alone in both builds is named with
    /// its unit, such as `dict_c__count`.
    pub(super) fn new(pair: &Pair) -> Self {
        let mut count: HashMap<(bool, String), usize> = HashMap::new();
        let sides = [(false, &pair.old), (true, &pair.new)];
        for (which, side) in sides {
            for (_, short, _) in things(side) {
                *count.entry((which, short)).or_default() += 1;
            }
        }
        let named = |side: &Side| {
            things(side)
                .map(|(id, short, long)| {
                    let alone = [false, true]
                        .iter()
                        .all(|w| count.get(&(*w, short.clone())).is_none_or(|n| *n == 1));
                    (if alone { short } else { long }, id)
                })
                .collect()
        };
        Self {
            old: named(&pair.old),
            new: named(&pair.new),
        }
    }
}

/// `crate__module__NAME` of a Rust symbol, whose hash is another one in each build.
fn rust_name(symbol: &str) -> Option<String> {
    let path = rust_path(symbol)?;
    let mut rest = path.strip_prefix("_ZN")?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let length: usize = rest.get(..digits)?.parse().ok()?;
        parts.push(identifier(rest.get(digits..digits + length)?));
        rest = &rest[digits + length..];
    }
    Some(parts.join("__"))
}

/// Id, short name and name with unit of each thing that code may name.
fn things(side: &Side) -> impl Iterator<Item = (usize, String, String)> {
    side.catalog
        .entities
        .iter()
        .enumerate()
        .filter_map(|(id, entity)| {
            let usable = matches!(entity.kind, EntityKind::Object | EntityKind::Function)
                && !entity.ambiguous
                && !entity.by_content
                && entity.die.is_some();
            let key = &entity.keys[0];
            usable.then(|| {
                let name = rust_name(&key.name).unwrap_or_else(|| identifier(&key.name));
                let unit = key
                    .unit
                    .as_deref()
                    .map(|u| identifier(u.rsplit('/').next().unwrap_or(u)));
                let long = [
                    unit,
                    key.function.as_deref().map(identifier),
                    Some(name.clone()),
                ]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("__");
                (id, name, long)
            })
        })
}

/// Both builds' types, and which of them are equal.
pub(super) struct World<'a> {
    /// Types of the old build.
    pub(super) old: CTypes<'a>,
    /// Types of the new build.
    pub(super) new: CTypes<'a>,
    /// Definitions reached in the old build, by tag.
    pub(super) old_definitions: BTreeMap<String, Definition>,
    /// The same of the new build.
    pub(super) new_definitions: BTreeMap<String, Definition>,
    /// Tags that mean the same in both.
    pub(super) same: BTreeSet<String>,
}

impl<'a> World<'a> {
    pub(super) fn new(pair: &'a Pair, changes: &[TypeChange], names: &Names) -> Self {
        let (old, new) = (
            CTypes::new(&pair.old.build.debug),
            CTypes::new(&pair.new.build.debug),
        );
        let roots = |side: &Side, types: &CTypes<'_>, names: &BTreeMap<String, usize>| {
            let mut tags: BTreeSet<String> = changes
                .iter()
                .flat_map(|c| types.tags_named(&c.name))
                .collect();
            for id in names.values() {
                if let Some(text) = variable_type(side, types, *id) {
                    tags.extend(tags_in(&text));
                }
            }
            tags
        };
        let old_definitions = reach(&old, roots(&pair.old, &old, &names.old));
        let new_definitions = reach(&new, roots(&pair.new, &new, &names.new));
        let mut same: BTreeSet<String> = old_definitions
            .keys()
            .chain(new_definitions.keys())
            .cloned()
            .collect();
        // What only one build reaches is the same too if the other does not define it differently.
        let of = |types: &CTypes<'_>, known: &BTreeMap<String, Definition>, tag: &str| {
            known.get(tag).cloned().or_else(|| types.definition(tag))
        };
        same.retain(|tag| {
            let (a, b) = (
                of(&old, &old_definitions, tag),
                of(&new, &new_definitions, tag),
            );
            match (a, b) {
                (Some(a), Some(b)) => {
                    // Members carry keys of their own build: the text says it all.
                    a.text == b.text
                        && a.size == b.size
                        && (a.keyword != "enum" || old.enumerators(tag) == new.enumerators(tag))
                }
                (None, None) => true,
                _ => false,
            }
        });
        loop {
            let before = same.len();
            let now = same.clone();
            same.retain(|tag| {
                [&old_definitions, &new_definitions].iter().all(|known| {
                    known.get(tag).is_none_or(|d| {
                        tags_in(&d.text).iter().all(|t| {
                            now.contains(t)
                                || (old.definition(t).is_none() && new.definition(t).is_none())
                        })
                    })
                })
            });
            if same.len() == before {
                break;
            }
        }
        Self {
            old,
            new,
            old_definitions,
            new_definitions,
            same,
        }
    }

    /// `same_`, `old_` or `new_` before each tag.
    pub(super) fn prefixed(&self, text: &str, new: bool) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(OPEN) {
            out.push_str(before);
            let Some((tag, after)) = after.split_once(CLOSE) else {
                break;
            };
            let _ = write!(out, "{}{tag}", self.prefix(tag, new));
            rest = after;
        }
        out.push_str(rest);
        out
    }

    pub(super) fn prefix(&self, tag: &str, new: bool) -> &'static str {
        let nowhere = || self.old.definition(tag).is_none() && self.new.definition(tag).is_none();
        if self.same.contains(tag) || nowhere() {
            "same_"
        } else if new {
            "new_"
        } else {
            "old_"
        }
    }

    /// The tags of types whose layout has changed.
    pub(super) fn changed(&self, changes: &[TypeChange]) -> BTreeSet<String> {
        changes
            .iter()
            .filter(|c| c.kind != TypeChangeKind::NamesOnly)
            .flat_map(|c| self.old.tags_named(&c.name))
            .filter(|t| {
                self.old_definitions.contains_key(t) && self.new_definitions.contains_key(t)
            })
            .collect()
    }
}

/// All definitions that these tags lead to, themselves included.
pub(super) fn reach(types: &CTypes<'_>, roots: BTreeSet<String>) -> BTreeMap<String, Definition> {
    let mut found = BTreeMap::new();
    let mut queue: Vec<String> = roots.into_iter().collect();
    let mut seen: BTreeSet<String> = queue.iter().cloned().collect();
    while let Some(tag) = queue.pop() {
        let Some(definition) = types.definition(&tag) else {
            continue;
        };
        for next in tags_in(&definition.text) {
            if seen.insert(next.clone()) {
                queue.push(next);
            }
        }
        found.insert(tag, definition);
    }
    found
}

/// The type of a variable with tag marks, declared for the name `@`.
pub(super) fn variable_type(side: &Side, types: &CTypes<'_>, id: usize) -> Option<String> {
    let entity = &side.catalog.entities[id];
    if entity.kind != EntityKind::Object {
        return None;
    }
    let debug = &side.build.debug;
    let die = &debug.dies[entity.die? as usize];
    let ty = debug.through_origin(die, |d| d.ty)?;
    Some(types.declare(Some(ty), "@".into(), &mut BTreeSet::new(), 0))
}

/// Line that binds a transformer to the two builds that its header was made from.
pub(super) fn builds_line(pair: &Pair) -> String {
    format!(
        "{} {}",
        pair.old.build.image.build_id_hex(),
        pair.new.build.image.build_id_hex()
    )
}

/// The whole header.
pub(super) fn render(pair: &Pair, changes: &[TypeChange]) -> String {
    let names = Names::new(pair);
    let world = World::new(pair, changes, &names);
    let mut out = String::new();
    let file = |side: &Side| {
        side.build
            .image
            .path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let _ = write!(
        out,
        "/* Made by `mvedsua bundle header` from {} and {}. Do not edit. */\n#ifndef MVEDSUA_HEADER\n#define MVEDSUA_HEADER\n\n{ABI}\n",
        file(&pair.old),
        file(&pair.new)
    );
    let _ = write!(
        out,
        "__attribute__((used, section(\".mvedsua.builds\"))) static const char mvedsua_builds[] = \"{}\";\n\n",
        builds_line(pair)
    );
    types(&mut out, &world);
    copies(&mut out, &world, changes);
    for (new, side, types, names) in [
        (false, &pair.old, &world.old, &names.old),
        (true, &pair.new, &world.new, &names.new),
    ] {
        things_of(&mut out, &world, new, side, types, names);
    }
    out.push_str("#endif\n");
    out
}

fn types(out: &mut String, world: &World<'_>) {
    let mut forward: BTreeSet<(String, &str)> = BTreeSet::new();
    let mut enumerators = BTreeSet::new();
    for (new, definitions, types) in [
        (false, &world.old_definitions, &world.old),
        (true, &world.new_definitions, &world.new),
    ] {
        for (tag, definition) in definitions {
            let prefix = world.prefix(tag, new);
            if definition.keyword != "enum" {
                forward.insert((format!("{prefix}{tag}"), definition.keyword));
                continue;
            }
            let list: Vec<String> = types
                .enumerators(tag)
                .into_iter()
                .filter(|(name, _)| enumerators.insert(format!("{prefix}{name}")))
                .map(|(name, value)| format!("{prefix}{name} = {value}"))
                .collect();
            if !forward.contains(&(format!("{prefix}{tag}"), "enum")) && !list.is_empty() {
                let _ = writeln!(out, "enum {prefix}{tag} {{ {} }};", list.join(", "));
                forward.insert((format!("{prefix}{tag}"), "enum"));
            }
        }
    }
    for (tag, keyword) in forward.iter().filter(|f| f.1 != "enum") {
        let _ = writeln!(out, "{keyword} {tag};");
    }
    out.push('\n');
    let mut done = BTreeSet::new();
    for (new, definitions) in [
        (false, &world.old_definitions),
        (true, &world.new_definitions),
    ] {
        for tag in definitions.keys() {
            define(out, world, new, tag, &mut done);
        }
    }
}

fn define(out: &mut String, world: &World<'_>, new: bool, tag: &str, done: &mut BTreeSet<String>) {
    let definitions = if new {
        &world.new_definitions
    } else {
        &world.old_definitions
    };
    let Some(definition) = definitions.get(tag).filter(|d| d.keyword != "enum") else {
        return;
    };
    let name = format!("{}{tag}", world.prefix(tag, new));
    if !done.insert(name.clone()) {
        return;
    }
    for inner in &definition.inside {
        define(out, world, new, inner, done);
    }
    let keyword = definition.keyword;
    let _ = writeln!(out, "{};", world.prefixed(&definition.text, new));
    let _ = writeln!(
        out,
        "_Static_assert(sizeof({keyword} {name}) == {}, \"size of {name}\");",
        definition.size
    );
    for (member, offset) in &definition.offsets {
        let _ = writeln!(
            out,
            "_Static_assert(__builtin_offsetof({keyword} {name}, {member}) == {offset}, \"{member} of {name}\");"
        );
    }
    out.push('\n');
}

/// For each changed struct a function that copies what both versions have.
fn copies(out: &mut String, world: &World<'_>, changes: &[TypeChange]) {
    for tag in world.changed(changes) {
        let (old, new) = (&world.old_definitions[&tag], &world.new_definitions[&tag]);
        if old.keyword != "struct" || new.keyword != "struct" {
            continue;
        }
        let (mut lines, mut left) = (Vec::new(), Vec::new());
        for member in &new.members {
            let Some(name) = &member.name else {
                left.push("(unnamed)".to_owned());
                continue;
            };
            let other = old.members.iter().find(|m| m.name == member.name);
            match other {
                Some(other)
                    if member.bits.is_none()
                        && other.bits.is_none()
                        && other.text == member.text
                        && tags_in(&member.text).iter().all(|t| world.same.contains(t)) =>
                {
                    lines.push(format!(
                        "    memcpy(&to->{name}, &from->{name}, sizeof to->{name});"
                    ))
                }
                Some(other) if is_number(&other.text) && is_number(&member.text) => {
                    lines.push(format!("    to->{name} = from->{name};"))
                }
                _ => left.push(name.clone()),
            }
        }
        let left = if left.is_empty() {
            "nothing".into()
        } else {
            left.join(", ")
        };
        let (a, b) = (world.prefix(&tag, false), world.prefix(&tag, true));
        let _ = write!(
            out,
            "/* Copies what is the same in both, and zeroes the rest. Left to do: {left}. */\n\
             static inline void mvedsua_copy_{tag}(struct {b}{tag} *to, const struct {a}{tag} *from) {{\n\
             \x20   memset(to, 0, sizeof *to);\n    (void)from;\n{}{}}}\n\n",
            lines.join("\n"),
            if lines.is_empty() { "" } else { "\n" },
        );
    }
}

/// A type that C converts by assignment.
pub(super) fn is_number(text: &str) -> bool {
    let words = [
        "char", "short", "int", "long", "signed", "unsigned", "float", "double", "_Bool",
        "__int128",
    ];
    !text.trim().is_empty() && text.split_whitespace().all(|w| words.contains(&w))
}

fn things_of(
    out: &mut String,
    world: &World<'_>,
    new: bool,
    side: &Side,
    types: &CTypes<'_>,
    names: &BTreeMap<String, usize>,
) {
    let version = if new { "new" } else { "old" };
    for (name, id) in names {
        let symbol = format!("{SYMBOL}{version}.{name}");
        if let Some(text) = variable_type(side, types, *id) {
            let of = format!("mvedsua_type_{version}_{name}");
            let text = world.prefixed(&text, new).replacen('@', &of, 1);
            // The address is hidden from the compiler, which would take two names for two objects.
            let _ = write!(
                out,
                "typedef {text};\nextern {of} mvedsua_at_{version}_{name} __asm__(\"{symbol}\");\n\
                 static inline {of} *mvedsua_{version}_{name}(void) {{\n    {of} *at = &mvedsua_at_{version}_{name};\n    __asm__(\"\" : \"+r\"(at));\n    return at;\n}}\n"
            );
        }
    }
    for (name, id) in names {
        let entity = &side.catalog.entities[*id];
        let (EntityKind::Function, Some(die)) = (entity.kind, entity.die) else {
            continue;
        };
        let debug = &side.build.debug;
        let entry = &debug.dies[die as usize];
        let parameters = types.parameters(die, 0);
        let result = debug.through_origin(entry, |d| d.ty);
        let text = types.declare(
            result,
            format!("{version}_{name}({parameters})"),
            &mut BTreeSet::new(),
            0,
        );
        // A type that only a prototype names is not defined here.
        let known = tags_in(&text).iter().all(|t| {
            world.same.contains(t)
                || world.old_definitions.contains_key(t)
                || world.new_definitions.contains_key(t)
        });
        if known {
            let _ = writeln!(
                out,
                "extern {} __asm__(\"{SYMBOL}{version}.{name}\");",
                world.prefixed(&text, new)
            );
        }
    }
}
