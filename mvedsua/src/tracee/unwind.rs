//! The call stack of a stopped thread, from the call frame information (`.eh_frame`) of the code that
//! it stands in: exact, with the registers that each caller will find again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EndianSlice, EvaluationResult, Format,
    LittleEndian, Location, Register, RegisterRule, UnwindContext, UnwindSection, Value, X86_64,
};
use object::{Object, ObjectSection};

use super::inspect::{self, Mapping};
use super::module::Module;
use super::version::PlacedFrames;
use crate::sys::memory;
use crate::sys::ptrace::Registers;

/// More frames than this are taken for a loop.
const MOST_FRAMES: usize = 4096;
/// Registers that the x86-64 call frame information numbers: 0 to 15, and the return address.
const NUMBERED: usize = 17;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// One function's activation.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    registers: [Option<u64>; NUMBERED],
    /// The next inner frame is not one that it called, but a signal's: it stands at the very address.
    interrupted: bool,
}

impl Frame {
    fn of(regs: &Registers) -> Self {
        let mut frame = Self {
            registers: [None; NUMBERED],
            interrupted: true,
        };
        for (register, value) in [
            (X86_64::RAX, regs.rax),
            (X86_64::RDX, regs.rdx),
            (X86_64::RCX, regs.rcx),
            (X86_64::RBX, regs.rbx),
            (X86_64::RSI, regs.rsi),
            (X86_64::RDI, regs.rdi),
            (X86_64::RBP, regs.rbp),
            (X86_64::RSP, regs.rsp),
            (X86_64::R8, regs.r8),
            (X86_64::R9, regs.r9),
            (X86_64::R10, regs.r10),
            (X86_64::R11, regs.r11),
            (X86_64::R12, regs.r12),
            (X86_64::R13, regs.r13),
            (X86_64::R14, regs.r14),
            (X86_64::R15, regs.r15),
            (X86_64::RA, regs.rip),
        ] {
            frame.registers[usize::from(register.0)] = Some(value);
        }
        frame
    }

    /// Value of a register in this frame; `None` if it cannot be known.
    #[must_use]
    pub fn register(&self, register: Register) -> Option<u64> {
        self.registers
            .get(usize::from(register.0))
            .copied()
            .flatten()
    }

    /// Where it stands, or will return to.
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.register(X86_64::RA).unwrap_or(0)
    }

    /// An address inside the function: a return address may be that of the next one.
    #[must_use]
    pub fn inside(&self) -> u64 {
        self.pc().wrapping_sub(u64::from(!self.interrupted))
    }
}

/// A thread's frames, innermost first.
#[derive(Debug)]
pub struct Stack {
    /// The frames.
    pub frames: Vec<Frame>,
    /// They reach to the thread's first function. If not, older frames were not seen.
    pub complete: bool,
}

/// Walks stacks of one process; files are read once.
pub struct Unwinder<'a> {
    pid: i32,
    placed: &'a [PlacedFrames],
    maps: Vec<Mapping>,
    modules: HashMap<u64, Option<Rc<Module>>>,
}

