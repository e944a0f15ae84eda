//! Which requests a webhook or a policy is asked about.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, items, one_of};
use super::super::json::{each_mut, ensure_object, get, has, list, set_absent, texts};
use super::super::selectors;
use super::MATCH_POLICIES;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What can be changed on its way: nothing that is deleted.
const MUTABLE_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// The scope of each rule under `field`.
pub fn default_scopes(of: &mut Value, field: &str) {
    for rule in each_mut(of, field) {
        set_absent(rule, "scope", "*");
    }
}

/// Source: `SetDefaults_MatchResources`.
pub fn default_resources(of: &mut Value) {
    set_absent(of, "matchPolicy", "Equivalent");
    for selector in ["namespaceSelector", "objectSelector"] {
        ensure_object(of, selector);
    }
    for rules in ["resourceRules", "excludeResourceRules"] {
        default_scopes(of, rules);
    }
}

/// Source: `validateMatchResources`.
pub fn resources(of: &Value, path: &Path, errors: &mut Errors) {
    check::required_one_of(errors, of, "matchPolicy", path, MATCH_POLICIES);
    for field in ["namespaceSelector", "objectSelector"] {
        if has(of, field) {
            selectors::validate(get(of, field), &path.child(field), errors);
        } else {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (path, named) in items(of, field, path) {
            let resource_names: Vec<&str> = texts(named, "resourceNames").collect();
            for (i, name) in resource_names.iter().enumerate() {
                let path = path.child("resourceNames").index(i);
                check::wrong(errors, &path, name, names::path_segment(name));
                if resource_names[..i].contains(name) {
                    errors.push(FieldError::duplicate(&path, *name));
                }
            }
            rule(named, &path, errors);
        }
    }
}

/// Rules of what mutates name no operation without an object to change.
pub fn mutable_operations(of: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("resourceRules").child("operations");
    for rule in list(of, "resourceRules") {
        for operation in texts(rule, "operations").filter(|o| !MUTABLE_OPERATIONS.contains(o)) {
            errors.push(FieldError::not_supported(&path, operation, MUTABLE_OPERATIONS));
        }
    }
}

/// Source: `validateRuleWithOperations`.
pub fn rule(of: &Value, path: &Path, errors: &mut Errors) {
    listed(of, "operations", "operations", path, errors);
    for (path, operation) in items(of, "operations", path) {
        let operation = operation.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.push(FieldError::not_supported(&path, operation, OPERATIONS));
        }
    }
    listed(of, "apiGroups", "API groups", path, errors);
    listed(of, "apiVersions", "API versions", path, errors);
    for (path, version) in items(of, "apiVersions", path) {
        if version.as_str() == Some("") {
            errors.push(FieldError::required(&path, ""));
        }
    }
    self::names_of_resources(of, path, errors);
    one_of(errors, of, "scope", path, SCOPES);
}

/// At least one, and nothing beside `*`.
fn listed(of: &Value, field: &str, what: &str, path: &Path, errors: &mut Errors) {
    let path = path.child(field);
    match list(of, field).len() {
        0 => errors.push(FieldError::required(&path, "")),
        n if n > 1 && texts(of, field).any(|v| v == "*") => {
            let words = format!("if '*' is present, must not specify other {what}");
            errors.push(FieldError::invalid(&path, get(of, field), words));
        }
        _ => {}
    }
}

/// Source: `validateResources`.
fn names_of_resources(of: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("resources");
    let all: Vec<&str> = texts(of, "resources").collect();
    if all.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    let (mut every_sub, mut every_resource) = (Vec::new(), Vec::new());
    // Upstream remembers the last resource only.
    let mut plain = false;
    for (i, name) in all.iter().enumerate() {
        let path = path.index(i);
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let Some((resource, sub)) = name.split_once('/') else {
            plain = *name != "*";
            continue;
        };
        for (seen, shown) in [
            (every_sub.contains(&resource), format!("{resource}/*")),
            (every_resource.contains(&sub), format!("*/{sub}")),
        ] {
            if seen {
                let words = format!("if '{shown}' is present, must not specify {name}");
                errors.push(FieldError::invalid(&path, *name, words));
            }
        }
        if sub == "*" {
            every_sub.push(resource);
        }
        if resource == "*" {
            every_resource.push(sub);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        let words = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(&path, get(of, "resources"), words));
    }
    if all.contains(&"*") && plain {
        let words = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(&path, get(of, "resources"), words));
    }
}
