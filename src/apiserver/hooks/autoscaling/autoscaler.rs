//! HorizontalPodAutoscaler, in the version in which it is kept (autoscaling/v2); both served versions go this way.
//! Source: `pkg/apis/autoscaling/validation/validation.go`, `pkg/apis/autoscaling/v2/defaults.go`,
//! `pkg/registry/autoscaling/horizontalpodautoscaler/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};

use super::super::check::{Errors, NOT_NEGATIVE, items, not_negative};
use super::super::json::{
    canonical_quantity, copy, each_mut, ensure_object, get, has, int, is_empty, list, object_mut, quantity, remove,
    set, set_absent, text,
};
use super::super::strategy::{keep_generation, keep_metadata};
use super::super::{Context, Hooks, amounts};
use super::metrics;

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_create: |object, _| references(object, &Value::Null),
    validate_update,
    ..Hooks::NEUTRAL
};

/// Source: `pkg/apis/autoscaling/annotations.go` `DefaultCPUUtilization`.
const CPU_PERCENT: i64 = 80;
const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;
/// Annotations that carry newer fields through autoscaling/v1 mean nothing in the object itself.
pub const ROUND_TRIP: [&str; 6] = [
    "autoscaling.alpha.kubernetes.io/metrics",
    "autoscaling.alpha.kubernetes.io/behavior",
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
    "autoscaling.alpha.kubernetes.io/current-metrics",
    "autoscaling.alpha.kubernetes.io/conditions",
];

/// The metric of one that names none.
pub fn cpu(percent: i64) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn default(object: &mut Value) {
    drop_round_trip(object);
    let Some(spec) = ensure_object(object, "spec") else { return };
    set_absent(spec, "minReplicas", 1);
    if is_empty(get(spec, "metrics")) {
        set(spec, "metrics", json!([cpu(CPU_PERCENT)]));
    }
    for metric in each_mut(spec, "metrics") {
        for source in metrics::SOURCES {
            if let Some(target) = object_mut(metric, source.field).and_then(|s| object_mut(s, "target")) {
                ["value", "averageValue"].iter().filter_map(|f| target.get_mut(*f).map(canonical_quantity)).count();
            }
        }
    }
    if let Some(behavior) = object_mut(spec, "behavior") {
        let policy = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
        for (field, policies) in [
            ("scaleUp", json!([policy("Pods", 4), policy("Percent", 100)])),
            ("scaleDown", json!([policy("Percent", 100)])),
        ] {
            let Some(rules) = ensure_object(behavior, field) else { continue };
            if field == "scaleUp" {
                set_absent(rules, "stabilizationWindowSeconds", 0);
            }
            set_absent(rules, "selectPolicy", "Max");
            set_absent(rules, "policies", policies);
            if let Some(tolerance) = rules.get_mut("tolerance") {
                canonical_quantity(tolerance);
            }
        }
    }
}

pub fn drop_round_trip(object: &mut Value) {
    let Some(meta) = object_mut(object, "metadata") else { return };
    let Some(annotations) = object_mut(meta, "annotations") else { return };
    let before = annotations.as_object().map_or(0, serde_json::Map::len);
    ROUND_TRIP.iter().for_each(|name| remove(annotations, name));
    if before > 0 && is_empty(annotations) {
        remove(meta, "annotations");
    }
}

fn prepare_create(object: &mut Value, _: &Context) {
    // these are shown even when there is nothing in them
    set(object, "status", json!({"currentMetrics": null, "desiredReplicas": 0}));
    if let Some(meta) = object_mut(object, "metadata") {
        remove(meta, "generation");
    }
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, &["generation"]);
        return;
    }
    copy(new, old, "status");
    keep_generation(new, old);
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    let (fewest, most) = (int(spec, "minReplicas"), int(spec, "maxReplicas").unwrap_or(0));
    if let Some(n) = fewest.filter(|n| *n < 1) {
        errors.push(FieldError::invalid(&path.child("minReplicas"), n, "must be greater than or equal to 1"));
    }
    let at_most = path.child("maxReplicas");
    match most {
        0 => errors.push(FieldError::required(&at_most, "must be set and greater than 0")),
        n if n < 0 => errors.push(FieldError::invalid(&at_most, n, "must be greater than or equal to 1")),
        _ => {}
    }
    if fewest.is_some_and(|fewest| most < fewest) {
        errors.push(FieldError::invalid(&at_most, most, "must be greater than or equal to `minReplicas`"));
    }
    metrics::reference(get(spec, "scaleTargetRef"), &path.child("scaleTargetRef"), &mut errors);
    for (path, metric) in items(spec, "metrics", &path) {
        metrics::validate(metric, &path, &mut errors);
    }
    let elsewhere = |m: &Value| matches!(text(m, "type"), "Object" | "External");
    if fewest == Some(0) && !list(spec, "metrics").iter().any(elsewhere) {
        let words = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(&path.child("metrics"), words));
    }
    for field in ["scaleUp", "scaleDown"] {
        let rules = get(get(spec, "behavior"), field);
        if !rules.is_null() {
            self::rules(rules, &path.child("behavior").child(field), &mut errors);
        }
    }
    errors
}

