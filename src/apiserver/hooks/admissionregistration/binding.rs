//! ValidatingAdmissionPolicyBinding and MutatingAdmissionPolicyBinding: where a policy is in force, and with what parameters.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, items};
use super::super::json::{get, has, list, object_mut, text, texts};
use super::super::{Hooks, selectors};
use super::{BASE, rules};

pub static VALIDATING: Hooks = Hooks {
    default,
    validate: |binding| {
        let mut errors = common(binding, false);
        actions(get(binding, "spec"), &mut errors);
        errors
    },
    ..BASE
};

pub static MUTATING: Hooks = Hooks { default, validate: |binding| common(binding, true), ..BASE };

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

fn default(binding: &mut Value) {
    if let Some(resources) = object_mut(binding, "spec").and_then(|spec| object_mut(spec, "matchResources")) {
        rules::default_resources(resources);
    }
}

fn common(binding: &Value, mutates: bool) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(binding, "spec"), Path::new("spec"));
    let policy = check::required(&mut errors, spec, "policyName", &path);
    if !policy.is_empty() {
        check::wrong(&mut errors, &path.child("policyName"), policy, names::dns1123_subdomain(policy));
    }
    if has(spec, "paramRef") {
        param_ref(get(spec, "paramRef"), &path.child("paramRef"), &mut errors);
    }
    let (resources, at) = (get(spec, "matchResources"), path.child("matchResources"));
    if !resources.is_null() {
        rules::resources(resources, &at, &mut errors);
        if mutates {
            rules::mutable_operations(resources, &at, &mut errors);
        }
    }
    errors
}

fn param_ref(of: &Value, path: &Path, errors: &mut Errors) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(of, "name"), has(of, "selector"));
    if !name.is_empty() {
        check::wrong(errors, &path.child("name"), name, names::path_segment(name));
        if selector {
            errors.push(FieldError::forbidden(&path.child("name"), EXCLUSIVE));
        }
    }
    if selector {
        selectors::validate(get(of, "selector"), &path.child("selector"), errors);
        if !name.is_empty() {
            errors.push(FieldError::forbidden(&path.child("selector"), EXCLUSIVE));
        }
    } else if name.is_empty() {
        errors.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    check::required_one_of(errors, of, "parameterNotFoundAction", path, &["Allow", "Deny"]);
}

fn actions(spec: &Value, errors: &mut Errors) {
    let path = Path::new("spec.validationActions");
    let all = list(spec, "validationActions");
    for (i, (path, action)) in items(spec, "validationActions", &Path::new("spec")).enumerate() {
        let text = action.as_str().unwrap_or_default();
        if !ACTIONS.contains(&text) {
            errors.push(FieldError::not_supported(&path, text, ACTIONS));
        }
        if all[..i].contains(action) {
            errors.push(FieldError::duplicate(&path, text));
        }
    }
    let named = |action| texts(spec, "validationActions").any(|a| a == action);
    if named("Deny") && named("Warn") {
        let words = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                     response and headers serves no purpose)";
        errors.push(FieldError::invalid(&path, get(spec, "validationActions"), words));
    }
    if all.is_empty() {
        errors.push(FieldError::required(&path, "at least one validation action is required"));
    }
}
