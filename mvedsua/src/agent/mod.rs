//! The agent: the daemon that supervises services, and how the command line reaches it.
//!
//! One process, one Unix socket, one engine thread and one actor per service:
//!
//! - [`protocol`]: the lines that go over the socket;
//! - [`socket`]: the listening socket, the single-instance lock, who may connect;
//! - [`registry`]: name -> service;
//! - [`service`]: the actor that stands before one engine;
//! - [`roster`]: which services a restarted agent takes over again;
//! - [`server`]: connections and shutdown;
//! - [`daemon`]: `mvedsua agent`, i.e. the above with signals, systemd and logging;
//! - [`client`] and [`launch`]: the other side, used by the command line.

pub mod advice;
pub mod client;
pub mod daemon;
pub mod launch;
pub mod logging;
pub mod name;
pub mod protocol;
pub mod refusal;
pub mod registry;
pub mod roster;
pub mod server;
pub mod service;
pub mod socket;

#[cfg(test)]
mod scripted;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mvedsua/control.sock";
