//! How a test says that this machine cannot run it.
//!
//! A test is never skipped in silence: it asks [`can_run`] for what it needs and returns when the
//! answer is no. The reason goes to the file named by `MVEDSUA_CANNOT_RUN`, which `cargo xtask test`
//! prints in its summary; without that variable it goes to standard error.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::programs;
use crate::server::find_program;

/// Environment variable that names the file for the summary.
pub const CANNOT_RUN_FILE: &str = "MVEDSUA_CANNOT_RUN";

/// Something that a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Effective user id 0.
    Root,
    /// A program on the `PATH` or in `/usr/sbin`.
    Program(&'static str),
    /// A file or folder of the system, with what it stands for.
    Path(&'static str, &'static str),
    /// A build of `cargo xtask programs`, by its name in [`programs`].
    Build(&'static str),
    /// A kernel from this version on.
    Linux(u32, u32),
    /// So many CPUs that we may run on.
    Cpus(usize),
}

impl Need {
    /// Why the need is not met, or `None` when it is.
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
            Self::Program(name) => find_program(name)
                .is_none()
                .then(|| format!("{name} is not installed")),
            Self::Build(name) => programs::Build::find(name)
                .is_none()
                .then(|| format!("{name} is not built (cargo xtask programs)")),
            Self::Linux(major, minor) => {
                let release = nix::sys::utsname::uname()
                    .map(|name| name.release().to_string_lossy().into_owned())
                    .unwrap_or_default();
                let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
                let version: (u32, u32) = (numbers.next()?, numbers.next().unwrap_or(0));
                (version < (major, minor))
                    .then(|| format!("Linux {major}.{minor} is needed, this is {release}"))
            }
            Self::Cpus(number) => {
                let ours = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                (ours < number).then(|| format!("{number} CPUs are needed, these are {ours}"))
            }
            Self::Path(path, what) => {
                (!Path::new(path).exists()).then(|| format!("{what}: {path} does not exist"))
            }
        }
    }
}

/// Says whether everything that the test `name` needs is there; reports by [`cannot_run`] if not.
///
/// ```no_run
/// # use mvedsua_tests::{can_run, Need};
/// if !can_run("follows_redis", &[Need::Root, Need::Program("redis-server")]) {
///     return;
/// }
/// ```
#[must_use = "the test must return when it cannot run"]
pub fn can_run(name: &str, needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    cannot_run(name, &missing.join("; "));
    false
}

/// Reports that the test `name` cannot run here, and why.
///
/// # Panics
/// When the summary file cannot be written: a reason that nobody sees would be a silent skip.
pub fn cannot_run(name: &str, why: &str) {
    let line = format!("{name}: {}", why.replace('\n', " "));
    match std::env::var_os(CANNOT_RUN_FILE) {
        Some(path) => append(Path::new(&path), &line).expect("append to MVEDSUA_CANNOT_RUN"),
        None => eprintln!("could not run: {line}"),
    }
}

/// One write per line, so that two tests do not mix theirs.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmet_need_says_what_is_missing() {
        assert_eq!(
            Need::Program("no-such-program").missing().as_deref(),
            Some("no-such-program is not installed")
        );
        let missing = Need::Path("/no/such", "BTF of the kernel").missing();
        assert_eq!(
            missing.as_deref(),
            Some("BTF of the kernel: /no/such does not exist")
        );
        assert_eq!(Need::Path("/proc", "procfs").missing(), None);
    }

    #[test]
    fn reasons_are_appended_line_by_line() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("cannot-run");
        append(&file, "a: x").expect("first line");
        append(&file, "b: y").expect("second line");
        assert_eq!(
            std::fs::read_to_string(file).expect("read back"),
            "a: x\nb: y\n"
        );
    }
}
