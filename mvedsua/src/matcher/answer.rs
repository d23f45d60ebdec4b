//! What the follower gets for a call that equals the leader's: the result, and the leader's output
//! buffers written over its own.

use mvedsua_common::event::{PART_MSG_CONTROL, PART_MSG_DATA, PART_MSG_HEADER, PART_MSG_NAME};
use mvedsua_common::spec::{Arg, Dir, Len};
use mvedsua_common::table;

use super::{Call, EpollData, Fault, Memory, Record, each_vector, msghdr, word};

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The result: a value, or `-errno`.
    pub result: i64,
}

/// Writes the leader's outputs into the follower's memory and returns the result.
///
/// # Errors
/// When the follower's memory cannot be written where the leader's could.
pub fn answer(
    record: &Record<'_>,
    call: &Call,
    memory: &mut dyn Memory,
    epoll: &EpollData,
) -> Result<Answer, Fault> {
    answer_except(record, call, memory, epoll, 0)
}

/// The same, without the arguments whose bits are set in `except`.
#[inline]
pub(super) fn answer_except(
    record: &Record<'_>,
    call: &Call,
    memory: &mut dyn Memory,
    epoll: &EpollData,
    except: u8,
) -> Result<Answer, Fault> {
    let Some(spec) = table::syscall(call.nr) else {
        return Ok(Answer {
            result: record.header.ret,
        });
    };
    let mut message = None;
    for part in record.parts() {
        let index = usize::from(part.arg);
        let Some(&address) = call.args.get(index) else {
            continue;
        };
        if address == 0 || except & (1 << index) != 0 {
            continue;
        }
        let data = part.data;
        match spec.arg_of(index, &call.args) {
            Arg::Mem(Dir::Out | Dir::InOut | Dir::OutAlways, Len::Iov(count)) => {
                scatter(memory, address, call.args[usize::from(count)], data)?;
            }
            Arg::Mem(Dir::Out | Dir::InOut | Dir::OutAlways, Len::Msg) => {
                piece(memory, address, part.flags, data)?;
            }
            Arg::Mem(dir, Len::Mmsg) => {
                if part.flags == PART_MSG_HEADER {
                    message = Some(message.map_or(0, |n| n + 1));
                }
                let own = address + message.unwrap_or(0) * msghdr::MMSG_SIZE as u64;
                if dir != Dir::In {
                    piece(memory, own, part.flags, data)?;
                }
                if part.flags == PART_MSG_HEADER && data.len() >= msghdr::SIZE + 4 {
                    memory.write(
                        own + msghdr::SIZE as u64,
                        &data[msghdr::SIZE..msghdr::SIZE + 4],
                    )?;
                }
            }
            Arg::Mem(Dir::Out | Dir::InOut | Dir::OutAlways, Len::Word(len))
            | Arg::SockaddrOut(len) => {
                // The kernel may report more than it had room to store: the room is what the
                // follower's own length word says, which is written after this (a later argument).
                let room = length_word(memory, call.args[usize::from(len)])?;
                memory.write(address, &data[..data.len().min(room)])?;
            }
            Arg::EpollEvents => {
                for (at, event) in data.chunks_exact(12).enumerate() {
                    let mut event: [u8; 12] = event.try_into().expect("12 bytes");
                    let leader = word(&event, 4);
                    let follower = epoll.follower_data(call.args[0] as i32, leader);
                    event[4..].copy_from_slice(&follower.to_le_bytes());
                    memory.write(address + 12 * at as u64, &event)?;
                }
            }
            Arg::Mem(Dir::Out | Dir::InOut | Dir::OutAlways, _)
            | Arg::Struct(Dir::Out | Dir::InOut | Dir::OutAlways, ..)
            | Arg::LenWord
            | Arg::PollFds(_) => memory.write(address, data)?,
            _ => {}
        }
    }
    Ok(Answer {
        result: record.header.ret,
    })
}

