//! Event, in both groups that serve it: each sees the object as it is kept, in the core form.
//! Source: `pkg/apis/core/validation/events.go`, `pkg/registry/core/event/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{Errors, wrong};
use super::super::json::{blank, get, has, int, same, text};
use super::super::{Context, Dependents, Hooks};

/// As core/v1 has it: nothing more than legacy clients keep to.
pub static HOOKS: Hooks = Hooks {
    validate: |event| legacy(event, "reportingComponent"),
    create_on_update: true,
    validate_name: |_| Vec::new(),
    dependents: Dependents::Unsupported,
    ..Hooks::NEUTRAL
};

/// As events.k8s.io/v1 has it.
pub static STRICT: Hooks = Hooks {
    validate: |event| legacy(event, "reportingController"),
    validate_create: strict,
    validate_update: strict_update,
    validate_name: names::dns1123_subdomain,
    ..HOOKS
};

const SHORT_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

fn legacy(event: &Value, controller: &str) -> Errors {
    let mut errors = Vec::new();
    let namespace = text(get(event, "metadata"), "namespace");
    let involved = text(get(event, "involvedObject"), "namespace");
    let mut misplaced = || {
        let path = Path::new("involvedObject.namespace");
        errors.push(FieldError::invalid(&path, involved, "does not match event.namespace"));
    };
    if blank(event, "eventTime") {
        // events about objects without a namespace are kept in the one that is always there
        let fits = if involved.is_empty() { matches!(namespace, "" | "default") } else { involved == namespace };
        if !fits {
            misplaced();
        }
    } else {
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            misplaced();
        }
        newer(event, controller, &mut errors);
    }
    wrong(&mut errors, &Path::new("namespace"), namespace, names::dns1123_subdomain(namespace));
    errors
}

/// What an event of the newer form must have.
fn newer(event: &Value, controller: &str, errors: &mut Errors) {
    let reporter = text(event, "reportingComponent");
    if reporter.is_empty() {
        errors.push(FieldError::required(&Path::new(controller), ""));
    }
    wrong(errors, &Path::new(controller), reporter, names::qualified_name(reporter));
    for field in ["reportingInstance", "action", "reason"] {
        if text(event, field).is_empty() {
            errors.push(FieldError::required(&Path::new(field), ""));
        }
        too_long(event, field, SHORT_BYTES_MAX, errors);
    }
    too_long(event, "message", NOTE_BYTES_MAX, errors);
}

fn too_long(event: &Value, field: &str, most: usize, errors: &mut Errors) {
    if text(event, field).len() > most {
        let words = format!("can have at most {most} characters");
        errors.push(FieldError::invalid(&Path::new(field), "", words));
    }
}

fn strict(event: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    series(event, &mut errors);
    if blank(event, "eventTime") {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let source = get(event, "source");
    for (field, set) in [
        ("firstTimestamp", !blank(event, "firstTimestamp")),
        ("lastTimestamp", !blank(event, "lastTimestamp")),
        ("count", int(event, "count").is_some_and(|n| n != 0)),
        ("source", !text(source, "component").is_empty() || !text(source, "host").is_empty()),
    ] {
        if set {
            errors.push(FieldError::invalid(&Path::new(field), "", "needs to be unset"));
        }
    }
    errors
}

fn series(event: &Value, errors: &mut Errors) {
    let series = get(event, "series");
    if series.is_null() {
        return;
    }
    if int(series, "count").unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if blank(series, "lastObservedTime") {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
}

fn strict_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    if !same(get(new, "series"), get(old, "series")) {
        series(new, &mut errors);
    }
    for (field, shown) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let (value, before) = (get(new, field), get(old, field));
        let zero = |v: &Value| v.as_i64() == Some(0) && field == "count";
        let alike = same(value, before) || (zero(value) && !has(old, field)) || (zero(before) && !has(new, field));
        let same_time = field == "eventTime" && same_moment(value, before);
        if !alike && !same_time {
            errors.push(FieldError::invalid(&Path::new(shown), value, "field is immutable"));
        }
    }
    errors
}

/// Whether two times differ in less than a microsecond, which not every client writes.
fn same_moment(a: &Value, b: &Value) -> bool {
    let micros = |v: &Value| v.as_str()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond);
    micros(a).is_some() && micros(a) == micros(b)
}
