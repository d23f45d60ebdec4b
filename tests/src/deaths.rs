//! An agent that dies at a chosen step of an update, and what is left of the server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Mvedsua, Victim, process, wait_until};

const NAME: &str = "v";
const LIMIT: Duration = Duration::from_secs(20);
/// A server that needs no successor goes on at once; this is only how long is waited to see it.
const BY_ITSELF: Duration = Duration::from_millis(500);

/// How far the agent got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// No copy was there yet.
    Nothing,
    /// The copy followed.
    Follower,
    /// The copy served.
    Promotion,
    /// The old process was dropped: it did not die.
    End,
}

/// What a death at one step led to.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// What was reached before.
    pub reached: Reached,
    /// The server went on without a successor of the agent.
    pub by_itself: bool,
}

/// Goes through the steps of an update of a victim, every `stride`-th, until an agent has reached `last`.
/// After each death exactly one server must go on, and be as good as any.
///
/// # Errors
/// At the first step after which it is not so.
pub fn through_steps(victim: &str, stride: u64, last: Reached) -> Result<Vec<Death>> {
    let mut deaths = Vec::new();
    let mut step = 1;
    loop {
        let death =
            die_at(victim, step).with_context(|| format!("the agent died before step {step}"))?;
        if death.reached != Reached::End {
            deaths.push(death);
        }
        if death.reached >= last {
            println!("{step} steps, {} deaths", deaths.len());
            return Ok(deaths);
        }
        step += stride;
    }
}

/// What the threads of a process do: state and system call of each.
fn states(pid: i32) -> Vec<String> {
    let line = |tid: i32, file: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}"));
        text.unwrap_or_default().trim_end().to_owned()
    };
    let state = |tid: &i32| format!("{}; call {}", line(*tid, "stat"), line(*tid, "syscall"));
    process::threads(pid).iter().map(state).collect()
}

fn die_at(name: &str, step: u64) -> Result<Death> {
    let victim = Victim::start(name)?;
    let program = victim.dir().join(name);
    let mut mvedsua = Mvedsua::without_agent()?;
    mvedsua.start_agent_that_dies(step)?;
    let mut reached = Reached::Nothing;
    for (words, then) in [
        (
            vec!["attach", "--pid", &victim.pid().to_string(), "--name", NAME]
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
            Reached::Nothing,
        ),
        (
            ["update", NAME, "--identity"].map(str::to_owned).to_vec(),
            Reached::Follower,
        ),
        (
            ["promote", NAME].map(str::to_owned).to_vec(),
            Reached::Promotion,
        ),
        (["finalize", NAME].map(str::to_owned).to_vec(), Reached::End),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if !mvedsua.run_or_die(&words, LIMIT)? || mvedsua.agent_has_died() {
            break;
        }
        reached = then;
    }
    let alive = || process::with_program(&program);
    let goes_on = |limit: Duration| {
        let until = victim.rounds() + 5;
        wait_until(limit, || victim.rounds() >= until)
    };
    let mut by_itself = true;
    if reached != Reached::End {
        // Before a promotion was asked for nobody needs a successor.
        let needs_none = reached == Reached::Nothing;
        by_itself = goes_on(if needs_none { LIMIT } else { BY_ITSELF });
        if !by_itself {
            ensure!(!needs_none, "it waits for a successor: {:?}", alive());
            mvedsua.start_agent()?;
            ensure!(
                goes_on(LIMIT),
                "nobody serves: {:?}\n{}",
                alive(),
                mvedsua.log()
            );
        }
    }
    let alone = |limit: Duration| wait_until(limit, || alive().len() == 1);
    // Just before the point of no return the copy may be left. It stands still in its filter until
    // a successor throws it away.
    let may_need_one = reached == Reached::Follower && mvedsua.agent_has_died();
    let mut one = alone(if may_need_one { BY_ITSELF } else { LIMIT });
    if !one && may_need_one {
        mvedsua.start_agent()?;
        one = alone(LIMIT);
    }
    ensure!(one, "there are {:?}\n{}", alive(), mvedsua.log());
    let pid = alive()[0];
    if reached == Reached::End {
        // This agent still counts its steps.
        process::send(pid, process::Signal::SIGKILL)?;
        return Ok(Death { reached, by_itself });
    }
    // It is as good as any: the next update works.
    if mvedsua.agent_pid().is_none() {
        mvedsua.start_agent()?;
    }
    let known = mvedsua
        .status(NAME)
        .is_ok_and(|status| status.leader.pid == pid);
    if !known {
        mvedsua.attach(pid, NAME)?;
    }
    mvedsua.update_identity(NAME, &[])?;
    let rolled_back = mvedsua.rollback(NAME);
    rolled_back.with_context(|| format!("{:#?}", mvedsua.status(NAME)))?;
    ensure!(
        goes_on(LIMIT),
        "it does not go on after a rollback: {:?}; it says: {:?}; {:#?}",
        states(pid),
        victim.log(),
        mvedsua.status(NAME)
    );
    ensure!(victim.log().is_empty(), "the victim says: {}", victim.log());
    // The test's own folder goes away with the victim; a promoted one is not its child.
    process::send(pid, process::Signal::SIGKILL)?;
    Ok(Death { reached, by_itself })
}
