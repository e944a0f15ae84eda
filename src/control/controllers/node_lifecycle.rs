//! Node lifecycle controller. Notices that a node went silent, says so in its conditions, and taints nodes by what their
//! conditions say. Pods leave by `taint_eviction`.
//!
//! Silence is measured on the monotonic clock from when a heartbeat was last *seen* to change, never by comparing a node's
//! wall clock with ours. Tainting for eviction is paced, and stopped, by how many nodes of a zone are lost: see [`zones`].
//!
//! Source: kubernetes `pkg/controller/nodelifecycle/node_lifecycle_controller.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::queue::Queue;
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Clock, Key, Object, Patch, Recorder, Result, Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::{Context, POD_BY_NODE, pods};

mod zones;

use zones::{Changed, Member, Turn, Zones};

const NAME: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
/// Nodes worked on at once; upstream's `UpdateWorkerSize`.
const WORKERS: usize = 8;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, the status that is trouble, the taint that follows.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
/// What a silent node cannot vouch for any more.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub struct Observed<'a> {
    pub node: &'a Node,
    /// How long nothing was heard of it.
    pub silent: Duration,
    pub grace: Duration,
    /// Whether its pods may be told to go, should it be lost.
    pub evicts: Evicts,
    /// Pods on the node.
    pub pods: &'a [Arc<Pod>],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evicts {
    Yes,
    /// Who has been told stays told.
    NoMore,
    /// Who has been told is told otherwise.
    Nobody,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Status(Box<Node>),
    Taints(Box<Node>),
    /// The pod cannot be known to be ready while its node is not.
    PodNotReady(Box<Pod>),
    Say(&'static str, String),
}

fn condition<'a>(node: &'a Node, name: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == name)
}

pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|c| c.status == "True")
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let mut node = observed.node.clone();
    if node.is_terminating() {
        return plan;
    }
    if observed.silent >= observed.grace {
        if silence(&mut node, now) {
            plan.push(Action::Status(Box::new(node.clone())), format!("silent for {} s", observed.silent.as_secs()));
            if is_ready(observed.node) {
                let text = format!("Node {} status is now: NodeNotReady", node.name());
                plan.push(Action::Say("NodeNotReady", text), "it was ready");
            }
        }
    } else {
        let left = SignedDuration::try_from(observed.grace - observed.silent).unwrap_or_default();
        plan.again_at(now + left);
    }

    let mut wanted = taints(&node, now);
    // Its zone must have heard of it first, and both taints mean the same to pods that stay for one of them.
    let (lost, told) = (lost(observed.node), is_told(observed.node));
    if let Some(key) = lost.filter(|_| observed.evicts == Evicts::Yes || observed.evicts == Evicts::NoMore && told) {
        wanted.push(taint(key, "NoExecute", now));
    }
    let ours = |t: &Taint| t.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| t.key == *key);
    let current = observed.node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    // What stays keeps the time at which it was added.
    let mut new: Vec<Taint> =
        current.iter().filter(|t| !ours(t) || wanted.iter().any(|w| same(w, t))).cloned().collect();
    new.extend(wanted.into_iter().filter(|w| !current.iter().any(|t| same(t, w))));
    if new != current {
        let mut tainted = observed.node.clone();
        tainted.spec.get_or_insert_default().taints = Some(new).filter(|t| !t.is_empty());
        plan.push(Action::Taints(Box::new(tainted)), "taints follow conditions");
    }

    if condition(&node, "Ready").is_some_and(|c| c.status != "True") {
        for pod in observed.pods.iter().filter(|p| pods::is_ready(p)) {
            let mut new = (**pod).clone();
            for c in
                new.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()).filter(|c| c.type_ == "Ready")
            {
                c.status = "False".into();
                c.last_transition_time = Some(Time(pods::whole_second(now)));
            }
            plan.push(Action::PodNotReady(Box::new(new)), format!("{} is on a node that is not ready", pod.name()));
        }
    }
    plan
}

