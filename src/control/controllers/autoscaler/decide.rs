//! What an autoscaler does about what was observed, and what it says of it. Pure.
//!
//! Source: kubernetes `pkg/controller/podautoscaler/horizontal.go`.

use std::sync::Arc;

use client::{Autoscaler, Object as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use types::selector::LabelSelector;
use types::time::rfc3339;

use super::calculate::{Scene, Tolerances};
use super::limit::{History, Wish};
use super::observe::{Measured, Observed, Scale, int, min_replicas};
use super::propose::{Failed, propose};

/// What is about the autoscaler besides what was observed of its target.
pub struct Around<'a> {
    /// Those that the target's selector selects.
    pub pods: &'a [Arc<Pod>],
    /// Namespaces and names of all autoscalers that select one of them.
    pub selecting: &'a [(String, String)],
    pub now: Timestamp,
}

/// Something to tell the users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub reason: &'static str,
    pub message: String,
}

/// What is done. `told` are warnings.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub status: Status,
    pub told: Vec<Told>,
    pub rescale: Option<Rescale>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rescale {
    pub scale: Scale,
    pub from: i32,
    pub to: i32,
    pub reason: String,
}

/// The status in the making.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub value: Value,
    now: Timestamp,
}

impl Status {
    fn of(autoscaler: &Autoscaler, now: Timestamp) -> Self {
        let value = if autoscaler.status.is_object() { autoscaler.status.clone() } else { json!({}) };
        Self { value, now }
    }

    /// Says a condition; its time is when it last became true or false.
    fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: &str) {
        let status = if holds { "True" } else { "False" };
        let mut all = self.value["conditions"].as_array().cloned().unwrap_or_default();
        let old = all.iter().position(|c| c["type"] == kind);
        let since = old.map(|i| &all[i]).filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
        let new = json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| rfc3339(self.now).into())});
        match old {
            Some(at) => all[at] = new,
            None => all.push(new),
        }
        self.value["conditions"] = all.into();
    }

    /// What is there and what is wanted; anything else is as it was.
    fn replicas(&mut self, current: i32, desired: Option<i32>, metrics: Vec<Value>) {
        let mut new = json!({"currentReplicas": current, "currentMetrics": null});
        new["desiredReplicas"] = desired.map_or_else(|| int(&self.value["desiredReplicas"]).into(), Value::from);
        for kept in ["lastScaleTime", "conditions"] {
            if let Some(value) = self.value.get(kept) {
                new[kept] = value.clone();
            }
        }
        if !metrics.is_empty() {
            new["currentMetrics"] = metrics.into();
        }
        self.value = new;
    }

    /// The target has been scaled.
    pub fn scaled(mut self, rescale: &Rescale) -> Self {
        let message = format!("the HPA controller was able to update the target scale to {}", rescale.to);
        self.condition("AbleToScale", true, "SucceededRescale", &message);
        self.value["desiredReplicas"] = rescale.to.into();
        self.value["lastScaleTime"] = rfc3339(self.now).into();
        self
    }

    /// The target could not be scaled.
    pub fn not_scaled(mut self, error: &str) -> Self {
        let message = format!("the HPA controller was unable to update the target scale: {error}");
        self.condition("AbleToScale", false, "FailedUpdateScale", &message);
        self
    }

    /// Whether it says the same as what is stored.
    pub fn is(&self, stored: &Value) -> bool {
        let without = |value: &Value| {
            let mut members = value.as_object().cloned().unwrap_or_default();
            // Left out and nothing are the same.
            members.retain(|name, v| !(v.is_null() || name == "currentReplicas" && *v == 0));
            members
        };
        without(&self.value) == without(stored)
    }
}

