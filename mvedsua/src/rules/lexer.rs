//! Text to tokens. Never fails: what it does not know becomes a diagnostic and is left out.

use super::diagnostic::{Code, Diagnostic};
use super::source::{FileId, Span};

/// A part of a text literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextPart {
    /// Bytes as they are.
    Literal(Vec<u8>),
    /// `$name` or `${name}`.
    Hole(String),
}

/// A number, and how it was written: `0o644` says something that `420` does not, so that the formatter
/// writes a number as it found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// The number.
    pub value: i64,
    /// What stood in the file; with its sign, if one belongs to it.
    pub written: String,
}

impl Number {
    /// The same number with the other sign; `None` if 64 bits do not hold it.
    #[must_use]
    pub fn negated(&self) -> Option<Self> {
        let written = match self.written.strip_prefix('-') {
            Some(without) => without.to_owned(),
            None => format!("-{}", self.written),
        };
        let value = self.value.checked_neg()?;
        Some(Self { value, written })
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self {
            value,
            written: value.to_string(),
        }
    }
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A name; `f$` when a `$` stands between a name and an opening bracket.
    Ident(String),
    /// A number.
    Int(Number),
    /// `"..."`.
    Text(Vec<TextPart>),
    /// `/.../`, without the slashes.
    Regex(String),
    /// Punctuation.
    Punct(&'static str),
    /// End of the file.
    End,
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it is.
    pub span: Span,
    /// True when it is the first on its line.
    pub first: bool,
}

/// A `//` comment, without the slashes and the blanks around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// Its text.
    pub text: String,
    /// Where it is.
    pub span: Span,
    /// True when nothing else stands before it on its line.
    pub own_line: bool,
}

/// What the lexer makes of a file.
#[derive(Clone, Debug, Default)]
pub struct Lexed {
    /// The tokens; the last is [`TokenKind::End`].
    pub tokens: Vec<Token>,
    /// The comments, in order.
    pub comments: Vec<Comment>,
    /// What could not be read.
    pub diagnostics: Vec<Diagnostic>,
}

/// Longest file, in bytes.
pub const MAX_FILE: usize = 4 << 20;

const PUNCTUATION: [&str; 33] = [
    "=>", "==", "!=", "<=", ">=", "&&", "||", "+=", "-=", "..", "(", ")", "{", "}", "[", "]", ",",
    ";", ":", ".", "=", "<", ">", "!", "+", "-", "*", "?", "$", "~", "@", "|", "&",
];

/// Reads one file.
#[must_use]
pub fn lex(file: FileId, text: &str) -> Lexed {
    let mut lexer = Lexer {
        file,
        text,
        at: 0,
        out: Lexed::default(),
        first: true,
    };
    if text.len() > MAX_FILE {
        let message = format!("the file is larger than {} MiB", MAX_FILE >> 20);
        lexer.complain_code(Code::TOO_LARGE, 0, message);
        lexer.at = text.len();
    }
    lexer.run();
    lexer.out
}

struct Lexer<'a> {
    file: FileId,
    text: &'a str,
    at: usize,
    out: Lexed,
    first: bool,
}

fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.text
            .as_bytes()
            .get(self.at + ahead)
            .copied()
            .unwrap_or(0)
    }

    fn span(&self, start: usize) -> Span {
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span {
            file: self.file,
            start: short(start),
            end: short(self.at),
        }
    }

    fn complain(&mut self, start: usize, message: impl Into<String>) {
        self.complain_code(Code::BAD_TOKEN, start, message);
    }

    fn complain_code(&mut self, code: Code, start: usize, message: impl Into<String>) {
        let span = self.span(start);
        self.out
            .diagnostics
            .push(Diagnostic::error(code, span, message));
    }

    fn push(&mut self, start: usize, kind: TokenKind) {
        let span = self.span(start);
        self.out.tokens.push(Token {
            kind,
            span,
            first: self.first,
        });
        self.first = false;
    }

    fn run(&mut self) {
        while self.at < self.text.len() {
            let start = self.at;
            match self.peek(0) {
                b'\n' => {
                    self.at += 1;
                    self.first = true;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'/' if self.peek(1) == b'/' => self.comment(),
                b'/' => self.regex(),
                b'"' => self.text_literal(),
                b'0'..=b'9' => self.number(),
                byte if starts_name(byte) => self.name(),
                _ => {
                    let rest = &self.text[start..];
                    if let Some(p) = PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
                        self.at += p.len();
                        self.push(start, TokenKind::Punct(p));
                    } else {
                        let c = rest.chars().next().unwrap_or(' ');
                        self.at += c.len_utf8();
                        self.complain(start, format!("the character {c:?} has no meaning here"));
                    }
                }
            }
        }
        self.first = true;
        self.push(self.at, TokenKind::End);
    }

    fn comment(&mut self) {
        let start = self.at;
        let end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |at| start + at);
        self.at = end;
        let text = self.text[start..end]
            .trim_start_matches('/')
            .trim()
            .to_owned();
        let span = self.span(start);
        self.out.comments.push(Comment {
            text,
            span,
            own_line: self.first,
        });
    }

    fn name(&mut self) {
        let start = self.at;
        while in_name(self.peek(0)) {
            self.at += 1;
        }
        let name = &self.text[start..self.at];
        if name == "_" {
            return self.push(start, TokenKind::Punct("_"));
        }
        // `parse$(s)` is the paper's way to write `parse($(s))`.
        if self.peek(0) == b'$' && !matches!(self.peek(1), b'$' | b'{') {
            self.at += 1;
        }
        let name = self.text[start..self.at].to_owned();
        self.push(start, TokenKind::Ident(name));
    }

    fn number(&mut self) {
        let start = self.at;
        let (digits, radix) = match (self.peek(0), self.peek(1)) {
            (b'0', b'x') => (start + 2, 16),
            (b'0', b'o') => (start + 2, 8),
            _ => (start, 10),
        };
        self.at = digits;
        while self.peek(0).is_ascii_hexdigit() && (radix == 16 || self.peek(0).is_ascii_digit())
            || self.peek(0) == b'_'
        {
            self.at += 1;
        }
        let text = self.text[digits..self.at].replace('_', "");
        if radix == 10 && text.len() > 1 && text.starts_with('0') {
            let octal = text.trim_start_matches('0');
            self.complain(
                start,
                "a number does not begin with 0: octal ones are written with `0o`",
            );
            if let Some(last) = self.out.diagnostics.last_mut() {
                last.help = Some(format!(
                    "write `0o{octal}` for what C and strace write as `{text}`"
                ));
            }
        }
        let value = i64::from_str_radix(&text, radix).unwrap_or_else(|_| {
            self.complain(
                start,
                "this number does not fit 64 bits, or has wrong digits",
            );
            0
        });
        let written = self.text[start..self.at].to_owned();
        self.push(start, TokenKind::Int(Number { value, written }));
    }

    fn regex(&mut self) {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.text[self.at..].chars().next() {
                None | Some('\n') => {
                    self.complain(
                        start,
                        "the regular expression has no closing `/` on its line",
                    );
                    break;
                }
                Some('/') => {
                    self.at += 1;
                    break;
                }
                Some('\\') if self.peek(1) == b'/' => {
                    text.push('/');
                    self.at += 2;
                }
                Some('\\') if self.at + 1 < self.text.len() && self.peek(1) != b'\n' => {
                    let next = self.text[self.at + 1..].chars().next().unwrap_or('\\');
                    text.push('\\');
                    text.push(next);
                    self.at += 1 + next.len_utf8();
                }
                Some(c) => {
                    text.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
        self.push(start, TokenKind::Regex(text));
    }

    fn text_literal(&mut self) {
        let start = self.at;
        self.at += 1;
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        loop {
            let byte = self.peek(0);
            if self.at >= self.text.len() || byte == b'\n' {
                self.complain(start, "the text has no closing `\"` on its line");
                break;
            }
            match byte {
                b'"' => {
                    self.at += 1;
                    break;
                }
                b'\\' => self.escape(&mut literal),
                b'$' if starts_name(self.peek(1)) || self.peek(1) == b'{' => {
                    if !literal.is_empty() {
                        parts.push(TextPart::Literal(std::mem::take(&mut literal)));
                    }
                    if let Some(name) = self.hole() {
                        parts.push(TextPart::Hole(name));
                    }
                }
                _ => {
                    literal.push(byte);
                    self.at += 1;
                }
            }
        }
        if !literal.is_empty() {
            parts.push(TextPart::Literal(literal));
        }
        self.push(start, TokenKind::Text(parts));
    }

    fn hole(&mut self) -> Option<String> {
        let start = self.at;
        let braces = self.peek(1) == b'{';
        self.at += if braces { 2 } else { 1 };
        let from = self.at;
        while in_name(self.peek(0)) {
            self.at += 1;
        }
        let name = self.text[from..self.at].to_owned();
        if braces {
            if self.peek(0) != b'}' || name.is_empty() || !starts_name(name.as_bytes()[0]) {
                self.complain(start, "`${` needs a name and a closing `}`");
                return None;
            }
            self.at += 1;
        }
        Some(name)
    }

    fn escape(&mut self, literal: &mut Vec<u8>) {
        let start = self.at;
        let simple = match self.peek(1) {
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'0' => Some(0),
            c @ (b'\\' | b'"' | b'$') => Some(c),
            _ => None,
        };
        if let Some(byte) = simple {
            literal.push(byte);
            self.at += 2;
            return;
        }
        if self.peek(1) == b'x'
            && let Some(Ok(byte)) = self
                .text
                .get(self.at + 2..self.at + 4)
                .map(|hex| u8::from_str_radix(hex, 16))
        {
            literal.push(byte);
            self.at += 4;
            return;
        }
        self.at += 1;
        self.complain(
            start,
            "unknown escape; there are \\n \\r \\t \\0 \\\\ \\\" \\$ and \\xNN",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<TokenKind> {
        let lexed = lex(FileId(0), text);
        assert!(lexed.diagnostics.is_empty(), "{:?}", lexed.diagnostics);
        lexed.tokens.into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn the_papers_notation() {
        let ident = |s: &str| TokenKind::Ident(s.to_owned());
        let p = TokenKind::Punct;
        assert_eq!(
            kinds("parse$(s) $(n) += 7 _key _"),
            [
                ident("parse$"),
                p("("),
                ident("s"),
                p(")"),
                p("$"),
                p("("),
                ident("n"),
                p(")"),
                p("+="),
                TokenKind::Int(7.into()),
                ident("_key"),
                p("_"),
                TokenKind::End,
            ]
        );
    }

    #[test]
    fn holes_and_escapes() {
        let lit = |s: &str| TextPart::Literal(s.as_bytes().to_vec());
        assert_eq!(
            kinds(r#""$cmd-string ${k}x $3\r\n\$a\xff""#)[0],
            TokenKind::Text(vec![
                TextPart::Hole("cmd".into()),
                lit("-string "),
                TextPart::Hole("k".into()),
                TextPart::Literal(b"x $3\r\n$a\xff".to_vec()),
            ])
        );
    }

    #[test]
    fn an_octal_number_as_c_writes_it_is_no_decimal_one() {
        let lexed = lex(FileId(0), "0644 0 0o644");
        let [diagnostic] = &lexed.diagnostics[..] else {
            panic!("{:?}", lexed.diagnostics);
        };
        let help = diagnostic.help.as_deref().unwrap_or_default();
        assert!(help.contains("`0o644`"), "{help}");
    }

    #[test]
    fn broken_literals_are_reported_and_do_not_stop_it() {
        let lexed = lex(FileId(0), "\"abc\nread /x\n\u{20ac} 99999999999999999999");
        assert_eq!(lexed.diagnostics.len(), 4);
        assert!(
            lexed
                .tokens
                .iter()
                .any(|t| t.kind == TokenKind::Ident("read".into()))
        );
    }
}
