//! What the commands of the board do; see `board.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the server holds.
static BOARD: Mutex<BTreeMap<String, Entry>> = Mutex::new(BTreeMap::new());

/// A value, with how often it was written.
struct Entry {
    text: String,
    writes: u64,
    /// And how often it was read.
    #[cfg(v3)]
    reads: u64,
}

/// Why a command was not carried out.
#[derive(Debug)]
enum Refused {
    Unknown(String),
    Value(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(command) => write!(f, "unknown command {command:?}"),
            Self::Value(why) => f.write_str(why),
        }
    }
}

/// A command, taken apart.
enum Command<'a> {
    Put(&'a str, &'a str),
    Get(&'a str),
    Range(&'a str, &'a str),
    Count,
}

impl<'a> Command<'a> {
    #[inline(never)]
    fn parse(line: &'a str) -> Result<Self, Refused> {
        let mut words = line.splitn(3, ' ');
        let command = match (words.next(), words.next(), words.next()) {
            (Some("PUT"), Some(key), Some(value)) => Self::Put(key, value),
            (Some("GET"), Some(key), None) => Self::Get(key),
            (Some("RANGE"), Some(from), Some(to)) => Self::Range(from, to),
            (Some("COUNT"), None, None) => Self::Count,
            _ => return Err(Refused::Unknown(line.into())),
        };
        Ok(command)
    }

    #[inline(never)]
    fn run(self) -> Result<String, Refused> {
        let mut board = board();
        Ok(match self {
            Self::Put(_, "") => return Err(Refused::Value("a value is missing".into())),
            Self::Put(key, text) => {
                let entry = board.entry(key.into()).or_insert(Entry {
                    text: String::new(),
                    writes: 0,
                    #[cfg(v3)]
                    reads: 0,
                });
                entry.text = text.into();
                entry.writes += 1;
                "OK".into()
            }
            #[cfg(not(v3))]
            Self::Get(key) => board
                .get(key)
                .map_or_else(|| "NONE".into(), |entry| entry.text.clone()),
            #[cfg(v3)]
            Self::Get(key) => board.get_mut(key).map_or_else(
                || "NONE".into(),
                |entry| {
                    entry.reads += 1;
                    entry.text.clone()
                },
            ),
            Self::Range(from, to) => {
                #[cfg(v2)]
                if from > to {
                    return Err(Refused::Value(format!("{from} is behind {to}")));
                }
                board
                    .range(from.to_owned()..to.to_owned())
                    .count()
                    .to_string()
            }
            Self::Count => board.len().to_string(),
        })
    }
}

/// The board, also after a panic: no command leaves it half changed.
fn board() -> MutexGuard<'static, BTreeMap<String, Entry>> {
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `n` last keys, with how often each was written.
#[cfg(v2)]
fn last(n: &str) -> Result<String, Refused> {
    let n = n
        .parse()
        .map_err(|error: std::num::ParseIntError| Refused::Value(error.to_string()))?;
    let board = board();
    let shown: Vec<String> = board
        .iter()
        .rev()
        .take(n)
        .map(|(key, entry)| format!("{key}={}x", entry.writes))
        .collect();
    Ok(shown.join(" "))
}

/// How often a key was written and read.
#[cfg(v3)]
fn uses(key: &str) -> Result<String, Refused> {
    let board = board();
    Ok(board.get(key).map_or_else(
        || "NONE".into(),
        |entry| format!("written {}x, read {}x", entry.writes, entry.reads),
    ))
}

#[cfg(v2)]
fn run(line: &str) -> Result<String, Refused> {
    #[cfg(v3)]
    if let Some(key) = line.strip_prefix("USES ") {
        return uses(key);
    }
    match line.strip_prefix("LAST ") {
        Some(n) => last(n),
        None => Command::parse(line).and_then(Command::run),
    }
}

#[cfg(not(v2))]
fn run(line: &str) -> Result<String, Refused> {
    Command::parse(line).and_then(Command::run)
}

/// The reply to a line.
#[inline(never)]
#[must_use]
pub fn answer(line: &str) -> String {
    match run(line) {
        Ok(text) => text,
        Err(refused) => format!("ERR {refused}"),
    }
}

