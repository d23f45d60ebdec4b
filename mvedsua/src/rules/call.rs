//! What the engine sees of a recorded call.

/// One call of the leader, as recorded. The engine only borrows from it and hands it back.
pub trait Call {
    /// System call number.
    fn nr(&self) -> u16;
    /// The argument registers.
    fn args(&self) -> &[u64; 6];
    /// What it returned: a value or `-errno`.
    fn ret(&self) -> i64;
    /// The thread that made it.
    fn tid(&self) -> u32;
    /// Its place in the global order.
    fn seq(&self) -> u64;
    /// The bytes behind argument `arg`, if they were recorded: what it wrote or sent, what it read,
    /// a path, a struct. Vectors (`writev`, `sendmsg`) are one text without seams.
    fn payload(&self, arg: u8) -> Option<&[u8]>;
}

/// A call that owns its bytes: for tests, rule tests and `rules suggest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OwnedCall {
    /// System call number.
    pub nr: u16,
    /// The argument registers.
    pub args: [u64; 6],
    /// What it returned.
    pub ret: i64,
    /// The thread that made it.
    pub tid: u32,
    /// Its place in the global order.
    pub seq: u64,
    /// The bytes behind arguments.
    pub parts: Vec<(u8, Vec<u8>)>,
}

impl Call for OwnedCall {
    fn nr(&self) -> u16 {
        self.nr
    }
    fn args(&self) -> &[u64; 6] {
        &self.args
    }
    fn ret(&self) -> i64 {
        self.ret
    }
    fn tid(&self) -> u32 {
        self.tid
    }
    fn seq(&self) -> u64 {
        self.seq
    }
    fn payload(&self, arg: u8) -> Option<&[u8]> {
        self.parts
            .iter()
            .find(|(at, _)| *at == arg)
            .map(|(_, bytes)| bytes.as_slice())
    }
}
