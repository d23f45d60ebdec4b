//! Where the agent's log goes: to the journal under systemd, else to standard error.

use std::os::fd::AsFd as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Environment variable with the filter, e.g. `debug` or `mvedsua::engine=trace`.
pub const FILTER: &str = "MVEDSUA_LOG";

/// Whether standard error is the very stream that systemd connected to the journal
/// (`JOURNAL_STREAM` holds its device and inode; a child that inherits the variable but was
/// redirected elsewhere must not log to the journal).
fn stderr_is_journal() -> bool {
    let Ok(announced) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stat| announced == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Starts logging. Does nothing when it was started before.
pub fn start() {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let started = if stderr_is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).try_init()
    } else {
        let plain = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
        registry.with(plain).try_init()
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
