//! Where the kernel thinks the parts of a process lie: equal in a process and its forks.

use crate::tracee::{Naming, Result};

/// `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Debug)]
pub struct Stat {
    /// From field 3 on, the state.
    fields: Vec<String>,
}

/// Reads it.
///
/// # Errors
/// When the process is gone.
pub fn stat(pid: i32) -> Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).named("read stat", pid)?;
    // The name, in parentheses, may contain anything.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(Stat {
        fields: rest.split_whitespace().map(str::to_owned).collect(),
    })
}

impl Stat {
    fn field(&self, number: usize) -> u64 {
        // Some are signed.
        let text = self.fields.get(number - 3).map_or("", String::as_str);
        text.parse::<u64>()
            .or_else(|_| text.parse::<i64>().map(|n| n as u64))
            .unwrap_or(0)
    }

    /// Process group.
    pub fn group(&self) -> i32 {
        self.field(5) as i32
    }

    /// Session.
    pub fn session(&self) -> i32 {
        self.field(6) as i32
    }

    /// Whether it has a controlling terminal.
    pub fn has_terminal(&self) -> bool {
        self.field(7) != 0
    }

    /// The signal that its parent gets at its end.
    pub fn exit_signal(&self) -> i32 {
        self.field(38) as i32
    }
}

/// Fields of `stat` that execve(2) sets, and prctl(`PR_SET_MM`).
const FIELDS: [(usize, &str); 10] = [
    (26, "start of the code"),
    (27, "end of the code"),
    (28, "start of the stack"),
    (45, "start of the data"),
    (46, "end of the data"),
    (47, "start of the heap"),
    (48, "start of the arguments"),
    (49, "end of the arguments"),
    (50, "start of the environment"),
    (51, "end of the environment"),
];

/// The parts of a process that it shares with its forks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    addresses: [u64; FIELDS.len()],
    program: std::path::PathBuf,
}

impl Layout {
    /// That of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: i32, stat: &Stat) -> Result<Self> {
        let program =
            std::fs::read_link(format!("/proc/{pid}/exe")).named("read the program's name", pid)?;
        Ok(Self {
            addresses: FIELDS.map(|(number, _)| stat.field(number)),
            program,
        })
    }

    /// The first thing that is different in another process.
    pub fn differs_from(&self, other: &Self) -> Option<&'static str> {
        if self.program != other.program {
            return Some("program");
        }
        let mut pairs = self.addresses.iter().zip(&other.addresses);
        let at = pairs.position(|(ours, theirs)| ours != theirs)?;
        Some(FIELDS[at].1)
    }
}
