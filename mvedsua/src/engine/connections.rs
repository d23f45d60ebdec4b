//! Which descriptors of a process are connected stream sockets, and which stand for the same stream.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use procfs::net::{TcpState, UnixState};
use procfs::process::{FDTarget, Process};

/// Descriptors of a process that are connections now, for rules over messages: TCP sockets that can still
/// read or write, and connected Unix stream sockets. What cannot be read of a process that ends is left
/// out.
pub(super) fn of(pid: i32) -> Vec<i32> {
    let Ok(process) = Process::new(pid) else {
        return Vec::new();
    };
    let tcp = [process.tcp(), process.tcp6()]
        .into_iter()
        .flatten()
        .flatten()
        .filter(|socket| {
            matches!(
                socket.state,
                TcpState::Established
                    | TcpState::FinWait1
                    | TcpState::FinWait2
                    | TcpState::CloseWait
                    | TcpState::SynRecv
            )
        })
        .map(|socket| socket.inode);
    let unix = process
        .unix()
        .into_iter()
        .flatten()
        .filter(|socket| {
            socket.state == UnixState::CONNECTED
                && i32::from(socket.socket_type) == libc::SOCK_STREAM
        })
        .map(|socket| socket.inode);
    let connected: HashSet<u64> = tcp.chain(unix).collect();
    let Ok(descriptors) = process.fd() else {
        return Vec::new();
    };
    descriptors
        .flatten()
        .filter(|fd| matches!(fd.target, FDTarget::Socket(inode) if connected.contains(&inode)))
        .map(|fd| fd.fd)
        .collect()
}

/// Descriptors of a process that stand for the same socket, or for the reading end of the same pipe: what one
/// of them reads the others do not. Those that nothing else stands for are left out.
pub(super) fn duplicates(pid: i32) -> Vec<Vec<i32>> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let mut streams: HashMap<PathBuf, Vec<i32>> = HashMap::new();
    for entry in entries.flatten() {
        // "socket:[number]", "pipe:[number]".
        if let Ok(stream) = std::fs::read_link(entry.path())
            && ["socket:[", "pipe:["]
                .iter()
                .any(|kind| stream.to_string_lossy().starts_with(kind))
            && let Some(fd) = entry.file_name().to_str().and_then(|fd| fd.parse().ok())
        {
            streams.entry(stream).or_default().push(fd);
        }
    }
    let mut duplicates = Vec::new();
    for (_, mut of) in streams {
        if of.len() > 1 {
            of.retain(|fd| !only_writes(pid, *fd));
            of.sort_unstable();
        }
        if of.len() > 1 {
            duplicates.push(of);
        }
    }
    duplicates
}

fn only_writes(pid: i32, fd: i32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE == libc::O_WRONLY)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn duplicates_are_found_and_the_ends_of_a_pipe_are_two() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let again = one.try_clone().expect("a duplicate");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let also = reader.try_clone().expect("a duplicate");
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let found = super::duplicates(pid);
        let group = |fd: i32| found.iter().find(|group| group.contains(&fd));
        let mut pair = [one.as_raw_fd(), again.as_raw_fd()];
        pair.sort_unstable();
        assert_eq!(
            group(pair[0]).map(Vec::as_slice),
            Some(&pair[..]),
            "{found:?}"
        );
        assert_eq!(group(other.as_raw_fd()), None);
        assert_eq!(group(writer.as_raw_fd()), None);
        let ends = group(reader.as_raw_fd()).expect("the reading ends");
        assert!(
            ends.contains(&also.as_raw_fd()) && ends.len() == 2,
            "{found:?}"
        );
    }

    #[test]
    fn connections_are_told_from_other_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (server, _) = listener.accept().expect("accepts");
        let (one, other) = UnixStream::pair().expect("a pair");
        let (datagrams, _other) = UnixDatagram::pair().expect("a pair");
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let found = super::of(pid);
        for (fd, connected) in [
            (listener.as_raw_fd(), false),
            (client.as_raw_fd(), true),
            (server.as_raw_fd(), true),
            (one.as_raw_fd(), true),
            (other.as_raw_fd(), true),
            (datagrams.as_raw_fd(), false),
            (0, false),
        ] {
            assert_eq!(found.contains(&fd), connected, "descriptor {fd}: {found:?}");
        }
    }
}
