//! Any bytes as a rule file: nothing panics, every diagnostic can be shown, and what parses comes back the
//! same from the formatter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvedsua::rules::diagnostic::has_errors;
use mvedsua::rules::format::format;
use mvedsua::rules::loader::load_text;
use mvedsua::rules::parser::parse;
use mvedsua::rules::source::FileId;
use mvedsua::rules::tools;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let loaded = load_text("fuzz", &text);
    let _ = loaded.render();
    let _ = tools::explain(&loaded);
    let (tree, diagnostics) = parse(FileId(0), &text);
    if has_errors(&diagnostics) {
        assert!(
            loaded.rules.is_none(),
            "a file with syntax errors was accepted"
        );
        return;
    }
    let formatted = format(&tree);
    let (again, diagnostics) = parse(FileId(0), &formatted);
    assert!(
        !has_errors(&diagnostics),
        "the formatter's output does not parse:\n{formatted}"
    );
    assert_eq!(
        tree, again,
        "the formatter changed what the file says:\n{formatted}"
    );
    assert_eq!(format(&again), formatted, "the formatter has two layouts");
    if let Some(rules) = loaded.rules {
        // Cases beside the rules run or fail; they do not hang or panic.
        if rules.tests.len() < 20 {
            let _ = tools::test(load_text("fuzz", &text));
        }
    }
});
