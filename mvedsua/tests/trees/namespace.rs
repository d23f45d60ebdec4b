//! The pid namespace for copies by itself.

use std::os::fd::AsFd as _;

use mvedsua::sys::pid_namespace::number;
use mvedsua::tracee::inspect;
use mvedsua::tracee::pid_namespace::{PidNamespace, PidNamespaceError};

use crate::family::{Family, wait_until};
use crate::program;

fn is_gone(pid: i32) -> bool {
    inspect::status_field(pid, pid, "State").is_none_or(|state| state.starts_with(['Z', 'X']))
}

#[test]
fn the_init_is_small_and_powerless_and_ends_when_let_go() {
    let family = Family::start(&[]);
    let namespace = PidNamespace::create(program(), family.parent()).expect("a namespace");
    let init = namespace.init_pid();
    let ids = inspect::ids(init);
    assert_eq!(ids.last(), Some(&1));
    // One namespace deeper than the leader.
    assert_eq!(ids.len(), inspect::ids(family.parent()).len() + 1);
    let status = |field| inspect::status_field(init, init, field).unwrap_or_default();
    for field in ["CapInh", "CapPrm", "CapEff"] {
        assert_eq!(status(field), "0000000000000000", "{field}");
    }
    let ignored = u64::from_str_radix(&status("SigIgn"), 16).expect("a mask");
    assert_ne!(ignored & (1 << (libc::SIGCHLD - 1)), 0);
    wait_until("it has its input, and nowhere to speak to", || {
        let open = inspect::descriptors(init).expect("it lives");
        let silent = [1, 2].iter().all(|fd| {
            std::fs::read_link(format!("/proc/{init}/fd/{fd}"))
                .is_ok_and(|target| target.to_str() == Some("/dev/null"))
        });
        silent && open.iter().map(|(fd, _)| *fd).eq([0, 1, 2])
    });
    assert!(!is_gone(init));
    drop(namespace);
    wait_until("the init ends", || is_gone(init));
}

#[test]
fn signals_do_not_end_it_and_a_kill_does() {
    let family = Family::start(&[]);
    let namespace = PidNamespace::create(program(), family.parent()).expect("a namespace");
    let init = namespace.init_pid();
    let handle = mvedsua::sys::pidfd::open(init).expect("it lives");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
        mvedsua::sys::pidfd::signal(handle.as_fd(), signal).expect("it lives");
    }
    // They would have been delivered with the next system call that it ends.
    assert_eq!(
        inspect::status_field(init, init, "ShdPnd").as_deref(),
        Some("0000000000000000")
    );
    assert!(!is_gone(init));
    namespace.kill().expect("it lives");
    wait_until("the init ends", || is_gone(init));
}

#[test]
fn ids_can_be_chosen_again_and_again_and_by_a_successor() {
    let family = Family::start(&[]);
    let mut namespace = PidNamespace::create(program(), family.parent()).expect("a namespace");
    // Nobody lives there who could make a process, so that the word itself is looked at.
    for next in [300, 77, 32_000] {
        namespace.set_next(next).expect("chosen");
    }
    assert!(namespace.set_next(0).is_err());
    namespace.set_next(5).expect("an error is not the end");
    let mut adopted = PidNamespace::adopt(program(), namespace.init_pid()).expect("found");
    assert_eq!(adopted.init_pid(), namespace.init_pid());
    adopted
        .set_next(9)
        .expect("another registrar, beside the first");
    drop(namespace);
    drop(adopted);
}

#[test]
fn whoever_cannot_have_a_copy_there_is_refused_with_the_reason() {
    let mut family = Family::start(&["setuid", "newpid"]);
    let error = |pid| PidNamespace::create(program(), pid).expect_err("refused");
    let powerless = family.pids[1];
    assert!(
        matches!(error(powerless), PidNamespaceError::NotPermitted(pid) if pid == powerless),
        "{}",
        error(powerless)
    );
    let first = family.pids[2];
    assert!(matches!(error(first), PidNamespaceError::IsInit(pid) if pid == first));
    assert!(matches!(error(i32::MAX), PidNamespaceError::Unsuitable(_)));
    let no_namespace_of_ours = PidNamespace::adopt(program(), first).expect_err("not ours");
    assert!(matches!(
        no_namespace_of_ours,
        PidNamespaceError::Unsuitable(_)
    ));
    assert!(family.ask("to 1 state").contains("pid 1 ppid 0"));
}

#[test]
fn nesting_has_an_end() {
    let inside = |family: &Family| *family.pids.last().expect("the one inside");
    let deepest = Family::start(&["nest", "99"]);
    let leader = inside(&deepest);
    let depth = inspect::ids(leader).len();
    let result = PidNamespace::create(program(), leader);
    assert!(
        matches!(result, Err(PidNamespaceError::TooDeep(pid)) if pid == leader),
        "{result:?}"
    );
    let outside = inspect::ids(std::process::id() as i32).len();
    let fits = Family::start(&["nest", &(depth - outside - 1).to_string()]);
    let leader = inside(&fits);
    let namespace = PidNamespace::create(program(), leader).expect("one more fits");
    assert_eq!(inspect::ids(namespace.init_pid()).len(), depth);
    let of = |pid| mvedsua::sys::pid_namespace::of(pid).expect("it lives");
    let around = mvedsua::sys::pid_namespace::parent(of(namespace.init_pid()).as_fd());
    assert_eq!(
        number(around.expect("it has one")).expect("open"),
        number(of(leader)).expect("open")
    );
}
