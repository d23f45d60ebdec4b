//! An FTP client whose transfers can be held in the middle.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::content::Content;

/// How long the server may take for one reply or for the next bytes of a transfer.
const LIMIT: Duration = Duration::from_secs(30);

/// How the connection for a transfer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `PASV`: the client connects to an address that the server names.
    Passive,
    /// `EPSV`: the same, with the port alone.
    ExtendedPassive,
    /// `PORT`: the server connects to the client.
    Active,
}

/// One reply: its code, and its text with all lines of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// What follows the code in the first line, and all further lines as they came.
    pub text: String,
}

/// A control connection.
#[derive(Debug)]
pub struct Client {
    control: TcpStream,
    input: Vec<u8>,
    mode: Mode,
}

impl Client {
    /// Connects and waits for the greeting (220).
    ///
    /// # Errors
    /// When the server does not accept, or greets with something else.
    pub fn connect(addr: SocketAddr, mode: Mode) -> Result<Self> {
        let control = TcpStream::connect(addr)?;
        control.set_read_timeout(Some(LIMIT))?;
        control.set_write_timeout(Some(LIMIT))?;
        let mut client = Self {
            control,
            input: Vec::new(),
            mode,
        };
        client.expect(220)?;
        Ok(client)
    }

    /// `USER` and `PASS`, then `TYPE I`.
    ///
    /// # Errors
    /// When the login is refused.
    pub fn login(&mut self, user: &str, password: &str) -> Result<()> {
        self.command(&format!("USER {user}"), 331)?;
        self.command(&format!("PASS {password}"), 230)?;
        self.command("TYPE I", 200)?;
        Ok(())
    }

    /// Sends a line and wants a reply with that code.
    ///
    /// # Errors
    /// When the connection is broken, silent for 30 s, or the reply has another code.
    pub fn command(&mut self, line: &str, code: u16) -> Result<Reply> {
        self.send(line)
            .and_then(|()| self.expect(code))
            .with_context(|| format!("{line:?}"))
    }

    /// Sends a line and returns whatever the reply is.
    ///
    /// # Errors
    /// When the connection is broken or silent for 30 s.
    pub fn ask(&mut self, line: &str) -> Result<Reply> {
        self.send(line)?;
        self.reply()
    }

