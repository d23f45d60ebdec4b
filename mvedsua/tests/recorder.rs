//! The recorder on the real kernel: needs root (CAP_BPF, CAP_PERFMON). These tests fail, and say
//! so, where eBPF cannot be loaded; they never pass without having recorded something.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mvedsua::recorder::{EventRef, Recorder};
use mvedsua_common::event::FLAG_OUT_OF_LINE;

const RING: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// A shell that waits for a line on its standard input, is recorded, and then becomes `script`.
struct Victim {
    child: Child,
    recorder: Recorder,
}

impl Victim {
    fn start(script: &str) -> Self {
        let mut recorder =
            Recorder::load(RING).expect("this test needs root and eBPF: load the recorder");
        recorder.attach().expect("attach the recorder");
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a shell");
        recorder.add_process(child.id()).expect("record the shell");
        child
            .stdin
            .as_mut()
            .expect("piped")
            .write_all(b"go\n")
            .expect("write to the shell");
        Self { child, recorder }
    }

    /// The next event, waiting for it.
    fn next(&mut self) -> EventRef {
        let start = Instant::now();
        loop {
            if let Some(event) = self.recorder.ring.peek_new() {
                return event;
            }
            assert!(start.elapsed() < LIMIT, "no event within {LIMIT:?}");
            std::thread::yield_now();
        }
    }

    /// The first event of this call that `wanted` says yes to; all others are released.
    fn find(
        &mut self,
        nr: u16,
        wanted: impl Fn(&mvedsua::recorder::Event<'_>) -> bool,
    ) -> EventRef {
        loop {
            let event = self.next();
            if event.header.nr == nr && wanted(&self.recorder.ring.event(&event)) {
                return event;
            }
            self.recorder.ring.release(event);
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().expect("the child was not reaped yet");
        self.child.wait().expect("wait for the child");
    }
}

#[test]
fn a_read_and_a_write_are_recorded_with_their_bytes() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let bytes: Vec<u8> = (0..3000u32).map(|n| (n * 7) as u8).collect();
    std::fs::write(file.path(), &bytes).expect("write the file");
    let path = file.path().to_str().expect("plain name").to_owned();
    let mut victim = Victim::start(&format!("exec dd if={path} bs=4096 count=1 status=none"));

    let opened = victim.find(257, |event| {
        event
            .part(1, 0)
            .is_some_and(|p| p == format!("{path}\0").as_bytes())
    });
    assert!(opened.header.ret >= 0);
    let read = victim.find(0, |event| event.header.ret == 3000);
    let written = victim.find(1, |event| event.header.ret == 3000);
    for event in [&read, &written] {
        assert_eq!(
            victim.recorder.ring.event(event).part(1, 0),
            Some(&bytes[..])
        );
        assert_eq!(
            (event.header.tgid, event.header.tid),
            (victim.child.id(), victim.child.id())
        );
        assert_eq!(
            event.header.args[2],
            if event.header.nr == 0 { 4096 } else { 3000 }
        );
    }
    assert!(opened.position < read.position && read.position < written.position);
    for event in [opened, written, read] {
        victim.recorder.ring.release(event);
    }
    let counters = victim.recorder.counters().expect("counters");
    assert_eq!(
        (counters.lost, counters.out_of_line, counters.ring_full),
        (0, 0, 0)
    );
    assert!(counters.recorded >= 3);
}
