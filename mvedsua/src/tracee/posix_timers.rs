//! POSIX timers (`timer_create(2)`) of a stopped process, read and made again in another with the same ids.
//!
//! `/proc/PID/timers` says what a timer is for, `timer_gettime` how far it is; the kernel gives a wanted id
//! since Linux 6.15 (`PR_TIMER_CREATE_RESTORE_IDS`, made for checkpoints).

use mvedsua_common::table::number;

use super::inject::{Guarded, Plain};
use super::stub::Vdso;
use super::thread::Stopped;
use super::{Naming, Result, TraceeError};
use crate::sys::features::RESTORE_TIMER_IDS;
use crate::sys::memory;

/// `struct itimerspec`: interval and time left.
const SPEC: usize = 32;
/// What the kernel makes of `CLOCK_PROCESS_CPUTIME_ID`: the CPU time of the process itself. The other clocks
/// below zero are of one thread or another process, by its id (include/linux/posix-timers_types.h).
const PROCESS_TIME: i32 = -6;

/// One timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    id: i32,
    signal: i32,
    /// `sigev_value`: a number or a pointer of the process.
    value: u64,
    /// `sigev_notify`: `SIGEV_SIGNAL`, `SIGEV_NONE` or `SIGEV_THREAD_ID`.
    notify: i32,
    /// The thread that gets the signal, for `SIGEV_THREAD_ID`.
    thread: i32,
    clock: i32,
    spec: [u8; SPEC],
}

impl Timer {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// The signal that it sends.
    #[must_use]
    pub const fn signal(&self) -> i32 {
        self.signal
    }

    /// What it counts, as the kernel numbers clocks; below zero: CPU time.
    #[must_use]
    pub const fn clock(&self) -> i32 {
        self.clock
    }

    /// `struct itimerspec`, relative.
    #[must_use]
    pub const fn spec(&self) -> &[u8; SPEC] {
        &self.spec
    }

    /// Says how far it is, where it cannot be asked.
    pub const fn set(&mut self, spec: [u8; SPEC]) {
        self.spec = spec;
    }
}

/// The timers of a process; how far they are is not known yet ([`read_times`]).
///
/// # Errors
/// When the kernel says what we do not understand.
pub fn list(pid: i32) -> Result<Vec<Timer>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/timers")).unwrap_or_default();
    parse(&text).ok_or_else(|| {
        TraceeError::Unsuitable(format!("/proc/{pid}/timers says what is not known: {text}"))
    })
}

/// Four lines each: `ID: 1`, `signal: 60/00007fff86e452a8`, `notify: signal/tid.2634`, `ClockID: 0`.
fn parse(text: &str) -> Option<Vec<Timer>> {
    let lines: Vec<&str> = text.lines().collect();
    let timer = |lines: &[&str]| {
        let [id, signal, notify, clock] = lines else {
            return None;
        };
        let (signal, value) = signal.strip_prefix("signal: ")?.split_once('/')?;
        let (how, target) = notify.strip_prefix("notify: ")?.split_once('/')?;
        let (kind, target) = target.split_once('.')?;
        let notify = match (how, kind) {
            ("signal", "tid") => libc::SIGEV_THREAD_ID,
            ("signal", "pid") => libc::SIGEV_SIGNAL,
            ("none", _) => libc::SIGEV_NONE,
            _ => return None,
        };
        Some(Timer {
            id: id.strip_prefix("ID: ")?.parse().ok()?,
            signal: signal.parse().ok()?,
            value: u64::from_str_radix(value, 16).ok()?,
            notify,
            thread: target.parse().ok()?,
            clock: clock.strip_prefix("ClockID: ")?.parse().ok()?,
            spec: [0; SPEC],
        })
    };
    lines.chunks(4).map(timer).collect()
}

/// Why these timers cannot be made again in another process, if they cannot. `moved`: objects of the process
/// are elsewhere there.
#[must_use]
pub fn obstacle(timers: &[Timer], moved: bool) -> Option<String> {
    let first = timers.first()?;
    if !crate::sys::features::can_restore_timer_ids() {
        return Some(format!(
            "the leader has POSIX timers (timer_create), such as {}, which can be carried over from Linux 6.15 on",
            first.id
        ));
    }
    if let Some(timer) = timers
        .iter()
        .find(|timer| timer.clock < 0 && timer.clock != PROCESS_TIME)
    {
        return Some(format!(
            "the leader's POSIX timer {} counts the CPU time of a thread, which cannot be carried over",
            timer.id
        ));
    }
    let timer = timers.iter().find(|timer| {
        moved && timer.notify != libc::SIGEV_NONE && timer.value > u64::from(u16::MAX)
    })?;
    Some(format!(
        "the leader's POSIX timer {} brings the pointer {:#x}, and the transformer has moved objects",
        timer.id, timer.value
    ))
}

