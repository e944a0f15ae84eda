//! Node lifecycle controller. Notices that a node went silent, says so in its conditions, and taints nodes by what their
//! conditions say. Pods leave by `taint_eviction`.
//!
//! Silence is measured on the monotonic clock from when a heartbeat was last *seen* to change, never by comparing a node's
//! wall clock with ours. When no node at all is ready, nothing is tainted for eviction: then it is more likely that this
//! server is cut off than that every node died, and there is nowhere to go.
//!
//! Source: kubernetes `pkg/controller/nodelifecycle/node_lifecycle_controller.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

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
    /// Some node of the cluster is ready.
    pub any_ready: bool,
    /// Pods on the node.
    pub pods: &'a [Arc<Pod>],
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

    let wanted = taints(&node, observed.any_ready, now);
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

fn taints(node: &Node, any_ready: bool, now: Timestamp) -> Vec<Taint> {
    let taint = |key: &str, effect: &str| Taint {
        key: key.into(),
        effect: effect.into(),
        value: None,
        time_added: Some(Time(pods::whole_second(now))),
    };
    let mut wanted = Vec::new();
    for (name, status, key) in BY_CONDITION {
        if condition(node, name).is_some_and(|c| c.status == status) {
            wanted.push(taint(key, "NoSchedule"));
            if name == "Ready" && any_ready {
                wanted.push(taint(key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// When a node was last heard of.
#[derive(Default)]
struct Heard(Mutex<HashMap<Box<str>, Instant>>);

struct Lifecycle {
    client: Client,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    heard: Arc<Heard>,
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
    let (dirty, all, ear) = (Arc::clone(&queue), Arc::clone(&nodes), Arc::clone(&heard));
    nodes.on_change(Box::new(move |old, new| {
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
        // Whether others may be tainted for eviction depends on whether any is ready.
        if old.is_some_and(|o| is_ready(o)) != is_ready(node) {
            for other in all.all() {
                dirty.add(other.key());
            }
        }
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
    context.run(Lifecycle { client, nodes, pods, heard, recorder, clock, grace }, queue, WORKERS);
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
        let any_ready = self.nodes.all().iter().any(|n| is_ready(n));
        let pods = self.pods.indexed(POD_BY_NODE, &key.name);
        let silent = monotonic.saturating_duration_since(heard);
        plan(&Observed { node: &node, silent, grace: self.grace, any_ready, pods: &pods }, now)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        let taints: Vec<_> = taints.iter().map(|(k, e)| json!({"key": k, "effect": e})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"taints": taints},
            "status": {"conditions": [
                {"type": "MemoryPressure", "status": "False"}, {"type": "DiskPressure", "status": "False"},
                {"type": "PIDPressure", "status": "False"}, {"type": "Ready", "status": ready}]}}))
        .unwrap()
    }
    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }
    fn check(node: &Node, silent: u64, any_ready: bool) -> Plan<Action> {
        let (silent, grace) = (Duration::from_secs(silent), Duration::from_secs(10));
        plan(&Observed { node, silent, grace, any_ready, pods: &[] }, now())
    }
    fn keys(node: &Node) -> Vec<(String, String)> {
        node.spec.iter().flat_map(|s| s.taints.iter().flatten()).map(|t| (t.key.clone(), t.effect.clone())).collect()
    }

    #[test]
    fn a_node_that_is_heard_is_left_alone_until_its_deadline() {
        let plan = check(&node("True", &[("mine", "NoSchedule")]), 3, true);
        assert!(plan.actions.is_empty());
        assert_eq!(plan.again, Some(now() + SignedDuration::from_secs(7)));
    }

    #[test]
    fn a_silent_node_is_unknown_and_tainted_and_then_nothing_is_left() {
        let plan = check(&node("True", &[("mine", "NoSchedule")]), 10, true);
        let [Action::Status(status), Action::Say("NodeNotReady", text), Action::Taints(tainted)] = &plan.actions[..]
        else {
            panic!("{plan:?}")
        };
        assert_eq!(text, "Node n1 status is now: NodeNotReady");
        assert!(VOUCHED.iter().all(|c| condition(status, c).unwrap().status == "Unknown"));
        let unreachable = |effect: &str| (UNREACHABLE.to_owned(), effect.to_owned());
        let mine = ("mine".to_owned(), "NoSchedule".to_owned());
        assert_eq!(keys(tainted), [mine, unreachable("NoSchedule"), unreachable("NoExecute")]);
        let mut after = (**tainted).clone();
        after.status = status.status.clone();
        let plan = check(&after, 60, true);
        assert!(plan.actions.is_empty() && plan.again.is_none(), "{plan:?}");
        // It comes back.
        let mut back = after;
        back.status = node("True", &[]).status;
        let plan = check(&back, 0, true);
        let [Action::Taints(clean)] = &plan.actions[..] else { panic!("{plan:?}") };
        assert_eq!(keys(clean).len(), 1);
    }

    #[test]
    fn nobody_is_evicted_when_no_node_is_ready() {
        let plan = check(&node("Unknown", &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]), 0, false);
        let [Action::Taints(tainted)] = &plan.actions[..] else { panic!("{plan:?}") };
        assert_eq!(keys(tainted), [(UNREACHABLE.to_owned(), "NoSchedule".to_owned())]);
    }
}
