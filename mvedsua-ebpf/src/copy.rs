//! Copies the memory of a call's arguments into the scratch buffer, part by part.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use mvedsua_common::{
    clock::{ClockSlot, READINGS, READINGS_AT, Reading, WHAT_BITS, written_number},
    event::{
        EventHeader, MAX_PAYLOAD, MAX_RECORD, NO_ARG, PART_MSG_CONTROL, PART_MSG_DATA,
        PART_MSG_HEADER, PART_MSG_NAME, PART_READINGS, PART_WHOLE, PartHeader, padded,
    },
    plan::{
        CallPlan, LEN_ARG_INT, MAX_CONTROL, MAX_PART_PLANS, MAX_VECTORS, PartPlan, SHAPE_ARG,
        SHAPE_FD_SET, SHAPE_FIXED, SHAPE_MESSAGE, SHAPE_NONE, SHAPE_RET, SHAPE_RET_CAPPED,
        SHAPE_STRING, SHAPE_WORD, WHEN_ALWAYS, WHEN_INTERRUPTED,
    },
    spec::{PATH_MAX, SOCKADDR_MAX},
};

const HEADER: usize = size_of::<EventHeader>();
const PART_HEADER: usize = size_of::<PartHeader>();

/// Where the `iovec` array and the `msghdr` of the call are read to: behind everything that a
/// record can reach as far as the verifier can tell (see `append_vectors`).
const VECTORS_AT: usize = MAX_RECORD + PART_HEADER + 2 * MAX_PAYLOAD;
const MESSAGE_AT: usize = VECTORS_AT + MAX_VECTORS * size_of::<Vector>();
const GATHERED_AT: usize = MESSAGE_AT + size_of::<Message>();
const SCRATCH_LEN: usize = GATHERED_AT + size_of::<u64>();

/// Buffer in which one CPU builds its record.
#[repr(C, align(8))]
pub struct Scratch([u8; SCRATCH_LEN]);

/// `struct iovec`.
#[repr(C)]
struct Vector {
    base: u64,
    len: u64,
}

/// `struct msghdr`.
#[repr(C)]
struct Message {
    name: u64,
    name_len: u32,
    pad: u32,
    vectors: u64,
    vector_count: u64,
    control: u64,
    control_len: u64,
    flags: u64,
}

const EINTR: i64 = 4;
const EFAULT: i64 = 14;
const ERESTARTSYS: i64 = 512;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// Places for readings in a slot.
const PLACES: u64 = READINGS as u64;
/// Places for readings that are looked at at once. A Redis makes one or two between two calls.
const FEW: usize = 4;

/// How the copying ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All parts are in the record.
    Complete,
    /// Something is too large, too complicated or not resident: the agent has to fetch it all.
    OutOfLine,
}

/// Gives `value` back with a bound that the verifier sees.
///
/// The barrier hides where the value came from, so that the compiler can neither drop the comparison
/// as known nor do it on another register than the one that is used afterwards.
#[inline(always)]
pub fn bounded(value: usize, limit: usize) -> usize {
    let mut value = value;
    // SAFETY: an empty instruction sequence.
    unsafe { asm!("/* {0} */", inout(reg) value) };
    if value > limit { limit } else { value }
}

/// `value * mul` without overflow: beyond `MAX_PAYLOAD` the exact figure does not matter.
#[inline(always)]
fn scaled(value: u64, mul: u64) -> u64 {
    if value > MAX_PAYLOAD as u64 {
        MAX_PAYLOAD as u64 * 8 + 1
    } else {
        value * mul
    }
}

/// The record under construction.
///
/// All of its state is in the scratch buffer and is read and written with volatile accesses, on
/// purpose: what the verifier reads from a map it takes for unknown, so it reaches the head of a
/// loop in the same state at each turn and every turn costs it the same. With the state in
/// registers it followed every combination of lengths, beyond its limit of a million instructions.
#[derive(Clone, Copy)]
pub struct Record {
    scratch: *mut u8,
}

impl Record {
    /// Starts a record without parts; everything else of the header is for the caller to write.
    ///
    /// # Safety
    /// `scratch` is the buffer of this CPU.
    #[inline(always)]
    pub unsafe fn new(scratch: *mut Scratch) -> Self {
        let record = Self {
            scratch: scratch.cast(),
        };
        record.clear();
        record
    }

