//! Placement: one pod, one snapshot, one answer with its reasons. Pure.
//!
//! Source: `pkg/scheduler/schedule_one.go`, `pkg/scheduler/framework/types.go` (FitError).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::cycle::Cycle;
use super::filter::{Refusal, named_nodes};
use super::profile::{Plugin, Plugins, Profile};
use super::score;
use super::snapshot::Snapshot;
use super::verdicts::OfKind;

/// Nodes that are searched at least, and the least percentage of them. Source: `schedule_one.go`.
const NODES_MIN: usize = 100;
const PERCENTAGE_MIN: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    On(u32),
    /// No node fits.
    Nowhere(Diagnosis),
}

/// Why no node fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// Nodes that exist.
    pub nodes: usize,
    pub refusals: Vec<(u32, Refusal)>,
    /// Why none was looked at.
    pub at_once: Option<Cow<'static, str>>,
    /// Why the others were not looked at.
    pub others: Option<&'static str>,
    /// Who refused: what may change that brings the pod back.
    pub rejectors: Plugins,
}

impl Diagnosis {
    /// Upstream's text, for the event and the condition.
    pub fn message(&self) -> String {
        match (self.nodes, &self.at_once) {
            (0, _) => "no nodes available to schedule pods".to_owned(),
            (nodes, Some(why)) => format!("0/{nodes} nodes are available: {why}."),
            (nodes, None) => {
                let reasons = self.refusals.iter().flat_map(|(_, r)| r.reasons.iter().cloned());
                let unseen = nodes.saturating_sub(self.refusals.len());
                counted(nodes, reasons, self.others.map(|why| (unseen, why)))
            }
        }
    }
}

/// `0/3 nodes are available: 1 reason, 2 other reason.`: sorted as texts.
pub fn counted(
    nodes: usize,
    reasons: impl Iterator<Item = Cow<'static, str>>,
    others: Option<(usize, &'static str)>,
) -> String {
    let mut counts: BTreeMap<Cow<'static, str>, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    if let Some((unseen, why)) = others.filter(|(unseen, _)| *unseen > 0) {
        *counts.entry(why.into()).or_default() += unseen;
    }
    let mut reasons: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    reasons.sort_unstable();
    match reasons.is_empty() {
        true => format!("0/{nodes} nodes are available:"),
        false => format!("0/{nodes} nodes are available: {}.", reasons.join(", ")),
    }
}

/// Nodes that fit after which the search ends: in large clusters the best of half of them is good enough.
fn wanted(nodes: usize, profile: &Profile) -> usize {
    let percentage = match profile.percentage {
        0 => 50usize.saturating_sub(nodes / 125).max(PERCENTAGE_MIN),
        n => n,
    };
    if nodes < NODES_MIN { nodes } else { (nodes * percentage / 100).max(NODES_MIN) }
}

/// The node for the pod of this cycle.
pub fn place(cycle: &mut Cycle<'_>, snapshot: &mut Snapshot) -> Placement {
    let nodes = snapshot.order().len();
    let mut diagnosis = Diagnosis { nodes, ..Diagnosis::default() };
    if nodes == 0 {
        // Any node that comes is worth a look.
        diagnosis.rejectors.insert(Plugin::NodeName);
        return Placement::Nowhere(diagnosis);
    }
    let on = cycle.profile.filters.has(Plugin::NodeAffinity);
    let named = if on { named_nodes(cycle.needs) } else { None };
    if named.as_ref().is_some_and(Vec::is_empty) {
        diagnosis.at_once = Some("pod affinity terms conflict".into());
        diagnosis.rejectors.insert(Plugin::NodeAffinity);
        return Placement::Nowhere(diagnosis);
    }
    let Some(names) = named else {
        let mut kind = snapshot.verdicts.take(cycle.needs, cycle.profile);
        let slots = snapshot.order().to_vec();
        let placement = search(cycle, snapshot, &mut kind, &slots, diagnosis);
        snapshot.verdicts.keep(kind);
        return placement;
    };
    // Nobody else asks for the same.
    let mut kind = OfKind::new(cycle.needs, cycle.profile);
    let slots: Vec<u32> = names.iter().filter_map(|n| snapshot.find(n)).collect();
    let mut placement = search(cycle, snapshot, &mut kind, &slots, diagnosis);
    if let Placement::Nowhere(diagnosis) = &mut placement {
        diagnosis.others = Some("node(s) didn't satisfy plugin(s) [NodeAffinity]");
        diagnosis.rejectors.insert(Plugin::NodeAffinity);
    }
    placement
}

