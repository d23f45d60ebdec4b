//! The real program: the agent on a socket of its own, and the command line against it.
//!
//! No service is attached here: that is the business of the end-to-end tests.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mvedsua");

/// Waits until `condition` gives something; fails the test after twenty seconds.
fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        // poll: the condition is looked at again after this.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running agent; killed at the end of the test.
struct Agent {
    folder: tempfile::TempDir,
    process: Child,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new(PROGRAM)
            .args(["agent", "--socket"])
            .arg(folder.path().join("control.sock"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let agent = Self { folder, process };
        until("the socket", || UnixStream::connect(agent.socket()).ok());
        agent
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .output()
            .unwrap()
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_json(reader: &mut impl std::io::BufRead) -> Value {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn with_no_service_there_is_nothing_to_show() {
    let agent = Agent::start();
    let output = agent.run(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "[]\n");
    let output = agent.run(&["status"]);
    assert!(
        text(&output.stdout).contains("attach --pid"),
        "it says what to do next"
    );
}

#[test]
fn an_unknown_service_is_exit_code_4_for_every_command() {
    let agent = Agent::start();
    for command in [
        &["status", "redis"][..],
        &["events", "redis"],
        &["events", "redis", "--follow"],
        &["watch", "redis"],
        &["update", "redis", "--identity"],
        &["promote", "redis"],
        &["finalize", "redis"],
        &["rollback", "redis"],
        &["detach", "redis"],
    ] {
        let output = agent.run(command);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{command:?}: {error}");
        assert!(
            error.starts_with("error[E104]: no service 'redis'\n"),
            "{command:?}: {error}"
        );
        assert!(error.contains("help: "), "{command:?}: {error}");
        assert!(output.stdout.is_empty(), "{command:?}");

        let output = agent.run(&[command, &["--json"]].concat());
        let answer: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert_eq!(answer["error"]["code"], "E104", "{command:?}");
        assert_eq!(answer["error"]["exit_code"], 4, "{command:?}");
    }
}

#[test]
fn what_cannot_be_attached_is_refused_and_named() {
    let agent = Agent::start();
    let output = agent.run(&["attach", "--pid", "2000000000"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).starts_with("error[E109]: there is no process 2000000000"));
    let output = agent.run(&["attach", "--pid", "1", "--name", "a/b"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error[E106]"));
}

#[test]
fn garbage_does_not_harm_the_agent() {
    let agent = Agent::start();
    let mut connection = agent.connect();
    assert_eq!(read_json(&mut connection)["answer"], "hello");
    connection
        .get_mut()
        .write_all(b"\x00\xff garbage\n")
        .unwrap();
    assert_eq!(read_json(&mut connection)["code"], "E113");
    connection.get_mut().write_all(&[b'x'; 200_000]).unwrap();
    connection.get_mut().write_all(b"\n").unwrap();
    assert_eq!(read_json(&mut connection)["code"], "E114");
    connection
        .get_mut()
        .write_all(b"{\"id\":7,\"ask\":\"status\"}\n")
        .unwrap();
    let answer = read_json(&mut connection);
    assert_eq!(
        (&answer["id"], &answer["answer"]),
        (&7.into(), &"status".into())
    );
    // Half a line, and gone.
    agent.connect().get_mut().write_all(b"{\"ask\":").unwrap();
    assert_eq!(agent.run(&["status"]).status.code(), Some(0));
}

#[test]
fn a_second_agent_says_so_and_ends() {
    let mut agent = Agent::start();
    let output = agent.run(&["agent"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    let expected = format!(
        "error[E101]: another agent (pid {}) already serves",
        agent.process.id()
    );
    assert!(error.contains(&expected), "{error}");
    assert_eq!(
        agent.run(&["status"]).status.code(),
        Some(0),
        "the first one goes on"
    );
    // A killed agent leaves its socket file behind, which is no obstacle to its successor.
    agent.process.kill().unwrap();
    agent.process.wait().unwrap();
    let socket = agent.socket();
    assert!(socket.exists());
    let output = agent.run(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error[E100]: no agent is running"));
    agent.process = Command::new(PROGRAM)
        .args(["agent", "--socket"])
        .arg(&socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the successor", || UnixStream::connect(&socket).ok());
    assert_eq!(agent.run(&["status"]).status.code(), Some(0));
}

#[test]
fn who_has_no_permission_is_refused_twice() {
    if !nix::unistd::geteuid().is_root() {
        panic!("this test needs root: it becomes another user");
    }
    let agent = Agent::start();
    // The program may lie where nobody can get. Another process copies it: a descriptor of ours for writing would be
    // inherited by what the other tests start meanwhile, and a file that is open for writing cannot be executed.
    let program = agent.folder.path().join("mvedsua");
    let copied = Command::new("cp").arg(PROGRAM).arg(&program).status();
    assert!(copied.unwrap().success());
    fs::set_permissions(agent.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = || {
        Command::new(&program)
            .arg("--socket")
            .arg(agent.socket())
            .args(["status", "--json"])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap()
    };
    // First by the socket's mode ...
    let output = as_nobody();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("error[E103]: you may not command the agent"));
    // ... and where that fails to keep him out, by SO_PEERCRED.
    fs::set_permissions(agent.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let output = as_nobody();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("error[E103]: uid 65534 may not command the agent"));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["error"]["code"], "E103");
}

#[test]
fn a_member_of_the_group_may_command() {
    if !nix::unistd::geteuid().is_root() {
        panic!("this test needs root: it becomes another user");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("control.sock");
    let program = folder.path().join("mvedsua");
    fs::copy(PROGRAM, &program).unwrap();
    let process = Command::new(PROGRAM)
        .args(["agent", "--group", "daemon", "--socket"])
        .arg(&socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _agent = Agent { folder, process };
    until("the socket", || UnixStream::connect(&socket).ok());
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    let gid = nix::unistd::Group::from_name("daemon")
        .unwrap()
        .unwrap()
        .gid
        .as_raw();
    let status = |gid| {
        let mut command = Command::new(&program);
        command
            .arg("--socket")
            .arg(&socket)
            .arg("status")
            .uid(65534)
            .gid(gid);
        command.output().unwrap().status.code()
    };
    assert_eq!(status(gid), Some(0));
    assert_eq!(status(65534), Some(5));
}

#[test]
fn sigterm_ends_the_agent_in_order() {
    let mut agent = Agent::start();
    let pid = Pid::from_raw(i32::try_from(agent.process.id()).unwrap());
    let mut idle = agent.connect();
    assert_eq!(read_json(&mut idle)["protocol"], 1);
    kill(pid, Signal::SIGTERM).unwrap();
    let status = until("the end", || agent.process.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(!agent.socket().exists());
    let mut rest = String::new();
    idle.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn systemd_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let notify = folder.path().join("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    systemd
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let process = Command::new(PROGRAM)
        .args(["agent", "--socket"])
        .arg(folder.path().join("control.sock"))
        .env("NOTIFY_SOCKET", &notify)
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let agent = Agent { folder, process };
    let told = || {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer).unwrap();
        text(&buffer[..length])
    };
    assert_eq!(told().trim(), "READY=1");
    assert_eq!(told().trim(), "WATCHDOG=1");
    let pid = Pid::from_raw(i32::try_from(agent.process.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    until("STOPPING", || (told().trim() == "STOPPING=1").then_some(()));
}

#[test]
fn attach_starts_an_agent_where_none_runs() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("new/control.sock");
    let run = |arguments: &[&str]| {
        Command::new(PROGRAM)
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .output()
            .unwrap()
    };
    let output = run(&["status"]);
    assert_eq!(output.status.code(), Some(1), "`status` starts none");
    // There is no such process, but the agent runs from now on.
    let output = run(&["attach", "--pid", "2000000000"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert_eq!(run(&["status"]).status.code(), Some(0));
    let mut connection = BufReader::new(UnixStream::connect(&socket).unwrap());
    let hello = read_json(&mut connection);
    let pid = i32::try_from(hello["pid"].as_i64().unwrap()).unwrap();
    let session = nix::unistd::getsid(Some(Pid::from_raw(pid))).unwrap();
    assert_eq!(session.as_raw(), pid, "it has a session of its own");
    assert!(
        fs::read_to_string(folder.path().join("new/agent.log"))
            .unwrap()
            .contains("ready")
    );
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    until("its end", || (!socket.exists()).then_some(()));
}

#[test]
fn a_command_that_cannot_run_is_named() {
    let agent = Agent::start();
    let output = agent.run(&["run", "--", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error[E122]: cannot run /no/such/program: No such file"),
        "{error}"
    );
    assert!(
        !agent.folder.path().join("program.log").exists(),
        "no empty log is left"
    );
}

#[test]
fn a_server_that_ends_soon_is_not_called_started() {
    let agent = Agent::start();
    let log = agent.folder.path().join("elsewhere.log");
    let log = log.to_str().unwrap();
    let server = "echo up; exec sleep 0.1";
    let output = agent.run(&["run", "--log", log, "--", "/bin/sh", "-c", server]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error[E122]: the server ended at once, with exit status: 0"),
        "{error}"
    );
    assert!(error.contains("into the background"), "{error}");
    assert_eq!(fs::read_to_string(log).unwrap(), "up\n");
}
