//! Checked rules in the form that the interpreter runs: names are slots, calls are table entries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;

use super::ast::{Direction, FieldKind, Framing, Repeat, Scope, StateScope, Test};
use super::names::{Flow, Signature, Slot};
use super::source::{SourceMap, Span};
use super::value::{Type, Value};

/// Number of a rule, in the order of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// Number of a variable of one rule.
pub type Var = u16;

/// The variable that holds the descriptor for which `.` stands.
pub const FD: Var = 0;

/// Most calls that a rule may hold.
pub const MAX_HELD_CALLS: usize = 1024;
/// Calls that a rule may hold when it does not say.
pub const DEFAULT_HELD_CALLS: usize = 64;
/// Longest time that a rule may hold calls.
pub const MAX_HELD: Duration = Duration::from_secs(5);
/// Time that a rule may hold calls when it does not say.
pub const DEFAULT_HELD: Duration = Duration::from_secs(1);
/// Most rules of one file with its includes.
pub const MAX_RULES: usize = 10_000;

/// A checked rule file. Immutable; engines share it.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// What is ignored.
    pub noise: Vec<Noise>,
    /// The parsers.
    pub parsers: Vec<Parser>,
    /// The state variables.
    pub states: Vec<State>,
    /// How streams divide into messages.
    pub framing: Option<Framing>,
    /// The test cases.
    pub tests: Vec<(Test, Span, Direction)>,
    /// Constants, for the test cases.
    pub consts: BTreeMap<String, Value<'static>>,
    /// The files.
    pub sources: SourceMap,
}

impl RuleSet {
    /// Name and place of a rule, for messages.
    #[must_use]
    pub fn title(&self, rule: RuleId) -> String {
        self.rules
            .get(rule.0 as usize)
            .map_or_else(String::new, |rule| {
                format!("rule `{}` ({})", rule.name, self.sources.place(rule.span))
            })
    }
}

/// A state variable.
#[derive(Debug)]
pub struct State {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub scope: StateScope,
    /// What it starts with.
    pub initial: Value<'static>,
    /// Its type.
    pub ty: Type,
}

/// A parser.
#[derive(Debug)]
pub struct Parser {
    /// Its name.
    pub name: String,
    /// Names and types of its results.
    pub results: Vec<(String, Type)>,
    /// How it works.
    pub body: ParserCode,
}

/// How a parser works.
#[derive(Debug)]
pub enum ParserCode {
    /// Captures of a regular expression: the group numbers of the results.
    Regex(Regex, Vec<usize>),
    /// At a delimiter.
    Split(Vec<u8>),
    /// Fixed fields.
    Fields(Vec<FieldKind>),
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its number.
    pub id: RuleId,
    /// Its name, or `rule-LINE`.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// When it applies.
    pub direction: Direction,
    /// True when it was derived from a reversible rule of the other stage.
    pub derived: bool,
    /// The leader's calls.
    pub patterns: Vec<Pattern>,
    /// The guard over all of them.
    pub when: Option<Code>,
    /// That guard as it is written.
    pub when_shown: String,
    /// What follows.
    pub outcome: Outcome,
    /// Number of variables.
    pub vars: usize,
    /// What a sequence is followed on.
    pub scope: Scope,
    /// Most calls that are held.
    pub max_calls: usize,
    /// Longest time that they are held.
    pub max_time: Duration,
    /// True when the rule speaks of messages rather than calls.
    pub messages: bool,
}

/// What a pattern or a template stands for.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A system call.
    Call(Arc<Signature>),
    /// A message on a connection.
    Message(Flow),
}

/// One call of the leader.
#[derive(Debug)]
pub struct Pattern {
    /// Which call.
    pub subject: Subject,
    /// The call as it is written, without its guard.
    pub shown: String,
    /// What its arguments must be; those that may be anything are left out.
    pub args: Vec<(Slot, ArgPattern)>,
    /// How often it may occur.
    pub repeat: Repeat,
    /// Statements that end in `return`.
    pub guard: Vec<Do>,
    /// Bytes with which its text must start.
    pub prefix: Vec<u8>,
    /// The slot of that text.
    pub prefix_slot: Slot,
    /// Variables whose values are collected when it repeats: texts are joined, numbers added.
    pub collects: Vec<Var>,
}

/// What an argument must be.
#[derive(Debug)]
pub enum ArgPattern {
    /// Equal to this.
    Is(Code),
    /// Bound to the variable, or equal to what it holds already.
    Var(Var),
    /// Exactly these bytes.
    Exact(Vec<u8>),
    /// These bytes, and perhaps more.
    Prefix(Vec<u8>),
    /// A text with holes: each takes as little as the bytes after it allow, the last one all of the
    /// rest when there are none.
    Holes {
        /// The bytes before the first hole.
        start: Vec<u8>,
        /// The holes, each with the bytes after it; only the last may have none.
        holes: Vec<(Var, Vec<u8>)>,
        /// Whether more may follow.
        open: bool,
    },
    /// Matched by the expression; groups go to variables.
    Regex(Regex, Vec<(usize, Var)>),
}

