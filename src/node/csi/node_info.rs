//! What the API has of this node's drivers: the CSINode, and the Node's annotation and labels. Deciding is pure.
//!
//! Source: `pkg/volume/csi/nodeinfomanager/nodeinfomanager.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Patch, WriteParams};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Map, Value, json};

use super::Csi;
use super::driver::NodeInfo;

const NODES: &str = "/apis/storage.k8s.io/v1/csinodes";
const ANNOTATION: &str = "csi.volume.kubernetes.io/nodeid";
/// Conflicts and an API that is away for a moment. Source: `updateBackoff`.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The Node's changes for a driver that has come; `None`: it says so already.
///
/// # Errors
/// The driver says that the node is elsewhere than it is.
pub fn node_patch(node: &Value, driver: &str, info: &NodeInfo) -> Result<Option<Value>, String> {
    let labels = &node["metadata"]["labels"];
    let mut new = Map::new();
    for (key, value) in &info.topology {
        match labels[key].as_str() {
            Some(there) if there == value => {}
            Some(there) => {
                return Err(format!(
                    "detected topology value collision: driver reported \"{key}\":\"{value}\" but existing label is \
                     \"{key}\":\"{there}\""
                ));
            }
            None => drop(new.insert(key.clone(), value.as_str().into())),
        }
    }
    let ids = ids(node);
    if ids.get(driver) == Some(&info.node_id) && new.is_empty() {
        return Ok(None);
    }
    let mut ids = ids;
    ids.insert(driver.to_owned(), info.node_id.clone());
    Ok(Some(json!({"metadata": {
        "resourceVersion": node["metadata"]["resourceVersion"],
        "annotations": {ANNOTATION: json!(ids).to_string()}, "labels": new,
    }})))
}

/// The Node's changes for a driver that is gone.
pub fn node_patch_without(node: &Value, driver: &str) -> Option<Value> {
    let mut ids = ids(node);
    ids.remove(driver)?;
    let left = if ids.is_empty() { Value::Null } else { json!(ids).to_string().into() };
    Some(
        json!({"metadata": {"resourceVersion": node["metadata"]["resourceVersion"], "annotations": {ANNOTATION: left}}}),
    )
}

fn ids(node: &Value) -> BTreeMap<String, String> {
    let text = node["metadata"]["annotations"][ANNOTATION].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// The CSINode with a driver in it, when it is another one than before.
pub fn with_driver(csi_node: &Value, driver: &str, info: &NodeInfo) -> Option<Value> {
    let mut new =
        json!({"name": driver, "nodeID": info.node_id, "topologyKeys": info.topology.keys().collect::<Vec<_>>()});
    if info.volumes_max > 0 {
        new["allocatable"] = json!({"count": info.volumes_max.min(i64::from(i32::MAX))});
    }
    let mut drivers = drivers(csi_node);
    let before = drivers.iter().find(|d| d["name"] == driver);
    let plain = |d: &Value| (d["nodeID"].clone(), keys(d), d["allocatable"]["count"].clone());
    if before.is_some_and(|before| plain(before) == plain(&new)) {
        return None;
    }
    drivers.retain(|d| d["name"] != driver);
    drivers.push(new);
    let mut changed = csi_node.clone();
    changed["spec"]["drivers"] = drivers.into();
    Some(changed)
}

/// The CSINode without a driver, when it was in it.
pub fn without_driver(csi_node: &Value, driver: &str) -> Option<Value> {
    let mut left = drivers(csi_node);
    let before = left.len();
    left.retain(|d| d["name"] != driver);
    let mut changed = csi_node.clone();
    changed["spec"]["drivers"] = left.into();
    (drivers(&changed).len() < before).then_some(changed)
}

fn drivers(csi_node: &Value) -> Vec<Value> {
    csi_node["spec"]["drivers"].as_array().cloned().unwrap_or_default()
}

fn keys(driver: &Value) -> Vec<String> {
    let keys = driver["topologyKeys"].as_array().into_iter().flatten();
    let mut keys: Vec<String> = keys.filter_map(|k| k.as_str().map(str::to_owned)).collect();
    keys.sort_unstable();
    keys
}

/// A CSINode as the node makes it.
fn new_csi_node(name: &str, node: &Value) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": {"name": name, "ownerReferences":
            [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}]},
        "spec": {"drivers": []}})
}

