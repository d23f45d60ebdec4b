//! Cost of comparing one call and of answering it, without the kernel: what remains is the
//! notification.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mvedsua::matcher::{EpollData, Record, answer, compare};
use mvedsua_benches::{Arena, Recorded};

fn calls() -> Vec<(&'static str, Recorded)> {
    let at = Arena::START;
    let text = vec![b'x'; 16 * 1024];
    let mut all = vec![(
        "clock_gettime",
        Recorded::new("clock_gettime", [1, at, 0, 0, 0, 0], 0, 1, &[7; 16]),
    )];
    for (name, len) in [("read_64", 64usize), ("read_16k", 16 * 1024)] {
        let args = [5, at, len as u64, 0, 0, 0];
        all.push((
            name,
            Recorded::new("read", args, len as i64, 1, &text[..len]),
        ));
    }
    for (name, len) in [("write_64", 64usize), ("write_16k", 16 * 1024)] {
        let args = [5, at, len as u64, 0, 0, 0];
        all.push((
            name,
            Recorded::new("write", args, len as i64, 1, &text[..len]),
        ));
    }
    all.push((
        "epoll_wait_10",
        Recorded::new("epoll_wait", [5, at, 128, 100, 0, 0], 10, 1, &[0; 120]),
    ));
    all
}

fn matcher(c: &mut Criterion) {
    let epoll = EpollData::default();
    for (name, recorded) in calls() {
        let mut memory = Arena(vec![b'x'; 32 * 1024]);
        let mut scratch = vec![0; 32 * 1024];
        c.bench_function(name, |b| {
            b.iter(|| {
                let record = Record {
                    header: recorded.header,
                    payload: &recorded.payload,
                };
                let call = black_box(recorded.call());
                compare(&record, &call, &mut memory, &mut scratch).expect("equal");
                black_box(answer(&record, &call, &mut memory, &epoll).expect("mapped"));
            });
        });
    }
}

criterion_group!(benches, matcher);
criterion_main!(benches);
