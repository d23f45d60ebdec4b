//! The shipped rule files check, pass their own tests, and are formatted.

use std::path::{Path, PathBuf};

use super::diagnostic::Code;
use super::tools;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn shipped() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(root().join("rules")).expect("the folder of rules") {
        for file in std::fs::read_dir(folder.expect("a folder").path()).expect("a folder") {
            files.push(file.expect("a file").path());
        }
    }
    files.sort();
    files
}

#[test]
fn shipped_rules_check_and_pass_their_tests() {
    let mut cases = 0;
    for file in shipped() {
        let report = tools::test(tools::load_file(&file).expect("readable"));
        assert!(report.ok, "{}:\n{}", file.display(), report.text);
        cases += report.text.matches("\nok").count() + usize::from(report.text.starts_with("ok"));
    }
    assert!(cases >= 15, "only {cases} cases were found");
}

#[test]
fn shipped_rules_mean_the_same_in_one_text() {
    for file in shipped() {
        let loaded = tools::load_file(&file).expect("readable");
        let flat = super::loader::load_text("flat", &tools::flatten(&loaded));
        let report = tools::test(flat);
        assert!(report.ok, "{}:\n{}", file.display(), report.text);
        assert_eq!(report.text, tools::test(loaded).text);
    }
}

#[test]
fn shipped_rules_are_formatted() {
    for file in shipped() {
        let text = std::fs::read_to_string(&file).expect("readable");
        let report = tools::fmt(&file.display().to_string(), &text);
        assert!(
            report.ok && report.text == text,
            "run `mvedsua rules fmt {}`",
            file.display()
        );
    }
}

#[test]
fn each_code_is_documented() {
    let document = std::fs::read_to_string(root().join("docs/errors.md")).expect("readable");
    for code in Code::ALL {
        assert!(
            document.contains(&format!("| {code} |")),
            "{code} is not in docs/errors.md"
        );
    }
}

#[test]
fn the_tutorials_examples_hold() {
    let document = std::fs::read_to_string(root().join("docs/rules.md")).expect("readable");
    let mut count = 0;
    for block in document.split("```rules\n").skip(1) {
        let text = block.split("```").next().unwrap_or_default();
        let report = tools::test(super::loader::load_text("docs/rules.md", text));
        assert!(report.ok, "{text}\n{}", report.text);
        count += 1;
    }
    assert!(count >= 5, "only {count} examples were found");
}
