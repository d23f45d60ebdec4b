//! A spinner on standard error while a command waits; nothing where standard error is no terminal.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::agent::client::Client;
use crate::agent::protocol::{Answer, Ask};
use crate::session::Status;

/// Waits with `wait` for the end of what is being done with service `name`, and shows its stage
/// and lag meanwhile.
pub fn while_waiting<T>(socket: &Path, name: &str, doing: &str, wait: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return wait();
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking_on = scope.spawn(|| look_on(socket, name, doing, &over));
        let result = wait();
        over.store(true, Ordering::Release);
        looking_on.thread().unpark();
        result
    })
}

fn look_on(socket: &Path, name: &str, doing: &str, over: &AtomicBool) {
    let spinner = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    spinner.set_style(style.expect("the template is a constant"));
    spinner.set_message(format!("{doing} {name}"));
    // A connection of its own: the other one waits for the answer.
    let mut client = Client::connect(socket).ok();
    while !over.load(Ordering::Acquire) {
        let ask = Ask::Status {
            name: Some(name.into()),
        };
        if let Some(Ok(Answer::Status { services })) = client.as_mut().map(|c| c.ask(ask))
            && let Some(status) = services.first()
        {
            spinner.set_message(format!("{doing} {name}: {}", describe(status)));
        }
        spinner.tick();
        thread::park_timeout(Duration::from_millis(100));
    }
    spinner.finish_and_clear();
}

fn describe(status: &Status) -> String {
    let lag = status.follower.map_or_else(String::new, |follower| {
        format!(
            ", {} events behind, {} matched",
            HumanCount(follower.lag_events),
            HumanCount(status.events.matched)
        )
    });
    if let Some(transformation) = &status.transformation {
        return format!(
            "{}, {transformation}; Ctrl-C leaves it to the agent",
            status.stage
        );
    }
    format!("{}{lag}; Ctrl-C leaves it to the agent", status.stage)
}
