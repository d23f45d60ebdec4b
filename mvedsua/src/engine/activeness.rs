//! Is now a good moment? No thread may stand in a function that is about to change, nor return to it.

use crate::dsu::{Busy, Control};
use crate::sys::memory;
use crate::tracee::inspect::{self, Mapping};
use crate::tracee::thread::Stopped;
use crate::tracee::unwind::{Stack, Unwinder};
use crate::tracee::{Result, symbol};

/// Most frames of a thread in a message.
const SHOWN: usize = 12;

/// Looks at every thread of the stopped process. `None`: nobody is in the way. Else what to tell: which
/// threads stand in which functions, with their stacks.
///
/// A stack that can be walked to its end is exact. Of any other, every word is taken for a return
/// address that could be one: that errs on the side of waiting.
///
/// # Errors
/// When the process is gone.
pub(super) fn obstacle(
    pid: i32,
    threads: &[(i32, Stopped)],
    busy: &[Busy],
    control: &[(String, Control)],
) -> Result<Option<String>> {
    let left = |name: &str| {
        control
            .iter()
            .any(|(function, what)| *what == Control::Leave && is_named(name, function))
    };
    let busy: Vec<&Busy> = busy.iter().filter(|range| !left(&range.name)).collect();
    let mut unwinder = Unwinder::new(pid)?;
    let maps = inspect::maps(pid)?;
    let mut text = String::new();
    for (leader, thread) in threads {
        let regs = thread.registers()?;
        let stack = unwinder.walk(&regs);
        let exact = stack
            .frames
            .iter()
            .find_map(|frame| active(&busy, frame.inside()));
        let found = match exact {
            Some(name) => format!("stands in {name}"),
            None if stack.complete => continue,
            None => match scan(pid, &maps, regs.rsp, &busy) {
                Some(name) => {
                    format!("may stand in {name} (its stack cannot be walked to the end)")
                }
                None => continue,
            },
        };
        text.push_str(&format!("thread {leader} {found}:\n"));
        text.push_str(&stack_in_words(pid, &stack));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// A static is also known without its unit, as in the lines of the `[control]` section.
fn is_named(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
}

fn active<'a>(busy: &[&'a Busy], address: u64) -> Option<&'a str> {
    busy.iter()
        .find(|range| range.start <= address && address < range.end)
        .map(|range| range.name.as_str())
}

/// Any word of the stack that could be a return address into a busy range. The address of a function's
/// first instruction is none: that is what a function pointer looks like.
fn scan<'a>(pid: i32, maps: &[Mapping], rsp: u64, busy: &[&'a Busy]) -> Option<&'a str> {
    let map = maps
        .iter()
        .find(|map| map.start <= rsp && rsp < map.end && map.write)?;
    let start = rsp & !7;
    let mut bytes = vec![0; (map.end - start) as usize];
    memory::read(pid, start, &mut bytes).ok()?;
    bytes.chunks_exact(8).find_map(|word| {
        let address = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        active(busy, address.wrapping_sub(1))
    })
}

fn stack_in_words(pid: i32, stack: &Stack) -> String {
    let mut text = String::new();
    for frame in stack.frames.iter().take(SHOWN) {
        text.push_str(&format!("    {}\n", symbol::describe(pid, frame.inside())));
    }
    if stack.frames.len() > SHOWN {
        text.push_str(&format!("    ... {} more\n", stack.frames.len() - SHOWN));
    }
    text
}
