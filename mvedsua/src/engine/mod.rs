//! The engine: one thread per supervised service that owns its processes, its ring and its follower.
//!
//! ptrace binds a tracee to the thread that attached it, so everything that touches the service
//! happens on that one thread; the rest of the agent talks to it through [`Engine`]. While an
//! update runs the same thread also answers the follower's calls: it sleeps in one `poll` on the
//! listener, the requests and the ptrace reports, and looks at the ring every time it wakes, so the
//! leader never wakes anybody.

mod activeness;
mod adopt;
mod apply;
mod armed;
mod attach;
mod attempt;
mod clocks;
mod connections;
mod crash;
mod descendants;
mod ending;
mod estate;
mod expected;
mod family;
mod faults;
mod files;
mod finalize;
mod following;
mod guard;
mod handle;
mod home;
mod lane;
mod leader_events;
mod life;
mod pace;
mod pair;
mod payload;
mod pending;
mod pending_signals;
mod placement;
mod promote;
mod readings;
mod renamed;
mod replay;
mod report;
mod reverse;
mod roles;
mod rollback;
mod rules;
mod rules_told;
mod side;
mod snapshot;
mod stragglers;
mod timeline;
mod transfer;
mod transforming;
mod unit;
mod wards;
mod worker;

pub use adopt::discard_copy;
pub use guard::{run as run_guard, start as start_guard};
pub use handle::{Engine, Target};
