//! A load generator for Redis and memcached that knows what every reply must be.
//!
//! One thread drives many connections with `epoll`, each with one request under way (as
//! `redis-benchmark` does). Every reply is compared with what the [`Dataset`] allows; a lost
//! connection, an error reply, a wrong value and a missing key are counted and never retried in
//! silence. Requests, errors and the longest latency are recorded per interval, and per phase in a
//! histogram.

mod connection;
mod dataset;
mod generator;
mod protocol;
mod record;

pub use dataset::{Dataset, Verified};
pub use generator::{Load, LoadOptions, LoadReport};
pub use protocol::Protocol;
pub use record::{Errors, Interval, Phase};
