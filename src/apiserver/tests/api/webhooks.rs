//! Admission webhooks, asked over TLS as a cluster's are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::custom::{CARS, car, cars, define};
use crate::harness::{Client, Server, TRACE, config_map};

type Answers = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// A webhook server with a certificate of its own, for `127.0.0.1` and for the service `hooks` in `default`.
pub struct Hooks {
    port: u16,
    ca_bundle: String,
    seen: Arc<Mutex<Vec<Value>>>,
    connections: Arc<AtomicUsize>,
}

impl Hooks {
    /// `answer` makes the `response` of a review, but for its uid.
    pub async fn start(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let names = vec!["127.0.0.1".to_owned(), "hooks.default.svc".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hooks = Self {
            port: listener.local_addr().unwrap().port(),
            ca_bundle: base64::engine::general_purpose::STANDARD.encode(made.cert.pem()),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (seen, connections, answer) = (hooks.seen.clone(), hooks.connections.clone(), Arc::new(answer) as Answers);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let service =
                        hyper::service::service_fn(move |request| respond(request, seen.clone(), answer.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        hooks
    }

    pub fn url(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.ca_bundle})
    }

    pub fn taken(&self) -> Vec<Value> {
        std::mem::take(&mut self.seen.lock())
    }
}

async fn respond(
    request: http::Request<hyper::body::Incoming>,
    seen: Arc<Mutex<Vec<Value>>>,
    answer: Answers,
) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let trace = request.headers().get("traceparent").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = request.into_body().collect().await?.to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap();
    (review["path"], review["traceparent"]) = (path.into(), trace.into());
    let mut response = answer(&review);
    let delay = response["delay"].take().as_u64();
    seen.lock().push(review.clone());
    if let Some(millis) = delay {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    if let Some(code) = response["code"].as_u64() {
        let mut refusal = http::Response::new(Full::new(Bytes::from_static(b"no")));
        *refusal.status_mut() = http::StatusCode::from_u16(u16::try_from(code).unwrap()).unwrap();
        return Ok(refusal);
    }
    response["uid"] = review["request"]["uid"].clone();
    let answer = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
    Ok(http::Response::new(Full::new(Bytes::from(answer.to_string()))))
}

pub fn patch(operations: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

/// One webhook about config maps; `more` overrides its fields.
pub fn webhook(name: &str, client: &Value, more: &Value) -> Value {
    let mut hook = json!({
        "name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        hook[field] = value.clone();
    }
    hook
}

pub async fn register(admin: &Client<'_>, kind: &str, webhooks: &[Value]) {
    let plural = format!("{}webhookconfigurations", kind.to_lowercase());
    let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": "test"}, "webhooks": webhooks});
    let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
    admin.delete(&format!("{path}/test")).await;
    admin.post(&path, &object).await.expect(201);
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    config_map(name, &json!({"app": "x"}))
}

#[tokio::test]
async fn a_mutating_webhook_completes_objects() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(|_| {
        let mut answer = patch(&json!([{"op": "add", "path": "/data/added", "value": "yes"}]));
        answer["warnings"] = json!(["look out"]);
        answer
    })
    .await;
    register(&admin, "Mutating", &[webhook("a.example.com", &hooks.url("/m"), &json!({"timeoutSeconds": 5}))]).await;

    let path = format!("{MAPS}?fieldManager=me&dryRun=All");
    let traced = admin.clone().with(&[("traceparent", TRACE)]);
    let made = traced.post(&path, &map("one")).await.expect(201);
    assert_eq!(made.json()["data"], json!({"k": "v", "added": "yes"}));
    assert_eq!(made.header("warning"), "299 - \"look out\"");
    let review = hooks.taken().remove(0);
    let request = &review["request"];
    assert_eq!((&review["kind"], &review["apiVersion"]), (&json!("AdmissionReview"), &json!("admission.k8s.io/v1")));
    assert_eq!((&review["path"], &review["traceparent"]), (&json!("/m?timeout=5s"), &json!(TRACE)));
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    for (field, expected) in [
        ("kind", kind.clone()),
        ("requestKind", kind),
        ("resource", resource.clone()),
        ("requestResource", resource),
        ("name", json!("one")),
        ("namespace", json!("default")),
        ("operation", json!("CREATE")),
        ("userInfo", json!({"username": "system:admin", "groups": ["system:masters", "system:authenticated"]})),
        ("oldObject", Value::Null),
        ("dryRun", json!(true)),
        (
            "options",
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions", "dryRun": ["All"], "fieldManager": "me"}),
        ),
    ] {
        assert_eq!(request[field], expected, "{field}");
    }
    assert_eq!(request["object"]["data"], json!({"k": "v"}));

    // a webhook with side effects is not asked on a dry run, and one that patches is asked again on an update
    admin.post(MAPS, &map("one")).await.expect(201);
    let patched = admin.patch(&format!("{MAPS}/one"), "merge", &json!({"data": {"k": "w", "added": null}})).await;
    assert_eq!(patched.expect(200).json()["data"], json!({"k": "w", "added": "yes"}));
    let update = hooks.taken().pop().unwrap();
    assert_eq!(update["traceparent"], Value::Null, "of no trace");
    assert_eq!(update["request"]["oldObject"]["data"], json!({"k": "v", "added": "yes"}));
    assert_eq!(hooks.connections.load(Ordering::SeqCst), 1, "the connection is kept");
    let unsafe_hook = webhook("a.example.com", &hooks.url("/"), &json!({"sideEffects": "Some"}));
    let unsafe_hook = json!({"name": unsafe_hook["name"], "clientConfig": unsafe_hook["clientConfig"],
        "sideEffects": "NoneOnDryRun", "admissionReviewVersions": ["v1"], "rules": unsafe_hook["rules"]});
    register(&admin, "Mutating", &[unsafe_hook]).await;
    admin.post(&format!("{MAPS}?dryRun=All"), &map("two")).await.expect(201);
}

/// The schema of a custom kind holds for what webhooks make of its objects, too.
#[tokio::test]
async fn what_a_webhook_adds_beyond_a_schema_is_dropped() {
    let server = Server::start().await;
    let admin = server.admin();
    let number = |default: &Value| json!({"type": "integer", "default": default});
    let properties = json!({"wheels": number(&json!(4)), "doors": number(&json!(5)), "seats": number(&json!(6))});
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
    define(&admin, &cars(&schema)).await.expect(201);
    let hooks = Hooks::start(|_| {
        patch(&json!([
            {"op": "add", "path": "/spec/wheels", "value": 3},
            {"op": "add", "path": "/spec/wings", "value": 2},
            {"op": "remove", "path": "/spec/doors"},
        ]))
    })
    .await;
    let rules =
        json!([{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["cars"]}]);
    register(&admin, "Mutating", &[webhook("a.example.com", &hooks.url("/"), &json!({"rules": rules}))]).await;
    let made = admin.post(CARS, &car("a", &json!({"seats": 1}))).await.expect(201).json();
    assert_eq!(made["spec"], json!({"wheels": 3, "doors": 5, "seats": 1}));
}

#[tokio::test]
async fn a_validating_webhook_refuses() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(|review| match review["request"]["name"].as_str() {
        Some("bad") => {
            json!({"allowed": false, "status": {"message": "not this one", "code": 403, "reason": "Forbidden"}})
        }
        Some("silent") => json!({"allowed": false}),
        Some("broken") => json!({"code": 500}),
        Some("patching") => patch(&json!([])),
        _ => json!({"allowed": true, "warnings": ["hm"]}),
    })
    .await;
    let hook = webhook("v.example.com", &hooks.url("/"), &json!({}));
    register(&admin, "Validating", std::slice::from_ref(&hook)).await;
    assert_eq!(admin.post(MAPS, &map("good")).await.expect(201).header("warning"), "299 - \"hm\"");
    for (name, code, message) in [
        ("bad", 403, "admission webhook \"v.example.com\" denied the request: not this one"),
        ("silent", 400, "admission webhook \"v.example.com\" denied the request without explanation"),
        (
            "broken",
            500,
            "Internal error occurred: failed calling webhook \"v.example.com\": failed to call webhook: an error on the \
             server (\"no\") has prevented the request from succeeding",
        ),
        (
            "patching",
            500,
            "Internal error occurred: failed calling webhook \"v.example.com\": received invalid webhook response: \
             validating webhook may not return response.patch",
        ),
    ] {
        admin.post(MAPS, &map(name)).await.refused(code, message);
    }
    // failures may be ignored, refusals not
    let mut lenient = hook.clone();
    lenient["failurePolicy"] = json!("Ignore");
    register(&admin, "Validating", &[lenient]).await;
    admin.post(MAPS, &map("broken")).await.expect(201);
    admin.post(MAPS, &map("bad")).await.expect(403);
    // deletions are asked about with what is there; the configuration itself never is
    let mut deleting = hook;
    deleting["rules"] = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]);
    register(&admin, "Validating", &[deleting]).await;
    hooks.taken();
    admin.delete(&format!("{MAPS}/good?gracePeriodSeconds=0&propagationPolicy=Background")).await.expect(200);
    let review = hooks.taken().pop().unwrap();
    assert_eq!((&review["request"]["operation"], &review["request"]["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(review["request"]["oldObject"]["metadata"]["name"], "good");
    assert_eq!(
        review["request"]["options"],
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    );
    let configuration = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/test";
    admin.delete(configuration).await.expect(200);
    assert!(hooks.taken().is_empty());
    admin.post(MAPS, &map("bad")).await.expect(201);
}

#[tokio::test]
async fn selectors_choose_requests() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(|_| json!({"allowed": true})).await;
    for (name, labels) in [("watched", json!({"hooks": "yes"})), ("free", json!({}))] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        admin.post("/api/v1/namespaces", &namespace).await.expect(201);
    }
    for (at, (more, namespace, labels, asked)) in [
        (json!({}), "free", json!({}), true),
        (json!({"namespaceSelector": {"matchLabels": {"hooks": "yes"}}}), "watched", json!({}), true),
        (json!({"namespaceSelector": {"matchLabels": {"hooks": "yes"}}}), "free", json!({}), false),
        (json!({"objectSelector": {"matchLabels": {"a": "b"}}}), "free", json!({"a": "b"}), true),
        (json!({"objectSelector": {"matchLabels": {"a": "b"}}}), "free", json!({"a": "c"}), false),
        (
            json!({"rules": [{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*"]}]}),
            "free",
            json!({}),
            false,
        ),
        (
            json!({"rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*/status"]}]}),
            "free",
            json!({}),
            false,
        ),
        (
            json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": "Cluster"}]}),
            "free",
            json!({}),
            false,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        register(&admin, "Validating", &[webhook("s.example.com", &hooks.url("/"), &more)]).await;
        hooks.taken();
        let object = config_map(&format!("m{at}"), &labels);
        admin.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &object).await.expect(201);
        assert_eq!(!hooks.taken().is_empty(), asked, "{more}");
    }
}

#[tokio::test]
async fn a_webhook_is_asked_again_when_another_changed_the_object() {
    let server = Server::start().await;
    let admin = server.admin();
    // The first counts how often it is asked, the second adds what the first then sees.
    let hooks = Hooks::start(|review| {
        let data = &review["request"]["object"]["data"];
        if review["path"].as_str().unwrap().starts_with("/second") {
            return patch(&json!([{"op": "add", "path": "/data/second", "value": "s"}]));
        }
        match data["second"].as_str() {
            Some(_) => patch(&json!([{"op": "add", "path": "/data/saw", "value": "second"}])),
            None => json!({"allowed": true}),
        }
    })
    .await;
    let first =
        |policy: &str| webhook("first.example.com", &hooks.url("/first"), &json!({"reinvocationPolicy": policy}));
    let second = webhook("second.example.com", &hooks.url("/second"), &json!({}));
    register(&admin, "Mutating", &[first("Never"), second.clone()]).await;
    let made = admin.post(MAPS, &map("never")).await.expect(201).json();
    assert_eq!(made["data"], json!({"k": "v", "second": "s"}));
    register(&admin, "Mutating", &[first("IfNeeded"), second]).await;
    hooks.taken();
    let made = admin.post(MAPS, &map("again")).await.expect(201).json();
    assert_eq!(made["data"], json!({"k": "v", "second": "s", "saw": "second"}));
    let paths: Vec<String> = hooks.taken().iter().map(|r| r["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(paths, ["/first?timeout=10s", "/second?timeout=10s", "/first?timeout=10s"]);
}

#[tokio::test]
async fn a_server_must_be_who_it_is_and_in_time() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(|_| json!({"allowed": true, "delay": 3000})).await;
    let stranger = Hooks::start(|_| json!({"allowed": true})).await;
    let port = hooks.port;
    let failed = |why: &str| {
        format!("Internal error occurred: failed calling webhook \"w.example.com\": failed to call webhook: {why}")
    };
    for (client, why) in [
        (hooks.url("/"), format!("Post \"https://127.0.0.1:{port}/?timeout=1s\": context deadline exceeded")),
        (
            json!({"url": format!("https://127.0.0.1:{port}/"), "caBundle": stranger.ca_bundle}),
            format!(
                "Post \"https://127.0.0.1:{port}/?timeout=1s\": tls: failed to verify certificate: x509: certificate \
                 signed by unknown authority"
            ),
        ),
        (
            json!({"url": "https://127.0.0.1:1/", "caBundle": hooks.ca_bundle}),
            "Post \"https://127.0.0.1:1/?timeout=1s\": dial tcp 127.0.0.1:1: connect: connection refused".to_owned(),
        ),
        (
            json!({"service": {"name": "absent", "namespace": "default", "path": "/x"}, "caBundle": hooks.ca_bundle}),
            "Post \"https://absent.default.svc:443/x?timeout=1s\": service \"absent\" not found".to_owned(),
        ),
    ] {
        register(&admin, "Validating", &[webhook("w.example.com", &client, &json!({"timeoutSeconds": 1}))]).await;
        admin.post(MAPS, &map("late")).await.refused(500, &failed(&why));
    }
}

/// Writes what no client could: an endpoint on this host's own loopback.
async fn endpoints(server: &Server, port: u16) {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hooks-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "hooks"}},
        "ports": [{"name": "https", "port": port}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
    server.write("discovery.k8s.io/endpointslices/default/hooks-1", &slice).await;
}

#[tokio::test]
async fn services_are_resolved_in_the_process() {
    let server = Server::start().await;
    let admin = server.admin();
    let hooks = Hooks::start(|_| patch(&json!([{"op": "add", "path": "/data/by", "value": "service"}]))).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hooks"},
        "spec": {"ports": [{"name": "https", "port": 8443, "targetPort": 9443}]}});
    admin.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    let client = |port: u16| json!({"service": {"name": "hooks", "namespace": "default", "path": "/s", "port": port}, "caBundle": hooks.ca_bundle});
    let failed = "Internal error occurred: failed calling webhook \"m.example.com\": failed to call webhook: Post \
                  \"https://hooks.default.svc:";
    register(&admin, "Mutating", &[webhook("m.example.com", &client(8443), &json!({}))]).await;
    admin
        .post(MAPS, &map("none"))
        .await
        .refused(500, &format!("{failed}8443/s?timeout=10s\": no endpoints available for service \"hooks\""));
    endpoints(&server, hooks.port).await;
    assert_eq!(admin.post(MAPS, &map("some")).await.expect(201).json()["data"]["by"], "service");
    register(&admin, "Mutating", &[webhook("m.example.com", &client(443), &json!({}))]).await;
    admin
        .post(MAPS, &map("port"))
        .await
        .refused(500, &format!("{failed}443/s?timeout=10s\": no service port 443 found for service \"hooks\""));
}
