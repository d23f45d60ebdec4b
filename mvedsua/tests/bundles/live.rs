//! The bundle is applied to a running process of the old version.

use super::victim::Pair;
use mvedsua::dsu::{BuildOptions, Bundle, DsuError, build};

const FIXED: [&str; 1] = ["-fno-pie"];

/// What a process started as version 2 would be told and answer, given the state of version 1.
fn check(pair: &Pair, before: &[(&str, &str)], after: &[(&str, &str)]) {
    check_bundle(pair, &pair.bundle(), before, after);
}

fn check_bundle(pair: &Pair, bundle: &Bundle, before: &[(&str, &str)], after: &[(&str, &str)]) {
    let mut running = pair.start();
    for (line, answer) in before {
        assert_eq!(running.ask(line), *answer, "before the update");
    }
    assert_eq!(running.apply(bundle), "APPLIED");
    for (line, answer) in after {
        assert_eq!(running.ask(line), *answer, "after the update");
    }
}

fn basic(flags: &[&str]) {
    check(
        &Pair::new(&["basic.c"], flags),
        &[
            ("5", "old: total 5 calls 1 other 4"),
            ("6", "old: total 11 calls 2 other 5"),
        ],
        &[
            ("7", "new: total 18 calls 3 other 6 largest 7 before -1"),
            ("1", "new: total 19 calls 4 other 7 largest 7 before 7"),
        ],
    );
}

#[test]
fn a_changed_function_a_new_one_and_new_data() {
    basic(&[]);
}

#[test]
fn a_fixed_address_build() {
    basic(&FIXED);
}

#[test]
fn statics_of_the_same_name_in_two_files() {
    for flags in [&[][..], &FIXED] {
        check(
            &Pair::new(&["statics_a.c", "statics_b.c"], flags),
            &[("1", "1101 2151"), ("1", "1202 2252")],
            &[("1", "13003 2353"), ("2", "15004 2554")],
        );
    }
}

#[test]
fn statics_of_the_same_name_in_blocks_of_a_function() {
    let in_order = |pair: &Pair| BuildOptions {
        in_order: ["answer".to_owned()].into(),
        ..pair.options()
    };
    let refused = |options: &BuildOptions| {
        let error = build(options).expect_err("nothing tells which is which");
        matches!(&error, DsuError::Blocked(all) if all.iter().any(|blocker| blocker.code == "E436"))
    };
    for flags in [&[][..], &FIXED] {
        let pair = Pair::new(&["blocks.c"], flags);
        assert!(refused(&pair.options()));
        let bundle = build(&in_order(&pair)).expect("they are the same in their order");
        check_bundle(
            &pair,
            &bundle,
            &[("2", "old: even 102"), ("3", "old: odd 203")],
            &[("4", "new: even 106"), ("5", "new: odd 208")],
        );
    }
    // One more: which of the three is which is not known.
    assert!(refused(&in_order(&Pair::new(&["blocks.c"], &["-DMORE"]))));
}

#[test]
fn jump_tables() {
    for flags in [&[][..], &FIXED] {
        check(
            &Pair::new(&["tables.c"], flags),
            &[
                ("0", "a zero 1 0 0"),
                ("1", "b b one 1 2 0"),
                ("8", "? x many 1 2 0"),
            ],
            &[
                ("8", "eight x many 1000 2 0"),
                ("9", "x many 1000 2000 0"),
                ("5", "sum f five 1000 2000 3000"),
                ("77", "? x many 1000 2000 3000"),
            ],
        );
    }
}

#[test]
fn cpp_classes_without_linkage_stay_the_same_classes() {
    check(
        &Pair::new(&["rtti.cc"], &[]),
        &[("2", "4"), ("-1", "refused: negative")],
        &[
            ("3", "26"),
            ("-1", "refused: negative"),
            ("101", "refused: too large"),
            ("1", "28"),
        ],
    );
}

#[test]
fn a_cold_part() {
    let pair = Pair::new(&["cold.c"], &["-freorder-functions"]);
    let redirects = pair.bundle().manifest.redirects;
    assert!(
        redirects
            .iter()
            .any(|r| r.name == "work" && !r.old_parts.is_empty()),
        "gcc has split it: {redirects:?}"
    );
    check(
        &pair,
        &[("-3", "negative -3 failures 1 = 6")],
        &[
            ("5000", "large 5000 failures 2 = 2000"),
            ("-2", "negative -2 failures 3 = 4"),
            ("4", "= 8"),
        ],
    );
}

#[test]
fn thread_local_variables_stay() {
    for flags in [&[][..], &FIXED] {
        check(
            &Pair::new(&["tls.c"], flags),
            &[("1", "8 1")],
            &[("2", "10 11"), ("3", "13 21")],
        );
    }
}

#[test]
fn function_pointers_lead_to_the_new_code_and_stay_equal() {
    for flags in [&[][..], &FIXED] {
        check(
            &Pair::new(&["pointers.c"], flags),
            &[("3", "6 6 square 9 1")],
            &[("3", "60 60 square 9 2")],
        );
    }
}

