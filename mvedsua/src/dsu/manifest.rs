//! What a bundle says: which build becomes which, what is placed where, and what is changed in the
//! old image.
//!
//! The new image is thought of as loaded beside the old one, at a *base* such that address `a` of
//! the new build lies at `base + a`. Only the few ranges that are needed are really placed there
//! (the *pieces*). So everything that a piece refers to in another piece is right without a
//! change, jump tables included; only what binds back to the old image needs a fix-up.

use serde::{Deserialize, Serialize};

use super::report::Report;
use super::restart::Restart;
use super::transform::CONTROL_LEN;

/// Which build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildName {
    /// The build-id note.
    pub build_id: Vec<u8>,
    /// File name, for people.
    pub name: String,
}

/// What a piece is, which decides how its pages are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceKind {
    /// Read and execute.
    Code,
    /// Read.
    Constant,
    /// Read and write.
    Variable,
}

/// A range of the new image that is placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Address in the new image.
    pub addr: u64,
    /// Kind.
    pub kind: PieceKind,
    /// Bytes, before fix-ups.
    #[serde(with = "serde_bytes_vec")]
    pub bytes: Vec<u8>,
}

/// What a fix-up refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// An address of the old build.
    Old(u64),
    /// An address of the new build, in a piece.
    New(u64),
    /// A symbol of a library: index into [`Manifest::imports`].
    Import(u32),
}

/// How a fix-up is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FixupKind {
    /// 4 bytes: target minus the address of the field, plus the addend.
    Relative32,
    /// 4 bytes, sign-extended by the processor.
    Signed32,
    /// 4 bytes, zero-extended by the processor.
    Unsigned32,
    /// 8 bytes.
    Absolute64,
}

/// A field that is computed when the bundle is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixup {
    /// Address of the field in the new image; inside of a piece.
    pub at: u64,
    /// Its form.
    pub kind: FixupKind,
    /// What it refers to.
    pub target: Target,
    /// Is added to the target's address.
    pub addend: i64,
}

/// A symbol that only the new build takes from a library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Name without version.
    pub symbol: String,
    /// Version that the new build was linked against.
    pub version: Option<String>,
    /// Library that the new build found it in.
    pub library: Option<String>,
    /// May be absent; its address is then 0.
    pub weak: bool,
}

/// A constant of a library that a piece holds a copy of, as `R_X86_64_COPY` makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryCopy {
    /// Address in the new image; inside of a piece.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// Index into [`Manifest::imports`].
    pub import: u32,
}

/// A jump from an old function to its new version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Name of the function.
    pub name: String,
    /// Entry in the old image.
    pub old_addr: u64,
    /// Bytes of the old function from its entry: whose stack frames must be gone.
    pub old_size: u64,
    /// Other ranges of the old function (`.cold`): address and bytes.
    pub old_parts: Vec<(u64, u64)>,
    /// Entry in the new image.
    pub new_addr: u64,
    /// The bytes that must be at the old entry.
    pub expected: [u8; JUMP],
    /// Bit `i`: byte `i` is part of an address, and differs when an earlier bundle placed the function.
    pub address_bytes: u8,
}

/// Bytes of a redirecting jump.
pub const JUMP: usize = 5;

/// New contents of a constant of the old image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// Name of the constant.
    pub name: String,
    /// Address in the old image.
    pub old_addr: u64,
    /// The bytes that must be there; pointers in it are zero and listed below.
    #[serde(with = "serde_bytes_vec")]
    pub old: Vec<u8>,
    /// Pointers in `old`: offset, and what they point to; `None` is not checked.
    pub old_pointers: Vec<(u32, Option<Target>)>,
    /// The bytes that replace them (as many).
    #[serde(with = "serde_bytes_vec")]
    pub new: Vec<u8>,
    /// Pointers in `new`.
    pub new_pointers: Vec<(u32, Target, i64)>,
}

