//! What writing and listing cost below HTTP: `writes FOLDER create|status|put|lists N`, to be counted by callgrind or timed by
//! hand; `lists` times itself, over N pods.
//! One thread, the real store, requests through the one door.

use std::path::PathBuf;
use std::sync::Arc;

use apiserver::{ApiServer, Body, Config, Identity, Peer, Version};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn now() -> jiff::Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the whole daemon")]
    jiff::Timestamp::now()
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "bench", "tier": "a"}},
        "data": {"key": "v".repeat(900)}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"automountServiceAccountToken": false, "containers": [
            {"name": "c", "image": "busybox", "command": ["sleep", "1"], "ports": [{"containerPort": 80}],
             "env": [{"name": "A", "value": "1"}], "resources": {"requests": {"cpu": "100m"}}}]}})
}

fn status(i: usize) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({"status": {"phase": "Running", "podIP": format!("10.42.0.{}", i % 250), "startTime": "2026-01-01T00:00:00Z",
        "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady")],
        "containerStatuses": [{"name": "c", "image": "busybox", "imageID": "x", "ready": true, "restartCount": i % 7,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}})
}

/// The forms a list is asked for in: plain, as controllers ask, as `kubectl get` asks.
const FORMS: [&str; 3] =
    ["application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io"];
const LISTS: usize = 15;

async fn lists(caller: &Caller, pods: &str, count: usize) -> Result<usize, Failure> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let json = "application/json";
    caller.send(Method::POST, "/api/v1/namespaces/default/serviceaccounts", json, &account).await?;
    for i in 0..count {
        let mut pod = pod(&format!("p{i}"));
        pod["metadata"]["annotations"] = json!({"padding": "x".repeat(3_500)});
        caller.send(Method::POST, pods, json, &pod).await?;
        let path = format!("{pods}/p{i}/status");
        caller.send(Method::PATCH, &path, "application/strategic-merge-patch+json", &status(i)).await?;
    }
    let mut bytes = 0;
    for form in FORMS {
        let mut times = Vec::new();
        for _ in 0..LISTS {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = pods.parse()?;
            request.headers_mut().insert("accept", http::HeaderValue::from_static(form));
            let start = now();
            let response = caller.api.call(request, caller.peer.clone()).await;
            let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
            times.push(now().duration_since(start).as_secs_f64() * 1e3);
            bytes = body.len();
        }
        times.sort_by(f64::total_cmp);
        println!("{:6.1} ms, {bytes} bytes: {form}", times[LISTS / 2]);
    }
    Ok(bytes)
}

struct Caller {
    api: ApiServer,
    peer: Peer,
}

impl Caller {
    async fn send(&self, method: Method, path: &str, media: &'static str, body: &Value) -> Result<Vec<u8>, Failure> {
        let mut request = Request::new(Body::full(body.to_string()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse()?;
        request.headers_mut().insert("content-type", http::HeaderValue::from_static(media));
        request.headers_mut().insert("user-agent", http::HeaderValue::from_static("writes/v1"));
        let response = self.api.call(request, self.peer.clone()).await;
        let code = response.status();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        if code.is_success() { Ok(body.to_vec()) } else { Err(String::from_utf8_lossy(&body).into_owned().into()) }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("a folder, please")?);
    let what = arguments.next().unwrap_or_else(|| "create".into());
    let count: usize = arguments.next().map_or(Ok(1000), |n| n.parse())?;
    std::fs::create_dir_all(&folder)?;
    let pki = cluster::pki::Pki::open(&folder.join("tls"), now())?;
    let facts = Arc::new(apiserver::facts_of);
    let store = store::SqliteStore::open(&folder.join("state.db"), facts, store::Options::default())?;
    let version =
        Version { git_version: "v1.36.2".into(), git_commit: String::new(), build_date: "2026-01-01T00:00:00Z".into() };
    let config = Config {
        clock: Arc::new(now),
        version,
        service_account_issuer: "https://kubernetes.default.svc".into(),
        api_audiences: vec!["https://kubernetes.default.svc".into()],
        service_account_key_pem: pki.service_account_key_pem().to_owned(),
        authentication: apiserver::auth::Settings::default(),
        audit: None,
        dialer: None,
        front_proxy: None,
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        node_ports: (30000, 32767),
        advertise: None,
    };
    let api = ApiServer::new(config, store).await?;
    let caller = Caller { api, peer: Peer::Local(Arc::new(Identity::admin())) };
    let json = "application/json";
    let maps = "/api/v1/namespaces/default/configmaps";
    let pods = "/api/v1/namespaces/default/pods";
    let mut bytes = 0;
    match what.as_str() {
        "create" => {
            for i in 0..count {
                bytes = caller.send(Method::POST, maps, json, &config_map(&format!("c{i}"))).await?.len();
            }
        }
        "lists" => bytes = lists(&caller, pods, count).await?,
        "put" => {
            caller.send(Method::POST, maps, json, &config_map("c")).await?;
            for i in 0..count {
                let mut body = config_map("c");
                body["data"]["n"] = i.to_string().into();
                bytes = caller.send(Method::PUT, &format!("{maps}/c"), json, &body).await?.len();
            }
        }
        _ => {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            caller.send(Method::POST, "/api/v1/namespaces/default/serviceaccounts", json, &account).await?;
            caller.send(Method::POST, pods, json, &pod("p")).await?;
            let path = format!("{pods}/p/status");
            for i in 0..count {
                let media = "application/strategic-merge-patch+json";
                bytes = caller.send(Method::PATCH, &path, media, &status(i)).await?.len();
            }
        }
    }
    println!("{count} of {what}; the last answer has {bytes} bytes");
    Ok(())
}
