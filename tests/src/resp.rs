//! A small client of RESP2, the protocol of Redis.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Status(String),
    /// `-ERR ...`: the server refused the command.
    Error(String),
    /// `:42`
    Integer(i64),
    /// `$3`, or `None` for the null bulk string.
    Bulk(Option<Vec<u8>>),
    /// `*2`, or `None` for the null array.
    Array(Option<Vec<Reply>>),
}

/// Appends one command (its words) to `out`.
pub fn encode(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Parses the reply at the start of `input`: the reply and its length in bytes, or `None` while it
/// is incomplete.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when this is not RESP2.
pub fn parse(input: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let invalid = || {
        let start = String::from_utf8_lossy(&input[..input.len().min(40)]).into_owned();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not a RESP2 reply: {start:?}"),
        )
    };
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let (kind, line) = input[..end].split_first().ok_or_else(invalid)?;
    let line = std::str::from_utf8(line).map_err(|_| invalid())?;
    let number = || line.parse::<i64>().map_err(|_| invalid());
    let mut at = end + 2;
    let reply = match kind {
        b'+' => Reply::Status(line.to_owned()),
        b'-' => Reply::Error(line.to_owned()),
        b':' => Reply::Integer(number()?),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Reply::Bulk(None),
            Ok(len) => {
                let Some(bytes) = input.get(at..at + len + 2) else {
                    return Ok(None);
                };
                if !bytes.ends_with(b"\r\n") {
                    return Err(invalid());
                }
                at += len + 2;
                Reply::Bulk(Some(bytes[..len].to_vec()))
            }
        },
        b'*' => match usize::try_from(number()?) {
            Err(_) => Reply::Array(None),
            Ok(count) => {
                let mut items = Vec::with_capacity(count.min(1024));
                for _ in 0..count {
                    let Some((item, len)) = parse(&input[at..])? else {
                        return Ok(None);
                    };
                    at += len;
                    items.push(item);
                }
                Reply::Array(Some(items))
            }
        },
        _ => return Err(invalid()),
    };
    Ok(Some((reply, at)))
}

/// A blocking connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    /// Bytes of `input` that were already handed out.
    consumed: usize,
}

impl Client {
    /// Connects; every later read waits at most `limit` for the server.
    ///
    /// # Errors
    /// When the server does not accept.
    pub fn connect(addr: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self {
            stream,
            input: Vec::new(),
            consumed: 0,
        })
    }

    /// Sends one command, given as words, and waits for its reply.
    ///
    /// # Errors
    /// When the connection breaks or the server does not answer in time. An error *reply* is
    /// [`Reply::Error`].
    pub fn command(&mut self, words: &[&str]) -> io::Result<Reply> {
        let mut out = Vec::new();
        encode(
            &mut out,
            &words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>(),
        );
        self.send(&out)?;
        self.receive()
    }

    /// Sends bytes made with [`encode`]; one [`receive`](Self::receive) is due per command.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// When the connection breaks or the server does not answer in time.
    pub fn receive(&mut self) -> io::Result<Reply> {
        self.receive_with(parse)
    }

    /// Waits until `parse` finds something whole at the start of what has come: its value and its
    /// length. For servers that speak something else.
    ///
    /// # Errors
    /// When the connection breaks, the server does not answer in time, or `parse` fails.
    pub fn receive_with<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> io::Result<Option<(T, usize)>>,
    ) -> io::Result<T> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some((reply, len)) = parse(&self.input[self.consumed..])? {
                self.consumed += len;
                return Ok(reply);
            }
            self.input.drain(..self.consumed);
            self.consumed = 0;
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.input.extend_from_slice(&chunk[..len]),
            }
        }
    }

    /// Value of a field of `INFO`, for example `info_field("persistence", "latest_fork_usec")`... of
    /// the section and name that Redis documents.
    ///
    /// # Errors
    /// When the connection breaks or the section has no such field.
    pub fn info_field(&mut self, section: &str, field: &str) -> io::Result<String> {
        let reply = self.command(&["INFO", section])?;
        let Reply::Bulk(Some(text)) = &reply else {
            return Err(io::Error::other(format!(
                "INFO {section} answered {reply:?}"
            )));
        };
        String::from_utf8_lossy(text)
            .lines()
            .find_map(|line| {
                Some(
                    line.strip_prefix(field)?
                        .strip_prefix(':')?
                        .trim()
                        .to_owned(),
                )
            })
            .ok_or_else(|| io::Error::other(format!("INFO {section} has no {field}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_round_trips() {
        let cases: [(&[u8], Reply); 7] = [
            (b"+OK\r\n", Reply::Status("OK".into())),
            (b"-ERR no\r\n", Reply::Error("ERR no".into())),
            (b":-3\r\n", Reply::Integer(-3)),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(Some(b"a\r\nb".to_vec()))),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"*-1\r\n", Reply::Array(None)),
            (
                b"*2\r\n:1\r\n$1\r\nx\r\n",
                Reply::Array(Some(vec![
                    Reply::Integer(1),
                    Reply::Bulk(Some(b"x".to_vec())),
                ])),
            ),
        ];
        for (bytes, reply) in cases {
            let whole = parse(bytes).expect("valid");
            assert_eq!(whole, Some((reply, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(
                    parse(&bytes[..cut]).expect("valid so far"),
                    None,
                    "{cut} bytes"
                );
            }
        }
    }

    #[test]
    fn what_is_not_resp_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"$1\r\nxyz\r\n").is_err());
        assert!(parse(b"\r\n").is_err());
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&mut out, &[b"GET", b"k"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
