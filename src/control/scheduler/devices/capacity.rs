//! How much of a device's capacities a request takes, and whether that much is left. Pure.
//!
//! Source: k8s.io/dynamic-resource-allocation `structured/internal/incubating/consumable_capacity.go`.

use std::collections::BTreeMap;

use client::devices::{Amounts, Capacity, Range, RequestPolicy};
use types::quantity::Quantity;

/// What is used of capacities, by their names.
pub type Used = BTreeMap<String, Quantity>;

/// Whether the request can be met beside what is used and what is being given. What asks for a capacity that the device does
/// not have is not met.
pub fn fits(
    asked: &Amounts,
    capacity: &BTreeMap<String, Capacity>,
    used: Option<&Used>,
    giving: Option<&Used>,
) -> bool {
    if asked.requests.keys().any(|name| !capacity.contains_key(name)) {
        return false;
    }
    capacity.iter().all(|(name, capacity)| {
        let taken = taken(asked.requests.get(name), capacity);
        let of = |used: Option<&Used>| used.and_then(|u| u.get(name)).copied().unwrap_or_default();
        !violates(&taken, capacity.request_policy.as_ref()) && taken.plus(&of(used)).plus(&of(giving)) <= capacity.value
    })
}

/// What a request takes of each capacity.
pub fn all_taken(asked: &Amounts, capacity: &BTreeMap<String, Capacity>) -> Used {
    capacity.iter().map(|(name, capacity)| (name.clone(), taken(asked.requests.get(name), capacity))).collect()
}

/// What is not asked for is taken as the policy says, or whole; what is asked for is rounded up to what the policy allows.
fn taken(asked: Option<&Quantity>, capacity: &Capacity) -> Quantity {
    let policy = capacity.request_policy.as_ref();
    let Some(asked) = asked else { return policy.and_then(|p| p.default).unwrap_or(capacity.value) };
    let Some(policy) = policy else { return *asked };
    match &policy.valid_range {
        Some(Range { min: Some(min), step, .. }) => rounded(asked, min, step.as_ref()),
        _ => policy.valid_values.iter().find(|value| asked <= value).copied().unwrap_or(*asked),
    }
}

fn rounded(asked: &Quantity, min: &Quantity, step: Option<&Quantity>) -> Quantity {
    if asked < min {
        return *min;
    }
    match step.map(Quantity::value).filter(|step| *step > 0) {
        None => *asked,
        Some(step) => {
            let min = min.value();
            let over = asked.value().saturating_sub(min);
            let steps = over / step + i64::from(over % step != 0);
            Quantity::from_bytes(min.saturating_add(step.saturating_mul(steps)))
        }
    }
}

fn violates(taken: &Quantity, policy: Option<&RequestPolicy>) -> bool {
    let Some(policy) = policy.filter(|p| p.default.as_ref() != Some(taken)) else { return false };
    match &policy.valid_range {
        Some(range) => {
            let (min, step) = (range.min.map_or(0, |m| m.value()), range.step.map_or(0, |s| s.value()));
            range.max.is_some_and(|max| *taken > max) || step > 0 && (taken.value() - min) % step != 0
        }
        None => !policy.valid_values.is_empty() && !policy.valid_values.contains(taken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(name: &str, policy: Value, asked: Value, expected: Option<&str>) {
        let capacity: BTreeMap<String, Capacity> =
            serde_json::from_value(json!({"memory": {"value": "10Gi", "requestPolicy": policy}})).unwrap();
        let asked: Amounts = serde_json::from_value(json!({"requests": asked})).unwrap();
        let used: Used = [("memory".to_owned(), "4Gi".parse().unwrap())].into();
        let found =
            fits(&asked, &capacity, Some(&used), None).then(|| all_taken(&asked, &capacity)["memory"].to_string());
        assert_eq!(found.as_deref(), expected, "{name}");
    }

    #[test]
    fn requests_are_rounded_and_fit_into_what_is_left() {
        let range = || json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "8Gi", "step": "2Gi"}});
        let values = || json!({"default": "2Gi", "validValues": ["2Gi", "5Gi", "8Gi"]});
        check("all of it is taken", Value::Null, json!({}), None);
        check("as much as is asked for", Value::Null, json!({"memory": "3Gi"}), Some("3Gi"));
        check("more than is left", Value::Null, json!({"memory": "7Gi"}), None);
        check("what nobody has", Value::Null, json!({"slots": "1"}), None);
        check("the default", range(), json!({}), Some("1Gi"));
        check("at least the least", range(), json!({"memory": "1Mi"}), Some("1Gi"));
        check("the next step", range(), json!({"memory": "4Gi"}), Some("5Gi"));
        check("more than the most", range(), json!({"memory": "8Gi"}), None);
        check("the next value", values(), json!({"memory": "3Gi"}), Some("5Gi"));
        check("no value is that large", values(), json!({"memory": "9Gi"}), None);
    }
}
