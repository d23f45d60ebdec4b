//! The thread that drives the connections.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::connection::{Connection, Progress};
use super::dataset::{Dataset, split_mix};
use super::record::{Errors, Interval, Kind, Phase, Record};

/// A request without reply for so long counts as a connection error.
const STALL: Duration = Duration::from_secs(30);

/// Pause before a broken connection is made anew.
const RECONNECT: Duration = Duration::from_millis(100);

/// The epoll word of the timer; connections have their index.
const TIMER: u64 = u64::MAX;

/// How to load the server.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Number of connections, each with one request under way.
    pub connections: usize,
    /// Share of `GET`, 0 to 100; the rest is `SET`.
    pub read_percent: u8,
    /// Requests per second over all connections; `None` means as fast as the server answers. With a
    /// rate, latency counts from the moment at which the request was due, so that a pause of the
    /// server is seen by every request that it delayed, not only by those that were under way.
    pub rate: Option<u32>,
    /// Width of an [`Interval`] of the record.
    pub interval: Duration,
    /// No two connections use one key: threads of a server that serve them do not race for it. Which of
    /// two such threads came first is no system call, so a follower may see it the other way round.
    pub own_keys: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            connections: 50,
            read_percent: 90,
            rate: None,
            interval: Duration::from_secs(1),
            own_keys: false,
        }
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Dataset>,
    /// When it started, on the clock of the timeline.
    started: std::time::SystemTime,
}

/// A load that has ended.
#[derive(Debug)]
pub struct LoadReport {
    /// When it started.
    pub started: std::time::SystemTime,
    /// The record, interval by interval.
    pub intervals: Vec<Interval>,
    /// Errors that clients saw, from start to end.
    pub errors: Errors,
    /// What the server must hold now.
    pub data: Dataset,
}

impl Load {
    /// Connects and starts. The dataset must have been written to the server.
    ///
    /// # Errors
    /// When a connection cannot be made at the start, or the kernel refuses epoll or a timer.
    pub fn start(addr: SocketAddr, options: LoadOptions, data: Dataset) -> io::Result<Self> {
        if data.keys() == 0 || options.connections == 0 || options.rate == Some(0) {
            return Err(io::Error::other(
                "a load needs at least one key, one connection and a rate above 0",
            ));
        }
        let start = Instant::now();
        let record = Arc::new(Mutex::new(Record::new(options.interval, start)));
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker::new(addr, options, data, start)?;
        let thread = std::thread::Builder::new().name("load".into()).spawn({
            let (record, stop) = (record.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    worker.step(&record);
                }
                worker.finish(&record)
            }
        })?;
        Ok(Self {
            record,
            stop,
            thread,
            started: std::time::SystemTime::now(),
        })
    }

    /// Ends a phase and starts the next one: what happened since the last call.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let mut record = lock(&self.record);
        record.phase(Instant::now())
    }

    /// Errors so far.
    #[must_use]
    pub fn errors(&self) -> Errors {
        lock(&self.record).errors
    }

    /// The record so far; the last interval is still being filled.
    #[must_use]
    pub fn intervals(&self) -> Vec<Interval> {
        lock(&self.record).intervals.clone()
    }

    /// When it started.
    #[must_use]
    pub fn started(&self) -> std::time::SystemTime {
        self.started
    }

    /// Waits for the replies that are due and ends.
    ///
    /// # Panics
    /// When the generator itself has panicked.
    #[must_use]
    pub fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let data = self
            .thread
            .join()
            .expect("the load generator does not panic");
        let record = lock(&self.record);
        LoadReport {
            started: self.started,
            intervals: record.intervals.clone(),
            errors: record.errors,
            data,
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().expect("nobody panics holding the record")
}

/// A place for a connection.
#[derive(Debug)]
enum Slot {
    Open(Connection),
    /// Broken; made anew at that moment.
    Closed(Instant),
}

#[derive(Debug)]
struct Worker {
    addr: SocketAddr,
    options: LoadOptions,
    data: Dataset,
    epoll: Epoll,
    timer: Option<TimerFd>,
    slots: Vec<Slot>,
    /// Connections with no request under way.
    idle: Vec<usize>,
    /// When the next request is due, if there is a rate.
    next_due: Instant,
    random: u64,
    last_check: Instant,
}

impl Worker {
    fn new(
        addr: SocketAddr,
        options: LoadOptions,
        data: Dataset,
        start: Instant,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = options.rate.map(|rate| -> io::Result<TimerFd> {
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            let every = TimeSpec::from(Duration::from_secs(1) / rate);
            timer.set(Expiration::Interval(every), TimerSetTimeFlags::empty())?;
            epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
            Ok(timer)
        });
        let mut worker = Self {
            addr,
            options,
            data,
            epoll,
            timer: timer.transpose()?,
            slots: Vec::new(),
            idle: Vec::new(),
            next_due: start,
            random: 1,
            last_check: start,
        };
        for at in 0..options.connections {
            let slot = worker.open(at)?;
            worker.slots.push(slot);
            worker.idle.push(at);
        }
        Ok(worker)
    }

    fn open(&self, at: usize) -> io::Result<Slot> {
        let connection = Connection::open(self.addr)?;
        self.epoll.add(
            &connection.stream,
            EpollEvent::new(EpollFlags::EPOLLIN, at as u64),
        )?;
        Ok(Slot::Open(connection))
    }

