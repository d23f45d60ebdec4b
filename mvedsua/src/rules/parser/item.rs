//! Items: everything that stands at the top of a file or of a stage section.

use super::{Parsed, Parser};
use crate::rules::ast::{
    Direction, Field, FieldKind, Framing, Ignore, IgnoreField, Item, ItemKind, Number, ParserBody,
    StateScope,
};
use crate::rules::lexer::TokenKind;

impl Parser<'_> {
    /// Items up to the end of the file, or to `}` inside of a section.
    pub(super) fn items(&mut self, inside: bool) -> Vec<Item> {
        let mut items = Vec::new();
        loop {
            while self.eat(";") {}
            if *self.peek() == TokenKind::End || (inside && self.is("}")) {
                return items;
            }
            let start = self.at;
            let depth = self.depth;
            let trivia = self.leading();
            let from = self.span();
            match self.item(inside) {
                Ok(kind) => {
                    self.eat(";");
                    let span = from.to(self.last());
                    let trivia = self.close_trivia(trivia);
                    items.push(Item { trivia, span, kind });
                }
                Err(super::GaveUp) => {
                    self.depth = depth;
                    self.recover(start);
                    if !inside && self.is("}") {
                        self.bump();
                    }
                }
            }
        }
    }

    fn item(&mut self, inside: bool) -> Parsed<ItemKind> {
        // `read(...)` is a rule even if a call were named like one of the words.
        let call = matches!(self.peek_at(1), TokenKind::Punct("("));
        let word = match self.peek() {
            TokenKind::Ident(word) if !call => word.clone(),
            TokenKind::Ident(_) => return self.rule().map(|r| ItemKind::Rule(Box::new(r))),
            _ => {
                return self.fail_help(
                    "a rule or a declaration",
                    "a rule is `call(patterns) => call(values)`; see docs/rules.md",
                );
            }
        };
        match word.as_str() {
            "rule" => self.rule().map(|r| ItemKind::Rule(Box::new(r))),
            "ignore" => self.ignore().map(ItemKind::Ignore),
            "test" => self.test().map(ItemKind::Test),
            "forward" | "reverse" if !inside => self.stage(),
            "include" if !inside => {
                self.bump();
                Ok(ItemKind::Include(self.plain_string("the path of a file, as text")?))
            }
            "const" => {
                self.bump();
                let name = self.name("the name of the constant")?;
                self.expect("=")?;
                Ok(ItemKind::Const(name, self.expr()?))
            }
            "state" => self.state(),
            "parser" => self.parser_item(),
            "messages" => self.messages(),
            "forward" | "reverse" | "include" => {
                self.fail_help("a rule", "this may only stand at the top of a file")
            }
            _ => self.fail_help(
                "a rule or a declaration",
                "items start with a call and `(`, or with rule, forward, reverse, ignore, const, state, parser, messages, include, test",
            ),
        }
    }

    fn stage(&mut self) -> Parsed<ItemKind> {
        let direction = if self.eat_word("forward") {
            Direction::Forward
        } else {
            Direction::Reverse
        };
        if direction == Direction::Reverse {
            self.expect_word("reverse")?;
        }
        self.expect("{")?;
        let items = self.nested(|p| Ok(p.items(true)))?;
        let tail = self.leading();
        self.expect("}")?;
        Ok(ItemKind::Stage {
            direction,
            items,
            tail,
        })
    }

    fn state(&mut self) -> Parsed<ItemKind> {
        self.bump();
        let scope = if self.eat_word("connection") {
            StateScope::Connection
        } else if self.eat_word("service") {
            StateScope::Service
        } else {
            return self.fail("`connection` or `service`");
        };
        let name = self.name("the name of the variable")?;
        self.expect("=")?;
        Ok(ItemKind::State {
            scope,
            name,
            value: self.expr()?,
        })
    }

    fn parser_item(&mut self) -> Parsed<ItemKind> {
        self.bump();
        let mut name = self.name("the name of the parser")?;
        if name.text.ends_with('$') {
            name.text.pop();
        }
        self.expect("=")?;
        let body = if let TokenKind::Regex(_) = self.peek() {
            let (regex, span) = self.regex("a regular expression")?;
            ParserBody::Regex(regex, span)
        } else if self.eat_word("split") {
            let delimiter = self.plain_text("the delimiter, as text")?;
            self.expect_word("into")?;
            let mut names = vec![self.name("the name of a result")?];
            while self.eat(",") {
                names.push(self.name("the name of a result")?);
            }
            ParserBody::Split(delimiter, names)
        } else if self.eat_word("fields") {
            let mut fields = Vec::new();
            loop {
                let name = self.name("the name of a field")?;
                self.expect(":")?;
                let (kind, written) = self.field_kind()?;
                fields.push(Field {
                    name,
                    kind,
                    written,
                });
                if !self.eat(",") {
                    break;
                }
            }
            ParserBody::Fields(fields)
        } else {
            return self.fail("a regular expression, `split` or `fields`");
        };
        Ok(ItemKind::Parser(name, body))
    }

    fn field_kind(&mut self) -> Parsed<(FieldKind, Option<Number>)> {
        const KINDS: [(&str, FieldKind); 8] = [
            ("u8", FieldKind::Number(1, true)),
            ("u16be", FieldKind::Number(2, true)),
            ("u16le", FieldKind::Number(2, false)),
            ("u32be", FieldKind::Number(4, true)),
            ("u32le", FieldKind::Number(4, false)),
            ("u64be", FieldKind::Number(8, true)),
            ("u64le", FieldKind::Number(8, false)),
            ("rest", FieldKind::Rest),
        ];
        const WANTED: &str =
            "a number of bytes, u8, u16be, u16le, u32be, u32le, u64be, u64le or rest";
        if let TokenKind::Int(number) = self.peek() {
            let number = number.clone();
            let Ok(bytes) = u32::try_from(number.value) else {
                return self.fail(WANTED);
            };
            self.bump();
            return Ok((FieldKind::Bytes(bytes), Some(number)));
        }
        let found = KINDS
            .iter()
            .find(|(word, _)| self.is_word(word))
            .map(|(_, kind)| *kind);
        match found {
            Some(kind) => {
                self.bump();
                Ok((kind, None))
            }
            None => self.fail(WANTED),
        }
    }

    fn messages(&mut self) -> Parsed<ItemKind> {
        self.bump();
        let mut written = None;
        let framing = if self.eat_word("resp") {
            Framing::Resp
        } else if self.eat_word("line") {
            if let TokenKind::Text(_) = self.peek() {
                Framing::Delimited(self.plain_text("the end of a line, as text")?)
            } else {
                Framing::Delimited(b"\n".to_vec())
            }
        } else if self.eat_word("fixed") {
            let bytes = self.int("a number of bytes")?;
            let Ok(number) = u32::try_from(bytes.value) else {
                return self.fail("a smaller number");
            };
            written = Some(bytes);
            Framing::Fixed(number)
        } else {
            return self.fail("`line`, `resp` or `fixed`");
        };
        Ok(ItemKind::Messages(framing, written))
    }

    fn ignore(&mut self) -> Parsed<Ignore> {
        self.bump();
        let pattern = self.pattern()?;
        self.expect_word("in")?;
        let mut fields = Vec::new();
        loop {
            let name = self.name("the name of an argument")?;
            let regex = match self.peek() {
                TokenKind::Regex(_) => Some(self.regex("a regular expression")?),
                _ => None,
            };
            fields.push(IgnoreField { name, regex });
            if !self.eat(",") {
                break;
            }
        }
        Ok(Ignore { pattern, fields })
    }
}
