//! Whether what lies below a thread's stack pointer is its to use.
//!
//! Calls are injected on the thread's own stack, which takes up to 8 KiB below what it uses. A program that runs on
//! stacks of its own making (coroutines, Go) may have something else there, and nothing tells how small they are.

use super::inspect::{self, Mapping};
use super::thread::Stopped;
use super::{Result, TraceeError};
use crate::sys::ptrace::Registers;

/// Checks the stopped threads of process `pid`.
///
/// # Errors
/// [`TraceeError::Unsuitable`] when one does not stand on a stack that is known as one.
pub fn check(pid: i32, threads: &[Stopped]) -> Result<()> {
    let maps = inspect::maps(pid)?;
    for thread in threads {
        if !is_known(&thread.registers()?, &maps) {
            return Err(TraceeError::Unsuitable(format!(
                "thread {} runs on a stack of the program's own making, below which a call cannot be injected",
                thread.tid()
            )));
        }
    }
    Ok(())
}

/// The main thread's stack has a name. C libraries make the other ones with the thread's pointer on top, and it is not
/// in the same mapping as anything else's.
fn is_known(regs: &Registers, maps: &[Mapping]) -> bool {
    let Some(map) = maps
        .iter()
        .find(|map| (map.start..map.end).contains(&regs.rsp))
    else {
        return false;
    };
    let with_its_pointer = regs.rsp < regs.fs_base && regs.fs_base < map.end;
    map.name == "[stack]" || with_its_pointer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ptrace;

    #[test]
    fn stacks_are_told_from_other_memory() {
        let map = |start, end, name: &str| Mapping {
            start,
            end,
            write: true,
            execute: false,
            shared: false,
            offset: 0,
            name: name.into(),
        };
        let maps = [
            map(0x1000, 0x9000, "[heap]"),
            map(0x7000_0000, 0x7080_0000, ""),
            map(0x7fff_0000, 0x7fff_9000, "[stack]"),
        ];
        let known = |rsp, fs_base| {
            let mut regs = ptrace::zeroed_registers();
            (regs.rsp, regs.fs_base) = (rsp, fs_base);
            is_known(&regs, &maps)
        };
        assert!(known(0x7fff_8000, 0x7070_0000), "the main thread's");
        assert!(known(0x707f_0000, 0x707f_f000), "another thread's");
        assert!(!known(0x4000, 0x707f_f000), "a coroutine's");
        assert!(!known(0x707f_f800, 0x707f_f000), "above its pointer");
        assert!(!known(0x10, 0x20), "nowhere");
    }
}
