//! The first law: whenever the agent is killed, exactly one server goes on.
//!
//! The agent dies before some of the steps that change a process, from the attach to the end of the
//! promotion; `cargo xtask test --soak` goes through all of them.

use anyhow::{Result, ensure};
use mvedsua_tests::deaths::{Reached, through_steps};
use mvedsua_tests::{Need, can_run};

/// Every so many steps.
const STRIDE: u64 = 11;

#[test]
fn one_server_goes_on_wherever_the_agent_dies() -> Result<()> {
    let needs = [Need::Root, Need::Program("cc")];
    if !can_run("one_server_goes_on_wherever_the_agent_dies", &needs) {
        return Ok(());
    }
    let deaths = through_steps("diverges", STRIDE, Reached::End)?;
    for reached in [Reached::Nothing, Reached::Follower] {
        ensure!(
            deaths.iter().any(|death| death.reached == reached),
            "no death at {reached:?}: the steps are counted wrongly: {deaths:?}"
        );
    }
    Ok(())
}

/// Its threads hardly ever stand outside the vDSO, and have to be brought out of it for the snapshot.
#[test]
fn a_server_that_reads_clocks_all_the_time_goes_on_wherever_the_agent_dies() -> Result<()> {
    let needs = [Need::Root, Need::Program("cc")];
    if !can_run(
        "a_server_that_reads_clocks_all_the_time_goes_on_wherever_the_agent_dies",
        &needs,
    ) {
        return Ok(());
    }
    let deaths = through_steps("clocks", STRIDE, Reached::Follower)?;
    ensure!(
        deaths.iter().any(|death| death.reached == Reached::Nothing),
        "no death during the snapshot: {deaths:?}"
    );
    Ok(())
}
