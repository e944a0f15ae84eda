//! Groups and versions that another server serves: a small one over TLS, which believes the front proxy's certificate alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::Identity;
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::custom::until;
use crate::harness::{Answer, Client, Server, TRACE, Watch};

pub const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
pub const ROCKETS: &str = "/apis/acme.io/v1/namespaces/default/rockets";
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[derive(Default)]
pub struct State {
    pub connections: AtomicUsize,
    /// Knows no discovery but the older one, and no OpenAPI.
    pub old: AtomicBool,
    /// Does not answer.
    pub silent: AtomicBool,
    unmodified: AtomicUsize,
    /// By path: what is answered instead of all else.
    pub scripted: Mutex<BTreeMap<String, Scripted>>,
    /// How often it was asked for its group and version.
    pub probes: AtomicUsize,
}

impl State {
    pub fn script(&self, path: &str, code: u16, headers: &[(&'static str, &'static str)], body: &str) {
        let scripted = Scripted { code, headers: headers.to_vec(), body: body.to_owned() };
        self.scripted.lock().unwrap().insert(path.to_owned(), scripted);
    }
}

#[derive(Clone)]
pub struct Scripted {
    code: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
}

/// The other server, behind the service `rockets` in `default`.
pub struct Backend {
    pub state: Arc<State>,
    ca_bundle: String,
    pub port: u16,
}

impl Backend {
    /// Starts it, and registers it as `v1.acme.io`.
    pub async fn start(server: &Server, state: State) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["rockets.default.svc".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.pki.front_proxy_ca_der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let state = Arc::new(state);
        let shared = state.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    let service = hyper::service::service_fn(move |request| answer(request, state.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "rockets"},
            "spec": {"ports": [{"name": "https", "port": 443}]}});
        server.admin().post("/api/v1/namespaces/default/services", &service).await.expect(201);
        endpoint(server, port).await;
        let ca_bundle = base64::engine::general_purpose::STANDARD.encode(made.cert.pem());
        Self { state, ca_bundle, port }
    }

    pub async fn register(&self, admin: &Client<'_>) -> Watch {
        let object = registration(443, &json!({"caBundle": self.ca_bundle}));
        admin.post(SERVICES, &object).await.expect(201);
        let mut watch = admin.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name=v1.acme.io")).await;
        condition(&mut watch, "Passed").await;
        watch
    }
}

pub fn registration(port: u16, more: &Value) -> Value {
    let mut object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.acme.io"}, "spec": {"group": "acme.io", "version": "v1",
            "groupPriorityMinimum": 17_450, "versionPriority": 10,
            "service": {"namespace": "default", "name": "rockets", "port": port}}});
    for (key, value) in more.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

/// Waits for the condition with this reason; returns its message.
pub async fn condition(watch: &mut Watch, reason: &str) -> String {
    loop {
        let event = watch.next().await.expect("an event");
        let condition = &event["object"]["status"]["conditions"][0];
        if condition["reason"] == reason {
            let status = if matches!(reason, "Passed" | "Local") { "True" } else { "False" };
            assert_eq!(condition["status"], status);
            return condition["message"].as_str().unwrap_or_default().to_owned();
        }
    }
}

