//! Pods that claim devices: each gets one of its own from a template, who comes too late waits, and what is given back is given
//! out again.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::devices::{Claim, FINALIZER};
use client::{DeleteParams, Object as _, Patch};
use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE};

const DRIVER: &str = "gpu.example.com";
const PODS: &str = "/api/v1/namespaces/shop/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "one"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]}})
}

fn ready(all: &[Arc<Pod>], name: &str) -> bool {
    all.iter().any(|p| p.name() == name && control::pods::is_ready(p))
}

/// The device of each claim that has one.
fn devices(all: &[Arc<Claim>]) -> Vec<(String, String)> {
    let allocated = all.iter().filter_map(|claim| Some((claim, claim.status.allocation.as_ref()?)));
    let owner = |claim: &Claim| claim.controller_owner().map(|owner| owner.name.clone()).unwrap_or_default();
    allocated.flat_map(|(claim, a)| a.devices.results.iter().map(move |p| (owner(claim), p.device.clone()))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_go_from_pod_to_pod() {
    let cluster = Cluster::start().await;
    cluster.node().await;
    cluster.namespace("shop").await;
    // As a driver does on its node.
    let slice = json!({"metadata": {"name": "n1-gpus"}, "spec": {"driver": DRIVER, "nodeName": NODE,
        "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1}, "devices": [
            {"name": "0", "attributes": {"model": {"string": "big"}}, "capacity": {"memory": {"value": "8Gi"}}},
            {"name": "1", "attributes": {"model": {"string": "big"}}, "capacity": {"memory": {"value": "8Gi"}}},
            {"name": "2", "attributes": {"model": {"string": "small"}}, "capacity": {"memory": {"value": "1Gi"}}}]}});
    cluster.post("/apis/resource.k8s.io/v1/resourceslices", &slice).await;
    let expression = format!("device.driver == '{DRIVER}'");
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    cluster.post("/apis/resource.k8s.io/v1/deviceclasses", &class).await;
    let big = format!("device.attributes['{DRIVER}'].model == 'big'");
    let exactly = json!({"deviceClassName": "gpu", "selectors": [{"cel": {"expression": big}}]});
    let template = json!({"metadata": {"name": "gpu"},
        "spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}}});
    cluster.post("/apis/resource.k8s.io/v1/namespaces/shop/resourceclaimtemplates", &template).await;
    cluster.post(PODS, &pod("a")).await;
    cluster.post(PODS, &pod("b")).await;
    cluster.until::<Pod>("two pods run", |all| ready(all, "a") && ready(all, "b")).await;
    cluster
        .until::<Claim>("with a device each", |all| {
            let devices: BTreeSet<String> = devices(all).into_iter().map(|(_, device)| device).collect();
            let kept = all.iter().all(|c| c.metadata.finalizers.as_deref() == Some(&[FINALIZER.to_owned()]));
            kept && devices == ["0".to_owned(), "1".to_owned()].into()
        })
        .await;

    cluster.post(PODS, &pod("late")).await;
    let text = "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are \
        available: 1 Preemption is not helpful for scheduling.";
    cluster
        .until::<Event>("the third is told why it waits", |all| {
            all.iter().any(|e| e.involved_object.name.as_deref() == Some("late") && e.message.as_deref() == Some(text))
        })
        .await;
    // One ends: its claim goes, although the pod stays.
    let ended = json!({"status": {"phase": "Succeeded"}});
    let _: Pod = cluster.admin.patch_status("shop", "a", Patch::Merge(&ended)).await.unwrap();
    cluster.until::<Pod>("the third runs", |all| ready(all, "late")).await;
    cluster
        .until::<Claim>("with the device of the first", |all| {
            let owners: BTreeSet<String> = devices(all).into_iter().map(|(owner, _)| owner).collect();
            all.len() == 2 && owners == ["b".to_owned(), "late".to_owned()].into()
        })
        .await;
    // A pod is deleted, and its claim with it.
    cluster.admin.delete::<Pod>("shop", "b", &DeleteParams::default()).await.unwrap();
    cluster.until::<Claim>("one claim is left", |all| all.len() == 1).await;
    // The old way to ask, for what no node counts: a claim is made when the pod gets its node, and goes with it.
    let small = format!("device.attributes['{DRIVER}'].model == 'small'");
    let class = json!({"metadata": {"name": "small"}, "spec": {"extendedResourceName": "example.com/small-gpu",
        "selectors": [{"cel": {"expression": small}}]}});
    cluster.post("/apis/resource.k8s.io/v1/deviceclasses", &class).await;
    let limits = json!({"limits": {"example.com/small-gpu": "1"}});
    let old = json!({"metadata": {"name": "old"},
        "spec": {"containers": [{"name": "c", "image": "one", "resources": limits}]}});
    cluster.post(PODS, &old).await;
    cluster.until::<Pod>("it runs", |all| ready(all, "old")).await;
    cluster.until::<Claim>("with a device", |all| devices(all).contains(&("old".to_owned(), "2".to_owned()))).await;
    let named: Pod = cluster.admin.get("shop", "old").await.unwrap();
    let named = named.status.unwrap().extended_resource_claim_status.unwrap();
    assert_eq!(named.request_mappings[0].resource_name, "example.com/small-gpu");
    let _: Pod = cluster.admin.patch_status("shop", "old", Patch::Merge(&ended)).await.unwrap();
    cluster.until::<Claim>("its claim is gone", |all| all.len() == 1).await;
    let complaints = cluster.stop().await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
