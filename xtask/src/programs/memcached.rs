//! memcached: Debian's security update 1.6.18-1 -> 1.6.18-1+deb12u1.
//!
//! All four fixes are in code that Debian's own configuration leaves out (the proxy, and passwords in a
//! file), so that both packages hold the same program, down to the build-id. With
//! `--enable-sasl-pwdb` they differ in one function, which every client runs that logs in.
//! (`--enable-proxy` would add a change of `struct mcp_parser_s`.)

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::programs::{MEMCACHED_NEW, MEMCACHED_OLD};

use super::debian::Debian;
use super::{Made, cached};

/// Changed when the recipe is: builds of another one are made again.
const RECIPE: &str = "2";

/// Debian's options, as `debian/rules` has them.
const OPTIONS: &str = "dh_auto_configure -- --enable-sasl --enable-tls";

/// Makes what is missing.
pub fn build() -> Result<()> {
    for (name, version) in [
        (MEMCACHED_OLD, "1.6.18-1"),
        (MEMCACHED_NEW, "1.6.18-1+deb12u1"),
    ] {
        cached(&[name], RECIPE, |debian, work| {
            Ok(vec![package(debian, work, name, version)?])
        })?;
    }
    Ok(())
}

fn package(debian: &Debian, work: &Path, name: &'static str, version: &str) -> Result<Made> {
    let tree = debian.source("memcached", version, &work.join("source"))?;
    debian.build_dependencies(&tree)?;
    let rules = tree.join("debian/rules");
    let text = fs::read_to_string(&rules).context("reading debian/rules")?;
    ensure!(
        text.matches(OPTIONS).count() == 1,
        "debian/rules of memcached does not configure with {OPTIONS:?}"
    );
    let more = format!("{OPTIONS} --enable-sasl-pwdb");
    fs::write(&rules, text.replace(OPTIONS, &more))?;
    debian.build(&format!("memcached {version}"), &tree)?;
    let root = work.join("root");
    for package in ["memcached", "memcached-dbgsym"] {
        debian.unpack(&tree, package, &root)?;
    }
    Ok(Made {
        name,
        program: root.join("usr/bin/memcached"),
        program_name: "memcached",
        debug: Some(root.join("usr/lib/debug")),
    })
}