fn rules(rules: &Value, path: &Path, errors: &mut Errors) {
    let at_window = path.child("stabilizationWindowSeconds");
    if let Some(n) = int(rules, "stabilizationWindowSeconds") {
        if n < 0 {
            errors.push(FieldError::invalid(&at_window, n, "must be greater than or equal to zero"));
        } else if n > WINDOW_SECONDS_MAX {
            let words = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
            errors.push(FieldError::invalid(&at_window, n, words));
        }
    }
    let select = text(rules, "selectPolicy");
    if has(rules, "selectPolicy") && !matches!(select, "Max" | "Min" | "Disabled") {
        let known = ["Disabled", "Max", "Min"];
        errors.push(FieldError::not_supported(&path.child("selectPolicy"), select, &known));
    }
    if list(rules, "policies").is_empty() {
        errors.push(FieldError::required(&path.child("policies"), "must specify at least one Policy"));
    }
    for (path, policy) in items(rules, "policies", path) {
        let kind = text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(FieldError::not_supported(&path.child("type"), kind, &["Percent", "Pods"]));
        }
        for field in ["value", "periodSeconds"] {
            let n = int(policy, field).unwrap_or(0);
            if n <= 0 {
                errors.push(FieldError::invalid(&path.child(field), n, "must be greater than zero"));
            }
        }
        if let Some(n) = int(policy, "periodSeconds").filter(|n| *n > PERIOD_SECONDS_MAX) {
            let words = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.push(FieldError::invalid(&path.child("periodSeconds"), n, words));
        }
    }
    let (tolerance, at_tolerance) = (get(rules, "tolerance"), path.child("tolerance"));
    if !tolerance.is_null() {
        amounts::parsed(tolerance, &at_tolerance, errors);
        if let Some(tolerance) = quantity(tolerance).filter(types::quantity::Quantity::is_negative) {
            errors.push(FieldError::invalid(&at_tolerance, &tolerance.to_string(), NOT_NEGATIVE));
        }
    }
}

/// The API versions that a new or changed reference names; what was there before may stay.
fn references(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, before, path) = (get(new, "spec"), get(old, "spec"), Path::new("spec"));
    let (target, was) = (get(spec, "scaleTargetRef"), get(before, "scaleTargetRef"));
    let kept = !before.is_null() && ["apiVersion", "kind"].iter().all(|field| text(target, field) == text(was, field));
    if !kept {
        let group_wanted = text(target, "kind") != "ReplicationController";
        metrics::api_version(target, group_wanted, &path.child("scaleTargetRef"), &mut errors);
    }
    let described = |metric: &Value| get(get(metric, "object"), "describedObject").clone();
    let objects = |spec| list(spec, "metrics").iter().filter(|m| text(m, "type") == "Object").map(described);
    let wrong = |reference: Value| {
        let mut errors = Vec::new();
        metrics::api_version(&reference, false, &Path::root(), &mut errors);
        !errors.is_empty()
    };
    if objects(before).any(wrong) {
        return errors;
    }
    for (path, metric) in items(spec, "metrics", &path) {
        if has(metric, "object") {
            let path = path.child("object").child("describedObject");
            metrics::api_version(&described(metric), false, &path, &mut errors);
        }
    }
    errors
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    if context.subresource != "status" {
        return references(new, old);
    }
    let mut errors = Vec::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        not_negative(&mut errors, get(new, "status"), field, &Path::new("status"));
    }
    errors
}