/// Writes what no client could: an endpoint on this host's own loopback.
pub async fn endpoint(server: &Server, port: u16) {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "rockets-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "rockets"}},
        "ports": [{"name": "https", "port": port}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
    server.write("discovery.k8s.io/endpointslices/default/rockets-1", &slice).await;
}

type Answered = Result<Response<BoxBody<Bytes, std::convert::Infallible>>, std::convert::Infallible>;

async fn answer(mut request: Request<Incoming>, state: Arc<State>) -> Answered {
    if state.silent.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let path = request.uri().path().to_owned();
    state.probes.fetch_add(usize::from(path == "/apis/acme.io/v1"), Ordering::SeqCst);
    let scripted = state.scripted.lock().unwrap().get(&path).cloned();
    if let Some(scripted) = scripted {
        let mut response = Response::builder().status(scripted.code);
        for (name, value) in scripted.headers {
            response = response.header(name, value);
        }
        return Ok(response.body(http_body_util::Full::new(Bytes::from(scripted.body)).boxed()).unwrap());
    }
    let old = state.old.load(Ordering::SeqCst);
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let mut code = 200;
    let mut media = "application/json";
    let body = match path.as_str() {
        "/apis/acme.io/v1" => json!({"kind": "APIResourceList", "groupVersion": "acme.io/v1", "resources": [
            {"name": "rockets", "singularName": "rocket", "namespaced": true, "kind": "Rocket",
                "verbs": ["create", "delete", "get", "list", "watch"], "shortNames": ["rk"]}]}),
        "/apis" if !old => {
            if text(request.headers(), "if-none-match") == "\"1\"" {
                state.unmodified.fetch_add(1, Ordering::SeqCst);
                code = 304;
            }
            media = AGGREGATED;
            let kind = json!({"group": "acme.io", "version": "v1", "kind": "Rocket"});
            let resource = json!({"resource": "rockets", "singularResource": "rocket", "scope": "Namespaced",
                "responseKind": kind, "verbs": ["list"], "categories": ["all"]});
            json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [
                {"metadata": {"name": "acme.io"}, "versions": [{"version": "v1", "resources": [resource]}]}]})
        }
        "/openapi/v3" if !old => json!({"paths": {
            "version": {"serverRelativeURL": "/openapi/v3/version?hash=A"},
            "apis/acme.io/v1": {"serverRelativeURL": "/openapi/v3/apis/acme.io/v1?hash=B"}}}),
        "/openapi/v3/apis/acme.io/v1" if !old => json!({"of": "rockets", "query": request.uri().query()}),
        "/openapi/v2" if !old => json!({"swagger": "2.0", "info": {"title": "acme", "version": "1"}, "paths": {
                "/apis/acme.io/v1/rockets": {"get": {"produces": ["application/json"], "responses": {"200": {"description": "OK",
                    "schema": {"$ref": "#/definitions/io.acme.v1.Rocket"}}}}}, "/version": {}},
            "definitions": {"io.acme.v1.Rocket": {"type": "object", "description": "Flies."},
                "io.k8s.api.core.v1.Pod": {"description": "not ours"}}}),
        ROCKETS if text(request.headers(), "upgrade") == "echo" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgraded.await.unwrap());
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                stream.write_all(&[byte[0] + 1]).await.unwrap();
            });
            let response = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "echo");
            return Ok(response.body(BoxBody::default()).unwrap());
        }
        _ if request.uri().query() == Some("watch=1") => {
            let events = ["one", "two"].map(|name| {
                let event = json!({"type": "ADDED", "object": {"metadata": {"name": name}}});
                Ok(Frame::data(Bytes::from(format!("{event}\n"))))
            });
            use futures_util::StreamExt as _;
            let stream = futures_util::stream::iter(events).chain(futures_util::stream::pending());
            return Ok(Response::new(BoxBody::new(StreamBody::new(stream))));
        }
        _ => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let headers: Vec<(String, String)> =
                parts.headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned())).collect();
            code = 418;
            json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "body": body.len()})
        }
    };
    let mut response = Response::builder().status(code).header("content-type", media).header("etag", "\"1\"");
    if code == 418 {
        response =
            response.header("connection", "keep-alive").header("keep-alive", "timeout=5").header("x-mine", "kept");
    }
    let body = if code == 304 { Bytes::new() } else { Bytes::from(body.to_string()) };
    Ok(response.body(http_body_util::Full::new(body).boxed()).unwrap())
}

