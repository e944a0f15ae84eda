//! Whether a definition is one: everything but what its schemas say.
//!
//! Source: apiextensions-apiserver `pkg/apis/apiextensions/validation/validation.go`; apiserver
//! `pkg/util/webhook/validation.go`.

use std::collections::HashSet;

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::schema;
use crate::custom::jsonpath::{self, JsonPath, Unread};
use crate::custom::settle::{self, condition};
use crate::hooks::json::{at, boolean, get, has, list, same, text, texts};

/// Selectable fields of a version.
const SELECTABLE_MAX: usize = 8;
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// What is wrong with a new definition.
pub fn validate(definition: &Value) -> Vec<FieldError> {
    let mut errors = check(definition, None);
    let metadata = get(definition, "metadata");
    let names = at(definition, &["spec", "names"]);
    let expected = format!("{}.{}", text(names, "plural"), text(get(definition, "spec"), "group"));
    let name = text(metadata, "name");
    if name != expected && !name.is_empty() {
        let words = "must be spec.names.plural+\".\"+spec.group";
        errors.insert(0, FieldError::invalid(&Path::new("metadata.name"), name, words));
    }
    errors
}

/// What is wrong with a changed definition; what was so before may stay so.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    check(new, Some(old))
}

/// What is wrong with the status that somebody writes.
pub fn validate_status(definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    names_(at(definition, &["status", "acceptedNames"]), &Path::new("status.acceptedNames"), &mut errors);
    errors
}

fn check(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = get(definition, "spec");
    spec_(spec, old, &mut errors);
    if let Some(old) = old {
        immutable(spec, old, &mut errors);
    }
    errors.extend(validate_status(definition));
    stored_versions(definition, &mut errors);
    approval(definition, old, &mut errors);
    let was_preserving = old.is_some_and(|old| boolean(get(old, "spec"), "preserveUnknownFields"));
    if !was_preserving && boolean(spec, "preserveUnknownFields") {
        let words =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(&Path::new("spec.preserveUnknownFields"), &Value::Bool(true), words));
    }
    errors
}

fn immutable(spec: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let before = get(old, "spec");
    let established = condition(old, "Established").is_some_and(|c| text(c, "status") == "True");
    let fields: &[&[&str]] = &[&["scope"], &["names", "kind"], &["group"], &["names", "plural"]];
    for path in fields.iter().skip(if established { 0 } else { 2 }) {
        let (new, was) = (at(spec, path), at(before, path));
        if !same(new, was) {
            let path = Path::new("spec").child(&path.join("."));
            errors.push(FieldError::invalid(&path, new, "field is immutable"));
        }
    }
}

fn spec_(spec: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let path = Path::new("spec");
    let group = text(spec, "group");
    let wrong = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required(&path.child("group"), ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid(&path.child("group"), group, wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid(&path.child("group"), group, "should be a domain with at least one dot"));
    }
    choice(spec, "scope", &["Cluster", "Namespaced"], &path, errors);
    let versions = list(spec, "versions");
    let at_version = |i: usize| path.child("versions").index(i);
    for (i, version) in versions.iter().enumerate() {
        if !has(get(version, "schema"), "openAPIV3Schema") {
            errors.push(FieldError::required(&at_version(i).child("schema.openAPIV3Schema"), ""));
        }
    }
    let shared = Parts::shared(versions);
    let own = shared.others();
    let mut seen = HashSet::new();
    let mut unique = true;
    for (i, version) in versions.iter().enumerate() {
        let name = text(version, "name");
        unique &= seen.insert(name);
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&at_version(i).child("name"), name, wrong.join(",")));
        }
        for why in deprecation(version) {
            let at = at_version(i).child("deprecationWarning");
            errors.push(FieldError::invalid(&at, get(version, "deprecationWarning"), why));
        }
        let before =
            old.and_then(|old| list(get(old, "spec"), "versions").iter().find(|before| text(before, "name") == name));
        own.check(version, before, has(get(version, "subresources"), "status"), &at_version(i), "schema", errors);
    }
    if !unique {
        let words = "must contain unique version names";
        errors.push(FieldError::invalid(&path.child("versions"), get(spec, "versions"), words));
    }
    if versions.iter().filter(|v| boolean(v, "storage")).count() != 1 {
        let words = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&path.child("versions"), get(spec, "versions"), words));
    }
    let names = get(spec, "names");
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(names, field).is_empty() {
            errors.push(FieldError::required(&path.child("names").child(field), ""));
        }
    }
    names_(names, &path.child("names"), errors);
    if let Some(version) = versions.first() {
        let before = old.and_then(|old| list(get(old, "spec"), "versions").first());
        let any_status = versions.iter().any(|v| has(get(v, "subresources"), "status"));
        if shared.selectable && !shared.schema && !list(version, "selectableFields").is_empty() {
            let words = "may only be set when validations.schema is included";
            errors.push(FieldError::invalid(&path.child("selectableFields"), "", words));
        } else {
            shared.check(version, before, any_status, &path, "validation", errors);
        }
    }
    conversion(get(spec, "conversion"), old, &path.child("conversion"), errors);
}

