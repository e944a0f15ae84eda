//! What was decided for a pod, and its execution: bindings, conditions, events, evictions. No decisions.
//!
//! Source: `pkg/scheduler/schedule_one.go` (handleSchedulingFailure, updatePod), `pkg/scheduler/framework/preemption/executor.go`.

use std::sync::Arc;

use client::{Clock, DeleteParams, Error, Object as _, Patch, Result, WriteParams};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::devices::{Binding, InTheWay};
use super::needs::Resident;
use super::volumes::Choice;
use super::{NAME, Scheduler, preempt};
use crate::pods;

/// Longest text of an event. Source: `pkg/apis/core/validation/events.go` (NoteLengthLimit).
const NOTE_MAX: usize = 1024;

pub enum Act {
    Bind {
        pod: Arc<Pod>,
        node: String,
        /// What its claims get there first.
        choice: Choice,
        /// And its claims of devices.
        bindings: Vec<Binding>,
    },
    /// Nobody can tell whether a node fits.
    Fail { pod: Arc<Pod>, message: String },
    /// No node fits. `node`: the one that it hopes for; `Some` of none: it gives that up.
    /// `give_back`: a claim whose devices are in its way.
    Report { pod: Arc<Pod>, message: String, node: Option<String>, room: Option<Room>, give_back: Option<InTheWay> },
}

impl Act {
    /// Whether it may take long and asks the API for nothing meanwhile.
    pub fn waits(&self) -> bool {
        matches!(self, Act::Bind { choice, bindings, .. } if !choice.is_empty() || bindings.iter().any(Binding::waits))
    }
}

/// Room that is to be made on the node of the report.
pub struct Room {
    pub victims: Vec<Arc<Resident>>,
    pub outranked: Vec<Arc<Resident>>,
}

impl Scheduler {
    pub(super) async fn act(&self, act: Act) {
        match act {
            Act::Bind { pod, node, choice, bindings } => self.bind(&pod, &node, &choice, &bindings).await,
            Act::Fail { pod, message } => self.fail(&pod, &message).await,
            Act::Report { pod, message, node, room, give_back } => {
                match &give_back {
                    None => {}
                    Some(InTheWay::Allocated(claim)) => self.devices.give_back(&self.client, claim).await,
                    Some(InTheWay::Stale(claim)) => {
                        self.devices.delete(&self.client, claim.namespace(), claim.name()).await;
                        // Nobody tells of claims that go.
                        self.room_came();
                    }
                }
                let report = self.report(&pod, &message, node.as_deref());
                match &room {
                    None => report.await,
                    Some(room) => {
                        let node = node.as_deref().unwrap_or_default();
                        let ((), made) = tokio::join!(report, self.make_room(&pod, node, room));
                        if let Err(error) = &made {
                            tracing::warn!(pod = %pod.key(), node, %error, "the room for it could not be made");
                        }
                        self.state.lock().queue.room_made(&pod.key(), made.is_err(), self.clock.monotonic());
                        self.changed.notify_one();
                    }
                }
            }
        }
    }

