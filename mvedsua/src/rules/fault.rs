//! What can go wrong while rules run. Each of these ends the update and harms nobody.

use super::diagnostic::Code;

/// A rule failed at run time: the update is to be rolled back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {rule}: {message}; the update is rolled back, correct the rule and try again")]
pub struct RuleError {
    /// Stable code.
    pub code: Code,
    /// Name and place of the rule, or what was being done.
    pub rule: String,
    /// What happened.
    pub message: String,
}

/// The same before it is known which rule it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn in_rule(self, rule: impl Into<String>) -> RuleError {
        RuleError {
            code: self.code,
            rule: rule.into(),
            message: self.message,
        }
    }
}