/// Marks what the node cannot vouch for as unknown. Whether that changed anything.
fn silence(node: &mut Node, now: Timestamp) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let now = Some(Time(pods::whole_second(now)));
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for name in VOUCHED {
        match conditions.iter_mut().find(|c| c.type_ == name) {
            Some(c) if c.status == "Unknown" => {}
            Some(c) => {
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time.clone_from(&now);
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: name.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: created.clone(),
                    last_transition_time: now.clone(),
                });
                changed = true;
            }
        }
    }
    changed
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    let time_added = Some(Time(pods::whole_second(now)));
    Taint { key: key.into(), effect: effect.into(), value: None, time_added }
}

/// What keeps new pods away.
fn taints(node: &Node, now: Timestamp) -> Vec<Taint> {
    let troubles =
        BY_CONDITION.iter().filter(|(name, status, _)| condition(node, name).is_some_and(|c| c.status == *status));
    let mut wanted: Vec<Taint> = troubles.map(|(_, _, key)| taint(key, "NoSchedule", now)).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule", now));
    }
    wanted
}

/// The taint that tells the pods to go, as the node's condition stands.
fn lost(node: &Node) -> Option<&'static str> {
    match condition(node, "Ready")?.status.as_str() {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    }
}

/// Whether its pods have been told to go.
fn is_told(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.any(|t| t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&t.key.as_str()))
}

/// When a node was last heard of.
#[derive(Default)]
struct Heard(Mutex<HashMap<Box<str>, Instant>>);

impl Heard {
    /// Nobody could be heard: all begin anew.
    fn all(&self, now: Instant) {
        self.0.lock().values_mut().for_each(|at| *at = now);
    }
}

struct Lifecycle {
    client: Client,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    heard: Arc<Heard>,
    zones: Arc<Mutex<Zones>>,
    queue: Arc<Queue>,
    recorder: Recorder,
    clock: Clock,
    grace: Duration,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let (clock, queue, heard) = (context.config.clock, context.queue(), Arc::new(Heard::default()));
    let nodes = context.informers.cache::<Node>(Selector::all());
    let leases = context.informers.cache::<Lease>(Selector::namespace(LEASES));
    let pods = context.pods();
    let zones = Arc::new(Mutex::new(Zones::default()));
    let (dirty, all, ear, map) = (Arc::clone(&queue), Arc::clone(&nodes), Arc::clone(&heard), Arc::clone(&zones));
    nodes.on_change(Box::new(move |old, new| {
        let member = |n: &Arc<Node>| Member::of(n);
        let Changed { nodes, all: turned } =
            map.lock().change(old.map(member).as_ref(), new.map(member).as_ref(), clock.monotonic());
        nodes.iter().for_each(|n| dirty.add(Key::cluster(n)));
        if turned == Some(false) {
            ear.all(clock.monotonic());
        }
        if turned.is_some() {
            all.all().iter().for_each(|n| dirty.add(n.key()));
        }
        let Some(node) = new else {
            if let Some(node) = old {
                ear.0.lock().remove(node.name());
            }
            return;
        };
        // A heartbeat, not just any change: labels are others' to write.
        let beat = |n: &Node| condition(n, "Ready").and_then(|c| c.last_heartbeat_time.clone());
        if old.is_none_or(|o| beat(o) != beat(node)) {
            ear.0.lock().insert(node.name().into(), clock.monotonic());
        }
        dirty.add(node.key());
    }));
    let (dirty, all, ear) = (Arc::clone(&queue), Arc::clone(&nodes), Arc::clone(&heard));
    leases.on_change(Box::new(move |old, new| {
        let Some(lease) = new else { return };
        let beat = |l: &Lease| l.spec.as_ref().and_then(|s| s.renew_time.clone());
        if old.is_none_or(|o| beat(o) != beat(lease)) {
            ear.0.lock().insert(lease.name().into(), clock.monotonic());
            // A renewal of a ready node changes nothing but its deadline, which is looked at when it comes.
            if all.get(&Key::cluster(lease.name())).is_some_and(|n| !is_ready(&n)) {
                dirty.add(Key::cluster(lease.name()));
            }
        }
    }));
    let dirty = Arc::clone(&queue);
    let all = Arc::clone(&nodes);
    pods.on_change(Box::new(move |_, new| {
        let Some(pod) = new.filter(|p| pods::is_ready(p)) else { return };
        let key = Key::cluster(pods::node_name(pod));
        if all.get(&key).is_some_and(|n| !is_ready(&n)) {
            dirty.add(key);
        }
    }));
    let grace = Duration::from_secs(context.config.node_grace_seconds.into());
    let lifecycle = Lifecycle { client, nodes, pods, heard, zones, queue: Arc::clone(&queue), recorder, clock, grace };
    context.run(lifecycle, queue, WORKERS);
}

