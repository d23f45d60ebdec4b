//! A follower that only exists in the test: threads that make calls, each with memory of its own behind
//! its arguments.

use std::collections::BTreeMap;

use mvedsua::matcher::{
    Call, EpollData, Fault, Memory, Order, Part, answer, compare, finish_messages,
};
use mvedsua_common::event::{PART_MSG_CONTROL, PART_MSG_DATA, PART_MSG_HEADER, PART_MSG_NAME};
use mvedsua_common::spec::{Arg, Dir, Len};

use super::trace::{Input, Recorded, Trace, compared};

/// A call that a thread of the follower makes: one of the leader's, perhaps with a change.
#[derive(Clone)]
struct Step {
    /// The leader's call that it is made from.
    from: usize,
    call: Call,
    /// A part, a byte in it, and the bits that are other ones.
    flip: Option<(usize, usize, u8)>,
}

/// What the threads of a follower do.
pub struct Program(BTreeMap<u32, Vec<Step>>);

/// How far a follower gets.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// To the end.
    Through,
    /// To a call of the leader that it does not make: the follower's differs in an argument, or is another.
    Differs { call: usize, argument: Option<u8> },
    /// Its threads have ended before those of the leader, the first at this call.
    Ended { call: usize },
    /// One of its threads makes more calls than the leader's.
    Alone,
}

impl End {
    /// The leader's call at which it was found.
    pub fn call(&self) -> Option<usize> {
        match self {
            Self::Differs { call, .. } => Some(*call),
            _ => None,
        }
    }
}

impl Program {
    /// What the leader did.
    pub fn same(trace: &Trace) -> Self {
        let mut threads: BTreeMap<u32, Vec<Step>> = BTreeMap::new();
        for at in 0..trace.len() {
            let header = trace.call(at).record().header;
            threads.entry(header.tid).or_default().push(Step {
                from: at,
                call: Call {
                    nr: header.nr,
                    args: header.args,
                },
                flip: None,
            });
        }
        Self(threads)
    }

    fn step(&mut self, call: usize) -> &mut Step {
        let mut steps = self.0.values_mut().flatten();
        steps.find(|step| step.from == call).expect("it is there")
    }

    pub fn change_number(&mut self, call: usize, argument: u8, bit: u32) {
        self.step(call).call.args[usize::from(argument)] ^= 1 << bit;
    }

    pub fn change_byte(&mut self, input: &Input, byte: usize, bit: u8) {
        self.step(input.call).flip = Some((input.part, byte, 1 << bit));
    }

    pub fn change_call(&mut self, call: usize, nr: u16) {
        self.step(call).call.nr = nr;
    }

    pub fn leave_out(&mut self, trace: &Trace, call: usize) {
        let (steps, at) = self.thread(trace, call);
        steps.remove(at);
    }

    pub fn repeat(&mut self, trace: &Trace, call: usize) {
        let (steps, at) = self.thread(trace, call);
        steps.insert(at, steps[at].clone());
    }

    /// (The last call of a thread has no next one, and stays.)
    pub fn swap_with_next(&mut self, trace: &Trace, call: usize) {
        let (steps, at) = self.thread(trace, call);
        if at + 1 < steps.len() {
            steps.swap(at, at + 1);
        }
    }

    fn thread(&mut self, trace: &Trace, call: usize) -> (&mut Vec<Step>, usize) {
        let steps = self.0.get_mut(&trace.tid(call)).expect("its thread");
        let at = steps.iter().position(|step| step.from == call);
        (steps, at.expect("it is there"))
    }

    /// Where a follower with whole calls left out, repeated or exchanged must be found, by holding the
    /// records themselves against each other.
    pub fn first_difference(&self, trace: &Trace) -> End {
        let mut end = End::Through;
        let earlier = |end: &End, call: usize| match end {
            End::Differs { call: other, .. } | End::Ended { call: other } => call < *other,
            End::Through | End::Alone => true,
        };
        for (tid, steps) in &self.0 {
            let leader: Vec<usize> = (0..trace.len())
                .filter(|at| trace.tid(*at) == *tid)
                .collect();
            let differs = leader.iter().zip(steps).find_map(|(leader, step)| {
                let (leader_call, own) = (trace.call(*leader), trace.call(step.from));
                difference(leader_call, own).map(|argument| (*leader, argument))
            });
            match (differs, leader.get(steps.len())) {
                (Some((call, argument)), _) if earlier(&end, call) => {
                    end = End::Differs { call, argument };
                }
                (None, Some(&call)) if earlier(&end, call) => end = End::Ended { call },
                (None, None) if steps.len() > leader.len() && end == End::Through => {
                    end = End::Alone;
                }
                _ => {}
            }
        }
        end
    }
}

