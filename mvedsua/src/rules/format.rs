//! Syntax tree to text, in the one layout that `rules fmt` knows.

use super::ast::{
    Arg, ArgKind, Block, Direction, Expr, ExprKind, FieldKind, File, Framing, Item, ItemKind,
    Number, Outcome, ParserBody, Pattern, Repeat, Rule, Scope, StateScope, Statement,
    StatementKind, Template, TestLine, TestLineKind, TextPart, Trivia,
};
use super::parser::BINARY;

/// Longest line before a list of calls is broken.
const WIDTH: usize = 100;

/// The whole file as text.
#[must_use]
pub fn format(file: &File) -> String {
    let mut out = Writer {
        text: String::new(),
        indent: 0,
    };
    out.items(&file.items);
    out.comments(&file.tail);
    out.text
}

/// One rule as text, without its comments.
#[must_use]
pub fn format_rule(rule: &Rule) -> String {
    let mut out = Writer {
        text: String::new(),
        indent: 0,
    };
    out.rule(rule);
    out.text
}

/// One expression as text.
#[must_use]
pub fn format_expr(expr: &Expr) -> String {
    expr_text(expr, 0)
}

/// One call of a pattern as text.
#[must_use]
pub fn format_pattern(pattern: &Pattern) -> String {
    let mut out = Writer {
        text: String::new(),
        indent: 0,
    };
    out.pattern(pattern);
    out.text
}

/// One call of a pattern on one line: without its guard and its name in the rule.
#[must_use]
pub fn show_pattern(pattern: &Pattern) -> String {
    call_text(
        &pattern.call.text,
        Some(&pattern.args),
        pattern.repeat,
        pattern.result.as_ref(),
    )
}

/// One call that the follower is to make on one line: without its statements.
#[must_use]
pub fn show_template(template: &Template) -> String {
    let mut text = call_text(
        &template.call.text,
        template.args.as_deref(),
        template.repeat,
        template.result.as_ref(),
    );
    if template.pieces {
        text.push_str(" in pieces");
    }
    text
}

fn call_text(name: &str, args: Option<&[Arg]>, repeat: Repeat, result: Option<&Expr>) -> String {
    let mut text = name.to_owned();
    text.push_str(&args.map_or_else(String::new, args_text));
    text.push_str(repeat.sign());
    if let Some(result) = result {
        text.push_str(" = ");
        text.push_str(&expr_text(result, UNARY));
    }
    text
}

struct Writer {
    text: String,
    indent: usize,
}

impl Writer {
    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn line_start(&mut self) {
        self.text.push_str(&"    ".repeat(self.indent));
    }

    fn column(&self) -> usize {
        self.text.len() - self.text.rfind('\n').map_or(0, |at| at + 1)
    }

    fn comments(&mut self, trivia: &Trivia) {
        for comment in &trivia.leading {
            self.line_start();
            self.comment(comment);
            self.put("\n");
        }
    }

    fn comment(&mut self, comment: &str) {
        self.put("//");
        if !comment.is_empty() {
            self.put(" ");
            self.put(comment);
        }
    }

    fn trailing(&mut self, trivia: &Trivia) {
        if let Some(comment) = &trivia.trailing {
            self.put(" ");
            self.comment(comment);
        }
        self.put("\n");
    }

    fn items(&mut self, items: &[Item]) {
        let mut before: Option<&ItemKind> = None;
        for item in items {
            // Short declarations of one kind stand together, everything else apart.
            let together = before.is_some_and(|kind| {
                std::mem::discriminant(kind) == std::mem::discriminant(&item.kind)
                    && !matches!(
                        kind,
                        ItemKind::Rule(_) | ItemKind::Test(_) | ItemKind::Stage { .. }
                    )
                    && item.trivia.leading.is_empty()
            });
            if before.is_some() && !together {
                self.put("\n");
            }
            self.comments(&item.trivia);
            self.line_start();
            self.item(&item.kind);
            self.trailing(&item.trivia);
            before = Some(&item.kind);
        }
    }

