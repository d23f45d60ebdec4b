//! The code in the tail of the vDSO that reads a clock without a system call although an update runs.
//!
//! In a leader (*log*) it calls the vDSO's own function and writes the result down in the thread's slot
//! (`mvedsua_common::clock`); in a follower (*replay*) it takes the next reading out of the slot. In every
//! other case (no slot, the slot's last place, nothing to take, an unusual clock, another clock than
//! the leader's) it makes the system call, which is recorded and compared like any other.
//!
//! The code is the same in every process and position-independent; the address of the slots is the word
//! before it. It holds nothing across two readings and needs nobody: if the agent dies, a leader goes on
//! writing readings that nobody looks at.
//!
//! No signal handler may return into this code, since it is taken away again. [`Place`] says for each of
//! its instructions how a thread that stands there gets out without running it: back to the entry of the
//! function, as if it had not been called yet, or, once the reading counts, to its caller.

use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, Decoder, DecoderOptions, FlowControl, Instruction};
use mvedsua_common::clock::{
    GETTIMEOFDAY, READINGS, READINGS_AT, SLOT_BYTES, SLOTS, SlotHeader, TIME, WHAT_BITS,
};
use mvedsua_common::table::number;

/// Clocks that the vDSO reads by itself: `CLOCK_REALTIME`, `_MONOTONIC`, `_MONOTONIC_RAW`, the two coarse
/// ones, `_BOOTTIME`, `_TAI`.
const CLOCKS: u32 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 11;
const LAST_CLOCK: i32 = 11;
/// Length of the jump that is put at the entry of a function.
pub(super) const JUMP: usize = 5;
/// The image is assembled for this address: any that is far from both ends of the address space.
const ORIGIN: u64 = 0x10_0000_0000;

const COUNT: i32 = std::mem::offset_of!(SlotHeader, count) as i32;
const CONSUMED: i32 = std::mem::offset_of!(SlotHeader, consumed) as i32;
const GIVEN: i32 = std::mem::offset_of!(SlotHeader, given) as i32;
const ENTERED: i32 = std::mem::offset_of!(SlotHeader, entered) as i32;
const NUMBER: i32 = std::mem::offset_of!(SlotHeader, number) as i32;
const KEPT: i32 = std::mem::offset_of!(SlotHeader, kept) as i32;
const SECONDS: i32 = READINGS_AT as i32;
const FRACTION: i32 = SECONDS + 8;
const WHAT: i32 = SECONDS + 12;

/// The functions, in the order of [`Code::entries`].
pub(super) const FUNCTIONS: [&str; 3] =
    ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time"];

/// How a thread gets out that stands at an instruction of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing has happened: back to the entry.
    Entered,
    /// The stack pointer moves: back to the entry with the one it had there.
    Pushing,
    /// In the vDSO's own function, or behind it: back to the entry with all that it had there.
    Reading,
    /// The system call was made. Back to the entry if it is to be restarted, else to the caller.
    Called,
    /// The same, and the reading is still to be counted.
    CalledUncounted,
}

/// A stretch of instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Offset in the image of the first byte.
    pub(super) from: u64,
    /// Offset after the last.
    pub(super) to: u64,
    /// Index of the function in [`FUNCTIONS`].
    pub(super) function: usize,
    pub(super) place: Place,
}

/// The assembled code.
#[derive(Clone, Debug)]
pub(super) struct Code {
    /// To be written at the offset that it was assembled for; the first eight bytes are the address
    /// of the slots.
    pub(super) bytes: Vec<u8>,
    /// Offsets in the image where a leader and where a follower enters, for each function.
    pub(super) entries: [(u64, u64); 3],
    /// Every instruction is in one.
    pub(super) stretches: Vec<Stretch>,
}

/// Assembles the code for a vDSO image at the offset `at`. `functions` are the offsets and sizes of
/// [`FUNCTIONS`]. `None`: these functions do not begin with instructions that can be moved.
pub(super) fn assemble(image: &[u8], functions: [(u64, u64); 3], at: u64) -> Option<Code> {
    let prologues = [
        prologue(image, functions[0])?,
        prologue(image, functions[1])?,
        prologue(image, functions[2])?,
    ];
    assemble_with(&prologues, at).ok()
}

/// The first instructions of a function that the jump replaces, and the offset after them.
fn prologue(image: &[u8], (start, size): (u64, u64)) -> Option<(Vec<Instruction>, u64)> {
    let bytes = image.get(start as usize..(start + size) as usize)?;
    let mut moved = Vec::new();
    let mut end = None;
    for instruction in Decoder::with_ip(64, bytes, ORIGIN + start, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return None;
        }
        if end.is_none() {
            if instruction.flow_control() != FlowControl::Next {
                return None;
            }
            moved.push(instruction);
            if instruction.next_ip() - ORIGIN >= start + JUMP as u64 {
                end = Some(instruction.next_ip() - ORIGIN);
            }
        } else if let target @ 1.. = instruction.near_branch_target()
            && target > ORIGIN + start
            && Some(target - ORIGIN) < end
        {
            // A loop back to what is replaced.
            return None;
        }
    }
    Some((moved, end?))
}

