//! Values at run time.

use std::borrow::Cow;

/// A value. Texts are borrowed from recorded calls as long as nothing changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing: a capture that took no part, a parser that did not match.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Int(i64),
    /// Bytes.
    Text(Cow<'a, [u8]>),
}

impl<'a> Value<'a> {
    /// A text that borrows.
    #[must_use]
    pub const fn text(bytes: &'a [u8]) -> Self {
        Self::Text(Cow::Borrowed(bytes))
    }

    /// What kind of value it is, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "a number",
            Self::Text(_) => "a text",
        }
    }

    /// The same value, owning its bytes.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(b),
            Self::Int(i) => Value::Int(i),
            Self::Text(t) => Value::Text(Cow::Owned(t.into_owned())),
        }
    }
}

/// A part of a text, borrowed when the text is. The range is cut to the text.
#[must_use]
pub fn part<'a>(text: &Cow<'a, [u8]>, from: usize, to: usize) -> Cow<'a, [u8]> {
    let to = to.min(text.len());
    let from = from.min(to);
    match text {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[from..to]),
        Cow::Owned(bytes) => Cow::Owned(bytes[from..to].to_vec()),
    }
}

/// Static type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Known only at run time.
    Any,
    /// Only `NULL`.
    Null,
    /// A truth value.
    Bool,
    /// A number.
    Int,
    /// Bytes, or `NULL`.
    Text,
}

impl Type {
    /// The type in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any value",
            Self::Null => "NULL",
            Self::Bool => "a truth value",
            Self::Int => "a number",
            Self::Text => "a text",
        }
    }

    /// False when a value of one type can never be one of the other.
    #[must_use]
    pub fn fits(self, other: Self) -> bool {
        self == other
            || matches!((self, other), (Self::Any, _) | (_, Self::Any))
            || matches!(
                (self, other),
                (Self::Null, Self::Text) | (Self::Text, Self::Null)
            )
    }
}
