//! Expressions and statements: names to slots, and types.

use std::collections::BTreeMap;

use super::{Checked, Checker};
use crate::rules::ast::{Block, Expr, ExprKind, Name, Statement, StatementKind, TextPart};
use crate::rules::diagnostic::{Code, Diagnostic, nearest};
use crate::rules::names;
use crate::rules::program::{Builtin, Code as Ex, Do, FD, Op, Taker, Var};
use crate::rules::source::Span;
use crate::rules::value::{Type, Value};

/// Names and types of a parser's results.
type Results = Vec<(String, Type)>;

/// The variables of one rule.
pub(super) struct Scope {
    vars: BTreeMap<String, (Var, Type)>,
    next: Var,
}

impl Scope {
    pub(super) fn new() -> Self {
        Self {
            vars: BTreeMap::new(),
            next: FD + 1,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<(Var, Type)> {
        self.vars.get(name).copied()
    }

    pub(super) fn define(&mut self, name: &str, ty: Type) -> Var {
        if let Some(known) = self.vars.get_mut(name) {
            if known.1 != ty {
                known.1 = Type::Any;
            }
            return known.0;
        }
        let var = self.next;
        self.next = self.next.saturating_add(1);
        self.vars.insert(name.to_owned(), (var, ty));
        var
    }

    pub(super) fn count(&self) -> usize {
        usize::from(self.next)
    }

    pub(super) fn name_of(&self, var: Var) -> Option<&str> {
        self.vars
            .iter()
            .find(|(_, (v, _))| *v == var)
            .map(|(name, _)| name.as_str())
    }
}

/// The built-in function of that name.
pub(super) fn builtin(name: &str) -> Option<(Builtin, Option<&'static [Type]>, Type)> {
    Builtin::ALL
        .iter()
        .find(|(n, ..)| *n == name)
        .map(|(_, f, args, ty)| (*f, *args, *ty))
}

/// Where statements stand, which decides what they may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the rule applies: nothing may be changed, and there is a `return` at the end.
    Guard,
    /// When it applies.
    Body,
}

pub(super) fn bare_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

impl Checker {
    pub(super) fn want(&mut self, ty: Type, wanted: Type, span: Span) -> Checked<()> {
        if ty.fits(wanted) {
            return Ok(());
        }
        self.error(
            Code::TYPE,
            span,
            format!("expected {}, found {}", wanted.name(), ty.name()),
        )
    }

    pub(super) fn typed(&mut self, expr: &Expr, scope: &Scope, wanted: Type) -> Checked<Ex> {
        let (code, ty) = self.expr(expr, scope)?;
        self.want(ty, wanted, expr.span)?;
        Ok(code)
    }

    pub(super) fn expr(&mut self, expr: &Expr, scope: &Scope) -> Checked<(Ex, Type)> {
        match &expr.kind {
            ExprKind::Int(number) => Ok((Ex::Value(Value::Int(number.value)), Type::Int)),
            ExprKind::Text(parts) => Ok((self.text(parts, expr.span, scope)?, Type::Text)),
            ExprKind::Regex(_) => self.refuse(
                Diagnostic::error(Code::TYPE, expr.span, "a regular expression is not a value")
                    .help("use it as `text ~ /.../`, or as a whole argument of a pattern"),
            ),
            ExprKind::Name(name) => self.name(name, expr.span, scope),
            ExprKind::Deref(inner) => self.expr(inner, scope),
            ExprKind::Call(name, _, args) => self.call(name, args, expr.span, scope),
            ExprKind::Unary("!", inner) => {
                let inner = self.typed(inner, scope, Type::Bool)?;
                Ok((Ex::Not(Box::new(inner)), Type::Bool))
            }
            ExprKind::Unary(_, inner) => {
                let inner = self.typed(inner, scope, Type::Int)?;
                Ok((Ex::Neg(Box::new(inner)), Type::Int))
            }
            ExprKind::Binary("~", left, right) => {
                let ExprKind::Regex(regex) = &right.kind else {
                    return self.error(
                        Code::TYPE,
                        right.span,
                        "after `~` stands a regular expression",
                    );
                };
                let left = self.typed(left, scope, Type::Text)?;
                let regex = self.compile_regex(regex, right.span)?;
                Ok((Ex::Matches(Box::new(left), regex), Type::Bool))
            }
            ExprKind::Binary(op, left, right) => self.binary(op, left, right, scope),
            ExprKind::Slice(inner, from, to) => {
                let inner = self.typed(inner, scope, Type::Text)?;
                let mut side = |e: &Option<Box<Expr>>| match e {
                    Some(e) => self.typed(e, scope, Type::Int).map(|c| Some(Box::new(c))),
                    None => Ok(None),
                };
                let (from, to) = (side(from)?, side(to)?);
                Ok((Ex::Slice(Box::new(inner), from, to), Type::Text))
            }
        }
    }

