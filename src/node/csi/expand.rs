//! Volumes that have grown: the last step of it, on the node that has them mounted.
//!
//! Source: `expandVolumeDuringMount`, `callNodeExpandOnPlugin` in `operation_generator.go`, `pkg/volume/csi/expander.go`,
//! `MarkFSResizeFinished` in `pkg/volume/util/resize_util.go`.

use client::storage::Volume as PersistentVolume;
use client::{Object as _, Patch};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use types::quantity::Quantity;

use super::Csi;
use super::driver::Request;
use super::wanted::Wanted;
use crate::pod;

/// Whether somebody has made the volume larger, and what is left is the node's.
pub fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let condition = status.into_iter().flat_map(|s| s.conditions.iter().flatten());
    let step = status.and_then(|s| s.allocated_resource_statuses.as_ref()?.get("storage"));
    condition.into_iter().any(|c| c.type_ == "FileSystemResizePending" && c.status == "True")
        || step.is_some_and(|s| s == "NodeResizePending" || s == "NodeResizeInProgress")
}

/// The size that the volume has and the claim does not show yet.
fn due(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Quantity> {
    let shown = claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")?.0.parse::<Quantity>().ok());
    let has = volume.spec.capacity.get("storage").and_then(|q| q.0.parse::<Quantity>().ok())?;
    (shown? < has).then_some(has)
}

/// The claim's status once it is done.
fn finished(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Value {
    let conditions = claim.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let resizing = |kind: &str| {
        matches!(kind, "Resizing" | "FileSystemResizePending" | "ControllerResizeError" | "NodeResizeError")
    };
    let left: Vec<_> = conditions.into_iter().filter(|c| !resizing(&c.type_)).collect();
    json!({"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": {
        "capacity": {"storage": volume.spec.capacity.get("storage")},
        "conditions": left, "allocatedResourceStatuses": {"storage": null}}})
}

impl Csi {
    /// Has the driver make the filesystem as large as the volume is, and tells so in the claim. Nothing when there is nothing to do.
    ///
    /// # Errors
    /// The text of an event.
    pub async fn expand(
        &self,
        pod: &Pod,
        wanted: &Wanted,
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), String> {
        let Some(size) = due(claim, volume) else { return Ok(()) };
        let name = &wanted.name;
        let failed = |why: String| format!("NodeExpandVolume.NodeExpandVolume failed for volume \"{name}\" : {why}");
        if wanted.read_only {
            self.recorder.warning(
                pod,
                "FileSystemResizeFailed",
                format!("MountVolume.NodeExpandVolume failed for volume \"{name}\" requested read-only file system"),
            );
            return Ok(());
        }
        let _turn = self.turn(&wanted.volume()).await;
        let driver = self.driver(&wanted.driver).map_err(failed)?;
        let abilities = driver.abilities().await.map_err(|e| failed(e.to_string()))?;
        if !abilities.expands {
            return Ok(());
        }
        let mut request = Request { handle: wanted.handle.clone(), usage: wanted.usage.clone(), ..Request::default() };
        if let Some(reference) = &wanted.expand_secret {
            request.secrets = self.secret(reference).await.map_err(|e| {
                failed(format!(
                    "expander.NodeExpand failed to get NodeExpandSecretRef {}/{}: {e}",
                    reference.namespace, reference.name
                ))
            })?;
        }
        let uid = pod::uid(pod);
        let target = match wanted.usage.block {
            true => self.folders.device_publish(name, uid),
            false => self.folders.target(uid, name),
        };
        let staging = Some(wanted.volume().staging(&self.folders)).filter(|_| abilities.stages);
        driver
            .expand(&request, abilities, staging.as_deref(), &target, size.value())
            .await
            .map_err(|e| failed(format!("Expander.NodeExpand failed to expand the volume : {e}")))?;
        let patch = finished(claim, volume);
        self.client
            .patch_status::<PersistentVolumeClaim>(claim.namespace(), claim.name(), Patch::Merge(&patch))
            .await
            .map_err(|e| failed(format!("update pvc status failed: {e}")))?;
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume \"{name}\" {}", self.node_name);
        self.recorder.normal(pod, "FileSystemResizeSuccessful", message.clone());
        self.recorder.normal(claim, "FileSystemResizeSuccessful", message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_for_the_node() {
        let claim = |status: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "resourceVersion": "3"}, "status": status}))
                .unwrap()
        };
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "2Gi"}}}))
                .unwrap();
        let waits = json!({"type": "FileSystemResizePending", "status": "True"});
        for (name, status, pending, size) in [
            ("nothing", json!({"capacity": {"storage": "2Gi"}}), false, None),
            ("the provider's turn", json!({"capacity": {"storage": "1Gi"}}), false, Some(2 << 30)),
            ("by a condition", json!({"capacity": {"storage": "1Gi"}, "conditions": [waits]}), true, Some(2 << 30)),
            (
                "by its step",
                json!({"capacity": {"storage": "1Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}}),
                true,
                Some(2 << 30),
            ),
            ("not bound", json!({}), false, None),
        ] {
            let claim = claim(status);
            assert_eq!((is_pending(&claim), due(&claim, &volume).map(|q| q.value())), (pending, size), "{name}");
        }
        let done = finished(&claim(json!({"conditions": [waits, {"type": "Other", "status": "True"}]})), &volume);
        assert_eq!(done["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(done["status"]["capacity"]["storage"], "2Gi");
    }
}
