//! The schema of a custom kind as the OpenAPI documents show it. Pure: the schema of a definition in, a definition of a document
//! out.
//!
//! What OpenAPI v2 cannot say, or what its readers trip over, is left out there: alternatives, nullable values, what is
//! below a field with unknown fields, defaults.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/{kubeopenapi,unfold}.go`, `pkg/controller/openapi/v2/conversion.go`,
//! `pkg/controller/openapi/builder/builder.go` `buildKubeNative`.

use serde_json::{Map, Value, json};

use crate::hooks::json::{boolean, get, text, texts};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// What descriptions refer to.
const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const NULLABLE: &str = "nullable";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    V2,
    V3,
}

/// Properties that every object has, and how definitions are referred to.
pub struct Native {
    form: Form,
    api_version: Value,
    kind: Value,
    metadata: Value,
    list_metadata: Value,
}

impl Native {
    /// The properties as built-in kinds have them, from definitions in the form of v3.
    pub fn of(definitions: &Map<String, Value>, form: Form) -> Self {
        let found = |kind: &str, field: &str| {
            let definition = definitions.get(&format!("io.k8s.api.autoscaling.v1.{kind}")).unwrap_or(&Value::Null);
            get(get(definition, "properties"), field).clone()
        };
        let metadata = |target: &str, description: &str| {
            let target = reference(form, &format!("{META}.{target}"));
            match form {
                // Words beside a reference make it one of several that hold.
                Form::V3 => json!({"description": description, "allOf": [{"$ref": target}]}),
                Form::V2 => json!({"description": description, "$ref": target}),
            }
        };
        Self {
            form,
            api_version: found("Scale", "apiVersion"),
            kind: found("Scale", "kind"),
            metadata: metadata("ObjectMeta", &format!("Standard object's metadata. More info: {CONVENTIONS}#metadata")),
            list_metadata: metadata(
                "ListMeta",
                &format!("Standard list metadata. More info: {CONVENTIONS}#types-kinds"),
            ),
        }
    }

    /// The definition of a list.
    pub fn list(&self, item: &str, kind: &str, list_kind: &str, plural: &str) -> Value {
        json!({
            "description": format!("{list_kind} is a list of {kind}"),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": self.api_version,
                "kind": self.kind,
                "metadata": self.list_metadata,
                "items": {"description": format!("List of {plural}. More info: {CONVENTIONS}"), "type": "array",
                    "items": {"$ref": reference(self.form, item)}},
            },
        })
    }

    fn put_into(&self, definition: &mut Value) {
        definition["properties"]["apiVersion"] = self.api_version.clone();
        definition["properties"]["kind"] = self.kind.clone();
        definition["properties"]["metadata"] = self.metadata.clone();
    }
}

fn reference(form: Form, name: &str) -> String {
    match form {
        Form::V2 => format!("#/definitions/{name}"),
        Form::V3 => format!("#/components/schemas/{name}"),
    }
}

/// The definition of a kind with that schema.
pub fn published(schema: &Value, preserves: bool, native: &Native) -> Value {
    let nothing = schema.as_object().is_none_or(Map::is_empty);
    // With any property named here, kubectl would take all others for mistakes.
    let open = native.form == Form::V2 && (preserves || boolean(schema, PRESERVE));
    if nothing || open {
        return json!({"type": "object"});
    }
    let mut definition = node(schema, native);
    native.put_into(&mut definition);
    definition
}

