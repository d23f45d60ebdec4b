//! What is written into a process's private copy of the vDSO, and how it is taken out again.
//!
//! Entry patches, which turn the clock functions into ordinary system calls so that readings are recorded,
//! or lead them into code that needs no call ([`super::clock_code`]); and in the unused tail of the last
//! page that code, and a small stub from which injected calls are made. Writing through `/proc/PID/mem` copies the page first (copy on write): other
//! processes keep theirs. The agent's own vDSO is the same image, so the original bytes are always
//! at hand, also for a successor of a killed agent.

use mvedsua_common::clock::{SLOT_BYTES, SLOTS, SlotHeader};
use object::{Object, ObjectSymbol};

use super::clock_code::{self, Code, JUMP, Place};
use super::clock_slots;
use super::context::ERESTART;
use super::signal_frame;
use super::thread::Stopped;
use super::{Naming, Result, TraceeError};
use crate::sys::memory;
use crate::sys::ptrace::Registers;

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

/// Two questions that a thread asks the kernel about itself, on its way back to its context: its tid address
/// (`prctl(PR_GET_TID_ADDRESS)`, in the registers) and its alternate signal stack. The answers lie one
/// behind the other where the registers say; the word at [`QUERY_DONE`] says that they are there.
const QUERY: &[u8] = &[
    0x0f, 0x05, //  0: syscall                  prctl, in the registers; rsi: where to
    0x48, 0x83, 0xc6, 0x08, //  2: add rsi, 8
    0x31, 0xff, //  6: xor edi, edi
    0xb8, 0x83, 0x00, 0x00, 0x00, //  8: mov eax, 131   sigaltstack(NULL, rsi)
    0x0f, 0x05, // 13: syscall
    0xc7, 0x46, 0x18, 0x01, 0x00, 0x00, 0x00, // 15: mov dword [rsi+24], 1
    0xb8, 0x0f, 0x00, 0x00, 0x00, // 22: mov eax, 15 (rt_sigreturn)
    0x0f, 0x05, // 27: syscall
    0x0f, 0x0b, // 29: ud2
];

/// Where [`QUERY`] is in the stub: behind [`CALL`].
const QUERY_AT: u64 = 16;
/// Offset of the word that is 1 once both answers are there.
pub const QUERY_DONE: usize = 32;

const _: () = assert!(CALL.len() as u64 <= QUERY_AT && QUERY_AT as usize + QUERY.len() <= 64);

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

/// The double clone into another pid namespace ([`super::pid_namespace`]). As [`CLONE`], but the middle
/// process, which has a descriptor table of its own, first lets its children live there. Registers:
/// `r12` the id of that namespace's init, `r13` `CLONE_NEWPID`, `r14` the address of a `struct clone_args`,
/// by which the follower has its id. If any of it fails there is no follower.
const CLONE_INTO: &[u8] = &[
    0x0f, 0x05, //  0: syscall                  clone(CLONE_VM|CLONE_FS), in the registers
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
    0x44, 0x89, 0xe7, // 37: middle: mov edi, r12d
    0x31, 0xf6, // 40: xor esi, esi
    0xb8, 0xb2, 0x01, 0x00, 0x00, // 42: mov eax, 434  pidfd_open
    0x0f, 0x05, // 47: syscall
    0x85, 0xc0, // 49: test eax, eax
    0x78, 0x21, // 51: js out (86)
    0x89, 0xc7, // 53: mov edi, eax
    0x44, 0x89, 0xee, // 55: mov esi, r13d
    0xb8, 0x34, 0x01, 0x00, 0x00, // 58: mov eax, 308  setns
    0x0f, 0x05, // 63: syscall
    0x85, 0xc0, // 65: test eax, eax
    0x78, 0x11, // 67: js out (86)
    0x4c, 0x89, 0xf7, // 69: mov rdi, r14
    0xbe, 0x50, 0x00, 0x00, 0x00, // 72: mov esi, 80
    0xb8, 0xb3, 0x01, 0x00, 0x00, // 77: mov eax, 435  clone3: a plain fork with exit signal 0
    0x0f, 0x05, // 82: syscall
    0x90, 0x90, // 84: nop
    0x31,
    0xff, // 86: out: xor edi, edi       both: exit_group(0), unless the tracer moves the child
    0xb8, 0xe7, 0x00, 0x00, 0x00, // 88: mov eax, 231
    0x0f, 0x05, // 93: syscall
    0x0f, 0x0b, // 95: ud2
];

