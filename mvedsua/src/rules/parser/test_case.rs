//! Test cases that stand beside the rules.

use super::{Parsed, Parser};
use crate::rules::ast::{Direction, Test, TestLine, TestLineKind, Trivia};

impl Parser<'_> {
    pub(super) fn test(&mut self) -> Parsed<Test> {
        self.bump();
        let name = self.plain_string("the name of the test, as text")?;
        let direction = if self.eat_word("forward") {
            Some(Direction::Forward)
        } else if self.eat_word("reverse") {
            Some(Direction::Reverse)
        } else {
            None
        };
        self.expect("{")?;
        self.expect_word("given")?;
        let (given, first) = self.test_lines()?;
        self.expect_word("expect")?;
        let (expect, second) = self.test_lines()?;
        self.expect("}")?;
        Ok(Test {
            name,
            direction,
            given,
            expect,
            tails: [first, second],
        })
    }

    fn test_lines(&mut self) -> Parsed<(Vec<TestLine>, Trivia)> {
        self.expect("{")?;
        let mut lines = Vec::new();
        loop {
            while self.eat(";") {}
            if self.is("}") {
                break;
            }
            let trivia = self.leading();
            let from = self.span();
            let kind = self.test_line()?;
            self.eat(";");
            let span = from.to(self.last());
            let trivia = self.close_trivia(trivia);
            lines.push(TestLine { trivia, span, kind });
        }
        let tail = self.leading();
        self.expect("}")?;
        Ok((lines, tail))
    }

    fn test_line(&mut self) -> Parsed<TestLineKind> {
        if !self.is_call() {
            if self.eat_word("connection") {
                return Ok(TestLineKind::Connection(self.int("a file descriptor")?));
            }
            if self.eat_word("after") {
                let ms = self.int("a number of milliseconds")?;
                self.expect_word("ms")?;
                return Ok(TestLineKind::After(ms));
            }
            if self.eat_word("retry") {
                return Ok(TestLineKind::Stop(true, self.expr()?));
            }
            if self.eat_word("terminate") {
                self.expect_word("follower")?;
                return Ok(TestLineKind::Stop(false, self.expr()?));
            }
            if self.eat_word("error") {
                return Ok(TestLineKind::Error(self.name("an error code")?.text));
            }
            if self.eat_word("thread") {
                let thread = self.int("the number of a thread")?;
                self.expect(":")?;
                return Ok(TestLineKind::Call(Some(thread), self.template()?));
            }
        }
        Ok(TestLineKind::Call(None, self.template()?))
    }
}