    /// Sends half a line: the server waits for the rest.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn begin(&mut self, part: &str) -> Result<()> {
        Ok(self.control.write_all(part.as_bytes())?)
    }

    /// A sign of life, of either of the two processes that serve a session: one answers `NOOP`, and
    /// the other opens a port for `PASV`.
    ///
    /// # Errors
    /// When one of them does not answer as it should.
    pub fn is_usable(&mut self) -> Result<()> {
        self.command("NOOP", 200)?;
        let _unused = self.passive_port()?;
        Ok(())
    }

    /// The lines of `LIST`.
    ///
    /// # Errors
    /// When the transfer fails.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let mut data = self.open_data(&format!("LIST {path}"))?;
        let mut text = String::new();
        data.read_to_string(&mut text)?;
        self.expect(226)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// `RETR`, begun: no byte of it has been read.
    ///
    /// # Errors
    /// When the server does not begin.
    pub fn download(&mut self, path: &str, expected: Content) -> Result<Download> {
        Ok(Download {
            data: self.open_data(&format!("RETR {path}"))?,
            expected,
            at: 0,
        })
    }

    /// `RETR` of a whole file, every byte of which is checked.
    ///
    /// # Errors
    /// When the transfer fails or a byte is wrong.
    pub fn retrieve(&mut self, path: &str, expected: Content) -> Result<()> {
        let download = self.download(path, expected)?;
        self.finish_download(download)
    }

    /// Reads the rest of a download and the server's reply to it.
    ///
    /// # Errors
    /// When a byte is wrong, one is missing or too many, or the server does not confirm it (226).
    pub fn finish_download(&mut self, mut download: Download) -> Result<()> {
        let left = download.expected.len() - download.at;
        download.read(left)?;
        let mut more = [0];
        ensure!(
            download.data.read(&mut more)? == 0,
            "more than the {} bytes of the file",
            download.expected.len()
        );
        self.expect(226)?;
        Ok(())
    }

    /// `STOR`, begun: no byte of it has been sent.
    ///
    /// # Errors
    /// When the server does not begin.
    pub fn upload(&mut self, path: &str, content: Content) -> Result<Upload> {
        Ok(Upload {
            data: self.open_data(&format!("STOR {path}"))?,
            content,
            at: 0,
        })
    }

    /// `STOR` of a whole file.
    ///
    /// # Errors
    /// When the transfer fails.
    pub fn store(&mut self, path: &str, content: Content) -> Result<()> {
        let upload = self.upload(path, content)?;
        self.finish_upload(upload)
    }

    /// Sends the rest of an upload and waits for the server's reply to it.
    ///
    /// # Errors
    /// When the server does not take or does not confirm it (226).
    pub fn finish_upload(&mut self, mut upload: Upload) -> Result<()> {
        let left = upload.content.len() - upload.at;
        upload.write(left)?;
        drop(upload);
        self.expect(226)?;
        Ok(())
    }

    /// `QUIT`, and the end of the connection.
    ///
    /// # Errors
    /// When the server does not say goodbye, or says more.
    pub fn quit(mut self) -> Result<()> {
        self.command("QUIT", 221)?;
        let mut more = Vec::new();
        self.control.read_to_end(&mut more)?;
        ensure!(more.is_empty() && self.input.is_empty(), "{more:?}");
        Ok(())
    }

    /// Sends `line`, which begins a transfer (150), and returns the connection for it.
    fn open_data(&mut self, line: &str) -> Result<TcpStream> {
        let data = match self.mode {
            Mode::Passive | Mode::ExtendedPassive => {
                let port = self.passive_port()?;
                // Before the command: the server waits for it only afterwards.
                let data = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                self.command(line, 150)?;
                data
            }
            Mode::Active => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let [high, low] = listener.local_addr()?.port().to_be_bytes();
                self.command(&format!("PORT 127,0,0,1,{high},{low}"), 200)?;
                // The server connects before it says 150; until we accept, the kernel does for us.
                self.command(line, 150)?;
                listener.accept()?.0
            }
        };
        data.set_read_timeout(Some(LIMIT))?;
        data.set_write_timeout(Some(LIMIT))?;
        Ok(data)
    }

    /// Asks for a port to connect to.
    fn passive_port(&mut self) -> Result<u16> {
        let text = match self.mode {
            Mode::ExtendedPassive => self.command("EPSV", 229)?.text,
            _ => self.command("PASV", 227)?.text,
        };
        port_of(&text).with_context(|| format!("no port in {text:?}"))
    }

    fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.control.write_all(format!("{line}\r\n").as_bytes())?)
    }

    fn expect(&mut self, code: u16) -> Result<Reply> {
        let reply = self.reply()?;
        ensure!(reply.code == code, "{code} expected: {reply:?}");
        Ok(reply)
    }

    /// The next reply, waited for.
    ///
    /// # Errors
    /// When the connection is broken, silent for 30 s, or says something that is no reply.
    pub fn reply(&mut self) -> Result<Reply> {
        loop {
            if let Some((reply, taken)) = parse(&self.input)? {
                self.input.drain(..taken);
                return Ok(reply);
            }
            let mut part = [0; 4096];
            let count = self.control.read(&mut part).context("no reply")?;
            if count == 0 {
                bail!("the server closed the connection");
            }
            self.input.extend_from_slice(&part[..count]);
        }
    }
}

/// A download under way. Dropped, its connection is closed.
#[derive(Debug)]
pub struct Download {
    data: TcpStream,
    expected: Content,
    at: u64,
}

