//! Which of the nodes that can take a pod suits it best. Pure; scores are 0 to 100 per plugin, times its weight.
//!
//! Source: `pkg/scheduler/framework/runtime/framework.go` (RunScorePlugins), `framework/plugins/{tainttoleration,nodeaffinity}`,
//! `framework/plugins/helper/normalize_score.go`.

use k8s_openapi::api::core::v1::{NodeAffinity, PreferredSchedulingTerm};

use super::cycle::Cycle;
use super::needs::Needs;
use super::profile::{Plugin, Profile, SCORE_MAX};
use super::snapshot::{Facts, Snapshot};
use super::verdicts::{OfKind, Points};
use super::{affinity, resources, spread};
use crate::nodes::{matches_term, tolerate};

/// The best of `slots`; among equals the first. Upstream draws lots; here the same question has the same answer.
pub fn best(cycle: &Cycle<'_>, snapshot: &mut Snapshot, kind: &mut OfKind, slots: &[u32]) -> Option<u32> {
    if let [only] = slots {
        return Some(*only);
    }
    let points: Vec<Points> = slots.iter().map(|s| kind.ask(snapshot, *s).unwrap_or_default()).collect();
    let mut totals = vec![0; slots.len()];
    for plugin in Plugin::ALL {
        let weight = cycle.profile.weights[plugin as usize];
        if weight > 0
            && let Some(scores) = scores(plugin, cycle, snapshot, slots, &points)
        {
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += weight * score;
            }
        }
    }
    let most = totals.iter().max()?;
    totals.iter().position(|t| t == most).map(|at| slots[at])
}

/// What one plugin gives each of the nodes; `None`: all the same.
fn scores(
    plugin: Plugin,
    cycle: &Cycle<'_>,
    snapshot: &mut Snapshot,
    slots: &[u32],
    points: &[Points],
) -> Option<Vec<i64>> {
    let (needs, profile) = (cycle.needs, cycle.profile);
    let each = |score: fn(&Points) -> i32| points.iter().map(|p| i64::from(score(p))).collect::<Vec<_>>();
    match plugin {
        Plugin::TaintToleration => {
            points.iter().any(|p| p.soft_taints > 0).then(|| normalized(each(|p| p.soft_taints), true))
        }
        Plugin::NodeAffinity => {
            points.iter().any(|p| p.preferred > 0).then(|| normalized(each(|p| p.preferred), false))
        }
        Plugin::NodeResourcesFit => Some(each(|p| p.fit)),
        Plugin::NodeResourcesBalancedAllocation if resources::is_balanced(&profile.balanced, needs) => {
            Some(each(|p| p.balance))
        }
        Plugin::PodTopologySpread => spread::scores(needs, snapshot, slots),
        Plugin::InterPodAffinity => affinity::scores(needs, profile, snapshot, slots),
        Plugin::DynamicResources => cycle.device_points(snapshot, slots).map(|points| normalized(points, false)),
        Plugin::ImageLocality => snapshot.images.scores(needs.spec()?, slots, snapshot.order().len()),
        Plugin::NodeResourcesBalancedAllocation
        | Plugin::SchedulingGates
        | Plugin::NodeUnschedulable
        | Plugin::NodeName
        | Plugin::NodePorts
        | Plugin::VolumeRestrictions
        | Plugin::NodeVolumeLimits
        | Plugin::VolumeBinding
        | Plugin::VolumeZone
        | Plugin::DefaultPreemption => None,
    }
}

/// Taints that the pod would rather not have near it.
pub fn soft_taints(needs: &Needs, node: &Facts) -> i64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|t| !tolerate(needs.tolerations(), t)).count() as i64
}

/// The weights of the terms that the node meets, the pod's and those that the profile adds.
pub fn preferred(needs: &Needs, profile: &Profile, node: &Facts) -> i64 {
    fn of(affinity: Option<&NodeAffinity>) -> &[PreferredSchedulingTerm] {
        affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
    }
    let all = of(needs.node_affinity()).iter().chain(of(profile.added_affinity.as_ref()));
    all.filter(|t| matches_term(&t.preference, &node.name, &node.labels)).map(|t| i64::from(t.weight)).sum()
}

/// Scales to 0..=100 by the largest; `reverse`: least is best.
fn normalized(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let largest = scores.iter().copied().max().unwrap_or(0);
    let scale = |s: i64| match (largest, reverse) {
        (0, true) => SCORE_MAX,
        (0, false) => 0,
        (_, true) => SCORE_MAX - s * SCORE_MAX / largest,
        (_, false) => s * SCORE_MAX / largest,
    };
    scores.into_iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use serde_json::{Value, json};

    fn chosen(snapshot: &mut Snapshot, profile: &Profile, spec: Value) -> String {
        let needs = testing::needs(spec);
        let cycle = Cycle::of(&needs, profile, snapshot);
        let order = snapshot.order().to_vec();
        let best = best(&cycle, snapshot, &mut OfKind::new(&needs, profile), &order).unwrap();
        snapshot.facts(best).name.to_string()
    }

    fn cpu(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]})
    }

    #[test]
    fn the_emptier_the_preferred_the_untainted() {
        let mut all = testing::snapshot(&[("a", "x"), ("b", "y")], &[("p", "a", json!({}), cpu("1"))]);
        let plain = Profile::default();
        assert_eq!(chosen(&mut all, &plain, cpu("100m")), "b");
        let likes_a = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}}]}}});
        assert_eq!(chosen(&mut all, &plain, likes_a.clone()), "a");
        let added = Profile {
            added_affinity: serde_json::from_value(likes_a["affinity"]["nodeAffinity"].clone()).unwrap(),
            ..Profile::default()
        };
        assert_eq!(chosen(&mut all, &added, json!({})), "a");
        let mut packs = Profile::default();
        packs.fit.strategy = super::super::profile::Strategy::Most;
        assert_eq!(chosen(&mut all, &packs, cpu("100m")), "a");
        let mut tainted = testing::node("b", &[("zone", "y")]);
        tainted.spec = serde_json::from_value(json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]})).unwrap();
        all.set_node("b", Some(&tainted));
        assert_eq!(chosen(&mut all, &plain, cpu("100m")), "a");
        let mut blind = Profile::default();
        blind.weights[Plugin::TaintToleration as usize] = 0;
        assert_eq!(chosen(&mut all, &blind, cpu("100m")), "b");
    }

    #[test]
    fn scores_are_scaled_by_the_largest() {
        assert_eq!(normalized(vec![0, 5, 10], false), [0, 50, 100]);
        assert_eq!(normalized(vec![0, 5, 10], true), [100, 50, 0]);
        assert_eq!(normalized(vec![0, 0], true), [100, 100]);
        assert_eq!(normalized(vec![0, 0], false), [0, 0]);
    }
}
