//! What the recorder costs a system call, measured in the process that makes it: not attached, attached
//! while somebody else is recorded, and recorded.
//!
//! Needs root. Each figure is of `read` from `/dev/zero`; the ring is emptied outside of the timed part.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mvedsua::recorder::Recorder;
use nix::time::{ClockId, clock_gettime};

/// The ring: one batch of the largest records fits.
const RING: u64 = 64 << 20;
/// Calls between two looks at the ring.
const BATCH: u64 = 4096;

/// What this thread has used of its CPU: other work on the machine counts only by what it does to the caches.
fn cpu_time() -> Duration {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock");
    Duration::from(time)
}

/// Makes `calls` calls, and empties the ring every [`BATCH`] of them. Only the calls are timed.
fn timed(calls: u64, recorder: &mut Option<Recorder>, mut call: impl FnMut()) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = calls;
    while left > 0 {
        let batch = left.min(BATCH);
        let start = cpu_time();
        for _ in 0..batch {
            call();
        }
        spent += cpu_time() - start;
        left -= batch;
        if let Some(recorder) = recorder {
            while let Some(event) = recorder.ring.peek_new() {
                recorder.ring.release(event);
            }
        }
    }
    spent
}

fn recorder(c: &mut Criterion) {
    let zero = File::open("/dev/zero").expect("/dev/zero is there");
    let mut buffer = vec![0u8; 4096];
    let mut group = c.benchmark_group("recorder");
    for len in [64usize, 4096] {
        for how in ["not attached", "attached", "recorded"] {
            let mut recorder = (how != "not attached").then(|| {
                let mut recorder = Recorder::load(RING).expect("root, and a kernel with BPF");
                if how == "recorded" {
                    recorder
                        .add_process(std::process::id())
                        .expect("a process id");
                }
                recorder.attach().expect("the program was verified");
                recorder
            });
            group.bench_function(format!("read_{len}/{how}"), |b| {
                b.iter_custom(|calls| {
                    timed(calls, &mut recorder, || {
                        let read = nix::unistd::read(&zero, &mut buffer[..len]);
                        black_box(read.expect("/dev/zero can be read"));
                    })
                });
            });
            if let Some(recorder) = recorder {
                let counters = recorder.counters().expect("the map is there");
                assert_eq!(counters.lost, 0, "descriptor {}", zero.as_raw_fd());
            }
        }
    }
    group.finish();
}

criterion_group!(benches, recorder);
criterion_main!(benches);
