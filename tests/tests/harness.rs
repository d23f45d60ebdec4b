//! The instruments themselves: a load that could not see an error would prove nothing.

use std::time::Duration;

use anyhow::Result;
use mvedsua_tests::load::{Dataset, Load, LoadOptions};
use mvedsua_tests::{Need, Server, can_run, process, wait_until};

const KEYS: u32 = 2_000;
const LIMIT: Duration = Duration::from_secs(20);

fn loaded(options: LoadOptions) -> Result<(Server, Load)> {
    let server = Server::redis(&[])?;
    let mut data = Dataset::new(KEYS);
    data.write_all(server.addr())?;
    let load = Load::start(server.addr(), options, data)?;
    Ok((server, load))
}

#[test]
fn a_healthy_server_gives_no_error_and_keeps_every_key() -> Result<()> {
    if !can_run(
        "a_healthy_server_gives_no_error_and_keeps_every_key",
        &[Need::Program("redis-server")],
    ) {
        return Ok(());
    }
    for rate in [None, Some(2_000)] {
        let (server, load) = loaded(LoadOptions {
            rate,
            ..LoadOptions::default()
        })?;
        assert!(wait_until(LIMIT, || load
            .intervals()
            .iter()
            .map(|i| i.requests)
            .sum::<u64>()
            > 3_000));
        let phase = load.phase();
        assert!(phase.requests > 3_000 && phase.latency_us(0.5) <= phase.latency_us(1.0));
        let report = load.stop();
        assert_eq!(report.errors.total(), 0);
        let verified = report.data.verify(server.addr())?;
        assert!(verified.is_complete(KEYS), "{verified:?}");
    }
    Ok(())
}

#[test]
fn a_changed_and_a_lost_key_are_seen_by_the_clients_and_by_the_check() -> Result<()> {
    if !can_run(
        "a_changed_and_a_lost_key_are_seen_by_the_clients_and_by_the_check",
        &[Need::Program("redis-server")],
    ) {
        return Ok(());
    }
    let (server, load) = loaded(LoadOptions {
        read_percent: 100,
        ..LoadOptions::default()
    })?;
    let mut client = server.client()?;
    client.command(&["SETRANGE", "key:00000007", "40", "!"])?;
    client.command(&["DEL", "key:00000008"])?;
    assert!(wait_until(LIMIT, || load.errors().value >= 2));
    let report = load.stop();
    assert_eq!(report.errors.total(), report.errors.value);
    let verified = report.data.verify(server.addr())?;
    assert_eq!((verified.wrong, verified.missing), (1, 1));
    assert!(!verified.is_complete(KEYS));
    Ok(())
}

#[test]
fn a_dead_server_is_a_connection_error() -> Result<()> {
    if !can_run(
        "a_dead_server_is_a_connection_error",
        &[Need::Program("redis-server")],
    ) {
        return Ok(());
    }
    let (server, load) = loaded(LoadOptions::default())?;
    let pid = server.pid();
    drop(server);
    assert!(!process::is_alive(pid));
    assert!(wait_until(LIMIT, || load.errors().connection >= 50));
    assert!(load.stop().errors.connection >= 50);
    Ok(())
}

#[test]
fn a_paused_server_shows_as_latency_of_every_request_that_was_due() -> Result<()> {
    if !can_run(
        "a_paused_server_shows_as_latency_of_every_request_that_was_due",
        &[Need::Program("redis-server")],
    ) {
        return Ok(());
    }
    let (server, load) = loaded(LoadOptions {
        rate: Some(1_000),
        ..LoadOptions::default()
    })?;
    // DEBUG is off by default in Redis 7; a script that runs for a while pauses the server as well.
    let mut client = server.client()?;
    let before = load.phase();
    let busy = "local t = redis.call('TIME'); local e = t[1] * 1000000 + t[2] + 500000; \
                repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > e; return 1";
    client.command(&["EVAL", busy, "0"])?;
    assert!(wait_until(LIMIT, || load
        .intervals()
        .iter()
        .map(|i| i.requests)
        .sum::<u64>()
        > before.requests + 600));
    let phase = load.phase();
    // About 500 requests were due during the half second; one per connection was under way.
    let slow = phase.latencies.count_between(100_000, u64::MAX);
    assert!(slow > 100, "{slow} requests saw more than 100 ms");
    assert_eq!(load.stop().errors.total(), 0);
    Ok(())
}
