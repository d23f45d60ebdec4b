//! What is known of the root's timers while it cannot be asked any more: a process that dies makes no calls. `/proc`
//! still names its POSIX timers then, but not how far they are, and its interval timers nowhere.
//!
//! They are read at the snapshot, and each call that changes one is noted when its record comes out of the ring: time
//! that has passed since is taken off. What counts CPU time is taken as it was set.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::following::Following;
use super::replay::record;
use super::roles::roles;
use super::transfer::{INTERVAL_TIMERS, Timers};
use crate::recorder::EventRef;
use crate::tracee::{inspect, posix_timers};

/// `struct itimerval` or `struct itimerspec`: interval and time left, in seconds and a part of one.
const SPEC: usize = 32;
/// Parts of a second in a `struct timeval`, and in a `struct timespec`.
const MICROS: u64 = 1_000_000;
const NANOS: u64 = 1_000_000_000;

/// A crash may have been this long ago when it is heard of. (A timer that ran out within this time before may be heard
/// twice: that is less than never.)
const HEARD_LATE: Duration = Duration::from_millis(5);

/// A timer as it was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting {
    interval: Duration,
    first: First,
}

/// When it runs out for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// So long after that moment. Zero: never.
    After(Duration, Instant),
    /// When its clock says so (`TIMER_ABSTIME`).
    At(Duration),
}

impl Setting {
    fn parse(bytes: &[u8], per_second: u64, absolute: bool, now: Instant) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let time = |at: usize| {
            let part = word(at + 8)?.checked_mul(NANOS / per_second)?;
            Duration::from_secs(word(at)?).checked_add(Duration::from_nanos(part))
        };
        let value = time(16)?;
        let first = if absolute && !value.is_zero() {
            First::At(value)
        } else {
            First::After(value, now)
        };
        Some(Self {
            interval: time(0)?,
            first,
        })
    }

    /// As it has to be set now for a timer that counts `clock`; `None` of the clock: CPU time. If it has run out for
    /// good, no longer than `lost` ago, nobody has got its signal: it runs out again at once.
    fn now(
        self,
        clock: Option<ClockId>,
        now: Instant,
        per_second: u64,
        lost: Duration,
    ) -> [u8; SPEC] {
        let (value, passed) = match (self.first, clock) {
            (First::After(value, since), Some(_)) => (value, now.saturating_duration_since(since)),
            (First::After(value, _), None) => (value, Duration::ZERO),
            (First::At(value), clock) => {
                let time = clock.and_then(|clock| clock_gettime(clock).ok());
                (value, time.map_or(Duration::ZERO, Duration::from))
            }
        };
        let left = if value > passed || value.is_zero() {
            value.saturating_sub(passed)
        } else if self.interval.is_zero() {
            if passed - value <= lost {
                Duration::from_nanos(NANOS / per_second)
            } else {
                Duration::ZERO
            }
        } else {
            let over = (passed - value).as_nanos() % self.interval.as_nanos();
            self.interval - Duration::from_nanos(over as u64)
        };
        let mut bytes = [0; SPEC];
        for (at, time) in [(0, self.interval), (16, left)] {
            let part = u64::from(time.subsec_nanos()) / (NANOS / per_second);
            bytes[at..at + 8].copy_from_slice(&time.as_secs().to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&part.to_le_bytes());
        }
        bytes
    }
}

/// The timers of a process, by what it was seen to do.
#[derive(Debug, Default)]
pub(super) struct Armed {
    interval: [Option<Setting>; INTERVAL_TIMERS as usize],
    posix: HashMap<i32, Setting>,
}

impl Armed {
    /// As they have just been read.
    pub(super) fn new(timers: &Timers) -> Self {
        let now = Instant::now();
        let mut armed = Self::default();
        for (place, bytes) in armed.interval.iter_mut().zip(&timers.interval) {
            *place = Setting::parse(bytes, MICROS, false, now);
        }
        for timer in &timers.posix {
            let setting = Setting::parse(timer.spec(), NANOS, false, now);
            armed
                .posix
                .extend(setting.map(|setting| (timer.id(), setting)));
        }
        armed
    }

