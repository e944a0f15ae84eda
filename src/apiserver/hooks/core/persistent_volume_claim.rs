//! PersistentVolumeClaim. Source: `ValidatePersistentVolumeClaim*`, `pkg/api/persistentvolumeclaim/util.go`,
//! `pkg/registry/core/persistentvolumeclaim/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, wrong};
use super::super::difference::difference;
use super::super::json::{
    at, canonical_resources, copy, ensure_object, get, has, list, map, object_mut, quantity, remove, same, set,
    set_absent, set_blank, text, texts,
};
use super::super::strategy::{keep_generation, keep_metadata};
use super::super::{Context, Hooks, amounts, selectors};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    delete_returns_object: true,
    warnings,
    ..Hooks::NEUTRAL
};

pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
/// The annotation that named the class before there was a field.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

/// Also of the claims that a StatefulSet makes.
pub fn default(claim: &mut Value) {
    if let Some(spec) = ensure_object(claim, "spec") {
        set_absent(spec, "volumeMode", "Filesystem");
        if let Some(resources) = ensure_object(spec, "resources") {
            canonical_resources(resources, "limits");
            canonical_resources(resources, "requests");
        }
    }
    if let Some(status) = ensure_object(claim, "status") {
        set_blank(status, "phase", "Pending");
        canonical_resources(status, "capacity");
        canonical_resources(status, "allocatedResources");
    }
}

fn prepare_create(claim: &mut Value, _: &Context) {
    set(claim, "status", json!({"phase": "Pending"}));
    if let Some(meta) = object_mut(claim, "metadata") {
        remove(meta, "generation");
    }
    if let Some(spec) = object_mut(claim, "spec") {
        source(spec, &Value::Null);
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
    if let Some(spec) = object_mut(new, "spec") {
        source(spec, get(old, "spec"));
    }
}

/// What the volume is filled from is said in two fields, which are kept alike. A source in another namespace is an alpha
/// feature's, and the older field takes claims and snapshots only.
fn source(spec: &mut Value, before: &Value) {
    let elsewhere = !text(get(spec, "dataSourceRef"), "namespace").is_empty();
    if elsewhere && !has(before, "dataSourceRef") {
        remove(spec, "dataSourceRef");
    }
    let in_use = has(before, "dataSource") || has(before, "dataSourceRef");
    if !in_use && !has(spec, "dataSourceRef") {
        let given = get(spec, "dataSource");
        let known = matches!(
            (text(given, "kind"), text(given, "apiGroup")),
            ("PersistentVolumeClaim", "") | ("VolumeSnapshot", "snapshot.storage.k8s.io")
        );
        if !known {
            remove(spec, "dataSource");
        }
    }
    let twin = |given: &Value| {
        let mut twin = json!({"kind": text(given, "kind"), "name": text(given, "name")});
        if has(given, "apiGroup") {
            copy(&mut twin, given, "apiGroup");
        }
        twin
    };
    let (source, reference) = (get(spec, "dataSource"), get(spec, "dataSourceRef"));
    match (source.is_null(), reference.is_null()) {
        (false, true) => {
            let made = twin(source);
            set(spec, "dataSourceRef", made);
        }
        (true, false) if text(reference, "namespace").is_empty() => {
            let made = twin(reference);
            set(spec, "dataSource", made);
        }
        _ => {}
    }
}

fn validate(claim: &Value) -> Errors {
    let mut errors = Vec::new();
    spec(get(claim, "spec"), &Path::new("spec"), &mut errors);
    errors
}

/// Also of the claims that a StatefulSet makes.
pub fn spec(spec: &Value, path: &Path, errors: &mut Errors) {
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    selectors::validate(get(spec, "selector"), &path.child("selector"), errors);
    access_modes(spec, path, errors);
    let (storage, at_storage) =
        (at(spec, &["resources", "requests", "storage"]), path.child("resources").key("storage"));
    if storage.is_null() {
        errors.push(FieldError::required(&at_storage, ""));
    } else {
        amounts::positive(storage, &at_storage, errors);
    }
    class(spec, "storageClassName", path, errors);
    check::one_of(errors, spec, "volumeMode", path, VOLUME_MODES);
    for field in ["dataSource", "dataSourceRef"] {
        if has(spec, field) {
            reference(get(spec, field), &path.child(field), errors);
        }
    }
    let (source, other) = (get(spec, "dataSource"), get(spec, "dataSourceRef"));
    if !source.is_null() {
        // upstream shows the path as the value
        let shown = path.child("dataSource").to_string();
        if !text(other, "namespace").is_empty() {
            let words = "may not be specified when dataSourceRef.namespace is specified";
            errors.push(FieldError::invalid(path, &shown, words));
        } else if !other.is_null() && ["apiGroup", "kind", "name"].iter().any(|f| text(source, f) != text(other, f)) {
            errors.push(FieldError::invalid(path, &shown, "must match dataSourceRef"));
        }
    }
    class(spec, "volumeAttributesClassName", path, errors);
}

pub fn access_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("accessModes");
    for mode in texts(spec, "accessModes").filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.push(FieldError::not_supported(&path, mode, ACCESS_MODES));
    }
    let single = |mode: &&str| *mode == "ReadWriteOncePod";
    let others = texts(spec, "accessModes").any(|mode| !single(&mode) && ACCESS_MODES.contains(&mode));
    if others && texts(spec, "accessModes").any(|mode| single(&mode)) {
        errors.push(FieldError::forbidden(&path, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// The name of a class, when there is one.
pub fn class(spec: &Value, field: &str, path: &Path, errors: &mut Errors) {
    let name = text(spec, field);
    if !name.is_empty() {
        wrong(errors, &path.child(field), name, names::dns1123_subdomain(name));
    }
}

fn reference(reference: &Value, path: &Path, errors: &mut Errors) {
    check::required(errors, reference, "name", path);
    let kind = check::required(errors, reference, "kind", path);
    let group = text(reference, "apiGroup");
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let words = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, kind, words));
    }
    if !group.is_empty() {
        wrong(errors, &path.child("apiGroup"), group, names::dns1123_subdomain(group));
    }
    let namespace = text(reference, "namespace");
    if !namespace.is_empty() {
        wrong(errors, &path.child("namespace"), namespace, names::dns1123_label(namespace));
    }
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        status(get(new, "status"), &mut errors);
        return errors;
    }
    unchanged(new, old, &mut errors);
    let path = Path::new("spec.resources.requests.storage");
    let size = |o: &Value, path: &[&str]| quantity(at(o, path)).unwrap_or_default();
    let requested = |o| size(o, &["spec", "resources", "requests", "storage"]);
    if requested(new) < requested(old) && requested(new) <= size(old, &["status", "capacity", "storage"]) {
        errors.push(FieldError::forbidden(&path, "field can not be less than status.capacity"));
    }
    let (mode, before) = (at(new, &["spec", "volumeMode"]), at(old, &["spec", "volumeMode"]));
    if !same(mode, before) {
        errors.push(FieldError::invalid(&Path::new("volumeMode"), mode, "field is immutable"));
    }
    attributes_class(new, old, &mut errors);
    errors
}

