//! What the agent itself refuses (the engine's refusals pass through unchanged).

use std::io;
use std::path::PathBuf;

use super::protocol::{Problem, REQUEST_LIMIT};

/// Why the agent did not do what it was asked, or did not start. Codes: `docs/errors.md`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Another agent holds the lock of this socket.
    #[error("another agent{} already serves {}", .pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), .socket.display())]
    SecondAgent {
        /// The socket that both want.
        socket: PathBuf,
        /// The other one.
        pid: Option<u32>,
    },
    /// The socket, its folder or its lock could not be made.
    #[error("cannot {what} {}: {source}", .path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `--group` names no group.
    #[error("there is no group '{group}'")]
    NoSuchGroup {
        /// The name given.
        group: String,
    },
    /// The peer may not command the agent.
    #[error("uid {uid} may not command the agent")]
    NotPermitted {
        /// User id of the peer.
        uid: u32,
        /// Members of this group are let in, too.
        group: Option<String>,
    },
    /// No service has this name.
    #[error("no service '{name}'{}", .meant.as_ref().map(|m| format!("; did you mean '{m}'?")).unwrap_or_default())]
    NoSuchService {
        /// The name given.
        name: String,
        /// A name close to it.
        meant: Option<String>,
    },
    /// The service was supervised, but has ended or was detached.
    #[error("service '{name}' is not supervised any more: {how}")]
    Gone {
        /// Its name.
        name: String,
        /// How it ended.
        how: String,
    },
    /// The name cannot be a service's name.
    #[error("'{}' cannot be the name of a service", .name.escape_debug())]
    BadName {
        /// The name given.
        name: String,
    },
    /// The name is in use.
    #[error("there is already a service '{name}' (pid {pid})")]
    NameTaken {
        /// The name given.
        name: String,
        /// Its process.
        pid: i32,
    },
    /// The process is supervised under another name.
    #[error("process {pid} is already supervised as '{name}'")]
    AlreadySupervised {
        /// The process.
        pid: i32,
        /// Its service.
        name: String,
    },
    /// There is no such process.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The process id given.
        pid: i32,
    },
    /// A line was no request.
    #[error("that is no request: {why}")]
    Malformed {
        /// What the parser said.
        why: String,
    },
    /// A line did not end.
    #[error("the request is longer than {} bytes", REQUEST_LIMIT)]
    LineTooLong,
    /// More connections than the agent serves at once.
    #[error("the agent already serves {limit} connections")]
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// The agent is shutting down.
    #[error("the agent is stopping")]
    Stopping,
    /// The task of a service failed: a defect of the agent.
    #[error("the agent has failed inside: {what}")]
    Internal {
        /// What failed.
        what: String,
    },
}

impl Refusal {
    /// The stable code, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SecondAgent { .. } => "E101",
            Self::Socket { .. } => "E102",
            Self::NotPermitted { .. } => "E103",
            Self::NoSuchService { .. } => "E104",
            Self::Gone { .. } => "E105",
            Self::BadName { .. } => "E106",
            Self::NameTaken { .. } => "E107",
            Self::AlreadySupervised { .. } => "E108",
            Self::NoSuchProcess { .. } => "E109",
            Self::Malformed { .. } => "E113",
            Self::LineTooLong => "E114",
            Self::TooManyConnections { .. } => "E115",
            Self::Stopping => "E116",
            Self::Internal { .. } => "E117",
            Self::NoSuchGroup { .. } => "E118",
        }
    }

    /// The exit code of the command line.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::BadName { .. } | Self::NoSuchGroup { .. } => 2,
            Self::NoSuchService { .. } | Self::Gone { .. } => 4,
            Self::NotPermitted { .. }
            | Self::NameTaken { .. }
            | Self::AlreadySupervised { .. }
            | Self::NoSuchProcess { .. }
            | Self::Stopping => 5,
            _ => 1,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::SecondAgent { .. } => {
                "use that one, or give this one another socket with --socket".into()
            }
            Self::Socket { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root, e.g. with sudo".into()
            }
            Self::Socket { .. } => "see that the folder exists and is writable, or give another \
                                    socket with --socket"
                .into(),
            Self::NotPermitted {
                group: Some(group), ..
            } => {
                format!("run it as root, or become a member of the group '{group}'")
            }
            Self::NotPermitted { group: None, .. } => {
                "run it as root, e.g. with sudo, or start the agent with --group".into()
            }
            Self::NoSuchService { .. } => {
                "`mvedsua status` lists the services; `mvedsua attach --pid PID` adds one".into()
            }
            Self::Gone { name, .. } => format!(
                "`mvedsua events {name}` has its timeline; `mvedsua attach --pid PID` begins anew"
            ),
            Self::BadName { .. } => {
                "use up to 64 letters, digits, '.', '_' and '-', a letter or digit first".into()
            }
            Self::NameTaken { name, .. } => {
                format!("choose another with --name, or `mvedsua detach {name}` first")
            }
            Self::AlreadySupervised { name, .. } => format!("`mvedsua status {name}` shows it"),
            Self::NoSuchProcess { .. } => {
                "find the server's process id, e.g. with `pidof redis-server`".into()
            }
            Self::Malformed { .. } => {
                "one JSON object per line; does the client's version fit the agent's?".into()
            }
            Self::LineTooLong => "a request is one short line that ends in a newline".into(),
            Self::TooManyConnections { .. } => "close some `mvedsua watch`, then try again".into(),
            Self::Stopping => "try again when the agent runs again".into(),
            Self::Internal { .. } => {
                "this is a defect: please report it with the agent's log".into()
            }
            Self::NoSuchGroup { .. } => "`getent group` lists the groups".into(),
        }
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code().into(),
            message: refusal.to_string(),
            help: Some(refusal.help()),
            exit_code: refusal.exit_code(),
            report: None,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The codes in a text, e.g. `E104`.
    fn codes(text: &str) -> BTreeSet<&str> {
        let is_code = |word: &&str| {
            word.len() == 4
                && word.starts_with("E1")
                && word[1..].chars().all(|c| c.is_ascii_digit())
        };
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .filter(is_code)
            .collect()
    }

    #[test]
    fn the_documentation_lists_every_code_and_no_other() {
        let mut used = BTreeSet::new();
        for source in [
            include_str!("refusal.rs")
                .split("#[cfg(test)]")
                .next()
                .unwrap(),
            include_str!("protocol.rs")
                .split("#[cfg(test)]")
                .next()
                .unwrap(),
            include_str!("client.rs"),
            include_str!("launch.rs"),
            include_str!("../cli/screen.rs"),
            include_str!("../cli/man.rs"),
        ] {
            used.extend(codes(source));
        }
        let table = include_str!("../../../docs/errors.md");
        let rows = table
            .lines()
            .filter_map(|line| line.strip_prefix("| E1")?.split(' ').next());
        let rows: Vec<_> = rows.map(|rest| format!("E1{rest}")).collect();
        assert_eq!(used, rows.iter().map(String::as_str).collect());
        assert_eq!(rows.len(), used.len(), "a code has two rows");
    }
}
