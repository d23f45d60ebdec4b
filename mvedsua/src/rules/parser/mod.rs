//! Tokens to syntax tree, by recursive descent. After an error it goes on at the next item.

mod expr;
pub(crate) use expr::BINARY;
mod item;
mod rule;
mod test_case;

use super::ast::{File, Name, Trivia};
use super::diagnostic::{Code, Diagnostic};
use super::lexer::{Comment, Number, Token, TokenKind, lex};
use super::source::{FileId, Span};

/// Deepest nesting of brackets and braces.
const MAX_DEPTH: u32 = 64;

/// Most errors that are reported for one file.
const MAX_ERRORS: usize = 50;

/// The parser gave up on a construct; the diagnostic has been noted.
struct GaveUp;

type Parsed<T> = Result<T, GaveUp>;

/// Reads one file. The tree holds whatever could be understood.
#[must_use]
pub fn parse(file: FileId, text: &str) -> (File, Vec<Diagnostic>) {
    let lexed = lex(file, text);
    let mut parser = Parser {
        text,
        tokens: lexed.tokens,
        comments: lexed.comments,
        next_comment: 0,
        at: 0,
        depth: 0,
        diagnostics: lexed.diagnostics,
    };
    let items = parser.items(false);
    let tail = parser.comments_before(u32::MAX);
    parser
        .diagnostics
        .sort_by_key(|diagnostic| diagnostic.span.start);
    parser.diagnostics.truncate(MAX_ERRORS);
    (File { items, tail }, parser.diagnostics)
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    comments: Vec<Comment>,
    next_comment: usize,
    at: usize,
    depth: u32,
    diagnostics: Vec<Diagnostic>,
}

