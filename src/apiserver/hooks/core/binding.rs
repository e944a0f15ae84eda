//! Binding, and what it does to a pod. Source: `ValidatePodBinding`, `pkg/registry/core/pod/storage/storage.go`.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::registry::Kind;
use types::status::Status;

use super::super::json::{ensure_list, ensure_object, get, has, list, map, set, text};
use super::super::{Context, Hooks};

pub static HOOKS: Hooks = Hooks { validate, ..Hooks::NEUTRAL };

fn validate(binding: &Value) -> Vec<FieldError> {
    let target = get(binding, "target");
    let mut errors = Vec::new();
    let kind = text(target, "kind");
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(&Path::new("target.kind"), kind, &["Node", "<empty>"]));
    }
    if text(target, "name").is_empty() {
        errors.push(FieldError::required(&Path::new("target.name"), ""));
    }
    errors
}

/// Binds `pod` to the node that `binding` names, as the scheduler asks for. Not an update of the spec by a user: the generation
/// stays.
///
/// # Errors
/// 409 when the pod is being deleted, is already on a node, or still has scheduling gates.
pub fn apply(pods: &Kind, pod: &mut Value, binding: &Value, context: &Context) -> Result<(), Status> {
    let name = text(get(pod, "metadata"), "name").to_owned();
    let refuse = |why: String| Err(Status::conflict(pods, &name, &why));
    let wanted = text(get(binding, "metadata"), "uid");
    let found = text(get(pod, "metadata"), "uid");
    if !wanted.is_empty() && wanted != found {
        return refuse(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"));
    }
    if has(get(pod, "metadata"), "deletionTimestamp") {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let spec = get(pod, "spec");
    let node = text(spec, "nodeName");
    if !node.is_empty() {
        return refuse(format!("pod {name} is already assigned to node {node:?}"));
    }
    if !list(spec, "schedulingGates").is_empty() {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let target = text(get(binding, "target"), "name").to_owned();
    if let Some(spec) = ensure_object(pod, "spec") {
        set(spec, "nodeName", target);
    }
    if let Some(meta) = ensure_object(pod, "metadata") {
        for field in ["annotations", "labels"] {
            for (key, value) in map(get(binding, "metadata"), field) {
                if let Some(target) = ensure_object(meta, field) {
                    set(target, key, value.clone());
                }
            }
        }
    }
    let now = types::time::rfc3339(context.now);
    let conditions = ensure_object(pod, "status").and_then(|status| ensure_list(status, "conditions"));
    if let Some(conditions) = conditions {
        let scheduled =
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
        match conditions.iter_mut().find(|c| text(c, "type") == "PodScheduled") {
            Some(condition) => *condition = scheduled,
            None => conditions.push(scheduled),
        }
    }
    Ok(())
}
