//! What the schema of a definition may say.
//!
//! Every definition in the store has passed these checks, so upstream's leniency towards older ones has nothing to be
//! lenient to.
//!
//! Source: apiextensions-apiserver `pkg/apis/apiextensions/validation/validation.go`
//! `validateCustomResourceDefinitionValidation`, `ValidateCustomResourceDefinitionOpenAPISchema`.

use std::collections::HashSet;

use serde_json::Value;
use types::field::{FieldError, Path};

use super::{defaults, rules, structural};
use crate::custom::schema::META_FIELDS;
use crate::hooks::json::{at, boolean, get, has, list, map, text, texts};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// What a root schema may say beside a status that is written apart, by the names of JSON and of upstream's struct.
const AT_ROOT: &[(&str, &str)] = &[
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What is wrong with the schema of a version. `unchanged`: it is what the version had before.
pub fn validate(schema: &Value, has_status: bool, unchanged: bool, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if has_status {
        at_root(schema, path, &mut errors);
    }
    if boolean(schema, "nullable") {
        errors.push(FieldError::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    let mut wrong = structural::validate(schema, path);
    if wrong.is_empty() {
        wrong = defaults::validate(schema, path);
    }
    let sound = wrong.is_empty();
    errors.extend(wrong);
    let context = Context { is_root: true, ..Context::default() };
    let before = errors.len();
    node(schema, path, &context, &mut errors);
    if sound && errors.len() == before {
        errors.extend(rules::validate(schema, unchanged, path));
    }
    errors
}

fn at_root(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(object) = schema.as_object() else { return };
    if object.keys().any(|key| !AT_ROOT.iter().any(|(name, _)| name == key)) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
        let words = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.push(FieldError::invalid(path, schema, words));
    }
    let type_ = text(schema, "type");
    if !type_.is_empty() && type_ != "object" {
        let words =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid(&path.child("type"), type_, words));
    }
}

/// Where a node is.
#[derive(Clone, Default)]
struct Context {
    is_root: bool,
    /// In metadata, kind or version of the object or of an embedded one.
    in_meta: bool,
    /// Why there may be no defaults; `None`: there may.
    no_defaults: Option<String>,
}

fn node(schema: &Value, path: &Path, context: &Context, errors: &mut Vec<FieldError>) {
    if !schema.is_object() {
        return;
    }
    unsupported(schema, path, context, errors);
    let below = Context { is_root: false, ..context.clone() };
    if boolean(schema, "uniqueItems") {
        let words = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), words));
    }
    let additional = get(schema, "additionalProperties");
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if map(schema, "properties").next().is_some() && additional != &Value::Bool(true) {
            errors.push(FieldError::forbidden(&at, "additionalProperties and properties are mutual exclusive"));
        }
        let mut below = below.clone();
        if context.in_meta {
            below.no_defaults = Some("inside additionalProperties applying to object metadata".into());
        }
        node(additional, &at, &below, errors);
    }
    for (name, property) in map(schema, "properties") {
        let mut below = below.clone();
        let holds_meta = context.is_root || boolean(schema, "x-kubernetes-embedded-resource");
        if holds_meta && META_FIELDS.contains(&name.as_str()) {
            below.in_meta = true;
            if context.is_root {
                below.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        node(property, &path.child("properties").key(name), &below, errors);
    }
    node(get(schema, "not"), &path.child("not"), &below, errors);
    for junctor in ["allOf", "oneOf", "anyOf"] {
        for (i, schema) in list(schema, junctor).iter().enumerate() {
            node(schema, &path.child(junctor).index(i), &below, errors);
        }
    }
    for (name, schema) in map(schema, "definitions") {
        node(schema, &path.child("definitions").key(name), &below, errors);
    }
    match get(schema, "items") {
        Value::Array(schemas) => {
            for (i, schema) in schemas.iter().enumerate() {
                node(schema, &path.child("items").index(i), &below, errors);
            }
        }
        items => node(items, &path.child("items"), &below, errors),
    }
    extensions(schema, path, errors);
    list_type(schema, path, errors);
    rules_(schema, path, errors);
}

/// Source: `specStandardValidatorV3.validate`.
fn unsupported(schema: &Value, path: &Path, context: &Context, errors: &mut Vec<FieldError>) {
    let type_ = text(schema, "type");
    if !type_.is_empty() && !TYPES.contains(&type_) {
        errors.push(FieldError::not_supported(&path.child("type"), type_, TYPES));
    }
    if let (true, Some(why)) = (has(schema, "default"), &context.no_defaults) {
        errors.push(FieldError::forbidden(&path.child("default"), format!("must not be set {why}")));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let set = match get(schema, name) {
            Value::Null => false,
            Value::String(text) => name == "$ref" || !text.is_empty(),
            Value::Object(object) => name == "dependencies" || name == "additionalItems" || !object.is_empty(),
            _ => true,
        };
        if set {
            errors.push(FieldError::forbidden(&path.child(name), format!("{name} is not supported")));
        }
    }
    if type_ == "null" {
        let words = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(&path.child("type"), words));
    }
    if get(schema, "items").as_array().is_some_and(|items| !items.is_empty()) {
        errors.push(FieldError::forbidden(&path.child("items"), "items must be a schema object and not an array"));
    }
    if context.in_meta && boolean(schema, "x-kubernetes-embedded-resource") {
        let words = "must not be used inside of resource meta";
        errors.push(FieldError::forbidden(&path.child("x-kubernetes-embedded-resource"), words));
    }
}

