//! Pods that compete for a node.

use client::{Object as _, Selector};
use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE};

fn pod(name: &str, class: Option<&str>) -> Value {
    json!({"metadata": {"name": name}, "spec": {"priorityClassName": class, "containers": [
        {"name": "c", "image": "one", "resources": {"requests": {"cpu": "3"}}}]}})
}

fn is_ready(all: &[std::sync::Arc<Pod>], name: &str) -> bool {
    all.iter().any(|p| p.name() == name && control::pods::is_ready(p))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_matters_more_gets_the_node() {
    let cluster = Cluster::start().await;
    cluster.node().await;
    cluster.namespace("shop").await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    cluster.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await;
    cluster.post("/api/v1/namespaces/shop/pods", &pod("low", None)).await;
    cluster.until::<Pod>("the pod runs", |all| is_ready(all, "low")).await;
    // Nobody is less important: it waits and is told so.
    cluster.post("/api/v1/namespaces/shop/pods", &pod("same", None)).await;
    let text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
        1 No preemption victims found for incoming pod.";
    cluster
        .until::<Event>("an event says why", |all| {
            all.iter().any(|e| e.involved_object.name.as_deref() == Some("same") && e.message.as_deref() == Some(text))
        })
        .await;
    let low = cluster.informers.cache::<Pod>(Selector::all()).all();
    let low = low.iter().find(|p| p.name() == "low").map(|p| p.uid().to_owned());
    cluster.post("/api/v1/namespaces/shop/pods", &pod("vip", Some("high"))).await;
    cluster.until::<Pod>("the important one runs", |all| is_ready(all, "vip")).await;
    cluster.until::<Pod>("the other is gone", |all| all.iter().all(|p| p.name() != "low")).await;
    cluster
        .until::<Event>("its event says for whom", |all| {
            all.iter().any(|e| {
                e.reason.as_deref() == Some("Preempted")
                    && e.involved_object.uid == low
                    && e.message.as_deref().is_some_and(|m| m.ends_with(&format!(" on node {NODE}")))
            })
        })
        .await;
    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
