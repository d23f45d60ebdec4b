//! The engine: one thread per supervised service that owns its processes, its ring and its follower.
//!
//! ptrace binds a tracee to the thread that attached it, so everything that touches the service
//! happens on that one thread; the rest of the agent talks to it through [`Engine`].

mod handle;

pub use handle::{Engine, Target};
