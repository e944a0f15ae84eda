//! The cluster of the tests: server, controllers, scheduler, and a node agent that pretends.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Identity, Version};
use bytes::Bytes;
use client::{
    Body, Client, Clock, DeleteParams, Informers, Object, Patch, Recorder, Selector, Transport, TransportError,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{keys, local};

pub const NODE: &str = "n1";
/// Every wait of these tests; far above what a slow machine needs.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub api: ApiServer,
    pub pki: Arc<cluster::pki::Pki>,
    pub admin: Client,
    pub informers: Informers,
    pub control: control::Handle,
    scheduler: (CancellationToken, tokio::task::JoinHandle<()>),
    kubelet: tokio::task::JoinHandle<()>,
    complaints: Complaints,
    _folder: tempfile::TempDir,
}

/// An API server over a store and certificates of its own.
pub struct Server {
    pub api: ApiServer,
    pub pki: cluster::pki::Pki,
    pub folder: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let clock = Clock::system();
        let folder = tempfile::tempdir().unwrap();
        let facts = Arc::new(apiserver::facts_of);
        let store =
            store::SqliteStore::open(&folder.path().join("state.db"), facts, store::Options::default()).unwrap();
        let pki = cluster::pki::Pki::open(&folder.path().join("tls"), clock.now()).unwrap();
        let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
        let settings = apiserver::Config {
            clock: Arc::new(move || clock.now()),
            version: Version {
                git_version: "v1.36.2+kedge0.1.0".into(),
                git_commit: "0000000".into(),
                build_date: "2026-01-01T00:00:00Z".into(),
            },
            service_account_issuer: issuer.clone(),
            api_audiences: vec![issuer],
            service_account_key_pem: pki.service_account_key_pem().to_owned(),
            authentication: apiserver::auth::Settings::default(),
            audit: None,
            dialer: None,
            front_proxy: None,
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            node_ports: (30000, 32767),
            advertise: Some("192.0.2.1:6443".parse().unwrap()),
        };
        let api = ApiServer::new(settings, store).await.unwrap();
        Self { api, pki, folder }
    }
}

type Complaints = Arc<Mutex<Vec<String>>>;

/// Passes requests on and notes the answers that a well-behaved component never gets. Conflicts and objects that are gone
/// are part of life.
struct Noting {
    name: String,
    inner: Arc<dyn Transport>,
    complaints: Complaints,
}

