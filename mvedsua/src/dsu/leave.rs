//! What speaks against leaving an old frame of a changed function in old code (`--control f=leave`).

use std::collections::BTreeSet;

use iced_x86::FlowControl;

use super::catalog::{Entity, EntityKind};
use super::code::{Access, Code};
use super::image::Reloc;
use super::manifest::JUMP;
use super::meaning::{Meaning, Pair, Side};

/// The first function that the old version of `id` calls in a way of the compiler's own, among those that
/// `changed` says have a new version. The old frame would call that new version, which need not expect its
/// arguments where the old one did. (The code of a function that does not change is the new build's, and so
/// fits; code of an old frame is not.)
pub(super) fn called_by_private_convention(
    pair: &Pair,
    id: usize,
    changed: impl Fn(&Entity) -> bool,
) -> Option<String> {
    let code = pair.old.code.get(&id)?;
    let calls = code
        .insns
        .iter()
        .flat_map(|insn| &insn.refs)
        .filter(|reference| matches!(reference.access, Access::Call | Access::Branch));
    for reference in calls {
        let Meaning::Entity(callee, 0) = pair.old.meaning(reference.addr) else {
            continue;
        };
        let (old, new) = (
            &pair.old.catalog.entities[callee],
            pair.pairing.to_new[callee].map(|new| &pair.new.catalog.entities[new]),
        );
        if callee == id || old.kind != EntityKind::Function || !new.is_some_and(&changed) {
            continue;
        }
        let private = is_private(&pair.old, old) || new.is_some_and(|n| is_private(&pair.new, n));
        if private {
            return Some(old.label());
        }
    }
    None
}

/// An old frame of `id` that runs on would come back to the function's first bytes, by a jump or out of a call:
/// these lead to the new version from now on, and an instruction that began among them is no more.
pub(super) fn comes_back_to_its_first_bytes(pair: &Pair, id: usize) -> bool {
    let start = pair.old.catalog.entities[id].addr;
    let first = start..start + JUMP as u64;
    let Some(code) = pair.old.code.get(&id) else {
        return false;
    };
    code.insns.iter().any(|insn| {
        let jumps = insn
            .refs
            .iter()
            .any(|r| r.access == Access::Branch && first.contains(&r.addr));
        let calls = matches!(insn.flow, FlowControl::Call | FlowControl::IndirectCall);
        jumps || (calls && insn.at >= start && first.contains(&(insn.at + u64::from(insn.len))))
    })
}

/// What is known of where the indirect jumps of a function lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Indirect {
    /// There is none, or no table that one goes by leads to the function's first bytes.
    Elsewhere,
    /// A table leads to the first bytes.
    ToFirstBytes,
    /// For some of them no table was found.
    Unknown,
}

/// The same for jumps by a table, of a `switch` or of labels whose address was taken: a table may be named or
/// not, and hold offsets or addresses. A jump for which there is no table may be a call at a function's end,
/// or go by offsets from anything: that is not guessed.
pub(super) fn jumps_by_table(pair: &Pair, id: usize) -> Indirect {
    let start = pair.old.catalog.entities[id].addr;
    let first = start..start + JUMP as u64;
    let Some(code) = pair.old.code.get(&id) else {
        return Indirect::Unknown;
    };
    let jumps = (code.insns.iter())
        .filter(|insn| insn.flow == FlowControl::IndirectBranch)
        .count();
    if jumps == 0 {
        return Indirect::Elsewhere;
    }
    let referred: BTreeSet<u64> = (code.insns.iter())
        .flat_map(|insn| &insn.refs)
        .filter(|r| {
            !matches!(
                r.access,
                Access::Call | Access::Branch | Access::ThreadOffset
            )
        })
        .map(|r| r.addr)
        .collect();
    let mut tables = 0;
    for addr in referred {
        let targets = targets(pair, addr, code);
        tables += usize::from(!targets.is_empty());
        if targets.iter().any(|target| first.contains(target)) {
            return Indirect::ToFirstBytes;
        }
    }
    if tables < jumps {
        return Indirect::Unknown;
    }
    Indirect::Elsewhere
}

/// Where in the function a table leads; empty when it is none.
fn targets(pair: &Pair, addr: u64, code: &Code) -> Vec<u64> {
    let mut found: Vec<u64> = (pair.old.jump_table(addr, code).iter())
        .map(|index| code.insns.get(*index as usize).map_or(0, |insn| insn.at))
        .collect();
    // Pointers are not in the file where the dynamic linker writes them.
    let pointers =
        (addr..pair.old.extent(addr))
            .step_by(8)
            .map_while(|at| match pair.old.pointer_at(at) {
                Some(Reloc::Image(target)) if code.covers(target) => Some(target),
                _ => None,
            });
    found.extend(pointers);
    found
}

/// gcc renames functions whose arguments it has changed, LLVM says so in the debug information.
fn is_private(side: &Side, entity: &Entity) -> bool {
    let renamed = |name: &String| {
        [".isra.", ".constprop.", ".part."]
            .iter()
            .any(|mark| name.contains(mark))
    };
    entity.names.iter().any(renamed)
        || entity
            .die
            .is_some_and(|die| side.build.debug.dies[die as usize].own_convention)
}
