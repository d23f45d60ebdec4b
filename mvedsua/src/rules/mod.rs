//! The rule language.

pub mod ast;
pub mod call;
pub mod carry;
pub mod check;
pub mod diagnostic;
pub mod engine;
mod eval;
pub mod expected;
mod fault;
pub mod format;
pub mod framing;
mod index;
pub mod lexer;
pub mod loader;
mod matching;
mod messages;
pub mod names;
mod noise;
pub mod parser;
pub mod program;
#[cfg(test)]
mod properties;
mod rewrite;
pub mod source;
pub mod testing;
#[cfg(test)]
mod shipped;
mod state;
pub mod tools;
pub mod value;

pub use eval::{FUEL, MAX_TEXT};
pub use fault::RuleError;
