//! ReplicationController: the workload from before there were ReplicaSets, with a selector of labels alone.
//! Source: `ValidateReplicationController*`, `SetDefaults_ReplicationController`,
//! `pkg/registry/core/replicationcontroller/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};

use super::super::apps;
use super::super::check::{self, Errors};
use super::super::json::{at, copy, ensure_object, get, has, is_empty, map, object_mut, set, set_absent, text};
use super::super::strategy::{bump_generation, first_generation, keep_metadata};
use super::super::{Context, Dependents, Hooks};
use super::pod::{defaults, validate as pod, warnings};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    dependents: Dependents::Orphaned,
    warnings: warnings::workload,
    ..Hooks::NEUTRAL
};

fn default(object: &mut Value) {
    let Some(spec) = ensure_object(object, "spec") else { return };
    set_absent(spec, "replicas", 1);
    let labels = at(spec, &["template", "metadata", "labels"]).clone();
    if !labels.is_null() {
        if is_empty(get(spec, "selector")) {
            set(spec, "selector", labels.clone());
        }
        if let Some(meta) = ensure_object(object, "metadata").filter(|meta| is_empty(get(meta, "labels"))) {
            set(meta, "labels", labels);
        }
    }
    if object_mut(object, "spec").is_some_and(|spec| has(spec, "template")) {
        defaults::template(object);
    }
}

fn prepare_create(object: &mut Value, _: &Context) {
    set(object, "status", json!({"replicas": 0}));
    first_generation(object);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, &["generation"]);
        return;
    }
    copy(new, old, "status");
    bump_generation(new, old);
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    check::not_negative(&mut errors, spec, "minReadySeconds", &path);
    let selector = get(spec, "selector");
    if is_empty(selector) {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    check::not_negative(&mut errors, spec, "replicas", &path);
    let (template, path) = (get(spec, "template"), path.child("template"));
    if template.is_null() {
        errors.push(FieldError::required(&path, ""));
        return errors;
    }
    let labels = at(template, &["metadata", "labels"]);
    if !map(spec, "selector").all(|(key, value)| text(labels, key) == value.as_str().unwrap_or_default()) {
        let shown = if labels.is_null() { json!({}) } else { labels.clone() };
        let path = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, &shown, "`selector` does not match template `labels`"));
    }
    pod::template(template, &path, &mut errors);
    apps::runs_forever(template, "ReplicationController", &path, &mut errors);
    errors
}

fn validate_update(new: &Value, _: &Value, context: &Context) -> Errors {
    if context.subresource != "status" {
        return Vec::new();
    }
    apps::status(new, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"])
}

/// The selector as it stands in a Scale.
pub fn selector_text(spec: &Value) -> String {
    let pairs: Vec<String> =
        map(spec, "selector").map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}
