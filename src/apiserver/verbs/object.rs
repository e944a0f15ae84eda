//! An object on its way into the store: identity, serialised bytes with the place of the revision.

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use types::registry::{Kind, KindRef, WriteClass};

use super::facts;
use crate::managed::Managed;

const REVISION: &str = "resourceVersion";
const MANAGED: &str = "managedFields";

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
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", MANAGED, REVISION] {
        metadata.remove(field);
    }
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("uid".into(), types::random::uuid().into());
    metadata.insert("creationTimestamp".into(), types::time::rfc3339(now).into());
}

/// The bytes to be stored and served, and where the digits of the revision go. The object holds no managed fields itself.
pub fn serialize(object: &Value, managed: &Managed) -> (Vec<u8>, Option<usize>) {
    // 1 KiB is what small objects take; larger ones grow in doublings.
    let mut out = Vec::with_capacity(1024 + managed.text().len());
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
            Some(metadata) => stamp_at = Some(write_metadata(&mut out, metadata, managed.text())),
            None => write(&mut out, value),
        }
    }
    out.push(b'}');
    (out, stamp_at)
}

/// Writes the metadata with the managed fields and an empty resourceVersion in their alphabetical places; returns the place
/// between its quotes.
fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>, managed: &str) -> usize {
    let mut stamp_at = None;
    let mut managed = Some(managed).filter(|text| !text.is_empty());
    let mut first = true;
    let mut comma = |out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
    };
    let entries = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(b"\"managedFields\":");
        out.extend_from_slice(text.as_bytes());
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
        if key.as_str() >= MANAGED
            && let Some(text) = managed.take()
        {
            comma(out);
            entries(out, text);
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
    if let Some(text) = managed {
        comma(out);
        entries(out, text);
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

/// The value for the store, of an object in the version in which it is kept; [`super::ask::Ask::to_store`] for others.
pub fn to_store(kind: &KindRef, object: &Value, managed: &Managed) -> store::Value {
    let (bytes, stamp_at) = serialize(object, managed);
    store::Value { bytes: Bytes::from(bytes), stamp_at, facts: facts::noted(kind.built_in(), object) }
}

pub fn class(kind: &Kind) -> store::Class {
    match kind.write_class {
        WriteClass::Durable => store::Class::Durable,
        WriteClass::Relaxed => store::Class::Relaxed,
    }
}

/// The stored object as a value.
pub fn read(entry: &store::Entry) -> Result<Value, types::status::Status> {
    serde_json::from_slice(entry.value()).map_err(|error| unreadable(entry, &error))
}

fn unreadable(entry: &store::Entry, error: &serde_json::Error) -> types::status::Status {
    tracing::error!(key = entry.key(), %error, "a stored object cannot be read");
    types::status::Status::internal("a stored object cannot be read")
}

/// The stored object to be changed: without its managed fields, which stay the text that they are.
pub fn open(entry: &store::Entry) -> Result<(Value, Managed), types::status::Status> {
    let mut managed = None;
    let mut reader = serde_json::Deserializer::from_slice(entry.value());
    let object = Level { depth: 0, managed: &mut managed }.deserialize(&mut reader);
    let object = object.map_err(|error| unreadable(entry, &error))?;
    let managed = managed.map(|raw: &RawValue| Managed::stored(entry.bytes().slice_ref(raw.get().as_bytes())));
    Ok((object, managed.unwrap_or_default()))
}

/// Reads an object but for `metadata.managedFields`, which are set aside.
struct Level<'a, 'de> {
    /// 0 is the object, 1 its metadata.
    depth: u8,
    managed: &'a mut Option<&'de RawValue>,
}

impl<'de> DeserializeSeed<'de> for Level<'_, 'de> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, 'de> {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with metadata")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match (self.depth, key.as_str()) {
                (0, "metadata") => {
                    let metadata = map.next_value_seed(Level { depth: 1, managed: &mut *self.managed })?;
                    object.insert(key, metadata);
                }
                (1, MANAGED) => *self.managed = Some(map.next_value()?),
                _ => {
                    object.insert(key, map.next_value()?);
                }
            }
        }
        Ok(Value::Object(object))
    }
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
            let (mut bytes, at) = serialize(&object, &Managed::default());
            bytes.splice(at.unwrap()..at.unwrap(), *b"42");
            let read: Value = serde_json::from_slice(&bytes).unwrap();
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = json!("42");
            assert_eq!(read, expected);
        }
        assert_eq!(serialize(&json!({"a": 1}), &Managed::default()).1, None);
    }

    #[test]
    fn managed_fields_are_set_aside_and_put_back() {
        let entries = json!([{"manager": "a", "fieldsV1": {"f:data": {"k:{\"a\":1}": {}}}}]);
        for name in ["a", "managed", "managedFieldsOfAnother", "z"] {
            let mut object = json!({"kind": "A", "metadata": {name: "a", "labels": {"managedFields": "x"}},
                "spec": {"metadata": {"managedFields": [1]}}});
            let managed = Managed::stored(Bytes::from(entries.to_string()));
            let (bytes, _) = serialize(&object, &managed);
            let revision = store::Revision(1);
            let entry = store::Entry::new("k", &bytes, revision, revision, None, &[]);
            let opened = open(&entry).unwrap();
            object["metadata"]["resourceVersion"] = json!("");
            assert_eq!(opened, (object.clone(), managed));
            object["metadata"]["managedFields"] = entries.clone();
            assert_eq!(read(&entry).unwrap(), object);
            assert_eq!(entry.value(), object.to_string().as_bytes(), "names are in order");
        }
    }
}
