//! Objects within objects: their kind and metadata.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/objectmeta`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::Schema;
use crate::codec::fields;
use crate::hooks;

/// Brings the metadata of embedded objects into canonical form; returns unknown fields when they are to be collected.
///
/// Errors: upstream's text for a field of the wrong type.
pub fn coerce(value: &mut Value, schema: &Schema, path: &Path, collect: bool) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    coerce_in(value, schema, path, collect, &mut unknown)?;
    Ok(unknown)
}

fn coerce_in(
    value: &mut Value,
    schema: &Schema,
    path: &Path,
    collect: bool,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    match value {
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                if schema.embedded {
                    match name.as_str() {
                        "apiVersion" | "kind" if !value.is_string() => {
                            return Err(FieldError::invalid(&path.child(name), &*value, "must be a string").to_string());
                        }
                        "metadata" => {
                            let at = path.child("metadata");
                            let given = value.clone();
                            let found = fields::canonicalize_metadata(value, collect)
                                .map_err(|why| FieldError::invalid(&at, &given, why).to_string())?;
                            unknown.extend(found.into_iter().map(|name| format!("{at}.{name}")));
                        }
                        _ => {}
                    }
                }
                if let Some(below) = schema.property(name) {
                    coerce_in(value, below, &path.child(name), collect, unknown)?;
                } else if let Some(below) = schema.member(name) {
                    coerce_in(value, below, &path.key(name), collect, unknown)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                coerce_in(item, below, &path.index(i), collect, unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// What is wrong with embedded objects.
pub fn embedded(value: &Value, schema: &Schema, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    embedded_in(value, schema, path, &mut errors);
    errors
}

fn embedded_in(value: &Value, schema: &Schema, path: &Path, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(object) => {
            if schema.embedded {
                one(value, path, errors);
            }
            for (name, value) in object {
                if let Some(below) = schema.property(name) {
                    embedded_in(value, below, &path.child(name), errors);
                } else if let Some(below) = schema.member(name) {
                    embedded_in(value, below, &path.key(name), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            for (i, item) in items.iter().enumerate() {
                embedded_in(item, below, &path.index(i), errors);
            }
        }
        _ => {}
    }
}

fn one(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match object.get(name) {
            None => errors.push(FieldError::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&at, text, "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    let words = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(&at, text, words));
                }
            }
            Some(Value::String(text)) => {
                let wrong = names::dns1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let words = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                    errors.push(FieldError::invalid(&at, text, words));
                }
            }
            Some(other) => errors.push(FieldError::invalid(&at, other, "must be a string")),
        }
    }
    if let Some(metadata) = object.get("metadata") {
        errors.extend(hooks::metadata::validate_embedded(metadata, &path.child("metadata")));
    }
}