/// Asks a stopped thread of the process how far each timer is.
///
/// # Errors
/// When a call fails.
pub fn read_times(guarded: &mut Guarded<'_>, pid: i32, timers: &mut [Timer]) -> Result<()> {
    let out = guarded.scratch();
    for timer in timers {
        let args = [timer.id as u64, out, 0, 0, 0, 0];
        guarded.call("timer_gettime", number("timer_gettime"), &args)?;
        memory::read(pid, out, &mut timer.spec).named("read a timer", pid)?;
    }
    Ok(())
}

/// Makes process `pid` have these timers and no others, by calls in its stopped `thread`, which may use the
/// 4 KiB at `scratch`. `counterpart` knows its threads by the ids of those that the timers were read of.
///
/// # Errors
/// When a call fails, or a timer's thread is gone.
pub fn make(
    thread: &mut Stopped,
    pid: i32,
    vdso: &Vdso,
    scratch: u64,
    timers: &[Timer],
    counterpart: &dyn Fn(i32) -> Option<i32>,
) -> Result<()> {
    let plain = Plain { vdso };
    let mut call = |call: &'static str, args: [u64; 6]| {
        plain.call_ok(thread, call, number(call), &args).map(drop)
    };
    // Its own, if it led before.
    for own in list(pid)? {
        call("timer_delete", [own.id as u64, 0, 0, 0, 0, 0])?;
    }
    if timers.is_empty() {
        return Ok(());
    }
    let restore = RESTORE_TIMER_IDS as u64;
    call("prctl", [restore, 1, 0, 0, 0, 0])?;
    for timer in timers {
        let target = match timer.notify {
            libc::SIGEV_THREAD_ID => counterpart(timer.thread).ok_or_else(|| {
                TraceeError::Unsuitable(format!(
                    "thread {} gets the signals of timer {} and is no more",
                    timer.thread, timer.id
                ))
            })?,
            _ => 0,
        };
        // struct sigevent (64 bytes), and the id.
        let mut bytes = [0u8; 72];
        bytes[..8].copy_from_slice(&timer.value.to_le_bytes());
        bytes[8..12].copy_from_slice(&timer.signal.to_le_bytes());
        bytes[12..16].copy_from_slice(&timer.notify.to_le_bytes());
        bytes[16..20].copy_from_slice(&target.to_le_bytes());
        bytes[64..68].copy_from_slice(&timer.id.to_le_bytes());
        memory::write(pid, scratch, &bytes).named("write the new leader's stack", pid)?;
        let id = scratch + 64;
        let clock = match timer.clock {
            PROCESS_TIME => libc::CLOCK_PROCESS_CPUTIME_ID,
            clock => clock,
        };
        call("timer_create", [clock as u64, scratch, id, 0, 0, 0])?;
    }
    call("prctl", [restore, 0, 0, 0, 0, 0])?;
    for timer in timers.iter().filter(|timer| timer.spec[16..] != [0; 16]) {
        memory::write(pid, scratch, &timer.spec).named("write the new leader's stack", pid)?;
        call("timer_settime", [timer.id as u64, 0, scratch, 0, 0, 0])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ID: 3\nsignal: 34/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 1\n\
                        ID: 5\nsignal: 32/0000000000000005\nnotify: signal/tid.2635\nClockID: 0\n\
                        ID: 6\nsignal: 0/0000000000000000\nnotify: none/pid.2634\nClockID: -2\n";

    #[test]
    fn the_kernel_s_words_are_understood() {
        let timers = parse(TEXT).expect("well-formed");
        assert_eq!(timers.len(), 3);
        let kinds: Vec<_> = timers
            .iter()
            .map(|t| (t.id, t.signal, t.notify, t.thread))
            .collect();
        assert_eq!(
            kinds,
            [
                (3, 34, libc::SIGEV_SIGNAL, 2634),
                (5, 32, libc::SIGEV_THREAD_ID, 2635),
                (6, 0, libc::SIGEV_NONE, 2634)
            ]
        );
        assert_eq!(timers[0].value, 0x7fff_86e4_52a8);
        assert_eq!(parse(""), Some(Vec::new()));
        assert_eq!(parse("ID: 3\nsignal: 34/0\n"), None);
        assert_eq!(parse(&TEXT.replace("signal/pid", "thread/pid")), None);
    }

    #[test]
    fn what_only_its_own_process_can_have_is_an_obstacle() {
        let timers = parse(TEXT).expect("well-formed");
        assert_eq!(obstacle(&[], true), None);
        let of_one_thread = obstacle(&timers[2..], false).expect("an obstacle");
        assert!(of_one_thread.contains("timer 6") || of_one_thread.contains("6.15"));
        if crate::sys::features::can_restore_timer_ids() {
            assert_eq!(obstacle(&timers[..2], false), None);
            let moved = obstacle(&timers[..2], true).expect("an obstacle");
            assert!(moved.contains("0x7fff86e452a8"), "{moved}");
        }
    }
}
