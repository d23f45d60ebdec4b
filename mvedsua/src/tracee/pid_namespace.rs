//! The pid namespace in which the copies of a process tree live, so that they have, among themselves, the
//! ids that the originals have.
//!
//! It lies below the leader's own. Its first process, the *init*, is this program run again: it holds no
//! descriptor, ignores what can be ignored, reaps nothing by hand, lives in the leader's control group, and
//! outlives the agent as long as anybody lives there: a promoted tree ends with its init. Ids are
//! chosen by a second process, the *registrar*, which ends with the agent: only somebody *in* a namespace
//! can say which id is the next one there.
//!
//! Each has its own ids in all namespaces around it. In the new one the registrar takes the id that its
//! parent has in the leader's namespace: nobody of the leader's tree can have that.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use super::inspect;
use crate::sys::pid_namespace::{self as kernel, Forked, LastId};
use crate::sys::{pidfd, setsid};

/// `CAP_SYS_ADMIN`.
const CAP_SYS_ADMIN: u32 = 21;

/// Why there is no namespace, or no id.
#[derive(Debug, Error)]
pub enum PidNamespaceError {
    /// The leader cannot put its copy there.
    #[error(
        "process {0} lacks CAP_SYS_ADMIN, without which its copy cannot be put into a pid namespace of its own"
    )]
    NotPermitted(i32),
    /// The kernel nests 32 at most.
    #[error(
        "pid namespaces are nested 32 deep already around process {0}: each update of a tree takes one; restart the server"
    )]
    TooDeep(i32),
    /// The id 1 is taken in every namespace.
    #[error(
        "process {0} is the first process (pid 1) of its pid namespace, such as that of a container; its copy cannot be"
    )]
    IsInit(i32),
    /// Something else about the process.
    #[error("{0}")]
    Unsuitable(String),
    /// A request to the kernel failed.
    #[error("{what}: {source}")]
    Kernel {
        /// The request.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, PidNamespaceError>;

fn kernel_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> PidNamespaceError {
    let what = what.into();
    move |source| PidNamespaceError::Kernel { what, source }
}

/// A pid namespace of copies. Dropped, it is let go: its init ends by itself when nobody lives there.
#[derive(Debug)]
pub struct PidNamespace {
    program: PathBuf,
    init: i32,
    handle: OwnedFd,
    /// While this is open the init waits for nobody's end. `None` of an adopted one, which waits already.
    _held: Option<ChildStdin>,
    registrar: Option<Registrar>,
}

impl PidNamespace {
    /// Makes one below the namespace that process `leader` lives in, for a copy that is to have the same
    /// id. `program` is this program: `/proc/self/exe`, which is also right when its file was replaced.
    ///
    /// # Errors
    /// See [`PidNamespaceError`]; nothing is left then.
    pub fn create(program: &Path, leader: i32) -> Result<Self> {
        check(leader)?;
        let pid = leader.to_string();
        let (mut child, line) = start(program, &["init", &pid])?;
        let held = child.stdin.take();
        // Both of the processes in between have ended, or will without being asked.
        let _ = child.wait();
        let answer = line?;
        let Some(number) = answer.strip_prefix("ready ").and_then(|n| n.parse().ok()) else {
            return Err(told(&answer, leader));
        };
        Self::of_number(program, number, held)
    }

    /// The one that `process` lives in, for the successor of a killed agent.
    ///
    /// # Errors
    /// When it has no such init as [`PidNamespace::create`] makes, or is gone.
    pub fn adopt(program: &Path, process: i32) -> Result<Self> {
        let what = || format!("look at the pid namespace of process {process}");
        let number = kernel::of(process)
            .and_then(kernel::number)
            .map_err(kernel_error(what()))?;
        let namespace = Self::of_number(program, number, None)?;
        let arguments = std::fs::read(format!("/proc/{}/cmdline", namespace.init));
        let ours = arguments.is_ok_and(|words| {
            let mut words = words.split(|byte| *byte == 0).skip(1);
            (words.next(), words.next()) == (Some(SUBCOMMAND.as_bytes()), Some(b"init".as_slice()))
        });
        if ours {
            Ok(namespace)
        } else {
            Err(PidNamespaceError::Unsuitable(format!(
                "the first process of the pid namespace of process {process} is {}, which no agent has started",
                namespace.init
            )))
        }
    }

    fn of_number(program: &Path, number: u64, held: Option<ChildStdin>) -> Result<Self> {
        let gone = || {
            PidNamespaceError::Unsuitable(format!(
                "pid namespace {number} has no first process (any more)"
            ))
        };
        let init = first_process(number).ok_or_else(gone)?;
        let handle = pidfd::open(init).map_err(kernel_error("open a pidfd of the init"))?;
        Ok(Self {
            program: program.into(),
            init,
            handle,
            _held: held,
            registrar: None,
        })
    }

    /// Process id of its init.
    #[must_use]
    pub const fn init_pid(&self) -> i32 {
        self.init
    }

    /// Kills all that lives there. Whoever traces some of that must still wait for it.
    ///
    /// # Errors
    /// `ESRCH` when it has ended already.
    pub fn kill(&self) -> io::Result<()> {
        pidfd::signal(self.handle.as_fd(), libc::SIGKILL)
    }

    /// The next process or thread that is made there gets the id `next`, if that is free: to be verified
    /// with [`inspect::ids`]. Until then nothing else may be made there.
    ///
    /// # Errors
    /// When the registrar cannot be started, or is refused.
    pub fn set_next(&mut self, next: i32) -> Result<()> {
        let registrar = match self.registrar.take() {
            Some(registrar) => registrar,
            None => Registrar::start(&self.program, self.init)?,
        };
        self.registrar.insert(registrar).set_next(next)
    }
}

/// Whether a copy of the process can live in a namespace of its own.
///
/// # Errors
/// See [`PidNamespaceError`].
pub fn check(leader: i32) -> Result<()> {
    let ids = inspect::ids(leader);
    match ids.last() {
        None => {
            return Err(PidNamespaceError::Unsuitable(format!(
                "there is no process {leader}"
            )));
        }
        Some(1) => return Err(PidNamespaceError::IsInit(leader)),
        Some(_) => {}
    }
    let link = |pid: &str, what: &str| std::fs::read_link(format!("/proc/{pid}/ns/{what}")).ok();
    let pid = leader.to_string();
    if link(&pid, "user") != link("self", "user") {
        return Err(PidNamespaceError::Unsuitable(format!(
            "process {leader} lives in another user namespace than the agent"
        )));
    }
    if link(&pid, "pid") != link(&pid, "pid_for_children") {
        return Err(PidNamespaceError::Unsuitable(format!(
            "process {leader} makes its children in another pid namespace than its own"
        )));
    }
    let capable = inspect::status_mask(leader, leader, "CapEff") & (1 << CAP_SYS_ADMIN) != 0;
    if capable {
        Ok(())
    } else {
        Err(PidNamespaceError::NotPermitted(leader))
    }
}

/// The process with the id 1 in a namespace: no file says which that is.
fn first_process(number: u64) -> Option<i32> {
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| {
            kernel::of(*pid)
                .and_then(kernel::number)
                .is_ok_and(|theirs| theirs == number)
                && inspect::ids(*pid).last() == Some(&1)
        })
}

