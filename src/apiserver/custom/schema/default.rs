//! Defaults, and the nulls that make room for them.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/defaulting/{algorithm,prunenulls}.go`.

use serde_json::Value;

use super::{Additional, Schema};

/// Fills in defaults. A null that may not be is first taken out, or replaced where there is a default.
pub fn default(value: &mut Value, schema: &Schema) {
    prune_nulls(value, schema);
    fill(value, schema);
}

fn unfit(value: &Value, schema: &Schema) -> bool {
    value.is_null() && schema.drops_null()
}

/// Source: `PruneNonNullableNullsWithoutDefaults`.
fn prune_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(object) => object.retain(|name, value| {
            let below = schema.member(name);
            let Some(below) = below else { return true };
            if unfit(value, below) && below.default.is_none() {
                return false;
            }
            prune_nulls(value, below);
            true
        }),
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            items.iter_mut().for_each(|item| prune_nulls(item, below));
        }
        _ => {}
    }
}

fn fill(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(object) => {
            for (name, below) in &schema.properties {
                let Some(default) = &below.default else { continue };
                if object.get(&**name).is_none_or(|value| unfit(value, below)) {
                    object.insert(name.to_string(), (**default).clone());
                }
            }
            // Without defaults below there is nothing to look for, but only a walk would tell.
            for (name, value) in object.iter_mut() {
                if let Some(below) = schema.property(name) {
                    fill(value, below);
                } else if let Additional::Of(below) = &schema.additional {
                    fill_null(value, below);
                    fill(value, below);
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            for item in items {
                fill_null(item, below);
                fill(item, below);
            }
        }
        _ => {}
    }
}

fn fill_null(value: &mut Value, schema: &Schema) {
    if let (true, Some(default)) = (unfit(value, schema), &schema.default) {
        *value = (**default).clone();
    }
}
