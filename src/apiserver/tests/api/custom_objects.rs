//! Objects of custom kinds under their schema: pruning, defaults, validation, subresources, columns, selectors, versions.

use http::Method;
use serde_json::{Value, json};

use super::custom::{CARS, DEFINITIONS, any, car, cars, define};
use super::harness::{Client, Server};

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["wheels"], "properties": {
            "wheels": {"type": "integer", "minimum": 1, "maximum": 18},
            "color": {"type": "string", "default": "black", "enum": ["black", "red"]},
            "replicas": {"type": "integer", "default": 1},
            "doors": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["side"],
                "items": {"type": "object", "required": ["side"], "properties": {
                    "side": {"type": "string"}, "open": {"type": "boolean"}}}},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"},
            "conditions": {"type": "array", "items": {"type": "object", "properties": {
                "type": {"type": "string"}, "status": {"type": "string"}}}}}},
    }})
}

/// A definition with both subresources, columns and a selectable field.
pub fn full() -> Value {
    let mut definition = cars(&schema());
    let version = &mut definition["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    version["additionalPrinterColumns"] = json!([
        {"name": "Wheels", "type": "integer", "jsonPath": ".spec.wheels"},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1},
    ]);
    version["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    definition
}

async fn apply(client: &Client<'_>, path: &str, manager: &str, body: &Value) -> super::harness::Answer {
    let client = client.clone().with(&[("content-type", "application/apply-patch+yaml")]);
    client.raw(Method::PATCH, &format!("{path}?fieldManager={manager}"), body.to_string()).await
}

#[tokio::test]
async fn unknown_fields_and_defaults() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin, &full()).await.expect(201);
    let mut given = car("a", &json!({"wheels": 4, "wings": 2, "doors": [{"side": "left", "lock": 1}]}));
    given["metadata"]["nickname"] = json!("x");
    let made = admin.post(CARS, &given).await.expect(201);
    let warnings: Vec<_> = made.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    assert_eq!(
        warnings,
        [
            "299 - \"unknown field \\\"metadata.nickname\\\"\"",
            "299 - \"unknown field \\\"spec.doors[0].lock\\\"\"",
            "299 - \"unknown field \\\"spec.wings\\\"\""
        ]
    );
    let spec = json!({"wheels": 4, "color": "black", "replicas": 1, "doors": [{"side": "left"}]});
    assert_eq!(made.json()["spec"], spec);
    admin.post(&format!("{CARS}?fieldValidation=Strict"), &car("b", &json!({"wheels": 4, "wings": 2}))).await.refused(
        400,
        "Car in version \"v1\" cannot be handled as a Car: strict decoding error: unknown field \"spec.wings\"",
    );
    let mut wrong = car("b", &json!({"wheels": 4}));
    wrong["metadata"]["labels"] = json!({"a": 1});
    admin.post(CARS, &wrong).await.refused(
        400,
        "Car in version \"v1\" cannot be handled as a Car: json: cannot unmarshal number into Go struct field ObjectMeta.labels \
         of type string",
    );
}

