//! The `mvedsua` command.
fn main() {}