/// Decides; remembers in `history` what was wished for.
pub fn decide(autoscaler: &Autoscaler, observed: Observed, around: &Around<'_>, history: &mut History) -> Decision {
    let (spec, now) = (&autoscaler.spec, around.now);
    let mut decision = Decision { status: Status::of(autoscaler, now), told: Vec::new(), rescale: None };
    let scale = match observed.scale {
        Ok(scale) => scale,
        Err(error) => {
            let message = format!("the HPA controller was unable to get the target's current scale: {error}");
            decision.status.condition("AbleToScale", false, "FailedGetScale", &message);
            decision.told.push(Told { reason: "FailedGetScale", message: error });
            return decision;
        }
    };
    let able = "the HPA controller was able to get the target's current scale";
    decision.status.condition("AbleToScale", true, "SucceededGetScale", able);
    let (current, min, max) = (scale.wanted(), min_replicas(spec), int(&spec["maxReplicas"]));
    history.begin(current, now);
    let (desired, reason, metrics) = if current == 0 {
        let disabled = "scaling is disabled since the replica count of the target is zero";
        decision.status.condition("ScalingActive", false, "ScalingDisabled", disabled);
        (0, String::new(), Vec::new())
    } else if current > max {
        (max, "Current number of replicas above Spec.MaxReplicas".to_owned(), Vec::new())
    } else if current < min {
        (min, "Current number of replicas below Spec.MinReplicas".to_owned(), Vec::new())
    } else {
        let wanted = match by_metrics(autoscaler, &scale, &observed.metrics, around, &mut decision) {
            Ok(wanted) => wanted,
            Err((error, metrics)) => {
                decision.status.replicas(current, None, metrics);
                decision.told.push(Told { reason: "FailedComputeMetricsReplicas", message: error });
                return decision;
            }
        };
        let reason = match wanted.replicas {
            n if n > current => format!("{} above target", wanted.metric),
            n if n < current => "All metrics below target".to_owned(),
            _ => String::new(),
        };
        let wish = Wish { behavior: &spec["behavior"], min, max, current, desired: wanted.replicas };
        let limited = history.limit(wish, now);
        let (stabilized, limits) = (limited.stabilized, limited.limited);
        decision.status.condition("AbleToScale", true, stabilized.reason, stabilized.message);
        decision.status.condition("ScalingLimited", limits.changed, limits.reason, limits.message);
        (limited.replicas, reason, wanted.statuses)
    };
    if desired == current {
        decision.status.replicas(current, Some(current), metrics);
    } else {
        decision.status.replicas(current, None, metrics);
        decision.rescale = Some(Rescale { scale, from: current, to: desired, reason });
    }
    decision
}

/// What the metrics together ask for.
struct Wanted {
    replicas: i32,
    metric: String,
    statuses: Vec<Value>,
}

/// The most that any metric asks for. With some that fail it is only followed upwards.
fn by_metrics(
    autoscaler: &Autoscaler,
    scale: &Scale,
    measured: &[Result<Measured, String>],
    around: &Around<'_>,
    decision: &mut Decision,
) -> Result<Wanted, (String, Vec<Value>)> {
    selector(scale.selector(), around, decision).map_err(|error| (error, Vec::new()))?;
    let scene = Scene {
        spec_replicas: scale.wanted(),
        status_replicas: scale.has(),
        pods: around.pods,
        tolerances: Tolerances::of(&autoscaler.spec),
        now: around.now,
    };
    let mut wanted = Wanted { replicas: 0, metric: String::new(), statuses: Vec::new() };
    let mut failures: Vec<Failed> = Vec::new();
    let metrics = autoscaler.spec["metrics"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (i, metric) in metrics.iter().enumerate() {
        let measured = measured.get(i).cloned().unwrap_or_else(|| Err("it was not asked for".into()));
        match propose(&scene, autoscaler.namespace(), metric, measured) {
            Ok(proposed) => {
                wanted.statuses.push(proposed.status);
                if wanted.replicas == 0 || proposed.replicas > wanted.replicas {
                    (wanted.replicas, wanted.metric) = (proposed.replicas, proposed.name);
                }
            }
            Err(failed) => {
                decision.told.push(Told { reason: failed.reason, message: failed.error.clone() });
                wanted.statuses.push(json!({"type": ""}));
                failures.push(failed);
            }
        }
    }
    if let Some(first) = failures.first()
        && (failures.len() >= metrics.len() || wanted.replicas < scale.wanted())
    {
        let message = format!("the HPA was unable to compute the replica count: {}", first.error);
        decision.status.condition("ScalingActive", false, first.reason, &message);
        let (n, of) = (failures.len(), metrics.len());
        let error = format!("invalid metrics ({n} invalid out of {of}), first error is: {}", first.within);
        return Err((error, wanted.statuses));
    }
    let message = format!("the HPA was able to successfully calculate a replica count from {}", wanted.metric);
    decision.status.condition("ScalingActive", true, "ValidMetricFound", &message);
    Ok(wanted)
}

/// Refuses a target whose pods are not known, or are another autoscaler's as well.
fn selector(text: &str, around: &Around<'_>, decision: &mut Decision) -> Result<(), String> {
    let (told, reason, condition, error) = if text.is_empty() {
        let missing = "the HPA target's scale is missing a selector".to_owned();
        ("SelectorRequired", "InvalidSelector", missing, "selector is required".to_owned())
    } else if let Err(why) = LabelSelector::parse(text) {
        let error = format!("couldn't convert selector into a corresponding internal selector object: {why}");
        ("InvalidSelector", "InvalidSelector", error.clone(), error)
    } else if around.selecting.len() > 1 {
        let all: Vec<String> =
            around.selecting.iter().map(|(namespace, name)| format!("{{{name} {namespace}}}")).collect();
        let error = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", all.join(" "));
        ("AmbiguousSelector", "AmbiguousSelector", error.clone(), error)
    } else {
        return Ok(());
    };
    decision.told.push(Told { reason: told, message: error.clone() });
    decision.status.condition("ScalingActive", false, reason, &condition);
    Err(error)
}