/// A small request whose defaults would make an object of sixteen megabytes.
#[tokio::test]
async fn defaults_that_multiply() {
    let server = Server::start().await;
    let admin = server.admin();
    let text = json!({"type": "string", "default": "x".repeat(4_000)});
    let item = json!({"type": "object", "properties": {"text": text}});
    let spec = json!({"type": "object", "properties": {"list": {"type": "array", "items": item}}});
    define(&admin, &cars(&json!({"type": "object", "properties": {"spec": spec}}))).await.expect(201);
    admin.post(CARS, &car("few", &json!({"list": vec![json!({}); 10]}))).await.expect(201);
    let many = car("many", &json!({"list": vec![json!({}); 4_000]}));
    admin.post(CARS, &many).await.refused(413, "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn validation_and_what_may_stay_wrong() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin, &full()).await.expect(201);
    for (spec, message) in [
        (json!({}), "spec.wheels: Required value"),
        (
            json!({"wheels": 0}),
            "spec.wheels: Invalid value: 0: spec.wheels in body should be greater than or equal to 1",
        ),
        (
            json!({"wheels": "4"}),
            r#"spec.wheels: Invalid value: "string": spec.wheels in body must be of type integer: "string""#,
        ),
        (
            json!({"wheels": 4, "color": "green"}),
            r#"spec.color: Unsupported value: "green": supported values: "black", "red""#,
        ),
        (
            json!({"wheels": 4, "doors": [{"side": "l"}, {"side": "l"}]}),
            r#"spec.doors[1]: Duplicate value: {"side":"l"}"#,
        ),
    ] {
        let expected = format!("Car.example.com \"a\" is invalid: {message}");
        admin.post(CARS, &car("a", &spec)).await.refused(422, &expected);
    }
    admin.post(CARS, &car("a", &json!({"wheels": 4}))).await.expect(201);
    // The definition becomes stricter: what is there may be changed elsewhere, but not made wrong anew.
    let at = format!("{DEFINITIONS}/cars.example.com");
    let strict = json!([{"op": "replace", "value": 6,
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/wheels/minimum"}]);
    admin.patch(&at, "json", &strict).await.expect(200);
    let path = format!("{CARS}/a");
    admin.patch(&path, "merge", &json!({"spec": {"color": "red"}})).await.expect(200);
    admin.patch(&path, "merge", &json!({"spec": {"wheels": 5}})).await.refused(
        422,
        "Car.example.com \"a\" is invalid: spec.wheels: Invalid value: 5: spec.wheels in body should be greater than or equal to 6",
    );
    let unconditional = admin.put(&path, &car("a", &json!({"wheels": 8}))).await;
    unconditional.refused(
        422,
        "Car.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update",
    );
}

#[tokio::test]
async fn status_and_scale() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin, &full()).await.expect(201);
    let mut given = car("a", &json!({"wheels": 4}));
    given["status"] = json!({"replicas": 9});
    let made = admin.post(CARS, &given).await.expect(201).json();
    assert!(made.get("status").is_none(), "the status is written apart");
    let path = format!("{CARS}/a");
    let status = json!({"spec": {"wheels": 6}, "status": {"replicas": 2, "selector": "a=b"}});
    let changed = admin.patch(&format!("{path}/status"), "merge", &status).await.expect(200).json();
    assert_eq!((&changed["spec"]["wheels"], &changed["status"]["replicas"]), (&json!(4), &json!(2)));
    assert_eq!(changed["metadata"]["generation"], 1);
    admin.patch(&format!("{path}/status"), "merge", &json!({"status": {"replicas": "2"}})).await.refused(
        422,
        "Car.example.com \"a\" is invalid: [status.replicas: Invalid value: \"string\": replicas in body must be of type integer: \
         \"string\", .status.replicas: Invalid value: 0: .status.replicas accessor error: 2 is of the type string, expected int64]",
    );
    let scale = admin.get(&format!("{path}/scale")).await.expect(200).json();
    assert_eq!(
        (&scale["kind"], &scale["spec"], &scale["status"]),
        (&json!("Scale"), &json!({"replicas": 1}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let scaled =
        admin.patch(&format!("{path}/scale"), "merge", &json!({"spec": {"replicas": 5}})).await.expect(200).json();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let car = admin.get(&path).await.json();
    assert_eq!((&car["spec"]["replicas"], &car["metadata"]["generation"]), (&json!(5), &json!(2)));
}

#[tokio::test]
async fn columns_and_selectable_fields() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin, &full()).await.expect(201);
    admin.post(CARS, &car("a", &json!({"wheels": 4}))).await.expect(201);
    admin.post(CARS, &car("b", &json!({"wheels": 3, "color": "red"}))).await.expect(201);
    let status =
        json!({"status": {"conditions": [{"type": "X", "status": "False"}, {"type": "Ready", "status": "True"}]}});
    admin.patch(&format!("{CARS}/a/status"), "merge", &status).await.expect(200);
    let tables = admin.clone().with(&[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]);
    let table = tables.get(CARS).await.expect(200).json();
    let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, [json!("Name"), json!("Wheels"), json!("Ready")]);
    let cells: Vec<_> = table["rows"].as_array().unwrap().iter().map(|r| r["cells"].clone()).collect();
    assert_eq!(cells, [json!(["a", 4, "True"]), json!(["b", 3, null])]);
    let red = admin.get(&format!("{CARS}?fieldSelector=spec.color%3Dred")).await.expect(200).json();
    assert_eq!(red["items"].as_array().unwrap().len(), 1);
    admin
        .get(&format!("{CARS}?fieldSelector=spec.wheels%3D4"))
        .await
        .refused(400, "field label not supported: spec.wheels");
}

#[tokio::test]
async fn applied_by_two() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin, &full()).await.expect(201);
    let path = format!("{CARS}/a");
    let one = car("a", &json!({"wheels": 4, "doors": [{"side": "left", "open": true}]}));
    apply(&admin, &path, "one", &one).await.expect(201);
    let two = car("a", &json!({"doors": [{"side": "right"}]}));
    let both = apply(&admin, &path, "two", &two).await.expect(200).json();
    assert_eq!(both["spec"]["doors"], json!([{"side": "left", "open": true}, {"side": "right"}]));
    let fields = &both["metadata"]["managedFields"];
    let mine = fields.as_array().unwrap().iter().find(|f| f["manager"] == "two").unwrap();
    let expected = json!({"f:spec": {"f:doors": {"k:{\"side\":\"right\"}": {".": {}, "f:side": {}}}}});
    assert_eq!(mine["fieldsV1"], expected);
    let clash = apply(&admin, &path, "two", &car("a", &json!({"wheels": 3}))).await;
    clash.refused(409, "Apply failed with 1 conflict: conflict with \"one\": .spec.wheels");
    let unknown = apply(&admin, &path, "two", &car("a", &json!({"wings": 1}))).await;
    unknown.refused(
        500,
        "failed to create typed patch object (/a; example.com/v1, Kind=Car): .spec.wings: field not declared in schema",
    );
}