    /// How they are now, of the process `pid` that was heard to die at the moment `died`.
    pub(super) fn timers(&self, pid: i32, died: Instant) -> Timers {
        let now = Instant::now();
        // The kernel drops the signals of a process that is being ended. Those that wait came before, and go over.
        let waits =
            inspect::status_mask(pid, pid, "ShdPnd") | inspect::status_mask(pid, pid, "SigPnd");
        let lost = |signal: i32| {
            let waits = waits & 1u64.checked_shl(signal as u32 - 1).unwrap_or(0) != 0;
            if waits {
                Duration::ZERO
            } else {
                now.saturating_duration_since(died) + HEARD_LATE
            }
        };
        let interval = [
            (libc::SIGALRM, Some(ClockId::CLOCK_MONOTONIC)),
            (libc::SIGVTALRM, None),
            (libc::SIGPROF, None),
        ];
        let interval = self
            .interval
            .iter()
            .zip(interval)
            .map(|(setting, (signal, clock))| {
                setting.map_or([0; SPEC], |one| one.now(clock, now, MICROS, lost(signal)))
            });
        let mut posix = posix_timers::list(pid).unwrap_or_default();
        for timer in &mut posix {
            if let Some(setting) = self.posix.get(&timer.id()) {
                let clock = timer.clock();
                let clock = (clock >= 0).then(|| ClockId::from_raw(clock));
                timer.set(setting.now(clock, now, NANOS, lost(timer.signal())));
            }
        }
        Timers {
            interval: interval.collect(),
            posix,
        }
    }
}

impl Following {
    /// The root of the leader has made this call.
    pub(super) fn note_timer(&mut self, event: &EventRef) {
        let header = &event.header;
        let roles = roles();
        if ![
            roles.setitimer,
            roles.alarm,
            roles.timer_settime,
            roles.timer_delete,
        ]
        .contains(&header.nr)
            || header.tgid as i32 != self.pairs.root().leader.pid
            || header.ret < 0
        {
            return;
        }
        let now = Instant::now();
        let record = record(&self.recorder, &self.fetched, event);
        let args = header.args;
        let armed = &mut self.armed;
        if header.nr == roles.setitimer {
            let setting = record.data(1);
            let setting = setting.and_then(|bytes| Setting::parse(bytes, MICROS, false, now));
            if let Some(place) = armed.interval.get_mut(args[0] as usize) {
                *place = setting;
            }
        } else if header.nr == roles.alarm {
            armed.interval[0] = Some(Setting {
                interval: Duration::ZERO,
                first: First::After(Duration::from_secs(u64::from(args[0] as u32)), now),
            });
        } else if header.nr == roles.timer_settime {
            let absolute = args[1] as i32 & libc::TIMER_ABSTIME != 0;
            let setting = record.data(2);
            let setting = setting.and_then(|bytes| Setting::parse(bytes, NANOS, absolute, now));
            if let Some(setting) = setting {
                armed.posix.insert(args[0] as i32, setting);
            }
        } else {
            armed.posix.remove(&(args[0] as i32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(words: [u64; 4]) -> [u8; SPEC] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.try_into().expect("four words")
    }

    /// What is left after so many milliseconds of a timer that is set in microseconds.
    fn left(set: [u64; 4], millis: u64) -> [u8; SPEC] {
        let start = Instant::now();
        let setting = Setting::parse(&spec(set), MICROS, false, start).expect("whole");
        let now = start + Duration::from_millis(millis);
        let lost = Duration::from_millis(10);
        setting.now(Some(ClockId::CLOCK_MONOTONIC), now, MICROS, lost)
    }

    #[test]
    fn time_that_has_passed_is_taken_off() {
        assert_eq!(left([0, 0, 2, 500_000], 600), spec([0, 0, 1, 900_000]));
        // It has run out, once or several times.
        assert_eq!(left([0, 0, 0, 500_000], 600), spec([0; 4]));
        assert_eq!(
            left([0, 300_000, 0, 500_000], 600),
            spec([0, 300_000, 0, 200_000])
        );
        assert_eq!(left([1, 0, 0, 500_000], 2_700), spec([1, 0, 0, 800_000]));
        // It ran out when there was nobody any more to be told.
        assert_eq!(left([0, 0, 0, 500_000], 505), spec([0, 0, 0, 1]));
        // It is not set.
        assert_eq!(left([0, 300_000, 0, 0], 600), spec([0, 300_000, 0, 0]));
    }

    #[test]
    fn what_counts_cpu_time_is_as_it_was_set() {
        let start = Instant::now();
        let setting = Setting::parse(&spec([0, 5, 1, 7]), MICROS, false, start).expect("whole");
        let later = start + Duration::from_secs(60);
        assert_eq!(
            setting.now(None, later, MICROS, Duration::ZERO),
            spec([0, 5, 1, 7])
        );
    }

    #[test]
    fn a_moment_is_not_moved_by_when_it_was_set() {
        let clock = ClockId::CLOCK_BOOTTIME;
        let time = Duration::from(clock_gettime(clock).expect("a clock"));
        let at = time + Duration::from_secs(100);
        let bytes = spec([0, 0, at.as_secs(), u64::from(at.subsec_nanos())]);
        let start = Instant::now();
        let setting = Setting::parse(&bytes, NANOS, true, start).expect("whole");
        let later = start + Duration::from_secs(50);
        let left = setting.now(Some(clock), later, NANOS, Duration::ZERO);
        let seconds = u64::from_le_bytes(left[16..24].try_into().expect("8 bytes"));
        assert!((98..100).contains(&seconds), "{seconds}");
    }
}
