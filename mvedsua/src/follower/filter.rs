//! The seccomp filter of a follower: local calls pass, everything else is notified.
//!
//! The allow-list is built with seccompiler from the syscall table. seccompiler 0.5 has no user
//! notification, so its default action is a marked `SECCOMP_RET_TRACE`, and the one instruction
//! that returns it is rewritten here.

use std::collections::BTreeMap;

use mvedsua_common::spec::{Class, Command, Syscall};
use mvedsua_common::table;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use thiserror::Error;

use crate::sys::seccomp::RET_USER_NOTIF;

/// The data word that marks the default action until it is rewritten.
const MARK: u32 = 0x4d56;
const RET_TRACE: u32 = 0x7ff0_0000;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// The filter could not be built.
#[derive(Debug, Error)]
pub enum FilterError {
    /// seccompiler refused the rules.
    #[error("the follower's filter cannot be built: {0}")]
    Backend(#[from] seccompiler::BackendError),
    /// The default action is not where it is looked for: seccompiler changed.
    #[error("the follower's filter has {0} default actions where one is expected")]
    DefaultAction(usize),
}

/// The filter as instructions, ready for `seccomp(2)`.
///
/// # Errors
/// Only when seccompiler changes under us.
pub fn program() -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in table::SYSCALLS {
        match call.class {
            Class::Local => {
                rules.insert(i64::from(call.nr), local_rules(call)?);
            }
            Class::Multiplexed => {
                let (at, commands) = call.commands.unwrap_or((0, &[]));
                let local = commands
                    .iter()
                    .filter(|command| command.class == Class::Local);
                let allowed = local
                    .map(|command: &Command| equals(at, command.value))
                    .collect::<Result<Vec<_>, _>>()?;
                if !allowed.is_empty() {
                    rules.insert(i64::from(call.nr), allowed);
                }
            }
            _ => {}
        }
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trace(MARK),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    let mut program: BpfProgram = filter.try_into()?;
    let mut rewritten = 0;
    for instruction in &mut program {
        if instruction.code == RETURN && instruction.k == RET_TRACE | MARK {
            instruction.k = RET_USER_NOTIF;
            rewritten += 1;
        }
    }
    if rewritten == 0 {
        Err(FilterError::DefaultAction(rewritten))
    } else {
        Ok(program)
    }
}

/// A local call is allowed, but not one that maps a file: the follower's descriptors are virtual.
fn local_rules(call: &Syscall) -> Result<Vec<SeccompRule>, FilterError> {
    match call.names.iter().position(|name| *name == "fd") {
        Some(at) => Ok(vec![equals(at as u8, u32::MAX)?]),
        None => Ok(Vec::new()),
    }
}

fn equals(arg: u8, value: u32) -> Result<SeccompRule, FilterError> {
    let condition = SeccompCondition::new(
        arg,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(value),
    )?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A classic-BPF interpreter for the instructions that seccompiler emits.
    fn run(program: &BpfProgram, nr: u32, args: [u64; 6]) -> u32 {
        let mut data = [0u32; 16];
        data[0] = nr;
        data[1] = 0xc000_003e;
        for (i, arg) in args.iter().enumerate() {
            data[4 + 2 * i] = *arg as u32;
            data[5 + 2 * i] = (arg >> 32) as u32;
        }
        let (mut accumulator, mut pc) = (0u32, 0usize);
        loop {
            let i = &program[pc];
            pc += 1;
            let mut jump = |taken: bool| pc += usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                0x20 => accumulator = data[i.k as usize / 4],
                0x15 => jump(accumulator == i.k),
                0x25 => jump(accumulator > i.k),
                0x35 => jump(accumulator >= i.k),
                0x05 => pc += i.k as usize,
                0x54 => accumulator &= i.k,
                0x06 => return i.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn nr(name: &str) -> u32 {
        u32::from(table::by_name(name).expect("in the table").nr)
    }

    #[test]
    fn local_calls_pass_and_everything_else_is_notified() {
        const ALLOW: u32 = 0x7fff_0000;
        let program = program().expect("builds");
        for name in [
            "futex",
            "munmap",
            "brk",
            "sigaltstack",
            "rt_sigreturn",
            "sched_yield",
        ] {
            assert_eq!(run(&program, nr(name), [0; 6]), ALLOW, "{name}");
        }
        for name in [
            "read",
            "write",
            "clock_gettime",
            "clone",
            "close",
            "getpid",
            "exit_group",
            "execve",
        ] {
            assert_eq!(run(&program, nr(name), [0; 6]), RET_USER_NOTIF, "{name}");
        }
        assert_eq!(
            run(&program, 9999, [0; 6]),
            RET_USER_NOTIF,
            "a call that nobody knows"
        );
        let anonymous = [0, 4096, 3, 0x22, u64::from(u32::MAX), 0];
        assert_eq!(run(&program, nr("mmap"), anonymous), ALLOW);
        assert_eq!(
            run(&program, nr("mmap"), [0, 4096, 1, 2, 5, 0]),
            RET_USER_NOTIF,
            "maps a file"
        );
        let set_name = libc::PR_SET_NAME as u64;
        assert_eq!(run(&program, nr("prctl"), [set_name, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(
            run(&program, nr("prctl"), [38, 0, 0, 0, 0, 0]),
            RET_USER_NOTIF
        );
    }
}
