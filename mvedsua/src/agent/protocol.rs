//! What goes over the control socket: one JSON object per line, in both directions.
//!
//! The agent speaks first, with a [`Hello`]. Each [`Request`] is then answered by one
//! [`Response`] that carries the request's `id`; the two streaming requests are answered by many,
//! the last of which is [`Answer::End`]. A stream ends early when the client sends its next line
//! or hangs up.

use serde::{Deserialize, Serialize};

use super::advice;
use crate::session::{Children, Command, Failure, Status, TimelineEntry};

/// Version of this protocol. It changes when an old client could misread a new agent.
pub const PROTOCOL: u32 = 1;

/// Longest request line in bytes, its newline included.
pub const REQUEST_LIMIT: usize = 64 * 1024;

/// The first line of every connection, from the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// Version of the agent's program.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
}

impl Hello {
    /// What this very process says.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
        }
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What can be asked. On the wire: `{"ask": "status", "name": "redis"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// Supervise a process. Answered by [`Answer::Attached`].
    Attach {
        /// Name of the service; without one, the process's `comm`, made unique.
        #[serde(default)]
        name: Option<String>,
        /// Process id (thread group leader).
        pid: i32,
        /// What becomes of the children of the process.
        #[serde(default)]
        children: Children,
    },
    /// Ask something of a session. Answered by [`Answer::Done`].
    Command {
        /// The service.
        name: String,
        /// The request.
        command: Command,
    },
    /// Answered by [`Answer::Status`].
    Status {
        /// One service, or all.
        #[serde(default)]
        name: Option<String>,
    },
    /// The timeline. Answered by [`Answer::Events`]: once, or as a stream.
    Events {
        /// The service; one that ended lately is answered too.
        name: String,
        /// Stream: new entries as they come.
        #[serde(default)]
        follow: bool,
    },
    /// Stream of [`Answer::Changed`], at most ten a second.
    Watch {
        /// The service.
        name: String,
    },
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The request's `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What is answered. On the wire: `{"answer": "status", "services": [...]}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// The first line of a connection.
    Hello(Hello),
    /// The process is supervised from now on.
    Attached {
        /// Its status; `status.name` is the name it was given.
        status: Box<Status>,
    },
    /// The request was carried out.
    Done {
        /// One line for the user.
        message: String,
        /// The status afterwards; none if the service is not supervised any more.
        status: Option<Box<Status>>,
    },
    /// The status of the services that were asked for, in order of their names.
    Status {
        /// One per service.
        services: Vec<Status>,
    },
    /// Timeline entries in order of time.
    Events {
        /// All of them, or (in a stream) those that are new.
        entries: Vec<TimelineEntry>,
    },
    /// One item of `watch`.
    Changed {
        /// The status now.
        status: Box<Status>,
        /// The last entries of the timeline, oldest first.
        last: Vec<TimelineEntry>,
    },
    /// A stream is over.
    End {
        /// Why.
        reason: String,
    },
    /// The request was not carried out.
    Error(Problem),
}

/// Why a request was not carried out, in a form that a script can branch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Stable code, listed in `docs/errors.md`.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub help: Option<String>,
    /// Exit code of the command line.
    pub exit_code: u8,
    /// The divergence report of an update that was rolled back: many lines.
    #[serde(default)]
    pub report: Option<String>,
}

impl Problem {
    /// The problem behind a session's failure; `name` is the service that was asked.
    #[must_use]
    pub fn from_failure(name: &str, failure: Failure) -> Self {
        let exit_code = failure.exit_code();
        let message = failure.to_string();
        let (code, help, report) = match failure {
            Failure::Refused { code, .. } => {
                let help = advice::of(&code, name);
                (code, help, None)
            }
            Failure::RolledBack { report, .. } => (
                "E110".into(),
                Some(format!(
                    "the server goes on with its old version; `mvedsua status {name}` shows this again, `mvedsua events {name}` the timeline"
                )),
                report,
            ),
            Failure::Ended { .. } => (
                "E111".into(),
                Some(format!("`mvedsua events {name}` says how it ended")),
                None,
            ),
            Failure::TookOver { .. } => (
                "E112".into(),
                Some(format!(
                    "`mvedsua status {name}` shows which process serves now"
                )),
                None,
            ),
        };
        Self {
            code,
            message,
            help,
            exit_code,
            report,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::{Mark, OnFull, Stage, UpdateKind, UpdateOptions, WaitFor};

    fn round_trip<T>(value: &T) -> String
    where
        T: Serialize + for<'a> Deserialize<'a> + PartialEq + std::fmt::Debug,
    {
        let line = serde_json::to_string(value).unwrap();
        assert!(!line.contains('\n'), "one line per message: {line}");
        assert_eq!(&serde_json::from_str::<T>(&line).unwrap(), value, "{line}");
        line
    }

    #[test]
    fn every_request_survives_the_wire() {
        let update = UpdateOptions {
            kind: UpdateKind::Fault { after: 1000 },
            rules: Some("/etc/mvedsua/redis.rules".into()),
            retry: 3,
            retry_delay: Duration::from_millis(20),
            ring_bytes: 1 << 30,
            hang_limit: Duration::from_millis(1500),
            on_full: OnFull::Rollback,
            wait: WaitFor::None,
        };
        let name = || "redis".to_owned();
        for ask in [
            Ask::Attach {
                name: None,
                pid: 7,
                children: Children::Alone,
            },
            Ask::Attach {
                name: Some(name()),
                pid: 7,
                children: Children::Auto,
            },
            Ask::Command {
                name: name(),
                command: Command::Update(update),
            },
            Ask::Command {
                name: name(),
                command: Command::Promote { finalize: true },
            },
            Ask::Command {
                name: name(),
                command: Command::Finalize,
            },
            Ask::Command {
                name: name(),
                command: Command::Rollback {
                    reason: "\n\"".into(),
                },
            },
            Ask::Command {
                name: name(),
                command: Command::Detach,
            },
            Ask::Status { name: None },
            Ask::Events {
                name: name(),
                follow: true,
            },
            Ask::Watch { name: name() },
        ] {
            round_trip(&Request {
                id: Some(u64::MAX),
                ask: ask.clone(),
            });
            let line = round_trip(&Request { id: None, ask });
            assert!(!line.contains("\"id\""), "{line}");
        }
    }

    #[test]
    fn every_answer_survives_the_wire() {
        let mut status = Status::new("redis".into(), 12, 5);
        status.ring.blocked_ms = 0.125;
        status.events.recorded = u64::MAX;
        let entry = TimelineEntry {
            unix_ms: 1_700_000_000_000,
            mark: Some(Mark::T3),
            stage: Stage::OutdatedLeader,
            what: "caught up".into(),
        };
        for answer in [
            Answer::Hello(Hello::of_this_process()),
            Answer::Attached {
                status: Box::new(status.clone()),
            },
            Answer::Done {
                message: "done".into(),
                status: None,
            },
            Answer::Status {
                services: vec![status.clone()],
            },
            Answer::Events {
                entries: vec![entry.clone()],
            },
            Answer::Changed {
                status: Box::new(status),
                last: vec![entry],
            },
            Answer::End {
                reason: "detached".into(),
            },
            Answer::Error(Problem::from_failure(
                "redis",
                Failure::RolledBack {
                    reason: "x".into(),
                    report: Some("a\nb".into()),
                },
            )),
        ] {
            round_trip(&Response {
                id: Some(3),
                answer,
            });
        }
    }

    #[test]
    fn the_wire_form_is_what_the_documentation_says() {
        let asked: Request =
            serde_json::from_str(r#"{"ask":"attach","pid":12}"#).expect("optional fields");
        assert_eq!(
            asked.ask,
            Ask::Attach {
                name: None,
                pid: 12,
                children: Children::Auto
            }
        );
        let asked: Request =
            serde_json::from_str(r#"{"id":1,"ask":"command","name":"r","command":"detach"}"#)
                .unwrap();
        assert_eq!(
            asked.ask,
            Ask::Command {
                name: "r".into(),
                command: Command::Detach
            }
        );
        assert!(serde_json::from_str::<Request>(r#"{"ask":"explode"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"ask":"attach","pid":"x"}"#).is_err());
    }

    #[test]
    fn failures_keep_code_report_and_exit_code() {
        let refused = Failure::Refused {
            code: "E201".into(),
            message: "uses io_uring".into(),
        };
        let problem = Problem::from_failure("r", refused);
        assert_eq!((problem.code.as_str(), problem.exit_code), ("E201", 5));
        assert!(problem.help.is_some_and(|help| help.contains("server")));
        let back = Failure::RolledBack {
            reason: "hung".into(),
            report: Some("lines".into()),
        };
        let problem = Problem::from_failure("r", back);
        assert_eq!((problem.code.as_str(), problem.exit_code), ("E110", 3));
        assert_eq!(problem.report.as_deref(), Some("lines"));
    }
}
