//! The syntax tree of a rule file.

use super::source::Span;

pub use super::lexer::{Number, TextPart};

/// Comments that belong to a node. Like spans, they do not take part in comparisons.
#[derive(Clone, Debug, Default)]
pub struct Trivia {
    /// Comments on the lines before.
    pub leading: Vec<String>,
    /// The comment at the end of the same line.
    pub trailing: Option<String>,
}

impl PartialEq for Trivia {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A name and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// What stands in it.
    pub items: Vec<Item>,
    /// Comments after the last item.
    pub tail: Trivia,
}

/// Which version leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The old version leads (stages `updating` and `outdated-leader`).
    Forward,
    /// The new version leads (stage `updated-leader`).
    Reverse,
}

impl Direction {
    /// The word of the language for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

/// One item of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its comments.
    pub trivia: Trivia,
    /// Where.
    pub span: Span,
    /// What it is.
    pub kind: ItemKind,
}

/// What an item is.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemKind {
    /// `include "path";`
    Include(String),
    /// `const NAME = expr;`
    Const(Name, Expr),
    /// `state connection|service NAME = literal;`
    State {
        /// Whose state it is.
        scope: StateScope,
        /// Its name.
        name: Name,
        /// What it starts with.
        value: Expr,
    },
    /// `parser NAME = ...;`
    Parser(Name, ParserBody),
    /// `messages line "\r\n";`
    ///
    /// For `fixed`, its number as it was written.
    Messages(Framing, Option<Number>),
    /// `ignore CALL in FIELD /regex/;`
    Ignore(Ignore),
    /// `forward { ... }` or `reverse { ... }`.
    Stage {
        /// Which version leads.
        direction: Direction,
        /// The items inside.
        items: Vec<Item>,
        /// Comments before the closing brace.
        tail: Trivia,
    },
    /// A rule.
    Rule(Box<Rule>),
    /// `test "name" { ... }`
    Test(Test),
}

/// Whose state a variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateScope {
    /// One value for each connection (file descriptor).
    Connection,
    /// One value for the whole service.
    Service,
}

/// How a parser takes a text apart.
#[derive(Clone, Debug, PartialEq)]
pub enum ParserBody {
    /// A regular expression with named captures.
    Regex(String, Span),
    /// `split "," into a, b, c`: the last one takes the rest.
    Split(Vec<u8>, Vec<Name>),
    /// `fields a: 2, b: u16be, c: rest`.
    Fields(Vec<Field>),
}

/// One of the fields that a parser takes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: FieldKind,
    /// For so many bytes of text, the number as it was written.
    pub written: Option<Number>,
}

/// What a fixed field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// So many bytes of text.
    Bytes(u32),
    /// An unsigned number of so many bytes, big endian when the flag is set.
    Number(u8, bool),
    /// All that is left.
    Rest,
}

/// How a byte stream on a connection divides into messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Each message ends in these bytes (which belong to it).
    Delimited(Vec<u8>),
    /// Each message has so many bytes.
    Fixed(u32),
    /// Redis' protocol.
    Resp,
}

/// Noise: fields that are not compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Ignore {
    /// Which calls.
    pub pattern: Pattern,
    /// Which fields of them.
    pub fields: Vec<IgnoreField>,
}

/// One field that is not compared, or not where a regular expression matches.
#[derive(Clone, Debug, PartialEq)]
pub struct IgnoreField {
    /// Name of the argument, or of the variable that the pattern binds to it.
    pub name: Name,
    /// Only what this matches (its captures, if it has some) is noise.
    pub regex: Option<(String, Span)>,
}

/// What a sequence is followed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The calls on one file descriptor; others in between pass through.
    Fd,
    /// All calls of the thread.
    Thread,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its header, if it has one.
    pub header: Option<Header>,
    /// The leader's calls.
    pub patterns: Vec<Pattern>,
    /// `when expr`.
    pub when: Option<Expr>,
    /// What the follower is expected to do.
    pub outcome: Outcome,
}

/// `rule NAME reversible on fd within 8 calls within 50 ms:`
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Its name.
    pub name: Name,
    /// True when the rule for the other stage is to be derived from it.
    pub reversible: bool,
    /// What the sequence is followed on.
    pub scope: Option<Scope>,
    /// Most calls that are held.
    pub calls: Option<Number>,
    /// Longest time that they are held, in milliseconds.
    pub ms: Option<Number>,
}

/// How often a pattern or a template stands for a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeat {
    /// Once.
    #[default]
    Once,
    /// `?`: once or not at all.
    Optional,
    /// `*`: any number of times.
    Any,
    /// `+`: at least once.
    Some,
}

