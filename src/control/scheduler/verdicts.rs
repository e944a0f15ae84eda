//! What a node alone says of a pod, kept: pods that ask for the same are told the same until the node changes.
//!
//! Pods of one workload, and often those of many, differ in nothing that the plugins of one node look at. Of 1,000 nodes only
//! the one that got the last pod has changed, and only it is looked at again.

use std::sync::Arc;

use super::filter::{self, Refusal};
use super::needs::Needs;
use super::profile::{Plugin, Profile};
use super::snapshot::{NodeInfo, Snapshot};
use super::{resources, score};

/// Kinds of pods that are remembered, with 32 bytes a node each. The one that did not come for longest goes.
const KINDS_MAX: usize = 8;

/// The scores of the plugins that look at one node, before they are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Points {
    pub soft_taints: i32,
    pub preferred: i32,
    pub fit: i32,
    pub balance: i32,
}

#[derive(Debug, Clone)]
struct Verdict {
    /// Of the node when it was judged; 0: never.
    version: u64,
    said: Result<Points, Box<Refusal>>,
}

/// What the nodes say of one kind of pods. Taken for one placement from [`Verdicts`].
#[derive(Debug)]
pub struct OfKind {
    /// Of the first of them.
    needs: Needs,
    profile: Profile,
    of_slot: Vec<Verdict>,
    /// When it was asked last.
    asked: u64,
}

impl OfKind {
    /// Nothing is known yet.
    pub fn new(needs: &Needs, profile: &Profile) -> Self {
        let needs = Needs { resident: Arc::clone(&needs.resident), ..Needs::default() };
        Self { needs, profile: profile.clone(), of_slot: Vec::new(), asked: 0 }
    }

    /// Whether the verdicts hold for this pod too: all that [`judge`] reads is equal.
    fn is_of(&self, needs: &Needs, profile: &Profile) -> bool {
        let (known, new) = (&self.needs, needs);
        fn named(needs: &Needs) -> &str {
            needs.spec().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
        }
        known.resident.requests == new.resident.requests
            && known.resident.filled == new.resident.filled
            && known.resident.ports == new.resident.ports
            && known.tolerations() == new.tolerations()
            && known.node_selector() == new.node_selector()
            && known.node_affinity() == new.node_affinity()
            && named(known) == named(new)
            && self.profile == *profile
    }

    /// What the node says, with the pods that it has.
    pub fn ask(&mut self, snapshot: &Snapshot, slot: u32) -> Result<Points, &Refusal> {
        let (node, at) = (snapshot.node(slot), slot as usize);
        if self.of_slot.len() <= at {
            let never = Verdict { version: 0, said: Ok(Points::default()) };
            self.of_slot.resize(at + 1, never);
        }
        let verdict = &mut self.of_slot[at];
        if verdict.version != node.version {
            *verdict = Verdict { version: node.version, said: judge(&self.needs, &self.profile, node) };
        }
        verdict.said.as_ref().copied().map_err(|r| &**r)
    }
}

fn judge(needs: &Needs, profile: &Profile, node: &NodeInfo) -> Result<Points, Box<Refusal>> {
    let (facts, load) = (&*node.facts, &node.load);
    if let Some(refusal) = filter::refusal(needs, profile, facts, load) {
        return Err(Box::new(refusal));
    }
    let points = |plugin: Plugin, points: &dyn Fn() -> i64| match profile.weights[plugin as usize] {
        0 => 0,
        _ => i32::try_from(points()).unwrap_or(i32::MAX),
    };
    let balance = || match resources::is_balanced(&profile.balanced, needs) {
        true => resources::balance_score(&profile.balanced, needs, facts, load),
        false => 0,
    };
    Ok(Points {
        soft_taints: points(Plugin::TaintToleration, &|| score::soft_taints(needs, facts)),
        preferred: points(Plugin::NodeAffinity, &|| score::preferred(needs, profile, facts)),
        fit: points(Plugin::NodeResourcesFit, &|| resources::fit_score(&profile.fit, needs, facts, load)),
        balance: points(Plugin::NodeResourcesBalancedAllocation, &balance),
    })
}

/// See the module.
#[derive(Debug, Default)]
pub struct Verdicts {
    kinds: Vec<OfKind>,
    asks: u64,
}

impl Verdicts {
    /// What is known of pods like this one. To be [kept](Verdicts::keep) again.
    pub fn take(&mut self, needs: &Needs, profile: &Profile) -> OfKind {
        self.asks += 1;
        let mut kind = match self.kinds.iter().position(|k| k.is_of(needs, profile)) {
            Some(at) => self.kinds.swap_remove(at),
            None => OfKind::new(needs, profile),
        };
        kind.asked = self.asks;
        kind
    }

