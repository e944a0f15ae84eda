//! The life of claims and volumes, as kubectl would drive it.

use std::sync::Arc;

use client::storage::Volume;
use client::{DeleteParams, Object as _, Patch};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};
use serde_json::{Value, json};

use crate::cluster::Cluster;

const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";
const PODS: &str = "/api/v1/namespaces/shop/pods";

fn claim(name: &str, class: Option<&str>) -> Value {
    let mut claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = class.into();
    }
    claim
}

fn named<'a>(all: &'a [Arc<PersistentVolumeClaim>], name: &str) -> Option<&'a Arc<PersistentVolumeClaim>> {
    all.iter().find(|c| c.name() == name)
}

fn pod(name: &str, volume: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "one",
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}], "volumes": [volume]}})
}

async fn said(cluster: &Cluster, reason: &str) {
    cluster.until::<Event>(reason, |all| all.iter().any(|e| e.reason.as_deref() == Some(reason))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_find_volumes_and_keep_them() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    cluster.node().await;
    cluster.namespace("shop").await;
    cluster.until::<StorageClass>("the default class", |all| all.iter().any(|c| c.name() == "local-path")).await;

    // One that an administrator made, and one who asks for such.
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"},
        "hostPath": {"path": "/mnt/disk"}}});
    cluster.post(CLAIMS, &claim("static", Some(""))).await;
    said(&cluster, "FailedBinding").await;
    cluster.post("/api/v1/persistentvolumes", &volume).await;
    cluster
        .until::<PersistentVolumeClaim>("a bound claim", |all| {
            named(all, "static")
                .is_some_and(|c| control::storage::is_fully_bound(c) && control::storage::phase(c) == "Bound")
        })
        .await;
    cluster.until::<Volume>("a bound volume", |all| all.iter().any(|v| v.status.phase == "Bound")).await;

    // Used, it stays although it is deleted.
    let source = json!({"name": "data", "persistentVolumeClaim": {"claimName": "static"}});
    cluster.post(PODS, &pod("user", source)).await;
    cluster.until::<Pod>("a pod", |all| all.iter().any(|p| control::pods::is_ready(p))).await;
    admin.delete::<PersistentVolumeClaim>("shop", "static", &DeleteParams::default()).await.unwrap();
    admin.delete::<Volume>("", "disk", &DeleteParams::default()).await.unwrap();
    cluster
        .until::<PersistentVolumeClaim>("a claim that waits", |all| {
            named(all, "static").is_some_and(|c| c.is_terminating())
        })
        .await;
    admin.delete::<Pod>("shop", "user", &DeleteParams::default()).await.unwrap();
    cluster.until::<PersistentVolumeClaim>("no claim", |all| named(all, "static").is_none()).await;
    cluster.until::<Volume>("no volume", |all| all.is_empty()).await;

    // Nobody deletes what nobody made.
    let mut volume = volume;
    volume["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
    cluster.post("/api/v1/persistentvolumes", &volume).await;
    cluster.post(CLAIMS, &claim("static", Some(""))).await;
    cluster
        .until::<PersistentVolumeClaim>("a bound claim", |all| {
            named(all, "static").is_some_and(|c| control::storage::phase(c) == "Bound")
        })
        .await;
    admin.delete::<PersistentVolumeClaim>("shop", "static", &DeleteParams::default()).await.unwrap();
    cluster.until::<Volume>("a failure", |all| all.iter().any(|v| v.status.phase == "Failed")).await;
    said(&cluster, "VolumeFailedDelete").await;
    // Freed by hand, it is available again.
    let free = json!({"spec": {"claimRef": null, "persistentVolumeReclaimPolicy": "Retain"}});
    let _: Volume = admin.patch("", "disk", Patch::Merge(&free)).await.unwrap();
    cluster.until::<Volume>("a free volume", |all| all.iter().any(|v| v.status.phase == "Available")).await;

    // The default class waits for a pod; no agent answers here, which the claim is told.
    cluster.post(CLAIMS, &claim("dynamic", None)).await;
    said(&cluster, "WaitForFirstConsumer").await;
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": crate::cluster::NODE}}});
    let _: PersistentVolumeClaim = admin.patch("shop", "dynamic", Patch::Merge(&selected)).await.unwrap();
    said(&cluster, "ExternalProvisioning").await;
    said(&cluster, "ProvisioningFailed").await;
    admin.delete::<PersistentVolumeClaim>("shop", "dynamic", &DeleteParams::default()).await.unwrap();

    // A volume of the pod's own comes and goes with it.
    let template = claim("", Some(""))["spec"].clone();
    let source = json!({"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": template}}});
    cluster.post(PODS, &pod("own", source)).await;
    cluster
        .until::<PersistentVolumeClaim>("a claim of its own", |all| {
            named(all, "own-data").is_some_and(|c| control::storage::phase(c) == "Bound")
        })
        .await;
    admin.delete::<Pod>("shop", "own", &DeleteParams::default()).await.unwrap();
    cluster.until::<PersistentVolumeClaim>("no claim", |all| all.is_empty()).await;
    cluster.until::<Volume>("a released volume", |all| all.iter().any(|v| v.status.phase == "Released")).await;

    let class = json!({"metadata": {"name": "gold"}, "driverName": "x.io", "parameters": {"a": "b"}});
    cluster.post("/apis/storage.k8s.io/v1/volumeattributesclasses", &class).await;
    admin.delete::<VolumeAttributesClass>("", "gold", &DeleteParams::default()).await.unwrap();
    cluster.until::<VolumeAttributesClass>("no class", |all| all.is_empty()).await;

    let mut complaints = cluster.stop().await;
    complaints.retain(|c| !c.contains("no preferred addresses found of node")); // as said above
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
