use super::parse;
use crate::rules::ast::{ItemKind, Outcome, StatementKind};
use crate::rules::diagnostic::Code;
use crate::rules::source::FileId;

/// The three examples of the issue, as they stand.
pub(crate) const PAPER: &str = r#"
read(fd,s,_) {
  (cmd,typ,_,_) = parse$(s)
  return cmd == PUT && typ != NULL; } as r
                                    => r(fd, "bad-cmd", 7)
read(fd,s,n) {
  (cmd,typ,_,_) = parse$(s)
  return cmd == PUT && typ == NULL; } as r => r(fd,s,n) {
    (cmd,_key,val) = parse$(s);
    $(s) = "$cmd-string $key $val";
    $(n) += 7; }
read(.,_), write(., "500 Unknown command", _)
=> read(., "FOOBAR\r\n", 8), write(., "500 Unknown command", _)
"#;

#[test]
fn the_papers_examples_parse_as_they_stand() {
    let (file, diagnostics) = parse(FileId(0), PAPER);
    assert_eq!(diagnostics, []);
    assert_eq!(file.items.len(), 3);
    let ItemKind::Rule(second) = &file.items[1].kind else {
        panic!("not a rule")
    };
    let Outcome::Calls(calls) = &second.outcome else {
        panic!("not calls")
    };
    let body = calls[0].body.as_ref().expect("a body");
    assert_eq!(body.statements.len(), 3);
    assert!(matches!(
        &body.statements[2].kind,
        StatementKind::Assign {
            add: true,
            deref: true,
            ..
        }
    ));
    let ItemKind::Rule(third) = &file.items[2].kind else {
        panic!("not a rule")
    };
    assert_eq!(third.patterns.len(), 2);
}

#[test]
fn after_an_error_the_next_rule_is_still_read() {
    let text = "read(fd, => x\nwrite(fd, \"a\") => nothing\nread(3 4) => same;\nclose(_) => same\n";
    let (file, diagnostics) = parse(FileId(0), text);
    assert_eq!(diagnostics.len(), 2, "{diagnostics:?}");
    assert!(diagnostics.iter().all(|d| d.code == Code::SYNTAX));
    assert_eq!(file.items.len(), 2);
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for open in ["(", "!", "-", "$(", "x[", "f("] {
        let text = format!("const a = {}1", open.repeat(200_000));
        let (_, diagnostics) = parse(FileId(0), &text);
        assert!(
            diagnostics.iter().any(|d| d.code == Code::TOO_LARGE),
            "{open}"
        );
    }
    let text = format!("const a = 1{}", " + 1".repeat(200_000));
    assert!(!parse(FileId(0), &text).1.is_empty());
}

#[test]
fn comments_are_kept_with_what_they_stand_at() {
    let text = "// before\nread(fd, s) => nothing // after\n// last\n";
    let (file, diagnostics) = parse(FileId(0), text);
    assert_eq!(diagnostics, []);
    assert_eq!(file.items[0].trivia.leading, ["before"]);
    assert_eq!(file.items[0].trivia.trailing.as_deref(), Some("after"));
    assert_eq!(file.tail.leading, ["last"]);
}
