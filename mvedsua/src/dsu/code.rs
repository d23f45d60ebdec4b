//! The instructions of a function with every address taken out and listed apart.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::catalog::Entity;
use super::image::Image;

/// How an instruction uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `call`.
    Call,
    /// `jmp`, `jcc`.
    Branch,
    /// The address itself is computed or stored.
    Address,
    /// So many bytes are read or written right there.
    Memory(u32),
    /// Memory at the address plus a register.
    Indexed,
    /// A number that may or may not be an address (immediates, in fixed-address builds only).
    Immediate,
    /// An offset from the thread pointer, as a signed number.
    ThreadOffset,
}

/// An address in an instruction.
#[derive(Clone, Copy, Debug)]
pub struct Ref {
    /// Where the field is, in bytes from the start of the instruction.
    pub field: u8,
    /// Its bytes: 1, 4 or 8.
    pub width: u8,
    /// Relative to the end of the instruction.
    pub relative: bool,
    /// The address.
    pub addr: u64,
    /// The use.
    pub access: Access,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Insn {
    /// Its address.
    pub at: u64,
    /// Its bytes.
    pub len: u8,
    /// The encoding with address fields zeroed; for direct branches only what they are.
    pub shape: [u8; 16],
    /// Addresses, in order of fields.
    pub refs: Vec<Ref>,
    /// `mov r32, imm32`: number of the register and the value.
    pub load: Option<(u8, u32)>,
    /// Call, jump or neither.
    pub flow: FlowControl,
}

/// A function, decoded.
#[derive(Clone, Debug, Default)]
pub struct Code {
    /// Instructions of all parts, alignment padding left out.
    pub insns: Vec<Insn>,
    /// Address of an instruction (or of padding before it) to its index.
    pub index: HashMap<u64, u32>,
    /// Address and bytes of each part.
    pub parts: Vec<(u64, u64)>,
    /// Bytes that are no instruction, at this address.
    pub undecodable: Option<u64>,
    /// Reads the thread pointer itself (`fs:0`), so that TLS offsets may hide in other instructions.
    pub thread_base: bool,
    /// Has an indirect jump, so that it may have jump tables.
    pub indirect_jump: bool,
}

impl Code {
    /// Decodes all parts of a function.
    #[must_use]
    pub fn decode(image: &Image, entity: &Entity) -> Self {
        let mut code = Self::default();
        let mut parts = vec![(entity.addr, entity.size)];
        parts.extend(entity.parts.iter().copied());
        for (addr, size) in parts {
            let Some(bytes) = image.bytes(addr, size) else {
                code.undecodable.get_or_insert(addr);
                continue;
            };
            code.parts.push((addr, size));
            let mut decoder = Decoder::with_ip(64, &bytes, addr, DecoderOptions::NONE);
            let mut instruction = Instruction::default();
            while decoder.can_decode() {
                decoder.decode_out(&mut instruction);
                let next_index = code.insns.len() as u32;
                code.index.insert(instruction.ip(), next_index);
                if instruction.is_invalid() {
                    code.undecodable.get_or_insert(instruction.ip());
                    continue;
                }
                if instruction.mnemonic() == Mnemonic::Nop {
                    continue;
                }
                let start = (instruction.ip() - addr) as usize;
                let raw = &bytes[start..start + instruction.len()];
                code.push(image, &instruction, &decoder, raw);
            }
        }
        code
    }

    /// The address is in one of the parts.
    #[must_use]
    pub fn covers(&self, addr: u64) -> bool {
        self.parts.iter().any(|p| addr >= p.0 && addr - p.0 < p.1)
    }

