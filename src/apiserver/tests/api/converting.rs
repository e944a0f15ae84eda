//! Custom kinds whose versions a webhook converts: `spec.wheels` of v1, which is kept, is `spec.tyres` of v2.

use serde_json::{Value, json};

use super::custom::{CARS, DEFINITIONS, car, cars, define};
use super::harness::{Client, Server};
use super::webhooks::Hooks;

const SECOND: &str = "/apis/example.com/v2/namespaces/default/cars";

/// Converts as a webhook for cars does; it knows no trucks.
fn convert(review: &Value) -> Value {
    let wanted = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let mut objects = review["request"]["objects"].as_array().unwrap().clone();
    if objects.iter().any(|object| object["metadata"]["name"] == "truck") {
        return json!({"result": {"status": "Failure", "message": "no trucks"}});
    }
    for object in &mut objects {
        let (from, to) = if wanted.ends_with("v2") { ("wheels", "tyres") } else { ("tyres", "wheels") };
        object["apiVersion"] = json!(wanted);
        let count = object["spec"].as_object_mut().unwrap().remove(from).unwrap_or_default();
        object["spec"][to] = count;
        object["metadata"]["labels"] = json!({"converted": "yes"});
        object["metadata"]["finalizers"] = json!(["not/taken"]);
    }
    json!({"result": {"status": "Success"}, "convertedObjects": objects})
}

fn versioned(client: &Value) -> Value {
    let schema = |field: &str| {
        json!({"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {field: {"type": "integer"}}}}}})
    };
    let mut definition = cars(&json!({}));
    definition["spec"]["versions"] = json!([
        {"name": "v1", "served": true, "storage": true, "schema": schema("wheels")},
        {"name": "v2", "served": true, "storage": false, "schema": schema("tyres")},
    ]);
    definition["spec"]["conversion"] =
        json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v9", "v1"]}});
    definition
}

fn second(name: &str, tyres: i64) -> Value {
    let mut second = car(name, &json!({"tyres": tyres}));
    second["apiVersion"] = json!("example.com/v2");
    second
}

/// Version and spec of what is there.
async fn seen(client: &Client<'_>, path: &str) -> (Value, Value) {
    let object = client.get(path).await.expect(200).json();
    (object["apiVersion"].clone(), object["spec"].clone())
}

#[tokio::test]
async fn every_verb_speaks_the_version_of_its_path() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(convert).await;
    define(&admin, &versioned(&hooks.url("/convert"))).await.expect(201);
    let in_first = |wheels: i64| (json!("example.com/v1"), json!({"wheels": wheels}));
    let in_second = |tyres: i64| (json!("example.com/v2"), json!({"tyres": tyres}));
    let (one, two) = (format!("{CARS}/a"), format!("{SECOND}/a"));

    let made = admin.post(SECOND, &second("a", 4)).await.expect(201).json();
    assert_eq!((made["apiVersion"].clone(), made["spec"].clone()), in_second(4));
    assert_eq!(made["metadata"]["labels"], json!({"converted": "yes"}));
    assert!(made["metadata"]["finalizers"].is_null(), "{made}");
    let review = hooks.taken().remove(0);
    assert_eq!(review["path"], "/convert?timeout=30s");
    assert_eq!(review["request"]["objects"][0]["spec"], json!({"tyres": 4}));
    assert_eq!(seen(&admin, &one).await, in_first(4));
    assert_eq!(review["apiVersion"], "apiextensions.k8s.io/v1");

    let mut changed = made;
    changed["spec"]["tyres"] = json!(5);
    admin.put(&two, &changed).await.expect(200);
    assert_eq!(seen(&admin, &one).await, in_first(5));
    let patched = admin.patch(&two, "merge", &json!({"spec": {"tyres": 6}})).await.expect(200).json();
    assert_eq!(patched["metadata"]["generation"], 3);
    assert_eq!(seen(&admin, &one).await, in_first(6));
    assert_eq!(seen(&admin, &two).await, in_second(6));
    let applying = admin.clone().with(&[("content-type", "application/apply-patch+yaml")]);
    let applied =
        applying.raw(http::Method::PATCH, &format!("{SECOND}/b?fieldManager=m"), second("b", 3).to_string()).await;
    assert_eq!(applied.expect(201).json()["spec"], json!({"tyres": 3}));

    // those that are in the version already are not sent, the others in one call
    hooks.taken();
    admin.get(CARS).await.expect(200);
    assert!(hooks.taken().is_empty());
    let list = admin.get(SECOND).await.expect(200).json();
    let specs: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["spec"]).collect();
    assert_eq!(specs, [&json!({"tyres": 6}), &json!({"tyres": 3})]);
    let reviews = hooks.taken();
    assert_eq!((reviews.len(), reviews[0]["request"]["objects"].as_array().unwrap().len()), (1, 2));

    let mut watch = admin.watch(&format!("{SECOND}?watch=true")).await;
    for expected in [("ADDED", 6), ("ADDED", 3)] {
        let event = watch.next().await.unwrap();
        assert_eq!(
            (event["type"].as_str().unwrap(), &event["object"]["spec"]["tyres"]),
            (expected.0, &json!(expected.1))
        );
    }
    admin.patch(&one, "merge", &json!({"spec": {"wheels": 8}})).await.expect(200);
    assert_eq!(watch.next().await.unwrap()["object"]["spec"], json!({"tyres": 8}));
    admin.delete(&two).await.expect(200);
    let gone = watch.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["spec"]), (&json!("DELETED"), &json!({"tyres": 8})));
    admin.delete(SECOND).await.expect(200);
    admin.get(&format!("{CARS}/b")).await.expect(404);
}

