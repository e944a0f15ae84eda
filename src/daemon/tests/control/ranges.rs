//! Ranges of Services' addresses: made, used, and deleted while they are in use.

use std::sync::Arc;

use client::{DeleteParams, Object as _, ServiceRange};
use serde_json::{Value, json};

use crate::cluster::Cluster;

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// The one condition of a range: its status, reason and the beginning of its message.
fn says(all: &[Arc<ServiceRange>], name: &str, status: &str, reason: &str, message: &str) -> bool {
    all.iter().filter(|range| range.name() == name).any(|range| {
        let finalizers = range.metadata.finalizers.as_deref().unwrap_or_default();
        let conditions = range.status.conditions.as_deref().unwrap_or_default();
        finalizers == ["networking.k8s.io/service-cidr-finalizer"]
            && conditions.len() == 1
            && (&conditions[0]["type"], &conditions[0]["status"]) == (&json!("Ready"), &json!(status))
            && conditions[0]["reason"] == reason
            && conditions[0]["message"].as_str().is_some_and(|said| said.starts_with(message))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_come_and_go() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    let range = |name: &str, cidr: &str| json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
    let service =
        |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    cluster.post(RANGES, &range("more", "203.0.113.0/24")).await;
    for name in ["kubernetes", "more"] {
        cluster
            .until::<ServiceRange>("both are ready", |all| {
                says(all, name, "True", "", "Kubernetes Service CIDR is ready")
            })
            .await;
    }
    cluster.post(SERVICES, &service("a", "203.0.113.10")).await;

    let delete = async |path: String| admin.delete_path(&path, &DeleteParams::default()).await.unwrap();
    let first = admin.get_path::<Value>(&format!("{RANGES}/kubernetes")).await.unwrap()["metadata"]["uid"].clone();
    delete(format!("{RANGES}/more")).await;
    delete(format!("{RANGES}/kubernetes")).await;
    for name in ["kubernetes", "more"] {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or";
        cluster.until::<ServiceRange>("both wait", |all| says(all, name, "False", "Terminating", message)).await;
    }
    // Nothing more is had from them.
    for refused in [service("b", "203.0.113.11"), json!({"metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}]}})]
    {
        admin.create_path::<Value>(SERVICES, &refused, &Default::default()).await.unwrap_err();
    }
    delete(format!("{SERVICES}/a")).await;
    // The addresses of the default one are in this one, too.
    cluster.post(RANGES, &range("large", "10.0.0.0/8")).await;
    cluster
        .until::<ServiceRange>("one has gone, the other has come again", |all| {
            let again = all.iter().any(|r| r.name() == "kubernetes" && json!(r.uid()) != first);
            again
                && all.iter().all(|r| r.name() != "more")
                && says(all, "kubernetes", "True", "", "Kubernetes Service CIDR is ready")
        })
        .await;
    cluster.post(SERVICES, &json!({"metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}]}})).await;
    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
