//! FlowSchema: which requests go to which priority level.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, items};
use super::super::json::{boolean, ensure_object, get, has, int, list, set_zero, text, texts};
use super::{bootstrap, level};

const PRECEDENCE: i64 = 1000;
const PRECEDENCE_MAX: i64 = 10_000;
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// The kinds of subjects, with the field that holds each.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

pub fn default(schema: &mut Value) {
    if let Some(spec) = ensure_object(schema, "spec") {
        set_zero(spec, "matchingPrecedence", PRECEDENCE);
    }
}

pub fn validate(schema: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(schema, "spec"), Path::new("spec"));
    precedence(schema, int(spec, "matchingPrecedence").unwrap_or(0), &path, &mut errors);
    if has(spec, "distinguisherMethod") {
        let (method, path) = (get(spec, "distinguisherMethod"), path.child("distinguisherMethod"));
        let known = &["ByNamespace", "ByUser"];
        if !known.contains(&text(method, "type")) {
            let mut error = FieldError::not_supported(&path.child("type"), "", known);
            // Upstream shows the whole method.
            error.value = Some(method.to_string());
            errors.push(error);
        }
    }
    let at = path.child("priorityLevelConfiguration").child("name");
    match text(get(spec, "priorityLevelConfiguration"), "name") {
        "" => errors.push(FieldError::required(&at, "must reference a priority level")),
        name => check::wrong(&mut errors, &at, name, names::dns1123_subdomain(name)),
    }
    items(spec, "rules", &path).for_each(|(path, of)| rule(of, &path, &mut errors));
    errors.extend(super::mandatory(schema, &bootstrap::mandatory_schemas()));
    errors.extend(super::conditions(schema));
    errors
}

fn precedence(schema: &Value, precedence: i64, path: &Path, errors: &mut Errors) {
    let path = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(FieldError::invalid(&path, precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        errors.push(FieldError::invalid(&path, precedence, format!("must not be greater than {PRECEDENCE_MAX}")));
    }
    if precedence == 1 && text(get(schema, "metadata"), "name") != level::EXEMPT {
        let words = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(FieldError::invalid(&path, precedence, words));
    }
}

fn rule(of: &Value, path: &Path, errors: &mut Errors) {
    if list(of, "subjects").is_empty() {
        let words = "subjects must contain at least one value";
        errors.push(FieldError::required(&path.child("subjects"), words));
    }
    items(of, "subjects", path).for_each(|(path, of)| subject(of, &path, errors));
    if list(of, "resourceRules").is_empty() && list(of, "nonResourceRules").is_empty() {
        let words = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, words));
    }
    for (path, rule) in items(of, "resourceRules", path) {
        resource_rule(rule, &path, errors);
    }
    for (path, rule) in items(of, "nonResourceRules", path) {
        verbs(rule, &path, errors);
        let at = path.child("nonResourceURLs");
        let urls: Vec<&str> = texts(rule, "nonResourceURLs").collect();
        if urls.is_empty() {
            errors.push(FieldError::required(&at, "nonResourceURLs must contain at least one value"));
        } else if !alone(rule, "nonResourceURLs", "non-resource URLs", &path, errors) {
            for (i, url) in urls.iter().enumerate() {
                if let Some(words) = bad_url(url) {
                    errors.push(FieldError::invalid(&at.index(i), *url, words));
                }
            }
        }
    }
}

fn subject(of: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(of, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        let known = &["Group", "ServiceAccount", "User"];
        errors.push(FieldError::not_supported(&path.child("kind"), kind, known));
        return;
    };
    let (who, at) = (get(of, own), path.child(own));
    if who.is_null() {
        errors.push(FieldError::required(&at, &format!("{own} is required when subject kind is '{kind}'")));
    } else {
        let name = check::required(errors, who, "name", &at);
        if kind == "ServiceAccount" {
            if !name.is_empty() && name != "*" {
                check::wrong(errors, &at.child("name"), name, names::dns1123_subdomain(name));
            }
            match text(who, "namespace") {
                "" => {
                    let words = "must specify namespace for service account";
                    errors.push(FieldError::required(&at.child("namespace"), words));
                }
                namespace => {
                    check::wrong(errors, &at.child("namespace"), namespace, names::dns1123_label(namespace));
                }
            }
        }
    }
    for (other, field) in SUBJECTS.iter().filter(|(other, field)| *other != kind && has(of, field)) {
        let words = format!("{field} is forbidden when subject kind is not '{other}'");
        errors.push(FieldError::forbidden(&path.child(field), words));
    }
}

/// Whether everything is meant; then nothing else may be said.
fn alone(rule: &Value, field: &str, what: &str, path: &Path, errors: &mut Errors) -> bool {
    let everything = texts(rule, field).any(|v| v == "*");
    if everything && list(rule, field).len() > 1 {
        let words = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(&path.child(field), get(rule, field), words));
    }
    everything
}

fn verbs(rule: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("verbs");
    if list(rule, "verbs").is_empty() {
        errors.push(FieldError::required(&at, "verbs must contain at least one value"));
    } else if !alone(rule, "verbs", "verbs", path, errors) && !texts(rule, "verbs").all(|v| VERBS.contains(&v)) {
        let mut error = FieldError::not_supported(&at, "", VERBS);
        error.value = Some(get(rule, "verbs").to_string());
        errors.push(error);
    }
}

fn resource_rule(rule: &Value, path: &Path, errors: &mut Errors) {
    verbs(rule, path, errors);
    for (field, what, one) in [("apiGroups", "api groups", "api group"), ("resources", "resources", "resource")] {
        if list(rule, field).is_empty() {
            let words = format!("resource rules must supply at least one {one}");
            errors.push(FieldError::required(&path.child(field), &words));
        } else {
            alone(rule, field, what, path, errors);
        }
    }
    let at = path.child("namespaces");
    if list(rule, "namespaces").is_empty() && !boolean(rule, "clusterScope") {
        let words = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(&at, words));
    } else if !alone(rule, "namespaces", "namespaces", path, errors) {
        for (i, namespace) in texts(rule, "namespaces").enumerate() {
            for words in names::dns1123_label(namespace) {
                let words = format!("each member of this list must be '*' or a DNS-1123 label; {words}");
                errors.push(FieldError::invalid(&at.index(i), namespace, words));
            }
        }
    }
}

fn bad_url(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ => match url.matches('*').count() {
            0 => None,
            1 if url.ends_with("/*") => None,
            _ => Some("wildcard can only do suffix matching"),
        },
    }
}
