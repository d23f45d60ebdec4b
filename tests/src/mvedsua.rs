//! The `mvedsua` binary as a user sees it: an agent on its own socket, and commands against it.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::wait_until;

/// Environment variable with the path of the binary to test.
pub const BINARY: &str = "MVEDSUA_BIN";

/// How long a command may take before it counts as hanging.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// How long the agent may take until it accepts connections.
const AGENT_LIMIT: Duration = Duration::from_secs(20);

/// An agent of ours with a socket in a temporary folder; killed on drop, and so are its followers
/// (they are bound to their tracer). Servers go on.
#[derive(Debug)]
pub struct Mvedsua {
    binary: PathBuf,
    dir: TempDir,
    agent: Option<Child>,
    agents: u32,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output of a command that must have succeeded.
    ///
    /// # Errors
    /// With both outputs when the exit code is not 0.
    pub fn ok(self) -> Result<String> {
        ensure!(
            self.code == 0,
            "exit code {}:\n{}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }
}

/// `status NAME --json`. Written down here once more, on purpose: the names are a contract with
/// users' scripts, and a renamed field must fail a test.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "documented in mvedsua::session::Status; this is the reader's side"
)]
pub struct Status {
    pub name: String,
    pub stage: String,
    pub leader: Leader,
    pub follower: Option<Follower>,
    pub ring: Ring,
    pub events: Events,
    pub pauses_ms: Pauses,
    pub rules: Option<Rules>,
    pub transformation: Option<Transformation>,
    pub last_update: Option<LastUpdate>,
    pub next_try: Option<NextTry>,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct NextTry {
    pub tried: u32,
    pub left: u32,
    pub unix_ms: u64,
    pub why: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Transformation {
    pub done: u64,
    pub total: u64,
    pub seconds: f64,
    pub objects_per_second: f64,
    pub seconds_left: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Leader {
    pub pid: i32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Follower {
    pub pid: i32,
    pub lag_events: u64,
    pub lag_bytes: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Ring {
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    pub aside_bytes: u64,
    pub high_water_bytes: u64,
    pub blocked_ms: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Events {
    pub recorded: u64,
    pub matched: u64,
    pub rewritten: u64,
    pub diverged: u64,
    pub relaxed: u64,
    pub reconciled: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Pauses {
    pub snapshot: Option<f64>,
    pub promotion: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct LastUpdate {
    pub outcome: String,
    pub reason: String,
    pub report: Option<String>,
    pub retry: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Rules {
    pub file: String,
    pub stage: String,
    pub held: u64,
    pub rules: Vec<Rule>,
    pub firings: Vec<Firing>,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Rule {
    pub name: String,
    pub place: String,
    pub stage: String,
    pub fired: u64,
    pub held: u64,
    pub timed_out: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "see Status")]
pub struct Firing {
    pub unix_ms: u64,
    pub rule: String,
    pub thread: i32,
    pub on: String,
}

/// One line of `events NAME --json`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "documented in mvedsua::session::TimelineEntry")]
pub struct TimelineEntry {
    pub unix_ms: u64,
    pub mark: Option<String>,
    pub stage: String,
    pub what: String,
}

impl Mvedsua {
    /// Starts an agent and waits until it accepts connections.
    ///
    /// # Errors
    /// When the binary was not built, or the agent ends or does not listen within 20 s.
    pub fn start() -> Result<Self> {
        let mut mvedsua = Self::without_agent()?;
        mvedsua.start_agent()?;
        Ok(mvedsua)
    }

    /// A socket path and the binary, but no agent yet.
    ///
    /// # Errors
    /// When the binary was not built.
    pub fn without_agent() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("mvedsua-agent-")
            .tempdir()?;
        Ok(Self {
            binary: binary()?,
            dir,
            agent: None,
            agents: 0,
        })
    }

    /// Starts the agent (again, after [`kill_agent`](Self::kill_agent)) on the same socket.
    ///
    /// # Errors
    /// When it ends or does not listen within 20 s; its log is part of the message.
    pub fn start_agent(&mut self) -> Result<()> {
        self.start_agent_with(&[], &[])
    }

    /// The same with options of `mvedsua agent`.
    ///
    /// # Errors
    /// As for [`start_agent`](Self::start_agent).
    pub fn start_agent_with_options(&mut self, options: &[&str]) -> Result<()> {
        self.start_agent_with(options, &[])
    }

    /// Starts an agent that kills itself before its `step`-th step (`mvedsua::sys::mortal`).
    ///
    /// # Errors
    /// As for [`start_agent`](Self::start_agent).
    pub fn start_agent_that_dies(&mut self, step: u64) -> Result<()> {
        self.start_agent_with(&[], &[("MVEDSUA_DIE_AT_STEP", &step.to_string())])
    }

    fn start_agent_with(&mut self, options: &[&str], environment: &[(&str, &str)]) -> Result<()> {
        self.agents += 1;
        let log = std::fs::File::create(self.log_path())?;
        let mut agent = Command::new(&self.binary)
            .arg("--socket")
            .arg(self.socket())
            .arg("agent")
            .args(options)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        let mut ended = None;
        let listens = wait_until(AGENT_LIMIT, || {
            ended = agent.try_wait().ok().flatten();
            ended.is_some() || UnixStream::connect(self.socket()).is_ok()
        });
        let failed = match ended {
            Some(status) => Some(format!("the agent ended at once ({status})")),
            None if !listens => Some("the agent does not listen".to_owned()),
            None => None,
        };
        if let Some(what) = failed {
            let _ = agent.kill();
            let _ = agent.wait();
            bail!("{what} on {}:\n{}", self.socket().display(), self.log());
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// `kill -9` of the agent, and waits until it is gone. Does nothing when there is none.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// True if the agent has ended by itself, which is reaped then.
    pub fn agent_has_died(&mut self) -> bool {
        let died = |agent: &mut Child| agent.try_wait().is_ok_and(|status| status.is_some());
        if self.agent.as_mut().is_some_and(died) {
            self.agent = None;
        }
        self.agent.is_none()
    }

    /// Process id of the agent.
    #[must_use]
    pub fn agent_pid(&self) -> Option<i32> {
        self.agent
            .as_ref()
            .map(|agent| i32::try_from(agent.id()).expect("process ids are positive"))
    }

    /// Path of the control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// What the agent that was started last has written.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join(format!("agent-{}.log", self.agents))
    }

    /// Runs a command of an agent that may die of it; returns whether it was done, and not cut short by the
    /// agent's death, which is waited for until `limit`.
    ///
    /// # Errors
    /// As [`Mvedsua::run`], and when it fails while the agent lives.
    pub fn run_or_die(&mut self, words: &[&str], limit: Duration) -> Result<bool> {
        let outcome = self.run(words)?;
        // Its socket closes before it can be reaped: the kernel still takes its maps and programs down.
        if outcome.code != 0 && wait_until(limit, || self.agent_has_died()) {
            return Ok(false);
        }
        ensure!(outcome.code == 0, "{words:?}: {outcome:?}\n{}", self.log());
        Ok(true)
    }

    /// Runs `mvedsua --socket SOCKET WORDS...` to its end.
    ///
    /// # Errors
    /// When it cannot be started or takes more than two minutes (it is killed then). Any exit code is
    /// an [`Outcome`].
    pub fn run(&self, words: &[&str]) -> Result<Outcome> {
        let out = tempfile::tempfile()?;
        let err = tempfile::tempfile()?;
        // Files, not pipes: nobody has to drain them while we wait with a limit.
        let mut child = Command::new(&self.binary)
            .arg("--socket")
            .arg(self.socket())
            .args(words)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(err.try_clone()?)
            .spawn()?;
        let mut status = None;
        if !wait_until(COMMAND_LIMIT, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        }) {
            let _ = child.kill();
            let _ = child.wait();
            bail!(
                "`mvedsua {}` hung; log of the agent:\n{}",
                words.join(" "),
                self.log()
            );
        }
        let code = status.and_then(|status| status.code()).unwrap_or(-1);
        Ok(Outcome {
            code,
            stdout: text(out)?,
            stderr: text(err)?,
        })
    }

    /// `attach --pid PID --name NAME`.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn attach(&self, pid: i32, name: &str) -> Result<String> {
        self.done(&["attach", "--pid", &pid.to_string(), "--name", name])
    }

    /// `attach --pid PID --name NAME --children follow`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn attach_with_children(&self, pid: i32, name: &str) -> Result<String> {
        let pid = pid.to_string();
        self.done(&[
            "attach",
            "--pid",
            &pid,
            "--name",
            name,
            "--children",
            "follow",
        ])
    }

    /// `attach --pid PID --name NAME --no-children`.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn attach_without_children(&self, pid: i32, name: &str) -> Result<String> {
        let pid = pid.to_string();
        self.done(&["attach", "--pid", &pid, "--name", name, "--no-children"])
    }

    /// `update NAME --identity --wait caught-up`, plus `options`.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn update_identity(&self, name: &str, options: &[&str]) -> Result<String> {
        self.done(
            &[
                &["update", name, "--identity", "--wait", "caught-up"],
                options,
            ]
            .concat(),
        )
    }

    /// `promote NAME`.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn promote(&self, name: &str) -> Result<String> {
        self.done(&["promote", name])
    }

    /// `finalize NAME`.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn finalize(&self, name: &str) -> Result<String> {
        self.done(&["finalize", name])
    }

    /// `rollback NAME`.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn rollback(&self, name: &str) -> Result<String> {
        self.done(&["rollback", name])
    }

    /// `detach NAME`.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn detach(&self, name: &str) -> Result<String> {
        self.done(&["detach", name])
    }