    pub fn keep(&mut self, kind: OfKind) {
        if self.kinds.len() >= KINDS_MAX
            && let Some(oldest) = (0..self.kinds.len()).min_by_key(|at| self.kinds[*at].asked)
        {
            self.kinds.swap_remove(oldest);
        }
        self.kinds.push(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::super::needs::Resident;
    use super::super::testing;
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    fn cpu(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn node(change: Value) -> Node {
        let mut node = serde_json::to_value(testing::node("a", &[])).unwrap();
        for (k, v) in change.as_object().unwrap() {
            node[k] = v.clone();
        }
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn who_asks_for_the_same_is_of_a_kind() {
        let profile = Profile::default();
        let base = OfKind::new(&testing::needs(cpu("1")), &profile);
        for (name, change, expected) in [
            ("all well", json!({}), true),
            ("priority", json!({"priority": 7}), true),
            (
                "spread",
                json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1,
                "whenUnsatisfiable": "DoNotSchedule"}]}),
                true,
            ),
            ("requests", cpu("2"), false),
            ("filled", json!({"containers": [{"name": "b"}, cpu("1")["containers"][0]]}), false),
            (
                "ports",
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 1}],
                "resources": {"requests": {"cpu": "1"}}}]}),
                false,
            ),
            ("tolerations", json!({"tolerations": [{"operator": "Exists"}]}), false),
            ("selector", json!({"nodeSelector": {"a": "b"}}), false),
            (
                "affinity",
                json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {}}]}}}),
                false,
            ),
            ("name", json!({"nodeName": "n"}), false),
        ] {
            let mut spec = cpu("1");
            for (k, v) in change.as_object().unwrap() {
                spec[k] = v.clone();
            }
            assert_eq!(base.is_of(&testing::needs(spec), &profile), expected, "{name}");
        }
        assert!(!base.is_of(&testing::needs(cpu("1")), &Profile { gates: false, ..profile }));
    }

    /// After each change the answer is that of somebody who has never asked before.
    #[test]
    fn a_node_that_changed_is_asked_again() {
        let (needs, profile) = (testing::needs(cpu("1")), Profile::default());
        let mut snapshot = testing::snapshot(&[("a", "")], &[]);
        let mut verdicts = Verdicts::default();
        let mut ask = |snapshot: &Snapshot| {
            let slot = snapshot.find("a").unwrap();
            let mut kind = verdicts.take(&needs, &profile);
            let said = kind.ask(snapshot, slot).map_err(Clone::clone);
            verdicts.keep(kind);
            assert_eq!(said, OfKind::new(&needs, &profile).ask(snapshot, slot).map_err(Clone::clone));
            said
        };
        let empty = ask(&snapshot).unwrap();
        assert_eq!(ask(&snapshot), Ok(empty));
        let key = client::Key::new("d", "p");
        let there = Resident::of(&testing::pod("p", json!({}), &cpu("1")));
        snapshot.assume(key.clone(), "a", Arc::new(there));
        assert!(ask(&snapshot).unwrap().fit < empty.fit);
        snapshot.set_node("a", Some(&node(json!({"spec": {"unschedulable": true}}))));
        assert_eq!(ask(&snapshot).unwrap_err().plugin, Plugin::NodeUnschedulable);
        snapshot.set_node("a", Some(&node(json!({}))));
        assert!(ask(&snapshot).is_ok());
        snapshot.forget(&key);
        assert_eq!(ask(&snapshot), Ok(empty));
        // Another one of its name, in its place.
        snapshot.set_node("a", None);
        snapshot.set_node("a", Some(&node(json!({"status": {"allocatable": {"cpu": "500m", "pods": "9"}}}))));
        assert_eq!(ask(&snapshot).unwrap_err().plugin, Plugin::NodeResourcesFit);
    }

    #[test]
    fn the_oldest_kind_is_forgotten() {
        let profile = Profile::default();
        let mut verdicts = Verdicts::default();
        for cpus in (1..=KINDS_MAX).chain([1, 9]) {
            let kind = verdicts.take(&testing::needs(cpu(&cpus.to_string())), &profile);
            verdicts.keep(kind);
        }
        let known: std::collections::BTreeSet<i64> =
            verdicts.kinds.iter().map(|k| k.needs.resident.requests.cpu / 1000).collect();
        assert_eq!(known, [1, 3, 4, 5, 6, 7, 8, 9].into());
    }
}