    /// Drops all parts.
    #[inline(always)]
    pub fn clear(self) {
        self.set_len(HEADER as u32);
        self.set_parts(0);
    }

    #[inline(always)]
    fn header(self) -> *mut EventHeader {
        self.scratch.cast()
    }

    /// Bytes of the record so far, header included: a multiple of 8.
    #[inline(always)]
    pub fn len(self) -> usize {
        // SAFETY: the header is in the scratch buffer.
        unsafe { (&raw const (*self.header()).len).read_volatile() as usize }
    }

    #[inline(always)]
    fn set_len(self, len: u32) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.header()).len).write_volatile(len) }
    }

    #[inline(always)]
    fn parts(self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.header()).parts).read_volatile() }
    }

    #[inline(always)]
    fn set_parts(self, parts: u32) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.header()).parts).write_volatile(parts) }
    }

    /// What the call returned.
    #[inline(always)]
    fn ret(self) -> i64 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.header()).ret).read_volatile() }
    }

    /// Argument `index` of the call.
    #[inline(always)]
    fn arg(self, index: u8) -> u64 {
        let index = bounded(usize::from(index), 5);
        // SAFETY: as above; there are six arguments.
        unsafe {
            (&raw const (*self.header()).args)
                .cast::<u64>()
                .add(index)
                .read_volatile()
        }
    }

    /// The length or count that a plan's `len_arg` names.
    #[inline(always)]
    fn len_arg(self, len_arg: u8) -> u64 {
        let value = self.arg(len_arg & (LEN_ARG_INT - 1));
        if len_arg & LEN_ARG_INT == 0 {
            value
        } else {
            u64::from(value as u32)
        }
    }

    /// Bytes of the vectors' data that were copied so far.
    #[inline(always)]
    fn gathered(self) -> *mut u64 {
        // SAFETY: inside of the scratch buffer, see `SCRATCH_LEN`.
        unsafe { self.scratch.add(GATHERED_AT).cast() }
    }

    /// Copies what the plan says.
    ///
    /// # Safety
    /// `plan` points to a value of `PLANS`, and the header's arguments were written.
    #[inline(always)]
    pub unsafe fn copy_parts(self, plan: *const CallPlan) -> Outcome {
        // SAFETY: the caller's promise.
        let gather = unsafe { (&raw const (*plan).gather).read_volatile() };
        if gather.shape != SHAPE_NONE && self.gather(gather) == Outcome::OutOfLine {
            return Outcome::OutOfLine;
        }
        for index in 0..MAX_PART_PLANS {
            // SAFETY: the caller's promise.
            if index >= usize::from(unsafe { (&raw const (*plan).count).read_volatile() }) {
                break;
            }
            // SAFETY: the caller's promise; `index` is less than the array's length.
            let part = unsafe { (&raw const (*plan).parts).cast::<PartPlan>().add(index) };
            if self.copy_part(part) == Outcome::OutOfLine {
                return Outcome::OutOfLine;
            }
        }
        Outcome::Complete
    }

    #[inline(always)]
    fn copy_part(self, part: *const PartPlan) -> Outcome {
        // SAFETY: `copy_parts` passes an element of a plan.
        let part = unsafe { part.read_volatile() };
        let ret = self.ret();
        let user = self.arg(part.arg);
        if user == 0 {
            return Outcome::Complete;
        }
        if ret < 0 && part.when != WHEN_ALWAYS {
            let interrupted =
                ret == -EINTR || (-ERESTART_RESTARTBLOCK..=-ERESTARTSYS).contains(&ret);
            if part.when != WHEN_INTERRUPTED || !interrupted {
                return Outcome::Complete;
            }
        }
        let mul = u64::from(part.mul);
        let len = match part.shape {
            SHAPE_RET => scaled(ret as u64, mul),
            SHAPE_FIXED => mul,
            SHAPE_STRING => return self.append_string(user, part.arg),
            SHAPE_ARG => scaled(self.len_arg(part.len_arg), mul),
            SHAPE_RET_CAPPED => scaled((ret as u64).min(self.len_arg(part.len_arg)), mul),
            SHAPE_WORD => {
                let mut word = 0u32;
                let at = self.len_arg(part.len_arg);
                if at == 0 {
                    return Outcome::Complete;
                }
                // SAFETY: the helper checks the address and writes the four bytes of `word`.
                if unsafe { bpf_probe_read_user((&raw mut word).cast(), 4, at as *const _) } != 0 {
                    return self.unreadable();
                }
                u64::from(word).min(mul)
            }
            SHAPE_FD_SET => (scaled(self.len_arg(part.len_arg), 1) + 63) / 64 * 8,
            _ => {
                return if ret == 0 {
                    Outcome::Complete
                } else {
                    Outcome::OutOfLine
                };
            }
        };
        self.append(user, len, part.arg, PART_WHOLE)
    }

    /// Pointer to the place of the next part's header.
    #[inline(always)]
    fn next(self) -> *mut u8 {
        // SAFETY: at most `MAX_RECORD`, which is inside of the scratch buffer.
        unsafe { self.scratch.add(bounded(self.len(), MAX_RECORD)) }
    }

    /// Completes the part whose data has just been read behind its header.
    #[inline(always)]
    fn close(self, header: *mut u8, len: usize, arg: u8, flags: u8) -> Outcome {
        // SAFETY: `header` came from `next`; 8-byte aligned, for all parts are padded.
        unsafe {
            header.cast::<PartHeader>().write(PartHeader {
                len: len as u32,
                arg,
                flags,
                reserved: 0,
            });
        }
        let end = self.len() + PART_HEADER + padded(len);
        self.set_len(end as u32);
        self.set_parts(self.parts() + 1);
        if end > MAX_RECORD {
            Outcome::OutOfLine
        } else {
            Outcome::Complete
        }
    }

    /// Appends `len` bytes of the process's memory as one part (none if `len` is 0).
    #[inline(always)]
    fn append(self, user: u64, len: u64, arg: u8, flags: u8) -> Outcome {
        if len == 0 {
            return Outcome::Complete;
        }
        if len > MAX_PAYLOAD as u64 {
            return Outcome::OutOfLine;
        }
        let len = bounded(len as usize, MAX_PAYLOAD);
        let header = self.next();
        // SAFETY: the scratch buffer has `MAX_PAYLOAD` bytes after the largest record and a header;
        // the helper checks the user's address.
        if unsafe {
            bpf_probe_read_user(header.add(PART_HEADER).cast(), len as u32, user as *const _)
        } != 0
        {
            return self.unreadable();
        }
        self.close(header, len, arg, flags)
    }

    #[inline(always)]
    fn append_string(self, user: u64, arg: u8) -> Outcome {
        let header = self.next();
        // SAFETY: as in `append`.
        let len = unsafe {
            bpf_probe_read_user_str(
                header.add(PART_HEADER).cast(),
                PATH_MAX as u32,
                user as *const _,
            )
        };
        if len <= 0 {
            return self.unreadable();
        }
        self.close(header, bounded(len as usize, PATH_MAX), arg, PART_WHOLE)
    }

    /// Appends what `count` vectors hold, as many bytes as the result says, as one part.
    #[inline(always)]
    fn append_vectors(self, user: u64, count: u64, arg: u8, flags: u8) -> Outcome {
        if self.ret() <= 0 {
            return Outcome::Complete;
        }
        if self.ret() > MAX_PAYLOAD as i64 {
            return Outcome::OutOfLine;
        }
        let bytes = bounded(count as usize, MAX_VECTORS) * size_of::<Vector>();
        // SAFETY: the place behind the record has room for `MAX_VECTORS` vectors.
        let vectors: *mut Vector = unsafe { self.scratch.add(VECTORS_AT) }.cast();
        // SAFETY: as above; the helper checks the user's address.
        if unsafe { bpf_probe_read_user(vectors.cast(), bytes as u32, user as *const _) } != 0 {
            return Outcome::OutOfLine;
        }
        // SAFETY: see `gathered`.
        unsafe { self.gathered().write_volatile(0) };
        for index in 0..MAX_VECTORS {
            if index as u64 >= count {
                break;
            }
            // SAFETY: see `gathered`; the vector is inside of the array read above.
            let (done, vector) = unsafe {
                (
                    self.gathered().read_volatile(),
                    vectors.add(index).read_volatile(),
                )
            };
            let left = self.ret() as u64 - done;
            let len = bounded(
                if vector.len < left { vector.len } else { left } as usize,
                MAX_PAYLOAD,
            );
            let at = bounded(done as usize, MAX_PAYLOAD);
            // SAFETY: `done + len` is at most the result, so at most `MAX_PAYLOAD`; the verifier only
            // sees the two bounds, for which `Scratch` has room as well: see `VECTORS_AT`.
            if unsafe {
                bpf_probe_read_user(
                    self.next().add(PART_HEADER + at).cast(),
                    len as u32,
                    vector.base as *const _,
                )
            } != 0
            {
                return Outcome::OutOfLine;
            }
            // SAFETY: see `gathered`.
            unsafe { self.gathered().write_volatile(done + len as u64) };
        }
        // SAFETY: see `gathered`.
        let done = unsafe { self.gathered().read_volatile() };
        if done != self.ret() as u64 {
            return Outcome::OutOfLine;
        }
        self.close(self.next(), bounded(done as usize, MAX_PAYLOAD), arg, flags)
    }

    /// Appends the argument that is gathered from vectors: an `iovec` array or a `msghdr`.
    #[inline(always)]
    fn gather(self, part: PartPlan) -> Outcome {
        let user = self.arg(part.arg);
        if user == 0 || self.ret() < 0 {
            return Outcome::Complete;
        }
        // SAFETY: the place behind the record has room for one message header.
        let message: *mut Message = unsafe { self.scratch.add(MESSAGE_AT) }.cast();
        let is_message = part.shape == SHAPE_MESSAGE;
        if !is_message {
            let count = self.len_arg(part.len_arg);
            // SAFETY: as above. An iovec array is a message without anything else.
            unsafe {
                (&raw mut (*message).vectors).write_volatile(user);
                (&raw mut (*message).vector_count).write_volatile(count);
            }
        } else {
            // SAFETY: as above; the helper checks the user's address.
            if unsafe {
                bpf_probe_read_user(
                    message.cast(),
                    size_of::<Message>() as u32,
                    user as *const _,
                )
            } != 0
            {
                return Outcome::OutOfLine;
            }
            // SAFETY: as above.
            let (name, len) = unsafe {
                (
                    (&raw const (*message).name).read_volatile(),
                    (&raw const (*message).name_len).read_volatile(),
                )
            };
            if self.append(user, size_of::<Message>() as u64, part.arg, PART_MSG_HEADER)
                == Outcome::OutOfLine
                || self.append_piece(name, u64::from(len), SOCKADDR_MAX, part.arg, PART_MSG_NAME)
                    == Outcome::OutOfLine
            {
                return Outcome::OutOfLine;
            }
        }
        // SAFETY: as above.
        let (vectors, count) = unsafe {
            (
                (&raw const (*message).vectors).read_volatile(),
                (&raw const (*message).vector_count).read_volatile(),
            )
        };
        let flags = if is_message {
            PART_MSG_DATA
        } else {
            PART_WHOLE
        };
        if self.append_vectors(vectors, count, part.arg, flags) == Outcome::OutOfLine {
            return Outcome::OutOfLine;
        }
        if !is_message {
            return Outcome::Complete;
        }
        // SAFETY: as above.
        let (control, len) = unsafe {
            (
                (&raw const (*message).control).read_volatile(),
                (&raw const (*message).control_len).read_volatile(),
            )
        };
        self.append_piece(control, len, MAX_CONTROL, part.arg, PART_MSG_CONTROL)
    }

    /// Appends a piece of a message, if there is one.
    #[inline(always)]
    fn append_piece(self, user: u64, len: u64, limit: usize, arg: u8, flags: u8) -> Outcome {
        if user == 0 {
            Outcome::Complete
        } else if len > limit as u64 {
            Outcome::OutOfLine
        } else {
            self.append(user, len, arg, flags)
        }
    }

    /// Appends the clock readings that the thread wrote down since its call before.
    ///
    /// # Safety
    /// `slot` points to a value of `NEAR_CLOCKS` or `CLOCKS`; only this thread's exits and the agent change it.
    #[inline(always)]
    pub unsafe fn append_readings(self, slot: *mut ClockSlot) -> Outcome {
        // SAFETY: the caller's promise.
        let (address, taken) = unsafe { ((*slot).address, (*slot).taken) };
        let mut first = Self::first_new(taken);
        // SAFETY: the caller's promise.
        if let Some(outcome) = unsafe { self.append_few_readings(slot, first) } {
            return outcome;
        }
        let mut count = 0u64;
        // SAFETY: the helper checks the address and writes the eight bytes of `count`.
        if unsafe { bpf_probe_read_user((&raw mut count).cast(), 8, address as *const _) } != 0 {
            // Not resident: whether there are new ones the agent has to see.
            return Outcome::OutOfLine;
        }
        if count == taken {
            return Outcome::Complete;
        }
        // Of an earlier turn nothing is left: the agent fetched it (out of line).
        let turn = count / PLACES * PLACES;
        if first < turn {
            first = turn;
        }
        let number = bounded((count.wrapping_sub(first)) as usize, READINGS - 1);
        if count <= first || number == 0 {
            // SAFETY: the caller's promise.
            unsafe { (*slot).taken = first };
            return Outcome::Complete;
        }
        let header = self.next();
        // SAFETY: `header` came from `next`.
        if !unsafe { Self::read_readings(header, address, first, number) } {
            return Outcome::OutOfLine;
        }
        // SAFETY: the caller's promise.
        unsafe { self.close_readings(header, slot, first, number) }
    }

    /// Index of the first reading that can be new when so many are in the ring: the one at a last place was a call of
    /// its own.
    #[inline(always)]
    fn first_new(taken: u64) -> u64 {
        if taken % PLACES == PLACES - 1 {
            taken + 1
        } else {
            taken
        }
    }

    /// Reads `number` readings of the slot at `address`, from reading `first` on, behind the header of a part to come.
    /// True when that worked.
    ///
    /// # Safety
    /// `header` came from `next`; `number` is at most [`READINGS`].
    #[inline(always)]
    unsafe fn read_readings(header: *mut u8, address: u64, first: u64, number: usize) -> bool {
        let from = address + READINGS_AT + first % PLACES * size_of::<Reading>() as u64;
        // SAFETY: the scratch buffer has `MAX_PAYLOAD` bytes after the largest record and a header, and
        // a part with all readings is shorter; the helper checks the user's address.
        let read = unsafe {
            header.add(PART_HEADER).cast::<u64>().write(first);
            bpf_probe_read_user(
                header.add(PART_HEADER + 8).cast(),
                (number * size_of::<Reading>()) as u32,
                from as *const _,
            )
        };
        read == 0
    }

    /// Completes the part with the `number` readings that were just read, and counts them as taken.
    ///
    /// # Safety
    /// As for `append_readings`.
    #[inline(always)]
    unsafe fn close_readings(
        self,
        header: *mut u8,
        slot: *mut ClockSlot,
        first: u64,
        number: usize,
    ) -> Outcome {
        let len = 8 + number * size_of::<Reading>();
        if self.close(header, len, NO_ARG, PART_READINGS) == Outcome::OutOfLine {
            return Outcome::OutOfLine;
        }
        // SAFETY: the caller's promise.
        unsafe { (*slot).taken = first + number as u64 };
        Outcome::Complete
    }

    /// The usual case of [`append_readings`](Self::append_readings), fewer than [`FEW`] new ones or none, by one look at
    /// the places where they must be: the numbers that are written down with them say which are new. `None`: it is
    /// another case.
    ///
    /// # Safety
    /// As for `append_readings`.
    #[inline(always)]
    unsafe fn append_few_readings(self, slot: *mut ClockSlot, first: u64) -> Option<Outcome> {
        let header = self.next();
        // SAFETY: the caller's promise; `header` came from `next`. Behind the last place a slot goes on with zeros.
        if !unsafe { Self::read_readings(header, (*slot).address, first, FEW) } {
            return None;
        }
        let mut number = 0;
        for place in 0..FEW {
            let at = PART_HEADER + 8 + place * size_of::<Reading>() + offset_of!(Reading, what);
            // SAFETY: it has just been read, and is aligned to 4 bytes.
            let word = unsafe { header.add(at).cast::<u32>().read() } >> WHAT_BITS;
            let next = first + 1 + place as u64;
            if word == written_number(next) {
                number += 1;
            } else if word == 0 || word == written_number(next.wrapping_sub(PLACES)) {
                break;
            } else {
                return None;
            }
        }
        if number == 0 {
            return Some(Outcome::Complete);
        }
        if number == FEW {
            return None;
        }
        // SAFETY: the caller's promise.
        Some(unsafe { self.close_readings(header, slot, first, number) })
    }

    /// Memory that cannot be read now: the agent fetches it, unless the call itself failed on it.
    #[inline(always)]
    fn unreadable(self) -> Outcome {
        if self.ret() == -EFAULT {
            Outcome::Complete
        } else {
            Outcome::OutOfLine
        }
    }
}
