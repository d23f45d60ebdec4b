//! Connections that are opened before an update and must still answer after it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::load::Protocol;
use crate::resp::Client;

/// How long the server may take for one answer.
const LIMIT: Duration = Duration::from_secs(20);

/// Established connections with nothing under way.
#[derive(Debug)]
pub struct Idle {
    protocol: Protocol,
    clients: Vec<Client>,
}

impl Idle {
    /// Opens `count` connections and hears from each once, so that the server has accepted it.
    ///
    /// # Errors
    /// When one cannot be opened or does not answer.
    pub fn open(addr: SocketAddr, protocol: Protocol, count: usize) -> io::Result<Self> {
        let clients = (0..count)
            .map(|_| Client::connect(addr, LIMIT))
            .collect::<io::Result<_>>()?;
        let mut idle = Self { protocol, clients };
        idle.all_answer()?;
        Ok(idle)
    }

    /// Asks every connection for a sign of life.
    ///
    /// # Errors
    /// Names the first connection that is broken, silent for 20 s, or answers with something else.
    pub fn all_answer(&mut self) -> io::Result<()> {
        let (ask, expected): (&[u8], &str) = match self.protocol {
            Protocol::Redis => (b"PING\r\n", "+PONG"),
            Protocol::Memcached => (b"version\r\n", "VERSION "),
            Protocol::Lines | Protocol::TypedLines => (b"GET no-such-key\r\n", "NONE"),
        };
        let count = self.clients.len();
        for (at, client) in self.clients.iter_mut().enumerate() {
            let answer = client.send(ask).and_then(|()| client.receive_with(line));
            match answer {
                Ok(text) if text.starts_with(expected) => {}
                other => {
                    return Err(io::Error::other(format!(
                        "idle connection {at} of {count}: {other:?} instead of {expected:?}"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn line(input: &[u8]) -> io::Result<Option<(String, usize)>> {
    let end = input.windows(2).position(|two| two == b"\r\n");
    Ok(end.map(|end| (String::from_utf8_lossy(&input[..end]).into_owned(), end + 2)))
}