/// The process that chooses ids, as the agent sees it.
#[derive(Debug)]
struct Registrar {
    child: Child,
    /// `None` only while it is dropped: the end of its input is its end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Registrar {
    fn start(program: &Path, init: i32) -> Result<Self> {
        let pid = init.to_string();
        let (mut child, line) = start(program, &["registrar", &pid])?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().expect("it is piped");
        let started = Self {
            child,
            orders,
            answers: BufReader::new(answers),
        };
        match line? {
            answer if answer == "ready" => Ok(started),
            answer => Err(told(&answer, init)),
        }
    }

    fn set_next(&mut self, next: i32) -> Result<()> {
        let what = || format!("choose the id {next}");
        let orders = self.orders.as_mut().expect("it is not being dropped");
        orders
            .write_all(format!("{next}\n").as_bytes())
            .map_err(kernel_error(what()))?;
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(kernel_error(what()))?;
        match line.trim_end() {
            "ok" => Ok(()),
            answer => Err(told(answer, next)),
        }
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// Starts this program in one of its roles and reads the first line that it writes.
fn start(program: &Path, role: &[&str]) -> Result<(Child, Result<String>)> {
    let mut command = Command::new(program);
    command
        .arg(SUBCOMMAND)
        .args(role)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    setsid::undisturbed(&mut command);
    // A thread that traces waits for its tracees, and would get this child's end instead: so it is the child
    // of another thread.
    let spawned = std::thread::scope(|scope| scope.spawn(|| command.spawn()).join());
    let mut child = spawned
        .expect("starting a process does not panic")
        .map_err(kernel_error(format!("start {}", program.display())))?;
    let mut line = String::new();
    // Byte by byte: what comes later is not ours.
    let output = child.stdout.as_mut().expect("it is piped");
    let mut byte = [0];
    let read = loop {
        match output.read(&mut byte) {
            Ok(0) => break Ok(()),
            Ok(_) if byte[0] == b'\n' => break Ok(()),
            Ok(_) => line.push(char::from(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(kernel_error("hear of a process in a pid namespace")(error)),
        }
    };
    Ok((child, read.map(|()| line)))
}

/// What one of the processes said instead of "ready": `error ERRNO WHAT`.
fn told(answer: &str, about: i32) -> PidNamespaceError {
    let mut words = answer.splitn(3, ' ');
    let errno = match (words.next(), words.next().map(str::parse)) {
        (Some("error"), Some(Ok(errno))) => errno,
        _ => {
            return PidNamespaceError::Unsuitable(format!(
                "a process for a pid namespace ended without a word ({answer:?})"
            ));
        }
    };
    if errno == libc::ENOSPC {
        return PidNamespaceError::TooDeep(about);
    }
    PidNamespaceError::Kernel {
        what: words.next().unwrap_or_default().to_owned(),
        source: io::Error::from_raw_os_error(errno),
    }
}

/// The hidden subcommand under which this program plays the roles below.
pub const SUBCOMMAND: &str = "pid-namespace";

/// What this program does as the init of a namespace: made by `mvedsua pid-namespace init LEADER`, a
/// process with one thread. It returns when the namespace is to end.
pub fn run_init(leader: i32) {
    match init(leader) {
        Ok(()) => {}
        Err((what, error)) => say_error(what, &error),
    }
}

/// What this program does as the registrar of the namespace of `member`, until its input ends.
pub fn run_registrar(member: i32) {
    match registrar(member) {
        Ok(()) => {}
        Err((what, error)) => say_error(what, &error),
    }
}

fn say_error(what: &str, error: &io::Error) {
    // Whoever asked may be gone.
    let _ = say(&format!(
        "error {} {what}",
        error.raw_os_error().unwrap_or_default()
    ));
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(format!("{line}\n").as_bytes())?;
    output.flush()
}

type Step<T> = std::result::Result<T, (&'static str, io::Error)>;

/// In the process that forks: waits for the child's end if it is to.
fn is_child(forked: Forked, wait: bool) -> bool {
    if wait && matches!(forked, Forked::Parent(_)) {
        kernel::wait_for_all_children();
    }
    forked == Forked::Child
}

fn init(leader: i32) -> Step<()> {
    let id = inspect::ids(leader).last().copied().unwrap_or_default();
    let process = pidfd::open(leader).map_err(|e| ("open a pidfd of the leader", e))?;
    let owner = |field| {
        inspect::status_field(leader, leader, field)
            .and_then(|ids| ids.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    let (uid, gid) = (owner("Uid"), owner("Gid"));
    join_group(leader).map_err(|e| ("join the leader's control group", e))?;
    kernel::enter(process.as_fd()).map_err(|e| ("enter the leader's pid namespace", e))?;
    drop(process);
    // The namespace is made in the one that its maker lives in, so the maker lives in the leader's.
    let maker =
        kernel::fork(false, &[]).map_err(|e| ("fork into the leader's pid namespace", e))?;
    if !is_child(maker, true) {
        return Ok(());
    }
    let first = kernel::fork(true, &[]).map_err(|e| ("make a pid namespace", e))?;
    // The maker ends at once: the init belongs to the init around it.
    if !is_child(first, false) {
        return Ok(());
    }
    kernel::let_children_be_reaped().map_err(|e| ("ignore SIGCHLD", e))?;
    kernel::close_all_others().map_err(|e| ("close all descriptors", e))?;
    kernel::become_powerless(uid, gid).map_err(|e| ("give up all capabilities", e))?;
    let own = File::open("/proc/self/ns/pid")
        .and_then(kernel::number)
        .map_err(|e| ("look at the own pid namespace", e))?;
    say(&format!("ready {own}")).map_err(|e| ("tell the agent", e))?;
    close_output().map_err(|e| ("close the output", e))?;
    // Until the agent lets go of it, or dies.
    let mut rest = Vec::new();
    let _ = io::stdin().lock().read_to_end(&mut rest);
    // The copy of the leader belongs to somebody outside; whoever is left after it belongs to us.
    if let Ok(copy) = pidfd::open(id) {
        let mut ends = [PollFd::new(copy.as_fd(), PollFlags::POLLIN)];
        while poll(&mut ends, PollTimeout::NONE).is_err() {}
    }
    kernel::wait_for_all_children();
    Ok(())
}

/// Nothing is to hold the agent's pipe open.
fn close_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(())
}

fn registrar(member: i32) -> Step<()> {
    let namespace = kernel::of(member).map_err(|e| ("open the pid namespace", e))?;
    let around = kernel::parent(namespace.as_fd()).map_err(|e| ("find the namespace around", e))?;
    kernel::enter(around.as_fd()).map_err(|e| ("enter the namespace around", e))?;
    let between = kernel::fork(false, &[]).map_err(|e| ("fork into the namespace around", e))?;
    if !is_child(between, true) {
        return Ok(());
    }
    kernel::enter(namespace.as_fd()).map_err(|e| ("enter the pid namespace", e))?;
    let id = nix::unistd::getpid().as_raw();
    let inside = kernel::fork(false, &[id]).map_err(|e| ("fork into the pid namespace", e))?;
    if !is_child(inside, true) {
        return Ok(());
    }
    let mut last = LastId::open().map_err(|e| ("open ns_last_pid", e))?;
    say("ready").map_err(|e| ("tell the agent", e))?;
    for line in io::stdin().lock().lines() {
        let Some(next) = line.ok().and_then(|line| line.parse().ok()) else {
            break;
        };
        let answered = match last.set_next(next) {
            Ok(()) => say("ok"),
            Err(error) => {
                say_error("choose an id", &error);
                Ok(())
            }
        };
        if answered.is_err() {
            break;
        }
    }
    Ok(())
}

/// Puts this process into the control group of `pid` in those hierarchies by which systemd tells what
/// belongs to a service, so that it ends with that and not with the agent.
fn join_group(pid: i32) -> io::Result<()> {
    let theirs = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let ours = std::fs::read_to_string("/proc/self/cgroup")?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    for (hierarchy, path) in groups(&theirs) {
        if groups(&ours).any(|own| own == (hierarchy, path)) {
            continue;
        }
        let Some(root) = mount_of(&mounts, hierarchy) else {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        };
        std::fs::write(format!("{root}{path}/cgroup.procs"), "0")?;
    }
    Ok(())
}

/// The lines of `/proc/PID/cgroup` that count: hierarchy and path.
fn groups(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (hierarchy, path) = (fields.next()?, fields.next()?);
        matches!(hierarchy, "" | "name=systemd").then_some((hierarchy, path.trim_end_matches('/')))
    })
}

/// Where a hierarchy is mounted as a whole, by `/proc/self/mountinfo`.
fn mount_of<'a>(mounts: &'a str, hierarchy: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, _source, options) = (after.next()?, after.next()?, after.next()?);
        let right = match hierarchy {
            "" => kind == "cgroup2",
            name => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        let mut before = before.split(' ').skip(3);
        (right && before.next() == Some("/")).then(|| before.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_found_where_they_are_mounted() {
        let text = "9:name=systemd:/a.service\n8:pids:/b\n0::/a.service\n";
        assert_eq!(
            groups(text).collect::<Vec<_>>(),
            [("name=systemd", "/a.service"), ("", "/a.service")]
        );
        let mounts = "30 23 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro\n\
            31 30 0:27 /part /mnt rw shared:10 - cgroup2 cgroup2 rw\n\
            32 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n\
            33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        assert_eq!(mount_of(mounts, ""), Some("/sys/fs/cgroup/unified"));
        assert_eq!(
            mount_of(mounts, "name=systemd"),
            Some("/sys/fs/cgroup/systemd")
        );
        assert_eq!(mount_of(mounts, "name=other"), None);
    }

    #[test]
    fn an_error_keeps_its_number() {
        let deep = told("error 28 make a pid namespace", 7);
        assert!(matches!(deep, PidNamespaceError::TooDeep(7)), "{deep}");
        let other = told("error 1 enter the pid namespace", 7);
        assert!(
            other.to_string().contains("enter the pid namespace"),
            "{other}"
        );
        assert!(matches!(told("", 7), PidNamespaceError::Unsuitable(_)));
    }
}
