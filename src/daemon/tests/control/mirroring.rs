//! Endpoints that are written by hand, and the slices in which the services' readers find them.

use std::sync::Arc;

use client::{DeleteParams, Object as _, Patch};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::cluster::Cluster;

/// The addresses of the service `db`, by family.
fn addresses(all: &[Arc<EndpointSlice>]) -> Vec<(String, Vec<String>)> {
    let of_db = all.iter().filter(|s| s.label("kubernetes.io/service-name") == Some("db"));
    let mut shown: Vec<_> = of_db
        .map(|s| (s.address_type.clone(), s.endpoints.iter().flatten().flat_map(|e| e.addresses.clone()).collect()))
        .collect();
    shown.sort();
    shown
}

async fn shown(cluster: &Cluster, expected: &[(&str, &[&str])]) {
    let expected: Vec<(String, Vec<String>)> =
        expected.iter().map(|(f, all)| ((*f).to_owned(), all.iter().map(|a| (*a).to_owned()).collect())).collect();
    cluster.until::<EndpointSlice>(&format!("{expected:?}"), |all| addresses(all) == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_written_by_hand_are_mirrored() {
    let cluster = Cluster::start().await;
    cluster.namespace("shop").await;
    let ports = json!([{"name": "sql", "port": 5432}]);
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": ports}});
    cluster.post("/api/v1/namespaces/shop/services", &service).await;
    let of = |addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!([{"addresses": addresses, "ports": ports}])
    };
    let endpoints = json!({"metadata": {"name": "db"}, "subsets": of(&["192.0.2.1"])});
    cluster.post("/api/v1/namespaces/shop/endpoints", &endpoints).await;
    shown(&cluster, &[("IPv4", &["192.0.2.1"])]).await;

    let patch = json!({"subsets": of(&["192.0.2.2", "2001:db8::1"])});
    let _: Endpoints = cluster.admin.patch("shop", "db", Patch::Merge(&patch)).await.unwrap();
    shown(&cluster, &[("IPv4", &["192.0.2.2"]), ("IPv6", &["2001:db8::1"])]).await;

    cluster.admin.delete::<Endpoints>("shop", "db", &DeleteParams::default()).await.unwrap();
    shown(&cluster, &[]).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
