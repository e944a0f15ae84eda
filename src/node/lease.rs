//! The node's heartbeat: a Lease in `kube-node-lease`, renewed by one timer. Source: KEP-589, `component-helpers/apimachinery/lease`.

use std::time::Duration;

use client::{Client, Clock, Patch};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use types::time::rfc3339_micros;

pub const NAMESPACE: &str = "kube-node-lease";
/// How long the lease is good for: as long as the node lifecycle controller waits before it calls a silent node Unknown.
pub const DURATION_SECONDS: i32 = 10;
/// A quarter of it, upstream's ratio: three renewals may be lost. Source: `pkg/kubelet/kubelet.go` (`nodeLeaseRenewIntervalFraction`).
const RENEW: Duration = Duration::from_millis(2500);
/// Wait after a failed renewal, doubled up to [`RENEW`].
const RETRY_MIN: Duration = Duration::from_millis(200);

/// Renews until stopped. `uid`: the Node's, which owns the lease.
pub async fn run(client: Client, clock: Clock, node: String, uid: String, stop: CancellationToken) {
    let mut wait = RETRY_MIN;
    let mut made = false;
    loop {
        let pause = match renew(&client, &clock, &node, &uid, &mut made).await {
            Ok(()) => {
                wait = RETRY_MIN;
                RENEW
            }
            Err(e) => {
                tracing::warn!(error = %e, "lease not renewed");
                wait = (wait * 2).min(RENEW);
                wait
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn renew(client: &Client, clock: &Clock, node: &str, uid: &str, made: &mut bool) -> client::Result<()> {
    let now = rfc3339_micros(clock.now());
    if *made {
        let patch = json!({"spec": {"renewTime": now, "holderIdentity": node}});
        match client.patch::<Lease>(NAMESPACE, node, Patch::Merge(&patch)).await {
            Err(e) if e.is_not_found() => *made = false,
            other => return other.map(|_| ()),
        }
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": NAMESPACE, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now},
    });
    let path = client::api::collection_path::<Lease>(NAMESPACE);
    match client.create_path::<serde_json::Value>(&path, &lease, &client::WriteParams::default()).await {
        Ok(_) => {
            *made = true;
            Ok(())
        }
        Err(e) if e.is_already_exists() => {
            // An earlier daemon's: it is ours now.
            let patch =
                json!({"metadata": {"ownerReferences": lease["metadata"]["ownerReferences"]}, "spec": lease["spec"]});
            client.patch::<Lease>(NAMESPACE, node, Patch::Merge(&patch)).await?;
            *made = true;
            Ok(())
        }
        Err(e) => Err(e),
    }
}
