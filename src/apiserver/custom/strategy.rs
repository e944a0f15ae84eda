//! What a write of a custom object may set, and its generation.
//!
//! Source: apiextensions-apiserver `pkg/registry/customresource/{strategy,status_strategy}.go`.

use serde_json::{Map, Value};

use crate::hooks::json::{copy, get, int};
use crate::hooks::strategy::{drop_status, first_generation};

pub fn prepare_create(object: &mut Value, has_status: bool) {
    if has_status {
        drop_status(object);
    }
    first_generation(object);
}

pub fn prepare_update(new: &mut Value, old: &Value, subresource: &str, has_status: bool) {
    if subresource == "status" {
        let status = new.as_object_mut().and_then(|o| o.remove("status"));
        *new = old.clone();
        match (status, new.as_object_mut()) {
            (Some(status), Some(object)) => object.insert("status".into(), status),
            (None, Some(object)) => object.remove("status"),
            _ => None,
        };
        return;
    }
    if has_status {
        copy(new, old, "status");
    }
    let generation = int(get(old, "metadata"), "generation").unwrap_or(0);
    let changed = !same_but(new, old, has_status);
    super::super::verbs::object::meta_mut(new).insert("generation".into(), (generation + i64::from(changed)).into());
}

/// Whether two objects are the same but for their metadata and, where it is written apart, their status.
fn same_but(a: &Value, b: &Value, has_status: bool) -> bool {
    let counts = |name: &str| name != "metadata" && !(has_status && name == "status");
    let none = Map::new();
    let fields = |of: &'_ Value| -> Vec<(String, Value)> {
        let object = of.as_object().unwrap_or(&none);
        object.iter().filter(|(name, _)| counts(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
    };
    fields(a) == fields(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn generations() {
        let old = json!({"metadata": {"generation": 2}, "spec": {"a": 1}, "status": {"b": 1}});
        for (has_status, subresource, new, expected) in [
            (true, "", json!({"spec": {"a": 1}, "status": {"b": 2}}), (2, json!({"b": 1}))),
            (true, "", json!({"spec": {"a": 2}}), (3, json!({"b": 1}))),
            (false, "", json!({"spec": {"a": 1}, "status": {"b": 2}}), (3, json!({"b": 2}))),
            (true, "status", json!({"spec": {"a": 9}, "status": {"b": 2}}), (2, json!({"b": 2}))),
        ] {
            let mut new = new;
            prepare_update(&mut new, &old, subresource, has_status);
            assert_eq!((new["metadata"]["generation"].as_i64().unwrap(), new["status"].clone()), expected, "{new}");
            if subresource == "status" {
                assert_eq!(new["spec"], old["spec"]);
            }
        }
    }
}
