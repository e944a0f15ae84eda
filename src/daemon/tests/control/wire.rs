//! The client as others use it, over TLS, against the real listener: requests, errors, watches, metadata only.

use std::sync::Arc;
use std::time::Duration;

use client::https::Https;
use client::kubeconfig::Config;
use client::reflector::{self, Sink, Source};
use client::{Cache, Client, DeleteParams, Informers, Key, ListParams, Patch, Revision, Selector, WriteParams};
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cluster::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Wire {
    config: Config,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    server: Server,
}

/// Serves the API on a port of loopback until `stop`.
pub async fn listen(
    api: &apiserver::ApiServer,
    pki: &cluster::pki::Pki,
    stop: CancellationToken,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let leaf = pki.api_server(&cluster::pki::api_server_hosts("cluster.local", None, &[])).unwrap();
    let (chain, key) = (leaf.chain().unwrap(), leaf.key().unwrap());
    let tls = apiserver::http::listener::Tls::new(chain, key, pki.ca_der().clone()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = api.clone();
    let serving = tokio::spawn(async move {
        let _ = apiserver::http::listener::serve(listener, tls, api, stop).await;
    });
    (address, serving)
}

impl Wire {
    async fn start() -> Self {
        let server = Server::start().await;
        let pki = &server.pki;
        let stop = CancellationToken::new();
        let (address, serving) = listen(&server.api, pki, stop.clone()).await;
        let admin = pki.admin().unwrap();
        let config = Config {
            server: format!("https://{address}"),
            ca: Some(pki.ca_pem().as_bytes().to_vec()),
            identity: Some((admin.chain_pem.into_bytes(), admin.key_pem.into_bytes())),
            ..Config::default()
        };
        Self { config, stop, serving, server }
    }

    fn client(&self) -> Client {
        Client::new(Arc::new(Https::new(&self.config).unwrap()))
    }

    async fn stop(self) {
        self.server.api.stop();
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

async fn until(cache: &Cache<ConfigMap>, what: &str, mut holds: impl FnMut(&Cache<ConfigMap>) -> bool) {
    let mut dirty = cache.dirty();
    let wait = async {
        cache.synced().await;
        while !holds(cache) {
            dirty.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v".repeat(1000)}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_watches_over_tls() {
    let wire = Wire::start().await;
    let client = wire.client();
    let created: Value = client.create_path(MAPS, &map("a"), &Default::default()).await.unwrap();
    let informers = Informers::new(client.clone());
    let cache = informers.cache::<ConfigMap>(Selector::namespace("default"));
    until(&cache, "the first", |c| c.len() == 1).await;

    // Many at once share connections.
    let names: Vec<String> = (0..50).map(|i| format!("m{i}")).collect();
    let (client, params) = (&client, WriteParams::default());
    let bodies: Vec<Value> = names.iter().map(|n| map(n)).collect();
    let writes = bodies.iter().map(|m| client.create_path::<Value>(MAPS, m, &params));
    for outcome in futures_util::future::join_all(writes).await {
        outcome.unwrap();
    }
    until(&cache, "all", |c| c.len() == 51).await;
    let page: client::List<Value> =
        client.list_path(MAPS, &ListParams { limit: 20, ..ListParams::default() }).await.unwrap();
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (20, Some(31)));
    let next = ListParams { limit: 40, continue_token: page.metadata.continue_token, ..ListParams::default() };
    let rest: client::List<Value> = client.list_path(MAPS, &next).await.unwrap();
    assert_eq!((rest.items.len(), rest.metadata.continue_token.as_str()), (31, ""));

    // Conditions and errors arrive whole.
    let stale = DeleteParams { resource_version: Some("1".into()), ..DeleteParams::default() };
    let refused = client.delete::<ConfigMap>("default", "a", &stale).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    let refused = client.delete::<ConfigMap>("default", "a", &DeleteParams::uid("other")).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    let other = json!({"metadata": {"uid": "other"}, "data": {"k": "w"}});
    let refused = client.patch::<ConfigMap>("default", "a", Patch::Merge(&other)).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    let uid = created["metadata"]["uid"].as_str().unwrap();
    client.delete::<ConfigMap>("default", "a", &DeleteParams::uid(uid)).await.unwrap();
    until(&cache, "the first is gone", |c| c.get(&Key::new("default", "a")).is_none()).await;
    assert!(client.get::<ConfigMap>("default", "a").await.unwrap_err().is_not_found());
    informers.stop().await;

    // Who shows no certificate is nobody.
    let stranger = Client::new(Arc::new(Https::new(&Config { identity: None, ..wire.config.clone() }).unwrap()));
    let refused = stranger.get_path::<Value>(MAPS).await.unwrap_err();
    assert_eq!(refused.status().map(|s| s.code), Some(401), "{refused}");
    // Nor is a server whose certificate another authority signed believed.
    let elsewhere = Server::start().await;
    let ca = Some(elsewhere.pki.ca_pem().as_bytes().to_vec());
    let distrustful = Client::new(Arc::new(Https::new(&Config { ca, ..wire.config.clone() }).unwrap()));
    let refused = distrustful.get_path::<Value>(MAPS).await.unwrap_err();
    assert!(matches!(refused, client::Error::Transport { .. }), "{refused}");
    wire.stop().await;
}

/// What a metadata reflector is told, in order.
#[derive(Default)]
struct Told {
    lines: Mutex<Vec<String>>,
    changed: Notify,
}

impl Told {
    fn say(&self, what: &str, object: &str) {
        let object: Value = serde_json::from_str(object).unwrap();
        assert_eq!(
            (&object["kind"], &object["apiVersion"]),
            (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")),
            "{object}"
        );
        assert!(object.get("data").is_none(), "{object}");
        self.push(format!("{what} {}", object["metadata"]["name"].as_str().unwrap()));
    }
    fn push(&self, line: String) {
        self.lines.lock().push(line);
        self.changed.notify_one();
    }
    async fn until(&self, last: &str) -> Vec<String> {
        let wait = async {
            while self.lines.lock().last().map(String::as_str) != Some(last) {
                self.changed.notified().await;
            }
        };
        let lines = || self.lines.lock().clone();
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{last}: {:?}", lines()));
        lines()
    }
}

impl Sink for Told {
    fn begin(&self) {
        self.push("begin".into());
    }
    fn upsert(&self, object: &str) -> serde_json::Result<()> {
        self.say("upsert", object);
        Ok(())
    }
    fn remove(&self, object: &str) -> serde_json::Result<()> {
        self.say("remove", object);
        Ok(())
    }
    fn complete(&self, _: Revision) {
        self.push("complete".into());
    }
    fn progress(&self, _: Revision) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_alone_is_streamed_watched_and_listed() {
    let wire = Wire::start().await;
    let client = wire.client();
    let _: Value = client.create_path(MAPS, &map("a"), &Default::default()).await.unwrap();
    let listed: client::List<Value> = client.list_metadata(MAPS, &ListParams::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    assert!(listed.items[0].get("data").is_none() && listed.items[0]["metadata"]["name"] == "a");
    let source = Source {
        client: client.clone(),
        collection: MAPS.into(),
        label_selector: String::new(),
        field_selector: String::new(),
        metadata_only: true,
    };
    let (told, stop) = (Arc::new(Told::default()), CancellationToken::new());
    let running = tokio::spawn(reflector::run(source, Arc::clone(&told) as _, stop.clone()));
    assert_eq!(told.until("complete").await, ["begin", "upsert a", "complete"]);
    let _: Value = client.create_path(MAPS, &map("b"), &Default::default()).await.unwrap();
    told.until("upsert b").await;
    client.delete::<ConfigMap>("default", "a", &DeleteParams::default()).await.unwrap();
    assert_eq!(told.until("remove a").await, ["begin", "upsert a", "complete", "upsert b", "remove a"]);
    stop.cancel();
    running.await.unwrap();
    wire.stop().await;
}
