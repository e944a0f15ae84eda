//! ResourceClaim and ResourceClaimTemplate.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::check::{self, Errors, IMMUTABLE, items};
use super::super::json::{each_mut, ensure_object, get, has, int, list, object_mut, same, set_blank, set_zero, text};
use super::super::{Context, Hooks, metadata, strategy};
use super::shared::{self, CONFIG_MAX, REQUESTS_MAX};
use super::{BASE, attribute, status};
use types::names;

pub static CLAIM: Hooks = Hooks {
    default: |claim| {
        if let Some(spec) = object_mut(claim, "spec") {
            default(spec);
        }
    },
    prepare_create: |object, _| strategy::empty_status(object),
    prepare_update: |new, old, context| {
        strategy::update_ungenerated(new, old, context);
        if context.subresource == "status" {
            status::forget_deallocated(new, old);
        }
    },
    validate: |claim| {
        let mut errors = Vec::new();
        spec(get(claim, "spec"), &Path::new("spec"), &mut errors);
        errors
    },
    validate_update: |new, old, context| match context.subresource {
        "status" => status::validate_update(new, old),
        _ => unchanged(new, old, context),
    },
    ..BASE
};

pub static TEMPLATE: Hooks = Hooks {
    default: |template| {
        let Some(outer) = object_mut(template, "spec") else { return };
        // always shown, as the metadata of a pod template is
        ensure_object(outer, "metadata");
        if let Some(spec) = object_mut(outer, "spec") {
            default(spec);
        }
    },
    validate: |template| {
        let mut errors = Vec::new();
        let (outer, path) = (get(template, "spec"), Path::new("spec"));
        let (meta, at) = (get(outer, "metadata"), path.child("metadata"));
        metadata::annotations(meta, &at.child("annotations"), &mut errors);
        if let Some(labels) = get(meta, "labels").as_object() {
            errors.extend(names::labels(&at.child("labels"), labels.iter().map(|(k, v)| (k, v.as_str()))));
        }
        spec(get(outer, "spec"), &path.child("spec"), &mut errors);
        errors
    },
    validate_update: unchanged,
    ..BASE
};

const CONSTRAINTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;

/// Source: `SetDefaults_ExactDeviceRequest`, `SetDefaults_DeviceSubRequest`.
fn default(spec: &mut Value) {
    let Some(devices) = object_mut(spec, "devices") else { return };
    for request in each_mut(devices, "requests") {
        if let Some(exactly) = object_mut(request, "exactly") {
            default_count(exactly);
        }
        each_mut(request, "firstAvailable").for_each(default_count);
    }
}

fn default_count(request: &mut Value) {
    set_blank(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        set_zero(request, "count", 1);
    }
}

fn unchanged(new: &Value, old: &Value, _: &Context) -> Errors {
    let spec = get(new, "spec");
    if same(spec, get(old, "spec")) {
        return Vec::new();
    }
    vec![FieldError::invalid(&Path::new("spec"), spec, IMMUTABLE)]
}

fn spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let (devices, path) = (get(spec, "devices"), path.child("devices"));
    if shared::bounded(errors, devices, "requests", REQUESTS_MAX, &path) {
        items(devices, "requests", &path).for_each(|(path, of)| request(of, &path, errors));
        shared::distinct_by(errors, devices, "requests", "name", &path);
    }
    if shared::bounded(errors, devices, "constraints", CONSTRAINTS_MAX, &path) {
        for (path, constraint) in items(devices, "constraints", &path) {
            references(constraint, devices, &path, errors);
            if has(constraint, "matchAttribute") {
                attribute::full_name(text(constraint, "matchAttribute"), &path.child("matchAttribute"), errors);
            } else if has(constraint, "distinctAttribute") {
                attribute::full_name(text(constraint, "distinctAttribute"), &path.child("distinctAttribute"), errors);
            } else {
                let words = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields \
                             are set";
                errors.push(FieldError::required(&path, words));
            }
        }
    }
    if shared::bounded(errors, devices, "config", CONFIG_MAX, &path) {
        for (path, config) in items(devices, "config", &path) {
            references(config, devices, &path, errors);
            shared::configuration(config, &path, errors);
        }
    }
}

fn request(of: &Value, path: &Path, errors: &mut Errors) {
    shared::label(text(of, "name"), &path.child("name"), errors);
    match (has(of, "exactly"), !list(of, "firstAvailable").is_empty()) {
        (false, false) => {
            errors.push(FieldError::required(path, "exactly one of `exactly` or `firstAvailable` is required"));
        }
        (true, true) => {
            let words = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(path, &Value::Null, words));
        }
        (true, false) => wanted(get(of, "exactly"), &path.child("exactly"), errors),
        (false, true) => {
            if shared::bounded(errors, of, "firstAvailable", ALTERNATIVES_MAX, path) {
                for (path, alternative) in items(of, "firstAvailable", path) {
                    shared::label(text(alternative, "name"), &path.child("name"), errors);
                    wanted(alternative, &path, errors);
                }
                shared::distinct_by(errors, of, "firstAvailable", "name", path);
            }
        }
    }
}

fn wanted(of: &Value, path: &Path, errors: &mut Errors) {
    let class = check::required(errors, of, "deviceClassName", path);
    if !class.is_empty() {
        check::wrong(errors, &path.child("deviceClassName"), class, names::dns1123_subdomain(class));
    }
    shared::selectors(of, path, errors);
    let (mode, count) = (text(of, "allocationMode"), int(of, "count").unwrap_or(0));
    match mode {
        "All" if count != 0 => {
            let words = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&path.child("count"), count, words));
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(&path.child("count"), count, "must be greater than zero"));
        }
        "ExactCount" => {}
        _ => errors.push(FieldError::not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"])),
    }
    for (path, toleration) in items(of, "tolerations", path) {
        shared::toleration(toleration, &path, errors);
    }
}

/// Names of requests that a part of the claim is about.
pub fn references(of: &Value, devices: &Value, path: &Path, errors: &mut Errors) {
    if !shared::bounded(errors, of, "requests", REQUESTS_MAX, path) {
        return;
    }
    for (path, name) in items(of, "requests", path) {
        reference(name.as_str().unwrap_or_default(), devices, &path, errors);
    }
    shared::distinct(errors, of, "requests", path);
}

/// `request` or `request/alternative`.
pub fn reference(name: &str, devices: &Value, path: &Path, errors: &mut Errors) {
    const WORDS: &str =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    if name.matches('/').count() > 1 {
        errors.push(FieldError::invalid(path, name, WORDS));
        return;
    }
    name.split('/').for_each(|part| shared::label(part, path, errors));
    let (request, alternative) = name.split_once('/').map_or((name, None), |(r, a)| (r, Some(a)));
    let found = list(devices, "requests").iter().find(|r| text(r, "name") == request);
    let known = found.is_some_and(|r| {
        alternative.is_none_or(|name| list(r, "firstAvailable").iter().any(|one| text(one, "name") == name))
    });
    if !known {
        errors.push(FieldError::invalid(path, name, WORDS));
    }
}