fn extensions(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if get(schema, "x-kubernetes-preserve-unknown-fields") == &Value::Bool(false) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&at, &Value::Bool(false), "must be true or undefined"));
    }
    if let Some(map_type) = get(schema, "x-kubernetes-map-type").as_str() {
        typed(schema, "object", "must be object if x-kubernetes-map-type is specified", path, errors);
        if !matches!(map_type, "atomic" | "granular") {
            let at = path.child("x-kubernetes-map-type");
            errors.push(FieldError::not_supported(&at, map_type, &["atomic", "granular"]));
        }
    }
}

/// The type that another field asks for; whether it is that.
fn typed(schema: &Value, wanted: &str, words: &str, path: &Path, errors: &mut Vec<FieldError>) -> bool {
    let at = path.child("type");
    match text(schema, "type") {
        "" => errors.push(FieldError::required(&at, words)),
        other if other != wanted => errors.push(FieldError::invalid(&at, other, words)),
        _ => return true,
    }
    false
}

fn list_type(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let list_type = get(schema, "x-kubernetes-list-type").as_str();
    let (items, at_items) = (get(schema, "items"), path.child("items"));
    let (at_type, at_keys) = (path.child("x-kubernetes-list-type"), path.child("x-kubernetes-list-map-keys"));
    if let Some(list_type) = list_type {
        let words = "must be array if x-kubernetes-list-type is specified";
        let is_array = typed(schema, "array", words, path, errors);
        if is_array && list_type == "set" && items.is_object() {
            let (own, words) = (
                get(items, "x-kubernetes-list-type"),
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            );
            let wrong = match text(items, "type") {
                "array" => (!own.is_null() && own != "atomic").then_some("x-kubernetes-list-type"),
                "object" => (text(items, "x-kubernetes-map-type") != "atomic").then_some("x-kubernetes-map-type"),
                _ => None,
            };
            if let Some(field) = wrong {
                errors.push(FieldError::invalid(&at_items.child(field), own, words));
            }
        }
        if !matches!(list_type, "atomic" | "set" | "map") {
            errors.push(FieldError::not_supported(&at_type, list_type, &["atomic", "set", "map"]));
        }
    }
    let keys: Vec<&str> = texts(schema, "x-kubernetes-list-map-keys").collect();
    if !keys.is_empty() && list_type != Some("map") {
        let words = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            None => FieldError::required(&at_type, words),
            Some(other) => FieldError::invalid(&at_type, other, words),
        });
    }
    if list_type == Some("map") {
        if keys.is_empty() {
            errors.push(FieldError::required(&at_keys, "must not be empty if x-kubernetes-list-type is map"));
        }
        if items.is_null() {
            errors.push(FieldError::required(&at_items, "must have a schema if x-kubernetes-list-type is map"));
        } else if !items.is_object() {
            let words = "must only have a single schema if x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&at_items, items, words));
        } else if text(items, "type") != "object" {
            let words = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&at_items.child("type"), text(items, "type"), words));
        } else {
            let all = get(schema, "x-kubernetes-list-map-keys");
            let mut seen = HashSet::new();
            for key in &keys {
                match at(items, &["properties", key]) {
                    Value::Null => {
                        errors.push(FieldError::invalid(&at_keys, all, "entries must all be names of item properties"));
                    }
                    property if matches!(text(property, "type"), "array" | "object") => {
                        let words = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                        let at = at_items.child("properties").key(key).child("type");
                        errors.push(FieldError::invalid(&at, text(items, "type"), words));
                    }
                    _ => {}
                }
                if !seen.insert(*key) {
                    errors.push(FieldError::invalid(&at_keys, all, "must not contain duplicate entries"));
                }
            }
        }
    }
    keyed_items(list_type, items, &keys, &at_items, errors);
}