/// Label of each stretch's beginning, function and place.
type Marks = Vec<(CodeLabel, usize, Place)>;

struct Assembly {
    a: CodeAssembler,
    slots: CodeLabel,
    marks: Marks,
}

fn assemble_with(
    prologues: &[(Vec<Instruction>, u64); 3],
    at: u64,
) -> Result<Code, iced_x86::IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut slots = a.create_label();
    a.set_label(&mut slots)?;
    a.dq(&[0])?;
    let mut assembly = Assembly {
        a,
        slots,
        marks: Vec::new(),
    };
    let mut entries = Vec::new();
    for (function, (moved, rest)) in prologues.iter().enumerate() {
        let log = assembly.log(function, moved, ORIGIN + rest)?;
        let replay = assembly.replay(function)?;
        entries.push((log, replay));
    }
    let mut end = assembly.a.create_label();
    assembly.a.set_label(&mut end)?;
    // A label needs an instruction.
    assembly.a.ud2()?;
    let Assembly { mut a, marks, .. } = assembly;
    let done = a.assemble_options(
        ORIGIN + at,
        BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS,
    )?;
    let offset = |label: &CodeLabel| Ok(done.label_ip(label)? - ORIGIN);
    let mut stretches: Vec<Stretch> = Vec::new();
    for (label, function, place) in &marks {
        let from = offset(label)?;
        if let Some(before) = stretches.last_mut() {
            before.to = from;
        }
        stretches.push(Stretch {
            from,
            to: offset(&end)?,
            function: *function,
            place: *place,
        });
    }
    let mut found = [(0, 0); 3];
    for (entry, (log, replay)) in found.iter_mut().zip(&entries) {
        *entry = (offset(log)?, offset(replay)?);
    }
    Ok(Code {
        bytes: done.inner.code_buffer,
        entries: found,
        stretches,
    })
}

impl Assembly {
    /// From here on the code is in another place.
    fn mark(&mut self, function: usize, place: Place) -> Result<CodeLabel, iced_x86::IcedError> {
        let mut label = self.a.create_label();
        self.a.set_label(&mut label)?;
        self.marks.push((label, function, place));
        // A label needs an instruction of its own; two may have to stand at one.
        self.a.nop()?;
        Ok(label)
    }

    /// Goes to `plain` unless the arguments are those of a reading that is kept in slots.
    fn usual(&mut self, function: usize, plain: CodeLabel) -> Result<(), iced_x86::IcedError> {
        let a = &mut self.a;
        match function {
            0 => {
                a.cmp(edi, LAST_CLOCK)?;
                a.ja(plain)?;
                a.mov(eax, CLOCKS)?;
                a.bt(eax, edi)?;
                a.jae(plain)?;
                a.test(rsi, rsi)?;
                a.je(plain)
            }
            1 => {
                a.test(rdi, rdi)?;
                a.je(plain)?;
                a.test(rsi, rsi)?;
                a.jne(plain)
            }
            _ => {
                a.test(rdi, rdi)?;
                a.jne(plain)
            }
        }
    }

    /// `rdx` = the thread's slot; goes to `plain` if it has none.
    fn slot(&mut self, plain: CodeLabel) -> Result<(), iced_x86::IcedError> {
        let a = &mut self.a;
        a.rdgsbase(rdx)?;
        a.mov(rcx, rdx)?;
        a.sub(rcx, qword_ptr(self.slots))?;
        a.cmp(rcx, (SLOTS as u64 * SLOT_BYTES) as i32)?;
        a.jae(plain)
    }

    /// The system call and what follows it.
    fn call(
        &mut self,
        function: usize,
        plain: &mut CodeLabel,
        after: Place,
    ) -> Result<(), iced_x86::IcedError> {
        self.a.set_label(plain)?;
        self.marks.push((*plain, function, Place::Entered));
        let call = ["clock_gettime", "gettimeofday", "time"][function];
        self.a.mov(eax, u32::from(number(call)))?;
        self.a.syscall()?;
        // The thread stands at the next instruction when the call returns: no padding here.
        let mut label = self.a.create_label();
        self.a.set_label(&mut label)?;
        self.marks.push((label, function, after));
        if after == Place::CalledUncounted {
            self.a.inc(qword_ptr(rdx + COUNT))?;
            let mut label = self.a.create_label();
            self.a.set_label(&mut label)?;
            self.marks.push((label, function, Place::Called));
        }
        self.a.ret()
    }