/// Sections of a build that say how to walk through its functions: their addresses in the build, and
/// their bytes.
struct Information<'a> {
    frames: (u64, Cow<'a, [u8]>),
    text: Option<u64>,
    header: Option<(u64, Cow<'a, [u8]>)>,
    bias: u64,
}

impl<'a> Information<'a> {
    fn of(module: &'a Module) -> Option<Self> {
        let file = module.file()?;
        let section = |name: &str| {
            let section = file.section_by_name(name)?;
            Some((section.address(), section.uncompressed_data().ok()?))
        };
        Some(Self {
            frames: section(".eh_frame")?,
            text: section(".text").map(|(at, _)| at),
            header: section(".eh_frame_hdr"),
            bias: module.bias,
        })
    }
}

/// How one step outwards ended.
enum Step {
    Caller(Box<Frame>),
    /// The function says itself that nobody called it.
    Outermost,
    Unknown,
}

impl<'a> Unwinder<'a> {
    /// For process `pid`, whose threads must be stopped as long as it is used; `placed` is what bundles left
    /// there.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn new(pid: i32, placed: &'a [PlacedFrames]) -> super::Result<Self> {
        Ok(Self {
            pid,
            placed,
            maps: inspect::maps(pid)?,
            modules: HashMap::new(),
        })
    }

    /// The stack of a thread with these registers.
    pub fn walk(&mut self, regs: &Registers) -> Stack {
        let mut frames = vec![Frame::of(regs)];
        while frames.len() < MOST_FRAMES {
            let last = frames[frames.len() - 1];
            match self.step(&last) {
                Step::Caller(next) => frames.push(*next),
                Step::Outermost => {
                    return Stack {
                        frames,
                        complete: true,
                    };
                }
                Step::Unknown => break,
            }
        }
        Stack {
            frames,
            complete: false,
        }
    }

    fn module(&mut self, address: u64) -> Option<Rc<Module>> {
        let map = self
            .maps
            .iter()
            .find(|map| map.start <= address && address < map.end)?;
        let pid = self.pid;
        self.modules
            .entry(map.start)
            .or_insert_with(|| Module::of_mapping(pid, map).map(Rc::new))
            .clone()
    }

    fn step(&mut self, frame: &Frame) -> Step {
        let pc = frame.inside();
        let placed = self
            .placed
            .iter()
            .find(|placed| placed.range.0 <= pc && pc < placed.range.1);
        let stepped = if let Some(placed) = placed {
            let information = Information {
                frames: (placed.frames.addr, Cow::Borrowed(&placed.frames.bytes)),
                text: None,
                header: None,
                bias: placed.base,
            };
            self.step_by(&information, frame)
        } else {
            self.module(pc)
                .and_then(|module| self.step_by(&Information::of(&module)?, frame))
        };
        // What is missing or cannot be evaluated ends the walk.
        stepped.unwrap_or(Step::Unknown)
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0u8; 8];
        memory::read(self.pid, address, &mut bytes)
            .ok()
            .map(|()| u64::from_le_bytes(bytes))
    }

    /// `None`: the information is missing or cannot be evaluated.
    fn step_by(&self, source: &Information<'_>, frame: &Frame) -> Option<Step> {
        let (frame_at, frame_data) = &source.frames;
        let mut bases = BaseAddresses::default().set_eh_frame(*frame_at);
        if let Some(text) = source.text {
            bases = bases.set_text(text);
        }
        let mut information = EhFrame::new(frame_data, LittleEndian);
        information.set_address_size(8);
        let address = frame.inside().wrapping_sub(source.bias);
        let cie = EhFrame::cie_from_offset;
        // By the sorted table where there is one.
        let parsed = source.header.as_ref().and_then(|(at, data)| {
            bases = bases.clone().set_eh_frame_hdr(*at);
            EhFrameHdr::new(data, LittleEndian).parse(&bases, 8).ok()
        });
        let entry = match parsed.as_ref().and_then(|parsed| parsed.table()) {
            Some(table) => table.fde_for_address(&information, &bases, address, cie),
            None => information.fde_for_address(&bases, address, cie),
        }
        .ok()?;
        let mut context = UnwindContext::new();
        let row = entry
            .unwind_info_for_address(&information, &bases, &mut context, address)
            .ok()?;
        let encoding = entry.cie().encoding();
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                frame.register(*register)?.wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => {
                let code = expression.get(&information).ok()?;
                self.evaluate(code, encoding, frame, None)?
            }
        };
        let mut next = Frame {
            registers: [None; NUMBERED],
            interrupted: entry.is_signal_trampoline(),
        };
        for number in 0..NUMBERED {
            let register = Register(number as u16);
            let own = frame.register(register);
            next.registers[number] = match row.register(register) {
                // By the ABI a callee leaves these alone.
                None => match register {
                    X86_64::RBX
                    | X86_64::RBP
                    | X86_64::R12
                    | X86_64::R13
                    | X86_64::R14
                    | X86_64::R15 => own,
                    X86_64::RSP => Some(cfa),
                    _ => None,
                },
                Some(RegisterRule::Undefined) => {
                    if register == X86_64::RA {
                        return Some(Step::Outermost);
                    }
                    None
                }
                Some(RegisterRule::SameValue) => own,
                Some(RegisterRule::Offset(offset)) => self.word(cfa.wrapping_add_signed(offset)),
                Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
                Some(RegisterRule::Register(other)) => frame.register(other),
                Some(RegisterRule::Expression(expression)) => {
                    let code = expression.get(&information).ok()?;
                    let at = self.evaluate(code, encoding, frame, Some(cfa))?;
                    self.word(at)
                }
                Some(RegisterRule::ValExpression(expression)) => {
                    let code = expression.get(&information).ok()?;
                    Some(self.evaluate(code, encoding, frame, Some(cfa))?)
                }
                Some(RegisterRule::Constant(value)) => Some(value),
                Some(_) => None,
            };
        }
        match next.register(X86_64::RA)? {
            0 => Some(Step::Outermost),
            // A stack grows outwards; the frame of a signal may lie elsewhere (sigaltstack).
            _ if !next.interrupted && cfa <= frame.register(X86_64::RSP)? => Some(Step::Unknown),
            _ => Some(Step::Caller(Box::new(next))),
        }
    }

    fn evaluate(
        &self,
        code: gimli::Expression<Slice<'_>>,
        encoding: Encoding,
        frame: &Frame,
        cfa: Option<u64>,
    ) -> Option<u64> {
        debug_assert_eq!(encoding.format, Format::Dwarf32);
        let mut evaluation = code.evaluation(encoding);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut state = evaluation.evaluate().ok()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = frame.register(register)?;
                    evaluation
                        .resume_with_register(Value::Generic(value))
                        .ok()?
                }
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let mut bytes = [0u8; 8];
                    let size = usize::from(size).min(8);
                    memory::read(self.pid, address, &mut bytes[..size]).ok()?;
                    let value = u64::from_le_bytes(bytes);
                    evaluation.resume_with_memory(Value::Generic(value)).ok()?
                }
                EvaluationResult::RequiresCallFrameCfa => {
                    evaluation.resume_with_call_frame_cfa(cfa?).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.result().as_slice() {
            [piece] => match piece.location {
                Location::Address { address } => Some(address),
                _ => None,
            },
            _ => None,
        }
    }
}