/// Items that are told apart are there, and so are their keys. Source: `validateMapListKeysMapSet`.
fn keyed_items(list_type: Option<&str>, items: &Value, keys: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    let Some(list_type @ ("set" | "map")) = list_type.filter(|_| items.is_object()) else { return };
    if boolean(items, "nullable") {
        let words = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(&path.child("nullable"), words));
    }
    if list_type == "set" {
        return;
    }
    for key in keys {
        let property = at(items, &["properties", key]);
        if property.is_null() {
            continue;
        }
        let at = path.child("properties").key(key);
        if !texts(items, "required").any(|r| r == *key) && !has(property, "default") {
            let words =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(&at.child("default"), words));
        }
        if boolean(property, "nullable") {
            let words = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(&at.child("nullable"), words));
        }
    }
}

fn rules_(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (i, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let at = path.child("x-kubernetes-validations").index(i);
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let (code, message) = (text(rule, "rule").trim(), text(rule, "message"));
        if code.is_empty() {
            errors.push(FieldError::required(&at.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(&at.child("message"), message, "must be non-empty if specified"));
        } else if breaks(message.trim()) {
            errors.push(FieldError::invalid(&at.child("message"), message, "must not contain line breaks"));
        } else if breaks(code) && message.trim().is_empty() {
            let words = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&at.child("message"), words));
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let words = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at.child("messageExpression"), words));
        }
        if let Some(reason) = get(rule, "reason").as_str()
            && !REASONS.contains(&reason)
        {
            errors.push(FieldError::not_supported(&at.child("reason"), reason, REASONS));
        }
        let (field, at) = (text(rule, "fieldPath"), at.child("fieldPath"));
        if !field.is_empty() && field.trim().is_empty() {
            errors.push(FieldError::invalid(&at, field, "must be non-empty if specified"));
        }
        if breaks(field) {
            errors.push(FieldError::invalid(&at, field, "must not contain line breaks"));
        }
        if !field.is_empty() && walk_path(schema, field, true).is_err() {
            errors.push(FieldError::invalid(&at, field, "must be a valid path"));
        }
    }
}

/// The schema of a field that a dotted path without brackets names.
///
/// Errors: upstream's text for a path that leads nowhere.
pub fn field_at<'s>(schema: &'s Value, path: &str) -> Result<&'s Value, String> {
    walk_path(schema, path, false)
}

/// Source: apiextensions-apiserver `pkg/apiserver/schema/cel/validation.go` `ValidFieldPath`.
fn walk_path<'s>(mut schema: &'s Value, path: &str, brackets: bool) -> Result<&'s Value, String> {
    let nowhere = || "does not refer to a valid field".to_owned();
    let step = |schema: &'s Value, name: &str| {
        if map(schema, "properties").next().is_some() {
            Some(at(schema, &["properties", name])).filter(|s| !s.is_null()).ok_or_else(nowhere)
        } else {
            Some(get(schema, "additionalProperties")).filter(|s| s.is_object()).ok_or_else(nowhere)
        }
    };
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        match first {
            '.' => {
                rest = &rest[1..];
                let end = rest.find(['.', '[', ']']).unwrap_or(rest.len());
                if rest.is_empty() {
                    return Err("unexpected end of JSON path".into());
                }
                schema = step(schema, &rest[..end])?;
                rest = &rest[end..];
            }
            '[' if !brackets => return Err("array notation is not allowed".into()),
            '[' => {
                rest = &rest[1..];
                if rest.is_empty() {
                    return Err("unexpected end of JSON path".into());
                }
                let quoted = rest.strip_prefix('\'').and_then(|inner| {
                    let bytes = inner.as_bytes();
                    let end = (0..bytes.len()).find(|i| bytes[*i] == b'\'' && (*i == 0 || bytes[*i - 1] != b'\\'))?;
                    Some((&inner[..end], &inner[end + 1..]))
                });
                let Some((name, behind)) = quoted else {
                    let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
                    let token = rest.get(..end).unwrap_or(rest);
                    return Err(format!("expected single quoted string but got {token}"));
                };
                schema = step(schema, &name.replace("\\'", "'").replace("\\\\", "\\"))?;
                rest = match behind.strip_prefix(']') {
                    Some(rest) => rest,
                    None if behind.is_empty() => return Err("unexpected end of JSON path".into()),
                    None => {
                        let end = behind.find(['.', '[', ']']).unwrap_or(behind.len()).max(1);
                        return Err(format!("expected ] but got {}", behind.get(..end).unwrap_or(behind)));
                    }
                };
            }
            _ => {
                let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
                return Err(format!("expected [ or . but got: {}", rest.get(..end).unwrap_or(rest)));
            }
        }
    }
    Ok(schema)
}
