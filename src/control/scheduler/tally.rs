//! How many pods of a set are on each node, kept up to date pod by pod, so that no pod is looked at again for each placement.
//!
//! Two kinds: sets that waiting pods ask about, counted when first asked and then kept for a while; and the terms of pods that
//! have a place, which concern whoever comes.

use std::collections::HashMap;

use super::among::{Among, Namespaces, Term, terms};
use super::needs::Resident;

/// Sets that are kept: one for each workload that is being scheduled, with four bytes a node. The one that was not asked about
/// for longest goes.
const SETS_MAX: usize = 512;

/// Numbers by node.
#[derive(Debug, Clone, Default)]
pub struct PerNode(Vec<u32>);

impl PerNode {
    pub fn get(&self, slot: u32) -> u32 {
        self.0.get(slot as usize).copied().unwrap_or(0)
    }

    fn change(&mut self, slot: u32, more: bool) {
        let slot = slot as usize;
        if self.0.len() <= slot {
            self.0.resize(slot + 1, 0);
        }
        self.0[slot] = if more { self.0[slot] + 1 } else { self.0[slot].saturating_sub(1) };
    }
}

/// The pods that are in all of several sets.
#[derive(Debug)]
struct Tally {
    sets: Vec<Among>,
    /// Pods that are being deleted do not count.
    living: bool,
    counts: PerNode,
    asked: u64,
}

impl Tally {
    fn has(&self, resident: &Resident, namespaces: &Namespaces) -> bool {
        !(self.living && resident.pod.metadata.deletion_timestamp.is_some())
            && self.sets.iter().all(|s| s.has(&resident.pod, namespaces))
    }
}

#[derive(Debug, Default)]
pub struct Tallies {
    known: HashMap<Box<str>, Tally>,
    asks: u64,
}

impl Tallies {
    /// How many pods are in all of the sets, by node; `residents` are looked at only for sets that are not known.
    pub fn count<'r>(
        &mut self,
        sets: &[&Among],
        living: bool,
        namespaces: &Namespaces,
        residents: impl Iterator<Item = (u32, &'r Resident)>,
    ) -> PerNode {
        self.asks += 1;
        let mut name = String::from(if living { "living" } else { "all" });
        for set in sets {
            name.push('&');
            name.push_str(&set.text);
        }
        if !self.known.contains_key(name.as_str()) {
            self.make_room();
            let sets = sets.iter().map(|s| (*s).clone()).collect();
            let mut tally = Tally { sets, living, counts: PerNode::default(), asked: 0 };
            for (slot, resident) in residents {
                if tally.has(resident, namespaces) {
                    tally.counts.change(slot, true);
                }
            }
            self.known.insert(name.as_str().into(), tally);
        }
        let Some(tally) = self.known.get_mut(name.as_str()) else { return PerNode::default() };
        tally.asked = self.asks;
        tally.counts.clone()
    }

    fn make_room(&mut self) {
        if self.known.len() >= SETS_MAX
            && let Some(oldest) = self.known.values().map(|t| t.asked).min()
        {
            self.known.retain(|_, t| t.asked != oldest);
        }
    }

    pub fn change(&mut self, slot: u32, resident: &Resident, more: bool, namespaces: &Namespaces) {
        for tally in self.known.values_mut() {
            if tally.has(resident, namespaces) {
                tally.counts.change(slot, more);
            }
        }
    }

    /// Labels of a namespace are others now: what they decide is counted anew when it is asked.
    pub fn namespaces_changed(&mut self) {
        self.known.retain(|_, t| !t.sets.iter().any(Among::depends_on_namespaces));
    }
}

/// What the term of a pod with a place means to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// They may not come.
    Repels,
    /// The pod needed them, so they are welcome.
    Attracts,
    Prefers,
    Avoids,
}

/// A term of pods that have a place.
#[derive(Debug)]
pub struct Held {
    pub class: Class,
    pub term: Term,
    /// How often a node's pods have it.
    pub counts: PerNode,
    total: usize,
}

#[derive(Debug, Default)]
pub struct HeldTerms(HashMap<Box<str>, Held>);

impl HeldTerms {
    pub fn change(&mut self, slot: u32, resident: &Resident, more: bool) {
        if resident.terms.is_none() {
            return;
        }
        let all = terms(resident);
        for (class, terms) in [
            (Class::Repels, &all.repels),
            (Class::Attracts, &all.attracts),
            (Class::Prefers, &all.prefers),
            (Class::Avoids, &all.avoids),
        ] {
            for term in terms {
                self.change_one(class, term, slot, more);
            }
        }
    }

    fn change_one(&mut self, class: Class, term: &Term, slot: u32, more: bool) {
        let name: Box<str> = format!("{class:?} {} {} {}", term.weight, term.topology, term.among.text).into();
        let held = self.0.entry(name.clone()).or_insert_with(|| Held {
            class,
            term: term.clone(),
            counts: PerNode::default(),
            total: 0,
        });
        held.counts.change(slot, more);
        held.total = if more { held.total + 1 } else { held.total.saturating_sub(1) };
        if held.total == 0 {
            self.0.remove(&name);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use types::selector::LabelSelector;

    use super::*;

    fn resident(app: &str, terminating: bool) -> Resident {
        let mut pod = json!({"metadata": {"namespace": "d", "labels": {"app": app}}, "spec": {"containers": [],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}]}}}});
        if terminating {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Resident::of(&Arc::new(serde_json::from_value(pod).unwrap()))
    }

    #[test]
    fn sets_are_counted_once_and_then_followed() {
        let namespaces = Namespaces::new();
        let (web, going, db) = (resident("web", false), resident("web", true), resident("db", false));
        let among = Among::within("d", LabelSelector::parse("app=web").ok());
        let mut all = Tallies::default();
        let there = [(0, &web), (2, &going), (2, &db)];
        let counts = |all: &mut Tallies, living| {
            let counts = all.count(&[&among], living, &namespaces, there.into_iter());
            [0, 1, 2].map(|slot| counts.get(slot))
        };
        assert_eq!(counts(&mut all, true), [1, 0, 0]);
        assert_eq!(counts(&mut all, false), [1, 0, 1]);
        all.change(1, &web, true, &namespaces);
        all.change(0, &web, false, &namespaces);
        all.change(0, &db, true, &namespaces);
        assert_eq!(counts(&mut all, true), [0, 1, 0]);
        for i in 0..SETS_MAX + 5 {
            let other = Among::within("d", LabelSelector::parse(&format!("app=a{i}")).ok());
            all.count(&[&other], true, &namespaces, std::iter::empty());
        }
        assert_eq!(all.known.len(), SETS_MAX);
    }

    #[test]
    fn terms_stay_as_long_as_a_pod_has_them() {
        let mut held = HeldTerms::default();
        held.change(0, &resident("web", false), true);
        held.change(3, &resident("web", false), true);
        held.change(1, &resident("db", false), true);
        let web = held.iter().find(|h| h.term.among.text.contains("app=web")).unwrap();
        assert_eq!((web.class, web.counts.get(0), web.counts.get(3), web.counts.get(1)), (Class::Repels, 1, 1, 0));
        held.change(1, &resident("db", false), false);
        assert_eq!(held.iter().count(), 1);
    }
}