/// Where something of the new build is that was not placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// Address in the new image.
    pub new_addr: u64,
    /// Bytes.
    pub len: u64,
    /// Address in the old image.
    pub old_addr: u64,
}

/// A build's `.eh_frame` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFrames {
    /// Its address in the build.
    pub addr: u64,
    /// Its bytes.
    #[serde(with = "serde_bytes_vec")]
    pub bytes: Vec<u8>,
}

/// A transformer: pieces of the bundle from `start` on, which are used once and unmapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transform {
    /// File that it was made from, for people.
    pub source: String,
    /// Its first address in the new image's numbering, a page boundary behind everything else.
    pub start: u64,
    /// Behind its last page.
    pub end: u64,
    /// The function to start: it needs a stack and nothing else, and ends in `int3`.
    pub entry: u64,
    /// Its control block ([`super::transform::Control`]).
    pub control: u64,
    /// Start, bytes and name of its functions, sorted.
    pub functions: Vec<(u64, u64, String)>,
    /// Changed types that it takes care of.
    pub handles: Vec<String>,
    /// Variables that have moved: old address, new address, bytes.
    pub moved: Vec<(u64, u64, u64)>,
}

/// What is done with a changed function that never leaves the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// Unwind to its caller and enter the new version afresh.
    Restart,
    /// Let the old frame run out in the old code.
    Leave,
}

/// Everything but the bytes around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the program that made the bundle.
    pub made_by: String,
    /// What must be running.
    pub old: BuildName,
    /// What it becomes.
    pub new: BuildName,
    /// Both builds are position independent; if not, the base must be below 2 GiB.
    pub pie: bool,
    /// Sorted by address, not overlapping.
    pub pieces: Vec<Piece>,
    /// Sorted by address.
    pub fixups: Vec<Fixup>,
    /// Symbols to resolve.
    pub imports: Vec<Import>,
    /// Constants to copy from libraries.
    pub copies: Vec<LibraryCopy>,
    /// Jumps to write.
    pub redirects: Vec<Redirect>,
    /// Constants to change in place.
    pub patches: Vec<Patch>,
    /// Where the rest of the new build is; sorted by new address.
    pub map: Vec<Mapped>,
    /// Address of the placed `.eh_frame` in the new image: pass it to `__register_frame` so that
    /// C++ exceptions and Rust panics can pass through placed functions.
    pub unwind: Option<u64>,
    /// Call frame information of the new build (`.eh_frame`): with it the stacks of placed functions can be
    /// walked from outside. It is not placed.
    pub frames: Option<CallFrames>,
    /// The `[control]` section, sorted by function.
    pub control: Vec<(String, Control)>,
    /// What must be known to enter functions afresh: those of `control` that say so.
    pub restarts: Vec<Restart>,
    /// The rule file, if one was given.
    pub rules: Option<String>,
    /// For people: why everything is in.
    pub report: Report,
    /// The transformer, if state must be transformed.
    pub transform: Option<Transform>,
}

