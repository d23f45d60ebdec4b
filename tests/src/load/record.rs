//! What a load records: counts and the longest latency per interval, a histogram per phase.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Longest latency that the histogram tells apart, in microseconds: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Errors that clients saw. Each is one that a user of the server would have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Errors {
    /// Connections refused, reset or closed by the server, or unanswered for 30 s.
    pub connection: u64,
    /// Replies that are errors, or of the wrong kind.
    pub reply: u64,
    /// Values that are not what the key must hold, missing keys included.
    pub value: u64,
}

impl Errors {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.connection + self.reply + self.value
    }
}

/// One interval of the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Interval {
    /// Requests answered.
    pub requests: u64,
    /// Errors of all kinds.
    pub errors: u64,
    /// Longest latency of a request answered in this interval, in microseconds.
    pub longest_us: u64,
}

/// What happened between two calls of [`super::Load::phase`].
#[derive(Clone, Debug)]
pub struct Phase {
    /// How long it was.
    pub duration: Duration,
    /// Requests answered.
    pub requests: u64,
    /// Errors that clients saw.
    pub errors: Errors,
    /// Latencies in microseconds.
    pub latencies: Histogram<u64>,
}

impl Phase {
    /// Requests per second.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.requests as f64 / self.duration.as_secs_f64()
    }

    /// The latency in microseconds that `quantile` (0 to 1) of the requests did not exceed.
    #[must_use]
    pub fn latency_us(&self, quantile: f64) -> u64 {
        self.latencies.value_at_quantile(quantile)
    }
}

/// The record of a running load, shared with whoever watches it.
#[derive(Debug)]
pub(super) struct Record {
    start: Instant,
    width: Duration,
    pub(super) intervals: Vec<Interval>,
    pub(super) errors: Errors,
    phase_start: Instant,
    phase_errors: Errors,
    latencies: Histogram<u64>,
}

/// Kinds of errors, for [`Record::error`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Connection,
    Reply,
    Value,
}

impl Record {
    pub(super) fn new(width: Duration, start: Instant) -> Self {
        Self {
            start,
            width,
            intervals: Vec::new(),
            errors: Errors::default(),
            phase_start: start,
            phase_errors: Errors::default(),
            latencies: Histogram::new_with_max(LONGEST_US, 3).expect("constant bounds are valid"),
        }
    }

    pub(super) fn answered(&mut self, now: Instant, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(us);
        let interval = self.interval(now);
        interval.requests += 1;
        interval.longest_us = interval.longest_us.max(us);
    }

    pub(super) fn error(&mut self, now: Instant, kind: Kind) {
        let count = |errors: &mut Errors| match kind {
            Kind::Connection => errors.connection += 1,
            Kind::Reply => errors.reply += 1,
            Kind::Value => errors.value += 1,
        };
        count(&mut self.errors);
        count(&mut self.phase_errors);
        self.interval(now).errors += 1;
    }

    /// Ends the phase and starts the next.
    pub(super) fn phase(&mut self, now: Instant) -> Phase {
        let phase = Phase {
            duration: now - self.phase_start,
            requests: self.latencies.len(),
            errors: std::mem::take(&mut self.phase_errors),
            latencies: self.latencies.clone(),
        };
        self.latencies.reset();
        self.phase_start = now;
        phase
    }

    /// The interval of `now`; those without any request in between are filled in with zeros.
    fn interval(&mut self, now: Instant) -> &mut Interval {
        let at = (now - self.start).as_nanos() / self.width.as_nanos();
        let at = usize::try_from(at).expect("a load does not run that long");
        if self.intervals.len() <= at {
            self.intervals.resize(at + 1, Interval::default());
        }
        &mut self.intervals[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_interval_stays_in_the_record_with_zero_requests() {
        let start = Instant::now();
        let mut record = Record::new(Duration::from_secs(1), start);
        record.answered(start, Duration::from_micros(50));
        record.answered(
            start + Duration::from_millis(2500),
            Duration::from_millis(2400),
        );
        let requests: Vec<u64> = record.intervals.iter().map(|i| i.requests).collect();
        assert_eq!(requests, [1, 0, 1]);
        assert_eq!(record.intervals[2].longest_us, 2_400_000);
    }

    #[test]
    fn a_phase_takes_its_errors_along_and_the_total_keeps_them() {
        let start = Instant::now();
        let mut record = Record::new(Duration::from_secs(1), start);
        record.error(start, Kind::Value);
        let phase = record.phase(start + Duration::from_secs(1));
        assert_eq!(phase.errors.value, 1);
        assert_eq!(
            record.phase(start + Duration::from_secs(2)).errors.total(),
            0
        );
        assert_eq!(record.errors.total(), 1);
    }
}