/// A field selector speaks of the version of its path, whatever version is kept.
#[tokio::test]
async fn selectors_read_the_version_of_their_path() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(convert).await;
    let mut definition = versioned(&hooks.url("/convert"));
    for (at, field) in [(0, ".spec.wheels"), (1, ".spec.tyres")] {
        definition["spec"]["versions"][at]["selectableFields"] = json!([{"jsonPath": field}]);
    }
    define(&admin, &definition).await.expect(201);
    for (name, tyres) in [("a", 4), ("b", 3), ("c", 4), ("d", 4)] {
        admin.post(SECOND, &second(name, tyres)).await.expect(201);
    }
    let query = "fieldSelector=spec.tyres%3D4";
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let four = admin.get(&format!("{SECOND}?{query}")).await.expect(200).json();
    assert_eq!(names(&four), ["a", "c", "d"]);
    assert_eq!(names(&admin.get(&format!("{CARS}?fieldSelector=spec.wheels%3D3")).await.expect(200).json()), ["b"]);
    let first = admin.get(&format!("{SECOND}?{query}&limit=2")).await.expect(200).json();
    assert_eq!(names(&first), ["a", "c"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = admin.get(&format!("{SECOND}?{query}&limit=2&continue={token}")).await.expect(200).json();
    assert_eq!((names(&rest), &rest["metadata"]["continue"]), (vec!["d".to_owned()], &Value::Null));

    let mut watch = admin.watch(&format!("{SECOND}?watch=true&{query}")).await;
    for name in ["a", "c", "d"] {
        assert_eq!(watch.brief().await, ("ADDED".into(), name.into()));
    }
    let path = |name: &str| format!("{CARS}/{name}");
    let wheels = |count: i64| json!({"spec": {"wheels": count}});
    admin.patch(&path("b"), "merge", &wheels(4)).await.expect(200);
    assert_eq!(watch.brief().await, ("ADDED".into(), "b".into()));
    let left = admin.patch(&path("a"), "merge", &wheels(5)).await.expect(200).json();
    let gone = watch.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["spec"]), (&json!("DELETED"), &json!({"tyres": 4})));
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    admin.delete(&format!("{SECOND}?{query}")).await.expect(200);
    for name in ["b", "c", "d"] {
        assert_eq!(watch.brief().await, ("DELETED".into(), name.into()));
    }
    assert_eq!(names(&admin.get(CARS).await.expect(200).json()), ["a"]);
}

