//! Patterns, templates and whole rules.

use std::sync::Arc;
use std::time::Duration;

use super::expr::{Place, Scope, bare_word};
use super::{Checked, Checker, Refused};
use crate::rules::ast::{self, Arg, ArgKind, Direction, ExprKind, Name, Repeat, TextPart};
use crate::rules::diagnostic::{Code, Diagnostic};
use crate::rules::format;
use crate::rules::names::{self, Flow, Signature, Slot};
use crate::rules::program::{
    ArgPattern, ArgTemplate, Code as Ex, DEFAULT_HELD, DEFAULT_HELD_CALLS, FD, MAX_HELD,
    MAX_HELD_CALLS, Outcome, Pattern, Rule, RuleId, Subject, Template, Var,
};
use crate::rules::source::Span;
use crate::rules::value::{Type, Value};

/// Which slot of a pattern a variable is bound to.
pub(super) type Bound = Vec<(Slot, Var)>;

fn slot_type(slot: Slot) -> Type {
    match slot {
        Slot::Number(_) | Slot::Length { .. } | Slot::Result => Type::Int,
        Slot::Data(_) | Slot::Text => Type::Text,
        Slot::Either(_) => Type::Any,
    }
}

impl Checker {
    fn subject(&mut self, name: &Name) -> Checked<Subject> {
        let flow = match name.text.as_str() {
            "request" => Some(Flow::In),
            "reply" => Some(Flow::Out),
            _ => None,
        };
        if let Some(flow) = flow {
            if self.set.framing.is_none() {
                return self.refuse(
                    Diagnostic::error(Code::MESSAGES, name.span, format!("`{}` needs to know where messages end", name.text))
                        .help("declare it once in the file: `messages line \"\\r\\n\";` or `messages resp;`"),
                );
            }
            return Ok(Subject::Message(flow));
        }
        let Some(call) = names::call(&name.text) else {
            let mut diagnostic = Diagnostic::error(
                Code::UNKNOWN_CALL,
                name.span,
                format!("there is no system call `{}`", name.text),
            );
            diagnostic.help =
                names::similar_call(&name.text).map(|n| format!("did you mean `{n}`?"));
            return self.refuse(diagnostic);
        };
        if let Some(why) = names::never_recorded(call) {
            let message = format!("no rule can see `{}`: {why}", call.name);
            return self.error(Code::NEVER_RECORDED, name.span, message);
        }
        let signature = self
            .signatures
            .entry(call.nr)
            .or_insert_with(|| Arc::new(Signature::of(call)));
        Ok(Subject::Call(Arc::clone(signature)))
    }

