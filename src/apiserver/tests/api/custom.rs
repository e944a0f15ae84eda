//! Custom kinds: defined, used at once, restarted, deleted.

use serde_json::{Value, json};

use super::harness::{Answer, Client, Server};

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const CARS: &str = "/apis/example.com/v1/namespaces/default/cars";

/// A definition of cars with that schema.
pub fn cars(schema: &Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "cars.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "cars", "singular": "car", "kind": "Car", "shortNames": ["cr"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

pub fn any() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

pub fn car(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Car", "metadata": {"name": name}, "spec": spec})
}

pub async fn define(client: &Client<'_>, definition: &Value) -> Answer {
    client.post(DEFINITIONS, definition).await
}

/// Reads until the answer is what is waited for.
pub async fn until(client: &Client<'_>, path: &str, what: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let answer = client.get(path).await;
        if what(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn defined_and_used_at_once() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.get(CARS).await.expect(404);
    let definition = define(&admin, &cars(&any())).await.expect(201).json();
    let status = &definition["status"];
    assert_eq!(status["storedVersions"], json!(["v1"]));
    assert_eq!(status["acceptedNames"]["listKind"], "CarList");
    let conditions: Vec<_> =
        status["conditions"].as_array().unwrap().iter().map(|c| (c["type"].clone(), c["status"].clone())).collect();
    assert_eq!(conditions, [(json!("NamesAccepted"), json!("True")), (json!("Established"), json!("True"))]);

    let made = admin.post(CARS, &car("a", &json!({"wheels": 4}))).await.expect(201).json();
    assert_eq!(made["metadata"]["generation"], 1);
    let mut watch = admin.watch(&format!("{CARS}?watch=true")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "a".into()));
    let changed = admin.patch(&format!("{CARS}/a"), "merge", &json!({"spec": {"wheels": 3}})).await.expect(200).json();
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(watch.brief().await, ("MODIFIED".into(), "a".into()));
    let list = admin.get(CARS).await.expect(200).json();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("CarList"), 1));
    admin.patch(&format!("{CARS}/a"), "strategic-merge", &json!({})).await.expect(415);

    let groups = admin.get("/apis").await.json();
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "example.com").unwrap();
    assert_eq!(group["preferredVersion"]["groupVersion"], "example.com/v1");
    let resources = admin.get("/apis/example.com/v1").await.json();
    let resource = &resources["resources"][0];
    assert_eq!((&resource["name"], &resource["shortNames"]), (&json!("cars"), &json!(["cr"])));
    assert_eq!(resource["storageVersionHash"].as_str().unwrap().len(), 12);
    let aggregated = admin
        .clone()
        .with(&[("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")])
        .get("/apis")
        .await;
    assert!(aggregated.text().contains("\"example.com\""));

    admin.delete(&format!("{DEFINITIONS}/cars.example.com")).await.expect(200);
    until(&admin, &format!("{DEFINITIONS}/cars.example.com"), |a| a.code == 404).await;
    assert_eq!(watch.brief().await, ("DELETED".into(), "a".into()));
    until(&admin, CARS, |a| a.code == 404).await;
    admin.get("/apis/example.com/v1").await.expect(404);
    let other = admin
        .clone()
        .with(&[("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")])
        .get("/apis")
        .await;
    assert_ne!(aggregated.header("etag"), other.header("etag"));
}

#[tokio::test]
async fn there_after_a_restart() {
    let server = Server::start().await;
    define(&server.admin(), &cars(&any())).await.expect(201);
    let mut labelled = car("a", &json!({}));
    labelled["metadata"]["labels"] = json!({"color": "red"});
    server.admin().post(CARS, &labelled).await.expect(201);
    server.admin().post(CARS, &car("b", &json!({}))).await.expect(201);
    store::Store::close(&*server.store).await.unwrap();
    let Server { folder, store, api, .. } = server;
    drop((store, api));
    let server = Server::start_in(folder, None).await;
    let list = server.admin().get(&format!("{CARS}?labelSelector=color=red")).await.expect(200).json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    server.admin().post(CARS, &car("c", &json!({}))).await.expect(201);
}

#[tokio::test]
async fn names_are_taken_and_given_back() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin, &cars(&any())).await.expect(201);
    let mut second = cars(&any());
    second["metadata"]["name"] = json!("autos.example.com");
    second["spec"]["names"]["plural"] = json!("autos");
    let second = define(&admin, &second).await.expect(201).json();
    let state = |definition: &Value, kind: &str| {
        let conditions = definition["status"]["conditions"].as_array().unwrap().clone();
        let found = conditions.iter().find(|c| c["type"] == kind).unwrap().clone();
        (found["status"].clone(), found["reason"].clone(), found["message"].clone())
    };
    assert_eq!(
        state(&second, "NamesAccepted"),
        (json!("False"), json!("ListKindConflict"), json!("\"CarList\" is already in use"))
    );
    assert_eq!(
        state(&second, "Established"),
        (json!("False"), json!("NotAccepted"), json!("not all names are accepted"))
    );
    admin.get("/apis/example.com/v1/autos").await.expect(404);
    admin.delete(&format!("{DEFINITIONS}/cars.example.com")).await.expect(200);
    until(&admin, "/apis/example.com/v1/autos", |a| a.code == 200).await;
}

#[tokio::test]
async fn objects_go_before_their_definition() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin, &cars(&any())).await.expect(201);
    let mut held = car("a", &json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(CARS, &held).await.expect(201);
    let path = format!("{DEFINITIONS}/cars.example.com");
    let marked = admin.delete(&path).await.expect(200).json();
    assert_eq!(marked["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let held = until(&admin, &format!("{CARS}/a"), |a| !a.json()["metadata"]["deletionTimestamp"].is_null()).await;
    assert_eq!(held.code, 200);
    let definition = until(&admin, &path, |a| a.text().contains("InstanceDeletionInProgress")).await;
    assert_eq!(definition.code, 200);
    admin.post(CARS, &car("b", &json!({}))).await.refused(
        403,
        "cars.example.com \"b\" is forbidden: create not allowed while custom resource definition is terminating",
    );
    admin
        .patch(&format!("{CARS}/a"), "json", &json!([{"op": "remove", "path": "/metadata/finalizers"}]))
        .await
        .expect(200);
    until(&admin, &path, |a| a.code == 404).await;
    until(&admin, CARS, |a| a.code == 404).await;
}

#[tokio::test]
async fn many_definitions() {
    let server = Server::start().await;
    let admin = server.admin();
    for i in 0..200 {
        let mut definition = cars(&any());
        let (plural, kind) = (format!("kinds{i}"), format!("Kind{i}"));
        definition["metadata"]["name"] = json!(format!("{plural}.example.com"));
        definition["spec"]["names"] = json!({"plural": plural, "kind": kind});
        define(&admin, &definition).await.expect(201);
        admin.get(&format!("/apis/example.com/v1/{plural}")).await.expect(200);
    }
    let resources = admin.get("/apis/example.com/v1").await.json();
    assert_eq!(resources["resources"].as_array().unwrap().len(), 200);
}
