//! One client connection with at most one request under way.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::dataset::{Dataset, name, value};
use super::protocol::Answer;
use super::record::Kind;

/// How long a connection attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A request that waits for its reply.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// When it was sent, or should have been sent when the load has a rate.
    due: Instant,
    what: Request,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Get { key: u32, oldest: u32 },
    Set { key: u32, version: u32 },
}

/// What reading from a connection gave.
pub(super) enum Progress {
    /// Nothing complete yet.
    Waiting,
    /// The reply came and is right; the request was due at that moment.
    Answered(Instant),
    /// The reply came and is wrong.
    Wrong(Instant, Kind),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// Bytes of the request that the kernel has not taken yet.
    out: Vec<u8>,
    input: Vec<u8>,
    pending: Option<Pending>,
}

impl Connection {
    pub(super) fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            out: Vec::new(),
            input: Vec::new(),
            pending: None,
        })
    }

    /// Since when the request under way has been due.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.pending.map(|pending| pending.due)
    }

    /// True while the kernel has not taken the whole request.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends a request for `key`; a write of a key that is being written becomes a read.
    pub(super) fn request(
        &mut self,
        data: &mut Dataset,
        key: u32,
        write: bool,
        due: Instant,
    ) -> io::Result<()> {
        let version = if write { data.start_write(key) } else { None };
        let what = match version {
            Some(version) => {
                data.protocol()
                    .set(&mut self.out, &name(key), &value(key, version));
                Request::Set { key, version }
            }
            None => {
                data.protocol().get(&mut self.out, &name(key));
                Request::Get {
                    key,
                    oldest: data.oldest_allowed(key),
                }
            }
        };
        self.pending = Some(Pending { due, what });
        self.flush()
    }

    /// Writes what is left of the request, as far as the kernel takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => drop(self.out.drain(..len)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what is there and judges the reply, if it is complete.
    pub(super) fn read(&mut self, data: &mut Dataset) -> io::Result<Progress> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => self.input.extend_from_slice(&chunk[..len]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(Progress::Waiting);
            }
            Err(e) => return Err(e),
        }
        let Some((answer, len)) = data.protocol().parse(&self.input)? else {
            return Ok(Progress::Waiting);
        };
        let Some(pending) = self.pending.take() else {
            return Err(io::Error::other("a reply that nobody asked for"));
        };
        if len != self.input.len() {
            return Err(io::Error::other("more bytes than one reply"));
        }
        self.input.clear();
        Ok(match (pending.what, answer) {
            (Request::Get { key, oldest }, Answer::Value(Some(bytes)))
                if data.allows(key, oldest, &bytes) =>
            {
                Progress::Answered(pending.due)
            }
            (Request::Get { .. }, Answer::Value(_)) => Progress::Wrong(pending.due, Kind::Value),
            (Request::Set { key, version }, Answer::Stored) => {
                data.finish_write(key, version);
                Progress::Answered(pending.due)
            }
            _ => Progress::Wrong(pending.due, Kind::Reply),
        })
    }
}
