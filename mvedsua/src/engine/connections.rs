//! Which descriptors of a process are connected stream sockets.

use std::collections::HashSet;

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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

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
