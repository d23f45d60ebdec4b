//! The transformer that was given to `bundle build`: what it takes care of, and how its names are bound.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::compile::{Source, compile};
use super::declared::generate;
use super::header::{Names, SYMBOL, World, builds_line, render};
use super::object_file::{Linked, Transformer};
use super::thread_local::{Touch, touched};
use crate::dsu::carry::Carrier;
use crate::dsu::catalog::EntityKind;
use crate::dsu::debug_files::read_file;
use crate::dsu::error::DsuError;
use crate::dsu::manifest::{Target, Transform};
use crate::dsu::meaning::Pair;
use crate::dsu::types::TypeChange;

/// Functions of the C library that make no system call but for memory.
const LIBRARY: &[&str] = &[
    "malloc",
    "calloc",
    "realloc",
    "free",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "malloc_usable_size",
    "memchr",
    "strlen",
    "strnlen",
    "strcmp",
    "strncmp",
    "strcpy",
    "strncpy",
    "strchr",
    "strrchr",
    "strstr",
];

/// Largest declaration, in bytes.
const LARGEST_DECLARATION: u64 = 1 << 20;

/// Room between the new image and the transformer.
const GAP: u64 = 1 << 16;

/// The C source of the transformer that is declared in a file.
///
/// # Errors
/// When the declaration leaves something open.
pub(in crate::dsu) fn declared_text(
    path: &Path,
    pair: &Pair,
    changes: &[TypeChange],
) -> Result<String, DsuError> {
    let bad = |reason: String| DsuError::BadDeclaration {
        path: path.into(),
        reason,
    };
    let text = String::from_utf8(read_file(path, LARGEST_DECLARATION)?)
        .map_err(|_| bad("it is no UTF-8 text".into()))?;
    generate(&text, pair, changes).map_err(bad)
}

/// A compiled transformer.
pub(in crate::dsu) struct Given {
    transformer: Transformer,
    names: Names,
    source: String,
    /// Variables of the new build that hold a changed type by value.
    holding: BTreeSet<usize>,
    /// Thread-local variables of the new build that have to do with a changed type.
    thread_local: BTreeMap<usize, Touch>,
    /// Old and new address and size of variables that were moved.
    moved: Vec<(u64, u64, u64)>,
}

impl Given {
    /// Compiles the transformer in a file.
    ///
    /// # Errors
    /// When it does not compile, or cannot be carried.
    pub(in crate::dsu) fn load(
        path: &Path,
        pair: &Pair,
        changes: &[TypeChange],
    ) -> Result<(Self, String), DsuError> {
        let bad = |reason: String| DsuError::BadTransformer {
            path: path.into(),
            reason,
        };
        let header = render(pair, changes);
        let generated = match path.extension() {
            Some(extension) if extension == "toml" => Some(declared_text(path, pair, changes)?),
            _ => None,
        };
        let source = match &generated {
            Some(text) => Source::Generated(path, text),
            None => Source::File(path),
        };
        let (object, warnings) = compile(&source, &header)?;
        let transformer = Transformer::parse(&object).map_err(bad)?;
        let wanted = builds_line(pair);
        if transformer.builds.as_ref().is_some_and(|b| *b != wanted) {
            return Err(bad(
                "it was written against the header of other builds: make the header again".into(),
            ));
        }
        let names = Names::new(pair);
        let world = World::new(pair, changes, &names);
        let holding = holding(pair, changes, &names, &world);
        let thread_local = touched(pair, &world, &world.changed(changes));
        let source = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok((
            Self {
                transformer,
                names,
                source,
                holding,
                thread_local,
                moved: Vec::new(),
            },
            warnings,
        ))
    }

    /// It takes care of objects of this type (`struct entry`).
    pub(in crate::dsu) fn handles(&self, name: &str) -> bool {
        let plain = name.replace("(typedef) ", "");
        let bare = plain.split_once(' ').map_or("", |p| p.1);
        self.transformer.handles.iter().any(|h| {
            [plain.as_str(), name, bare]
                .iter()
                .any(|name| h == name || (h.contains('*') && fits(h, name)))
        })
    }

    /// It names this thing of the new build, or what it was in the old one.
    pub(in crate::dsu) fn uses(&self, pair: &Pair, new: usize) -> bool {
        let old = pair.pairing.to_old[new];
        self.transformer.undefined().into_iter().any(|symbol| {
            let Some(name) = symbol.strip_prefix(SYMBOL) else {
                return false;
            };
            match name.split_once('.') {
                Some(("old", name)) => old.is_some() && self.names.old.get(name).copied() == old,
                Some(("new", name)) => self.names.new.get(name) == Some(&new),
                _ => false,
            }
        })
    }

    /// It names this thing of the old build, or what that becomes.
    pub(in crate::dsu) fn uses_old(&self, pair: &Pair, old: usize) -> bool {
        pair.pairing.to_new[old].is_some_and(|new| self.uses(pair, new))
    }