/// One node. Only what a structural schema may say is taken over.
fn node(schema: &Value, native: &Native) -> Value {
    let Some(said) = schema.as_object() else { return json!({}) };
    let v2 = native.form == Form::V2;
    let (nullable, preserve) = (boolean(schema, NULLABLE), boolean(schema, PRESERVE));
    let opaque = v2 && (nullable || preserve);
    let mut out = Map::new();
    for (name, value) in said {
        let shown = match name.as_str() {
            "properties" | "items" if opaque => None,
            "properties" => value.as_object().map(|properties| {
                properties.iter().map(|(name, schema)| (name.clone(), node(schema, native))).collect()
            }),
            "items" if value.is_object() => Some(node(value, native)),
            "additionalProperties" if value.is_object() => Some(node(value, native)),
            "additionalProperties" if value.is_boolean() => Some(value.clone()),
            "type" if v2 && hides_type(schema, opaque) => None,
            "required" if v2 && !opaque => required(schema),
            "allOf" | "anyOf" | "oneOf" | "not" | "default" | NULLABLE if v2 => None,
            "uniqueItems" | "exclusiveMaximum" | "exclusiveMinimum" | NULLABLE | PRESERVE | INT_OR_STRING
            | EMBEDDED => Some(Value::Bool(true)).filter(|shown| shown == value),
            // One value of a wrong type would make the documents of all kinds unreadable.
            "type" | "format" | "title" | "description" | "pattern" => {
                value.as_str().filter(|text| !text.is_empty()).map(Value::from)
            }
            "maximum" | "minimum" | "multipleOf" => Some(value.clone()).filter(Value::is_number),
            "maxLength" | "minLength" | "maxItems" | "minItems" | "maxProperties" | "minProperties" => {
                value.as_i64().map(Value::from)
            }
            "enum" | "required" | "allOf" | "anyOf" | "oneOf" => Some(value.clone()).filter(Value::is_array),
            "externalDocs" | "not" => Some(value.clone()).filter(Value::is_object),
            "default"
            | "example"
            | "x-kubernetes-list-type"
            | "x-kubernetes-list-map-keys"
            | "x-kubernetes-map-type"
            | "x-kubernetes-validations" => Some(value.clone()),
            _ => None,
        };
        if let Some(shown) = shown.filter(|shown| !shown.is_null()) {
            out.insert(name.clone(), shown);
        }
    }
    let mut out = Value::Object(out);
    if !v2 && boolean(schema, INT_OR_STRING) {
        unfold(&mut out);
    }
    if boolean(schema, EMBEDDED) && !(v2 && preserve) {
        native.put_into(&mut out);
        let mut required: Vec<&str> = texts(&out, "required").collect();
        for name in ["kind", "apiVersion"] {
            if !required.contains(&name) {
                required.push(name);
            }
        }
        out["required"] = json!(required);
    }
    out
}

/// Types that readers of v2 trip over: of values that may be null, of lists whose items are not described, of objects with
/// unknown fields.
fn hides_type(schema: &Value, opaque: bool) -> bool {
    let no_items = opaque || !get(schema, "items").is_object();
    match text(schema, "type") {
        "array" => no_items,
        "object" => opaque,
        _ => boolean(schema, NULLABLE),
    }
}

/// The fields that must be there in v2, which has no other word for what may be null.
fn required(schema: &Value) -> Option<Value> {
    if boolean(get(schema, "additionalProperties"), NULLABLE) {
        return None;
    }
    let properties = get(schema, "properties");
    let left: Vec<&str> = texts(schema, "required").filter(|name| !boolean(get(properties, name), NULLABLE)).collect();
    (!left.is_empty()).then(|| json!(left))
}

