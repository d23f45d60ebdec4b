//! What speaks against leaving an old frame of a changed function in old code (`--control f=leave`).

use iced_x86::FlowControl;

use super::catalog::{Entity, EntityKind};
use super::code::Access;
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
