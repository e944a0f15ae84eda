//! InterPodAffinity: near some pods, away from others; both ways, since those that are there may have terms too. Pure.
//!
//! Source: `pkg/scheduler/framework/plugins/interpodaffinity`.

use super::among::{Term, in_all, terms};
use super::filter::Refusal;
use super::needs::{Needs, Resident};
use super::profile::{Plugin, Profile, SCORE_MAX};
use super::snapshot::Snapshot;
use super::tally::{Class, PerNode};
use super::topology::NOWHERE;

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const TOO_NEAR: &str = "node(s) didn't match pod anti-affinity rules";
const UNWANTED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// Numbers by domain of one label.
#[derive(Debug, Clone)]
struct Domains {
    topology: usize,
    counts: Vec<i64>,
}

impl Domains {
    fn new(topology: usize, snapshot: &Snapshot) -> Self {
        Self { topology, counts: vec![0; snapshot.topologies.get(topology).domains()] }
    }

    fn add(&mut self, snapshot: &Snapshot, on_node: &PerNode, weight: i64) {
        let at = snapshot.topologies.get(self.topology);
        for slot in snapshot.order() {
            let pods = on_node.get(*slot);
            if pods > 0 {
                self.change(at.domain(*slot), i64::from(pods) * weight);
            }
        }
    }

    fn change(&mut self, domain: u32, by: i64) {
        if let Some(count) = self.counts.get_mut(domain as usize) {
            *count += by;
        }
    }

    /// `None`: the node lacks the label.
    fn at(&self, snapshot: &Snapshot, slot: u32) -> Option<i64> {
        let domain = snapshot.topologies.get(self.topology).domain(slot);
        (domain != NOWHERE).then(|| self.counts.get(domain as usize).copied().unwrap_or(0))
    }
}

/// What there is of the pods that the terms of one pod, and those of others that concern it, are about.
#[derive(Debug, Clone, Default)]
pub struct Affinity {
    /// By term that must be met: pods that meet all of them.
    near: Vec<Domains>,
    /// By term: pods that it must not be near.
    away: Vec<Domains>,
    /// By label: pods that keep it away.
    unwanted: Vec<Domains>,
    /// The pod meets its own terms: it may be the first.
    meets_itself: bool,
}

impl Affinity {
    pub fn of(needs: &Needs, snapshot: &mut Snapshot) -> Self {
        let own = terms(&needs.resident);
        let meets_itself = in_all(&own.attracts, needs.pod(), &snapshot.namespaces);
        let mut all = Self { meets_itself, ..Self::default() };
        if !own.attracts.is_empty() {
            let sets: Vec<_> = own.attracts.iter().map(|t| &t.among).collect();
            let on_node = snapshot.tally(&sets, false);
            all.near = own.attracts.iter().map(|t| of_term(t, &on_node, snapshot)).collect();
        }
        for term in &own.repels {
            let on_node = snapshot.tally(&[&term.among], false);
            all.away.push(of_term(term, &on_node, snapshot));
        }
        let concerning: Vec<(Box<str>, PerNode)> = snapshot
            .held
            .iter()
            .filter(|h| h.class == Class::Repels && h.term.among.has(needs.pod(), &snapshot.namespaces))
            .map(|h| (h.term.topology.clone(), h.counts.clone()))
            .collect();
        for (label, on_node) in concerning {
            let topology = snapshot.topology(&label);
            let mut domains = Domains::new(topology, snapshot);
            domains.add(snapshot, &on_node, 1);
            all.unwanted.push(domains);
        }
        all
    }

    pub fn refusal(&self, snapshot: &Snapshot, slot: u32) -> Option<Refusal> {
        let mut near = true;
        for domains in &self.near {
            match domains.at(snapshot, slot) {
                None => return Some(Refusal::new(Plugin::InterPodAffinity, true, NOT_NEAR)),
                Some(there) => near &= there > 0,
            }
        }
        // The first of pods that want to be together: nobody is there whom it could be near.
        let first = || self.meets_itself && self.near.iter().all(|d| d.counts.iter().all(|n| *n <= 0));
        if !near && !first() {
            return Some(Refusal::new(Plugin::InterPodAffinity, true, NOT_NEAR));
        }
        let any = |of: &[Domains]| of.iter().any(|d| d.at(snapshot, slot).is_some_and(|there| there > 0));
        if any(&self.away) {
            return Some(Refusal::new(Plugin::InterPodAffinity, false, TOO_NEAR));
        }
        any(&self.unwanted).then(|| Refusal::new(Plugin::InterPodAffinity, false, UNWANTED))
    }