    fn binary(
        &mut self,
        op: &str,
        left: &Expr,
        right: &Expr,
        scope: &Scope,
    ) -> Checked<(Ex, Type)> {
        let (l, left_ty) = self.expr(left, scope)?;
        let (r, right_ty) = self.expr(right, scope)?;
        let (op, operands, ty) = match op {
            "||" => (Op::Or, Some(Type::Bool), Type::Bool),
            "&&" => (Op::And, Some(Type::Bool), Type::Bool),
            "==" => (Op::Eq, None, Type::Bool),
            "!=" => (Op::Ne, None, Type::Bool),
            "<" => (Op::Lt, Some(Type::Int), Type::Bool),
            "<=" => (Op::Le, Some(Type::Int), Type::Bool),
            ">" => (Op::Gt, Some(Type::Int), Type::Bool),
            ">=" => (Op::Ge, Some(Type::Int), Type::Bool),
            "-" => (Op::Sub, Some(Type::Int), Type::Int),
            "*" => (Op::Mul, Some(Type::Int), Type::Int),
            "|" => (Op::BitOr, Some(Type::Int), Type::Int),
            "&" => (Op::BitAnd, Some(Type::Int), Type::Int),
            _ => {
                let ty = if left_ty == Type::Any {
                    right_ty
                } else {
                    left_ty
                };
                let ty = if ty == Type::Text || ty == Type::Any {
                    ty
                } else {
                    Type::Int
                };
                (Op::Add, (ty != Type::Any).then_some(ty), ty)
            }
        };
        match operands {
            Some(wanted) => {
                self.want(left_ty, wanted, left.span)?;
                self.want(right_ty, wanted, right.span)?;
            }
            // A number that `int` or a parser did not find is NULL.
            None if matches!(
                (left_ty, right_ty),
                (Type::Int, Type::Null) | (Type::Null, Type::Int)
            ) => {}
            None if !left_ty.fits(right_ty) => {
                let message = format!("{} is never equal to {}", left_ty.name(), right_ty.name());
                return self.error(Code::TYPE, left.span.to(right.span), message);
            }
            None => {}
        }
        Ok((Ex::Binary(op, Box::new(l), Box::new(r)), ty))
    }

    fn name(&mut self, name: &str, span: Span, scope: &Scope) -> Checked<(Ex, Type)> {
        if let Some((var, ty)) = scope.get(name) {
            return Ok((Ex::Var(var), ty));
        }
        if let Some(found) = self.global(name) {
            return Ok(found);
        }
        if bare_word(name) {
            self.lint(
                Diagnostic::lint(
                    Code::BARE_WORD,
                    span,
                    format!("`{name}` is not defined and stands for the text \"{name}\""),
                )
                .help(match names::similar_constant(name) {
                    Some(near) => format!("did you mean `{near}`? If not, write \"{name}\""),
                    None => format!("write \"{name}\", or `const {name} = \"{name}\";`"),
                }),
            );
            let text = Value::Text(name.as_bytes().to_vec().into());
            return Ok((Ex::Value(text), Type::Text));
        }
        let known: Vec<&str> = scope
            .vars
            .keys()
            .chain(self.names.keys())
            .map(String::as_str)
            .collect();
        let help = nearest(name, known.into_iter()).map(|n| format!("did you mean `{n}`?"));
        let mut diagnostic =
            Diagnostic::error(Code::UNKNOWN_NAME, span, format!("`{name}` is not defined"));
        diagnostic.help = help;
        self.refuse(diagnostic)
    }

    /// A constant, a state variable, or a name that is built in.
    pub(super) fn global(&mut self, name: &str) -> Option<(Ex, Type)> {
        let value = match name {
            "NULL" => return Some((Ex::Value(Value::Null), Type::Null)),
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => {
                if let Some(at) = self.set.states.iter().position(|s| s.name == name) {
                    self.used.insert(name.to_owned());
                    return Some((Ex::State(at), self.set.states[at].ty));
                }
                if let Some(value) = self.set.consts.get(name) {
                    self.used.insert(name.to_owned());
                    value.clone()
                } else {
                    Value::Int(names::constant(name)?)
                }
            }
        };
        let ty = match value {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Text(_) => Type::Text,
        };
        Some((Ex::Value(value), ty))
    }