#[tokio::test]
async fn several_versions() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut definition = cars(&any());
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    second["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"wheels": {"type": "integer", "default": 4}}}}});
    definition["spec"]["versions"].as_array_mut().unwrap().push(second);
    define(&admin, &definition).await.expect(201);
    admin.post(CARS, &car("a", &json!({"other": 1}))).await.expect(201);
    let newer = CARS.replace("/v1/", "/v2/");
    let seen = admin.get(&format!("{newer}/a")).await.expect(200).json();
    assert_eq!((&seen["apiVersion"], &seen["spec"]), (&json!("example.com/v2"), &json!({"wheels": 4})));
    let list = admin.get(&newer).await.expect(200).json();
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v2");
    let mut given = car("b", &json!({"wheels": 3}));
    given["apiVersion"] = json!("example.com/v2");
    let made = admin.post(&newer, &given).await.expect(201).json();
    assert_eq!(made["apiVersion"], "example.com/v2");
    let older = admin.get(&format!("{CARS}/b")).await.expect(200).json();
    assert_eq!((&older["apiVersion"], &older["spec"]["wheels"]), (&json!("example.com/v1"), &json!(3)));
    let mut watch = admin.watch(&format!("{newer}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["apiVersion"], "example.com/v2");
    let group = admin.get("/apis/example.com").await.json();
    assert_eq!(group["preferredVersion"]["version"], "v2");
}

#[tokio::test]
async fn defaults_reach_objects_that_are_older() {
    let server = Server::start().await;
    let admin = server.admin();
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}});
    define(&admin, &cars(&schema)).await.expect(201);
    admin.post(CARS, &car("a", &json!({"a": "1"}))).await.expect(201);
    let add = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/b",
        "value": {"type": "string", "default": "B"}}]);
    admin.patch(&format!("{DEFINITIONS}/cars.example.com"), "json", &add).await.expect(200);
    for answer in [admin.get(&format!("{CARS}/a")).await.json(), admin.get(CARS).await.json()["items"][0].clone()] {
        assert_eq!(answer["spec"], json!({"a": "1", "b": "B"}));
    }
}

