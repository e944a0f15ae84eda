//! Custom kinds in the OpenAPI documents.

use serde_json::{Map, Value, json};

use super::custom::{DEFINITIONS, any, cars, define};
use super::harness::{Answer, Client, Server};

const DOCUMENT: &str = "apis/example.com/v1";

fn definition() -> Value {
    let schema = json!({"type": "object", "description": "A car.", "required": ["spec"], "properties": {
        "spec": {"type": "object", "description": "What is wanted.", "properties": {
            "wheels": {"type": "integer", "minimum": 0, "maximum": 8, "default": 4, "description": "How many wheels."},
            "seats": {"type": "array", "maxItems": 9, "items": {"type": "string", "enum": ["a", "b"]},
                "x-kubernetes-list-type": "set"},
            "port": {"x-kubernetes-int-or-string": true},
            "load": {"type": "number", "maximum": 0.75},
            "note": {"type": "string", "nullable": true, "pattern": "^[a-z]*$"}}},
        "status": {"type": "object", "properties": {"wheels": {"type": "integer"}}}}});
    let mut definition = cars(&schema);
    let version = &mut definition["spec"]["versions"][0];
    version["subresources"] =
        json!({"status": {}, "scale": {"specReplicasPath": ".spec.wheels", "statusReplicasPath": ".status.wheels"}});
    version["selectableFields"] = json!([{"jsonPath": ".spec.note"}]);
    definition
}

async fn url(client: &Client<'_>) -> Option<String> {
    let index = client.get("/openapi/v3").await.expect(200).json();
    index["paths"][DOCUMENT]["serverRelativeURL"].as_str().map(str::to_owned)
}

/// Clients walk references without checking them.
fn check_references(value: &Value, names: &Map<String, Value>, prefix: &str) {
    match value {
        Value::Object(object) => {
            if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                assert!(target.strip_prefix(prefix).is_some_and(|name| names.contains_key(name)), "{target}");
            }
            object.values().for_each(|v| check_references(v, names, prefix));
        }
        Value::Array(items) => items.iter().for_each(|v| check_references(v, names, prefix)),
        _ => {}
    }
}