/// In which argument (none: in the call) the first difference of two recorded calls lies; `None` if they
/// are equal as far as anybody can see.
fn difference(leader: &Recorded, own: &Recorded) -> Option<Option<u8>> {
    let (a, b) = (leader.record(), own.record());
    if a.header.nr != b.header.nr {
        return Some(None);
    }
    let differs = |index: u8| {
        let at = usize::from(index);
        let (x, y) = (a.header.args[at], b.header.args[at]);
        // The follower's arguments say what its call is.
        match own.arg(index) {
            Arg::Unused | Arg::Opaque => false,
            Arg::Int | Arg::Fd => x as u32 != y as u32,
            Arg::Long => x != y,
            _ if (x == 0) != (y == 0) => true,
            arg => {
                let given = |call: &Recorded| -> Vec<u8> {
                    let parts = call.record();
                    let parts = parts.parts().filter(|part| part.arg == index);
                    parts
                        .flat_map(|part| {
                            let compared = compared(arg, &part);
                            compared.into_iter().map(move |at| part.data[at])
                        })
                        .collect()
                };
                // Of what the leader gave, the kernel may have taken less.
                !given(own).starts_with(&given(leader))
            }
        }
    };
    (0..6).find(|index| differs(*index)).map(Some)
}

/// Plays a trace to a follower whose threads come in an order that `schedule` says, over and over.
pub fn follow(trace: &Trace, program: &Program, schedule: &[u8]) -> End {
    let mut order = Order::default();
    let lanes: BTreeMap<u32, usize> = program.0.keys().map(|tid| (*tid, order.open())).collect();
    for at in 0..trace.len() {
        order.push(lanes[&trace.tid(at)], at);
    }
    let threads: Vec<(usize, &Vec<Step>)> = program
        .0
        .iter()
        .map(|(tid, steps)| (lanes[tid], steps))
        .collect();
    let mut next = vec![0; threads.len()];
    let mut matched = 0;
    let mut turns = schedule.iter().cycle();
    let mut scratch = Vec::new();
    // A thread that waits for its turn is asked again; somebody's turn it always is.
    let mut waited = 0;
    loop {
        let who = match usize::from(*turns.next().expect("it cycles")) {
            who if waited < threads.len() => who % threads.len(),
            // No schedule may leave a thread out for ever.
            _ => waited % threads.len(),
        };
        let (lane, steps) = threads[who];
        let item = order.next(lane).map(|(at, turn)| (*at, turn));
        match (item, steps.get(next[who])) {
            (Some((at, true)), Some(step)) => {
                assert_eq!(at, matched, "the global order is kept");
                let recorded = trace.call(at);
                let mut memory = Image::of(trace.call(step.from), step);
                let record = recorded.record();
                if let Err(found) = compare(&record, &step.call, &mut memory, &mut scratch) {
                    return End::Differs {
                        call: at,
                        argument: found.arg,
                    };
                }
                let answered = answer(&record, &step.call, &mut memory, &EpollData::default())
                    .expect("its memory takes what the leader's did");
                finish_messages(&record, &step.call, &mut memory).expect("the same");
                assert_eq!(answered.result, record.header.ret);
                memory.holds_outputs_of(recorded, &step.call);
                order.take(lane);
                next[who] += 1;
                matched += 1;
                waited = 0;
                continue;
            }
            (Some((at, true)), None) => return End::Ended { call: at },
            (None, Some(_)) if order.is_empty() => return End::Alone,
            (None, None) if order.is_empty() => {
                let done = threads
                    .iter()
                    .zip(&next)
                    .all(|((_, steps), next)| *next == steps.len());
                if done {
                    return End::Through;
                }
            }
            _ => {}
        }
        waited += 1;
    }
}

/// Memory behind the arguments of one call: pieces with their addresses.
#[derive(Default)]
struct Image(Vec<(u64, Vec<u8>)>);

/// Where the memory behind vectors and message headers is.
const BEHIND: u64 = 0x7fff_0000_0000;

