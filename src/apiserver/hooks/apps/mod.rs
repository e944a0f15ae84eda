//! The kinds of the apps group: workloads with a selector and a pod template.
//! Source: `pkg/apis/apps/validation/validation.go`, `pkg/registry/apps/*/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::selector::LabelSelector;

use super::core::pod::validate as pod;
use super::json::{at, copy, get, has, int, same, set, text};
use super::strategy::{bump_generation, first_generation, keep_metadata};
use super::{Context, check, selectors};

pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod rolling;
pub mod stateful_set;

fn prepare_create(object: &mut Value, _: &Context) {
    set(object, "status", json!({}));
    first_generation(object);
}

/// Writes of the object keep the status and count the generation; writes of the status keep all else.
fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, &["generation"]);
        return;
    }
    copy(new, old, "status");
    bump_generation(new, old);
}

/// A count that grows when names collide never shrinks.
fn collisions_grow(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let count = |o| int(get(o, "status"), "collisionCount");
    let (now, before) = (count(new), count(old));
    if before.is_some_and(|before| now.is_none_or(|now| now < before)) {
        let path = Path::new("status.collisionCount");
        errors.push(FieldError::invalid(&path, now.unwrap_or(0), "cannot be decremented"));
    }
}

fn not_negative(object: &Value, path: &Path, fields: &[&str], errors: &mut Vec<FieldError>) {
    for field in fields {
        check::not_negative(errors, object, field, path);
    }
}

/// The selector: there, valid, not empty; and the template: selected by it, restarting always.
fn selector_and_template(spec: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    let path = Path::new("spec");
    let selector = get(spec, "selector");
    let at_selector = path.child("selector");
    let before = errors.len();
    if selector.is_null() {
        errors.push(FieldError::required(&at_selector, ""));
    } else {
        selectors::validate(selector, &at_selector, errors);
        if selectors::is_empty(selector) {
            errors.push(FieldError::invalid(&at_selector, selector, format!("empty selector is invalid for {kind}")));
        }
    }
    let Ok(parsed) = LabelSelector::from_object(selector) else {
        if errors.len() == before {
            errors.push(FieldError::invalid(&at_selector, selector, "invalid label selector"));
        }
        return;
    };
    let (template, path) = (get(spec, "template"), path.child("template"));
    if !parsed.is_empty() {
        selected(&parsed, template, &path, errors);
    }
    pod::template(template, &path, errors);
    runs_forever(template, "ReplicaSet", &path, errors);
}

/// The pods of a template restart always and have no deadline. `kind` is who says so.
pub fn runs_forever(template: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let (spec, path) = (get(template, "spec"), path.child("spec"));
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if has(spec, "activeDeadlineSeconds") {
        let words = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(&path.child("activeDeadlineSeconds"), words));
    }
}

/// The template's labels are selected.
pub fn selected(selector: &LabelSelector, template: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let labels = at(template, &["metadata", "labels"]);
    if !selector.matches(labels) {
        let shown = if labels.is_null() { json!({}) } else { labels.clone() };
        let path = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, &shown, "`selector` does not match template `labels`"));
    }
}

fn selector_immutable(new: &Value, old: &Value) -> Vec<FieldError> {
    let (selector, before) = (at(new, &["spec", "selector"]), at(old, &["spec", "selector"]));
    if same(selector, before) {
        return Vec::new();
    }
    vec![FieldError::invalid(&Path::new("spec.selector"), selector, "field is immutable")]
}

/// Counts of a status are not negative, and none is above the number of replicas.
pub fn status(object: &Value, parts: &[&str]) -> Vec<FieldError> {
    let (status, path) = (get(object, "status"), Path::new("status"));
    let mut errors = Vec::new();
    not_negative(status, &path, &["replicas", "observedGeneration", "collisionCount"], &mut errors);
    not_negative(status, &path, parts, &mut errors);
    let replicas = int(status, "replicas").unwrap_or(0);
    for part in parts.iter().filter(|p| **p != "unavailableReplicas") {
        let n = int(status, part).unwrap_or(0);
        if n > replicas {
            errors.push(FieldError::invalid(&path.child(part), n, "cannot be greater than status.replicas"));
        }
    }
    let (ready, available) = (int(status, "readyReplicas").unwrap_or(0), int(status, "availableReplicas").unwrap_or(0));
    if available > ready {
        errors.push(FieldError::invalid(
            &path.child("availableReplicas"),
            available,
            "cannot be greater than readyReplicas",
        ));
    }
    errors
}