/// What a rule makes of its calls.
#[derive(Debug)]
pub enum Outcome {
    /// The follower is expected to make these calls.
    Calls(Vec<Template>),
    /// It is expected to make none of them.
    Nothing(Vec<Do>),
    /// It is expected to make the same calls.
    Same(Vec<Do>),
    /// It is expected to make the same calls, with any arguments and texts.
    Tolerate(Vec<Do>),
    /// The update is tried again later.
    Retry(Code),
    /// The update ends.
    Terminate(Code),
}

/// One call that the follower is expected to make.
#[derive(Debug)]
pub struct Template {
    /// Where it stands.
    pub span: Span,
    /// Which call.
    pub subject: Subject,
    /// The call as it is written, without its statements.
    pub shown: String,
    /// The pattern whose call it is made from.
    pub from: Option<usize>,
    /// True for an alias without brackets: the matched calls as they are.
    pub bare: bool,
    /// Its arguments; those that are as the leader's are left out.
    pub args: Vec<(Slot, ArgTemplate)>,
    /// What it returns.
    pub result: Option<Code>,
    /// How often the follower may make it.
    pub repeat: Repeat,
    /// Whether its text may come in several calls.
    pub pieces: bool,
    /// Statements that run first.
    pub body: Vec<Do>,
}

/// What an argument of an expected call is.
#[derive(Debug)]
pub enum ArgTemplate {
    /// Anything.
    Any,
    /// This.
    Is(Code),
}

/// Noise: fields that are not compared.
#[derive(Debug)]
pub struct Noise {
    /// Where it stands.
    pub span: Span,
    /// When it applies; both when it says nothing.
    pub direction: Option<Direction>,
    /// Which calls.
    pub pattern: Pattern,
    /// Number of variables of the pattern.
    pub vars: usize,
    /// Which fields: the whole of it, or what the expression matches.
    pub fields: Vec<(Slot, Option<Arc<Regex>>)>,
}

/// A statement.
#[derive(Debug)]
pub enum Do {
    /// Results of a parser go to variables.
    Take(Taker, Code, Vec<(usize, Var)>),
    /// A variable gets a value.
    Set(Var, Code),
    /// A state variable gets a value.
    SetState(usize, Code),
    /// The guard's answer.
    Return(Code),
    /// A line for the timeline.
    Log(Code),
}

/// What takes a text apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// A parser of the file.
    Parser(usize),
    /// Words between blanks.
    Words,
    /// The elements of a RESP array.
    Resp,
}

/// An expression.
#[derive(Debug)]
pub enum Code {
    /// A constant.
    Value(Value<'static>),
    /// A variable.
    Var(Var),
    /// A state variable.
    State(usize),
    /// Texts one after the other.
    Join(Vec<Code>),
    /// `!x`
    Not(Box<Code>),
    /// `-x`
    Neg(Box<Code>),
    /// `a op b`
    Binary(Op, Box<Code>, Box<Code>),
    /// `x ~ /re/`
    Matches(Box<Code>, Regex),
    /// A built-in function.
    Call(Builtin, Vec<Code>),
    /// First result of a parser.
    Parse(Taker, Box<Code>),
    /// `x[from..to]`
    Slice(Box<Code>, Option<Box<Code>>, Option<Box<Code>>),
}

/// A binary operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the operator of that name")]
pub enum Op {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    BitOr,
    BitAnd,
}

/// A built-in function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/rules.md lists them with their meaning")]
pub enum Builtin {
    Len,
    Int,
    Str,
    Lower,
    Upper,
    Trim,
    StartsWith,
    EndsWith,
    Contains,
    Find,
    Replace,
    RespArray,
}

impl Builtin {
    /// Name, arguments (`None`: any number of texts), and result of each.
    pub const ALL: [(&'static str, Self, Option<&'static [Type]>, Type); 12] = [
        ("len", Self::Len, Some(&[Type::Text]), Type::Int),
        ("int", Self::Int, Some(&[Type::Text]), Type::Int),
        ("str", Self::Str, Some(&[Type::Any]), Type::Text),
        ("lower", Self::Lower, Some(&[Type::Text]), Type::Text),
        ("upper", Self::Upper, Some(&[Type::Text]), Type::Text),
        ("trim", Self::Trim, Some(&[Type::Text]), Type::Text),
        (
            "starts_with",
            Self::StartsWith,
            Some(&[Type::Text, Type::Text]),
            Type::Bool,
        ),
        (
            "ends_with",
            Self::EndsWith,
            Some(&[Type::Text, Type::Text]),
            Type::Bool,
        ),
        (
            "contains",
            Self::Contains,
            Some(&[Type::Text, Type::Text]),
            Type::Bool,
        ),
        (
            "find",
            Self::Find,
            Some(&[Type::Text, Type::Text]),
            Type::Int,
        ),
        (
            "replace",
            Self::Replace,
            Some(&[Type::Text, Type::Text, Type::Text]),
            Type::Text,
        ),
        ("resp_array", Self::RespArray, None, Type::Text),
    ];
}
