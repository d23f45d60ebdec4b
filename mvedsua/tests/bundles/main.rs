//! Bundles of small programs: compiled here, compared, and applied to a running process of the
//! old version, which then has to behave as the new one with the old one's state.

mod damaged;
mod debug_files;
mod diffs;
mod live;
mod transform;
mod trusted;
mod victim;
