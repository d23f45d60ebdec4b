//! Where a service is in its life: the stages of the paper, with what each has.

use super::following::Following;
use super::home::Home;
use crate::session::{OutdatedLeader, SingleLeader, Stage, UpdatedLeader, Updating};

/// Where the service is in its life. The stage tokens make sure that only the transitions of the
/// paper happen.
pub(super) enum Life {
    Single(SingleLeader, Home),
    Updating(Updating, Box<Following>, Home),
    Outdated(OutdatedLeader, Box<Following>, Home),
    Updated(UpdatedLeader, Box<Following>, Home),
    Ended,
}

/// A stage in which an update runs, with the token of its type.
pub(super) enum Live {
    Updating(Updating, Home),
    Outdated(OutdatedLeader, Home),
    Updated(UpdatedLeader, Home),
}

impl Live {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Updating(..) => Stage::Updating,
            Self::Outdated(..) => Stage::OutdatedLeader,
            Self::Updated(..) => Stage::UpdatedLeader,
        }
    }

    pub(super) fn into_life(self, following: Box<Following>) -> Life {
        match self {
            Self::Updating(token, home) => Life::Updating(token, following, home),
            Self::Outdated(token, home) => Life::Outdated(token, following, home),
            Self::Updated(token, home) => Life::Updated(token, following, home),
        }
    }

    pub(super) fn roll_back(self) -> (SingleLeader, Home) {
        match self {
            Self::Updating(token, home) => (token.roll_back(), home),
            Self::Outdated(token, home) => (token.roll_back(), home),
            Self::Updated(token, home) => (token.finalize(), home),
        }
    }

    pub(super) fn take_over(self) -> (SingleLeader, Home) {
        match self {
            Self::Updating(token, home) => (token.take_over(), home),
            Self::Outdated(token, home) => (token.take_over(), home),
            Self::Updated(token, home) => (token.take_over(), home),
        }
    }
}
