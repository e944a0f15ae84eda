//! A small cluster for convergence tests: the in-memory API server, every controller, and a node that runs pods in no time.
//! Time is paused, so that deadlines cost nothing and runs are the same each time.

use std::sync::Arc;
use std::time::Duration;

use client::fake::Fake;
use client::{Client, Clock, DeleteParams, Informers, Object, Patch, Selector};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{Config, Handle, pods};

pub struct Cluster {
    pub fake: Fake,
    pub client: Client,
    pub handle: Handle,
    /// Caches of the test's own, for waiting.
    pub informers: Informers,
    kubelet: tokio::task::JoinHandle<()>,
}

/// How the node treats pods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kubelet {
    /// Pods become ready at once, unless their image is `broken`, or end as it says: `succeeds`, `fails`. Deleted ones go at
    /// once.
    Works,
    /// Pods fail at once; deleted ones go at once.
    Refuses,
    /// Nothing happens to pods.
    Absent,
}

impl Cluster {
    pub async fn start(kubelet: Kubelet) -> Self {
        let clock = Clock::fake(Timestamp::from_second(1_700_000_000).unwrap());
        let fake = Fake::new(clock);
        let client = fake.client();
        let clients = fake.clone();
        let config = Config {
            root_ca: "PEM".into(),
            advertise: vec!["192.0.2.1".parse().unwrap()],
            clock,
            // The node of the harness sends no heartbeats.
            node_grace_seconds: 1_000_000,
            ..Config::default()
        };
        let node = json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let _: Value = client.create_path("/api/v1/nodes", &node, &Default::default()).await.unwrap();
        for name in ["default", "kube-system", "shop"] {
            let _: Value = client
                .create_path("/api/v1/namespaces", &json!({"metadata": {"name": name}}), &Default::default())
                .await
                .unwrap();
        }
        let handle = crate::start(Arc::new(move |_| clients.client()), config);
        handle.ready().await;
        let informers = Informers::new(client.clone());
        let kubelet = tokio::spawn(run_pods(client.clone(), informers.clone(), clock, kubelet));
        Self { fake, client, handle, informers, kubelet }
    }

    /// Waits until the condition holds, looking after each change; fails after ten minutes of the cluster's time.
    pub async fn until<K: Object>(&self, what: &str, mut holds: impl FnMut(&[Arc<K>]) -> bool) {
        let cache = self.informers.cache::<K>(Selector::all());
        let mut dirty = cache.dirty();
        let wait = async {
            cache.synced().await;
            while !holds(&cache.all()) {
                dirty.next().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(600), wait).await.is_err() {
            panic!(
                "never: {what}: {}",
                serde_json::to_string_pretty(&cache.all().iter().map(|o| (**o).clone()).collect::<Vec<K>>()).unwrap()
            );
        }
    }

    pub async fn create<K: Object>(&self, object: Value) -> K {
        self.client.create(&serde_json::from_value::<K>(object).unwrap()).await.unwrap()
    }

    pub async fn patch<K: Object>(&self, name: &str, patch: Value) -> K {
        self.client.patch("shop", name, Patch::Merge(&patch)).await.unwrap()
    }

    /// Lets the cluster come to rest for a while, then returns the writes of the following quiet minute: there should be none.
    pub async fn writes_at_rest(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.fake.take_writes();
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.fake.take_writes()
    }

    pub async fn stop(self) {
        self.kubelet.abort();
        self.handle.stop().await;
        self.informers.stop().await;
    }
}

async fn run_pods(client: Client, informers: Informers, clock: Clock, kubelet: Kubelet) {
    if kubelet == Kubelet::Absent {
        return;
    }
    let pods = informers.cache::<Pod>(Selector::all());
    let mut dirty = pods.dirty();
    let mut next_ip = 1u32;
    loop {
        for key in dirty.next().await {
            let Some(pod) = pods.get(&key) else { continue };
            if pod.is_terminating() {
                let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(pod.uid()) };
                let _ = client.delete::<Pod>(&key.namespace, &key.name, &params).await;
                continue;
            }
            if pods::node_name(&pod).is_empty() {
                let node = super::daemonset::target(&pod).unwrap_or("n1");
                let _: Result<Pod, _> =
                    client.patch(&key.namespace, &key.name, Patch::Merge(&json!({"spec": {"nodeName": node}}))).await;
                continue;
            }
            if kubelet == Kubelet::Refuses {
                let status = json!({"status": {"phase": "Failed"}});
                let _: Result<Pod, _> = client.patch_status(&key.namespace, &key.name, Patch::Merge(&status)).await;
                continue;
            }
            let image =
                |image: &str| pod.spec.as_ref().unwrap().containers.iter().any(|c| c.image.as_deref() == Some(image));
            if let Some((_, phase)) = [("succeeds", "Succeeded"), ("fails", "Failed")].iter().find(|(i, _)| image(i)) {
                let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": "False",
                    "lastTransitionTime": types::time::rfc3339(clock.now())}]}});
                if !pods::is_finished(&pod) {
                    let _: Result<Pod, _> = client.patch_status(&key.namespace, &key.name, Patch::Merge(&status)).await;
                }
                continue;
            }
            let broken = image("broken");
            if !broken && !pods::is_ready(&pod) {
                let ip = format!("10.42.{}.{}", next_ip / 250, next_ip % 250 + 1);
                next_ip += 1;
                let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": types::time::rfc3339(clock.now())}]}});
                let _: Result<Pod, _> = client.patch_status(&key.namespace, &key.name, Patch::Merge(&status)).await;
            }
        }
    }
}

/// A deployment of `replicas` pods of `image`, with the defaults that the API server would have written.
pub fn deployment(replicas: i32, image: &str, strategy: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {
        "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
        "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

pub fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

/// Rolled out: everything is new, available, and said to be so.
pub fn complete(all: &[Arc<Deployment>]) -> bool {
    all.first().is_some_and(|d| {
        let (wanted, status) = (d.spec.as_ref().unwrap().replicas, d.status.clone().unwrap_or_default());
        status.observed_generation == d.metadata.generation
            && status.replicas == wanted
            && status.updated_replicas == wanted
            && status.available_replicas == wanted
            && status
                .conditions
                .iter()
                .flatten()
                .any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("NewReplicaSetAvailable"))
    })
}

pub fn sizes(sets: &[Arc<ReplicaSet>]) -> Vec<i32> {
    let mut sizes: Vec<i32> = sets.iter().map(|s| s.spec.as_ref().unwrap().replicas.unwrap()).collect();
    sizes.sort_unstable();
    sizes
}
