//! Events per second out of a counter that is read now and then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Seconds of history.
const HISTORY: usize = 300;

/// Rates of the last seconds.
#[derive(Debug, Default)]
pub struct Rate {
    since: Option<(Instant, u64)>,
    history: VecDeque<u64>,
}

impl Rate {
    /// Notes the counter at a moment. A rate is made of each full second.
    pub fn observe(&mut self, now: Instant, counter: u64) {
        let Some((then, before)) = self.since else {
            self.since = Some((now, counter));
            return;
        };
        let passed = now.duration_since(then);
        if counter < before {
            // Another update began to count.
            self.since = Some((now, counter));
        } else if passed >= Duration::from_secs(1) {
            let per_second = (counter - before) as f64 / passed.as_secs_f64();
            self.history.push_back(per_second.round() as u64);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
            self.since = Some((now, counter));
        }
    }

    /// The last rate.
    pub fn now(&self) -> u64 {
        self.history.back().copied().unwrap_or(0)
    }

    /// The last `seconds` rates, oldest first.
    pub fn last(&self, seconds: usize) -> Vec<u64> {
        self.history
            .iter()
            .skip(self.history.len().saturating_sub(seconds))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_made_of_each_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rate = Rate::default();
        rate.observe(at(0), 100);
        assert_eq!(rate.now(), 0);
        rate.observe(at(500), 600);
        assert_eq!(rate.now(), 0, "not a second yet");
        rate.observe(at(1000), 1100);
        assert_eq!(rate.now(), 1000);
        rate.observe(at(3000), 1100);
        assert_eq!(rate.now(), 0);
        rate.observe(at(3500), 7); // a new update
        rate.observe(at(4500), 57);
        assert_eq!(rate.last(2), [0, 50]);
        assert_eq!(rate.last(100), [1000, 0, 50]);
    }
}