impl Transport for Noting {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let what = format!(
            "{}: {} {} {}",
            self.name,
            request.method(),
            request.uri(),
            String::from_utf8_lossy(request.body())
        );
        let (call, complaints) = (self.inner.call(request), Arc::clone(&self.complaints));
        async move {
            let response = call.await?;
            for warning in response.headers().get_all("warning") {
                let warning = String::from_utf8_lossy(warning.as_bytes());
                if !warning.contains("v1 Endpoints is deprecated") {
                    complaints.lock().push(format!("{what}: {warning}"));
                }
            }
            if !matches!(response.status().as_u16(), 400 | 401 | 403 | 405 | 406 | 415 | 422 | 500) {
                return Ok(response);
            }
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.map_err(TransportError::Lost)?.to_bytes();
            // A controller cannot know that a namespace has just begun to go.
            if !bytes.windows(20).any(|text| text == b"NamespaceTerminating") {
                complaints.lock().push(format!("{what}: {}", String::from_utf8_lossy(&bytes)));
            }
            Ok(http::Response::from_parts(head, client::full_body(bytes)))
        }
        .boxed()
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let clock = Clock::system();
        let Server { api, pki, folder } = Server::start().await;
        let pki = Arc::new(pki);
        let complaints = Complaints::default();
        let noting = {
            let (api, complaints) = (api.clone(), Arc::clone(&complaints));
            move |name: &str, identity: Identity| {
                let inner = Arc::clone(local::client(&api, identity).transport());
                Client::new(Arc::new(Noting { name: name.to_owned(), inner, complaints: Arc::clone(&complaints) }))
            }
        };
        let named = noting.clone();
        let clients: control::Clients = Arc::new(move |name: &str| match name {
            control::INFORMERS | control::MANAGER => named(name, Identity::component("system:kube-controller-manager")),
            controller => named(name, Identity::service_account("kube-system", controller)),
        });
        let config = control::Config {
            root_ca: "PEM".into(),
            advertise: vec!["192.0.2.1".parse().unwrap()],
            // The node sends no heartbeats.
            node_grace_seconds: 1_000_000,
            keys: Some(Arc::new(keys::Holder::new(Arc::clone(&pki), api.clone()))),
            ..control::Config::default()
        };
        let control = control::start(clients, config);
        control.ready().await;
        let user = noting("scheduler", Identity::component("system:kube-scheduler"));
        let recorder = Recorder::new(user.clone(), "default-scheduler", "", clock);
        let stop = CancellationToken::new();
        // Caches of its own, so that the scheduler's rights to read are tried too.
        let own = Informers::new(user.clone());
        let how = control::scheduler::Configuration::default();
        let task = tokio::spawn(control::scheduler::run(user, own, recorder, clock, how, stop.clone()));
        let kubelet = tokio::spawn(run_pods(noting("kubelet", Identity::node(NODE)), clock));
        let admin = local::client(&api, Identity::admin());
        let informers = Informers::new(admin.clone());
        let scheduler = (stop, task);
        Self { api, pki, admin, informers, control, scheduler, kubelet, complaints, _folder: folder }
    }

    pub async fn post(&self, collection: &str, object: &Value) -> Value {
        self.admin
            .create_path(collection, object, &Default::default())
            .await
            .unwrap_or_else(|e| panic!("{object}: {e}"))
    }

    pub async fn namespace(&self, name: &str) {
        self.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
    }

    pub async fn node(&self) {
        self.post(
            "/api/v1/nodes",
            &json!({"metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
                "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                    "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                    "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}}),
        )
        .await;
    }

    /// Waits until the condition holds of all objects of a kind, looking after each change.
    pub async fn until<K: Object>(&self, what: &str, mut holds: impl FnMut(&[Arc<K>]) -> bool) {
        let cache = self.informers.cache::<K>(Selector::all());
        let mut dirty = cache.dirty();
        let wait = async {
            cache.synced().await;
            while !holds(&cache.all()) {
                dirty.next().await;
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            let all: Vec<String> = cache.all().iter().map(|o| serde_json::to_string(&**o).unwrap()).collect();
            panic!("never: {what}\n{}\ncomplaints:\n{}", all.join("\n"), self.complaints.lock().join("\n"));
        }
    }

    /// Ends everything and says what was refused or warned about on the way.
    pub async fn stop(self) -> Vec<String> {
        self.control.stop().await;
        self.scheduler.0.cancel();
        let _ = self.scheduler.1.await;
        self.kubelet.abort();
        self.informers.stop().await;
        self.api.stop();
        std::mem::take(&mut *self.complaints.lock())
    }
}

/// Images whose containers end at once: how the pod ends, and their exit code.
const ENDS: &[(&str, &str, i32)] = &[("succeeds", "Succeeded", 0), ("fails", "Failed", 1)];

fn ended(phase: &str, code: i32, now: jiff::Timestamp) -> Value {
    let now = types::time::rfc3339(now);
    json!({"status": {"phase": phase, "startTime": now,
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}],
        "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "finishedAt": now, "startedAt": now}}}]}})
}

/// Pods become ready at once, unless their image is `broken` or one of [`ENDS`]; deleted ones go at once.
async fn run_pods(client: Client, clock: Clock) {
    let informers = Informers::new(client.clone());
    let pods = informers.cache::<Pod>(Selector::fields(format!("spec.nodeName={NODE}")));
    let mut dirty = pods.dirty();
    let mut last_ip = 1;
    loop {
        for key in dirty.next().await {
            let Some(pod) = pods.get(&key) else { continue };
            if pod.is_terminating() {
                let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(pod.uid()) };
                let _ = client.delete::<Pod>(&key.namespace, &key.name, &params).await;
                continue;
            }
            let image =
                |image: &str| pod.spec.iter().flat_map(|s| &s.containers).any(|c| c.image.as_deref() == Some(image));
            if let Some((_, phase, code)) = ENDS.iter().find(|(name, _, _)| image(name)) {
                if !control::pods::is_finished(&pod) {
                    let _: Result<Pod, _> = client
                        .patch_status(&key.namespace, &key.name, Patch::Strategic(&ended(phase, *code, clock.now())))
                        .await;
                }
                continue;
            }
            if image("broken") || control::pods::is_ready(&pod) {
                continue;
            }
            last_ip += 1;
            let (ip, now) = (format!("10.42.0.{last_ip}"), types::time::rfc3339(clock.now()));
            let status = json!({"status": {"phase": "Running", "startTime": now, "hostIP": "192.0.2.1",
                "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}});
            let _: Result<Pod, _> = client.patch_status(&key.namespace, &key.name, Patch::Strategic(&status)).await;
        }
    }
}
