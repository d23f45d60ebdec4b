//! Debian's `vsftpd`, standalone, with anonymous and local users.
//!
//! A session is served by two processes: one that keeps rights for it (root until the login), and its
//! child, which speaks with the client. Their parent is the process that listens.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cannot_run::Need;
use crate::content::Content;
use crate::ftp::{Client, Mode};
use crate::server::{Server, find_program};
use crate::{process, wait_until};

/// How long the system's user database may be locked by somebody else.
const LIMIT: Duration = Duration::from_secs(20);

/// What it takes to run one, with a local user.
pub const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("vsftpd"),
    Need::Program("useradd"),
    Need::Program("chpasswd"),
];

/// The file that everybody finds: in the anonymous folder and in the local user's home. More than
/// the buffers of a connection take, so that a client that does not read holds the transfer.
pub const FILE: &str = "file";

/// What [`FILE`] holds.
#[must_use]
pub fn file() -> Content {
    Content::new(1, 24 << 20)
}

/// A running vsftpd of ours: ended on drop with all its sessions, and its user removed.
#[derive(Debug)]
pub struct Vsftpd {
    server: Server,
    user: User,
}

impl Vsftpd {
    /// Starts it with `settings` (lines of its configuration file) beside ours.
    ///
    /// # Errors
    /// When it is not installed, no user can be made, or it does not accept connections within 20 s.
    pub fn start(settings: &[&str]) -> Result<Self> {
        let program =
            find_program("vsftpd").context("vsftpd is not installed: run `cargo xtask setup`")?;
        let mut user = None;
        let server = Server::start(|port, dir| {
            // Its processes are other users, and have to get to their files.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
            let [anonymous, home, empty] =
                ["anonymous", "home", "empty"].map(|name| dir.join(name));
            for folder in [&anonymous, &home, &empty] {
                fs::create_dir(folder)?;
                fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
            }
            let user = user.insert(User::create(&home)?);
            for folder in [&anonymous, &home] {
                file().write_to(&folder.join(FILE))?;
            }
            user.own(&home)?;
            user.own(&home.join(FILE))?;
            let mut text = configuration(port, dir);
            for line in settings {
                text.push_str(line);
                text.push('\n');
            }
            let path = dir.join("vsftpd.conf");
            fs::write(&path, text)?;
            let mut command = Command::new(program);
            command.arg(path);
            Ok(command)
        })?;
        let user = user.context("made with the command")?;
        let vsftpd = Self { server, user };
        // The connection with which we found that it listens has a session, which comes before this one.
        vsftpd.connect(Mode::Passive)?.quit()?;
        vsftpd.tree_of(vsftpd.pid(), 1)?;
        Ok(vsftpd)
    }

    /// The listening process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.server.pid()
    }

    /// Reaps the process that was started, if it has ended.
    pub fn reap(&mut self) -> bool {
        self.server.reap()
    }

    /// A connection that nobody has logged in on.
    ///
    /// # Errors
    /// When the server does not greet.
    pub fn connect(&self, mode: Mode) -> Result<Client> {
        Client::connect(self.server.addr(), mode)
    }

    /// A session of an anonymous user.
    ///
    /// # Errors
    /// When the login is refused.
    pub fn anonymous(&self, mode: Mode) -> Result<Client> {
        let mut client = self.connect(mode)?;
        client.login("anonymous", "nobody@example.org")?;
        Ok(client)
    }

    /// A session of the local user, who may write.
    ///
    /// # Errors
    /// When the login is refused.
    pub fn local(&self, mode: Mode) -> Result<Client> {
        let mut client = self.connect(mode)?;
        client.login(&self.user.name, &self.user.password)?;
        Ok(client)
    }

    /// Where a file of the local user lies.
    #[must_use]
    pub fn home(&self, file: &str) -> PathBuf {
        self.server.dir().join("home").join(file)
    }

    /// Lines of its log that contain `text`.
    #[must_use]
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        let log = fs::read_to_string(self.server.dir().join("vsftpd.log")).unwrap_or_default();
        log.lines()
            .filter(|line| line.contains(text))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until the tree below `root` has `processes` processes, itself included.
    ///
    /// # Errors
    /// When it has not after 20 s.
    pub fn tree_of(&self, root: i32, processes: usize) -> Result<()> {
        ensure!(
            wait_until(LIMIT, || 1 + process::descendants(root).len() == processes),
            "{root} has the descendants {:?}, {} processes expected in all",
            process::descendants(root),
            processes
        );
        Ok(())
    }

    /// Processes of ours whose parent is none: the one that listens, unless another version of it is left, or a
    /// session without it.
    #[must_use]
    pub fn roots(&self) -> Vec<i32> {
        let configuration = self.server.dir().join("vsftpd.conf");
        process::roots_with_argument(&configuration.to_string_lossy())
    }

    /// Every process of ours, whatever its parent: all have our log open but the one that listens.
    fn sessions(&self) -> Vec<i32> {
        process::with_file_below(self.server.dir())
            .into_iter()
            .filter(|&pid| process::status_field(pid, "Name").is_some_and(|name| name == "vsftpd"))
            .collect()
    }
}

