//! How long the leader stands still at snapshot and promotion, and what a `fork()` of it costs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::load::{Dataset, Load, LoadOptions};
use mvedsua_tests::{Mvedsua, Server, wait_until};

const NAME: &str = "redis";

/// Requests per second while the pauses are measured: enough that every pause is felt, and few enough
/// that the follower always catches up.
const RATE: u32 = 1_000;

/// How long one `BGSAVE` may take.
const SAVE_LIMIT: Duration = Duration::from_secs(120);

/// Pauses of one server, one value per cycle, in milliseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Pauses {
    /// Keys in the server.
    pub keys: u32,
    /// What `fork()` of that process took: Redis' own `latest_fork_usec` of a `BGSAVE`.
    pub fork_ms: Vec<f64>,
    /// The leader's pause at the snapshot, as `status` says.
    pub snapshot_ms: Vec<f64>,
    /// The pause at the promotion, as `status` says.
    pub promotion_ms: Vec<f64>,
    /// The longest latency that a client saw from before the snapshot until the follower had caught up.
    pub client_longest_at_snapshot_ms: Vec<f64>,
    /// The longest latency that a client saw around the promotion.
    pub client_longest_at_promotion_ms: Vec<f64>,
}

/// `cycles` forks, then `cycles` updates with promotion.
///
/// # Errors
/// When a step fails or a client saw an error.
pub fn measure(keys: u32, cycles: u32) -> Result<Pauses> {
    let mut server = Server::redis(&[])?;
    let mut data = Dataset::new(keys);
    data.write_all(server.addr())?;
    let mut pauses = Pauses {
        keys,
        fork_ms: forks(&server, cycles)?,
        snapshot_ms: Vec::new(),
        promotion_ms: Vec::new(),
        client_longest_at_snapshot_ms: Vec::new(),
        client_longest_at_promotion_ms: Vec::new(),
    };
    let load = Load::start(
        server.addr(),
        LoadOptions {
            rate: Some(RATE),
            ..LoadOptions::default()
        },
        data,
    )?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(server.pid(), NAME)?;
    for _ in 0..cycles {
        let longest = || load.phase().latency_us(1.0) as f64 / 1000.0;
        let _ = longest();
        mvedsua.update_identity(NAME, &[])?;
        pauses.client_longest_at_snapshot_ms.push(longest());
        mvedsua.promote(NAME)?;
        pauses.client_longest_at_promotion_ms.push(longest());
        let status = mvedsua.status(NAME)?;
        pauses.snapshot_ms.push(
            status
                .pauses_ms
                .snapshot
                .context("status has no snapshot pause")?,
        );
        pauses.promotion_ms.push(
            status
                .pauses_ms
                .promotion
                .context("status has no promotion pause")?,
        );
        mvedsua.finalize(NAME)?;
        server.reap();
    }
    let report = load.stop();
    ensure!(
        report.errors.total() == 0,
        "clients saw errors: {:?}",
        report.errors
    );
    let verified = report.data.verify(server.addr())?;
    ensure!(
        verified.is_complete(keys),
        "keys are lost or wrong: {verified:?}"
    );
    Ok(pauses)
}

/// Durations of `count` forks of the server, in milliseconds.
fn forks(server: &Server, count: u32) -> Result<Vec<f64>> {
    let mut client = server.client()?;
    (0..count)
        .map(|_| {
            client.command(&["BGSAVE"])?;
            let ended = wait_until(SAVE_LIMIT, || {
                client
                    .info_field("persistence", "rdb_bgsave_in_progress")
                    .is_ok_and(|value| value == "0")
            });
            ensure!(ended, "BGSAVE did not end");
            let us: f64 = client.info_field("stats", "latest_fork_usec")?.parse()?;
            Ok(us / 1000.0)
        })
        .collect()
}
