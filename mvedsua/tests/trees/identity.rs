//! Whoever a process is, its copy can become.

use std::os::unix::fs::MetadataExt as _;

use mvedsua::sys::memory;
use mvedsua::tracee::identity::{Identity, Places};
use mvedsua::tracee::inject::Plain;
use mvedsua::tracee::inspect;
use mvedsua::tracee::stub::Vdso;
use mvedsua::tracee::thread::{Running, Stopped};

use crate::family::Family;
use crate::rebuild::copy;

/// Opens a directory of process `of` in a stopped process.
fn open(thread: &mut Stopped, of: i32, what: &str, vdso: &Vdso) -> i32 {
    let at = (thread.registers().expect("it lives").rsp - 8192) & !63;
    let name = format!("/proc/{of}/{what}\0");
    memory::write(thread.tid(), at, name.as_bytes()).expect("it lives");
    let nr = mvedsua_common::table::number("openat");
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY) as u64;
    let args = [libc::AT_FDCWD as i64 as u64, at, flags, 0, 0, 0];
    let fd = Plain { vdso }.call_ok(thread, "openat", nr, &args);
    fd.expect("opened") as i32
}

#[test]
fn users_capabilities_and_roots_are_taken_over() {
    for kind in ["setuid", "caps", "chroot", "heap"] {
        let mut family = Family::start(&[kind]);
        let before = family.ask("to 0 state");
        let mut copies = copy(&mut family).expect("copied");
        let (original, pid) = (family.pids[1], copies.pid_of(1));
        let vdso = Vdso::of(original).expect("known");
        // `copy` has let its other threads go; the main thread stands.
        let mut main = Running::born(original).reported();
        let identity = Identity::read(&mut main, &vdso).expect("read");
        let mut threads: Vec<Stopped> = copies.rebuilt[0]
            .threads
            .drain(..)
            .map(|(_, thread)| thread)
            .collect();
        let places = match kind {
            "chroot" => Places {
                root: Some(open(&mut threads[0], original, "root", &vdso)),
                directory: Some(open(&mut threads[0], original, "cwd", &vdso)),
            },
            _ => Places::default(),
        };
        identity
            .give(&mut threads, &vdso, places)
            .unwrap_or_else(|e| panic!("{kind}: {e}"));
        for field in [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
        ] {
            let of = |pid| inspect::status_field(pid, pid, field);
            assert_eq!(of(pid), of(original), "{kind}: {field}");
        }
        for place in ["root", "cwd"] {
            let of = |pid| {
                let found = std::fs::metadata(format!("/proc/{pid}/{place}")).expect("it lives");
                (found.dev(), found.ino())
            };
            assert_eq!(of(pid), of(original), "{kind}: {place}");
        }
        let again = Identity::read(&mut threads[0], &vdso).expect("read");
        assert_eq!(again, identity, "{kind}: what only it knows");
        let rebuilt = &mut copies.rebuilt[0].threads;
        rebuilt.extend(threads.into_iter().map(|thread| (thread.tid(), thread)));
        let namespace = copies.let_go(&mut family);
        assert_eq!(
            crate::rebuild::without_session(&family.ask("to 0 state")),
            crate::rebuild::without_session(&before)
        );
        namespace.kill().expect("it lives");
    }
}
