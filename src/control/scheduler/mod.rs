//! The scheduler: gives pods without a node the node that suits them best.
//!
//! ```text
//! Cache<Pod>, Cache<Node> ── changes ──► Snapshot + Queue ── next ──► place (pure) ──► bind │ event and condition
//!                                             ▲                                             │
//!                                             └──────────── assumed, until the API shows it ┘
//! ```
//!
//! Pods are placed one after the other on a snapshot that already counts the bindings under way; the requests themselves run
//! beside. At idle it waits for a change or the deadline of a back-off; nothing ticks.
//!
//! What never lives here: a placement decision outside `place`, a write other than binding, condition and event.
//! Source: `pkg/scheduler/schedule_one.go`.

mod filter;
mod needs;
mod place;
mod queue;
mod score;
mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;

use client::{Cache, Client, Clock, Error, Informers, Key, Object as _, Patch, Recorder, Selector, WriteParams};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use needs::Needs;
use place::{Placement, place};
use queue::Queue;
use snapshot::Snapshot;

/// The `schedulerName` that this scheduler serves.
pub const NAME: &str = "default-scheduler";
/// Requests under way at a time: enough to hide the latency of a slow disk, few enough to keep memory flat.
const REQUESTS_MAX: usize = 32;

struct State {
    snapshot: Snapshot,
    queue: Queue,
}

struct Scheduler {
    pods: Arc<Cache<Pod>>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

/// What to do for a pod that was looked at.
enum Act {
    Bind { pod: Arc<Pod>, node: String },
    Report { pod: Arc<Pod>, reason: &'static str, message: String, event: bool },
}

/// Runs until stopped; requests under way are finished first.
pub async fn run(client: Client, informers: Informers, recorder: Recorder, clock: Clock, stop: CancellationToken) {
    let pods = informers.cache::<Pod>(Selector::all());
    let nodes = informers.cache::<Node>(Selector::all());
    let scheduler = Arc::new(Scheduler {
        pods: Arc::clone(&pods),
        client,
        recorder,
        clock,
        state: Mutex::new(State { snapshot: Snapshot::default(), queue: Queue::default() }),
        changed: Notify::new(),
    });
    scheduler.follow(&pods, &nodes);
    pods.synced().await;
    nodes.synced().await;
    scheduler.work(stop).await;
}

impl Scheduler {
    fn follow(self: &Arc<Self>, pods: &Cache<Pod>, nodes: &Cache<Node>) {
        let weak = Arc::downgrade(self);
        nodes.on_change(Box::new(move |old, new| {
            let (Some(scheduler), Some(node)) = (weak.upgrade(), new.or(old)) else { return };
            scheduler.node_changed(node.name(), old.map(|n| &**n), new.map(|n| &**n));
        }));
        let weak = Arc::downgrade(self);
        pods.on_change(Box::new(move |old, new| {
            let (Some(scheduler), Some(pod)) = (weak.upgrade(), new.or(old)) else { return };
            scheduler.pod_changed(&pod.key(), old.map(|p| &**p), new.map(|p| &**p));
        }));
    }

    fn node_changed(&self, name: &str, old: Option<&Node>, new: Option<&Node>) {
        let mut state = self.state.lock();
        state.snapshot.set_node(name, new);
        // A heartbeat or an image list makes no pod placeable.
        let matters = match (old, new) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(old), Some(new)) => {
                let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
                old.spec != new.spec
                    || old.metadata.labels != new.metadata.labels
                    || allocatable(old) != allocatable(new)
            }
        };
        if matters {
            state.queue.changed(self.clock.monotonic());
            self.changed.notify_one();
        }
    }

    fn pod_changed(&self, key: &Key, old: Option<&Pod>, new: Option<&Pod>) {
        let mut state = self.state.lock();
        if state.snapshot.set_pod(key, new) {
            state.queue.changed(self.clock.monotonic());
            self.changed.notify_one();
        }
        match new.filter(|p| waits(p)) {
            None => state.queue.remove(key),
            Some(_) if state.snapshot.is_assumed(key) => {}
            Some(pod) => {
                let changed = old.is_some_and(|o| o.spec != pod.spec || o.metadata.labels != pod.metadata.labels);
                let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
                let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
                state.queue.add(key.clone(), priority, created, changed);
                self.changed.notify_one();
            }
        }
    }

