//! The leader as the main process of a systemd unit: systemd takes the end of that process for the end of the service,
//! and stops whatever else is left of it. So at an exchange of roles systemd is told who is the main process from
//! now on, and the old leader does not end before systemd has said that it took it.
//!
//! When, in the order of [`super::promote`]: when the copy outlives this agent and the old leader does not end with it
//! yet. If the agent dies right then, the unit's main process is a copy that stands still, and the server serves on;
//! the successor makes the server the main process again before it throws that copy away ([`give_back`]).

use std::io;

use super::following::{Following, Stop};
use crate::systemd::{self, Above, Manager, Unit};
use crate::tracee::inspect;

/// The unit whose main process the leader is.
pub(super) struct MainProcess {
    manager: Manager,
    unit: Unit,
    /// systemd may have been told of another one.
    told: bool,
}

impl MainProcess {
    /// The unit whose main process `pid` is, if it is one's.
    ///
    /// # Errors
    /// Why it cannot be replaced, and what to do.
    pub(super) fn of(pid: i32) -> Result<Option<Self>, String> {
        let manager = match systemd::above(pid) {
            Above::Nobody => return Ok(None),
            Above::Manager(manager) => manager,
            Above::OfUser(user) if inspect::service_unit(pid).is_none() => {
                tracing::debug!(pid, user, "in no service of the user's systemd");
                return Ok(None);
            }
            Above::OfUser(user) => {
                return Err(format!(
                    "the leader may be the main process of a unit of a user's systemd (process {user}), which is not \
                     told of another one yet; start the server as a unit of the system, or with `mvedsua run`"
                ));
            }
        };
        let unit = match manager.unit_with_main(pid) {
            Ok(Some(unit)) => unit,
            Ok(None) => return Ok(None),
            // Nobody who is in no service is the main process of one.
            Err(_) if inspect::service_unit(pid).is_none() => return Ok(None),
            Err(error) => {
                return Err(format!(
                    "systemd cannot be asked whether the leader is the main process of its unit ({error}); \
                     it would take the end of that for the end of the service"
                ));
            }
        };
        if unit.access == "none" {
            return Err(must_be_allowed(&unit.name));
        }
        Ok(Some(Self {
            manager,
            unit,
            told: false,
        }))
    }

    /// Makes `to` the main process instead of `from`.
    ///
    /// # Errors
    /// When systemd has not taken it, or nobody knows.
    fn hand_over(&mut self, from: i32, to: i32) -> io::Result<()> {
        self.told = true;
        self.manager.name_main(from, to)?;
        if !self.manager.is_main(&self.unit, to)? {
            let message = format!("systemd keeps the main process of {}", self.unit.name);
            return Err(io::Error::other(message));
        }
        tracing::info!(
            unit = self.unit.name,
            from,
            to,
            "systemd knows the new main process"
        );
        Ok(())
    }

    /// The exchange is not made: `leader` must be the main process before `copy` ends.
    fn take_back(&mut self, leader: i32, copy: i32) {
        if !self.told {
            return;
        }
        // It may not have read the first word yet: it reads this one after it. If it has not taken that, the copy
        // is nobody to it, and this is not taken either.
        if let Err(error) = self.hand_over(copy, leader) {
            tracing::error!(unit = self.unit.name, leader, copy, %error, "the unit's main process is not the leader");
        }
    }
}

/// What the operator has to do where systemd listens to nobody.
fn must_be_allowed(unit: &str) -> String {
    let folder = format!("/etc/systemd/system/{unit}.d");
    format!(
        "the leader is the main process of the systemd unit {unit}, which must be told of the new one, or it would take \
         the end of the old process for the end of the service; with NotifyAccess=none it listens to nobody. Allow it, which \
         disturbs no process, and promote again: mkdir -p '{folder}' && printf '[Service]\\nNotifyAccess=main\\n' \
         >'{folder}/mvedsua.conf' && systemctl daemon-reload"
    )
}

/// A copy that was not promoted is about to be ended: if it has become the main process of `leader`'s unit, that is
/// made undone first. Returns whether the copy may end without harm to the server.
pub(super) fn give_back(copy: i32, leader: i32) -> bool {
    let given = match MainProcess::of(copy) {
        Ok(None) => return true,
        Ok(Some(mut main)) => main
            .hand_over(copy, leader)
            .map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    match given {
        Ok(()) => true,
        Err(why) => {
            tracing::error!(
                copy,
                leader,
                why,
                "a copy that was not promoted stands still and is left: systemd may take its end for that of the service"
            );
            false
        }
    }
}

impl Following {
    /// Looks for the unit whose main process the leader is.
    ///
    /// # Errors
    /// Why an exchange would be the end of the service.
    pub(super) fn look_for_unit(&mut self) -> Result<(), String> {
        self.unit = MainProcess::of(self.pairs.root().leader.pid)?;
        Ok(())
    }

    /// Tells systemd that the follower is the main process.
    ///
    /// # Errors
    /// When systemd has not taken it: the old leader must not end.
    pub(super) fn lead_unit(&mut self) -> Result<(), Stop> {
        let root = self.pairs.root();
        let (from, to) = (root.leader.pid, root.follower.pid);
        let Some(main) = &mut self.unit else {
            return Ok(());
        };
        main.hand_over(from, to).map_err(|error| {
            Stop::roll_back(format!("telling systemd of the new main process: {error}"))
        })
    }

    /// The exchange is not made.
    pub(super) fn leave_unit(&mut self) {
        let root = self.pairs.root();
        let (leader, copy) = (root.leader.pid, root.follower.pid);
        if let Some(mut main) = self.unit.take() {
            main.take_back(leader, copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_says_what_to_write_and_where() {
        let text = must_be_allowed("redis@a.service");
        for part in [
            "redis@a.service,",
            "mkdir -p '/etc/systemd/system/redis@a.service.d'",
            "printf '[Service]\\nNotifyAccess=main\\n' >'/etc/systemd/system/redis@a.service.d/mvedsua.conf'",
            "systemctl daemon-reload",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
