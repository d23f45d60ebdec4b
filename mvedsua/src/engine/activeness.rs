//! Is now a good moment? No thread may stand in a function that is about to change, nor return to it,
//! unless the bundle says what becomes of that frame.

use gimli::{Register, X86_64};
use mvedsua_common::table;

use crate::dsu::{Busy, Control, JUMP, Manifest, Parameter, Place, Placement, Restart, is_named};
use crate::sys::memory;
use crate::sys::ptrace::Registers;
use crate::tracee::inspect::{self, Mapping};
use crate::tracee::thread::Stopped;
use crate::tracee::unwind::{Frame, Stack, Unwinder};
use crate::tracee::version::PlacedFrames;
use crate::tracee::{Result, symbol};

/// Most frames of a thread in a message.
const SHOWN: usize = 12;
/// Calls in which an event loop waits. Whoever is taken out of one of these has nothing half done.
const WAITS: &[&str] = &[
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "nanosleep",
    "clock_nanosleep",
    "pause",
    "rt_sigtimedwait",
];
/// Functions of allocators: a thread that stands in one may hold its locks, or have it half-way.
const ALLOCATOR: &[&str] = &[
    "malloc",
    "free",
    "calloc",
    "realloc",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "reallocarray",
    "malloc_trim",
];
/// Where a thread waits on a condition, at most two calls below (the C library's own, without a name).
const CONDITION: &[&str] = &[
    "pthread_cond_wait",
    "pthread_cond_timedwait",
    "pthread_cond_clockwait",
];
/// What a callee leaves as it was.
const SAVED: [Register; 6] = [
    X86_64::RBX,
    X86_64::RBP,
    X86_64::R12,
    X86_64::R13,
    X86_64::R14,
    X86_64::R15,
];

/// The function in the description of an address.
fn name_in(place: &str) -> &str {
    place.split([' ', '+']).next().unwrap_or_default()
}

/// What was found on the stacks.
pub(super) enum Moment {
    /// Nobody is in the way once these threads have these registers: each enters a function afresh.
    Good(Vec<(usize, Registers)>),
    /// Threads stand in code that changes: which, where, with their stacks.
    Bad(String),
}

/// What a look at the stacks needs to know of the process.
pub(super) struct Scene<'a> {
    pub(super) pid: i32,
    pub(super) busy: &'a [Busy],
    pub(super) manifest: &'a Manifest,
    pub(super) placement: &'a Placement,
    /// How to walk through what earlier bundles placed.
    pub(super) placed: &'a [PlacedFrames],
}

