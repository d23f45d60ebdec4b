//! Makes what the kernel keeps for a process equal on both sides at the moment of promotion:
//! descriptors, epoll registrations, timers, working directory, file mode mask, limits.
//!
//! The leader stands still; the follower's calls so far changed none of this, since they were only
//! answered.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use mvedsua_common::table::number;

use super::adopt::own_listener;
use super::following::{Following, Stop};
use super::lane::Lane;
use super::pair::Pair;
use crate::follower::{Arrival, parking_number};
use crate::sys::{limits, pidfd, scheduling};
use crate::tracee::Naming;
use crate::tracee::TraceeError;
use crate::tracee::context::Context;
use crate::tracee::identity::Identity;
use crate::tracee::inject::{Guarded, Plain};
use crate::tracee::inspect::{self, Watched};
use crate::tracee::posix_timers::{self, Timer};
use crate::tracee::stub::Vdso;
use crate::tracee::thread::Stopped;

/// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
pub(super) const INTERVAL_TIMERS: u64 = 3;

/// The timers of the leader.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Interval timers: `struct itimerval` each.
    pub(super) interval: Vec<[u8; 32]>,
    /// Those of `timer_create`.
    pub(super) posix: Vec<Timer>,
}

impl Timers {
    /// Reads those of process `pid`, with calls made inside its stopped `thread`, which is in this context.
    ///
    /// # Errors
    /// When the thread has no room for the calls.
    pub(super) fn read(
        pid: i32,
        thread: Stopped,
        context: &Context,
        vdso: &Vdso,
    ) -> crate::tracee::Result<(Stopped, Self)> {
        let mut guarded = Guarded::begin(thread, context, vdso)?;
        let out = guarded.scratch();
        let mut timers = Self {
            posix: posix_timers::list(pid)?,
            ..Self::default()
        };
        posix_timers::read_times(&mut guarded, pid, &mut timers.posix)?;
        for which in 0..INTERVAL_TIMERS {
            guarded.call("getitimer", number("getitimer"), &[which, out, 0, 0, 0, 0])?;
            let mut timer = [0u8; 32];
            crate::sys::memory::read(pid, out, &mut timer).named("read a timer", pid)?;
            timers.interval.push(timer);
        }
        Ok((guarded.end()?, timers))
    }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> Stop + '_ {
    move |error| Stop::roll_back(format!("{what} at promotion: {error}"))
}

fn is_signalfd(pid: i32, fd: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .is_ok_and(|link| link.as_os_str() == "anon_inode:[signalfd]")
}

/// Makes a file of `/proc/TO` say what that of `/proc/FROM` says. One that cannot be read says nothing.
fn same_text(from: i32, to: i32, name: &str) -> std::io::Result<()> {
    let of = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    match (of(from), of(to)) {
        (Ok(wanted), Ok(has)) if wanted != has => {
            std::fs::write(format!("/proc/{to}/{name}"), wanted)
        }
        _ => Ok(()),
    }
}

/// Takes a process that will follow its own timers: what they tell it will be told by the leader. Its `thread`
/// is stopped, all signals blocked.
///
/// # Errors
/// When a call fails.
pub(super) fn disarm(thread: &mut Stopped, pid: i32, vdso: &Vdso) -> crate::tracee::Result<()> {
    let scratch = (thread.registers()?.rsp - 4096) & !63;
    posix_timers::make(thread, pid, vdso, scratch, &[], &|_| None)?;
    crate::sys::memory::write(pid, scratch, &[0; 32]).named("write the follower's stack", pid)?;
    for which in 0..INTERVAL_TIMERS {
        let args = [which, scratch, 0, 0, 0, 0];
        Plain { vdso }.call_ok(thread, "setitimer", number("setitimer"), &args)?;
    }
    Ok(())
}

