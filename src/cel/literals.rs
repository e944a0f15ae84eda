//! What is wrong with literals although their types fit: durations and timestamps that are none, regular expressions that
//! cannot be compiled, lists and maps of several types, formats that do not fit their arguments.
//!
//! Source: cel-go `cel/validator.go`, `ext/formatting.go` `stringFormatValidator`.

use std::collections::HashSet;

use super::ast::{Ast, Id, Literal, Node, for_children};
use super::check::Checked;
use super::issue::Issue;
use super::library::{regex, string_format, time};
use super::types::Type;

pub fn check(ast: &Ast, root: Id, checked: &Checked) -> Vec<Issue> {
    let reachable = ast.reachable(root);
    let mut issues = Vec::new();
    for &id in &reachable {
        if let Node::Call { function, args, .. } = ast.node(id) {
            let literal = args.first().map(|arg| (*arg, ast.node(*arg)));
            let Some((arg, Node::Literal(Literal::String(text)))) = literal else { continue };
            let valid = match &**function {
                "duration" => time::parse_duration(text).is_some(),
                "timestamp" => time::parse_timestamp(text).is_some(),
                "matches" => regex::compiled(text).is_ok(),
                _ => true,
            };
            if !valid {
                issues.push(Issue::new(ast.position(arg), format!("invalid {function} argument")));
            }
        }
    }
    let exempt = inside_formats(ast, &reachable);
    let type_of = |id: Id, optional: bool| {
        let t = &checked.types[id.index()];
        if optional { t.unwrap_optional().0.clone() } else { t.clone() }
    };
    let mismatch = |id: Id, wanted: &Type, found: &Type| {
        Issue::new(ast.position(id), format!("expected type '{wanted}' but found '{found}'"))
    };
    for &id in reachable.iter().filter(|id| !exempt.contains(id)) {
        match ast.node(id) {
            Node::List { items, optional } => {
                let mut types =
                    items.iter().enumerate().map(|(i, item)| (*item, type_of(*item, optional.contains(&i))));
                let Some((_, wanted)) = types.next() else { continue };
                if let Some((item, found)) = types.find(|(_, t)| *t != wanted) {
                    issues.push(mismatch(item, &wanted, &found));
                }
            }
            Node::Map(entries) => {
                let Some(first) = entries.first() else { continue };
                let (key, value) = (type_of(first.key, false), type_of(first.value, first.optional));
                for entry in &entries[1..] {
                    let (k, v) = (type_of(entry.key, false), type_of(entry.value, entry.optional));
                    if k != key {
                        issues.push(mismatch(entry.key, &key, &k));
                    }
                    if v != value {
                        issues.push(mismatch(entry.value, &value, &v));
                    }
                }
            }
            _ => {}
        }
    }
    formats(ast, &reachable, checked, &mut issues);
    issues
}

/// Everything inside a call of `format`: its list of arguments may have several types.
fn inside_formats(ast: &Ast, reachable: &[Id]) -> HashSet<Id> {
    let mut inside = HashSet::new();
    for &id in reachable {
        // parents come before their children
        let exempt =
            inside.contains(&id) || matches!(ast.node(id), Node::Call { function, .. } if &**function == "format");
        if exempt {
            for_children(ast.node(id), |child| {
                inside.insert(child);
            });
        }
    }
    inside
}

fn formats(ast: &Ast, reachable: &[Id], checked: &Checked, issues: &mut Vec<Issue>) {
    for &id in reachable {
        let Node::Call { function, target: Some(target), args } = ast.node(id) else { continue };
        if &**function != "format" {
            continue;
        }
        let (Node::Literal(Literal::String(text)), [list]) = (ast.node(*target), &args[..]) else { continue };
        let Node::List { items, .. } = ast.node(*list) else { continue };
        let types: Vec<Type> = items.iter().map(|item| checked.types[item.index()].clone()).collect();
        if let Some((item, message)) = string_format::check(text, &types) {
            let at = item.and_then(|i| items.get(i)).map_or(id, |item| *item);
            issues.push(Issue::new(ast.position(at), message));
        }
    }
}