    /// A text; the expression is a constant when there are no holes.
    fn text(&mut self, parts: &[TextPart], span: Span, scope: &Scope) -> Checked<Ex> {
        let mut joined = Vec::new();
        for part in parts {
            joined.push(match part {
                TextPart::Literal(bytes) => Ex::Value(Value::Text(bytes.clone().into())),
                TextPart::Hole(name) => {
                    let hidden = format!("_{name}");
                    let known = scope.get(name).is_some() || self.global(name).is_some();
                    if !known && scope.get(&hidden).is_some() {
                        self.lint(Diagnostic::lint(
                            Code::UNDERSCORE,
                            span,
                            format!("`${name}` is taken for `{hidden}`, which is what is bound"),
                        ));
                        self.name(&hidden, span, scope)?.0
                    } else {
                        self.name(name, span, scope)?.0
                    }
                }
            });
        }
        Ok(match joined.len() {
            0 => Ex::Value(Value::text(b"")),
            1 if matches!(joined[0], Ex::Value(Value::Text(_))) => joined.remove(0),
            _ => Ex::Join(joined),
        })
    }

    fn call(
        &mut self,
        name: &Name,
        args: &[Expr],
        span: Span,
        scope: &Scope,
    ) -> Checked<(Ex, Type)> {
        if let Some((function, wanted, ty)) = builtin(&name.text) {
            if let Some(wanted) = wanted
                && wanted.len() != args.len()
            {
                let message = format!(
                    "`{}` takes {} values, not {}",
                    name.text,
                    wanted.len(),
                    args.len()
                );
                return self.error(Code::ARGUMENTS, span, message);
            }
            let mut codes = Vec::new();
            for (i, arg) in args.iter().enumerate() {
                let wanted = wanted.map_or(Type::Text, |w| w[i]);
                codes.push(self.typed(arg, scope, wanted)?);
            }
            return Ok((Ex::Call(function, codes), ty));
        }
        let (taker, results) = self.taker(name)?;
        let [arg] = args else {
            return self.error(
                Code::ARGUMENTS,
                span,
                format!("`{}` takes one text", name.text),
            );
        };
        let arg = self.typed(arg, scope, Type::Text)?;
        let ty = results.map_or(Type::Text, |r| r[0].1);
        Ok((Ex::Parse(taker, Box::new(arg)), ty))
    }

    /// A parser, and its results when their number is fixed.
    fn taker(&mut self, name: &Name) -> Checked<(Taker, Option<Results>)> {
        match name.text.as_str() {
            "words" => return Ok((Taker::Words, None)),
            "resp" => return Ok((Taker::Resp, None)),
            _ => {}
        }
        if let Some(at) = self.set.parsers.iter().position(|p| p.name == name.text) {
            self.used.insert(name.text.clone());
            return Ok((
                Taker::Parser(at),
                Some(self.set.parsers[at].results.clone()),
            ));
        }
        let known: Vec<&str> = self
            .set
            .parsers
            .iter()
            .map(|p| p.name.as_str())
            .chain(Builtin::ALL.iter().map(|b| b.0))
            .chain(["words", "resp"])
            .collect();
        let help = nearest(&name.text, known.into_iter()).map_or_else(
            || {
                format!(
                    "define it: `parser {} = /(?<first>...) (?<second>...)/;`",
                    name.text
                )
            },
            |n| format!("did you mean `{n}`?"),
        );
        let message = format!("there is no parser or function `{}`", name.text);
        self.refuse(Diagnostic::error(Code::UNKNOWN_NAME, name.span, message).help(help))
    }

    pub(super) fn block(
        &mut self,
        block: Option<&Block>,
        scope: &mut Scope,
        place: Place,
    ) -> Checked<Vec<Do>> {
        let Some(block) = block else {
            return Ok(Vec::new());
        };
        let mut code = Vec::new();
        for (i, statement) in block.statements.iter().enumerate() {
            let last = i + 1 == block.statements.len();
            if let Some(next) = self.statement(statement, scope, place, last)? {
                code.push(next);
            }
        }
        if place == Place::Guard && !matches!(code.last(), Some(Do::Return(_))) {
            let span = block.statements.last().map_or(Span::default(), |s| s.span);
            return self.refuse(
                Diagnostic::error(Code::BAD_STATEMENT, span, "a guard ends in `return`")
                    .help("add `return true` or the condition under which the rule applies"),
            );
        }
        Ok(code)
    }

