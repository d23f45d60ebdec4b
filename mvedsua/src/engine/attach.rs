//! What is checked before a process is touched at all. Every refusal says what to do about it.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use crate::session::Failure;
use crate::tracee::inspect::Uncopied;
use crate::tracee::stub::Vdso;
use crate::tracee::{TraceeError, inspect, pid_namespace, rebuild};

/// A refusal of the engine with its stable code (`docs/errors.md`).
pub(super) fn refused(code: &str, message: impl Into<String>) -> Failure {
    Failure::Refused {
        code: code.to_owned(),
        message: message.into(),
    }
}

/// `AT_SECURE`-free facts that decide whether a process can be followed.
///
/// # Errors
/// [`Failure::Refused`]; nothing was touched.
pub(super) fn check(pid: i32, ours: bool) -> Result<(), Failure> {
    let lacking = inspect::lacking_capabilities();
    if !lacking.is_empty() {
        return Err(refused(
            "E215",
            format!(
                "the agent has not what it needs to follow a process: {}",
                lacking.join(", ")
            ),
        ));
    }
    let status = |field| inspect::status_field(pid, pid, field);
    let Some(state) = status("State") else {
        return Err(refused(
            "E200",
            format!("there is no process {pid}; find the server's pid with `pgrep -a NAME`"),
        ));
    };
    if pid == std::process::id() as i32 {
        return Err(refused("E201", "the agent cannot supervise itself"));
    }
    if status("Tgid").as_deref() != Some(pid.to_string().as_str()) {
        return Err(refused(
            "E202",
            format!(
                "{pid} is a thread of process {}; attach that one",
                status("Tgid").unwrap_or_default()
            ),
        ));
    }
    if state.starts_with(['Z', 'X']) {
        return Err(refused("E200", format!("process {pid} has ended already")));
    }
    let Ok(exe) = std::fs::File::open(format!("/proc/{pid}/exe")) else {
        return Err(refused(
            "E203",
            format!(
                "process {pid} has no program that can be read: a kernel thread, or you are not root"
            ),
        ));
    };
    if !ours {
        // A tracer stops its tracee now and then: that it is traced is what has to end.
        check_untouched(pid)?;
        if state.starts_with(['T', 't']) {
            return Err(refused("E204", TraceeError::Halted(pid).to_string()));
        }
    }
    check_class(pid, &exe)?;
    check_memory(pid)?;
    check_descriptors(pid)?;
    check_threads(pid)?;
    Vdso::of(pid).map_err(|e| refused("E212", e.to_string()))?;
    Ok(())
}

/// A 64-bit x86 program: `e_ident[EI_CLASS]` and `e_machine`.
fn check_class(pid: i32, exe: &std::fs::File) -> Result<(), Failure> {
    use std::os::unix::fs::FileExt;
    let mut head = [0u8; 20];
    let readable = exe.read_exact_at(&mut head, 0).is_ok();
    if !readable || &head[..4] != b"\x7fELF" {
        return Err(refused(
            "E203",
            format!("process {pid} does not run an ELF program"),
        ));
    }
    if head[4] != 2 || u16::from_le_bytes([head[18], head[19]]) != 62 {
        return Err(refused(
            "E205",
            format!("process {pid} is not a 64-bit x86 program; only those can be followed"),
        ));
    }
    Ok(())
}

/// As [`check_tree`]; a child process that is in the way may end within a second.
///
/// # Errors
/// Its last one.
pub(super) fn check_tree_soon(root: i32, ours: bool) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match check_tree(root, ours) {
            Err(_) if start.elapsed() < Duration::from_secs(1) => {
                let _ = poll(&mut [], PollTimeout::from(5u8));
            }
            outcome => return outcome,
        }
    }
}

