//! PersistentVolume: strategy, and what is valid of all of them. Where the data are is checked in `persistent_volume_source`.
//! Source: `ValidatePersistentVolume*`, `pkg/volume/validation/pv_validation.go`, `pkg/api/persistentvolume/util.go`,
//! `pkg/registry/core/persistentvolume/strategy.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};

use super::super::check::{self, Errors};
use super::super::difference::difference;
use super::super::json::{
    at, canonical_resources, copy, ensure_object, get, has, list, map, map_len, object_mut, remove, same, set,
    set_absent, set_blank, text,
};
use super::super::strategy::{keep_generation, keep_metadata};
use super::super::{Context, Hooks, amounts};
use super::persistent_volume_claim::{CLASS_ANNOTATION, VOLUME_MODES, access_modes, class};
use super::persistent_volume_source as source;
use super::pod::{placement, warnings};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    delete_returns_object: true,
    warnings: warn,
    ..Hooks::NEUTRAL
};

const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";
const PHASE_TIME: &str = "lastPhaseTransitionTime";
const ATTRIBUTES_CLASS: &str = "volumeAttributesClassName";
/// Sources that nothing serves any more, and what to say of them.
const OLD_SOURCES: &[(&str, &str, &str)] = &[
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn default(volume: &mut Value) {
    if let Some(status) = ensure_object(volume, "status") {
        set_blank(status, "phase", "Pending");
    }
    let Some(spec) = ensure_object(volume, "spec") else { return };
    set_blank(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_absent(spec, "volumeMode", "Filesystem");
    canonical_resources(spec, "capacity");
    source::default(spec);
}

fn prepare_create(volume: &mut Value, context: &Context) {
    set(volume, "status", json!({"phase": "Pending", PHASE_TIME: types::time::rfc3339(context.now)}));
    if let Some(meta) = object_mut(volume, "metadata") {
        remove(meta, "generation");
    }
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource != "status" {
        copy(new, old, "status");
        keep_generation(new, old);
        return;
    }
    copy(new, old, "spec");
    keep_metadata(new, old, &["generation"]);
    let before = get(old, "status");
    let Some(status) = ensure_object(new, "status") else { return };
    let given = has(status, PHASE_TIME);
    if text(status, "phase") == text(before, "phase") {
        if !given {
            copy(status, before, PHASE_TIME);
        }
    } else if !given || get(status, PHASE_TIME) == get(before, PHASE_TIME) {
        set(status, PHASE_TIME, types::time::rfc3339(context.now));
    }
}

fn validate(volume: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(volume, "spec"), Path::new("spec"));
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(&path.child("accessModes"), ""));
    }
    access_modes(spec, &path, &mut errors);
    capacity(spec, &path, &mut errors);
    let policies = ["Delete", "Recycle", "Retain"];
    check::one_of(&mut errors, spec, "persistentVolumeReclaimPolicy", &path, &policies);
    node_affinity(spec, &path, &mut errors);
    source::validate(spec, text(get(volume, "metadata"), "name"), &path, &mut errors);
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" && source::is_host_root(spec) {
        let words = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&path.child("persistentVolumeReclaimPolicy"), words));
    }
    class(spec, "storageClassName", &path, &mut errors);
    check::one_of(&mut errors, spec, "volumeMode", &path, VOLUME_MODES);
    if has(spec, ATTRIBUTES_CLASS) {
        if text(spec, ATTRIBUTES_CLASS).is_empty() {
            errors.push(FieldError::required(&path.child(ATTRIBUTES_CLASS), "an empty string is disallowed"));
        }
        class(spec, ATTRIBUTES_CLASS, &path, &mut errors);
        if !has(spec, "csi") {
            let words = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required(&path.child("csi"), words));
        }
    }
    let annotations = at(volume, &["metadata", "annotations"]);
    if has(annotations, MOUNT_OPTIONS_ANNOTATION) && !source::takes_mount_options(spec) {
        let path = Path::new("metadata.annotations").child(MOUNT_OPTIONS_ANNOTATION);
        errors.push(FieldError::forbidden(&path, "may not specify mount options for this volume type"));
    }
    errors
}