    fn item(&mut self, kind: &ItemKind) {
        match kind {
            ItemKind::Include(path) => {
                self.put("include ");
                self.put(&literal(path.as_bytes()));
                self.put(";");
            }
            ItemKind::Const(name, value) => {
                self.put(&format!("const {} = {};", name.text, format_expr(value)));
            }
            ItemKind::State { scope, name, value } => {
                let scope = match scope {
                    StateScope::Connection => "connection",
                    StateScope::Service => "service",
                };
                self.put(&format!(
                    "state {scope} {} = {};",
                    name.text,
                    format_expr(value)
                ));
            }
            ItemKind::Parser(name, body) => {
                self.put(&format!("parser {} = {};", name.text, parser_text(body)));
            }
            ItemKind::Messages(framing, written) => {
                let text = match framing {
                    Framing::Delimited(end) if end == b"\n" => "line".to_owned(),
                    Framing::Delimited(end) => format!("line {}", literal(end)),
                    Framing::Fixed(bytes) => {
                        format!("fixed {}", as_written(*bytes, written.as_ref()))
                    }
                    Framing::Resp => "resp".to_owned(),
                };
                self.put(&format!("messages {text};"));
            }
            ItemKind::Ignore(ignore) => {
                self.put("ignore ");
                self.pattern(&ignore.pattern);
                self.put(" in ");
                for (i, field) in ignore.fields.iter().enumerate() {
                    self.put(if i > 0 { ", " } else { "" });
                    self.put(&field.name.text);
                    if let Some((regex, _)) = &field.regex {
                        self.put(" ");
                        self.put(&regex_text(regex));
                    }
                }
                self.put(";");
            }
            ItemKind::Stage {
                direction,
                items,
                tail,
            } => {
                self.put(direction.word());
                self.put(" {\n");
                self.indent += 1;
                self.items(items);
                self.comments(tail);
                self.indent -= 1;
                self.line_start();
                self.put("}");
            }
            ItemKind::Rule(rule) => self.rule(rule),
            ItemKind::Test(test) => {
                self.put(&format!("test {}", literal(test.name.as_bytes())));
                match test.direction {
                    Some(Direction::Forward) => self.put(" forward"),
                    Some(Direction::Reverse) => self.put(" reverse"),
                    None => {}
                }
                self.put(" {\n");
                self.indent += 1;
                self.test_lines("given", &test.given, &test.tails[0]);
                self.test_lines("expect", &test.expect, &test.tails[1]);
                self.indent -= 1;
                self.line_start();
                self.put("}");
            }
        }
    }

    fn test_lines(&mut self, word: &str, lines: &[TestLine], tail: &Trivia) {
        self.line_start();
        self.put(word);
        self.put(" {\n");
        self.indent += 1;
        for line in lines {
            self.comments(&line.trivia);
            self.line_start();
            match &line.kind {
                TestLineKind::Call(thread, template) => {
                    if let Some(thread) = thread {
                        self.put(&format!("thread {}: ", thread.written));
                    }
                    self.template(template);
                }
                TestLineKind::Connection(fd) => self.put(&format!("connection {}", fd.written)),
                TestLineKind::After(ms) => self.put(&format!("after {} ms", ms.written)),
                TestLineKind::Stop(true, why) => self.put(&format!("retry {}", format_expr(why))),
                TestLineKind::Stop(false, why) => {
                    self.put(&format!("terminate follower {}", format_expr(why)));
                }
                TestLineKind::Error(code) => self.put(&format!("error {code}")),
            }
            self.put(";");
            self.trailing(&line.trivia);
        }
        self.comments(tail);
        self.indent -= 1;
        self.line_start();
        self.put("}\n");
    }

    fn rule(&mut self, rule: &Rule) {
        if let Some(header) = &rule.header {
            self.put(&format!("rule {}", header.name.text));
            if header.reversible {
                self.put(" reversible");
            }
            match header.scope {
                Some(Scope::Fd) => self.put(" on fd"),
                Some(Scope::Thread) => self.put(" on thread"),
                None => {}
            }
            if let Some(calls) = &header.calls {
                self.put(&format!(" within {} calls", calls.written));
            }
            if let Some(ms) = &header.ms {
                self.put(&format!(" within {} ms", ms.written));
            }
            self.put(":\n");
            self.indent += 1;
            self.line_start();
            self.rule_body(rule);
            self.indent -= 1;
        } else {
            self.rule_body(rule);
        }
    }

    fn rule_body(&mut self, rule: &Rule) {
        let mut trial = Writer {
            text: " ".repeat(self.column()),
            indent: self.indent,
        };
        trial.sides(rule, false);
        let one_line = !trial.text.contains('\n') && trial.text.len() <= WIDTH;
        self.sides(rule, !one_line);
    }

