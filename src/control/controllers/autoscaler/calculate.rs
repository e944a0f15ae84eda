//! How many replicas a metric asks for. Pure.
//!
//! Source: kubernetes `pkg/controller/podautoscaler/replica_calculator.go`, `metrics/utilization.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::Object as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;
use types::quantity::Quantity;

use crate::pods;

/// After its start a pod's CPU use may be that of starting. Source: `--horizontal-pod-autoscaler-cpu-initialization-period`.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that has been unready since so soon after its start has never been ready. Source:
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);
/// Source: `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

/// What was measured of a pod, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub at: Timestamp,
    pub window: SignedDuration,
    pub value: i64,
}

/// By the names of pods.
pub type Samples = BTreeMap<String, Sample>;

/// How far from its target a metric may be before anything is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    /// Those of an autoscaler's behaviour.
    pub fn of(spec: &Value) -> Self {
        let of = |field: &str| {
            let text = spec["behavior"][field]["tolerance"].as_str();
            text.and_then(|t| t.parse::<Quantity>().ok()).map_or(TOLERANCE, |q| q.millis() as f64 / 1000.0)
        };
        Self { down: of("scaleDown"), up: of("scaleUp") }
    }

    fn holds(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What is known besides the metric.
pub struct Scene<'a> {
    /// What the target's spec asks for, and what it has.
    pub spec_replicas: i32,
    pub status_replicas: i32,
    /// Those that the target's selector selects.
    pub pods: &'a [Arc<Pod>],
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

/// What a metric asks for, and what is told of it in the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub replicas: i32,
    /// In percent of what is requested.
    pub utilization: Option<i32>,
    /// In thousandths.
    pub average: i64,
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";
const NO_METRICS: &str = "did not receive metrics for targeted pods (pods might be unready)";

/// Keeps the average use of a resource at `target` percent of what pods request of it.
///
/// # Errors
/// Upstream's texts.
pub fn utilization(
    scene: &Scene<'_>,
    mut samples: Samples,
    resource: &str,
    container: &str,
    target: i32,
) -> Result<Proposal, String> {
    let groups = Groups::of(scene, &mut samples, resource)?;
    let requests = requests(scene.pods, container, resource)?;
    let ratio = |samples: &Samples| {
        let known = || samples.iter().filter_map(|(pod, sample)| Some((sample.value, *requests.get(pod)?)));
        let (used, asked) = known().fold((0i64, 0i64), |(a, b), (c, d)| (a.saturating_add(c), b.saturating_add(d)));
        if asked == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        let percent = (i128::from(used) * 100 / i128::from(asked)).clamp(0, i128::from(i32::MAX)) as i32;
        Ok((f64::from(percent) / f64::from(target), percent, used / known().count() as i64))
    };
    let (usage, percent, average) = ratio(&samples)?;
    // Whoever is not heard of is taken to use what it asked for, or what it should use when that is more.
    let as_missing = |pod: &str| requests.get(pod).copied().unwrap_or(0).saturating_mul(target.max(100).into()) / 100;
    let replicas = groups.replicas(scene, usage, samples, &as_missing, &|samples| Ok(ratio(samples)?.0))?;
    Ok(Proposal { replicas, utilization: Some(percent), average })
}

/// Keeps the average of a metric of pods at `target` thousandths; `resource` is empty for metrics that are none of one.
///
/// # Errors
/// Upstream's texts.
pub fn average(scene: &Scene<'_>, mut samples: Samples, resource: &str, target: i64) -> Result<Proposal, String> {
    let groups = Groups::of(scene, &mut samples, resource)?;
    let mean = |samples: &Samples| {
        samples.values().fold(0i64, |sum, s| sum.saturating_add(s.value)) / samples.len().max(1) as i64
    };
    let average = mean(&samples);
    let ratio = |samples: &Samples| Ok(mean(samples) as f64 / target as f64);
    let replicas = groups.replicas(scene, average as f64 / target as f64, samples, &|_| target, &ratio)?;
    Ok(Proposal { replicas, utilization: None, average })
}

/// Keeps one number at `target`, by the pods that are ready.
///
/// # Errors
/// Upstream's text.
pub fn value(scene: &Scene<'_>, usage: i64, target: i64) -> Result<Proposal, String> {
    let ratio = usage as f64 / target as f64;
    let replicas = if scene.spec_replicas == 0 {
        ratio.ceil() as i32
    } else if scene.tolerances.holds(ratio) {
        scene.spec_replicas
    } else if scene.pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {NO_PODS}"));
    } else {
        let ready = scene.pods.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count();
        (ratio * ready as f64).ceil() as i32
    };
    Ok(Proposal { replicas, utilization: None, average: usage })
}

