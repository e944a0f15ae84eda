//! The arithmetic of rollouts: how large each set should be next.
//!
//! Two invariants, whatever the statuses say: planned replicas never exceed desired + maxSurge by a scale-up, and a
//! scale-down never takes available pods below desired − maxUnavailable.
//!
//! Source: kubernetes `pkg/controller/deployment/rolling.go`, `sync.go` (`scale`), `util/deployment_util.go`.

use std::cmp::Reverse;

use client::Object;
use client::runner::Plan;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};

use super::{Action, DESIRED, MAX, Set, Sets, guarded, replicas};
use crate::pods;

/// (maxSurge, maxUnavailable) in pods. Both zero would never move: then one may be unavailable.
fn fence(spec: &DeploymentSpec) -> (i32, i32) {
    let Some(strategy) = &spec.strategy else { return (0, 1) };
    if strategy.type_.as_deref() == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.rolling_update.clone().unwrap_or_default();
    let surge = rolling.max_surge.map_or(0, |n| pods::share(&n, replicas(spec), true));
    let unavailable = rolling.max_unavailable.map_or(0, |n| pods::share(&n, replicas(spec), false));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Pods above the desired number during a rollout.
pub fn max_surge(spec: &DeploymentSpec) -> i32 {
    fence(spec).0
}

/// Pods below the desired number during a rollout.
pub fn max_unavailable(spec: &DeploymentSpec) -> i32 {
    if replicas(spec) == 0 { 0 } else { fence(spec).1.min(replicas(spec)) }
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// How large the new set may be, when all sets together have `total` and the new one `current`.
pub fn new_replicas(spec: &DeploymentSpec, total: i32, current: i32) -> i32 {
    let wanted = replicas(spec);
    if is_recreate(spec) {
        return wanted;
    }
    let room = wanted + max_surge(spec) - total;
    if room <= 0 { current } else { current + room.min(wanted - current).max(0) }
}

/// Plans a set's size and the annotations that remember for which deployment size it was chosen.
pub(super) fn scale_to(
    d: &Deployment,
    spec: &DeploymentSpec,
    set: &mut Set,
    size: i32,
    plan: &mut Plan<Action>,
) -> bool {
    let (desired, max) = (replicas(spec), replicas(spec) + max_surge(spec));
    let stale = set.annotation(DESIRED) != Some(desired) || set.annotation(MAX) != Some(max);
    let from = set.replicas;
    if from == size && !stale {
        return false;
    }
    let mut patch = guarded(&set.object);
    patch["metadata"]["annotations"] = serde_json::json!({DESIRED: desired.to_string(), MAX: max.to_string()});
    if from != size {
        patch["spec"]["replicas"] = size.into();
    }
    let why = format!("{} of {} from {from} to {size}", set.object.name(), d.name());
    let scaled = (from != size).then_some((from, size));
    plan.push(Action::PatchSet { set: set.object.key(), patch, scaled }, why);
    set.replicas = size;
    from != size
}

/// Brings the new set nearer to the desired size. Whether it changed.
pub(super) fn new_set(d: &Deployment, spec: &DeploymentSpec, sets: &mut Sets, plan: &mut Plan<Action>) -> bool {
    let (total, wanted) = (sets.total(), replicas(spec));
    let Some(new) = &mut sets.new else { return false };
    let size = if new.replicas > wanted { wanted } else { new_replicas(spec, total, new.replicas) };
    size != new.replicas && scale_to(d, spec, new, size, plan)
}

/// Takes from the old sets what may go: unhealthy replicas first, then as many as availability allows.
pub(super) fn old_sets(d: &Deployment, spec: &DeploymentSpec, sets: &mut Sets, plan: &mut Plan<Action>) {
    if sets.old.iter().all(|s| s.replicas == 0) {
        return;
    }
    let total = sets.total();
    let min_available = replicas(spec) - max_unavailable(spec);
    let new_unavailable = sets.new.as_ref().map_or(0, |n| n.replicas - n.available());
    let mut budget = total - min_available - new_unavailable;
    if budget <= 0 {
        return;
    }
    let mut sizes: Vec<i32> = sets.old.iter().map(|s| s.replicas).collect();
    for (size, set) in sizes.iter_mut().zip(&sets.old) {
        let unhealthy = (*size - set.available()).max(0).min(budget);
        *size -= unhealthy;
        budget -= unhealthy;
    }
    // A set that was just made smaller says for a moment how many it had.
    let available: i32 = sets.all().map(|s| s.available().min(s.replicas)).sum();
    let mut spare = (available - min_available).max(0);
    for size in &mut sizes {
        let take = (*size).min(spare);
        *size -= take;
        spare -= take;
    }
    for (set, size) in sets.old.iter_mut().zip(sizes) {
        if set.replicas != size {
            scale_to(d, spec, set, size, plan);
        }
    }
}

/// Follows a change of the desired size: the one active set gets it all, several share it in proportion.
pub(super) fn scale(d: &Deployment, spec: &DeploymentSpec, sets: &mut Sets, plan: &mut Plan<Action>) {
    let wanted = replicas(spec);
    let active = sets.all().filter(|s| s.replicas > 0).count();
    if active <= 1 {
        let only = match sets.old.iter().position(|s| s.replicas > 0) {
            Some(i) => Some(&mut sets.old[i]),
            None if sets.new.is_some() => sets.new.as_mut(),
            None => sets.old.last_mut(),
        };
        if let Some(only) = only {
            scale_to(d, spec, only, wanted, plan);
        }
        return;
    }
    let saturated = sets
        .new
        .as_ref()
        .is_some_and(|n| n.replicas == wanted && n.annotation(DESIRED) == Some(wanted) && n.available() == wanted);
    if saturated {
        for set in sets.old.iter_mut().filter(|s| s.replicas > 0) {
            scale_to(d, spec, set, 0, plan);
        }
        return;
    }
    if is_recreate(spec) {
        return;
    }
    let allowed = if wanted > 0 { wanted + max_surge(spec) } else { 0 };
    let to_add = allowed - sets.total();
    let mut active: Vec<&mut Set> = sets.old.iter_mut().chain(&mut sets.new).filter(|s| s.replicas > 0).collect();
    let created = |s: &Set| s.object.metadata.creation_timestamp.as_ref().map(|t| t.0);
    // The largest first; among equals growing favours the newer, shrinking takes from the older.
    if to_add > 0 {
        active.sort_by_key(|s| (Reverse(s.replicas), Reverse(created(s))));
    } else {
        active.sort_by_key(|s| (Reverse(s.replicas), created(s)));
    }
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for set in &active {
        let share = if to_add == 0 || added == to_add { 0 } else { fraction(d, spec, set) };
        let left = to_add - added;
        let share = if to_add > 0 { share.min(left) } else { share.max(left) };
        added += share;
        sizes.push(set.replicas + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, size) in active.into_iter().zip(sizes) {
        scale_to(d, spec, set, size, plan);
    }
}

/// By how much a set changes if it keeps its share of the whole.
fn fraction(d: &Deployment, spec: &DeploymentSpec, set: &Set) -> i32 {
    if replicas(spec) == 0 {
        return -set.replicas;
    }
    let max = replicas(spec) + max_surge(spec);
    let before = match set.annotation(MAX) {
        Some(n) if n > 0 => n,
        _ => d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0),
    };
    if before == 0 {
        return 0;
    }
    // Rounded half away from zero; sizes are not negative.
    let (size, max, before) = (i64::from(set.replicas), i64::from(max), i64::from(before));
    let new = (2 * size * max + before) / (2 * before);
    i32::try_from(new).unwrap_or(i32::MAX) - set.replicas
}
