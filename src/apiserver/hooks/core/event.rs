//! Event. Source: `pkg/apis/core/validation/events.go` (legacy rules), `pkg/registry/core/event/strategy.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::json::{get, text};
use super::super::{Dependents, Hooks};

pub static HOOKS: Hooks = Hooks {
    validate,
    create_on_update: true,
    validate_name: |_| Vec::new(),
    dependents: Dependents::Unsupported,
    ..Hooks::NEUTRAL
};

fn validate(object: &Value) -> Vec<FieldError> {
    let namespace = text(get(object, "metadata"), "namespace");
    let involved = text(get(object, "involvedObject"), "namespace");
    let path = Path::new("involvedObject.namespace");
    // events about objects without a namespace are kept in one of the two that are always there
    let fits =
        if involved.is_empty() { matches!(namespace, "" | "default" | "kube-system") } else { involved == namespace };
    if fits { Vec::new() } else { vec![FieldError::invalid(&path, involved, "does not match event.namespace")] }
}
