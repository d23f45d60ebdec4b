//! The checker: syntax trees to a [`RuleSet`], or located errors.
//!
//! Names are resolved against the file, the syscall table and the built-ins; types are inferred
//! from where a variable is bound; what can never apply is found.

mod expr;
mod reverse;
mod rule;
mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::ast::{
    Direction, ExprKind, FieldKind, File, Framing, Ignore, Item, ItemKind, Name, ParserBody,
    StateScope, TextPart,
};
use super::diagnostic::{Code, Diagnostic};
use super::names::{Signature, Slot};
use super::program::{MAX_RULES, Noise, Parser, ParserCode, RuleSet, State, Subject};
use super::source::{SourceMap, Span};
use super::value::{Type, Value};

/// Largest compiled regular expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// The construct was refused; the diagnostic has been noted.
pub(super) struct Refused;

type Checked<T> = Result<T, Refused>;

/// Checks files that were parsed, in order. The set is there only when no error was found.
#[must_use]
pub fn check(files: &[File], sources: SourceMap) -> (Option<RuleSet>, Vec<Diagnostic>) {
    let mut checker = Checker {
        set: RuleSet::default(),
        diagnostics: Vec::new(),
        used: BTreeSet::new(),
        names: BTreeMap::new(),
        signatures: BTreeMap::new(),
    };
    checker.set.sources = sources;
    // Declarations first, so that a rule may stand before what it uses.
    for file in files {
        checker.declarations(&file.items);
    }
    for file in files {
        checker.rules(&file.items, None);
    }
    checker.unused();
    shadow::find(&checker.set.rules, &mut checker.diagnostics);
    let failed = super::diagnostic::has_errors(&checker.diagnostics);
    checker
        .diagnostics
        .sort_by_key(|d| (d.span.file, d.span.start, d.code));
    ((!failed).then_some(checker.set), checker.diagnostics)
}

struct Checker {
    set: RuleSet,
    diagnostics: Vec<Diagnostic>,
    /// Declared names that something refers to.
    used: BTreeSet<String>,
    /// Where each declared name stands.
    names: BTreeMap<String, Span>,
    signatures: BTreeMap<u16, Arc<Signature>>,
}

impl Checker {
    fn refuse<T>(&mut self, diagnostic: Diagnostic) -> Checked<T> {
        self.diagnostics.push(diagnostic);
        Err(Refused)
    }

    fn error<T>(&mut self, code: Code, span: Span, message: impl Into<String>) -> Checked<T> {
        self.refuse(Diagnostic::error(code, span, message))
    }

    fn lint(&mut self, diagnostic: Diagnostic) {
        // The same place can be looked at twice (a reversible rule is checked in both directions).
        let known = self.diagnostics.iter().any(|d| {
            d.code == diagnostic.code
                && (d.span.file, d.span.start) == (diagnostic.span.file, diagnostic.span.start)
        });
        if !known {
            self.diagnostics.push(diagnostic);
        }
    }

    fn declare(&mut self, name: &Name) -> Checked<()> {
        if let Some(first) = self.names.get(&name.text) {
            let first = self.set.sources.place(*first);
            let message = format!("`{}` is defined twice", name.text);
            return self.refuse(
                Diagnostic::error(Code::DUPLICATE, name.span, message)
                    .help(format!("the first one stands at {first}")),
            );
        }
        self.names.insert(name.text.clone(), name.span);
        Ok(())
    }

    fn declarations(&mut self, items: &[Item]) {
        for item in items {
            // A refusal was noted; the next declaration is looked at all the same.
            let _: Checked<()> = match &item.kind {
                ItemKind::Const(name, value) => self.constant(name, value),
                ItemKind::State { scope, name, value } => self.state(*scope, name, value),
                ItemKind::Parser(name, body) => self.parser(name, body),
                ItemKind::Messages(framing, _) => self.messages(framing, item.span),
                ItemKind::Stage { items, .. } => {
                    self.declarations(items);
                    Ok(())
                }
                ItemKind::Include(_)
                | ItemKind::Ignore(_)
                | ItemKind::Rule(_)
                | ItemKind::Test(_) => Ok(()),
            };
        }
    }

    fn constant(&mut self, name: &Name, value: &super::ast::Expr) -> Checked<()> {
        self.declare(name)?;
        let value = self.fixed_value(value)?;
        self.set.consts.insert(name.text.clone(), value);
        Ok(())
    }