    fn statement(
        &mut self,
        tree: &Statement,
        scope: &mut Scope,
        place: Place,
        last: bool,
    ) -> Checked<Option<Do>> {
        match &tree.kind {
            StatementKind::Return(value) => {
                if place == Place::Body || !last {
                    return self.error(
                        Code::BAD_STATEMENT,
                        tree.span,
                        "`return` may only end a guard",
                    );
                }
                let code = self.typed(value, scope, Type::Bool)?;
                if matches!(code, Ex::Value(Value::Bool(false))) {
                    self.lint(Diagnostic::lint(
                        Code::NEVER_TRUE,
                        tree.span,
                        "this is never true, the rule cannot apply",
                    ));
                }
                Ok(Some(Do::Return(code)))
            }
            StatementKind::Log(value) => {
                if place == Place::Guard {
                    return self.error(
                        Code::BAD_STATEMENT,
                        tree.span,
                        "a guard may not log: it may run without the rule applying",
                    );
                }
                Ok(Some(Do::Log(self.typed(value, scope, Type::Text)?)))
            }
            StatementKind::Take(names, value) => {
                self.take(names, value, tree.span, scope).map(Some)
            }
            StatementKind::Assign {
                name,
                add,
                deref,
                value,
            } => self
                .assign(name, *add, *deref, value, scope, place)
                .map(Some),
        }
    }

    fn assign(
        &mut self,
        name: &Name,
        add: bool,
        deref: bool,
        value: &Expr,
        scope: &mut Scope,
        place: Place,
    ) -> Checked<Do> {
        let (mut code, mut ty) = self.expr(value, scope)?;
        let state = self.set.states.iter().position(|s| s.name == name.text);
        let known = scope.get(&name.text);
        if place == Place::Guard && (deref || state.is_some()) {
            return self.error(
                Code::BAD_STATEMENT,
                name.span,
                "a guard may not change anything: it may run without the rule applying",
            );
        }
        if (deref || add) && known.is_none() && (deref || state.is_none()) {
            let message = format!("`{}` is not bound by the rule", name.text);
            return self.error(Code::UNKNOWN_NAME, name.span, message);
        }
        let old = match (known, state) {
            (Some((var, ty)), _) => Some((Ex::Var(var), ty)),
            (None, Some(at)) => Some((Ex::State(at), self.set.states[at].ty)),
            (None, None) => None,
        };
        if let Some((old, old_ty)) = old
            && (add || deref || state.is_some())
        {
            self.want(ty, old_ty, value.span)?;
            if add {
                ty = old_ty;
                code = Ex::Binary(Op::Add, Box::new(old), Box::new(code));
            }
        }
        if known.is_none()
            && let Some(at) = state
        {
            self.used.insert(name.text.clone());
            return Ok(Do::SetState(at, code));
        }
        Ok(Do::Set(scope.define(&name.text, ty), code))
    }

    fn take(
        &mut self,
        names: &[Option<Name>],
        value: &Expr,
        span: Span,
        scope: &mut Scope,
    ) -> Checked<Do> {
        let ExprKind::Call(parser, _, args) = &value.kind else {
            return self.error(
                Code::BAD_STATEMENT,
                value.span,
                "several names can only be bound to the results of a parser",
            );
        };
        if builtin(&parser.text).is_some() {
            return self.error(
                Code::TYPE,
                value.span,
                format!("`{}` has one result", parser.text),
            );
        }
        let (taker, results) = self.taker(parser)?;
        let [arg] = args.as_slice() else {
            return self.error(
                Code::ARGUMENTS,
                value.span,
                format!("`{}` takes one text", parser.text),
            );
        };
        let arg = self.typed(arg, scope, Type::Text)?;
        let mut targets = Vec::new();
        // The paper gives one parser three and four results. By position the three would get the
        // wrong values; their names say which ones are meant.
        let by_name = results.as_ref().is_some_and(|r| r.len() != names.len());
        if by_name {
            let count = results.as_ref().map_or(0, Vec::len);
            let message = format!(
                "`{}` has {count} results and {} are taken: they are taken by name",
                parser.text,
                names.len()
            );
            self.lint(Diagnostic::lint(Code::BY_NAME, span, message));
        }
        for (i, name) in names.iter().enumerate() {
            let Some(name) = name else { continue };
            let (at, ty) = match &results {
                None => (i, Type::Text),
                Some(results) if !by_name => (i, results[i].1),
                Some(results) => {
                    let plain = name.text.trim_start_matches('_');
                    let found = results
                        .iter()
                        .position(|(r, _)| *r == name.text)
                        .or_else(|| {
                            results
                                .iter()
                                .position(|(r, _)| r.trim_start_matches('_') == plain)
                        });
                    let Some(at) = found else {
                        let known: Vec<&str> = results.iter().map(|(r, _)| r.as_str()).collect();
                        let message = format!("`{}` has no result `{}`", parser.text, name.text);
                        let help = format!("it has {}", known.join(", "));
                        return self.refuse(
                            Diagnostic::error(Code::UNKNOWN_NAME, name.span, message).help(help),
                        );
                    };
                    (at, results[at].1)
                }
            };
            targets.push((at, scope.define(&name.text, ty)));
        }
        Ok(Do::Take(taker, arg, targets))
    }
}
