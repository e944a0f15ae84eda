//! Pod garbage collector. Deletes pods that nobody will ever finish deleting: those of nodes that are gone, those that were
//! deleted before they had a node, and the oldest finished ones when there are too many.
//!
//! Source: kubernetes `pkg/controller/podgc/gc_controller.go`.

use std::collections::HashMap;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Clock, Key, Object, Result, Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;

use super::taint_eviction::evict;
use crate::{Context, POD_BY_NODE, pods};

const NAME: &str = "pod-garbage-collector";
/// How long a node must be unknown before its pods count as lost; upstream's quarantine.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
const WORKERS: usize = 2;
/// The key under which finished pods are counted: no node can have this name.
const FINISHED: &str = "";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Its node is gone: mark it failed, then remove it.
    Lost {
        pod: Key,
        uid: String,
    },
    Remove {
        pod: Key,
        uid: String,
    },
}

/// Pods of a node that does not exist since `missing`.
pub fn plan_node(pods: &[Arc<Pod>], missing: Timestamp, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if pods.is_empty() {
        return plan;
    }
    if missing + QUARANTINE > now {
        plan.again_at(missing + QUARANTINE);
        return plan;
    }
    for pod in pods {
        plan.push(
            Action::Lost { pod: pod.key(), uid: pod.uid().into() },
            format!("the node of {} is gone", pod.name()),
        );
    }
    plan
}

/// The oldest finished pods beyond the limit, and pods deleted before they were scheduled.
pub fn plan_finished(all: &[Arc<Pod>], max: usize) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let mut finished: Vec<&Arc<Pod>> = all.iter().filter(|p| pods::is_finished(p) && !p.is_terminating()).collect();
    let excess = finished.len().saturating_sub(max);
    finished.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.key()));
    for pod in finished.into_iter().take(excess) {
        plan.push(Action::Remove { pod: pod.key(), uid: pod.uid().into() }, "more finished pods than are kept");
    }
    for pod in all.iter().filter(|p| p.is_terminating() && pods::node_name(p).is_empty()) {
        plan.push(Action::Remove { pod: pod.key(), uid: pod.uid().into() }, "deleted before it had a node");
    }
    plan
}

struct Collector {
    client: Client,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    /// Since when nodes that have pods are unknown.
    missing: Mutex<HashMap<Box<str>, Timestamp>>,
    max: usize,
    clock: Clock,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let (nodes, pods, queue) = (context.informers.cache::<Node>(Selector::all()), context.pods(), context.queue());
    let dirty = Arc::clone(&queue);
    nodes.on_change(Box::new(move |old, new| {
        if (old.is_none() || new.is_none())
            && let Some(node) = new.or(old)
        {
            dirty.add(node.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&nodes));
    pods.on_change(Box::new(move |old, new| {
        let Some(pod) = new else { return };
        let node = Key::cluster(pods::node_name(pod));
        if node.name.is_empty() {
            if pod.is_terminating() {
                dirty.add(Key::cluster(FINISHED));
            }
        } else if all.get(&node).is_none() {
            dirty.add(node);
        }
        if pods::is_finished(pod) && !old.is_some_and(|o| pods::is_finished(o)) {
            dirty.add(Key::cluster(FINISHED));
        }
    }));
    let max = context.config.finished_pods_max;
    context.run(
        Collector { client, nodes, pods, missing: Mutex::default(), max, clock: context.config.clock },
        queue,
        WORKERS,
    );
}

impl Controller for Collector {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        if &*key.name == FINISHED {
            return plan_finished(&self.pods.all(), self.max);
        }
        let pods = self.pods.indexed(POD_BY_NODE, &key.name);
        let mut missing = self.missing.lock();
        if self.nodes.get(key).is_some() || pods.is_empty() {
            missing.remove(&key.name);
            return Plan::nothing();
        }
        let since = *missing.entry(key.name.clone()).or_insert(now);
        plan_node(&pods, since, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Lost { pod, uid } => {
                // The cache may be behind a node that was registered just now.
                match self.client.get::<Node>("", &key.name).await {
                    Ok(_) => return Ok(vec![]),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
                let Some(pod) = self.pods.get(&pod).filter(|p| p.uid() == uid) else { return Ok(vec![]) };
                evict(
                    &self.client,
                    &self.pods,
                    &pod,
                    Some(("DeletionByPodGC", "PodGC: node no longer exists")),
                    Some(0),
                    self.clock.now(),
                )
                .await
            }
            Action::Remove { pod, uid } => {
                // Who counts pods by their ends sees one even where no node told of it.
                let Some(pod) = self.pods.get(&pod).filter(|p| p.uid() == uid) else { return Ok(vec![]) };
                evict(&self.client, &self.pods, &pod, None, Some(0), self.clock.now()).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, phase: &str, created: i64) -> Arc<Pod> {
        let created = types::time::rfc3339(Timestamp::from_second(created).unwrap());
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created}, "status": {"phase": phase}})).unwrap())
    }
    fn removed(plan: Plan<Action>) -> Vec<String> {
        plan.actions
            .into_iter()
            .map(|a| match a {
                Action::Lost { uid, .. } | Action::Remove { uid, .. } => uid,
            })
            .collect()
    }

    #[test]
    fn the_oldest_finished_go() {
        let pods = [
            pod("new", "Failed", 30),
            pod("old", "Succeeded", 10),
            pod("runs", "Running", 1),
            pod("mid", "Failed", 20),
        ];
        assert!(removed(plan_finished(&pods, 3)).is_empty());
        assert_eq!(removed(plan_finished(&pods, 1)), ["old", "mid"]);
    }

    #[test]
    fn a_lost_nodes_pods_go_after_the_quarantine() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let pods = [pod("a", "Running", 1)];
        assert_eq!(plan_node(&pods, at(100), at(120)).again, Some(at(140)));
        assert_eq!(removed(plan_node(&pods, at(100), at(140))), ["a"]);
        assert_eq!(plan_node(&[], at(100), at(120)), Plan::nothing());
    }
}
