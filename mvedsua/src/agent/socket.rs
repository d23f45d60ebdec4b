//! The control socket: one agent per socket, and who may speak to it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group, User};
use tokio::net::{UnixListener, UnixStream};

use super::refusal::Refusal;

/// A group whose members may command the agent besides root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedGroup {
    name: String,
    gid: Gid,
}

impl AllowedGroup {
    /// The group of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self, Refusal> {
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Self {
                name: group.name,
                gid: group.gid,
            }),
            _ => Err(Refusal::NoSuchGroup { group: name.into() }),
        }
    }

    fn has_member(&self, uid: u32, gid: u32) -> bool {
        if gid == self.gid.as_raw() {
            return true;
        }
        let Ok(Some(user)) = User::from_uid(uid.into()) else {
            return false;
        };
        let Ok(name) = std::ffi::CString::new(user.name) else {
            return false;
        };
        nix::unistd::getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&self.gid))
    }
}

/// The listening socket. Its file goes when it is dropped; the lock is held until then.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    group: Option<AllowedGroup>,
    _lock: Flock<File>,
}

/// Makes the folder that the socket lies in, unless it is there: 0755, ours.
///
/// # Errors
/// It cannot be made.
pub fn make_folder_of(socket: &Path) -> Result<(), Refusal> {
    let Some(folder) = socket.parent().filter(|f| !f.as_os_str().is_empty()) else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|source| Refusal::Socket {
            what: "make the folder",
            path: folder.into(),
            source,
        })
}

/// Takes the lock that makes this agent the only one on its socket. The kernel releases it when
/// the agent ends, however it ends.
fn lock(socket: &Path) -> Result<Flock<File>, Refusal> {
    let path = socket.with_extension("lock");
    let fail = |source| Refusal::Socket {
        what: "lock",
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // it may hold the process id of the agent that runs
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| writeln!(&mut *lock, "{}", std::process::id()))
                .map_err(fail)?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let pid = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            Err(Refusal::SecondAgent {
                socket: socket.into(),
                pid,
            })
        }
        Err((_, error)) => Err(fail(error.into())),
    }
}

impl ControlSocket {
    /// Starts to listen. A socket file that a killed agent left behind is replaced.
    ///
    /// # Errors
    /// Another agent serves this socket, or it cannot be made.
    pub fn listen(path: &Path, group: Option<AllowedGroup>) -> Result<Self, Refusal> {
        make_folder_of(path)?;
        let lock = lock(path)?;
        // Made under another name and renamed, so that nobody can connect before the permissions
        // are what they should be.
        let new = path.with_extension("new");
        let fail = |what| {
            let path = path.to_owned();
            move |source: io::Error| Refusal::Socket { what, path, source }
        };
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fail("replace")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(fail("listen on"))?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(&new, Permissions::from_mode(mode)).map_err(fail("protect"))?;
        if let Some(group) = &group {
            std::os::unix::fs::chown(&new, None, Some(group.gid.as_raw()))
                .map_err(fail("hand over"))?;
        }
        fs::rename(&new, path).map_err(fail("replace"))?;
        Ok(Self {
            listener,
            path: path.into(),
            group,
            _lock: lock,
        })
    }

    /// Waits for the next connection. Who it is must yet be checked with [`Gate::check`].
    ///
    /// # Errors
    /// What `accept` says, e.g. that there are no more file descriptors.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Who may come in.
    #[must_use]
    pub fn gate(&self) -> Gate {
        Gate {
            group: self.group.clone(),
            own_uid: nix::unistd::geteuid().as_raw(),
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // If it is gone already, all the better.
        let _ = fs::remove_file(&self.path);
    }
}

/// Decides who may command the agent, by the kernel's word (`SO_PEERCRED`) and not by the file's
/// mode alone: the mode can be changed by mistake, and a file descriptor can be passed on.
#[derive(Clone, Debug)]
pub struct Gate {
    group: Option<AllowedGroup>,
    own_uid: u32,
}

impl Gate {
    /// Root, the user that the agent runs as, and members of the group may come in. May ask the
    /// user database, i.e. block.
    ///
    /// # Errors
    /// The peer is somebody else.
    pub fn check(&self, uid: u32, gid: u32) -> Result<(), Refusal> {
        let member = |group: &AllowedGroup| group.has_member(uid, gid);
        if uid == 0 || uid == self.own_uid || self.group.as_ref().is_some_and(member) {
            return Ok(());
        }
        Err(Refusal::NotPermitted {
            uid,
            group: self.group.as_ref().map(|g| g.name.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_unique_and_cleaned_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/control.sock");
        let socket = ControlSocket::listen(&path, None).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        match ControlSocket::listen(&path, None) {
            Err(Refusal::SecondAgent { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("a second agent: {other:?}"),
        }
        assert!(
            path.exists(),
            "the refused one must not remove the socket of the first"
        );
        drop(socket);
        assert!(!path.exists());
        // A file left behind by an agent that was killed is no obstacle.
        fs::write(&path, "").unwrap();
        drop(ControlSocket::listen(&path, None).unwrap());
    }

    #[test]
    fn only_root_the_agent_itself_and_the_group_come_in() {
        let group = AllowedGroup {
            name: "g".into(),
            gid: Gid::from_raw(4_000_000),
        };
        let gate = |group| Gate {
            group,
            own_uid: 1234,
        };
        assert!(gate(None).check(0, 0).is_ok());
        assert!(gate(None).check(1234, 99).is_ok());
        assert_eq!(gate(None).check(65534, 65534).unwrap_err().code(), "E103");
        assert!(gate(Some(group.clone())).check(65534, 4_000_000).is_ok());
        assert!(gate(Some(group)).check(65534, 65534).is_err());
        assert_eq!(
            AllowedGroup::named("no such group").unwrap_err().code(),
            "E118"
        );
    }
}
