//! A server in Rust to update: one thread per connection; what a command does is in the crate `commands`
//! beside this file, with the state behind a mutex. A panic in there is caught here.
//!
//!     PUT key value     store a text                        OK
//!     GET key           the value, or NONE
//!     RANGE from to     how many keys are from `from` up to, without, `to`
//!     LAST n            from version 2: the n last keys
//!     USES key          version 3: how often it was written and read
//!     COUNT             how many keys
//!
//! One command a line, one reply a line; ERR and a reason if it cannot be done. In version 1, RANGE
//! with its ends the wrong way round panics: the client is told so and loses its connection. Version 2
//! (`--cfg v2`) answers, and knows LAST. No type changes. Version 3 (`--cfg v2 --cfg v3`) counts in each entry how often it
//! was read: the nodes of the map grow, and `v2-v3.c` makes them anew.
//!
//! Two crates, since these loops never return: within one crate the compiler puts parts of what changes
//! into them.
//!
//!     board-vN PORT     listens on 127.0.0.1

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use commands::answer;

/// Serves one client to its end.
fn serve(stream: TcpStream) -> io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let asked = line.trim_end();
        let text = catch_unwind(AssertUnwindSafe(|| answer(asked)));
        let end = text.is_err();
        let mut text = text.unwrap_or_else(|_| "ERR the server has panicked".into());
        text.push_str("\r\n");
        output.write_all(text.as_bytes())?;
        if end {
            break;
        }
        line.clear();
    }
    Ok(())
}

fn listen(port: &str) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // A client that is gone is no matter of the others.
        std::thread::spawn(move || serve(stream));
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(port) = std::env::args().nth(1) else {
        eprintln!("usage: board PORT");
        return ExitCode::from(2);
    };
    match listen(&port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("board: {error}");
            ExitCode::FAILURE
        }
    }
}
