//! Headers for transformers, and transformers run in a victim.

use std::path::PathBuf;
use std::process::Command;

use mvedsua::dsu::{BuildOptions, DsuError, build, header};

use super::victim::{Pair, sources};

/// Compiles a header with the flags under which transformers are compiled; its static assertions
/// check every size and offset.
fn compiles(pair: &Pair) -> String {
    let text = header(&pair.options()).expect("both builds can be compared");
    let file = pair.folder.path().join("mvedsua.h");
    std::fs::write(&file, &text).expect("writable");
    let output = Command::new("gcc")
        .args(["-c", "-O2", "-fPIC", "-ffreestanding", "-Wall", "-Wextra"])
        .args(["-Werror", "-xc"])
        .arg(&file)
        .arg("-o")
        .arg(pair.folder.path().join("header.o"))
        .output()
        .expect("gcc is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
    text
}

/// The transformer with a mistake.
fn with_mistake(pair: &Pair, mistake: u32) -> PathBuf {
    let path = pair.folder.path().join(format!("transform{mistake}.c"));
    let source = sources().join("store_transform.c");
    let text = format!(
        "#define MISTAKE {mistake}\n#include \"{}\"\n",
        source.display()
    );
    std::fs::write(&path, text).expect("writable");
    path
}

#[test]
fn headers_declare_every_layout_of_c_cpp_and_rust() {
    for flags in [&[][..], &["-gdwarf-4"], &["-O0"]] {
        let text = compiles(&Pair::new(&["layouts.c"], flags));
        for expected in [
            "struct __attribute__((packed)) new_everything {",
            "sizeof(struct old_everything)",
            "unsigned long c : 40;",
            "struct __attribute__((packed)) same_tight {",
            "struct __attribute__((packed)) same_line {",
            "union same_value",
            "enum same_colour { same_RED = 0, same_GREEN = 5, same_BLUE = 6 };",
            "struct new_everything *mvedsua_type_new_every;",
            "long double wide;",
        ] {
            assert!(text.contains(expected), "no {expected} in\n{text}");
        }
    }
    compiles(&Pair::new(&["shapes.cc"], &[]));
    compiles(&Pair::rust("counter.rs"));
    compiles(&Pair::new(&["statics_a.c", "statics_b.c"], &[]));
}

#[test]
fn objects_and_variables_become_those_of_the_new_version() {
    for flags in [&[][..], &["-fno-pie"]] {
        let mut pair = Pair::new(&["store.c"], flags);
        pair.transform = Some(sources().join("store_transform.c"));
        let bundle = pair.bundle();
        let mut running = pair.start();
        assert_eq!(running.ask("fill 1000"), "ok");
        assert_eq!(running.ask("get 999"), "v6993");
        assert_eq!(running.ask("bytes"), "32000");
        assert_eq!(running.apply(&bundle), "APPLIED");
        assert_eq!(running.ask("bytes"), "80000", "the server's own allocator");
        assert_eq!(running.ask("get 999"), "v6993 type 1 reads 1");
        assert_eq!(running.ask("get 999"), "v6993 type 1 reads 2");
        assert_eq!(running.ask("set 999 again"), "ok");
        assert_eq!(running.ask("set 5000 more"), "ok");
        assert_eq!(
            running.ask("sum"),
            "1001 entries sum 504500 used 1001 latest 5000 changes 1002"
        );
    }
}

#[test]
fn a_declared_transformer_finds_every_object_by_its_type() {
    let mut pair = Pair::new(&["store.c"], &[]);
    pair.transform = Some(sources().join("store_transform.toml"));
    let mut running = pair.start();
    running.ask("fill 5000");
    assert_eq!(running.apply(&pair.bundle()), "APPLIED");
    assert_eq!(running.ask("get 4999"), "v34993 type 1 reads 1");
    assert_eq!(
        running.ask("sum"),
        "5000 entries sum 12497500 used 5000 latest 4999 changes 1000"
    );

    for flags in [&[][..], &["-O0"]] {
        let mut pair = Pair::new(&["graph.c"], flags);
        pair.transform = Some(sources().join("graph_transform.toml"));
        let mut running = pair.start();
        let before = running.ask("make");
        assert!(before.ends_with("same same same"), "{before}");
        assert_eq!(running.apply(&pair.bundle()), "APPLIED");
        assert_eq!(running.ask("show"), before);
        let after = running.ask("leaf");
        assert!(after.contains("leaf 777"), "still the same leaf: {after}");
        assert_eq!(after.replace("777", "102"), before);
    }
    let mut pair = Pair::new(&["graph.c"], &[]);
    pair.transform = Some(sources().join("graph_transform.toml"));
    let mut running = pair.start();
    running.ask("make");
    running.ask("inside");
    let answer = running.apply(&pair.bundle());
    assert!(
        answer.contains("into the middle of another object"),
        "{answer}"
    );
}

#[test]
fn what_a_declaration_leaves_open_is_an_error_that_names_it() {
    let pair = Pair::new(&["graph.c"], &[]);
    let good = std::fs::read_to_string(sources().join("graph_transform.toml")).expect("readable");
    let cases = [
        ("weight = 11", "", "struct leaf.weight is new"),
        ("drop = [\"gone\"]", "", "struct node.gone is gone"),
        (
            "rename = { title = \"name\" }",
            "",
            "struct node.title is new",
        ),
        (
            "opaque = [\"cookie\"]",
            "",
            "struct node.cookie: it is an untyped pointer",
        ),
        (
            "[struct.node.union.value]",
            "[struct.node.union.text]",
            "struct node.value: it is a union",
        ),
        (
            "3 = \"nodes\"",
            "3 = \"none\"",
            "this union has no member none",
        ),
        (
            "nodes = \"used\"",
            "nothing = \"used\"",
            "the old struct shelf has no field nothing",
        ),
        ("keep = true", "kept = true", "unknown field `kept`"),
        (
            "[struct.shelf]",
            "[struct.shell]",
            "the old build has no struct shell",
        ),
    ];
    for (index, (from, to, says)) in cases.into_iter().enumerate() {
        let path = pair.folder.path().join(format!("open{index}.toml"));
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replace(from, to)).expect("writable");
        let text = refused(&pair, path).to_string();
        assert!(
            text.contains("E416") && text.contains(says),
            "{says}: {text}"
        );
    }
    // A type that no variable leads to is not taken care of.
    let path = pair.folder.path().join("none.toml");
    std::fs::write(&path, "[variable.root]\nopaque = true\n[variable.shelves]\nopaque = true\n[variable.spare]\nopaque = true\n[struct.leaf]\ndefault = { weight = 1 }\n").expect("writable");
    let text = refused(&pair, path).to_string();
    assert!(
        text.contains("E410: struct node") && !text.contains("E410: struct leaf"),
        "{text}"
    );
}

