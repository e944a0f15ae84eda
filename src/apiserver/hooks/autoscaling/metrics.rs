//! Metrics that an autoscaler follows: one source each, and its target.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::amounts;
use super::super::check::{Errors, wrong};
use super::super::json::{get, has, int, quantity, text};

/// A source of metrics: what its type is called, and the field that holds it.
pub struct Source {
    pub kind: &'static str,
    pub field: &'static str,
}

const fn source(kind: &'static str, field: &'static str) -> Source {
    Source { kind, field }
}

/// In the order in which they are looked at.
pub const SOURCES: [Source; 5] = [
    source("Object", "object"),
    source("External", "external"),
    source("Pods", "pods"),
    source("Resource", "resource"),
    source("ContainerResource", "containerResource"),
];

pub fn validate(metric: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(metric, "type");
    let at_type = path.child("type");
    if kind.is_empty() {
        errors.push(FieldError::required(&at_type, "must specify a metric source type"));
    }
    let named = SOURCES.iter().find(|s| s.kind == kind);
    let kinds = SOURCES.map(|s| s.kind);
    if named.is_none() {
        errors.push(FieldError::not_supported(&at_type, kind, &kinds));
    }
    let given: Vec<&Source> = SOURCES.iter().filter(|s| has(metric, s.field)).collect();
    if let Some(first) = given.first() {
        self::given(first.field, get(metric, first.field), &path.child(first.field), errors);
    }
    match named {
        Some(named) if !has(metric, named.field) => {
            let words = "must populate information for the given metric source";
            errors.push(FieldError::required(&path.child(named.field), words));
        }
        Some(_) => {}
        // said twice upstream too
        None => errors.push(FieldError::not_supported(&at_type, kind, &kinds)),
    }
    if given.len() != 1 {
        for other in given.iter().filter(|s| s.kind != kind) {
            errors.push(FieldError::forbidden(&path.child(other.field), "must populate the given metric source only"));
        }
    }
}

fn given(field: &str, source: &Value, path: &Path, errors: &mut Errors) {
    let (aim, at_aim) = (get(source, "target"), path.child("target"));
    match field {
        "object" => reference(get(source, "describedObject"), &path.child("describedObject"), errors),
        "resource" | "containerResource" => {
            let name = text(source, "name");
            if name.is_empty() {
                errors.push(FieldError::required(&path.child("name"), "must specify a resource name"));
            } else if field == "containerResource" {
                amounts::container_name(name, &path.child("name"), errors);
            }
            if field == "containerResource" {
                let container = text(source, "container");
                if container.is_empty() {
                    errors.push(FieldError::required(&path.child("container"), "must specify a container"));
                } else {
                    wrong(errors, &path.child("container"), container, names::dns1123_label(container));
                }
            }
        }
        _ => {}
    }
    if !matches!(field, "resource" | "containerResource") {
        let (name, path) = (text(get(source, "metric"), "name"), path.child("metric").child("name"));
        if name.is_empty() {
            errors.push(FieldError::required(&path, "must specify a metric name"));
        } else {
            wrong(errors, &path, name, names::path_segment(name));
        }
    }
    target(aim, &at_aim, errors);
    let (value, average, percent) = (has(aim, "value"), has(aim, "averageValue"), has(aim, "averageUtilization"));
    let (needed, both) = match field {
        "object" => ((value || average, "averageValue", "must set either a target value or averageValue"), None),
        "external" => (
            (value || average, "averageValue", "must set either a target value for metric or a per-pod target"),
            (value && average).then_some(("value", "may not set both a target value for metric and a per-pod target")),
        ),
        "pods" => ((average, "averageValue", "must specify a positive target averageValue"), None),
        _ => (
            (percent || average, "averageUtilization", "must set either a target raw value or a target utilization"),
            (percent && average)
                .then_some(("averageValue", "may not set both a target raw value and a target utilization")),
        ),
    };
    if let (false, at, words) = needed {
        errors.push(FieldError::required(&at_aim.child(at), words));
    }
    if let Some((at, words)) = both {
        errors.push(FieldError::forbidden(&at_aim.child(at), words));
    }
}

fn target(target: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.push(FieldError::required(&path.child("type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let words = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&path.child("type"), kind, words));
    }
    for field in ["value", "averageValue"] {
        let (amount, path) = (get(target, field), path.child(field));
        if amount.is_null() {
            continue;
        }
        amounts::parsed(amount, &path, errors);
        if let Some(amount) = quantity(amount).filter(|q| q.is_zero() || q.is_negative()) {
            errors.push(FieldError::invalid(&path, &amount.to_string(), "must be positive"));
        }
    }
    if let Some(n) = int(target, "averageUtilization").filter(|n| *n < 1) {
        errors.push(FieldError::invalid(&path.child("averageUtilization"), n, "must be greater than 0"));
    }
}

/// Another object, by kind and name.
pub fn reference(reference: &Value, path: &Path, errors: &mut Errors) {
    for field in ["kind", "name"] {
        let (value, path) = (text(reference, field), path.child(field));
        if value.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            wrong(errors, &path, value, names::path_segment(value));
        }
    }
}

/// The version of a reference can be read, and has a group where one is wanted. Source: `ValidateAPIVersion`.
pub fn api_version(reference: &Value, group_wanted: bool, path: &Path, errors: &mut Errors) {
    let version = text(reference, "apiVersion");
    let words = match version.matches('/').count() {
        0 if group_wanted => "apiVersion must specify API group".to_owned(),
        0 => return,
        1 if group_wanted && version.starts_with('/') => "apiVersion must specify API group".to_owned(),
        1 => return,
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.push(FieldError::invalid(&path.child("apiVersion"), version, words));
}
