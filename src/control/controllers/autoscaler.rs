//! Horizontal pod autoscaler. Keeps the size of a target, of any kind that has a scale, where its metrics are at what the spec
//! asks for, within the spec's limits and no faster than its behaviour allows.
//!
//! ```text
//! every 15 s, and at once when a spec changes: observe (scale, metrics) ─► decide ─► scale · status · events
//! ```
//!
//! Nothing runs while there are no autoscalers. What is remembered of wishes and changes (`limit`) is lost with the process,
//! as upstream's is.
//!
//! Source: kubernetes `pkg/controller/podautoscaler/horizontal.go`.

use std::collections::HashMap;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Autoscaler, Cache, Client, Clock, Key, Object as _, Recorder, Result, Selector, WriteParams};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::Resource as _;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::Value;
use types::selector::LabelSelector;

use crate::Context;
use decide::{Around, Decision, Rescale, Status, Told, decide};
use limit::History;
use observe::{Observed, Scale};

mod calculate;
mod decide;
mod limit;
mod observe;
mod propose;
#[cfg(test)]
mod tests;

const NAME: &str = "horizontal-pod-autoscaler";
/// Source: `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: SignedDuration = SignedDuration::from_secs(15);
/// Source: `--concurrent-horizontal-pod-autoscaler-syncs`.
const WORKERS: usize = 5;
/// Writes of a scale that others change at the same time. Source: client-go `retry.DefaultRetry`.
const TRIES: u32 = 5;

#[derive(Debug, PartialEq)]
pub enum Action {
    /// Reads scale and metrics, and remembers them for the next plan.
    Observe,
    Tell(Vec<Told>),
    /// Scales the target and says in the status how that went.
    Rescale(Box<(Rescale, Status)>),
    Status(Status),
}

/// What is remembered of an autoscaler.
#[derive(Default)]
struct Memory {
    observed: Option<Observed>,
    history: History,
    /// What its target's pods are selected by.
    selector: Option<LabelSelector>,
}

struct Autoscalers {
    client: Client,
    autoscalers: Arc<Cache<Autoscaler>>,
    pods: Arc<Cache<Pod>>,
    recorder: Recorder,
    memory: Mutex<HashMap<Key, Memory>>,
    clock: Clock,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let (autoscalers, queue) = (context.informers.cache::<Autoscaler>(Selector::all()), context.queue());
    let dirty = Arc::clone(&queue);
    autoscalers.on_change(Box::new(move |old, new| {
        // A status is our own.
        if old.map(|a| &a.spec) != new.map(|a| &a.spec)
            && let Some(autoscaler) = new.or(old)
        {
            dirty.add(autoscaler.key());
        }
    }));
    let recorder = context.recorder(&client, NAME);
    let (pods, clock) = (context.pods(), context.config.clock);
    context.run(Autoscalers { client, autoscalers, pods, recorder, memory: Mutex::default(), clock }, queue, WORKERS);
}

/// What to do for a decision.
fn plan(autoscaler: &Autoscaler, decision: Decision, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    plan.again_at(now + PERIOD);
    if !decision.told.is_empty() {
        let why = decision.told.iter().map(|t| t.message.as_str()).collect::<Vec<_>>().join("; ");
        plan.push(Action::Tell(decision.told), why);
    }
    match decision.rescale {
        Some(rescale) => {
            let why = format!("from {} to {}: {}", rescale.from, rescale.to, rescale.reason);
            plan.push(Action::Rescale(Box::new((rescale, decision.status))), why);
        }
        None if !decision.status.is(&autoscaler.status) => {
            plan.push(Action::Status(decision.status), "it says something new")
        }
        None => {}
    }
    plan
}