    /// A literal, or a constant that was defined before.
    fn fixed_value(&mut self, expr: &super::ast::Expr) -> Checked<Value<'static>> {
        match &expr.kind {
            ExprKind::Int(number) => return Ok(Value::Int(number.value)),
            ExprKind::Name(name) => match name.as_str() {
                "true" => return Ok(Value::Bool(true)),
                "false" => return Ok(Value::Bool(false)),
                "NULL" => return Ok(Value::Null),
                name => {
                    if let Some(value) = self.set.consts.get(name) {
                        self.used.insert(name.to_owned());
                        return Ok(value.clone());
                    }
                    if let Some(value) = super::names::constant(name) {
                        return Ok(Value::Int(value));
                    }
                }
            },
            ExprKind::Binary("|", left, right) => {
                if let (Value::Int(a), Value::Int(b)) =
                    (self.fixed_value(left)?, self.fixed_value(right)?)
                {
                    return Ok(Value::Int(a | b));
                }
            }
            ExprKind::Text(parts) => {
                let mut text = Vec::new();
                let mut plain = true;
                for part in parts {
                    match part {
                        TextPart::Literal(bytes) => text.extend_from_slice(bytes),
                        TextPart::Hole(name) => match self.set.consts.get(name) {
                            Some(Value::Text(bytes)) => {
                                text.extend_from_slice(bytes);
                                self.used.insert(name.clone());
                            }
                            _ => plain = false,
                        },
                    }
                }
                if plain {
                    return Ok(Value::Text(text.into()));
                }
            }
            _ => {}
        }
        self.refuse(
            Diagnostic::error(Code::TYPE, expr.span, "this is not a fixed value")
                .help("write a number, a text, true, false, NULL, or a constant defined above"),
        )
    }

    fn state(&mut self, scope: StateScope, name: &Name, value: &super::ast::Expr) -> Checked<()> {
        self.declare(name)?;
        let initial = self.fixed_value(value)?;
        let ty = match initial {
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Text(_) => Type::Text,
            Value::Null => Type::Any,
        };
        self.set.states.push(State {
            name: name.text.clone(),
            scope,
            initial,
            ty,
        });
        Ok(())
    }

    fn messages(&mut self, framing: &Framing, span: Span) -> Checked<()> {
        if self.set.framing.is_some() {
            return self.error(Code::DUPLICATE, span, "`messages` is declared twice");
        }
        let empty = match framing {
            Framing::Delimited(end) => end.is_empty(),
            Framing::Fixed(bytes) => *bytes == 0,
            Framing::Resp => false,
        };
        if empty {
            return self.error(Code::LIMIT, span, "messages of no bytes");
        }
        self.set.framing = Some(framing.clone());
        Ok(())
    }

    fn compile_regex(&mut self, text: &str, span: Span) -> Checked<Regex> {
        let built = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(MAX_REGEX)
            .build();
        match built {
            Ok(regex) => Ok(regex),
            Err(error) => {
                let why = error.to_string();
                let why = why
                    .lines()
                    .last()
                    .unwrap_or("")
                    .trim_start_matches("error: ")
                    .trim()
                    .to_owned();
                self.refuse(
                    Diagnostic::error(
                        Code::REGEX,
                        span,
                        format!("the regular expression is not accepted: {why}"),
                    )
                    .help("the syntax is that of the `regex` crate, over bytes"),
                )
            }
        }
    }

    fn parser(&mut self, name: &Name, body: &ParserBody) -> Checked<()> {
        self.declare(name)?;
        if ["words", "resp"].contains(&name.text.as_str()) || expr::builtin(&name.text).is_some() {
            let message = format!("`{}` is built in", name.text);
            return self.error(Code::DUPLICATE, name.span, message);
        }
        let mut results = Vec::new();
        let body = match body {
            ParserBody::Regex(text, span) => {
                let regex = self.compile_regex(text, *span)?;
                let mut groups = Vec::new();
                for (group, capture) in regex.capture_names().enumerate() {
                    if let Some(capture) = capture {
                        results.push((capture.to_owned(), Type::Text));
                        groups.push(group);
                    }
                }
                if results.is_empty() {
                    return self.refuse(
                        Diagnostic::error(Code::REGEX, *span, "a parser needs named captures")
                            .help("name what it takes out: `(?<key>[a-z]+)`"),
                    );
                }
                ParserCode::Regex(regex, groups)
            }
            ParserBody::Split(delimiter, names) => {
                if delimiter.is_empty() {
                    return self.error(Code::LIMIT, name.span, "the delimiter is empty");
                }
                results.extend(names.iter().map(|n| (n.text.clone(), Type::Text)));
                ParserCode::Split(delimiter.clone())
            }
            ParserBody::Fields(fields) => {
                for field in fields {
                    let ty = match field.kind {
                        FieldKind::Number(..) => Type::Int,
                        FieldKind::Bytes(_) | FieldKind::Rest => Type::Text,
                    };
                    results.push((field.name.text.clone(), ty));
                }
                ParserCode::Fields(fields.iter().map(|field| field.kind).collect())
            }
        };
        let mut seen = BTreeSet::new();
        for (result, _) in &results {
            if !seen.insert(result.clone()) {
                let message = format!("the parser has two results `{result}`");
                return self.error(Code::DUPLICATE, name.span, message);
            }
        }
        self.set.parsers.push(Parser {
            name: name.text.clone(),
            results,
            body,
        });
        Ok(())
    }

    fn rules(&mut self, items: &[Item], section: Option<Direction>) {
        for item in items {
            let _: Checked<()> = match &item.kind {
                ItemKind::Rule(rule) => {
                    self.rule_item(rule, item.span, section.unwrap_or(Direction::Forward))
                }
                ItemKind::Ignore(ignore) => self.ignore(ignore, item.span, section),
                ItemKind::Stage {
                    direction, items, ..
                } => {
                    self.rules(items, Some(*direction));
                    Ok(())
                }
                ItemKind::Test(test) => {
                    let direction = test.direction.or(section).unwrap_or(Direction::Forward);
                    self.set.tests.push((test.clone(), item.span, direction));
                    Ok(())
                }
                _ => Ok(()),
            };
        }
    }

    fn rule_item(
        &mut self,
        tree: &super::ast::Rule,
        span: Span,
        direction: Direction,
    ) -> Checked<()> {
        if self.set.rules.len() >= MAX_RULES {
            return self.error(
                Code::TOO_LARGE,
                span,
                format!("more than {MAX_RULES} rules"),
            );
        }
        self.add_rule(tree, span, direction, false)?;
        let reversible = tree.header.as_ref().is_some_and(|h| h.reversible);
        if reversible {
            let other = match direction {
                Direction::Forward => Direction::Reverse,
                Direction::Reverse => Direction::Forward,
            };
            let states: Vec<String> = self.set.states.iter().map(|s| s.name.clone()).collect();
            let fixed = |name: &str| {
                self.set.consts.contains_key(name)
                    || states.iter().any(|s| s == name)
                    || super::names::constant(name).is_some()
            };
            match reverse::reverse(tree, &fixed) {
                Ok(tree) => self.add_rule(&tree, span, other, true)?,
                Err(diagnostic) => return self.refuse(diagnostic),
            }
        }
        Ok(())
    }

    fn ignore(&mut self, tree: &Ignore, span: Span, direction: Option<Direction>) -> Checked<()> {
        let mut scope = expr::Scope::new();
        let (pattern, bound) = self.pattern(&tree.pattern, &mut scope, true)?;
        let Subject::Call(signature) = &pattern.subject else {
            return self.error(
                Code::MESSAGES,
                tree.pattern.span,
                "`ignore` speaks of calls, not of messages",
            );
        };
        let signature = Arc::clone(signature);
        let mut fields = Vec::new();
        for field in &tree.fields {
            let slot = if field.name.text == "result" {
                Some(Slot::Result)
            } else {
                bound
                    .iter()
                    .find(|(_, var)| scope.name_of(*var) == Some(field.name.text.as_str()))
                    .map(|(slot, _)| *slot)
                    .or_else(|| {
                        signature
                            .named(&field.name.text)
                            .map(|i| signature.slots[i])
                    })
            };
            let Some(slot) = slot else {
                let message = format!(
                    "`{}` has no argument `{}`",
                    signature.call.name, field.name.text
                );
                let names = signature.call.names.join(", ");
                return self.refuse(
                    Diagnostic::error(Code::ARGUMENTS, field.name.span, message)
                        .help(format!("it has {names}")),
                );
            };
            let regex = match &field.regex {
                Some((text, span)) => {
                    if !matches!(slot, Slot::Data(_) | Slot::Either(_)) {
                        return self.error(
                            Code::TYPE,
                            *span,
                            "only texts can be matched by an expression",
                        );
                    }
                    Some(Arc::new(self.compile_regex(text, *span)?))
                }
                None => None,
            };
            fields.push((slot, regex));
        }
        let vars = scope.count();
        self.set.noise.push(Noise {
            span,
            direction,
            pattern,
            vars,
            fields,
        });
        Ok(())
    }

    fn unused(&mut self) {
        let unused: Vec<(String, Span)> = self
            .names
            .iter()
            .filter(|(name, _)| !self.used.contains(*name))
            .map(|(name, span)| (name.clone(), *span))
            .collect();
        for (name, span) in unused {
            self.lint(Diagnostic::lint(
                Code::UNUSED,
                span,
                format!("`{name}` is never used"),
            ));
        }
    }
}

#[cfg(test)]
mod tests;