impl Image {
    /// What a step gives to the kernel, and room for what the leader got from it.
    fn of(recorded: &Recorded, step: &Step) -> Self {
        let mut image = Self::default();
        let record = recorded.record();
        for (index, part) in record.parts().enumerate() {
            let mut data = part.data.to_vec();
            if let Some((flipped, byte, bits)) = step.flip
                && flipped == index
            {
                data[byte] ^= bits;
            }
            let address = record.header.args[usize::from(part.arg)];
            let behind = BEHIND + ((index as u64) << 32);
            match recorded.arg(part.arg) {
                Arg::Mem(_, Len::Iov(count)) => {
                    let count = record.header.args[usize::from(count)];
                    image.vectors(address, count, behind, data.len());
                    image.put(behind, &data);
                }
                Arg::Mem(_, Len::Msg) => image.message(address, &part, behind, &data),
                // The call has moved it on.
                Arg::Struct(Dir::InOut, 8, "loff_t") => {
                    let after = i64::from_le_bytes(data.try_into().expect("8 bytes"));
                    let before = after.wrapping_sub(record.header.ret);
                    image.put(address, &before.to_le_bytes());
                }
                // Their content before the call is the follower's own; the room is as large as can be.
                Arg::LenWord => image.put(address, &4096u32.to_le_bytes()),
                _ => image.put(address, &data),
            }
        }
        image
    }

    fn put(&mut self, address: u64, data: &[u8]) {
        match self.piece(address, data.len()) {
            Some(piece) => piece.copy_from_slice(data),
            None => self.0.push((address, data.to_vec())),
        }
    }

    /// Memory that lies in one piece.
    fn piece(&mut self, address: u64, len: usize) -> Option<&mut [u8]> {
        self.0.iter_mut().find_map(|(start, bytes)| {
            let from = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get_mut(from..from.checked_add(len)?)
        })
    }

    /// All of `len` bytes in the first of `count` vectors.
    fn vectors(&mut self, address: u64, count: u64, behind: u64, len: usize) {
        self.put(address, &vec![0; 16 * count as usize]);
        self.put(address, &behind.to_le_bytes());
        self.put(address + 8, &(len as u64).to_le_bytes());
    }

    /// A piece of a `struct msghdr`: each in memory of its own, with as much room as it needs.
    fn message(&mut self, header: u64, part: &Part<'_>, behind: u64, data: &[u8]) {
        const NAME: u64 = 0;
        const VECTORS: u64 = 16;
        const CONTROL: u64 = 32;
        let mut own = [0; 56];
        // What another piece has put there stays.
        if self.read(header, &mut own).is_err() {
            self.put(header, &own);
        }
        match part.flags {
            PART_MSG_NAME => {
                self.put(header + NAME, &behind.to_le_bytes());
                self.put(header + NAME + 8, &(data.len() as u32).to_le_bytes());
                self.put(behind, data);
            }
            PART_MSG_CONTROL => {
                self.put(header + CONTROL, &behind.to_le_bytes());
                self.put(header + CONTROL + 8, &(data.len() as u64).to_le_bytes());
                self.put(behind, data);
            }
            PART_MSG_DATA => {
                let vectors = behind + (1 << 31);
                self.put(header + VECTORS, &vectors.to_le_bytes());
                self.put(header + VECTORS + 8, &1u64.to_le_bytes());
                self.vectors(vectors, 1, behind, data.len());
                self.put(behind, data);
            }
            PART_MSG_HEADER => {}
            other => panic!("a piece of a message of kind {other}"),
        }
    }

    /// What the leader's plain buffers were filled with is here, too.
    fn holds_outputs_of(&mut self, leader: &Recorded, call: &Call) {
        for part in leader.record().parts() {
            let filled = matches!(
                leader.arg(part.arg),
                Arg::Mem(Dir::Out, Len::Ret(_) | Len::RetCapped(..) | Len::Fixed(_))
                    | Arg::Struct(Dir::Out | Dir::InOut, ..)
            );
            let address = call.args[usize::from(part.arg)];
            if filled && address != 0 {
                let mut own = vec![0; part.data.len()];
                self.read(address, &mut own).expect("it was written");
                assert_eq!(own, part.data, "argument {} of {}", part.arg, call.name());
            }
        }
    }
}

impl Memory for Image {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let piece = self.piece(address, buffer.len()).ok_or(Fault { address })?;
        buffer.copy_from_slice(piece);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        self.put(address, data);
        Ok(())
    }
}