impl Manifest {
    /// The lowest and highest address of the new image that a piece covers; 0, 0 without pieces.
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
        let start = self.pieces.first().map_or(0, |p| p.addr);
        let end = self
            .pieces
            .last()
            .map_or(0, |p| p.addr.saturating_add(p.bytes.len() as u64));
        (start, end)
    }

    /// Checks everything that the rest relies on: a bundle comes from a file.
    ///
    /// # Errors
    /// One line that says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        let mut end = 0u64;
        for piece in &self.pieces {
            let next = piece
                .addr
                .checked_add(piece.bytes.len() as u64)
                .filter(|e| *e < 1 << 47);
            match next {
                Some(next) if piece.addr >= end && !piece.bytes.is_empty() => end = next,
                _ => {
                    return Err(format!(
                        "the piece at {:#x} overlaps another or is out of range",
                        piece.addr
                    ));
                }
            }
        }
        let inside = |addr: u64, len: u64| {
            let index = self.pieces.partition_point(|p| p.addr <= addr);
            index > 0 && {
                let piece = &self.pieces[index - 1];
                addr.checked_add(len)
                    .is_some_and(|e| e <= piece.addr + piece.bytes.len() as u64)
            }
        };
        let good = |target: Target| match target {
            Target::Old(addr) => addr < 1 << 47,
            Target::New(addr) => inside(addr, 0),
            Target::Import(index) => (index as usize) < self.imports.len(),
        };
        let mut last = 0u64;
        for fixup in &self.fixups {
            let width = if fixup.kind == FixupKind::Absolute64 {
                8
            } else {
                4
            };
            if fixup.at < last || !inside(fixup.at, width) || !good(fixup.target) {
                return Err(format!(
                    "the fix-up at {:#x} is out of order or out of range",
                    fixup.at
                ));
            }
            last = fixup.at + width;
        }
        for copy in &self.copies {
            if !inside(copy.at, copy.len) || !good(Target::Import(copy.import)) {
                return Err(format!("the copy to {:#x} is out of range", copy.at));
            }
        }
        for redirect in &self.redirects {
            if !inside(redirect.new_addr, 1) || redirect.old_addr >= 1 << 47 {
                return Err(format!(
                    "the redirection of {} is out of range",
                    redirect.name
                ));
            }
        }
        for patch in &self.patches {
            let fits = |offset: u32| u64::from(offset) + 8 <= patch.new.len() as u64;
            let bad_pointer = patch
                .old_pointers
                .iter()
                .any(|p| !fits(p.0) || p.1.is_some_and(|t| !good(t)))
                || patch.new_pointers.iter().any(|p| !fits(p.0) || !good(p.1));
            if patch.old.len() != patch.new.len() || patch.old_addr >= 1 << 47 || bad_pointer {
                return Err(format!("the patch of {} does not fit", patch.name));
            }
        }
        let mut last = 0;
        for mapped in &self.map {
            if mapped.new_addr < last
                || mapped.len == 0
                || mapped.len > 1 << 40
                || mapped.new_addr >= 1 << 47
                || mapped.old_addr >= 1 << 47
            {
                return Err(format!(
                    "the mapping of {:#x} is out of order or out of range",
                    mapped.new_addr
                ));
            }
            last = mapped.new_addr;
        }
        if self.unwind.is_some_and(|addr| !inside(addr, 4)) {
            return Err("the unwind table is in no piece".into());
        }
        if let Some(transform) = &self.transform {
            let own = self.pieces.iter().filter(|p| p.addr >= transform.start);
            let code = own.clone().any(|p| {
                p.kind == PieceKind::Code
                    && transform.entry >= p.addr
                    && transform.entry < p.addr + p.bytes.len() as u64
            });
            let fits = transform.start.is_multiple_of(4096)
                && transform.end.is_multiple_of(4096)
                // What is unmapped afterwards must be the bundle's own (found by the fuzz target).
                && transform.end <= self.span().1.next_multiple_of(4096)
                && own
                    .clone()
                    .all(|p| p.addr + p.bytes.len() as u64 <= transform.end)
                && self.pieces.iter().all(|p| {
                    p.addr >= transform.start || p.addr + p.bytes.len() as u64 <= transform.start
                })
                && transform.control >= transform.start
                && inside(transform.control, CONTROL_LEN)
                && transform
                    .moved
                    .iter()
                    .all(|m| m.0 < 1 << 47 && inside(m.1, 1));
            if !code || !fits {
                return Err("the transformer is out of range".into());
            }
        }
        if self.old.build_id.is_empty() || self.new.build_id.is_empty() {
            return Err("a build-id is missing".into());
        }
        Ok(())
    }
}

/// Byte vectors as byte strings: a sequence of numbers would be read one by one.
mod serde_bytes_vec {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Vec<u8>, E> {
                Ok(v.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
