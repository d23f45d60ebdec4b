//! A recorded call of the leader and the parts of its payload, as a view of the ring's bytes.

use mvedsua_common::event::{EventHeader, PART_ALIGN, PART_WHOLE, PartHeader, padded};
use mvedsua_common::spec::Syscall;
use mvedsua_common::table;

/// A recorded system call: its header, and its payload in place.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What was called, by whom, and what it returned.
    pub header: EventHeader,
    /// The parts with their headers, as [`push_part`] writes them.
    pub payload: &'a [u8],
}

/// A piece of memory that belongs to an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Index of the argument, 0 to 5.
    pub arg: u8,
    /// `PART_*` bits: which piece of the argument this is.
    pub flags: u8,
    /// The bytes as they were when the call returned.
    pub data: &'a [u8],
}

/// The parts of an event, in the order of the syscall's plan.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads one record. `None` if it is not well-formed: cut short, or with a part that reaches
    /// behind its end. After that, going through the parts cannot fail.
    #[must_use]
    pub fn parse(record: &'a [u8]) -> Option<Self> {
        let header = read_header(record)?;
        let event = Self {
            header,
            payload: record.get(size_of::<EventHeader>()..header.len as usize)?,
        };
        (event.parts().count() == header.parts as usize).then_some(event)
    }

    /// Builds the view of a record that [`Record::parse`] accepted before.
    pub(crate) fn of_checked(header: EventHeader, record: &'a [u8]) -> Self {
        Self {
            header,
            payload: record
                .get(size_of::<EventHeader>()..header.len as usize)
                .unwrap_or_default(),
        }
    }

    /// The table's description of the call.
    #[must_use]
    pub fn spec(&self) -> Option<&'static Syscall> {
        table::syscall(self.header.nr)
    }

    /// The whole memory of argument `arg`, if it was recorded as one part.
    #[must_use]
    pub fn data(&self, arg: u8) -> Option<&'a [u8]> {
        self.part(arg, PART_WHOLE)
    }

    /// The parts of the payload.
    #[must_use]
    pub fn parts(&self) -> Parts<'a> {
        Parts {
            left: self.header.parts,
            bytes: self.payload,
        }
    }

    /// The first part of argument `arg` with these `flags`, if it was recorded.
    #[must_use]
    pub fn part(&self, arg: u8, flags: u8) -> Option<&'a [u8]> {
        self.parts()
            .find(|part| part.arg == arg && part.flags == flags)
            .map(|part| part.data)
    }
}

/// Appends a part to a payload that is put together outside the recorder.
pub fn push_part(payload: &mut Vec<u8>, arg: u8, flags: u8, data: &[u8]) {
    payload.extend_from_slice(&(data.len() as u32).to_le_bytes());
    payload.extend_from_slice(&[arg, flags, 0, 0]);
    payload.extend_from_slice(data);
    payload.resize(payload.len() + padded(data.len()) - data.len(), 0);
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (head, rest) = self
            .bytes
            .split_first_chunk::<{ size_of::<PartHeader>() }>()?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let data = rest.get(..len)?;
        self.bytes = rest.get(padded(len)..)?;
        Some(Part {
            arg: head[4],
            flags: head[5],
            data,
        })
    }
}

/// The header at the start of a record; `None` if the record is shorter than it says.
fn read_header(record: &[u8]) -> Option<EventHeader> {
    let (bytes, _) = record.split_first_chunk::<{ size_of::<EventHeader>() }>()?;
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let header = EventHeader {
        len: u32_at(0),
        nr: u16_at(4),
        flags: u16_at(6),
        tgid: u32_at(8),
        tid: u32_at(12),
        ret: u64_at(16) as i64,
        args: std::array::from_fn(|index| u64_at(24 + 8 * index)),
        parts: u32_at(72),
        cpu: u32_at(76),
    };
    let len = header.len as usize;
    (len >= size_of::<EventHeader>() && len <= record.len() && len.is_multiple_of(PART_ALIGN))
        .then_some(header)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The bytes of a record with these parts (argument, flags, data).
    pub(crate) fn record(nr: u16, ret: i64, parts: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (arg, flags, data) in parts {
            payload.extend_from_slice(&(data.len() as u32).to_le_bytes());
            payload.extend_from_slice(&[*arg, *flags, 0, 0]);
            payload.extend_from_slice(data);
            payload.resize(payload.len().next_multiple_of(PART_ALIGN), 0xee);
        }
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&((size_of::<EventHeader>() + payload.len()) as u32).to_le_bytes());
        bytes.extend_from_slice(&nr.to_le_bytes());
        bytes.extend_from_slice(&2u16.to_le_bytes());
        bytes.extend_from_slice(&100u32.to_le_bytes());
        bytes.extend_from_slice(&101u32.to_le_bytes());
        bytes.extend_from_slice(&ret.to_le_bytes());
        for arg in 1..=6u64 {
            bytes.extend_from_slice(&(arg << 40).to_le_bytes());
        }
        bytes.extend_from_slice(&(parts.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    #[test]
    fn a_record_is_read_field_by_field() {
        let bytes = record(47, -11, &[]);
        let event = Record::parse(&bytes).expect("well-formed");
        assert_eq!(
            event.header,
            EventHeader {
                len: 80,
                nr: 47,
                flags: 2,
                tgid: 100,
                tid: 101,
                ret: -11,
                args: [1 << 40, 2 << 40, 3 << 40, 4 << 40, 5 << 40, 6 << 40],
                parts: 0,
                cpu: 0,
            }
        );
        assert_eq!(event.parts().count(), 0);
    }

    #[test]
    fn parts_of_every_padding_are_found() {
        for len in 0..20 {
            let data: Vec<u8> = (0..len).collect();
            let bytes = record(0, 1, &[(1, 0, &data), (4, 3, b"abc")]);
            let event = Record::parse(&bytes).expect("well-formed");
            let parts: Vec<Part<'_>> = event.parts().collect();
            assert_eq!(
                parts,
                [
                    Part {
                        arg: 1,
                        flags: 0,
                        data: &data
                    },
                    Part {
                        arg: 4,
                        flags: 3,
                        data: b"abc"
                    }
                ]
            );
            assert_eq!(event.part(4, 3), Some(&b"abc"[..]));
            assert_eq!(event.part(4, 0), None);
        }
    }

    #[test]
    fn a_record_that_is_cut_anywhere_is_refused() {
        let bytes = record(0, 1, &[(1, 0, b"0123456789"), (4, 3, b"abc")]);
        for len in 0..bytes.len() {
            assert!(
                Record::parse(&bytes[..len]).is_none(),
                "{len} of {} bytes",
                bytes.len()
            );
        }
    }

    #[test]
    fn a_part_that_reaches_behind_the_record_is_refused() {
        let mut bytes = record(0, 1, &[(1, 0, b"0123456789")]);
        bytes[size_of::<EventHeader>()] = 17;
        assert!(Record::parse(&bytes).is_none());
    }

    #[test]
    fn a_record_with_fewer_parts_than_it_says_is_refused() {
        let mut bytes = record(0, 1, &[(1, 0, b"0123456789")]);
        bytes[72] = 2;
        assert!(Record::parse(&bytes).is_none());
    }
}
