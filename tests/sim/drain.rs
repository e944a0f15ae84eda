//! Empties a node as `kubectl drain` does: it is closed, its pods are evicted, again and again while a budget says no.

use std::time::Duration;

use client::{Client, Patch};
use serde_json::{Value, json};

use crate::objects::{name, namespace};
use crate::workloads::DAEMON_SET;

/// Between attempts.
const AGAIN: Duration = Duration::from_secs(5);

/// Drains `node`, gives up after `time`, and opens it again in the end.
pub async fn drain(client: Client, node: String, time: Duration) {
    close(&client, &node, true).await;
    let _ = tokio::time::timeout(time, empty(&client, &node)).await;
    close(&client, &node, false).await;
}

/// Says that the node takes pods, or that it does not, until it is heard; a node that is gone need not hear.
async fn close(client: &Client, node: &str, closed: bool) {
    let (path, patch) = (format!("/api/v1/nodes/{node}"), json!({"spec": {"unschedulable": closed}}));
    loop {
        match client.patch_path::<Value>(&path, Patch::Merge(&patch), &Default::default()).await {
            Ok(_) => return,
            Err(error) if error.is_not_found() => return,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn empty(client: &Client, node: &str) {
    loop {
        let params = client::ListParams::fields(format!("spec.nodeName={node}"));
        let pods = client.list_path::<Value>("/api/v1/pods", &params).await;
        let pods = pods.map(|list| list.items).unwrap_or_default();
        for pod in &pods {
            if pod["metadata"]["labels"]["app"] == DAEMON_SET {
                continue;
            }
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": name(pod), "namespace": namespace(pod)}});
            let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", namespace(pod), name(pod));
            // Refused by a budget, or lost: the next round asks again.
            let _ = client.create_path::<Value>(&path, &eviction, &Default::default()).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
