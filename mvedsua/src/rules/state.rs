//! State variables: of the service, and of each connection.

use std::collections::BTreeMap;

use super::ast::StateScope;
use super::descriptors::{Change, OpenFiles};
use super::diagnostic::Code;
use super::fault::Fault;
use super::program::RuleSet;
use super::value::Value;

/// Most connections that have state at one time.
const MAX_CONNECTIONS: usize = 1 << 16;
/// Longest text in a state variable, in bytes.
const MAX_STATE_TEXT: usize = 4096;

/// The values of all state variables that differ from what they start with.
#[derive(Clone, Debug, Default)]
pub(super) struct States {
    service: BTreeMap<usize, Value<'static>>,
    /// By the name of the open file: of one that is duplicated the state is that of all its descriptors.
    connections: BTreeMap<i64, BTreeMap<usize, Value<'static>>>,
    files: OpenFiles,
}

impl States {
    pub(super) fn get<'a>(
        &'a self,
        set: &'a RuleSet,
        at: usize,
        connection: i64,
    ) -> &'a Value<'static> {
        let state = &set.states[at];
        let found = match state.scope {
            StateScope::Service => self.service.get(&at),
            StateScope::Connection => {
                let of = self.connections.get(&self.files.name(connection));
                of.and_then(|c| c.get(&at))
            }
        };
        found.unwrap_or(&state.initial)
    }

    pub(super) fn set(
        &mut self,
        set: &RuleSet,
        at: usize,
        connection: i64,
        value: Value<'static>,
    ) -> Result<(), Fault> {
        let state = &set.states[at];
        if matches!(&value, Value::Text(text) if text.len() > MAX_STATE_TEXT) {
            let message = format!(
                "`{}` would hold more than {MAX_STATE_TEXT} bytes",
                state.name
            );
            return Err(Fault::new(Code::CAPACITY, message));
        }
        match state.scope {
            StateScope::Service => {
                self.service.insert(at, value);
            }
            StateScope::Connection => {
                let connection = self.files.name(connection);
                if self.connections.len() >= MAX_CONNECTIONS
                    && !self.connections.contains_key(&connection)
                {
                    let message = format!("more than {MAX_CONNECTIONS} connections have state");
                    return Err(Fault::new(Code::CAPACITY, message));
                }
                self.connections
                    .entry(connection)
                    .or_default()
                    .insert(at, value);
            }
        }
        Ok(())
    }

    /// The name of the open file that a descriptor stands for.
    pub(super) fn file(&self, fd: i64) -> i64 {
        self.files.name(fd)
    }

    /// Follows what a call did to descriptors; of those in `known` something else is kept. Returns the
    /// names of the open files that are gone: the next one under such a number starts afresh.
    pub(super) fn follow(&mut self, change: &Change, mut known: Vec<i64>) -> Vec<i64> {
        if let Change::Closed(range) = change {
            known.extend(self.connections.range(range.clone()).map(|(name, _)| *name));
        }
        let mut gone = Vec::new();
        self.files
            .follow(change, &known, &mut |name| gone.push(name));
        for name in &gone {
            self.connections.remove(name);
        }
        gone
    }
}
