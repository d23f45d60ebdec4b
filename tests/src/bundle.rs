//! Bundles of real servers, made with `mvedsua bundle build`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::examples::Example;
use crate::mvedsua::Outcome;
use crate::{Mvedsua, programs};

/// A bundle in a folder of its own, deleted on drop.
#[derive(Debug)]
pub struct Bundle {
    dir: TempDir,
}

/// A program and where its debug file is.
struct Side {
    program: PathBuf,
    debug_root: Option<PathBuf>,
}

impl Side {
    fn of(name: &str) -> Result<Self> {
        let build = programs::Build::find(name)
            .with_context(|| format!("{name} is not built: cargo xtask programs"))?;
        Ok(Self {
            program: build.program().into(),
            debug_root: Some(build.debug_root()),
        })
    }
}

impl Bundle {
    /// The bundle from one build of [`programs`] to another, with more options of `bundle build`.
    ///
    /// # Errors
    /// When a build is missing, or the command fails: with what it said.
    pub fn of(mvedsua: &Mvedsua, old: &str, new: &str, options: &[&str]) -> Result<Self> {
        Self::build(mvedsua, &Side::of(old)?, &Side::of(new)?, options)
    }

    /// The bundle from one version of an example to another.
    ///
    /// # Errors
    /// When a version does not compile, or the command fails: with what it said.
    pub fn of_example(
        mvedsua: &Mvedsua,
        example: Example,
        old: u32,
        new: u32,
        options: &[&str],
    ) -> Result<Self> {
        let side = |version| -> Result<Side> {
            Ok(Side {
                program: example.build(version)?,
                debug_root: None,
            })
        };
        Self::build(mvedsua, &side(old)?, &side(new)?, options)
    }

    fn build(mvedsua: &Mvedsua, old: &Side, new: &Side, options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("mvedsua-bundle-")
            .tempdir()?;
        let bundle = Self { dir };
        let mut words = vec!["bundle".to_owned(), "build".into()];
        let mut option = |name: &str, path: &Path| {
            words.extend([name.to_owned(), path.to_string_lossy().into_owned()]);
        };
        option("--old", &old.program);
        option("--new", &new.program);
        option("--output", &bundle.path());
        for root in [&old.debug_root, &new.debug_root].into_iter().flatten() {
            option("--debug-root", root);
        }
        let words: Vec<&str> = words
            .iter()
            .map(String::as_str)
            .chain(options.iter().copied())
            .collect();
        mvedsua.run(&words)?.ok().context("bundle build")?;
        Ok(bundle)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("update.mvu")
    }

    /// `bundle inspect --json`.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn inspect(&self, mvedsua: &Mvedsua) -> Result<serde_json::Value> {
        let path = self.path();
        let words = ["bundle", "inspect", "--json", &path.to_string_lossy()];
        Ok(serde_json::from_str(&mvedsua.run(&words)?.ok()?)?)
    }

    /// Names of the functions that it brings, sorted.
    ///
    /// # Errors
    /// See [`inspect`](Self::inspect).
    pub fn functions(&self, mvedsua: &Mvedsua) -> Result<Vec<String>> {
        let report = self.inspect(mvedsua)?;
        let functions = report["report"]["functions"]
            .as_array()
            .context("a report lists functions")?;
        let mut names: Vec<String> = functions
            .iter()
            .filter_map(|function| function["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Cuts the file in the middle.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn truncate(&self) -> Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(self.path())?;
        Ok(file.set_len(file.metadata()?.len() / 2)?)
    }
}

/// `bundle diff` of two versions of an example.
///
/// # Errors
/// When a version does not compile, or the command hangs.
pub fn diff(mvedsua: &Mvedsua, example: Example, old: u32, new: u32) -> Result<Outcome> {
    let (old, new) = (example.build(old)?, example.build(new)?);
    let (old, new) = (old.to_string_lossy(), new.to_string_lossy());
    ensure!(old != new, "two versions");
    mvedsua.run(&["bundle", "diff", "--old", &old, "--new", &new])
}
