//! ReplicaSet. Source: `ValidateReplicaSet`, `pkg/apis/apps/v1/defaults.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::core::pod::{defaults, warnings};
use super::super::json::{ensure_object, get, set_absent};
use super::super::{Context, Hooks};
use super::{not_negative, prepare_create, prepare_update, selector_and_template, selector_immutable, status};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    warnings: warnings::workload,
    ..Hooks::NEUTRAL
};

fn default(object: &mut Value) {
    if let Some(spec) = ensure_object(object, "spec") {
        set_absent(spec, "replicas", 1);
    }
    defaults::template(object);
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = get(object, "spec");
    not_negative(spec, &Path::new("spec"), &["replicas", "minReadySeconds"], &mut errors);
    selector_and_template(spec, "replicaset", &mut errors);
    errors
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Vec<FieldError> {
    if context.subresource == "status" {
        return status(new, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]);
    }
    selector_immutable(new, old)
}