fn length_word(memory: &mut dyn Memory, address: u64) -> Result<usize, Fault> {
    let mut word = [0u8; 4];
    if address != 0 {
        memory.read(address, &mut word)?;
    }
    Ok(u32::from_le_bytes(word) as usize)
}

/// Stores one text where an argument points, within the room that the follower's length word tells.
pub(super) fn put(
    call: &Call,
    at: u8,
    flags: u8,
    data: &[u8],
    memory: &mut dyn Memory,
) -> Result<(), Fault> {
    let address = call.args[usize::from(at)];
    let Some(spec) = table::syscall(call.nr).filter(|_| address != 0) else {
        return Ok(());
    };
    match spec.arg_of(usize::from(at), &call.args) {
        Arg::Mem(_, Len::Msg) => piece(memory, address, flags, data),
        Arg::Mem(_, Len::Word(len)) | Arg::SockaddrOut(len) => {
            let room = length_word(memory, call.args[usize::from(len)])?;
            memory.write(address, &data[..data.len().min(room)])
        }
        _ => memory.write(address, data),
    }
}

pub(super) fn scatter(
    memory: &mut dyn Memory,
    vectors: u64,
    count: u64,
    data: &[u8],
) -> Result<(), Fault> {
    each_vector(
        memory,
        vectors,
        count,
        data.len(),
        &mut |memory, at, range| memory.write(at, &data[range]),
    )
}

/// One piece of a received `struct msghdr`, into the follower's own.
fn piece(memory: &mut dyn Memory, header: u64, piece: u8, data: &[u8]) -> Result<(), Fault> {
    let mut own = [0u8; msghdr::SIZE];
    memory.read(header, &mut own)?;
    let name_room =
        u32::from_le_bytes(own[msghdr::NAME_LEN..][..4].try_into().expect("4 bytes")) as usize;
    let control_room = word(&own, msghdr::CONTROL_LEN) as usize;
    match piece {
        PART_MSG_DATA => scatter(
            memory,
            word(&own, msghdr::IOV),
            word(&own, msghdr::IOV_LEN),
            data,
        ),
        PART_MSG_NAME if word(&own, msghdr::NAME) != 0 => {
            memory.write(word(&own, msghdr::NAME), &data[..data.len().min(name_room)])
        }
        PART_MSG_CONTROL if word(&own, msghdr::CONTROL) != 0 => memory.write(
            word(&own, msghdr::CONTROL),
            &data[..data.len().min(control_room)],
        ),
        _ => Ok(()),
    }
}

/// The lengths and flags that the kernel stores in a received `struct msghdr`. Written last, since
/// the follower's own lengths say how much room there is.
///
/// # Errors
/// When the follower's memory cannot be written where the leader's could.
pub fn finish_messages(
    record: &Record<'_>,
    call: &Call,
    memory: &mut dyn Memory,
) -> Result<(), Fault> {
    let Some(spec) = table::syscall(call.nr) else {
        return Ok(());
    };
    let mut message = 0;
    for part in record.parts().filter(|part| part.flags == PART_MSG_HEADER) {
        let stride = match spec.arg_of(usize::from(part.arg), &call.args) {
            Arg::Mem(Dir::Out | Dir::InOut | Dir::OutAlways, Len::Msg) => 0,
            Arg::Mem(Dir::Out | Dir::InOut | Dir::OutAlways, Len::Mmsg) => msghdr::MMSG_SIZE as u64,
            _ => continue,
        };
        if part.data.len() < msghdr::SIZE {
            continue;
        }
        let own = call.args[usize::from(part.arg)] + message * stride;
        for (at, len) in [
            (msghdr::NAME_LEN, 4),
            (msghdr::CONTROL_LEN, 8),
            (msghdr::FLAGS, 4),
        ] {
            memory.write(own + at as u64, &part.data[at..at + len])?;
        }
        message += 1;
    }
    Ok(())
}
