//! The stages of an update (MVEDSUA paper, section 3.1 and figure 3) as types.
//!
//! Each stage is a type whose methods consume it, so that a transition which the paper does not
//! have cannot be written. [`Stage`] is the name that users see.

use serde::{Deserialize, Serialize};

/// Name of a stage, as the command line, the JSON and the documentation write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// One version runs; nothing is installed.
    SingleLeader,
    /// The copy was taken (t1) and is being updated or catches up (t2).
    Updating,
    /// The updated follower has caught up (t3); the old version still leads.
    OutdatedLeader,
    /// Promotion was asked for (t4) and the roles are being exchanged.
    Promoting,
    /// The new version leads (t5); the old one follows.
    UpdatedLeader,
}

impl Stage {
    /// The name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleLeader => "single-leader",
            Self::Updating => "updating",
            Self::OutdatedLeader => "outdated-leader",
            Self::Promoting => "promoting",
            Self::UpdatedLeader => "updated-leader",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One version runs and nothing is installed in it.
#[derive(Debug)]
#[must_use]
pub struct SingleLeader(());

/// A follower exists and has not caught up yet.
#[derive(Debug)]
#[must_use]
pub struct Updating(());

/// The follower has caught up.
#[derive(Debug)]
#[must_use]
pub struct OutdatedLeader(());

/// The roles are being exchanged.
#[derive(Debug)]
#[must_use]
pub struct Promoting(());

/// The new version leads and the old one follows.
#[derive(Debug)]
#[must_use]
pub struct UpdatedLeader(());

impl SingleLeader {
    /// The stage in which every service starts.
    pub const fn new() -> Self {
        Self(())
    }

    /// t1: the copy was taken.
    pub const fn snapshot(self) -> Updating {
        Updating(())
    }
}

impl Default for SingleLeader {
    fn default() -> Self {
        Self::new()
    }
}

impl Updating {
    /// t3: the follower has caught up.
    pub const fn caught_up(self) -> OutdatedLeader {
        OutdatedLeader(())
    }

    /// The follower was thrown away.
    pub const fn roll_back(self) -> SingleLeader {
        SingleLeader(())
    }

    /// The leader crashed: the follower drained the ring and is the only version left.
    pub const fn take_over(self) -> SingleLeader {
        SingleLeader(())
    }
}

impl OutdatedLeader {
    /// t4: promotion was asked for.
    pub const fn promote(self) -> Promoting {
        Promoting(())
    }

    /// The follower was thrown away.
    pub const fn roll_back(self) -> SingleLeader {
        SingleLeader(())
    }

    /// The leader crashed: the follower drained the ring and is the only version left.
    pub const fn take_over(self) -> SingleLeader {
        SingleLeader(())
    }
}

impl Promoting {
    /// t5: the new version leads, the old one follows.
    pub const fn exchanged(self) -> UpdatedLeader {
        UpdatedLeader(())
    }

    /// t5 and t6 at once (`promote --finalize`): the old version is gone.
    pub const fn exchanged_for_good(self) -> SingleLeader {
        SingleLeader(())
    }

    /// The exchange could not be made: the old version goes on leading.
    pub const fn abandon(self) -> OutdatedLeader {
        OutdatedLeader(())
    }

    /// The follower was thrown away while the roles were about to be exchanged.
    pub const fn roll_back(self) -> SingleLeader {
        SingleLeader(())
    }
}

impl UpdatedLeader {
    /// t6: the old version is dropped, on request or because it diverged.
    pub const fn finalize(self) -> SingleLeader {
        SingleLeader(())
    }

    /// The new version crashed, or the operator rolled back: the old one leads alone again.
    pub const fn take_over(self) -> SingleLeader {
        SingleLeader(())
    }
}
