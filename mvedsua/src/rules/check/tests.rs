use crate::rules::diagnostic::{Code, Severity};
use crate::rules::loader::load_text;

#[track_caller]
fn codes(text: &str) -> Vec<Code> {
    let loaded = load_text("t.rules", text);
    assert_eq!(
        loaded.rules.is_none(),
        loaded
            .diagnostics
            .iter()
            .any(|d| d.severity == Severity::Error),
        "{}",
        loaded.render()
    );
    loaded.diagnostics.iter().map(|d| d.code).collect()
}

#[test]
fn each_mistake_has_its_code() {
    let cases: &[(&str, Code)] = &[
        ("raed(fd) => nothing", Code::UNKNOWN_CALL),
        ("mmap(_) => nothing", Code::NEVER_RECORDED),
        ("close(1, 2) => nothing", Code::ARGUMENTS),
        ("close(fdd: 2) => nothing", Code::ARGUMENTS),
        ("close(fd: 1, fd: 2) => nothing", Code::DUPLICATE),
        ("read(fd, s) when x == 1 => nothing", Code::UNKNOWN_NAME),
        ("read(fd, s) when s == 1 => nothing", Code::TYPE),
        ("read(fd, s) when fd => nothing", Code::TYPE),
        ("read(fd, .) => nothing", Code::BAD_PATTERN),
        ("read(fd, /(/) => nothing", Code::REGEX),
        ("read(fd, \"$a$b\") => nothing", Code::BAD_PATTERN),
        ("read(fd, s) { x = 1; } => nothing", Code::BAD_STATEMENT),
        (
            "state service x = 1; read(fd, s) { x = 2; return true; } => nothing",
            Code::BAD_STATEMENT,
        ),
        ("read(fd, s) => same { return true; }", Code::BAD_STATEMENT),
        ("request(fd, s) => nothing", Code::MESSAGES),
        (
            "messages line; request(fd, s), close(fd) => nothing",
            Code::MESSAGES,
        ),
        (
            "messages line; request(fd, s) => reply(fd, \"x\")",
            Code::BAD_PATTERN,
        ),
        ("close(fd) as c => getpid(), c", Code::NEEDS_RESULT),
        (
            "close(fd) as c => getrandom(_, _, 0) = 16, c",
            Code::NEEDS_RESULT,
        ),
        (
            "rule r reversible: read(fd, s) => read(fd, lower(s))",
            Code::NOT_REVERSIBLE,
        ),
        (
            "rule r reversible: read(fd, \"a $x\") => read(fd, \"b\")",
            Code::NOT_REVERSIBLE,
        ),
        ("rule r within 0 calls: read(fd, s) => nothing", Code::LIMIT),
        (
            "rule r within 60000 ms: read(fd, s) => nothing",
            Code::LIMIT,
        ),
        ("read(fd, _)* => nothing", Code::BAD_PATTERN),
        (
            "const a = 1; const a = 2; read(a, _) => nothing",
            Code::DUPLICATE,
        ),
        (
            "parser p = /x/; read(fd, s) when p(s) == \"\" => nothing",
            Code::REGEX,
        ),
        ("include \"x\";", Code::INCLUDE),
    ];
    for (text, code) in cases {
        assert!(
            codes(text).contains(code),
            "{text}: {}",
            load_text("t", text).render()
        );
    }
}

#[test]
fn lints_do_not_refuse() {
    let cases: &[(&str, Code)] = &[
        (
            "read(fd, s) => nothing; read(4, \"x\") => nothing",
            Code::SHADOWED,
        ),
        (
            "write(_, \"ab\", _) => nothing; write(_, \"abc\") => nothing",
            Code::SHADOWED,
        ),
        ("read(fd, s) { return false; } => nothing", Code::NEVER_TRUE),
        (r#"write(fd, "x") = EPIPE => nothing"#, Code::NEVER_TRUE),
        ("const a = 1;", Code::UNUSED),
    ];
    for (text, code) in cases {
        assert_eq!(codes(text), [*code], "{text}");
    }
    assert_eq!(
        codes("write(_, \"abc\") => nothing; write(_, \"ab\", _) => nothing"),
        []
    );
    assert_eq!(
        codes("read(a, _) when a == 3 => nothing; read(4, \"x\") => nothing"),
        []
    );
}

#[test]
fn the_papers_examples_check_with_their_lints() {
    let parser =
        "parser parse$ = /^(?<cmd>\\w+)(?:-(?<typ>\\w+))?(?: (?<key>\\w+) (?<val>.*\\n))?/;";
    let loaded = load_text(
        "paper.rules",
        &format!("{parser}{}", crate::rules::parser::tests::PAPER),
    );
    let codes: Vec<Code> = loaded.diagnostics.iter().map(|d| d.code).collect();
    assert!(loaded.rules.is_some(), "{}", loaded.render());
    assert_eq!(
        codes,
        [
            Code::BARE_WORD,
            Code::BARE_WORD,
            Code::BY_NAME,
            Code::UNDERSCORE
        ],
        "{}",
        loaded.render()
    );
}

#[test]
fn a_slip_of_the_hand_is_shown_with_what_was_meant() {
    let text = load_text("t.rules", "// x\nraed(fd, s) => nothing\n").render();
    assert_eq!(
        text,
        "error[E310]: there is no system call `raed`\n --> t.rules:2:1\n  |\n2 | raed(fd, s) => nothing\n  | ^^^^\n  = help: did you mean `read`?\n"
    );
}
