//! PodTopologySpread: pods of a set evenly over the domains of a label. Pure.
//!
//! Source: `pkg/scheduler/framework/plugins/podtopologyspread`.

use client::Object as _;
use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use types::selector::{LabelSelector, Requirement};

use super::among::Among;
use super::filter::{Refusal, tolerates_all, wants_node};
use super::needs::{Needs, Resident};
use super::profile::{Plugin, SCORE_MAX};
use super::snapshot::{Facts, Snapshot};
use super::topology::NOWHERE;
use crate::pods;

const HOSTNAME: &str = "kubernetes.io/hostname";
const NOT_MET: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// One constraint of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    pub among: Among,
    pub topology: Box<str>,
    max_skew: i64,
    min_domains: usize,
    honors_affinity: bool,
    pub honors_taints: bool,
    /// Whether the pod itself is one of the set.
    counts_itself: bool,
}

impl Constraint {
    /// `shared` selects in place of the constraint's own selector.
    pub fn of(constraint: &TopologySpreadConstraint, pod: &Pod, shared: Option<&LabelSelector>) -> Self {
        let own = || constraint.label_selector.as_ref().and_then(pods::matcher);
        let mut selector = shared.cloned().or_else(own);
        for key in constraint.match_label_keys.iter().flatten() {
            if let (Some(selector), Some(value)) = (&mut selector, pod.label(key)) {
                let same = Requirement::In(key.clone(), vec![value.to_owned()]);
                // The API server may have written it into the selector before.
                if !selector.requirements.contains(&same) {
                    selector.requirements.push(same);
                }
            }
        }
        let policy = |p: &Option<String>, default: bool| p.as_deref().map_or(default, |p| p == "Honor");
        Self {
            counts_itself: selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels)),
            among: Among::within(pod.namespace(), selector),
            topology: constraint.topology_key.as_str().into(),
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            honors_affinity: policy(&constraint.node_affinity_policy, true),
            honors_taints: policy(&constraint.node_taints_policy, false),
        }
    }

    /// Whether pods on the node count, and the node makes a domain.
    fn includes(&self, needs: &Needs, node: &Facts) -> bool {
        (!self.honors_affinity || wants_node(needs, node))
            && (!self.honors_taints || tolerates_all(needs.tolerations(), &node.taints))
    }
}

/// Whether a node has the labels of all constraints.
pub fn has_labels(constraints: &[Constraint], node: &Facts) -> bool {
    constraints.iter().all(|c| node.labels.contains_key(&*c.topology))
}

/// The domains of one constraint.
#[derive(Debug, Clone)]
struct Domains {
    topology: usize,
    /// Pods of the set by domain; `None` where no node makes it one.
    counts: Vec<Option<i64>>,
    least: i64,
}

impl Domains {
    fn weigh(&mut self, min_domains: usize) {
        let there = || self.counts.iter().flatten();
        let least = there().copied().min().unwrap_or(0);
        self.least = if there().count() < min_domains { 0 } else { least };
    }
}

/// How the pods of the constraints that must hold are spread now.
#[derive(Debug, Clone, Default)]
pub struct Spread(Vec<Domains>);

impl Spread {
    pub fn of(needs: &Needs, snapshot: &mut Snapshot) -> Self {
        let topologies: Vec<usize> = needs.hard.iter().map(|c| snapshot.topology(&c.topology)).collect();
        let domains = |(constraint, topology): (&Constraint, &usize)| {
            let counts =
                (!constraint.among.is_everything_or_nothing()).then(|| snapshot.tally(&[&constraint.among], true));
            let at = snapshot.topologies.get(*topology);
            let mut domains = Domains { topology: *topology, counts: vec![None; at.domains()], least: 0 };
            for slot in snapshot.order() {
                let in_all = topologies.iter().all(|t| snapshot.topologies.get(*t).domain(*slot) != NOWHERE);
                if in_all && constraint.includes(needs, snapshot.facts(*slot)) {
                    let pods = counts.as_ref().map_or(0, |c| c.get(*slot));
                    *domains.counts[at.domain(*slot) as usize].get_or_insert(0) += i64::from(pods);
                }
            }
            domains.weigh(constraint.min_domains);
            domains
        };
        Self(needs.hard.iter().zip(&topologies).map(domains).collect())
    }

