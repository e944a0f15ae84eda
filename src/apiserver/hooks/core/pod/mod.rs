//! Pod: strategy and the parts that its templates share.
//! Source: `pkg/registry/core/pod/strategy.go`.

use serde_json::{Value, json};

use super::super::json::{copy, ensure_list, ensure_object, get, int, list, remove, set, text};
use super::super::strategy::{bump_generation, first_generation, keep_metadata};
use super::super::{Context, Hooks};

pub mod container;
pub mod defaults;
pub mod placement;
pub mod probe;
pub mod qos;
mod resize;
pub mod security;
pub mod update;
pub mod validate;
pub mod volume;
pub mod warnings;

pub static HOOKS: Hooks = Hooks {
    default: defaults::pod,
    prepare_create,
    prepare_update,
    validate: validate::pod,
    validate_update: update::validate,
    delete_returns_object: true,
    grace_seconds: Some(grace),
    warnings: warnings::pod,
    ..Hooks::NEUTRAL
};

fn prepare_create(pod: &mut Value, context: &Context) {
    first_generation(pod);
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(get(pod, "spec"))});
    if !list(get(pod, "spec"), "schedulingGates").is_empty()
        && let Some(conditions) = ensure_list(&mut status, "conditions")
    {
        conditions.push(json!({
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": types::time::rfc3339(context.now),
        }));
    }
    set(pod, "status", status);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        // the status endpoint must not complete a deletion or change who owns the pod
        keep_metadata(new, old, &["ownerReferences", "generation", "deletionTimestamp"]);
        if let Some(status) = ensure_object(new, "status") {
            // the class was settled at creation
            let class = text(get(old, "status"), "qosClass");
            if class.is_empty() { remove(status, "qosClass") } else { set(status, "qosClass", class) }
        }
        return;
    }
    match context.subresource {
        "resize" => resize::prepare(new, old),
        "ephemeralcontainers" => resize::prepare_ephemeral(new, old),
        _ => copy(new, old, "status"),
    }
    bump_generation(new, old);
}

/// Source: `podStrategy.CheckGracefulDelete`.
fn grace(pod: &Value, requested: Option<i64>) -> i64 {
    let (spec, status) = (get(pod, "spec"), get(pod, "status"));
    let seconds = requested.or_else(|| int(spec, "terminationGracePeriodSeconds")).unwrap_or(0);
    if text(spec, "nodeName").is_empty() || matches!(text(status, "phase"), "Failed" | "Succeeded") {
        return 0;
    }
    if seconds < 0 { 1 } else { seconds }
}