    /// `status NAME --json`.
    ///
    /// # Errors
    /// When it does not exit with 0, or a field of the contract is missing.
    pub fn status(&self, name: &str) -> Result<Status> {
        let json = self.done(&["status", name, "--json"])?;
        serde_json::from_str(&json).with_context(|| format!("status --json printed {json}"))
    }

    /// `events NAME --json`.
    ///
    /// # Errors
    /// When it does not exit with 0, or prints neither a JSON array nor one object per line.
    pub fn events(&self, name: &str) -> Result<Vec<TimelineEntry>> {
        let json = self.done(&["events", name, "--json"])?;
        parse_events(&json).with_context(|| format!("events --json printed {json}"))
    }

    /// Waits until `condition` holds for the status; returns the last one that was seen.
    ///
    /// # Errors
    /// When it does not come true within `limit`: with the last status.
    pub fn wait_for(
        &self,
        name: &str,
        limit: Duration,
        mut condition: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = Err(anyhow::anyhow!("no status yet"));
        if wait_until(limit, || {
            last = self.status(name);
            last.as_ref().is_ok_and(&mut condition)
        }) {
            return last;
        }
        bail!(
            "{name} did not get there within {limit:?}: {last:?}\nlog of the agent:\n{}",
            self.log()
        )
    }

