//! The live view of `mvedsua watch`.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use indicatif::{BinaryBytes, HumanCount};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, List, Paragraph, Sparkline};

use super::output;
use super::rate::Rate;
use super::unexpected;
use crate::agent::client::{Client, ClientError};
use crate::agent::protocol::{Answer, Problem};
use crate::session::{Stage, Status, TimelineEntry};

/// How often keys are looked for.
const KEYS: Duration = Duration::from_millis(50);

/// Shows the stream `id` of `client` until the user or the service ends it.
pub fn show(mut client: Client, id: u64) -> Result<(), Problem> {
    let (sender, items) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let item = client.next(id);
            let last = !matches!(item, Ok(Answer::Changed { .. }));
            if sender.send(item).is_err() || last {
                return;
            }
        }
    });
    // Before the screen is taken: an unknown service is better said on a plain terminal.
    let first = items.recv().unwrap_or_else(|_| Ok(ended()))?;
    let mut terminal = ratatui::init();
    let result = draw_all(&mut terminal, first, &items);
    ratatui::restore();
    if let Some(reason) = result? {
        output::line(&format!("the service is not supervised any more: {reason}"));
    }
    Ok(())
}

fn ended() -> Answer {
    Answer::End {
        reason: "the connection ended".into(),
    }
}

/// Draws until the user leaves (none) or the stream ends (why).
fn draw_all(
    terminal: &mut ratatui::DefaultTerminal,
    first: Answer,
    items: &mpsc::Receiver<Result<Answer, ClientError>>,
) -> Result<Option<String>, Problem> {
    let terminal_fails = |error: std::io::Error| Problem {
        code: "E123".into(),
        message: format!("the terminal cannot be used: {error}"),
        help: Some("`mvedsua watch NAME | cat` prints one line per second".into()),
        exit_code: 1,
        report: None,
    };
    let mut rate = Rate::default();
    let mut next = first;
    loop {
        match next {
            Answer::Changed { status, last } => {
                rate.observe(Instant::now(), status.events.matched);
                let draw = |frame: &mut Frame<'_>| draw(frame, &status, &last, &rate);
                terminal.draw(draw).map_err(terminal_fails)?;
            }
            Answer::End { reason } => return Ok(Some(reason)),
            other => return Err(unexpected(&other)),
        }
        next = loop {
            if user_leaves().map_err(terminal_fails)? {
                return Ok(None);
            }
            match items.recv_timeout(KEYS) {
                Ok(item) => break item?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break ended(),
            }
        };
    }
}

fn user_leaves() -> std::io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let control_c =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

const fn colour(stage: Stage) -> Color {
    match stage {
        Stage::SingleLeader => Color::Green,
        Stage::Updating => Color::Yellow,
        Stage::OutdatedLeader => Color::Cyan,
        Stage::Promoting => Color::Magenta,
        Stage::UpdatedLeader => Color::Blue,
    }
}

fn draw(frame: &mut Frame<'_>, status: &Status, last: &[TimelineEntry], rate: &Rate) {
    let [head, ring, matched, events, foot] = Layout::vertical([
        Constraint::Length(5),
        Constraint::Length(3),
        Constraint::Length(6),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());

    let follower = status.follower.map_or_else(
        || "none".into(),
        |f| {
            format!(
                "pid {}, {} events ({}) behind",
                f.pid,
                HumanCount(f.lag_events),
                BinaryBytes(f.lag_bytes)
            )
        },
    );
    let follower = match &status.transformation {
        Some(transformation) => format!("{follower}; {transformation}"),
        None => follower,
    };
    let lines = vec![
        Line::from(vec![
            "stage     ".into(),
            status.stage.name().fg(colour(status.stage)).bold(),
        ]),
        Line::from(format!(
            "leader    pid {}, {} threads",
            status.leader.pid, status.leader.threads
        )),
        Line::from(format!("follower  {follower}")),
    ];
    let title = format!(" {} ", status.name);
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(title)),
        head,
    );

    let used = status.ring.used_bytes as f64 / status.ring.capacity_bytes.max(1) as f64;
    let label = format!(
        "{} of {}, at most {}; leader waited {:.1} ms",
        BinaryBytes(status.ring.used_bytes),
        BinaryBytes(status.ring.capacity_bytes),
        BinaryBytes(status.ring.high_water_bytes),
        status.ring.blocked_ms
    );
    let gauge = Gauge::default()
        .block(Block::bordered().title(" ring "))
        .gauge_style(Style::new().fg(if used > 0.8 { Color::Red } else { Color::Green }))
        .ratio(used.clamp(0.0, 1.0))
        .label(label);
    frame.render_widget(gauge, ring);

    let title = format!(
        " matched/s: {}   matched: {}   recorded: {}   diverged: {} ",
        HumanCount(rate.now()),
        HumanCount(status.events.matched),
        HumanCount(status.events.recorded),
        HumanCount(status.events.diverged)
    );
    let width = usize::from(matched.width.saturating_sub(2));
    let sparkline = Sparkline::default()
        .block(Block::bordered().title(title))
        .style(Style::new().fg(Color::Cyan))
        .data(rate.last(width));
    frame.render_widget(sparkline, matched);

    let room = usize::from(events.height.saturating_sub(2));
    let shown = last[last.len().saturating_sub(room)..]
        .iter()
        .map(output::event);
    frame.render_widget(
        List::new(shown).block(Block::bordered().title(" events ")),
        events,
    );
    frame.render_widget(Line::from(" q: leave").dim(), foot);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::session::{FollowerStatus, RingStatus};

    fn drawn(width: u16, height: u16) -> String {
        let mut status = Status::new("redis".into(), 100, 5);
        status.stage = Stage::OutdatedLeader;
        status.follower = Some(FollowerStatus {
            pid: 200,
            lag_events: 4321,
            lag_bytes: 1 << 20,
        });
        status.ring = RingStatus {
            capacity_bytes: 64 << 20,
            used_bytes: 32 << 20,
            ..RingStatus::default()
        };
        let entry = |n: u64| TimelineEntry {
            unix_ms: n,
            mark: None,
            stage: Stage::Updating,
            what: format!("entry {n}"),
        };
        let entries: Vec<_> = (0..20).map(entry).collect();
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| draw(frame, &status, &entries, &Rate::default()))
            .unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_what_matters() {
        let text = drawn(100, 30);
        for part in [
            "redis",
            "outdated-leader",
            "pid 100",
            "pid 200",
            "4,321",
            "32.00 MiB of 64.00 MiB",
            "entry 19",
            "q: leave",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_small_terminal_does_no_harm_and_shows_the_newest() {
        for (width, height) in [(1, 1), (10, 3), (40, 10), (500, 5)] {
            drawn(width, height);
        }
        let text = drawn(80, 20);
        assert!(
            text.contains("entry 19") && !text.contains("entry 0 "),
            "{text}"
        );
    }
}
