//! Which version of its program a process runs: what was executed, and what bundles made of it since.
//!
//! A bundle leaves a *mark* in the process that it was applied to: a read-only page range that says
//! where everything of the new build is. Copies of the process inherit it, an exchange of versions
//! needs nothing to be remembered elsewhere, and the successor of a killed agent can read it.

use serde::{Deserialize, Serialize};

use super::module::{self, Program};
use super::{Naming, Result, TraceeError, inspect};
use crate::dsu::{CallFrames, Placement};
use crate::sys::memory;

/// How a mark begins; its length in bytes (little-endian, 8 bytes) follows, then postcard.
const MAGIC: &[u8; 16] = b"MVEDSUA VERSION\n";
const HEAD: usize = 24;
/// Larger marks are not believed.
const LARGEST: u64 = 64 << 20;
const PAGE: u64 = 4096;

/// A function that a bundle placed, for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// First address in the process.
    pub start: u64,
    /// Its name.
    pub name: String,
}

/// Call frame information of functions that a bundle placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFrames {
    /// First address in the process of what the bundle placed, and the one after the last.
    pub range: (u64, u64),
    /// Address in the process minus address in the build.
    pub base: u64,
    /// The information.
    pub frames: CallFrames,
}

/// What a bundle left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where the new build's things are.
    pub placement: Placement,
    /// File name of the new build, for people.
    pub name: String,
    /// The functions that were placed, by address.
    pub functions: Vec<Named>,
    /// How to walk their stacks; those of earlier bundles, which may still be on one, come first.
    pub frames: Vec<PlacedFrames>,
}

/// What a process runs.
#[derive(Clone, Debug)]
pub struct Version {
    /// What was executed.
    pub program: Program,
    /// What the last bundle left, and the pages that hold it (address and bytes).
    pub mark: Option<(Mark, (u64, u64))>,
}

impl Version {
    /// Finds out about process `pid`.
    ///
    /// # Errors
    /// When the process is gone, or carries a mark that cannot be read.
    pub fn of(pid: i32) -> Result<Self> {
        let program = module::program(pid)?;
        let mut mark = None;
        for map in inspect::maps(pid)? {
            if map.write || map.execute || map.shared || !map.name.is_empty() {
                continue;
            }
            let mut head = [0u8; HEAD];
            if memory::read(pid, map.start, &mut head).is_err() || head[..16] != *MAGIC {
                continue;
            }
            let broken = || {
                TraceeError::Unsuitable(format!(
                    "process {pid} carries a mark of an earlier update at {:#x} that cannot be read",
                    map.start
                ))
            };
            let len = u64::from_le_bytes(head[16..].try_into().expect("8 bytes"));
            if len > LARGEST.min(map.end - map.start - HEAD as u64) || mark.is_some() {
                return Err(broken());
            }
            let mut bytes = vec![0; len as usize];
            memory::read(pid, map.start + HEAD as u64, &mut bytes).named("read the mark", pid)?;
            let read: Mark = postcard::from_bytes(&bytes).map_err(|_| broken())?;
            mark = Some((read, (map.start, map.end - map.start)));
        }
        Ok(Self { program, mark })
    }

    /// Where the things of the build that it runs are.
    #[must_use]
    pub fn placement(&self) -> Placement {
        match &self.mark {
            Some((mark, _)) => mark.placement.clone(),
            None => Placement::loaded(self.program.build_id.clone(), self.program.bias),
        }
    }
}

impl Mark {
    /// Its bytes as they lie in the process, and the bytes of the pages that they need.
    ///
    /// # Errors
    /// When it is too large.
    pub fn to_bytes(&self) -> Result<(Vec<u8>, u64)> {
        let too_large = || TraceeError::Unsuitable("the mark of the update is too large".into());
        let payload = postcard::to_stdvec(self).map_err(|_| too_large())?;
        if payload.len() as u64 > LARGEST {
            return Err(too_large());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&payload);
        let pages = (bytes.len() as u64).next_multiple_of(PAGE);
        Ok((bytes, pages))
    }
}

/// The placed function around an address of process `pid`, as `name+0x12`.
#[must_use]
pub fn describe(pid: i32, address: u64) -> Option<String> {
    let version = Version::of(pid).ok()?;
    let (mark, _) = version.mark?;
    let index = mark.functions.partition_point(|f| f.start <= address);
    let function = mark.functions.get(index.checked_sub(1)?)?;
    Some(format!(
        "{}+{:#x} of {}",
        function.name,
        address - function.start,
        mark.name
    ))
}