    /// Waits until the follower, if there is one, has matched all that was recorded until `recorded` was counted; returns
    /// the status then.
    ///
    /// # Errors
    /// As for [`wait_for`](Self::wait_for).
    pub fn wait_matched(&self, name: &str, limit: Duration, recorded: u64) -> Result<Status> {
        self.wait_for(name, limit, |status| {
            status
                .follower
                .is_none_or(|follower| status.events.recorded >= recorded + follower.lag_events)
        })
    }

    fn done(&self, words: &[&str]) -> Result<String> {
        self.run(words)?
            .ok()
            .with_context(|| format!("`mvedsua {}`", words.join(" ")))
    }
}

impl Drop for Mvedsua {
    fn drop(&mut self) {
        self.kill_agent();
        if std::thread::panicking() {
            eprintln!("--- log of the agent ---\n{}", self.log());
        }
    }
}

/// The binary to test: `MVEDSUA_BIN`, else the newer of the workspace's release and debug build.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY) {
        return Ok(path.into());
    }
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
    ["release", "debug"]
        .iter()
        .map(|profile| PathBuf::from(format!("{target}/{profile}/mvedsua")))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .with_context(|| {
            format!("no mvedsua binary in {target}: `cargo build -p mvedsua`, or set {BINARY}")
        })
}

fn parse_events(json: &str) -> serde_json::Result<Vec<TimelineEntry>> {
    if json.trim_start().starts_with('[') {
        return serde_json::from_str(json);
    }
    serde_json::Deserializer::from_str(json)
        .into_iter()
        .collect()
}

fn text(mut file: std::fs::File) -> std::io::Result<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"unix_ms":1,"mark":"t1","stage":"updating","what":"copied"}"#;

    #[test]
    fn a_timeline_is_an_array_or_one_object_per_line() {
        for json in [format!("[{ENTRY},{ENTRY}]"), format!("{ENTRY}\n{ENTRY}\n")] {
            let entries = parse_events(&json).expect("valid");
            assert_eq!(entries.len(), 2);
            assert_eq!(entries[1].mark.as_deref(), Some("t1"));
        }
        assert!(parse_events("").expect("nothing happened yet").is_empty());
        assert!(parse_events("oops").is_err());
    }

    #[test]
    fn a_status_needs_every_field_of_the_contract() {
        let status = serde_json::json!({
            "name": "redis", "stage": "updating", "leader": { "pid": 1, "threads": 5 },
            "follower": { "pid": 2, "lag_events": 3, "lag_bytes": 4 },
            "ring": {
                "capacity_bytes": 5, "used_bytes": 6, "aside_bytes": 0, "high_water_bytes": 7, "blocked_ms": 0.5,
            },
            "events": { "recorded": 8, "matched": 9, "rewritten": 0, "diverged": 0, "relaxed": 0, "reconciled": 0 },
            "pauses_ms": { "snapshot": 2.5, "promotion": null }, "last_update": null,
        });
        let read = |json: &serde_json::Value| serde_json::from_value::<Status>(json.clone());
        assert_eq!(
            read(&status).expect("complete").follower.map(|f| f.pid),
            Some(2)
        );
        for part in ["ring", "events", "follower"] {
            for field in status[part].as_object().expect("an object").keys() {
                let mut without = status.clone();
                without[part]
                    .as_object_mut()
                    .expect("an object")
                    .remove(field);
                assert!(read(&without).is_err(), "{part}.{field}");
            }
        }
    }

    #[test]
    fn an_exit_code_other_than_zero_is_an_error_with_both_outputs() {
        let outcome = Outcome {
            code: 3,
            stdout: "report\n".into(),
            stderr: "rolled back\n".into(),
        };
        let error = outcome.ok().expect_err("code 3").to_string();
        assert!(
            error.contains("exit code 3")
                && error.contains("report")
                && error.contains("rolled back")
        );
    }
}
