//! Expressions, by precedence climbing.

use super::{Parsed, Parser};
use crate::rules::ast::{Expr, ExprKind};
use crate::rules::lexer::TokenKind;

/// Binary operators with their precedence; a higher number binds more tightly.
pub(crate) const BINARY: [(&str, u8); 14] = [
    ("||", 1),
    ("&&", 2),
    ("==", 3),
    ("!=", 3),
    ("~", 3),
    ("<", 4),
    ("<=", 4),
    (">", 4),
    (">=", 4),
    ("|", 5),
    ("&", 6),
    ("+", 7),
    ("-", 7),
    ("*", 8),
];

impl Parser<'_> {
    pub(super) fn expr(&mut self) -> Parsed<Expr> {
        self.nested(|p| p.binary(0))
    }

    fn binary(&mut self, least: u8) -> Parsed<Expr> {
        let mut left = self.unary()?;
        let mut length = 0;
        loop {
            let TokenKind::Punct(punct) = *self.peek() else {
                return Ok(left);
            };
            let Some((op, level)) = BINARY.into_iter().find(|(op, _)| *op == punct) else {
                return Ok(left);
            };
            if level <= least {
                return Ok(left);
            }
            length += 1;
            if length > super::MAX_DEPTH {
                return self.fail("a shorter expression");
            }
            self.bump();
            let right = self.nested(|p| p.binary(level))?;
            let span = left.span.to(right.span);
            left = Expr {
                span,
                kind: ExprKind::Binary(op, Box::new(left), Box::new(right)),
            };
        }
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let from = self.span();
        for op in ["!", "-"] {
            if self.eat(op) {
                let inner = self.nested(Self::unary)?;
                let span = from.to(inner.span);
                let negated = match &inner.kind {
                    ExprKind::Int(number) if op == "-" => number.negated(),
                    _ => None,
                };
                let kind = match negated {
                    Some(number) => ExprKind::Int(number),
                    None => ExprKind::Unary(op, Box::new(inner)),
                };
                return Ok(Expr { span, kind });
            }
        }
        self.postfix()
    }

    /// A value without binary operators, as it may stand after `=` of a result.
    pub(super) fn value(&mut self) -> Parsed<Expr> {
        self.nested(Self::unary)
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        let mut length = 0;
        while self.is("[") {
            length += 1;
            if length > super::MAX_DEPTH {
                return self.fail("a shorter expression");
            }
            self.bump();
            let from = if self.is("..") {
                None
            } else {
                Some(Box::new(self.expr()?))
            };
            self.expect("..")?;
            let to = if self.is("]") {
                None
            } else {
                Some(Box::new(self.expr()?))
            };
            self.expect("]")?;
            let span = expr.span.to(self.last());
            expr = Expr {
                span,
                kind: ExprKind::Slice(Box::new(expr), from, to),
            };
        }
        Ok(expr)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let from = self.span();
        let kind = match self.peek().clone() {
            TokenKind::Int(number) => {
                self.bump();
                ExprKind::Int(number)
            }
            TokenKind::Text(parts) => {
                self.bump();
                ExprKind::Text(parts)
            }
            TokenKind::Regex(text) => {
                self.bump();
                ExprKind::Regex(text)
            }
            TokenKind::Ident(_) => {
                let name = self.name("a name")?;
                // A bracket on the next line, or after a blank, starts something else: the paper
                // ends statements without a semicolon.
                if self.is("(") && self.span().start == name.span.end {
                    return self.call(name);
                }
                ExprKind::Name(name.text)
            }
            TokenKind::Punct("$") => {
                self.bump();
                self.expect("(")?;
                let inner = self.expr()?;
                self.expect(")")?;
                ExprKind::Deref(Box::new(inner))
            }
            TokenKind::Punct("(") => {
                self.bump();
                let inner = self.expr()?;
                self.expect(")")?;
                return Ok(inner);
            }
            TokenKind::Punct("_") => {
                return self.fail_help("a value", "`_` may only stand for a whole argument");
            }
            _ => return self.fail("a value"),
        };
        Ok(Expr {
            span: from.to(self.last()),
            kind,
        })
    }

    fn call(&mut self, mut name: crate::rules::ast::Name) -> Parsed<Expr> {
        let from = name.span;
        let dollar = name.text.ends_with('$');
        if dollar {
            name.text.pop();
        }
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.eat(")") {
            args.push(self.expr()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(Expr {
            span: from.to(self.last()),
            kind: ExprKind::Call(name, dollar, args),
        })
    }
}
