//! The end of processes that are not wanted any more, and what they let go of before.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::pending_signals::{block, unblock};
use super::side::{Side, Why};
use crate::sys::pidfd;
use crate::sys::ptrace::{self, Wait};
use crate::tracee::context::rewind_thread;
use crate::tracee::inject::Plain;
use crate::tracee::inspect;
use crate::tracee::snapshot::FOLLOWER_OPTIONS;
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Stopped;

/// For this long an end is waited for without sleeping.
const QUICK: Duration = Duration::from_micros(500);
/// Not even a report that never comes may keep a server waiting for longer.
const LIMIT: Duration = Duration::from_secs(5);

/// Kills processes, all at once, so that none hears of another's end, and waits until nothing of them is left. Only
/// their own threads are waited for: what others report, above all their signals, stays with the kernel, or is handled
/// `meanwhile`, which is called once a millisecond: the end of a large process takes its time.
pub(super) fn end_all<'a>(
    sides: impl IntoIterator<Item = &'a mut Side>,
    meanwhile: &mut dyn FnMut(),
) {
    let mut sides: Vec<&mut Side> = sides.into_iter().filter(|side| !side.is_gone()).collect();
    for side in &sides {
        let _ = pidfd::kill(side.pid);
        // One that is dying already stands at its exit, and the kernel drops the signal; no other gets any further.
        for tid in side.tids() {
            let _ = ptrace::resume(tid, 0);
        }
    }
    let start = Instant::now();
    loop {
        // Processes of a pid namespace end before its first one can: so all are looked at in turn.
        let mut heard = false;
        for side in &mut sides {
            heard |= hear(side);
        }
        sides.retain(|side| !side.is_gone());
        if sides.is_empty() {
            return;
        }
        if heard {
            continue;
        }
        if start.elapsed() < QUICK {
            std::thread::yield_now();
            continue;
        }
        if start.elapsed() > LIMIT {
            let pids: Vec<i32> = sides.iter().map(|side| side.pid).collect();
            tracing::error!(
                ?pids,
                "of these processes something does not end; it is left to itself"
            );
            sides.iter_mut().for_each(|side| side.forget());
            return;
        }
        meanwhile();
        // No descriptor tells of a ptrace report to this thread alone.
        let _ = poll(&mut [], PollTimeout::from(1u8));
    }
}

/// Hears what the threads of a killed process report, also those of which nobody has heard yet since they were born a
/// moment ago: a thread that is killed stops at its exit, and without it the process would not end. Returns whether
/// there was anything.
fn hear(side: &mut Side) -> bool {
    let mut tids = side.tids();
    let living = inspect::threads(side.pid).unwrap_or_default();
    tids.extend(living.into_iter().filter(|tid| !side.has(*tid)));
    let mut heard = false;
    for tid in tids {
        match ptrace::wait(tid, false) {
            Ok(Some((_, Wait::Exited(_) | Wait::Killed(_)))) => side.ended(tid),
            Ok(Some(_)) => {
                let _ = ptrace::resume(tid, 0);
            }
            Ok(None) | Err(_) if inspect::process_of(tid) != Some(side.pid) => side.ended(tid),
            Ok(None) | Err(_) => continue,
        }
        heard = true;
    }
    heard
}

/// The stopped old process lets go of its descriptors before the new one, which has them all, serves: what that closes
/// is closed, and the reader of a pipe sees its end. The end of a large process takes its time.
pub(super) fn close_descriptors(old: &mut Side, vdso: &Vdso) {
    // One that dies makes no call.
    let Some(mut thread) = old.take_main() else {
        return;
    };
    let closed = (|| {
        thread.set_options(FOLLOWER_OPTIONS | ptrace::O_SUSPEND_SECCOMP)?;
        rewind_thread(&thread, old.pid)?;
        let mask = block(&thread)?;
        close_all(&mut thread, vdso)?;
        unblock(&thread, mask)
    })();
    if let Err(error) = closed {
        tracing::warn!(pid = old.pid, %error, "the old version keeps its descriptors until its end");
    }
    old.add_stopped(thread, Why::Asked);
}

/// All signals of the thread are blocked.
pub(super) fn close_all(thread: &mut Stopped, vdso: &Vdso) -> crate::tracee::Result<()> {
    let args = [0, u64::from(u32::MAX), 0, 0, 0, 0];
    let nr = mvedsua_common::table::number("close_range");
    Plain { vdso }
        .call_ok(thread, "close_range", nr, &args)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    use super::*;
    use crate::tracee::thread::Running;

    /// Says a byte when it has two threads.
    const TWO_THREADS: &str = "
        #include <pthread.h>
        #include <unistd.h>
        static void *other(void *unused) { write(1, \"2\", 1); pause(); return unused; }
        int main(void) { pthread_t t; pthread_create(&t, 0, other, 0); pause(); return 0; }";

    /// Seen on 2026-11-25: a rollback met a follower's thread that had just been born, waited for its end, and
    /// the leader stood still for ever.
    #[test]
    fn a_process_ends_with_a_thread_of_which_nobody_has_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("two.c"), folder.path().join("two"));
        std::fs::write(&source, TWO_THREADS).unwrap();
        let mut cc = Command::new("cc");
        let compiled = cc.arg("-pthread").arg("-o").arg(&program).arg(&source);
        assert!(compiled.status().unwrap().success());
        let (done, ended) = mpsc::channel();
        // Tracing binds to a thread, and one that hangs must not take the test with it.
        std::thread::spawn(move || {
            let mut command = Command::new(program);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut says = [0];
            let mut output = child.stdout.take().unwrap();
            output.read_exact(&mut says).unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let mut side = Side::new(pid);
            for tid in inspect::threads(pid).unwrap() {
                let thread = Running::seize(tid, FOLLOWER_OPTIONS).unwrap();
                if tid == pid {
                    side.add_running(thread);
                }
            }
            assert_eq!(inspect::threads(pid).unwrap().len(), 2);
            end_all([&mut side], &mut || ());
            // Its end was the tracer's to hear of, who is its parent.
            let _ = child.wait();
            let _ = done.send(side.is_gone() && inspect::process_of(pid).is_none());
        });
        assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Ok(true));
    }
}
