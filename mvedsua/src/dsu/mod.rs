//! Dynamic software updates: from two builds of a program to a bundle, and from a bundle to the
//! list of memory writes that turn a process of the old build into one of the new.
//!
//! Nothing here touches a process; only [`trusted`] and the builds' readers open files. `docs/bundles.md` has the format and how the diff decides.

mod build;
mod carry;
mod catalog;
mod code;
mod compare;
mod debug_files;
mod dwarf;
mod error;
mod file;
mod image;
mod kept;
mod leave;
mod manifest;
mod meaning;
mod objects;
mod plan;
mod report;
mod restart;
mod risk;
mod sign;
mod transform;
pub mod trusted;
mod types;

pub use build::{Analysis, BuildOptions, analyse, build, declared, header, is_named};
pub use debug_files::DebugSearch;
pub use error::{Blocker, DsuError};
pub use file::{Bundle, LARGEST, VERSION};
pub use image::hex;
pub use manifest::{
    BuildName, CallFrames, Control, Fixup, FixupKind, Import, JUMP, LibraryCopy, Manifest, Mapped,
    Patch, Piece, PieceKind, Redirect, Target, Transform,
};
pub use plan::{
    Busy, Copy, Expected, Mapping, Placement, Plan, Protection, TransformPlan, Write, choose_base,
    plan,
};
pub use report::{FunctionNote, ObjectNote, Report, Risk, Why};
pub use restart::{Parameter, Place, Restart};
pub use sign::sign;
pub use transform::{CONTROL_LEN, Control as TransformControl, Moved, State as TransformState};
pub use trusted::PublicKey;
pub use types::{TypeChange, TypeChangeKind};
