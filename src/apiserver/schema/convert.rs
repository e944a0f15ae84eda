//! OpenAPI v2 made into v3, for servers that publish only the older. What v3 has no word for is left out, as upstream does.
//!
//! Source: kube-openapi `pkg/openapiconv/convert.go`, `pkg/builder3/util`.

use serde_json::{Map, Value, json};

const V2: &str = "#/definitions/";
const V3: &str = "#/components/schemas/";

/// The methods of a path.
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// A schema with its references as v3 has them; one that has other members too is wrapped, since v3 reads nothing beside it.
pub fn schema(v2: &Value) -> Value {
    let Some(members) = v2.as_object() else { return v2.clone() };
    let mut v3 = Map::new();
    for (name, value) in members {
        let value = match (name.as_str(), value) {
            ("properties" | "patternProperties" | "definitions", Value::Object(all)) => {
                all.iter().map(|(name, value)| (name.clone(), schema(value))).collect::<Map<_, _>>().into()
            }
            (
                "items" | "additionalProperties" | "additionalItems" | "not" | "allOf" | "anyOf" | "oneOf",
                Value::Array(all),
            ) => all.iter().map(schema).collect(),
            ("items" | "additionalProperties" | "additionalItems" | "not", value) => schema(value),
            ("$ref", Value::String(to)) => to.strip_prefix(V2).map_or(to.clone(), |name| format!("{V3}{name}")).into(),
            (_, value) => value.clone(),
        };
        v3.insert(name.clone(), value);
    }
    if v3.len() > 1
        && let Some(reference) = v3.remove("$ref")
    {
        v3.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    v3.into()
}

/// What stands at a path.
pub fn path(v2: &Value) -> Value {
    let mut v3 = extensions(v2);
    for method in METHODS {
        if let Some(said) = v2.get(method).filter(|said| said.is_object()) {
            v3.insert(method.to_owned(), operation(said));
        }
    }
    if let Some(all) = v2.get("parameters").and_then(Value::as_array) {
        v3.insert("parameters".into(), all.iter().map(parameter).collect());
    }
    v3.into()
}

fn operation(v2: &Value) -> Value {
    let mut v3 = extensions(v2);
    keep(v2, &mut v3, &["description", "externalDocs", "tags", "summary", "deprecated", "operationId"]);
    let types = |name: &str| v2.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut parameters = Vec::new();
    for said in v2.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        match said.get("schema").filter(|_| said["in"] == "body") {
            Some(body) => {
                let content = content(types("consumes"), body);
                v3.insert(
                    "requestBody".into(),
                    if content.is_empty() { json!({}) } else { json!({"content": content}) },
                );
            }
            None => parameters.push(parameter(said)),
        }
    }
    if !parameters.is_empty() {
        v3.insert("parameters".into(), parameters.into());
    }
    let mut responses = Map::new();
    for (code, said) in v2.get("responses").and_then(Value::as_object).into_iter().flatten() {
        let mut response = extensions(said);
        keep(said, &mut response, &["description"]);
        if let Some(to) = said.get("$ref").and_then(Value::as_str) {
            response.insert("$ref".into(), to.replacen("#/responses/", "#/components/responses/", 1).into());
        }
        if let Some(schema) = said.get("schema") {
            let content = content(types("produces"), schema);
            if !content.is_empty() {
                response.insert("content".into(), content.into());
            }
        }
        responses.insert(code.clone(), response.into());
    }
    v3.insert("responses".into(), responses.into());
    v3.into()
}

/// The schema under each media type.
fn content<'a>(types: impl Iterator<Item = &'a str>, v2: &Value) -> Map<String, Value> {
    types.map(|media| (media.to_owned(), json!({"schema": schema(v2)}))).collect()
}

fn parameter(v2: &Value) -> Value {
    let mut v3 = extensions(v2);
    keep(v2, &mut v3, &["name", "in", "description", "required", "allowEmptyValue"]);
    if let Some(to) = v2.get("$ref").and_then(Value::as_str) {
        v3.insert("$ref".into(), to.replacen("#/parameters/", "#/components/parameters/", 1).into());
        return v3.into();
    }
    let said = v2.get("schema").map(schema).unwrap_or_else(|| {
        let mut simple = Map::new();
        keep(v2, &mut simple, &["type", "format", "uniqueItems"]);
        simple.into()
    });
    v3.insert("schema".into(), said);
    v3.into()
}

fn keep(from: &Value, into: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = from.get(*name) {
            into.insert((*name).to_owned(), value.clone());
        }
    }
}

fn extensions(from: &Value) -> Map<String, Value> {
    let members = from.as_object().into_iter().flatten();
    members.filter(|(name, _)| name.starts_with("x-")).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_to_components_and_stand_alone() {
        let of = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let to = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        for (v2, v3) in [
            (of("A"), to("A")),
            (
                json!({"$ref": "#/definitions/A", "description": "d", "default": {}}),
                json!({"allOf": [to("A")], "description": "d", "default": {}}),
            ),
            (
                json!({"type": "object", "properties": {"a": of("A"), "$ref": {"type": "string"}},
                    "additionalProperties": {"items": of("B")}, "anyOf": [of("C")], "x-of": of("D")}),
                json!({"type": "object", "properties": {"a": to("A"), "$ref": {"type": "string"}},
                    "additionalProperties": {"items": to("B")}, "anyOf": [to("C")], "x-of": of("D")}),
            ),
            (json!({"additionalProperties": true}), json!({"additionalProperties": true})),
            (json!({"$ref": "elsewhere"}), json!({"$ref": "elsewhere"})),
        ] {
            assert_eq!(schema(&v2), v3);
        }
    }

    #[test]
    fn bodies_and_answers_have_media_types() {
        let v2 = json!({
            "parameters": [{"name": "pretty", "in": "query", "type": "string", "uniqueItems": true, "description": "d"}],
            "post": {"operationId": "create", "consumes": ["*/*"], "produces": ["application/json", "application/yaml"],
                "schemes": ["https"], "x-kubernetes-action": "post",
                "parameters": [{"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/A"}},
                    {"name": "dryRun", "in": "query", "type": "string"}, {"$ref": "#/parameters/p"}],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/A"}}, "401": {"description": "no"}}},
            "x-own": 1});
        let a = json!({"schema": {"$ref": "#/components/schemas/A"}});
        let v3 = json!({
            "parameters": [{"name": "pretty", "in": "query", "description": "d", "schema": {"type": "string", "uniqueItems": true}}],
            "post": {"operationId": "create", "x-kubernetes-action": "post", "requestBody": {"content": {"*/*": a}},
                "parameters": [{"name": "dryRun", "in": "query", "schema": {"type": "string"}}, {"$ref": "#/components/parameters/p"}],
                "responses": {"200": {"description": "OK", "content": {"application/json": a, "application/yaml": a}},
                    "401": {"description": "no"}}},
            "x-own": 1});
        assert_eq!(path(&v2), v3);
        assert_eq!(path(&json!({"get": {}})), json!({"get": {"responses": {}}}));
    }
}
