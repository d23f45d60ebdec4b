//! The table of system calls as the recorder program reads it.
//!
//! The enums of [`crate::spec`] would become long chains of comparisons in BPF, and the verifier
//! would walk every one of them. The agent therefore compiles each [`Syscall`] into a [`CallPlan`],
//! plain old data that says in the order of copying what memory to put into the record, and fills
//! the map `PLANS` with them when it loads the program. The program holds no table of its own, so
//! an object that was built earlier cannot disagree with the agent about a call.

use crate::spec::{Arg, Class, Dir, Len, SOCKADDR_MAX, Syscall, WORD_MAX};

/// Elements of `PLANS` that are indexed by the system call number; the plans of the commands of
/// multiplexed calls follow.
pub const PLANS_BY_NUMBER: usize = 512;
/// Capacity of the map `PLANS`.
pub const MAX_PLANS: u32 = 2048;
/// Capacity of the map `COMMANDS`.
pub const MAX_COMMANDS: u32 = 2048;
/// Most parts that one plan can have: one per argument.
pub const MAX_PART_PLANS: usize = 6;
/// Most vectors of an `iovec` array that are gathered into the record; more go out of line.
pub const MAX_VECTORS: usize = 8;
/// Most bytes of a message's control data; more go out of line.
pub const MAX_CONTROL: usize = 256;

/// `restart_syscall(2)`: the kernel has a thread make it to resume a call that a signal interrupted.
/// The recorder gives it the number of that call.
pub const RESTART_SYSCALL: u16 = 219;

/// The call is not recorded.
pub const ACTION_SKIP: u8 = 0;
/// The call is recorded with the parts of the plan.
pub const ACTION_RECORD: u8 = 1;
/// The map `COMMANDS` knows the plan; a command that is not there is recorded without parts.
pub const ACTION_BY_COMMAND: u8 = 2;

/// `mul` bytes.
pub const SHAPE_FIXED: u8 = 0;
/// Result times `mul` bytes.
pub const SHAPE_RET: u8 = 1;
/// Argument `len_arg` times `mul` bytes.
pub const SHAPE_ARG: u8 = 2;
/// The smaller of result and argument `len_arg`, times `mul`.
pub const SHAPE_RET_CAPPED: u8 = 3;
/// A NUL-terminated string.
pub const SHAPE_STRING: u8 = 4;
/// As many bytes as the `u32` says that argument `len_arg` points to, at most `mul`.
pub const SHAPE_WORD: u8 = 5;
/// An `iovec` array with argument `len_arg` elements.
pub const SHAPE_VECTORS: u8 = 6;
/// A `struct msghdr`.
pub const SHAPE_MESSAGE: u8 = 7;
/// A `fd_set` of argument `len_arg` bits.
pub const SHAPE_FD_SET: u8 = 8;
/// Always left to the agent.
pub const SHAPE_OUT_OF_LINE: u8 = 9;
/// Nothing.
pub const SHAPE_NONE: u8 = 10;

/// Copied when the result is not negative.
pub const WHEN_DONE: u8 = 0;
/// Like [`WHEN_DONE`], and when a signal interrupted the call (`-EINTR`, `-ERESTART*`): the kernel
/// writes remaining times and `revents` then too.
pub const WHEN_INTERRUPTED: u8 = 1;
/// Copied whatever the result is.
pub const WHEN_ALWAYS: u8 = 2;

/// Bit of [`PartPlan::len_arg`]: the argument is an `int`, the high half of its register is noise.
pub const LEN_ARG_INT: u8 = 8;

/// One piece of memory to copy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartPlan {
    /// Argument that holds the address.
    pub arg: u8,
    /// `SHAPE_*`.
    pub shape: u8,
    /// `WHEN_*`.
    pub when: u8,
    /// Argument that the length comes from, see the shape; with [`LEN_ARG_INT`] if the kernel looks
    /// at its low 32 bits only.
    pub len_arg: u8,
    /// Factor or size in bytes, see the shape.
    pub mul: u32,
}

/// What the recorder does with one call (or one command of a multiplexed call).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallPlan {
    /// `ACTION_*`.
    pub action: u8,
    /// Which argument is the command ([`ACTION_BY_COMMAND`]).
    pub command_arg: u8,
    /// Number of valid elements of `parts`.
    pub count: u8,
    /// Always zero.
    pub reserved: [u8; 5],
    /// The argument that is gathered from vectors, copied before the others: [`SHAPE_VECTORS`],
    /// [`SHAPE_MESSAGE`], or [`SHAPE_NONE`]. No recorded call has two of them, and the verifier
    /// has only one loop over vectors to go through.
    pub gather: PartPlan,
    /// What to copy, in this order.
    pub parts: [PartPlan; MAX_PART_PLANS],
}

/// Key of the map `COMMANDS`.
#[must_use]
pub const fn command_key(nr: u64, command: u32) -> u64 {
    nr << 32 | command as u64
}

