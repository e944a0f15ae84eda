//! Whether a schema is structural: every field has one type, said in one place, which no alternative changes.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/validation.go`.

use std::collections::HashMap;

use serde_json::{Value, json};
use types::field::{FieldError, Path};

use crate::custom::schema::pattern;
use crate::hooks::json::{at, boolean, get, has, is_empty, list, map, text};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps the schema from being structural, in the order of the texts.
pub fn validate(schema: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut patterns = Patterns::default();
    invariants(schema, Level::Root, path, &mut patterns, &mut errors);
    if patterns.0.len() > pattern::PATTERNS_MAX {
        let words = format!("must have at most {} different patterns", pattern::PATTERNS_MAX);
        errors.push(FieldError::forbidden(path, words));
    }
    complete(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

/// The patterns of a schema that were compiled, with what is wrong with them: the same one is many times in a schema.
#[derive(Default)]
struct Patterns<'s>(HashMap<&'s str, Option<String>>);

impl<'s> Patterns<'s> {
    /// What is wrong with a pattern. One above the limit is compiled, and no other.
    fn wrong(&mut self, pattern: &'s str) -> Option<String> {
        if self.0.len() > pattern::PATTERNS_MAX {
            return None;
        }
        self.0.entry(pattern).or_insert_with_key(|pattern| pattern::compile(pattern).err()).clone()
    }
}

fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

fn invariants<'s>(
    schema: &'s Value,
    level: Level,
    path: &Path,
    patterns: &mut Patterns<'s>,
    errors: &mut Vec<FieldError>,
) {
    if !schema.is_object() {
        return;
    }
    let type_ = text(schema, "type");
    let items = get(schema, "items");
    if type_ == "array" && items.is_null() {
        errors.push(FieldError::required(&path.child("items"), "must be specified"));
    }
    invariants(items, Level::Item, &path.child("items"), patterns, errors);
    for (name, property) in map(schema, "properties") {
        invariants(property, Level::Field, &path.child("properties").key(name), patterns, errors);
    }
    let additional = get(schema, "additionalProperties");
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&at, "must not be used at the root"));
        }
        invariants(additional, Level::Field, &at, patterns, errors);
    }
    let [int_or_string, preserve, embedded] =
        ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"]
            .map(|name| boolean(schema, name));
    for (name, set) in
        [("x-kubernetes-preserve-unknown-fields", preserve), ("x-kubernetes-embedded-resource", embedded)]
    {
        if int_or_string && set {
            let words = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&path.child(name), &Value::Bool(true), words));
        }
    }
    let skip_any = is_int_or_string(get(schema, "anyOf"));
    let skip_first = list(schema, "allOf").first().is_some_and(|first| is_int_or_string(get(first, "anyOf")));
    checks(schema, skip_any, skip_first, path, patterns, errors);

    let at_type = path.child("type");
    if embedded && type_ != "object" {
        let words = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match type_ {
            "" => FieldError::required(&at_type, words),
            other => FieldError::invalid(&at_type, other, words),
        });
    } else if type_.is_empty() && !int_or_string && !preserve {
        let words = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at_type, words));
    }
    if embedded && !additional.is_null() {
        let words = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(&path.child("additionalProperties"), words));
    }
    if level == Level::Root && !type_.is_empty() && type_ != "object" {
        errors.push(FieldError::invalid(&at_type, type_, "must be object at the root"));
    }
    if level == Level::Root || embedded {
        for name in ["kind", "apiVersion"] {
            let property = at(schema, &["properties", name]);
            if !property.is_null() && text(property, "type") != "string" {
                let at = path.child("properties").key(name).child("type");
                errors.push(FieldError::invalid(&at, text(property, "type"), "must be string"));
            }
        }
        let metadata = at(schema, &["properties", "metadata"]);
        if !metadata.is_null() {
            metadata_(metadata, level, &path.child("properties").key("metadata"), errors);
        }
    }
    if embedded && !preserve && map(schema, "properties").next().is_none() {
        let words = "must not be empty if x-kubernetes-embedded-resource is true without \
                     x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), words));
    }
}

/// The metadata of an object is given; a root schema may narrow its names only.
fn metadata_(metadata: &Value, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    if text(metadata, "type") != "object" {
        errors.push(FieldError::invalid(&path.child("type"), text(metadata, "type"), "must be object"));
    }
    if level != Level::Root {
        return;
    }
    let names_only = map(metadata, "properties").all(|(name, _)| name == "name" || name == "generateName");
    let says_more = |(key, value): (&String, &Value)| match key.as_str() {
        "type" | "default" => false,
        "properties" => !names_only,
        _ => !is_empty(value) && value != &Value::Bool(false),
    };
    if metadata.as_object().into_iter().flatten().any(says_more) {
        let words = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(path, words));
    }
}

