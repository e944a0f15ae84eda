//! What a StatefulSet's pods need next: first that every wanted one is there and well, then that none is too many, then that
//! each is of the revision that it should be of.
//!
//! Source: kubernetes `pkg/controller/statefulset/stateful_set_control.go` (updateStatefulSet, processReplica,
//! processCondemned, updateStatefulSetAfterInvariantEstablished).

use std::sync::Arc;

use client::Object;
use client::runner::Plan;
use k8s_openapi::api::core::v1::Pod;

use super::{Action, BURST, NewPod, View, claims, identity};
use crate::history::{self, POD_LABEL};
use crate::pods;

/// Whether the next one may be looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    Wait,
}

struct Steps<'a, 'v> {
    view: &'a View<'v>,
    plan: &'a mut Plan<Action>,
    creates: Vec<NewPod>,
    deletes: Vec<&'a Arc<Pod>>,
}

/// Plans the next step. Returns how many pods of the current revision it takes away for an update.
pub fn next(view: &View<'_>, plan: &mut Plan<Action>) -> i32 {
    let mut steps = Steps { view, plan, creates: Vec::new(), deletes: Vec::new() };
    let rolls = steps.wanted() == Go::On && steps.unwanted() == Go::On && view.strategy() != "OnDelete";
    let old = if rolls { steps.update() } else { None };
    // One that is of neither revision has not been counted as one of the current: it was adopted, or made in between.
    let lost = old.is_some_and(|pod| pod.label(POD_LABEL) == Some(view.current.name()));
    steps.deletes.extend(old);
    let Steps { plan, creates, mut deletes, .. } = steps;
    if !creates.is_empty() {
        let why = format!("{} pods are missing, from {} on", creates.len(), creates[0].pod.name());
        plan.push(Action::Create(creates), why);
    }
    if !deletes.is_empty() {
        deletes.truncate(BURST);
        let why = format!("{} is not wanted as it is, the first of {}", deletes[0].name(), deletes.len());
        let deletes = deletes.iter().map(|p| (p.key(), p.uid().to_owned())).collect();
        plan.push(Action::Delete(deletes), why);
    }
    i32::from(lost)
}

impl<'a> Steps<'a, '_> {
    fn wanted(&mut self) -> Go {
        for ordinal in self.view.range.clone() {
            if self.creates.len() >= BURST {
                break;
            }
            if self.replica(ordinal) == Go::Wait && self.view.is_ordered() {
                return Go::Wait;
            }
        }
        Go::On
    }

    fn replica(&mut self, ordinal: i64) -> Go {
        let view = self.view;
        let Some(pod) = view.members.get(&ordinal).copied() else {
            match claims::stale(view.set, ordinal, view.claims) {
                // The garbage collector takes the claim; that it is gone is a change that asks again.
                Some(claim) => self.plan.why.push(format!("{claim} belongs to the former pod {ordinal}")),
                None => self.creates.push(new_pod(view, ordinal)),
            }
            return Go::Wait;
        };
        if pods::is_finished(pod) {
            if !pod.is_terminating() {
                self.deletes.push(pod);
            }
            return Go::Wait;
        }
        let pending = pods::phase(pod) == "Pending";
        if pending {
            self.claims(pod, ordinal, false);
        }
        let well = !view.is_unavailable(pod);
        if view.is_ordered() && !well {
            return Go::Wait;
        }
        if let Some(patch) = identity::correction(view.set, pod, ordinal) {
            let missing = claims::needed(view.set, ordinal, view.claims).missing;
            self.plan
                .push(Action::Correct { pod: pod.key(), patch, missing }, format!("{} lost its identity", pod.name()));
        }
        if !pending {
            self.claims(pod, ordinal, true);
        }
        Go::On
    }

    /// The claims of a pod that is there: missing ones while it waits for them, other owners at any time.
    fn claims(&mut self, pod: &Arc<Pod>, ordinal: i64, told: bool) {
        let view = self.view;
        let scaled_away = !view.range.contains(&ordinal);
        let (owners, conflicts) = claims::disowned(view.set, pod, ordinal, scaled_away, view.claims);
        let pending = pods::phase(pod) == "Pending" && !scaled_away;
        let mut needed = if pending { claims::needed(view.set, ordinal, view.claims) } else { Default::default() };
        // A claim on its way out stays until its pod is gone: nothing to be told about a pod that is there.
        needed.going.clear();
        if !owners.is_empty() || !needed.missing.is_empty() {
            let why = format!("the claims of {}", pod.name());
            self.plan.push(Action::Claims { pod: pod.name().into(), needed, owners, conflicts, told }, why);
        }
    }

    fn unwanted(&mut self) -> Go {
        let view = self.view;
        let unwanted = || view.members.iter().filter(|(n, _)| !view.range.contains(n)).map(|(n, p)| (*n, *p));
        // Before any pod goes, its claims are its own.
        for (ordinal, pod) in unwanted() {
            self.claims(pod, ordinal, false);
        }
        let whole = view.range.clone().all(|n| view.members.get(&n).is_some_and(|p| !view.is_unavailable(p)));
        // Of several that are not well only the first one may go before the others are.
        let first = unwanted().find(|(_, p)| view.is_unavailable(p)).map(|(n, _)| n).filter(|_| whole);
        let mut list: Vec<_> = unwanted().collect();
        list.reverse();
        for (ordinal, pod) in list {
            let well = view.is_available(pod);
            if view.is_ordered() && (pod.is_terminating() || (!well && first != Some(ordinal))) {
                return Go::Wait;
            }
            if !pod.is_terminating() {
                self.deletes.push(pod);
                if view.is_ordered() {
                    return Go::Wait;
                }
            }
        }
        Go::On
    }

    /// The pod of another revision that may go now: the last one, not below the partition.
    fn update(&self) -> Option<&'a Arc<Pod>> {
        let view = self.view;
        let rolling = view.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let partition = rolling.and_then(|r| r.partition).unwrap_or(0);
        let first = view.range.start + i64::from(partition);
        let is_old = |p: &Pod| p.label(POD_LABEL) != Some(view.update.name()) && !p.is_terminating();
        // One at a time, and each waits for those above it.
        for ordinal in (first..view.range.end).rev() {
            match view.members.get(&ordinal).copied() {
                Some(pod) if is_old(pod) => return Some(pod),
                Some(pod) if !view.is_unavailable(pod) => {}
                _ => return None,
            }
        }
        None
    }
}

/// The pod of a number at the revision that it should have: below the partition the current one.
fn new_pod(view: &View<'_>, ordinal: i64) -> NewPod {
    let rolling = view.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let current = match rolling {
        Some(rolling) => rolling.partition.unwrap_or(0),
        None if view.strategy() == "RollingUpdate" => {
            view.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0)
        }
        None => 0,
    };
    let keeps = ordinal < view.range.start + i64::from(current) && view.current.name() != view.update.name();
    let former = keeps.then(|| history::template_of(&view.current)).flatten();
    let pod = match &former {
        Some(template) => identity::new_pod(view.set, template, view.current.name(), ordinal),
        None => identity::new_pod(view.set, &view.spec.template, view.update.name(), ordinal),
    };
    let claims = claims::needed(view.set, ordinal, view.claims);
    let (_, conflicts) = claims::disowned(view.set, &pod, ordinal, false, view.claims);
    NewPod { pod, claims, conflicts }
}
