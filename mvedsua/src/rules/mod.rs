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
//! # How the matcher has to call it
//!
//! 1. **Before the update:** `tools::load_file(path)`; refuse the update if `rules` is `None` and
//!    show [`loader::Loaded::render`].
//! 2. **At t2:** one `Engine::new(set, Direction::Forward)` for each process pair, and
//!    [`Engine::add_connection`](engine::Engine::add_connection) for each socket that was connected
//!    at the snapshot. Rules over messages apply to these and to what is accepted later, and to no
//!    other descriptor. One [`carry::Carry`] for each pair. A forked child gets
//!    [`Engine::for_child`](engine::Engine::for_child). At t5: flush, then a new engine with
//!    `Direction::Reverse`.
//! 3. **For each record, in the ring's order:** implement [`call::Call`] for the record type (it is
//!    cloned only when a rule splits it: make clones cheap, e.g. `Bytes`), and call
//!    [`Engine::feed`](engine::Engine::feed) with any monotonic clock, the same for all calls. Only
//!    calls that are compared or replayed belong here: leave [`Class::Local`] out. `payload(arg)` is what the
//!    record has for that argument; vectors joined; of a `msghdr` the bytes of its vectors. A call
//!    that was restarted or interrupted (`-ERESTART*`) is fed once, with its final result.
//! 4. **What `feed` appends** goes to the queue of its thread ([`Expected::tid`](expected::Expected::tid))
//!    in that order, with [`Expected::seq`](expected::Expected::seq) for the global order (an
//!    inserted call has the number of the one before it). While a rule holds calls nothing comes
//!    out: the follower waits as it waits for an empty ring. Calls of other threads pass.
//! 5. **Time:** when [`Engine::deadline`](engine::Engine::deadline) has passed, call
//!    [`Engine::tick`](engine::Engine::tick). When the leader has ended or the ring is closed,
//!    [`Engine::flush`](engine::Engine::flush). The hang limit of a follower must be longer than
//!    [`program::MAX_HELD`] (5 s), or not run while `held() > 0`.
//! 6. **When the follower calls**, look at the head of its thread's queue:
//!    - [`Expected::Same`](expected::Expected::Same): compare and answer as without rules.
//!    - [`Expected::Stop`](expected::Expected::Stop): roll back (`retry`: try again later) with its words.
//!    - [`Expected::Call`](expected::Expected::Call): the numbers must be equal, and each argument
//!      accepted by its [`Want`](expected::Want): `accepts_number` for registers that are no
//!      pointers, `accepts_text` for the memory that the call reads, with the leader's bytes. `None`
//!      means: compare with `origin` as the table says. Descriptors, clocks and pointers have their
//!      usual treatment. Then write [`output(arg)`](expected::ExpectedCall::output) to each out
//!      argument and return `result`; [`Gets::Asked`](expected::Gets::Asked) is the size of the
//!      follower's own write. Length words and the other out arguments come from `origin`.
//!    - A mismatch on a call with `repeat` `Optional` or `Any`: drop it and look at the next head. A
//!      match with `Any` leaves it in place; one with `pieces` calls
//!      [`take_piece`](expected::ExpectedCall::take_piece) and leaves it while `rest` is not empty.
//!      Such a call at the end of a queue is no lag.
//!    - Any other mismatch is a divergence.
//! 7. **Reads that give more than the follower asked for:** for each call whose table entry fills a
//!    buffer from a descriptor, if it is an `Expected::Call` or the carry is not empty, pass the
//!    bytes through [`Carry::read`](carry::Carry::read) with the follower's size, and return their
//!    number. `consumed: false` leaves the expected call at the head. Before a divergence is declared
//!    on such a call of the follower, ask [`Carry::again`](carry::Carry::again). On `close`:
//!    [`Carry::forget`](carry::Carry::forget).
//! 8. **Errors** ([`RuleError`]) roll the update back with their text; the engine is not used again.
//! 9. **Status:** [`Engine::counts`](engine::Engine::counts) for `status --json`,
//!    [`Engine::take_firings`](engine::Engine::take_firings) for `rules trace` and the timeline
//!    (`logs`). A divergence report carries a [`tools::Divergence`] under the key `divergence` for
//!    `rules suggest`.
//!
//! [`Class::Local`]: mvedsua_common::spec::Class::Local

pub mod ast;
pub mod call;
pub mod carry;
pub mod check;
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
