//! What the recorder saw of a process, kept.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mvedsua::matcher::{Part, Record};
use mvedsua::recorder::Recorder;
use mvedsua_common::event::{EventHeader, FLAG_OUT_OF_LINE, PART_MSG_HEADER};
use mvedsua_common::spec::{Arg, Class, Dir};
use mvedsua_common::table;

const LIMIT: Duration = Duration::from_secs(60);

/// One call as it was recorded.
pub struct Recorded {
    header: EventHeader,
    payload: Vec<u8>,
}

impl Recorded {
    /// As the matcher sees it.
    pub fn record(&self) -> Record<'_> {
        Record {
            header: self.header,
            payload: &self.payload,
        }
    }

    /// What argument `index` is.
    pub fn arg(&self, index: u8) -> Arg {
        let call = table::syscall(self.header.nr).expect("the recorder knows it");
        call.arg_of(usize::from(index), &self.header.args)
    }
}

/// A piece of memory that a call gives to the kernel.
pub struct Input {
    /// The call, by its place in the trace.
    pub call: usize,
    /// Its argument.
    pub argument: u8,
    /// The part of the record, by its place in it.
    pub part: usize,
    /// Those of its bytes that are compared.
    pub compared: Vec<usize>,
}

/// The calls of a process that a follower is answered, in the order in which they ended.
pub struct Trace(Vec<Recorded>);

impl Trace {
    /// Records `calls` calls of a running process, doing `work` again and again meanwhile.
    pub fn record(pid: i32, calls: usize, mut work: impl FnMut() + Send) -> Self {
        let mut recorder = Recorder::load(16 << 20).expect("root, and a kernel with eBPF");
        recorder.attach().expect("attached");
        recorder.add_process(pid as u32).expect("recorded");
        let mut kept = Vec::new();
        // A thread stands still, or is about to, until its payload is fetched.
        let mut stands = false;
        let start = Instant::now();
        while kept.len() < calls {
            assert!(start.elapsed() < LIMIT, "{} calls in {LIMIT:?}", kept.len());
            std::thread::scope(|scope| {
                let worker = scope.spawn(&mut work);
                while !worker.is_finished() {
                    if drain(&mut recorder, &mut kept) {
                        stands = true;
                    }
                    stands = stands && !goes_on(pid);
                    std::thread::yield_now();
                }
            });
        }
        recorder.remove_process(pid as u32).expect("let go");
        stands |= drain(&mut recorder, &mut kept);
        while stands && !goes_on(pid) {
            assert!(start.elapsed() < LIMIT, "it does not stop");
            std::thread::yield_now();
        }
        assert_eq!(recorder.counters().expect("counters").lost, 0);
        Self(kept)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn call(&self, at: usize) -> &Recorded {
        &self.0[at]
    }

    pub fn nr(&self, at: usize) -> u16 {
        self.0[at].header.nr
    }

    pub fn tid(&self, at: usize) -> u32 {
        self.0[at].header.tid
    }

    pub fn threads(&self) -> usize {
        let threads: BTreeSet<u32> = self.0.iter().map(|call| call.header.tid).collect();
        threads.len()
    }

    pub fn kinds(&self) -> BTreeSet<&'static str> {
        let name = |call: &Recorded| table::syscall(call.header.nr).map(|call| call.name);
        self.0.iter().filter_map(name).collect()
    }

    pub fn input_bytes(&self) -> usize {
        self.inputs().iter().map(|input| input.compared.len()).sum()
    }

    /// All arguments that are numbers: the call, by its place, and the argument.
    pub fn numbers(&self) -> Vec<(usize, u8)> {
        let places = (0..self.len()).flat_map(|at| (0..6).map(move |index| (at, index)));
        let is_number = |(at, index): &(usize, u8)| {
            matches!(self.0[*at].arg(*index), Arg::Int | Arg::Long | Arg::Fd)
        };
        places.filter(is_number).collect()
    }

    /// Everything that is given to the kernel and compared.
    pub fn inputs(&self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for (at, call) in self.0.iter().enumerate() {
            for (index, part) in call.record().parts().enumerate() {
                let compared = compared(call.arg(part.arg), &part);
                if !compared.is_empty() {
                    inputs.push(Input {
                        call: at,
                        argument: part.arg,
                        part: index,
                        compared,
                    });
                }
            }
        }
        inputs
    }
}

/// Those bytes of a part that a follower must give, too.
pub fn compared(arg: Arg, part: &Part<'_>) -> Vec<usize> {
    let all = 0..part.data.len();
    match arg {
        _ if part.flags == PART_MSG_HEADER => Vec::new(),
        Arg::Path | Arg::Mem(Dir::In, _) | Arg::SockaddrIn(_) => all.collect(),
        Arg::Struct(Dir::InOut, 8, "loff_t") => all.collect(),
        Arg::Struct(Dir::In, _, name) => {
            let unread = mvedsua_common::spec::unread(name);
            let is_read = |at: &usize| unread.iter().all(|(from, to)| at < from || at >= to);
            all.filter(is_read).collect()
        }
        // The event mask; the descriptor and the events that are waited for.
        Arg::EpollEvent => all.take(4).collect(),
        Arg::PollFds(_) => all.filter(|at| at % 8 < 6).collect(),
        _ => Vec::new(),
    }
}

/// Takes what has come and keeps what a follower would be answered from it. True if a payload was left for
/// the agent to fetch while the thread stands still, which is not tested here.
fn drain(recorder: &mut Recorder, kept: &mut Vec<Recorded>) -> bool {
    let mut left = false;
    while let Some(event) = recorder.ring.peek_new() {
        let record = recorder.ring.event(&event);
        if event.header.flags & FLAG_OUT_OF_LINE != 0 {
            left = true;
        } else if is_answered(&record) {
            kept.push(Recorded {
                header: record.header,
                payload: record.payload.to_vec(),
            });
        }
        recorder.ring.release(event);
    }
    left
}

/// Lets a process go on that the recorder has stopped; false if it does not stand (yet).
fn goes_on(pid: i32) -> bool {
    use mvedsua_tests::process::{Signal, send, status_field};
    let stands = status_field(pid, "State").is_some_and(|state| state.starts_with('T'));
    if stands {
        send(pid, Signal::SIGCONT).expect("it lives");
    }
    stands
}

/// True for a call that a follower is answered from the record alone: none of those with a handling of
/// their own, and none that a signal interrupted.
fn is_answered(record: &Record<'_>) -> bool {
    let interrupted = -516..=-512;
    let class = record.spec().map(|call| call.class_of(&record.header.args));
    matches!(
        class,
        Some(Class::Replayed | Class::FdChanging | Class::Time)
    ) && !interrupted.contains(&record.header.ret)
        && record.header.ret != -i64::from(libc::EINTR)
}