    /// The leader's way. Returns its entry.
    fn log(
        &mut self,
        function: usize,
        moved: &[Instruction],
        rest: u64,
    ) -> Result<CodeLabel, iced_x86::IcedError> {
        let (mut plain, mut full, mut own, mut out) = (
            self.a.create_label(),
            self.a.create_label(),
            self.a.create_label(),
            self.a.create_label(),
        );
        let entry = self.mark(function, Place::Entered)?;
        self.usual(function, plain)?;
        self.slot(plain)?;
        self.a.mov(rcx, qword_ptr(rdx + COUNT))?;
        self.a.inc(rcx)?;
        self.a.test(ecx, READINGS as i32 - 1)?;
        self.a.je(full)?;
        self.a.mov(qword_ptr(rdx + NUMBER), rcx)?;
        self.a.mov(qword_ptr(rdx + ENTERED), rsp)?;
        for (at, register) in (0..).step_by(8).zip([rbx, rbp, r12, r13, r14, r15]) {
            self.a.mov(qword_ptr(rdx + (KEPT + at)), register)?;
        }
        self.mark(function, Place::Pushing)?;
        self.a.push(rdi)?;
        self.a.push(rsi)?;
        self.a.push(rdx)?;
        self.a.call(own)?;
        self.mark(function, Place::Reading)?;
        let a = &mut self.a;
        a.pop(rdx)?;
        a.pop(rsi)?;
        a.pop(rdi)?;
        a.mov(rcx, qword_ptr(rdx + COUNT))?;
        a.mov(r9d, ecx)?;
        a.and(r9d, READINGS as i32 - 1)?;
        a.shl(r9d, 4)?;
        a.add(r9, rdx)?;
        match function {
            2 => {
                a.mov(qword_ptr(r9 + SECONDS), rax)?;
                a.mov(dword_ptr(r9 + FRACTION), 0)?;
            }
            _ => {
                // The vDSO's functions never fail with these arguments.
                let result = if function == 0 { rsi } else { rdi };
                a.mov(r8, qword_ptr(result))?;
                a.mov(qword_ptr(r9 + SECONDS), r8)?;
                a.mov(r8, qword_ptr(result + 8))?;
                a.mov(dword_ptr(r9 + FRACTION), r8d)?;
                a.xor(eax, eax)?;
            }
        }
        a.inc(rcx)?;
        // With its number; who is taken out of here before it counts must not leave that (`leave_reading`).
        a.mov(r8d, ecx)?;
        a.shl(r8d, WHAT_BITS)?;
        match function {
            0 => a.or(r8d, edi)?,
            1 => a.or(r8d, GETTIMEOFDAY as i32)?,
            _ => a.or(r8d, TIME as i32)?,
        }
        a.mov(dword_ptr(r9 + WHAT), r8d)?;
        a.mov(qword_ptr(rdx + COUNT), rcx)?;
        a.set_label(&mut out)?;
        self.marks.push((out, function, Place::Called));
        self.a.ret()?;
        self.call(function, &mut full, Place::CalledUncounted)?;
        self.call(function, &mut plain, Place::Called)?;
        // The vDSO's own function: its first instructions, then the rest where it is.
        self.a.set_label(&mut own)?;
        self.marks.push((own, function, Place::Reading));
        for instruction in moved {
            self.a.add_instruction(*instruction)?;
        }
        self.a.jmp(rest)?;
        Ok(entry)
    }

    /// The follower's way. Returns its entry.
    fn replay(&mut self, function: usize) -> Result<CodeLabel, iced_x86::IcedError> {
        let mut plain = self.a.create_label();
        let entry = self.mark(function, Place::Entered)?;
        self.usual(function, plain)?;
        self.slot(plain)?;
        let a = &mut self.a;
        a.mov(rcx, qword_ptr(rdx + CONSUMED))?;
        a.cmp(rcx, qword_ptr(rdx + GIVEN))?;
        a.jae(plain)?;
        a.mov(r9d, ecx)?;
        a.and(r9d, READINGS as i32 - 1)?;
        a.shl(r9d, 4)?;
        a.add(r9, rdx)?;
        match function {
            0 => a.cmp(dword_ptr(r9 + WHAT), edi)?,
            1 => a.cmp(dword_ptr(r9 + WHAT), GETTIMEOFDAY)?,
            _ => a.cmp(dword_ptr(r9 + WHAT), TIME)?,
        }
        a.jne(plain)?;
        match function {
            2 => a.mov(rax, qword_ptr(r9 + SECONDS))?,
            _ => {
                let result = if function == 0 { rsi } else { rdi };
                a.mov(r8, qword_ptr(r9 + SECONDS))?;
                a.mov(qword_ptr(result), r8)?;
                a.mov(r8d, dword_ptr(r9 + FRACTION))?;
                a.mov(qword_ptr(result + 8), r8)?;
                a.xor(eax, eax)?;
            }
        }
        a.inc(rcx)?;
        a.mov(qword_ptr(rdx + CONSUMED), rcx)?;
        let mut out = self.a.create_label();
        self.a.set_label(&mut out)?;
        self.marks.push((out, function, Place::Called));
        self.a.ret()?;
        self.call(function, &mut plain, Place::Called)?;
        Ok(entry)
    }
}
