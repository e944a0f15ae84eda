//! The cluster as the scheduler sees it: nodes with what is taken on them, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{Key, Object as _};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::among::{Among, Namespaces};
use super::amounts::{Amounts, amount};
use super::images::Images;
use super::needs::{HostPort, Resident};
use super::tally::{HeldTerms, PerNode, Tallies};
use super::topology::Topologies;
use super::verdicts::Verdicts;

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// What a Node object says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub name: Box<str>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub pods_max: i64,
}

impl Facts {
    pub fn of(node: &Node) -> Self {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        Self {
            name: node.name().into(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: Amounts::of(allocatable),
            pods_max: allocatable.and_then(|a| a.get("pods")).map_or(0, |q| amount("pods", q)),
        }
    }

    /// For spreading the search over zones.
    fn zone(&self) -> (&str, &str) {
        let label = |key: &str| self.labels.get(key).map_or("", String::as_str);
        (label(REGION), label(ZONE))
    }
}

/// What is taken on a node.
#[derive(Debug, Clone, Default)]
pub struct Load {
    pub pods: Vec<Arc<Resident>>,
    pub taken: Amounts,
    /// CPU and memory, with something for containers that ask for nothing.
    pub filled: [i64; 2],
    pub ports: Vec<HostPort>,
}

impl Load {
    pub fn add(&mut self, resident: &Arc<Resident>) {
        self.taken.add(&resident.requests);
        self.filled[0] += resident.filled[0];
        self.filled[1] += resident.filled[1];
        self.ports.extend(resident.ports.iter().cloned());
        self.pods.push(Arc::clone(resident));
    }

    fn replace(&mut self, old: &Arc<Resident>, new: &Arc<Resident>) {
        if let Some(at) = self.pods.iter().position(|r| Arc::ptr_eq(r, old)) {
            self.pods[at] = Arc::clone(new);
        }
    }

    pub fn remove(&mut self, resident: &Arc<Resident>) {
        let Some(at) = self.pods.iter().position(|r| Arc::ptr_eq(r, resident)) else { return };
        self.pods.swap_remove(at);
        self.taken.subtract(&resident.requests);
        self.filled[0] -= resident.filled[0];
        self.filled[1] -= resident.filled[1];
        for port in &resident.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// One node. It keeps its number, the slot, as long as it has pods or an object.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    pub facts: Arc<Facts>,
    pub load: Load,
    /// Whether a Node object stands behind it; pods may be bound to a node that has not been seen yet.
    pub known: bool,
    /// Another one after each change of what the node says or has; no two nodes ever have the same.
    pub version: u64,
}

struct Placed {
    slot: u32,
    resident: Arc<Resident>,
    /// Placed by us; the API has not shown it yet.
    assumed: bool,
}

/// Everything that placement reads.
#[derive(Default)]
pub struct Snapshot {
    slots: Vec<NodeInfo>,
    by_name: HashMap<Box<str>, u32>,
    free: Vec<u32>,
    /// Versions given so far.
    versions: u64,
    pub verdicts: Verdicts,
    /// The nodes that exist, one zone after the other in turn, so that a search that ends early has seen all zones.
    order: Vec<u32>,
    ordered: bool,
    /// Where the next search begins, so that all nodes get their turn.
    pub start: usize,
    placed: HashMap<Key, Placed>,
    pub topologies: Topologies,
    tallies: Tallies,
    pub held: HeldTerms,
    pub namespaces: Namespaces,
    pub images: Images,
    /// By node: pods that wait for room there which others are about to leave.
    nominated: HashMap<Box<str>, Vec<Arc<Resident>>>,
}

/// Whether a pod takes room: bound and not finished.
fn occupies(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let node = pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())?;
    (!matches!(phase, Some("Succeeded" | "Failed"))).then_some(node)
}

impl Snapshot {
    /// The slots of the nodes that exist, in the order of search as it was sorted last.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// Brings the order of search up to date, and forgets topologies beyond their number: begins a placement.
    pub fn sort(&mut self) {
        self.topologies.bound();
        if !self.ordered {
            self.ordered = true;
            let mut zones: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
            let mut known: Vec<u32> = (0..self.slots.len() as u32).filter(|s| self.slots[*s as usize].known).collect();
            known.sort_unstable_by(|a, b| self.facts(*a).name.cmp(&self.facts(*b).name));
            for slot in known {
                zones.entry(self.facts(slot).zone()).or_default().push(slot);
            }
            let longest = zones.values().map(Vec::len).max().unwrap_or(0);
            self.order = (0..longest).flat_map(|i| zones.values().filter_map(move |z| z.get(i).copied())).collect();
        }
    }

    pub fn node(&self, slot: u32) -> &NodeInfo {
        &self.slots[slot as usize]
    }

