//! What the rules of a running update have done, for `status`, `rules trace` and the timeline.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::following::Following;
use super::lane::Lanes;
use super::rules::Copied;
use super::timeline::unix_ms;
use crate::rules::engine::{Engine, Firing, RuleCount};
use crate::rules::program::RuleSet;
use crate::session::{RuleFiring, RuleStatus, RulesStatus};

/// Firings that `status` shows.
const SHOWN_FIRINGS: usize = 48;
/// Lines that the rules of one update may put into the timeline.
const LOG_LINES: u64 = 1000;

/// What is to be told, of all processes.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The latest firings, oldest first: when, and the leader's thread.
    firings: VecDeque<(u64, i32, Firing)>,
    /// What the rules did in processes that are gone.
    gone: Vec<RuleCount>,
    logs: Vec<String>,
    /// Lines that were put into the timeline, and those for which there was no room.
    lines: u64,
    lost: u64,
    /// It was said that lines are missing.
    full: bool,
}

impl Told {
    pub(super) fn new(set: &RuleSet) -> Self {
        Self {
            gone: vec![RuleCount::default(); set.rules.len()],
            ..Self::default()
        }
    }

    /// A process is gone: what its rules did counts on.
    pub(super) fn keep_counts(&mut self, engine: &Engine<Copied>) {
        for (sum, (_, count)) in self.gone.iter_mut().zip(engine.counts()) {
            sum.add(count);
        }
    }

    /// Takes what the rules of one process have just done, while its threads have their lanes.
    pub(super) fn fired(&mut self, engine: &mut Engine<Copied>, lanes: &Lanes) {
        for mut firing in engine.take_firings() {
            for line in std::mem::take(&mut firing.logs) {
                let name = engine.rules().title(firing.rule);
                self.log(format!("{name} logs: {line}"));
            }
            if self.firings.len() == SHOWN_FIRINGS {
                self.firings.pop_front();
            }
            let leader = lanes[firing.on.tid as usize].leader;
            let now = unix_ms(SystemTime::now());
            self.firings.push_back((now, leader, firing));
        }
        self.lost += engine.take_lost_logs();
    }

    fn log(&mut self, line: String) {
        if self.lines < LOG_LINES {
            self.lines += 1;
            self.logs.push(line);
        } else {
            self.lost += 1;
        }
    }
}

impl Following {
    /// The state of the rules; `None` without rules.
    pub(super) fn rules_status(&self) -> Option<RulesStatus> {
        let rules = self.rules.as_ref()?;
        let engines = || rules.applied.values().map(|of| &of.engine);
        let mut counts = rules.told.gone.clone();
        for engine in engines() {
            for (sum, (_, count)) in counts.iter_mut().zip(engine.counts()) {
                sum.add(count);
            }
        }
        let set = &rules.set;
        let firing = |(unix_ms, thread, firing): &(u64, i32, Firing)| RuleFiring {
            unix_ms: *unix_ms,
            rule: set
                .rules
                .get(firing.rule.0 as usize)
                .map_or_else(String::new, |rule| rule.name.clone()),
            thread: *thread,
            on: firing.on.to_string(),
        };
        Some(RulesStatus {
            file: rules.file.clone(),
            stage: rules.direction,
            held: engines().map(|engine| engine.held() as u64).sum(),
            rules: set
                .rules
                .iter()
                .zip(counts)
                .map(|(rule, count)| RuleStatus {
                    name: rule.name.clone(),
                    place: set.sources.place(rule.span),
                    stage: rule.direction,
                    count,
                })
                .collect(),
            firings: rules.told.firings.iter().map(firing).collect(),
        })
    }

    /// Takes what rules have logged since the last time, for the timeline.
    pub(super) fn rules_logged(&mut self) -> Vec<String> {
        let Some(rules) = self.rules.as_mut() else {
            return Vec::new();
        };
        let mut lines = std::mem::take(&mut rules.told.logs);
        if rules.told.lost > 0 && !rules.told.full {
            rules.told.full = true;
            lines.push(format!(
                "rules log more than the timeline takes ({LOG_LINES} lines of one update): the rest is not kept"
            ));
        }
        lines
    }
}
