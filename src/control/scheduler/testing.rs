//! Pods and nodes for the tests of this folder.

use std::sync::Arc;

use client::Key;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::needs::{Needs, Resident};
use super::profile::Profile;
use super::snapshot::Snapshot;

/// A pod of namespace `d`; fields of its spec replace those of one that asks for nothing.
pub fn pod(name: &str, labels: Value, spec: &Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": labels},
        "spec": {"containers": [{"name": "c"}]}});
    for (k, v) in spec.as_object().unwrap() {
        pod["spec"][k] = v.clone();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

pub fn needs(spec: Value) -> Needs {
    Needs::of(&pod("p", json!({}), &spec), &Profile::default(), None)
}

pub fn node(name: &str, labels: &[(&str, &str)]) -> Node {
    let labels: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}}))
    .unwrap()
}

/// Nodes with their zones, and pods with what they say and where they are.
pub fn snapshot(nodes: &[(&str, &str)], pods: &[(&str, &str, Value, Value)]) -> Snapshot {
    let mut all = Snapshot::default();
    for (name, zone) in nodes {
        let labels = [("zone", *zone), ("kubernetes.io/hostname", *name)];
        let labels = if zone.is_empty() { &labels[1..] } else { &labels[..] };
        all.set_node(name, Some(&node(name, labels)));
    }
    for (name, on, labels, spec) in pods {
        let resident = Resident::of(&pod(name, labels.clone(), spec));
        all.assume(Key::new("d", name), on, Arc::new(resident));
    }
    all
}