    fn push(
        &mut self,
        image: &Image,
        instruction: &Instruction,
        decoder: &Decoder<'_>,
        raw: &[u8],
    ) {
        let offsets = decoder.get_constant_offsets(instruction);
        let flow = instruction.flow_control();
        let mut refs = Vec::new();
        let mut shape = [0u8; 16];
        shape[..raw.len()].copy_from_slice(raw);
        shape[15] = raw.len() as u8;
        let mut blank = |at: usize, len: usize| shape[at..at + len].fill(0);

        if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64 {
            let (field, width) = (offsets.immediate_offset(), offsets.immediate_size());
            refs.push(Ref {
                field: field as u8,
                width: width as u8,
                relative: true,
                addr: instruction.near_branch_target(),
                access: if flow == FlowControl::Call {
                    Access::Call
                } else {
                    Access::Branch
                },
            });
            shape = [0; 16];
            shape[0] = 0x06; // invalid in 64-bit mode: never the first byte of another shape
            shape[1..3].copy_from_slice(&(instruction.mnemonic() as u16).to_le_bytes());
        } else {
            let memory_at =
                (0..instruction.op_count()).find(|i| instruction.op_kind(*i) == OpKind::Memory);
            if memory_at.is_some() && offsets.has_displacement() {
                let (field, width) = (offsets.displacement_offset(), offsets.displacement_size());
                let is_address_only = instruction.mnemonic() == Mnemonic::Lea;
                let size = instruction.memory_size().size() as u32;
                let bare = instruction.memory_base() == Register::None
                    && instruction.memory_index() == Register::None;
                if instruction.is_ip_rel_memory_operand() {
                    let access = if is_address_only {
                        Access::Address
                    } else {
                        Access::Memory(size)
                    };
                    refs.push(Ref {
                        field: field as u8,
                        width: width as u8,
                        relative: true,
                        addr: instruction.ip_rel_memory_address(),
                        access,
                    });
                    blank(field, width);
                } else if matches!(instruction.segment_prefix(), Register::FS) {
                    let displacement = instruction.memory_displacement64();
                    if bare && displacement == 0 {
                        self.thread_base = true;
                    } else if bare && (displacement as i64) < 0 {
                        refs.push(Ref {
                            field: field as u8,
                            width: width as u8,
                            relative: false,
                            addr: displacement,
                            access: Access::ThreadOffset,
                        });
                        blank(field, width);
                    }
                } else if !image.pie
                    && width >= 4
                    && image
                        .section_at(instruction.memory_displacement64())
                        .is_some()
                {
                    let access = match (bare, is_address_only) {
                        (_, true) => Access::Address,
                        (true, false) => Access::Memory(size),
                        (false, false) => Access::Indexed,
                    };
                    refs.push(Ref {
                        field: field as u8,
                        width: width as u8,
                        relative: false,
                        addr: instruction.memory_displacement64(),
                        access,
                    });
                    blank(field, width);
                }
            }
            if !image.pie
                && offsets.has_immediate()
                && offsets.immediate_size() >= 4
                && may_hold_address(instruction)
            {
                let value = immediate(instruction);
                if image.section_at(value).is_some() {
                    let (field, width) = (offsets.immediate_offset(), offsets.immediate_size());
                    refs.push(Ref {
                        field: field as u8,
                        width: width as u8,
                        relative: false,
                        addr: value,
                        access: Access::Immediate,
                    });
                    blank(field, width);
                }
            }
        }
        let load = (instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Immediate32
            && refs.is_empty())
        .then(|| {
            (
                instruction.op0_register().full_register() as u8,
                instruction.immediate32(),
            )
        });
        if flow == FlowControl::IndirectBranch {
            self.indirect_jump = true;
        }
        self.insns.push(Insn {
            at: instruction.ip(),
            len: instruction.len() as u8,
            shape,
            refs,
            load,
            flow,
        });
    }
}

/// Instructions that compilers use to load, pass, store or compare an address as an immediate.
fn may_hold_address(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Mov | Mnemonic::Push | Mnemonic::Cmp | Mnemonic::Add | Mnemonic::Sub
    )
}

fn immediate(instruction: &Instruction) -> u64 {
    (0..instruction.op_count())
        .find_map(|i| match instruction.op_kind(i) {
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate32to64 => Some(instruction.immediate(i)),
            _ => None,
        })
        .unwrap_or(0)
}