impl CallPlan {
    /// Recorded, without parts: what an unknown call or command gets.
    pub const HEADER_ONLY: Self = Self {
        action: ACTION_RECORD,
        command_arg: 0,
        count: 0,
        reserved: [0; 5],
        gather: PartPlan::NONE,
        parts: [PartPlan::NONE; MAX_PART_PLANS],
    };

    /// The plan of a call, before its command (if it has any) is looked at.
    #[must_use]
    pub fn of_call(call: &Syscall) -> Self {
        match (call.class, call.commands) {
            (Class::Multiplexed, Some((at, _))) => Self {
                action: ACTION_BY_COMMAND,
                command_arg: at,
                ..Self::HEADER_ONLY
            },
            (class, _) => Self::of_args(class, &call.args),
        }
    }

    /// The plan of a call whose arguments are these.
    #[must_use]
    pub fn of_args(class: Class, args: &[Arg; 6]) -> Self {
        let mut plan = Self::HEADER_ONLY;
        match class {
            Class::Local => {
                plan.action = ACTION_SKIP;
                return plan;
            }
            Class::Refused | Class::Multiplexed => return plan,
            Class::Replayed | Class::FdChanging | Class::Time | Class::Process => {}
        }
        for (index, arg) in args.iter().enumerate() {
            let Some(mut part) = PartPlan::of_arg(index, args) else {
                continue;
            };
            // After an execve the strings of the old program are gone; after a fork nobody
            // compares them. What the call filled in (wait4's status) is wanted all the same.
            if class == Class::Process
                && !matches!(arg, Arg::Mem(Dir::Out, _) | Arg::Struct(Dir::Out, ..))
            {
                continue;
            }
            if matches!(part.shape, SHAPE_VECTORS | SHAPE_MESSAGE) {
                if plan.gather == PartPlan::NONE {
                    plan.gather = part;
                    continue;
                }
                part.shape = SHAPE_OUT_OF_LINE;
            }
            plan.parts[usize::from(plan.count)] = part;
            plan.count += 1;
        }
        plan
    }
}

impl PartPlan {
    /// Copies nothing.
    pub const NONE: Self = Self {
        arg: 0,
        shape: SHAPE_NONE,
        when: 0,
        len_arg: 0,
        mul: 0,
    };

    /// How to copy the memory of argument `index` of a call with these arguments; `None` if it has none.
    #[must_use]
    pub fn of_arg(index: usize, args: &[Arg; 6]) -> Option<Self> {
        let (shape, when, mut len_arg, mul) = match args[index] {
            Arg::Unused | Arg::Int | Arg::Long | Arg::Fd | Arg::Opaque => return None,
            Arg::Path => (SHAPE_STRING, WHEN_ALWAYS, 0, 1),
            Arg::SockaddrIn(len) => (SHAPE_ARG, WHEN_ALWAYS, len, 1),
            Arg::SockaddrOut(word) => (SHAPE_WORD, WHEN_DONE, word, SOCKADDR_MAX as u32),
            Arg::LenWord => (SHAPE_FIXED, WHEN_DONE, 0, 4),
            Arg::Struct(Dir::In, size, _) => (SHAPE_FIXED, WHEN_ALWAYS, 0, u32::from(size)),
            Arg::Struct(Dir::OutAlways, size, _) => {
                (SHAPE_FIXED, WHEN_INTERRUPTED, 0, u32::from(size))
            }
            Arg::Struct(_, size, _) => (SHAPE_FIXED, WHEN_DONE, 0, u32::from(size)),
            Arg::EpollEvents => (SHAPE_RET, WHEN_DONE, 0, 12),
            Arg::EpollEvent => (SHAPE_FIXED, WHEN_ALWAYS, 0, 12),
            Arg::PollFds(count) => (SHAPE_ARG, WHEN_INTERRUPTED, count, 8),
            Arg::Mem(dir, len) => {
                let (shape, len_arg, mul) = match len {
                    Len::Fixed(size) => (SHAPE_FIXED, 0, size),
                    Len::Arg(arg, mul) => (SHAPE_ARG, arg, mul),
                    Len::Ret(mul) => (SHAPE_RET, 0, mul),
                    Len::RetCapped(arg, mul) => (SHAPE_RET_CAPPED, arg, mul),
                    Len::Word(arg) => (SHAPE_WORD, arg, WORD_MAX as u16),
                    Len::Str => (SHAPE_STRING, 0, 1),
                    Len::Iov(arg) => (SHAPE_VECTORS, arg, 1),
                    Len::Msg => (SHAPE_MESSAGE, 0, 1),
                    Len::Mmsg => (SHAPE_OUT_OF_LINE, 0, 1),
                    Len::FdSet(arg) => (SHAPE_FD_SET, arg, 1),
                };
                let when = if dir == Dir::OutAlways {
                    WHEN_INTERRUPTED
                } else {
                    WHEN_DONE
                };
                (shape, when, len_arg, u32::from(mul))
            }
        };
        let counted = matches!(
            shape,
            SHAPE_ARG | SHAPE_RET_CAPPED | SHAPE_VECTORS | SHAPE_FD_SET
        );
        if counted && matches!(args[usize::from(len_arg)], Arg::Int) {
            len_arg |= LEN_ARG_INT;
        }
        Some(Self {
            arg: index as u8,
            shape,
            when,
            len_arg,
            mul,
        })
    }
}

