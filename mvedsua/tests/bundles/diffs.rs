//! What the comparison sees, sees through, and refuses.

use mvedsua::dsu::{BuildOptions, DsuError, TypeChangeKind, Why, analyse, build};

use super::victim::Pair;

fn names(pair: &Pair) -> Vec<String> {
    let mut names: Vec<String> = pair
        .analysis()
        .manifest
        .report
        .functions
        .into_iter()
        .map(|f| f.name)
        .collect();
    names.sort();
    names
}

fn types(case: u32) -> Pair {
    Pair::new(&["types.c"], &[&format!("-DCASE={case}")])
}

#[test]
fn only_what_changes_is_in() {
    let pair = Pair::new(&["basic.c"], &[]);
    assert_eq!(names(&pair), ["add", "answer", "remember (basic.c)"]);
    let report = pair.analysis().manifest.report;
    let remember = report
        .functions
        .iter()
        .find(|f| f.name.starts_with("remember"))
        .expect("it is new");
    assert_eq!(remember.why, Why::New);
    let add = report
        .functions
        .iter()
        .find(|f| f.name == "add")
        .expect("it changed");
    let Why::Changed {
        new_line: Some(line),
        ..
    } = &add.why
    else {
        panic!("{add:?}")
    };
    assert!(line.contains("basic.c:"), "{line}");
    let objects: Vec<_> = report.objects.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert!(
        objects.contains(&"largest") && objects.contains(&"history (basic.c)"),
        "{objects:?}"
    );
}

#[test]
fn statics_are_told_apart_by_file() {
    let pair = Pair::new(&["statics_a.c", "statics_b.c"], &[]);
    assert_eq!(names(&pair), ["bump (statics_a.c)"]);
}

#[test]
fn line_numbers_of_assertions_are_no_change() {
    for flags in [&[][..], &["-fno-pie"]] {
        let report = Pair::new(&["asserts.c"], flags).analysis().manifest.report;
        assert_eq!(report.functions, []);
        assert_eq!(report.lines_only.len(), 1, "{:?}", report.lines_only);
        assert!(
            report.lines_only[0].starts_with("half (asserts.c): "),
            "{:?}",
            report.lines_only
        );
    }
}

#[test]
fn a_grown_struct_is_refused_by_name() {
    let pair = types(1);
    assert!(
        pair.blockers()
            .contains(&("E410".into(), "struct entry".into())),
        "{:?}",
        pair.blockers()
    );
    let error = build(&pair.options()).expect_err("no transformer");
    assert!(
        matches!(error, DsuError::Blocked(_)) && error.to_string().contains("struct entry"),
        "{error}"
    );
    let accepted = BuildOptions {
        accept_types: ["struct entry".to_owned()].into(),
        ..pair.options()
    };
    assert!(build(&accepted).is_ok());
}

#[test]
fn a_moved_enumerator_is_refused() {
    assert_eq!(
        types(2).blockers(),
        [
            ("E411".to_owned(), "enum colour".to_owned()),
            ("E421".to_owned(), "colour".to_owned())
        ]
    );
}

#[test]
fn harmless_type_changes_are_only_told() {
    let pair = types(3);
    assert_eq!(pair.blockers(), []);
    let changes = pair.analysis().manifest.report.types;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(
        (changes[0].name.as_str(), changes[0].kind),
        ("enum colour", TypeChangeKind::NamesOnly)
    );
}

#[test]
fn a_global_of_another_type_is_refused() {
    assert_eq!(
        types(4).blockers(),
        [("E412".to_owned(), "limit".to_owned())]
    );
}

#[test]
fn another_initial_value_needs_a_decision() {
    let pair = types(5);
    assert_eq!(pair.blockers(), [("E421".to_owned(), "limit".to_owned())]);
    let kept = BuildOptions {
        keep_values: ["limit".to_owned()].into(),
        ..pair.options()
    };
    assert!(build(&kept).is_ok());
}

