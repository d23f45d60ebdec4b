//! Sessions and process groups, as far as they lie within the tree.

use super::layout::{self, Stat};
use crate::tracee::inject::Plain;
use crate::tracee::thread::Stopped;
use crate::tracee::{Result, TraceeError, inspect};

/// What a process belongs to, by the agent's ids.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    session: i32,
    group: i32,
    own: Role,
}

/// What the process itself leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Session(i32),
    Group(i32),
    Member(i32),
}

impl Groups {
    /// Those of a process.
    pub fn of(stat: &Stat, pid: i32) -> Self {
        let (session, group) = (stat.session(), stat.group());
        let own = if session == pid {
            Role::Session(pid)
        } else if group == pid {
            Role::Group(pid)
        } else {
            Role::Member(pid)
        };
        Self {
            session,
            group,
            own,
        }
    }

    const fn pid(&self) -> i32 {
        match self.own {
            Role::Session(pid) | Role::Group(pid) | Role::Member(pid) => pid,
        }
    }
}

fn call(thread: &mut Stopped, plain: Plain<'_>, name: &'static str, args: [u64; 2]) -> Result<()> {
    let nr = mvedsua_common::table::number(name);
    let args = [args[0], args[1], 0, 0, 0, 0];
    plain.call_ok(thread, name, nr, &args).map(drop)
}

/// The root's copy leads what the root leads, so that the ids of its session and group are its own again. Not
/// with a terminal: it would lose it, or stop at its first read.
pub fn join_as_root(root: i32, copy: &mut Stopped, plain: Plain<'_>) -> Result<()> {
    let stat = layout::stat(root)?;
    match Groups::of(&stat, root).own {
        _ if stat.has_terminal() => Ok(()),
        Role::Session(_) => call(copy, plain, "setsid", [0, 0]),
        Role::Group(_) => call(copy, plain, "setpgid", [0, 0]),
        Role::Member(_) => Ok(()),
    }
}

/// Lets a new child, which is in its parent's session and group, join those that the original is in. `levels`
/// is the number of pid namespaces around and at the tree's own.
pub fn join(
    groups: &Groups,
    parent: &Groups,
    levels: usize,
    child: &mut Stopped,
    plain: Plain<'_>,
) -> Result<()> {
    match groups.own {
        Role::Session(_) => call(child, plain, "setsid", [0, 0]),
        Role::Group(_) => call(child, plain, "setpgid", [0, 0]),
        Role::Member(_) if groups.group == parent.group => Ok(()),
        Role::Member(_) => {
            // Another member's, by the id that it has in the tree's own namespace.
            let id = inspect::ids(groups.group).get(levels - 1).copied();
            call(child, plain, "setpgid", [0, id.unwrap_or(0) as u64])
        }
    }
}

/// Whether a copy is where its original is. `all` has the process ids of originals and copies.
pub fn verify(groups: &Groups, all: &[(i32, i32)]) -> Result<()> {
    let copy_of = |pid: i32| all.iter().find(|(original, _)| *original == pid);
    let Some((_, copy)) = copy_of(groups.pid()) else {
        return Ok(());
    };
    let stat = layout::stat(*copy)?;
    for (what, original, has) in [
        ("session", groups.session, stat.session()),
        ("process group", groups.group, stat.group()),
    ] {
        // One that is led from outside of the tree is the same for both.
        let wanted = match copy_of(original) {
            Some((leader, copy)) => {
                let (theirs, its) = (layout::stat(*leader)?, layout::stat(*copy)?);
                let of = |stat: &Stat| match what {
                    "session" => stat.session(),
                    _ => stat.group(),
                };
                if of(&theirs) == original {
                    of(&its)
                } else {
                    original
                }
            }
            None => original,
        };
        if has != wanted {
            return Err(TraceeError::Unsuitable(format!(
                "the copy of process {} is in {what} {has} and was to be in {wanted}",
                groups.pid()
            )));
        }
    }
    Ok(())
}
