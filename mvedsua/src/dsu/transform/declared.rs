//! Transformers that are declared and not written: a TOML file says what types cannot say, and the
//! traversal of all objects that variables lead to is generated, as C.
//!
//! Objects are found by type, from every variable, through structs, arrays and pointers. An object
//! whose layout has changed is made anew; any other is changed in place. `docs/transformers.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::ctypes::{CTypes, Member, keyword};
use super::declaration::{Declaration, StructRule, UnionRule, expression};
use super::header::{Names, World, is_number};
use crate::dsu::catalog::EntityKind;
use crate::dsu::dwarf::DieKey;
use crate::dsu::meaning::{Pair, Side};
use crate::dsu::types::TypeChange;
use gimli::constants as dw;

/// Generates the transformer.
///
/// # Errors
/// With what the declaration leaves open, or says wrongly.
pub(super) fn generate(text: &str, pair: &Pair, changes: &[TypeChange]) -> Result<String, String> {
    let declaration: Declaration = toml::from_str(text).map_err(|e| e.to_string())?;
    let names = Names::new(pair);
    let world = World::new(pair, changes, &names);
    let changed = world.changed(changes);
    let mut generator = Generator {
        moving: holders(&world, &changed),
        affected: BTreeSet::new(),
        world: &world,
        declaration: &declaration,
        kinds: BTreeSet::new(),
        wanted: Vec::new(),
        problems: BTreeSet::new(),
    };
    generator.affected = generator.find_affected();
    generator.check_names();
    generator.run(pair, &names, &changed)
}

/// Variables that are arrays of so many elements are not translated in one go.
const LONG: u64 = 1024;

/// The changed types and all that hold one by value: their objects are made anew.
fn holders(world: &World<'_>, changed: &BTreeSet<String>) -> BTreeSet<String> {
    let mut moving = changed.clone();
    loop {
        let more: Vec<String> = [&world.old_definitions, &world.new_definitions]
            .into_iter()
            .flatten()
            .filter(|(tag, d)| !moving.contains(*tag) && !d.inside.is_disjoint(&moving))
            .map(|(tag, _)| tag.clone())
            .collect();
        if more.is_empty() {
            return moving;
        }
        moving.extend(more);
    }
}

/// What a pointer leads to: a struct behind so many further pointers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) tag: String,
    /// 0: the struct itself; 1: a pointer to it, and so on.
    pub(super) depth: u32,
}

impl Kind {
    pub(super) fn name(&self) -> String {
        match self.depth {
            0 => self.tag.clone(),
            depth => format!("pointer{depth}_{}", self.tag),
        }
    }
}

pub(super) struct Generator<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) declaration: &'a Declaration,
    /// Types whose objects are made anew.
    pub(super) moving: BTreeSet<String>,
    /// Types that lead to one of them.
    affected: BTreeSet<String>,
    /// Kinds that something points to.
    pub(super) kinds: BTreeSet<Kind>,
    wanted: Vec<Kind>,
    problems: BTreeSet<String>,
}

/// How a place is written in C in both versions, and what is known of it beyond its type.
struct Place<'a> {
    to: String,
    from: String,
    /// For messages.
    label: String,
    count: Option<String>,
    target: Option<&'a str>,
    opaque: bool,
    union: Option<&'a UnionRule>,
    depth: u32,
}

impl<'a> Generator<'a> {
    pub(super) fn rule(&self, tag: &str) -> StructRule {
        self.declaration
            .structs
            .get(tag)
            .cloned()
            .unwrap_or_default()
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.problems.insert(text.into());
    }

    /// Tag of `struct x`, `union x` or `x`.
    fn tag_of(text: &str) -> String {
        let plain = text.trim().trim_end_matches('*').trim();
        plain.rsplit(' ').next().unwrap_or(plain).to_owned()
    }

    /// Tags that objects of a type lead to: by value or through pointers, never through functions.
    fn leads_to(&self, types: &CTypes<'_>, key: DieKey, found: &mut BTreeSet<String>, depth: u32) {
        let Some((index, die)) = types.strip(key).filter(|_| depth < 16) else {
            return;
        };
        match die.tag {
            dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type | dw::DW_TAG_array_type => {
                if let Some(target) = die.ty {
                    self.leads_to(types, target, found, depth + 1);
                }
            }
            _ if keyword(die).is_some_and(|k| k != "enum") => match types.tag(index) {
                Some(tag) => {
                    found.insert(tag);
                }
                None => {
                    for member in types.members(index).unwrap_or_default() {
                        self.leads_to(types, member.key, found, depth + 1);
                    }
                }
            },
            _ => {}
        }
    }