    /// Sends what is due, waits for replies, judges them.
    fn step(&mut self, record: &Mutex<Record>) {
        self.send_due(record);
        self.receive(record);
        let now = Instant::now();
        if now - self.last_check > RECONNECT {
            self.last_check = now;
            self.check_stalled_and_closed(record, now);
        }
    }

    fn send_due(&mut self, record: &Mutex<Record>) {
        let now = Instant::now();
        while let Some(&at) = self.idle.last() {
            let due = match self.options.rate {
                None => now,
                Some(_) if self.next_due > now => break,
                Some(rate) => {
                    let due = self.next_due;
                    self.next_due += Duration::from_secs(1) / rate;
                    due
                }
            };
            self.idle.pop();
            let random = split_mix(&mut self.random);
            let key = u32::try_from(random % u64::from(self.data.keys())).expect("less than a u32");
            let key = if self.options.own_keys {
                own_key(key, at, self.slots.len(), self.data.keys())
            } else {
                key
            };
            let write = (random >> 40) % 100 >= u64::from(self.options.read_percent);
            let Slot::Open(connection) = &mut self.slots[at] else {
                continue;
            };
            let sent = connection.request(&mut self.data, key, write, due);
            if sent.is_ok() && connection.wants_to_write() {
                self.watch(at, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
            }
            if sent.is_err() {
                self.close(record, at);
            }
        }
    }

    fn receive(&mut self, record: &Mutex<Record>) {
        let mut events = [EpollEvent::empty(); 128];
        // EINTR and the like: the next step waits again.
        let ready = self.epoll.wait(&mut events, 10u8).unwrap_or(0);
        for event in &events[..ready] {
            if event.data() == TIMER {
                // Only acknowledges the expirations; what is due follows from the clock.
                if let Some(timer) = &self.timer {
                    let _ = timer.wait();
                }
                continue;
            }
            let at = usize::try_from(event.data()).expect("an index that we gave");
            self.ready(record, at, event.events());
        }
    }

    fn ready(&mut self, record: &Mutex<Record>, at: usize, events: EpollFlags) {
        let Slot::Open(connection) = &mut self.slots[at] else {
            return;
        };
        if events.contains(EpollFlags::EPOLLOUT) {
            match connection.flush() {
                Err(_) => return self.close(record, at),
                Ok(()) if !connection.wants_to_write() => self.watch(at, EpollFlags::EPOLLIN),
                Ok(()) => {}
            }
        }
        let Slot::Open(connection) = &mut self.slots[at] else {
            return;
        };
        match connection.read(&mut self.data) {
            Err(_) => self.close(record, at),
            Ok(Progress::Waiting) => {}
            Ok(Progress::Answered(due)) => {
                let now = Instant::now();
                lock(record).answered(now, now.saturating_duration_since(due));
                self.idle.push(at);
            }
            Ok(Progress::Wrong(due, kind)) => {
                let now = Instant::now();
                let mut record = lock(record);
                record.answered(now, now.saturating_duration_since(due));
                record.error(now, kind);
                self.idle.push(at);
            }
        }
    }

    fn watch(&mut self, at: usize, flags: EpollFlags) {
        if let Slot::Open(connection) = &self.slots[at] {
            self.epoll
                .modify(&connection.stream, &mut EpollEvent::new(flags, at as u64))
                .expect("the connection was added when it was opened");
        }
    }

    fn close(&mut self, record: &Mutex<Record>, at: usize) {
        let now = Instant::now();
        // Dropping the stream takes it out of the epoll set.
        self.slots[at] = Slot::Closed(now + RECONNECT);
        self.idle.retain(|&idle| idle != at);
        lock(record).error(now, Kind::Connection);
    }

    fn check_stalled_and_closed(&mut self, record: &Mutex<Record>, now: Instant) {
        for at in 0..self.slots.len() {
            match &self.slots[at] {
                Slot::Open(connection) => {
                    if connection
                        .waiting_since()
                        .is_some_and(|since| now - since > STALL)
                    {
                        self.close(record, at);
                    }
                }
                Slot::Closed(again) if *again <= now => match self.open(at) {
                    Ok(slot) => {
                        self.slots[at] = slot;
                        self.idle.push(at);
                    }
                    Err(_) => self.close(record, at),
                },
                Slot::Closed(_) => {}
            }
        }
    }

    /// No new requests; waits for the replies under way.
    fn finish(mut self, record: &Mutex<Record>) -> Dataset {
        let deadline = Instant::now() + STALL;
        let busy = |slot: &Slot| matches!(slot, Slot::Open(c) if c.waiting_since().is_some());
        while self.slots.iter().any(busy) && Instant::now() < deadline {
            self.receive(record);
        }
        for at in 0..self.slots.len() {
            if busy(&self.slots[at]) {
                self.close(record, at);
            }
        }
        self.data
    }
}

/// The key nearest to `key` of those that belong to connection `at` of `connections`.
fn own_key(key: u32, at: usize, connections: usize, keys: u32) -> u32 {
    let step = u32::try_from(connections).expect("few connections");
    let own = key / step * step + u32::try_from(at).expect("few connections");
    if own < keys {
        own
    } else {
        own.saturating_sub(step).min(keys - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::own_key;

    #[test]
    fn no_key_belongs_to_two_connections() {
        for key in 0..1000 {
            for at in 0..20 {
                let own = own_key(key, at, 20, 1000);
                assert!(own < 1000 && own % 20 == at as u32, "{key} {at}: {own}");
            }
        }
    }
}
