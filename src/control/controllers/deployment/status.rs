//! What a deployment says about itself: counts, and the conditions Available, Progressing and ReplicaFailure.
//!
//! Source: kubernetes `pkg/controller/deployment/{sync,progress}.go`, `util/deployment_util.go` (reasons and texts).

use client::Object;
use client::runner::Plan;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Observed, REVISION_HISTORY, Sets, max_unavailable, replicas};
use crate::pods::whole_second;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
/// Means "no deadline"; upstream's API gives it to deployments that want none.
const NO_DEADLINE: i32 = i32::MAX;

fn find<'a>(conditions: &'a [DeploymentCondition], name: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|c| c.type_ == name)
}

fn conditions(d: &Deployment) -> &[DeploymentCondition] {
    d.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn condition(name: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    let now = Some(Time(whole_second(now)));
    DeploymentCondition {
        type_: name.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: now.clone(),
        last_transition_time: now,
    }
}

/// Replaces a condition unless status and reason are the same; its transition time is kept while the status is.
fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = find(conditions, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
}

fn deadline(spec: &DeploymentSpec) -> Option<SignedDuration> {
    let seconds = spec.progress_deadline_seconds.filter(|s| *s != NO_DEADLINE)?;
    Some(SignedDuration::from_secs(seconds.into()))
}

fn calculate(d: &Deployment, spec: &DeploymentSpec, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let sum = |read: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        sets.all().filter_map(|s| s.object.status.as_ref()).map(read).sum()
    };
    let total = sum(|s| s.replicas);
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    let updated = sets.new.as_ref().and_then(|n| n.object.status.as_ref()).map_or(0, |s| s.replicas);
    let old = d.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    set(
        &mut conditions,
        if available >= replicas(spec) - max_unavailable(spec) {
            let text = "Deployment has minimum availability.".into();
            condition(AVAILABLE, "True", "MinimumReplicasAvailable", text, now)
        } else {
            let text = "Deployment does not have minimum availability.".into();
            condition(AVAILABLE, "False", "MinimumReplicasUnavailable", text, now)
        },
    );
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((total - available).max(0)),
        terminating_replicas: Some(sum(|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: Some(conditions),
    }
}

fn push(d: &Deployment, status: DeploymentStatus, plan: &mut Plan<Action>, why: &str) {
    // An annotation moves the version that the status is checked against: it follows when that is seen.
    let annotated = plan.actions.iter().any(|a| matches!(a, Action::Annotate(_)));
    if annotated || d.status.as_ref() == Some(&status) {
        return;
    }
    let mut new = d.clone();
    new.status = Some(status);
    plan.push(Action::Status(Box::new(new)), why);
}

/// The counts only: while paused, being resized or going away.
pub(super) fn report(observed: &Observed<'_>, sets: &Sets, now: Timestamp, plan: &mut Plan<Action>) {
    let d = observed.deployment;
    let Some(spec) = &d.spec else { return };
    push(d, calculate(d, spec, sets, now), plan, "status changed");
}

/// Notes that a rollout was paused or resumed, so that the time between does not count. Whether there was something to note.
pub(super) fn pause(d: &Deployment, paused: bool, now: Timestamp, plan: &mut Plan<Action>) -> bool {
    let Some(spec) = &d.spec else { return false };
    let progressing = find(conditions(d), PROGRESSING);
    let reason = progressing.and_then(|c| c.reason.as_deref());
    if deadline(spec).is_none() || reason == Some(TIMED_OUT) || paused == (reason == Some(PAUSED)) {
        return false;
    }
    let (reason, text) =
        if paused { (PAUSED, "Deployment is paused") } else { ("DeploymentResumed", "Deployment is resumed") };
    let mut status = d.status.clone().unwrap_or_default();
    set(status.conditions.get_or_insert_default(), condition(PROGRESSING, "Unknown", reason, text.into(), now));
    push(d, status, plan, text);
    true
}

/// A foreign set has the name that the template's hash gives: hash differently.
pub(super) fn collision(d: &Deployment, count: i32, name: &str, plan: &mut Plan<Action>) {
    let status = DeploymentStatus { collision_count: Some(count), ..d.status.clone().unwrap_or_default() };
    push(d, status, plan, &format!("{name} exists and is not ours"));
}

/// Writes down that the new set could not be created. Whether there was something to write.
pub(super) fn creation_failed(observed: &Observed<'_>, now: Timestamp, plan: &mut Plan<Action>) -> bool {
    let d = observed.deployment;
    let has_deadline = d.spec.as_ref().and_then(deadline).is_some();
    let Some(failure) = observed.failure.as_ref().filter(|_| has_deadline) else { return false };
    let mut status = d.status.clone().unwrap_or_default();
    let new = condition(PROGRESSING, "False", failure.reason, failure.message.clone(), now);
    set(status.conditions.get_or_insert_default(), new);
    let before = plan.actions.len();
    push(d, status, plan, "the new set could not be created");
    plan.actions.len() > before
}

/// Everything runs the new template and is available. The counts must be of this generation.
pub(super) fn is_complete(d: &Deployment, spec: &DeploymentSpec, sets: &Sets) -> bool {
    complete(spec, &calculate(d, spec, sets, Timestamp::UNIX_EPOCH))
}

fn complete(spec: &DeploymentSpec, status: &DeploymentStatus) -> bool {
    let wanted = Some(replicas(spec)).filter(|n| *n != 0);
    status.updated_replicas == wanted && status.replicas == wanted && status.available_replicas == wanted
}

fn advanced(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Counts and progress of a rollout; asks to come again when the deadline passes.
pub(super) fn progress(observed: &Observed<'_>, sets: &Sets, now: Timestamp, plan: &mut Plan<Action>) {
    let d = observed.deployment;
    let Some(spec) = &d.spec else { return };
    let mut status = calculate(d, spec, sets, now);
    let old = d.status.clone().unwrap_or_default();
    let list = status.conditions.get_or_insert_default();
    let current = find(list, PROGRESSING).cloned();
    let settled = current.as_ref().and_then(|c| c.reason.as_deref()) == Some(NEW_AVAILABLE)
        && status.replicas == status.updated_replicas;
    let what = match &sets.new {
        Some(new) => format!("ReplicaSet {:?}", new.object.name()),
        None => format!("Deployment {:?}", d.name()),
    };
    match deadline(spec) {
        None => list.retain(|c| c.type_ != PROGRESSING),
        Some(_) if settled => {}
        Some(limit) => {
            let mut list = status.conditions.take().unwrap_or_default();
            if complete(spec, &status) && sets.new.is_some() {
                let text = format!("{what} has successfully progressed.");
                set(&mut list, condition(PROGRESSING, "True", NEW_AVAILABLE, text, now));
            } else if let Some(new) = sets.new.as_ref().filter(|_| starts(current.as_ref(), &old, &status)) {
                // The clock of the deadline starts with the set, not with its first pod.
                let (reason, text) = if new.object.annotation(REVISION_HISTORY).is_some() {
                    ("FoundNewReplicaSet", format!("Found new replica set {:?}", new.object.name()))
                } else {
                    ("NewReplicaSetCreated", format!("Created new replica set {:?}", new.object.name()))
                };
                set(&mut list, condition(PROGRESSING, "True", reason, text, now));
            } else if advanced(&old, &status) {
                let mut new =
                    condition(PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."), now);
                if let Some(current) = current.as_ref().filter(|c| c.status == "True") {
                    new.last_transition_time.clone_from(&current.last_transition_time);
                }
                // Replaced even when status and reason are the same: its update time is when progress was last made.
                list.retain(|c| c.type_ != PROGRESSING);
                list.push(new);
            } else if let Some(current) = &current {
                let reason = current.reason.as_deref();
                let since = current.last_update_time.as_ref().map_or(now, |t| t.0);
                if reason != Some(TIMED_OUT) && reason != Some(NEW_AVAILABLE) && since + limit < now {
                    let text = format!("{what} has timed out progressing.");
                    set(&mut list, condition(PROGRESSING, "False", TIMED_OUT, text, now));
                }
            }
            // The deadline counts from what is written now.
            if let Some(c) = find(&list, PROGRESSING)
                && c.reason.as_deref() != Some(NEW_AVAILABLE)
                && c.reason.as_deref() != Some(TIMED_OUT)
                && let Some(since) = &c.last_update_time
            {
                plan.again_at(since.0 + limit + SignedDuration::from_secs(1));
            }
            status.conditions = Some(list);
        }
    }
    let list = status.conditions.get_or_insert_default();
    let failed = sets.new.iter().chain(&sets.old).find_map(|s| {
        let all = s.object.status.as_ref()?.conditions.as_ref()?;
        all.iter().find(|c| c.type_ == REPLICA_FAILURE)
    });
    match failed {
        Some(c) => {
            let mut new = condition(
                REPLICA_FAILURE,
                &c.status,
                c.reason.as_deref().unwrap_or_default(),
                c.message.clone().unwrap_or_default(),
                now,
            );
            new.last_transition_time.clone_from(&c.last_transition_time);
            set(list, new);
        }
        None => list.retain(|c| c.type_ != REPLICA_FAILURE),
    }
    push(d, status, plan, "status changed");
}

/// A rollout begins: there was none, its set could not be created before, or the last one was finished.
fn starts(current: Option<&DeploymentCondition>, old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    match current.and_then(|c| c.reason.as_deref()) {
        None | Some("ReplicaSetCreateError") => true,
        Some(NEW_AVAILABLE) => new.updated_replicas.unwrap_or(0) < old.updated_replicas.unwrap_or(0),
        Some(_) => false,
    }
}