impl Parser<'_> {
    fn peek(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    fn peek_at(&self, ahead: usize) -> &TokenKind {
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].kind
    }

    fn span(&self) -> Span {
        self.tokens[self.at].span
    }

    /// Span of the token that was taken last.
    fn last(&self) -> Span {
        self.tokens[self.at.saturating_sub(1)].span
    }

    /// True when the next two tokens are a name and a bracket with nothing in between: a call,
    /// even if the name is also a word of the language.
    fn is_call(&self) -> bool {
        matches!(
            (self.peek(), self.peek_at(1)),
            (TokenKind::Ident(_), TokenKind::Punct("("))
        ) && self.tokens[self.at + 1].span.start == self.span().end
    }

    fn bump(&mut self) -> TokenKind {
        let kind = self.tokens[self.at].kind.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        kind
    }

    fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), TokenKind::Punct(p) if *p == punct)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), TokenKind::Ident(name) if name == word)
    }

    fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        if found {
            self.bump();
        }
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.bump();
        }
        found
    }

    fn found(&self) -> String {
        match self.peek() {
            TokenKind::Ident(name) => format!("`{name}`"),
            TokenKind::Int(number) => format!("`{}`", number.written),
            TokenKind::Text(_) => "a text".to_owned(),
            TokenKind::Regex(_) => "a regular expression".to_owned(),
            TokenKind::Punct(p) => format!("`{p}`"),
            TokenKind::End => "the end of the file".to_owned(),
        }
    }

    fn fail<T>(&mut self, wanted: &str) -> Parsed<T> {
        let message = format!("expected {wanted}, found {}", self.found());
        self.diagnostics
            .push(Diagnostic::error(Code::SYNTAX, self.span(), message));
        Err(GaveUp)
    }

    fn fail_help<T>(&mut self, wanted: &str, help: &str) -> Parsed<T> {
        let failed = self.fail(wanted);
        if let Some(last) = self.diagnostics.last_mut() {
            last.help = Some(help.to_owned());
        }
        failed
    }

    fn expect(&mut self, punct: &'static str) -> Parsed<()> {
        if self.eat(punct) {
            Ok(())
        } else {
            self.fail(&format!("`{punct}`"))
        }
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.eat_word(word) {
            Ok(())
        } else {
            self.fail(&format!("`{word}`"))
        }
    }

    fn name(&mut self, what: &str) -> Parsed<Name> {
        let span = self.span();
        match self.peek() {
            TokenKind::Ident(text) => {
                let text = text.clone();
                self.bump();
                Ok(Name { text, span })
            }
            _ => self.fail(what),
        }
    }

    fn int(&mut self, what: &str) -> Parsed<Number> {
        match self.peek() {
            TokenKind::Int(number) => {
                let number = number.clone();
                self.bump();
                Ok(number)
            }
            _ => self.fail(what),
        }
    }

    /// A text without holes.
    fn plain_text(&mut self, what: &str) -> Parsed<Vec<u8>> {
        use super::lexer::TextPart;
        match self.peek() {
            TokenKind::Text(parts) => match parts.as_slice() {
                [] => {
                    self.bump();
                    Ok(Vec::new())
                }
                [TextPart::Literal(bytes)] => {
                    let bytes = bytes.clone();
                    self.bump();
                    Ok(bytes)
                }
                _ => self.fail_help(
                    what,
                    "write `\\$` for a dollar sign; holes have no meaning here",
                ),
            },
            _ => self.fail(what),
        }
    }

    fn plain_string(&mut self, what: &str) -> Parsed<String> {
        let bytes = self.plain_text(what)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => self.fail("text in UTF-8"),
        }
    }

    fn regex(&mut self, what: &str) -> Parsed<(String, Span)> {
        let span = self.span();
        match self.peek() {
            TokenKind::Regex(text) => {
                let text = text.clone();
                self.bump();
                Ok((text, span))
            }
            _ => self.fail(what),
        }
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} deep");
            self.diagnostics
                .push(Diagnostic::error(Code::TOO_LARGE, self.span(), message));
            return Err(GaveUp);
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Takes the comments that stand before byte `limit`.
    fn comments_before(&mut self, limit: u32) -> Trivia {
        let mut leading = Vec::new();
        while let Some(comment) = self.comments.get(self.next_comment) {
            if comment.span.start >= limit {
                break;
            }
            leading.push(comment.text.clone());
            self.next_comment += 1;
        }
        Trivia {
            leading,
            trailing: None,
        }
    }

    /// Takes the comments before the next token.
    fn leading(&mut self) -> Trivia {
        let limit = self.span().start;
        self.comments_before(limit)
    }

    /// Completes `trivia` after a node was read: comments inside of it move before it, and one at
    /// the end of its last line stays there.
    fn close_trivia(&mut self, mut trivia: Trivia) -> Trivia {
        let end = self.last().end;
        trivia.leading.extend(self.comments_before(end).leading);
        if let Some(comment) = self.comments.get(self.next_comment) {
            let gap = self
                .text
                .get(end as usize..comment.span.start as usize)
                .unwrap_or("\n");
            if !comment.own_line && !gap.contains('\n') && comment.span.start < self.span().start {
                trivia.trailing = Some(comment.text.clone());
                self.next_comment += 1;
            }
        }
        trivia
    }

    /// After an error: goes to where the next item seems to start.
    fn recover(&mut self, start: usize) {
        if self.at == start {
            self.bump();
        }
        let mut depth = 0_i32;
        loop {
            let token = &self.tokens[self.at];
            match &token.kind {
                TokenKind::End => return,
                TokenKind::Punct("{" | "(" | "[") => depth += 1,
                TokenKind::Punct("}") if depth == 0 => return,
                TokenKind::Punct("}" | ")" | "]") => depth -= 1,
                TokenKind::Punct(";") if depth <= 0 => {
                    self.bump();
                    return;
                }
                TokenKind::Ident(_)
                    if token.first && self.indent(token) <= self.indent(&self.tokens[start]) =>
                {
                    return;
                }
                _ => {}
            }
            self.bump();
        }
    }

    /// Bytes between the start of the line and the token.
    fn indent(&self, token: &Token) -> usize {
        let start = token.span.start as usize;
        start - self.text[..start].rfind('\n').map_or(0, |at| at + 1)
    }
}

#[cfg(test)]
pub(crate) mod tests;
