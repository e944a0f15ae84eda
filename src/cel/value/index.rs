//! Looks for equal values in a list without comparing every pair: declared sets and maps are compared and joined by it.
//!
//! Values are told apart by a fingerprint. Those that are equal have the same one; which of those with the same one are equal is
//! for [`Value::equals`] to say. What a fingerprint takes for equal depends on the declaration of the values on the left side,
//! as equality does: only lists that are declared so have no order.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{List, Map, Value};
use crate::schema::{Decl, DeclKind, ListType};

/// The places of items by their fingerprints.
#[derive(Default)]
pub struct Index(HashMap<u64, Vec<usize>>);

impl Index {
    pub fn insert(&mut self, fingerprint: u64, place: usize) {
        self.0.entry(fingerprint).or_default().push(place);
    }
    /// Where items are that may be meant, in their order.
    pub fn at(&self, fingerprint: u64) -> &[usize] {
        self.0.get(&fingerprint).map_or(&[], Vec::as_slice)
    }
}

/// The fingerprint of an item in a list of this kind: of the whole item, or of its keys.
pub fn of_item(item: &Value, kind: &ListType, decl: Option<&Decl>) -> u64 {
    let (ListType::Map(keys), Value::Map(map)) = (kind, item) else { return of(item, decl) };
    let mut hasher = DefaultHasher::new();
    for key in keys.iter() {
        match map.field(key) {
            Some(Ok(value)) => hasher.write_u64(of(&value, None)),
            Some(Err(_)) | None => hasher.write_u8(0),
        }
    }
    hasher.finish()
}

fn of(value: &Value, decl: Option<&Decl>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match value {
        Value::Null => hasher.write_u8(1),
        Value::Bool(b) => (2_u8, b).hash(&mut hasher),
        // Numbers of all types that are equal are one float, and one zero.
        Value::Int(i) => (3_u8, float(*i as f64)).hash(&mut hasher),
        Value::Uint(u) => (3_u8, float(*u as f64)).hash(&mut hasher),
        Value::Double(d) => (3_u8, float(*d)).hash(&mut hasher),
        Value::String(text) => (4_u8, &**text).hash(&mut hasher),
        Value::Bytes(bytes) => (5_u8, bytes).hash(&mut hasher),
        Value::Timestamp(at) => (6_u8, at).hash(&mut hasher),
        Value::Duration(nanos) => (7_u8, nanos).hash(&mut hasher),
        Value::List(list) => (8_u8, of_list(list, decl)).hash(&mut hasher),
        Value::Map(map) => (9_u8, of_map(map, decl)).hash(&mut hasher),
        // No object holds these, and only expressions make them.
        _ => hasher.write_u8(10),
    }
    hasher.finish()
}

fn float(number: f64) -> u64 {
    (number + 0.0).to_bits()
}

fn of_list(list: &List, decl: Option<&Decl>) -> u64 {
    let (item_decl, ordered) = match decl {
        Some(Decl { kind: DeclKind::List(item), list_type, .. }) => (Some(&**item), *list_type == ListType::Atomic),
        _ => (None, true),
    };
    let mut hasher = DefaultHasher::new();
    let mut sum = 0_u64;
    for item in list.iter() {
        let item = item.map_or(0, |item| of(&item, item_decl));
        if ordered {
            hasher.write_u64(item);
        } else {
            sum = sum.wrapping_add(item);
        }
    }
    if ordered { hasher.finish() } else { sum }
}

fn of_map(map: &Map, decl: Option<&Decl>) -> u64 {
    let entry = |(key, value): (Value, Result<Value, _>)| {
        let decl = match (decl.map(|decl| &decl.kind), &key) {
            (Some(DeclKind::Map(values)), _) => Some(&**values),
            (Some(DeclKind::Object(object)), Value::String(name)) => {
                object.fields.get(&**name).map(|field| &*field.decl)
            }
            _ => None,
        };
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(of(&key, None));
        hasher.write_u64(value.map_or(0, |value| of(&value, decl)));
        hasher.finish()
    };
    map.entries().map(entry).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value as Json, json};

    use super::*;

    /// Items that differ are hardly ever compared: each has a fingerprint of its own.
    #[test]
    fn fingerprints_differ() {
        let check = |kind: &ListType, made: &dyn Fn(usize) -> Json| {
            let items: Vec<Json> = (0..1_000).map(made).collect();
            let prints: HashSet<u64> = items.iter().map(|item| of_item(&Value::of_json(item), kind, None)).collect();
            assert_eq!(prints.len(), items.len(), "{}", items[1]);
        };
        check(&ListType::Set, &|n| json!(n));
        check(&ListType::Set, &|n| json!(n.to_string()));
        check(&ListType::Set, &|n| json!(n as f64 + 0.5));
        // Items of a list in another order make another list.
        check(&ListType::Set, &|n| json!([n / 100, n / 10 % 10, n % 10]));
        check(&ListType::Set, &|n| json!({"a": n / 10, "b": [{"c": n % 10}]}));
        check(&ListType::Map(["a".to_owned(), "b".to_owned()].into()), &|n| json!({"a": n / 10, "b": n % 10, "c": 1}));
    }

    #[test]
    fn equal_values_have_one_fingerprint() {
        for (a, b) in [
            (Value::Int(1), Value::Double(1.0)),
            (Value::Uint(1), Value::Int(1)),
            (Value::Double(-0.0), Value::Int(0)),
            (Value::list(vec![Value::Uint(1)]), Value::list(vec![Value::Int(1)])),
        ] {
            assert!(a.equals(&b));
            assert_eq!(of(&a, None), of(&b, None), "{a:?} {b:?}");
        }
    }
}
