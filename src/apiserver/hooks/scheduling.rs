//! PriorityClass. Source: `pkg/apis/scheduling/validation/validation.go`, `pkg/apis/scheduling/v1/helpers.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::json::{get, int, set_blank, text};
use super::strategy::{first_generation, keep_generation};
use super::{Context, Hooks};

/// What a user may give at most; above it is the system's.
pub const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// The two classes that every cluster has, with their values and descriptions.
pub const SYSTEM_CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

pub static PRIORITY_CLASS: Hooks = Hooks {
    default: |object| set_blank(object, "preemptionPolicy", "PreemptLowerPriority"),
    prepare_create: |object, _| first_generation(object),
    prepare_update: |new, old, _| keep_generation(new, old),
    validate,
    validate_update,
    ..Hooks::NEUTRAL
};

fn validate(class: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(get(class, "metadata"), "name");
    let value = int(class, "value").unwrap_or(0);
    if name.starts_with("system-") {
        let why = match SYSTEM_CLASSES.iter().find(|(n, _, _)| *n == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, v, _)) if *v != value => Some(format!("value of {name} PriorityClass must be {v}")),
            Some(_) if class.get("globalDefault").and_then(Value::as_bool) == Some(true) => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            let words =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            errors.push(FieldError::forbidden(&Path::new("metadata.name"), words));
        }
    } else if value > USER_PRIORITY_MAX {
        let words = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(FieldError::forbidden(&Path::new("value"), words));
    }
    preemption_policy(text(class, "preemptionPolicy"), &Path::new("preemptionPolicy"), &mut errors);
    errors
}

/// Also a pod's.
pub fn preemption_policy(policy: &str, path: &Path, errors: &mut Vec<FieldError>) {
    match policy {
        "PreemptLowerPriority" | "Never" => {}
        "" => errors.push(FieldError::required(path, "")),
        _ => errors.push(FieldError::not_supported(path, policy, &["PreemptLowerPriority", "Never"])),
    }
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if int(new, "value") != int(old, "value") {
        errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    let (policy, before) = (text(new, "preemptionPolicy"), text(old, "preemptionPolicy"));
    if policy != before {
        errors.push(FieldError::invalid(&Path::new("preemptionPolicy"), policy, "field is immutable"));
    }
    errors
}