    /// The slot of each argument.
    fn slots(&mut self, subject: &Subject, name: &Name, args: &[Arg]) -> Checked<Vec<Slot>> {
        let mut slots = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            let slot = match (subject, &arg.label) {
                (Subject::Message(_), None) => [Slot::Number(0), Slot::Text].get(i).copied(),
                (Subject::Message(_), Some(label)) => match label.text.as_str() {
                    "fd" => Some(Slot::Number(0)),
                    "text" => Some(Slot::Text),
                    _ => None,
                },
                (Subject::Call(signature), None) => signature.slots.get(i).copied(),
                // By name an argument is the register itself, also when it is a size.
                (Subject::Call(signature), Some(label)) => {
                    signature
                        .named(&label.text)
                        .map(|at| match signature.slots[at] {
                            Slot::Length { arg, .. } => Slot::Number(arg),
                            slot => slot,
                        })
                }
            };
            let Some(slot) = slot else {
                let (what, takes) = match subject {
                    Subject::Message(_) => (name.text.clone(), "fd, text".to_owned()),
                    Subject::Call(s) => (s.call.name.to_owned(), s.call.names.join(", ")),
                };
                let message = match &arg.label {
                    Some(label) => format!("`{what}` has no argument `{}`", label.text),
                    None => format!("`{what}` does not take that many arguments"),
                };
                return self.refuse(
                    Diagnostic::error(Code::ARGUMENTS, arg.span, message)
                        .help(format!("it takes ({takes})")),
                );
            };
            if slots.contains(&slot) {
                return self.error(Code::DUPLICATE, arg.span, "this argument is given twice");
            }
            slots.push(slot);
        }
        Ok(slots)
    }

    /// A pattern, and what it binds. `pure` refuses a repetition.
    pub(super) fn pattern(
        &mut self,
        tree: &ast::Pattern,
        scope: &mut Scope,
        single: bool,
    ) -> Checked<(Pattern, Bound)> {
        let subject = self.subject(&tree.call)?;
        let slots = self.slots(&subject, &tree.call, &tree.args)?;
        if tree.repeat != Repeat::Once && (single || matches!(subject, Subject::Message(_))) {
            return self.error(Code::BAD_PATTERN, tree.span, "this may not repeat here");
        }
        let open_length = tree
            .args
            .iter()
            .zip(&slots)
            .any(|(arg, slot)| matches!(slot, Slot::Length { .. }) && arg.kind == ArgKind::Any);
        let mut bound = Bound::new();
        let mut args = Vec::new();
        let mut prefix = Vec::new();
        let mut prefix_slot = Slot::Text;
        for (arg, slot) in tree.args.iter().zip(&slots) {
            if let Some(pattern) = self.arg_pattern(arg, *slot, open_length, scope, &mut bound)? {
                if matches!(slot, Slot::Data(_) | Slot::Text) && prefix.is_empty() {
                    prefix = literal_prefix(&pattern);
                    prefix_slot = *slot;
                }
                args.push((*slot, pattern));
            }
        }
        if let Some(result) = &tree.result {
            let arg = Arg {
                label: None,
                span: result.span,
                kind: ArgKind::Value(result.clone()),
            };
            if let Some(pattern) = self.arg_pattern(&arg, Slot::Result, false, scope, &mut bound)? {
                args.push((Slot::Result, pattern));
            }
            self.lint_text_of_failed(&subject, &args, result.span);
        }
        let guard = self.block(tree.guard.as_ref(), scope, Place::Guard)?;
        let collects = match tree.repeat {
            Repeat::Any | Repeat::Some => bound
                .iter()
                .filter(|(slot, _)| matches!(slot, Slot::Data(_) | Slot::Length { .. }))
                .map(|(_, var)| *var)
                .collect(),
            Repeat::Once | Repeat::Optional => Vec::new(),
        };
        Ok((
            Pattern {
                subject,
                shown: format::show_pattern(tree),
                args,
                repeat: tree.repeat,
                guard,
                prefix,
                prefix_slot,
                collects,
            },
            bound,
        ))
    }

    /// Of a transfer that failed no text is known.
    fn lint_text_of_failed(
        &mut self,
        subject: &Subject,
        args: &[(Slot, ArgPattern)],
        result: Span,
    ) {
        let Subject::Call(signature) = subject else {
            return;
        };
        let Some((data, _)) = signature.data else {
            return;
        };
        let fails = args.iter().any(|(slot, arg)| {
            *slot == Slot::Result && matches!(arg, ArgPattern::Is(Ex::Value(Value::Int(..0))))
        });
        let text = args
            .iter()
            .any(|(slot, arg)| *slot == Slot::Data(data) && !matches!(arg, ArgPattern::Var(_)));
        if fails && text {
            self.lint(
                Diagnostic::lint(
                    Code::NEVER_TRUE,
                    result,
                    "a call that failed has moved no text: the two are never true together",
                )
                .help("leave the text out"),
            );
        }
    }

    fn arg_pattern(
        &mut self,
        arg: &Arg,
        slot: Slot,
        open_length: bool,
        scope: &mut Scope,
        bound: &mut Bound,
    ) -> Checked<Option<ArgPattern>> {
        let expr = match &arg.kind {
            ArgKind::Any => return Ok(None),
            ArgKind::SameFd => {
                if slot_type(slot) != Type::Int {
                    return self.error(
                        Code::BAD_PATTERN,
                        arg.span,
                        "`.` stands for a file descriptor, this is none",
                    );
                }
                return Ok(Some(ArgPattern::Var(FD)));
            }
            ArgKind::Value(expr) => expr,
        };
        let ty = slot_type(slot);
        match &expr.kind {
            ExprKind::Regex(text) => {
                self.want(ty, Type::Text, expr.span)?;
                let regex = self.compile_regex(text, expr.span)?;
                let mut groups = Vec::new();
                for (group, name) in regex.capture_names().enumerate() {
                    if let Some(name) = name {
                        groups.push((group, scope.define(name, Type::Text)));
                    }
                }
                Ok(Some(ArgPattern::Regex(regex, groups)))
            }
            ExprKind::Text(parts) => {
                self.want(ty, Type::Text, expr.span)?;
                self.text_pattern(parts, expr.span, open_length && slot != Slot::Result, scope)
                    .map(Some)
            }
            ExprKind::Name(name) if scope.get(name).is_none() && self.global(name).is_none() => {
                // It would bind whatever is there, and the rule would apply to all.
                if ty != Type::Text
                    && bare_word(name)
                    && let Some(near) = names::similar_constant(name)
                {
                    let message = format!("`{name}` is no constant of the kernel interface");
                    return self.refuse(
                        Diagnostic::error(Code::UNKNOWN_NAME, expr.span, message).help(format!(
                            "did you mean `{near}`? A variable takes a name in small letters"
                        )),
                    );
                }
                let var = scope.define(name, ty);
                bound.push((slot, var));
                Ok(Some(ArgPattern::Var(var)))
            }
            ExprKind::Name(name) if scope.get(name).is_some() => {
                let (var, known) = scope.get(name).ok_or(Refused)?;
                self.want(known, ty, expr.span)?;
                bound.push((slot, var));
                Ok(Some(ArgPattern::Var(var)))
            }
            _ => {
                let code = self.typed(expr, scope, ty)?;
                Ok(Some(ArgPattern::Is(code)))
            }
        }
    }

    /// A text in a pattern: its holes take what stands there.
    fn text_pattern(
        &mut self,
        parts: &[TextPart],
        span: Span,
        open: bool,
        scope: &mut Scope,
    ) -> Checked<ArgPattern> {
        let mut literal = Vec::new();
        let mut holes: Vec<(Var, Vec<u8>)> = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let bytes = match part {
                TextPart::Literal(bytes) => bytes.clone(),
                TextPart::Hole(name) => {
                    match (scope.get(name), self.global(name)) {
                        (None, Some((Ex::Value(Value::Text(text)), _))) => text.into_owned(),
                        (None, Some(_)) => {
                            let message = format!(
                                "`{name}` is not a fixed text and cannot stand in a pattern"
                            );
                            let help = format!(
                                "give the hole a name of its own, and compare it with `{name}` in a guard"
                            );
                            return self.refuse(
                                Diagnostic::error(Code::BAD_PATTERN, span, message).help(help),
                            );
                        }
                        (Some((_, ty)), _) if !ty.fits(Type::Text) => {
                            let message = format!("`{name}` is {}, not a text", ty.name());
                            return self.error(Code::TYPE, span, message);
                        }
                        _ => {
                            if matches!(parts.get(i + 1), Some(TextPart::Hole(_))) {
                                return self.error(Code::BAD_PATTERN, span, "two holes with nothing in between: it is not clear where one ends");
                            }
                            holes.push((scope.define(name, Type::Text), Vec::new()));
                            continue;
                        }
                    }
                }
            };
            match holes.last_mut() {
                Some((_, after)) => after.extend_from_slice(&bytes),
                None => literal.extend_from_slice(&bytes),
            }
        }
        if holes.is_empty() {
            return Ok(if open {
                ArgPattern::Prefix(literal)
            } else {
                ArgPattern::Exact(literal)
            });
        }
        Ok(ArgPattern::Holes {
            start: literal,
            holes,
            open,
        })
    }

    pub(super) fn add_rule(
        &mut self,
        tree: &ast::Rule,
        span: Span,
        direction: Direction,
        derived: bool,
    ) -> Checked<()> {
        let mut scope = Scope::new();
        let mut patterns = Vec::new();
        let mut aliases: Vec<(String, usize)> = Vec::new();
        for (i, pattern) in tree.patterns.iter().enumerate() {
            let (pattern, _) = self.pattern(pattern, &mut scope, false)?;
            if i == 0 && matches!(pattern.repeat, Repeat::Any | Repeat::Optional) {
                return self.refuse(
                    Diagnostic::error(
                        Code::BAD_PATTERN,
                        tree.patterns[0].span,
                        "the first call of a rule must occur",
                    )
                    .help("write `+` instead of `*`, or begin with the call that follows"),
                );
            }
            patterns.push(pattern);
            if let Some(alias) = &tree.patterns[i].alias {
                if aliases.iter().any(|(a, _)| *a == alias.text) {
                    return self.error(
                        Code::DUPLICATE,
                        alias.span,
                        format!("`{}` is used twice", alias.text),
                    );
                }
                aliases.push((alias.text.clone(), i));
            }
        }
        let messages = matches!(patterns[0].subject, Subject::Message(_));
        let mixed = patterns
            .iter()
            .any(|p| matches!(p.subject, Subject::Message(_)) != messages);
        let when = match &tree.when {
            Some(expr) => {
                let code = self.typed(expr, &scope, Type::Bool)?;
                if matches!(code, Ex::Value(Value::Bool(false))) {
                    self.lint(Diagnostic::lint(
                        Code::NEVER_TRUE,
                        expr.span,
                        "this is never true, the rule cannot apply",
                    ));
                }
                Some(code)
            }
            None => None,
        };
        let outcome = self.outcome(
            &tree.outcome,
            &tree.patterns,
            &patterns,
            &aliases,
            &mut scope,
        )?;
        let mixed_right = match &outcome {
            Outcome::Calls(calls) => calls
                .iter()
                .any(|c| matches!(c.subject, Subject::Message(_)) != messages),
            _ => false,
        };
        if mixed || mixed_right {
            return self.refuse(
                Diagnostic::error(
                    Code::MESSAGES,
                    span,
                    "a rule speaks either of calls or of messages",
                )
                .help("write two rules, or use only `request` and `reply`"),
            );
        }
        let header = tree.header.as_ref();
        let max_calls = self.limit(
            header.and_then(|h| h.calls.as_ref()),
            MAX_HELD_CALLS as i64,
            "calls",
            span,
        )?;
        let max_ms = self.limit(
            header.and_then(|h| h.ms.as_ref()),
            MAX_HELD.as_millis() as i64,
            "ms",
            span,
        )?;
        let line = self.set.sources.position(span).line;
        let name = header.map_or_else(|| format!("rule-{line}"), |h| h.name.text.clone());
        if let Some(header) = header
            && self
                .set
                .rules
                .iter()
                .any(|r| r.name == name && r.direction == direction)
        {
            return self.error(
                Code::DUPLICATE,
                header.name.span,
                format!("there are two rules `{name}`"),
            );
        }
        let scope_kind = header
            .and_then(|h| h.scope)
            .unwrap_or_else(|| one_fd(&patterns));
        self.set.rules.push(Rule {
            id: RuleId(u32::try_from(self.set.rules.len()).unwrap_or(u32::MAX)),
            name,
            span,
            direction,
            derived,
            patterns,
            when,
            when_shown: tree
                .when
                .as_ref()
                .map_or_else(String::new, format::format_expr),
            outcome,
            vars: scope.count(),
            scope: scope_kind,
            max_calls: max_calls.map_or(DEFAULT_HELD_CALLS, |n| n as usize),
            max_time: max_ms.map_or(DEFAULT_HELD, |n| Duration::from_millis(n.unsigned_abs())),
            messages,
        });
        Ok(())
    }

    fn limit(
        &mut self,
        number: Option<&ast::Number>,
        most: i64,
        what: &str,
        span: Span,
    ) -> Checked<Option<i64>> {
        match number.map(|number| number.value) {
            Some(value) if value < 1 || value > most => self.error(
                Code::LIMIT,
                span,
                format!("{value} {what}: from 1 to {most} are allowed"),
            ),
            value => Ok(value),
        }
    }

    fn outcome(
        &mut self,
        tree: &ast::Outcome,
        trees: &[ast::Pattern],
        patterns: &[Pattern],
        aliases: &[(String, usize)],
        scope: &mut Scope,
    ) -> Checked<Outcome> {
        Ok(match tree {
            ast::Outcome::Nothing(b) => {
                Outcome::Nothing(self.block(b.as_ref(), scope, Place::Body)?)
            }
            ast::Outcome::Same(b) => Outcome::Same(self.block(b.as_ref(), scope, Place::Body)?),
            ast::Outcome::Tolerate(b) => {
                if matches!(patterns[0].subject, Subject::Message(_)) {
                    return self.error(
                        Code::MESSAGES,
                        trees[0].span,
                        "`tolerate` speaks of calls: a message is part of one",
                    );
                }
                Outcome::Tolerate(self.block(b.as_ref(), scope, Place::Body)?)
            }
            ast::Outcome::Retry(why) => Outcome::Retry(self.typed(why, scope, Type::Text)?),
            ast::Outcome::Terminate(why) => {
                Outcome::Terminate(self.typed(why, scope, Type::Text)?)
            }
            ast::Outcome::Log(text) => {
                let code = self.typed(text, scope, Type::Text)?;
                Outcome::Same(vec![crate::rules::program::Do::Log(code)])
            }
            ast::Outcome::Calls(calls) => {
                let mut taken = vec![false; patterns.len()];
                let mut templates = Vec::new();
                for call in calls {
                    templates.push(self.template(call, patterns, aliases, &mut taken, scope)?);
                }
                Outcome::Calls(templates)
            }
        })
    }

    fn template(
        &mut self,
        tree: &ast::Template,
        patterns: &[Pattern],
        aliases: &[(String, usize)],
        taken: &mut [bool],
        scope: &mut Scope,
    ) -> Checked<Template> {
        let alias = aliases
            .iter()
            .find(|(a, _)| *a == tree.call.text)
            .map(|(_, at)| *at);
        let subject = match alias {
            Some(at) => patterns[at].subject.clone(),
            None => self.subject(&tree.call)?,
        };
        let from = alias.or_else(|| {
            (0..patterns.len())
                .find(|i| !taken[*i] && same_subject(&patterns[*i].subject, &subject))
        });
        if let Some(from) = from {
            taken[from] = true;
        }
        let message = matches!(subject, Subject::Message(_));
        let Some(tree_args) = &tree.args else {
            if alias.is_none() {
                return self.refuse(
                    Diagnostic::error(Code::SYNTAX, tree.span, "a call needs its arguments")
                        .help("only a name given with `as` may stand alone"),
                );
            }
            let repeats = tree.repeat != Repeat::Once
                || tree.pieces
                || tree.body.is_some()
                || tree.result.is_some();
            if repeats {
                return self.error(
                    Code::BAD_PATTERN,
                    tree.span,
                    "a call that stays as it is takes nothing further",
                );
            }
            return Ok(Template {
                span: tree.span,
                subject,
                shown: format::show_template(tree),
                from,
                bare: true,
                args: Vec::new(),
                result: None,
                repeat: Repeat::Once,
                pieces: false,
                body: Vec::new(),
            });
        };
        if tree.repeat == Repeat::Some
            || (message && (tree.repeat != Repeat::Once || tree.pieces || tree.result.is_some()))
        {
            return self.refuse(
                Diagnostic::error(Code::BAD_PATTERN, tree.span, "this is not possible for what the follower is expected to do")
                    .help("`?` stands for a call that may be missing, `*` for any number, `in pieces` for one text in several calls"),
            );
        }
        let slots = self.slots(&subject, &tree.call, tree_args)?;
        let body = self.block(tree.body.as_ref(), scope, Place::Body)?;
        let mut args = Vec::new();
        for (arg, slot) in tree_args.iter().zip(&slots) {
            args.push((
                *slot,
                match &arg.kind {
                    ArgKind::Any => ArgTemplate::Any,
                    ArgKind::SameFd => ArgTemplate::Is(Ex::Var(FD)),
                    ArgKind::Value(expr) => {
                        ArgTemplate::Is(self.typed(expr, scope, slot_type(*slot))?)
                    }
                },
            ));
        }
        let result = match &tree.result {
            Some(expr) => Some(self.typed(expr, scope, Type::Int)?),
            None => None,
        };
        self.complete(tree, &subject, from, &args, result.as_ref(), patterns)?;
        Ok(Template {
            span: tree.span,
            subject,
            shown: format::show_template(tree),
            from,
            bare: false,
            args,
            result,
            repeat: tree.repeat,
            pieces: tree.pieces,
            body,
        })
    }

    /// What a template must say so that a call can be made of it.
    fn complete(
        &mut self,
        tree: &ast::Template,
        subject: &Subject,
        from: Option<usize>,
        args: &[(Slot, ArgTemplate)],
        result: Option<&Ex>,
        patterns: &[Pattern],
    ) -> Checked<()> {
        let text = args.iter().any(|(slot, arg)| {
            matches!(arg, ArgTemplate::Is(_))
                && match (slot, subject) {
                    (Slot::Text, _) => true,
                    (Slot::Data(at), Subject::Call(s)) => {
                        s.data.is_some_and(|(data, _)| data == *at)
                    }
                    _ => false,
                }
        });
        if from.is_none()
            && matches!(subject, Subject::Message(_))
            && !patterns.iter().any(|p| same_subject(&p.subject, subject))
        {
            return self.refuse(
                Diagnostic::error(Code::BAD_PATTERN, tree.span, "an inserted message goes where the leader has one of its kind, and the rule has none")
                    .help("name a `request` to insert requests, a `reply` to insert replies; or write a rule over calls"),
            );
        }
        if matches!(subject, Subject::Message(_)) && !text && from.is_none() {
            return self.error(
                Code::NEEDS_RESULT,
                tree.span,
                "an inserted message needs a text",
            );
        }
        if let Subject::Call(signature) = subject {
            let writes = signature.data.is_some_and(|(_, flow)| flow == Flow::Out);
            let gets = matches!(result, Some(Ex::Value(Value::Int(1..))));
            let reads = signature.data.is_some() && !writes && !signature.several;
            if from.is_none() && gets && reads && !text {
                return self.refuse(
                    Diagnostic::error(
                        Code::NEEDS_RESULT,
                        tree.span,
                        format!(
                            "the leader makes no such `{}`: say which text the follower gets",
                            signature.call.name
                        ),
                    )
                    .help("the result follows from the text"),
                );
            }
            if from.is_none() && result.is_none() && !text && !writes {
                return self.refuse(
                    Diagnostic::error(
                        Code::NEEDS_RESULT,
                        tree.span,
                        format!(
                            "the leader makes no such `{}`: say what the follower gets",
                            signature.call.name
                        ),
                    )
                    .help("add a result: `getpid() = 42`, `open(_) = ENOENT`"),
                );
            }
            if tree.pieces && !(writes && text && !signature.several) {
                return self.error(
                    Code::BAD_PATTERN,
                    tree.span,
                    "only a text that the follower writes can come in pieces",
                );
            }
        }
        Ok(())
    }
}

