//! The named things of one build: functions with all their parts, variables, TLS variables, each
//! with keys under which the same thing is found in another build.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::debug_files::Build;
use super::image::SymbolKind;
use super::types::describe;

/// What a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntityKind {
    /// Code.
    Function,
    /// A variable or constant with a name.
    Object,
    /// A thread-local variable; its address is an offset into the TLS template.
    Tls,
    /// A function that chooses an implementation when the program starts.
    Ifunc,
}

/// Name of a thing, independent of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Kind.
    pub kind: EntityKind,
    /// Symbol, or for a static variable of a function its name in the source.
    pub name: String,
    /// Compilation unit, for what is not global.
    pub unit: Option<String>,
    /// The function that a static variable belongs to.
    pub function: Option<String>,
}

/// A named thing.
#[derive(Clone, Debug)]
pub struct Entity {
    /// Kind.
    pub kind: EntityKind,
    /// Address of its entry or first byte.
    pub addr: u64,
    /// Bytes (of the main part).
    pub size: u64,
    /// Other ranges of the same function (`.cold`).
    pub parts: Vec<(u64, u64)>,
    /// Symbol names, preferred one first.
    pub names: Vec<String>,
    /// Keys, one per name.
    pub keys: Vec<Key>,
    /// Compilation unit.
    pub unit: Option<String>,
    /// Entry in the debug information.
    pub die: Option<u32>,
    /// Layout of a variable's type.
    pub type_text: Option<String>,
    /// Can change while the program runs.
    pub writable: bool,
    /// No key of it names it alone.
    pub ambiguous: bool,
    /// A constant that the compiler made (`CSWTCH.12`, Rust's `anon.*`): it is what it contains.
    /// Not so a [class table](is_class_table).
    pub by_content: bool,
}

impl Entity {
    /// The name to show: demangled by the reader, with the unit for statics.
    #[must_use]
    pub fn label(&self) -> String {
        let name = demangle(&self.names[0]);
        match (&self.keys[0].unit, &self.keys[0].function) {
            (Some(unit), Some(function)) => format!("{name} ({unit}, in {})", demangle(function)),
            (Some(unit), None) => format!("{name} ({unit})"),
            _ => name,
        }
    }
}

/// C++ and Rust names as in the source; others unchanged.
#[must_use]
pub fn demangle(name: &str) -> String {
    addr2line::demangle_auto(name.into(), None).into_owned()
}

/// All named things of a build.
#[derive(Debug)]
pub struct Catalog {
    /// The things; the index is their id.
    pub entities: Vec<Entity>,
    /// Mapped ranges: start, end, id; sorted. TLS is not in it.
    regions: Vec<(u64, u64, usize)>,
    /// TLS ranges.
    tls: Vec<(u64, u64, usize)>,
}