/// What values must be, where alternatives may say more of it.
fn checks<'s>(
    schema: &'s Value,
    skip_any: bool,
    skip_first: bool,
    path: &Path,
    patterns: &mut Patterns<'s>,
    errors: &mut Vec<FieldError>,
) {
    if !skip_any {
        for (i, schema) in list(schema, "anyOf").iter().enumerate() {
            nested(schema, false, &path.child("anyOf").index(i), patterns, errors);
        }
    }
    for (i, schema) in list(schema, "allOf").iter().enumerate() {
        nested(schema, skip_first && i == 0, &path.child("allOf").index(i), patterns, errors);
    }
    for (i, schema) in list(schema, "oneOf").iter().enumerate() {
        nested(schema, false, &path.child("oneOf").index(i), patterns, errors);
    }
    nested(get(schema, "not"), false, &path.child("not"), patterns, errors);
    let given = text(schema, "pattern");
    if !given.is_empty()
        && let Some(why) = patterns.wrong(given)
    {
        let words = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(FieldError::invalid(&path.child("pattern"), given, words));
    }
}

fn nested<'s>(
    schema: &'s Value,
    skip_any: bool,
    path: &Path,
    patterns: &mut Patterns<'s>,
    errors: &mut Vec<FieldError>,
) {
    if !schema.is_object() {
        return;
    }
    checks(schema, skip_any, false, path, patterns, errors);
    nested(get(schema, "items"), false, &path.child("items"), patterns, errors);
    for (name, property) in map(schema, "properties") {
        nested(property, false, &path.child("properties").key(name), patterns, errors);
    }
    const EMPTY: &str = "must be empty to be structural";
    const UNDEFINED: &str = "must be undefined to be structural";
    const FALSE: &str = "must be false to be structural";
    for (name, words) in [
        ("type", EMPTY),
        ("additionalProperties", UNDEFINED),
        ("default", UNDEFINED),
        ("title", EMPTY),
        ("description", EMPTY),
        ("nullable", FALSE),
        ("x-kubernetes-preserve-unknown-fields", FALSE),
        ("x-kubernetes-embedded-resource", FALSE),
        ("x-kubernetes-int-or-string", FALSE),
        ("x-kubernetes-list-map-keys", EMPTY),
        ("x-kubernetes-list-type", UNDEFINED),
        ("x-kubernetes-map-type", UNDEFINED),
        ("x-kubernetes-validations", EMPTY),
    ] {
        let set = match words {
            UNDEFINED => has(schema, name),
            FALSE => boolean(schema, name),
            _ => !is_empty(get(schema, name)),
        };
        if set {
            errors.push(FieldError::forbidden(&path.child(name), words));
        }
    }
    if has(get(schema, "properties"), "metadata") {
        let at = path.child("properties").key("metadata");
        errors.push(FieldError::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// Fields that alternatives speak of are known.
fn complete(checks: &Value, known: Option<&Value>, at: &Path, by: &Path, errors: &mut Vec<FieldError>) {
    let mut junctors: Vec<(&Value, Path)> = Vec::new();
    if has(checks, "not") {
        junctors.push((get(checks, "not"), by.child("not")));
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let schemas = list(checks, junctor).iter().enumerate();
        junctors.extend(schemas.map(|(i, schema)| (schema, by.child(junctor).index(i))));
    }
    for (schema, by) in junctors {
        complete_nested(schema, known, at, &by, errors);
    }
}

fn complete_nested(checks: &Value, known: Option<&Value>, at: &Path, by: &Path, errors: &mut Vec<FieldError>) {
    let Some(known) = known else {
        errors.push(FieldError::required(at, &format!("because it is defined in {by}")));
        return;
    };
    complete(checks, Some(known), at, by, errors);
    if has(checks, "items") {
        let items = known.get("items").filter(|i| i.is_object());
        complete_nested(get(checks, "items"), items, &at.child("items"), &by.child("items"), errors);
    }
    for (name, schema) in map(checks, "properties") {
        let (at, by) = (at.child("properties").key(name), by.child("properties").key(name));
        complete_nested(schema, get(known, "properties").get(name), &at, &by, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_patterns_are_counted() {
        let check = |patterns: &mut dyn Iterator<Item = usize>, expected: &[&str]| {
            let property = |n: usize| (format!("p{n}"), json!({"type": "string", "pattern": format!("^a{}$", n / 2)}));
            let properties: serde_json::Map<_, _> = patterns.map(property).collect();
            let schema = json!({"type": "object", "properties": properties});
            let found: Vec<String> = validate(&schema, &Path::new("s")).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        };
        // Each is there twice.
        check(&mut (0..2 * pattern::PATTERNS_MAX), &[]);
        let refused = "s: Forbidden: must have at most 1000 different patterns";
        check(&mut (0..2 * pattern::PATTERNS_MAX + 1), &[refused]);
    }
}
