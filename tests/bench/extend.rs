//! What extending the API costs: definitions by the hundred, a webhook in the way of a write, and a namespace's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::api::{config_map, namespace};
use crate::daemon::Daemon;
use crate::report::{Row, ms, percentile};
use crate::wire::{Admin, request};

const DEFINITIONS: usize = 200;
/// Properties of a definition's spec: with their descriptions about 24 KB, what operators bring.
const PROPERTIES: usize = 100;
const OBJECTS: usize = 1_000;
const NAMESPACES: usize = 5;
const ROUNDS: usize = 5;
const WRITES: usize = 300;

pub async fn run(cgroup: &str, what: &str) -> Result<Vec<Row>> {
    let daemon = Daemon::start(cgroup, &["--disable-agent"]).await?;
    let rows = match what {
        "crds" => definitions(&daemon.admin).await?,
        "webhook" => webhook(&daemon.admin).await?,
        "namespace" => namespaces(&daemon.admin).await?,
        other => bail!("no benchmark {other:?}"),
    };
    daemon.stop()?;
    Ok(rows)
}

fn definition(n: usize) -> Vec<u8> {
    let property = |p: usize| {
        let description =
            "What an operator says about one of its fields, in a sentence or two as generators copy it. ".repeat(2);
        let value = match p % 4 {
            0 => json!({"type": "string", "maxLength": 64, "description": description}),
            1 => json!({"type": "integer", "minimum": 0, "default": 1, "description": description}),
            2 => json!({"type": "array", "items": {"type": "string"}, "description": description}),
            _ => {
                json!({"type": "object", "description": description, "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}})
            }
        };
        (format!("field{p}"), value)
    };
    let spec: serde_json::Map<String, Value> = (0..PROPERTIES).map(property).collect();
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": spec},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("bench{n}s.bench.kedge.dev")},
        "spec": {
            "group": "bench.kedge.dev", "scope": "Namespaced",
            "names": {"plural": format!("bench{n}s"), "singular": format!("bench{n}"), "kind": format!("Bench{n}")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}}}]
        }
    })
    .to_string()
    .into_bytes()
}

/// One client defines one kind after another and ends when the last is established; another reads all the while.
async fn definitions(admin: &Admin) -> Result<Vec<Row>> {
    const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    namespace(admin, "meanwhile").await?;
    let mut reader = admin.http1().await?;
    reader.must("POST", "/api/v1/namespaces/meanwhile/configmaps", &config_map("one")).await?;
    let done = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let done = done.clone();
        async move {
            let request = request("GET", "/api/v1/namespaces/meanwhile/configmaps/one", b"");
            let mut times = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                reader.exchange(&request).await?;
                times.push(ms(start.elapsed()));
            }
            Ok::<_, anyhow::Error>(times)
        }
    });
    let mut events = admin.http1().await?;
    events.watch(&format!("{PATH}?watch=true")).await?;
    let mut connection = admin.http1().await?;
    let bodies: Vec<_> = (0..DEFINITIONS).map(definition).collect();
    let start = Instant::now();
    let created = tokio::spawn(async move {
        for body in bodies {
            connection.must("POST", PATH, &body).await?;
        }
        Ok::<_, anyhow::Error>(ms(start.elapsed()))
    });
    let mut established = std::collections::BTreeSet::new();
    while established.len() < DEFINITIONS {
        for line in events.event().await?.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let event: Value = serde_json::from_slice(line)?;
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
                established.insert(event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    let all = ms(start.elapsed());
    done.store(true, Ordering::Relaxed);
    let (created, mut times) = (created.await??, reading.await??);
    let slowest = times.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Row::new(format!("crds_{DEFINITIONS}_created"), vec![created], "ms"),
        Row::new(format!("crds_{DEFINITIONS}_established"), vec![all], "ms"),
        Row::new("crds_get_meanwhile_p99", vec![percentile(&mut times, 0.99)?], "ms"),
        Row::new("crds_get_meanwhile_slowest", vec![slowest], "ms"),
    ])
}

