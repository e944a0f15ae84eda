//! Taint eviction controller. Deletes pods from nodes with NoExecute taints: at once when a taint is not tolerated, else when
//! the shortest tolerance has passed since the taint was added.
//!
//! Source: kubernetes `pkg/controller/tainteviction/taint_eviction.go`.

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Clock, DeleteParams, Key, Object, Patch, Recorder, Result, Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::json;

use crate::nodes::tolerates;
use crate::{Context, POD_BY_NODE, pods};

const NAME: &str = "taint-eviction-controller";
/// Pods evicted at once; upstream's `UpdateWorkerSize`.
const WORKERS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Evict(String),
}

pub fn plan(pod: &Pod, node: &Node, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    if pod.is_terminating() || pods::is_finished(pod) {
        return plan;
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten();
    let tolerations: Vec<&Toleration> = pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten()).collect();
    let mut deadline: Option<Timestamp> = None;
    for taint in taints.filter(|t| t.effect == "NoExecute") {
        let matching: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        let added = taint.time_added.as_ref().map_or(now, |t| t.0);
        // Of those that match the shortest counts; one without a limit says nothing about the others.
        let until = match matching.iter().filter_map(|t| t.toleration_seconds).min() {
            None if matching.is_empty() => added,
            None => continue,
            Some(seconds) => added + SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX))),
        };
        deadline = Some(deadline.map_or(until, |d| d.min(until)));
    }
    match deadline {
        Some(at) if at <= now => {
            plan.push(
                Action::Evict(pod.uid().into()),
                format!("{} does not tolerate a taint of {}", pod.name(), node.name()),
            );
        }
        Some(at) => plan.again_at(at),
        None => {}
    }
    plan
}

struct Eviction {
    client: Client,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    recorder: Recorder,
    clock: Clock,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, NAME);
    let (nodes, pods, queue) = (context.informers.cache::<Node>(Selector::all()), context.pods(), context.queue());
    fn no_execute(node: &Node) -> Vec<&Taint> {
        node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute").collect()
    }
    let (dirty, on_node) = (Arc::clone(&queue), Arc::clone(&pods));
    nodes.on_change(Box::new(move |old, new| {
        let Some(node) = new else { return };
        if old.map(|o| no_execute(o)).unwrap_or_default() != no_execute(node) {
            for pod in on_node.indexed(POD_BY_NODE, node.name()) {
                dirty.add(pod.key());
            }
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&nodes));
    pods.on_change(Box::new(move |_, new| {
        let Some(pod) = new else { return };
        let node = all.get(&Key::cluster(pods::node_name(pod)));
        if node.is_some_and(|n| !no_execute(&n).is_empty()) {
            dirty.add(pod.key());
        }
    }));
    let clock = context.config.clock;
    context.run(Eviction { client, nodes, pods, recorder, clock }, queue, WORKERS);
}

impl Controller for Eviction {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(pod) = self.pods.get(key) else { return Plan::nothing() };
        let Some(node) = self.nodes.get(&Key::cluster(pods::node_name(&pod))) else { return Plan::nothing() };
        plan(&pod, &node, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let Action::Evict(uid) = action;
        let Some(pod) = self.pods.get(key).filter(|p| p.uid() == uid) else { return Ok(vec![]) };
        self.recorder.normal(&*pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        evict(
            &self.client,
            &self.pods,
            &pod,
            Some(("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")),
            None,
            self.clock.now(),
        )
        .await
    }
}

/// Says in the pod's status why (reason and message) it is disrupted, then deletes it: with the grace of `failed`, whose node
/// will not end it and whose end is told therefore, or with its own.
pub async fn evict(
    client: &Client,
    cache: &Arc<Cache<Pod>>,
    pod: &Pod,
    why: Option<(&str, &str)>,
    failed: Option<i64>,
    now: Timestamp,
) -> Result<Vec<Seen>> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let fails = failed.is_some() && !pods::is_finished(pod);
    let announced = pods::condition(pod, "DisruptionTarget").is_some_and(|c| c.status == "True");
    let announces = why.filter(|_| !announced && !pods::is_finished(pod));
    if fails || announces.is_some() {
        let mut patch = json!({
            "metadata": {"uid": pod.uid(), "resourceVersion": pod.metadata.resource_version},
            "status": {},
        });
        if let Some((reason, message)) = announces {
            let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            conditions.retain(|c| c.type_ != "DisruptionTarget");
            let mut conditions = json!(conditions);
            if let Some(list) = conditions.as_array_mut() {
                let observed = pod.metadata.generation;
                list.push(json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
                    "lastTransitionTime": types::time::rfc3339(now), "observedGeneration": observed}));
            }
            patch["status"]["conditions"] = conditions;
        }
        if fails {
            patch["status"]["phase"] = "Failed".into();
        }
        match client.patch_status::<Pod>(namespace, name, Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(vec![]),
            Err(error) => return Err(error),
        }
    }
    let params = DeleteParams { grace_period_seconds: failed, ..DeleteParams::uid(pod.uid()) };
    match client.delete::<Pod>(namespace, name, &params).await {
        Ok(_) => Ok(vec![Box::pin(cache.going(&pod.key(), pod.uid()))]),
        Err(error) if error.is_not_found() => Ok(vec![]),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDED: &str = "2026-01-01T00:00:00Z";

    fn pod(tolerations: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "tolerations": tolerations}}),
        )
        .unwrap()
    }

    #[test]
    fn when_pods_go() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": ADDED},
            {"key": "other", "effect": "NoSchedule"}]}}))
        .unwrap();
        let added: Timestamp = ADDED.parse().unwrap();
        let seconds = |s: i64| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": s}]);
        let evict = vec![Action::Evict("u".into())];
        for (name, tolerations, after, actions, again) in [
            ("tolerates for ever", json!([{"operator": "Exists"}]), 1000, vec![], None),
            ("not at all", json!([]), 0, evict.clone(), None),
            ("for a while", seconds(10), 3, vec![], Some(10)),
            ("no longer", seconds(10), 10, evict.clone(), None),
            ("another taint", json!([{"key": "x", "operator": "Exists"}]), 0, evict, None),
        ] {
            let plan = plan(&pod(tolerations), &node, added + SignedDuration::from_secs(after));
            assert_eq!(plan.actions, actions, "{name}");
            assert_eq!(plan.again, again.map(|s| added + SignedDuration::from_secs(s)), "{name}");
        }
        let healthy = Node::default();
        assert_eq!(plan(&pod(json!([])), &healthy, added), Plan::nothing());
    }
}
