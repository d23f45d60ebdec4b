//! The rule language: how two versions are expected to differ, and the engine that applies it.
//!
//! A rule rewrites the *leader's* sequence of calls into the one that the *follower* is expected to
//! make (Pina et al., USENIX ATC '17; MVEDSUA, section 3.3). `docs/rules.md` is the tutorial and has
//! the grammar and the exact semantics.
//!
//! *Architecture Invariant:* pure. No clock is read, no kernel interface is used; only
//! [`tools::load_file`] touches files.
//!
//! Text goes through [`lexer`], [`parser`] and [`check`] (all three by [`loader`]) and becomes a
//! [`program::RuleSet`], which is immutable and shared. An [`engine::Engine`] applies one direction
//! of it to one process.
//!
//! # How it is called
//!
//! By `engine/rules.rs` (calls in), `engine/expected.rs` and `matcher/expected.rs` (what is expected, held
//! against the follower). Whoever calls it elsewhere has to keep to this:
//!
//! 1. **Before the update:** `tools::load_file(path)`; refuse the update if `rules` is `None` and
//!    show [`loader::Loaded::render`].
//! 2. **At t2:** one `Engine::new(set, Direction::Forward)` for each process pair, and
//!    [`Engine::add_connection`](engine::Engine::add_connection) for each socket that was connected
//!    at the snapshot. Rules over messages apply to these and to what is accepted later, and to no
//!    other descriptor. [`Engine::add_duplicates`](engine::Engine::add_duplicates) for those that stand for one
//!    stream, in the carry as well. One [`carry::Carry`] for each pair. A forked child gets
//!    [`Engine::for_child`](engine::Engine::for_child). At t5: flush, then
//!    [`Engine::reversed`](engine::Engine::reversed).
//! 3. **For each record, in the ring's order:** ask [`Engine::concerns`](engine::Engine::concerns); what
//!    no rule concerns goes its way untouched unless calls of its thread
//!    [are held](engine::Engine::oldest_held). Else [`Engine::feed`](engine::Engine::feed) it as a
//!    [`call::Call`] (cloned only when a rule splits it: make clones cheap) with any monotonic clock. Leave
//!    [`Class::Local`] out. `payload(arg)` is what the record has for that argument; vectors joined; of a
//!    `msghdr` the bytes of its vectors. A call that was restarted is fed once, with its final result.
//! 4. **What `feed` appends** goes to the queue of its thread ([`Expected::tid`](expected::Expected::tid))
//!    in that order, with [`Expected::seq`](expected::Expected::seq) for the global order (an
//!    inserted call has the number of the one before it). While a rule holds calls nothing comes
//!    out: the follower waits as it waits for an empty ring.
//! 5. **Time:** when [`Engine::deadline`](engine::Engine::deadline) has passed, call
//!    [`Engine::tick`](engine::Engine::tick). When the leader has ended or stands still for a promotion,
//!    [`Engine::flush`](engine::Engine::flush). What is held is no work that a follower could hang in.
//! 6. **When the follower calls**, look at the head of its thread's queue:
//!    - [`Expected::Same`](expected::Expected::Same): compare and answer as without rules.
//!    - [`Expected::Stop`](expected::Expected::Stop): roll back (`retry`: try again later) with its words.
//!    - [`Expected::Call`](expected::Expected::Call): [`matcher::expect`](crate::matcher::expect), then
//!      [`matcher::give`](crate::matcher::give). A mismatch on a call with `repeat` `Optional` or `Any`:
//!      drop it and look at the next head. A match with `Any` leaves it in place; so does one with `pieces`
//!      while [`ExpectedCall::rest`](expected::ExpectedCall::rest) is not empty. Such a call at the end of
//!      a queue is no lag.
//!    - Any other mismatch is a divergence, unless the follower reads what is
//!      [carried](crate::matcher::give_carried) to it.
//! 7. **While the carry is not empty** every read of the follower goes through it. What the follower
//!    does to its descriptors goes to [`Carry::follow`](carry::Carry::follow).
//! 8. **Errors** ([`RuleError`]) roll the update back with their text; the engine is not used again.
//! 9. **Status:** [`Engine::counts`](engine::Engine::counts), and
//!    [`Engine::take_firings`](engine::Engine::take_firings) for `rules trace` and the timeline (`logs`). A
//!    [`tools::Divergence`] is what `rules suggest` needs of a divergence.
//!
//! [`Class::Local`]: mvedsua_common::spec::Class::Local

pub mod ast;
pub mod call;
pub mod carry;
pub mod check;
pub mod descriptors;
pub mod diagnostic;
pub mod engine;
mod eval;
pub mod excerpt;
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
#[cfg(test)]
mod shipped;
pub mod source;
mod state;
pub mod testing;
pub mod tools;
pub mod value;

pub use eval::{FUEL, MAX_TEXT};
pub use fault::RuleError;
