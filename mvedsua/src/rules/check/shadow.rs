//! Rules that can never be reached, because an earlier one takes all that they would.

use crate::rules::ast::Repeat;
use crate::rules::diagnostic::{Code, Diagnostic};
use crate::rules::names::Slot;
use crate::rules::program::{ArgPattern, Code as Ex, Do, Pattern, Rule, Subject};
use crate::rules::value::Value;

/// Notes each rule that an earlier rule of the same stage shadows.
pub(super) fn find(rules: &[Rule], diagnostics: &mut Vec<Diagnostic>) {
    // An unconditional rule that takes every text of a call is rare, so that this stays far from
    // quadratic in practice: only such rules are compared with those after them.
    let general: Vec<&Rule> = rules.iter().filter(|r| unconditional(r)).collect();
    for earlier in general {
        for later in &rules[earlier.id.0 as usize + 1..] {
            if later.direction == earlier.direction
                && later.messages == earlier.messages
                && covers(earlier, later)
            {
                diagnostics.push(
                    Diagnostic::lint(
                        Code::SHADOWED,
                        later.span,
                        format!(
                            "this rule is never reached: `{}` takes all that it would",
                            earlier.name
                        ),
                    )
                    .help("rules are tried in the order of the file: put the narrower one first"),
                );
            }
        }
    }
}

/// True when nothing but the patterns decides whether the rule applies.
fn unconditional(rule: &Rule) -> bool {
    rule.patterns.len() == 1
        && rule.when.is_none()
        && rule.patterns.iter().all(|p| {
            p.guard
                .iter()
                .all(|s| matches!(s, Do::Return(Ex::Value(Value::Bool(true)))))
                && p.repeat == Repeat::Once
        })
}

fn covers(earlier: &Rule, later: &Rule) -> bool {
    covers_pattern(&earlier.patterns[0], &later.patterns[0])
}

fn covers_pattern(a: &Pattern, b: &Pattern) -> bool {
    let same = match (&a.subject, &b.subject) {
        (Subject::Call(a), Subject::Call(b)) => a.call.nr == b.call.nr,
        (Subject::Message(a), Subject::Message(b)) => a == b,
        _ => false,
    };
    // A variable that occurs twice in one pattern is a condition of its own.
    let mut seen = Vec::new();
    let plain = a.args.iter().all(|(_, arg)| match arg {
        ArgPattern::Var(var) if seen.contains(var) => false,
        ArgPattern::Var(var) => {
            seen.push(*var);
            true
        }
        _ => true,
    });
    same && plain && a.args.iter().all(|(slot, arg)| covers_arg(*slot, arg, b))
}

fn covers_arg(slot: Slot, arg: &ArgPattern, b: &Pattern) -> bool {
    if matches!(arg, ArgPattern::Var(_)) {
        return true;
    }
    let Some((_, other)) = b.args.iter().find(|(s, _)| *s == slot) else {
        return false;
    };
    match (arg, other) {
        (ArgPattern::Exact(a), ArgPattern::Exact(b)) => a == b,
        (ArgPattern::Prefix(a), ArgPattern::Prefix(b) | ArgPattern::Exact(b)) => b.starts_with(a),
        (ArgPattern::Prefix(a), ArgPattern::Regex(..) | ArgPattern::Holes { .. }) => {
            b.prefix.starts_with(a)
        }
        (ArgPattern::Regex(a, _), ArgPattern::Regex(b, _)) => a.as_str() == b.as_str(),
        (ArgPattern::Is(Ex::Value(a)), ArgPattern::Is(Ex::Value(b))) => a == b,
        _ => false,
    }
}
