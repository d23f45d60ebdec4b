//! What procfs says about a process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;

pub use nix::sys::signal::Signal;

/// Value of one field of `/proc/PID/status` (`TracerPid`, `Seccomp`, `VmRSS` ...), or `None` when
/// the process or the field does not exist.
#[must_use]
pub fn status_field(pid: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field_of(&text, field)
}

fn field_of(status: &str, field: &str) -> Option<String> {
    status.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().to_owned())
    })
}

/// True when the process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    status_field(pid, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// True when no thread of the process is traced: `TracerPid: 0` in each.
#[must_use]
pub fn is_untraced(pid: i32) -> bool {
    every_thread_has(pid, "TracerPid", "0")
}

/// True when no thread of the process has a seccomp filter: `Seccomp: 0` in each.
#[must_use]
pub fn is_unfiltered(pid: i32) -> bool {
    every_thread_has(pid, "Seccomp", "0")
}

fn every_thread_has(pid: i32, field: &str, value: &str) -> bool {
    let threads = threads(pid);
    !threads.is_empty()
        && statuses(pid, &threads).all(|text| field_of(&text, field).as_deref() == Some(value))
}

/// `/proc/PID/task/TID/status` of each of these threads. One that has ended since they were listed has none any more.
fn statuses(pid: i32, threads: &[i32]) -> impl Iterator<Item = String> {
    threads
        .iter()
        .filter_map(move |tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok())
}

/// True when all threads of the process stand in some stop: `T` or, of a traced one, `t`.
#[must_use]
pub fn stands(pid: i32) -> bool {
    let threads = threads(pid);
    let is_stop = |state: String| state.starts_with(['T', 't']);
    !threads.is_empty()
        && statuses(pid, &threads).all(|text| field_of(&text, "State").is_some_and(is_stop))
}

/// Ids of the threads; empty when the process does not exist.
#[must_use]
pub fn threads(pid: i32) -> Vec<i32> {
    numbers_in(&format!("/proc/{pid}/task"))
}

/// The CPUs on which the threads of the process may run, as the kernel lists them, each list once.
#[must_use]
pub fn allowed_cpus(pid: i32) -> BTreeSet<String> {
    statuses(pid, &threads(pid))
        .filter_map(|text| field_of(&text, "Cpus_allowed_list"))
        .collect()
}

/// Open file descriptors; empty when the process does not exist.
#[must_use]
pub fn descriptors(pid: i32) -> Vec<i32> {
    numbers_in(&format!("/proc/{pid}/fd"))
}

/// What every open descriptor is: the text of its link in `/proc/PID/fd`.
#[must_use]
pub fn descriptor_targets(pid: i32) -> BTreeMap<i32, PathBuf> {
    descriptors(pid)
        .into_iter()
        .filter_map(|fd| Some((fd, fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?)))
        .collect()
}

/// The bytes of the process's vDSO.
///
/// # Errors
/// When the process does not exist, has none, or must not be read.
pub fn vdso(pid: i32) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let (start, end) = maps
        .lines()
        .find(|line| line.ends_with("[vdso]"))
        .and_then(|line| line.split(' ').next()?.split_once('-'))
        .and_then(|(start, end)| {
            let number = |hex| u64::from_str_radix(hex, 16).ok();
            Some((number(start)?, number(end)?))
        })
        .ok_or_else(|| io::Error::other(format!("process {pid} has no vDSO")))?;
    let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
    fs::File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

/// Sends a signal to a process.
///
/// # Errors
/// When it does not exist.
pub fn send(pid: i32, signal: Signal) -> io::Result<()> {
    Ok(nix::sys::signal::kill(Pid::from_raw(pid), signal)?)
}

/// Processes that run this very program file; zombies do not.
#[must_use]
pub fn with_program(program: &std::path::Path) -> Vec<i32> {
    let runs =
        |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
    all().into_iter().filter(runs).collect()
}

/// All processes that live and have `word` in their command line and whose parent has not.
#[must_use]
pub fn roots_with_argument(word: &str) -> Vec<i32> {
    let has = |pid: i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            String::from_utf8_lossy(&line)
                .split('\0')
                .any(|w| w == word)
        })
    };
    let is_root = |pid: &i32| {
        let parent = status_field(*pid, "PPid").and_then(|parent| parent.parse().ok());
        has(*pid) && !parent.is_some_and(has)
    };
    all().into_iter().filter(is_root).collect()
}

/// Direct children, zombies included.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    all()
        .into_iter()
        .filter(|&child| {
            status_field(child, "PPid").is_some_and(|parent| parent == pid.to_string())
        })
        .collect()
}