/// A create with a mutating webhook that answers at once, without one, and the difference less what the webhook itself took.
async fn webhook(admin: &Admin) -> Result<Vec<Row>> {
    let hook = Hook::listen().await?;
    namespace(admin, "hooked").await?;
    namespace(admin, "plain").await?;
    let mut connection = admin.http1().await?;
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "bench"},
        "webhooks": [{
            "name": "bench.kedge.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
            "clientConfig": {"url": format!("https://localhost:{}/", hook.port), "caBundle": hook.bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "hooked"}},
        }]
    });
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    connection.must("POST", path, configuration.to_string().as_bytes()).await?;
    let (mut plain, mut hooked, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let mut p50 = [0.0; 2];
        let asked = hook.asked.load(Ordering::Relaxed);
        let took = hook.took_ns.load(Ordering::Relaxed);
        for (place, p50) in ["plain", "hooked"].iter().zip(&mut p50) {
            let mut times = Vec::with_capacity(WRITES);
            for n in 0..WRITES {
                let path = format!("/api/v1/namespaces/{place}/configmaps");
                let request = request("POST", &path, &config_map(&format!("c{round}-{n}")));
                let start = Instant::now();
                let (code, answer) = connection.exchange(&request).await?;
                times.push(ms(start.elapsed()));
                if code != 201 {
                    bail!("create: {code}: {}", String::from_utf8_lossy(answer));
                }
            }
            *p50 = percentile(&mut times, 0.5)?;
        }
        let asked = hook.asked.load(Ordering::Relaxed) - asked;
        if asked < WRITES as u64 {
            bail!("the webhook was asked {asked} times about {WRITES} creates");
        }
        let own = (hook.took_ns.load(Ordering::Relaxed) - took) as f64 / 1e6 / asked as f64;
        // The first connection and the first use of everything are no round.
        if round > 0 {
            plain.push(p50[0]);
            hooked.push(p50[1]);
            added.push(p50[1] - p50[0] - own);
        }
    }
    Ok(vec![
        Row::new("create_without_webhook_p50", plain, "ms"),
        Row::new("create_with_webhook_p50", hooked, "ms"),
        Row::new("webhook_added", added, "ms"),
    ])
}

/// A webhook in this process that labels what it is shown.
struct Hook {
    port: u16,
    /// What signed its certificate, base64 of PEM.
    bundle: String,
    asked: Arc<AtomicU64>,
    took_ns: Arc<AtomicU64>,
}

impl Hook {
    async fn listen() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let bundle = base64::engine::general_purpose::STANDARD.encode(made.cert.pem());
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let key = key.map_err(|why| anyhow::anyhow!("a key that is no key: {why}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (asked, took_ns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (asked.clone(), took_ns.clone());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counters) = (acceptor.clone(), counters.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await?;
                    let service = service_fn(move |request| answer(request, counters.clone()));
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
                    Ok::<_, anyhow::Error>(())
                });
            }
        });
        Ok(Self { port, bundle, asked, took_ns })
    }
}

async fn answer(
    request: hyper::Request<hyper::body::Incoming>,
    (asked, took_ns): (Arc<AtomicU64>, Arc<AtomicU64>),
) -> Result<hyper::Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let start = Instant::now();
    let review: Value = serde_json::from_slice(&body)?;
    let patch = json!([{"op": "add", "path": "/metadata/labels/seen", "value": "yes"}]).to_string();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch",
            "patch": base64::engine::general_purpose::STANDARD.encode(patch)}
    });
    let answer = hyper::Response::builder()
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(answer.to_string())))?;
    asked.fetch_add(1, Ordering::Relaxed);
    took_ns.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    Ok(answer)
}

/// From the delete of a namespace to the event that says it is gone, with all it held.
async fn namespaces(admin: &Admin) -> Result<Vec<Row>> {
    let mut connection = admin.http1().await?;
    let mut times = Vec::new();
    for round in 0..NAMESPACES {
        let name = format!("full-{round}");
        namespace(admin, &name).await?;
        for n in 0..OBJECTS {
            let path = format!("/api/v1/namespaces/{name}/configmaps");
            connection.must("POST", &path, &config_map(&format!("c{n}"))).await?;
        }
        let mut events = admin.http1().await?;
        events.watch(&format!("/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3D{name}")).await?;
        let start = Instant::now();
        connection.must("DELETE", &format!("/api/v1/namespaces/{name}"), b"").await?;
        'gone: loop {
            for line in events.event().await?.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let event: Value = serde_json::from_slice(line)?;
                if event["type"].as_str().context("an event without type")? == "DELETED" {
                    break 'gone;
                }
            }
        }
        times.push(ms(start.elapsed()));
    }
    Ok(vec![Row::new(format!("namespace_of_{OBJECTS}_deleted"), times, "ms")])
}