#[tokio::test]
async fn the_third_form_says_what_the_schema_says() {
    let server = Server::start().await;
    let admin = server.admin();
    assert_eq!(url(&admin).await, None);
    admin.get(&format!("/openapi/v3/{DOCUMENT}")).await.expect(404);
    define(&admin, &definition()).await.expect(201);
    let document = admin.get(&url(&admin).await.unwrap()).await.expect(200).json();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    check_references(&document, schemas, "#/components/schemas/");

    let own = &schemas["com.example.v1.Car"];
    let gvk = json!({"group": "example.com", "version": "v1", "kind": "Car"});
    assert_eq!(own["x-kubernetes-group-version-kind"], json!([gvk]));
    assert_eq!(own["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.note"}]));
    assert_eq!((&own["description"], &own["required"]), (&json!("A car."), &json!(["spec"])));
    for field in ["apiVersion", "kind", "metadata"] {
        assert!(own["properties"][field]["description"].is_string(), "{field}");
    }
    let spec = &own["properties"]["spec"]["properties"];
    assert_eq!(
        spec["wheels"],
        json!({"type": "integer", "minimum": 0, "maximum": 8, "default": 4, "description": "How many wheels."})
    );
    assert_eq!(spec["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    assert_eq!(spec["note"]["nullable"], true);
    let list = &schemas["com.example.v1.CarList"];
    assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "CarList");
    assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/components/schemas/com.example.v1.Car");

    // what kubectl reads to choose between validating here and validating itself, and between patch types
    let paths = document["paths"].as_object().unwrap();
    let one = "/apis/example.com/v1/namespaces/{namespace}/cars/{name}";
    let names: Vec<&String> = paths.keys().collect();
    let all = "/apis/example.com/v1/cars";
    let many = "/apis/example.com/v1/namespaces/{namespace}/cars";
    assert_eq!(names, [all, many, one, &format!("{one}/scale"), &format!("{one}/status")]);
    let patch = &paths[one]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    let bodies = &patch["requestBody"]["content"];
    assert!(bodies["application/merge-patch+json"].is_object());
    assert!(bodies["application/strategic-merge-patch+json"].is_null());
    assert_eq!(paths[many]["post"]["operationId"], "createExampleComV1NamespacedCar");
    let answers = paths[one]["get"]["responses"]["200"]["content"].as_object().unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["application/json", "application/yaml"]);
    let scale = &paths[&format!("{one}/scale")]["get"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[tokio::test]
async fn the_second_form_leaves_out_what_it_cannot_say() {
    let server = Server::start().await;
    let admin = server.admin();
    let before = admin.get("/openapi/v2").await.expect(200);
    define(&admin, &definition()).await.expect(201);
    let mut open = cars(&any());
    open["metadata"]["name"] = json!("boats.example.com");
    open["spec"]["names"] = json!({"plural": "boats", "kind": "Boat"});
    define(&admin, &open).await.expect(201);
    let after = admin.get("/openapi/v2").await.expect(200);
    assert_ne!(before.header("etag"), after.header("etag"));
    let document = after.json();
    let definitions = document["definitions"].as_object().unwrap();
    check_references(&document, definitions, "#/definitions/");
    assert_eq!(definitions.len(), before.json()["definitions"].as_object().unwrap().len() + 4);
    let spec = &definitions["com.example.v1.Car"]["properties"]["spec"]["properties"];
    assert_eq!(
        spec["wheels"],
        json!({"type": "integer", "minimum": 0, "maximum": 8, "description": "How many wheels."})
    );
    assert_eq!(spec["port"], json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(spec["note"], json!({"pattern": "^[a-z]*$"}));
    let boat = &definitions["com.example.v1.Boat"];
    assert_eq!(boat.as_object().unwrap().keys().collect::<Vec<_>>(), ["type", "x-kubernetes-group-version-kind"]);
    let many = "/apis/example.com/v1/namespaces/{namespace}/cars";
    assert_eq!(document["paths"][many]["post"]["consumes"], json!(["*/*"]));
    let protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let answer = admin.clone().with(&[("accept", protobuf)]).get("/openapi/v2").await.expect(200);
    assert!(memchr::memmem::find(&answer.body, b"com.example.v1.CarList").is_some());
}

#[tokio::test]
async fn hashes_follow_the_schemas() {
    let server = Server::start().await;
    let admin = server.admin();
    let without = admin.get("/openapi/v2").await.expect(200).header("etag").to_owned();
    define(&admin, &definition()).await.expect(201);
    let (first, tag) = (url(&admin).await.unwrap(), admin.get("/openapi/v2").await.header("etag").to_owned());
    let path = format!("{DEFINITIONS}/cars.example.com");
    admin.patch(&path, "merge", &json!({"metadata": {"annotations": {"a": "b"}}})).await.expect(200);
    assert_eq!(url(&admin).await.unwrap(), first, "nothing is published that changed");
    let describe = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/description",
        "value": "Something else."}]);
    admin.patch(&path, "json", &describe).await.expect(200);
    let second = url(&admin).await.unwrap();
    assert_ne!(second, first);
    assert_ne!(admin.get("/openapi/v2").await.header("etag"), tag);
    admin.get(&first).await.expect(301);
    assert!(admin.get(&second).await.expect(200).text().contains("Something else."));
    admin.delete(&path).await.expect(200);
    // The kind goes right after its definition.
    let index = |answer: &Answer| answer.json()["paths"]["apis/example.com/v1"].is_null();
    super::custom::until(&admin, "/openapi/v3", index).await;
    assert_eq!(url(&admin).await, None);
    assert_eq!(admin.get("/openapi/v2").await.header("etag"), without);
}