impl Following {
    /// Makes the follower's descriptor table as large as it has to be while the leader still serves, by giving it its
    /// own listener: for a number that high the kernel makes a larger table and waits for a grace period of RCU if there
    /// are threads, which was most of the pause. What goes wrong here is done again in the pause, where that is quick
    /// then.
    ///
    /// None of the leader's descriptors is given ahead: a file that the leader closes meanwhile would live on, the client
    /// of a connection would see no end of it, and the leader's own `epoll_wait` would tell of a connection that is gone
    /// (epoll(7): a registration lasts as long as the open file), with a pointer to what was freed.
    pub(super) fn make_table(&self, pair: usize) {
        let mut lanes = self.lanes.iter().filter(|lane| lane.pair == pair);
        let Some(through) = lanes.find_map(|lane| lane.waiting) else {
            return;
        };
        let (leader, follower) = (self.pairs[pair].leader.pid, self.pairs[pair].follower.pid);
        // First: a descriptor's number may lie above the follower's old limit.
        if limits::copy(leader, follower).is_ok() {
            let parked = own_listener(leader).unwrap_or_else(|| parking_number(follower));
            let _ = self.give(&through, self.listener.as_fd(), parked, true);
        }
    }

    /// Gives the follower the leader's limits, and every descriptor of the leader under the same
    /// number, through a thread of the follower that waits in a call. Numbers that the leader does not
    /// use are closed later.
    ///
    /// # Errors
    /// When a descriptor cannot be taken or given.
    pub(super) fn give_descriptors(
        &mut self,
        pair: usize,
        through: &Arrival,
    ) -> Result<Vec<i32>, Stop> {
        // First: a descriptor's number may lie above the follower's old limit.
        let (leader, follower) = (self.pairs[pair].leader.pid, self.pairs[pair].follower.pid);
        if self.tree.is_some() {
            limits::copy_all_but_counts(leader, follower)
        } else {
            limits::copy(leader, follower)
        }
        .map_err(failed("setting the resource limits"))?;
        let process =
            pidfd::open(self.pairs[pair].leader.pid).map_err(failed("opening the leader"))?;
        if self.pairs[pair].epoll.has_moved_objects() {
            for watched in inspect::epoll_registrations(self.pairs[pair].leader.pid)? {
                let (events, data) = (watched.events, watched.data);
                self.pairs[pair]
                    .epoll
                    .holds(watched.epfd, watched.fd, events, data);
            }
        }
        let leaders_own = own_listener(leader);
        let mut given = Vec::new();
        for (fd, cloexec) in inspect::descriptors(leader)? {
            if Some(fd) == leaders_own {
                continue;
            }
            given.push(fd);
            let ours = pidfd::duplicate(process.as_fd(), fd).map_err(|e| {
                Stop::roll_back(format!("taking descriptor {fd} at promotion: {e}"))
            })?;
            self.give(through, ours.as_fd(), fd, cloexec)?;
        }
        // What a process has open is found by its main thread. Of one that was killed meanwhile, and got past the stop at
        // its exit, nothing is found, which looks as if it had nothing.
        if inspect::thread_has_ended(leader, leader) {
            return Err(Stop::roll_back(
                "the leader ended while its descriptors were taken",
            ));
        }
        // With its own listener in its hands, its calls wait for a successor if the agent dies. With the leader's they
        // would fail (`ENOSYS`), and the server with them.
        let parked = leaders_own.unwrap_or_else(|| parking_number(follower));
        if !given.contains(&parked) {
            self.give(through, self.listener.as_fd(), parked, true)?;
            given.push(parked);
        }
        Ok(given)
    }

    fn give(
        &self,
        through: &Arrival,
        fd: BorrowedFd<'_>,
        number: i32,
        cloexec: bool,
    ) -> Result<(), Stop> {
        self.listener
            .install_fd(through.id, fd, number, cloexec)
            .map_err(|e| Stop::roll_back(format!("giving descriptor {number} at promotion: {e}")))
    }