    pub fn facts(&self, slot: u32) -> &Facts {
        &self.slots[slot as usize].facts
    }

    /// The slot of a node that exists.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied().filter(|s| self.node(*s).known)
    }

    fn slot(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        if slot as usize == self.slots.len() {
            self.slots.push(NodeInfo::default());
        }
        self.slots[slot as usize].facts = Arc::new(Facts { name: name.into(), ..Facts::default() });
        self.changed(slot);
        self.by_name.insert(name.into(), slot);
        slot
    }

    fn release(&mut self, slot: u32) {
        let info = &self.slots[slot as usize];
        if !info.known && info.load.pods.is_empty() {
            self.by_name.remove(&info.facts.name);
            self.slots[slot as usize] = NodeInfo::default();
            self.free.push(slot);
        }
    }

    /// Takes over a node's newest state; `None`: it is gone. Returns what was known of it before.
    pub fn set_node(&mut self, name: &str, node: Option<&Node>) -> Option<Arc<Facts>> {
        if node.is_none() && !self.by_name.contains_key(name) {
            return None;
        }
        let slot = self.slot(name);
        let facts = node.map(Facts::of);
        self.images.set(slot, node);
        let info = &mut self.slots[slot as usize];
        let before = info.known.then(|| Arc::clone(&info.facts));
        self.ordered &= before.is_some() && before.as_ref().map(|f| f.zone()) == facts.as_ref().map(Facts::zone);
        info.known = facts.is_some();
        let facts = facts.unwrap_or_else(|| Facts { name: name.into(), ..Facts::default() });
        if *info.facts != facts {
            info.facts = Arc::new(facts);
            self.changed(slot);
        }
        let info = &self.slots[slot as usize];
        self.topologies.set(slot, info.known.then_some(&info.facts.labels));
        self.release(slot);
        before
    }