/// What the clock functions of a process do while an update runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// They make system calls.
    Calls,
    /// They write their readings down: a leader.
    Log,
    /// They take readings that they were given: a follower.
    Replay,
}

/// The first bytes of a patched function.
#[derive(Clone, Debug)]
struct Patch {
    /// Offset in the image.
    at: usize,
    /// For each of [`Clocks`].
    variants: [[u8; 8]; 3],
}

/// Where things are in the vDSO of one process, and the bytes that belong there.
#[derive(Clone, Debug)]
pub struct Vdso {
    base: u64,
    image: Vec<u8>,
    patches: Vec<Patch>,
    stub: u64,
    /// Offsets of [`clock_code::FUNCTIONS`].
    functions: [u64; 3],
    clock: Option<Code>,
}

/// Bytes of the tail before the code for clocks.
const STUBS: u64 = 64 + 128;

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
        let mut patches = Vec::new();
        for symbol in file.dynamic_symbols() {
            let Some((_, call)) = PATCHED.iter().find(|(name, _)| symbol.name() == Ok(name)) else {
                continue;
            };
            let nr = u32::from(mvedsua_common::table::number(call)).to_le_bytes();
            let calls = [0xb8, nr[0], nr[1], nr[2], nr[3], 0x0f, 0x05, 0xc3];
            patches.push(Patch {
                at: symbol.address() as usize,
                variants: [calls; 3],
            });
        }
        let functions = clock_code::FUNCTIONS.map(|name| {
            file.dynamic_symbols()
                .find(|symbol| symbol.name() == Ok(name))
                .map_or((0, 0), |symbol| (symbol.address(), symbol.size()))
        });
        let at = stub + STUBS;
        let clock = clock_code::assemble(&image, functions, at)
            .filter(|code| at as usize + code.bytes.len() <= image.len());
        if let Some(code) = &clock {
            for ((start, _), (log, replay)) in functions.into_iter().zip(code.entries) {
                let start = start as usize;
                let Some(patch) = patches.iter_mut().find(|patch| patch.at == start) else {
                    continue;
                };
                for (variant, to) in [(Clocks::Log, log), (Clocks::Replay, replay)] {
                    let mut bytes: [u8; 8] = image[start..start + 8].try_into().expect("8 bytes");
                    let distance = (to as i64 - (start + JUMP) as i64) as i32;
                    bytes[0] = 0xe9;
                    bytes[1..JUMP].copy_from_slice(&distance.to_le_bytes());
                    patch.variants[variant as usize] = bytes;
                }
            }
        }
        let vdso = Self {
            base,
            image,
            patches,
            stub,
            functions: functions.map(|(start, _)| start),
            clock,
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
        for patch in &self.patches {
            let there = patch.at..patch.at + 8;
            if patch
                .variants
                .iter()
                .any(|variant| bytes[there.clone()] == variant[..])
            {
                bytes[there.clone()].copy_from_slice(&self.image[there]);
            }
        }
        bytes[..self.stub as usize] == self.image[..self.stub as usize]
    }

    /// A thread, if any of these stopped ones, that is in a handler which may return into the vDSO: it has not finished a
    /// reading that it began before, or is to go on in what a killed agent wrote (which calls the kernel's code: then
    /// the handler returns there first).
    ///
    /// # Errors
    /// When one is gone.
    pub fn may_return<'a>(
        &self,
        threads: impl IntoIterator<Item = &'a Stopped>,
    ) -> Result<Option<i32>> {
        /// Most of a stack that is looked at, in bytes.
        const MOST: usize = 1 << 20;
        for thread in threads {
            let frames = signal_frame::all_of(thread, MOST)?;
            if frames.iter().any(|frame| self.contains(frame.rip)) {
                return Ok(Some(thread.tid()));
            }
        }
        Ok(None)
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

    /// Address of [`QUERY`].
    #[must_use]
    pub const fn query_address(&self) -> u64 {
        self.base + self.stub + QUERY_AT
    }

    /// Address of the double clone: [`CLONE`] or [`CLONE_INTO`].
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

    /// True if `address` is in the code from which calls are injected.
    #[must_use]
    pub const fn is_in_stub(&self, address: u64) -> bool {
        let from = self.base + self.stub;
        address >= from && address < from + STUBS
    }

    /// Writes the injection stub.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn write_stub(&self, pid: i32) -> Result<()> {
        let mut bytes = vec![0x90; 64];
        bytes[..CALL.len()].copy_from_slice(CALL);
        let query = QUERY_AT as usize;
        bytes[query..query + QUERY.len()].copy_from_slice(QUERY);
        bytes.extend_from_slice(CLONE);
        memory::force_write(pid, self.base + self.stub, &bytes).named("write the stub", pid)
    }

    /// Writes the double clone into another pid namespace over the plain one.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn write_clone_into(&self, pid: i32) -> Result<()> {
        memory::force_write(pid, self.clone_address(), CLONE_INTO).named("write the stub", pid)
    }

    /// True if readings can be written down and handed out: the tail has room for the code, and
    /// the machine's clock can be read without a call (else the vDSO's functions make one, which would
    /// be recorded beside the reading).
    #[must_use]
    pub fn can_log(&self) -> bool {
        /// Bit of `AT_HWCAP2` (arch/x86/include/uapi/asm/hwcap2.h): `rdgsbase` may be used.
        const FSGSBASE: u64 = 1 << 1;
        const READ_WITHOUT_CALL: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];
        let source = std::fs::read_to_string(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        );
        self.clock.is_some()
            && crate::sys::features::hardware_capabilities() & FSGSBASE != 0
            && source.is_ok_and(|source| READ_WITHOUT_CALL.contains(&source.trim()))
    }

    /// Writes the code for clocks, with the address of the process's slots. It is reached only after
    /// [`Vdso::patch`].
    ///
    /// # Errors
    /// When the process is gone.
    pub fn write_clock_code(&self, pid: i32, slots: u64) -> Result<()> {
        let Some(code) = &self.clock else {
            return Ok(());
        };
        let mut bytes = code.bytes.clone();
        bytes[..8].copy_from_slice(&slots.to_le_bytes());
        memory::force_write(pid, self.base + self.stub + STUBS, &bytes)
            .named("write the clock code", pid)
    }

    /// The address of the slots that the process has, if it has the code for clocks.
    #[must_use]
    pub fn slots(&self, pid: i32) -> Option<u64> {
        let code = self.clock.as_ref()?;
        let mut theirs = vec![0; code.bytes.len()];
        memory::read(pid, self.base + self.stub + STUBS, &mut theirs).ok()?;
        let slots = u64::from_le_bytes(theirs[..8].try_into().expect("8 bytes"));
        (theirs[8..] == code.bytes[8..] && slots != 0).then_some(slots)
    }

    /// What was at that address is going to be the process's own again: nobody must find it there any more, whatever
    /// becomes of this agent.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn forget_slots(&self, pid: i32) -> Result<()> {
        memory::force_write(pid, self.base + self.stub + STUBS, &0u64.to_le_bytes())
            .named("forget the slots", pid)
    }

    /// Makes the clock functions do as `clocks` says. All threads must be stopped outside them.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn patch(&self, pid: i32, clocks: Clocks) -> Result<()> {
        for patch in &self.patches {
            let bytes = &patch.variants[clocks as usize];
            memory::force_write(pid, self.base + patch.at as u64, bytes)
                .named("patch the vDSO", pid)?;
        }
        Ok(())
    }

    /// Moves a stopped thread out of what we wrote into the vDSO, at one stroke: before the clock function
    /// that it is in, or behind it. `regs` are its registers as they are; true if they were changed
    /// and are to be set. So nothing of ours is ever on the way back from a signal's handler.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn evade(&self, pid: i32, regs: &mut Registers) -> Result<bool> {
        if !self.contains(regs.rip) {
            return Ok(false);
        }
        let at = regs.rip - self.base;
        let restarted = ERESTART.contains(&(regs.rax as i64)) && (regs.orig_rax as i64) >= 0;
        for patch in &self.patches {
            let mut now = [0u8; 8];
            let entry = patch.at as u64;
            // `mov eax, nr` (5 bytes), `syscall`, `ret`
            if (entry + 1..entry + 8).contains(&at) {
                memory::read(pid, self.base + entry, &mut now).named("read vDSO", pid)?;
                if now != patch.variants[Clocks::Calls as usize] {
                    break;
                }
                return if at < entry + 7 || restarted {
                    Ok(back_to(regs, self.base + entry))
                } else {
                    back_to_caller(pid, regs)
                };
            }
        }
        let Some(code) = &self.clock else {
            return Ok(false);
        };
        let entry = |function: usize| self.base + self.functions[function];
        let stretch = code
            .stretches
            .iter()
            .find(|stretch| (stretch.from..stretch.to).contains(&at));
        match stretch.map(|stretch| (stretch.place, stretch.function)) {
            Some((Place::Entered, function)) => Ok(back_to(regs, entry(function))),
            Some((Place::Called | Place::CalledUncounted, function)) if restarted => {
                Ok(back_to(regs, entry(function)))
            }
            Some((Place::Called, _)) => back_to_caller(pid, regs),
            Some((Place::CalledUncounted, _)) => {
                let count = header(pid, regs.gs_base)?.count + 1;
                memory::write(pid, regs.gs_base, &count.to_le_bytes())
                    .named("count a reading", pid)?;
                back_to_caller(pid, regs)
            }
            Some((Place::Pushing, function)) => {
                let header = header(pid, regs.gs_base)?;
                regs.rsp = header.entered;
                clock_slots::take_back(pid, regs.gs_base, header.count)?;
                Ok(back_to(regs, entry(function)))
            }
            Some((Place::Reading, _)) => self.leave_reading(pid, regs),
            None if at < self.stub => self.leave_reading(pid, regs),
            None => Ok(false),
        }
    }

    /// The thread is in one of the vDSO's own functions, or just behind it. If it came through our
    /// code, which left its registers in the slot, it goes back.
    fn leave_reading(&self, pid: i32, regs: &mut Registers) -> Result<bool> {
        let Some(code) = &self.clock else {
            return Ok(false);
        };
        let Some(slots) = self.slots(pid) else {
            return Ok(false);
        };
        if regs.gs_base.wrapping_sub(slots) >= SLOTS as u64 * SLOT_BYTES {
            return Ok(false);
        }
        let header = header(pid, regs.gs_base)?;
        // What an earlier reading left there must not be taken for this one's.
        if header.number != header.count + 1
            || !(header.entered.wrapping_sub(4096)..=header.entered).contains(&regs.rsp)
        {
            return Ok(false);
        }
        let mut pushed = [0u8; 32];
        memory::read(pid, header.entered - 32, &mut pushed).named("read the stack", pid)?;
        let word = |at: usize| u64::from_le_bytes(pushed[at..at + 8].try_into().expect("8 bytes"));
        let back = word(0).wrapping_sub(self.base);
        let Some(stretch) = code
            .stretches
            .iter()
            .find(|stretch| stretch.place == Place::Reading && stretch.from == back)
        else {
            return Ok(false);
        };
        regs.rsp = header.entered;
        (regs.rsi, regs.rdi) = (word(16), word(24));
        [regs.rbx, regs.rbp, regs.r12, regs.r13, regs.r14, regs.r15] = header.kept;
        clock_slots::take_back(pid, regs.gs_base, header.count)?;
        Ok(back_to(regs, self.base + self.functions[stretch.function]))
    }

    /// Puts every byte back as the kernel made it. All threads must be stopped outside the
    /// functions and the stub, and none may return there from a signal's handler.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn restore(&self, pid: i32) -> Result<()> {
        self.restore_entries(pid)?;
        let tail = self.stub as usize;
        memory::force_write(pid, self.base + self.stub, &self.image[tail..])
            .named("restore the vDSO", pid)
    }

    /// Puts the functions back and leaves the tail, which nothing leads to any more.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn restore_entries(&self, pid: i32) -> Result<()> {
        for patch in &self.patches {
            let bytes = &self.image[patch.at..patch.at + 8];
            memory::force_write(pid, self.base + patch.at as u64, bytes)
                .named("restore the vDSO", pid)?;
        }
        Ok(())
    }

    /// True if a function of the process leads into what we wrote: it is in an update, or a killed agent left it in one.
    #[must_use]
    pub fn is_led(&self, pid: i32) -> bool {
        let theirs = self.patches.iter().map(|patch| {
            let mut bytes = [0u8; 8];
            let read = memory::read(pid, self.base + patch.at as u64, &mut bytes);
            read.map(|()| patch.variants.contains(&bytes))
        });
        theirs.flatten().any(|is_ours| is_ours)
    }

    /// True if this is still the vDSO of the process, which may have executed another program.
    #[must_use]
    pub fn is_in(&self, pid: i32) -> bool {
        // The whole map of a large process takes longer, in a pause; whoever moves a vDSO leaves the kernel's word as it is.
        matches!(super::inspect::auxiliary(pid, libc::AT_SYSINFO_EHDR), Ok(Some(base)) if base == self.base)
            || range(pid).is_ok_and(|(base, _)| base == self.base)
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

/// The thread is to make the call of the function at `entry` once more.
fn back_to(regs: &mut Registers, entry: u64) -> bool {
    regs.rip = entry;
    regs.orig_rax = u64::MAX;
    true
}

/// The function is done: what its `ret` would do.
fn back_to_caller(pid: i32, regs: &mut Registers) -> Result<bool> {
    let mut address = [0u8; 8];
    memory::read(pid, regs.rsp, &mut address).named("read the stack", pid)?;
    regs.rsp += 8;
    Ok(back_to(regs, u64::from_le_bytes(address)))
}

/// The head of a thread's slot.
pub(crate) fn header(pid: i32, slot: u64) -> Result<SlotHeader> {
    let mut bytes = [0u8; size_of::<SlotHeader>()];
    memory::read(pid, slot, &mut bytes).named("read a clock slot", pid)?;
    let word = |n: usize| u64::from_le_bytes(bytes[8 * n..8 * n + 8].try_into().expect("8 bytes"));
    Ok(SlotHeader {
        count: word(0),
        consumed: word(1),
        given: word(2),
        entered: word(3),
        number: word(4),
        kept: std::array::from_fn(|n| word(5 + n)),
    })
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
                    (0xb8 | 0xba | 0xbe, _) => 5,
                    (0x44 | 0x4c | 0x4d, _) => 3,
                    (0x90, _) => 1,
                    other => panic!("unknown instruction {other:?} at {at}"),
                };
            }
            starts
        }
    }

    #[test]
    fn jumps_of_the_clone_stub_land_on_instructions() {
        for (code, jumps) in [
            (CLONE, &[(4, 37), (6, 30)][..]),
            (CLONE_INTO, &[(4, 37), (6, 30), (51, 86), (67, 86)][..]),
        ] {
            let starts = lengths(code);
            let all: Vec<usize> = starts
                .iter()
                .copied()
                .filter(|at| matches!(code[*at], 0x74 | 0x78))
                .collect();
            assert_eq!(all, jumps.iter().map(|(at, _)| *at).collect::<Vec<_>>());
            for (at, expected) in jumps {
                let target = at + 2 + code[at + 1] as usize;
                assert_eq!(target, *expected, "the jump at {at}");
                assert!(
                    starts.contains(&target),
                    "the jump at {at} lands at {target}: {starts:?}"
                );
            }
            assert!(64 + code.len() <= STUBS as usize);
        }
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
