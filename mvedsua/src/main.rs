//! The `mvedsua` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mvedsua::cli::main()
}
