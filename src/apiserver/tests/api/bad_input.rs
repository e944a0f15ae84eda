//! Input that is wrong: each a precise answer, and the server goes on.

use serde_json::json;

use crate::harness::{Server, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn bodies() {
    let server = Server::start().await;
    let admin = server.admin();
    let post = |body: &'static str, content_type: &'static str| {
        let client = admin.clone().with(&[("content-type", content_type)]);
        async move { client.raw(http::Method::POST, MAPS, body).await }
    };
    let refused = post("{\"apiVersion\": \"v1\",", "application/json").await.expect(400);
    assert!(refused.message().contains("unexpected end of JSON input"), "{}", refused.message());
    post("a: b: c", "application/yaml").await.expect(400);
    post("{}", "application/cbor").await.expect(415);
    post("hello", "text/plain").await.expect(415);
    post("", "application/json").await.expect(400);
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  k: v\n";
    post(yaml, "application/yaml").await.expect(201);
    let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    admin.post(MAPS, &wrong).await.expect(400);
    let large = "x".repeat(4 << 20);
    let refused = admin.post(MAPS, &json!({"data": {"k": large}})).await;
    refused.refused(413, "Request entity too large: limit is 3145728");
    admin.get(MAPS).await.expect(200);
}

#[tokio::test]
async fn names_and_places() {
    let server = Server::start().await;
    let admin = server.admin();
    let refused = admin.post(MAPS, &config_map("Not_A_Name", &json!({}))).await.expect(422);
    assert!(
        refused.message().starts_with("ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value"),
        "{}",
        refused.message()
    );
    assert_eq!(refused.json()["details"]["causes"][0]["field"], "metadata.name");
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    admin
        .post(MAPS, &nameless)
        .await
        .refused(422, "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required");
    let mut elsewhere = config_map("a", &json!({}));
    elsewhere["metadata"]["namespace"] = json!("other");
    admin
        .post(MAPS, &elsewhere)
        .await
        .refused(400, "the namespace of the provided object does not match the namespace sent on the request");
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    admin
        .put(&format!("{MAPS}/a"), &config_map("b", &json!({})))
        .await
        .refused(400, "the name of the object (b) does not match the name on the URL (a)");
    let mut versioned = config_map("v", &json!({}));
    versioned["metadata"]["resourceVersion"] = json!("7");
    admin.post(MAPS, &versioned).await.refused(500, "resourceVersion should not be set on objects to be created");
    let mut uid = config_map("a", &json!({}));
    uid["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
    let refused = admin.put(&format!("{MAPS}/a"), &uid).await.expect(409);
    assert!(refused.message().contains("Precondition failed: UID in precondition: 00000000-"), "{}", refused.message());
}

#[tokio::test]
async fn paths_and_methods() {
    let server = Server::start().await;
    let admin = server.admin();
    for path in ["/nothing", "/api/v2", "/apis/nothing/v1", "/api/v1/widgets", "/apis/apps/v1/deployments/x"] {
        admin.get(path).await.refused(404, "the server could not find the requested resource");
    }
    admin
        .post("/api/v1/configmaps", &config_map("a", &json!({})))
        .await
        .refused(405, "the server does not allow this method on the requested resource");
    let refused = admin.clone().with(&[("accept", "text/html")]).get(MAPS).await.expect(406);
    assert!(refused.message().starts_with("only the following media types are accepted: application/json"));
    let refused = admin.get(&format!("{MAPS}?resourceVersion=abc")).await.expect(400);
    assert!(refused.message().contains("strconv.ParseUint: parsing \"abc\": invalid syntax"));
    let refused = admin.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.expect(422);
    assert!(refused.message().contains("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    let refused = admin.post(&format!("{MAPS}?fieldValidation=Maybe"), &config_map("a", &json!({}))).await.expect(422);
    assert!(refused.message().contains("fieldValidation: Unsupported value: \"Maybe\""), "{}", refused.message());
}

#[tokio::test]
async fn a_watch_from_a_forgotten_revision_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_in(folder, None).await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    // History does not survive a restart: what was before it is gone.
    let store: &dyn store::Store = &*server.store;
    store.close().await.unwrap();
    let Server { api, store, pki, folder } = server;
    drop((api, store, pki));
    let server = Server::start_in(folder, None).await;
    let refused = server.admin().get(&format!("{MAPS}?watch=1&resourceVersion=1")).await.expect(410).json();
    assert_eq!(refused["reason"], "Expired");
    assert!(refused["message"].as_str().unwrap().starts_with("too old resource version: 1 ("), "{refused}");
}
