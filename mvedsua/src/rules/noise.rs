//! `ignore` lines: fields of calls that are not compared.

use std::sync::Arc;

use regex::bytes::Regex;

use super::expected::Want;
use super::names::Slot;
use super::program::Subject;

/// Adds one field to what is expected of the arguments.
pub(super) fn ignore(
    wants: &mut [Want; 6],
    any_result: &mut bool,
    slot: Slot,
    regex: Option<&Arc<Regex>>,
    subject: &Subject,
) {
    let at = match slot {
        Slot::Number(at) | Slot::Either(at) | Slot::Data(at) | Slot::Length { arg: at, .. } => {
            usize::from(at)
        }
        Slot::Result | Slot::Text => return,
    };
    let Some(regex) = regex else {
        wants[at] = Want::Any;
        return;
    };
    match &mut wants[at] {
        Want::Noise(list) => list.push(Arc::clone(regex)),
        Want::Any => {}
        want => *want = Want::Noise(vec![Arc::clone(regex)]),
    }
    // Noise may be longer on one side: the size is noise as well, and the follower is told that
    // all of its own text was written.
    if let Subject::Call(signature) = subject
        && signature
            .data
            .is_some_and(|(data, _)| usize::from(data) == at)
    {
        if let Some(size) = signature.size {
            wants[usize::from(size)] = Want::Any;
        }
        *any_result = true;
    }
}
