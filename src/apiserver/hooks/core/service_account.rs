//! ServiceAccount. Source: `pkg/registry/core/serviceaccount/strategy.go`.

use serde_json::Value;

use super::super::json::each_mut;
use super::super::{Context, Hooks};

pub static HOOKS: Hooks = Hooks {
    prepare_create: |object, _| keep_secret_names(object),
    prepare_update: |object: &mut Value, _: &Value, _: &Context| keep_secret_names(object),
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

/// Of a reference to a secret only its name means anything.
fn keep_secret_names(object: &mut Value) {
    for secret in each_mut(object, "secrets") {
        if let Some(fields) = secret.as_object_mut() {
            fields.retain(|key, _| key == "name");
        }
    }
}