fn capacity(spec: &Value, path: &Path, errors: &mut Errors) {
    let (amounts, path) = (get(spec, "capacity"), path.child("capacity"));
    if map_len(spec, "capacity") == 0 {
        errors.push(FieldError::required(&path, ""));
    }
    if !has(amounts, "storage") || map_len(spec, "capacity") > 1 {
        let shown = if amounts.is_null() { json!({}) } else { amounts.clone() };
        errors.push(FieldError::not_supported(&path, &shown, &["storage"]));
    }
    for (name, amount) in map(spec, "capacity") {
        let at = path.key(name);
        amounts::basic(amount, &at, errors);
        amounts::positive(amount, &at, errors);
    }
}

fn node_affinity(spec: &Value, path: &Path, errors: &mut Errors) {
    if !has(spec, "nodeAffinity") {
        return;
    }
    let (required, path) = (at(spec, &["nodeAffinity", "required"]), path.child("nodeAffinity").child("required"));
    if required.is_null() {
        errors.push(FieldError::required(&path, "must specify required node constraints"));
    } else {
        placement::node_selector(required, &path, errors);
    }
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        return errors;
    }
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    let (mut now, was) = (source::of(spec), source::of(before));
    // the secret for growing may be named later
    if has(get(&was, "csi"), "driver")
        && !has(get(&was, "csi"), "controllerExpandSecretRef")
        && let Some(csi) = object_mut(&mut now, "csi")
    {
        remove(csi, "controllerExpandSecretRef");
    }
    if !same(&now, &was) {
        let words = format!("spec.persistentvolumesource is immutable after creation\n{}", difference(&was, &now));
        errors.push(FieldError::forbidden(&Path::new("spec.persistentvolumesource"), words));
    }
    let mode = get(spec, "volumeMode");
    if !same(mode, get(before, "volumeMode")) {
        errors.push(FieldError::invalid(&Path::new("volumeMode"), mode, "field is immutable"));
    }
    let affinity = get(spec, "nodeAffinity");
    if has(before, "nodeAffinity") && !same(affinity, get(before, "nodeAffinity")) && !relabelled(spec, before) {
        let words = "field is immutable, except for updating from beta label to GA";
        errors.push(FieldError::invalid(&Path::new("nodeAffinity"), affinity, words));
    }
    if has(before, ATTRIBUTES_CLASS) && !has(spec, ATTRIBUTES_CLASS) {
        let words = "update from non-nil value to nil is forbidden";
        errors.push(FieldError::forbidden(&Path::new("spec").child(ATTRIBUTES_CLASS), words));
    }
    errors
}

/// Labels of nodes that have newer names.
const NEWER_LABELS: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
];

/// Whether the affinity says the same with the newer names of labels.
fn relabelled(spec: &Value, before: &Value) -> bool {
    let mut was = get(before, "nodeAffinity").clone();
    let now = get(spec, "nodeAffinity");
    let Some(terms) = was.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut) else {
        return false;
    };
    let new_terms = list(get(now, "required"), "nodeSelectorTerms");
    for (i, term) in terms.iter_mut().enumerate() {
        let expressions = term.get_mut("matchExpressions").and_then(Value::as_array_mut).into_iter().flatten();
        for (j, expression) in expressions.enumerate() {
            let newer = NEWER_LABELS.iter().find(|(old, _)| *old == text(expression, "key")).map(|(_, new)| *new);
            let there =
                new_terms.get(i).and_then(|t| list(t, "matchExpressions").get(j)).map_or("", |e| text(e, "key"));
            if newer == Some(there) {
                set(expression, "key", there);
            }
        }
    }
    same(&was, now)
}

fn warn(volume: &Value) -> Vec<String> {
    let mut said = Vec::new();
    let (spec, annotations) = (get(volume, "spec"), at(volume, &["metadata", "annotations"]));
    for (key, words) in [
        (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        (MOUNT_OPTIONS_ANNOTATION, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ] {
        if has(annotations, key) {
            said.push(format!("metadata.annotations[{key}]: {words}"));
        }
    }
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        said.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .into(),
        );
    }
    let required = at(spec, &["nodeAffinity", "required"]);
    let path = Path::new("spec.nodeAffinity.required");
    for (path, term) in check::items(required, "nodeSelectorTerms", &path) {
        warnings::node_term(term, &path, &mut said);
    }
    for (field, shown, words) in OLD_SOURCES {
        if has(spec, field) {
            said.push(format!("spec.{shown}: {words}"));
        }
    }
    said
}
