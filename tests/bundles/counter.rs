//! A server in Rust: its state lives in a static, enums are passed on, and the new version
//! (`--cfg new`) panics through a frame that catches it.
#![allow(unexpected_cfgs)]

use std::io::{self, BufRead, Write};
use std::sync::Mutex;

static NUMBERS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

#[derive(Clone)]
enum Request {
    Add(u64),
    Get,
    Bad(String),
}

#[inline(never)]
fn parse(line: &str) -> Request {
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("add"), Some(number)) => number.parse().map_or(Request::Bad(line.into()), Request::Add),
        (Some("get"), None) => Request::Get,
        _ => Request::Bad(line.into()),
    }
}

#[inline(never)]
fn handle(request: Request) -> String {
    match request {
        Request::Add(number) => {
            let mut numbers = NUMBERS.lock().unwrap();
            numbers.push(number);
            #[cfg(new)]
            return format!("{} numbers, sum {}", numbers.len(), numbers.iter().sum::<u64>());
            #[cfg(not(new))]
            format!("ok {}", numbers.len())
        }
        Request::Get => format!("{:?}", NUMBERS.lock().unwrap()),
        #[cfg(new)]
        Request::Bad(line) => panic!("no such command: {line}"),
        #[cfg(not(new))]
        Request::Bad(_) => "bad".into(),
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    for line in io::stdin().lock().lines() {
        let request = parse(&line.unwrap());
        let answer = std::panic::catch_unwind(|| handle(request.clone()));
        let answer = answer.unwrap_or_else(|panic| format!("caught: {}", panic.downcast_ref::<String>().unwrap()));
        println!("{answer}");
        io::stdout().flush().unwrap();
    }
}
