//! Service: strategy. Addresses and node ports are handed out by `admission::allocate`.
//! Source: `pkg/registry/core/service/strategy.go`, `storage/storage.go`.

use serde_json::{Value, json};
use types::names;

use super::super::json::{copy, list, set, text};
use super::super::strategy::keep_generation;
use super::super::{Context, Hooks};

pub mod defaults;
pub mod validate;

pub static HOOKS: Hooks = Hooks {
    default: defaults::service,
    prepare_create,
    prepare_update,
    validate: validate::service,
    validate_update: validate::update,
    // KEP-5311: also one that begins with a digit.
    validate_name: names::dns1123_label,
    create_on_update: true,
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

fn prepare_create(service: &mut Value, _: &Context) {
    set(service, "status", json!({"loadBalancer": {}}));
    defaults::normalize_create(service);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    keep_generation(new, old);
    if context.subresource == "status" {
        copy(new, old, "spec");
        return;
    }
    copy(new, old, "status");
    defaults::inherit(new, old);
}

pub fn needs_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}
pub fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None" || list(spec, "clusterIPs").first().is_some_and(|ip| ip == "None")
}
pub fn needs_node_port(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}
pub fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}
