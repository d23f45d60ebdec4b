//! The checks, one function each, in the order in which an operator should mend them.

use std::{fs, io};

use procfs::process::Process;
use procfs::{Current as _, Meminfo};

use super::kernel_version;
use super::{Finding, State};
use crate::sys::features;
use crate::tracee::inspect;

/// What a check found out.
struct Seen {
    state: State,
    seen: String,
    help: Option<String>,
}

impl Seen {
    fn fine(seen: impl Into<String>) -> Self {
        Self {
            state: State::Fine,
            seen: seen.into(),
            help: None,
        }
    }

    fn degraded(seen: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            state: State::Degraded,
            seen: seen.into(),
            help: Some(help.into()),
        }
    }

    fn missing(seen: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            state: State::Missing,
            seen: seen.into(),
            help: Some(help.into()),
        }
    }

    /// From a probe. Without privileges nothing can be said about the kernel itself.
    fn probed(result: io::Result<()>, help: &str) -> Self {
        match result {
            Ok(()) => Self::fine("works"),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let help = if nix::unistd::geteuid().is_root() {
                    help
                } else {
                    "run the doctor as root"
                };
                Self::missing(format!("not permitted: {error}"), help)
            }
            Err(error) => Self::missing(error.to_string(), help),
        }
    }

    fn optional(mut self) -> Self {
        if self.state == State::Missing {
            self.state = State::Degraded;
        }
        self
    }
}

/// Runs every check. `agent` is the process id of the running agent, if there is one: what the
/// tracer may do depends on the agent's own restrictions, not on ours.
#[must_use]
pub fn examine(agent: Option<u32>) -> Vec<Finding> {
    let check = |code: &str, feature: &str, needed_for: &str, seen: Seen| Finding {
        code: code.into(),
        feature: feature.into(),
        state: seen.state,
        seen: seen.seen,
        needed_for: needed_for.into(),
        help: seen.help,
    };
    vec![
        check("E001", "architecture", "everything", architecture()),
        check("E002", "kernel version", "everything", kernel()),
        check(
            "E003",
            "capabilities",
            "tracing, BPF and seccomp",
            capabilities(),
        ),
        check(
            "E004",
            "seccomp filter on the agent",
            "suspending the filter of a promoted process (a tracer with a filter may not)",
            own_filter(agent),
        ),
        check("E005", "BTF", "the recorder", btf()),
        check(
            "E006",
            "BPF raw tracepoint",
            "the recorder",
            Seen::probed(
                features::raw_tracepoint(),
                "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS",
            ),
        ),
        check(
            "E007",
            "BPF send_signal_thread",
            "stopping the leader while the ring is full",
            Seen::probed(features::send_signal_thread(), "use Linux 5.19 or later"),
        ),
        check(
            "E008",
            "BPF ring buffer",
            "the ring between leader and follower",
            Seen::probed(features::ring_buffer(), "use Linux 5.19 or later"),
        ),
        check(
            "E009",
            "seccomp user notification",
            "following: the follower's calls (with WAIT_KILLABLE_RECV: its signals)",
            Seen::probed(
                features::user_notification(),
                "use Linux 5.19 or later with CONFIG_SECCOMP_FILTER",
            ),
        ),
        check(
            "E010",
            "seccomp SYNC_WAKE_UP",
            "a follower that keeps up (without it each notification costs about ten times more)",
            Seen::probed(features::sync_wake_up(), "use Linux 6.6 or later").optional(),
        ),
        check(
            "E011",
            "PTRACE_O_SUSPEND_SECCOMP",
            "running a promoted process at full speed",
            Seen::probed(
                features::suspend_seccomp(),
                "use a kernel with CONFIG_CHECKPOINT_RESTORE, and run the agent without a seccomp filter",
            ),
        ),
        check(
            "E012",
            "pidfd_getfd",
            "handing over connections",
            Seen::probed(
                features::pidfd_getfd(),
                "see Yama and other security modules",
            ),
        ),
        check(
            "E013",
            "process_vm_readv",
            "comparing what the follower writes",
            Seen::probed(
                features::process_vm_readv(),
                "use a kernel with CONFIG_CROSS_MEMORY_ATTACH; see Yama and other security modules",
            ),
        ),
        check("E014", "Yama", "tracing", yama()),
        check("E015", "lockdown", "the recorder", lockdown()),
        check(
            "E016",
            "pid namespace",
            "the recorder, which sees the machine's process ids",
            pid_namespace(),
        ),
        check(
            "E017",
            "locked memory",
            "the ring, on kernels before 5.11",
            locked_memory(),
        ),
        check(
            "E018",
            "free memory",
            "the ring and the follower's own pages",
            memory(),
        ),
    ]
}

fn architecture() -> Seen {
    let machine = nix::sys::utsname::uname().map_or_else(
        |_| "unknown".into(),
        |u| u.machine().to_string_lossy().into_owned(),
    );
    if machine == "x86_64" {
        Seen::fine(machine)
    } else {
        Seen::missing(
            machine,
            "Mvedsua knows the registers and calls of x86-64 only",
        )
    }
}

fn kernel() -> Seen {
    let release = nix::sys::utsname::uname().map_or_else(
        |_| "unknown".into(),
        |u| u.release().to_string_lossy().into_owned(),
    );
    match kernel_version::parse(&release) {
        Some(version) if version >= (5, 19) => Seen::fine(release),
        _ => Seen::missing(release, "use Linux 5.19 or later; 6.6 or later is faster"),
    }
}

fn capabilities() -> Seen {
    let lacking = inspect::lacking_capabilities();
    if lacking.is_empty() {
        Seen::fine("all that are needed")
    } else {
        Seen::missing(
            format!("without {}", lacking.join(", ")),
            "run it as root; in a container, grant these capabilities",
        )
    }
}

