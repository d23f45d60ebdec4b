//! Redis: Debian's security update 7.0.15-1~deb12u7 -> ~deb12u10, and the paper's bug on top.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::programs::{REDIS_HMGET, REDIS_U7, REDIS_U10};

use super::debian::Debian;
use super::{Made, cached};

/// Changed when the recipe is: builds of another one are made again.
const RECIPE: &str = "1";

/// Makes what is missing.
pub fn build() -> Result<()> {
    cached(&[REDIS_U7], RECIPE, |debian, work| {
        let version = "5:7.0.15-1~deb12u7";
        Ok(vec![package(debian, work, REDIS_U7, version)?])
    })?;
    cached(&[REDIS_U10, REDIS_HMGET], RECIPE, |debian, work| {
        let good = package(debian, work, REDIS_U10, "5:7.0.15-1~deb12u10")?;
        let tree = work.join("source").join("redis-7.0.15");
        reintroduce_bug(&tree.join("src/t_hash.c"))?;
        // Not all of the package again: one file changes.
        debian.rules(
            "the same with a bug in HMGET",
            &tree,
            "override_dh_auto_build",
        )?;
        let bad = Made {
            name: REDIS_HMGET,
            program: tree.join("src/redis-server"),
            program_name: "redis-server",
            debug: None,
        };
        Ok(vec![good, bad])
    })
}

fn package(debian: &Debian, work: &Path, name: &'static str, version: &str) -> Result<Made> {
    let tree = debian.source("redis", version, &work.join("source"))?;
    debian.build_dependencies(&tree)?;
    debian.build(&format!("redis {version}"), &tree)?;
    let root = work.join("root");
    // `redis-server` is in its package a link to the checker, which is the same program.
    for package in ["redis-tools", "redis-tools-dbgsym"] {
        debian.unpack(&tree, package, &root)?;
    }
    Ok(Made {
        name,
        program: root.join("usr/bin/redis-check-rdb"),
        program_name: "redis-server",
        debug: Some(root.join("usr/lib/debug")),
    })
}

/// The bug of the MVEDSUA paper's section on errors in updates: `HMGET` of a key that holds no hash
/// crashes. Here it looks its first field up before it has looked at the type: what holds text is taken
/// for a table, and the first eight letters for a pointer.
fn reintroduce_bug(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let (before, after) = text
        .split_once("void hmgetCommand(client *c)")
        .context("t_hash.c has no hmgetCommand")?;
    let check = "if (checkType(c,o,OBJ_HASH)) return;";
    let (between, rest) = after
        .split_once(check)
        .context("hmgetCommand does not check the type")?;
    ensure!(
        !between.contains('}'),
        "the check of the type is in another function"
    );
    let too_late = "if (o && o->encoding != OBJ_ENCODING_LISTPACK &&\n        \
        !dictFind(o->ptr,c->argv[2]->ptr) && checkType(c,o,OBJ_HASH)) return;";
    fs::write(
        file,
        format!("{before}void hmgetCommand(client *c){between}{too_late}{rest}"),
    )?;
    Ok(())
}
