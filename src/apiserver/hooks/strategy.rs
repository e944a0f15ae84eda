//! What the strategies of many kinds share: who may write which half of an object, and when the generation grows.

use serde_json::{Value, json};

use super::Context;
use super::json::{self, copy, get, int, remove, same};

/// What a status keeps of the metadata besides what the server keeps anyway. Source: apimachinery
/// `pkg/apis/meta/v1/types.go` `ResetObjectMetaForStatus`.
const STATUS_METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];

/// A new object of a kind with a status and a generation.
pub fn create(object: &mut Value, _: &Context) {
    empty_status(object);
    first_generation(object);
}

/// A new object of a kind with a generation and no status.
pub fn create_spec(object: &mut Value, _: &Context) {
    first_generation(object);
}

/// A changed object of a kind with a status and a generation: each half is written through its own path.
pub fn update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_generation(new, old);
    } else {
        copy(new, old, "status");
        bump_generation(new, old);
    }
}

/// As [`update`], where a write of the status changes nothing of the metadata either.
pub fn update_strictly(new: &mut Value, old: &Value, context: &Context) {
    update(new, old, context);
    if context.subresource == "status" {
        keep_metadata(new, old, STATUS_METADATA);
    }
}

/// A changed object of a kind with a generation and no status.
pub fn update_spec(new: &mut Value, old: &Value, _: &Context) {
    bump_generation(new, old);
}

/// A changed object of a kind with a status and no generation, where a write of the status changes no metadata.
pub fn update_ungenerated(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, STATUS_METADATA);
    } else {
        copy(new, old, "status");
    }
}

/// A new object has no status of its creator's.
pub fn drop_status(object: &mut Value) {
    remove(object, "status");
}

/// A new object has an empty status, which is shown.
pub fn empty_status(object: &mut Value) {
    json::set(object, "status", json!({}));
}

/// A new object is its first generation.
pub fn first_generation(object: &mut Value) {
    if let Some(meta) = json::ensure_object(object, "metadata") {
        json::set(meta, "generation", 1);
    }
}

/// The generation of `old`, one more when the spec changed.
pub fn bump_generation(new: &mut Value, old: &Value) {
    bump_generation_for(new, old, "spec");
}

/// The generation of `old`, one more when that field changed.
pub fn bump_generation_for(new: &mut Value, old: &Value, field: &str) {
    let changed = !same(get(new, field), get(old, field));
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