fn choice(object: &Value, field: &str, accepted: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    match text(object, field) {
        "" => errors.push(FieldError::required(&path.child(field), "")),
        value if !accepted.contains(&value) => {
            errors.push(FieldError::not_supported(&path.child(field), value, accepted));
        }
        _ => {}
    }
}

fn names_(names: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let label = |value: &str, path: Path, errors: &mut Vec<FieldError>| {
        let wrong = names::dns1035_label(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&path, value, wrong.join(",")));
        }
    };
    for field in ["plural", "singular"] {
        if !text(names, field).is_empty() {
            label(text(names, field), path.child(field), errors);
        }
    }
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    for (field, value) in [("kind", kind), ("listKind", list_kind)] {
        let wrong = names::dns1035_label(&value.to_lowercase());
        if !value.is_empty() && !wrong.is_empty() {
            let words = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(&path.child(field), value, words));
        }
    }
    for (i, name) in texts(names, "shortNames").enumerate() {
        label(name, path.child("shortNames").index(i), errors);
    }
    if !kind.is_empty() && kind == list_kind {
        let words = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.child("listKind"), list_kind, words));
    }
    for (i, name) in texts(names, "categories").enumerate() {
        label(name, path.child("categories").index(i), errors);
    }
}

/// Parts of a version. Those that all versions have alike are one part of the definition to upstream, and are checked there.
///
/// Source: `Convert_v1_CustomResourceDefinitionSpec_To_apiextensions_CustomResourceDefinitionSpec`.
#[derive(Clone, Copy)]
struct Parts {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Parts {
    fn shared(versions: &[Value]) -> Self {
        let alike = |field: &str| versions.windows(2).all(|pair| same(get(&pair[0], field), get(&pair[1], field)));
        Self {
            schema: alike("schema"),
            subresources: alike("subresources"),
            columns: alike("additionalPrinterColumns"),
            selectable: alike("selectableFields"),
        }
    }

    fn others(self) -> Self {
        let Self { schema, subresources, columns, selectable } = self;
        Self { schema: !schema, subresources: !subresources, columns: !columns, selectable: !selectable }
    }

    /// Checks these parts of a version; `holder` is the field in which the schema is.
    fn check(
        self,
        version: &Value,
        old: Option<&Value>,
        has_status: bool,
        path: &Path,
        holder: &str,
        errors: &mut Vec<FieldError>,
    ) {
        let schema = at(version, &["schema", "openAPIV3Schema"]);
        if self.schema && !schema.is_null() {
            let unchanged = old.is_some_and(|old| same(at(old, &["schema", "openAPIV3Schema"]), schema));
            let at = path.child(holder).child("openAPIV3Schema");
            errors.extend(schema::validate(schema, has_status, unchanged, &at));
        }
        if self.subresources {
            scale(at(version, &["subresources", "scale"]), &path.child("subresources"), errors);
        }
        if self.columns {
            for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
                column_(column, &path.child("additionalPrinterColumns").index(i), errors);
            }
        }
        if self.selectable {
            selectable(version, old, schema, path, errors);
        }
    }
}

/// Source: `validateDeprecationWarning`.
fn deprecation(version: &Value) -> Vec<String> {
    let Some(warning) = get(version, "deprecationWarning").as_str() else { return Vec::new() };
    if !boolean(version, "deprecated") {
        return vec!["can only be set for deprecated versions".into()];
    }
    let mut errors = Vec::new();
    if warning.len() > 256 {
        errors.push("must be <= 256 characters long".into());
    }
    if warning.is_empty() {
        errors.push("must not be an empty string".into());
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        errors
            .push(format!("must only contain printable UTF-8 characters; non-printable character found at index {i}"));
    }
    errors
}

/// A path of dotted names. Source: `validateSimpleJSONPath`.
fn simple_path(value: &str, path: &Path, errors: &mut Vec<FieldError>) -> bool {
    let good = value.starts_with('.');
    if !good {
        errors.push(FieldError::invalid(path, value, "must be a simple json path starting with ."));
    }
    good
}

fn scale(scale: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if scale.is_null() {
        return;
    }
    for (field, under) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (value, at) = (text(scale, field), path.child("scale").child(field));
        if value.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if simple_path(value, &at, errors) && !value.starts_with(under) {
            let words = format!("should be a json path under {}", under.trim_end_matches('.'));
            errors.push(FieldError::invalid(&at, value, words));
        }
    }
    let (value, at) = (text(scale, "labelSelectorPath"), path.child("scale.labelSelectorPath"));
    let under = |prefix| value.starts_with(prefix);
    if !value.is_empty() && simple_path(value, &at, errors) && !under(".spec.") && !under(".status.") {
        errors.push(FieldError::invalid(&at, value, "should be a json path under either .spec or .status"));
    }
}