    pub fn refusal(&self, needs: &Needs, snapshot: &Snapshot, slot: u32) -> Option<Refusal> {
        for (constraint, domains) in needs.hard.iter().zip(&self.0) {
            let domain = snapshot.topologies.get(domains.topology).domain(slot);
            if domain == NOWHERE {
                return Some(Refusal::new(Plugin::PodTopologySpread, true, NO_LABEL));
            }
            let there = domains.counts.get(domain as usize).copied().flatten().unwrap_or(0);
            if there + i64::from(constraint.counts_itself) - domains.least > constraint.max_skew {
                return Some(Refusal::new(Plugin::PodTopologySpread, false, NOT_MET));
            }
        }
        None
    }

    /// Counts a pod as if it came to a node, or went from it.
    pub fn change(&mut self, needs: &Needs, snapshot: &Snapshot, slot: u32, resident: &Resident, more: bool) {
        let node = snapshot.facts(slot);
        if resident.namespace() != needs.resident.namespace() || !has_labels(&needs.hard, node) {
            return;
        }
        for (constraint, domains) in needs.hard.iter().zip(&mut self.0) {
            if constraint.among.has(&resident.pod, &snapshot.namespaces) && constraint.includes(needs, node) {
                let domain = snapshot.topologies.get(domains.topology).domain(slot);
                if let Some(count) = domains.counts.get_mut(domain as usize) {
                    *count.get_or_insert(0) += if more { 1 } else { -1 };
                    domains.weigh(constraint.min_domains);
                }
            }
        }
    }
}