/// Says in the words of OpenAPI that a value is an integer or a string.
fn unfold(schema: &mut Value) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    if schema["anyOf"] == either || schema["allOf"][0]["anyOf"] == either {
        return;
    }
    match (schema.get("anyOf").is_some(), schema.get_mut("allOf").and_then(Value::as_array_mut)) {
        (false, _) => schema["anyOf"] = either,
        (true, Some(all)) => all.insert(0, json!({"anyOf": either})),
        (true, None) => schema["allOf"] = json!([{"anyOf": either}]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(form: Form) -> Native {
        Native::of(&crate::schema::openapi::definitions("autoscaling", "v1").unwrap(), form)
    }

    #[test]
    fn nodes_in_both_forms() {
        let string = json!({"type": "string"});
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        for (schema, v3, v2) in [
            (string.clone(), string.clone(), string.clone()),
            (
                json!({"type": "string", "nullable": true, "default": "a", "x-unknown": 1}),
                json!({"type": "string", "nullable": true, "default": "a"}),
                json!({}),
            ),
            (
                json!({"type": "integer", "minimum": 1, "nullable": false, "exclusiveMinimum": true, "description": "d"}),
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true, "description": "d"}),
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true, "description": "d"}),
            ),
            (json!({"title": 1, "maxLength": 1.5, "enum": 3, "minimum": "a"}), json!({}), json!({})),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!({"x-kubernetes-int-or-string": true, "anyOf": either}),
                json!({"x-kubernetes-int-or-string": true}),
            ),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"minimum": 1}]}),
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"minimum": 1}], "allOf": [{"anyOf": either}]}),
                json!({"x-kubernetes-int-or-string": true}),
            ),
            (
                json!({"type": "object", "required": ["a", "b"],
                    "properties": {"a": {"type": "string", "nullable": true}, "b": {"type": "string"}}}),
                json!({"type": "object", "required": ["a", "b"],
                    "properties": {"a": {"type": "string", "nullable": true}, "b": {"type": "string"}}}),
                json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string"}}}),
            ),
            (
                json!({"type": "object", PRESERVE: true, "properties": {"a": string}}),
                json!({"type": "object", PRESERVE: true, "properties": {"a": string}}),
                json!({PRESERVE: true}),
            ),
            (
                json!({"type": "array", "nullable": true, "items": string}),
                json!({"type": "array", "nullable": true, "items": string}),
                json!({}),
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "array", "items": string, "x-kubernetes-list-type": "set"}}),
                json!({"type": "object", "additionalProperties": {"type": "array", "items": string, "x-kubernetes-list-type": "set"}}),
                json!({"type": "object", "additionalProperties": {"type": "array", "items": string, "x-kubernetes-list-type": "set"}}),
            ),
        ] {
            assert_eq!(node(&schema, &native(Form::V3)), v3, "v3 of {schema}");
            assert_eq!(node(&schema, &native(Form::V2)), v2, "v2 of {schema}");
        }
    }

    #[test]
    fn whole_and_embedded_objects_have_metadata() {
        let schema =
            json!({"type": "object", "properties": {"spec": {"type": "object", EMBEDDED: true, "required": ["x"]}}});
        for form in [Form::V2, Form::V3] {
            let definition = published(&schema, false, &native(form));
            for object in [&definition, &definition["properties"]["spec"]] {
                for field in ["apiVersion", "kind", "metadata"] {
                    assert!(object["properties"][field]["description"].is_string(), "{form:?} {field} {object}");
                }
            }
            assert_eq!(definition["properties"]["spec"]["required"], json!(["x", "kind", "apiVersion"]));
            let metadata = definition["properties"]["metadata"].to_string();
            assert!(metadata.contains(&reference(form, &format!("{META}.ObjectMeta"))), "{metadata}");
            assert!(metadata.contains("Standard object's metadata. More info: https://"), "{metadata}");
            let list = native(form).list("x", "Foo", "FooList", "foos");
            for (field, words) in [
                ("metadata", "Standard list metadata. More info: https://"),
                ("items", "List of foos. More info: https://"),
            ] {
                let described = list["properties"][field]["description"].as_str().unwrap_or_default();
                assert!(described.starts_with(words), "{described}");
            }
        }
        let open = json!({"type": "object", PRESERVE: true});
        assert_eq!(published(&open, false, &native(Form::V2)), json!({"type": "object"}));
        assert_eq!(published(&schema, true, &native(Form::V2)), json!({"type": "object"}));
        assert_eq!(published(&json!({}), false, &native(Form::V3)), json!({"type": "object"}));
        assert!(published(&open, false, &native(Form::V3))["properties"]["metadata"].is_object());
    }
}
