//! Whether the defaults of a schema are values that it would take.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/defaulting/validation.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use crate::custom::schema::{self, META_FIELDS, Schema};
use crate::hooks::json::{boolean, get, has, map};

pub fn validate(schema: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(schema, true, false, path, &mut errors);
    errors
}

fn node(value: &Value, is_root: bool, in_meta: bool, path: &Path, errors: &mut Vec<FieldError>) {
    if !value.is_object() {
        return;
    }
    let embedded = is_root || boolean(value, "x-kubernetes-embedded-resource");
    let in_meta = in_meta && !embedded;
    if has(value, "default") && !is_root {
        let default = get(value, "default");
        let at = path.child("default");
        let schema = Schema::read(value);
        let mut pruned = default.clone();
        if !in_meta && !schema::prune(&mut pruned, &schema, schema.embedded, 1).is_empty() {
            errors.push(FieldError::invalid(&at, default, "must not have unknown fields"));
        }
        let mut coerced = default.clone();
        match schema::coerce(&mut coerced, &schema, &at, false) {
            Err(why) => errors.push(FieldError::invalid(&at, default, why)),
            Ok(_) => {
                let wrong = schema::embedded(default, &schema, &at);
                let found = if wrong.is_empty() { schema::validate(default, None, &schema, &at) } else { wrong };
                errors.extend(found);
            }
        }
    }
    node(get(value, "items"), false, in_meta, &path.child("items"), errors);
    for (name, property) in map(value, "properties") {
        let meta = in_meta || (embedded && META_FIELDS.contains(&name.as_str()));
        node(property, false, meta, &path.child("properties").key(name), errors);
    }
}
