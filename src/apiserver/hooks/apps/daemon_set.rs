//! DaemonSet: a pod on every node. Source: `ValidateDaemonSet*`, `pkg/apis/apps/v1/defaults.go`,
//! `pkg/registry/apps/daemonset/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::selector::LabelSelector;

use super::super::check::Errors;
use super::super::core::pod::{defaults, validate as pod, warnings};
use super::super::json::{ensure_object, get, set, set_absent, set_blank, text};
use super::super::strategy::first_generation;
use super::super::{Context, Hooks, selectors};
use super::{collisions_grow, not_negative, prepare_update, rolling, runs_forever, selected, selector_immutable};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    warnings: warnings::template,
    ..Hooks::NEUTRAL
};

const HISTORY: i64 = 10;
const COUNTS: [&str; 9] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn default(object: &mut Value) {
    let Some(spec) = ensure_object(object, "spec") else { return };
    if let Some(strategy) = ensure_object(spec, "updateStrategy") {
        set_blank(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(update) = ensure_object(strategy, "rollingUpdate")
        {
            set_absent(update, "maxUnavailable", 1);
            set_absent(update, "maxSurge", 0);
        }
    }
    set_absent(spec, "revisionHistoryLimit", HISTORY);
    defaults::template(object);
}

fn prepare_create(object: &mut Value, _: &Context) {
    // these counts are shown even when they are zero
    set(
        object,
        "status",
        json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
    );
    first_generation(object);
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    let (selector, template) = (get(spec, "selector"), get(spec, "template"));
    selectors::validate(selector, &path.child("selector"), &mut errors);
    let template_path = path.child("template");
    match LabelSelector::from_object(selector) {
        // no selector selects nothing
        Ok(_) if selector.is_null() => selected_by_none(template, &template_path, &mut errors),
        Ok(parsed) => selected(&parsed, template, &template_path, &mut errors),
        Err(_) => {}
    }
    if selector.is_object() && selectors::is_empty(selector) {
        let words = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid(&path.child("selector"), selector, words));
    }
    pod::template(template, &template_path, &mut errors);
    runs_forever(template, "DaemonSet", &template_path, &mut errors);
    not_negative(spec, &path, &["minReadySeconds"], &mut errors);
    strategy(get(spec, "updateStrategy"), &path.child("updateStrategy"), &mut errors);
    not_negative(spec, &path, &["revisionHistoryLimit"], &mut errors);
    errors
}

fn selected_by_none(template: &Value, path: &Path, errors: &mut Errors) {
    let labels = get(get(template, "metadata"), "labels");
    let shown = if labels.is_null() { json!({}) } else { labels.clone() };
    let path = path.child("metadata").child("labels");
    errors.push(FieldError::invalid(&path, &shown, "`selector` does not match template `labels`"));
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (update, path) = (get(strategy, "rollingUpdate"), path.child("rollingUpdate"));
            if update.is_null() {
                errors.push(FieldError::required(&path, ""));
            } else {
                rolling_update(update, &path, errors);
            }
        }
        _ => errors.push(FieldError::not_supported(path, strategy, &["RollingUpdate", "OnDelete"])),
    }
}

fn rolling_update(update: &Value, path: &Path, errors: &mut Errors) {
    let (unavailable, surge) = (get(update, "maxUnavailable"), get(update, "maxSurge"));
    let fields = [(unavailable, path.child("maxUnavailable")), (surge, path.child("maxSurge"))];
    for (value, path) in &fields {
        rolling::positive(value, path, errors);
    }
    for (value, path) in &fields {
        rolling::at_most_all(value, path, errors);
    }
    let some = |v| rolling::number(v).is_some_and(|n| n != 0);
    match (some(unavailable), some(surge)) {
        (true, true) => {
            let words = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(&path.child("maxSurge"), surge, words));
        }
        (false, false) => {
            let words = "cannot be 0 when maxSurge is 0";
            errors.push(FieldError::required(&path.child("maxUnavailable"), words));
        }
        (true, false) | (false, true) => {}
    }
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    if context.subresource != "status" {
        return selector_immutable(new, old);
    }
    let mut errors = Vec::new();
    not_negative(get(new, "status"), &Path::new("status"), &COUNTS, &mut errors);
    collisions_grow(new, old, &mut errors);
    errors
}
