//! What is written into a process's private copy of the vDSO, and how it is taken out again.
//!
//! Two things: entry patches, which turn the clock functions into ordinary system calls so that
//! readings are recorded, and in the unused tail of the last page a small stub from which injected
//! calls are made. Writing through `/proc/PID/mem` copies the page first (copy on write): other
//! processes keep theirs. The agent's own vDSO is the same image, so the original bytes are always
//! at hand, also for a successor of a killed agent.

use object::{Object, ObjectSymbol};

use super::{Naming, Result, TraceeError};
use crate::sys::memory;

/// Functions that read clocks or randomness without a system call, and the call that each becomes.
const PATCHED: &[(&str, &str)] = &[
    ("__vdso_clock_gettime", "clock_gettime"),
    ("__vdso_gettimeofday", "gettimeofday"),
    ("__vdso_time", "time"),
    ("__vdso_getcpu", "getcpu"),
    ("__vdso_getrandom", "getrandom"),
];

/// `syscall`, then `rt_sigreturn` on the frame at the stack pointer. The call's number and
/// arguments are in the registers.
const CALL: &[u8] = &[
    0x0f, 0x05, // syscall
    0xb8, 0x0f, 0x00, 0x00, 0x00, // mov eax, 15 (rt_sigreturn)
    0x0f, 0x05, // syscall
    0x0f, 0x0b, // ud2
];

/// The double clone. The leader's thread makes a middle process that shares its memory, waits for
/// it and returns to its own context; the middle process forks the follower and exits, so that the
/// follower is a child of init or a subreaper and never of the server. A follower that no tracer
/// takes over exits at once. Nothing here touches the stack.
const CLONE: &[u8] = &[
    0x0f,
    0x05, //  0: syscall                  clone(CLONE_VM|CLONE_FS|CLONE_FILES), in the registers
    0x85, 0xc0, //  2: test eax, eax
    0x74, 0x1f, //  4: je middle (37)
    0x78, 0x16, //  6: js done (30)
    0x89, 0xc7, //  8: mov edi, eax
    0x31, 0xf6, // 10: xor esi, esi
    0xba, 0x00, 0x00, 0x00, 0x40, // 12: mov edx, __WALL
    0x4d, 0x31, 0xd2, // 17: xor r10, r10
    0xb8, 0x3d, 0x00, 0x00, 0x00, // 20: mov eax, 61   wait4
    0x0f, 0x05, // 25: syscall
    0x90, 0x90, 0x90, // 27: nop
    0xb8, 0x0f, 0x00, 0x00, 0x00, // 30: done: mov eax, 15 (rt_sigreturn)
    0x0f, 0x05, // 35: syscall
    0x31, 0xff, // 37: middle: xor edi, edi
    0x31, 0xf6, // 39: xor esi, esi
    0x31, 0xd2, // 41: xor edx, edx
    0x4d, 0x31, 0xd2, // 43: xor r10, r10
    0x4d, 0x31, 0xc0, // 46: xor r8, r8
    0xb8, 0x38, 0x00, 0x00, 0x00, // 49: mov eax, 56   clone: a plain fork with exit signal 0
    0x0f, 0x05, // 54: syscall
    0x31,
    0xff, // 56: xor edi, edi            both: exit_group(0), unless the tracer moves the child
    0xb8, 0xe7, 0x00, 0x00, 0x00, // 58: mov eax, 231
    0x0f, 0x05, // 63: syscall
    0x0f, 0x0b, // 65: ud2
];

/// Where things are in the vDSO of one process, and the bytes that belong there.
#[derive(Clone, Debug)]
pub struct Vdso {
    base: u64,
    image: Vec<u8>,
    patches: Vec<(u64, [u8; 8])>,
    stub: u64,
}

