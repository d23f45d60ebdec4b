//! A real systemd with units of a test: the first process of a container of ours, in a root directory of its own
//! of which nothing of the machine can be written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Need, can_run, cannot_run, process, wait_until};

/// What systemd may take to start, to start or stop a unit, to end.
const LIMIT: Duration = Duration::from_secs(60);

/// The first process's program.
const FIRST: &str = include_str!("first_process.sh");

/// A running systemd; ended on drop, with all that runs below it.
#[derive(Debug)]
pub struct Systemd {
    container: Child,
    /// Its process id, as we see it.
    pid: i32,
    cgroup: PathBuf,
    dir: TempDir,
}

/// Where control groups of version 2 are.
fn hierarchy() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.join("cgroup.controllers").exists())
}

impl Systemd {
    /// Starts it with services: the name of each, what is in its `[Service]` section. Programs and files have
    /// been made in `dir`, which has the same path inside. `None`, and reported so for the test `name`, where this
    /// machine cannot run it.
    ///
    /// # Errors
    /// When it was started, and does not get anywhere.
    pub fn start(name: &str, dir: TempDir, services: &[(&str, &str)]) -> Result<Option<Self>> {
        let needs = [
            Need::Root,
            Need::Program("systemctl"),
            Need::Program("nsenter"),
            Need::Program("setpriv"),
            Need::Path("/usr/lib/systemd/systemd", "systemd"),
        ];
        if !can_run(name, &needs) {
            return Ok(None);
        }
        let Some(hierarchy) = hierarchy() else {
            cannot_run(name, "no hierarchy of control groups of version 2");
            return Ok(None);
        };
        let units = dir.path().join("units");
        for folder in [&units, &dir.path().join("root")] {
            fs::create_dir(folder)?;
        }
        // Whatever else would be started with it is not there.
        let alone = "[Unit]\nDefaultDependencies=no\n";
        fs::write(units.join("first.target"), alone)?;
        for (unit, service) in services {
            fs::write(
                units.join(unit),
                format!("{alone}[Service]\nTimeoutStopSec=20\n{service}\n"),
            )?;
        }
        let first = dir.path().join("first_process.sh");
        fs::write(&first, FIRST)?;
        let cgroup = hierarchy.join(format!(
            "mvedsua-test-{}-{}",
            std::process::id(),
            dir.path().file_name().unwrap_or_default().to_string_lossy()
        ));
        if let Err(error) = fs::create_dir(&cgroup) {
            cannot_run(name, &format!("{}: {error}", cgroup.display()));
            return Ok(None);
        }
        let log = File::create(dir.path().join("systemd.log"))?;
        // The container ends with the thread that made it, however that ends.
        let container = Command::new("sh")
            .arg("-c")
            .arg(
                "echo $$ >\"$1/cgroup.procs\" && exec setpriv --pdeathsig KILL unshare --pid --mount --uts --ipc \
                 --cgroup --fork --kill-child=KILL sh \"$2/first_process.sh\" \"$2\"",
            )
            .arg("container")
            .arg(&cgroup)
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut systemd = Self {
            container,
            pid: 0,
            cgroup,
            dir,
        };
        if systemd.comes_up()? {
            Ok(Some(systemd))
        } else {
            let why = format!("no container for systemd: {}", systemd.log());
            cannot_run(name, &why);
            Ok(None)
        }
    }

    /// Returns whether there was a container for it.
    fn comes_up(&mut self) -> Result<bool> {
        let built = self.dir.path().join("built");
        let mut ended = false;
        let up = wait_until(LIMIT, || {
            ended = self
                .container
                .try_wait()
                .is_ok_and(|status| status.is_some());
            let container = i32::try_from(self.container.id()).unwrap_or_default();
            self.pid = process::children(container).first().copied().unwrap_or(0);
            ended || (built.exists() && self.systemctl(&["is-active", "first.target"]).is_ok())
        });
        if !built.exists() {
            return Ok(false);
        }
        ensure!(up && !ended, "systemd does not start: {}", self.log());
        Ok(true)
    }

