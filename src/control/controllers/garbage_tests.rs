//! Tests of the garbage collector and of namespace deletion over the in-memory API.

use std::sync::Arc;

use client::{DeleteParams, Object as _, Patch, Propagation};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, ServiceAccount};
use serde_json::{Value, json};

use crate::controllers::harness::{Cluster, Kubelet, complete, deployment, rolling};

async fn rolled_out() -> Cluster {
    let c = Cluster::start(Kubelet::Works).await;
    c.create::<Deployment>(deployment(2, "one", rolling(json!(1), json!(0)))).await;
    c.until("rolled out", complete).await;
    c
}

fn map(name: &str, owners: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "ownerReferences": owners}})
}
fn owner(of: &ConfigMap, blocks: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": of.name(), "uid": of.uid(), "blockOwnerDeletion": blocks})
}

#[tokio::test(start_paused = true)]
async fn background_deletion_takes_everything_below() {
    let c = rolled_out().await;
    c.client.delete::<Deployment>("shop", "web", &DeleteParams::default()).await.unwrap();
    c.until::<ReplicaSet>("no sets", <[_]>::is_empty).await;
    c.until::<Pod>("no pods", <[_]>::is_empty).await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn foreground_deletion_keeps_the_owner_until_last() {
    let c = rolled_out().await;
    let params = DeleteParams::default().propagation(Propagation::Foreground);
    c.client.delete::<Deployment>("shop", "web", &params).await.unwrap();
    c.until::<Deployment>("gone", <[_]>::is_empty).await;
    assert!(c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items.is_empty());
    assert!(c.client.list::<ReplicaSet>("shop", &Default::default()).await.unwrap().items.is_empty());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn orphaning_leaves_the_set_and_its_pods() {
    let c = rolled_out().await;
    let params = DeleteParams::default().propagation(Propagation::Orphan);
    c.client.delete::<Deployment>("shop", "web", &params).await.unwrap();
    c.until::<Deployment>("gone", <[_]>::is_empty).await;
    c.until::<ReplicaSet>("orphaned", |all| all.len() == 1 && all[0].metadata.owner_references.is_none()).await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    assert_eq!(c.client.list::<Pod>("shop", &Default::default()).await.unwrap().items.len(), 2);
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn owners_decide_together_and_absent_ones_are_looked_up() {
    let c = Cluster::start(Kubelet::Works).await;
    let a: ConfigMap = c.create(map("a", json!([]))).await;
    let b: ConfigMap = c.create(map("b", json!([]))).await;
    c.create::<ConfigMap>(map("both", json!([owner(&a, true), owner(&b, false)]))).await;
    let ghost = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "ghost", "uid": "ghost"}]);
    c.create::<ConfigMap>(map("haunted", ghost)).await;
    let unknown = json!([{"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "w"}]);
    c.create::<ConfigMap>(map("foreign", unknown)).await;
    let names = |all: &[Arc<ConfigMap>]| -> Vec<String> {
        all.iter().filter(|m| m.namespace() == "shop").map(|m| m.name().to_owned()).collect()
    };
    c.until::<ConfigMap>("haunted goes", |all| names(all) == ["a", "b", "both", "foreign", "kube-root-ca.crt"]).await;
    // Foreground deletion of one of two owners: the dependent stays, without the reference.
    let params = DeleteParams::default().propagation(Propagation::Foreground);
    c.client.delete::<ConfigMap>("shop", "a", &params).await.unwrap();
    c.until::<ConfigMap>("a goes", |all| names(all) == ["b", "both", "foreign", "kube-root-ca.crt"]).await;
    let both: ConfigMap = c.client.get("shop", "both").await.unwrap();
    assert_eq!(both.metadata.owner_references.unwrap().len(), 1);
    c.client.delete::<ConfigMap>("shop", "b", &DeleteParams::default()).await.unwrap();
    c.until::<ConfigMap>("both goes", |all| names(all) == ["foreign", "kube-root-ca.crt"]).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_circle_is_collected() {
    let c = Cluster::start(Kubelet::Works).await;
    let a: ConfigMap = c.create(map("a", json!([]))).await;
    let b: ConfigMap = c.create(map("b", json!([owner(&a, true)]))).await;
    let d: ConfigMap = c.create(map("d", json!([owner(&b, true)]))).await;
    c.patch::<ConfigMap>("a", json!({"metadata": {"ownerReferences": [owner(&d, true)]}})).await;
    let params = DeleteParams::default().propagation(Propagation::Foreground);
    c.client.delete::<ConfigMap>("shop", "a", &params).await.unwrap();
    c.until::<ConfigMap>("all gone", |all| all.iter().all(|m| m.name() == "kube-root-ca.crt")).await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_furnished_and_emptied_pods_first() {
    let c = rolled_out().await;
    c.until::<ServiceAccount>("default accounts", |all| all.len() == 3).await;
    c.until::<ConfigMap>("root CAs", |all| all.len() == 3).await;
    let held = json!({"metadata": {"name": "held", "namespace": "shop", "finalizers": ["example.com/hold"]}, "spec": {"containers": [{"name": "c"}]}});
    c.create::<Pod>(held).await;
    c.client.delete::<Namespace>("", "shop", &DeleteParams::default()).await.unwrap();
    c.until::<Namespace>("held up", |all| {
        let shop = all.iter().find(|n| n.name() == "shop").unwrap();
        let conditions = shop.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "NamespaceDeletionContentFailure" && c.status == "True"))
    })
    .await;
    assert!(c.client.get::<ConfigMap>("shop", "kube-root-ca.crt").await.is_ok(), "other content waits for the pods");
    c.patch::<Pod>("held", json!({"metadata": {"finalizers": null}})).await;
    c.until::<Namespace>("gone", |all| all.len() == 2).await;
    assert!(c.client.list::<Deployment>("shop", &Default::default()).await.unwrap().items.is_empty());
    assert!(c.client.get::<ConfigMap>("shop", "kube-root-ca.crt").await.is_err());
    c.stop().await;
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CARS: &str = "/apis/example.com/v1/namespaces/shop/cars";

async fn define_cars(c: &Cluster) {
    let definition = json!({"metadata": {"name": "cars.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "versions": [{"name": "v1", "served": true, "storage": true}]},
        "status": {"acceptedNames": {"plural": "cars", "kind": "Car"},
            "conditions": [{"type": "Established", "status": "True"}]}});
    post(c, DEFINITIONS, &definition).await;
}

async fn post(c: &Cluster, path: &str, object: &Value) -> Value {
    c.client.create_path(path, object, &Default::default()).await.unwrap()
}

fn by_car(name: &str, uid: &Value) -> Value {
    json!([{"apiVersion": "example.com/v1", "kind": "Car", "name": name, "uid": uid}])
}

/// The ConfigMaps of the test, by name.
fn maps(all: &[Arc<ConfigMap>]) -> Vec<&str> {
    all.iter().map(|m| m.name()).filter(|name| *name != "kube-root-ca.crt").collect()
}

#[tokio::test(start_paused = true)]
async fn custom_kinds_own_and_are_owned() {
    let c = Cluster::start(Kubelet::Absent).await;
    // Owned by what nobody serves: it stays, and is looked at when the kind is served.
    c.create::<ConfigMap>(map("early", by_car("ghost", &json!("ghost")))).await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    c.until::<ConfigMap>("early stays", |all| maps(all) == ["early"]).await;
    define_cars(&c).await;
    c.until::<ConfigMap>("early goes", |all| maps(all).is_empty()).await;

    let car = post(&c, CARS, &json!({"metadata": {"name": "a"}})).await;
    let top: ConfigMap = c.create(map("top", by_car("a", &car["metadata"]["uid"]))).await;
    post(&c, CARS, &json!({"metadata": {"name": "b", "ownerReferences": [owner(&top, true)]}})).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    // From a custom object through a built-in one to a custom one.
    let params = DeleteParams::default().propagation(Propagation::Foreground);
    c.client.delete_path(&format!("{CARS}/a"), &params).await.unwrap();
    c.until::<ConfigMap>("top goes", |all| maps(all).is_empty()).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let left: client::List<Value> = c.client.list_path(CARS, &Default::default()).await.unwrap();
    assert!(left.items.is_empty(), "{:?}", left.items);

    // A reference into another namespace is told, and does not keep its object.
    let far = json!({"metadata": {"name": "far", "namespace": "default"}});
    let far = post(&c, "/apis/example.com/v1/namespaces/default/cars", &far).await;
    c.create::<ConfigMap>(map("lost", by_car("far", &far["metadata"]["uid"]))).await;
    c.until::<Event>("told", |all| all.iter().any(|e| e.reason.as_deref() == Some("OwnerRefInvalidNamespace"))).await;
    c.until::<ConfigMap>("lost goes", |all| maps(all).is_empty()).await;

    // When the definition goes, what its last objects owned goes too.
    c.create::<ConfigMap>(json!({"metadata": {"name": "near", "namespace": "default",
        "ownerReferences": by_car("far", &far["metadata"]["uid"])}}))
        .await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.client.delete_path(&format!("{DEFINITIONS}/cars.example.com"), &DeleteParams::default()).await.unwrap();
    c.until::<ConfigMap>("near goes", |all| maps(all).is_empty()).await;
    assert_eq!(c.writes_at_rest().await, Vec::<String>::new());
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn custom_objects_go_with_their_namespace() {
    let c = Cluster::start(Kubelet::Absent).await;
    define_cars(&c).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    post(&c, CARS, &held).await;
    post(&c, CARS, &json!({"metadata": {"name": "free"}})).await;
    c.client.delete::<Namespace>("", "shop", &DeleteParams::default()).await.unwrap();
    let expected = [
        ("NamespaceContentRemaining", "Some resources are remaining: cars.example.com has 1 resource instances"),
        (
            "NamespaceFinalizersRemaining",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
        ),
    ];
    c.until::<Namespace>("held up", |all| {
        let shop = all.iter().find(|n| n.name() == "shop").unwrap();
        let conditions: Vec<_> = shop.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect();
        expected.iter().all(|(kind, message)| {
            let told = conditions.iter().find(|c| c.type_ == *kind);
            told.is_some_and(|c| c.status == "True" && c.message.as_deref() == Some(*message))
        })
    })
    .await;
    assert_eq!(
        c.writes_at_rest().await,
        Vec::<String>::new(),
        "what waits for a finalizer is not deleted again and again"
    );
    let release = json!({"metadata": {"finalizers": null}});
    let _: Value =
        c.client.patch_path(&format!("{CARS}/held"), Patch::Merge(&release), &Default::default()).await.unwrap();
    c.until::<Namespace>("gone", |all| all.iter().all(|n| n.name() != "shop")).await;
    c.stop().await;
}