    /// What only the stopped follower itself can do: registers differing epoll data anew, sets the
    /// interval timers, goes to the leader's directory and takes its mode mask.
    ///
    /// # Errors
    /// When the follower refuses one of the calls.
    pub(super) fn settle_in(
        &self,
        pair: usize,
        thread: &mut Stopped,
        timers: &Timers,
        given: &[i32],
    ) -> Result<(), Stop> {
        let plain = Plain {
            vdso: &self.pairs[pair].vdso,
        };
        let pid = self.pairs[pair].follower.pid;
        let scratch = (thread.registers()?.rsp - 4096) & !63;
        let write = |bytes: &[u8]| {
            crate::sys::memory::write(pid, scratch, bytes)
                .map_err(failed("writing the new leader's stack"))
        };
        for (watched, tells_of_signals) in self.to_register_anew(pair, given)? {
            let Watched { epfd, fd, .. } = watched;
            let mut event = [0u8; 12];
            event[..4].copy_from_slice(&watched.events.to_le_bytes());
            event[4..].copy_from_slice(&watched.data.to_le_bytes());
            write(&event)?;
            let operations: &[i32] = if tells_of_signals {
                &[libc::EPOLL_CTL_DEL, libc::EPOLL_CTL_ADD]
            } else {
                &[libc::EPOLL_CTL_MOD]
            };
            for operation in operations {
                let args = [epfd as u64, *operation as u64, fd as u64, scratch, 0, 0];
                // A registration that went with its descriptor is none to be changed.
                plain.call_with(thread, "epoll_ctl", number("epoll_ctl"), &args, &mut |_| {
                    Ok(())
                })?;
            }
        }
        for (which, timer) in timers.interval.iter().enumerate() {
            if timer.iter().any(|byte| *byte != 0) {
                let mut timer = *timer;
                if timer[16..] == [0; 16] {
                    // Its signal waits, and is carried over; it would be set again when that is delivered.
                    timer.copy_within(..16, 16);
                }
                write(&timer)?;
                let args = [which as u64, scratch, 0, 0, 0, 0];
                plain.call_ok(thread, "setitimer", number("setitimer"), &args)?;
            }
        }
        let counterpart = |tid| self.thread_of_follower(pair, tid);
        posix_timers::make(
            thread,
            pid,
            &self.pairs[pair].vdso,
            scratch,
            &timers.posix,
            &counterpart,
        )?;
        // Files that the follower had open to map them, and that the leader has not.
        for (fd, _) in inspect::descriptors(pid)? {
            if !given.contains(&fd) {
                plain.call_ok(
                    thread,
                    "close",
                    number("close"),
                    &[fd as u64, 0, 0, 0, 0, 0],
                )?;
            }
        }
        let leader = self.pairs[pair].leader.pid;
        let place = |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
        // A process of a tree may have another root directory as well.
        if self.tree.is_none()
            && let Some(path) = place(leader).filter(|path| Some(path) != place(pid).as_ref())
        {
            use std::os::unix::ffi::OsStrExt;
            let mut bytes = path.as_os_str().as_bytes().to_vec();
            bytes.push(0);
            write(&bytes)?;
            plain.call_ok(thread, "chdir", number("chdir"), &[scratch, 0, 0, 0, 0, 0])?;
        }
        let mask = |pid: i32| inspect::status_field(pid, pid, "Umask");
        if let Some(umask) = mask(leader).filter(|m| Some(m) != mask(pid).as_ref()) {
            let umask = u64::from_str_radix(&umask, 8).unwrap_or(0o022);
            plain.call_ok(thread, "umask", number("umask"), &[umask, 0, 0, 0, 0, 0])?;
        }
        Ok(())
    }

    /// What the new leader has to register anew: what has another data word on its side, and signalfds, which tell
    /// those that have registered them of *their* signals (`signalfd_poll` waits at the process that asks). With the
    /// event masks as they are now: a one-shot registration that has told of its event must not be armed again. Each with
    /// whether it is of a signalfd.
    fn to_register_anew(&self, pair: usize, given: &[i32]) -> Result<Vec<(Watched, bool)>, Stop> {
        let Pair {
            follower, epoll, ..
        } = &self.pairs[pair];
        let signals: HashSet<i32> = given
            .iter()
            .copied()
            .filter(|fd| is_signalfd(follower.pid, *fd))
            .collect();
        if signals.is_empty() && epoll.differing().next().is_none() {
            return Ok(Vec::new());
        }
        // The instances are shared; the leader may be dead.
        let anew = inspect::epoll_registrations(follower.pid)?.into_iter();
        let anew = anew.filter_map(|watched| {
            let data = epoll.follower_data(watched.epfd, watched.data);
            let tells_of_signals = signals.contains(&watched.fd);
            let anew = Watched { data, ..watched };
            (tells_of_signals || anew != watched).then_some((anew, tells_of_signals))
        });
        Ok(anew.collect())
    }