impl Autoscalers {
    /// The pods that a selector selects, and the autoscalers that select one of them.
    fn around(&self, key: &Key, text: &str) -> (Vec<Arc<Pod>>, Vec<(String, String)>) {
        let selector = Some(text).filter(|t| !t.is_empty()).and_then(|t| LabelSelector::parse(t).ok());
        let mut memory = self.memory.lock();
        memory.entry(key.clone()).or_default().selector = selector.clone();
        let Some(selector) = selector else { return (Vec::new(), Vec::new()) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selector.matches(&pod.metadata.labels));
        let selects = |other: &Memory| {
            let selector = other.selector.as_ref();
            selector.is_some_and(|s| pods.iter().any(|pod| s.matches(&pod.metadata.labels)))
        };
        let others = memory.iter().filter(|(other, m)| other.namespace == key.namespace && selects(m));
        let mut selecting: Vec<_> = others.map(|(k, _)| (k.namespace.to_string(), k.name.to_string())).collect();
        selecting.sort_unstable();
        (pods, selecting)
    }

    /// Writes the scale; when somebody else wrote it meanwhile, onto that.
    async fn write_scale(&self, scale: &Scale, replicas: i32) -> Result<()> {
        let mut object = scale.object.clone();
        for attempt in 1.. {
            object["spec"]["replicas"] = replicas.into();
            match self.client.update_path::<Value>(&scale.path, &object, &WriteParams::default()).await {
                Err(error) if error.is_conflict() && attempt < TRIES => {
                    object = self.client.get_path(&scale.path).await?;
                }
                written => return written.map(drop),
            }
        }
        Ok(())
    }

    async fn write_status(&self, autoscaler: &Autoscaler, status: Status) -> Result<Vec<Seen>> {
        if status.is(&autoscaler.status) {
            return Ok(vec![]);
        }
        let mut new = autoscaler.clone();
        (new.api_version, new.kind) = (Autoscaler::API_VERSION.into(), Autoscaler::KIND.into());
        new.status = status.value;
        match self.client.update_status(&new).await {
            Ok(new) => Ok(vec![Box::pin(self.autoscalers.reached(new.revision()))]),
            Err(error) if error.is_not_found() => Ok(vec![]),
            // It comes again in its time, with a newer state.
            Err(error) => {
                self.recorder.warning(autoscaler, "FailedUpdateStatus", error.to_string());
                Ok(vec![])
            }
        }
    }
}

impl Controller for Autoscalers {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.memory.lock().remove(key);
            return Plan::nothing();
        };
        let Some(observed) = self.memory.lock().entry(key.clone()).or_default().observed.take() else {
            let mut plan = Plan::nothing();
            plan.push(Action::Observe, "it is time");
            plan.again_at(now);
            return plan;
        };
        let (pods, selecting) = self.around(key, observed.scale.as_ref().map_or("", |s| s.selector()));
        let around = Around { pods: &pods, selecting: &selecting, now };
        let mut memory = self.memory.lock();
        let history = &mut memory.entry(key.clone()).or_default().history;
        plan(&autoscaler, decide(&autoscaler, observed, &around, history), now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let Some(autoscaler) = self.autoscalers.get(key) else { return Ok(vec![]) };
        match action {
            Action::Observe => {
                let observed = observe::observe(&self.client, &autoscaler).await;
                self.memory.lock().entry(key.clone()).or_default().observed = Some(observed);
                Ok(vec![])
            }
            Action::Tell(told) => {
                told.into_iter().for_each(|t| self.recorder.warning(&*autoscaler, t.reason, t.message));
                Ok(vec![])
            }
            Action::Rescale(rescale) => {
                let (rescale, status) = *rescale;
                let (to, why) = (rescale.to, &rescale.reason);
                let status = match self.write_scale(&rescale.scale, to).await {
                    Ok(()) => {
                        let message = format!("New size: {to}; reason: {why}");
                        self.recorder.normal(&*autoscaler, "SuccessfulRescale", message);
                        let (behavior, now) = (&autoscaler.spec["behavior"], self.clock.now());
                        let mut memory = self.memory.lock();
                        memory.entry(key.clone()).or_default().history.scaled(behavior, rescale.from, to, now);
                        status.scaled(&rescale)
                    }
                    Err(error) => {
                        let message = format!("New size: {to}; reason: {why}; error: {error}");
                        self.recorder.warning(&*autoscaler, "FailedRescale", message);
                        status.not_scaled(&error.to_string())
                    }
                };
                self.write_status(&autoscaler, status).await
            }
            Action::Status(status) => self.write_status(&autoscaler, status).await,
        }
    }
}
