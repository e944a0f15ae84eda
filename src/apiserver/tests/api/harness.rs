//! A server over the real store in a folder of its own, and requests put into its one door.

use std::path::PathBuf;
use std::sync::Arc;

use apiserver::{ApiServer, Body, Certificate, Config, Identity, Peer, Version};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;

pub struct Server {
    pub api: ApiServer,
    pub store: Arc<store::SqliteStore>,
    pub pki: cluster::pki::Pki,
    pub folder: tempfile::TempDir,
}

/// A `traceparent`.
pub const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub fn now() -> jiff::Timestamp {
    #[expect(clippy::disallowed_methods, reason = "a test is its own clock")]
    jiff::Timestamp::now()
}

impl Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, None).await
    }

    pub async fn start_in(folder: tempfile::TempDir, dialer: Option<Arc<dyn apiserver::verbs::connect::Dial>>) -> Self {
        Self::start_at("192.0.2.1:6443", folder, dialer).await
    }

    /// Starts a server that advertises `address`.
    pub async fn start_at(
        address: &str,
        folder: tempfile::TempDir,
        dialer: Option<Arc<dyn apiserver::verbs::connect::Dial>>,
    ) -> Self {
        let address = address.parse().unwrap();
        Self::start_in_with(folder, |config| (config.advertise, config.dialer) = (Some(address), dialer)).await
    }

    /// Starts a server with a configuration of its own.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in_with(tempfile::tempdir().unwrap(), change).await
    }

    pub async fn start_in_with(folder: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let path: PathBuf = folder.path().join("state.db");
        let facts = Arc::new(apiserver::facts_of);
        let store = store::SqliteStore::open(&path, facts, store::Options::default()).unwrap();
        let pki = cluster::pki::Pki::open(&folder.path().join("tls"), now()).unwrap();
        let mut config = Config {
            clock: Arc::new(now),
            version: Version {
                git_version: "v1.36.2+kedge0.1.0".into(),
                git_commit: "0000000".into(),
                build_date: "2026-01-01T00:00:00Z".into(),
            },
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
            api_audiences: vec!["https://kubernetes.default.svc.cluster.local".into()],
            service_account_key_pem: pki.service_account_key_pem().to_owned(),
            authentication: apiserver::auth::Settings::default(),
            audit: None,
            dialer: None,
            front_proxy: Some(front_proxy(&pki)),
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            node_ports: (30000, 32767),
            advertise: Some("192.0.2.1:6443".parse().unwrap()),
        };
        change(&mut config);
        let api = ApiServer::new(config, store.clone()).await.unwrap();
        api.in_step().await;
        Self { api, store, pki, folder }
    }

    /// Writes what no client could.
    pub async fn write(&self, key: &str, object: &Value) {
        use store::{Class, Expect, Op, Store as _, Write};
        let bytes = Bytes::from(object.to_string());
        let facts = apiserver::facts_of(key, &bytes);
        let op = Op::Put(store::Value { bytes, stamp_at: None, facts });
        let write = Write { key: key.into(), expect: Expect::Any, class: Class::Relaxed, op };
        self.store.write(vec![write]).await.unwrap();
    }

    pub fn admin(&self) -> Client<'_> {
        self.user(Identity::admin())
    }

    pub fn user(&self, identity: Identity) -> Client<'_> {
        Client { server: self, peer: Peer::Local(Arc::new(identity)), headers: HeaderMap::new() }
    }

    /// Somebody at the other end of a connection, with or without credentials in the headers.
    pub fn stranger(&self, headers: &[(&'static str, &str)]) -> Client<'_> {
        let peer = Peer::Remote { address: "192.0.2.9:1".parse().unwrap(), certificate: Certificate::Absent };
        Client { server: self, peer, headers: HeaderMap::new() }.with(headers)
    }
}

fn front_proxy(pki: &cluster::pki::Pki) -> apiserver::FrontProxy {
    let leaf = pki.front_proxy_client().unwrap();
    apiserver::FrontProxy {
        client_ca_pem: pki.ca_pem().to_owned(),
        ca_pem: pki.front_proxy_ca_pem().to_owned(),
        name: cluster::pki::FRONT_PROXY_NAME.to_owned(),
        chain_pem: leaf.chain_pem,
        key_pem: leaf.key_pem,
    }
}

#[derive(Clone)]
pub struct Client<'a> {
    pub server: &'a Server,
    pub peer: Peer,
    pub headers: HeaderMap,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
    #[track_caller]
    pub fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }
    /// The code and the whole message.
    #[track_caller]
    pub fn refused(&self, code: u16, message: &str) {
        assert_eq!((self.code, self.message().as_str()), (code, message));
    }
}

impl Client<'_> {
    pub fn with(mut self, headers: &[(&'static str, &str)]) -> Self {
        for (name, value) in headers {
            self.headers.append(*name, value.parse().unwrap());
        }
        self
    }

    pub async fn open(&self, method: Method, path: &str, body: Body) -> http::Response<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        *request.headers_mut() = self.headers.clone();
        self.server.api.call(request, self.peer.clone()).await
    }

    pub async fn raw(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let response = self.open(method, path, Body::full(body)).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw(Method::GET, path, Bytes::new()).await
    }
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw(Method::POST, path, body.to_string()).await
    }
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.raw(Method::PUT, path, body.to_string()).await
    }
    pub async fn delete(&self, path: &str) -> Answer {
        self.raw(Method::DELETE, path, Bytes::new()).await
    }
    /// `kind` is `merge`, `json` or `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let suffix = format!("application/{kind}-patch+json");
        let client = self.clone().with(&[("content-type", suffix.as_str())]);
        client.raw(Method::PATCH, path, body.to_string()).await
    }

    pub async fn watch(&self, path: &str) -> Watch {
        let response = self.open(Method::GET, path, Body::empty()).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), buffer: Vec::new() }
    }
}

/// The frames of a JSON watch, one by one.
pub struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at the end of the stream. Fails the test when nothing comes.
    pub async fn next(&mut self) -> Option<Value> {
        let deadline = std::time::Duration::from_secs(10);
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(deadline, self.body.frame()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    pub async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

pub fn config_map(name: &str, labels: &Value) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"k": "v"}})
}
