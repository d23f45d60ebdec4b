//! A question to systemd, asked by ourselves or by a process of ours that systemd can see.
//!
//! It lets nobody in whose process id it does not know, and in its own pid namespace, a container's, we have none. So
//! there a child is made that has one.

use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use super::LIMIT;
use super::bus::{Bus, CallError, Value};
use crate::sys::{pid_namespace, pidfd};

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) socket: String,
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) values: Vec<Value>,
}

impl Question {
    /// On a new connection each: on one that stays open systemd tells of every change of every unit.
    pub(super) fn ask(&self) -> Result<Value, CallError> {
        let bus = Bus::connect(&self.socket, LIMIT)?;
        bus.call(&self.path, &self.interface, &self.member, &self.values)
    }

    /// Asks as a child in the pid namespace of the process `member`.
    pub(super) fn ask_inside(&self, member: i32) -> Result<Value, CallError> {
        let member = pidfd::open(member)?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["pid-namespace", "ask"]);
        command.args([&self.socket, &self.path, &self.interface, &self.member]);
        command.args(self.values.iter().map(written));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        // The namespace of children is a thread's own, and is gone with it.
        let asked = std::thread::scope(|scope| {
            let child = || {
                pid_namespace::enter(member.as_fd())?;
                command.output()
            };
            scope.spawn(child).join()
        });
        let output =
            asked.map_err(|_| io::Error::other("the thread that asks systemd ended"))??;
        let text = String::from_utf8_lossy(&output.stdout);
        let (kind, rest) = text
            .trim_end_matches('\n')
            .split_once(' ')
            .unwrap_or_default();
        match kind {
            "refused" => Err(CallError::Refused(rest.to_owned())),
            "failed" => Err(io::Error::other(rest.to_owned()).into()),
            _ => read(&text).ok_or_else(|| {
                io::Error::other(format!("nobody asked systemd ({})", output.status)).into()
            }),
        }
    }
}

/// A value as one word, for the command line and back.
fn written(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("u {number}"),
        Value::Text(text) => format!("s {text}"),
    }
}

fn read(word: &str) -> Option<Value> {
    match word.trim_end_matches('\n').split_once(' ')? {
        ("u", number) => Some(Value::Number(number.parse().ok()?)),
        ("s", text) => Some(Value::text(text)),
        _ => None,
    }
}

/// What such a child does: asks and prints the answer.
pub fn answer(socket: String, path: String, interface: String, member: String, values: &[String]) {
    let values: Option<Vec<Value>> = values.iter().map(|word| read(word)).collect();
    let Some(values) = values else {
        println!("failed the question was not understood");
        return;
    };
    let question = Question {
        socket,
        path,
        interface,
        member,
        values,
    };
    match question.ask() {
        Ok(value) => println!("{}", written(&value)),
        Err(CallError::Refused(name)) => println!("refused {name}"),
        Err(CallError::Io(error)) => println!("failed {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_the_way_to_a_child_and_back() {
        for value in [Value::Number(57), Value::text(""), Value::text("a b")] {
            assert_eq!(read(&format!("{}\n", written(&value))), Some(value));
        }
        assert_eq!(read(""), None);
        assert_eq!(read("x 1"), None);
        assert_eq!(read("u x"), None);
    }
}
