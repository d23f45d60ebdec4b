//! State variables: of the service, and of each connection.

use std::collections::BTreeMap;

use super::ast::StateScope;
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
    connections: BTreeMap<i64, BTreeMap<usize, Value<'static>>>,
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
            StateScope::Connection => self.connections.get(&connection).and_then(|c| c.get(&at)),
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

    /// The connection is gone; the next one with that number starts afresh.
    pub(super) fn forget(&mut self, connection: i64) {
        self.connections.remove(&connection);
    }
}