    /// Counts a pod as if it came to a node, or went from it.
    pub fn change(&mut self, needs: &Needs, snapshot: &mut Snapshot, slot: u32, resident: &Resident, more: bool) {
        let by = if more { 1 } else { -1 };
        let own = terms(&needs.resident);
        if in_all(&own.attracts, &resident.pod, &snapshot.namespaces) {
            for domains in &mut self.near {
                domains.change(snapshot.topologies.get(domains.topology).domain(slot), by);
            }
        }
        for (term, domains) in own.repels.iter().zip(&mut self.away) {
            if term.among.has(&resident.pod, &snapshot.namespaces) {
                domains.change(snapshot.topologies.get(domains.topology).domain(slot), by);
            }
        }
        for term in &terms(resident).repels {
            if term.among.has(needs.pod(), &snapshot.namespaces) {
                let topology = snapshot.topology(&term.topology);
                if self.unwanted.iter().all(|d| d.topology != topology) {
                    self.unwanted.push(Domains::new(topology, snapshot));
                }
                let domain = snapshot.topologies.get(topology).domain(slot);
                if let Some(domains) = self.unwanted.iter_mut().find(|d| d.topology == topology) {
                    domains.change(domain, by);
                }
            }
        }
    }
}

fn of_term(term: &Term, on_node: &PerNode, snapshot: &mut Snapshot) -> Domains {
    let topology = snapshot.topology(&term.topology);
    let mut domains = Domains::new(topology, snapshot);
    domains.add(snapshot, on_node, 1);
    domains
}

