//! The rule for the other stage, derived from a reversible one by exchanging its sides.

use std::collections::BTreeSet;

use crate::rules::ast::{
    Arg, ArgKind, Expr, ExprKind, Name, Outcome, Pattern, Repeat, Rule, Template, TextPart,
};
use crate::rules::diagnostic::{Code, Diagnostic};
use crate::rules::source::Span;

/// Exchanges the sides of `rule`; `fixed` tells constants and states from variables.
pub(super) fn reverse(rule: &Rule, fixed: &dyn Fn(&str) -> bool) -> Result<Rule, Diagnostic> {
    let refuse = |span: Span, why: &str| {
        Diagnostic::error(
            Code::NOT_REVERSIBLE,
            span,
            format!("this rule cannot be reversed: {why}"),
        )
        .help("drop `reversible` and write the rule for the other stage yourself")
    };
    let span = rule.patterns[0].span;
    let Outcome::Calls(templates) = &rule.outcome else {
        return Err(refuse(span, "a verdict has no other side"));
    };
    for pattern in &rule.patterns {
        if pattern.guard.is_some() || pattern.repeat != Repeat::Once {
            return Err(refuse(
                pattern.span,
                "guards in braces and repetitions only work one way; use `when` and holes",
            ));
        }
    }
    let mut patterns = Vec::new();
    for template in templates {
        let Some(args) = &template.args else {
            return Err(refuse(
                template.span,
                "a bare name says nothing about the call",
            ));
        };
        if template.body.is_some() || template.repeat != Repeat::Once || template.pieces {
            return Err(refuse(
                template.span,
                "statements and repetitions only work one way",
            ));
        }
        for arg in args {
            if let ArgKind::Value(expr) = &arg.kind
                && !matches!(
                    expr.kind,
                    ExprKind::Int(_) | ExprKind::Name(_) | ExprKind::Text(_)
                )
            {
                return Err(refuse(
                    expr.span,
                    "a computed value cannot be taken apart again",
                ));
            }
        }
        patterns.push(Pattern {
            span: template.span,
            call: call_name(rule, &template.call),
            args: args.clone(),
            result: template.result.clone(),
            repeat: Repeat::Once,
            guard: None,
            alias: None,
        });
    }
    let templates: Vec<Template> = rule
        .patterns
        .iter()
        .map(|pattern| Template {
            span: pattern.span,
            call: pattern.call.clone(),
            args: Some(pattern.args.clone()),
            result: pattern.result.clone(),
            repeat: Repeat::Once,
            pieces: false,
            body: None,
        })
        .collect();
    let (mut left, mut right) = (BTreeSet::new(), BTreeSet::new());
    for pattern in &rule.patterns {
        names(&pattern.args, pattern.result.as_ref(), &mut left);
    }
    for pattern in &patterns {
        names(&pattern.args, pattern.result.as_ref(), &mut right);
    }
    if let Some(lost) = left.difference(&right).find(|name| !fixed(name)) {
        return Err(refuse(span, &format!("`{lost}` occurs on one side only")));
    }
    Ok(Rule {
        header: rule.header.clone(),
        patterns,
        when: rule.when.clone(),
        outcome: Outcome::Calls(templates),
    })
}

/// The call that a template makes: an alias stands for the call of its pattern.
fn call_name(rule: &Rule, name: &Name) -> Name {
    rule.patterns
        .iter()
        .find(|p| p.alias.as_ref().is_some_and(|a| a.text == name.text))
        .map_or_else(|| name.clone(), |p| p.call.clone())
}

fn names(args: &[Arg], result: Option<&Expr>, out: &mut BTreeSet<String>) {
    let exprs = args.iter().filter_map(|arg| match &arg.kind {
        ArgKind::Value(expr) => Some(expr),
        ArgKind::Any | ArgKind::SameFd => None,
    });
    for expr in exprs.chain(result) {
        match &expr.kind {
            ExprKind::Name(name) => {
                out.insert(name.clone());
            }
            ExprKind::Text(parts) => {
                for part in parts {
                    if let TextPart::Hole(name) = part {
                        out.insert(name.clone());
                    }
                }
            }
            _ => {}
        }
    }
}
