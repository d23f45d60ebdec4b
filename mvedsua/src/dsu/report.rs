//! What a reviewer reads: the decisions behind a bundle.

use serde::{Deserialize, Serialize};

use super::types::TypeChange;

/// Why a function is in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Its own instructions differ.
    Changed {
        /// The first difference in words.
        first: String,
        /// Source line of it in the old build.
        old_line: Option<String>,
        /// Source line of it in the new build.
        new_line: Option<String>,
    },
    /// Only the new build has it, and something in the bundle uses it.
    New,
    /// It uses something that has moved.
    Touches {
        /// The variable or constant.
        what: String,
    },
}

/// How likely the function stands on a stack when the update comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// It comes and goes.
    Low,
    /// On the shortest path of calls to where the program waits, or an entry: it hardly ever leaves the stack.
    OnStack {
        /// Such as `main`, `thread entry`, `calls epoll_wait`.
        because: String,
    },
}

/// A function in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionNote {
    /// Name, demangled, with the unit for statics.
    pub name: String,
    /// Compilation unit.
    pub unit: Option<String>,
    /// Why it is in.
    pub why: Why,
    /// Entry in the old image.
    pub old_addr: Option<u64>,
    /// Entry in the new image.
    pub new_addr: u64,
    /// Bytes in the old image.
    pub old_size: u64,
    /// Bytes in the new image.
    pub new_size: u64,
    /// Activeness.
    pub risk: Risk,
}

/// A variable or constant that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectNote {
    /// Name.
    pub name: String,
    /// In words.
    pub what: String,
}

/// What a bundle does, for people and for `--json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Functions of the new build that were compared.
    pub compared: u64,
    /// Functions that are equal.
    pub equal: u64,
    /// Functions that differ only in line numbers that assertions report; they stay old.
    pub lines_only: Vec<String>,
    /// Functions in the bundle.
    pub functions: Vec<FunctionNote>,
    /// New functions that nothing in the bundle uses.
    pub unused_new: Vec<String>,
    /// Functions that only the old build has.
    pub removed: Vec<String>,
    /// Variables and constants.
    pub objects: Vec<ObjectNote>,
    /// Types that differ.
    pub types: Vec<TypeChange>,
    /// Other things that a reviewer should know.
    pub notes: Vec<String>,
}

impl Report {
    /// The report as text.
    #[must_use]
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} functions compared: {} equal, {} differ only in line numbers of assertions, {} in the bundle",
            self.compared,
            self.equal,
            self.lines_only.len(),
            self.functions.len()
        );
        for function in &self.functions {
            let _ = write!(out, "\n  {}", function.name);
            match &function.why {
                Why::Changed {
                    first,
                    old_line,
                    new_line,
                } => {
                    let _ = writeln!(
                        out,
                        "\n    changed itself, {} -> {} bytes; first difference: {first}",
                        function.old_size, function.new_size
                    );
                    if old_line.is_some() || new_line.is_some() {
                        let show =
                            |line: &Option<String>| line.clone().unwrap_or_else(|| "?".into());
                        let _ = writeln!(
                            out,
                            "    at {} (old), {} (new)",
                            show(old_line),
                            show(new_line)
                        );
                    }
                }
                Why::New => {
                    let _ = writeln!(out, "\n    new, {} bytes", function.new_size);
                }
                Why::Touches { what } => {
                    let _ = writeln!(out, "\n    unchanged, but uses {what}, which has moved");
                }
            }
            if let Risk::OnStack { because } = &function.risk {
                let _ = writeln!(
                    out,
                    "    RISK: usually on a stack ({because}): the update may need a [control] line for it"
                );
            }
        }
        section(
            &mut out,
            "Variables and constants",
            self.objects
                .iter()
                .map(|o| format!("{}: {}", o.name, o.what)),
        );
        section(
            &mut out,
            "Types",
            self.types.iter().map(|t| {
                format!(
                    "{} ({:?})\n      old: {}\n      new: {}",
                    t.name, t.kind, t.old, t.new
                )
            }),
        );
        section(
            &mut out,
            "Only line numbers of assertions differ; the old code stays",
            self.lines_only.iter().cloned(),
        );
        section(
            &mut out,
            "New, but used by nothing in the bundle",
            self.unused_new.iter().cloned(),
        );
        section(&mut out, "Removed", self.removed.iter().cloned());
        section(&mut out, "To know", self.notes.iter().cloned());
        out
    }
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    use std::fmt::Write as _;
    for (index, line) in lines.enumerate() {
        if index == 0 {
            let _ = writeln!(out, "\n{title}:");
        }
        let _ = writeln!(out, "  - {line}");
    }
}