/// Scores by the constraints that should hold; `None`: there are none.
pub fn scores(needs: &Needs, snapshot: &mut Snapshot, slots: &[u32]) -> Option<Vec<i64>> {
    if needs.soft.is_empty() {
        return None;
    }
    let topologies: Vec<usize> = needs.soft.iter().map(|c| snapshot.topology(&c.topology)).collect();
    let in_all = |snapshot: &Snapshot, slot: u32| {
        !needs.all_topologies || topologies.iter().all(|t| snapshot.topologies.get(*t).domain(slot) != NOWHERE)
    };
    let counted: Vec<bool> = slots.iter().map(|s| in_all(snapshot, *s)).collect();
    let mut sums = vec![0.0; slots.len()];
    for (constraint, topology) in needs.soft.iter().zip(&topologies) {
        let tally = (!constraint.among.is_everything_or_nothing()).then(|| snapshot.tally(&[&constraint.among], true));
        let on_node = |slot: u32| tally.as_ref().map_or(0, |t| i64::from(t.get(slot)));
        let at = snapshot.topologies.get(*topology);
        let by_host = *constraint.topology == *HOSTNAME;
        let mut by_domain = vec![0; at.domains()];
        let mut size = counted.iter().filter(|c| **c).count();
        if !by_host {
            let mut seen = vec![false; at.domains() + 1];
            for (slot, _) in slots.iter().zip(&counted).filter(|(_, c)| **c) {
                seen[(at.domain(*slot) as usize).min(at.domains())] = true;
            }
            size = seen.iter().filter(|s| **s).count();
            for slot in snapshot.order() {
                let domain = at.domain(*slot);
                if domain != NOWHERE && in_all(snapshot, *slot) && constraint.includes(needs, snapshot.facts(*slot)) {
                    by_domain[domain as usize] += on_node(*slot);
                }
            }
        }
        // Domains of which there are few count less each, so that no label outweighs another by its number of values.
        let weight = (size as f64 + 2.0).ln();
        for ((slot, sum), _) in slots.iter().zip(&mut sums).zip(&counted).filter(|(_, c)| **c) {
            let domain = at.domain(*slot);
            if domain != NOWHERE {
                let pods = if by_host { on_node(*slot) } else { by_domain[domain as usize] };
                *sum += pods as f64 * weight + (constraint.max_skew - 1) as f64;
            }
        }
    }
    let rounded: Vec<i64> = sums.iter().map(|s| s.round() as i64).collect();
    let of_counted = || rounded.iter().zip(&counted).filter(|(_, c)| **c).map(|(s, _)| *s);
    let (least, most) = (of_counted().min().unwrap_or(0), of_counted().max().unwrap_or(0));
    let normal = |(score, counted): (&i64, &bool)| match (counted, most) {
        (false, _) => 0,
        (true, 0) => SCORE_MAX,
        (true, _) => SCORE_MAX * (most + least - score) / most,
    };
    Some(rounded.iter().zip(&counted).map(normal).collect())
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::super::testing;
    use super::*;
    use serde_json::{Value, json};

    const NODES: [(&str, &str); 5] = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("x", "")];

    fn pods(on: &[&str]) -> Vec<(&'static str, &'static str, Value, Value)> {
        let names = ["p0", "p1", "p2", "p3", "p4", "p5"];
        on.iter()
            .zip(names)
            .map(|(node, name)| {
                let node = NODES.iter().find(|n| n.0 == *node).unwrap().0;
                (name, node, json!({"app": "web"}), json!({}))
            })
            .collect()
    }

    fn needs(constraints: Value, more: Value) -> Needs {
        let mut spec = json!({"topologySpreadConstraints": constraints});
        for (k, v) in more.as_object().unwrap() {
            spec[k] = v.clone();
        }
        Needs::of(&testing::pod("new", json!({"app": "web", "hash": "1"}), &spec), &Profile::default(), None)
    }

    fn constraint(key: &str, skew: i32, more: Value) -> Value {
        let mut all = json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        for (k, v) in more.as_object().unwrap() {
            all[k] = v.clone();
        }
        all
    }

    /// For each node: `.` it can take the pod, `n` the constraint is not met, `l` it lacks the label.
    fn picture(needs: &Needs, snapshot: &mut Snapshot) -> String {
        snapshot.sort();
        let spread = Spread::of(needs, snapshot);
        let mark = |(name, _): &(&str, &str)| match spread.refusal(needs, snapshot, snapshot.find(name).unwrap()) {
            None => '.',
            Some(r) if r.reasons[0] == NO_LABEL && r.for_good => 'l',
            Some(r) => {
                assert!(r.reasons[0] == NOT_MET && !r.for_good);
                'n'
            }
        };
        NODES.iter().map(mark).collect()
    }

    #[test]
    fn constraints_that_must_hold() {
        let zone = |more: Value| json!([constraint("zone", 1, more)]);
        let in_a = json!({"nodeSelector": {"zone": "a"}});
        for (name, constraints, on, more, expected) in [
            ("nothing there", zone(json!({})), &[][..], json!({}), "....l"),
            ("one ahead", zone(json!({})), &["a1"], json!({}), "nn..l"),
            ("even again", zone(json!({})), &["a1", "b1"], json!({}), "....l"),
            ("skew of two", json!([constraint("zone", 2, json!({}))]), &["a1"], json!({}), "....l"),
            ("no more domains than two", zone(json!({"minDomains": 3})), &["a1"], json!({}), "nn..l"),
            ("three are wanted", zone(json!({"minDomains": 3})), &["a1", "b1"], json!({}), "nnnnl"),
            ("only its zone counts", zone(json!({})), &["a1"], in_a.clone(), "....l"),
            ("all count", zone(json!({"nodeAffinityPolicy": "Ignore"})), &["a1"], in_a, "nn..l"),
            ("of its own hash there is none", zone(json!({"matchLabelKeys": ["hash"]})), &["a1"], json!({}), "....l"),
            (
                "it is not one of them",
                zone(json!({"labelSelector": {"matchLabels": {"app": "db"}}})),
                &["a1"],
                json!({}),
                "....l",
            ),
            (
                "zone and node",
                json!([constraint("zone", 1, json!({})), constraint(HOSTNAME, 1, json!({}))]),
                &["a1", "b1"],
                json!({}),
                "n.n.l",
            ),
        ] {
            let mut snapshot = testing::snapshot(&NODES, &pods(on));
            assert_eq!(picture(&needs(constraints, more), &mut snapshot), expected, "{name}");
        }
    }

    #[test]
    fn tainted_nodes_are_domains_unless_taints_are_honored() {
        // One on each node but a2, which is the least of all if it counts.
        for (policy, expected) in [("Ignore", "n.nnn"), ("Honor", ".....")] {
            let mut snapshot = testing::snapshot(&NODES, &pods(&["a1", "b1", "b2", "x"]));
            let mut tainted = testing::node("a2", &[("zone", "a"), (HOSTNAME, "a2")]);
            tainted.spec = serde_json::from_value(json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})).unwrap();
            snapshot.set_node("a2", Some(&tainted));
            let constraints = json!([constraint(HOSTNAME, 1, json!({"nodeTaintsPolicy": policy}))]);
            assert_eq!(picture(&needs(constraints, json!({})), &mut snapshot), expected, "{policy}");
        }
    }

    #[test]
    fn pods_that_would_go_are_taken_off() {
        let mut snapshot = testing::snapshot(&NODES, &pods(&["a1"]));
        let needs = needs(json!([constraint("zone", 1, json!({}))]), json!({}));
        snapshot.sort();
        let mut spread = Spread::of(&needs, &mut snapshot);
        let a1 = snapshot.find("a1").unwrap();
        let resident = std::sync::Arc::clone(&snapshot.node(a1).load.pods[0]);
        assert!(spread.refusal(&needs, &snapshot, a1).is_some());
        spread.change(&needs, &snapshot, a1, &resident, false);
        assert_eq!(spread.refusal(&needs, &snapshot, a1), None);
        spread.change(&needs, &snapshot, a1, &resident, true);
        assert!(spread.refusal(&needs, &snapshot, a1).is_some());
    }

    #[test]
    fn constraints_that_should_hold() {
        let soft = |key: &str| constraint(key, 1, json!({"whenUnsatisfiable": "ScheduleAnyway"}));
        let check = |name: &str, constraints: Value, on: &[&str], expected: [i64; 5]| {
            let mut snapshot = testing::snapshot(&NODES, &pods(on));
            snapshot.sort();
            let slots: Vec<u32> = NODES.iter().map(|n| snapshot.find(n.0).unwrap()).collect();
            assert_eq!(scores(&needs(constraints, json!({})), &mut snapshot, &slots).unwrap(), expected, "{name}");
        };
        check("nothing there", json!([soft("zone")]), &[], [100, 100, 100, 100, 0]);
        check("one zone has two", json!([soft("zone")]), &["a1", "a1"], [0, 0, 100, 100, 0]);
        check("by node", json!([soft(HOSTNAME)]), &["a1", "a1", "b1"], [0, 100, 50, 100, 100]);
        let mut snapshot = testing::snapshot(&NODES, &[]);
        assert_eq!(scores(&needs(json!([]), json!({})), &mut snapshot, &[]), None);
    }

    #[test]
    fn siblings_are_spread_by_default() {
        let pod = testing::pod("new", json!({"app": "web"}), &json!({}));
        let siblings = LabelSelector::parse("app=web").ok();
        let needs = Needs::of(&pod, &Profile::default(), siblings.clone());
        assert_eq!((needs.hard.len(), needs.soft.len(), needs.all_topologies), (0, 2, false));
        let mut snapshot = testing::snapshot(&NODES, &pods(&["a1", "a1", "a1", "b1"]));
        snapshot.sort();
        let slots: Vec<u32> = NODES.iter().map(|n| snapshot.find(n.0).unwrap()).collect();
        let found = scores(&needs, &mut snapshot, &slots).unwrap();
        assert!(found[0] < found[2] && found[2] < found[1] && found[1] == found[3], "{found:?}");
        let mut profile = Profile { spread: Some(Vec::new()), ..Profile::default() };
        assert!(Needs::of(&pod, &profile, siblings.clone()).soft.is_empty());
        profile.spread = Some(vec![serde_json::from_value(constraint("zone", 1, json!({}))).unwrap()]);
        assert_eq!(Needs::of(&pod, &profile, siblings).hard.len(), 1);
        assert!(Needs::of(&pod, &profile, None).hard.is_empty());
    }
}
