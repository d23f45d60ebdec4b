//! A datagram in the name of another process: `SCM_CREDENTIALS` of unix(7).
//!
//! Whoever receives it with `SO_PASSCRED` sees the process that the sender names, with the id that it has in the
//! receiver's pid namespace. The kernel lets a sender with `CAP_SYS_ADMIN` name any process that exists.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};

use super::Result;

/// Sends `text` as the process `pid`, with our own user and group.
///
/// # Errors
/// `ESRCH` for a process that does not exist, `EPERM` without the capability; whatever else `sendmsg(2)` says.
pub fn send_as(socket: &UnixDatagram, pid: i32, text: &[u8]) -> Result<()> {
    super::mortal::step();
    let credentials = UnixCredentials::from(libc::ucred {
        pid,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
    });
    send(
        socket,
        text,
        &[ControlMessage::ScmCredentials(&credentials)],
    )
}

/// Sends `text` with a duplicate of a descriptor.
///
/// # Errors
/// Whatever `sendmsg(2)` says.
pub fn send_with(socket: &UnixDatagram, fd: BorrowedFd<'_>, text: &[u8]) -> Result<()> {
    send(
        socket,
        text,
        &[ControlMessage::ScmRights(&[fd.as_raw_fd()])],
    )
}

fn send(socket: &UnixDatagram, text: &[u8], control: &[ControlMessage<'_>]) -> Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(text)],
        control,
        flags,
        None,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::process::Command;

    use nix::sys::socket::{ControlMessageOwned, recvmsg, setsockopt, sockopt};

    use super::*;

    #[test]
    fn the_receiver_sees_the_process_that_was_named() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        setsockopt(&theirs, sockopt::PassCred, &true).unwrap();
        let mut other = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        let sent = send_as(&ours, pid, b"MAINPID=7");
        if !nix::unistd::geteuid().is_root() {
            // Only who has the privilege may.
            other.kill().unwrap();
            other.wait().unwrap();
            assert!(sent.is_err());
            return;
        }
        sent.unwrap();
        let mut text = [0; 64];
        let mut parts = [IoSliceMut::new(&mut text)];
        let mut space = nix::cmsg_space!(UnixCredentials);
        let flags = MsgFlags::empty();
        let message =
            recvmsg::<()>(theirs.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
        let seen = message.cmsgs().unwrap().find_map(|control| match control {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
            _ => None,
        });
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(seen, Some(pid));
        assert!(
            send_as(&ours, pid, b"x").is_err(),
            "nobody speaks for a process that is gone"
        );
    }
}