    async fn work(self: &Arc<Self>, stop: CancellationToken) {
        let mut requests: JoinSet<()> = JoinSet::new();
        while !stop.is_cancelled() {
            if requests.len() < REQUESTS_MAX
                && let Some(act) = self.next()
            {
                let scheduler = Arc::clone(self);
                requests.spawn(async move { scheduler.act(act).await });
                continue;
            }
            let deadline = if requests.len() < REQUESTS_MAX { self.state.lock().queue.deadline() } else { None };
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                () = timer => {}
                Some(_) = requests.join_next(), if !requests.is_empty() => {}
            }
        }
        while requests.join_next().await.is_some() {}
    }

    /// Places the next pod, or says why not. Skips pods that no longer want a node.
    fn next(&self) -> Option<Act> {
        let mut state = self.state.lock();
        let now = self.clock.monotonic();
        loop {
            let key = state.queue.next(now)?;
            let Some(pod) = self.pods.get(&key).filter(|p| waits(p)) else {
                state.queue.remove(&key);
                continue;
            };
            if gated(&pod) {
                state.queue.failed(&key, now, false);
                let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
                return Some(Act::Report { pod, reason: "SchedulingGated", message, event: false });
            }
            let needs = Needs::of(&pod);
            return Some(match place(&needs, &state.snapshot) {
                Placement::On(node) => {
                    state.snapshot.assume(key, &node, Arc::new(needs));
                    Act::Bind { pod, node }
                }
                Placement::Nowhere(message) => {
                    state.queue.failed(&key, now, false);
                    Act::Report { pod, reason: "Unschedulable", message, event: true }
                }
            });
        }
    }

    async fn act(&self, act: Act) {
        match act {
            Act::Bind { pod, node } => {
                let key = pod.key();
                match self.bind(&pod, &node).await {
                    Ok(()) => {
                        self.state.lock().queue.remove(&key);
                        let message = format!("Successfully assigned {key} to {node}");
                        tracing::info!(pod = %key, %node, "scheduled");
                        self.recorder.normal(&*pod, "Scheduled", message);
                    }
                    Err(error) => {
                        let mut state = self.state.lock();
                        state.snapshot.forget(&key);
                        if error.is_not_found() {
                            state.queue.remove(&key);
                        } else {
                            tracing::warn!(pod = %key, %node, %error, "binding failed");
                            state.queue.failed(&key, self.clock.monotonic(), true);
                            self.changed.notify_one();
                        }
                    }
                }
            }
            Act::Report { pod, reason, message, event } => {
                if event {
                    self.recorder.warning(&*pod, "FailedScheduling", message.clone());
                }
                if let Some(patch) = condition_patch(&pod, reason, &message, self.clock.now())
                    && let Err(error) =
                        self.client.patch_status::<Pod>(pod.namespace(), pod.name(), Patch::Strategic(&patch)).await
                    && !error.is_not_found()
                {
                    tracing::warn!(pod = %pod.key(), %error, "the condition could not be written");
                }
            }
        }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let path = format!("/api/v1/namespaces/{}/pods/{}/binding", pod.namespace(), pod.name());
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.client.create_path::<Value>(&path, &binding, &WriteParams::default()).await.map(drop)
    }
}

/// Whether a pod wants a node from this scheduler.
fn waits(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let finished = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    spec.node_name.as_deref().is_none_or(str::is_empty)
        && spec.scheduler_name.as_deref().is_none_or(|n| n == NAME)
        && !pod.is_terminating()
        && !finished
}

fn gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
}

/// The patch that says why the pod has no node; `None` when the pod says so already.
fn condition_patch(pod: &Pod, reason: &str, message: &str, now: jiff::Timestamp) -> Option<Value> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let known = conditions.iter().find(|c| c.type_ == "PodScheduled");
    if let Some(known) = known
        && known.status == "False"
        && known.reason.as_deref() == Some(reason)
        && known.message.as_deref() == Some(message)
    {
        return None;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.as_ref());
    let since = since.map_or(now, |t| t.0);
    let condition = HashMap::from([
        ("type", "PodScheduled".to_owned()),
        ("status", "False".to_owned()),
        ("reason", reason.to_owned()),
        ("message", message.to_owned()),
        ("lastTransitionTime", types::time::rfc3339(since)),
    ]);
    Some(json!({"status": {"conditions": [condition]}}))
}

#[cfg(test)]
mod tests;
