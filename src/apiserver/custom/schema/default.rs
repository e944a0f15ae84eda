//! Defaults, and the nulls that make room for them.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/defaulting/{algorithm,prunenulls}.go`.

use serde_json::Value;

use super::{Additional, Schema};

/// What defaults may add to one object, in bytes of JSON: as much as a whole request may have. The items of a list multiply the
/// defaults of its schema.
const ADDED_BYTES_MAX: usize = 3 << 20;

/// Fills in defaults. A null that may not be is first taken out, or replaced where there is a default.
///
/// Returns whether all of them found room; the object is not complete when they did not.
pub fn default(value: &mut Value, schema: &Schema) -> bool {
    prune_nulls(value, schema);
    let mut room = Room(ADDED_BYTES_MAX);
    room.fill(value, schema).is_some()
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

/// Bytes that may still be added.
struct Room(usize);

impl Room {
    /// A copy of a default, when there is room for it.
    fn take(&mut self, name: &str, default: &Value) -> Option<Value> {
        self.0 = self.0.checked_sub(name.len() + size(default))?;
        Some(default.clone())
    }

    /// `None`: there is no more room.
    fn fill(&mut self, value: &mut Value, schema: &Schema) -> Option<()> {
        match value {
            Value::Object(object) => {
                for (name, below) in &schema.properties {
                    let Some(default) = &below.default else { continue };
                    if object.get(&**name).is_none_or(|value| unfit(value, below)) {
                        object.insert(name.to_string(), self.take(name, default)?);
                    }
                }
                // Without defaults below there is nothing to look for, but only a walk would tell.
                for (name, value) in object.iter_mut() {
                    if let Some(below) = schema.property(name) {
                        self.fill(value, below)?;
                    } else if let Additional::Of(below) = &schema.additional {
                        self.fill_null(value, below)?;
                        self.fill(value, below)?;
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = schema.items.as_deref() else { return Some(()) };
                for item in items {
                    self.fill_null(item, below)?;
                    self.fill(item, below)?;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn fill_null(&mut self, value: &mut Value, schema: &Schema) -> Option<()> {
        if let (true, Some(default)) = (unfit(value, schema), &schema.default) {
            *value = self.take("", default)?;
        }
        Some(())
    }
}

/// About the bytes of a value as JSON, and no fewer than one for each value in it.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => 2 + text.len(),
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(name, value)| 4 + name.len() + size(value)).sum::<usize>(),
    }
}
