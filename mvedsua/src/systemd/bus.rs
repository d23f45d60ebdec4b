//! One D-Bus call to a peer: as much of the protocol as it takes to ask systemd a question.
//!
//! <https://dbus.freedesktop.org/doc/dbus-specification.html>: authentication, then messages. Each is aligned from
//! its own beginning.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest answer that is taken.
const LONGEST: usize = 1 << 20;
/// Little-endian, method call, version 1 of the protocol.
const LITTLE: u8 = b'l';
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const SIGNATURE: u8 = 8;
/// A connection makes one call.
const SERIAL: u32 = 1;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The peer answered with an error; its name.
    #[error("systemd says {0}")]
    Refused(String),
    /// It cannot be reached, is silent, or says what nobody understands.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Io(error) => error,
            refused => Self::other(refused),
        }
    }
}

/// A value of one of the types that are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `u`
    Number(u32),
    /// `s`, or the path of an object
    Text(String),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn signature(&self) -> &'static str {
        match self {
            Self::Number(_) => "u",
            Self::Text(_) => "s",
        }
    }

    pub(super) fn into_number(self) -> io::Result<u32> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Text(_) => Err(not_understood()),
        }
    }

    pub(super) fn into_text(self) -> io::Result<String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Number(_) => Err(not_understood()),
        }
    }
}

fn not_understood() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "systemd's answer was not understood",
    )
}

/// A connection for one call.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    until: Instant,
}