impl Scene<'_> {
    /// Looks at every thread of the stopped process.
    ///
    /// A stack that can be walked to its end is exact. Of any other, every word is taken for a return
    /// address that could be one: that errs on the side of waiting.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn moment(&self, threads: &[(i32, Stopped)]) -> Result<Moment> {
        let mut unwinder = Unwinder::new(self.pid, self.placed)?;
        let maps = inspect::maps(self.pid)?;
        let mut text = String::new();
        let mut restarts = Vec::new();
        for (at, (leader, thread)) in threads.iter().enumerate() {
            let regs = thread.registers()?;
            let stack = unwinder.walk(&regs);
            let found = match self.restart(&stack, &regs) {
                Ok(Some((outer, regs))) => {
                    restarts.push((at, regs));
                    // The frames that remain.
                    self.in_the_way(&stack, outer, &maps)
                }
                Ok(None) => self.in_the_way(&stack, 0, &maps),
                Err(why) => Some(why),
            };
            if let Some(found) = found {
                text.push_str(&format!("thread {leader} {found}:\n"));
                text.push_str(&stack_in_words(self.pid, &stack));
            }
        }
        Ok(if text.is_empty() {
            Moment::Good(restarts)
        } else {
            Moment::Bad(text)
        })
    }

    /// Is no thread inside of the allocator that a transformer will call? Else what to tell, as in
    /// [`Moment::Bad`].
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn allocating(&self, threads: &[(i32, Stopped)]) -> Result<Option<String>> {
        let mut unwinder = Unwinder::new(self.pid, self.placed)?;
        let mut text = String::new();
        for (leader, thread) in threads {
            let stack = unwinder.walk(&thread.registers()?);
            let places: Vec<String> = (stack.frames.iter())
                .map(|frame| symbol::describe(self.pid, frame.inside()))
                .collect();
            // jemalloc's own threads never leave it. One that waits on a condition has given the lock back that goes
            // with it; if it holds another that is needed, the transformer will ask for it and be told to try later.
            let waits = (places.iter().take(3)).any(|place| CONDITION.contains(&name_in(place)));
            if waits && thread.tid() != self.pid {
                continue;
            }
            let inside = places.iter().find_map(|place| {
                let name = name_in(place);
                let allocates = ALLOCATOR.contains(&name)
                    || place.contains("libjemalloc")
                    || place.contains("libtcmalloc");
                allocates.then(|| name.to_owned())
            });
            if let Some(name) = inside {
                text.push_str(&format!(
                    "thread {leader} stands in {name}, and the transformer needs the allocator:\n"
                ));
                text.push_str(&stack_in_words(self.pid, &stack));
            }
        }
        Ok((!text.is_empty()).then_some(text))
    }

    fn says(&self, name: &str, what: Control) -> bool {
        let lines = &self.manifest.control;
        lines.iter().any(|l| l.1 == what && is_named(name, &l.0))
    }

    /// The first frame from `first` on that must not be there.
    fn in_the_way(&self, stack: &Stack, first: usize, maps: &[Mapping]) -> Option<String> {
        let frames = stack.frames.get(first..).unwrap_or_default();
        if let Some(name) = frames.iter().find_map(|f| self.active(f.inside())) {
            return Some(format!("stands in {name}"));
        }
        if stack.complete {
            return None;
        }
        let from = frames.first()?.register(X86_64::RSP)?;
        let name = self.scan(maps, from)?;
        Some(format!(
            "may stand in {name} (its stack cannot be walked to the end)"
        ))
    }

    fn active(&self, address: u64) -> Option<&str> {
        self.busy
            .iter()
            .find(|range| range.start <= address && address < range.end)
            // A frame that is left must not stand in the bytes that become a jump.
            .filter(|range| {
                let overwritten = range.start < address && address < range.start + JUMP as u64;
                overwritten || !self.says(&range.name, Control::Leave)
            })
            .map(|range| range.name.as_str())
    }

    /// Any word of the stack that could be a return address into a busy range. The address of a
    /// function's first instruction is none: that is what a function pointer looks like.
    fn scan(&self, maps: &[Mapping], rsp: u64) -> Option<&str> {
        let map = maps
            .iter()
            .find(|map| map.start <= rsp && rsp < map.end && map.write)?;
        let start = rsp & !7;
        let mut bytes = vec![0; (map.end - start) as usize];
        memory::read(self.pid, start, &mut bytes).ok()?;
        bytes.chunks_exact(8).find_map(|word| {
            let address = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            self.active(address.wrapping_sub(1))
        })
    }

    /// If a function that is to be entered afresh is on the stack: the number of the frame that called
    /// it, and the registers with which it is entered.
    fn restart(
        &self,
        stack: &Stack,
        regs: &Registers,
    ) -> std::result::Result<Option<(usize, Registers)>, String> {
        // The outermost activation: all inside of it goes with it.
        let found = stack.frames.iter().enumerate().rev().find_map(|(at, f)| {
            let name = self.active(f.inside())?;
            self.says(name, Control::Restart).then_some((at, name))
        });
        let Some((at, name)) = found else {
            return Ok(None);
        };
        let refuse = |why: &str| {
            Err(format!(
                "stands in {name}, which cannot be entered afresh: {why}"
            ))
        };
        let Some(restart) = self.manifest.restarts.iter().find(|r| r.name == name) else {
            return refuse("the bundle does not say how");
        };
        if !self.waits(regs) {
            return refuse("the thread does not wait in a system call at this moment");
        }
        let (frame, Some(caller)) = (&stack.frames[at], stack.frames.get(at + 1)) else {
            return refuse("its caller is not known");
        };
        let (Some(entry), Some(cfa)) = (
            self.placement.known_as(restart.old_addr),
            caller.register(X86_64::RSP),
        ) else {
            return refuse("its caller's stack is not known");
        };
        let mut new = *regs;
        for register in SAVED {
            let Some(value) = caller.register(register) else {
                return refuse("a register of its caller is not known");
            };
            *slot(&mut new, register) = value;
        }
        for (parameter, register) in restart.parameters.iter().zip([
            X86_64::RDI,
            X86_64::RSI,
            X86_64::RDX,
            X86_64::RCX,
            X86_64::R8,
            X86_64::R9,
        ]) {
            let Some(value) = self.value(restart, parameter, frame, cfa) else {
                return refuse(&format!(
                    "its parameter {} is not kept where it stands",
                    parameter.name
                ));
            };
            *slot(&mut new, register) = value;
        }
        // As the call left it: the return address lies there still.
        new.rsp = cfa - 8;
        new.rip = entry;
        new.orig_rax = u64::MAX;
        // DF clear, as the ABI wants it at every call.
        new.eflags &= !0x400;
        if self.word(new.rsp) != Some(caller.pc()) {
            return refuse("its return address is not where it should be");
        }
        Ok(Some((at + 1, new)))
    }

    /// The thread stands before a `syscall` instruction (its interrupted call was rewound), and the call is
    /// one that waits.
    fn waits(&self, regs: &Registers) -> bool {
        let mut code = [0u8; 2];
        memory::read(self.pid, regs.rip, &mut code).is_ok()
            && code == [0x0f, 0x05]
            && u16::try_from(regs.rax)
                .ok()
                .and_then(table::syscall)
                .is_some_and(|call| WAITS.contains(&call.name))
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0u8; 8];
        memory::read(self.pid, address, &mut bytes)
            .ok()
            .map(|()| u64::from_le_bytes(bytes))
    }

    /// Value of a parameter in a frame of the function.
    fn value(
        &self,
        restart: &Restart,
        parameter: &Parameter,
        frame: &Frame,
        cfa: u64,
    ) -> Option<u64> {
        // Where the frame stands, in terms of the build: the whole function moved as one.
        let moved = self.placement.runs_at(restart.old_addr)?;
        let pc = frame
            .inside()
            .wrapping_sub(moved)
            .wrapping_add(restart.old_addr);
        let (_, _, place) = parameter
            .places
            .iter()
            .find(|(start, end, _)| *start <= pc && pc < *end)?;
        let value = match *place {
            Place::Register(register) => frame.register(Register(register))?,
            Place::Sum(register, offset) => frame
                .register(Register(register))?
                .wrapping_add_signed(offset),
            Place::Constant(value) => value,
            Place::Frame(offset) => self.word(cfa.wrapping_add_signed(offset))?,
            Place::Memory(register, offset) => {
                let at = frame.register(Register(register))?;
                self.word(at.wrapping_add_signed(offset))?
            }
        };
        // What lies beside a small parameter is not part of it.
        let bits = 8 * u32::from(parameter.size.clamp(1, 8));
        Some(value & (u64::MAX >> (64 - bits)))
    }
}

fn slot(regs: &mut Registers, register: Register) -> &mut u64 {
    match register {
        X86_64::RBX => &mut regs.rbx,
        X86_64::RBP => &mut regs.rbp,
        X86_64::R12 => &mut regs.r12,
        X86_64::R13 => &mut regs.r13,
        X86_64::R14 => &mut regs.r14,
        X86_64::R15 => &mut regs.r15,
        X86_64::RDI => &mut regs.rdi,
        X86_64::RSI => &mut regs.rsi,
        X86_64::RDX => &mut regs.rdx,
        X86_64::RCX => &mut regs.rcx,
        X86_64::R8 => &mut regs.r8,
        _ => &mut regs.r9,
    }
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