/// Nothing wrong is stored or shown when the webhook cannot be asked.
#[tokio::test]
async fn without_an_answer_nothing_is_stored() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(convert).await;
    define(&admin, &versioned(&hooks.url("/"))).await.expect(201);
    let refused = "conversion webhook for example.com/v2, Kind=Car failed: no trucks";
    admin.post(SECOND, &second("truck", 6)).await.refused(500, refused);
    admin.get(&format!("{CARS}/truck")).await.expect(404);

    admin.post(CARS, &car("a", &json!({"wheels": 4}))).await.expect(201);
    let mut open = admin.watch(&format!("{SECOND}?watch=true")).await;
    assert_eq!(open.brief().await, ("ADDED".into(), "a".into()));
    let dead = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"url": "https://127.0.0.1:1/x"}}}}});
    admin.patch(&format!("{DEFINITIONS}/cars.example.com"), "merge", &dead).await.expect(200);
    let failed = |from: &str| {
        format!(
            "conversion webhook for example.com/{from}, Kind=Car failed: Post \"https://127.0.0.1:1/x?timeout=30s\": dial tcp \
             127.0.0.1:1: connect: connection refused"
        )
    };
    let answer = admin.post(SECOND, &second("b", 6)).await;
    assert_eq!(answer.json()["reason"], Value::Null);
    answer.refused(500, &failed("v2"));
    admin.post(&format!("{SECOND}?dryRun=All"), &second("b", 6)).await.refused(500, &failed("v2"));
    admin.get(&format!("{CARS}/b")).await.expect(404);
    let two = format!("{SECOND}/a");
    admin.get(&two).await.refused(500, &failed("v1"));
    admin.get(SECOND).await.refused(500, &failed("v1"));
    admin.put(&two, &second("a", 6)).await.refused(500, &failed("v1"));
    admin.delete(&two).await.refused(500, &failed("v1"));
    let mut watch = admin.watch(&format!("{SECOND}?watch=true")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["message"]), (&json!("ERROR"), &json!(failed("v1"))));
    assert_eq!(watch.next().await, None);
    // the version that is kept needs no webhook
    admin.patch(&format!("{CARS}/a"), "merge", &json!({"spec": {"wheels": 3}})).await.expect(200);
    assert_eq!(seen(&admin, &format!("{CARS}/a")).await.1, json!({"wheels": 3}));
    admin.delete(&format!("{CARS}/a")).await.expect(200);
}

/// Which version is kept may change: what is stored in the old one is written in the new one, through the webhook.
#[tokio::test]
async fn the_kept_version_changes() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(convert).await;
    let definition = define(&admin, &versioned(&hooks.url("/"))).await.expect(201).json();
    admin.post(CARS, &car("a", &json!({"wheels": 4}))).await.expect(201);
    let mut versions = definition["spec"]["versions"].clone();
    (versions[0]["storage"], versions[1]["storage"]) = (json!(false), json!(true));
    let change = json!({"spec": {"versions": versions}});
    admin.patch(&format!("{DEFINITIONS}/cars.example.com"), "merge", &change).await.expect(200);
    hooks.taken();
    admin.patch(&format!("{CARS}/a"), "merge", &json!({"spec": {"wheels": 5}})).await.expect(200);
    let wanted: Vec<Value> = hooks.taken().iter().map(|r| r["request"]["desiredAPIVersion"].clone()).collect();
    assert_eq!(wanted, [json!("example.com/v2"), json!("example.com/v1")], "to be kept, and to be shown");
    assert_eq!(seen(&admin, &format!("{SECOND}/a")).await.1, json!({"tyres": 5}));
    assert!(hooks.taken().is_empty());
}
