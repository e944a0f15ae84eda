//! What of an object its row is made from: the rest is never made a value.
//!
//! A kind that is not listed here keeps everything but its managed fields. A test prints every golden from both.

use serde_json::{Map, Value};
use types::registry::Kind;

use crate::codec::tape::{Item, Shape};

/// A part of an object; of a list, each element alike.
#[derive(Debug, Clone, Copy)]
enum Keep {
    All,
    /// Only how many there are: names without values.
    Count,
    Fields(&'static [(&'static str, Keep)]),
}

use Keep::{All, Count, Fields};

const METADATA: Keep = Fields(&[("name", All), ("creationTimestamp", All), ("deletionTimestamp", All)]);

const POD: &[(&str, Keep)] = &[
    ("metadata", METADATA),
    (
        "spec",
        Fields(&[
            ("containers", Count),
            ("initContainers", Fields(&[("name", All), ("restartPolicy", All)])),
            ("nodeName", All),
            ("readinessGates", All),
        ]),
    ),
    (
        "status",
        Fields(&[
            ("phase", All),
            ("reason", All),
            ("podIP", All),
            ("podIPs", All),
            ("nominatedNodeName", All),
            ("conditions", Fields(&[("type", All), ("status", All), ("reason", All)])),
            ("containerStatuses", STATUSES),
            ("initContainerStatuses", STATUSES),
        ]),
    ),
];
const STATUSES: Keep = Fields(&[
    ("name", All),
    ("ready", All),
    ("started", All),
    ("restartCount", All),
    ("state", All),
    ("lastState", All),
]);
const CONFIG_MAP: &[(&str, Keep)] = &[("metadata", METADATA), ("data", Count), ("binaryData", Count)];
const SECRET: &[(&str, Keep)] = &[("metadata", METADATA), ("data", Count), ("type", All)];

/// The object for its row.
pub fn value(kind: &Kind, object: Item<'_>) -> Value {
    let fields = match (&*kind.group, &*kind.kind) {
        ("", "Pod") => POD,
        ("", "ConfigMap") => CONFIG_MAP,
        ("", "Secret") => SECRET,
        _ => return without_managed_fields(object),
    };
    kept(object, &Fields(fields))
}

fn kept(item: Item<'_>, keep: &Keep) -> Value {
    match (keep, item.shape()) {
        (Fields(fields), Shape::Object) => {
            let found = item.entries().filter_map(|(key, value)| {
                let (name, keep) = fields.iter().find(|(name, _)| name.as_bytes() == key.quoted())?;
                Some(((*name).to_owned(), kept(value, keep)))
            });
            Value::Object(found.collect())
        }
        (Fields(_), Shape::Array) => item.elements().map(|element| kept(element, keep)).collect(),
        (Count, Shape::Object) => Value::Object(item.entries().map(|(key, _)| (text(key), Value::Null)).collect()),
        (Count, Shape::Array) => item.elements().map(|_| Value::Null).collect(),
        (All | Count | Fields(_), _) => all(item),
    }
}

fn text(key: Item<'_>) -> String {
    String::from_utf8_lossy(&key.bytes().unwrap_or_default()).into_owned()
}

/// What cannot be read is nothing, as a field that is absent.
fn all(item: Item<'_>) -> Value {
    serde_json::from_slice(item.raw()).unwrap_or(Value::Null)
}

fn without_managed_fields(object: Item<'_>) -> Value {
    if object.shape() != Shape::Object {
        return all(object);
    }
    let fields = object.entries().map(|(key, value)| {
        let value = match key.quoted() {
            b"metadata" if value.shape() == Shape::Object => {
                let own = value.entries().filter(|(key, _)| key.quoted() != b"managedFields");
                Value::Object(own.map(|(key, value)| (text(key), all(value))).collect::<Map<_, _>>())
            }
            _ => all(value),
        };
        (text(key), value)
    });
    Value::Object(fields.collect())
}
