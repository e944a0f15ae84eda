//! How many pods a job should have, and which to create or delete for that.
//!
//! Source: kubernetes `pkg/controller/job/job_controller.go` (manageJob), `indexed_job_utils.go`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use client::Object;
use client::events::reference;
use client::runner::Plan;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::backoff::{ended_at, wait};
use super::round::{
    FAILURES, IGNORED, INDEX, Round, by_index, count_of, index_of, is_indexed, is_suspended, replaces_failed_only,
};
use super::{Action, FINALIZER, policy, push_untracked};
use crate::controllers::replicaset::rank;
use crate::pods;

/// Pods created or deleted in one go; the rest follows when these are seen. Upstream's `MaxPodCreateDeletePerSync`.
const BURST: usize = 500;
/// Length of what the API server makes a name from. Source: apiserver `MaxGeneratedNameLength`.
const GENERATED_MAX: usize = 58;
/// By which a container knows its index.
const VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// What there is to do about the number of pods.
#[derive(Debug, Clone, PartialEq)]
pub enum Manage<'a> {
    Nothing,
    /// Pods failed; others are created then.
    Wait(Timestamp),
    Delete(Vec<&'a Arc<Pod>>),
    Create(Vec<Slot>),
}

/// What a new pod is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    pub index: Option<i32>,
    /// Failures of its index until now, and those that did not count; where they are counted by index.
    pub failures: Option<(i32, i32)>,
}

pub fn manage<'a>(round: &Round<'a>) -> Manage<'a> {
    let spec = round.spec;
    if is_suspended(spec) {
        return delete(round, round.active.len());
    }
    let (active, parallelism) = (round.active.len(), size(spec.parallelism.unwrap_or(1)));
    let wanted = match spec.completions {
        // After a first success those that run may end, and no others are begun.
        None if round.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => size(completions.saturating_sub(round.succeeded)).min(parallelism),
    };
    let deleted = delete(round, active.saturating_sub(wanted));
    if deleted != Manage::Nothing {
        return deleted;
    }
    let going = if replaces_failed_only(spec) { size(round.status.terminating.unwrap_or(0)) } else { 0 };
    let missing = wanted.saturating_sub(going).saturating_sub(active).min(BURST);
    if missing == 0 {
        return Manage::Nothing;
    }
    if !by_index(spec)
        && let Some(at) = round.backoff.until(round.now)
    {
        return Manage::Wait(at);
    }
    if !is_indexed(spec) {
        return Manage::Create(vec![Slot::default(); missing]);
    }
    let (mut slots, mut waits) = (Vec::new(), None::<Timestamp>);
    for index in pending(round, missing) {
        let before = round.delayed.get(&index).copied();
        match before.and_then(|p| {
            let failures = count_of(p, FAILURES).saturating_add(count_of(p, IGNORED)).saturating_add(1);
            wait(failures, ended_at(p), round.now)
        }) {
            Some(at) => waits = Some(waits.map_or(at, |known| known.min(at))),
            None => slots.push(slot(round, index, before)),
        }
    }
    match waits {
        _ if !slots.is_empty() => Manage::Create(slots),
        Some(at) => Manage::Wait(at),
        None => Manage::Nothing,
    }
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// The first indexes that need a pod.
fn pending(round: &Round<'_>, count: usize) -> Vec<i32> {
    let going = round.pods.iter().filter(|p| p.is_terminating() && !pods::is_finished(p));
    let going = going.filter(|_| replaces_failed_only(round.spec));
    let taken: BTreeSet<i32> = round.active.iter().chain(going).filter_map(|p| index_of(p)).collect();
    let mut taken = round.done.with(&taken);
    if let Some(lost) = &round.lost {
        taken = taken.merge(lost);
    }
    taken.missing(count, round.spec.completions.unwrap_or(0))
}

fn slot(round: &Round<'_>, index: i32, before: Option<&Arc<Pod>>) -> Slot {
    let failures = by_index(round.spec).then(|| match before {
        None => (0, 0),
        Some(pod) => {
            let (failures, ignored) = (count_of(pod, FAILURES), count_of(pod, IGNORED));
            match policy::verdict(round.spec.pod_failure_policy.as_ref(), pod).counts() {
                true => (failures.saturating_add(1), ignored),
                false => (failures, ignored.saturating_add(1)),
            }
        }
    });
    Slot { index: Some(index), failures }
}

/// At least so many pods, first those without an index that the job has, and all but one of each index.
fn delete<'a>(round: &Round<'a>, at_least: usize) -> Manage<'a> {
    let (mut gone, mut left) = (Vec::new(), round.active.clone());
    rank(&mut left, &HashMap::new(), round.now);
    if is_indexed(round.spec) {
        let completions = round.spec.completions.unwrap_or(0);
        let mut kept = BTreeSet::new();
        // From the most useful on.
        let mut keep: Vec<&Arc<Pod>> = Vec::new();
        for pod in left.into_iter().rev() {
            match index_of(pod) {
                Some(index) if index < completions && kept.insert(index) => keep.push(pod),
                _ => gone.push(pod),
            }
        }
        keep.reverse();
        left = keep;
    }
    gone.extend(left.into_iter().take(at_least.saturating_sub(gone.len())));
    gone.truncate(BURST);
    if gone.is_empty() { Manage::Nothing } else { Manage::Delete(gone) }
}

/// The actions. A pod that is not wanted any more is not counted: its finalizer goes first, unless the job ends with it.
pub fn push(manage: Manage<'_>, ends: bool, round: &Round<'_>, plan: &mut Plan<Action>) {
    let about = Box::new(reference(round.job));
    match manage {
        Manage::Nothing | Manage::Wait(_) => {}
        Manage::Delete(gone) => {
            if !ends {
                push_untracked(&gone, "not wanted any more", plan);
            }
            let why = format!("{} pods too many", gone.len());
            let pods = gone.iter().map(|p| (p.key(), p.uid().to_owned())).collect();
            plan.push(Action::Delete { pods, about }, why);
        }
        Manage::Create(slots) => {
            let why = format!("{} pods are missing", slots.len());
            plan.push(Action::Create { pod: Box::new(template(round)), slots, about }, why);
        }
    }
}

fn template(round: &Round<'_>) -> Pod {
    let owner = pods::controller_reference(round.job);
    let mut pod = pods::from_template(&round.spec.template, &round.job.metadata, owner);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    if is_indexed(round.spec)
        && let Some(spec) = &mut pod.spec
    {
        spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(name_index);
    }
    pod
}

fn name_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|v| v.name == VARIABLE) {
        return;
    }
    let field_ref = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..Default::default() };
    let value_from = Some(EnvVarSource { field_ref: Some(field_ref), ..Default::default() });
    variables.push(EnvVar { name: VARIABLE.into(), value_from, ..Default::default() });
}

/// The pod of a job's template for one slot.
pub fn pod_of(template: &Pod, job: &str, slot: Option<&Slot>) -> Pod {
    let mut pod = template.clone();
    let Some((slot, index)) = slot.and_then(|s| Some((s, s.index?))) else { return pod };
    let meta = &mut pod.metadata;
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if let Some((failures, ignored)) = slot.failures {
        annotations.insert(FAILURES.into(), failures.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED.into(), ignored.to_string());
        }
    }
    meta.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let end = format!("-{index}-");
    let kept: String = job.chars().take(GENERATED_MAX - end.len()).collect();
    meta.generate_name = Some(kept + &end);
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{job}-{index}"));
    }
    pod
}