impl Download {
    /// Reads `count` more bytes and checks each.
    ///
    /// # Errors
    /// When one is wrong, or none comes for 30 s.
    pub fn read(&mut self, count: u64) -> Result<()> {
        let end = self.at + count;
        let mut part = vec![0; 64 << 10];
        while self.at < end {
            let want = part.len().min(usize::try_from(end - self.at)?);
            let got = self.data.read(&mut part[..want])?;
            ensure!(
                got > 0,
                "the transfer ended after {} of {} bytes",
                self.at,
                self.expected.len()
            );
            self.expected.check(self.at, &part[..got])?;
            self.at += got as u64;
        }
        Ok(())
    }
}

/// An upload under way. Dropped, its connection is closed, which is the end of the file.
#[derive(Debug)]
pub struct Upload {
    data: TcpStream,
    content: Content,
    at: u64,
}

impl Upload {
    /// Sends `count` more bytes.
    ///
    /// # Errors
    /// When the server takes none for 30 s.
    pub fn write(&mut self, count: u64) -> io::Result<()> {
        let end = self.at + count;
        while self.at < end {
            let part = self.content.part(self.at, (end - self.at).min(64 << 10));
            self.data.write_all(&part)?;
            self.at += part.len() as u64;
        }
        Ok(())
    }
}

/// The first reply in `input` and how many bytes it takes; `None` while it is incomplete.
fn parse(input: &[u8]) -> Result<Option<(Reply, usize)>> {
    let mut taken = 0;
    let mut reply: Option<Reply> = None;
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        if !line.ends_with(b"\r\n") {
            break;
        }
        taken += line.len();
        let line = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        let code = line.get(..3).and_then(|code| code.parse().ok());
        let last = line.as_bytes().get(3) == Some(&b' ');
        let begun = match (&mut reply, code) {
            (Some(begun), _) => {
                begun.text.push('\n');
                begun.text.push_str(&line);
                begun.code
            }
            (None, Some(code)) => {
                let text = line.get(4..).unwrap_or_default().to_owned();
                reply = Some(Reply { code, text });
                code
            }
            (None, None) => bail!("{line:?} is no reply"),
        };
        if last && code == Some(begun) {
            return Ok(reply.map(|reply| (reply, taken)));
        }
    }
    Ok(None)
}

/// The port in `Entering Passive Mode (127,0,0,1,106,31).` or in `... (|||27167|)`.
fn port_of(text: &str) -> Option<u16> {
    let inside = text.split_once('(')?.1.split_once(')')?.0;
    if let Some(port) = inside.strip_prefix("|||") {
        return port.strip_suffix('|')?.parse().ok();
    }
    let numbers: Vec<u8> = inside
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    match numbers[..] {
        [_, _, _, _, high, low] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_with_its_code_and_a_space() {
        let whole = b"211-Features:\r\n EPSV\r\n 211 of them\r\n211 End\r\n200 next\r\n";
        let (reply, taken) = parse(whole).expect("a reply").expect("complete");
        assert_eq!((reply.code, taken), (211, whole.len() - 10));
        assert_eq!(reply.text, "Features:\n EPSV\n 211 of them\n211 End");
        for end in 0..taken {
            assert_eq!(parse(&whole[..end]).expect("so far"), None, "{end}");
        }
        assert!(parse(b"hello\r\n").is_err());
    }

    #[test]
    fn ports_of_both_kinds_of_replies() {
        assert_eq!(
            port_of("Entering Passive Mode (127,0,0,1,106,31)."),
            Some(106 * 256 + 31)
        );
        assert_eq!(
            port_of("Entering Extended Passive Mode (|||27167|)"),
            Some(27167)
        );
        assert_eq!(port_of("Entering Passive Mode (127,0,0,1,106)."), None);
        assert_eq!(port_of("nothing"), None);
    }
}
