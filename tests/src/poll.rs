//! Waiting for a condition.

use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks at a condition.
const STEP: Duration = Duration::from_millis(5);

/// Looks at `condition` every 5 ms until it holds or `limit` has passed; says whether it holds.
///
/// The last look is made after the limit, so that a machine that slept through it still gets one.
#[must_use = "a condition that did not come true is a failed test"]
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let last = Instant::now() >= deadline;
        if condition() {
            return true;
        }
        if last {
            return false;
        }
        thread::sleep(STEP); // poll: the one place where waiting is done by sleeping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        assert!(wait_until(Duration::from_secs(60), || {
            looks += 1;
            looks == 3
        }));
        assert_eq!(looks, 3);
    }

    #[test]
    fn looks_once_even_with_no_time_and_then_gives_up() {
        let mut looks = 0;
        assert!(!wait_until(Duration::ZERO, || {
            looks += 1;
            false
        }));
        assert_eq!(looks, 1);
    }
}
