//! What nodes and pods ask of each other: taints and tolerations, node selector terms. Pure.
//!
//! Source: kubernetes `staging/src/k8s.io/component-helpers/scheduling/corev1`, core/v1 `toleration.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

/// Whether one of the tolerations tolerates the taint.
pub fn tolerate(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(of: &Option<String>) -> &str {
        of.as_deref().unwrap_or_default()
    }
    let (effect, key, value) = (text(&toleration.effect), text(&toleration.key), text(&toleration.value));
    let number = |holds: fn(&i64, &i64) -> bool| is_so(holds, Some(text(&taint.value)), Some(value));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match text(&toleration.operator) {
            "Exists" => true,
            "Equal" | "" => !key.is_empty() && value == text(&taint.value),
            "Gt" => number(i64::gt),
            "Lt" => number(i64::lt),
            _ => false,
        }
}

/// All that the term says of a node holds; a term that says nothing holds for no node.
pub fn matches_term(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let fields = term.match_fields.as_deref().unwrap_or_default();
    matches(term, labels, |e| is_met(e, (e.key == "metadata.name").then_some(name)), !fields.is_empty())
}

/// As [`matches_term`], of a node of which only the labels are known: whom a term names by a field it is not.
pub fn matches_labels(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    matches(term, labels, |_| false, false)
}

fn matches(
    term: &NodeSelectorTerm,
    labels: &BTreeMap<String, String>,
    field: impl Fn(&NodeSelectorRequirement) -> bool,
    fields_do: bool,
) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    (!expressions.is_empty() || fields_do)
        && expressions.iter().all(|e| is_met(e, labels.get(&e.key).map(String::as_str)))
        && term.match_fields.iter().flatten().all(field)
}

fn is_met(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |holds: fn(&i64, &i64) -> bool| is_so(holds, value, values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.iter().any(|x| x == v)),
        "NotIn" => value.is_none_or(|v| values.iter().all(|x| x != v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(i64::gt),
        "Lt" => number(i64::lt),
        _ => false,
    }
}

/// Whether both are numbers of which it is so.
fn is_so(holds: fn(&i64, &i64) -> bool, theirs: Option<&str>, mine: Option<&str>) -> bool {
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    number(theirs).zip(number(mine)).is_some_and(|(theirs, mine)| holds(&theirs, &mine))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn what_tolerates_a_taint() {
        let taint: Taint = from_value(json!({"key": "level", "value": "5", "effect": "NoExecute"})).unwrap();
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "level", "operator": "Exists", "effect": "NoExecute"}), true),
            (json!({"key": "level", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "level", "value": "5"}), true),
            (json!({"key": "level", "value": "4"}), false),
            (json!({"key": "level", "operator": "Gt", "value": "4"}), true),
            (json!({"key": "level", "operator": "Gt", "value": "5"}), false),
            (json!({"key": "level", "operator": "Lt", "value": "6"}), true),
            (json!({"key": "level", "operator": "Lt", "value": "many"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "level", "operator": "Near", "value": "5"}), false),
        ] {
            assert_eq!(tolerates(&from_value(toleration.clone()).unwrap(), &taint), expected, "{toleration}");
        }
    }
}