fn column_(column: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let one_of = |names: &[&str]| format!("must be one of {}", names.join(","));
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    match text(column, "type") {
        "" => errors.push(FieldError::required(&path.child("type"), &one_of(COLUMN_TYPES))),
        other if !COLUMN_TYPES.contains(&other) => {
            errors.push(FieldError::invalid(&path.child("type"), other, one_of(COLUMN_TYPES)));
        }
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.push(FieldError::invalid(&path.child("format"), format, one_of(COLUMN_FORMATS)));
    }
    match text(column, "jsonPath") {
        "" => errors.push(FieldError::required(&path.child("JSONPath"), "")),
        value => {
            let at = path.child("JSONPath");
            // A path that is none is taken, as upstream takes it, and its cells are empty.
            if simple_path(value, &at, errors) && JsonPath::read(value) == Err(Unread::TooLarge) {
                let (bytes, depth) = (jsonpath::BYTES_MAX, jsonpath::DEPTH_MAX);
                let words = format!("must have at most {bytes} bytes and {depth} filters within each other");
                errors.push(FieldError::invalid(&at, value, words));
            }
        }
    }
}

fn selectable(version: &Value, old: Option<&Value>, schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let fields = list(version, "selectableFields");
    if fields.is_empty() {
        return;
    }
    let all = path.child("selectableFields");
    if schema.is_null() {
        let words = "may only be set when `version.schema.openAPIV3Schema` is not included";
        errors.push(FieldError::invalid(&all, "", words));
        return;
    }
    let mut seen = HashSet::new();
    for (i, field) in fields.iter().enumerate() {
        let (value, at) = (text(field, "jsonPath"), all.index(i).child("jsonPath"));
        if value.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let found = match schema::field_at(schema, value) {
            Ok(found) => found,
            Err(why) => {
                errors.push(FieldError::invalid(&at, value, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if value.starts_with(".metadata.") || value == ".metadata" {
            errors.push(FieldError::invalid(&at, value, "must not point to fields in metadata"));
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            let words = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                         formats are allowed.";
            errors.push(FieldError::invalid(&at, value, words));
        }
        if !seen.insert(value) {
            errors.push(FieldError::duplicate(&at, value));
        }
    }
    let kept = old.is_some_and(|old| {
        let before = list(old, "selectableFields");
        before.len() > SELECTABLE_MAX && before == fields
    });
    if seen.len() > SELECTABLE_MAX && !kept {
        errors.push(FieldError::too_many(&all, seen.len(), SELECTABLE_MAX));
    }
}

fn conversion(conversion: &Value, old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    if conversion.is_null() {
        return;
    }
    choice(conversion, "strategy", &["None", "Webhook"], path, errors);
    // The path is that of the older form of the object, in which upstream checks it.
    let (client, versions) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let webhook = get(conversion, "webhook");
    let config = get(webhook, "clientConfig");
    let reviews: Vec<&str> = texts(webhook, "conversionReviewVersions").collect();
    if text(conversion, "strategy") != "Webhook" {
        if !config.is_null() {
            let words = "should not be set when strategy is not set to Webhook";
            errors.push(FieldError::forbidden(&client, words));
        }
        if !reviews.is_empty() {
            let words = "should not be set when strategy is not set to Webhook";
            errors.push(FieldError::forbidden(&versions, words));
        }
        return;
    }
    if config.is_null() {
        errors.push(FieldError::required(&client, "required when strategy is set to Webhook"));
    } else {
        match (config.get("url").and_then(Value::as_str), get(config, "service")) {
            (Some(url), service) if service.is_null() => webhook_url(url, &client.child("url"), errors),
            (None, service) if !service.is_null() => webhook_service(service, &client.child("service"), errors),
            _ => errors.push(FieldError::required(&client, "exactly one of url or service is required")),
        }
    }
    if reviews.is_empty() {
        errors.push(FieldError::required(&versions, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (i, version) in reviews.iter().enumerate() {
        if !seen.insert(*version) {
            errors.push(FieldError::invalid(&versions.index(i), *version, "duplicate version"));
            continue;
        }
        let wrong = names::dns1035_label(version);
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid(&versions.index(i), *version, why)));
    }
    let known = |versions: &[&str]| versions.iter().any(|v| REVIEW_VERSIONS.contains(v));
    let before: Vec<&str> = old
        .map(|old| texts(at(old, &["spec", "conversion", "webhook"]), "conversionReviewVersions").collect())
        .unwrap_or_default();
    if !known(&reviews) && (before.is_empty() || known(&before)) {
        let words = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(FieldError::invalid(&versions, get(webhook, "conversionReviewVersions"), words));
    }
}

/// Source: `ValidateWebhookURL`.
fn webhook_url(url: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let form = "; desired format: https://host[/path]";
    let Ok(uri) = url.parse::<http::Uri>() else {
        errors.push(FieldError::required(path, &format!("url must be a valid URL: invalid URL {url:?}{form}")));
        return;
    };
    if uri.scheme_str() != Some("https") {
        let scheme = uri.scheme_str().unwrap_or_default();
        let words = format!("'https' is the only allowed URL scheme{form}");
        errors.push(FieldError::invalid(path, scheme, words));
    }
    if uri.host().is_none_or(str::is_empty) {
        errors.push(FieldError::invalid(path, "", format!("host must be specified{form}")));
    }
    if let Some((user, _)) = uri.authority().and_then(|a| a.as_str().split_once('@')) {
        errors.push(FieldError::invalid(path, user, "user information is not permitted in the URL"));
    }
    if let Some((_, fragment)) = url.split_once('#') {
        errors.push(FieldError::invalid(path, fragment, "fragments are not permitted in the URL"));
    }
    if let Some(query) = uri.query() {
        errors.push(FieldError::invalid(path, query, "query parameters are not permitted in the URL"));
    }
}

/// Source: `ValidateWebhookService`.
fn webhook_service(service: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errors.push(FieldError::required(&path.child(field), &format!("service {field} is required")));
        }
    }
    if let Some(port) = get(service, "port").as_i64()
        && !(1..=65535).contains(&port)
    {
        let words = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(&path.child("port"), port, words));
    }
    let Some(url) = get(service, "path").as_str() else { return };
    if url == "/" || url.is_empty() {
        return;
    }
    if url == "//" {
        errors.push(FieldError::invalid(&path.child("path"), url, "segment[0] may not be empty"));
        return;
    }
    if !url.starts_with('/') {
        errors.push(FieldError::invalid(&path.child("path"), url, "must start with a '/'"));
    }
    let trimmed = url.strip_prefix('/').unwrap_or(url);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    for (i, step) in trimmed.split('/').enumerate() {
        if step.is_empty() {
            errors.push(FieldError::invalid(&path.child("path"), url, format!("segment[{i}] may not be empty")));
            continue;
        }
        for why in names::dns1123_subdomain(step) {
            errors.push(FieldError::invalid(&path.child("path"), url, format!("segment[{i}]: {why}")));
        }
    }
}

fn stored_versions(definition: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::new("status.storedVersions");
    let stored: Vec<&str> = texts(get(definition, "status"), "storedVersions").collect();
    let shown = at(definition, &["status", "storedVersions"]);
    if stored.is_empty() {
        let none = Value::Array(Vec::new());
        errors.push(FieldError::invalid(&path, &none, "must have at least one stored version"));
        return;
    }
    let versions = list(get(definition, "spec"), "versions");
    for version in versions.iter().filter(|v| boolean(v, "storage")) {
        let name = text(version, "name");
        if !stored.contains(&name) {
            errors.push(FieldError::invalid(&path, shown, format!("must have the storage version {name}")));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| text(v, "name") == *name) {
            let words = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.push(FieldError::invalid(&path.index(i), *name, words));
        }
    }
}

fn approval(definition: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    if !settle::is_protected(text(get(definition, "spec"), "group")) {
        return;
    }
    let annotation = settle::annotation(definition);
    let (_, reason, message) = settle::approved(annotation);
    if old.is_some_and(|old| settle::approved(settle::annotation(old)).1 == reason) {
        return;
    }
    let path = Path::new("metadata.annotations").key("api-approved.kubernetes.io");
    match reason {
        "MissingAnnotation" => errors.push(FieldError::required(&path, &message)),
        "InvalidAnnotation" => errors.push(FieldError::invalid(&path, annotation, message)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_columns() {
        let long = format!(".{}", "a".repeat(jsonpath::BYTES_MAX));
        let deep = format!(".a{}", "[?(".repeat(jsonpath::DEPTH_MAX + 1));
        let large = "must have at most 1024 bytes and 16 filters within each other";
        for (path, expected) in [
            (".status.conditions[?(@.type=='Ready')].status", None),
            // Upstream finds out when it makes the first table.
            (".a[?(", None),
            ("a", Some("must be a simple json path starting with .")),
            (&*long, Some(large)),
            (&*deep, Some(large)),
        ] {
            let mut errors = Vec::new();
            column_(&json!({"name": "n", "type": "string", "jsonPath": path}), &Path::new("c"), &mut errors);
            let found: Vec<&str> = errors.iter().map(|error| &*error.detail).collect();
            assert_eq!(found, expected.as_slice(), "{path}");
        }
    }
}
