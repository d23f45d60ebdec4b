//! Debian's own tools, with lists of packages of our own: the machine's sources of apt stay as they are.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use mvedsua_tests::server::find_program;

use crate::{command, environment, setup};

/// The release whose packages these are: their build dependencies come from it too.
const RELEASE: &str = "bookworm";

const SOURCES: &str = "\
Types: deb deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// What builds packages at all.
const TOOLS: [(&str, &str); 2] = [("dpkg-buildpackage", "dpkg-dev"), ("g++", "g++")];

/// `apt` with its lists, and a log of what is run.
pub struct Debian {
    options: Vec<String>,
    log: PathBuf,
}

impl Debian {
    /// Fetches the lists of packages into `lists`; what the tools say goes to `log`.
    ///
    /// # Errors
    /// When this is no Debian 12, or there is no network.
    pub fn prepare(lists: &Path, log: &Path) -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        ensure!(
            release
                .lines()
                .any(|line| line == format!("VERSION_CODENAME={RELEASE}")),
            "these are packages of Debian 12 ({RELEASE}), and this is another system"
        );
        let tools: Vec<&str> = TOOLS
            .iter()
            .filter(|(program, _)| find_program(program).is_none())
            .map(|&(_, package)| package)
            .collect();
        if !tools.is_empty() {
            setup::install_packages(&tools)?;
        }
        let parts = lists.join("sources");
        let state = lists.join("lists");
        fs::create_dir_all(&parts)?;
        fs::create_dir_all(state.join("partial"))?;
        fs::write(parts.join("mvedsua.sources"), SOURCES)?;
        let option = |name: &str, value: &str| format!("-o{name}={value}");
        let debian = Self {
            options: vec![
                option("Dir::Etc::SourceList", "/dev/null"),
                option("Dir::Etc::SourceParts", &parts.display().to_string()),
                option("Dir::State::Lists", &state.display().to_string()),
                option("APT::Get::List-Cleanup", "0"),
            ],
            log: log.into(),
        };
        debian.step("the lists of packages", debian.apt("apt-get").arg("update"))?;
        Ok(debian)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.args(&self.options)
            .env("DEBIAN_FRONTEND", "noninteractive");
        apt
    }

    /// Fetches and unpacks a source package into `folder`; returns the tree.
    ///
    /// # Errors
    /// When it is not served (any more), or there is no network.
    pub fn source(&self, package: &str, version: &str, folder: &Path) -> Result<PathBuf> {
        fs::create_dir(folder)?;
        self.step(
            &format!("the source of {package} {version}"),
            self.apt("apt-get")
                .current_dir(folder)
                .args(["source", "--yes", "--quiet"])
                .arg(format!("{package}={version}")),
        )?;
        let tree = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.is_dir());
        tree.with_context(|| format!("{package} has no folder in its source package"))
    }

    /// Fetches a binary package and unpacks it into `to`; `folder` is made for the download.
    ///
    /// # Errors
    /// When it is not served (any more), or there is no network.
    pub fn download(&self, package: &str, version: &str, folder: &Path, to: &Path) -> Result<()> {
        fs::create_dir(folder)?;
        self.step(
            &format!("{package} {version}"),
            self.apt("apt-get")
                .current_dir(folder)
                .args(["download", "--quiet"])
                .arg(format!("{package}={version}")),
        )?;
        unpack_from(folder, package, to)
    }

    /// Installs what the tree needs to be built, if anything is missing.
    ///
    /// # Errors
    /// When it cannot be installed.
    pub fn build_dependencies(&self, tree: &Path) -> Result<()> {
        let check = Command::new("dpkg-checkbuilddeps")
            .current_dir(tree)
            .output()
            .context("starting dpkg-checkbuilddeps")?;
        if check.status.success() {
            return Ok(());
        }
        let missing = String::from_utf8_lossy(&check.stderr).trim().to_owned();
        ensure!(
            nix::unistd::geteuid().is_root(),
            "{missing}: only root may install packages"
        );
        let quiet = setup::Policy::no_daemons()?;
        self.step(
            &format!("build dependencies ({missing})"),
            self.apt("apt-get").current_dir(tree).args([
                "build-dep",
                "--yes",
                "--quiet",
                "--no-install-recommends",
                "--no-remove",
                "./",
            ]),
        )?;
        drop(quiet);
        Ok(())
    }

    /// Builds the packages of a tree, without its own tests.
    ///
    /// # Errors
    /// When it does not build.
    pub fn build(&self, what: &str, tree: &Path) -> Result<()> {
        let mut build = Command::new("dpkg-buildpackage");
        build
            .current_dir(tree)
            .args(["--build=binary", "--unsigned-source", "--unsigned-changes"]);
        self.step(&format!("building {what}"), with_build_options(&mut build))
    }

    /// Makes one target of the tree's `debian/rules`.
    ///
    /// # Errors
    /// When it does not build.
    pub fn rules(&self, what: &str, tree: &Path, target: &str) -> Result<()> {
        let mut rules = Command::new("debian/rules");
        rules.current_dir(tree).arg(target);
        self.step(&format!("building {what}"), with_build_options(&mut rules))
    }

    /// Unpacks the package `name` that was built beside `tree` into `folder`.
    ///
    /// # Errors
    /// When there is no such package.
    pub fn unpack(&self, tree: &Path, name: &str, folder: &Path) -> Result<()> {
        let beside = tree.parent().context("the tree is in a folder")?;
        unpack_from(beside, name, folder)
    }

    /// Runs a command; its output goes to the log, the end of which is part of an error.
    fn step(&self, what: &str, command: &mut Command) -> Result<()> {
        print!("programs: {what} ... ");
        std::io::stdout().flush()?;
        let start = Instant::now();
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        writeln!(log, "\n$ {}", command::shown(command))?;
        environment::scrub(command);
        let status = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("starting {}", command::shown(command)))?;
        if !status.success() {
            println!("failed");
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(25)..].join("\n");
            bail!(
                "{what}: {} failed: {status}\n{end}",
                command::shown(command)
            );
        }
        println!("{} s", start.elapsed().as_secs());
        Ok(())
    }
}

/// Unpacks the package `name` that lies in the folder `from` into `to`.
fn unpack_from(from: &Path, name: &str, to: &Path) -> Result<()> {
    let package = fs::read_dir(from)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let file = path.file_name().and_then(|name| name.to_str());
            file.is_some_and(|f| f.starts_with(&format!("{name}_")) && f.ends_with(".deb"))
        })
        .with_context(|| format!("there is no package {name} in {}", from.display()))?;
    command::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([package.as_path(), to]),
    )
}

/// No tests of theirs, and as many compilers at once as there are processors.
fn with_build_options(command: &mut Command) -> &mut Command {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    command.env("DEB_BUILD_OPTIONS", format!("nocheck parallel={cpus}"))
}
