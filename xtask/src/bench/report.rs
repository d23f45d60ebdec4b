//! The table that people read.

use std::fmt::Write;

use super::throughput::{MODES, Run};
use super::{Results, lifecycle, median, transformation, updates};

/// Markdown: medians of all rounds, and the targets of the project beside what was measured.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, results);
    text
}

fn write(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "# Benchmark\n")?;
    writeln!(out, "- machine: {}", results.machine)?;
    writeln!(out, "- server: {}", results.server)?;
    writeln!(
        out,
        "- load: 50 connections, 90 % GET, 10 % SET, 64-byte values, every reply verified; the load"
    )?;
    writeln!(out, "  generator runs on the same machine")?;
    writeln!(
        out,
        "- each figure is the median of the rounds; native and supervised runs alternate"
    )?;
    if results.quick {
        writeln!(out, "- **`--quick`: short runs, the figures say little**")?;
    }
    for load in loads(results) {
        throughput(out, load)?;
        updates(out, load)?;
    }
    pauses(out, results)?;
    if let Some(updates) = &results.updates {
        updates::markdown(out, updates)?;
    }
    if let Some(life) = &results.life_cycle {
        lifecycle::markdown(out, life)?;
    }
    if !results.transformation.is_empty() {
        transformation::markdown(out, &results.transformation)?;
    }
    targets(out, results)
}

/// The runs of one load.
#[derive(Clone, Copy)]
struct Load<'a> {
    runs: &'a [Run],
    rate: Option<u32>,
}

/// The loads that were measured, the paced one first.
fn loads(results: &Results) -> Vec<Load<'_>> {
    let mut rates: Vec<Option<u32>> = results.runs.iter().map(|run| run.rate).collect();
    rates.sort_by_key(|rate| rate.is_none());
    rates.dedup();
    let runs = &results.runs;
    rates.into_iter().map(|rate| Load { runs, rate }).collect()
}

/// A load in words.
pub fn load(rate: Option<u32>) -> String {
    match rate {
        Some(rate) => format!("{rate} requests/s"),
        None => "saturation".into(),
    }
}

fn throughput(out: &mut String, results: Load<'_>) -> std::fmt::Result {
    writeln!(
        out,
        "\n## Throughput, latency, CPU time at {}\n",
        load(results.rate)
    )?;
    writeln!(
        out,
        "| stage | requests/s | against native | p50 us | p99 us | longest us | leader CPU us/request |"
    )?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let native = of(results, MODES[0], |run| Some(run.requests_per_s));
    for mode in MODES {
        let requests = of(results, mode, |run| Some(run.requests_per_s));
        writeln!(
            out,
            "| {mode} | {} | {} | {} | {} | {} | {} |",
            number(requests, 0),
            percent(change(requests, native)),
            number(of(results, mode, |run| Some(run.p50_us as f64)), 0),
            number(of(results, mode, |run| Some(run.p99_us as f64)), 0),
            number(of(results, mode, |run| Some(run.max_us as f64)), 0),
            number(
                of(results, mode, |run| Some(run.leader_cpu_us_per_request)),
                2
            ),
        )?;
    }
    Ok(())
}

fn updates(out: &mut String, results: Load<'_>) -> std::fmt::Result {
    writeln!(
        out,
        "\n## While two versions run, at {}\n",
        load(results.rate)
    )?;
    writeln!(
        out,
        "| stage | recorded/s | matched/s | recorded per request | leader blocked ms/s | ring MiB | high water MiB | agent MiB | follower's own MiB |"
    )?;
    writeln!(
        out,
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )?;
    let mib = 1024.0 * 1024.0;
    for mode in [MODES[2], MODES[3]] {
        let figure = |pick: fn(&super::throughput::Update) -> Option<f64>| {
            of(results, mode, |run| run.update.as_ref().and_then(pick))
        };
        writeln!(
            out,
            "| {mode} | {} | {} | {} | {} | {} | {} | {} | {} |",
            number(figure(|u| Some(u.recorded_per_s)), 0),
            number(figure(|u| Some(u.matched_per_s)), 0),
            number(figure(|u| Some(u.recorded_per_request)), 2),
            number(figure(|u| Some(u.blocked_ms_per_s)), 1),
            number(
                figure(|u| Some(u.ring_bytes as f64)).map(|bytes| bytes / mib),
                0
            ),
            number(
                figure(|u| Some(u.ring_high_water_bytes as f64)).map(|bytes| bytes / mib),
                1
            ),
            number(
                figure(|u| u.agent_resident_kib.map(|kib| kib as f64 / 1024.0)),
                1
            ),
            number(
                figure(|u| u.follower_private_kib.map(|kib| kib as f64 / 1024.0)),
                1
            ),
        )?;
    }
    let cost = recorder_ns_per_call(results);
    writeln!(
        out,
        "\nThe leader's CPU time per recorded call grew by {} ns (what two versions cost it, over the calls recorded).",
        number(cost, 0)
    )
}