/// The best of some nodes.
fn search(
    cycle: &mut Cycle<'_>,
    snapshot: &mut Snapshot,
    kind: &mut OfKind,
    slots: &[u32],
    mut diagnosis: Diagnosis,
) -> Placement {
    // Others have made room for it there.
    if let Some(slot) = cycle.needs.resident.nominated().and_then(|n| snapshot.find(n))
        && cycle.judge_node(snapshot, kind, slot).is_none()
    {
        return Placement::On(slot);
    }
    let enough = wanted(slots.len(), cycle.profile);
    let mut fitting = Vec::new();
    for i in 0..slots.len() {
        let slot = slots[(snapshot.start + i) % slots.len()];
        match cycle.judge_node(snapshot, kind, slot) {
            None => fitting.push(slot),
            Some(refusal) => {
                diagnosis.rejectors.insert(refusal.plugin);
                diagnosis.refusals.push((slot, refusal));
            }
        }
        if fitting.len() >= enough {
            break;
        }
    }
    snapshot.start = (snapshot.start + fitting.len() + diagnosis.refusals.len()) % diagnosis.nodes;
    match score::best(cycle, snapshot, kind, &fitting) {
        Some(slot) => Placement::On(slot),
        None => Placement::Nowhere(diagnosis),
    }
}

#[cfg(test)]
mod tests {
    use super::super::needs::{Needs, Resident};
    use super::super::testing;
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn placed(snapshot: &mut Snapshot, spec: Value) -> Result<String, String> {
        let (needs, profile) = (testing::needs(spec), Profile::default());
        let mut cycle = Cycle::of(&needs, &profile, snapshot);
        match place(&mut cycle, snapshot) {
            Placement::On(slot) => Ok(snapshot.facts(slot).name.to_string()),
            Placement::Nowhere(diagnosis) => Err(diagnosis.message()),
        }
    }

    fn cpu(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn on_node(names: &[&str]) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": names}]}]}}}})
    }

    #[test]
    fn texts_are_upstreams() {
        let mut snapshot = Snapshot::default();
        assert_eq!(placed(&mut snapshot, cpu("1")), Err("no nodes available to schedule pods".into()));
        for name in ["a", "b", "c"] {
            let mut node = testing::node(name, &[]);
            node.spec = serde_json::from_value(json!({"unschedulable": name == "c"})).unwrap();
            snapshot.set_node(name, Some(&node));
        }
        assert_eq!(
            placed(&mut snapshot, cpu("3")),
            Err("0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.".into())
        );
        assert_eq!(placed(&mut snapshot, on_node(&["b"])), Ok("b".into()));
        let mut both = on_node(&["b"]);
        both["containers"] = cpu("3")["containers"].clone();
        assert_eq!(
            placed(&mut snapshot, both),
            Err("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
                .into())
        );
        assert_eq!(
            placed(&mut snapshot, on_node(&[])),
            Err("0/3 nodes are available: pod affinity terms conflict.".into())
        );
    }

    #[test]
    fn large_clusters_are_searched_in_parts() {
        let profile = Profile::default();
        for (nodes, expected) in [(1, 1), (99, 99), (100, 100), (1000, 420), (5000, 500), (20_000, 1000)] {
            assert_eq!(wanted(nodes, &profile), expected, "{nodes}");
        }
        assert_eq!(wanted(1000, &Profile { percentage: 70, ..profile }), 700);
    }

    #[test]
    fn room_that_was_made_for_a_pod_is_kept_for_it() {
        let mut snapshot = testing::snapshot(&[("a", "x")], &[]);
        let waiting = |priority: i32| {
            let mut spec = cpu("2");
            spec["priority"] = json!(priority);
            Arc::new(Resident::of(&testing::pod("vip", json!({}), &spec)))
        };
        let key = client::Key::new("d", "vip");
        for (priority, expected) in [
            (5, Err("0/1 nodes are available: 1 Insufficient cpu.".to_owned())),
            (0, Err("0/1 nodes are available: 1 Insufficient cpu.".to_owned())),
            (-1, Ok("a".to_owned())),
        ] {
            snapshot.nominate(&key, Some(("a", waiting(priority))));
            assert_eq!(placed(&mut snapshot, cpu("1")), expected, "{priority}");
        }
        snapshot.nominate(&key, None);
        assert_eq!(placed(&mut snapshot, cpu("1")), Ok("a".into()));
        // The one for whom it is kept goes there first.
        let mut pod = (*testing::pod("vip", json!({}), &cpu("1"))).clone();
        pod.status = serde_json::from_value(json!({"nominatedNodeName": "b"})).unwrap();
        let needs = Needs::of(&Arc::new(pod), &Profile::default(), None);
        let mut snapshot = testing::snapshot(&[("a", "x"), ("b", "x")], &[("p", "b", json!({}), cpu("500m"))]);
        let profile = Profile::default();
        let mut cycle = Cycle::of(&needs, &profile, &mut snapshot);
        let b = snapshot.find("b").unwrap();
        assert_eq!(place(&mut cycle, &mut snapshot), Placement::On(b));
    }
}