impl Catalog {
    /// Groups the symbols of a build. `rename` maps its unit names to those of the other build.
    #[must_use]
    pub fn new(build: &Build, rename: &HashMap<String, String>) -> Self {
        let mut groups: BTreeMap<(bool, u64), Vec<usize>> = BTreeMap::new();
        for (index, symbol) in build.symbols.iter().enumerate() {
            let in_section = build.image.section_at(symbol.addr);
            let take = match symbol.kind {
                SymbolKind::Tls => true,
                SymbolKind::Label => symbol.size > 0 && in_section.is_some(),
                _ => in_section.is_some(),
            };
            if take {
                groups
                    .entry((symbol.kind == SymbolKind::Tls, symbol.addr))
                    .or_default()
                    .push(index);
            }
        }
        let mut entities = Vec::new();
        for ((is_tls, addr), mut members) in groups {
            members.sort_by_key(|i| {
                let s = &build.symbols[*i];
                (s.kind == SymbolKind::Label, !s.global, s.name.clone())
            });
            let first = &build.symbols[members[0]];
            let exec = build.image.section_at(addr).is_some_and(|s| s.exec);
            let kind = match first.kind {
                SymbolKind::Tls => EntityKind::Tls,
                SymbolKind::Ifunc => EntityKind::Ifunc,
                SymbolKind::Function => EntityKind::Function,
                SymbolKind::Object => EntityKind::Object,
                SymbolKind::Label if exec => EntityKind::Function,
                SymbolKind::Label => EntityKind::Object,
            };
            let die = match kind {
                EntityKind::Function | EntityKind::Ifunc => build.debug.subprogram_at(addr),
                EntityKind::Object => build.debug.variables_at(addr).next(),
                EntityKind::Tls => build.debug.thread_local_at(addr),
            };
            let unit_of_die = die
                .and_then(|d| build.debug.unit_name(d))
                .map(|u| unit_key(&u, rename));
            let mut keys = Vec::new();
            for index in &members {
                let symbol = &build.symbols[*index];
                let mut key = Key {
                    kind,
                    name: symbol.name.clone(),
                    unit: None,
                    function: None,
                };
                if !symbol.global {
                    key.unit = unit_of_die
                        .clone()
                        .or_else(|| symbol.file.as_deref().map(|f| unit_key(f, rename)));
                    if kind == EntityKind::Object || kind == EntityKind::Tls {
                        // LLVM splits a Rust static into `NAME.0`, `NAME.1` by field: there the number counts.
                        let split = die.is_none()
                            && kind == EntityKind::Object
                            && (symbol.name.starts_with("_ZN") || symbol.name.starts_with("_R"));
                        key.name = if split {
                            symbol.name.clone()
                        } else {
                            strip_number(&symbol.name).to_owned()
                        };
                        key.function = die
                            .and_then(|d| build.debug.enclosing_function(d))
                            .map(|f| f.to_string());
                    }
                }
                keys.push(key);
            }
            let is_variable = kind == EntityKind::Object || kind == EntityKind::Tls;
            let type_text = die.filter(|_| is_variable).and_then(|d| {
                let die = &build.debug.dies[d as usize];
                build
                    .debug
                    .through_origin(die, |d| d.ty)
                    .map(|t| describe(&build.debug, t, 0))
            });
            entities.push(Entity {
                kind,
                addr,
                size: members
                    .iter()
                    .map(|i| build.symbols[*i].size)
                    .max()
                    .unwrap_or(0),
                parts: Vec::new(),
                names: members
                    .iter()
                    .map(|i| build.symbols[*i].name.clone())
                    .collect(),
                keys,
                unit: unit_of_die,
                die,
                type_text,
                writable: !is_tls && build.image.section_at(addr).is_some_and(|s| s.writable),
                ambiguous: false,
                by_content: kind == EntityKind::Object
                    && !first.global
                    && die.is_none()
                    && first.size > 0
                    && !is_class_table(&first.name)
                    && build.image.section_at(addr).is_some_and(|s| !s.writable),
            });
        }
        size_unsized(&mut entities, build);
        join_cold_parts(&mut entities, build);
        mark_ambiguous(&mut entities);
        let mut catalog = Self {
            entities,
            regions: Vec::new(),
            tls: Vec::new(),
        };
        for (id, entity) in catalog.entities.iter().enumerate() {
            let target = if entity.kind == EntityKind::Tls {
                &mut catalog.tls
            } else {
                &mut catalog.regions
            };
            target.push((entity.addr, entity.addr + entity.size.max(1), id));
            target.extend(entity.parts.iter().map(|p| (p.0, p.0 + p.1, id)));
        }
        catalog.regions.sort_unstable();
        catalog.tls.sort_unstable();
        catalog
    }

    /// The thing that covers an address.
    #[must_use]
    pub fn at(&self, addr: u64) -> Option<usize> {
        find(&self.regions, addr)
    }

    /// The TLS variable that covers an offset of the template.
    #[must_use]
    pub fn tls_at(&self, offset: u64) -> Option<usize> {
        find(&self.tls, offset)
    }

    /// The thing that ends exactly at an address.
    #[must_use]
    pub fn ending_at(&self, addr: u64) -> Option<usize> {
        let at = self.regions.partition_point(|r| r.0 < addr);
        self.regions[..at]
            .iter()
            .rev()
            .take(2)
            .find(|r| r.1 == addr)
            .map(|r| r.2)
    }

    /// The next start of a named thing after an address.
    #[must_use]
    pub fn next_start(&self, addr: u64) -> Option<(u64, usize)> {
        let at = self.regions.partition_point(|r| r.0 <= addr);
        self.regions.get(at).map(|r| (r.0, r.2))
    }

    /// The end of the last named thing that starts before an address.
    #[must_use]
    pub fn previous_end(&self, addr: u64) -> Option<u64> {
        let at = self.regions.partition_point(|r| r.0 <= addr);
        self.regions[..at].iter().rev().take(4).map(|r| r.1).max()
    }

    /// Ids of the TLS variables.
    pub fn tls_ids(&self) -> impl Iterator<Item = usize> {
        self.tls.iter().map(|t| t.2)
    }
}

fn find(regions: &[(u64, u64, usize)], addr: u64) -> Option<usize> {
    let at = regions.partition_point(|r| r.0 <= addr);
    regions[..at]
        .iter()
        .rev()
        .take(4)
        .find(|r| addr < r.1)
        .map(|r| r.2)
}

/// Rust appends the code-generation unit to the path of a unit.
fn unit_key(unit: &str, rename: &HashMap<String, String>) -> String {
    let unit = unit.split("/@/").next().unwrap_or(unit);
    rename.get(unit).cloned().unwrap_or_else(|| unit.to_owned())
}

