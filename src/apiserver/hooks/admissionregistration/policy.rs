//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, items, one_of, required_one_of};
use super::super::json::{get, has, list, object_mut, set_absent, text};
use super::super::{Hooks, conditions as status_conditions, strategy};
use super::conditions::{self, expression};
use super::{BASE, FAILURE_POLICIES, REINVOCATION_POLICIES, rules};
use crate::admission::policy::checks;

pub static VALIDATING: Hooks = Hooks {
    default,
    prepare_create: strategy::create,
    prepare_update: strategy::update_strictly,
    validate: validating,
    validate_update: |new, _, context| if context.subresource == "status" { status(new) } else { Vec::new() },
    ..BASE
};

pub static MUTATING: Hooks = Hooks { default, validate: mutating, ..BASE };

const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_MAX_BYTES: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

fn default(policy: &mut Value) {
    let Some(spec) = object_mut(policy, "spec") else { return };
    set_absent(spec, "failurePolicy", "Fail");
    if let Some(constraints) = object_mut(spec, "matchConstraints") {
        rules::default_resources(constraints);
    }
}

/// What both kinds have in common, up to the variables.
fn common(spec: &Value, path: &Path, mutates: bool, errors: &mut Errors) {
    required_one_of(errors, spec, "failurePolicy", path, FAILURE_POLICIES);
    if has(spec, "paramKind") {
        param_kind(get(spec, "paramKind"), &path.child("paramKind"), errors);
    }
    let (constraints, at) = (get(spec, "matchConstraints"), path.child("matchConstraints"));
    if constraints.is_null() {
        errors.push(FieldError::required(&at, ""));
    } else {
        rules::resources(constraints, &at, errors);
        if list(constraints, "resourceRules").is_empty() {
            errors.push(FieldError::required(&at.child("resourceRules"), ""));
        }
        if mutates {
            rules::mutable_operations(constraints, &at, errors);
        }
    }
    conditions::validate(spec, path, errors);
    for (path, variable) in items(spec, "variables", path) {
        let name = text(variable, "name");
        if name.trim().is_empty() {
            errors.push(FieldError::required(&path.child("name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(FieldError::invalid(&path.child("name"), name, "must be a valid CEL identifier"));
        }
        expression(variable, "expression", "expression is not specified", &path, errors);
    }
}

fn is_identifier(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !cel::RESERVED.contains(&name)
}

fn param_kind(of: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("apiVersion");
    match text(of, "apiVersion") {
        "" => errors.push(FieldError::required(&at, "")),
        given if given.matches('/').count() > 1 => {
            errors.push(FieldError::invalid(&at, given, format!("unexpected GroupVersion string: {given}")));
        }
        given => {
            let (group, version) = given.split_once('/').unwrap_or(("", given));
            let wrong = names::dns1123_subdomain(group);
            if !group.is_empty() && !wrong.is_empty() {
                errors.push(FieldError::invalid(&at, group, wrong.join(",")));
            }
            let wrong = names::dns1035_label(version);
            if version.is_empty() {
                errors.push(FieldError::invalid(&at, given, "version must be specified"));
            } else if !wrong.is_empty() {
                errors.push(FieldError::invalid(&at, version, wrong.join(",")));
            }
        }
    }
    let kind = check::required(errors, of, "kind", path);
    let wrong = names::dns1035_label(&kind.to_lowercase());
    if !kind.is_empty() && !wrong.is_empty() {
        let words = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.push(FieldError::invalid(&path.child("kind"), kind, words));
    }
}

fn validating(policy: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(policy, "spec"), Path::new("spec"));
    common(spec, &path, false, &mut errors);
    if list(spec, "validations").is_empty() && list(spec, "auditAnnotations").is_empty() {
        let words = "validations or auditAnnotations must contain at least one item";
        for field in ["validations", "auditAnnotations"] {
            errors.push(FieldError::required(&path.child(field), words));
        }
        return errors;
    }
    for (path, validation) in items(spec, "validations", &path) {
        self::validation(validation, &path, &mut errors);
    }
    let annotations = list(spec, "auditAnnotations");
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let words = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid(&path.child("auditAnnotations"), get(spec, "auditAnnotations"), words));
    }
    let name = text(get(policy, "metadata"), "name");
    for (i, (path, annotation)) in items(spec, "auditAnnotations", &path).enumerate() {
        let (key, at) = (text(annotation, "key"), path.child("key"));
        if name.is_empty() {
            errors.push(FieldError::invalid(&at, key, "requires metadata.name be non-empty"));
        } else {
            let full = format!("{name}/{key}");
            check::wrong(&mut errors, &at, &full, names::qualified_name(&full));
        }
        let value = expression(annotation, "valueExpression", "valueExpression is not specified", &path, &mut errors);
        if value.len() > AUDIT_EXPRESSION_MAX_BYTES {
            let words = format!("must not exceed {AUDIT_EXPRESSION_MAX_BYTES} bytes in length");
            errors.push(FieldError::required(&path.child("valueExpression"), &words));
        }
        if annotations[..i].iter().any(|other| text(other, "key") == key) {
            errors.push(FieldError::duplicate(&at, key));
        }
    }
    errors.extend(checks::validating(policy));
    errors
}

fn validation(of: &Value, path: &Path, errors: &mut Errors) {
    expression(of, "expression", "expression is not specified", path, errors);
    for field in ["messageExpression", "message"] {
        let value = text(of, field);
        if !value.is_empty() && value.trim().is_empty() {
            errors.push(FieldError::invalid(&path.child(field), value, "must be non-empty if specified"));
        }
    }
    let message = text(of, "message");
    if message.trim().contains(['\n', '\r']) {
        errors.push(FieldError::invalid(&path.child("message"), message, "must not contain line breaks"));
    }
    if has(of, "reason") {
        one_of(errors, of, "reason", path, REASONS);
    }
}

fn mutating(policy: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(policy, "spec"), Path::new("spec"));
    common(spec, &path, true, &mut errors);
    if list(spec, "mutations").is_empty() {
        let words = "mutations must contain at least one item";
        errors.push(FieldError::required(&path.child("mutations"), words));
    }
    for (path, mutation) in items(spec, "mutations", &path) {
        let kind = text(mutation, "patchType");
        let (own, other) = match kind {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            _ => {
                required_one_of(&mut errors, mutation, "patchType", &path, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        if has(mutation, own) {
            expression(get(mutation, own), "expression", "", &path.child(own), &mut errors);
        } else {
            let words = format!("must be specified when patchType is {kind}");
            errors.push(FieldError::required(&path.child(own), &words));
        }
        if has(mutation, other) {
            let words = format!("must not be specified when patchType is {kind}");
            errors.push(FieldError::invalid(&path.child(other), format!("{{{other}}}").as_str(), words));
        }
    }
    required_one_of(&mut errors, spec, "reinvocationPolicy", &path, REINVOCATION_POLICIES);
    errors.extend(checks::mutating(policy));
    errors
}

fn status(policy: &Value) -> Errors {
    let mut errors = Vec::new();
    let (status, path) = (get(policy, "status"), Path::new("status"));
    let checking = get(status, "typeChecking");
    for (path, warning) in items(checking, "expressionWarnings", &path.child("typeChecking")) {
        check::required(&mut errors, warning, "warning", &path);
        expression(warning, "fieldRef", "", &path, &mut errors);
    }
    status_conditions::validate(status, &path, &mut errors);
    errors
}
