//! What the strategies of many kinds share: who may write which half of an object, and when the generation grows.

use serde_json::{Value, json};

use super::json::{self, copy, get, int, remove, same};

/// A new object has no status of its creator's.
pub fn drop_status(object: &mut Value) {
    remove(object, "status");
}

/// A new object is its first generation.
pub fn first_generation(object: &mut Value) {
    if let Some(meta) = json::ensure_object(object, "metadata") {
        json::set(meta, "generation", 1);
    }
}

/// The generation of `old`, one more when the spec changed.
pub fn bump_generation(new: &mut Value, old: &Value) {
    let changed = !same(get(new, "spec"), get(old, "spec"));
    let before = int(get(old, "metadata"), "generation").unwrap_or(0);
    if let Some(meta) = json::ensure_object(new, "metadata") {
        json::set(meta, "generation", before + i64::from(changed));
    }
}

/// The creator's generation does not count, for kinds that have none.
pub fn keep_generation(new: &mut Value, old: &Value) {
    if let Some(meta) = json::object_mut(new, "metadata") {
        copy(meta, get(old, "metadata"), "generation");
    }
}

/// Keeps the named fields of metadata from `old`.
pub fn keep_metadata(new: &mut Value, old: &Value, fields: &[&str]) {
    if let Some(meta) = json::ensure_object(new, "metadata") {
        for field in fields {
            copy(meta, get(old, "metadata"), field);
        }
    }
}

/// An empty object under `key`, for kinds whose Go type always shows it.
pub fn show_empty(object: &mut Value, key: &str) {
    json::set_absent(object, key, json!({}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_follows_the_spec() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"a": 1}});
        for (spec, generation) in [(json!({"a": 1}), 3), (json!({"a": 2}), 4), (json!({"a": 1, "b": null}), 3)] {
            let mut new = json!({"metadata": {"generation": 9}, "spec": spec});
            bump_generation(&mut new, &old);
            assert_eq!(new["metadata"]["generation"], generation);
        }
    }
}