/// Whether a process can be taken with all processes below it.
///
/// # Errors
/// [`Failure::Refused`]: code E214 when its copy cannot have children with the ids of its own, E213 for one that is
/// no mere fork, and any code of [`check`] for another reason; nothing was touched.
pub(super) fn check_tree(root: i32, ours: bool) -> Result<(), Failure> {
    pid_namespace::check(root).map_err(|e| refused("E214", e.to_string()))?;
    for pid in inspect::descendants(root) {
        // One that ends is none of the tree when that is stopped.
        if inspect::is_dying(pid) {
            continue;
        }
        let layout = rebuild::check_layout(pid, root).map_err(|e| refused("E213", e.to_string()));
        match layout.and_then(|()| check(pid, ours)) {
            Err(_) if inspect::is_dying(pid) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn check_untouched(pid: i32) -> Result<(), Failure> {
    for tid in inspect::threads(pid).unwrap_or_default() {
        if let Some(tracer) = inspect::status_field(pid, tid, "TracerPid").filter(|t| t != "0") {
            let comm = std::fs::read_to_string(format!("/proc/{tracer}/comm")).unwrap_or_default();
            return Err(refused(
                "E206",
                format!(
                    "process {pid} is traced by process {tracer} ({}); end that first",
                    comm.trim_end()
                ),
            ));
        }
        if inspect::status_field(pid, tid, "Seccomp").is_some_and(|mode| mode != "0") {
            return Err(refused(
                "E207",
                format!(
                    "process {pid} has a seccomp filter of its own; start it without one \
                     (systemd: SystemCallFilter=)"
                ),
            ));
        }
    }
    Ok(())
}

fn unreadable(pid: i32) -> Failure {
    refused(
        "E203",
        format!("the memory map of process {pid} cannot be read; are you root?"),
    )
}

fn check_memory(pid: i32) -> Result<(), Failure> {
    let maps = inspect::maps(pid).map_err(|_| unreadable(pid))?;
    // Its ring is writable shared memory, too; the message about that would be of no use.
    if maps.iter().any(|map| map.name.starts_with("/[aio]")) {
        return Err(refused(
            "E209",
            format!("process {pid} uses kernel AIO (io_setup), which cannot be followed"),
        ));
    }
    let uncopied = inspect::uncopied(pid).map_err(|_| unreadable(pid))?;
    let named = |map: &inspect::Mapping| {
        let name = if map.name.is_empty() {
            "anonymous"
        } else {
            &map.name
        };
        format!("{name} at {:#x}", map.start)
    };
    match uncopied {
        None => Ok(()),
        Some(Uncopied::Shared(map)) => Err(refused(
            "E208",
            format!(
                "process {pid} has shared memory that is writable, or can be made so ({}): what is written there is no \
                 system call and cannot be followed",
                named(&map)
            ),
        )),
        Some(Uncopied::Advised(map)) => Err(refused(
            "E208",
            format!(
                "process {pid} has memory that a copy of it would not have (MADV_DONTFORK or MADV_WIPEONFORK, {})",
                named(&map)
            ),
        )),
    }
}

fn check_descriptors(pid: i32) -> Result<(), Failure> {
    for (fd, _) in inspect::descriptors(pid).unwrap_or_default() {
        let target = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
        let target = target.to_string_lossy();
        for (kind, call) in [
            ("io_uring", "io_uring"),
            ("userfaultfd", "userfaultfd"),
            ("perf_event", "perf_event_open"),
        ] {
            if target.starts_with("anon_inode:") && target.contains(kind) {
                return Err(refused(
                    "E209",
                    format!(
                        "process {pid} uses {call} (descriptor {fd}), which cannot be followed; \
                         many servers can be told not to use it"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// All threads must have the same identity: the copies inherit that of the one that clones.
fn check_threads(pid: i32) -> Result<(), Failure> {
    for field in ["Uid", "Gid", "CapEff", "NoNewPrivs"] {
        let main = inspect::status_field(pid, pid, field);
        for tid in inspect::threads(pid).unwrap_or_default() {
            let theirs = inspect::status_field(pid, tid, field);
            if theirs.is_some() && theirs != main {
                return Err(refused(
                    "E210",
                    format!("thread {tid} of process {pid} has another {field} than its process"),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<(), Failure>) -> String {
        match result {
            Err(Failure::Refused { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_code() {
        assert_eq!(code(check(i32::MAX, false)), "E200");
        assert_eq!(code(check(std::process::id() as i32, false)), "E201");
        assert_eq!(code(check(2, false)), "E203", "kthreadd");
    }
}
