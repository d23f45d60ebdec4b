//! The interposer of a follower: what makes its system calls arrive at the matcher.
//!
//! The interface is narrow: a call arrives ([`Arrival`]), a verdict goes back. Seccomp user
//! notification is the first implementation and stays the safety net for faster ones, so its types
//! stay in here and in [`crate::sys::seccomp`].

mod filter;
mod install;

pub use filter::{FilterError, program};
pub use install::{Installed, install, parking_number};

use crate::matcher::{Call, Fault, Memory};
use crate::sys::memory;
use crate::sys::seccomp::Notification;

/// A call of a follower's thread that waits for its verdict.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The waiting thread.
    pub tid: i32,
    /// Cookie for the answer.
    pub id: u64,
    /// The call.
    pub call: Call,
    /// Where in the program it was made: the address after the `syscall` instruction.
    pub instruction_pointer: u64,
}

impl From<Notification> for Arrival {
    fn from(n: Notification) -> Self {
        Self {
            tid: n.tid as i32,
            id: n.id,
            call: Call {
                nr: n.nr as u16,
                args: n.args,
            },
            instruction_pointer: n.instruction_pointer,
        }
    }
}

/// Memory of a live process, for the matcher.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    /// The process.
    pub pid: i32,
}

impl Memory for ProcessMemory {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        memory::read(self.pid, address, buffer).map_err(|_| Fault { address })
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        memory::write(self.pid, address, data).map_err(|_| Fault { address })
    }
}
