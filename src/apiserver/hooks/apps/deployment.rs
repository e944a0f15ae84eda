//! Deployment. Source: `ValidateDeployment`, `pkg/apis/apps/v1/defaults.go`, `pkg/registry/apps/deployment/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::core::pod::{defaults, warnings};
use super::super::json::{at, copy, ensure_object, get, has, int, same, set, set_absent, set_blank, text};
use super::super::strategy::{bump_generation, keep_metadata};
use super::super::{Context, Hooks};
use super::{not_negative, prepare_create, rolling, selector_and_template, selector_immutable, status};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    warnings: warnings::workload,
    ..Hooks::NEUTRAL
};

/// How far a rolling update may go from the wanted number, both ways.
const ROLLING: &str = "25%";
const HISTORY: i64 = 10;
const PROGRESS_SECONDS: i64 = 600;

fn default(object: &mut Value) {
    let Some(spec) = ensure_object(object, "spec") else { return };
    set_absent(spec, "replicas", 1);
    set_absent(spec, "revisionHistoryLimit", HISTORY);
    set_absent(spec, "progressDeadlineSeconds", PROGRESS_SECONDS);
    if let Some(strategy) = ensure_object(spec, "strategy") {
        set_blank(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure_object(strategy, "rollingUpdate")
        {
            set_absent(rolling, "maxUnavailable", ROLLING);
            set_absent(rolling, "maxSurge", ROLLING);
        }
    }
    defaults::template(object);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, &["generation", "labels"]);
        return;
    }
    copy(new, old, "status");
    bump_generation(new, old);
    // annotations travel to the replica sets, so a change of them is a change to act on
    let annotations = |o| same(at(o, &["metadata", "annotations"]), at(old, &["metadata", "annotations"]));
    if !annotations(new) && same(get(new, "spec"), get(old, "spec")) {
        let before = int(get(old, "metadata"), "generation").unwrap_or(0);
        if let Some(meta) = ensure_object(new, "metadata") {
            set(meta, "generation", before + 1);
        }
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    not_negative(spec, &path, &["replicas"], &mut errors);
    selector_and_template(spec, "deployment", &mut errors);
    strategy(get(spec, "strategy"), &path.child("strategy"), &mut errors);
    not_negative(spec, &path, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], &mut errors);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds")
        && deadline <= int(spec, "minReadySeconds").unwrap_or(0)
    {
        let words = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(&path.child("progressDeadlineSeconds"), deadline, words));
    }
    errors
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let rolling = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                let words = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(&rolling, words));
            }
        }
        "RollingUpdate" => rolling_update(get(strategy, "rollingUpdate"), &rolling, errors),
        _ => errors.push(FieldError::not_supported(path, strategy, &["Recreate", "RollingUpdate"])),
    }
}

fn rolling_update(update: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["maxUnavailable", "maxSurge"] {
        rolling::positive(get(update, field), &path.child(field), errors);
    }
    let (unavailable, surge) = (get(update, "maxUnavailable"), get(update, "maxSurge"));
    if rolling::number(unavailable) == Some(0) && rolling::number(surge) == Some(0) {
        let words = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(&path.child("maxUnavailable"), unavailable, words));
    }
    rolling::at_most_all(unavailable, &path.child("maxUnavailable"), errors);
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Vec<FieldError> {
    if context.subresource == "status" {
        return status(new, &["updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"]);
    }
    selector_immutable(new, old)
}