fn pauses(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "\n## Pauses, ms (median; longest)\n")?;
    writeln!(
        out,
        "| keys | fork() of the process | snapshot | promotion | longest latency at snapshot | at promotion |"
    )?;
    writeln!(out, "| ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for p in &results.pauses {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            p.keys,
            spread(&p.fork_ms),
            spread(&p.snapshot_ms),
            spread(&p.promotion_ms),
            spread(&p.client_longest_at_snapshot_ms),
            spread(&p.client_longest_at_promotion_ms)
        )?;
    }
    Ok(())
}

fn targets(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        out,
        "\n## Targets\n\n| target | measured | reached |\n| --- | ---: | --- |"
    )?;
    let loads = loads(results);
    if loads.is_empty() {
        // Told as not measured rather than left out.
        load_targets(
            out,
            Load {
                runs: &[],
                rate: None,
            },
        )?;
    }
    for load in loads {
        load_targets(out, load)?;
    }
    for p in &results.pauses {
        let snapshot = median(p.snapshot_ms.iter().copied());
        if p.keys <= 1_000 {
            let shown = format!("{} ms", number(snapshot, 2));
            target(
                out,
                "snapshot pause with 1k keys at most 3 ms",
                shown,
                snapshot.map(|ms| ms <= 3.0),
            )?;
        } else {
            let ratio = snapshot
                .zip(median(p.fork_ms.iter().copied()))
                .map(|(snapshot, fork)| snapshot / fork);
            let shown = format!("{} x", number(ratio, 2));
            target(
                out,
                "snapshot pause with 1M keys at most 1.5 x its fork()",
                shown,
                ratio.map(|r| r <= 1.5),
            )?;
        }
        let promotion = median(p.promotion_ms.iter().copied());
        let what = format!("promotion pause with {} keys at most 10 ms", p.keys);
        target(
            out,
            &what,
            format!("{} ms", number(promotion, 2)),
            promotion.map(|ms| ms <= 10.0),
        )?;
    }
    Ok(())
}

fn load_targets(out: &mut String, results: Load<'_>) -> std::fmt::Result {
    let at = load(results.rate);
    let requests = |mode| of(results, mode, |run| Some(run.requests_per_s));
    let cpu = |mode| of(results, mode, |run| Some(run.leader_cpu_us_per_request));
    let after = change(requests(MODES[4]), requests(MODES[0]));
    target(
        out,
        &format!("at {at}: throughput after promotion at most 3 % below native"),
        percent(after),
        after.map(|c| c >= -0.03),
    )?;
    let ratio = cpu(MODES[2]).zip(cpu(MODES[0])).map(|(two, one)| two / one);
    target(
        out,
        &format!("at {at}: leader's CPU time per request with two versions at most 1.25 x native"),
        format!("{} x", number(ratio, 2)),
        ratio.map(|r| r <= 1.25),
    )?;
    if results.rate.is_some() {
        // No more can be matched than the load makes.
        return Ok(());
    }
    let matched = of(results, MODES[2], |run| {
        run.update.as_ref().map(|u| u.matched_per_s)
    });
    target(
        out,
        &format!("at {at}: 60,000 events matched per second"),
        number(matched, 0),
        matched.map(|m| m >= 60_000.0),
    )
}

fn target(
    out: &mut String,
    what: &str,
    measured: String,
    reached: Option<bool>,
) -> std::fmt::Result {
    let reached = match reached {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "not measured",
    };
    writeln!(out, "| {what} | {measured} | {reached} |")
}