    async fn bind(&self, pod: &Pod, node: &str, choice: &Choice, bindings: &[Binding]) {
        if let Err(why) = self.prepare(pod, node, choice, bindings).await {
            tracing::warn!(pod = %pod.key(), %node, why, "its claims are not bound");
            self.fail(pod, &why).await;
            self.devices.give_up(&self.client, pod, bindings).await;
            return self.unbound(pod, false);
        }
        let (key, path) = (pod.key(), format!("/api/v1/namespaces/{}/pods/{}/binding", pod.namespace(), pod.name()));
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match self.client.create_path::<Value>(&path, &binding, &WriteParams::default()).await {
            Ok(_) => {
                self.state.lock().queue.done(&key);
                tracing::info!(pod = %key, %node, "scheduled");
                self.recorder.normal(pod, "Scheduled", format!("Successfully assigned {key} to {node}"));
            }
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(pod = %key, %node, %error, "binding failed");
                    self.report_failure(pod, &error).await;
                }
                self.devices.give_up(&self.client, pod, bindings).await;
                self.unbound(pod, error.is_not_found());
            }
        }
    }

    /// Has the pod's claims written before the pod is bound.
    async fn prepare(&self, pod: &Pod, node: &str, choice: &Choice, bindings: &[Binding]) -> Result<(), String> {
        if !choice.is_empty() {
            self.storage.bind(&self.client, choice, node).await?;
        }
        if bindings.is_empty() {
            return Ok(());
        }
        self.devices.bind(&self.client, pod, bindings, self.clock.now()).await?;
        if bindings.iter().any(Binding::waits) {
            let message = format!("waiting for binding conditions for device on node {node}");
            self.recorder.normal(pod, "BindingConditionsPending", message);
            self.devices.ready(bindings).await?;
        }
        Ok(())
    }

    async fn fail(&self, pod: &Pod, message: &str) {
        self.recorder.warning(pod, "FailedScheduling", shortened(message.to_owned()));
        self.write(pod, condition_patch(pod, "SchedulerError", message, None, self.clock.now())).await;
    }

    async fn report_failure(&self, pod: &Pod, error: &Error) {
        // A conflict is the pod's own doing: it is gone, going, or somebody else has bound it.
        if !error.is_conflict() {
            self.fail(pod, &format!("binding rejected: {error}")).await;
        }
    }

    async fn report(&self, pod: &Pod, message: &str, node: Option<&str>) {
        self.recorder.warning(pod, "FailedScheduling", shortened(message.to_owned()));
        self.write(pod, condition_patch(pod, "Unschedulable", message, node, self.clock.now())).await;
    }

    async fn write(&self, pod: &Pod, patch: Option<Value>) {
        if let Some(patch) = patch
            && let Err(error) = self.patch(pod, &patch).await
        {
            tracing::warn!(pod = %pod.key(), %error, "the condition could not be written");
        }
    }

    async fn patch(&self, pod: &Pod, patch: &Value) -> Result<()> {
        let patched = self.client.patch_status::<Pod>(pod.namespace(), pod.name(), Patch::Strategic(patch)).await;
        gone_is_well(patched.map(drop))
    }

    async fn make_room(&self, pod: &Pod, node: &str, room: &Room) -> Result<()> {
        for outranked in &room.outranked {
            self.patch(&outranked.pod, &json!({"status": {"nominatedNodeName": null}})).await?;
        }
        for victim in room.victims.iter().map(|r| &r.pod).filter(|p| !p.is_terminating()) {
            self.patch(victim, &disruption_patch(victim, pod, self.clock)).await?;
            let params = DeleteParams::uid(victim.uid());
            gone_is_well(self.client.delete::<Pod>(victim.namespace(), victim.name(), &params).await.map(drop))?;
            tracing::info!(pod = %pod.key(), victim = %victim.key(), node, "preempted");
            let message = format!("Preempted by pod {} on node {node}", pod.uid());
            self.recorder.normal(&**victim, "Preempted", message);
        }
        Ok(())
    }
}

fn gone_is_well(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn shortened(mut message: String) -> String {
    const DOTS: &str = " ...";
    if message.len() > NOTE_MAX {
        let end = (0..=NOTE_MAX - DOTS.len()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push_str(DOTS);
    }
    message
}

/// The patch that says why the pod has no node, and which it hopes for; `None` when the pod says so already.
pub fn condition_patch(pod: &Pod, reason: &str, message: &str, node: Option<&str>, now: Timestamp) -> Option<Value> {
    let mut status = Map::new();
    let known = pods::condition(pod, "PodScheduled").filter(|c| c.status == "False");
    let says = |c: &&_| -> bool {
        let c: &k8s_openapi::api::core::v1::PodCondition = c;
        c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    };
    if known.filter(says).is_none() {
        let since = known.and_then(|c| c.last_transition_time.as_ref()).map_or(now, |t| t.0);
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": types::time::rfc3339(since), "observedGeneration": pod.metadata.generation,
        });
        status.insert("conditions".into(), json!([condition]));
    }
    let hoped = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or_default();
    if let Some(node) = node.filter(|n| *n != hoped) {
        status.insert("nominatedNodeName".into(), if node.is_empty() { Value::Null } else { node.into() });
    }
    (!status.is_empty()).then(|| json!({"status": status}))
}

fn disruption_patch(victim: &Pod, preemptor: &Pod, clock: Clock) -> Value {
    let scheduler = preemptor.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(NAME);
    let known = pods::condition(victim, "DisruptionTarget").filter(|c| c.status == "True");
    let since = known.and_then(|c| c.last_transition_time.as_ref()).map_or_else(|| clock.now(), |t| t.0);
    json!({"status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": preempt::REASON,
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": types::time::rfc3339(since), "observedGeneration": victim.metadata.generation,
    }]}})
}
