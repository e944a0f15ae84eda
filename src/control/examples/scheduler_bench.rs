//! Measures the scheduler: `cargo run --release -p kedge-control --example scheduler_bench`. 1,000 nodes in ten zones, and an
//! API in memory that takes every request: what is counted are bindings, as a watcher sees them, from the first to the last.
//! One line a figure: name, min, median, max, unit.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

use std::sync::Arc;

use client::fake::Fake;
use client::{Client, Clock, Informers, Recorder, Selector, WriteParams};
use control::scheduler::{Configuration, run};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const NODES: usize = 1_000;
const ZONES: usize = 10;
const PODS: usize = 4_000;
/// Pods of one workload, where they are to be spread.
const OF_ONE: usize = 40;
const ROUNDS: usize = 3;

fn node(n: usize) -> Value {
    let name = format!("node-{n:04}");
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", n % ZONES)}},
        "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "250"}}})
}

fn pod(n: usize, constrained: bool) -> Value {
    let app = format!("app-{}", n / OF_ONE);
    let selector = json!({"matchLabels": {"app": app}});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{n:05}"), "namespace": "bench", "labels": {"app": app}},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}});
    if constrained {
        pod["spec"]["topologySpreadConstraints"] = json!([{"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
        pod["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}]}});
    }
    pod
}

async fn create(client: &Client, path: &str, object: Value) {
    client.create_path::<Value>(path, &object, &WriteParams::default()).await.unwrap();
}

/// Pods a second.
async fn round(constrained: bool) -> f64 {
    let clock = Clock::system();
    let client = Fake::new(clock).client();
    for n in 0..NODES {
        create(&client, "/api/v1/nodes", node(n)).await;
    }
    for n in 0..PODS {
        create(&client, "/api/v1/namespaces/bench/pods", pod(n, constrained)).await;
    }
    let informers = Informers::new(client.clone());
    let bound = Arc::new(Mutex::new(Vec::<Instant>::with_capacity(PODS)));
    let done = Arc::new(Notify::new());
    let (seen, finished) = (Arc::clone(&bound), Arc::clone(&done));
    informers.cache::<Pod>(Selector::all()).on_change(Box::new(move |old, new| {
        let is_bound = |p: Option<&Arc<Pod>>| p.and_then(|p| p.spec.as_ref()).is_some_and(|s| s.node_name.is_some());
        if !is_bound(old) && is_bound(new) {
            let mut seen = seen.lock();
            seen.push(Instant::now());
            if seen.len() == PODS {
                finished.notify_one();
            }
        }
    }));
    let stop = CancellationToken::new();
    let recorder = Recorder::silent();
    let running = tokio::spawn(run(client, informers, recorder, clock, Configuration::default(), stop.clone()));
    done.notified().await;
    stop.cancel();
    running.await.unwrap();
    let bound = bound.lock();
    (PODS - 1) as f64 / (bound[PODS - 1] - bound[0]).as_secs_f64()
}

#[tokio::main]
async fn main() {
    for (name, constrained) in [("schedule_pods_1000_nodes", false), ("schedule_constrained_pods_1000_nodes", true)] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(round(constrained).await);
        }
        rates.sort_by(f64::total_cmp);
        println!("{name} {:.0} {:.0} {:.0} pods/s", rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
    }
}
