//! The command line's end of the control socket. Blocking: a command has nothing else to do.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, Ask, Hello, PROTOCOL, Problem, Request, Response};

/// How long a new connection waits for its hello. A restarted agent takes over its services
/// first.
const HELLO_LIMIT: Duration = Duration::from_secs(30);

/// Why a request got no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no agent is running at {}", .socket.display())]
    NoAgent {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket's mode keeps us out.
    #[error("you may not command the agent at {}", .socket.display())]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
    },
    /// The connection broke.
    #[error("the agent at {} cannot be reached: {source}", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What came is not what this version of the protocol says.
    #[error("the agent's answer cannot be understood: {what}")]
    Nonsense {
        /// What was wrong with it.
        what: String,
    },
    /// The agent speaks another version of the protocol.
    #[error(
        "the agent (version {agent}) speaks protocol {theirs}, this program protocol {PROTOCOL}"
    )]
    OtherProtocol {
        /// The agent's program version.
        agent: String,
        /// Its protocol.
        theirs: u32,
    },
    /// The agent said no.
    #[error(transparent)]
    Answered(#[from] Problem),
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        let (code, exit_code, help) = match error {
            ClientError::Answered(problem) => return problem,
            ClientError::NoAgent { .. } => (
                "E100",
                1,
                "`sudo mvedsua attach --pid PID` starts one, and so does `sudo systemctl start mvedsua`",
            ),
            ClientError::NotPermitted { .. } => (
                "E103",
                5,
                "run it as root, e.g. with sudo, or become a member of the group that the agent was started with",
            ),
            ClientError::Broken { .. } => (
                "E119",
                1,
                "see its log (`journalctl -u mvedsua`, or agent.log beside the socket), then try again",
            ),
            ClientError::Nonsense { .. } => (
                "E119",
                1,
                "is it the agent that listens there? see --socket",
            ),
            ClientError::OtherProtocol { .. } => (
                "E120",
                1,
                "restart the agent with the program that is installed now: `sudo systemctl restart mvedsua`",
            ),
        };
        Self {
            code: code.into(),
            message,
            help: Some(help.into()),
            exit_code,
            report: None,
        }
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    socket: PathBuf,
    hello: Hello,
    next_id: u64,
}

impl Client {
    /// Connects, and checks that both sides speak the same protocol.
    ///
    /// # Errors
    /// No agent, no permission, or another version.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let at = || socket.to_owned();
        let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoAgent { socket: at() }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted { socket: at() },
            _ => ClientError::Broken {
                socket: at(),
                source,
            },
        })?;
        let broken = |source| ClientError::Broken {
            socket: at(),
            source,
        };
        stream.set_read_timeout(Some(HELLO_LIMIT)).map_err(broken)?;
        let hello = Hello {
            protocol: 0,
            version: String::new(),
            pid: 0,
        };
        let mut client = Self {
            reader: BufReader::new(stream),
            socket: at(),
            hello,
            next_id: 1,
        };
        match client.receive()?.answer {
            Answer::Hello(hello) if hello.protocol == PROTOCOL => client.hello = hello,
            Answer::Hello(hello) => {
                let Hello {
                    protocol: theirs,
                    version: agent,
                    ..
                } = hello;
                return Err(ClientError::OtherProtocol { agent, theirs });
            }
            Answer::Error(problem) => return Err(problem.into()),
            _ => {
                return Err(ClientError::Nonsense {
                    what: "it does not begin with hello".into(),
                });
            }
        }
        client
            .reader
            .get_ref()
            .set_read_timeout(None)
            .map_err(broken)?;
        Ok(client)
    }

    /// What the agent said of itself.
    #[must_use]
    pub const fn agent(&self) -> &Hello {
        &self.hello
    }

    /// Sends a request; the answers are fetched with [`Client::next`].
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, ask: Ask) -> Result<u64, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Request { id: Some(id), ask };
        let mut line = serde_json::to_vec(&request).map_err(|error| ClientError::Nonsense {
            what: error.to_string(),
        })?;
        line.push(b'\n');
        let sent = self.reader.get_mut().write_all(&line);
        sent.map_err(|source| ClientError::Broken {
            socket: self.socket.clone(),
            source,
        })?;
        Ok(id)
    }

    /// The next answer to request `id`.
    ///
    /// # Errors
    /// The agent said no, or the connection broke.
    pub fn next(&mut self, id: u64) -> Result<Answer, ClientError> {
        let response = self.receive()?;
        match response.answer {
            Answer::Error(problem) => Err(problem.into()),
            answer if response.id == Some(id) => Ok(answer),
            _ => Err(ClientError::Nonsense {
                what: "it answers another request".into(),
            }),
        }
    }

    /// Sends a request and waits for its only answer, however long it takes.
    ///
    /// # Errors
    /// The agent said no, or the connection broke.
    pub fn ask(&mut self, ask: Ask) -> Result<Answer, ClientError> {
        let id = self.send(ask)?;
        self.next(id)
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let broken = |source| ClientError::Broken {
            socket: self.socket.clone(),
            source,
        };
        let mut line = Vec::new();
        let length = self.reader.read_until(b'\n', &mut line).map_err(broken)?;
        if length == 0 {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
            return Err(broken(source));
        }
        serde_json::from_slice(&line).map_err(|error| ClientError::Nonsense {
            what: error.to_string(),
        })
    }
}
