//! ConfigMap. Source: `ValidateConfigMap`, `ValidateConfigMapUpdate`.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::json::{boolean, get, map, same};
use super::super::{Context, Hooks};

/// Keys and values of a ConfigMap or Secret together; what etcd takes with room to spare, kept for compatibility.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;

pub static HOOKS: Hooks = Hooks { validate, validate_update, ..Hooks::NEUTRAL };

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (field, other) in [("data", "binaryData"), ("binaryData", "data")] {
        let others = get(object, other);
        for (key, value) in map(object, field) {
            let at = || Path::new(field).key(key);
            errors.extend(names::config_key(key).into_iter().map(|e| FieldError::invalid(&at(), key, e)));
            if others.get(key).is_some() {
                errors.push(FieldError::invalid(&at(), key, format!("duplicate of key present in {other}")));
            }
            let text = value.as_str().unwrap_or_default();
            size += if field == "data" { text.len() } else { decoded_len(text) };
        }
    }
    if size > DATA_BYTES_MAX {
        // upstream's path of "the whole object"
        errors.push(FieldError::too_long(&Path::new("[]"), DATA_BYTES_MAX));
    }
    errors
}

/// How many bytes a base64 text stands for.
pub fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Vec<FieldError> {
    immutable_flag(new, old, &["data", "binaryData"])
}

/// What `immutable: true` forbids, for ConfigMaps and Secrets alike.
pub fn immutable_flag(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if boolean(old, "immutable") {
        let mut forbid = |field| {
            errors.push(FieldError::forbidden(&Path::new(field), "field is immutable when `immutable` is set"));
        };
        if !boolean(new, "immutable") {
            forbid("immutable");
        }
        for field in fields {
            if !same(get(new, field), get(old, field)) {
                forbid(field);
            }
        }
    }
    errors
}
