//! Rules: patterns, templates, blocks.

use super::{Parsed, Parser};
use crate::rules::ast::{
    Arg, ArgKind, Block, Header, Outcome, Pattern, Repeat, Rule, Scope, Statement, StatementKind,
    Template,
};
use crate::rules::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn rule(&mut self) -> Parsed<Rule> {
        let header = if self.eat_word("rule") {
            Some(self.header()?)
        } else {
            None
        };
        let mut patterns = vec![self.pattern()?];
        while self.eat(",") {
            patterns.push(self.pattern()?);
        }
        let when = if self.eat_word("when") {
            Some(self.expr()?)
        } else {
            None
        };
        if !self.is("=>") {
            return self.fail_help(
                "`=>`",
                "a rule is `the leader's calls => the calls that the follower is expected to make`",
            );
        }
        self.bump();
        let outcome = self.outcome()?;
        Ok(Rule {
            header,
            patterns,
            when,
            outcome,
        })
    }

    fn header(&mut self) -> Parsed<Header> {
        let name = self.name("the name of the rule")?;
        let mut header = Header {
            name,
            reversible: false,
            scope: None,
            calls: None,
            ms: None,
        };
        while !self.eat(":") {
            if self.eat_word("reversible") {
                header.reversible = true;
            } else if self.eat_word("on") {
                header.scope = Some(if self.eat_word("fd") {
                    Scope::Fd
                } else if self.eat_word("thread") {
                    Scope::Thread
                } else {
                    return self.fail("`fd` or `thread`");
                });
            } else if self.eat_word("within") {
                let number = self.int("a number")?;
                if self.eat_word("calls") {
                    header.calls = Some(number);
                } else if self.eat_word("ms") {
                    header.ms = Some(number);
                } else {
                    return self.fail("`calls` or `ms`");
                }
            } else {
                return self.fail("`:`, `reversible`, `on` or `within`");
            }
        }
        Ok(header)
    }

    pub(super) fn pattern(&mut self) -> Parsed<Pattern> {
        let from = self.span();
        let call = self.name("the name of a system call")?;
        let args = self.args()?;
        let repeat = self.repeat();
        let result = if self.eat("=") {
            Some(self.result()?)
        } else {
            None
        };
        let guard = if self.is("{") {
            Some(self.block()?)
        } else {
            None
        };
        let alias = if self.eat_word("as") {
            Some(self.name("a name for the call")?)
        } else {
            None
        };
        Ok(Pattern {
            span: from.to(self.last()),
            call,
            args,
            result,
            repeat,
            guard,
            alias,
        })
    }

    /// A result: a value, or `-1 ENAME` as strace prints it.
    fn result(&mut self) -> Parsed<crate::rules::ast::Expr> {
        if self.is("-")
            && matches!(self.peek_at(1), TokenKind::Int(one) if one.value == 1)
            && let TokenKind::Ident(name) = self.peek_at(2)
            && name.starts_with('E')
            && name
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        {
            self.bump();
            self.bump();
        }
        self.value()
    }

    fn repeat(&mut self) -> Repeat {
        for repeat in [Repeat::Optional, Repeat::Any, Repeat::Some] {
            if self.eat(repeat.sign()) {
                return repeat;
            }
        }
        Repeat::Once
    }

    fn args(&mut self) -> Parsed<Vec<Arg>> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.eat(")") {
            args.push(self.arg()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(args)
    }

    fn arg(&mut self) -> Parsed<Arg> {
        let from = self.span();
        let label = match (self.peek(), self.peek_at(1)) {
            (TokenKind::Ident(_), TokenKind::Punct(":")) => {
                let label = self.name("a name")?;
                self.bump();
                Some(label)
            }
            _ => None,
        };
        let kind = if self.eat("_") {
            ArgKind::Any
        } else if self.eat(".") {
            ArgKind::SameFd
        } else {
            ArgKind::Value(self.expr()?)
        };
        Ok(Arg {
            label,
            span: from.to(self.last()),
            kind,
        })
    }

    fn outcome(&mut self) -> Parsed<Outcome> {
        let word = match self.peek() {
            TokenKind::Ident(word) if !self.is_call() => word.as_str(),
            _ => "",
        };
        Ok(match word {
            "nothing" => {
                self.bump();
                Outcome::Nothing(self.optional_block()?)
            }
            "same" => {
                self.bump();
                Outcome::Same(self.optional_block()?)
            }
            "tolerate" => {
                self.bump();
                Outcome::Tolerate(self.optional_block()?)
            }
            "retry" => {
                self.bump();
                Outcome::Retry(self.expr()?)
            }
            "terminate" => {
                self.bump();
                self.expect_word("follower")?;
                Outcome::Terminate(self.expr()?)
            }
            "log" => {
                self.bump();
                Outcome::Log(self.expr()?)
            }
            _ => {
                let mut calls = vec![self.template()?];
                while self.eat(",") {
                    calls.push(self.template()?);
                }
                Outcome::Calls(calls)
            }
        })
    }

    fn optional_block(&mut self) -> Parsed<Option<Block>> {
        if self.is("{") {
            self.block().map(Some)
        } else {
            Ok(None)
        }
    }

    pub(super) fn template(&mut self) -> Parsed<Template> {
        let from = self.span();
        let call = self.name("a call that the follower makes")?;
        let args = if self.is("(") {
            Some(self.args()?)
        } else {
            None
        };
        let repeat = self.repeat();
        let result = if self.eat("=") {
            Some(self.result()?)
        } else {
            None
        };
        let pieces = self.eat_word("in");
        if pieces {
            self.expect_word("pieces")?;
        }
        let body = self.optional_block()?;
        Ok(Template {
            span: from.to(self.last()),
            call,
            args,
            result,
            repeat,
            pieces,
            body,
        })
    }

    pub(super) fn block(&mut self) -> Parsed<Block> {
        self.nested(|p| {
            p.expect("{")?;
            let mut statements = Vec::new();
            loop {
                while p.eat(";") {}
                if p.is("}") {
                    break;
                }
                let trivia = p.leading();
                let from = p.span();
                let kind = p.statement()?;
                p.eat(";");
                let span = from.to(p.last());
                let trivia = p.close_trivia(trivia);
                statements.push(Statement { trivia, span, kind });
            }
            let tail = p.leading();
            p.expect("}")?;
            Ok(Block { statements, tail })
        })
    }

    fn statement(&mut self) -> Parsed<StatementKind> {
        if self.eat("(") {
            let mut names = Vec::new();
            loop {
                if self.eat("_") {
                    names.push(None);
                } else {
                    names.push(Some(self.name("a name or `_`")?));
                }
                if !self.eat(",") {
                    break;
                }
            }
            self.expect(")")?;
            self.expect("=")?;
            return Ok(StatementKind::Take(names, self.expr()?));
        }
        if self.eat("$") {
            self.expect("(")?;
            let name = self.name("the name of an argument")?;
            self.expect(")")?;
            return self.assign(name, true);
        }
        let next_is_assign = matches!(self.peek_at(1), TokenKind::Punct("=" | "+="));
        if !next_is_assign && self.eat_word("return") {
            return Ok(StatementKind::Return(self.expr()?));
        }
        if !next_is_assign && self.eat_word("log") {
            return Ok(StatementKind::Log(self.expr()?));
        }
        let name = self.name("a statement")?;
        self.assign(name, false)
    }

    fn assign(&mut self, name: crate::rules::ast::Name, deref: bool) -> Parsed<StatementKind> {
        let add = self.eat("+=");
        if !add && !self.eat("=") {
            return self.fail_help(
                "`=` or `+=`",
                "statements are `x = ...`, `$(x) = ...`, `(a, b) = parser(x)`, `return ...` and `log \"...\"`",
            );
        }
        Ok(StatementKind::Assign {
            name,
            add,
            deref,
            value: self.expr()?,
        })
    }
}
