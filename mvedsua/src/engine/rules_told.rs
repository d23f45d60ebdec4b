//! What the rules of a running update have done, for `status`, `rules trace` and the timeline.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::following::Following;
use super::timeline::unix_ms;
use crate::session::{RuleFiring, RuleStatus, RulesStatus};

/// Firings that `status` shows.
const SHOWN_FIRINGS: usize = 48;
/// Lines that the rules of one update may put into the timeline.
const LOG_LINES: u64 = 1000;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    firings: VecDeque<RuleFiring>,
    logs: Vec<String>,
    /// Lines that were put into the timeline, and those for which there was no room.
    lines: u64,
    lost: u64,
    /// It was said that lines are missing.
    full: bool,
}

impl Told {
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
    pub(super) fn rules_status(&mut self) -> Option<RulesStatus> {
        let rules = self.rules.as_mut()?;
        let unix_ms = unix_ms(SystemTime::now());
        for firing in rules.engine.take_firings() {
            let name = rules.name(firing.rule);
            for line in firing.logs {
                rules.told.log(format!("{name} logs: {line}"));
            }
            let set = rules.engine.rules();
            let rule = set.rules.get(firing.rule.0 as usize);
            if rules.told.firings.len() == SHOWN_FIRINGS {
                rules.told.firings.pop_front();
            }
            rules.told.firings.push_back(RuleFiring {
                unix_ms,
                rule: rule.map_or_else(String::new, |rule| rule.name.clone()),
                thread: self.lanes[firing.on.tid as usize].leader,
                on: firing.on.to_string(),
            });
        }
        rules.told.lost += rules.engine.take_lost_logs();
        let set = rules.engine.rules();
        Some(RulesStatus {
            file: rules.file.clone(),
            stage: rules.engine.direction(),
            held: rules.engine.held() as u64,
            rules: rules
                .engine
                .counts()
                .map(|(rule, count)| RuleStatus {
                    name: rule.name.clone(),
                    place: set.sources.place(rule.span),
                    stage: rule.direction,
                    count,
                })
                .collect(),
            firings: rules.told.firings.iter().cloned().collect(),
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
