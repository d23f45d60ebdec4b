//! What `/proc` says about a process: memory map, threads, whether it can be followed at all.

use std::time::Duration;

use super::{Naming, Result};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub execute: bool,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// File or `[name]`; empty for anonymous memory.
    pub name: String,
}

/// The memory map of a process.
///
/// # Errors
/// When the process is gone.
pub fn maps(pid: i32) -> Result<Vec<Mapping>> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/maps")).named("read the memory map", pid)?;
    Ok(text.lines().filter_map(parse_mapping).collect())
}

fn parse_mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let (_device, _inode) = (fields.next()?, fields.next()?);
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        write: permissions.get(1) == Some(&b'w'),
        execute: permissions.get(2) == Some(&b'x'),
        shared: permissions.get(3) == Some(&b's'),
        offset,
        name: fields.next().unwrap_or("").trim_start().to_owned(),
    })
}

/// A mapping that a copy of its process would not have as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uncopied {
    /// Shared, and written to or made writable at will (`mprotect(2)`, which is no write that could be compared).
    Shared(Mapping),
    /// Not in a copy (`MADV_DONTFORK`), or zeroed there (`MADV_WIPEONFORK`).
    Advised(Mapping),
}

/// The first such mapping of a process, by the `VmFlags` of `/proc/PID/smaps`.
///
/// # Errors
/// When the process is gone.
pub fn uncopied(pid: i32) -> Result<Option<Uncopied>> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/smaps")).named("read the memory map", pid)?;
    Ok(parse_uncopied(&text))
}

fn parse_uncopied(smaps: &str) -> Option<Uncopied> {
    let mut mapping = None;
    for line in smaps.lines() {
        let Some(flags) = line.strip_prefix("VmFlags:") else {
            // The lines with numbers are `Title: 12 kB`.
            if !line.ends_with(" kB") {
                mapping = parse_mapping(line).or(mapping);
            }
            continue;
        };
        let has = |flag| flags.split_whitespace().any(|word| word == flag);
        if has("sh") && has("mw") {
            return mapping.map(Uncopied::Shared);
        }
        // What may be dropped at any moment (the state of `getrandom` in the vDSO) may be zero, too.
        if has("dc") || has("wf") && !has("dp") {
            return mapping.map(Uncopied::Advised);
        }
    }
    None
}

/// What the kernel told a process when it began to run its program, under a key (`AT_*`) of its auxiliary vector.
///
/// # Errors
/// When the process is gone.
pub fn auxiliary(pid: i32, key: u64) -> Result<Option<u64>> {
    let vector =
        std::fs::read(format!("/proc/{pid}/auxv")).named("read the auxiliary vector", pid)?;
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let mut pairs = vector.chunks_exact(16);
    let found = pairs.find(|pair| word(&pair[..8]) == key);
    Ok(found.map(|pair| word(&pair[8..])))
}

/// The thread ids of a process.
///
/// # Errors
/// When the process is gone.
pub fn threads(pid: i32) -> Result<Vec<i32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).named("list the threads", pid)?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// The descriptors of a process, with their close-on-exec flag.
///
/// # Errors
/// When the process is gone.
pub fn descriptors(pid: i32) -> Result<Vec<(i32, bool)>> {
    let entries =
        std::fs::read_dir(format!("/proc/{pid}/fd")).named("list the descriptors", pid)?;
    let mut all: Vec<(i32, bool)> = entries
        .flatten()
        .filter_map(|entry| {
            let fd: i32 = entry.file_name().to_str()?.parse().ok()?;
            let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
            Some((fd, flags & libc::O_CLOEXEC != 0))
        })
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// One descriptor that an epoll instance watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The epoll instance.
    pub epfd: i32,
    /// The descriptor, as it was numbered when it was registered.
    pub fd: i32,
    /// The event mask.
    pub events: u32,
    /// The data word.
    pub data: u64,
}

/// What the epoll instances of a process watch (`tfd:` lines of `/proc/PID/fdinfo`).
///
/// # Errors
/// When the process is gone.
pub fn epoll_registrations(pid: i32) -> Result<Vec<Watched>> {
    let entries =
        std::fs::read_dir(format!("/proc/{pid}/fd")).named("list the descriptors", pid)?;
    let mut all = Vec::new();
    for entry in entries.flatten() {
        let is_epoll = std::fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]");
        if let (true, Some(epfd)) = (
            is_epoll,
            entry.file_name().to_str().and_then(|n| n.parse().ok()),
        ) {
            let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{epfd}"))
                .named("read an epoll instance", pid)?;
            all.extend(info.lines().filter_map(|line| parse_watched(epfd, line)));
        }
    }
    Ok(all)
}

