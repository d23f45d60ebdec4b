//! A recorded call of the leader, as a view of the ring's bytes.

use mvedsua_common::event::{EventHeader, PART_PIECE, PartHeader, padded};
use mvedsua_common::spec::Syscall;
use mvedsua_common::table;

/// One recorded call.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The fixed part.
    pub header: EventHeader,
    /// The parts, each with its header, as the recorder wrote them.
    pub payload: &'a [u8],
}

/// Memory of one argument of the leader's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Index of the argument.
    pub arg: u8,
    /// Which piece of the argument: `PART_WHOLE`, `PART_MSG_*`.
    pub piece: u8,
    /// The bytes.
    pub data: &'a [u8],
}

impl<'a> Record<'a> {
    /// The table's description of the call.
    #[must_use]
    pub fn spec(&self) -> Option<&'static Syscall> {
        table::syscall(self.header.nr)
    }

    /// The parts in the order in which they were recorded. A malformed payload ends the iteration.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let mut rest = self.payload;
        std::iter::from_fn(move || {
            const HEAD: usize = size_of::<PartHeader>();
            let head = rest.get(..HEAD)?;
            let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
            let part = Part {
                arg: head[4],
                piece: head[5] & PART_PIECE,
                data: rest.get(HEAD..HEAD + len)?,
            };
            rest = rest.get(HEAD + padded(len)..).unwrap_or_default();
            Some(part)
        })
    }

    /// The whole memory of argument `arg`, if it was recorded as one part.
    #[must_use]
    pub fn data(&self, arg: u8) -> Option<&'a [u8]> {
        self.parts().find(|part| part.arg == arg).map(|part| part.data)
    }
}

/// Appends a part to a payload that is put together outside the recorder.
pub fn push_part(payload: &mut Vec<u8>, arg: u8, piece: u8, data: &[u8]) {
    payload.extend_from_slice(&(data.len() as u32).to_le_bytes());
    payload.extend_from_slice(&[arg, piece, 0, 0]);
    payload.extend_from_slice(data);
    payload.resize(payload.len() + padded(data.len()) - data.len(), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_were_pushed() {
        let mut payload = Vec::new();
        push_part(&mut payload, 1, 0, b"hello");
        push_part(&mut payload, 4, 2, b"12345678");
        push_part(&mut payload, 5, 0, b"");
        let header = EventHeader {
            len: 0,
            nr: 0,
            flags: 0,
            tgid: 1,
            tid: 1,
            ret: 0,
            args: [0; 6],
            parts: 3,
            reserved: 0,
        };
        let record = Record { header, payload: &payload };
        let parts: Vec<_> = record.parts().collect();
        assert_eq!(
            parts,
            [
                Part { arg: 1, piece: 0, data: b"hello" },
                Part { arg: 4, piece: 2, data: b"12345678" },
                Part { arg: 5, piece: 0, data: b"" },
            ]
        );
        let cut = Record { header, payload: &payload[..payload.len() - 9] };
        assert_eq!(cut.parts().count(), 1, "a truncated part is not made up");
    }
}