    /// The follower's thread that stands for this one of the leader.
    fn thread_of_follower(&self, pair: usize, leader: i32) -> Option<i32> {
        let of_pair = |lane: &&Lane| lane.pair == pair && !lane.ended;
        let mut lanes = self.lanes.iter().filter(of_pair);
        lanes.find(|lane| lane.leader == leader)?.follower
    }

    /// Gives the follower how the scheduler and the OOM killer treat the leader: policy, nice value, CPUs, I/O
    /// priority and timer slack of each thread. It may have been changed from outside, too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn give_scheduling(&self, pair: usize) -> Result<(), Stop> {
        let of_pair = |lane: &&Lane| lane.pair == pair && !lane.ended;
        for lane in self.lanes.iter().filter(of_pair) {
            let Some(tid) = lane.follower else { continue };
            match scheduling::copy(lane.leader, tid) {
                // Of a thread that has ended nothing is to be carried over.
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(failed("setting the scheduling")(error));
                }
                _ => {}
            }
            same_text(lane.leader, tid, "timerslack_ns")
                .map_err(failed("setting the timer slack"))?;
        }
        let Pair {
            leader, follower, ..
        } = &self.pairs[pair];
        same_text(leader.pid, follower.pid, "oom_score_adj")
            .map_err(failed("setting the OOM score adjustment"))
    }

    /// What cannot be carried over: a promotion is refused while the leader has any of it. Without `finalize` the
    /// old version is to follow, which is more to ask.
    pub(super) fn obstacle(&self, finalize: bool) -> Option<String> {
        let root = self.pairs.root().leader.pid;
        if let Some(why) = self
            .living()
            .into_iter()
            .find_map(|pair| self.obstacle_of(pair))
        {
            return Some(why);
        }
        if let Some(waiter) = self.held_locks.and_then(|held| held.waiter) {
            return Some(format!(
                "process {waiter} waits for a record lock of the leader's, and would get it in the exchange"
            ));
        }
        // The rest passes by itself.
        if self.rules.as_ref().is_some_and(|rules| rules.carries()) {
            return Some(
                "the follower has still to read what a rule made longer; try again in a moment"
                    .into(),
            );
        }
        if self.tree.is_some() {
            let why = self.obstacle_of_tree();
            return why.or_else(|| self.obstacle_to_a_way_back().filter(|_| !finalize));
        }
        let children = inspect::children(root);
        let child = children.first()?;
        let comm = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        let comm = comm.trim_end();
        Some(format!(
            "the leader has a child process ({child}, {comm}) that only it can wait for; try again when it has ended"
        ))
    }

    /// What of one process cannot be carried over.
    fn obstacle_of(&self, pair: usize) -> Option<String> {
        let pid = self.pairs[pair].leader.pid;
        if self.pairs[pair].leader.is_stopped_by_a_signal() {
            return Some(TraceeError::Halted(pid).to_string());
        }
        if inspect::leads_a_terminal(pid) {
            return Some(format!(
                "process {pid} leads the session of a terminal, which its end would hang up; start the server without \
                 one (`setsid -f`, a systemd unit, `mvedsua run`)"
            ));
        }
        let moved = self.pairs[pair].epoll.has_moved_objects();
        let timers = posix_timers::list(pid).map_err(|error| error.to_string());
        if let Some(why) = timers.map_or_else(Some, |timers| posix_timers::obstacle(&timers, moved))
        {
            return Some(why);
        }
        if !self.pairs[pair].lasting.is_empty() {
            let names: Vec<&str> = self.pairs[pair].lasting.iter().copied().collect();
            return Some(format!(
                "since the snapshot the leader made {}, whose effect cannot be carried over yet",
                names.join(", ")
            ));
        }
        if self.pairs[pair].estate_changed
            && let Ok(Some(tid)) = Identity::odd_thread(pid)
        {
            return Some(format!(
                "thread {tid} of process {pid} has other privileges than its process, which cannot be carried over yet"
            ));
        }
        None
    }
}
