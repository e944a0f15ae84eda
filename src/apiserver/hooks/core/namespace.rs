//! Namespace: phase, finalizers of the spec, the label with its own name.
//! Source: `pkg/registry/core/namespace/strategy.go`, `ValidateNamespace`, `ValidateNamespaceStatusUpdate`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;

use super::super::json::{at, copy, ensure_list, ensure_object, get, has, list, set, set_blank, text};
use super::super::{Context, Hooks, metadata};

/// The finalizer that the namespace controller removes once the namespace is empty.
pub const FINALIZER: &str = "kubernetes";
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    validate_name: names::dns1123_label,
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

fn default(object: &mut Value) {
    let name = text(get(object, "metadata"), "name").to_owned();
    if !name.is_empty()
        && let Some(labels) = object.get_mut("metadata").and_then(|m| ensure_object(m, "labels"))
    {
        set(labels, NAME_LABEL, name);
    }
    if let Some(status) = ensure_object(object, "status") {
        set_blank(status, "phase", "Active");
    }
}

fn prepare_create(object: &mut Value, _: &Context) {
    set(object, "status", json!({"phase": "Active"}));
    if let Some(finalizers) = ensure_object(object, "spec").and_then(|spec| ensure_list(spec, "finalizers"))
        && !finalizers.iter().any(|f| f == FINALIZER)
    {
        finalizers.push(FINALIZER.into());
    }
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    match context.subresource {
        "status" => copy(new, old, "spec"),
        "finalize" => copy(new, old, "status"),
        _ => {
            copy(new, old, "status");
            copy(new, old, "spec");
        }
    }
}

/// Begins the deletion of a namespace that still has finalizers: it is `Terminating` from now on. The caller has set
/// `metadata.deletionTimestamp`.
pub fn begin_deletion(object: &mut Value) {
    if let Some(status) = ensure_object(object, "status") {
        set(status, "phase", "Terminating");
    }
}

/// Whether nothing holds the namespace any more, so that its deletion can be completed.
pub fn finalized(object: &Value) -> bool {
    list(get(object, "spec"), "finalizers").is_empty() && list(get(object, "metadata"), "finalizers").is_empty()
}

fn validate(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec.finalizers");
    let mut errors = Vec::new();
    for finalizer in list(get(object, "spec"), "finalizers").iter().filter_map(Value::as_str) {
        metadata::finalizer_name(finalizer, &path, &mut errors);
    }
    errors
}

fn validate_update(new: &Value, _: &Value, context: &Context) -> Vec<FieldError> {
    if context.subresource != "status" {
        return Vec::new();
    }
    let phase = text(get(new, "status"), "phase");
    let (wanted, words) = if has(get(new, "metadata"), "deletionTimestamp") {
        ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
    } else {
        ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
    };
    if phase == wanted {
        return Vec::new();
    }
    vec![FieldError::invalid(&Path::new("status.Phase"), at(new, &["status", "phase"]), words)]
}
