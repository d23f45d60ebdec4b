//! What a rule makes of its calls: planned while they are borrowed, carried out when they are moved.

use std::collections::VecDeque;

use super::Held;
use crate::rules::call::Call;
use crate::rules::eval::Frame;
use crate::rules::expected::Expected;
use crate::rules::fault::Fault;
use crate::rules::matching::Fact;
use crate::rules::names::Signature;
use crate::rules::program::{Outcome, Rule, Subject};
use crate::rules::rewrite::{self, Draft};

/// What a rule makes of its calls, before they are moved.
pub(super) enum Plan {
    Same,
    Nothing,
    Tolerate,
    Stop(bool, String),
    Calls(Vec<Option<Draft>>),
}

/// The guard over the whole rule, and what the right side makes of it.
pub(super) fn plan<'a, C: Call>(
    frame: &mut Frame<'a>,
    rule: &'a Rule,
    taken: &[Vec<usize>],
    queue: &'a VecDeque<Held<C>>,
) -> Result<Option<Plan>, Fault> {
    if let Some(when) = &rule.when
        && !frame.truth(when)?
    {
        return Ok(None);
    }
    Ok(Some(match &rule.outcome {
        Outcome::Same(body) => {
            frame.run(body)?;
            Plan::Same
        }
        Outcome::Nothing(body) => {
            frame.run(body)?;
            Plan::Nothing
        }
        Outcome::Tolerate(body) => {
            frame.run(body)?;
            Plan::Tolerate
        }
        Outcome::Retry(why) => Plan::Stop(
            true,
            String::from_utf8_lossy(&frame.text(why)?).into_owned(),
        ),
        Outcome::Terminate(why) => Plan::Stop(
            false,
            String::from_utf8_lossy(&frame.text(why)?).into_owned(),
        ),
        Outcome::Calls(templates) => {
            let mut drafts = Vec::with_capacity(templates.len());
            for (i, template) in templates.iter().enumerate() {
                let last = i + 1 == templates.len();
                let origin =
                    template
                        .from
                        .and_then(|f| taken[f].first())
                        .and_then(|i| match &queue[*i] {
                            Held::Call(call, _) => rewrite::call_of(Fact::Call(call)),
                            Held::Done(_) => None,
                        });
                drafts.push(if template.bare {
                    None
                } else {
                    Some(rewrite::draft(frame, template, origin, last)?)
                });
            }
            Plan::Calls(drafts)
        }
    }))
}

/// Carries out the usual plan: one call by itself becomes one other. Gives any other plan back.
pub(super) fn alone<C: Call + Clone>(
    queue: &mut VecDeque<Held<C>>,
    rule: &Rule,
    taken: &[Vec<usize>],
    plan: Plan,
) -> Result<(), Plan> {
    let Plan::Calls(mut drafts) = plan else {
        return Err(plan);
    };
    let Outcome::Calls(templates) = &rule.outcome else {
        return Err(Plan::Calls(drafts));
    };
    let fits = queue.len() == 1
        && matches!(taken, [first] if first.as_slice() == [0])
        && matches!(templates.as_slice(), [template] if template.from == Some(0));
    match (fits, drafts.as_slice()) {
        (true, [Some(_)]) => {}
        _ => return Err(Plan::Calls(drafts)),
    }
    let (Some(Held::Call(call, _)), Some(Some(draft))) = (queue.pop_front(), drafts.pop()) else {
        return Ok(());
    };
    queue.push_back(Held::Done(Expected::Call(Box::new(draft.expect(
        rule.id,
        call.tid(),
        call.seq(),
        Some(call),
    )))));
    Ok(())
}

pub(super) fn signature_of(rule: &Rule, nr: u16) -> Option<&Signature> {
    rule.patterns.iter().find_map(|p| match &p.subject {
        Subject::Call(s) if s.call.nr == nr => Some(s.as_ref()),
        _ => None,
    })
}
