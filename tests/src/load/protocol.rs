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