const _: () = assert!(size_of::<PartPlan>() == 8);
const _: () = assert!(size_of::<CallPlan>() == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        spec::Command,
        table::{SYSCALLS, by_name},
    };

    const NONE: [Arg; 6] = [Arg::Unused; 6];

    fn args<const N: usize>(given: [Arg; N]) -> [Arg; 6] {
        let mut args = NONE;
        args[..N].copy_from_slice(&given);
        args
    }

    #[test]
    fn local_calls_are_skipped_and_refused_ones_have_no_parts() {
        let path = args([Arg::Path]);
        assert_eq!(CallPlan::of_args(Class::Local, &path).action, ACTION_SKIP);
        assert_eq!(
            CallPlan::of_args(Class::Refused, &path),
            CallPlan::HEADER_ONLY
        );
        assert_eq!(CallPlan::of_args(Class::Replayed, &path).count, 1);
    }

    #[test]
    fn a_process_call_keeps_only_what_it_fills_in() {
        let plan = CallPlan::of_args(
            Class::Process,
            &args([
                Arg::Path,
                Arg::Mem(Dir::Out, Len::Fixed(4)),
                Arg::Struct(Dir::In, 88, "clone_args"),
            ]),
        );
        assert_eq!(plan.count, 1);
        let expected = PartPlan {
            arg: 1,
            shape: SHAPE_FIXED,
            when: WHEN_DONE,
            len_arg: 0,
            mul: 4,
        };
        assert_eq!(plan.parts[0], expected);
    }

    #[test]
    fn vectors_are_gathered_once_and_a_second_time_by_the_agent() {
        let vectors = Arg::Mem(Dir::In, Len::Iov(2));
        let plan = CallPlan::of_args(Class::Replayed, &args([Arg::Fd, vectors, Arg::Int]));
        assert_eq!(
            (
                plan.gather.arg,
                plan.gather.shape,
                plan.gather.len_arg,
                plan.count
            ),
            (1, SHAPE_VECTORS, 2 | LEN_ARG_INT, 0)
        );
        let plan = CallPlan::of_args(
            Class::Replayed,
            &args([Arg::Fd, vectors, Arg::Int, vectors]),
        );
        assert_eq!(
            (plan.gather.arg, plan.count, plan.parts[0].shape),
            (1, 1, SHAPE_OUT_OF_LINE)
        );
    }

    #[test]
    fn a_multiplexed_call_is_looked_up_by_its_command() {
        static COMMANDS: [Command; 1] = [Command {
            value: 5,
            name: "F",
            class: Class::Replayed,
            arg: Arg::Int,
            returns_fd: false,
            lasting: false,
        }];
        let call = Syscall {
            nr: 72,
            name: "fcntl",
            class: Class::Multiplexed,
            names: &[],
            args: args([Arg::Fd, Arg::Int, Arg::Opaque]),
            commands: Some((1, &COMMANDS)),
            returns_fd: false,
            lasting: false,
        };
        let plan = CallPlan::of_call(&call);
        assert_eq!((plan.action, plan.command_arg), (ACTION_BY_COMMAND, 1));
        assert_ne!(command_key(72, 5), command_key(16, 5));
    }

    #[test]
    fn the_table_fits_into_the_maps() {
        let commands: usize = SYSCALLS
            .iter()
            .filter_map(|call| call.commands)
            .map(|(_, known)| known.len())
            .sum();
        assert!(
            commands <= MAX_COMMANDS as usize
                && PLANS_BY_NUMBER + 1 + commands <= MAX_PLANS as usize
        );
        assert!(
            SYSCALLS
                .iter()
                .all(|call| usize::from(call.nr) < PLANS_BY_NUMBER)
        );
        assert_eq!(
            by_name("restart_syscall").map(|call| call.nr),
            Some(RESTART_SYSCALL)
        );
    }

    #[test]
    fn only_arrays_of_messages_are_always_left_to_the_agent() {
        for call in SYSCALLS {
            let plan = CallPlan::of_call(call);
            let out_of_line = plan.parts[..usize::from(plan.count)]
                .iter()
                .any(|part| part.shape == SHAPE_OUT_OF_LINE);
            let messages = call
                .args
                .iter()
                .any(|arg| matches!(arg, Arg::Mem(_, Len::Mmsg)));
            assert_eq!(
                out_of_line,
                messages && call.class == Class::Replayed,
                "{}",
                call.name
            );
        }
    }
}