/// `tfd:        5 events:       19 data:     55d0c0ffee  pos:0 ino:4d sdev:f`
fn parse_watched(epfd: i32, line: &str) -> Option<Watched> {
    let mut words = line.split_whitespace();
    let mut after = |title: &str| (words.next()? == title).then(|| words.next())?;
    Some(Watched {
        epfd,
        fd: after("tfd:")?.parse().ok()?,
        events: u32::from_str_radix(after("events:")?, 16).ok()?,
        data: u64::from_str_radix(after("data:")?, 16).ok()?,
    })
}

/// A process leads a session that has a controlling terminal: when it ends, the kernel hangs that up
/// (`disassociate_ctty`), and with it whoever took its place in the session.
#[must_use]
pub fn leads_a_terminal(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may have blanks and brackets: state, parent, process group, session, terminal.
    let mut words = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    let session = words.nth(3).and_then(|word| word.parse().ok());
    session == Some(pid) && words.next().is_some_and(|terminal| terminal != "0")
}

/// One field of `/proc/PID/status` (or of a thread's), trimmed.
#[must_use]
pub fn status_field(pid: i32, tid: i32, field: &str) -> Option<String> {
    status_line(&status(pid, tid)?, field).map(str::to_owned)
}

/// The whole `/proc/PID/status` of a thread, for several fields.
#[must_use]
pub fn status(pid: i32, tid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()
}

/// One field of it, trimmed.
#[must_use]
pub fn status_line<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(str::trim)
}

/// A set of signals or capabilities of `/proc/PID/status` (or of a thread's); empty when it is gone.
#[must_use]
pub fn status_mask(pid: i32, tid: i32, field: &str) -> u64 {
    mask_of(status_field(pid, tid, field).as_deref())
}

/// The system call that a thread is inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentCall {
    /// Its number.
    pub nr: u16,
    /// Its six argument registers.
    pub args: [u64; 6],
    /// The instruction after the `syscall`.
    pub instruction_pointer: u64,
}

/// The system call that a thread is inside of and does not run in (`/proc/PID/task/TID/syscall`); `None` when it
/// runs, is inside none, or is gone.
#[must_use]
pub fn current_call(pid: i32, tid: i32) -> Option<CurrentCall> {
    parse_call(&std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?)
}

