//! ResourceQuota. Source: `ValidateResourceQuota*`, `pkg/registry/core/resourcequota/strategy.go`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use types::field::{FieldError, Path};

use super::super::check::Errors;
use super::super::json::{
    at, canonical_resources, copy, get, has, list, map, object_mut, quantity, remove, set, text, texts,
};
use super::super::strategy::{keep_generation, keep_metadata};
use super::super::{Context, Hooks, amounts};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    delete_returns_object: true,
    warnings,
    ..Hooks::NEUTRAL
};

const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
/// Scopes of which a quota has one at most.
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

fn default(object: &mut Value) {
    for (half, lists) in [("spec", &["hard"][..]), ("status", &["hard", "used"][..])] {
        if let Some(half) = object_mut(object, half) {
            lists.iter().for_each(|list| canonical_resources(half, list));
        }
    }
}

fn prepare_create(object: &mut Value, _: &Context) {
    set(object, "status", json!({}));
    if let Some(meta) = object_mut(object, "metadata") {
        remove(meta, "generation");
    }
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, &["generation"]);
        return;
    }
    copy(new, old, "status");
    keep_generation(new, old);
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    amounts(spec, "hard", &path, &mut errors);
    scopes(spec, &path, &mut errors);
    if has(spec, "scopeSelector") {
        selector(spec, &path.child("scopeSelector"), &mut errors);
    }
    errors
}

fn amounts(object: &Value, field: &str, path: &Path, errors: &mut Errors) {
    for (name, amount) in map(object, field) {
        let at = path.child(field).key(name);
        amounts::quota_name(name, &at, errors);
        amounts::amount(name, amount, &at, errors);
    }
}

fn is_scope(scope: &str) -> bool {
    CONFLICTS.iter().flatten().any(|s| *s == scope)
        || matches!(scope, "PriorityClass" | "VolumeAttributesClass" | "CrossNamespacePodAffinity")
}

/// Whether objects within the scope use the resource.
fn applies(scope: &str, name: &str) -> bool {
    match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        scope if is_scope(scope) => name == "pods" || COMPUTE.contains(&name),
        _ => true,
    }
}

/// The resources of the quota that the scope does not know.
fn strangers(spec: &Value, scope: &str) -> usize {
    map(spec, "hard").filter(|(name, _)| amounts::is_quota(name) && !applies(scope, name)).count()
}

fn scopes(spec: &Value, path: &Path, errors: &mut Errors) {
    let (path, shown) = (path.child("scopes"), get(spec, "scopes"));
    for scope in texts(spec, "scopes") {
        if !is_scope(scope) {
            errors.push(FieldError::invalid(&path, shown, "unsupported scope"));
        }
        for _ in 0..strangers(spec, scope) {
            errors.push(FieldError::invalid(&path, shown, "unsupported scope applied to resource"));
        }
    }
    for pair in CONFLICTS {
        if pair.iter().all(|scope| texts(spec, "scopes").any(|s| s == *scope)) {
            errors.push(FieldError::invalid(&path, shown, "conflicting scopes"));
        }
    }
}

fn selector(spec: &Value, path: &Path, errors: &mut Errors) {
    const EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                          ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
    let path = path.child("matchExpressions");
    let selector = get(spec, "scopeSelector");
    let requirements = list(selector, "matchExpressions");
    for requirement in requirements {
        let (scope, operator) = (text(requirement, "scopeName"), text(requirement, "operator"));
        if !is_scope(scope) {
            errors.push(FieldError::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in 0..strangers(spec, scope) {
            errors.push(FieldError::invalid(&path, selector, "unsupported scope applied to resource"));
        }
        let only_exists = CONFLICTS.iter().flatten().any(|s| *s == scope) || scope == "CrossNamespacePodAffinity";
        if only_exists && operator != "Exists" {
            errors.push(FieldError::invalid(&path.child("operator"), operator, EXISTS));
        }
        let none = list(requirement, "values").is_empty();
        match operator {
            "In" | "NotIn" if none => {
                let words = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(&path.child("values"), words));
            }
            "Exists" | "DoesNotExist" if !none => {
                let words = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(&path.child("values"), get(requirement, "values"), words));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(&path.child("operator"), operator, "not a valid selector operator")),
        }
    }
    for pair in CONFLICTS {
        if pair.iter().all(|scope| requirements.iter().any(|r| text(r, "scopeName") == *scope)) {
            errors.push(FieldError::invalid(&path, get(spec, "scopes"), "conflicting scopes"));
        }
    }
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        let (status, path) = (get(new, "status"), Path::new("status"));
        amounts(status, "hard", &path, &mut errors);
        amounts(status, "used", &path, &mut errors);
        return errors;
    }
    let scopes = |o| texts(get(o, "spec"), "scopes").collect::<BTreeSet<_>>();
    if scopes(new) != scopes(old) {
        let shown = at(new, &["spec", "scopes"]);
        errors.push(FieldError::invalid(&Path::new("spec.scopes"), shown, "field is immutable"));
    }
    errors
}

fn warnings(object: &Value) -> Vec<String> {
    let hard = at(object, &["spec", "hard"]);
    let mut warnings = Vec::new();
    for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let mut request = format!("requests.{resource}");
        if !has(hard, &request) && matches!(resource, "cpu" | "memory") {
            request = resource.to_owned();
        }
        let limit = format!("limits.{resource}");
        if let (Some(requested), Some(limited)) = (quantity(get(hard, &request)), quantity(get(hard, &limit)))
            && requested > limited
        {
            warnings.push(format!("ResourceQuota {request} ({requested}) should be less than {limit} ({limited})"));
        }
    }
    warnings
}
