//! Thread-local variables and transformers. A transformer runs in one thread and reaches the blocks of no
//! other, so a variable there can neither get another layout nor be where objects are found. What the agent
//! does by itself: words in these blocks that are addresses of moved objects follow them.

use std::collections::{BTreeMap, BTreeSet};

use super::ctypes::tags_in;
use super::header::{World, reach};
use crate::dsu::meaning::Pair;

/// What a thread-local variable has to do with a changed type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dsu) enum Touch {
    /// It holds an object of this type.
    Holds(String),
    /// Pointers lead from it to objects of this type.
    LeadsTo(String),
    /// Nothing says of what type it is.
    Unknown,
}

/// The thread-local variables of the new build that have to do with a changed type.
pub(super) fn touched(
    pair: &Pair,
    world: &World<'_>,
    changed: &BTreeSet<String>,
) -> BTreeMap<usize, Touch> {
    let debug = &pair.new.build.debug;
    let touch = |id: usize| {
        let entity = &pair.new.catalog.entities[id];
        let Some(ty) = entity
            .die
            .and_then(|die| debug.through_origin(&debug.dies[die as usize], |d| d.ty))
        else {
            return Some(Touch::Unknown);
        };
        let mut inside = BTreeSet::new();
        let text = world.new.declare(Some(ty), "@".into(), &mut inside, 0);
        let mut queue: Vec<String> = inside.iter().cloned().collect();
        while let Some(tag) = queue.pop() {
            for inner in world
                .new
                .definition(&tag)
                .into_iter()
                .flat_map(|d| d.inside)
            {
                if inside.insert(inner.clone()) {
                    queue.push(inner);
                }
            }
        }
        if let Some(tag) = inside.intersection(changed).next() {
            return Some(Touch::Holds(tag.clone()));
        }
        let led_to = reach(&world.new, tags_in(&text));
        let tag = changed.iter().find(|tag| led_to.contains_key(*tag))?;
        Some(Touch::LeadsTo(tag.clone()))
    };
    pair.new
        .catalog
        .tls_ids()
        .filter_map(|id| Some((id, touch(id)?)))
        .collect()
}
