//! An object on its way into the store: identity, serialised bytes with the place of the revision.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};
use types::registry::{Kind, WriteClass};

use super::facts::ObjectFacts;

const REVISION: &str = "resourceVersion";

/// The text of a metadata field, empty when it is absent.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The metadata, made when it is absent. Objects have been decoded as maps by now.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object["metadata"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it has just been made an object")
}

pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    list.filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

pub fn is_deleting(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some_and(|t| !t.is_null())
}

/// What the server alone decides of a new object.
pub fn fill_new(object: &mut Value, namespace: &str, now: Timestamp) {
    let metadata = meta_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", REVISION] {
        metadata.remove(field);
    }
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("uid".into(), types::random::uuid().into());
    metadata.insert("creationTimestamp".into(), types::time::rfc3339(now).into());
}

/// The bytes to be stored and served, and where the digits of the revision go.
pub fn serialize(object: &Value) -> (Vec<u8>, Option<usize>) {
    // 1 KiB is what small objects take; larger ones grow in doublings.
    let mut out = Vec::with_capacity(1024);
    let mut stamp_at = None;
    let Some(map) = object.as_object() else {
        write(&mut out, object);
        return (out, None);
    };
    out.push(b'{');
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(&mut out, key);
        out.push(b':');
        match value.as_object().filter(|_| key == "metadata") {
            Some(metadata) => stamp_at = Some(write_metadata(&mut out, metadata)),
            None => write(&mut out, value),
        }
    }
    out.push(b'}');
    (out, stamp_at)
}

/// Writes the metadata with an empty resourceVersion in its alphabetical place; returns the place between its quotes.
fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>) -> usize {
    let mut stamp_at = None;
    let mut first = true;
    let mut comma = |out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
    };
    let stamp = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"\"resourceVersion\":\"\"");
        out.len() - 1
    };
    out.push(b'{');
    for (key, value) in metadata {
        if key == REVISION {
            continue;
        }
        if stamp_at.is_none() && key.as_str() > REVISION {
            comma(out);
            stamp_at = Some(stamp(out));
        }
        comma(out);
        write(out, key);
        out.push(b':');
        write(out, value);
    }
    let stamp_at = stamp_at.unwrap_or_else(|| {
        comma(out);
        stamp(out)
    });
    out.push(b'}');
    stamp_at
}

fn write(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("a JSON value is written to memory");
}

/// The value for the store.
pub fn to_store(kind: &'static Kind, object: &Value) -> store::Value {
    let (bytes, stamp_at) = serialize(object);
    store::Value { bytes: Bytes::from(bytes), stamp_at, facts: Arc::new(ObjectFacts::of(kind, object)) }
}

pub fn class(kind: &Kind) -> store::Class {
    match kind.write_class {
        WriteClass::Durable => store::Class::Durable,
        WriteClass::Relaxed => store::Class::Relaxed,
    }
}

/// The stored object as a value.
pub fn read(entry: &store::Entry) -> Result<Value, types::status::Status> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        tracing::error!(key = &*entry.key, %error, "a stored object cannot be read");
        types::status::Status::internal("a stored object cannot be read")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_revision_is_stamped_in_place() {
        for object in [
            json!({"kind": "A", "metadata": {"name": "a", "uid": "u"}, "spec": {"metadata": {}}}),
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"zzz": 1, "resourceVersion": "99"}}),
            json!({"metadata": {}}),
        ] {
            let (mut bytes, at) = serialize(&object);
            bytes.splice(at.unwrap()..at.unwrap(), *b"42");
            let read: Value = serde_json::from_slice(&bytes).unwrap();
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = json!("42");
            assert_eq!(read, expected);
        }
        assert_eq!(serialize(&json!({"a": 1})).1, None);
    }
}
