//! JSON merge patch. Source: RFC 7386.

use serde_json::{Map, Value};
use types::status::Status;

pub fn apply(current: &Value, body: &[u8]) -> Result<Value, Status> {
    let patch = super::object(body).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
    let mut target = current.clone();
    merge(&mut target, Value::Object(patch));
    Ok(target)
}

/// `null` removes a member, an object is merged, anything else replaces.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            object.remove(&key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), value);
        }
    }
}
