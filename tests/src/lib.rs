//! What the end-to-end tests, `cargo xtask demo` and `cargo xtask bench` are made of.
//!
//! - [`server`]: real servers on loopback ports, started, awaited by condition, ended on drop;
//! - [`mvedsua`]: an agent on its own socket, and the command line against it;
//! - [`victim`]: the C programs of `tests/victims`, compiled, started and watched;
//! - [`pair`]: two builds of a small program, bundles between them, and one of them running;
//! - [`resp`]: a small client of the Redis protocol;
//! - [`load`]: the load generator, which knows what every reply must be;
//! - [`kvstore`]: the example server in its three versions, and a client;
//! - [`ftp`], [`vsftpd`]: a client whose transfers can be held, and the server with users of its own;
//! - [`content`]: files of which every byte is known;
//! - [`systemd`]: a real systemd whose units are servers of a test;
//! - [`idle`]: connections that must still answer after an update;
//! - [`supervised`]: all of these together, what most tests start from;
//! - [`bare`]: whether a server is as it was before it was touched;
//! - [`process`]: what procfs says about a process (tracer, filter, zombies, descriptors, CPU time);
//! - [`bundle`]: bundles of those and of other builds;
//! - [`examples`]: the servers of `examples/`, compiled in each of their versions;
//! - [`programs`]: builds of real servers in several versions, from `cargo xtask programs`;
//! - [`deaths`]: an agent that dies at a chosen step, and what is left;
//! - [`poll`]: waiting for a condition, with a deadline;
//! - [`cannot_run`](mod@cannot_run): how a test says that this machine cannot run it.
//!
//! The tests themselves are in `tests/tests/*.rs`. Files whose name starts with `soak` run only
//! under `cargo xtask test --soak`.

pub mod bare;
pub mod bundle;
pub mod cannot_run;
pub mod content;
pub mod deaths;
pub mod examples;
pub mod ftp;
pub mod idle;
pub mod kvstore;
pub mod load;
pub mod mvedsua;
pub mod pair;
pub mod poll;
pub mod process;
pub mod programs;
pub mod resp;
pub mod server;
pub mod sessions;
pub mod supervised;
pub mod switch;
pub mod systemd;
pub mod victim;
pub mod vsftpd;

pub use cannot_run::{Need, can_run, cannot_run};
pub use mvedsua::Mvedsua;
pub use poll::wait_until;
pub use server::Server;
pub use supervised::Supervised;
pub use victim::Victim;
pub use vsftpd::Vsftpd;
