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
    post("{\"a\": \"\u{0}\"}", "application/json").await.expect(400);
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

/// What comes over the wire as it must not: the code, and a part of the message.
#[tokio::test]
async fn bodies_that_are_attacks() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.post(MAPS, &config_map("a", &json!({}))).await.expect(201);
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let aliases = format!("a: &a [{}]\nb: [{}]", "a,".repeat(2000), "*a,".repeat(2000));
    let mut copies = vec![json!({"op": "copy", "from": "/data/long", "path": "/data/k"}); 41];
    copies[0] = json!({"op": "add", "path": "/data/long", "value": "x".repeat(100_000)});
    let copies = json!(copies).to_string();
    let tests = json!(vec![json!({"op": "test", "path": "/kind", "value": "ConfigMap"}); 10_001]).to_string();
    let (post, patch) = (http::Method::POST, http::Method::PATCH);
    let (json_patch, merge) = ("application/json-patch+json", "application/merge-patch+json");
    let invalid_utf8 = b"{\"data\": {\"a\": \"\xff\"}}".to_vec();
    for (method, content_type, body, code, part) in [
        (&post, "application/json", nested("{\"a\":", "}").into_bytes(), 400, "recursion limit exceeded"),
        (&post, "application/json", nested("[", "]").into_bytes(), 400, "recursion limit exceeded"),
        (&patch, merge, nested("{\"a\":", "}").into_bytes(), 400, "error decoding patch"),
        (&post, "application/yaml", nested("[", "]").into_bytes(), 400, "recursion limit exceeded"),
        (&post, "application/yaml", aliases.into_bytes(), 400, "document contains excessive aliasing"),
        (&post, "application/yaml", b"a: 1\n---\nb: 1\n".to_vec(), 400, "more than one document"),
        (&post, "application/json", invalid_utf8, 400, "invalid unicode"),
        (&post, "application/json", b"\x1f\x8b\x08".to_vec(), 400, "invalid character"),
        (&post, "application/vnd.kubernetes.protobuf", b"k8s\0\xff\xff\xff\xff\xff".to_vec(), 400, "unrecognized"),
        (&patch, json_patch, copies.into_bytes(), 422, "the server rejected our request"),
        (
            &patch,
            json_patch,
            tests.into_bytes(),
            413,
            "The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (&patch, merge, b"[]".to_vec(), 400, "cannot unmarshal array"),
        (&patch, "application/json", b"{}".to_vec(), 415, "application/merge-patch+json"),
    ] {
        let path = if *method == patch { format!("{MAPS}/a") } else { MAPS.to_owned() };
        let what = format!("{method} {content_type} {}", String::from_utf8_lossy(&body[..body.len().min(40)]));
        let answer = admin.clone().with(&[("content-type", content_type)]).raw(method.clone(), &path, body).await;
        assert_eq!((answer.code, answer.json()["kind"].as_str()), (code, Some("Status")), "{what}: {}", answer.text());
        assert!(answer.message().contains(part), "{what}: {}", answer.message());
    }
    assert_eq!(
        admin.get(&format!("{MAPS}/a")).await.expect(200).json()["data"],
        json!({"k": "v"}),
        "nothing is changed"
    );
}

/// Unknown and repeated fields under each mode of `fieldValidation`.
#[tokio::test]
async fn fields_that_are_not_there() {
    let server = Server::start().await;
    let admin = server.admin();
    let body = |name: &str| {
        format!(
            "{{\"metadata\": {{\"name\": \"{name}\", \"nmae\": \"x\"}}, \"data\": {{\"k\": \"1\", \"k\": \"2\"}}, \"specs\": 1}}"
        )
    };
    let create = |name: &'static str, mode: &'static str| {
        let admin = admin.clone();
        async move { admin.raw(http::Method::POST, &format!("{MAPS}{mode}"), body(name)).await }
    };
    create("strict", "?fieldValidation=Strict").await.refused(
        400,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"metadata.nmae\", \
         duplicate field \"data.k\", unknown field \"specs\"",
    );
    for mode in ["", "?fieldValidation=Warn"] {
        let name = if mode.is_empty() { "default" } else { "warn" };
        let answer = create(name, mode).await.expect(201);
        let warnings: Vec<_> = answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
        let said =
            ["unknown field \\\"metadata.nmae\\\"", "duplicate field \\\"data.k\\\"", "unknown field \\\"specs\\\""];
        assert_eq!(warnings, said.map(|w| format!("299 - \"{w}\"")), "{mode}");
        assert_eq!(answer.json()["data"], json!({"k": "2"}), "the last one counts");
    }
    let silent = create("ignore", "?fieldValidation=Ignore").await.expect(201);
    assert!(silent.header("warning").is_empty() && silent.json().get("specs").is_none());
    admin.get(&format!("{MAPS}/strict")).await.expect(404);
}

