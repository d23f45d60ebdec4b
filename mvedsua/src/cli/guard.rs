//! `mvedsua guard`: started by the agent, for itself alone.

/// Let servers go on that a killed agent left stopped; the agent starts it
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) {
        crate::engine::run_guard();
    }
}
