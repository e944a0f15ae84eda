//! What may change in a pod once it exists. Source: `ValidatePodUpdate`, `ValidateOnlyAddedTolerations`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::super::Context;
use super::super::super::check::Errors;
use super::super::super::difference::difference;
use super::super::super::json::{get, int, list, map, object_mut, remove, same, set, text};
use super::resize;

const ALLOWED: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
    additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
    previously negative)";

pub fn validate(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        return errors;
    }
    let (spec, before, path) = (get(new, "spec"), get(old, "spec"), Path::new("spec"));
    if context.subresource == "resize" {
        return resize::validate(new, old);
    }
    if context.subresource == "ephemeralcontainers" {
        errors = resize::validate_ephemeral(new, old);
        ephemeral(spec, before, &path, &mut errors);
        return errors;
    }
    for field in ["containers", "initContainers"] {
        if list(spec, field).len() != list(before, field).len() {
            let words = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(field), words));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    deadline(spec, before, &path, &mut errors);
    let gated = !list(before, "schedulingGates").is_empty();
    gates(spec, before, &path, &mut errors);
    if !only_added(list(spec, "tolerations"), list(before, "tolerations")) {
        let words = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(&path.child("tolerations"), words));
    }
    if gated {
        let (now, was) = (get(spec, "nodeSelector"), get(before, "nodeSelector"));
        if map(before, "nodeSelector").any(|(key, value)| now.get(key) != Some(value)) {
            let words = "only additions are allowed to spec.nodeSelector (no mutations or deletions)";
            errors.push(FieldError::invalid(&path.child("nodeSelector"), was, words));
        }
    }
    let changed = changed_fields(spec, before, gated);
    if !changed.is_empty() {
        errors.push(FieldError::forbidden(&path, format!("{ALLOWED}\nchanged: {}", changed.join(", "))));
    }
    errors
}

/// Names of the fields of the spec that differ and may not.
fn changed_fields(spec: &Value, before: &Value, gated: bool) -> Vec<String> {
    let mut spec = spec.clone();
    // whatever may change is made as it was, the rest must be equal then
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put(&mut spec, before, field);
    }
    if gated {
        put(&mut spec, before, "nodeSelector");
        put(&mut spec, before, "affinity");
    }
    if int(before, "terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(&spec, "terminationGracePeriodSeconds") == Some(1)
    {
        put(&mut spec, before, "terminationGracePeriodSeconds");
    }
    for field in ["containers", "initContainers"] {
        let was = list(before, field);
        let now = spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, was) in now.zip(was) {
            put(container, was, "image");
        }
    }
    if let Some(context) = object_mut(&mut spec, "securityContext")
        && context.as_object().is_some_and(serde_json::Map::is_empty)
    {
        remove(&mut spec, "securityContext");
    }
    let fields = |o: &Value| o.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect::<Vec<_>>();
    let mut names = fields(&spec);
    names.extend(fields(before));
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !same(get(&spec, name), get(before, name)));
    names
}

fn put(to: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => set(to, field, value.clone()),
        None => remove(to, field),
    }
}

fn deadline(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("activeDeadlineSeconds");
    let Some(was) = int(before, "activeDeadlineSeconds") else { return };
    match int(spec, "activeDeadlineSeconds") {
        None => {
            let words = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&at, &Value::Null, words));
        }
        Some(now) if now > was => {
            errors.push(FieldError::invalid(&at, now, "must be less than or equal to previous value"));
        }
        Some(_) => {}
    }
}

fn gates(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    let known = list(before, "schedulingGates");
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !known.iter().any(|g| text(g, "name") == name) {
            let words = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(&path.child("schedulingGates").index(i).child("name"), words));
        }
    }
}

/// Each old toleration is still there, but for its seconds.
fn only_added(now: &[Value], was: &[Value]) -> bool {
    let alike = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|field| text(a, field) == text(b, field))
    };
    was.iter().all(|old| now.iter().any(|new| alike(new, old)))
}

/// Ephemeral containers are added, never changed or removed.
fn ephemeral(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    for old in list(before, "ephemeralContainers") {
        let name = text(old, "name");
        let at = path.child("ephemeralContainers");
        match list(spec, "ephemeralContainers").iter().find(|c| text(c, "name") == name) {
            None => {
                let words = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(FieldError::forbidden(&at, words));
            }
            Some(new) if !same(new, old) => {
                let shown = difference(old, new);
                let words = format!("existing ephemeral containers {name:?} may not be changed\n{shown}");
                errors.push(FieldError::forbidden(&at, words));
            }
            Some(_) => {}
        }
    }
}