impl Bus {
    /// Connects and says who we are: the kernel tells the peer our user, and that must be the one claimed.
    ///
    /// # Errors
    /// When nobody listens, or we are not welcome.
    pub(super) fn connect(socket: &str, limit: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut bus = Self {
            stream,
            until: Instant::now() + limit,
        };
        let user = nix::unistd::geteuid().to_string();
        let hex: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        // All of it at once: what systemd 252 reads together with `BEGIN` it looks at only when more comes, and a
        // call that follows too soon is never answered. The answer comes when it has read this.
        bus.write(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > 256 {
                return Err(not_understood());
            }
            line.extend(bus.read(1)?);
        }
        if !line.starts_with(b"OK ") {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "systemd does not let us in",
            ));
        }
        Ok(bus)
    }

    /// Calls a method, and returns the first value of its answer.
    ///
    /// # Errors
    /// When the peer answers with an error, or does not in time.
    pub(super) fn call(
        mut self,
        path: &str,
        interface: &str,
        member: &str,
        values: &[Value],
    ) -> Result<Value, CallError> {
        self.write(&method_call(path, interface, member, values))?;
        loop {
            // Signals are told to whoever is connected.
            if let Some(answer) = self.message()?.answer()? {
                return answer;
            }
        }
    }

    fn message(&mut self) -> io::Result<Message> {
        let fixed = self.read(16)?;
        let length = |at: usize| {
            let bytes = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (body, fields) = (length(4), length(12));
        if fixed[0] != LITTLE || body > LONGEST || fields > LONGEST {
            return Err(not_understood());
        }
        let mut bytes = fixed;
        bytes.extend(self.read(fields.next_multiple_of(8) + body)?);
        Ok(Message {
            bytes,
            fields,
            body,
        })
    }

    /// Time-outs are the stream's; without any time left none is set.
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "systemd does not answer",
            ));
        }
        Ok(left)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes)
    }

    fn read(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(&mut bytes[done..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                // The next look at the time left says so better.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}

/// What came: header and body.
struct Message {
    bytes: Vec<u8>,
    fields: usize,
    body: usize,
}

impl Message {
    /// The answer to our call, if it is one.
    fn answer(&self) -> io::Result<Option<Result<Value, CallError>>> {
        let (mut serial, mut error, mut signature) = (None, String::new(), String::new());
        let mut header = Reader {
            bytes: &self.bytes[..16 + self.fields],
            at: 16,
        };
        while header.at < header.bytes.len() {
            header.align(8);
            let code = header.byte()?;
            let kind = header.short_text()?;
            match (code, kind.as_str()) {
                (SIGNATURE, "g") => signature = header.short_text()?,
                (_, "g") => drop(header.short_text()?),
                (REPLY_SERIAL, "u") => serial = Some(header.number()?),
                (_, "u") => drop(header.number()?),
                (ERROR_NAME, "s") => error = header.text()?,
                (_, "s" | "o") => drop(header.text()?),
                _ => return Err(not_understood()),
            }
        }
        if serial != Some(SERIAL) {
            return Ok(None);
        }
        let start = self.bytes.len() - self.body;
        let mut body = Reader {
            bytes: &self.bytes[start..],
            at: 0,
        };
        match self.bytes[1] {
            ERROR => Ok(Some(Err(CallError::Refused(error)))),
            METHOD_RETURN => {
                let kind = match signature.as_str() {
                    "v" => body.short_text()?,
                    other => other.to_owned(),
                };
                let value = match kind.as_str() {
                    "u" => Value::Number(body.number()?),
                    "s" | "o" => Value::Text(body.text()?),
                    _ => return Err(not_understood()),
                };
                Ok(Some(Ok(value)))
            }
            _ => Ok(None),
        }
    }
}

/// Reads what a peer wrote, which may be anything.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(count).ok_or_else(not_understood)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(not_understood)?;
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.number()?).map_err(|_| not_understood())?;
        self.terminated(length)
    }

    /// A signature has a length of one byte.
    fn short_text(&mut self) -> io::Result<String> {
        let length = usize::from(self.byte()?);
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> io::Result<String> {
        let text = self.take(length)?.to_vec();
        self.byte()?;
        String::from_utf8(text).map_err(|_| not_understood())
    }
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_number(bytes: &mut Vec<u8>, number: usize) {
    align(bytes, 4);
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    bytes.extend(number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn put_short_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn method_call(path: &str, interface: &str, member: &str, values: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    for value in values {
        match value {
            Value::Number(number) => put_number(&mut body, *number as usize),
            Value::Text(text) => put_text(&mut body, text),
        }
    }
    let mut bytes = vec![LITTLE, METHOD_CALL, 0, 1];
    put_number(&mut bytes, body.len());
    put_number(&mut bytes, SERIAL as usize);
    // The length of the fields, known when they are written.
    put_number(&mut bytes, 0);
    for (code, kind, text) in [
        (PATH, "o", path),
        (INTERFACE, "s", interface),
        (MEMBER, "s", member),
    ] {
        align(&mut bytes, 8);
        bytes.push(code);
        put_short_text(&mut bytes, kind);
        put_text(&mut bytes, text);
    }
    if !values.is_empty() {
        align(&mut bytes, 8);
        bytes.push(SIGNATURE);
        put_short_text(&mut bytes, "g");
        let signature: String = values.iter().map(Value::signature).collect();
        put_short_text(&mut bytes, &signature);
    }
    let fields = u32::try_from(bytes.len() - 16).unwrap_or(u32::MAX);
    bytes[12..16].copy_from_slice(&fields.to_le_bytes());
    align(&mut bytes, 8);
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// An answer as systemd 252 gave it to `Get` of `MainPID` (57).
    fn answer(body: &[u8], signature: &str, kind: u8, serial: u32) -> Vec<u8> {
        let mut bytes = vec![LITTLE, kind, 1, 1];
        put_number(&mut bytes, body.len());
        put_number(&mut bytes, 7);
        put_number(&mut bytes, 0);
        bytes.push(REPLY_SERIAL);
        put_short_text(&mut bytes, "u");
        put_number(&mut bytes, serial as usize);
        if kind == ERROR {
            align(&mut bytes, 8);
            bytes.push(ERROR_NAME);
            put_short_text(&mut bytes, "s");
            put_text(&mut bytes, "org.freedesktop.systemd1.NoUnitForPID");
        }
        align(&mut bytes, 8);
        bytes.push(SIGNATURE);
        put_short_text(&mut bytes, "g");
        put_short_text(&mut bytes, signature);
        let fields = u32::try_from(bytes.len() - 16).unwrap();
        bytes[12..16].copy_from_slice(&fields.to_le_bytes());
        align(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }

    /// Asks a peer that answers with these bytes, and ends the connection.
    fn ask(answers: Vec<u8>) -> Result<Value, CallError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut auth = [0; 256];
            let length = stream.read(&mut auth).unwrap();
            assert!(auth.starts_with(b"\0AUTH EXTERNAL "));
            assert!(auth[..length].ends_with(b"\r\nBEGIN\r\n"), "in one piece");
            stream.write_all(b"OK 0123\r\n").unwrap();
            let call = method_call("/a", "b.c", "D", &[Value::Number(5)]);
            let mut came = vec![0; call.len()];
            stream.read_exact(&mut came).unwrap();
            assert_eq!(came, call);
            stream.write_all(&answers).unwrap();
        });
        let bus = Bus::connect(path.to_str().unwrap(), Duration::from_secs(20)).unwrap();
        let value = bus.call("/a", "b.c", "D", &[Value::Number(5)]);
        peer.join().unwrap();
        value
    }

    #[test]
    fn a_call_is_written_as_the_specification_says() {
        let bytes = method_call("/a", "b.c", "D", &[Value::text("xy"), Value::Number(5)]);
        #[rustfmt::skip]
        let expected = [
            &[b'l', 1, 0, 1, 12, 0, 0, 0, 1, 0, 0, 0, 56, 0, 0, 0][..],
            &[1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'a', 0, 0, 0, 0, 0, 0],
            &[2, 1, b's', 0, 3, 0, 0, 0, b'b', b'.', b'c', 0, 0, 0, 0, 0],
            &[3, 1, b's', 0, 1, 0, 0, 0, b'D', 0, 0, 0, 0, 0, 0, 0],
            &[8, 1, b'g', 0, 2, b's', b'u', 0],
            &[2, 0, 0, 0, b'x', b'y', 0, 0, 5, 0, 0, 0],
        ].concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn an_answer_is_found_among_signals() {
        // A variant: its signature, then the number, aligned.
        let variant = [1, b'u', 0, 0, 57, 0, 0, 0];
        let signal = answer(&variant, "v", 4, 9);
        let bytes = [signal, answer(&variant, "v", METHOD_RETURN, SERIAL)].concat();
        assert_eq!(ask(bytes).unwrap(), Value::Number(57));
    }

    #[test]
    fn an_error_is_told_by_its_name() {
        let refused = ask(answer(&[0; 8], "s", ERROR, SERIAL));
        let is =
            matches!(&refused, Err(CallError::Refused(name)) if name.ends_with("NoUnitForPID"));
        assert!(is, "{refused:?}");
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_an_error() {
        let good = answer(&[1, b'u', 0, 0, 57, 0, 0, 0], "v", METHOD_RETURN, SERIAL);
        for length in 0..good.len() {
            let cut = ask(good[..length].to_vec());
            assert!(matches!(cut, Err(CallError::Io(_))), "{length}: {cut:?}");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] = 0xff;
            // Whatever comes out of it: no panic, no endless wait.
            let _ = ask(bytes);
        }
    }
}
