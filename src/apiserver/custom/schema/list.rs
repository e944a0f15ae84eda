//! Lists whose items must differ: sets, and maps by their keys.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/listtype/validation.go`.

use std::collections::HashMap;

use serde_json::{Map, Value};
use types::field::{FieldError, Path};

use super::{ListType, Schema};

/// Items that are there twice, in the whole value.
pub fn duplicates(value: &Value, schema: &Schema, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, path, &mut errors);
    errors
}

fn walk(value: &Value, schema: &Schema, path: &Path, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if !(value.is_object() || value.is_array()) {
                    continue;
                }
                if let Some(below) = schema.property(name) {
                    walk(value, below, &path.child(name), errors);
                } else if let Some(below) = schema.member(name) {
                    walk(value, below, &path.key(name), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list {
                ListType::Atomic => {}
                ListType::Set => {
                    let twice = repeated(items.iter().map(Value::to_string));
                    errors.extend(twice.into_iter().map(|i| FieldError::duplicate(&path.index(i), &items[i])));
                }
                ListType::Map => map(items, schema, path, errors),
            }
            let Some(below) = schema.items.as_deref() else { return };
            for (i, item) in items.iter().enumerate() {
                walk(item, below, &path.index(i), errors);
            }
        }
        _ => {}
    }
}

fn map(items: &[Value], schema: &Schema, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| !(item.is_null() || item.is_object())) {
        let words = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(i), item, words));
        return;
    }
    let keys: Vec<Value> = items
        .iter()
        .map(|item| {
            let named = schema.keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
            Value::Object(named.collect::<Map<_, _>>())
        })
        .collect();
    let twice = repeated(keys.iter().map(Value::to_string));
    errors.extend(twice.into_iter().map(|i| FieldError::duplicate(&path.index(i), &keys[i])));
}

/// The item of an older list that is the same one. Items of atomic lists have no identity, nor have those of sets beyond their
/// value.
pub fn correlated<'o>(item: &Value, old: &'o Value, schema: &Schema) -> Option<&'o Value> {
    if schema.list != ListType::Map {
        return None;
    }
    let key = |of: &Value| -> Vec<Option<Value>> { schema.keys.iter().map(|key| of.get(&**key).cloned()).collect() };
    let wanted = key(item);
    old.as_array()?.iter().find(|candidate| candidate.is_object() && key(candidate) == wanted)
}

/// The places where something is seen for the second time.
fn repeated(items: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut twice = Vec::new();
    for (i, item) in items.enumerate() {
        let times = seen.entry(item).or_insert(0);
        *times += 1;
        if *times == 2 {
            twice.push(i);
        }
    }
    twice
}