pub fn headers(answer: &Answer, name: &str) -> Vec<String> {
    let echoed = answer.json();
    let pairs = echoed["headers"].as_array().unwrap().iter();
    pairs.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn requests_go_there_in_the_name_of_their_user() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.get(ROCKETS).await.expect(404);
    let backend = Backend::start(&server, State::default()).await;
    backend.register(&admin).await;

    let mut ann = Identity::new("ann", &["pilots", "system:masters"]);
    ann.uid = "u-7".into();
    ann.extra.insert("example.org/scope".into(), vec!["moon".into()]);
    let claims = [
        ("authorization", "Bearer secret"),
        ("x-remote-user", "root"),
        ("x-remote-group", "wheel"),
        ("x-remote-extra-other", "x"),
        ("x-other", "kept"),
        ("audit-id", "an-id"),
        ("te", "trailers"),
        ("traceparent", TRACE),
    ];
    let asked = server.user(ann).with(&claims);
    let answer = asked.post(&format!("{ROCKETS}/a%2Fb?y&x=1"), &json!({"k": "v"})).await.expect(418);
    let echoed = answer.json();
    assert_eq!((&echoed["method"], &echoed["body"]), (&json!("POST"), &json!(9)));
    // As it was read here, so that the other server reads nothing else.
    assert_eq!(echoed["uri"], format!("{ROCKETS}/a/b?x=1&y="));
    for (name, expected) in [
        ("x-remote-user", &["ann"][..]),
        ("x-remote-uid", &["u-7"]),
        ("x-remote-group", &["pilots", "system:masters", "system:authenticated"]),
        ("x-remote-extra-example.org%2fscope", &["moon"]),
        ("x-remote-extra-other", &[]),
        ("authorization", &[]),
        ("te", &[]),
        ("x-other", &["kept"]),
        ("audit-id", &["an-id"]),
        ("traceparent", &[TRACE]),
        ("host", &["rockets.default.svc:443"]),
    ] {
        assert_eq!(headers(&answer, name), expected, "{name}");
    }
    assert_eq!((answer.header("x-mine"), answer.header("keep-alive"), answer.header("connection")), ("kept", "", ""));

    // Who may not is refused here.
    let bob = server.user(Identity::new("bob", &[]));
    let refused = "rockets.acme.io is forbidden: User \"bob\" cannot list resource \"rockets\" in API group \"acme.io\" \
                   in the namespace \"default\"";
    bob.get(ROCKETS).await.refused(403, refused);
    admin.raw(Method::POST, ROCKETS, vec![b' '; (3 << 20) + 1]).await.expect(413);

    let opened = backend.state.connections.load(Ordering::SeqCst);
    for _ in 0..5 {
        admin.get(&format!("{ROCKETS}/one")).await.expect(418);
    }
    // The server may be asked about itself at the same time.
    assert!(backend.state.connections.load(Ordering::SeqCst) <= opened + 1, "connections are used again");
    let mut watch = admin.watch(&format!("{ROCKETS}?watch=1")).await;
    assert_eq!(watch.brief().await.1, "one");
    assert_eq!(watch.brief().await.1, "two");
}