impl Repeat {
    /// The sign for it.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Once => "",
            Self::Optional => "?",
            Self::Any => "*",
            Self::Some => "+",
        }
    }
}

/// One call of the leader.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// Where.
    pub span: Span,
    /// Name of the call, or `request`, `reply`.
    pub call: Name,
    /// Its arguments.
    pub args: Vec<Arg>,
    /// `= result`.
    pub result: Option<Expr>,
    /// How often.
    pub repeat: Repeat,
    /// `{ ... return expr }`.
    pub guard: Option<Block>,
    /// `as name`.
    pub alias: Option<Name>,
}

/// An argument in a pattern or a template.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// `name:`.
    pub label: Option<Name>,
    /// Where.
    pub span: Span,
    /// What it is.
    pub kind: ArgKind,
}

/// What an argument is.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgKind {
    /// `_`: anything.
    Any,
    /// `.`: the rule's file descriptor.
    SameFd,
    /// A value, a name to bind, or a regular expression.
    Value(Expr),
}

/// What the follower is expected to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// These calls.
    Calls(Vec<Template>),
    /// None of the calls.
    Nothing(Option<Block>),
    /// The same calls.
    Same(Option<Block>),
    /// The same calls, whatever their arguments and texts.
    Tolerate(Option<Block>),
    /// `retry "why"`: the update is rolled back and tried again later.
    Retry(Expr),
    /// `terminate follower "why"`.
    Terminate(Expr),
    /// `log "text"`: the same calls, and a line in the timeline.
    Log(Expr),
}

/// One call that the follower is expected to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Where.
    pub span: Span,
    /// A call, `request`, `reply`, or the alias of a matched call.
    pub call: Name,
    /// Its arguments; `None` for a bare alias.
    pub args: Option<Vec<Arg>>,
    /// `= result`.
    pub result: Option<Expr>,
    /// How often the follower may make it.
    pub repeat: Repeat,
    /// `in pieces`: its text may come in several calls.
    pub pieces: bool,
    /// Statements that run first.
    pub body: Option<Block>,
}

/// Statements in braces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// The statements.
    pub statements: Vec<Statement>,
    /// Comments before the closing brace.
    pub tail: Trivia,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Its comments.
    pub trivia: Trivia,
    /// Where.
    pub span: Span,
    /// What it is.
    pub kind: StatementKind,
}

/// What a statement is.
#[derive(Clone, Debug, PartialEq)]
pub enum StatementKind {
    /// `(a, _, b) = parser(x)`; `None` is `_`.
    Take(Vec<Option<Name>>, Expr),
    /// `x = expr`, `x += expr` (the flag), or with `$(x)` (the second flag).
    Assign {
        /// The variable.
        name: Name,
        /// `+=` rather than `=`.
        add: bool,
        /// Written `$(x)`: what the follower gets.
        deref: bool,
        /// The value.
        value: Expr,
    },
    /// `return expr`.
    Return(Expr),
    /// `log expr`.
    Log(Expr),
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Where.
    pub span: Span,
    /// What it is.
    pub kind: ExprKind,
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number.
    Int(Number),
    /// A text with holes.
    Text(Vec<TextPart>),
    /// A regular expression.
    Regex(String),
    /// A name.
    Name(String),
    /// `$(expr)`.
    Deref(Box<Expr>),
    /// `f(a, b)`; `f$(a)` has the flag.
    Call(Name, bool, Vec<Expr>),
    /// `!x` or `-x`.
    Unary(&'static str, Box<Expr>),
    /// `a op b`.
    Binary(&'static str, Box<Expr>, Box<Expr>),
    /// `x[from..to]`.
    Slice(Box<Expr>, Option<Box<Expr>>, Option<Box<Expr>>),
}

/// `test "name" { given { ... } expect { ... } }`
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// The stage in which it runs (forward when not said).
    pub direction: Option<Direction>,
    /// What the leader does.
    pub given: Vec<TestLine>,
    /// What the follower is expected to do.
    pub expect: Vec<TestLine>,
    /// Comments before the closing braces.
    pub tails: [Trivia; 2],
}

/// One line of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct TestLine {
    /// Its comments.
    pub trivia: Trivia,
    /// Where.
    pub span: Span,
    /// What it says.
    pub kind: TestLineKind,
}

/// What a line of a test says.
#[derive(Clone, Debug, PartialEq)]
pub enum TestLineKind {
    /// A call, on a thread (1 when not said).
    Call(Option<Number>, Template),
    /// `connection 5`: the descriptor is a connection from the start.
    Connection(Number),
    /// `after 20 ms`: time passes.
    After(Number),
    /// `retry "why"` or `terminate follower "why"`.
    Stop(bool, Expr),
    /// `error E370`.
    Error(String),
}
