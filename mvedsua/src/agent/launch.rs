//! Starts what has to outlive the command line: the agent, and servers of `mvedsua run`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::client::{Client, ClientError};
use super::name;
use super::protocol::{Answer, Ask, Problem};
use super::refusal::Refusal;
use super::socket;
use crate::session::Children;
use crate::sys::setsid;

/// How long a new agent may take until its socket accepts.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a new server is watched: one that puts itself into the background, or finds its port taken, ends soon.
const STAYS: Duration = Duration::from_millis(500);

/// Why something could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The folder of the socket cannot be made.
    #[error(transparent)]
    Folder(#[from] Refusal),
    /// The agent that runs already cannot be spoken to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No agent runs, and one that the caller started could not follow anything.
    #[error("no agent is running, and only root can start one")]
    NotRoot,
    /// A log file cannot be opened.
    #[error("cannot write the log {}: {source}", .path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent did not come up.
    #[error("the agent could not be started: {why}")]
    Agent {
        /// What happened.
        why: String,
        /// Its log.
        log: PathBuf,
    },
    /// The command cannot be executed.
    #[error("cannot run {}: {source}", .program.display())]
    Server {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The command ended before it could be followed.
    #[error("the server ended at once, with {status}")]
    ServerEnded {
        /// How.
        status: ExitStatus,
        /// Its output.
        log: PathBuf,
    },
}

impl From<LaunchError> for Problem {
    fn from(error: LaunchError) -> Self {
        let message = error.to_string();
        let exit_code = if matches!(error, LaunchError::NotRoot) {
            5
        } else {
            1
        };
        let (code, help) = match error {
            LaunchError::NotRoot => ("E103", "run it as root, e.g. with sudo".into()),
            LaunchError::Folder(refusal) => return refusal.into(),
            LaunchError::Client(error) => return error.into(),
            LaunchError::Log { .. } => (
                "E121",
                "run it as root, or see that its folder is writable; `run --log FILE` takes another".into(),
            ),
            LaunchError::Agent { log, .. } => (
                "E121",
                format!("see {}, and try `sudo mvedsua agent`", log.display()),
            ),
            LaunchError::ServerEnded { log, .. } => (
                "E122",
                format!(
                    "see {}; a server that puts itself into the background must be told not to",
                    log.display()
                ),
            ),
            LaunchError::Server { .. } => (
                "E122",
                "give the path of the server's program after `--`".into(),
            ),
        };
        Self {
            code: code.into(),
            message,
            help: Some(help),
            exit_code,
            report: None,
        }
    }
}

fn open_log(path: &Path) -> Result<File, LaunchError> {
    let fail = |source| LaunchError::Log {
        path: path.into(),
        source,
    };
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(fail)
}

/// Lets a command run in the background: own session, no input, output to the log.
fn in_background(command: &mut Command, log: File) -> io::Result<Child> {
    let errors = log.try_clone()?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    setsid::in_new_session(command).spawn()
}

/// A connection to the agent on `socket`; starts one if there is none.
///
/// # Errors
/// It could not be started or reached.
pub fn connect_or_start(socket: &Path) -> Result<Client, LaunchError> {
    match Client::connect(socket) {
        Err(ClientError::NoAgent { .. }) => start_agent(socket),
        other => Ok(other?),
    }
}

fn start_agent(socket: &Path) -> Result<Client, LaunchError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LaunchError::NotRoot);
    }
    // The agent changes its folder.
    let socket = &std::path::absolute(socket).map_err(|source| LaunchError::Log {
        path: socket.into(),
        source,
    })?;
    socket::make_folder_of(socket)?;
    let log = socket.with_file_name("agent.log");
    let fail = |why: String| LaunchError::Agent {
        why,
        log: log.clone(),
    };
    let file = open_log(&log)?;
    let before = file.metadata().map_or(0, |m| m.len());
    let program = std::env::current_exe().map_err(|e| fail(e.to_string()))?;
    let mut command = Command::new(program);
    command
        .arg("agent")
        .arg("--socket")
        .arg(socket)
        .current_dir("/");
    let mut agent = in_background(&mut command, file).map_err(|e| fail(e.to_string()))?;
    let started = Instant::now();
    loop {
        match Client::connect(socket) {
            Err(ClientError::NoAgent { .. }) => {}
            other => return Ok(other?),
        }
        if let Ok(Some(status)) = agent.try_wait() {
            // Somebody else's agent may have been faster.
            return Client::connect(socket).map_err(|_| {
                fail(format!(
                    "it ended with {status}{}",
                    said_since(&log, before)
                ))
            });
        }
        if started.elapsed() > START_LIMIT {
            return Err(fail(format!(
                "no answer within {}",
                humantime::format_duration(START_LIMIT)
            )));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The first error in what was logged from `offset` on, to be appended to a message.
fn said_since(log: &Path, offset: u64) -> String {
    let mut text = String::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_string(&mut text)
    });
    let error = text.lines().find_map(|line| line.strip_prefix("error["));
    match (read, error) {
        (Ok(_), Some(error)) => format!(" (error[{error})"),
        _ => String::new(),
    }
}