fn belongs(csi_node: &Value, node: &Value) -> bool {
    let owners = csi_node["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let uid = &node["metadata"]["uid"];
    owners.into_iter().any(|o| o["kind"] == "Node" && o["uid"] == *uid)
}

impl Csi {
    /// Makes this node's CSINode, so that others know that it has no drivers yet. Tried until it works.
    pub(super) async fn introduce(&self) {
        let mut wait = PAUSE;
        while let Err(error) = self.own_csi_node().await {
            tracing::debug!(%error, "no CSINode yet");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(PAUSE_MAX);
        }
    }

    async fn node(&self) -> client::Result<Value> {
        self.client.get_path(&format!("/api/v1/nodes/{}", self.node_name)).await
    }

    /// The CSINode; made when it is not there, and made anew when it is that of an earlier Node.
    async fn own_csi_node(&self) -> client::Result<Value> {
        let node = self.node().await?;
        let path = format!("{NODES}/{}", self.node_name);
        match self.client.get_path::<Value>(&path).await {
            Ok(found) if belongs(&found, &node) => return Ok(found),
            Ok(_) => drop(self.client.delete_path(&path, &client::DeleteParams::default()).await?),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        self.client.create_path(NODES, &new_csi_node(&self.node_name, &node), &WriteParams::default()).await
    }

    async fn write_csi_node(&self, change: &(dyn Fn(&Value) -> Option<Value> + Sync)) -> client::Result<()> {
        let found = self.own_csi_node().await?;
        if let Some(changed) = change(&found) {
            let path = format!("{NODES}/{}", self.node_name);
            self.client.update_path::<Value>(&path, &changed, &WriteParams::default()).await?;
        }
        Ok(())
    }

    /// # Errors
    /// What the driver is told.
    pub(super) async fn install(&self, driver: &str, info: &NodeInfo) -> Result<(), String> {
        if info.node_id.is_empty() {
            return Err("error adding CSI driver node info: driverNodeID must not be empty".into());
        }
        let _one = self.writing.lock().await;
        let of_node =
            |e: String| format!("error updating Node object with CSI driver node info: error updating node: {e}");
        self.tried(|| async {
            let node = self.node().await.map_err(|e| e.to_string())?;
            match node_patch(&node, driver, info)? {
                Some(patch) => self.patch_node(&patch).await.map_err(|e| e.to_string()),
                None => Ok(()),
            }
        })
        .await
        .map_err(of_node)?;
        let change = |found: &Value| with_driver(found, driver, info);
        self.tried(|| async { self.write_csi_node(&change).await.map_err(|e| e.to_string()) }).await.map_err(|e| {
            format!("error updating CSINode object with CSI driver node info: error updating CSINode: {e}")
        })
    }

    pub(super) async fn uninstall(&self, driver: &str) -> Result<(), String> {
        let _one = self.writing.lock().await;
        let change = |found: &Value| without_driver(found, driver);
        self.tried(|| async { self.write_csi_node(&change).await.map_err(|e| e.to_string()) }).await?;
        self.tried(|| async {
            let node = self.node().await.map_err(|e| e.to_string())?;
            match node_patch_without(&node, driver) {
                Some(patch) => self.patch_node(&patch).await.map_err(|e| e.to_string()),
                None => Ok(()),
            }
        })
        .await
    }

    async fn patch_node(&self, patch: &Value) -> client::Result<()> {
        self.client.patch::<Node>("", &self.node_name, Patch::Merge(patch)).await.map(drop)
    }

    async fn tried<F: Future<Output = Result<(), String>>>(&self, attempt: impl Fn() -> F) -> Result<(), String> {
        let mut wait = PAUSE;
        for _ in 1..TRIES {
            if attempt().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(wait).await;
            wait *= 5;
        }
        attempt().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(zone: &str, volumes_max: i64) -> NodeInfo {
        NodeInfo { node_id: "id".into(), volumes_max, topology: [("zone".to_owned(), zone.to_owned())].into() }
    }

    #[test]
    fn the_node_says_which_drivers_it_has() {
        let mut node = json!({"metadata": {"resourceVersion": "1", "labels": {}}});
        let patch = node_patch(&node, "d", &info("a", 0)).unwrap().unwrap();
        assert_eq!(
            patch["metadata"],
            json!({"resourceVersion": "1", "annotations": {ANNOTATION: "{\"d\":\"id\"}"}, "labels": {"zone": "a"}})
        );
        node["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
        node["metadata"]["labels"] = patch["metadata"]["labels"].clone();
        assert_eq!(node_patch(&node, "d", &info("a", 0)), Ok(None));
        let collision = node_patch(&node, "e", &info("b", 0)).unwrap_err();
        assert!(
            collision.contains("driver reported \"zone\":\"b\" but existing label is \"zone\":\"a\""),
            "{collision}"
        );
        assert_eq!(node_patch_without(&node, "d").unwrap()["metadata"]["annotations"], json!({ANNOTATION: null}));
        assert_eq!(node_patch_without(&node, "e"), None);
    }

    #[test]
    fn the_csi_node_lists_them() {
        let empty = new_csi_node("n", &json!({"metadata": {"uid": "u"}}));
        assert!(
            belongs(&empty, &json!({"metadata": {"uid": "u"}})) && !belongs(&empty, &json!({"metadata": {"uid": "v"}}))
        );
        let one = with_driver(&empty, "d", &info("a", 5)).unwrap();
        assert_eq!(
            one["spec"]["drivers"],
            json!([{"name": "d", "nodeID": "id", "topologyKeys": ["zone"], "allocatable": {"count": 5}}])
        );
        assert_eq!(with_driver(&one, "d", &info("b", 5)), None, "only the keys count");
        let unlimited = with_driver(&one, "d", &info("a", 0)).unwrap();
        assert_eq!(unlimited["spec"]["drivers"][0].get("allocatable"), None);
        let two = with_driver(&one, "e", &info("a", i64::MAX)).unwrap();
        assert_eq!(two["spec"]["drivers"][1]["allocatable"]["count"], i32::MAX);
        assert_eq!(without_driver(&two, "d").unwrap()["spec"]["drivers"].as_array().unwrap().len(), 1);
        assert_eq!(without_driver(&one, "e"), None);
    }
}
