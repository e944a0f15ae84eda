//! Takes back the announcement of a disruption that did not come: a pod that says it is about to be disrupted, and is not
//! deleted within two minutes, says so no longer.
//!
//! Source: kubernetes `pkg/controller/disruption/disruption.go` (`syncStalePodDisruption`).

use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Key, Object, Patch, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{Context, pods};

/// Acts as the controller of which it is a part.
const NAME: &str = "disruption-controller";
/// Upstream's `stalePodDisruptionTimeout`.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const WORKERS: usize = 1;

/// Since when the pod waits for its disruption. The node's own announcements hold until the pod ends, however long it takes.
fn announced(pod: &Pod) -> Option<Timestamp> {
    let condition = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True")?;
    if pod.is_terminating() || pods::is_finished(pod) || condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

/// The patch of the status that takes it back.
pub fn plan(pod: &Pod, now: Timestamp) -> Plan<Value> {
    let mut plan = Plan::nothing();
    let Some(since) = announced(pod) else { return plan };
    if since + TIMEOUT > now {
        plan.again_at(since + TIMEOUT);
        return plan;
    }
    let mut condition = json!({"type": "DisruptionTarget", "status": "False",
        "lastTransitionTime": types::time::rfc3339(now)});
    if pods::condition(pod, "DisruptionTarget").is_some_and(|c| c.observed_generation.is_some()) {
        condition["observedGeneration"] = json!(pod.metadata.generation);
    }
    // The fields that are not named would be kept.
    condition["reason"] = Value::Null;
    condition["message"] = Value::Null;
    let patch = json!({
        "metadata": {"uid": pod.uid(), "resourceVersion": pod.metadata.resource_version},
        "status": {"conditions": [condition]},
    });
    plan.push(patch, format!("{} was not disrupted", pod.name()));
    plan
}

struct Announcements {
    client: Client,
    pods: Arc<Cache<Pod>>,
}

pub fn start(context: &Context) {
    let (client, pods, queue) = (context.client(NAME), context.pods(), context.queue());
    let dirty = Arc::clone(&queue);
    pods.on_change(Box::new(move |_, new| {
        if let Some(pod) = new.filter(|p| announced(p).is_some()) {
            dirty.add(pod.key());
        }
    }));
    context.run(Announcements { client, pods }, queue, WORKERS);
}

impl Controller for Announcements {
    type Action = Value;

    fn name(&self) -> &'static str {
        "stale-pod-disruption"
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Value> {
        self.pods.get(key).map(|pod| plan(&pod, now)).unwrap_or_default()
    }

    async fn apply(&self, key: &Key, patch: Value) -> Result<Vec<Seen>> {
        match self.client.patch_status::<Pod>(&key.namespace, &key.name, Patch::Strategic(&patch)).await {
            Ok(pod) => Ok(vec![Box::pin(self.pods.reached(pod.revision()))]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
            "status": {"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True",
                "reason": "EvictionByEvictionAPI", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn when_it_is_taken_back() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |seconds| start + SignedDuration::from_secs(seconds);
        type Change = fn(&mut Value);
        let rows: &[(&str, Change, i64, Option<i64>, usize)] = &[
            ("nothing was announced", |p| p["status"]["conditions"] = json!([]), 500, None, 0),
            ("just now", |_| (), 30, Some(120), 0),
            ("too long ago", |_| (), 120, None, 1),
            (
                "it is being deleted",
                |p| p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:10Z".into(),
                500,
                None,
                0,
            ),
            ("it has ended", |p| p["status"]["phase"] = "Failed".into(), 500, None, 0),
            (
                "the node announced it",
                |p| p["status"]["conditions"][0]["reason"] = "TerminationByKubelet".into(),
                500,
                None,
                0,
            ),
            ("taken back", |p| p["status"]["conditions"][0]["status"] = "False".into(), 500, None, 0),
        ];
        for (name, change, now, again, patches) in rows {
            let plan = plan(&pod(change), at(*now));
            assert_eq!((plan.again, plan.actions.len()), (again.map(at), *patches), "{name}");
        }
    }
}
