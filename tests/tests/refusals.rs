//! What cannot be followed is refused before anything is touched: the code, exit code 5, and a
//! process that goes on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvedsua_tests::process::{self, Signal};
use mvedsua_tests::{Mvedsua, Need, can_run, cannot_run, wait_until};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);
const NEEDS: &[Need] = &[Need::Root, Need::Program("gcc")];

/// A small program that runs until it is dropped.
struct Program {
    child: Child,
    progress: PathBuf,
    _dir: TempDir,
}

impl Program {
    /// `tests/refused/refused.c`, up to its first round; none if the kernel does not let it do what it
    /// is to be refused for.
    fn start(reason: &str) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let binary = compile("refused.c", dir.path(), &["-pthread", "-Wall", "-Wextra"])?;
        let progress = dir.path().join("progress");
        let child = Command::new(binary)
            .arg(reason)
            .arg(&progress)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("stderr"))?)
            .spawn()?;
        let mut program = Self {
            child,
            progress,
            _dir: dir,
        };
        let mut ended = None;
        ensure!(
            wait_until(LIMIT, || {
                ended = program.child.try_wait().ok().flatten();
                ended.is_some() || program.rounds() > 0
            }),
            "{reason}: no round"
        );
        Ok(ended.is_none().then_some(program))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are positive")
    }

    fn rounds(&self) -> u64 {
        let text = std::fs::read_to_string(&self.progress).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Untouched: it goes on, with the vDSO of all.
    fn check(&self) -> Result<()> {
        let before = self.rounds();
        ensure!(
            wait_until(LIMIT, || self.rounds() > before + 5),
            "it does not go on"
        );
        let own = process::vdso(i32::try_from(std::process::id())?)?;
        ensure!(process::vdso(self.pid())? == own, "its vDSO was changed");
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn compile(source: &str, into: &Path, flags: &[&str]) -> Result<PathBuf> {
    let binary = into.join("program");
    let output = Command::new("gcc")
        .args(flags)
        .arg("-o")
        .arg(&binary)
        .arg(format!("{}/refused/{source}", env!("CARGO_MANIFEST_DIR")))
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(binary)
}

fn refuses(mvedsua: &Mvedsua, pid: i32, code: &str) -> Result<()> {
    let outcome = mvedsua.run(&["attach", "--pid", &pid.to_string()])?;
    ensure!(
        outcome.code == 5 && outcome.stderr.contains(&format!("error[{code}]")),
        "{code} expected: {outcome:?}"
    );
    Ok(())
}

/// The program `reason` is refused with `code` and goes on.
fn refuses_program(test: &str, reason: &str, code: &str) -> Result<()> {
    if !can_run(test, NEEDS) {
        return Ok(());
    }
    let Some(program) = Program::start(reason)? else {
        cannot_run(test, &format!("this kernel refuses {reason} itself"));
        return Ok(());
    };
    let mvedsua = Mvedsua::start()?;
    refuses(&mvedsua, program.pid(), code)?;
    ensure!(process::is_untraced(program.pid()));
    program.check()
}

#[test]
fn a_process_that_uses_io_uring() -> Result<()> {
    refuses_program("a_process_that_uses_io_uring", "io_uring", "E209")
}

#[test]
fn a_process_that_uses_kernel_aio() -> Result<()> {
    refuses_program("a_process_that_uses_kernel_aio", "aio", "E209")
}

#[test]
fn a_process_that_uses_userfaultfd() -> Result<()> {
    refuses_program("a_process_that_uses_userfaultfd", "userfaultfd", "E209")
}

#[test]
fn a_process_that_has_a_perf_counter() -> Result<()> {
    refuses_program("a_process_that_has_a_perf_counter", "perf_event", "E209")
}

#[test]
fn a_process_with_a_seccomp_filter() -> Result<()> {
    refuses_program("a_process_with_a_seccomp_filter", "seccomp", "E207")
}

#[test]
fn a_process_with_writable_shared_memory() -> Result<()> {
    refuses_program("a_process_with_writable_shared_memory", "shared", "E208")
}

#[test]
fn a_process_with_shared_memory_that_can_be_made_writable() -> Result<()> {
    refuses_program(
        "a_process_with_shared_memory_that_can_be_made_writable",
        "writable",
        "E208",
    )
}

#[test]
fn a_process_with_memory_that_no_copy_has() -> Result<()> {
    refuses_program("a_process_with_memory_that_no_copy_has", "uncopied", "E208")
}

#[test]
fn a_process_whose_threads_are_different_users() -> Result<()> {
    refuses_program(
        "a_process_whose_threads_are_different_users",
        "identities",
        "E210",
    )
}

#[test]
fn a_thread_in_place_of_its_process() -> Result<()> {
    if !can_run("a_thread_in_place_of_its_process", NEEDS) {
        return Ok(());
    }
    let program = Program::start("threads")?.context("two threads")?;
    let mvedsua = Mvedsua::start()?;
    let thread = process::threads(program.pid())
        .into_iter()
        .find(|tid| *tid != program.pid())
        .context("a second thread")?;
    refuses(&mvedsua, thread, "E202")?;
    program.check()?;
    // The process itself is fine.
    mvedsua.attach(program.pid(), "threads")?;
    program.check()
}

#[test]
fn a_process_that_is_traced_already() -> Result<()> {
    if !can_run(
        "a_process_that_is_traced_already",
        &[NEEDS, &[Need::Program("strace")]].concat(),
    ) {
        return Ok(());
    }
    let program = Program::start("nothing")?.context("a program")?;
    let mut strace = Command::new("strace")
        .args(["-qq", "-e", "trace=none", "-p", &program.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()?;
    let traced = wait_until(LIMIT, || !process::is_untraced(program.pid()));
    let mvedsua = Mvedsua::start()?;
    let refused = refuses(&mvedsua, program.pid(), "E206");
    let still = !process::is_untraced(program.pid());
    strace.kill()?;
    strace.wait()?;
    refused?;
    ensure!(traced && still, "strace has lost its tracee");
    program.check()
}

#[test]
fn a_stopped_process() -> Result<()> {
    if !can_run("a_stopped_process", NEEDS) {
        return Ok(());
    }
    let program = Program::start("nothing")?.context("a program")?;
    let mvedsua = Mvedsua::start()?;
    process::send(program.pid(), Signal::SIGSTOP)?;
    let state = || process::status_field(program.pid(), "State").unwrap_or_default();
    ensure!(wait_until(LIMIT, || state().starts_with('T')));
    refuses(&mvedsua, program.pid(), "E204")?;
    ensure!(state().starts_with('T'), "it is {} now", state());
    process::send(program.pid(), Signal::SIGCONT)?;
    program.check()
}

#[test]
fn a_process_that_is_stopped_after_the_attach_is_not_updated() -> Result<()> {
    if !can_run(
        "a_process_that_is_stopped_after_the_attach_is_not_updated",
        NEEDS,
    ) {
        return Ok(());
    }
    let program = Program::start("nothing")?.context("a program")?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(program.pid(), "program")?;
    process::send(program.pid(), Signal::SIGSTOP)?;
    let state = || process::status_field(program.pid(), "State").unwrap_or_default();
    ensure!(wait_until(LIMIT, || state().starts_with('T')));
    let refused = mvedsua.run(&["update", "program", "--identity"])?;
    ensure!(
        refused.code == 5 && refused.stderr.contains("error[E204]"),
        "{refused:?}"
    );
    process::send(program.pid(), Signal::SIGCONT)?;
    program.check()?;
    // And the update works then.
    mvedsua.update_identity("program", &[])?;
    mvedsua.rollback("program")?;
    program.check()
}

#[test]
fn a_32_bit_process() -> Result<()> {
    const TEST: &str = "a_32_bit_process";
    if !can_run(TEST, NEEDS) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let binary = match compile("small.c", dir.path(), &["-m32", "-static", "-nostdlib"]) {
        Ok(binary) => binary,
        Err(error) => {
            cannot_run(TEST, &format!("gcc -m32 does not work: {error}"));
            return Ok(());
        }
    };
    let mut child = Command::new(&binary).spawn()?;
    let pid = i32::try_from(child.id())?;
    // Before the exec it is a copy of this very test.
    let executed = wait_until(LIMIT, || {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary)
    });
    let mvedsua = Mvedsua::start()?;
    let refused = refuses(&mvedsua, pid, "E205");
    let switches = || process::status_field(pid, "voluntary_ctxt_switches");
    let before = switches();
    let goes_on = wait_until(LIMIT, || switches() != before);
    child.kill()?;
    child.wait()?;
    ensure!(executed && goes_on && before.is_some(), "it does not go on");
    refused
}

#[test]
fn nobody_the_agent_and_kernel_threads() -> Result<()> {
    if !can_run("nobody_the_agent_and_kernel_threads", NEEDS) {
        return Ok(());
    }
    let mvedsua = Mvedsua::start()?;
    refuses(&mvedsua, 4_194_304, "E109")?;
    refuses(&mvedsua, mvedsua.agent_pid().context("an agent")?, "E201")?;
    refuses(&mvedsua, 2, "E203")?;
    // A name without a process.
    let none = mvedsua.run(&["update", "nobody", "--identity"])?;
    ensure!(
        none.code == 4 && none.stderr.contains("error[E104]"),
        "{none:?}"
    );
    Ok(())
}

#[test]
fn requests_that_do_not_fit_the_stage() -> Result<()> {
    if !can_run("requests_that_do_not_fit_the_stage", NEEDS) {
        return Ok(());
    }
    let program = Program::start("nothing")?.context("a program")?;
    let mvedsua = Mvedsua::start()?;
    mvedsua.attach(program.pid(), "program")?;
    for words in [
        &["promote", "program"][..],
        &["promote", "program", "--finalize"],
        &["finalize", "program"],
        &["rollback", "program"],
    ] {
        let refused = mvedsua.run(words)?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("error[E230]"),
            "{words:?}: {refused:?}"
        );
    }
    mvedsua.update_identity("program", &[])?;
    for words in [
        &["update", "program", "--identity"][..],
        &["finalize", "program"],
        &["detach", "program"],
    ] {
        let refused = mvedsua.run(words)?;
        ensure!(
            refused.code == 5 && refused.stderr.contains("error[E230]"),
            "{words:?}: {refused:?}"
        );
        ensure!(mvedsua.status("program")?.stage == "outdated-leader");
    }
    mvedsua.rollback("program")?;
    program.check()
}
