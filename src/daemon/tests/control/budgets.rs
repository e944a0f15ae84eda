//! Disruption budgets, from what they count to the evictions that they allow.

use std::sync::Arc;

use client::{Definition, Object as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;

use crate::cluster::{Cluster, NODE};

const BUDGETS: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets";

/// Waits for a budget's disruptions allowed, healthy pods, pods that must be, pods that should be.
async fn counted(cluster: &Cluster, name: &'static str, expected: [i32; 4]) {
    let holds = move |all: &[Arc<PodDisruptionBudget>]| {
        all.iter().filter(|b| b.name() == name).any(|b| {
            let s = b.status.clone().unwrap_or_default();
            let counts = [s.disruptions_allowed, s.current_healthy, s.desired_healthy, s.expected_pods];
            counts.map(Option::unwrap_or_default) == expected
                && s.observed_generation == b.metadata.generation
                && s.disrupted_pods.is_none()
        })
    };
    cluster.until::<PodDisruptionBudget>(&format!("{name} is {expected:?}"), holds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_count_and_allow() {
    let cluster = Cluster::start().await;
    cluster.node().await;
    cluster.namespace("shop").await;
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    cluster.post("/apis/apps/v1/namespaces/shop/deployments", &web).await;
    let budget = json!({"metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.post(BUDGETS, &budget).await;
    counted(&cluster, "web", [1, 3, 2, 3]).await;

    // kubectl drain
    let mut victim = None;
    cluster
        .until::<Pod>("a pod to evict", |all| {
            victim = all.iter().find(|p| p.namespace() == "shop").cloned();
            victim.is_some()
        })
        .await;
    let victim = victim.unwrap();
    let path = format!("/api/v1/namespaces/shop/pods/{}/eviction", victim.name());
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim.name()}});
    cluster.post(&path, &eviction).await;
    cluster.until::<Pod>("it is gone", |all| all.iter().all(|p| p.uid() != victim.uid())).await;
    counted(&cluster, "web", [1, 3, 2, 3]).await;

    // Pods of a custom object that has a scale.
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let farms = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "farms.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "farms", "singular": "farm", "kind": "Farm", "listKind": "FarmList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any, "status": any}}},
                "subresources": {"scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}}}]}});
    cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &farms).await;
    cluster.until::<Definition>("the kind is served", |all| all.iter().any(|d| d.kind().is_some())).await;
    let farm = json!({"apiVersion": "example.com/v1", "kind": "Farm", "metadata": {"name": "f"}, "spec": {"size": 4}});
    let farm = cluster.post("/apis/example.com/v1/namespaces/shop/farms", &farm).await;
    let animal = json!({"metadata": {"name": "cow", "labels": {"app": "farm"}, "ownerReferences": [
            {"apiVersion": "example.com/v1", "kind": "Farm", "name": "f", "uid": farm["metadata"]["uid"], "controller": true}]},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "one"}]}});
    cluster.post("/api/v1/namespaces/shop/pods", &animal).await;
    let budget = json!({"metadata": {"name": "farm"},
        "spec": {"minAvailable": "25%", "selector": {"matchLabels": {"app": "farm"}}}});
    cluster.post(BUDGETS, &budget).await;
    counted(&cluster, "farm", [0, 1, 1, 4]).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
