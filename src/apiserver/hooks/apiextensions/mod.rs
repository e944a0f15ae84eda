//! CustomResourceDefinitions.
//!
//! Source: apiextensions-apiserver `pkg/apis/apiextensions/v1/defaults.go`, `pkg/registry/customresourcedefinition`.

mod defaults;
mod rules;
mod schema;
mod spec;
mod structural;

use jiff::Timestamp;
use serde_json::{Value, json};
use types::field::FieldError;

use super::json::{self, at, each_mut, ensure_list, ensure_object, get, list, set_absent, set_blank, text};
use super::strategy::{bump_generation, drop_status, first_generation};
use super::{Context, Hooks};
use crate::custom::keeper::FINALIZER;
use crate::custom::settle::set_condition;

pub static DEFINITION: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate_create: |definition, _| spec::validate(definition),
    validate_update,
    unconditional_update: false,
    ..Hooks::NEUTRAL
};

fn default(definition: &mut Value) {
    let Some(spec) = json::object_mut(definition, "spec") else { return };
    if let Some(names) = json::object_mut(spec, "names") {
        let kind = text(names, "kind").to_owned();
        set_blank(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            set_blank(names, "listKind", &format!("{kind}List"));
        }
    }
    set_absent(spec, "conversion", json!({"strategy": "None"}));
    let service = json::object_mut(spec, "conversion")
        .and_then(|c| json::object_mut(c, "webhook"))
        .and_then(|w| json::object_mut(w, "clientConfig"))
        .and_then(|c| json::object_mut(c, "service"));
    if let Some(service) = service {
        set_absent(service, "port", 443);
    }
    for version in each_mut(spec, "versions") {
        for column in each_mut(version, "additionalPrinterColumns") {
            if get(column, "priority").as_i64() == Some(0) {
                json::remove(column, "priority");
            }
        }
    }
    let stored = list(at(definition, &["status"]), "storedVersions").is_empty();
    if stored {
        store_version(definition);
    }
}

/// The version in which objects are kept is among those in which some may be kept.
fn store_version(definition: &mut Value) {
    let versions = list(get(definition, "spec"), "versions");
    let Some(storage) = versions.iter().find(|v| json::boolean(v, "storage")).map(|v| text(v, "name").to_owned())
    else {
        return;
    };
    if let Some(stored) = ensure_object(definition, "status").and_then(|s| ensure_list(s, "storedVersions"))
        && !stored.iter().any(|v| *v == storage)
    {
        stored.push(storage.into());
    }
}

fn prepare_create(definition: &mut Value, _: &Context) {
    drop_status(definition);
    first_generation(definition);
    store_version(definition);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        json::copy(new, old, "spec");
        return;
    }
    json::copy(new, old, "status");
    bump_generation(new, old);
    store_version(new);
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Vec<FieldError> {
    if context.subresource == "status" { spec::validate_status(new) } else { spec::validate_update(new, old) }
}

/// A definition is not deleted before its objects.
pub fn begin_deletion(definition: &mut Value, now: Timestamp) {
    if let Some(finalizers) = ensure_object(definition, "metadata").and_then(|m| ensure_list(m, "finalizers"))
        && !finalizers.iter().any(|f| f == FINALIZER)
    {
        finalizers.push(FINALIZER.into());
    }
    let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(definition, "Terminating", ("True", "InstanceDeletionPending", why), now);
}
