//! Stripped programs with separate debug files.

use std::path::Path;
use std::process::Command;

use mvedsua::dsu::{BuildOptions, DebugSearch, analyse, build};

use super::victim::Pair;

fn tool(command: &mut Command) {
    assert!(
        command.status().expect("binutils are installed").success(),
        "{command:?}"
    );
}

/// Moves symbols and DWARF of a program to `target`, as distributions do.
fn split(program: &Path, target: &Path) {
    std::fs::create_dir_all(target.parent().expect("in a folder")).expect("writable");
    tool(
        Command::new("objcopy")
            .args(["--only-keep-debug", "--compress-debug-sections"])
            .arg(program)
            .arg(target),
    );
    tool(
        Command::new("strip")
            .args(["--strip-all", "--remove-section=.comment"])
            .arg(program),
    );
}

fn build_id(program: &Path) -> String {
    use object::Object as _;
    let data = std::fs::read(program).expect("readable");
    mvedsua::dsu::hex(
        object::File::parse(&*data)
            .expect("an ELF file")
            .build_id()
            .expect("readable")
            .expect("linked with one"),
    )
}

#[test]
fn they_are_found_by_build_id() {
    let pair = Pair::new(&["basic.c"], &[]);
    let whole = pair.bundle();
    let root = pair.folder.path().join("debug");
    for version in [1, 2] {
        let id = build_id(&pair.path(version));
        split(
            &pair.path(version),
            &root
                .join(".build-id")
                .join(&id[..2])
                .join(format!("{}.debug", &id[2..])),
        );
    }
    let stripped = pair.bundle();
    assert_eq!(stripped.manifest.redirects, whole.manifest.redirects);
    assert_eq!(stripped.manifest.pieces, whole.manifest.pieces);
    assert_eq!(stripped.manifest.fixups, whole.manifest.fixups);
    let mut running = pair.start();
    assert_eq!(running.ask("5"), "old: total 5 calls 1 other 4");
    assert_eq!(running.apply(&stripped), "APPLIED");
    assert_eq!(
        running.ask("6"),
        "new: total 11 calls 2 other 5 largest 6 before -1"
    );
}

#[test]
fn they_may_be_named_and_must_fit() {
    let pair = Pair::new(&["basic.c"], &[]);
    let debug = |version: u32| pair.folder.path().join(format!("victim.{version}.debug"));
    for version in [1, 2] {
        split(&pair.path(version), &debug(version));
    }
    assert_eq!(
        analyse(&pair.options()).expect_err("nowhere").code(),
        "E403"
    );
    let named = |version| DebugSearch {
        roots: Vec::new(),
        named: Some(debug(version)),
    };
    let right = BuildOptions {
        debug_old: named(1),
        debug_new: named(2),
        ..pair.options()
    };
    assert!(build(&right).is_ok());
    let swapped = BuildOptions {
        debug_old: named(2),
        debug_new: named(1),
        ..pair.options()
    };
    let error = analyse(&swapped).expect_err("they are of the other build");
    assert_eq!(error.code(), "E404", "{error}");
}

#[test]
fn symbols_without_dwarf_are_not_enough() {
    let pair = Pair::new(&["basic.c"], &["-g0"]);
    let error = analyse(&pair.options()).expect_err("types cannot be compared");
    assert!(
        error.code() == "E403" && error.to_string().contains("DWARF"),
        "{error}"
    );
}
