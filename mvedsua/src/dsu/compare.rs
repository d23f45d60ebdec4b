//! Function by function, variable by variable: what differs between two builds.

use iced_x86::FlowControl;

use super::catalog::{EntityKind, demangle};
use super::code::{Access, Code};
use super::meaning::{Meaning, Pair};

/// How a function of the new build relates to its old version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does the same.
    Same,
    /// Only line numbers that it reports when it fails: old and new ones.
    LinesOnly(Vec<(u32, u32)>),
    /// It differs.
    Changed(Difference),
}

/// The first difference of two functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Address of the instruction in the old build.
    pub old_at: u64,
    /// Address of the instruction in the new build.
    pub new_at: u64,
    /// In words.
    pub what: String,
}

impl Pair {
    /// Compares a function of both builds.
    #[must_use]
    pub fn compare_function(&self, old_id: usize, new_id: usize) -> Verdict {
        let (old, new) = (&self.old.code[&old_id], &self.new.code[&new_id]);
        let differs = |at: usize, what: String| {
            let place = |code: &Code| code.insns.get(at).or(code.insns.last()).map_or(0, |i| i.at);
            Verdict::Changed(Difference {
                old_at: place(old),
                new_at: place(new),
                what,
            })
        };
        if let (Some(at), _) | (_, Some(at)) = (old.undecodable, new.undecodable) {
            return differs(0, format!("bytes at {at:#x} are no instruction"));
        }
        if old.thread_base && self.tls_differs() {
            return differs(
                0,
                "it reads the thread pointer, and thread-local variables moved".into(),
            );
        }
        let mut lines = Vec::new();
        for (at, (a, b)) in old.insns.iter().zip(&new.insns).enumerate() {
            if a.shape != b.shape {
                if let (Some((ra, va)), Some((rb, vb))) = (a.load, b.load)
                    && ra == rb
                    && self.is_line_argument(new, at, rb)
                    && self.is_line_argument_old(old, at, ra)
                {
                    lines.push((va, vb));
                    continue;
                }
                return differs(at, "an instruction".into());
            }
            if a.refs.len() != b.refs.len() {
                return differs(at, "an instruction uses another address".into());
            }
            for (x, y) in a.refs.iter().zip(&b.refs) {
                if x.access != y.access || !self.same(x.addr, y.addr, x.access, Some((old, new))) {
                    return differs(
                        at,
                        format!(
                            "{} instead of {}",
                            self.name_new(y.addr, y.access),
                            self.name_old(x.addr, x.access)
                        ),
                    );
                }
            }
        }
        if old.insns.len() != new.insns.len() {
            let (short, long) = (old.insns.len(), new.insns.len());
            return differs(
                short.min(long),
                format!("{short} instructions became {long}"),
            );
        }
        if lines.is_empty() {
            Verdict::Same
        } else {
            Verdict::LinesOnly(lines)
        }
    }

    /// Some TLS variable is new, gone, or at another offset from the thread pointer.
    #[must_use]
    pub fn tls_differs(&self) -> bool {
        let offset = |side: &super::meaning::Side, id: usize| {
            side.catalog.entities[id].addr as i64 - side.build.image.tls_size as i64
        };
        self.new.catalog.tls_ids().any(|id| {
            self.pairing.to_old[id]
                .is_none_or(|old| offset(&self.old, old) != offset(&self.new, id))
        }) || self
            .old
            .catalog
            .tls_ids()
            .any(|id| self.pairing.to_new[id].is_none())
    }

    fn is_line_argument(&self, code: &Code, at: usize, register: u8) -> bool {
        line_argument(&self.new, code, at, register)
    }

    fn is_line_argument_old(&self, code: &Code, at: usize, register: u8) -> bool {
        line_argument(&self.old, code, at, register)
    }

    /// What an address of the old build names, for people.
    #[must_use]
    pub fn name_old(&self, addr: u64, access: Access) -> String {
        name(&self.old, addr, access)
    }

