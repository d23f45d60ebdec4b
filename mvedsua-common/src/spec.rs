//! The vocabulary in which [`crate::table`] describes a system call.
//!
//! One [`Syscall`] per call says what each argument *is*. The recorder derives from it what to copy,
//! the matcher what to compare and what to write back, the rule checker which names exist, the
//! reports how to print it. Nothing else in the tree may `match` on a syscall number.

/// What becomes of a call while its process is a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The result and all output buffers come from the leader's record; the call is not made.
    Replayed,
    /// Like [`Class::Replayed`], and the call creates, changes or closes file descriptors.
    FdChanging,
    /// Like [`Class::Replayed`]: a clock reading. Kept apart so that it can be made cheaper.
    Time,
    /// Made natively by the follower, never compared: memory, signal masks, futexes.
    Local,
    /// Creates, ends, waits for or replaces a process or thread; each has a handling of its own.
    Process,
    /// Meaning depends on a command argument: look it up in [`Syscall::commands`].
    Multiplexed,
    /// Cannot be followed: the update is refused or rolled back.
    Refused,
}

/// Longest path or string, in bytes with its NUL (`PATH_MAX` of `<linux/limits.h>`).
pub const PATH_MAX: usize = 4096;

/// Most bytes copied of memory whose length is in a length word ([`Len::Word`]).
///
/// Socket options are the users; `TCP_INFO` alone has more than 230 bytes.
pub const WORD_MAX: usize = 4096;

/// Longest socket address, in bytes (`struct sockaddr_storage`).
pub const SOCKADDR_MAX: usize = 128;

/// How many bytes of memory an argument points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Len {
    /// A fixed number of bytes.
    Fixed(u16),
    /// The value of argument `.0` times `.1`.
    Arg(u8, u16),
    /// The result times `.0`; nothing unless the result is positive.
    Ret(u16),
    /// The smaller of result times `.1` and argument `.0` times `.1`; nothing unless the result is positive.
    RetCapped(u8, u16),
    /// The `u32` length word (a `socklen_t *`) that argument `.0` points to, at most [`WORD_MAX`].
    Word(u8),
    /// A NUL-terminated string; at most [`PATH_MAX`] bytes with its NUL.
    Str,
    /// An array of `struct iovec` whose count is argument `.0`; the bytes are what the vectors
    /// hold, as many as the result says.
    Iov(u8),
    /// A `struct msghdr`: name, vectors (as many bytes as the result says), control, flags.
    Msg,
    /// An array of `struct mmsghdr`, as many as the result says: of each, what [`Len::Msg`] says
    /// (with `msg_len` in the place of the result) and the `msg_len` word, which the kernel always writes.
    Mmsg,
    /// A `fd_set` of as many bits as argument `.0`, in whole 8-byte words.
    FdSet(u8),
}

/// Direction in which memory flows, seen from the process.
///
/// [`Dir::Out`] and [`Dir::InOut`] are filled in only by a call that did not fail: after an error the
/// memory holds whatever it held before, and must not be carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// The process gives it to the kernel: compared byte by byte.
    In,
    /// The kernel fills it in: written into the follower from the record.
    Out,
    /// Filled in by both (its content before the call is not compared).
    InOut,
    /// Like [`Dir::InOut`], and filled in also by a call that fails: the time left of a sleep or a
    /// `select` that a signal interrupted.
    OutAlways,
}

/// One argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Not an argument of this call: ignored.
    Unused,
    /// A 32-bit integer (flags, mode, command ...): the low 32 bits are compared.
    Int,
    /// A 64-bit integer (size, offset): compared.
    Long,
    /// A file descriptor: the low 32 bits are compared, printed as an fd.
    Fd,
    /// A pointer or cookie that is neither compared nor copied.
    Opaque,
    /// A path name, compared as a string.
    Path,
    /// Memory, with its direction and length. A null pointer means "not given".
    Mem(Dir, Len),
    /// A socket address given to the kernel; its length is argument `.0`.
    SockaddrIn(u8),
    /// A socket address filled in by the kernel; its length word is argument `.0`.
    SockaddrOut(u8),
    /// The `socklen_t` length word of another argument: in and out, 4 bytes.
    LenWord,
    /// A fixed C struct, with its direction, its size in bytes and its C name for reports.
    Struct(Dir, u16, &'static str),
    /// `struct epoll_event` array filled in by the kernel, as many as the result says.
    EpollEvents,
    /// One `struct epoll_event` given to the kernel: the event mask is compared, the data word is
    /// not (it may be a pointer) but remembered, see the design's epoll section. Not looked at
    /// when the operation is `EPOLL_CTL_DEL`.
    EpollEvent,
    /// `struct pollfd` array whose count is argument `.0`: fds and events compared, revents written.
    PollFds(u8),
}

