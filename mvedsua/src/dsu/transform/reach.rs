//! How a transformer reaches things of the program.

use crate::dsu::carry::{Bind, Carrier};
use crate::dsu::code::Access;
use crate::dsu::manifest::Target;

impl Carrier<'_> {
    /// An address of the new build: for a call the newest code, otherwise the address by which the
    /// program knows the thing.
    pub(super) fn reach(&mut self, owner: &str, addr: u64, called: bool) -> Option<Target> {
        let access = if called {
            Access::Call
        } else {
            Access::Address
        };
        match self.bind(owner, addr, access)? {
            Bind::Old(old) => Some(Target::Old(old)),
            Bind::Placed => Some(Target::New(addr)),
            Bind::Dead => None,
        }
    }

    /// A function of a library: as the program itself calls it, if it does.
    pub(super) fn library(&mut self, symbol: &str) -> Target {
        match self.old_stubs.get(symbol) {
            Some(stub) => Target::Old(*stub),
            None => Target::Import(self.import(symbol)),
        }
    }
}
