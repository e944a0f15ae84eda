//! Roles and bindings. Source: `pkg/apis/rbac/validation/validation.go`, `pkg/apis/rbac/v1/defaults.go`.
//!
//! Whether the writer holds what is granted is the authorizer's question, not asked here.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::json::{each_mut, ensure_object, get, list, same, set_blank, text};
use super::{Context, Hooks};

pub const GROUP: &str = "rbac.authorization.k8s.io";

const BASE: Hooks = Hooks { validate_name: names::path_segment, create_on_update: true, ..Hooks::NEUTRAL };

pub static ROLE: Hooks = Hooks { validate: |role| rules(role, true), ..BASE };
pub static CLUSTER_ROLE: Hooks = Hooks { validate: |role| rules(role, false), ..BASE };
pub static ROLE_BINDING: Hooks =
    Hooks { default: binding_defaults, validate: |b| binding(b, true), validate_update: binding_update, ..BASE };
pub static CLUSTER_ROLE_BINDING: Hooks =
    Hooks { default: binding_defaults, validate: |b| binding(b, false), validate_update: binding_update, ..BASE };

fn rules(role: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, rule) in list(role, "rules").iter().enumerate() {
        let path = Path::new("rules").index(i);
        let none = |field: &str| list(rule, field).is_empty();
        if none("verbs") {
            errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !none("nonResourceURLs") {
            let (path, urls) = (path.child("nonResourceURLs"), get(rule, "nonResourceURLs"));
            if namespaced {
                let words = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&path, urls, words));
            }
            if !(none("apiGroups") && none("resources") && none("resourceNames")) {
                let words = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&path, urls, words));
            }
            continue;
        }
        if none("apiGroups") {
            let words = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.child("apiGroups"), words));
        }
        if none("resources") {
            let words = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.child("resources"), words));
        }
    }
    errors
}

fn binding_defaults(binding: &mut Value) {
    if let Some(role) = ensure_object(binding, "roleRef") {
        set_blank(role, "apiGroup", GROUP);
    }
    for subject in each_mut(binding, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_blank(subject, "apiGroup", GROUP);
        }
    }
}

fn binding(binding: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (role, path) = (get(binding, "roleRef"), Path::new("roleRef"));
    let (group, kind, name) = (text(role, "apiGroup"), text(role, "kind"), text(role, "name"));
    if group != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, kinds));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        errors.extend(names::path_segment(name).into_iter().map(|e| FieldError::invalid(&path.child("name"), name, e)));
    }
    for (i, subject) in list(binding, "subjects").iter().enumerate() {
        self::subject(subject, namespaced, &Path::new("subjects").index(i), &mut errors);
    }
    errors
}

fn subject(subject: &Value, namespaced: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let group_is = |wanted: &str, errors: &mut Vec<FieldError>| {
        if group != wanted {
            errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[wanted]));
        }
    };
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                let wrong = names::dns1123_subdomain(name);
                errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&path.child("name"), name, e)));
            }
            group_is("", errors);
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => group_is(GROUP, errors),
        _ => {
            errors.push(FieldError::not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]));
        }
    }
}

fn binding_update(new: &Value, old: &Value, _: &Context) -> Vec<FieldError> {
    let (role, before) = (get(new, "roleRef"), get(old, "roleRef"));
    if same(role, before) {
        return Vec::new();
    }
    vec![FieldError::invalid(&Path::new("roleRef"), role, "cannot change roleRef")]
}
