//! IngressClass, and references to objects that hold configuration.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors};
use super::super::json::{get, has, object_mut, set_absent, text};
use super::super::{Context, Hooks, strategy};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create: strategy::create_spec,
    prepare_update: strategy::update_spec,
    validate,
    validate_update,
    ..Hooks::NEUTRAL
};

/// Longer names of controllers do not fit into an Event's source.
const CONTROLLER_MAX: usize = 250;
const SCOPES: &[&str] = &["Cluster", "Namespace"];

fn default(class: &mut Value) {
    if let Some(parameters) = object_mut(class, "spec").and_then(|spec| object_mut(spec, "parameters")) {
        set_absent(parameters, "scope", "Cluster");
    }
}

fn validate(class: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(class, "spec"), Path::new("spec"));
    let controller = text(spec, "controller");
    if controller.len() > CONTROLLER_MAX {
        errors.push(FieldError::too_long(&path.child("controller"), CONTROLLER_MAX));
    }
    check::domain_prefixed_path(controller, &path.child("controller"), &mut errors);
    let (parameters, path) = (get(spec, "parameters"), path.child("parameters"));
    if parameters.is_null() {
        return errors;
    }
    reference(parameters, &path, &mut errors);
    let scope = text(parameters, "scope");
    let at = path.child("namespace");
    match scope {
        _ if !has(parameters, "scope") => errors.push(FieldError::required(&path.child("scope"), "")),
        "Namespace" if !has(parameters, "namespace") => {
            errors.push(FieldError::required(&at, "`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => {
            let namespace = text(parameters, "namespace");
            check::wrong(&mut errors, &at, namespace, names::dns1123_label(namespace));
        }
        "Cluster" if has(parameters, "namespace") => {
            errors.push(FieldError::forbidden(&at, "`parameters.scope` is set to 'Cluster'"));
        }
        "Cluster" => {}
        _ => errors.push(FieldError::not_supported(&path.child("scope"), scope, SCOPES)),
    }
    errors
}

/// Group, kind and name of an object in the same namespace, or in none. Also an Ingress's backend.
pub fn reference(of: &Value, path: &Path, errors: &mut Errors) {
    if has(of, "apiGroup") {
        let group = text(of, "apiGroup");
        check::wrong(errors, &path.child("apiGroup"), group, names::dns1123_subdomain(group));
    }
    for field in ["kind", "name"] {
        let value = check::required(errors, of, field, path);
        check::wrong(errors, &path.child(field), value, names::path_segment(value));
    }
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    check::immutable(&mut errors, get(new, "spec"), get(old, "spec"), "controller", &Path::new("spec"));
    errors
}