impl Controller for Lifecycle {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(node) = self.nodes.get(key) else { return Plan::nothing() };
        let monotonic = self.clock.monotonic();
        let heard = *self.heard.0.lock().entry(key.name.clone()).or_insert(monotonic);
        let (evicts, turn) = self.turn(&node, monotonic);
        let pods = self.pods.indexed(POD_BY_NODE, &key.name);
        let silent = monotonic.saturating_duration_since(heard);
        let mut plan = plan(&Observed { node: &node, silent, grace: self.grace, evicts, pods: &pods }, now);
        if let Some(at) = turn {
            plan.again_at(now + SignedDuration::try_from(at - monotonic).unwrap_or_default());
        }
        plan
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let outcome = match action {
            Action::Status(node) => self.client.update_status(&*node).await,
            Action::Taints(node) => {
                // Not bound to a version: the status of the same plan moved it, and taints of these keys are ours alone.
                let current: Node = self.client.get("", &key.name).await?;
                let mut new = node;
                new.metadata.resource_version = current.metadata.resource_version.clone();
                let foreign = |t: &Taint| t.key != UNSCHEDULABLE && !BY_CONDITION.iter().any(|(_, _, k)| t.key == *k);
                let mut list: Vec<Taint> = new.spec.and_then(|s| s.taints).unwrap_or_default();
                list.retain(|t| !foreign(t));
                list.extend(current.spec.and_then(|s| s.taints).unwrap_or_default().into_iter().filter(foreign));
                let patch = json!({
                    "metadata": {"resourceVersion": new.metadata.resource_version, "uid": new.metadata.uid},
                    "spec": {"taints": list},
                });
                self.client.patch("", &key.name, Patch::Merge(&patch)).await
            }
            Action::PodNotReady(pod) => {
                return match self.client.update_status(&*pod).await {
                    Ok(pod) => Ok(vec![Box::pin(self.pods.reached(pod.revision()))]),
                    Err(error) if error.is_not_found() => Ok(vec![]),
                    Err(error) => Err(error),
                };
            }
            Action::Say(reason, text) => {
                if let Some(node) = self.nodes.get(key) {
                    self.recorder.normal(&*node, reason, text);
                }
                return Ok(vec![]);
            }
        };
        match outcome {
            Ok(node) => Ok(vec![Box::pin(self.nodes.reached(node.revision()))]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

impl Lifecycle {
    /// Whether the node's pods may be told to go should it be lost; or when its turn is, if it waits for one.
    fn turn(&self, node: &Node, now: Instant) -> (Evicts, Option<Instant>) {
        let (mut zones, member) = (self.zones.lock(), Member::of(node));
        if zones.all_lost() {
            return (Evicts::Nobody, None);
        }
        if lost(node).is_none() || is_told(node) {
            zones.done(&member).iter().for_each(|n| self.queue.add(Key::cluster(n)));
            return (Evicts::Yes, None);
        }
        match zones.turn(&member, now) {
            Turn::Now => (Evicts::Yes, None),
            Turn::At(at) => (Evicts::NoMore, Some(at)),
            Turn::Later => (Evicts::NoMore, None),
            Turn::Nobody => (Evicts::Nobody, None),
        }
    }
}

#[cfg(test)]
#[path = "node_lifecycle_tests.rs"]
mod tests;
