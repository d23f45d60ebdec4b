//! `mvedsua doctor`: what this machine offers, by trying it, and what is missing for what.

mod checks;
pub(crate) mod kernel_version;

use serde::{Deserialize, Serialize};

pub use checks::examine;

/// Result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there.
    Fine,
    /// It is not, and Mvedsua works without, but less well.
    Degraded,
    /// It is not, and Mvedsua cannot work.
    Missing,
}

/// One line of the doctor's report. The field names are a contract with users' scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code of the check, listed in `docs/errors.md`.
    pub code: String,
    /// The feature.
    pub feature: String,
    /// Whether it is there.
    pub state: State,
    /// What was seen.
    pub seen: String,
    /// What Mvedsua needs it for.
    pub needed_for: String,
    /// What to do, if it is not there.
    pub help: Option<String>,
}

/// Whether Mvedsua can work with these findings.
#[must_use]
pub fn is_healthy(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.state != State::Missing)
}