/// Children, their children and so on: parents before their children, zombies not included.
#[must_use]
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in children(parent).into_iter().filter(|&pid| is_alive(pid)) {
            found.push(child);
            parents.push(child);
        }
    }
    found
}

/// Processes that have a file open which lies below `folder`.
#[must_use]
pub fn with_file_below(folder: &std::path::Path) -> Vec<i32> {
    let has = |&pid: &i32| {
        descriptor_targets(pid)
            .values()
            .any(|target| target.starts_with(folder))
    };
    all().into_iter().filter(has).collect()
}

/// Direct children that have ended and were not waited for.
#[must_use]
pub fn zombie_children(pid: i32) -> Vec<i32> {
    let is_zombie = |&child: &i32| status_field(child, "State").is_some_and(|s| s.starts_with('Z'));
    children(pid).into_iter().filter(is_zombie).collect()
}

/// Resident memory in KiB (`VmRSS`).
#[must_use]
pub fn resident_kib(pid: i32) -> Option<u64> {
    status_field(pid, "VmRSS")?.split(' ').next()?.parse().ok()
}

/// Memory in KiB that only this process has (`Private_Dirty` and `Private_Clean` of
/// `smaps_rollup`): for a follower, what it costs on top of its leader.
#[must_use]
pub fn private_kib(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |field| {
        field_of(&text, field)?
            .split(' ')
            .next()?
            .parse::<u64>()
            .ok()
    };
    Some(kib("Private_Dirty")? + kib("Private_Clean")?)
}

/// CPU time (user and system) that all living threads of the process have used.
///
/// Read from `/proc/PID/task/*/schedstat`, in nanoseconds: `utime` and `stime` of `stat` count ticks
/// of 10 ms.
///
/// # Errors
/// When the process does not exist or the kernel has no `CONFIG_SCHED_INFO`.
pub fn cpu_time(pid: i32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for tid in threads(pid) {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")) else {
            continue;
        };
        nanoseconds += text
            .split(' ')
            .next()
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0);
    }
    match nanoseconds {
        0 => Err(io::Error::other(format!(
            "no CPU time of process {pid} in /proc/{pid}/task/*/schedstat"
        ))),
        n => Ok(Duration::from_nanos(n)),
    }
}

/// Processes that hold a listening TCP socket on `port`, whatever their parent: after a promotion
/// another process serves than the one that was started.
#[must_use]
pub fn listeners(port: u16) -> Vec<i32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let holds = |&pid: &i32| {
        descriptors(pid).iter().any(|fd| {
            fs::read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|target| {
                target
                    .to_str()
                    .is_some_and(|t| inodes.iter().any(|i| i == t))
            })
        })
    };
    all().into_iter().filter(holds).collect()
}

/// Inodes of the sockets in state LISTEN (`0A`) on `port`, from the text of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
            if listens {
                fields.get(9)?.parse().ok()
            } else {
                None
            }
        })
        .collect()
}

/// Ids of all processes.
fn all() -> Vec<i32> {
    numbers_in("/proc")
}

fn numbers_in(folder: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> i32 {
        i32::try_from(std::process::id()).expect("process ids are positive")
    }

    #[test]
    fn reads_this_very_process() {
        assert!(is_alive(me()));
        assert!(threads(me()).contains(&nix::unistd::gettid().as_raw()));
        assert!(descriptors(me()).contains(&0));
        assert!(resident_kib(me()).is_some_and(|kib| kib > 100));
        assert!(cpu_time(me()).is_ok_and(|time| time > Duration::ZERO));
    }

    #[test]
    fn a_missing_process_is_neither_alive_nor_bare() {
        let nobody = i32::MAX;
        assert!(!is_alive(nobody));
        assert!(!is_untraced(nobody));
        assert!(!is_unfiltered(nobody));
        assert!(cpu_time(nobody).is_err());
    }

    #[test]
    fn finds_the_zombie_of_a_child_that_was_not_waited_for() {
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("true exists");
        let pid = i32::try_from(child.id()).expect("process ids are positive");
        let seen = crate::wait_until(Duration::from_secs(10), || {
            zombie_children(me()).contains(&pid)
        });
        child.wait().expect("reap");
        assert!(seen);
        assert!(!zombie_children(me()).contains(&pid));
    }

    #[test]
    fn finds_who_listens() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        assert_eq!(listeners(port), [me()]);
        drop(socket);
        assert!(!listeners(port).contains(&me()));
    }

    #[test]
    fn only_listening_sockets_of_that_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
             1: 0100007F:18EB 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n\
             2: 0100007F:18EC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n";
        assert_eq!(listening_inodes(table, 0x18eb), [4711]);
    }
}
