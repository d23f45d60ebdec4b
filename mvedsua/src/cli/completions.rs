//! `mvedsua completions`

use clap::CommandFactory as _;

use super::{Cli, output};

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mvedsua completions bash > /etc/bash_completion.d/mvedsua
  mvedsua completions zsh > ~/.zfunc/_mvedsua
  mvedsua completions fish > ~/.config/fish/completions/mvedsua.fish")]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

impl Args {
    pub fn run(self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "mvedsua", &mut script);
        output::line(String::from_utf8_lossy(&script).trim_end());
    }
}
