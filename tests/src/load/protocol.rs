//! What the load says to a server and what it understands of the answer.

use std::io;

use crate::resp::{self, Reply};

/// The protocol of the loaded server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, of Redis.
    #[default]
    Redis,
    /// The text protocol of memcached.
    Memcached,
    /// The lines that the servers of `examples/` speak: `PUT key value`.
    Lines,
    /// The same, with the `PUT-string key value` of the key-value store's versions 2 and 3.
    TypedLines,
}

/// An answer, whatever the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// To a `GET`: the value, or none when there is no such key.
    Value(Option<Vec<u8>>),
    /// To a `SET`: done.
    Stored,
    /// Anything else: an error, or an answer to another question.
    Other(String),
}

impl Protocol {
    /// Appends a request to read `key`.
    pub(super) fn get(self, out: &mut Vec<u8>, key: &str) {
        match self {
            Self::Redis => resp::encode(out, &[b"GET", key.as_bytes()]),
            Self::Memcached => out.extend_from_slice(format!("get {key}\r\n").as_bytes()),
            Self::Lines | Self::TypedLines => {
                out.extend_from_slice(format!("GET {key}\r\n").as_bytes());
            }
        }
    }

    /// Appends a request to write `key`.
    pub(super) fn set(self, out: &mut Vec<u8>, key: &str, value: &[u8]) {
        match self {
            Self::Redis => resp::encode(out, &[b"SET", key.as_bytes(), value]),
            Self::Memcached => {
                out.extend_from_slice(format!("set {key} 0 0 {}\r\n", value.len()).as_bytes());
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
            Self::Lines | Self::TypedLines => {
                let command = if self == Self::Lines {
                    "PUT"
                } else {
                    "PUT-string"
                };
                out.extend_from_slice(format!("{command} {key} ").as_bytes());
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The answer at the start of `input` and its length, or `None` while it is incomplete.
    pub(super) fn parse(self, input: &[u8]) -> io::Result<Option<(Answer, usize)>> {
        match self {
            Self::Redis => Ok(resp::parse(input)?.map(|(reply, len)| {
                let answer = match reply {
                    Reply::Bulk(value) => Answer::Value(value),
                    Reply::Status(ok) if ok == "OK" => Answer::Stored,
                    other => Answer::Other(format!("{other:?}")),
                };
                (answer, len)
            })),
            Self::Memcached => parse_text(input),
            Self::Lines | Self::TypedLines => Ok(parse_line(input)),
        }
    }
}

/// `VALUE key flags bytes`, the value and `END`; or one line.
fn parse_text(input: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&input[..end]).into_owned();
    let start = end + 2;
    let Some(words) = line.strip_prefix("VALUE ") else {
        let answer = match line.as_str() {
            "STORED" => Answer::Stored,
            "END" => Answer::Value(None),
            _ => Answer::Other(line),
        };
        return Ok(Some((answer, start)));
    };
    let len: usize = words
        .split(' ')
        .nth(2)
        .and_then(|len| len.parse().ok())
        .ok_or_else(|| invalid(&line))?;
    let whole = start + len + b"\r\nEND\r\n".len();
    if input.len() < whole {
        return Ok(None);
    }
    if &input[start + len..whole] != b"\r\nEND\r\n" {
        return Err(invalid(&line));
    }
    Ok(Some((
        Answer::Value(Some(input[start..start + len].to_vec())),
        whole,
    )))
}

/// One line: `OK`, `NONE`, an error, or a value.
fn parse_line(input: &[u8]) -> Option<(Answer, usize)> {
    let end = input.windows(2).position(|two| two == b"\r\n")?;
    let answer = match &input[..end] {
        b"OK" => Answer::Stored,
        b"NONE" => Answer::Value(None),
        error if error.starts_with(b"ERR") => {
            Answer::Other(String::from_utf8_lossy(error).into_owned())
        }
        value => Answer::Value(Some(value.to_vec())),
    };
    Some((answer, end + 2))
}

fn invalid(line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not an answer of memcached: {line:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_answer() {
        let cases: [(&[u8], Answer); 4] = [
            (b"OK\r\n", Answer::Stored),
            (b"NONE\r\n", Answer::Value(None)),
            (b"ERR no\r\n", Answer::Other("ERR no".into())),
            (b"a b\r\n", Answer::Value(Some(b"a b".to_vec()))),
        ];
        for (bytes, answer) in cases {
            let whole = Protocol::Lines.parse(bytes).expect("valid");
            assert_eq!(whole, Some((answer, bytes.len())));
            let part = Protocol::Lines.parse(&bytes[..bytes.len() - 1]);
            assert_eq!(part.expect("valid so far"), None);
        }
    }

    #[test]
    fn an_answer_of_memcached_is_taken_when_it_is_whole() {
        let cases: [(&[u8], Answer); 4] = [
            (b"STORED\r\n", Answer::Stored),
            (b"END\r\n", Answer::Value(None)),
            (
                b"VALUE k 0 4\r\na\r\nb\r\nEND\r\n",
                Answer::Value(Some(b"a\r\nb".to_vec())),
            ),
            (b"ERROR\r\n", Answer::Other("ERROR".into())),
        ];
        for (bytes, answer) in cases {
            let whole = Protocol::Memcached.parse(bytes).expect("valid");
            assert_eq!(whole, Some((answer, bytes.len())));
            for cut in 0..bytes.len() {
                let part = Protocol::Memcached.parse(&bytes[..cut]);
                assert_eq!(part.expect("valid so far"), None, "{cut} bytes");
            }
        }
        let wrong_length = Protocol::Memcached.parse(b"VALUE k 0 3\r\na\r\nb\r\nEND\r\n");
        assert!(wrong_length.is_err());
    }
}