#[tokio::test]
async fn what_is_served_there_is_discovered() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    backend.register(&admin).await;

    let new = admin.clone().with(&[("accept", AGGREGATED)]);
    let version = |document: &Value| {
        let groups = document["items"].as_array().unwrap();
        let at = groups.iter().position(|g| g["metadata"]["name"] == "acme.io").unwrap();
        (at, groups[at - 1]["metadata"]["name"].clone(), groups[at]["versions"][0].clone())
    };
    let all = json!(["all"]);
    until(&new, "/apis", |answer| version(&answer.json()).2["resources"][0]["categories"] == all).await;
    let first = new.get("/apis").await.expect(200);
    let (at, before, found) = version(&first.json());
    assert_eq!((at > 0, before), (true, json!("autoscaling")), "groups are in the order of their priorities");
    assert_eq!((&found["version"], &found["freshness"]), (&json!("v1"), &json!("Current")));
    let list = admin.get("/apis").await.expect(200).json();
    let names: Vec<&str> = list["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
    let at = names.iter().position(|n| *n == "acme.io").unwrap();
    assert_eq!((names[0], names[at - 1], names[at + 1]), ("apiregistration.k8s.io", "autoscaling", "batch"));
    let group = admin.get("/apis/acme.io").await.expect(200).json();
    assert_eq!(group["preferredVersion"]["groupVersion"], "acme.io/v1");
    let resources = admin.get("/apis/acme.io/v1").await.expect(200).json();
    assert_eq!(resources["resources"][0]["shortNames"], json!(["rk"]));

    until(&admin, "/openapi/v3", |answer| answer.json()["paths"]["apis/acme.io/v1"].is_object()).await;
    let index = admin.get("/openapi/v3").await.expect(200).json();
    assert_eq!(index["paths"]["apis/acme.io/v1"]["serverRelativeURL"], "/openapi/v3/apis/acme.io/v1?hash=B");
    assert_ne!(index["paths"]["version"]["serverRelativeURL"], "/openapi/v3/version?hash=A");
    let document = admin.get("/openapi/v3/apis/acme.io/v1?hash=B").await.expect(200).json();
    assert_eq!(document, json!({"of": "rockets", "query": "hash=B"}));
    until(&admin, "/openapi/v2", |answer| answer.json()["paths"]["/apis/acme.io/v1/rockets"].is_object()).await;
    let v2 = admin.get("/openapi/v2").await.expect(200);
    assert_eq!(v2.json()["definitions"]["io.acme.v1.Rocket"]["description"], "Flies.");
    assert_ne!(v2.json()["definitions"]["io.k8s.api.core.v1.Pod"]["description"], "not ours");

    // A server that knows the older discovery only.
    admin.delete(&format!("{SERVICES}/v1.acme.io")).await.expect(200);
    backend.state.old.store(true, Ordering::SeqCst);
    let mut watch = backend.register(&admin).await;
    let (_, _, found) = version(&new.get("/apis").await.json());
    assert_eq!((&found["resources"][0]["resource"], &found["freshness"]), (&json!("rockets"), &json!("Current")));
    admin.get("/openapi/v3/apis/acme.io/v1").await.expect(404);
    assert_ne!(admin.get("/openapi/v2").await.header("etag"), v2.header("etag"));

    // Without an endpoint it is stale, and nobody waits for it.
    endpoint_gone(&server).await;
    condition(&mut watch, "EndpointsNotFound").await;
    let lost = "aggregator_unavailable_apiservice_total{name=\"v1.acme.io\",reason=\"EndpointsNotFound\"} 1\n";
    until(&admin, "/metrics", |answer| answer.text().contains(lost)).await;
    let (_, _, found) = version(&new.get("/apis").await.json());
    assert_eq!((&found["resources"][0]["resource"], &found["freshness"]), (&json!("rockets"), &json!("Stale")));
    admin.delete(&format!("{SERVICES}/v1.acme.io")).await.expect(200);
    while watch.next().await.unwrap()["type"] != "DELETED" {}
    until(&admin, "/apis/acme.io", |answer| answer.code == 404).await;
}

pub async fn endpoint_gone(server: &Server) {
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/rockets-1";
    server.admin().delete(slice).await.expect(200);
}

#[tokio::test]
async fn conditions_say_what_is_missing() {
    let server = Server::start().await;
    let admin = server.admin();
    let object = registration(443, &json!({"insecureSkipTLSVerify": true}));
    admin.post(SERVICES, &object).await.expect(201);
    let mut watch = admin.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name=v1.acme.io")).await;
    assert_eq!(condition(&mut watch, "ServiceNotFound").await, "service/rockets in \"default\" is not present");
    let answer = admin.get(ROCKETS).await.expect(503);
    assert_eq!(
        (answer.text().as_str(), answer.header("content-type")),
        ("service unavailable\n", "text/plain; charset=utf-8")
    );
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "rockets"},
        "spec": {"ports": [{"name": "https", "port": 444}]}});
    let services = "/api/v1/namespaces/default/services";
    admin.post(services, &service).await.expect(201);
    let why = "service/rockets in \"default\" is not listening on port 443";
    assert_eq!(condition(&mut watch, "ServicePortError").await, why);
    let port = json!({"spec": {"ports": [{"name": "https", "port": 443}]}});
    admin.patch(&format!("{services}/rockets"), "merge", &port).await.expect(200);
    let why = "cannot find endpointslices for service/rockets in \"default\"";
    assert_eq!(condition(&mut watch, "EndpointsNotFound").await, why);
    // A port where nobody listens.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    endpoint(&server, closed).await;
    let why = condition(&mut watch, "FailedDiscoveryCheck").await;
    let address = admin.get(&format!("{services}/rockets")).await.json()["spec"]["clusterIP"].clone();
    let url = format!("https://{}:443/apis/acme.io/v1", address.as_str().unwrap());
    let refused = format!("dial tcp 127.0.0.1:{closed}: connect: connection refused");
    assert_eq!(why, format!("failing or missing response from {url}: Get \"{url}\": {refused}"));
    let metrics = admin.get("/metrics").await.expect(200).text();
    for line in [
        "aggregator_unavailable_apiservice{name=\"v1.acme.io\"} 1\n",
        "aggregator_unavailable_apiservice{name=\"v1.apps\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    // It becomes a local one, which nobody has to be asked about.
    let local = json!({"spec": {"service": null, "insecureSkipTLSVerify": null}});
    admin.patch(&format!("{SERVICES}/v1.acme.io"), "merge", &local).await.expect(200);
    assert_eq!(condition(&mut watch, "Local").await, "Local APIServices are always available");
}