fn own_filter(agent: Option<u32>) -> Seen {
    let of = |process: procfs::ProcResult<Process>| {
        process
            .and_then(|p| p.status())
            .ok()
            .and_then(|status| status.seccomp)
    };
    let (whose, mode) = match agent.and_then(|pid| i32::try_from(pid).ok()) {
        Some(pid) => (format!("the agent (pid {pid})"), of(Process::new(pid))),
        None => (
            "this shell, from which an agent would be started,".into(),
            of(Process::myself()),
        ),
    };
    match mode {
        Some(0) => Seen::fine("none"),
        Some(_) => Seen::missing(
            format!("{whose} runs under a filter"),
            "remove SystemCallFilter= and the like from the unit, or seccomp from the container",
        ),
        None => Seen::missing(
            format!("{whose} does not say"),
            "use a kernel with CONFIG_SECCOMP",
        ),
    }
}

fn btf() -> Seen {
    let path = "/sys/kernel/btf/vmlinux";
    let help = "use a kernel with CONFIG_DEBUG_INFO_BTF";
    match fs::read(path) {
        Ok(bytes) if bytes.starts_with(&0xeb9f_u16.to_le_bytes()) => {
            Seen::fine(format!("{path}, {} KiB", bytes.len() / 1024))
        }
        Ok(_) => Seen::missing(format!("{path} is not BTF"), help),
        Err(error) => Seen::missing(format!("{path}: {error}"), help),
    }
}

fn yama() -> Seen {
    match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Err(_) => Seen::fine("not there"),
        Ok(scope) if scope.trim() == "3" => Seen::missing(
            "ptrace_scope is 3: nobody may trace",
            "boot with kernel.yama.ptrace_scope at 2 or less; 3 cannot be taken back",
        ),
        Ok(scope) => Seen::fine(format!("ptrace_scope is {}: root may trace", scope.trim())),
    }
}

fn lockdown() -> Seen {
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Err(_) => Seen::fine("not there"),
        Ok(modes) if modes.contains("[confidentiality]") => Seen::missing(
            "confidentiality: BPF may not read memory",
            "boot with lockdown=integrity or none",
        ),
        Ok(modes) => {
            let mode = modes.split(['[', ']']).nth(1).unwrap_or("unknown");
            Seen::fine(mode.to_owned())
        }
    }
}

/// Inode of the first pid namespace (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

fn pid_namespace() -> Seen {
    match fs::read_link("/proc/self/ns/pid") {
        Ok(link) if link.as_os_str() == FIRST_PID_NAMESPACE => Seen::fine("the machine's own"),
        Ok(_) => Seen::degraded(
            "one of a container",
            "run the agent on the host, or in a container with the host's process ids",
        ),
        Err(error) => Seen::degraded(error.to_string(), "mount /proc"),
    }
}

fn locked_memory() -> Seen {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    let accounted_otherwise = nix::sys::utsname::uname()
        .ok()
        .and_then(|u| kernel_version::parse(&u.release().to_string_lossy()))
        .is_some_and(|version| version >= (5, 11));
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => Seen::fine("not limited"),
        Ok((soft, _)) if accounted_otherwise => Seen::fine(format!(
            "{} KiB, which this kernel does not apply to BPF",
            soft / 1024
        )),
        Ok((soft, _)) => Seen::degraded(
            format!("{} KiB", soft / 1024),
            "start the agent with `ulimit -l unlimited` or LimitMEMLOCK=infinity",
        ),
        Err(error) => Seen::degraded(error.to_string(), "see `ulimit -l`"),
    }
}

/// Less than this beside the server is likely to end in the OOM killer: a ring of the default size,
/// and as much again for what the follower changes.
const COMFORTABLE: u64 = 256 << 20;

fn memory() -> Seen {
    match Meminfo::current().map(|info| info.mem_available) {
        Ok(Some(free)) if free >= COMFORTABLE => Seen::fine(format!("{} MiB", free >> 20)),
        Ok(Some(free)) => Seen::degraded(
            format!("{} MiB", free >> 20),
            "an update needs the ring (64 MiB unless told otherwise) and a copy of every page that \
             the server changes meanwhile: free some, or use a smaller --ring",
        ),
        Ok(None) => Seen::degraded("the kernel does not say", "see /proc/meminfo"),
        Err(error) => Seen::degraded(error.to_string(), "mount /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_its_code_and_says_what_to_do() {
        let findings = examine(None);
        for (n, finding) in findings.iter().enumerate() {
            assert_eq!(finding.code, format!("E{:03}", n + 1));
            assert_eq!(
                finding.state != State::Fine,
                finding.help.is_some(),
                "{finding:?}"
            );
            assert!(!finding.seen.is_empty());
        }
    }

    #[test]
    fn the_documentation_lists_every_check() {
        let table = include_str!("../../../docs/errors.md");
        for finding in examine(None) {
            assert!(
                table.contains(&format!("| {} |", finding.code)),
                "{}",
                finding.code
            );
        }
    }

    #[test]
    fn a_probe_that_is_not_there_is_missing_and_an_optional_one_degraded() {
        let absent = || Err(io::Error::from_raw_os_error(22));
        let seen = Seen::probed(absent(), "use another kernel");
        assert_eq!(
            (seen.state, seen.help.as_deref()),
            (State::Missing, Some("use another kernel"))
        );
        assert_eq!(Seen::probed(absent(), "").optional().state, State::Degraded);
        assert_eq!(Seen::probed(Ok(()), "").optional().state, State::Fine);
    }
}