/// One command of a multiplexed call (`ioctl`, `fcntl`, `prctl` ...).
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Value of the command argument.
    pub value: u32,
    /// Name of the constant in the C headers.
    pub name: &'static str,
    /// Class of the call with this command.
    pub class: Class,
    /// What the argument after the command is.
    pub arg: Arg,
    /// True when the call returns a new file descriptor with this command.
    pub returns_fd: bool,
    /// See [`Syscall::lasting`].
    pub lasting: bool,
}

impl Command {
    /// The same command, returning a new file descriptor.
    #[must_use]
    pub const fn fd(mut self) -> Self {
        self.returns_fd = true;
        self
    }

    /// The same command, with a lasting effect: see [`Syscall::lasting`].
    #[must_use]
    pub const fn lasts(mut self) -> Self {
        self.lasting = true;
        self
    }
}

/// Byte ranges `[from, to)` of a C struct that the kernel does not read: padding between its members
/// and members that it only writes. They hold whatever was on the stack and are not compared.
#[must_use]
pub const fn unread(c_name: &str) -> &'static [(usize, usize)] {
    match c_name.as_bytes() {
        b"flock" => &[(4, 8), (28, 32)],
        _ => &[],
    }
}

/// Description of one system call.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    /// Number in the x86-64 table.
    pub nr: u16,
    /// Name as in `<asm/unistd_64.h>`, without `__NR_`.
    pub name: &'static str,
    /// What becomes of it in a follower.
    pub class: Class,
    /// Names of the arguments, as the manual page has them; as many as the call takes.
    pub names: &'static [&'static str],
    /// The arguments, [`Arg::Unused`] from the first that the call does not take.
    pub args: [Arg; 6],
    /// For [`Class::Multiplexed`]: which argument is the command, and what the known commands are.
    pub commands: Option<(u8, &'static [Command])>,
    /// True when the call returns a new file descriptor.
    pub returns_fd: bool,
    /// True for a replayed call that changes a property of its process or thread which outlives
    /// the call (user ids, working directory, limits, timers): the follower did not make it, so
    /// promotion has to.
    pub lasting: bool,
}

impl Syscall {
    /// The same call, returning a new file descriptor.
    #[must_use]
    pub const fn fd(mut self) -> Self {
        self.returns_fd = true;
        self
    }

    /// The same call, with a lasting effect: see [`Syscall::lasting`].
    #[must_use]
    pub const fn lasts(mut self) -> Self {
        self.lasting = true;
        self
    }

    /// The same call, multiplexed by argument `at`, whose values are `commands`.
    #[must_use]
    pub const fn commands(mut self, at: u8, commands: &'static [Command]) -> Self {
        self.commands = Some((at, commands));
        self
    }

    /// Number of arguments that the call takes.
    #[must_use]
    pub const fn arity(&self) -> usize {
        self.names.len()
    }

    /// True when the call returns a new file descriptor, given the command that `args` select.
    #[must_use]
    pub fn returns_fd(&self, args: &[u64; 6]) -> bool {
        self.returns_fd || self.command(args).is_some_and(|c| c.returns_fd)
    }

    /// [`Syscall::lasting`], given the command that `args` select.
    #[must_use]
    pub fn is_lasting(&self, args: &[u64; 6]) -> bool {
        self.lasting || self.command(args).is_some_and(|c| c.lasting)
    }

    /// The command that `args` select, if the call is multiplexed and the command is in the table.
    #[must_use]
    pub fn command(&self, args: &[u64; 6]) -> Option<&'static Command> {
        let (at, commands) = self.commands?;
        let value = args[usize::from(at)] as u32;
        commands.iter().find(|c| c.value == value)
    }

    /// Class of the call with these arguments; an unknown command is [`Class::Refused`].
    #[must_use]
    pub fn class_of(&self, args: &[u64; 6]) -> Class {
        match self.class {
            Class::Multiplexed => self.command(args).map_or(Class::Refused, |c| c.class),
            class => class,
        }
    }

    /// What argument `index` is, given the command that `args` select.
    #[must_use]
    pub fn arg_of(&self, index: usize, args: &[u64; 6]) -> Arg {
        match self.commands {
            Some((at, _)) if usize::from(at) + 1 == index => {
                self.command(args).map_or(Arg::Opaque, |c| c.arg)
            }
            _ => self.args[index],
        }
    }
}