    fn find_affected(&self) -> BTreeSet<String> {
        let mut edges: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
        for (tag, definition) in &self.world.old_definitions {
            let mut targets = BTreeSet::new();
            for member in &definition.members {
                self.leads_to(&self.world.old, member.key, &mut targets, 0);
            }
            if let Some(rule) = self.declaration.structs.get(tag) {
                targets.extend(rule.r#as.values().map(|t| Self::tag_of(t)));
            }
            edges.insert(tag, targets);
        }
        let mut affected = self.moving.clone();
        loop {
            let more: Vec<String> = edges
                .iter()
                .filter(|(tag, targets)| {
                    !affected.contains(**tag) && !targets.is_disjoint(&affected)
                })
                .map(|(tag, _)| (*tag).clone())
                .collect();
            if more.is_empty() {
                return affected;
            }
            affected.extend(more);
        }
    }

    /// Every name in the file must be one of the program.
    fn check_names(&mut self) {
        let mut problems = Vec::new();
        for (tag, rule) in &self.declaration.structs {
            let Some(old) = self.world.old_definitions.get(tag) else {
                problems.push(format!("the old build has no struct {tag}"));
                continue;
            };
            let new = self.world.new_definitions.get(tag);
            let has = |members: Option<&Vec<Member>>, name: &str| {
                members.is_some_and(|m| m.iter().any(|m| m.name.as_deref() == Some(name)))
            };
            let old_names = (rule.drop.iter())
                .chain(rule.rename.values())
                .chain(rule.count.keys())
                .chain(rule.r#as.keys())
                .chain(rule.opaque.iter())
                .chain(rule.union.keys());
            for name in old_names.filter(|n| !has(Some(&old.members), n)) {
                problems.push(format!("the old struct {tag} has no field {name}"));
            }
            for name in rule.default.keys().chain(rule.rename.keys()) {
                if !has(new.map(|n| &n.members), name) {
                    problems.push(format!("the new struct {tag} has no field {name}"));
                }
            }
            for target in rule.r#as.values() {
                let target = Self::tag_of(target);
                if !self.world.old_definitions.contains_key(&target) {
                    problems.push(format!("the old build has no struct {target}"));
                }
            }
        }
        self.problems.extend(problems);
    }

    fn run(
        mut self,
        pair: &Pair,
        names: &Names,
        changed: &BTreeSet<String>,
    ) -> Result<String, String> {
        let mut roots = String::new();
        for name in self.declaration.variable.keys() {
            if !names.old.contains_key(name) && !names.new.contains_key(name) {
                self.problem(format!("neither build has a variable {name}"));
            }
        }
        let mut known = String::new();
        for (name, new_id) in &names.new {
            let Some(old_id) = names.old.get(name) else {
                if let Some(value) = self
                    .declaration
                    .variable
                    .get(name)
                    .and_then(|v| v.value.as_ref())
                {
                    let _ = writeln!(roots, "    NEW({name}) = {};", expression(value));
                }
                continue;
            };
            let (Some(old), Some(new)) =
                (variable(&pair.old, *old_id), variable(&pair.new, *new_id))
            else {
                continue;
            };
            self.root(name, old, new, &mut roots, &mut known);
        }
        let mut functions = String::new();
        while let Some(kind) = self.wanted.pop() {
            self.function(&kind, &mut functions);
        }
        let handled: BTreeSet<&String> = changed
            .iter()
            .filter(|tag| self.kinds.iter().any(|k| k.depth == 0 && k.tag == **tag))
            .collect();
        if !self.problems.is_empty() {
            let all: Vec<String> = self.problems.iter().map(|p| format!("  {p}")).collect();
            return Err(format!("it leaves something open:\n{}", all.join("\n")));
        }
        Ok(self.text(&functions, &known, &roots, &handled))
    }

    fn root(
        &mut self,
        name: &str,
        old: DieKey,
        new: DieKey,
        roots: &mut String,
        known: &mut String,
    ) {
        let rule = self.declaration.variable.get(name);
        let mut tags = BTreeSet::new();
        self.leads_to(&self.world.old, old, &mut tags, 0);
        tags.extend(rule.and_then(|r| r.r#as.as_deref()).map(Self::tag_of));
        if let Some(value) = rule.and_then(|r| r.value.as_ref()) {
            let _ = writeln!(roots, "    NEW({name}) = {};", expression(value));
            return;
        }
        if tags.is_disjoint(&self.affected) || rule.is_some_and(|r| r.opaque) {
            return;
        }
        // Elements of an array of structs may be pointed to one by one.
        let elements = self
            .world
            .old
            .strip(old)
            .filter(|(_, die)| die.tag == dw::DW_TAG_array_type)
            .and_then(|(_, die)| self.world.old.strip(die.ty?))
            .is_some_and(|(_, die)| keyword(die).is_some());
        let _ = if elements {
            writeln!(
                known,
                "    for (unsigned long i = 0; i < sizeof OLD({name}) / sizeof OLD({name})[0]; i++)\n        mvedsua_moved(&OLD({name})[i], &NEW({name})[i], sizeof OLD({name})[0]);"
            )
        } else {
            writeln!(
                known,
                "    mvedsua_moved(&OLD({name}), &NEW({name}), sizeof OLD({name}));"
            )
        };
        let place = Place {
            to: format!("NEW({name})"),
            from: format!("OLD({name})"),
            label: format!("variable {name}"),
            count: rule.and_then(|r| r.count.clone()),
            target: rule.and_then(|r| r.r#as.as_deref()),
            opaque: false,
            union: None,
            depth: 1,
        };
        if let Some((kind, length)) = self.long_array(old, new, &place) {
            let _ = writeln!(
                roots,
                "    push_all(KIND_{}, (void *)&NEW({name})[0], (void *)&OLD({name})[0], {length});",
                kind.name()
            );
            self.want(kind);
            return;
        }
        self.translate(old, new, &place, roots);
    }

    /// A variable that is an array of many structs, or of pointers to such: what its elements are, and how
    /// many. The traversal comes to it piece by piece.
    fn long_array(&mut self, old: DieKey, new: DieKey, place: &Place<'_>) -> Option<(Kind, u64)> {
        let (old_index, old_die) = self.world.old.strip(old)?;
        let (new_index, new_die) = self.world.new.strip(new)?;
        let array = dw::DW_TAG_array_type;
        if (old_die.tag, new_die.tag) != (array, array) {
            return None;
        }
        let dimensions = self.world.old.dimensions(old_index);
        let [length] = dimensions[..] else {
            return None;
        };
        if length < LONG || dimensions != self.world.new.dimensions(new_index) {
            return None;
        }
        let (x_index, x) = self.world.old.strip(old_die.ty?)?;
        let (y_index, y) = self.world.new.strip(new_die.ty?)?;
        if x.tag != y.tag {
            return None;
        }
        if x.tag == dw::DW_TAG_pointer_type {
            // Elements that lead to arrays have their counts in the code that is generated for them.
            if place.count.is_some() {
                return None;
            }
            let target = self.pointee(x.ty, place)?;
            return Some((
                Kind {
                    depth: target.depth + 1,
                    ..target
                },
                length,
            ));
        }
        keyword(x).filter(|k| *k == "struct" || *k == "class")?;
        let tag = self.world.old.tag(x_index)?;
        let same = self.world.new.tag(y_index).as_ref() == Some(&tag);
        (same && self.affected.contains(&tag)).then_some((Kind { tag, depth: 0 }, length))
    }

    fn want(&mut self, kind: Kind) {
        if self.kinds.insert(kind.clone()) {
            self.wanted.push(kind);
        }
    }

    /// Statements that bring one place from its old to its new form.
    fn translate(&mut self, old: DieKey, new: DieKey, place: &Place<'_>, out: &mut String) {
        let (Some((old_index, old_die)), Some((new_index, new_die))) =
            (self.world.old.strip(old), self.world.new.strip(new))
        else {
            return;
        };
        let indent = "    ".repeat(place.depth as usize);
        let (to, from) = (&place.to, &place.from);
        let copy = format!(
            "{indent}if ((void *)&{to} != (void *)&{from}) __builtin_memcpy(&{to}, &{from}, sizeof {to});\n"
        );
        let same_tag = old_die.tag == new_die.tag;
        match old_die.tag {
            dw::DW_TAG_array_type if same_tag => {
                let mut tags = BTreeSet::new();
                self.leads_to(&self.world.old, old, &mut tags, 0);
                let (a, b) = (
                    self.world.old.dimensions(old_index),
                    self.world.new.dimensions(new_index),
                );
                if tags.is_disjoint(&self.affected) && a == b {
                    out.push_str(&copy);
                    return;
                }
                let (Some(x), Some(y)) = (old_die.ty, new_die.ty) else {
                    return;
                };
                if a.len() != 1 || b.len() != 1 || a[0] == 0 || b[0] < a[0] {
                    return self.problem(format!(
                        "{}: this array cannot be translated by itself; give its new value with default, or write the transformer in C",
                        place.label
                    ));
                }
                let i = format!("i{}", place.depth);
                let _ = writeln!(
                    out,
                    "{indent}for (unsigned long {i} = 0; {i} < {}; {i}++) {{",
                    a[0]
                );
                let inner = Place {
                    to: format!("{to}[{i}]"),
                    from: format!("{from}[{i}]"),
                    label: place.label.clone(),
                    count: place.count.clone(),
                    target: place.target,
                    opaque: place.opaque,
                    union: place.union,
                    depth: place.depth + 1,
                };
                self.translate(x, y, &inner, out);
                let _ = writeln!(out, "{indent}}}");
            }
            dw::DW_TAG_pointer_type if same_tag => {
                let kind = self.pointee(old_die.ty, place);
                match kind {
                    Some(kind) => {
                        let count = place.count.clone().unwrap_or_else(|| "1".into());
                        let name = kind.name();
                        self.want(kind);
                        let _ =
                            writeln!(out, "{indent}{to} = visit(KIND_{name}, {from}, {count});");
                    }
                    None => out.push_str(&copy),
                }
            }
            dw::DW_TAG_union_type if same_tag => {
                self.union(old_index, new_index, place, &copy, out)
            }
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type if same_tag => {
                match (self.world.old.tag(old_index), self.world.new.tag(new_index)) {
                    (Some(tag), Some(other)) if tag == other => {
                        if self.affected.contains(&tag) {
                            self.want(Kind {
                                tag: tag.clone(),
                                depth: 0,
                            });
                            let _ = writeln!(out, "{indent}copy_{tag}(&{to}, &{from});");
                        } else {
                            out.push_str(&copy);
                        }
                    }
                    (None, None) => self.fields(old_index, new_index, "", place, out),
                    _ => self.problem(format!("{}: it has become another struct", place.label)),
                }
            }
            _ => {
                let text = |types: &CTypes<'_>, key| {
                    types.declare(Some(key), String::new(), &mut BTreeSet::new(), 0)
                };
                let (a, b) = (text(&self.world.old, old), text(&self.world.new, new));
                if is_number(&a) && is_number(&b) {
                    let _ = writeln!(out, "{indent}{to} = {from};");
                } else if a == b && same_tag {
                    out.push_str(&copy);
                } else {
                    self.problem(format!(
                        "{}: its type has changed; give its new value with default",
                        place.label
                    ));
                }
            }
        }
    }

    /// What a pointer leads to, if that must be visited.
    fn pointee(&mut self, target: Option<DieKey>, place: &Place<'_>) -> Option<Kind> {
        if place.opaque {
            return None;
        }
        if let Some(named) = place.target {
            let tag = Self::tag_of(named);
            let depth = named.matches('*').count() as u32;
            return self.affected.contains(&tag).then_some(Kind { tag, depth });
        }
        let mut depth = 0;
        let mut key = target;
        loop {
            let Some((index, die)) = key.and_then(|k| self.world.old.strip(k)) else {
                self.problem(format!(
                    "{}: it is an untyped pointer; say what it points to with as, or that it is opaque",
                    place.label
                ));
                return None;
            };
            match die.tag {
                dw::DW_TAG_pointer_type => {
                    depth += 1;
                    key = die.ty;
                }
                _ if keyword(die).is_some_and(|k| k != "enum") => {
                    let tag = self.world.old.tag(index)?;
                    return self.affected.contains(&tag).then_some(Kind { tag, depth });
                }
                _ => return None,
            }
        }
    }

    fn union(&mut self, old: u32, new: u32, place: &Place<'_>, copy: &str, out: &mut String) {
        let tag = self.world.old.tag(old);
        let plain = tag
            .as_ref()
            .is_some_and(|t| !self.affected.contains(t) && !self.has_untyped(old))
            || (tag.is_none() && !self.leads_anywhere(old));
        if plain {
            out.push_str(copy);
            return;
        }
        let Some(rule) = place.union else {
            return self.problem(format!(
                "{}: it is a union that may hold pointers; say with union which member is in use, or write the transformer in C",
                place.label
            ));
        };
        out.push_str(copy);
        let indent = "    ".repeat(place.depth as usize);
        let _ = writeln!(out, "{indent}switch ({}) {{", rule.tag);
        let (a, b) = (
            self.world.old.members(old).unwrap_or_default(),
            self.world.new.members(new).unwrap_or_default(),
        );
        for (value, member) in &rule.cases {
            let find = |all: &[Member]| {
                all.iter()
                    .find(|m| m.name.as_deref() == Some(member.as_str()))
                    .map(|m| m.key)
            };
            let (Some(x), Some(y)) = (find(&a), find(&b)) else {
                self.problem(format!(
                    "{}: this union has no member {member}",
                    place.label
                ));
                continue;
            };
            let _ = writeln!(out, "{indent}case {value}:");
            let inner = Place {
                to: format!("{}.{member}", place.to),
                from: format!("{}.{member}", place.from),
                label: format!("{}.{member}", place.label),
                count: rule.count.get(member).cloned(),
                target: rule.r#as.get(member).map(String::as_str),
                opaque: rule.opaque.contains(member),
                union: None,
                depth: place.depth + 1,
            };
            self.translate(x, y, &inner, out);
            let _ = writeln!(out, "{indent}    break;");
        }
        let _ = writeln!(
            out,
            "{indent}default: mvedsua_fail(\"{}: a value of the tag that no case names\");\n{indent}}}",
            place.label
        );
    }

    fn leads_anywhere(&self, index: u32) -> bool {
        let mut tags = BTreeSet::new();
        for member in self.world.old.members(index).unwrap_or_default() {
            self.leads_to(&self.world.old, member.key, &mut tags, 0);
        }
        !tags.is_disjoint(&self.affected) || self.has_untyped(index)
    }

    fn has_untyped(&self, index: u32) -> bool {
        self.world
            .old
            .members(index)
            .unwrap_or_default()
            .iter()
            .any(|m| {
                self.world.old.strip(m.key).is_some_and(|(_, die)| {
                    die.tag == dw::DW_TAG_pointer_type
                        && die.ty.is_none_or(|t| self.world.old.strip(t).is_none())
                })
            })
    }

    /// Field by field; `outer` is the tag whose rule holds, or empty in an unnamed struct.
    fn fields(&mut self, old: u32, new: u32, outer: &str, place: &Place<'_>, out: &mut String) {
        let rule = self.rule(outer);
        let (Some(old_members), Some(new_members)) =
            (self.world.old.members(old), self.world.new.members(new))
        else {
            return self.problem(format!("{}: C cannot express this type", place.label));
        };
        let indent = "    ".repeat(place.depth as usize);
        let mut used: BTreeSet<Option<String>> = BTreeSet::new();
        for member in &new_members {
            let Some(name) = member.name.as_deref() else {
                self.unnamed(member, &old_members, &new_members, place, out);
                continue;
            };
            if let Some(value) = rule.default.get(name) {
                used.insert(Some(name.to_owned()));
                let _ = writeln!(out, "{indent}{}.{name} = {};", place.to, expression(value));
                continue;
            }
            let was = rule.rename.get(name).map_or(name, String::as_str);
            let Some(before) = old_members.iter().find(|m| m.name.as_deref() == Some(was)) else {
                self.problem(format!(
                    "{}.{name} is new: give it a value with default, or say with rename which field it was",
                    place.label
                ));
                continue;
            };
            used.insert(Some(was.to_owned()));
            if member.bits.is_some() || before.bits.is_some() {
                let _ = writeln!(out, "{indent}{}.{name} = {}.{was};", place.to, place.from);
                continue;
            }
            let within = |text: &String| {
                if old_members.iter().any(|m| m.name.as_ref() == Some(text)) {
                    format!("{}.{text}", place.from)
                } else {
                    text.clone()
                }
            };
            let union = rule.union.get(was).map(|u| UnionRule {
                tag: within(&u.tag),
                count: u
                    .count
                    .iter()
                    .map(|(m, c)| (m.clone(), within(c)))
                    .collect(),
                ..u.clone()
            });
            let inner = Place {
                to: format!("{}.{name}", place.to),
                from: format!("{}.{was}", place.from),
                label: format!("{}.{name}", place.label),
                count: rule.count.get(was).map(within),
                target: rule.r#as.get(was).map(String::as_str),
                opaque: rule.opaque.iter().any(|o| o == was),
                union: union.as_ref(),
                depth: place.depth,
            };
            self.translate(before.key, member.key, &inner, out);
        }
        for member in old_members.iter().filter(|m| m.name.is_some()) {
            let dropped = member.name.as_ref().is_some_and(|n| rule.drop.contains(n));
            if !used.contains(&member.name) && !dropped {
                self.problem(format!(
                    "{}.{} is gone: say so with drop, or with rename what it has become",
                    place.label,
                    member.name.as_deref().unwrap_or("?")
                ));
            }
        }
    }

    /// An unnamed struct or union in a struct: its members are the outer one's for C.
    fn unnamed(
        &mut self,
        member: &Member,
        old_members: &[Member],
        new_members: &[Member],
        place: &Place<'_>,
        out: &mut String,
    ) {
        let at = new_members
            .iter()
            .filter(|m| m.name.is_none())
            .position(|m| m == member);
        let before = at.and_then(|at| old_members.iter().filter(|m| m.name.is_none()).nth(at));
        let strip = |types: &CTypes<'_>, key| types.strip(key).map(|s| s.0);
        let (Some(x), Some(y)) = (
            before.and_then(|b| strip(&self.world.old, b.key)),
            strip(&self.world.new, member.key),
        ) else {
            return self.problem(format!(
                "{}: it has a new unnamed member; write the transformer in C",
                place.label
            ));
        };
        let first = self
            .world
            .new
            .members(y)
            .and_then(|m| m.into_iter().next()?.name);
        let is_union = self.world.old.debug.dies[x as usize].tag == dw::DW_TAG_union_type;
        match (is_union, before, first) {
            (true, Some(before), Some(first))
                if before.text == member.text && !self.leads_anywhere(x) =>
            {
                let size = self.world.new.size(member.key).unwrap_or(0);
                let indent = "    ".repeat(place.depth as usize);
                let _ = writeln!(
                    out,
                    "{indent}memmove(&{}.{first}, &{}.{first}, {size});",
                    place.to, place.from
                );
            }
            (false, ..) => self.fields(x, y, "", place, out),
            _ => self.problem(format!(
                "{}: it has an unnamed union that has changed or may hold pointers; write the transformer in C",
                place.label
            )),
        }
    }

    /// `copy_KIND(to, from)`.
    fn function(&mut self, kind: &Kind, out: &mut String) {
        let name = kind.name();
        if kind.depth > 0 {
            let inner = Kind {
                tag: kind.tag.clone(),
                depth: kind.depth - 1,
            };
            let target = inner.name();
            self.want(inner);
            let _ = write!(
                out,
                "static void copy_{name}(void **to, void **from) {{\n    *to = visit(KIND_{target}, *from, 1);\n}}\n\n"
            );
            return;
        }
        let tag = &kind.tag;
        let find = |types: &CTypes<'_>| {
            types
                .debug
                .dies
                .iter()
                .enumerate()
                .find_map(|(index, die)| {
                    let index = index as u32;
                    (keyword(die).is_some()
                        && !die.declaration
                        && types.tag(index).as_ref() == Some(tag))
                    .then_some(index)
                })
        };
        let (Some(old), Some(new)) = (find(&self.world.old), find(&self.world.new)) else {
            return self.problem(format!("struct {tag} is not in both builds"));
        };
        let mut body = String::new();
        let place = Place {
            to: "(*to)".into(),
            from: "(*from)".into(),
            label: format!("struct {tag}"),
            count: None,
            target: None,
            opaque: false,
            union: None,
            depth: 1,
        };
        if self
            .world
            .old_definitions
            .get(tag)
            .is_some_and(|d| d.keyword == "union")
        {
            self.problem(format!(
                "union {tag} is pointed to by itself, and nothing tells which member is in use; write the transformer in C"
            ));
        } else {
            self.fields(old, new, tag, &place, &mut body);
        }
        let (a, b) = (self.c_type(kind, false), self.c_type(kind, true));
        let _ = write!(
            out,
            "static void copy_{name}({b} *to, {a} *from) {{\n    (void)to, (void)from;\n{body}}}\n\n"
        );
    }
}

fn variable(side: &Side, id: usize) -> Option<DieKey> {
    let entity = &side.catalog.entities[id];
    if entity.kind != EntityKind::Object || !entity.writable {
        return None;
    }
    let debug = &side.build.debug;
    debug.through_origin(&debug.dies[entity.die? as usize], |d| d.ty)
}
