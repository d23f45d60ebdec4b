//! Which functions are usually on a stack: entries, and the way from them to where the program waits.

use std::collections::{HashMap, HashSet, VecDeque};

use super::catalog::EntityKind;
use super::code::Access;
use super::image::Reloc;
use super::meaning::{Meaning, Side};
use super::report::Risk;

/// Calls in which servers wait, most telling first: a program with an event loop waits there.
const WAITS: [&[&str]; 4] = [
    &["epoll_wait", "epoll_pwait", "epoll_pwait2", "io_getevents"],
    &["poll", "ppoll", "select", "pselect"],
    &["accept", "accept4", "sigwait", "sigwaitinfo", "pause"],
    &[
        "pthread_cond_wait",
        "pthread_cond_timedwait",
        "sem_wait",
        "sem_timedwait",
        "pthread_join",
    ],
];

/// Calls that start a thread with a function given by address.
const STARTS: [&str; 2] = ["pthread_create", "thrd_create"];

/// For each function that is usually on a stack, why.
#[must_use]
pub fn usually_on_stack(side: &Side) -> HashMap<usize, Risk> {
    let mut calls: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut waits: [HashMap<usize, String>; WAITS.len()] = Default::default();
    let mut entries: Vec<(usize, &'static str)> = Vec::new();
    for (id, entity) in side.catalog.entities.iter().enumerate() {
        if entity.kind == EntityKind::Function && entity.names.iter().any(|n| n == "main") {
            entries.push((id, "main"));
        }
    }
    for (id, code) in &side.code {
        let mut starts_threads = false;
        let mut addresses = Vec::new();
        for reference in code
            .insns
            .iter()
            .flat_map(|i| &i.refs)
            .filter(|r| r.access != Access::ThreadOffset)
        {
            let symbol = match side.meaning(reference.addr) {
                Meaning::Stub(symbol) | Meaning::Slot(Reloc::Import(symbol, _)) => symbol,
                Meaning::Entity(target, 0)
                    if side.catalog.entities[target].kind == EntityKind::Function =>
                {
                    if matches!(reference.access, Access::Call | Access::Branch) {
                        calls.entry(*id).or_default().push(target);
                    } else {
                        addresses.push(target);
                    }
                    continue;
                }
                _ => continue,
            };
            if let Some(class) = WAITS.iter().position(|w| w.contains(&symbol.as_str())) {
                waits[class].entry(*id).or_insert(symbol);
            } else if STARTS.contains(&symbol.as_str()) {
                starts_threads = true;
            }
        }
        if starts_threads {
            entries.extend(addresses.into_iter().map(|a| (a, "thread entry")));
        }
    }
    let mut risks = HashMap::new();
    for (entry, what) in entries {
        risks.entry(entry).or_insert_with(|| Risk::OnStack {
            because: what.into(),
        });
        // The main loop is on the shortest way; other ways wait now and then.
        let Some((class, way)) = waits
            .iter()
            .find_map(|class| Some((class, shortest_way(entry, &calls, class)?)))
        else {
            continue;
        };
        for (function, call) in way {
            let because = if class.contains_key(&function) {
                format!("calls {call}")
            } else {
                format!("on the way from {what} to {call}")
            };
            risks.entry(function).or_insert(Risk::OnStack { because });
        }
    }
    risks
}

/// The functions on the shortest way from an entry to any function that waits.
fn shortest_way(
    entry: usize,
    calls: &HashMap<usize, Vec<usize>>,
    waits: &HashMap<usize, String>,
) -> Option<Vec<(usize, String)>> {
    let mut from: HashMap<usize, usize> = HashMap::new();
    let mut seen = HashSet::from([entry]);
    let mut queue = VecDeque::from([entry]);
    while let Some(function) = queue.pop_front() {
        if let Some(call) = waits.get(&function) {
            let mut way = vec![(function, call.clone())];
            let mut at = function;
            while let Some(up) = from.get(&at) {
                way.push((*up, call.clone()));
                at = *up;
            }
            return Some(way);
        }
        let mut next = calls.get(&function).cloned().unwrap_or_default();
        next.sort_unstable();
        for target in next {
            if seen.insert(target) {
                from.insert(target, function);
                queue.push_back(target);
            }
        }
    }
    None
}