/// `count.1` is the compiler's name for a static variable `count` of a function.
fn strip_number(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((base, number))
            if !base.is_empty()
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            base
        }
        _ => name,
    }
}

/// Assembly functions have no size: they reach to the next symbol or the end of the section.
fn size_unsized(entities: &mut [Entity], build: &Build) {
    let starts: Vec<u64> = {
        let mut starts: Vec<u64> = entities
            .iter()
            .filter(|e| e.kind != EntityKind::Tls)
            .map(|e| e.addr)
            .collect();
        starts.sort_unstable();
        starts
    };
    for entity in entities
        .iter_mut()
        .filter(|e| e.size == 0 && e.kind != EntityKind::Tls)
    {
        let Some(section) = build.image.section_at(entity.addr) else {
            continue;
        };
        let next = starts
            .get(starts.partition_point(|s| *s <= entity.addr))
            .copied()
            .unwrap_or(u64::MAX);
        if entity.kind == EntityKind::Function {
            entity.size = next.min(section.addr + section.size) - entity.addr;
        }
    }
}

/// `f.cold` and `f.part.0.cold` belong to the function they were split from.
fn join_cold_parts(entities: &mut Vec<Entity>, build: &Build) {
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (id, entity) in entities
        .iter()
        .enumerate()
        .filter(|(_, e)| e.kind == EntityKind::Function)
    {
        for name in &entity.names {
            by_name.entry(name).or_default().push(id);
        }
    }
    let mut joins = Vec::new();
    for (id, entity) in entities
        .iter()
        .enumerate()
        .filter(|(_, e)| e.kind == EntityKind::Function)
    {
        let Some(parent_name) = cold_parent(&entity.names[0]) else {
            continue;
        };
        let Some(candidates) = by_name.get(parent_name) else {
            continue;
        };
        let by_debug = build.debug.subprogram_at(entity.addr).and_then(|die| {
            candidates
                .iter()
                .copied()
                .find(|c| build.debug.subprogram_at(entities[*c].addr) == Some(die))
        });
        let by_unit = || {
            let unit = &entity.keys[0].unit;
            let same: Vec<_> = candidates
                .iter()
                .copied()
                .filter(|c| {
                    entities[*c].keys[0].unit.is_none() || &entities[*c].keys[0].unit == unit
                })
                .collect();
            if same.len() == 1 { Some(same[0]) } else { None }
        };
        if let Some(parent) = by_debug.or_else(by_unit) {
            joins.push((id, parent));
        }
    }
    let mut gone = vec![false; entities.len()];
    for (id, parent) in joins {
        gone[id] = true;
        let part = (entities[id].addr, entities[id].size);
        entities[parent].parts.push(part);
    }
    let mut index = 0;
    entities.retain(|_| {
        index += 1;
        !gone[index - 1]
    });
}

fn cold_parent(name: &str) -> Option<&str> {
    let base = strip_number(name);
    base.strip_suffix(".cold")
}

fn mark_ambiguous(entities: &mut [Entity]) {
    let mut seen: HashMap<Key, usize> = HashMap::new();
    for entity in entities.iter() {
        for key in &entity.keys {
            *seen.entry(key.clone()).or_default() += 1;
        }
    }
    for entity in entities.iter_mut() {
        entity.ambiguous = entity.keys.iter().all(|k| seen[k] > 1);
    }
}

/// Which unit of the new build is which of the old: by path, then by the longest common end of
/// the path when that is unique.
#[must_use]
pub fn match_units(old: &Build, new: &Build) -> HashMap<String, String> {
    let units = |build: &Build| -> Vec<String> {
        let mut units: Vec<String> = build
            .debug
            .dies
            .iter()
            .filter(|d| d.tag == gimli::constants::DW_TAG_compile_unit)
            .filter_map(|d| {
                d.name
                    .as_deref()
                    .map(|n| n.split("/@/").next().unwrap_or(n).to_owned())
            })
            .collect();
        units.sort_unstable();
        units.dedup();
        units
    };
    let (old_units, new_units) = (units(old), units(new));
    let mut map = HashMap::new();
    for unit in new_units
        .iter()
        .filter(|u| old_units.binary_search(u).is_err())
    {
        let common = |other: &str| {
            unit.rsplit('/')
                .zip(other.rsplit('/'))
                .take_while(|(a, b)| a == b)
                .count()
        };
        let best = old_units
            .iter()
            .filter(|o| new_units.binary_search(o).is_err())
            .map(|o| common(o))
            .max()
            .unwrap_or(0);
        let mut matches = old_units
            .iter()
            .filter(|o| new_units.binary_search(o).is_err() && common(o) == best);
        if let (true, Some(only), None) = (best > 0, matches.next(), matches.next()) {
            map.insert(unit.clone(), only.clone());
        }
    }
    map
}