    fn sides(&mut self, rule: &Rule, broken: bool) {
        for (i, pattern) in rule.patterns.iter().enumerate() {
            self.separate(i, broken);
            self.pattern(pattern);
        }
        if let Some(when) = &rule.when {
            self.break_or_space(broken);
            self.put("when ");
            self.put(&format_expr(when));
        }
        self.break_or_space(broken);
        self.put("=> ");
        match &rule.outcome {
            Outcome::Calls(calls) => {
                for (i, call) in calls.iter().enumerate() {
                    self.separate(i, broken);
                    self.template(call);
                }
            }
            Outcome::Nothing(body) => self.verdict("nothing", body.as_ref()),
            Outcome::Same(body) => self.verdict("same", body.as_ref()),
            Outcome::Tolerate(body) => self.verdict("tolerate", body.as_ref()),
            Outcome::Retry(why) => self.put(&format!("retry {}", format_expr(why))),
            Outcome::Terminate(why) => {
                self.put(&format!("terminate follower {}", format_expr(why)));
            }
            Outcome::Log(text) => self.put(&format!("log {}", format_expr(text))),
        }
        self.put(";");
    }

    fn separate(&mut self, i: usize, broken: bool) {
        if i > 0 {
            self.put(",");
            self.break_or_space(broken);
        }
    }

    fn break_or_space(&mut self, broken: bool) {
        if broken {
            self.put("\n");
            self.line_start();
            self.put("  ");
        } else {
            self.put(" ");
        }
    }

    fn verdict(&mut self, word: &str, body: Option<&Block>) {
        self.put(word);
        if let Some(body) = body {
            self.put(" ");
            self.block(body);
        }
    }

    fn pattern(&mut self, pattern: &Pattern) {
        self.put(&show_pattern(pattern));
        if let Some(guard) = &pattern.guard {
            self.put(" ");
            self.block(guard);
        }
        if let Some(alias) = &pattern.alias {
            self.put(&format!(" as {}", alias.text));
        }
    }

    fn template(&mut self, template: &Template) {
        self.put(&show_template(template));
        if let Some(body) = &template.body {
            self.put(" ");
            self.block(body);
        }
    }

    fn block(&mut self, block: &Block) {
        if block.statements.is_empty() && block.tail.leading.is_empty() {
            return self.put("{}");
        }
        self.put("{\n");
        self.indent += 1;
        for statement in &block.statements {
            self.comments(&statement.trivia);
            self.line_start();
            self.put(&statement_text(statement));
            self.put(";");
            self.trailing(&statement.trivia);
        }
        self.comments(&block.tail);
        self.indent -= 1;
        self.line_start();
        self.put("}");
    }
}

/// A number as it stood in the file, if it came from one.
fn as_written(value: u32, written: Option<&Number>) -> String {
    written.map_or_else(|| value.to_string(), |number| number.written.clone())
}

/// Binding power of a value without binary operators.
const UNARY: u8 = 10;

fn parser_text(body: &ParserBody) -> String {
    match body {
        ParserBody::Regex(regex, _) => regex_text(regex),
        ParserBody::Split(delimiter, names) => {
            let names: Vec<&str> = names.iter().map(|n| n.text.as_str()).collect();
            format!("split {} into {}", literal(delimiter), names.join(", "))
        }
        ParserBody::Fields(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| {
                    let kind = match &field.kind {
                        FieldKind::Bytes(n) => as_written(*n, field.written.as_ref()),
                        FieldKind::Number(1, _) => "u8".to_owned(),
                        FieldKind::Number(n, big) => {
                            format!("u{}{}", u32::from(*n) * 8, if *big { "be" } else { "le" })
                        }
                        FieldKind::Rest => "rest".to_owned(),
                    };
                    format!("{}: {kind}", field.name.text)
                })
                .collect();
            format!("fields {}", fields.join(", "))
        }
    }
}

fn statement_text(statement: &Statement) -> String {
    match &statement.kind {
        StatementKind::Take(names, value) => {
            let names: Vec<&str> = names
                .iter()
                .map(|n| n.as_ref().map_or("_", |n| n.text.as_str()))
                .collect();
            format!("({}) = {}", names.join(", "), format_expr(value))
        }
        StatementKind::Assign {
            name,
            add,
            deref,
            value,
        } => {
            let target = if *deref {
                format!("$({})", name.text)
            } else {
                name.text.clone()
            };
            format!(
                "{target} {} {}",
                if *add { "+=" } else { "=" },
                format_expr(value)
            )
        }
        StatementKind::Return(value) => format!("return {}", format_expr(value)),
        StatementKind::Log(value) => format!("log {}", format_expr(value)),
    }
}

fn args_text(args: &[Arg]) -> String {
    let args: Vec<String> = args
        .iter()
        .map(|arg| {
            let label = arg
                .label
                .as_ref()
                .map_or(String::new(), |l| format!("{}: ", l.text));
            let value = match &arg.kind {
                ArgKind::Any => "_".to_owned(),
                ArgKind::SameFd => ".".to_owned(),
                ArgKind::Value(expr) => format_expr(expr),
            };
            format!("{label}{value}")
        })
        .collect();
    format!("({})", args.join(", "))
}

