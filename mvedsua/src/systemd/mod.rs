//! Which unit of systemd a process belongs to, and telling systemd of another main process.
//!
//! The systemd that is meant is the first process of a pid namespace: the machine's, or that of a container, in
//! which it knows all processes by other ids than we do. It is spoken to through its own sockets below its
//! `/run/systemd`: `private` (D-Bus without a bus in between, as `systemctl` does it as root) and `notify`.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use crate::sys::named_datagram;
use crate::tracee::inspect;

mod bus;
mod question;

use bus::{CallError, Value};
use question::Question;
pub use question::answer;

/// Longest time that systemd may take for one answer. It answers in milliseconds; the server may stand still meanwhile.
const LIMIT: Duration = Duration::from_secs(2);
/// More processes than lie between any server and the first process.
const DEPTH: usize = 64;

/// A systemd that runs as the first process of its pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manager {
    pid: i32,
    /// Of the ids of a process, from our pid namespace on, its own is this one.
    level: usize,
}

/// What started a process's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// No systemd.
    Nobody,
    /// The systemd of the machine, or of a container.
    Manager(Manager),
    /// The systemd of one user's session; its process id.
    OfUser(i32),
}

/// A unit with a main process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `redis-server.service`.
    pub name: String,
    /// Its D-Bus path.
    path: String,
    /// `NotifyAccess=`: `none`, `main`, `exec`, `all`.
    pub access: String,
}

/// Who manages a process.
#[must_use]
pub fn above(pid: i32) -> Above {
    let mut at = pid;
    for _ in 0..DEPTH {
        at = match inspect::parent(at) {
            Some(parent) if parent > 0 => parent,
            _ => return Above::Nobody,
        };
        if inspect::status_field(at, at, "Name").as_deref() != Some("systemd") {
            continue;
        }
        let ids = inspect::ids(at);
        return if ids.last() == Some(&1) {
            Above::Manager(Manager {
                pid: at,
                level: ids.len() - 1,
            })
        } else {
            Above::OfUser(at)
        };
    }
    Above::Nobody
}

impl Manager {
    fn socket(&self, name: &str) -> String {
        format!("/proc/{}/root/run/systemd/{name}", self.pid)
    }

    /// The id by which this systemd knows a process.
    fn id_of(&self, pid: i32) -> io::Result<u32> {
        let id = inspect::ids(pid).get(self.level).copied();
        id.and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| io::Error::other(format!("process {pid} is not in systemd's sight")))
    }

    fn ask(
        &self,
        path: &str,
        interface: &str,
        member: &str,
        values: &[Value],
    ) -> Result<Value, CallError> {
        let question = Question {
            socket: self.socket("private"),
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            values: values.to_vec(),
        };
        if self.level == 0 {
            question.ask()
        } else {
            question.ask_inside(self.pid)
        }
    }

    fn property(&self, unit: &str, interface: &str, name: &str) -> Result<Value, CallError> {
        let values = [Value::text(interface), Value::text(name)];
        let interface = "org.freedesktop.DBus.Properties";
        self.ask(unit, interface, "Get", &values)
    }

    /// The service whose main process `pid` is.
    ///
    /// # Errors
    /// When systemd cannot be asked, or does not answer.
    pub fn unit_with_main(&self, pid: i32) -> io::Result<Option<Unit>> {
        const UNIT: &str = "org.freedesktop.systemd1.Unit";
        const SERVICE: &str = "org.freedesktop.systemd1.Service";
        let id = self.id_of(pid)?;
        let asked = self.ask(
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "GetUnitByPID",
            &[Value::Number(id)],
        );
        let path = match asked {
            Err(CallError::Refused(name)) if name == "org.freedesktop.systemd1.NoUnitForPID" => {
                return Ok(None);
            }
            answer => answer?.into_text()?,
        };
        // A unit of another kind has no main process. (A dot is written so in a path.)
        if !path.ends_with("_2eservice") {
            return Ok(None);
        }
        let main = self.property(&path, SERVICE, "MainPID")?.into_number()?;
        if main != id {
            return Ok(None);
        }
        let access = self.property(&path, SERVICE, "NotifyAccess")?.into_text()?;
        let name = self.property(&path, UNIT, "Id")?.into_text()?;
        Ok(Some(Unit { name, path, access }))
    }

    /// Whether `pid` is the main process of a unit now.
    ///
    /// # Errors
    /// When systemd does not say.
    pub fn is_main(&self, unit: &Unit, pid: i32) -> io::Result<bool> {
        let service = "org.freedesktop.systemd1.Service";
        let main = self.property(&unit.path, service, "MainPID")?;
        Ok(main.into_number()? == self.id_of(pid)?)
    }

    /// Tells systemd, in the name of the main process `from`, that `to` is the main process from now on. Returns
    /// when systemd has read it, which does not mean that it took it.
    ///
    /// # Errors
    /// When it cannot be told, or does not read it in time.
    pub fn name_main(&self, from: i32, to: i32) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(self.socket("notify"))?;
        // A queue that is full stands for a systemd that reads nothing.
        socket.set_write_timeout(Some(LIMIT))?;
        let text = format!("MAINPID={}", self.id_of(to)?);
        named_datagram::send_as(&socket, from, text.as_bytes())?;
        // systemd closes what it gets with a barrier when it has handled all that came before.
        let (ours, theirs) = UnixStream::pair()?;
        named_datagram::send_with(&socket, theirs.as_fd(), b"BARRIER=1")?;
        drop(theirs);
        ours.set_read_timeout(Some(LIMIT))?;
        let mut end = [0];
        match (&ours).read(&mut end) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "systemd does not read what it is told",
            )),
            read => read.map(drop),
        }
    }
}