#[tokio::test]
async fn what_cannot_be_changed() {
    let server = Server::start().await;
    let admin = server.admin();
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "a/b", "immutable": true});
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.post(secrets, &secret).await.expect(201);
    let labels = json!({"app": "d"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": {"app": "d", "x": "y"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    admin.post(deployments, &deployment).await.expect(201);
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    admin.post(services, &service).await.expect(201);
    for (path, patch, field, message) in [
        (format!("{secrets}/s"), json!({"type": "c/d"}), "type", "field is immutable"),
        (format!("{secrets}/s"), json!({"data": {"a": "Yg=="}}), "data", "field is immutable when `immutable` is set"),
        (
            format!("{secrets}/s"),
            json!({"immutable": false}),
            "immutable",
            "field is immutable when `immutable` is set",
        ),
        (
            format!("{deployments}/d"),
            json!({"spec": {"selector": {"matchLabels": {"app": null, "x": "y"}}}}),
            "spec.selector",
            "field is immutable",
        ),
        (
            format!("{services}/s"),
            json!({"spec": {"clusterIP": "10.43.9.9"}}),
            "spec.clusterIPs[0]",
            "may not change once set",
        ),
        (
            format!("{secrets}/s"),
            json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}}),
            "metadata.creationTimestamp",
            "field is immutable",
        ),
    ] {
        let answer = admin.patch(&path, "merge", &patch).await.expect(422).json();
        assert_eq!(answer["reason"], "Invalid");
        let causes = answer["details"]["causes"].as_array().unwrap();
        let fits = |c: &serde_json::Value| c["field"] == field && c["message"].as_str().unwrap().contains(message);
        assert!(causes.iter().any(fits), "{path} {patch}: {causes:#?}");
    }
}

#[tokio::test]
async fn parameters_and_paths_that_are_attacks() {
    let server = Server::start().await;
    let admin = server.admin();
    let token = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    let old = token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../../secrets/x"}"#);
    let other = token(r#"{"v":"meta.k8s.io/v9","rv":1,"start":"x"}"#);
    for (query, code, part) in [
        ("limit=x".to_owned(), 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("limit=99999999999999999999".into(), 400, "strconv.ParseInt"),
        ("limit=1&continue=bogus".into(), 400, "invalid continue token: continue key is not valid"),
        (format!("limit=1&continue={other}"), 400, "does not recognize this encoded version"),
        ("resourceVersion=-1".into(), 400, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ("watch=1&resourceVersion=abc".into(), 400, "strconv.ParseUint: parsing \"abc\": invalid syntax"),
        ("watch=1&timeoutSeconds=abc".into(), 400, "strconv.ParseInt: parsing \"abc\": invalid syntax"),
        (
            "labelSelector=a%20b".into(),
            400,
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        ("fieldSelector=x".into(), 400, "invalid selector: 'x'; can't understand 'x'"),
        ("fieldSelector=spec.x%3Dy".into(), 400, "\"spec.x\" is not a known field selector"),
    ] {
        let answer = admin.get(&format!("{MAPS}?{query}")).await.expect(code);
        assert!(answer.message().contains(part), "{query}: {}", answer.message());
    }
    admin.get(&format!("{MAPS}?limit=-1")).await.expect(200);
    // A forged place to go on from leads nowhere.
    let why = "invalid continue token: continue key is not valid: ../../secrets/x";
    admin.get(&format!("{MAPS}?limit=1&continue={old}")).await.refused(400, why);
    assert_eq!(
        admin
            .open(
                http::Method::GET,
                &format!("{MAPS}?watch=1&timeoutSeconds=9223372036854775807"),
                apiserver::Body::empty()
            )
            .await
            .status(),
        200
    );
    for (path, code, message) in [
        ("a%2Fb", 404, "the server could not find the requested resource"),
        ("%2e%2e", 400, "Name parameter invalid: \"..\": may not be '..'"),
        (".", 400, "Name parameter invalid: \".\": may not be '.'"),
        ("a%25b", 400, "Name parameter invalid: \"a%b\": may not contain '%'"),
        ("a%00b", 404, "configmaps \"a\\0b\" not found"),
        ("a/b/c/d", 404, "the server could not find the requested resource"),
    ] {
        let answer = admin.get(&format!("{MAPS}/{path}")).await.expect(code);
        assert_eq!(answer.message().replace("\\x00", "\\0"), message, "{path}");
    }
    for method in ["OPTIONS", "TRACE", "BREW"] {
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        admin
            .raw(method, MAPS, "")
            .await
            .refused(405, "the server does not allow this method on the requested resource");
    }
    // A grace that ends after every clock, and then a shorter one.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    for grace in [i64::MAX, i64::MIN] {
        let options = json!({"gracePeriodSeconds": grace}).to_string();
        let marked =
            admin.raw(http::Method::DELETE, "/api/v1/namespaces/default/pods/p", options).await.expect(200).json();
        let at = marked["metadata"]["deletionTimestamp"].as_str().unwrap();
        assert!(at.starts_with("20"), "a time that clients can read: {at}");
    }
    assert!(admin.get("/metrics").await.text().contains("apiserver_request_panics_total 0"));
}