fn expr_text(expr: &Expr, least: u8) -> String {
    match &expr.kind {
        ExprKind::Int(number) => number.written.clone(),
        ExprKind::Text(parts) => text_text(parts),
        ExprKind::Regex(regex) => regex_text(regex),
        ExprKind::Name(name) => name.clone(),
        ExprKind::Deref(inner) => format!("$({})", format_expr(inner)),
        ExprKind::Call(name, dollar, args) => {
            let args: Vec<String> = args.iter().map(format_expr).collect();
            format!(
                "{}{}({})",
                name.text,
                if *dollar { "$" } else { "" },
                args.join(", ")
            )
        }
        ExprKind::Unary(op, inner) => {
            // `--1` would be read as a number again, and `-(1)` is one already.
            let inner_text = expr_text(inner, UNARY);
            if *op == "-" && inner_text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
                format!("-({inner_text})")
            } else {
                format!("{op}{inner_text}")
            }
        }
        ExprKind::Binary(op, left, right) => {
            let level = BINARY
                .iter()
                .find(|(o, _)| o == op)
                .map_or(0, |(_, level)| *level);
            let text = format!(
                "{} {op} {}",
                expr_text(left, level - 1),
                expr_text(right, level)
            );
            if level <= least {
                format!("({text})")
            } else {
                text
            }
        }
        ExprKind::Slice(inner, from, to) => {
            let side = |e: &Option<Box<Expr>>| e.as_ref().map_or(String::new(), |e| format_expr(e));
            let text = expr_text(inner, UNARY);
            let simple = matches!(
                inner.kind,
                ExprKind::Name(_)
                    | ExprKind::Text(_)
                    | ExprKind::Call(..)
                    | ExprKind::Slice(..)
                    | ExprKind::Deref(_)
            );
            let text = if simple || text.starts_with('(') {
                text
            } else {
                format!("({text})")
            };
            format!("{text}[{}..{}]", side(from), side(to))
        }
    }
}

fn regex_text(regex: &str) -> String {
    format!("/{}/", regex.replace('/', "\\/"))
}

/// A text literal without holes.
#[must_use]
pub fn literal(bytes: &[u8]) -> String {
    text_text(&[TextPart::Literal(bytes.to_vec())])
}

fn text_text(parts: &[TextPart]) -> String {
    let mut out = String::from("\"");
    for (i, part) in parts.iter().enumerate() {
        match part {
            TextPart::Hole(name) => {
                let glued = matches!(parts.get(i + 1), Some(TextPart::Literal(next))
                    if next.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_'));
                out.push_str(&if glued {
                    format!("${{{name}}}")
                } else {
                    format!("${name}")
                });
            }
            TextPart::Literal(bytes) => {
                for chunk in bytes.utf8_chunks() {
                    for (at, c) in chunk.valid().char_indices() {
                        let next = chunk.valid()[at + c.len_utf8()..].chars().next();
                        escape(
                            &mut out,
                            c,
                            next.is_some_and(|n| !n.is_ascii_alphabetic() && n != '_' && n != '{'),
                        );
                    }
                    for byte in chunk.invalid() {
                        out.push_str(&format!("\\x{byte:02x}"));
                    }
                }
            }
        }
    }
    out.push('"');
    out
}

fn escape(out: &mut String, c: char, dollar_is_plain: bool) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0' => out.push_str("\\0"),
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '$' if !dollar_is_plain => out.push_str("\\$"),
        c if c.is_control() => {
            for byte in c.to_string().bytes() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::format;
    use crate::rules::parser::parse;
    use crate::rules::source::FileId;

    #[test]
    fn a_formatted_file_is_stable_and_means_the_same() {
        let text = "// c\nconst A=-(1)+2*(3+4);\nparser p$ = /a\\/(?<x>b)/ ; state connection f=false\nforward{read(fd,s[1..2])*=-1 EINTR{return !(a==b)&&c}as r when (a+b)*2>3=>r{x=\"${a}b$c $3 \\$d\\xff\"// t\n},nothing_(1:2)\n}\n";
        let text = text.replace("1:2", "a:2");
        let (tree, diagnostics) = parse(FileId(0), &text);
        assert_eq!(diagnostics, []);
        let once = format(&tree);
        let (again, diagnostics) = parse(FileId(0), &once);
        assert_eq!(diagnostics, [], "{once}");
        assert_eq!(again, tree, "{once}");
        assert_eq!(format(&again), once);
        assert!(once.contains("// c\n") && once.contains("// t\n"), "{once}");
    }
}
