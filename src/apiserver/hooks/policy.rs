//! Eviction, which is only ever posted to a pod, and PodDisruptionBudget.
//! Source: `pkg/registry/core/pod/storage/eviction.go`, `pkg/apis/policy/validation/validation.go`,
//! `pkg/registry/policy/poddisruptionbudget/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};

use super::apps::rolling::{self, number};
use super::check::{self, Errors, one_of};
use super::json::{get, has, set};
use super::{Context, Hooks, conditions, selectors, strategy};

pub static EVICTION: Hooks = Hooks { ..Hooks::NEUTRAL };
pub static DISRUPTION_BUDGET: Hooks = Hooks {
    prepare_create: |object, _| {
        set(
            object,
            "status",
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}),
        );
        strategy::first_generation(object);
    },
    prepare_update: strategy::update,
    validate,
    validate_update,
    unconditional_update: false,
    ..Hooks::NEUTRAL
};

fn validate(budget: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(budget, "spec"), Path::new("spec"));
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        errors.push(FieldError::invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set"));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let (value, path) = (get(spec, field), path.child(field));
        rolling::positive(value, &path, &mut errors);
        if value.is_string() && number(value).is_some_and(|n| n > 100) {
            errors.push(FieldError::invalid(&path, value, "must not be greater than 100%"));
        }
    }
    selectors::validate(get(spec, "selector"), &path.child("selector"), &mut errors);
    one_of(&mut errors, spec, "unhealthyPodEvictionPolicy", &path, &["AlwaysAllow", "IfHealthyBudget"]);
    errors
}

fn validate_update(new: &Value, _: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        let (status, path) = (get(new, "status"), Path::new("status"));
        conditions::validate(status, &path, &mut errors);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            check::not_negative(&mut errors, status, field, &path);
        }
    }
    errors
}