    /// The variable holds a changed type by value: the running one cannot be used by new code.
    pub(in crate::dsu) fn holds_changed(&self, new: usize) -> bool {
        self.holding.contains(&new)
    }

    /// What a thread-local variable of the new build has to do with a changed type.
    pub(in crate::dsu) fn thread_local(&self, new: usize) -> Option<&Touch> {
        self.thread_local.get(&new)
    }

    /// A variable was moved: pointers to it follow.
    pub(in crate::dsu) fn moved(&mut self, old: u64, new: u64, size: u64) {
        self.moved.push((old, new, size));
    }

    /// Binds it; what it needs of the new build is queued in the carrier.
    pub(in crate::dsu) fn link(&self, pair: &Pair, carrier: &mut Carrier<'_>) -> Option<Linked> {
        let image = &pair.new.build.image;
        let end = image
            .sections
            .iter()
            .map(|s| s.addr + s.size)
            .max()
            .unwrap_or(0);
        let base = end.next_multiple_of(GAP) + GAP;
        let linked = self.transformer.link(base, &mut |name, called| {
            self.resolve(pair, carrier, name, called)
        });
        match linked {
            Ok(linked) => Some(linked),
            Err(reason) => {
                carrier.block("E413", self.source.clone(), reason);
                None
            }
        }
    }

    fn resolve(
        &self,
        pair: &Pair,
        carrier: &mut Carrier<'_>,
        symbol: &str,
        called: bool,
    ) -> Result<Target, String> {
        let new = |carrier: &mut Carrier<'_>, id: usize| {
            let entity = &pair.new.catalog.entities[id];
            carrier
                .reach(&self.source, entity.addr, called)
                .ok_or_else(|| format!("{} cannot be bound", entity.label()))
        };
        let missing = |which: &str, name: &str| format!("the {which} build has no {name}");
        let version = symbol.strip_prefix(SYMBOL).and_then(|n| n.split_once('.'));
        match version {
            Some(("old", name)) => {
                let id = self
                    .names
                    .old
                    .get(name)
                    .ok_or_else(|| missing("old", name))?;
                return Ok(Target::Old(pair.old.catalog.entities[*id].addr));
            }
            Some(("new", name)) => {
                let id = self
                    .names
                    .new
                    .get(name)
                    .ok_or_else(|| missing("new", name))?;
                return new(carrier, *id);
            }
            _ => {}
        }
        let function = self
            .names
            .new
            .get(symbol)
            .filter(|id| pair.new.catalog.entities[**id].kind == EntityKind::Function);
        if let Some(id) = function {
            return new(carrier, *id);
        }
        if !LIBRARY.contains(&symbol) {
            return Err(format!(
                "it uses {symbol}, which is no function of the server and none of the allowed ones of the C library ({})",
                LIBRARY.join(", ")
            ));
        }
        Ok(carrier.library(symbol))
    }

    /// What the bundle says about it.
    pub(in crate::dsu) fn describe(self, linked: &Linked) -> Transform {
        Transform {
            source: self.source,
            start: linked.pieces.first().map_or(linked.end, |p| p.addr),
            end: linked.end,
            entry: linked.entry,
            control: linked.control,
            functions: linked.functions.clone(),
            handles: self.transformer.handles.into_iter().collect(),
            moved: self.moved,
        }
    }
}

/// Does the text fit a pattern in which `*` stands for any text?
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn holding(
    pair: &Pair,
    changes: &[TypeChange],
    names: &Names,
    world: &World<'_>,
) -> BTreeSet<usize> {
    let changed = world.changed(changes);
    let mut holding = BTreeSet::new();
    for id in names.new.values() {
        let entity = &pair.new.catalog.entities[*id];
        let (EntityKind::Object, Some(die)) = (entity.kind, entity.die) else {
            continue;
        };
        let debug = &pair.new.build.debug;
        let ty = debug.through_origin(&debug.dies[die as usize], |d| d.ty);
        let mut inside = BTreeSet::new();
        world.new.declare(ty, String::new(), &mut inside, 0);
        let mut queue: Vec<String> = inside.iter().cloned().collect();
        while let Some(tag) = queue.pop() {
            for inner in world
                .new_definitions
                .get(&tag)
                .into_iter()
                .flat_map(|d| &d.inside)
            {
                if inside.insert(inner.clone()) {
                    queue.push(inner.clone());
                }
            }
        }
        if !inside.is_disjoint(&changed) {
            holding.insert(*id);
        }
    }
    holding
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_in_a_pattern_is_any_text() {
        for (pattern, text, expected) in [
            ("*commands::Entry*", "MaybeUninit<commands::Entry>", true),
            ("*commands::Entry*", "commands::Entry", true),
            ("*commands::Entry", "MaybeUninit<commands::Entry>", false),
            ("struct *", "struct entry", true),
            ("struct *", "union entry", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "ab", true),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