    /// Its process id, as we see it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The folder with the programs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it says.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("systemd.log")).unwrap_or_default()
    }

    /// Runs a command of a shell inside; what it prints.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub fn shell(&self, command: &str) -> Result<String> {
        let mut inside = Command::new("timeout");
        inside.arg(LIMIT.as_secs().to_string());
        inside.args(["nsenter", "-t", &self.pid.to_string()]);
        inside.args(["-m", "-p", "-u", "-i", "-C", "--", "sh", "-c", command]);
        let done = inside.stdin(Stdio::null()).output()?;
        ensure!(
            done.status.success(),
            "{command}: {} {}{}\n{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
            self.log()
        );
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// `systemctl WORDS...`
    ///
    /// # Errors
    /// When it does not end with 0.
    pub fn systemctl(&self, words: &[&str]) -> Result<String> {
        self.shell(&format!("systemctl {}", words.join(" ")))
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// When systemd does not say.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.systemctl(&["show", "--property", name, "--value", unit])
    }

    /// The main process of a unit, as we see it.
    ///
    /// # Errors
    /// When it has none.
    pub fn main(&self, unit: &str) -> Result<i32> {
        let inside = self.property(unit, "MainPID")?;
        ensure!(inside != "0", "{unit} has no main process: {}", self.log());
        // Of its ids the first is ours; systemd's pid namespace is the one below.
        let is = |pid: &i32| {
            process::status_field(*pid, "NSpid")
                .is_some_and(|ids| ids.split_whitespace().nth(1) == Some(inside.as_str()))
        };
        let all = process::descendants(self.pid);
        let found = all.into_iter().find(is);
        found.with_context(|| format!("the main process of {unit} is {inside}, which is nobody"))
    }

    /// The unit must be well: active, never started again, `main` its main process.
    ///
    /// # Errors
    /// When it is not.
    pub fn is_well(&self, unit: &str, main: i32) -> Result<()> {
        let state = self.property(unit, "ActiveState")?;
        let again = self.property(unit, "NRestarts")?;
        let is = self.main(unit)?;
        ensure!(
            state == "active" && again == "0" && is == main,
            "{unit} is {state}, restarted {again} times, its main process is {is} and not {main}: {}",
            self.log()
        );
        Ok(())
    }

    /// Does something during which systemd is stopped as soon as a condition holds.
    ///
    /// # Errors
    /// Those of what was done; or when systemd cannot be stopped.
    pub fn while_it_stands<T>(
        &self,
        from: impl Fn() -> bool + Sync,
        what: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let done = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            let stop = scope.spawn(|| {
                // The moment may be a short one.
                while !from() && !done.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                process::send(self.pid, Signal::SIGSTOP)
            });
            let result = what();
            done.store(true, Ordering::Relaxed);
            let stopped = stop.join();
            stopped.map_err(|_| anyhow::anyhow!("the thread that stops systemd ended"))??;
            result
        });
        process::send(self.pid, Signal::SIGCONT)?;
        result
    }

    /// Starts a unit; its main process.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_unit(&self, unit: &str) -> Result<i32> {
        self.systemctl(&["start", unit])?;
        self.main(unit)
    }

    /// Stops a unit: nobody may be left of it, and systemd must be content with how its main process ended.
    ///
    /// # Errors
    /// When it is not so.
    pub fn stop_unit(&self, unit: &str) -> Result<()> {
        let main = self.main(unit)?;
        self.systemctl(&["stop", unit])?;
        let result = self.property(unit, "Result")?;
        ensure!(
            result == "success",
            "{unit} ended with {result}: {}",
            self.log()
        );
        ensure!(!process::is_alive(main), "process {main} lives on");
        Ok(())
    }

    /// Waits until a unit has ended by itself, and says with what result.
    ///
    /// # Errors
    /// When it does not end.
    pub fn result_of(&self, unit: &str) -> Result<String> {
        let ended = wait_until(LIMIT, || {
            let state = self.property(unit, "ActiveState");
            state.is_ok_and(|state| state == "failed" || state == "inactive")
        });
        if !ended {
            bail!("{unit} does not end: {}", self.log());
        }
        self.property(unit, "Result")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if self.pid > 0 {
            // Everything in its pid namespace ends with it.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        } else {
            let _ = self.container.kill();
        }
        let _ = self.container.wait();
        // Only a control group that nobody is in any more can be removed.
        let gone = wait_until(LIMIT, || {
            remove_groups(&self.cgroup);
            !self.cgroup.exists()
        });
        if !gone {
            eprintln!("{} is left", self.cgroup.display());
        }
    }
}

/// Groups below first.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // What is left is seen by whoever called.
    let _ = fs::remove_dir(group);
}