/// Which thing of the new build is which of the old.
#[derive(Debug)]
pub struct Pairing {
    /// For each new id the old one.
    pub to_old: Vec<Option<usize>>,
    /// For each old id the new one.
    pub to_new: Vec<Option<usize>>,
}

impl Pairing {
    /// Pairs by key; what is left, by the key without the compiler's hashes where that is unique.
    #[must_use]
    pub fn new(old: &Catalog, new: &Catalog) -> Self {
        let mut pairing = Self {
            to_old: vec![None; new.entities.len()],
            to_new: vec![None; old.entities.len()],
        };
        pairing.pass(old, new, |key| Some(key.clone()));
        pairing.pass(old, new, |key| {
            let name = rust_path(&key.name)?;
            Some(Key {
                name,
                ..key.clone()
            })
        });
        pairing
    }

    /// Pairs the variables of one name that a function of `functions` declares in several of its blocks: the first
    /// with the first, and so on, if both builds have as many, of the same types.
    pub fn pair_in_order(&mut self, old: &Catalog, new: &Catalog, functions: &BTreeSet<String>) {
        let named = |catalog: &Catalog, paired: &[Option<usize>]| {
            let mut groups: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
            for (id, entity) in catalog.entities.iter().enumerate() {
                let key = entity.keys.iter().find(|key| {
                    let function = key.function.as_ref();
                    function.is_some_and(|function| functions.contains(function))
                });
                if let Some(key) = key.filter(|_| entity.ambiguous && paired[id].is_none()) {
                    groups.entry(key.clone()).or_default().push(id);
                }
            }
            for group in groups.values_mut() {
                // Entries of the debug information are in the order of the source.
                group.sort_by_key(|id| catalog.entities[*id].die);
            }
            groups
        };
        let before = named(old, &self.to_new);
        for (key, after) in named(new, &self.to_old) {
            let pairs = before.get(&key).into_iter().flatten().zip(&after);
            let alike = pairs.clone().all(|(a, b)| {
                let (a, b) = (&old.entities[*a], &new.entities[*b]);
                a.die.is_some()
                    && b.die.is_some()
                    && (a.size, &a.type_text) == (b.size, &b.type_text)
            });
            if alike
                && before
                    .get(&key)
                    .is_some_and(|before| before.len() == after.len())
            {
                for (a, b) in pairs {
                    self.to_old[*b] = Some(*a);
                    self.to_new[*a] = Some(*b);
                }
            }
        }
    }

    fn pass(&mut self, old: &Catalog, new: &Catalog, key: impl Fn(&Key) -> Option<Key>) {
        let mut known: HashMap<Key, Vec<usize>> = HashMap::new();
        for (id, entity) in old
            .entities
            .iter()
            .enumerate()
            .filter(|(id, e)| self.to_new[*id].is_none() && !e.by_content)
        {
            for k in entity.keys.iter().filter_map(&key) {
                known.entry(k).or_default().push(id);
            }
        }
        let mut wanted: HashMap<Key, usize> = HashMap::new();
        for (_, entity) in new
            .entities
            .iter()
            .enumerate()
            .filter(|(id, e)| self.to_old[*id].is_none() && !e.by_content)
        {
            for k in entity.keys.iter().filter_map(&key) {
                *wanted.entry(k).or_default() += 1;
            }
        }
        for (id, entity) in new.entities.iter().enumerate() {
            if self.to_old[id].is_some() || entity.by_content {
                continue;
            }
            let found = entity.keys.iter().filter_map(&key).find_map(|k| {
                match known.get(&k).map(Vec::as_slice) {
                    Some([only]) if wanted[&k] == 1 && self.to_new[*only].is_none() => Some(*only),
                    _ => None,
                }
            });
            if let Some(old_id) = found {
                self.to_old[id] = Some(old_id);
                self.to_new[old_id] = Some(id);
            }
        }
    }
}

/// C++'s tables of a class (virtual functions, type information and its name). They have no debug
/// information, but are no mere contents: objects point to them and classes are told apart by them.
#[must_use]
pub fn is_class_table(symbol: &str) -> bool {
    ["_ZTV", "_ZTI", "_ZTS", "_ZTT", "_ZTC"]
        .iter()
        .any(|kind| symbol.starts_with(kind))
}

/// A Rust symbol without the hash that depends on the compiler's view of the crate.
pub fn rust_path(name: &str) -> Option<String> {
    let (path, hash) = name.strip_suffix('E')?.rsplit_once("17h")?;
    (name.starts_with("_ZN") && hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| path.to_owned())
}