/// Scores by what should be near and what should not; `None`: nobody has an opinion.
pub fn scores(needs: &Needs, profile: &Profile, snapshot: &mut Snapshot, slots: &[u32]) -> Option<Vec<i64>> {
    let own = terms(&needs.resident);
    let opinions = !own.prefers.is_empty() || !own.avoids.is_empty();
    if profile.ignore_preferred_terms_of_existing && !opinions {
        return None;
    }
    let mut weighted: Vec<(Box<str>, PerNode, i64)> = Vec::new();
    for (term, sign) in own.prefers.iter().map(|t| (t, 1)).chain(own.avoids.iter().map(|t| (t, -1))) {
        let on_node = snapshot.tally(&[&term.among], false);
        weighted.push((term.topology.clone(), on_node, sign * term.weight));
    }
    for held in snapshot.held.iter() {
        let weight = match held.class {
            Class::Repels => continue,
            Class::Attracts => profile.hard_affinity_weight,
            Class::Prefers => held.term.weight,
            Class::Avoids => -held.term.weight,
        };
        if weight != 0 && held.term.among.has(needs.pod(), &snapshot.namespaces) {
            weighted.push((held.term.topology.clone(), held.counts.clone(), weight));
        }
    }
    if weighted.is_empty() {
        return None;
    }
    let mut sums = vec![0; slots.len()];
    for (label, on_node, weight) in weighted {
        let topology = snapshot.topology(&label);
        let mut domains = Domains::new(topology, snapshot);
        domains.add(snapshot, &on_node, weight);
        for (sum, slot) in sums.iter_mut().zip(slots) {
            *sum += domains.at(snapshot, *slot).unwrap_or(0);
        }
    }
    let (least, most) = (*sums.iter().min()?, *sums.iter().max()?);
    let normal = |s: &i64| match most - least {
        0 => 0,
        span => (SCORE_MAX as f64 * ((s - least) as f64 / span as f64)) as i64,
    };
    Some(sums.iter().map(normal).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing;
    use super::*;
    use serde_json::{Value, json};

    const NODES: [(&str, &str); 5] = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("x", "")];

    fn term(app: &str, key: &str) -> Value {
        json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
    }
    fn required(which: &str, terms: &[Value]) -> Value {
        json!({"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    }
    fn preferred(which: &str, weight: i32, term: Value) -> Value {
        json!({"affinity": {which: {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": weight, "podAffinityTerm": term}]}}})
    }
    fn needs(app: &str, spec: &Value) -> Needs {
        Needs::of(&testing::pod("new", json!({"app": app}), spec), &Profile::default(), None)
    }

    /// For each node: `.` it can take the pod, otherwise why not.
    fn picture(affinity: &Affinity, snapshot: &Snapshot) -> String {
        let mark = |(name, _): &(&str, &str)| match affinity.refusal(snapshot, snapshot.find(name).unwrap()) {
            None => '.',
            Some(r) => match (r.reasons[0].as_ref(), r.for_good) {
                (NOT_NEAR, true) => 'n',
                (TOO_NEAR, false) => 't',
                (UNWANTED, false) => 'u',
                other => panic!("{other:?}"),
            },
        };
        NODES.iter().map(mark).collect()
    }

    #[test]
    fn terms_that_must_be_met() {
        let (near, away) = ("podAffinity", "podAntiAffinity");
        let web = |on: &'static str| ("p", on, json!({"app": "web"}), json!({}));
        for (name, app, spec, pods, expected) in [
            ("nothing", "web", json!({}), vec![web("a1")], "....."),
            ("near by zone", "db", required(near, &[term("web", "zone")]), vec![web("a1")], "..nnn"),
            ("near by node", "db", required(near, &[term("web", "kubernetes.io/hostname")]), vec![web("a1")], ".nnnn"),
            ("nobody to be near", "db", required(near, &[term("web", "zone")]), vec![], "nnnnn"),
            ("the first of its kind", "web", required(near, &[term("web", "zone")]), vec![], "....n"),
            ("not the first", "web", required(near, &[term("web", "zone")]), vec![web("b1")], "nn..n"),
            (
                "the same pods meet all",
                "db",
                required(near, &[term("web", "zone"), term("db", "zone")]),
                vec![web("a1"), ("q", "a2", json!({"app": "db"}), json!({}))],
                "nnnnn",
            ),
            ("away by zone", "db", required(away, &[term("web", "zone")]), vec![web("a1")], "tt..."),
            ("away from itself", "web", required(away, &[term("web", "zone")]), vec![web("b2")], "..tt."),
            (
                "those that are there do not want it",
                "web",
                json!({}),
                vec![("q", "b1", json!({}), required(away, &[term("web", "zone")]))],
                "..uu.",
            ),
            (
                "they want others away",
                "web",
                json!({}),
                vec![("q", "b1", json!({}), required(away, &[term("db", "zone")]))],
                ".....",
            ),
        ] {
            let mut snapshot = testing::snapshot(&NODES, &pods);
            snapshot.sort();
            let needs = needs(app, &spec);
            let affinity = Affinity::of(&needs, &mut snapshot);
            assert_eq!(picture(&affinity, &snapshot), expected, "{name}");
        }
    }

    #[test]
    fn pods_that_would_go_are_taken_off() {
        let away = |app: &str| required("podAntiAffinity", &[term(app, "zone")]);
        let pods = [("p", "a1", json!({"app": "web"}), away("web"))];
        let mut snapshot = testing::snapshot(&NODES, &pods);
        snapshot.sort();
        let needs = needs("web", &away("web"));
        let mut affinity = Affinity::of(&needs, &mut snapshot);
        let a1 = snapshot.find("a1").unwrap();
        let resident = Arc::clone(&snapshot.node(a1).load.pods[0]);
        assert_eq!(picture(&affinity, &snapshot), "tt...");
        affinity.change(&needs, &mut snapshot, a1, &resident, false);
        assert_eq!(picture(&affinity, &snapshot), ".....");
        let b1 = snapshot.find("b1").unwrap();
        affinity.change(&needs, &mut snapshot, b1, &resident, true);
        assert_eq!(picture(&affinity, &snapshot), "..tt.");
    }

    #[test]
    fn terms_that_should_be_met() {
        let (near, away) = ("podAffinity", "podAntiAffinity");
        let web = |on: &'static str| ("p", on, json!({"app": "web"}), json!({}));
        for (name, app, spec, pods, expected) in [
            ("no opinion", "web", json!({}), vec![web("a1")], None),
            ("near", "db", preferred(near, 5, term("web", "zone")), vec![web("a1")], Some([100, 100, 0, 0, 0])),
            ("away", "db", preferred(away, 5, term("web", "zone")), vec![web("a1")], Some([0, 0, 100, 100, 100])),
            ("nobody there", "db", preferred(near, 5, term("web", "zone")), vec![], Some([0, 0, 0, 0, 0])),
            (
                "those that are there like it",
                "web",
                json!({}),
                vec![
                    ("q", "b1", json!({}), preferred(near, 4, term("web", "zone"))),
                    ("r", "a1", json!({}), preferred(near, 2, term("web", "kubernetes.io/hostname"))),
                ],
                Some([50, 0, 100, 100, 0]),
            ),
            (
                "those that needed it count with one",
                "web",
                json!({}),
                vec![("q", "b1", json!({}), required(near, &[term("web", "zone")]))],
                Some([0, 0, 100, 100, 0]),
            ),
            (
                "those that are there do not like it",
                "web",
                json!({}),
                vec![("q", "b1", json!({}), preferred(away, 4, term("web", "zone")))],
                Some([100, 100, 0, 0, 100]),
            ),
        ] {
            let mut snapshot = testing::snapshot(&NODES, &pods);
            snapshot.sort();
            let slots: Vec<u32> = NODES.iter().map(|n| snapshot.find(n.0).unwrap()).collect();
            let found = scores(&needs(app, &spec), &Profile::default(), &mut snapshot, &slots);
            assert_eq!(found.as_deref(), expected.as_ref().map(|e| &e[..]), "{name}");
        }
    }
}