    /// Labels of a namespace; `None`: it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<&BTreeMap<String, String>>) {
        match labels {
            Some(labels) if self.namespaces.get(name).is_some_and(|l| **l == *labels) => return,
            Some(labels) => drop(self.namespaces.insert(name.into(), Arc::new(labels.clone()))),
            None => drop(self.namespaces.remove(name)),
        }
        self.tallies.namespaces_changed();
    }

    /// Takes over a pod's newest state; `None`: it is gone. Returns whether its room became free.
    pub fn set_pod(&mut self, key: &Key, pod: Option<&Arc<Pod>>) -> bool {
        let node = pod.and_then(|p| occupies(p));
        let known = self.placed.get(key);
        // An older state of a pod that we have just bound: the binding is still on its way.
        let older =
            |p: &Arc<Pod>| !p.is_terminating() && known.is_some_and(|k| k.assumed && k.resident.pod.uid() == p.uid());
        if node.is_none() && pod.is_some_and(older) {
            return false;
        }
        let (had, stays) = (known.is_some(), known.is_some_and(|k| Some(&*self.facts(k.slot).name) == node));
        match (pod, node) {
            (Some(pod), Some(node)) => {
                let resident = Arc::new(Resident::of(pod));
                if !stays || !self.replace(key, &resident) {
                    self.place(key.clone(), node, resident, false);
                }
            }
            _ => drop(self.forget(key)),
        }
        had && !stays
    }

    /// Takes over a pod's newest state if it counts as before, as most do: what we assumed is told by the API, or its status
    /// changed.
    fn replace(&mut self, key: &Key, resident: &Arc<Resident>) -> bool {
        let Some(placed) = self.placed.get_mut(key).filter(|p| p.resident.counts_as(resident)) else { return false };
        self.slots[placed.slot as usize].load.replace(&placed.resident, resident);
        placed.resident = Arc::clone(resident);
        placed.assumed = false;
        true
    }

    /// Counts a pod on a node before the API shows it, so that the next placement sees the room as taken.
    pub fn assume(&mut self, key: Key, node: &str, resident: Arc<Resident>) {
        self.place(key, node, resident, true);
    }

    /// Takes a pod's room back. Whether it had any.
    pub fn forget(&mut self, key: &Key) -> bool {
        let Some(placed) = self.placed.remove(key) else { return false };
        self.slots[placed.slot as usize].load.remove(&placed.resident);
        self.changed(placed.slot);
        self.count(placed.slot, &placed.resident, false);
        self.release(placed.slot);
        true
    }

    pub fn is_placed(&self, key: &Key) -> bool {
        self.placed.contains_key(key)
    }

    pub fn is_assumed(&self, key: &Key) -> bool {
        self.placed.get(key).is_some_and(|p| p.assumed)
    }

    fn place(&mut self, key: Key, node: &str, resident: Arc<Resident>, assumed: bool) {
        self.forget(&key);
        let slot = self.slot(node);
        self.slots[slot as usize].load.add(&resident);
        self.changed(slot);
        self.count(slot, &resident, true);
        self.placed.insert(key, Placed { slot, resident, assumed });
    }

    fn changed(&mut self, slot: u32) {
        self.versions += 1;
        self.slots[slot as usize].version = self.versions;
    }

    fn count(&mut self, slot: u32, resident: &Resident, more: bool) {
        self.tallies.change(slot, resident, more, &self.namespaces);
        self.held.change(slot, resident, more);
    }

    /// How many pods of all these sets are on each node; `living`: without those that are being deleted.
    pub fn tally(&mut self, sets: &[&Among], living: bool) -> PerNode {
        let Self { tallies, slots, namespaces, .. } = self;
        let residents =
            slots.iter().enumerate().flat_map(|(slot, info)| info.load.pods.iter().map(move |r| (slot as u32, &**r)));
        tallies.count(sets, living, namespaces, residents)
    }

    /// The number of a label's topology. See [`Topologies::find`].
    pub fn topology(&mut self, label: &str) -> usize {
        let Self { topologies, slots, .. } = self;
        let known = slots.iter().enumerate().filter(|(_, info)| info.known);
        topologies.find(label, known.map(|(slot, info)| (slot as u32, &info.facts.labels)))
    }

    /// A waiting pod hopes for room on a node; `None`: on none.
    pub fn nominate(&mut self, key: &Key, resident: Option<(&str, Arc<Resident>)>) {
        self.nominated.retain(|_, pods| {
            pods.retain(|r| r.key() != *key);
            !pods.is_empty()
        });
        if let Some((node, resident)) = resident {
            self.nominated.entry(node.into()).or_default().push(resident);
        }
    }

    pub fn is_nominated(&self, key: &Key) -> bool {
        self.nominated.values().flatten().any(|r| r.key() == *key)
    }

    pub fn is_anybody_nominated(&self) -> bool {
        !self.nominated.is_empty()
    }

    pub fn nominated(&self, node: &str) -> &[Arc<Resident>] {
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(node: &str, phase: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "d"},
                "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": phase},
            }))
            .unwrap(),
        )
    }

    fn node(name: &str, zone: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {ZONE: zone}},
            "status": {"allocatable": {"cpu": "2", "pods": "10"}}}))
        .unwrap()
    }

    #[test]
    fn room_is_taken_and_given_back() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node("n", Some(&node("n", "a")));
        let key = Key::new("d", "p");
        let taken = |s: &mut Snapshot| {
            s.sort();
            s.order()
                .iter()
                .map(|n| &s.node(*n).load)
                .map(|l| (l.taken.cpu, l.pods.len(), l.ports.len()))
                .collect::<Vec<_>>()
        };
        assert!(!snapshot.set_pod(&key, Some(&pod("n", "Pending"))));
        assert_eq!(taken(&mut snapshot), [(1000, 1, 1)]);
        assert!(!snapshot.set_pod(&key, Some(&pod("n", "Running"))));
        assert_eq!(taken(&mut snapshot), [(1000, 1, 1)]);
        assert!(snapshot.set_pod(&key, Some(&pod("n", "Succeeded"))));
        assert_eq!(taken(&mut snapshot), [(0, 0, 0)]);
        // an assumed pod survives an older state of itself
        snapshot.assume(key.clone(), "n", Arc::new(Resident::of(&pod("n", "Pending"))));
        assert!(!snapshot.set_pod(&key, Some(&pod("", "Pending"))));
        assert!(snapshot.is_assumed(&key));
        assert!(!snapshot.set_pod(&key, Some(&pod("n", "Pending"))));
        assert!(!snapshot.is_assumed(&key));
        // the node goes first, the pod later
        snapshot.set_node("n", None);
        assert_eq!(taken(&mut snapshot), []);
        assert!(snapshot.set_pod(&key, None));
        assert!(snapshot.by_name.is_empty());
        assert_eq!(snapshot.free.len(), snapshot.slots.len());
    }

    #[test]
    fn the_search_goes_from_zone_to_zone() {
        let mut snapshot = Snapshot::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("c2", "c")] {
            snapshot.set_node(name, Some(&node(name, zone)));
        }
        let names = |s: &mut Snapshot| {
            s.sort();
            s.order().iter().map(|n| s.facts(*n).name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&mut snapshot), ["a1", "b1", "c1", "a2", "c2", "a3"]);
        snapshot.set_node("b1", Some(&node("b1", "a")));
        snapshot.set_node("a2", None);
        assert_eq!(names(&mut snapshot), ["a1", "c1", "a3", "c2", "b1"]);
    }
}
