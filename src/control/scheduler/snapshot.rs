//! The cluster as the scheduler sees it: nodes with what is taken on them, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{Key, Object as _};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::needs::{Amounts, HostPort, Needs, PODS};

/// One node with what its pods take.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub taken: Amounts,
    pub ports: Vec<HostPort>,
    /// Whether a Node object stands behind it; pods may be bound to a node that has not been seen yet.
    pub known: bool,
}

impl NodeInfo {
    fn add(&mut self, needs: &Needs) {
        self.taken.add(&needs.requests);
        *self.taken.0.entry(PODS.into()).or_default() += 1;
        self.ports.extend(needs.host_ports.iter().cloned());
    }

    fn remove(&mut self, needs: &Needs) {
        self.taken.subtract(&needs.requests);
        self.taken.subtract(&Amounts(BTreeMap::from([(PODS.to_owned(), 1)])));
        for port in &needs.host_ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

struct Placed {
    node: String,
    needs: Arc<Needs>,
    /// Placed by us; the API has not shown it yet.
    assumed: bool,
}

/// Everything that placement reads.
#[derive(Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    placed: HashMap<Key, Placed>,
}

/// Whether a pod takes room: bound and not finished.
fn occupies(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let node = pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())?;
    (!matches!(phase, Some("Succeeded" | "Failed"))).then_some(node)
}

impl Snapshot {
    /// The nodes that exist, in name order.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|n| n.known)
    }

    /// Takes over a node's newest state; `None`: it is gone.
    pub fn set_node(&mut self, name: &str, node: Option<&Node>) {
        let Some(node) = node else {
            if let Some(info) = self.nodes.get_mut(name) {
                info.known = false;
                if info.taken.get(PODS) == 0 {
                    self.nodes.remove(name);
                }
            }
            return;
        };
        let info = self.nodes.entry(name.to_owned()).or_default();
        info.name = name.to_owned();
        info.known = true;
        info.labels = node.metadata.labels.clone().unwrap_or_default();
        info.taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        info.unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        info.allocatable = Amounts::of(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
    }

    /// Takes over a pod's newest state; `None`: it is gone. Returns whether room became free.
    pub fn set_pod(&mut self, key: &Key, pod: Option<&Pod>) -> bool {
        let node = pod.and_then(occupies);
        if let Some(known) = self.placed.get_mut(key) {
            if Some(known.node.as_str()) == node {
                known.assumed = false;
                return false;
            }
            // An older state of a pod that we have just bound: the binding is still on its way.
            if known.assumed && node.is_none() && pod.is_some_and(|p| !p.is_terminating()) {
                return false;
            }
        }
        let freed = self.forget(key);
        if let (Some(pod), Some(node)) = (pod, node) {
            self.place(key.clone(), node, Arc::new(Needs::of(pod)), false);
        }
        freed
    }

    /// Counts a pod on a node before the API shows it, so that the next placement sees the room as taken.
    pub fn assume(&mut self, key: Key, node: &str, needs: Arc<Needs>) {
        self.place(key, node, needs, true);
    }

    /// Takes a pod's room back. Whether it had any.
    pub fn forget(&mut self, key: &Key) -> bool {
        let Some(placed) = self.placed.remove(key) else { return false };
        if let Some(info) = self.nodes.get_mut(&placed.node) {
            info.remove(&placed.needs);
            if !info.known && info.taken.get(PODS) == 0 {
                self.nodes.remove(&placed.node);
            }
        }
        true
    }

    pub fn is_assumed(&self, key: &Key) -> bool {
        self.placed.get(key).is_some_and(|p| p.assumed)
    }

    fn place(&mut self, key: Key, node: &str, needs: Arc<Needs>, assumed: bool) {
        self.forget(&key);
        let info =
            self.nodes.entry(node.to_owned()).or_insert_with(|| NodeInfo { name: node.into(), ..NodeInfo::default() });
        info.add(&needs);
        self.placed.insert(key, Placed { node: node.to_owned(), needs, assumed });
    }
}

#[cfg(test)]
mod tests {
    use super::super::needs::CPU;
    use super::*;
    use serde_json::json;

    fn pod(node: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}],
                "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn room_is_taken_and_given_back() {
        let mut snapshot = Snapshot::default();
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2"}}}))
                .unwrap();
        snapshot.set_node("n", Some(&node));
        let key = Key::new("d", "p");
        let taken =
            |s: &Snapshot| s.nodes().map(|n| (n.taken.get(CPU), n.taken.get(PODS), n.ports.len())).collect::<Vec<_>>();
        assert!(!snapshot.set_pod(&key, Some(&pod("n", "Pending"))));
        assert_eq!(taken(&snapshot), [(1000, 1, 1)]);
        assert!(!snapshot.set_pod(&key, Some(&pod("n", "Running"))));
        assert_eq!(taken(&snapshot), [(1000, 1, 1)]);
        assert!(snapshot.set_pod(&key, Some(&pod("n", "Succeeded"))));
        assert_eq!(taken(&snapshot), [(0, 0, 0)]);
        // an assumed pod survives an older state of itself
        snapshot.assume(key.clone(), "n", Arc::new(Needs::of(&pod("n", "Pending"))));
        assert!(!snapshot.set_pod(&key, Some(&pod("", "Pending"))));
        assert!(snapshot.is_assumed(&key));
        assert!(!snapshot.set_pod(&key, Some(&pod("n", "Pending"))));
        assert!(!snapshot.is_assumed(&key));
        // the node goes first, the pod later
        snapshot.set_node("n", None);
        assert_eq!(taken(&snapshot), []);
        assert!(snapshot.set_pod(&key, None));
        assert!(snapshot.nodes.is_empty());
    }
}
