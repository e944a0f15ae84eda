//! Lists whose items must differ: sets, and maps by their keys.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/listtype/validation.go`.

use std::collections::HashMap;
use std::fmt::Write as _;

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

/// The items of an older list by their keys, to find the one that is the same item now. Items of atomic lists have no identity,
/// nor have those of sets beyond their value.
pub struct Older<'o>(HashMap<String, &'o Value>);

impl<'o> Older<'o> {
    /// Nothing is found in what is no list.
    pub fn new(old: Option<&'o Value>, schema: &Schema) -> Self {
        let mut by_key = HashMap::new();
        if schema.list == ListType::Map
            && let Some(Value::Array(items)) = old
        {
            for item in items.iter().filter(|item| item.is_object()) {
                by_key.entry(key(item, schema)).or_insert(item);
            }
        }
        Self(by_key)
    }

    pub fn of(&self, item: &Value, schema: &Schema) -> Option<&'o Value> {
        if self.0.is_empty() { None } else { self.0.get(&key(item, schema)).copied() }
    }
}

/// What tells an item from others: its keys as JSON, one a line, empty where there is none.
fn key(item: &Value, schema: &Schema) -> String {
    let mut text = String::new();
    for key in &schema.keys {
        if let Some(value) = item.get(&**key) {
            let _ = write!(text, "{value}");
        }
        text.push('\n');
    }
    text
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Which item of the older list each one is. Comparing every pair of the long lists would take minutes.
    #[test]
    fn items_are_found_by_their_keys() {
        let schema = Schema::read(&json!({"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["a", "b"], "items": {"type": "object"}}));
        let old = json!([{"a": 1, "b": "x", "n": 0}, {"a": 1, "n": 1}, {"b": 1, "n": 2}, {"a": 1, "b": "x", "n": 3},
            {"a": "1", "n": 4}, null, {"n": 6}]);
        let older = Older::new(Some(&old), &schema);
        for (item, expected) in [
            (json!({"a": 1, "b": "x", "n": 9}), Some(0)),
            (json!({"a": 1}), Some(1)),
            (json!({"b": 1}), Some(2)),
            (json!({"a": "1"}), Some(4)),
            (json!({"a": 1, "b": null}), None),
            (json!({"a": 2}), None),
            (json!({}), Some(6)),
        ] {
            let found = older.of(&item, &schema).map(|found| &found["n"]);
            assert_eq!(found, expected.map(|n: i64| json!(n)).as_ref(), "{item}");
        }
        assert!(Older::new(Some(&json!("none")), &schema).of(&json!({}), &schema).is_none());
        assert!(Older::new(Some(&old), &Schema::default()).of(&json!({"a": 1}), &schema).is_none());
        let items = |order: &mut dyn Iterator<Item = u32>| json!(order.map(|n| json!({"a": n})).collect::<Vec<_>>());
        let (up, down) = (items(&mut (0..20_000)), items(&mut (0..20_000).rev()));
        let older = Older::new(Some(&down), &schema);
        assert!(up.as_array().unwrap().iter().all(|item| older.of(item, &schema) == Some(item)));
    }
}