#[tokio::test]
async fn rules() {
    let server = Server::start().await;
    let admin = server.admin();
    let schema = |rules: Value| {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules,
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string",
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "name is immutable"}]}}}}})
    };
    define(&admin, &cars(&schema(json!([{"rule": "self.min <= self.most"}])))).await.refused(
        422,
        "CustomResourceDefinition.apiextensions.k8s.io \"cars.example.com\" is invalid: spec.validation.openAPIV3Schema.properties[spec]\
         .x-kubernetes-validations[0].rule: Invalid value: {\"FieldPath\":\"\",\"Message\":\"\",\"MessageExpression\":\"\",\
         \"OptionalOldSelf\":null,\"Reason\":null,\"Rule\":\"self.min <= self.most\"}: compilation failed: ERROR: <input>:1:17: \
         undefined field 'most'\n | self.min <= self.most\n | ................^",
    );
    let rules = json!([{"rule": "self.min <= self.max", "messageExpression": "'%d > %d'.format([self.min, self.max])"},
        {"rule": "self.max < 100", "reason": "FieldValueForbidden", "fieldPath": ".max", "message": "too much"}]);
    define(&admin, &cars(&schema(rules))).await.expect(201);
    admin
        .post(CARS, &car("a", &json!({"min": 3, "max": 2})))
        .await
        .refused(422, "Car.example.com \"a\" is invalid: spec: Invalid value: 3 > 2");
    admin
        .post(CARS, &car("a", &json!({"min": 3, "max": 200})))
        .await
        .refused(422, "Car.example.com \"a\" is invalid: spec.max: Forbidden: too much");
    admin.post(CARS, &car("a", &json!({"min": 1, "max": 2, "name": "x"}))).await.expect(201);
    admin
        .patch(&format!("{CARS}/a"), "merge", &json!({"spec": {"name": "y"}}))
        .await
        .refused(422, "Car.example.com \"a\" is invalid: spec.name: Invalid value: \"y\": name is immutable");
}

#[tokio::test]
async fn what_no_definition_may_say() {
    let server = Server::start().await;
    let admin = server.admin();
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let root = "spec.validation.openAPIV3Schema";
    for (change, message) in [
        (json!({"spec": {"scope": "Planet"}}), r#"spec.scope: Unsupported value: "Planet": supported values: "Cluster", "Namespaced""#.to_owned()),
        (json!({"spec": {"group": "example"}}), "[metadata.name: Invalid value: \"cars.example.com\": must be spec.names.plural+\".\"+spec.group, spec.group: Invalid value: \"example\": should be a domain with at least one dot]".to_owned()),
        (json!({"spec": {"names": {"kind": "CarList"}}}), "spec.names.listKind: Invalid value: \"CarList\": kind and listKind may not be the same".to_owned()),
        (json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true}]}}), "spec.versions[0].schema.openAPIV3Schema: Required value".to_owned()),
    ] {
        let mut definition = cars(&any());
        definition["spec"]["names"]["listKind"] = json!("CarList");
        merge(&mut definition, &change);
        let expected = format!("CustomResourceDefinition.apiextensions.k8s.io \"cars.example.com\" is invalid: {message}");
        define(&admin, &definition).await.refused(422, &expected);
    }
    for (schema, message) in [
        (json!({"properties": {}}), format!("{root}.type: Required value: must not be empty at the root")),
        (
            object(json!({"spec": {"properties": {}}})),
            format!("{root}.properties[spec].type: Required value: must not be empty for specified object fields"),
        ),
        (
            object(json!({"a": {"type": "array"}})),
            format!("{root}.properties[a].items: Required value: must be specified"),
        ),
        (
            object(json!({"a": {"type": "string", "default": 3}})),
            format!(
                "{root}.properties[a].default: Invalid value: \"integer\":  in body must be of type string: \"integer\""
            ),
        ),
        (
            object(json!({"a": {"type": "string", "x-kubernetes-list-type": "set"}})),
            format!(
                "{root}.properties[a].type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified"
            ),
        ),
        (
            object(json!({"a": {"type": "integer", "anyOf": [{"type": "integer"}]}})),
            format!("{root}.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (
            object(json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}})),
            format!(
                "{root}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
            ),
        ),
    ] {
        let expected =
            format!("CustomResourceDefinition.apiextensions.k8s.io \"cars.example.com\" is invalid: {message}");
        define(&admin, &cars(&schema)).await.refused(422, &expected);
    }
}

fn merge(into: &mut Value, change: &Value) {
    match change {
        Value::Object(fields) => {
            for (name, value) in fields {
                merge(&mut into[name.as_str()], value);
            }
        }
        other => *into = other.clone(),
    }
}
