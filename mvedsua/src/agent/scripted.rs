//! A scripted engine for the agent's tests.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

use super::service::Service;
use crate::engine::Target;
use crate::session::{
    Command, Done, Failure, FollowerStatus, Stage, Status, TimelineEntry, WaitFor,
};

/// An engine without a process. Updates with [`WaitFor::CaughtUp`] wait until a rollback.
#[derive(Debug)]
pub struct Scripted {
    status: Mutex<Status>,
    timeline: Mutex<Vec<TimelineEntry>>,
    changed: Mutex<Option<watch::Sender<u64>>>,
    changes: watch::Receiver<u64>,
    rolled_back: watch::Sender<bool>,
}

impl Scripted {
    fn mark(&self, stage: Stage, what: &str) {
        let mut status = self.status.lock().unwrap();
        status.stage = stage;
        let following = stage != Stage::SingleLeader;
        status.follower = following.then_some(FollowerStatus {
            pid: 4242,
            lag_events: 7,
            lag_bytes: 700,
        });
        drop(status);
        let entry = TimelineEntry {
            unix_ms: 0,
            mark: None,
            stage,
            what: what.into(),
        };
        self.timeline.lock().unwrap().push(entry);
        if let Some(changed) = &*self.changed.lock().unwrap() {
            changed.send_modify(|n| *n += 1);
        }
    }

    /// The service ends by itself.
    pub fn end(&self, what: &str) {
        self.mark(Stage::SingleLeader, what);
        self.changed.lock().unwrap().take();
    }
}

impl Service for Scripted {
    fn attach(target: Target) -> Result<Self, Failure> {
        if target.name == "iouring" {
            let message = "uses io_uring; turn it off in the server".into();
            return Err(Failure::Refused {
                code: "E201".into(),
                message,
            });
        }
        let (sender, changes) = watch::channel(0);
        let scripted = Self {
            status: Mutex::new(Status {
                children: target.children,
                ..Status::new(target.name, target.pid, 1)
            }),
            timeline: Mutex::new(Vec::new()),
            changed: Mutex::new(Some(sender)),
            changes,
            rolled_back: watch::Sender::new(false),
        };
        scripted.mark(Stage::SingleLeader, "attached");
        Ok(scripted)
    }

    async fn request(&self, command: Command) -> Result<Done, Failure> {
        match command {
            Command::Update(options) => {
                self.rolled_back.send_replace(false);
                self.mark(Stage::Updating, "snapshot taken");
                if options.wait == WaitFor::CaughtUp {
                    let mut rolled_back = self.rolled_back.subscribe();
                    rolled_back.wait_for(|back| *back).await.unwrap();
                    let report = Some("line 1\nline 2".into());
                    return Err(Failure::RolledBack {
                        reason: "asked for".into(),
                        report,
                    });
                }
            }
            Command::Rollback { reason } => {
                if self.status().stage == Stage::SingleLeader {
                    let message = "no update runs".into();
                    return Err(Failure::Refused {
                        code: "E202".into(),
                        message,
                    });
                }
                self.mark(Stage::SingleLeader, &format!("rolled back: {reason}"));
                self.rolled_back.send_replace(true);
            }
            Command::Detach => self.end("detached"),
            Command::Promote { .. } => panic!("a defect of the engine"),
            Command::Finalize => self.mark(Stage::SingleLeader, "finalized"),
        }
        Ok(Done {
            message: "done".into(),
        })
    }

    fn status(&self) -> Status {
        self.status.lock().unwrap().clone()
    }

    fn timeline(&self) -> Vec<TimelineEntry> {
        self.timeline.lock().unwrap().clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

/// Waits until `condition` holds; gives up (and fails the test) after ten seconds.
pub async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), met)
        .await
        .expect("the condition came true");
}