#[test]
fn a_new_thread_local_variable_is_refused() {
    for flags in [&["-DNEW_TLS"][..], &["-DNEW_TLS", "-fno-pie"]] {
        let blockers = Pair::new(&["tls.c"], flags).blockers();
        assert!(
            blockers.contains(&("E433".into(), "fresh".into())),
            "{blockers:?}"
        );
    }
}

#[test]
fn a_constant_that_moves_but_is_pointed_to_is_refused() {
    for flags in [&["-DGROW", "-DHELD"][..], &["-DGROW", "-DHELD", "-fno-pie"]] {
        let pair = Pair::new(&["constants.c"], flags);
        assert_eq!(pair.blockers(), [("E422".to_owned(), "words".to_owned())]);
    }
}

#[test]
fn a_virtual_table_that_grows_is_refused() {
    let blockers = Pair::new(&["rtti.cc"], &["-DGROW"]).blockers();
    assert!(
        blockers
            .iter()
            .any(|(code, symbol)| code == "E422" && symbol.contains("vtable")),
        "{blockers:?}"
    );
}

#[test]
fn the_same_build_twice_is_nothing_to_update() {
    let pair = Pair::new(&["basic.c"], &[]);
    let options = BuildOptions {
        new: pair.path(1),
        ..pair.options()
    };
    assert!(matches!(analyse(&options), Err(DsuError::SameBuild { .. })));
}

#[test]
fn a_file_that_is_no_program_is_refused() {
    let pair = Pair::new(&["basic.c"], &[]);
    let options = BuildOptions {
        new: super::victim::sources().join("basic.c"),
        ..pair.options()
    };
    assert_eq!(analyse(&options).expect_err("it is text").code(), "E401");
    let options = BuildOptions {
        new: pair.folder.path().join("absent"),
        ..pair.options()
    };
    assert_eq!(analyse(&options).expect_err("it is absent").code(), "E400");
}

#[test]
fn functions_on_the_stack_are_a_risk() {
    let pair = Pair::new(&["waits.c"], &["-pthread"]);
    let report = pair.analysis().manifest.report;
    let risky: Vec<_> = report
        .functions
        .iter()
        .filter(|f| f.risk != mvedsua::dsu::Risk::Low)
        .map(|f| f.name.as_str())
        .collect();
    assert_eq!(
        risky,
        ["worker (waits.c)", "wait_for_events.isra.0 (waits.c)"],
        "{}",
        report.text()
    );
}

#[test]
fn an_old_frame_that_calls_what_the_compiler_specialised_is_not_left() {
    let pair = Pair::new(&["clones.c"], &[]);
    let options = BuildOptions {
        control: [("answer".to_owned(), mvedsua::dsu::Control::Leave)].into(),
        ..pair.options()
    };
    let error = build(&options).expect_err("its callee has its own convention");
    let text = error.to_string();
    assert!(
        text.contains("E441: answer") && text.contains("sum.isra.0"),
        "{text}"
    );
}

#[test]
fn an_old_frame_that_loops_through_its_first_bytes_is_not_left() {
    let control = [("serve".to_owned(), mvedsua::dsu::Control::Leave)];
    for (flags, refused) in [("-Os", true), ("-O2", false)] {
        let pair = Pair::new(&["early.c"], &[flags, "-falign-loops=16"]);
        let options = BuildOptions {
            control: control.clone().into(),
            ..pair.options()
        };
        let text = build(&options).map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(text.contains("E441: serve"), refused, "{flags}: {text}");
        assert_eq!(
            text.contains("its own first bytes"),
            refused,
            "{flags}: {text}"
        );
    }
}