fn same_subject(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (Subject::Call(a), Subject::Call(b)) => a.call.nr == b.call.nr,
        (Subject::Message(a), Subject::Message(b)) => a == b,
        _ => false,
    }
}

/// A sequence is on one descriptor when each of its patterns names the same one.
fn one_fd(patterns: &[Pattern]) -> ast::Scope {
    let mut common: Option<Var> = None;
    for pattern in patterns {
        let fd = match &pattern.subject {
            Subject::Message(_) => return ast::Scope::Fd,
            Subject::Call(signature) => signature.fd,
        };
        let var = pattern
            .args
            .iter()
            .find_map(|(slot, arg)| match (slot, arg) {
                (Slot::Number(at), ArgPattern::Var(var)) if Some(*at) == fd => Some(*var),
                _ => None,
            });
        let Some(var) = var else {
            return ast::Scope::Thread;
        };
        if *common.get_or_insert(var) != var {
            return ast::Scope::Thread;
        }
    }
    ast::Scope::Fd
}

/// Bytes with which every text that the pattern takes starts.
fn literal_prefix(pattern: &ArgPattern) -> Vec<u8> {
    match pattern {
        ArgPattern::Exact(bytes) | ArgPattern::Prefix(bytes) => bytes.clone(),
        ArgPattern::Holes { start, .. } => start.clone(),
        ArgPattern::Regex(regex, _) => regex_prefix(regex.as_str()),
        ArgPattern::Is(Ex::Value(Value::Text(bytes))) => bytes.to_vec(),
        ArgPattern::Is(_) | ArgPattern::Var(_) => Vec::new(),
    }
}

/// The literal start of an anchored expression; empty when in doubt.
fn regex_prefix(regex: &str) -> Vec<u8> {
    let Some(rest) = regex.strip_prefix('^') else {
        return Vec::new();
    };
    if rest.contains('|') {
        return Vec::new();
    }
    let mut prefix = Vec::new();
    let bytes = rest.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let (byte, next) = match bytes[at] {
            b'\\' if bytes.get(at + 1) == Some(&b'x') => {
                let hex = rest
                    .get(at + 2..at + 4)
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                let Some(byte) = hex else { break };
                (byte, at + 4)
            }
            byte if byte.is_ascii_alphanumeric() || b" -_:/,=\"'<>@#%&!~".contains(&byte) => {
                (byte, at + 1)
            }
            _ => break,
        };
        if matches!(bytes.get(next), Some(b'*' | b'?' | b'{' | b'+')) {
            break;
        }
        prefix.push(byte);
        at = next;
    }
    prefix
}