    /// What an address of the new build names, for people.
    #[must_use]
    pub fn name_new(&self, addr: u64, access: Access) -> String {
        name(&self.new, addr, access)
    }
}

fn name(side: &super::meaning::Side, addr: u64, access: Access) -> String {
    if access == Access::ThreadOffset {
        return side.tls_variable(addr as i64).map_or_else(
            || "an unknown thread-local variable".into(),
            |(id, _)| side.catalog.entities[id].label(),
        );
    }
    match side.meaning(addr) {
        Meaning::Entity(id, 0) => side.catalog.entities[id].label(),
        Meaning::Entity(id, offset) if offset < 1 << 32 => {
            format!("{}+{offset:#x}", side.catalog.entities[id].label())
        }
        Meaning::Entity(id, _) => format!("a part of {}", side.catalog.entities[id].label()),
        Meaning::Stub(symbol) => format!("{symbol} of a library"),
        Meaning::Slot(super::image::Reloc::Import(symbol, _)) => format!("{symbol} of a library"),
        Meaning::Slot(_) => "an entry of the global offset table".into(),
        Meaning::Unnamed => match side
            .string_at(addr)
            .filter(|t| t.len() > 3 && matches!(access, Access::Address | Access::Immediate))
        {
            Some(text) => format!("{:?}", String::from_utf8_lossy(&text[..text.len().min(60)])),
            None => format!("a constant at {addr:#x}"),
        },
        Meaning::UnnamedCode => format!("code without a name at {addr:#x}"),
        Meaning::Outside => format!("{addr:#x}, which is in no section"),
    }
}

/// `mov r32, imm32` at `at` sets the line number of an assertion that is called right after.
fn line_argument(side: &super::meaning::Side, code: &Code, at: usize, register: u8) -> bool {
    let mut next = at + 1;
    for _ in 0..24 {
        let Some(insn) = code.insns.get(next) else {
            return false;
        };
        match insn.flow {
            FlowControl::Call => {
                let Some(target) = insn.refs.first() else {
                    return false;
                };
                return line_register(side, target.addr) == Some(register);
            }
            FlowControl::UnconditionalBranch => {
                let Some(target) = insn.refs.first() else {
                    return false;
                };
                match code.index.get(&target.addr) {
                    Some(index) => next = *index as usize,
                    None => return line_register(side, target.addr) == Some(register),
                }
            }
            FlowControl::Next => {
                if insn.load.is_some_and(|(r, _)| r == register) {
                    return false;
                }
                next += 1;
            }
            _ => return false,
        }
    }
    false
}

/// The register in which a function that reports a failure takes the line number.
fn line_register(side: &super::meaning::Side, addr: u64) -> Option<u8> {
    use iced_x86::Register as R;
    const ARGUMENTS: [R; 6] = [R::RDI, R::RSI, R::RDX, R::RCX, R::R8, R::R9];
    let position = match side.meaning(addr) {
        Meaning::Stub(symbol) => match symbol.as_str() {
            "__assert_fail" | "__assert_perror_fail" | "__assert" => 2,
            _ => return None,
        },
        Meaning::Entity(id, 0) => {
            let entity = &side.catalog.entities[id];
            let name = demangle(&entity.names[0]).to_lowercase();
            // A clone takes other arguments than its source says.
            if entity.kind != EntityKind::Function
                || name.contains('.')
                || !["assert", "panic", "abort", "fail", "error", "fatal", "bug"]
                    .iter()
                    .any(|w| name.contains(w))
            {
                return None;
            }
            side.build
                .debug
                .parameter_names(entity.die?)
                .iter()
                .position(|p| {
                    matches!(
                        p.as_deref(),
                        Some("line" | "lineno" | "linenum" | "line_number" | "line_no")
                    )
                })?
        }
        _ => return None,
    };
    ARGUMENTS.get(position).map(|r| *r as u8)
}
