//! Scale: the view of a workload that only knows replicas. Source: `pkg/apis/autoscaling/validation`,
//! `pkg/registry/apps/*/storage/storage.go`.

use serde_json::{Map, Value, json};
use types::field::{FieldError, Path};
use types::selector::LabelSelector;

use super::Hooks;
use super::core::replication_controller;
use super::json::{ensure_object, get, int, set, text};
use super::strategy::bump_generation;

pub mod autoscaler;
mod metrics;

pub static SCALE: Hooks = Hooks { validate, ..Hooks::NEUTRAL };

fn validate(scale: &Value) -> Vec<FieldError> {
    let replicas = int(get(scale, "spec"), "replicas").unwrap_or(0);
    if replicas >= 0 {
        return Vec::new();
    }
    vec![FieldError::invalid(&Path::new("spec.replicas"), replicas, "must be greater than or equal to 0")]
}

/// The Scale of a workload.
pub fn scale_of(object: &Value) -> Value {
    let (meta, spec, status) = (get(object, "metadata"), get(object, "spec"), get(object, "status"));
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut seen = Map::from_iter([("replicas".to_owned(), json!(int(status, "replicas").unwrap_or(0)))]);
    let selector = match text(object, "kind") {
        "ReplicationController" => replication_controller::selector_text(spec),
        _ => LabelSelector::from_object(get(spec, "selector")).map(|s| s.to_string()).unwrap_or_default(),
    };
    if !selector.is_empty() {
        seen.insert("selector".into(), selector.into());
    }
    // `spec` is shown empty for zero replicas, as upstream omits zeroes there
    let replicas = int(spec, "replicas").unwrap_or(0);
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) },
        "status": seen,
    })
}

/// Writes the replicas of a valid `scale` into the workload and counts the generation.
pub fn apply(object: &mut Value, scale: &Value) {
    let old = object.clone();
    if let Some(spec) = ensure_object(object, "spec") {
        set(spec, "replicas", int(get(scale, "spec"), "replicas").unwrap_or(0));
    }
    bump_generation(object, &old);
    let version = text(get(scale, "metadata"), "resourceVersion");
    if !version.is_empty()
        && let Some(meta) = ensure_object(object, "metadata")
    {
        // a scale that was read earlier must not overwrite a newer one
        set(meta, "resourceVersion", version);
    }
}
