//! The matcher on traces of real programs: what the recorder saw of a Redis, of a memcached with four worker
//! threads, and of two victims is played to a follower that only exists in this test. As it was it matches from end to end, in every
//! order in which its threads may come; with one thing changed, exactly that call is found.
//!
//! Needs root, as the recorder does; each trace is recorded once.

mod recorded {
    pub mod follower;
    pub mod trace;
}

use std::sync::LazyLock;

use mvedsua_tests::{Server, Victim};
use proptest::prelude::*;
use recorded::follower::{End, Program, follow};
use recorded::trace::Trace;

/// Calls of a trace that are enough.
const CALLS: usize = 3_000;

static REDIS: LazyLock<Trace> = LazyLock::new(|| {
    let server = Server::redis(&[]).expect("redis-server is installed");
    let mut client = server.client().expect("it accepts");
    let mut round = 0u32;
    Trace::record(server.pid(), CALLS, || {
        round += 1;
        let key = format!("key:{}", round % 100);
        let value = "v".repeat(1 + round as usize * 37 % 5_000);
        for words in [
            &["SET", &key, &value][..],
            &["GET", &key],
            &["LPUSH", "list", &value],
            &["LRANGE", "list", "0", "3"],
            &["EXPIRE", &key, "100"],
            &["CONFIG", "GET", "max*"],
            &["MSET", "a", "1", "b", "2"],
        ] {
            client.command(words).expect("it answers");
        }
    })
});

/// Four threads.
static MEMCACHED: LazyLock<Trace> = LazyLock::new(|| {
    let server = Server::memcached(4).expect("memcached is installed");
    let mut clients: Vec<_> = (0..8)
        .map(|_| server.client().expect("it accepts"))
        .collect();
    let end = |input: &[u8]| Ok(input.ends_with(b"\r\n").then_some(((), input.len())));
    Trace::record(server.pid(), CALLS, || {
        for (at, client) in clients.iter_mut().enumerate() {
            let command = format!("set key{at} 0 0 5\r\nvalue\r\n");
            client.send(command.as_bytes()).expect("it takes it");
        }
        for client in &mut clients {
            client.receive_with(end).expect("it answers");
        }
    })
});

/// Descriptors of all kinds, vectors, messages, `select`, `poll`, `epoll`.
static FDS: LazyLock<Trace> = LazyLock::new(|| victim("fds"));

/// Every call of the table that a program can make by itself.
static CALL: LazyLock<Trace> = LazyLock::new(|| victim("calls"));

fn victim(name: &str) -> Trace {
    let victim = Victim::start(name).expect("a compiler");
    let trace = Trace::record(victim.pid(), CALLS, || {
        victim.wait_rounds(1).expect("it goes on");
    });
    victim.end().expect("it was not harmed");
    trace
}

const TRACES: usize = 4;

fn traces() -> [(&'static str, &'static Trace); TRACES] {
    [
        ("redis", &*REDIS),
        ("memcached", &*MEMCACHED),
        ("fds", &*FDS),
        ("calls", &*CALL),
    ]
}

#[test]
fn traces_hold_what_they_are_meant_to() {
    for (name, trace) in traces() {
        assert!(trace.len() >= CALLS / 2, "{name}: {} calls", trace.len());
        let kinds = trace.kinds();
        println!(
            "{name}: {} calls of {} kinds, {} threads, {} bytes given to the kernel",
            trace.len(),
            kinds.len(),
            trace.threads(),
            trace.input_bytes(),
        );
        let wanted: &[&str] = match name {
            "redis" => &["epoll_wait", "read", "write"],
            "memcached" => &["epoll_wait", "read", "sendmsg"],
            "fds" => &[
                "writev",
                "sendmsg",
                "recvmsg",
                "poll",
                "epoll_ctl",
                "sendfile",
            ],
            _ => &[
                "openat",
                "rename",
                "setsockopt",
                "sendto",
                "fcntl",
                "utimensat",
            ],
        };
        for call in wanted {
            assert!(kinds.contains(call), "{name}: no {call} among {kinds:?}");
        }
    }
    assert!(MEMCACHED.threads() >= 4);
}

/// Which of a number of calls: the number is not known before the trace is.
fn at() -> impl Strategy<Value = prop::sample::Index> {
    any::<prop::sample::Index>()
}

/// In which order the threads of the follower come.
fn schedule() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_follower_that_does_the_same_is_never_found(which in 0..TRACES, schedule in schedule()) {
        let (name, trace) = traces()[which];
        let end = follow(trace, &Program::same(trace), &schedule);
        prop_assert_eq!(end, End::Through, "{}", name);
    }

    #[test]
    fn another_number_is_found_in_its_call(
        which in 0..TRACES, place in at(), bit in 0u32..32, schedule in schedule()
    ) {
        let (_, trace) = traces()[which];
        let numbers = trace.numbers();
        let (call, argument) = numbers[place.index(numbers.len())];
        let mut program = Program::same(trace);
        program.change_number(call, argument, bit);
        let end = follow(trace, &program, &schedule);
        prop_assert_eq!(end.call(), Some(call), "argument {}: {:?}", argument, end);
    }

    #[test]
    fn another_byte_is_found_in_its_argument(
        which in 0..TRACES, place in at(), offset in at(), bit in 0u8..8, schedule in schedule()
    ) {
        let (_, trace) = traces()[which];
        let inputs = trace.inputs();
        let input = &inputs[place.index(inputs.len())];
        let mut program = Program::same(trace);
        program.change_byte(input, input.compared[offset.index(input.compared.len())], bit);
        let end = follow(trace, &program, &schedule);
        prop_assert_eq!(end, End::Differs { call: input.call, argument: Some(input.argument) });
    }

    #[test]
    fn another_call_is_found(which in 0..TRACES, call in at(), nr in 0u16..334, schedule in schedule()) {
        let (_, trace) = traces()[which];
        let call = call.index(trace.len());
        prop_assume!(trace.nr(call) != nr);
        let mut program = Program::same(trace);
        program.change_call(call, nr);
        let end = follow(trace, &program, &schedule);
        prop_assert_eq!(end, End::Differs { call, argument: None });
    }

    #[test]
    fn a_call_too_few_too_many_or_in_another_order_is_found_where_it_first_shows(
        which in 0..TRACES, call in at(), change in 0u8..3, schedule in schedule()
    ) {
        let (_, trace) = traces()[which];
        let call = call.index(trace.len());
        let mut program = Program::same(trace);
        match change {
            0 => program.leave_out(trace, call),
            1 => program.repeat(trace, call),
            _ => program.swap_with_next(trace, call),
        }
        let end = follow(trace, &program, &schedule);
        prop_assert_eq!(end, program.first_difference(trace));
    }
}