impl Drop for Vsftpd {
    fn drop(&mut self) {
        // Sessions outlive the process that listens. What they fork meanwhile is found next time.
        let listener = self.server.pid();
        let gone = wait_until(LIMIT, || {
            let mut sessions = self.sessions();
            sessions.retain(|&pid| pid != listener);
            for &pid in &sessions {
                // ESRCH means that it has just ended, which is what we want.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            sessions.is_empty()
        });
        if !gone {
            eprintln!("sessions of vsftpd do not end: {:?}", self.sessions());
        }
        if std::thread::panicking() {
            eprintln!("--- log of vsftpd ---\n{}", self.log_lines("").join("\n"));
        }
    }
}

/// Its configuration: what is not here is Debian's default.
fn configuration(port: u16, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\n\
         anonymous_enable=YES\nanon_root={dir}/anonymous\nlocal_enable=YES\nwrite_enable=YES\n\
         secure_chroot_dir={dir}/empty\npam_service_name=vsftpd\npasv_address=127.0.0.1\n\
         xferlog_enable=YES\nxferlog_file={dir}/xferlog\nvsftpd_log_file={dir}/vsftpd.log\n\
         dual_log_enable=YES\n"
    )
}

/// A user of this machine, for as long as it lives.
#[derive(Debug)]
struct User {
    name: String,
    password: String,
}

/// What the names of our users begin with; their maker's process id follows.
const PREFIX: &str = "mvedsua-";

impl User {
    /// Makes one with a password and a home that exists.
    fn create(home: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_left_over();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let user = Self {
            name: format!("{PREFIX}{}-{count}", std::process::id()),
            password: format!("secret-{count}"),
        };
        let home = home.display().to_string();
        let arguments = [
            "--no-create-home",
            "--home-dir",
            &home,
            "--shell",
            "/bin/sh",
        ];
        run("useradd", &[&arguments[..], &[&user.name]].concat(), "")?;
        run(
            "chpasswd",
            &[],
            &format!("{}:{}\n", user.name, user.password),
        )?;
        Ok(user)
    }

    /// Makes it the owner of a file.
    fn own(&self, path: &Path) -> Result<()> {
        let found = nix::unistd::User::from_name(&self.name)?.context("the user was just made")?;
        Ok(chown(
            path,
            Some(found.uid.as_raw()),
            Some(found.gid.as_raw()),
        )?)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Err(error) = run("userdel", &[&self.name], "") {
            eprintln!("user {} is left over: {error:#}", self.name);
        }
    }
}

/// Removes users of tests that were killed.
fn remove_left_over() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    for name in passwd.lines().filter_map(|line| line.split(':').next()) {
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if maker.is_some_and(|pid| !process::is_alive(pid)) {
            // Another test may be doing the same.
            let _ = run("userdel", &[name], "");
        }
    }
}

/// Runs a program of the user database. They refuse while another of them works: tried again then.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut last = None;
    let done = wait_until(LIMIT, || {
        let result = run_once(program, arguments, input);
        let again = result
            .as_ref()
            .is_err_and(|error| error.to_string().contains("cannot lock"));
        last = Some(result);
        !again
    });
    match last {
        Some(result) if done => result,
        last => bail!("{program} {arguments:?}: the user database is locked: {last:?}"),
    }
}

fn run_once(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let path = find_program(program).with_context(|| format!("{program} is not installed"))?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
