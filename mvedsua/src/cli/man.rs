//! `mvedsua man`

use std::io;
use std::path::PathBuf;

use clap::CommandFactory as _;

use super::{Cli, output};
use crate::agent::protocol::Problem;

/// Print the manual page, or write one per subcommand to a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mvedsua man | man -l -
  mvedsua man /usr/local/share/man/man1")]
pub struct Args {
    /// Write the pages of all subcommands there
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Args {
    pub fn run(self) -> Result<(), Problem> {
        let written = match &self.folder {
            None => page().map(|page| output::line(page.trim_end())),
            Some(folder) => std::fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), folder)),
        };
        written.map_err(|error| {
            let to = self
                .folder
                .map_or_else(String::new, |f| format!(" to {}", f.display()));
            Problem {
                code: "E124".into(),
                message: format!("the manual cannot be written{to}: {error}"),
                help: Some("give a folder that you may write to".into()),
                exit_code: 1,
                report: None,
            }
        })
    }
}

fn page() -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