fn parse_call(line: &str) -> Option<CurrentCall> {
    let mut words = line.split_whitespace();
    let nr = words.next()?.parse().ok()?;
    let mut numbers = [0u64; 8];
    for number in &mut numbers {
        *number = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    let [args @ .., _stack_pointer, instruction_pointer] = numbers;
    Some(CurrentCall {
        nr,
        args,
        instruction_pointer,
    })
}

/// Bit numbers in `CapEff` (`linux/capability.h`).
const NEEDED_CAPABILITIES: [(u32, &str); 3] = [
    (5, "CAP_KILL"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
];

/// The capabilities that this process would need to follow others, and has not.
#[must_use]
pub fn lacking_capabilities() -> Vec<&'static str> {
    let own = std::process::id() as i32;
    let held = status_mask(own, own, "CapEff");
    let lacking = NEEDED_CAPABILITIES
        .iter()
        .filter(|(bit, _)| held & (1 << bit) == 0);
    lacking.map(|(_, name)| *name).collect()
}

/// A `SIGSTOP` waits for this thread alone: the recorder signals one thread, others signal the process.
#[must_use]
pub fn stop_is_pending(pid: i32, tid: i32) -> bool {
    status_mask(pid, tid, "SigPnd") & (1 << (libc::SIGSTOP - 1)) != 0
}

fn mask_of(hex: Option<&str>) -> u64 {
    hex.and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .unwrap_or(0)
}

/// The process that a thread belongs to; `None` when it is gone.
#[must_use]
pub fn process_of(tid: i32) -> Option<i32> {
    status_field(tid, tid, "Tgid")?.parse().ok()
}

/// The ids of a thread in every pid namespace that it has one in, from the agent's on; its own is the last
/// (`NSpid:`). Empty when it is gone.
#[must_use]
pub fn ids(tid: i32) -> Vec<i32> {
    status_field(tid, tid, "NSpid")
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// The id of a thread as it sees it itself: that of its own pid namespace. `tid` when it is gone.
#[must_use]
pub fn own_id(tid: i32) -> i32 {
    ids(tid).last().copied().unwrap_or(tid)
}

/// The process is gone, a zombie, or about to die of a `SIGKILL`.
#[must_use]
pub fn is_dying(pid: i32) -> bool {
    let kill = 1u64 << (libc::SIGKILL - 1);
    let killed = |field| status_mask(pid, pid, field) & kill != 0;
    thread_has_ended(pid, pid) || killed("SigPnd") || killed("ShdPnd")
}

/// None of its threads lives any more, be it that its parent has not taken notice yet.
#[must_use]
pub fn has_ended(pid: i32) -> bool {
    let ended = threads(pid).map_or(true, |tids| {
        tids.iter().all(|tid| thread_has_ended(pid, *tid))
    });
    // A thread that executes another program takes the id of the main one, which has ended: it was looked for under its
    // own before.
    ended && thread_has_ended(pid, pid)
}

/// The thread is gone, or will run no more.
#[must_use]
pub fn thread_has_ended(pid: i32, tid: i32) -> bool {
    status_field(pid, tid, "State").is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// How long a thread has run on a CPU so far, as of its last clock tick there. `None` when it is gone, or the kernel
/// does not count it.
#[must_use]
pub fn run_time(pid: i32, tid: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let nanoseconds = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// The thread sleeps in the kernel: it has left the call before that one for good.
#[must_use]
pub fn is_asleep(pid: i32, tid: i32) -> bool {
    // The name of the program, in parentheses, may hold anything.
    std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).is_ok_and(
        |text| matches!(text.rsplit_once(") "), Some((_, rest)) if rest.starts_with(['S', 'D'])),
    )
}

/// Bit n-1 set: signal n waits for this thread and is not blocked.
#[must_use]
pub fn deliverable_signals(pid: i32, tid: i32) -> u64 {
    deliverable(&status(pid, tid).unwrap_or_default())
}

fn deliverable(status: &str) -> u64 {
    let mask = |field| mask_of(status_line(status, field));
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk")
}

/// The same, without those that [do nothing](has_no_effect): these it would natively never hear of.
#[must_use]
pub fn disturbing_signals(pid: i32, tid: i32) -> u64 {
    let text = status(pid, tid).unwrap_or_default();
    deliverable(&text) & !without_effect(&text)
}

/// The program ignores this signal, or has no handler for one that is ignored by default. Natively the kernel drops it
/// as it is sent; of a traced process it is queued all the same, and interrupts what its thread waits in.
#[must_use]
pub fn has_no_effect(pid: i32, tid: i32, signal: i32) -> bool {
    let text = status(pid, tid).unwrap_or_default();
    without_effect(&text) & bit(signal) != 0
}

/// The program neither handles nor ignores this signal. A fault that its thread has blocked, or that is ignored, is one
/// of these by the time it is reported (`force_sig_info_to_task`).
#[must_use]
pub fn is_left_to_default(pid: i32, tid: i32, signal: i32) -> bool {
    let text = status(pid, tid).unwrap_or_default();
    let mask = |field| mask_of(status_line(&text, field));
    (mask("SigCgt") | mask("SigIgn")) & bit(signal) == 0
}

fn without_effect(status: &str) -> u64 {
    let mask = |field| mask_of(status_line(status, field));
    let by_default =
        bit(libc::SIGCHLD) | bit(libc::SIGCONT) | bit(libc::SIGURG) | bit(libc::SIGWINCH);
    mask("SigIgn") | (by_default & !mask("SigCgt"))
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Bit n-1 set: the process of this thread has a handler for signal n. (Its main thread may have ended.)
#[must_use]
pub fn caught_signals(pid: i32, tid: i32) -> u64 {
    status_mask(pid, tid, "SigCgt")
}

/// The parent of a process; `None` when it is gone.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    status_field(pid, pid, "PPid")?.parse().ok()
}

/// Live child processes of a process, whichever thread made them.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(tids) = threads(pid) else {
        return Vec::new();
    };
    tids.iter()
        .filter_map(|tid| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// All processes below a process, parents before their children.
#[must_use]
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut all = children(pid);
    let mut at = 0;
    while at < all.len() {
        let more = children(all[at]);
        all.extend(more);
        at += 1;
    }
    all
}

/// The systemd service that a process belongs to, by its control group: the innermost unit, if that is a service.
#[must_use]
pub fn service_unit(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    parse_service_unit(&text)
}

fn parse_service_unit(cgroups: &str) -> Option<String> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if !controllers.is_empty() && controllers != "name=systemd" {
            return None;
        }
        let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
        let unit = path.rsplit('/').find(is_unit)?;
        unit.ends_with(".service").then(|| unit.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_when_a_thread_is_inside_one() {
        let line = "232 0x5 0x7f01 0x2790 0x64 0x0 0x0 0x7ffc10 0x7f3422\n";
        let call = parse_call(line).expect("parses");
        assert_eq!((call.nr, call.instruction_pointer), (232, 0x7f_3422));
        assert_eq!(call.args, [5, 0x7f01, 0x2790, 0x64, 0, 0]);
        assert_eq!(parse_call("running\n"), None);
        assert_eq!(parse_call("-1 0x7ffc10 0x7f3422\n"), None);
    }

    #[test]
    fn what_a_copy_would_not_have_is_found() {
        let of = |permissions: &str, flags: &str| {
            parse_uncopied(&format!(
                "1000-2000 r-xp 00000000 00:01 42    /bin/a\nSize:   4 kB\nTHPeligible:    0\nVmFlags: rd ex mr mw me \n\
                 7f00-7f10 {permissions} 00000000 00:01 43    /tmp/b\nSize:   4 kB\nTHPeligible:    0\nVmFlags: {flags} \n"
            ))
        };
        assert_eq!(of("rw-p", "rd wr mr mw me ac"), None);
        assert_eq!(of("r--s", "rd mr me ms"), None);
        assert!(
            matches!(of("r--s", "rd sh mr mw me ms"), Some(Uncopied::Shared(map)) if map.name == "/tmp/b")
        );
        assert!(
            matches!(of("rw-p", "rd wr mr mw me dc"), Some(Uncopied::Advised(map)) if map.start == 0x7f00)
        );
        assert!(matches!(
            of("rw-p", "rd wr mr mw me wf"),
            Some(Uncopied::Advised(_))
        ));
    }

    #[test]
    fn a_maps_line_with_spaces_in_the_name() {
        let map = parse_mapping("7f00-7f10 rw-s 00001000 00:01 42    /tmp/a file (deleted)")
            .expect("parses");
        assert_eq!(
            map,
            Mapping {
                start: 0x7f00,
                end: 0x7f10,
                write: true,
                execute: false,
                shared: true,
                offset: 0x1000,
                name: "/tmp/a file (deleted)".into()
            }
        );
    }

    #[test]
    fn a_signal_that_is_ignored_has_no_effect() {
        let (child, usr1, winch) = (libc::SIGCHLD, libc::SIGUSR1, libc::SIGWINCH);
        let status = |ignored: i32, caught: i32| {
            format!(
                "Name:\tx\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
                bit(ignored),
                bit(caught)
            )
        };
        let idle = without_effect(&status(usr1, child));
        assert_eq!(
            idle & (bit(child) | bit(usr1) | bit(winch)),
            bit(usr1) | bit(winch)
        );
        // Ignored in so many words.
        assert_ne!(without_effect(&status(child, usr1)) & bit(child), 0);
        assert_eq!(
            without_effect(&status(child, winch)) & (bit(usr1) | bit(winch)),
            0
        );
    }

    #[test]
    fn a_watched_descriptor_is_read() {
        let line = "tfd:        5 events:       19 data:     55d0c0ffee  pos:0 ino:4d sdev:f";
        let watched = Watched {
            epfd: 3,
            fd: 5,
            events: 0x19,
            data: 0x55_d0c0_ffee,
        };
        assert_eq!(parse_watched(3, line), Some(watched));
        assert_eq!(parse_watched(3, "flags:\t02"), None);
    }

    #[test]
    fn the_unit_is_found_in_both_kinds_of_hierarchy() {
        let unit = Some("redis-server.service".to_owned());
        assert_eq!(
            parse_service_unit("0::/system.slice/redis-server.service\n"),
            unit
        );
        let legacy = "4:cpu:/a.service\n1:name=systemd:/system.slice/redis-server.service/sub\n";
        assert_eq!(parse_service_unit(legacy), unit);
        assert_eq!(parse_service_unit("0::/user.slice/session-1.scope\n"), None);
        let terminal =
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/terminal.scope\n";
        assert_eq!(parse_service_unit(terminal), None);
    }
}
