//! VolumeAttachment: that a volume should be attached to a node.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, IMMUTABLE};
use super::super::json::{get, has, int, map, same, set, text};
use super::super::{Context, Hooks, strategy};
use super::driver_name;

pub static HOOKS: Hooks = Hooks {
    prepare_create: |object, _| set(object, "status", json!({"attached": false})),
    prepare_update: strategy::update_ungenerated,
    validate,
    validate_update,
    unconditional_update: false,
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

const METADATA_MAX_BYTES: usize = 256 * 1024;
const MESSAGE_MAX_BYTES: usize = 1024;

fn validate(attachment: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(attachment, "spec"), Path::new("spec"));
    driver_name(&mut errors, spec, "attacher", &path);
    let (source, at) = (get(spec, "source"), path.child("source"));
    let words = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let volume = text(source, "persistentVolumeName");
    match (has(source, "inlineVolumeSpec"), has(source, "persistentVolumeName")) {
        (false, false) => errors.push(FieldError::required(&at, words)),
        (true, true) => errors.push(FieldError::forbidden(&at, words)),
        (false, true) if volume.is_empty() => {
            let words = "must specify non empty persistentVolumeName";
            errors.push(FieldError::required(&at.child("persistentVolumeName"), words));
        }
        _ => {}
    }
    let node = text(spec, "nodeName");
    check::wrong(&mut errors, &path.child("nodeName"), node, names::dns1123_subdomain(node));
    status(get(attachment, "status"), &Path::new("status"), &mut errors);
    if has(source, "persistentVolumeName") {
        check::wrong(&mut errors, &at.child("persistentVolumeName"), volume, names::dns1123_subdomain(volume));
    }
    errors
}

fn status(status: &Value, path: &Path, errors: &mut Errors) {
    let bytes: usize = map(status, "attachmentMetadata").map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > METADATA_MAX_BYTES {
        errors.push(FieldError::too_long(&path.child("attachmentMetadata"), METADATA_MAX_BYTES));
    }
    for field in ["attachError", "detachError"] {
        let (error, path) = (get(status, field), path.child(field));
        if text(error, "message").len() > MESSAGE_MAX_BYTES {
            // Upstream names the other bound here.
            errors.push(FieldError::too_long(&path.child("message"), METADATA_MAX_BYTES));
        }
        if let Some(code) = int(error, "errorCode").filter(|code| *code < 0) {
            let words = format!("must be between 0 and {}, inclusive", i32::MAX);
            errors.push(FieldError::invalid(&path.child("errorCode"), code, words));
        }
    }
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    // the status is validated with the whole object here, as upstream does for both paths
    let mut errors = if context.subresource == "status" { validate(new) } else { Vec::new() };
    if !same(get(new, "spec"), get(old, "spec")) {
        errors.push(FieldError::invalid(&Path::new("spec"), get(new, "spec"), IMMUTABLE));
    }
    errors
}