#[tokio::test]
async fn the_built_in_groups_and_those_of_definitions_are_registered() {
    let server = Server::start().await;
    let admin = server.admin();
    let all = admin.get(SERVICES).await.expect(200).json();
    let all = all["items"].as_array().unwrap();
    assert!(all.len() > 20);
    for object in all {
        assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
        assert_eq!(object["status"]["conditions"][0]["reason"], "Local");
    }
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "kites.acme.io"}, "spec": {"group": "acme.io", "scope": "Namespaced",
            "names": {"plural": "kites", "singular": "kite", "kind": "Kite", "listKind": "KiteList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut watch = admin.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name=v1.acme.io")).await;
    admin.post(definitions, &definition).await.expect(201);
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    assert_eq!(
        event["object"]["spec"],
        json!({"group": "acme.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100})
    );
    assert_eq!(event["object"]["status"]["conditions"][0]["reason"], "Local");
    // What is taken away comes back, and what is changed is made right.
    admin.delete(&format!("{SERVICES}/v1.acme.io")).await.expect(200);
    assert_eq!((watch.brief().await.0, watch.brief().await.0), ("DELETED".to_owned(), "ADDED".to_owned()));
    let changed = json!({"spec": {"versionPriority": 7}});
    admin.patch(&format!("{SERVICES}/v1.acme.io"), "merge", &changed).await.expect(200);
    watch.next().await.unwrap();
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["versionPriority"], 100);
    admin.delete(&format!("{definitions}/kites.acme.io")).await.expect(200);
    while watch.brief().await.0 != "DELETED" {}

    // A server of somebody else's goes before the definition's kind, which comes back after it.
    let backend = Backend::start(&server, State::default()).await;
    backend.register(&admin).await;
    let mut watch = admin.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name=v1.acme.io")).await;
    watch.next().await.unwrap();
    admin.post(definitions, &definition).await.expect(201);
    let kites = "/apis/acme.io/v1/namespaces/default/kites";
    admin.get(kites).await.expect(418);
    admin.delete(&format!("{SERVICES}/v1.acme.io")).await.expect(200);
    assert_eq!((watch.brief().await.0, watch.brief().await.0), ("DELETED".to_owned(), "ADDED".to_owned()));
    until(&admin, kites, |answer| answer.code == 200).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_stalls_nobody() {
    let server = Server::start().await;
    let admin = server.admin();
    let backend = Backend::start(&server, State::default()).await;
    backend.register(&admin).await;
    backend.state.silent.store(true, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    let answer = admin.get(&format!("{ROCKETS}?timeout=1s")).await.expect(503);
    assert_eq!(answer.text(), "error trying to reach service: context deadline exceeded\n");
    assert!(begun.elapsed() < Duration::from_secs(4));
    let slow = admin.get(ROCKETS);
    let others = async {
        for path in ["/apis", "/openapi/v2", "/openapi/v3", "/api/v1/namespaces", "/apis/acme.io"] {
            admin.get(path).await.expect(200);
        }
    };
    tokio::select! {
        biased;
        answer = slow => panic!("{}", answer.text()),
        () = others => {}
    }
}
