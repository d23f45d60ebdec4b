//! `mvedsua pid-namespace`: started by the agent, for the copies of process trees.

use crate::systemd;
use crate::tracee::pid_namespace::{run_init, run_registrar};

/// A process that the agent needs inside of a pid namespace; the agent starts it
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// The first process of a new namespace below that of LEADER
    Init { leader: i32 },
    /// The process that chooses ids in the namespace of MEMBER
    Registrar { member: i32 },
    /// A question to the systemd of a container, from a process that it can see
    Ask {
        // Not `socket`: that is an option of every subcommand.
        peer: String,
        path: String,
        interface: String,
        method: String,
        values: Vec<String>,
    },
}

impl Role {
    pub fn run(self) {
        match self {
            Self::Init { leader } => run_init(leader),
            Self::Registrar { member } => run_registrar(member),
            Self::Ask {
                peer,
                path,
                interface,
                method,
                values,
            } => systemd::answer(peer, path, interface, method, &values),
        }
    }
}
