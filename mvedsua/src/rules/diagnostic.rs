//! Located diagnostics with stable codes, rendered as plain text.

use std::fmt::Write as _;

use super::source::{SourceMap, Span};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Accepted, but look at it.
    Lint,
    /// The file is refused.
    Error,
}

/// Stable codes, those of section E3xx; `docs/errors.md` explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub &'static str);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Code = Code($number);)*
            /// Every code of the rule language, for the test that `docs/errors.md` has them all.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];
        }
    };
}

codes! {
    /// A character or literal that the language does not have.
    BAD_TOKEN = "E300";
    /// Something else was expected here.
    SYNTAX = "E301";
    /// Nested too deeply, or the file is too large.
    TOO_LARGE = "E302";
    /// An included file cannot be read, or includes itself.
    INCLUDE = "E303";
    /// No system call of that name.
    UNKNOWN_CALL = "E310";
    /// The call is never recorded, so that the rule can never fire.
    NEVER_RECORDED = "E311";
    /// Too many arguments, or an argument name that the call does not have.
    ARGUMENTS = "E312";
    /// A name that is not defined.
    UNKNOWN_NAME = "E313";
    /// A name that is defined twice.
    DUPLICATE = "E314";
    /// A value of the wrong type.
    TYPE = "E315";
    /// A pattern that is not allowed in this place.
    BAD_PATTERN = "E316";
    /// A regular expression that does not compile.
    REGEX = "E317";
    /// A statement that is not allowed in this place.
    BAD_STATEMENT = "E318";
    /// Calls and messages are mixed in one rule, or messages are used without a framing.
    MESSAGES = "E319";
    /// An inserted call needs a result.
    NEEDS_RESULT = "E320";
    /// The rule cannot be reversed.
    NOT_REVERSIBLE = "E321";
    /// A limit outside its range.
    LIMIT = "E322";
    /// Lint: the rule can never be reached, an earlier one takes all that it would.
    SHADOWED = "E330";
    /// Lint: the guard is always false.
    NEVER_TRUE = "E331";
    /// Lint: results of a parser are taken by name since their number differs.
    BY_NAME = "E332";
    /// Lint: a bare word stands for its own text.
    BARE_WORD = "E333";
    /// Lint: `$name` was taken for `_name`.
    UNDERSCORE = "E334";
    /// Lint: a name that is never used.
    UNUSED = "E335";
    /// A rule used more steps than it may.
    FUEL = "E370";
    /// A text grew longer than it may.
    TEXT_LIMIT = "E371";
    /// A length that is longer than its text.
    LENGTH = "E372";
    /// A value of the wrong type or range at run time.
    VALUE = "E373";
    /// A call cannot be built from what the rule says.
    CANNOT_BUILD = "E374";
    /// Too much is held, carried or remembered.
    CAPACITY = "E375";
    /// A rule test failed.
    TEST_FAILED = "E380";
    /// A divergence record cannot be turned into a rule.
    SUGGEST = "E381";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or lint.
    pub severity: Severity,
    /// Its stable code.
    pub code: Code,
    /// Where.
    pub span: Span,
    /// What is wrong, lower case, one line.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error.
    #[must_use]
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            span,
            message: message.into(),
            help: None,
        }
    }

    /// A lint.
    #[must_use]
    pub fn lint(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Lint,
            ..Self::error(code, span, message)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The finding as text: code, file, line, the source line, a caret under the place, help.
    #[must_use]
    pub fn render(&self, sources: &SourceMap) -> String {
        let file = sources.file(self.span.file);
        let position = sources.position(self.span);
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Lint => "lint",
        };
        let text = &file.text;
        let start = (self.span.start as usize).min(text.len());
        let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[from..to].replace('\t', " ");
        let until = (self.span.end as usize).clamp(start, to);
        let width = text
            .get(start..until)
            .map_or(1, |s| s.chars().count())
            .max(1);
        let number = position.line.to_string();
        let gap = " ".repeat(number.len());
        let mut out = String::new();
        let _ = writeln!(out, "{kind}[{}]: {}", self.code, self.message);
        let _ = writeln!(
            out,
            "{gap}--> {}:{}:{}",
            file.name, position.line, position.column
        );
        let _ = writeln!(out, "{gap} |");
        let _ = writeln!(out, "{number} | {line}");
        let pad = " ".repeat(position.column as usize - 1);
        let _ = writeln!(out, "{gap} | {pad}{}", "^".repeat(width));
        if let Some(help) = &self.help {
            let _ = writeln!(out, "{gap} = help: {help}");
        }
        out
    }
}

/// True when one of them is an error.
#[must_use]
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// The one of `names` that is nearest to `word`, when it is near enough to be a slip of the hand.
#[must_use]
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Of one letter no other is a slip.
    let limit = word
        .len()
        .div_ceil(3)
        .min(3)
        .min(word.len().saturating_sub(1));
    names
        .filter(|name| name.len().abs_diff(word.len()) <= limit)
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::source::FileId;

    #[test]
    fn a_caret_stands_under_the_place() {
        let mut sources = SourceMap::new();
        let file = sources.add("x.rules", "one\n  raed(fd)\n");
        let span = Span {
            file: FileId(file.0),
            start: 6,
            end: 10,
        };
        let text = Diagnostic::error(Code::UNKNOWN_CALL, span, "no system call `raed`")
            .help("did you mean `read`?")
            .render(&sources);
        assert_eq!(
            text,
            "error[E310]: no system call `raed`\n --> x.rules:2:3\n  |\n2 |   raed(fd)\n  |   ^^^^\n  = help: did you mean `read`?\n"
        );
    }

    #[test]
    fn nearest_finds_slips_and_nothing_else() {
        let names = ["read", "write", "pread64"];
        assert_eq!(nearest("raed", names.into_iter()), Some("read"));
        assert_eq!(nearest("wrte", names.into_iter()), Some("write"));
        assert_eq!(nearest("socket", names.into_iter()), None);
        assert_eq!(nearest("t", ["p", "s"].into_iter()), None);
    }
}
