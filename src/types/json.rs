//! Reading and filling untyped objects the way upstream's Go types see them: `null` is absent, an empty string, list or
//! map is what an absent one is.
//!
//! What never lives here: knowledge of any kind.

use crate::quantity::Quantity;
use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The field, or null.
pub fn get<'a>(v: &'a Value, key: &str) -> &'a Value {
    v.get(key).unwrap_or(&NULL)
}
/// The field behind several names, or null.
pub fn at<'a>(v: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(v, |v, key| get(v, key))
}
pub fn has(v: &Value, key: &str) -> bool {
    !get(v, key).is_null()
}
/// The text of the field, empty when there is none.
pub fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    get(v, key).as_str().unwrap_or_default()
}
pub fn int(v: &Value, key: &str) -> Option<i64> {
    get(v, key).as_i64()
}
pub fn boolean(v: &Value, key: &str) -> bool {
    get(v, key).as_bool().unwrap_or(false)
}
pub fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    get(v, key).as_array().map_or(&[], Vec::as_slice)
}
/// Entries of the map field.
pub fn map<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    get(v, key).as_object().into_iter().flatten()
}
pub fn map_len(v: &Value, key: &str) -> usize {
    get(v, key).as_object().map_or(0, Map::len)
}
/// The texts of a list of strings; others are skipped.
pub fn texts<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    list(v, key).iter().filter_map(Value::as_str)
}

/// Whether upstream would hold the same Go value: null, empty string, empty list and empty map are one.
pub fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// Equality as upstream's semantic comparison has it: absent, null and empty are the same.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&NULL)))
                && y.iter().all(|(k, v)| x.contains_key(k) || is_empty(v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

/// The object behind the field, if it is one.
pub fn object_mut<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    v.get_mut(key).filter(|x| x.is_object())
}
/// The object behind the field, made when it is absent. `None` when `v` or what is there is not an object.
pub fn ensure_object<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let slot = v.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.is_object().then_some(slot)
}
/// The list behind the field, made when it is absent.
pub fn ensure_list<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    let slot = v.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}
/// Every object of the list field.
pub fn each_mut<'a>(v: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    v.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter(|x| x.is_object())
}

pub fn set(v: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(o) = v.as_object_mut() {
        o.insert(key.to_owned(), value.into());
    }
}
pub fn remove(v: &mut Value, key: &str) {
    if let Some(o) = v.as_object_mut() {
        o.remove(key);
    }
}
/// Sets a pointer-like field: only when it is absent.
pub fn set_absent(v: &mut Value, key: &str, value: impl Into<Value>) {
    if !has(v, key) {
        set(v, key, value);
    }
}
/// Whether the text is absent or empty, and nothing else is there instead.
pub fn blank(v: &Value, key: &str) -> bool {
    let slot = get(v, key);
    slot.is_null() || slot.as_str() == Some("")
}
/// Sets a text that upstream defaults when it is empty.
pub fn set_blank(v: &mut Value, key: &str, value: &str) {
    if blank(v, key) {
        set(v, key, value);
    }
}
/// Sets a number that upstream defaults when it is zero.
pub fn set_zero(v: &mut Value, key: &str, value: i64) {
    let slot = get(v, key);
    if slot.is_null() || slot.as_i64() == Some(0) {
        set(v, key, value);
    }
}
/// Copies the field from `from`, removing it when it is absent there.
pub fn copy(to: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) => set(to, key, value.clone()),
        None => remove(to, key),
    }
}

/// A quantity as the API reads it: a text or a number.
pub fn quantity(v: &Value) -> Option<Quantity> {
    match v {
        Value::String(s) => s.trim().parse().ok(),
        Value::Number(n) => n.to_string().parse().ok(),
        _ => None,
    }
}

/// Writes the quantity canonically, as it is stored: `0.5` becomes `500m`. What is none stays for validation to refuse.
pub fn canonical_quantity(v: &mut Value) {
    if let Some(q) = quantity(v) {
        let text = q.to_string();
        if v.as_str() != Some(&text) {
            *v = Value::String(text);
        }
    }
}

/// Canonical quantities in a resource list, rounded up to thousandths. Source: `SetDefaults_ResourceList`.
pub fn canonical_resources(v: &mut Value, key: &str) {
    for (_, slot) in v.get_mut(key).and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(q) = quantity(slot) {
            let rounded = Quantity::from_millis(q.millis());
            let text = if rounded < q || rounded > q && q.millis() < i64::MAX { rounded } else { q }.to_string();
            if slot.as_str() != Some(&text) {
                *slot = Value::String(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empties_are_one() {
        assert!(same(&json!({"a": null, "b": {"c": ""}}), &json!({"b": {}, "d": []})));
        assert!(!same(&json!({"a": 0}), &json!({})));
        assert!(!same(&json!({"a": [1]}), &json!({"a": [1, 2]})));
        assert!(!same(&json!({}), &json!({"a": "x"})));
    }

    #[test]
    fn resource_lists_become_canonical() {
        for (given, stored) in [
            (json!("0.5"), "500m"),
            (json!("1000m"), "1"),
            (json!(2), "2"),
            (json!(0.1), "100m"),
            (json!("1n"), "1m"),
            (json!("1.5Gi"), "1536Mi"),
            (json!("128974848"), "128974848"),
            (json!("bad"), "bad"),
        ] {
            let mut v = json!({"limits": {"x": given}});
            canonical_resources(&mut v, "limits");
            assert_eq!(v["limits"]["x"], stored);
        }
    }
}
