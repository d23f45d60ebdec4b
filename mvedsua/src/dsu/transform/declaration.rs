//! The file in which a transformer is declared: `docs/transformers.md` explains it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Declaration {
    /// The server's function that new objects come from; else `malloc`.
    pub(super) alloc: Option<String>,
    /// The server's function that old objects are given to; else `free`; `"none"`: they are left.
    pub(super) free: Option<String>,
    #[serde(default, rename = "struct")]
    pub(super) structs: BTreeMap<String, StructRule>,
    #[serde(default)]
    pub(super) variable: BTreeMap<String, VariableRule>,
}

/// What a type cannot say of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StructRule {
    /// Value of a new field: a C expression, which may use `from->field`.
    pub(super) default: BTreeMap<String, Value>,
    /// New field = the old field that it was.
    pub(super) rename: BTreeMap<String, String>,
    /// Old fields that are gone.
    pub(super) drop: Vec<String>,
    /// Elements behind a pointer: a field of the same struct, or a C expression with `from->field`.
    pub(super) count: BTreeMap<String, String>,
    /// What an untyped pointer points to.
    pub(super) r#as: BTreeMap<String, String>,
    /// Pointers that are kept as they are.
    pub(super) opaque: Vec<String>,
    /// Which member of a union is in use.
    pub(super) union: BTreeMap<String, UnionRule>,
    /// Old objects of this type lie in memory that is not given back one by one.
    pub(super) keep: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnionRule {
    /// Field that tells, or a C expression with `from->field`.
    pub(super) tag: String,
    /// Value of it = member in use.
    pub(super) cases: BTreeMap<String, String>,
    /// Elements behind a member that is a pointer, as for structs.
    #[serde(default)]
    pub(super) count: BTreeMap<String, String>,
    /// What an untyped member points to.
    #[serde(default)]
    pub(super) r#as: BTreeMap<String, String>,
    /// Members that are kept as they are.
    #[serde(default)]
    pub(super) opaque: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct VariableRule {
    /// Elements behind it: a C expression, which may use `OLD(name)`.
    pub(super) count: Option<String>,
    /// What it points to, if it is untyped.
    pub(super) r#as: Option<String>,
    /// It is kept as it is.
    pub(super) opaque: bool,
    /// Its value in the new version: a C expression, which may use `OLD(name)`.
    pub(super) value: Option<Value>,
}

/// A value: a number, or text that is a C expression.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Value {
    Flag(bool),
    Whole(i64),
    Real(f64),
    Expression(String),
}

pub(super) fn expression(value: &Value) -> String {
    match value {
        Value::Flag(flag) => i32::from(*flag).to_string(),
        Value::Whole(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Expression(text) => text.clone(),
    }
}