/// Nothing of the spec changes but: the volume once, the class once, and of bound claims size and attributes class.
fn unchanged(new: &Value, old: &Value, errors: &mut Errors) {
    let (mut spec, mut before) = (get(new, "spec").clone(), get(old, "spec").clone());
    if text(&before, "volumeName").is_empty() {
        copy(&mut before, &spec, "volumeName");
    }
    let annotated = |o| at(o, &["metadata", "annotations", CLASS_ANNOTATION]).as_str();
    let (was, is) = (annotated(old), annotated(new));
    let (class_was, class_is) = (get(&before, "storageClassName").as_str(), get(&spec, "storageClassName").as_str());
    let moved = was.is_some() && class_was.is_none() && class_is == was && (is.is_none() || is == was);
    if moved {
        remove(&mut spec, "storageClassName");
    } else {
        if was.unwrap_or_default() != is.unwrap_or_default() {
            let path = Path::new("metadata.annotations").key(CLASS_ANNOTATION);
            errors.push(FieldError::invalid(&path, is.unwrap_or_default(), "field is immutable"));
        }
        if class_is.is_some() && class_was.is_none() && (was.is_none() || class_is == was) {
            copy(&mut spec, &before, "storageClassName");
        }
    }
    if text(get(new, "status"), "phase") == "Bound" {
        let storage = at(&before, &["resources", "requests", "storage"]).clone();
        if let Some(requests) = spec.pointer_mut("/resources/requests") {
            set(requests, "storage", storage);
        }
        copy(&mut spec, &before, "volumeAttributesClassName");
    }
    if !same(&spec, &before) {
        let words = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                     claims";
        errors.push(FieldError::forbidden(&Path::new("spec"), format!("{words}\n{}", difference(&before, &spec))));
    }
}

fn attributes_class(new: &Value, old: &Value, errors: &mut Errors) {
    const FIELD: &str = "volumeAttributesClassName";
    let class = at(new, &["spec", FIELD]);
    if class == at(old, &["spec", FIELD]) || !has(get(old, "status"), "currentVolumeAttributesClassName") {
        return;
    }
    let how = match class.as_str() {
        None => "nil",
        Some("") => "empty string",
        Some(_) => return,
    };
    let words = format!("update to {how} is forbidden when status.currentVolumeAttributesClassName is not nil");
    errors.push(FieldError::forbidden(&Path::new("spec").child(FIELD), words));
}

fn status(status: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    for (name, amount) in map(status, "capacity") {
        amounts::basic(amount, &path.child("capacity").key(name), errors);
    }
    let at_states = path.child("allocatedResourceStatuses");
    for (name, state) in map(status, "allocatedResourceStatuses") {
        resource_key(name, &at_states, errors);
        if !RESIZE_STATES.contains(&state.as_str().unwrap_or_default()) {
            errors.push(FieldError::not_supported(&at_states, name, RESIZE_STATES));
        }
    }
    let at_allocated = path.child("allocatedResources");
    for (name, amount) in map(status, "allocatedResources") {
        if resource_key(name, &at_allocated, errors) {
            amounts::basic(amount, &at_allocated.key(name), errors);
        }
    }
}

/// What a claim has an amount of: storage, or something of somebody else's.
fn resource_key(name: &str, path: &Path, errors: &mut Errors) -> bool {
    let messages = names::qualified_name(name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let known = messages.is_empty() && (!native || name == "storage");
    if !messages.is_empty() {
        wrong(errors, path, name, messages);
    } else if !known {
        errors.push(FieldError::not_supported(path, name, &["storage"]));
    }
    known
}

fn warnings(claim: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if has(at(claim, &["metadata", "annotations"]), CLASS_ANNOTATION) {
        let path = Path::new("metadata.annotations").key(CLASS_ANNOTATION);
        warnings.push(format!("{path}: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
    warn_spec(get(claim, "spec"), &Path::new("spec"), &mut warnings);
    warnings
}

/// Also of the claims that a StatefulSet makes.
pub fn warn_spec(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    for field in ["requests", "limits"] {
        if let Some(amount) = quantity(at(spec, &["resources", field, "storage"])).filter(|q| !q.is_integer()) {
            let path = path.child("resources").child(field).key("storage");
            warnings.push(format!("{path}: fractional byte value \"{amount}\" is invalid, must be an integer"));
        }
    }
}