#[test]
fn a_transformer_that_gives_up_changes_nothing_of_the_code() {
    for (mistake, why) in [
        (1, "entry 10 is not good"),
        (5, "mvedsua_transform did not return 0"),
    ] {
        let mut pair = Pair::new(&["store.c"], &[]);
        pair.transform = Some(with_mistake(&pair, mistake));
        let mut running = pair.start();
        running.ask("fill 20");
        let answer = running.apply(&pair.bundle());
        assert_eq!(answer, format!("TRANSFORM FAILED {why}"));
    }
}

fn refused(pair: &Pair, transform: PathBuf) -> DsuError {
    let options = BuildOptions {
        transform: Some(transform),
        ..pair.options()
    };
    build(&options).expect_err("it must be refused")
}

#[test]
fn what_a_transformer_does_not_take_care_of_is_still_an_error() {
    let pair = Pair::new(&["store.c"], &[]);
    let text = refused(&pair, with_mistake(&pair, 8)).to_string();
    assert!(text.contains("E410: struct table"), "{text}");
    assert!(!text.contains("E410: struct entry"), "{text}");

    let write = |name: &str, text: &str| {
        let path = pair.folder.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    let handles =
        "#include <mvedsua.h>\nMVEDSUA_HANDLES(struct entry);\nMVEDSUA_HANDLES(struct table);\n";
    let cases = [
        (
            "E412",
            "table: ",
            "int mvedsua_transform(void) { return 0; }",
        ),
        (
            "E413",
            "it uses system",
            "int system(const char *); int mvedsua_transform(void) { NEW(table) = (struct new_table){0}; return system(0); }",
        ),
        (
            "E414",
            "thread-local",
            "static __thread int x; int *y(void) { return &x; } int mvedsua_transform(void) { return 0; }",
        ),
        (
            "E415",
            "old_nothing",
            "int mvedsua_transform(void) { return old_nothing(); }",
        ),
        (
            "E413",
            "it uses mvedsua_transform",
            "int other(void) { return 0; }",
        ),
    ];
    for (index, (code, says, body)) in cases.into_iter().enumerate() {
        let path = write(&format!("wrong{index}.c"), &format!("{handles}{body}\n"));
        let text = refused(&pair, path).to_string();
        assert!(
            text.contains(code) && text.contains(says),
            "{code} {says}: {text}"
        );
    }

    let other = Pair::new(&["types.c"], &["-DCASE=1"]);
    let stale = header(&other.options()).expect("comparable");
    let path = write(
        "stale.c",
        &(stale + "\nint mvedsua_transform(void) { return 0; }\n"),
    );
    let text = refused(&pair, path).to_string();
    assert!(
        text.contains("E414") && text.contains("other builds"),
        "{text}"
    );
}

#[test]
fn a_thread_local_variable_that_has_to_do_with_a_changed_type_is_refused_by_name() {
    let transform = Some(sources().join("perthread_transform.toml"));
    let cases: [(&[&str], bool, &str, &str); 5] = [
        (
            &[],
            false,
            "E417",
            "mine (perthread.c): this thread-local variable leads to item",
        ),
        (&[], true, "", ""),
        (&["-fno-pie"], false, "E417", "mine (perthread.c): this"),
        (
            &["-DHELD"],
            true,
            "E412",
            "held (perthread.c): this thread-local variable was struct item",
        ),
        (
            &["-DWIDER"],
            true,
            "E412",
            "rest (perthread.c): this thread-local variable was",
        ),
    ];
    for (flags, keep, code, says) in cases {
        let mut pair = Pair::new(&["perthread.c"], flags);
        pair.transform = transform.clone();
        let keep = if keep {
            vec!["mine".to_owned()]
        } else {
            Vec::new()
        };
        let options = BuildOptions {
            keep_values: keep.into_iter().collect(),
            ..pair.options()
        };
        match build(&options) {
            Ok(_) => assert_eq!(code, "", "{flags:?}"),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    !code.is_empty() && text.contains(code) && text.contains(says),
                    "{flags:?}: {text}"
                );
            }
        }
    }
}

#[test]
fn an_object_of_another_compiler_is_taken_through_the_same_abi() {
    let mut pair = Pair::new(&["store.c"], &[]);
    let object = pair.folder.path().join("transform.o");
    let status = Command::new("rustc")
        .current_dir(sources())
        .args([
            "--crate-type",
            "lib",
            "--emit",
            "obj",
            "--edition",
            "2024",
            "-O",
        ])
        .args(["-C", "panic=abort", "-C", "relocation-model=pic"])
        .args(["-C", "overflow-checks=off", "store_transform.rs", "-o"])
        .arg(&object)
        .status()
        .expect("rustc is installed");
    assert!(status.success());
    pair.transform = Some(object);
    let mut running = pair.start();
    running.ask("fill 1000");
    assert_eq!(running.apply(&pair.bundle()), "APPLIED");
    assert_eq!(running.ask("get 7"), "v49 type 1 reads 1");
    assert_eq!(
        running.ask("sum"),
        "1000 entries sum 499500 used 1000 latest 999 changes 1"
    );
}
