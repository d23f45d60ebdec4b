//! Every stable error code is documented, and every documented one exists.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex_lite::Regex;

use super::{File, Finding};

const DOCUMENT: &str = "docs/errors.md";

static CODE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\bE[0-9]{3}\b").expect("a constant pattern"));

/// Compares the codes in the sources of `mvedsua` with those in `docs/errors.md`.
pub fn check(files: &[File]) -> Vec<Finding> {
    let source = codes(files, |file| {
        file.is_rust() && file.path.starts_with("mvedsua")
    });
    let document = codes(files, |file| file.path == DOCUMENT);
    let undocumented = source
        .iter()
        .filter(|(code, _)| !document.contains_key(*code))
        .map(|(code, place)| {
            at(
                place,
                format!("{code} is not in {DOCUMENT}"),
                "describe it there: what it means and what to do next",
            )
        });
    let unknown = document
        .iter()
        .filter(|(code, _)| !source.contains_key(*code))
        .map(|(code, place)| {
            at(
                place,
                format!("{code} is in no source file"),
                "remove it, or return it where it belongs",
            )
        });
    undocumented.chain(unknown).collect()
}

fn at((file, line): &(String, usize), what: String, remedy: &'static str) -> Finding {
    Finding {
        file: file.clone(),
        line: *line,
        what,
        remedy,
    }
}

/// The codes in the chosen files, with the first place of each.
fn codes(files: &[File], chosen: impl Fn(&File) -> bool) -> BTreeMap<String, (String, usize)> {
    let mut codes = BTreeMap::new();
    for file in files.iter().filter(|file| chosen(file)) {
        for (number, line) in file.text.lines().enumerate() {
            for code in CODE.find_iter(line) {
                codes
                    .entry(code.as_str().to_owned())
                    .or_insert((file.path.clone(), number + 1));
            }
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn source_and_document_must_agree() {
        let files = [
            file(
                "mvedsua/src/a.rs",
                "x\nrefused(\"E101\")\nrefused(\"E102\") // SE100 E1000\n",
            ),
            file(DOCUMENT, "## E101\n## E103\n"),
            file("xtask/src/a.rs", "\"E104\""),
        ];
        let found: Vec<_> = check(&files)
            .into_iter()
            .map(|f| (f.file, f.line))
            .collect();
        assert_eq!(
            found,
            [("mvedsua/src/a.rs".to_owned(), 3), (DOCUMENT.to_owned(), 2)]
        );
    }
}
