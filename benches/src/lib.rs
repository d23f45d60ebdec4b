//! What the micro-benchmarks share: recorded calls made by hand, and a follower's memory in a `Vec`.
//!
//! Run with `cargo bench -p mvedsua-benches`. Whole servers are measured by `cargo xtask bench`.

use mvedsua::matcher::{Call, Fault, Memory, push_part};
use mvedsua_common::event::{EventHeader, PART_WHOLE};
use mvedsua_common::table;

/// A recorded call that owns its payload.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The fixed part.
    pub header: EventHeader,
    /// The parts.
    pub payload: Vec<u8>,
}

impl Recorded {
    /// A call by name, with one part of memory of argument `arg`.
    ///
    /// # Panics
    /// When the table has no such call.
    #[must_use]
    pub fn new(name: &str, args: [u64; 6], ret: i64, arg: u8, data: &[u8]) -> Self {
        let mut payload = Vec::new();
        push_part(&mut payload, arg, PART_WHOLE, data);
        let header = EventHeader {
            len: (size_of::<EventHeader>() + payload.len()) as u32,
            nr: table::by_name(name).expect("a call of the table").nr,
            flags: 0,
            tgid: 1,
            tid: 1,
            ret,
            args,
            parts: 1,
            cpu: 0,
        };
        Self { header, payload }
    }

    /// The same call as the follower makes it.
    #[must_use]
    pub const fn call(&self) -> Call {
        Call {
            nr: self.header.nr,
            args: self.header.args,
        }
    }
}

/// Memory that begins at address [`Arena::START`].
#[derive(Clone, Debug)]
pub struct Arena(pub Vec<u8>);

impl Arena {
    /// First address.
    pub const START: u64 = 0x1000;

    fn range(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Fault> {
        let start = address.checked_sub(Self::START).ok_or(Fault { address })? as usize;
        let end = start + len;
        if end > self.0.len() {
            return Err(Fault { address });
        }
        Ok(start..end)
    }
}

impl Memory for Arena {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let range = self.range(address, buffer.len())?;
        buffer.copy_from_slice(&self.0[range]);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        let range = self.range(address, data.len())?;
        self.0[range].copy_from_slice(data);
        Ok(())
    }
}
