//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, PORT_RANGE, items, one_of};
use super::super::json::{each_mut, ensure_object, get, has, int, list, object_mut, same, set_absent, text};
use super::super::{Context, Hooks, selectors, strategy};
use super::{BASE, FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, conditions, rules};
use crate::admission::policy::checks;

pub static VALIDATING: Hooks = Hooks { default: |object| each_mut(object, "webhooks").for_each(default), ..EITHER };

pub static MUTATING: Hooks = Hooks {
    default: |object| {
        for webhook in each_mut(object, "webhooks") {
            default(webhook);
            set_absent(webhook, "reinvocationPolicy", "Never");
        }
    },
    ..EITHER
};

const EITHER: Hooks = Hooks {
    prepare_update: |new, old, _| strategy::bump_generation_for(new, old, "webhooks"),
    validate,
    validate_create: |object, _| match_conditions(object),
    validate_update,
    ..BASE
};

const TIMEOUT_SECONDS: i64 = 10;
const TIMEOUT_SECONDS_MAX: i64 = 30;
const PORT: i64 = 443;
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];

fn default(webhook: &mut Value) {
    set_absent(webhook, "failurePolicy", "Fail");
    set_absent(webhook, "matchPolicy", "Equivalent");
    for selector in ["namespaceSelector", "objectSelector"] {
        ensure_object(webhook, selector);
    }
    set_absent(webhook, "timeoutSeconds", TIMEOUT_SECONDS);
    rules::default_scopes(webhook, "rules");
    if let Some(service) = object_mut(webhook, "clientConfig").and_then(|c| object_mut(c, "service")) {
        set_absent(service, "port", PORT);
    }
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let all = list(object, "webhooks");
    for (i, (path, webhook)) in items(object, "webhooks", &Path::root()).enumerate() {
        self::webhook(webhook, &path, &mut errors);
        review_versions(webhook, &path.child("admissionReviewVersions"), &mut errors);
        let name = text(webhook, "name");
        if !name.is_empty() && all[..i].iter().any(|other| text(other, "name") == name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
    errors
}

fn webhook(webhook: &Value, path: &Path, errors: &mut Errors) {
    let name = check::required(errors, webhook, "name", path);
    let wrong = names::dns1123_subdomain(name);
    if name.is_empty() {
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid(&path.child("name"), name, wrong.join(",")));
    } else if name.split('.').count() < 3 {
        let words = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(&path.child("name"), name, words));
    }
    items(webhook, "rules", path).for_each(|(path, rule)| rules::rule(rule, &path, errors));
    one_of(errors, webhook, "failurePolicy", path, FAILURE_POLICIES);
    one_of(errors, webhook, "matchPolicy", path, MATCH_POLICIES);
    if has(webhook, "sideEffects") {
        let value = text(webhook, "sideEffects");
        if !SIDE_EFFECTS.contains(&value) {
            errors.push(FieldError::not_supported(&path.child("sideEffects"), value, SIDE_EFFECTS));
        }
    } else {
        let words = format!("must specify one of {}", SIDE_EFFECTS.join(", "));
        errors.push(FieldError::required(&path.child("sideEffects"), &words));
    }
    if let Some(n) = int(webhook, "timeoutSeconds").filter(|n| !(1..=TIMEOUT_SECONDS_MAX).contains(n)) {
        let words = format!("the timeout value must be between 1 and {TIMEOUT_SECONDS_MAX} seconds");
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), n, words));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        selectors::validate(get(webhook, field), &path.child(field), errors);
    }
    one_of(errors, webhook, "reinvocationPolicy", path, REINVOCATION_POLICIES);
    let (client, path) = (get(webhook, "clientConfig"), path.child("clientConfig"));
    match (has(client, "url"), has(client, "service")) {
        (true, false) => url(text(client, "url"), &path.child("url"), errors),
        (false, true) => service(get(client, "service"), &path.child("service"), errors),
        _ => errors.push(FieldError::required(&path, "exactly one of url or service is required")),
    }
}

fn review_versions(webhook: &Value, path: &Path, errors: &mut Errors) {
    let field = get(webhook, "admissionReviewVersions");
    let all = list(webhook, "admissionReviewVersions");
    let known = REVIEW_VERSIONS.join(", ");
    if all.is_empty() {
        errors.push(FieldError::required(path, &format!("must specify one of {known}")));
        return;
    }
    for (i, version) in all.iter().enumerate() {
        let text = version.as_str().unwrap_or_default();
        if all[..i].contains(version) {
            errors.push(FieldError::invalid(&path.index(i), text, "duplicate version"));
        } else {
            check::wrong(errors, &path.index(i), text, names::dns1035_label(text));
        }
    }
    if !all.iter().any(|v| v.as_str().is_some_and(|v| REVIEW_VERSIONS.contains(&v))) {
        errors.push(FieldError::invalid(path, field, format!("must include at least one of {known}")));
    }
}

/// Source: apiserver `pkg/util/webhook/validation.go` `ValidateWebhookURL`.
pub fn url(url: &str, path: &Path, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        let words = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(FieldError::invalid(path, scheme, words));
    }
    if host.is_empty() {
        errors.push(FieldError::invalid(path, host, format!("host must be specified{FORM}")));
    }
    for (part, words) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.push(FieldError::invalid(path, part, words));
        }
    }
}

/// Source: apiserver `pkg/util/webhook/validation.go` `ValidateWebhookService`. Upstream's callers give it name and namespace
/// in the other order, and so does this: an error names the field that is there.
pub fn service(service: &Value, path: &Path, errors: &mut Errors) {
    for (field, said) in [("namespace", "name"), ("name", "namespace")] {
        if text(service, field).is_empty() {
            errors.push(FieldError::required(&path.child(said), ""));
        }
    }
    let port = int(service, "port").unwrap_or(0);
    if !(1..=65535).contains(&port) {
        errors.push(FieldError::invalid(&path.child("port"), port, format!("port is not valid: {PORT_RANGE}")));
    }
    service_path(text(service, "path"), &path.child("path"), errors);
}

fn service_path(given: &str, path: &Path, errors: &mut Errors) {
    if given.is_empty() || given == "/" {
        return;
    }
    if given == "//" {
        errors.push(FieldError::invalid(path, given, "segment[0] may not be empty"));
        return;
    }
    if !given.starts_with('/') {
        errors.push(FieldError::invalid(path, given, "must start with a '/'"));
    }
    // Upstream drops the first character whatever it is.
    let rest = given.get(1..).unwrap_or_default();
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.push(FieldError::invalid(path, given, format!("segment[{i}] may not be empty")));
            continue;
        }
        for words in names::dns1123_subdomain(step) {
            errors.push(FieldError::invalid(path, given, format!("segment[{i}]: {words}")));
        }
    }
}

fn match_conditions(object: &Value) -> Errors {
    let mut errors = Vec::new();
    for (path, webhook) in items(object, "webhooks", &Path::root()) {
        conditions::validate(webhook, &path, &mut errors);
        checks::conditions(webhook, &path, false, &mut errors);
    }
    errors
}

/// Conditions that stay as they are, are not asked about again.
fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let (now, was) = (list(new, "webhooks"), list(old, "webhooks"));
    let conditions = |webhook| get(webhook, "matchConditions");
    if now.len() == was.len() && now.iter().zip(was).all(|(a, b)| same(conditions(a), conditions(b))) {
        return Vec::new();
    }
    match_conditions(new)
}