#[test]
fn an_old_frame_whose_jump_tables_lead_to_its_first_bytes_is_not_left() {
    let leads = "a jump table of it leads to its own first bytes";
    let unknown = "an indirect jump whose table was not found";
    for (function, flags, expected) in [
        ("serve", &["-Os", "-DFIRST"][..], Some(leads)),
        ("serve", &["-Os", "-DFIRST", "-fno-pie"], Some(leads)),
        ("serve", &["-Os"], None),
        ("serve", &["-Os", "-fno-pie"], None),
        ("offsets", &["-Os"], Some(unknown)),
        ("switched", &["-O2"], None),
        ("switched", &["-O2", "-fno-pie"], None),
    ] {
        let pair = Pair::new(&["labels.c"], flags);
        let options = BuildOptions {
            control: [(function.to_owned(), mvedsua::dsu::Control::Leave)].into(),
            ..pair.options()
        };
        let text = build(&options).map_or_else(|error| error.to_string(), |_| String::new());
        let blocker = format!("E445: {function}");
        match expected {
            Some(reason) => assert!(
                text.contains(&blocker) && text.contains(reason),
                "{function} {flags:?}: {text}"
            ),
            None => assert_eq!(text, "", "{function} {flags:?}"),
        }
    }
}

#[test]
fn a_library_that_only_the_new_build_has_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write("extra.c", "int extra(int x) { return x + 1; }");
    let program = "#include <stdio.h>\nint extra(int);\n__attribute__((noinline)) int work(int x) { static volatile int calls; calls += x; return WORK; }\nint main(int n, char **v) { (void)v; printf(\"%d\", work(n)); }";
    write("program.c", program);
    let gcc = |words: &[&str]| {
        let done = std::process::Command::new("gcc")
            .current_dir(folder.path())
            .args(["-g", "-O2", "-Wl,--build-id"])
            .args(words)
            .status();
        assert!(done.is_ok_and(|status| status.success()), "{words:?}");
    };
    gcc(&[
        "-shared",
        "-fPIC",
        "-Wl,-soname,libextra.so.1",
        "extra.c",
        "-o",
        "libextra.so",
    ]);
    gcc(&["-DWORK=x", "program.c", "-o", "old"]);
    gcc(&[
        "-DWORK=extra(x)",
        "program.c",
        "-o",
        "new",
        "-L.",
        "-lextra",
    ]);
    let options = BuildOptions {
        old: folder.path().join("old"),
        new: folder.path().join("new"),
        ..Pair::new(&["basic.c"], &[]).options()
    };
    let manifest = build(&options).expect("a bundle").manifest;
    let imports = &manifest.imports;
    assert_eq!(imports.len(), 1, "{imports:?}");
    assert_eq!(imports[0].library.as_deref(), Some("libextra.so.1"));
    let process = mvedsua::dsu::Placement::loaded(manifest.old.build_id.clone(), 1 << 40);
    let error = mvedsua::dsu::plan(&manifest, &process, 1 << 40, &|_| None)
        .expect_err("the process has no such library");
    assert!(error.to_string().contains("libextra.so.1"), "{error}");
}

#[test]
fn a_control_line_for_what_does_not_change_is_refused() {
    let pair = Pair::new(&["basic.c"], &[]);
    let options = BuildOptions {
        control: [("unchanged".to_owned(), mvedsua::dsu::Control::Leave)].into(),
        ..pair.options()
    };
    let error = build(&options).expect_err("it does not change");
    assert!(error.to_string().contains("E440: unchanged"), "{error}");
}

#[test]
fn another_order_of_linking_changes_nothing() {
    for flags in [&[][..], &["-fno-pie"]] {
        let forward = Pair::new(&["statics_a.c", "statics_b.c", "reporter.c"], flags);
        let backward = Pair::new(&["reporter.c", "statics_b.c", "statics_a.c"], flags);
        let options = BuildOptions {
            new: backward.path(1),
            ..forward.options()
        };
        let analysis = analyse(&options).expect("both can be compared");
        assert_eq!(analysis.blockers, []);
        let report = analysis.manifest.report;
        assert_eq!(report.functions, [], "{}", report.text());
        assert_eq!((report.compared, report.equal), (6, 6), "{}", report.text());
    }
}

#[test]
fn another_initial_value_of_a_thread_local_needs_a_decision() {
    let pair = Pair::new(&["tls.c"], &["-DOTHER_VALUE"]);
    assert_eq!(pair.blockers(), [("E421".to_owned(), "mine".to_owned())]);
    let kept = BuildOptions {
        keep_values: ["mine".to_owned()].into(),
        ..pair.options()
    };
    assert!(build(&kept).is_ok());
}