#[test]
fn a_new_import_is_found_in_the_library() {
    for flags in [&[][..], &FIXED, &["-fno-plt"]] {
        let pair = Pair::new(&["imports.c"], flags);
        let imports = pair.bundle().manifest.imports;
        assert_eq!(imports.len(), 1, "{imports:?}");
        assert_eq!(
            (imports[0].symbol.as_str(), imports[0].library.as_deref()),
            ("getpagesize", Some("libc.so.6"))
        );
        assert_eq!(imports[0].version.as_deref(), Some("GLIBC_2.2.5"));
        check(&pair, &[("3", "3")], &[("3", "3 page 4096")]);
    }
}

#[test]
fn constants_change_in_place_or_move_with_their_users() {
    for flags in [&[][..], &FIXED] {
        check(
            &Pair::new(&["constants.c"], flags),
            &[("3", "7 ? null 4 bert")],
            &[("3", "8 ? null 2 another")],
        );
    }
    for flags in [&["-DGROW"][..], &["-DGROW", "-fno-pie"]] {
        let pair = Pair::new(&["constants.c"], flags);
        check(
            &pair,
            &[("3", "7 ? null 4 bert")],
            &[
                ("3", "8 drei null 2 another"),
                ("1", "3 eins null 0 another"),
            ],
        );
        let report = pair.bundle().manifest.report.text();
        assert!(
            report.contains("unchanged, but uses words, which has moved"),
            "{report}"
        );
    }
}

#[test]
fn ends_of_arrays_and_unnamed_constants() {
    for flags in [&[][..], &FIXED] {
        check(
            &Pair::new(&["arrays.c"], flags),
            &[("5", "5 saturday 5.625"), ("1", "6 tuesday 1.125")],
            &[("5", "22 caturday 5.625"), ("6", "34 sunday 6.750")],
        );
    }
}

#[test]
fn cpp_with_exceptions_through_new_code() {
    check(
        &Pair::new(&["shapes.cc"], &[]),
        &[("3", "9 2 4"), ("200", "40009 2 4")],
        &[
            ("4", "caught too large: 200"),
            ("5", "caught too large: 200"),
        ],
    );
}

#[test]
fn forth_and_back_and_forth_on_one_process() {
    for flags in [&[][..], &FIXED] {
        let pair = Pair::new(&["basic.c"], flags);
        let (forth, back) = (pair.bundle(), pair.way_back());
        let mut running = pair.start();
        assert_eq!(running.ask("5"), "old: total 5 calls 1 other 4");
        assert_eq!(running.apply(&forth), "APPLIED");
        assert_eq!(
            running.ask("6"),
            "new: total 11 calls 2 other 5 largest 6 before -1"
        );
        assert_eq!(running.apply(&back), "APPLIED");
        assert_eq!(running.ask("7"), "old: total 18 calls 3 other 6");
        assert_eq!(running.apply(&forth), "APPLIED");
        assert_eq!(
            running.ask("8"),
            "new: total 26 calls 4 other 7 largest 8 before -1"
        );
        assert_eq!(running.apply(&back), "APPLIED");
        assert_eq!(running.ask("1"), "old: total 27 calls 5 other 8");
    }
}

#[test]
fn a_process_with_other_bytes_at_an_entry_is_refused() {
    let pair = Pair::new(&["basic.c"], &[]);
    let mut bundle = pair.bundle();
    bundle.manifest.redirects[0].expected[0] ^= 1;
    let mut running = pair.start();
    assert_eq!(running.ask("5"), "old: total 5 calls 1 other 4");
    let answer = running.apply(&bundle);
    assert!(answer.starts_with("PLAN FAILED expect"), "{answer}");
}

#[test]
fn changed_constants_go_forth_and_back() {
    for flags in [&[][..], &FIXED] {
        let pair = Pair::new(&["constants.c"], flags);
        let (forth, back) = (pair.bundle(), pair.way_back());
        let mut running = pair.start();
        assert_eq!(running.ask("3"), "7 ? null 4 bert");
        for _ in 0..2 {
            assert_eq!(running.apply(&forth), "APPLIED");
            assert_eq!(running.ask("3"), "8 ? null 2 another");
            assert_eq!(running.apply(&back), "APPLIED");
            assert_eq!(running.ask("3"), "7 ? null 4 bert");
        }
    }
}

#[test]
fn exceptions_still_pass_after_forth_back_and_forth() {
    let pair = Pair::new(&["shapes.cc"], &[]);
    let (forth, back) = (pair.bundle(), pair.way_back());
    let mut running = pair.start();
    assert_eq!(running.ask("200"), "40000 2 4");
    assert_eq!(running.apply(&forth), "APPLIED");
    assert_eq!(running.ask("5"), "caught too large: 200");
    assert_eq!(running.apply(&back), "APPLIED");
    assert_eq!(running.ask("1"), "40001 2 4");
    assert_eq!(running.apply(&forth), "APPLIED");
    assert_eq!(running.ask("5"), "caught too large: 200");
}

#[test]
fn a_rust_program_with_panics_through_new_code() {
    let pair = Pair::rust("counter.rs");
    check(
        &pair,
        &[("add 5", "ok 1"), ("add 6", "ok 2"), ("fail", "bad")],
        &[
            ("add 7", "3 numbers, sum 18"),
            ("get", "[5, 6, 7]"),
            ("fail", "caught: no such command: fail"),
            ("add 1", "4 numbers, sum 19"),
        ],
    );
}