/// What recording and blocking cost the leader per recorded call, in nanoseconds.
fn recorder_ns_per_call(results: Load<'_>) -> Option<f64> {
    let cpu = |mode| of(results, mode, |run| Some(run.leader_cpu_us_per_request));
    let calls = of(results, MODES[2], |run| {
        run.update.as_ref().map(|u| u.recorded_per_request)
    })?;
    Some((cpu(MODES[2])? - cpu(MODES[0])?) * 1000.0 / calls)
}

/// Median over the rounds of one figure of a stage.
fn of(results: Load<'_>, mode: &str, pick: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    median(
        results
            .runs
            .iter()
            .filter(|run| run.rate == results.rate && run.mode == mode)
            .filter_map(pick),
    )
}

fn change(value: Option<f64>, base: Option<f64>) -> Option<f64> {
    Some(value? / base? - 1.0)
}

fn percent(change: Option<f64>) -> String {
    change.map_or("-".into(), |change| format!("{:+.1} %", change * 100.0))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn spread(values: &[f64]) -> String {
    let longest = values.iter().copied().reduce(f64::max);
    format!(
        "{}; {}",
        number(median(values.iter().copied()), 2),
        number(longest, 2)
    )
}

#[cfg(test)]
mod tests {
    use super::super::pauses::Pauses;
    use super::super::throughput::Update;
    use super::*;

    fn run(mode: &'static str, requests_per_s: f64, cpu: f64, matched: Option<f64>) -> Run {
        Run {
            round: 1,
            rate: None,
            mode,
            seconds: 1.0,
            requests_per_s,
            p50_us: 1,
            p99_us: 2,
            max_us: 3,
            leader_cpu_us_per_request: cpu,
            update: matched.map(|matched_per_s| Update {
                recorded_per_s: 1.0,
                matched_per_s,
                recorded_per_request: 5.0,
                blocked_ms_per_s: 0.0,
                ring_bytes: 64 << 20,
                ring_high_water_bytes: 1 << 20,
                agent_resident_kib: Some(2048),
                follower_private_kib: None,
            }),
        }
    }

    fn results(after: f64) -> Results {
        Results {
            machine: "m".into(),
            server: "s".into(),
            quick: false,
            runs: vec![
                run(MODES[0], 1000.0, 10.0, None),
                run(MODES[2], 900.0, 12.0, Some(70_000.0)),
                run(MODES[4], after, 10.0, None),
            ],
            updates: None,
            life_cycle: None,
            transformation: Vec::new(),
            pauses: vec![Pauses {
                keys: 1_000_000,
                fork_ms: vec![10.0],
                snapshot_ms: vec![16.0],
                promotion_ms: vec![1.0],
                client_longest_at_snapshot_ms: vec![17.0],
                client_longest_at_promotion_ms: vec![2.0],
            }],
        }
    }

    #[test]
    fn a_missed_target_is_said_and_an_unmeasured_one_too() {
        let text = markdown(&results(960.0));
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .expect("a line")
                .to_owned()
        };
        assert!(
            line("| at saturation: throughput after promotion").ends_with("| -4.0 % | **no** |")
        );
        assert!(line("| at saturation: leader's CPU time").ends_with("| 1.20 x | yes |"));
        assert!(line("| at saturation: 60,000 events").ends_with("| 70000 | yes |"));
        assert!(line("| snapshot pause with 1M").ends_with("| 1.60 x | **no** |"));
        assert!(line("The leader's CPU time per recorded call").contains("by 400 ns"));
        assert!(line("| single-leader").contains("| - |"));
        assert!(markdown(&results(980.0)).contains("| -2.0 % | yes |"));
        let nothing = Results {
            runs: Vec::new(),
            pauses: Vec::new(),
            ..results(1.0)
        };
        assert!(markdown(&nothing).contains("not measured"));
        let mut both = results(980.0);
        both.runs.insert(
            0,
            Run {
                rate: Some(5000),
                ..run(MODES[2], 5000.0, 30.0, Some(40_000.0))
            },
        );
        let text = markdown(&both);
        assert!(text.contains("at 5000 requests/s: leader's CPU time"));
        assert!(
            !text.contains("at 5000 requests/s: 60,000 events"),
            "a paced load cannot show how many could be matched"
        );
    }
}