/// Keeps one number, divided by the replicas that there are, at `target`.
pub fn value_per_pod(scene: &Scene<'_>, usage: i64, target: i64) -> Proposal {
    let (usage, target, replicas) = (usage as f64, target as f64, f64::from(scene.status_replicas));
    let within = scene.tolerances.holds(usage / (target * replicas));
    Proposal {
        replicas: if within { scene.status_replicas } else { (usage / target).ceil() as i32 },
        utilization: None,
        average: (usage / replicas).ceil() as i64,
    }
}

/// What becomes of each pod's metric.
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
}

impl Groups {
    /// Takes those out of the samples that must not count.
    fn of(scene: &Scene<'_>, samples: &mut Samples, resource: &str) -> Result<Self, String> {
        if scene.pods.is_empty() {
            return Err(NO_PODS.into());
        }
        let mut groups = Self { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new() };
        for pod in scene.pods {
            let name = pod.name();
            if pod.is_terminating() || pods::phase(pod) == "Failed" {
                samples.remove(name);
            } else if pods::phase(pod) == "Pending" {
                samples.remove(name);
                groups.unready.insert(name.to_owned());
            } else if let Some(sample) = samples.get(name) {
                if resource == "cpu" && !counts(pod, sample, scene.now) {
                    samples.remove(name);
                    groups.unready.insert(name.to_owned());
                } else {
                    groups.ready += 1;
                }
            } else {
                groups.missing.insert(name.to_owned());
            }
        }
        if samples.is_empty() { Err(NO_METRICS.into()) } else { Ok(groups) }
    }

    /// `usage` is of those that are known; those that are not must not turn the direction.
    fn replicas(
        &self,
        scene: &Scene<'_>,
        usage: f64,
        mut samples: Samples,
        as_missing: &dyn Fn(&str) -> i64,
        ratio: &dyn Fn(&Samples) -> Result<f64, String>,
    ) -> Result<i32, String> {
        let (current, within) = (scene.spec_replicas, |ratio| scene.tolerances.holds(ratio));
        let with_unready = !self.unready.is_empty() && usage > 1.0;
        if !with_unready && self.missing.is_empty() {
            return Ok(if within(usage) { current } else { (usage * self.ready as f64).ceil() as i32 });
        }
        let mut assume = |pod: &String, value: i64| {
            let sample = Sample { at: scene.now, window: SignedDuration::ZERO, value };
            samples.insert(pod.clone(), sample);
        };
        if usage < 1.0 {
            self.missing.iter().for_each(|pod| assume(pod, as_missing(pod)));
        } else if usage > 1.0 {
            self.missing.iter().for_each(|pod| assume(pod, 0));
        }
        if with_unready {
            self.unready.iter().for_each(|pod| assume(pod, 0));
        }
        let again = ratio(&samples)?;
        if within(again) || (usage < 1.0 && again > 1.0) || (usage > 1.0 && again < 1.0) {
            return Ok(current);
        }
        let replicas = (again * samples.len() as f64).ceil() as i32;
        let turns = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
        Ok(if turns { current } else { replicas })
    }
}

/// Whether a pod's CPU use says something of its work: not that of starting, nor of a pod that never became ready.
fn counts(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return false };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    let unready = ready.status == "False";
    if started + CPU_INITIALIZATION > now {
        !unready && sample.at >= changed + sample.window
    } else {
        !(unready && started + READINESS_DELAY > changed)
    }
}

/// What each pod, or its container of that name, requests, in thousandths.
fn requests(all: &[Arc<Pod>], container: &str, resource: &str) -> Result<BTreeMap<String, i64>, String> {
    all.iter().map(|pod| Ok((pod.name().to_owned(), request(pod, container, resource)?))).collect()
}

fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let (Some(spec), name) = (pod.spec.as_ref(), pod.name()) else { return Ok(0) };
    let millis = |quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
        quantity.0.parse::<Quantity>().map_or(0, |q| q.millis())
    };
    let of = |c: &Container| c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource)).map(millis);
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let running = || spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).filter(|r| !r.is_empty());
    if let Some(whole) = whole
        && container.is_empty()
    {
        let summed: Option<i64> = running().filter_map(of).reduce(|a, b| a.saturating_add(b));
        let own = whole.get(resource).map(millis).or(summed);
        let own = own.ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"))?;
        let overhead = spec.overhead.as_ref().and_then(|o| o.get(resource)).map_or(0, millis);
        return Ok(own.saturating_add(overhead));
    }
    let mut sum = 0i64;
    for c in running().filter(|c| container.is_empty() || c.name == container) {
        let own =
            of(c).ok_or_else(|| format!("missing request for {resource} in container {} of Pod {name}", c.name))?;
        sum = sum.saturating_add(own);
        if !container.is_empty() {
            return Ok(sum);
        }
    }
    if container.is_empty() { Ok(sum) } else { Err(format!("container {container} not found in Pod {name}")) }
}
