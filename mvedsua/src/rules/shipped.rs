//! The shipped rule files check, pass their own tests, and are formatted.

use std::path::{Path, PathBuf};

use super::diagnostic::Code;
use super::lexer::{Number, TokenKind, lex};
use super::source::FileId;
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

/// The text with its numbers written in another base each.
fn in_other_bases(text: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    for (n, token) in lex(FileId(0), text).tokens.iter().enumerate() {
        let TokenKind::Int(number) = &token.kind else {
            continue;
        };
        out.push_str(&text[at..token.span.start as usize]);
        let value = number.value;
        out.push_str(&match n % 3 {
            0 => format!("0x{value:x}"),
            1 => format!("0o{value:o}"),
            _ => format!("{value}_"),
        });
        at = token.span.end as usize;
    }
    out + &text[at..]
}

#[test]
fn the_formatter_leaves_numbers_as_they_are_written() {
    let document = std::fs::read_to_string(root().join("docs/rules.md")).expect("readable");
    let tutorial = document.split("```rules\n").skip(1);
    let mut texts: Vec<String> = tutorial
        .filter_map(|block| Some(block.split("```").next()?.to_owned()))
        .collect();
    for file in shipped() {
        texts.push(std::fs::read_to_string(file).expect("readable"));
    }
    texts.push("messages fixed 16; parser p = fields a: 4, b: u8, c: rest; rule r within 8 calls within 50 ms: read(7, _) => read(7, _); test \"t\" { given { connection 5; after 20 ms; thread 2: read(7, \"a\"); } expect { thread 2: read(7, \"a\"); } }".into());
    let numbers = |text: &str| -> Vec<Number> {
        let tokens = lex(FileId(0), text).tokens.into_iter();
        tokens
            .filter_map(|token| match token.kind {
                TokenKind::Int(number) => Some(number),
                _ => None,
            })
            .collect()
    };
    let mut count = 0;
    for text in texts {
        let other = in_other_bases(&text);
        let once = tools::fmt("t", &other);
        assert!(once.ok, "{other}\n{}", once.text);
        let written = numbers(&other);
        assert_eq!(numbers(&once.text), written, "{}", once.text);
        assert_eq!(tools::fmt("t", &once.text).text, once.text);
        let values =
            |numbers: Vec<Number>| numbers.into_iter().map(|n| n.value).collect::<Vec<_>>();
        count += written.len();
        assert_eq!(values(written), values(numbers(&text)));
    }
    assert!(count >= 100, "only {count} numbers were found");
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
