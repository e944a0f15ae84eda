//! Names of drivers, pools, devices and requests, selectors, configuration: what the kinds of the group have in common.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, items};
use super::super::json::{get, has, list, text, texts};

pub const SELECTORS_MAX: usize = 32;
pub const CONFIG_MAX: usize = 32;
pub const REQUESTS_MAX: usize = 32;
const EXPRESSION_MAX_BYTES: usize = 10 * 1024;
const PARAMETERS_MAX_BYTES: usize = 10 * 1024;
const DRIVER_MAX: usize = 63;
const BINDING_CONDITIONS_MAX: usize = 4;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Whether the list is short enough for its items to be looked at.
pub fn bounded(errors: &mut Errors, of: &Value, field: &str, max: usize, path: &Path) -> bool {
    let n = list(of, field).len();
    if n > max {
        errors.push(FieldError::too_many(&path.child(field), n, max));
    }
    n <= max
}

/// Each text of the list once.
pub fn distinct(errors: &mut Errors, of: &Value, field: &str, path: &Path) {
    let all: Vec<&str> = texts(of, field).collect();
    for (i, one) in all.iter().enumerate() {
        if all[..i].contains(one) {
            errors.push(FieldError::duplicate(&path.child(field).index(i), *one));
        }
    }
}

/// Each item's text under `key` once. Upstream names the item, not its field.
pub fn distinct_by(errors: &mut Errors, of: &Value, field: &str, key: &str, path: &Path) {
    let all = list(of, field);
    for (i, item) in all.iter().enumerate() {
        if all[..i].iter().any(|other| text(other, key) == text(item, key)) {
            errors.push(FieldError::duplicate(&path.child(field).index(i), text(item, key)));
        }
    }
}

/// A driver's name, in any case.
pub fn driver(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > DRIVER_MAX {
        errors.push(FieldError::too_long(path, DRIVER_MAX));
    }
    check::wrong(errors, path, name, names::dns1123_subdomain(&name.to_lowercase()));
}

pub fn pool(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > names::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, names::SUBDOMAIN_MAX));
    }
    for part in name.split('/') {
        check::wrong(errors, path, part, names::dns1123_subdomain(part));
    }
}

/// A device, a request, a set of counters.
pub fn label(name: &str, path: &Path, errors: &mut Errors) {
    check::wrong(errors, path, name, names::dns1123_label(name));
}

pub fn selectors(of: &Value, path: &Path, errors: &mut Errors) {
    if !bounded(errors, of, "selectors", SELECTORS_MAX, path) {
        return;
    }
    for (path, selector) in items(of, "selectors", path) {
        let path = path.child("cel");
        if !has(selector, "cel") {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let (expression, path) = (text(get(selector, "cel"), "expression"), path.child("expression"));
        if expression.len() > EXPRESSION_MAX_BYTES {
            errors.push(FieldError::too_long(&path, EXPRESSION_MAX_BYTES));
            continue;
        }
        match cel::device::Selector::compile(expression) {
            Err(why) => errors.push(FieldError::invalid(&path, expression, why)),
            Ok(selector) if !selector.is_cheap() => {
                errors.push(FieldError::forbidden(&path, "too complex, exceeds cost limit"));
            }
            Ok(_) => {}
        }
    }
}

/// Configuration that only a driver can read.
pub fn configuration(of: &Value, path: &Path, errors: &mut Errors) {
    let (opaque, path) = (get(of, "opaque"), path.child("opaque"));
    if opaque.is_null() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    driver(text(opaque, "driver"), &path.child("driver"), errors);
    raw(get(opaque, "parameters"), PARAMETERS_MAX_BYTES, &path.child("parameters"), errors);
}

/// An object of somebody else's.
pub fn raw(of: &Value, max_bytes: usize, path: &Path, errors: &mut Errors) {
    if of.is_null() {
        errors.push(FieldError::required(path, ""));
    } else if of.to_string().len() > max_bytes {
        errors.push(FieldError::too_long(path, max_bytes));
    } else if !of.is_object() {
        errors.push(FieldError::invalid(path, "<value omitted>", "must be a valid JSON object"));
    }
}

/// Conditions that a device waits for before its pod is bound, and those that say it failed. Source:
/// `validateDeviceBindingParameters`.
pub fn binding_conditions(of: &Value, path: &Path, errors: &mut Errors) {
    const BOUND: &str = "bindingConditions";
    const FAILED: &str = "bindingFailureConditions";
    for field in [BOUND, FAILED] {
        if bounded(errors, of, field, BINDING_CONDITIONS_MAX, path) {
            for (path, name) in items(of, field, path) {
                let name = name.as_str().unwrap_or_default();
                check::wrong(errors, &path, name, names::qualified_name(name));
            }
        }
    }
    distinct(errors, of, BOUND, path);
    let failed: Vec<&str> = texts(of, FAILED).collect();
    for (i, name) in failed.iter().enumerate() {
        let at = path.child(FAILED).index(i);
        if failed[..i].contains(name) {
            errors.push(FieldError::duplicate(&at, *name));
        }
        if texts(of, BOUND).any(|bound| bound == *name) {
            let words = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(FieldError::invalid(&at, *name, words));
        }
    }
    for (one, other) in [(BOUND, FAILED), (FAILED, BOUND)] {
        if list(of, one).is_empty() && !list(of, other).is_empty() {
            let words = format!("{one} are required to use {other}");
            errors.push(FieldError::invalid(&path.child(one), get(of, one), words));
        }
    }
}

/// Source: `validateDeviceTaint`.
pub fn taint(of: &Value, path: &Path, errors: &mut Errors) {
    let (key, value) = (text(of, "key"), text(of, "value"));
    check::wrong(errors, &path.child("key"), key, names::qualified_name(key));
    check::wrong(errors, &path.child("value"), value, names::label_value(value));
    check::required_one_of(errors, of, "effect", path, EFFECTS);
}

/// Source: `validateDeviceToleration`.
pub fn toleration(of: &Value, path: &Path, errors: &mut Errors) {
    let (key, value) = (text(of, "key"), text(of, "value"));
    if !key.is_empty() {
        check::wrong(errors, &path.child("key"), key, names::qualified_name(key));
    }
    match text(of, "operator") {
        "Exists" if !value.is_empty() => {
            errors.push(FieldError::invalid(&path.child("value"), value, "must be empty for operator `Exists`"));
        }
        "Equal" => check::wrong(errors, &path.child("value"), value, names::label_value(value)),
        _ => check::required_one_of(errors, of, "operator", path, &["Equal", "Exists"]),
    }
    check::one_of(errors, of, "effect", path, EFFECTS);
}
