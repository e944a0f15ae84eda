//! Patches as the fake server applies them, and what it drops of what they leave.

use serde_json::{Value, json};
use types::status::{Reason, Status};

use super::text;

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(object) = target.as_object_mut() {
                object.remove(key);
            }
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

/// RFC 6902, the operations that controllers use: test, add, replace, remove.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Status> {
    for op in patch.as_array().into_iter().flatten() {
        let path = text(op, "/path");
        let (parent, last) = path.rsplit_once('/').ok_or_else(|| Status::bad_request("path"))?;
        let last = last.replace("~1", "/").replace("~0", "~");
        let invalid = || Status::new(Reason::Invalid, format!("json patch: {op}"));
        match text(op, "/op") {
            "test" => {
                if target.pointer(path) != op.get("value") {
                    return Err(invalid());
                }
            }
            kind => match target.pointer_mut(parent).ok_or_else(invalid)? {
                Value::Object(object) => {
                    if kind == "remove" {
                        object.remove(&last).ok_or_else(invalid)?;
                    } else {
                        object.insert(last, op["value"].clone());
                    }
                }
                Value::Array(array) => match (kind, last.as_str(), last.parse::<usize>()) {
                    ("add", "-", _) => array.push(op["value"].clone()),
                    ("add", _, Ok(i)) if i <= array.len() => array.insert(i, op["value"].clone()),
                    ("replace", _, Ok(i)) if i < array.len() => array[i] = op["value"].clone(),
                    ("remove", _, Ok(i)) if i < array.len() => {
                        array.remove(i);
                    }
                    _ => return Err(invalid()),
                },
                _ => return Err(invalid()),
            },
        }
    }
    Ok(())
}

/// No field of a stored object is null.
pub fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, v| !v.is_null());
            object.values_mut().for_each(prune_nulls);
        }
        Value::Array(array) => array.iter_mut().for_each(prune_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
