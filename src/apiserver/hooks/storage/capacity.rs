//! CSIStorageCapacity: what a driver has left in one part of the cluster.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;
use types::quantity::{self, Quantity};

use super::super::check::{self, Errors, NOT_NEGATIVE, items};
use super::super::core::pod::warnings;
use super::super::json::{self, canonical_quantity, get, has, map, text};
use super::super::{Context, Hooks, selectors};

pub static HOOKS: Hooks = Hooks {
    default: |capacity| {
        for field in ["capacity", "maximumVolumeSize"] {
            if let Some(slot) = capacity.get_mut(field) {
                canonical_quantity(slot);
            }
        }
    },
    validate,
    validate_update,
    warnings: old_labels,
    unconditional_update: false,
    ..Hooks::NEUTRAL
};

fn validate(capacity: &Value) -> Errors {
    let mut errors = Vec::new();
    selectors::validate(get(capacity, "nodeTopology"), &Path::new("nodeTopology"), &mut errors);
    let class = text(capacity, "storageClassName");
    check::wrong(&mut errors, &Path::new("storageClassName"), class, names::dns1123_subdomain(class));
    if has(capacity, "capacity") {
        let (value, path) = (get(capacity, "capacity"), Path::new("capacity"));
        match json::quantity(value) {
            Some(amount) if amount < Quantity::default() => {
                errors.push(FieldError::invalid(&path, &amount.to_string(), NOT_NEGATIVE));
            }
            Some(_) => {}
            None => errors.push(FieldError::invalid(&path, value, quantity::ParseError.to_string())),
        }
    }
    errors
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    for field in ["nodeTopology", "storageClassName"] {
        check::immutable(&mut errors, new, old, field, &Path::root());
    }
    errors
}

fn old_labels(capacity: &Value) -> Vec<String> {
    let (topology, path) = (get(capacity, "nodeTopology"), Path::new("nodeTopology"));
    let mut said = Vec::new();
    for (path, expression) in items(topology, "matchExpressions", &path) {
        let key = text(expression, "key");
        said.extend(warnings::old_node_label(key).map(|words| format!("{}: {key} is {words}", path.child("key"))));
    }
    for (key, _) in map(topology, "matchLabels") {
        let path = path.child("matchLabels").child(key);
        said.extend(warnings::old_node_label(key).map(|words| format!("{path}: {words}")));
    }
    said
}
