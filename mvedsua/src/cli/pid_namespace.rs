//! `mvedsua pid-namespace`: started by the agent, for the copies of process trees.

use crate::tracee::pid_namespace::{run_init, run_registrar};

/// A process that the agent needs inside of a pid namespace; the agent starts it
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// The first process of a new namespace below that of LEADER
    Init { leader: i32 },
    /// The process that chooses ids in the namespace of MEMBER
    Registrar { member: i32 },
}

impl Role {
    pub fn run(self) {
        match self {
            Self::Init { leader } => run_init(leader),
            Self::Registrar { member } => run_registrar(member),
        }
    }
}