impl Vdso {
    /// Finds the vDSO of process `pid` and checks that it is the image that this agent knows.
    ///
    /// # Errors
    /// When the process has none, or another one (an already patched one of a killed agent is
    /// recognised and accepted).
    pub fn of(pid: i32) -> Result<Self> {
        let own = range(std::process::id() as i32)?;
        let (base, end) = range(pid)?;
        let mut image = vec![0; (own.1 - own.0) as usize];
        memory::read(std::process::id() as i32, own.0, &mut image).named("read own vDSO", pid)?;
        let mut theirs = vec![0; (end - base) as usize];
        memory::read(pid, base, &mut theirs).named("read vDSO", pid)?;

        let unreadable = |e| TraceeError::Unsuitable(format!("the vDSO image cannot be read: {e}"));
        let file = object::File::parse(&*image).map_err(unreadable)?;
        let mut patches = Vec::new();
        for symbol in file.dynamic_symbols() {
            let Some((_, call)) = PATCHED.iter().find(|(name, _)| symbol.name() == Ok(name)) else {
                continue;
            };
            let nr = u32::from(mvedsua_common::table::number(call)).to_le_bytes();
            patches.push((
                symbol.address(),
                [0xb8, nr[0], nr[1], nr[2], nr[3], 0x0f, 0x05, 0xc3],
            ));
        }
        let used = image
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1);
        let stub = (used as u64 + 63) & !63;
        if stub as usize + CALL.len() + CLONE.len() + 64 > image.len() {
            return Err(TraceeError::Unsuitable(
                "the vDSO has no room for the injection stub".into(),
            ));
        }
        let vdso = Self {
            base,
            image,
            patches,
            stub,
        };
        if !vdso.is_known(&theirs) {
            return Err(TraceeError::Unsuitable(format!(
                "the vDSO of process {pid} is not the kernel's: it was changed by somebody else"
            )));
        }
        Ok(vdso)
    }

    fn is_known(&self, theirs: &[u8]) -> bool {
        let mut bytes = theirs.to_vec();
        if bytes.len() != self.image.len() {
            return false;
        }
        for (at, patch) in &self.patches {
            let at = *at as usize;
            if bytes[at..at + 8] == patch[..] {
                bytes[at..at + 8].copy_from_slice(&self.image[at..at + 8]);
            }
        }
        bytes[..self.stub as usize] == self.image[..self.stub as usize]
    }

    /// Address from which one injected call is made: [`CALL`].
    #[must_use]
    pub const fn call_address(&self) -> u64 {
        self.base + self.stub
    }

    /// Address of an instruction that always traps (`ud2`, SIGILL), behind [`CALL`]: where a function
    /// that is called from outside returns to.
    #[must_use]
    pub const fn trap_address(&self) -> u64 {
        self.call_address() + CALL.len() as u64 - 2
    }

    /// Address of the double clone: [`CLONE`].
    #[must_use]
    pub const fn clone_address(&self) -> u64 {
        self.base + self.stub + 64
    }

    /// True if `address` is inside the vDSO, patched functions and stub alike: a thread there must
    /// move on before it is written.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.base && address < self.base + self.image.len() as u64
    }

    /// Writes the injection stub.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn write_stub(&self, pid: i32) -> Result<()> {
        let mut bytes = vec![0x90; 64];
        bytes[..CALL.len()].copy_from_slice(CALL);
        bytes.extend_from_slice(CLONE);
        memory::force_write(pid, self.base + self.stub, &bytes).named("write the stub", pid)
    }

    /// Makes the clock functions system calls. All threads must be stopped outside them.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn patch(&self, pid: i32) -> Result<()> {
        for (at, patch) in &self.patches {
            memory::force_write(pid, self.base + at, patch).named("patch the vDSO", pid)?;
        }
        Ok(())
    }

    /// Puts every byte back as the kernel made it. All threads must be stopped outside the
    /// functions and the stub.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn restore(&self, pid: i32) -> Result<()> {
        for (at, _) in &self.patches {
            let at = *at as usize;
            memory::force_write(pid, self.base + at as u64, &self.image[at..at + 8])
                .named("restore the vDSO", pid)?;
        }
        let tail = self.stub as usize;
        let end = (tail + 64 + CLONE.len()).min(self.image.len());
        memory::force_write(pid, self.base + self.stub, &self.image[tail..end])
            .named("restore the vDSO", pid)
    }

    /// True if every byte is as the kernel made it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn is_pristine(&self, pid: i32) -> Result<bool> {
        let mut theirs = vec![0; self.image.len()];
        memory::read(pid, self.base, &mut theirs).named("read vDSO", pid)?;
        Ok(theirs == self.image)
    }
}

fn range(pid: i32) -> Result<(u64, u64)> {
    super::inspect::maps(pid)?
        .iter()
        .find(|map| map.name == "[vdso]")
        .map(|map| (map.start, map.end))
        .ok_or_else(|| TraceeError::Unsuitable(format!("process {pid} has no vDSO")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_check::lengths;

    /// A decoder of just the instructions of the stub, to prove that every jump lands on a start.
    mod iced_check {
        pub(super) fn lengths(code: &[u8]) -> Vec<usize> {
            let mut starts = Vec::new();
            let mut at = 0;
            while at < code.len() {
                starts.push(at);
                at += match (code[at], code.get(at + 1)) {
                    (0x0f, Some(_)) | (0x85 | 0x89 | 0x31 | 0x74 | 0x78, _) => 2,
                    (0xb8 | 0xba, _) => 5,
                    (0x4d, _) => 3,
                    (0x90, _) => 1,
                    other => panic!("unknown instruction {other:?} at {at}"),
                };
            }
            starts
        }
    }

    #[test]
    fn jumps_of_the_clone_stub_land_on_instructions() {
        let starts = lengths(CLONE);
        for at in [4usize, 6] {
            let target = at + 2 + CLONE[at + 1] as usize;
            assert!(
                starts.contains(&target),
                "the jump at {at} lands at {target}: {starts:?}"
            );
        }
        assert_eq!(4 + 2 + CLONE[5] as usize, 37, "middle");
        assert_eq!(6 + 2 + CLONE[7] as usize, 30, "done");
    }

    #[test]
    fn own_vdso_is_known_and_pristine() {
        let pid = std::process::id() as i32;
        let vdso = Vdso::of(pid).expect("every x86-64 process has a vDSO");
        assert!(vdso.patches.len() >= 4, "{:?}", vdso.patches);
        assert!(vdso.is_pristine(pid).expect("readable"));
        assert!(vdso.call_address().is_multiple_of(64));
    }
}