/// A server that was started for `mvedsua run`.
#[derive(Debug)]
pub struct Started {
    /// What the agent said to the attach.
    pub answer: Answer,
    /// Where the server's output goes.
    pub log: PathBuf,
}

/// Starts a server in the background (its own session, its output in `log`, or in one beside the socket) and
/// has the agent supervise it. Whatever can be refused without starting it is refused first.
///
/// # Errors
/// It was not started; or it was, and is not supervised: then the help says so.
pub fn run_server(
    socket: &Path,
    name: Option<String>,
    log: Option<PathBuf>,
    command: &[OsString],
) -> Result<Started, Problem> {
    let mut client = connect_or_start(socket)?;
    let Answer::Status { services } = client
        .ask(Ask::Status { name: None })
        .map_err(Problem::from)?
    else {
        return Err(ClientError::Nonsense {
            what: "no status".into(),
        }
        .into());
    };
    let holder = |name: &str| {
        services
            .iter()
            .find(|s| s.name == name)
            .map(|s| s.leader.pid)
    };
    let name = match name {
        Some(name) if !name::is_valid(&name) => return Err(Refusal::BadName { name }.into()),
        Some(name) => match holder(&name) {
            Some(pid) => return Err(Refusal::NameTaken { name, pid }.into()),
            None => name,
        },
        None => {
            let program = Path::new(&command[0]).file_name().unwrap_or_default();
            name::unique(&name::from_comm(&program.to_string_lossy()), |n| {
                holder(n).is_some()
            })
        }
    };
    let log = log.unwrap_or_else(|| socket.with_file_name(format!("{name}.log")));
    let mut child = start_server(&log, command)?;
    let pid = i32::try_from(child.id()).expect("process ids are small");
    let attached = client.ask(Ask::Attach {
        name: Some(name),
        pid,
        children: Children::Auto,
    });
    match (attached, ended_soon(&mut child)) {
        (Ok(answer), Ok(None)) => Ok(Started { answer, log }),
        (_, Ok(Some(status))) => Err(LaunchError::ServerEnded { status, log }.into()),
        (Ok(answer), Err(_)) => Ok(Started { answer, log }),
        (Err(error), _) => {
            let mut problem = Problem::from(error);
            let also =
                format!("the server runs as process {pid}, not supervised: `kill {pid}` stops it");
            problem.help = Some(match problem.help {
                Some(help) => format!("{help}\n      {also}"),
                None => also,
            });
            Err(problem)
        }
    }
}

/// How a server ended, if it does so while it is watched.
fn ended_soon(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if started.elapsed() < STAYS => std::thread::sleep(LOOK_AGAIN),
            outcome => return outcome,
        }
    }
}

/// When this returns, the kernel has executed the program.
fn start_server(log: &Path, command: &[OsString]) -> Result<Child, LaunchError> {
    let (program, arguments) = command
        .split_first()
        .expect("clap asks for at least one word");
    let file = open_log(log)?;
    let mut server = Command::new(program);
    server.args(arguments);
    in_background(&mut server, file).map_err(|source| {
        if fs::metadata(log).is_ok_and(|log| log.len() == 0) {
            let _ = fs::remove_file(log); // nothing ran that could have written to it
        }
        LaunchError::Server {
            program: program.into(),
            source,
        }
    })
}
