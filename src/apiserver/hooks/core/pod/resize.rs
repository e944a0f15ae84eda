//! The subresources that change a bound pod: `resize` its resources, add `ephemeralcontainers`. Each changes nothing else.
//! Source: `podResizeStrategy`, `podEphemeralContainersStrategy`, `ValidatePodResize`, `ValidatePodEphemeralContainersUpdate`.

use serde_json::{Map, Value};
use types::field::{FieldError, Path};

use super::super::super::check::Errors;
use super::super::super::json::{at, copy, each_mut, get, has, list, map, object_mut, same, set, text};
use super::super::super::strategy::keep_metadata;
use super::{qos, validate};

const METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences", "generation"];
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
const MUTABLE: [&str; 2] = ["cpu", "memory"];
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Takes over the ephemeral containers, and nothing else.
pub fn prepare_ephemeral(new: &mut Value, old: &Value) {
    let mut spec = get(old, "spec").clone();
    copy(&mut spec, get(new, "spec"), "ephemeralContainers");
    take(new, old, spec);
}

/// Takes over resources and their policies, and nothing else. Containers that are others stay, for validation to refuse.
pub fn prepare(new: &mut Value, old: &Value) {
    let mut spec = get(old, "spec").clone();
    let wanted = get(new, "spec");
    if CONTAINERS.iter().any(|field| names(wanted, field) != names(&spec, field)) {
        return;
    }
    for field in CONTAINERS {
        for (container, wanted) in each_mut(&mut spec, field).zip(list(wanted, field)) {
            copy(container, wanted, "resources");
            copy(container, wanted, "resizePolicy");
        }
    }
    copy(&mut spec, wanted, "resources");
    take(new, old, spec);
}

fn take(new: &mut Value, old: &Value, spec: Value) {
    set(new, "spec", spec);
    copy(new, old, "status");
    keep_metadata(new, old, METADATA);
}

fn names<'a>(spec: &'a Value, field: &str) -> Vec<&'a str> {
    list(spec, field).iter().map(|container| text(container, "name")).collect()
}

fn is_mirror(pod: &Value) -> bool {
    has(at(pod, &["metadata", "annotations"]), MIRROR)
}

pub fn validate_ephemeral(new: &Value, old: &Value) -> Errors {
    if is_mirror(old) {
        return vec![FieldError::forbidden(&Path::root(), "static pods do not support ephemeral containers")];
    }
    let mut errors = Vec::new();
    validate::spec(get(new, "spec"), &Path::new("spec"), &mut errors);
    errors
}

pub fn validate(new: &Value, old: &Value) -> Errors {
    let (spec, before, path) = (get(new, "spec"), get(old, "spec"), Path::new("spec"));
    if is_mirror(old) {
        return vec![FieldError::forbidden(&Path::root(), "static pods cannot be resized")];
    }
    if text(get(before, "os"), "name") == "windows" {
        return vec![FieldError::forbidden(&Path::root(), "windows pods cannot be resized")];
    }
    let mut errors = Vec::new();
    validate::spec(spec, &path, &mut errors);
    let class = match text(get(old, "status"), "qosClass") {
        "" => qos::class(before),
        class => class,
    };
    if class != qos::class(spec) {
        let words = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, text(get(new, "status"), "qosClass"), words));
    }
    let statuses = list(get(old, "status"), "containerStatuses");
    let running = statuses.iter().find(|status| has(get(status, "state"), "running"));
    if running.is_some_and(|status| !has(status, "resources")) {
        errors.push(FieldError::forbidden(&path, "Pod running on node without support for resize"));
    }
    pod_level(spec, before, &path, &mut errors);
    if !same_containers(spec, before, &path, &mut errors) {
        return errors;
    }
    for field in CONTAINERS {
        for (i, (now, was)) in list(spec, field).iter().zip(list(before, field)).enumerate() {
            let path = path.child(field).index(i).child("resources");
            kept(get(now, "resources"), get(was, "resources"), "resource", &path, &mut errors);
        }
    }
    only_cpu_and_memory(spec, before, &path, &mut errors);
    errors
}

/// The containers are the same, in the same order.
fn same_containers(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) -> bool {
    let count = errors.len();
    for field in ["containers", "initContainers"] {
        let (now, was) = (names(spec, field), names(before, field));
        let path = path.child(field);
        if now.len() != was.len() {
            errors.push(FieldError::forbidden(&path, format!("{field} may not be added or removed on resize")));
            continue;
        }
        for i in (0..now.len()).filter(|i| now[*i] != was[*i]) {
            let words = format!("{field} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(&path.index(i).child("name"), words));
        }
    }
    errors.len() == count
}

/// No amount is taken away.
fn kept(now: &Value, was: &Value, what: &str, path: &Path, errors: &mut Errors) {
    for field in ["requests", "limits"] {
        if map(was, field).any(|(name, _)| !has(get(now, field), name)) {
            errors.push(FieldError::forbidden(&path.child(field), format!("{what} {field} cannot be removed")));
        }
    }
}

fn pod_level(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    let (now, was) = (get(spec, "resources"), get(before, "resources"));
    if !was.is_null() && now.is_null() {
        errors.push(FieldError::forbidden(&path.child("resources"), "pod-level resources cannot be removed"));
    } else if !was.is_null() {
        kept(now, was, "pod-level resource", &path.child("resources"), errors);
    }
    let mut spec = Value::Object(Map::from_iter([("resources".to_owned(), now.clone())]));
    restore(&mut spec, before);
    if !same(get(&spec, "resources"), was) {
        errors.push(FieldError::forbidden(path, "only cpu and memory resources are mutable at pod-level"));
    }
}

/// The amounts that may change are as they were.
fn restore(holder: &mut Value, was: &Value) {
    let Some(resources) = object_mut(holder, "resources") else { return };
    for field in ["requests", "limits"] {
        let before = at(was, &["resources", field]);
        let mut amounts = get(resources, field).as_object().cloned().unwrap_or_default();
        for name in MUTABLE {
            match before.get(name) {
                Some(amount) => amounts.insert(name.to_owned(), amount.clone()),
                None => amounts.remove(name),
            };
        }
        set(resources, field, amounts);
    }
}

fn only_cpu_and_memory(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    const RESTARTS: &str = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
    for field in CONTAINERS {
        let initial = field == "initContainers";
        for (i, (now, was)) in list(spec, field).iter().zip(list(before, field)).enumerate() {
            let mut restored = now.clone();
            restore(&mut restored, was);
            let at = path.child(field).index(i);
            if !same(&restored, was) {
                errors.push(if initial {
                    let words = "only cpu and memory resources for init or sidecar containers are mutable";
                    FieldError::forbidden(&at, words)
                } else {
                    FieldError::forbidden(path, "only cpu and memory resources are mutable")
                });
            }
            let policies = list(now, "resizePolicy");
            let restarts = policies.iter().any(|policy| text(policy, "restartPolicy") == "RestartContainer");
            if initial && text(now, "restartPolicy") != "Always" && restarts && !same(now, was) {
                errors.push(FieldError::forbidden(&at, RESTARTS));
            }
        }
    }
}
