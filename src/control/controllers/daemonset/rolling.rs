//! What a DaemonSet's pods need on each node, and which of the old ones may go when the template changes.
//!
//! Source: kubernetes `pkg/controller/daemon/{daemon_controller,update}.go` (podsShouldBeOnNode, rollingUpdate).

use std::cmp::Ordering;
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::core::v1::Pod;

use super::{Ended, View};
use crate::history::POD_LABEL;
use crate::pods;

/// What is to be done, and what was noticed.
#[derive(Default)]
pub struct Wish<'a> {
    /// Nodes that need a pod.
    pub create: Vec<&'a str>,
    pub delete: Vec<&'a Arc<Pod>>,
    /// Of those to be deleted, the ones that ended by themselves.
    pub ended: Vec<Ended>,
}

/// (maxSurge, maxUnavailable) in pods; of percentages the larger number.
fn limits(view: &View<'_>, of: usize) -> (usize, usize) {
    let strategy = view.spec.update_strategy.as_ref().filter(|_| view.rolls());
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let all = i32::try_from(of).unwrap_or(i32::MAX);
    let count = |n: Option<&_>| n.map_or(0, |n| usize::try_from(pods::share(n, all, true)).unwrap_or(0));
    let surge = count(rolling.and_then(|r| r.max_surge.as_ref()));
    let unavailable = count(rolling.and_then(|r| r.max_unavailable.as_ref()));
    // Neither would never move.
    if surge == 0 && unavailable == 0 && of > 0 { (0, 1) } else { (surge, unavailable) }
}

/// Scheduled pods first, then the oldest.
pub fn order(a: &Pod, b: &Pod) -> Ordering {
    let waits = |p: &Pod| pods::node_name(p).is_empty();
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (waits(a), created(a), a.name()).cmp(&(waits(b), created(b), b.name()))
}

/// Sees to it that each node has the pods that it should have, whatever their template.
pub fn manage<'a>(view: &View<'a>) -> Wish<'a> {
    let mut wish = Wish::default();
    for (node, place) in &view.places {
        let there = view.on_node.get(node);
        match there {
            None if place.comes => wish.create.push(*node),
            _ if place.stays => keep(view, node, place.comes, there.map_or(&[][..], Vec::as_slice), &mut wish),
            Some(pods) => wish.delete.extend(pods.iter().filter(|p| !p.is_terminating())),
            None => {}
        }
    }
    // Sent to a node that is no more, they will never be scheduled, and nobody else takes them away.
    for (_, pods) in view.on_node.iter().filter(|(node, _)| !view.places.contains_key(*node)) {
        wish.delete.extend(pods.iter().filter(|p| pods::node_name(p).is_empty() && !p.is_terminating()));
    }
    wish
}

fn keep<'a>(view: &View<'a>, node: &'a str, comes: bool, there: &[&'a Arc<Pod>], wish: &mut Wish<'a>) {
    let mut running: Vec<&'a Arc<Pod>> = Vec::new();
    for &pod in there.iter().filter(|p| !p.is_terminating()) {
        match pods::phase(pod) {
            "Failed" if (view.held)(node).is_some_and(|until| until > view.now) => {}
            phase @ ("Failed" | "Succeeded") => {
                let failed = phase == "Failed";
                wish.ended.push(Ended { pod: pod.key(), node: node.to_owned(), failed });
                wish.delete.push(pod);
            }
            _ => running.push(pod),
        }
    }
    running.sort_unstable_by(|a, b| order(a, b));
    if limits(view, 1).0 == 0 {
        wish.delete.extend(running.iter().skip(1));
        return;
    }
    if running.is_empty() && comes {
        wish.create.push(node);
        return;
    }
    if running.len() <= 1 {
        return;
    }
    // Two may be there: an old one that serves, and a new one that does not yet.
    let (mut new, mut old) = (None, None);
    for pod in running {
        let slot = if view.is_new(pod) { &mut new } else { &mut old };
        if slot.is_none() { *slot = Some(pod) } else { wish.delete.push(pod) }
    }
    if let (Some(new), Some(old)) = (new, old)
        && (!pods::is_ready(old) || view.is_available(new))
    {
        wish.delete.push(old);
    }
}

type Slot<'a> = Option<&'a Arc<Pod>>;

/// The new and the old pod of a node; `None`: there are several of a kind, which [`manage`] sees to.
fn pair<'a>(view: &View<'a>, there: &[&'a Arc<Pod>]) -> Option<(Slot<'a>, Slot<'a>)> {
    let (mut new, mut old) = (None, None);
    for &pod in there.iter().filter(|p| !p.is_terminating()) {
        let slot = if view.is_new(pod) { &mut new } else { &mut old };
        if slot.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// The next step of a rollout, when [`manage`] wishes nothing.
pub fn update<'a>(view: &View<'a>) -> Wish<'a> {
    let wanted = view.places.values().filter(|p| p.comes).count();
    let (surge, unavailable) = limits(view, wanted);
    if surge == 0 { replace(view, unavailable) } else { overlap(view, surge, wanted) }
}

/// The nodes that have a pod or should have one, with the pods.
fn nodes<'v, 'a>(view: &'v View<'a>) -> impl Iterator<Item = (&'a str, &'v [&'a Arc<Pod>])> {
    let bare = view.places.iter().filter(|(node, place)| place.comes && !view.on_node.contains_key(*node));
    let bare = bare.map(|(node, _)| (*node, &[][..]));
    view.on_node.iter().map(|(node, pods)| (*node, pods.as_slice())).chain(bare)
}

/// Old pods go before new ones come; as many are missing at a time as may be.
fn replace<'a>(view: &View<'a>, most: usize) -> Wish<'a> {
    let (mut missing, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for (_, there) in nodes(view) {
        match pair(view, there) {
            Some((None, Some(old))) if view.is_available(old) => candidates.push(old),
            Some((None, Some(old))) => {
                // It serves nobody: to replace it costs nothing.
                broken.push(old);
                missing += 1;
            }
            Some((Some(new), None)) if view.is_available(new) => {}
            _ => missing += 1,
        }
    }
    candidates.truncate(most.saturating_sub(missing));
    broken.extend(candidates);
    Wish { delete: broken, ..Wish::default() }
}

/// New pods come before old ones go; as many are there twice at a time as may be.
fn overlap<'a>(view: &View<'a>, most: usize, wanted: usize) -> Wish<'a> {
    let mut wish = Wish::default();
    let (mut twice, mut available) = (0, 0);
    let (mut at_once, mut candidates, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
    for (node, there) in nodes(view) {
        let Some((new, old)) = pair(view, there) else {
            twice += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(|p| view.is_available(p)));
        let Some(old) = old else { continue };
        // Pods of a node that is gone are others' business.
        let Some(place) = view.places.get(node) else { continue };
        match new {
            Some(new) if view.is_available(new) => wish.delete.push(old),
            Some(_) => twice += 1,
            None => match (view.is_available(old), place.comes) {
                (false, false) => wish.delete.push(old),
                (false, true) => at_once.push(node),
                // It serves until another one does elsewhere.
                (true, false) => leaving.push(old),
                (true, true) => candidates.push(node),
            },
        }
    }
    leaving.truncate(available.saturating_sub(wanted));
    wish.delete.extend(leaving);
    candidates.truncate(most.saturating_sub(twice));
    at_once.extend(candidates);
    wish.create = at_once;
    wish
}

impl View<'_> {
    pub fn is_new(&self, pod: &Pod) -> bool {
        pod.label(POD_LABEL).is_some_and(|label| label == self.hash || self.alike.contains(&label))
    }
}
