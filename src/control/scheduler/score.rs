//! Which of the nodes that can take a pod suits it best. Pure; scores are 0 to 100 per plugin, times upstream's weights.
//!
//! Source: `pkg/scheduler/framework/plugins/{noderesources,tainttoleration,nodeaffinity}`, default weights of the
//! KubeSchedulerConfiguration.

use super::filter::{matches_term, tolerates};
use super::needs::{CPU, MEMORY, Needs};
use super::snapshot::NodeInfo;

const MAX: i64 = 100;
const WEIGHT_TAINTS: i64 = 3;
const WEIGHT_AFFINITY: i64 = 2;
/// What a pod without requests counts as, so that such pods spread too. Source: `pkg/scheduler/util/pod_resources.go`.
const DEFAULT_CPU_MILLIS: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// The index of the best of `nodes`; among equals the first, so that the choice is the same every time.
pub fn best(needs: &Needs, nodes: &[&NodeInfo]) -> Option<usize> {
    let taints = normalized(nodes.iter().map(|n| soft_taints(needs, n)).collect(), true);
    let affinity = normalized(nodes.iter().map(|n| preferred(needs, n)).collect(), false);
    let total = |i: usize| {
        let (least, balanced) = resources(needs, nodes[i]);
        least + balanced + WEIGHT_TAINTS * taints[i] + WEIGHT_AFFINITY * affinity[i]
    };
    (0..nodes.len()).map(|i| (total(i), i)).max_by_key(|(score, i)| (*score, std::cmp::Reverse(*i))).map(|(_, i)| i)
}

/// LeastAllocated and BalancedAllocation over CPU and memory.
fn resources(needs: &Needs, node: &NodeInfo) -> (i64, i64) {
    let (mut least, mut fractions) = (0, Vec::new());
    for (name, default) in [(CPU, DEFAULT_CPU_MILLIS), (MEMORY, DEFAULT_MEMORY_BYTES)] {
        let capacity = node.allocatable.get(name);
        if capacity == 0 {
            continue;
        }
        let wanted = match needs.requests.get(name) {
            0 => default,
            n => n,
        };
        let taken = (node.taken.get(name) + wanted).min(capacity);
        least += (capacity - taken) * MAX / capacity;
        fractions.push(taken as f64 / capacity as f64);
    }
    let count = fractions.len().max(1);
    let deviation = match fractions.as_slice() {
        [a, b] => ((a - b) / 2.0).abs(),
        _ => 0.0,
    };
    (least / count as i64, ((1.0 - deviation) * MAX as f64) as i64)
}

fn soft_taints(needs: &Needs, node: &NodeInfo) -> i64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|t| !tolerates(&needs.tolerations, t)).count() as i64
}

fn preferred(needs: &Needs, node: &NodeInfo) -> i64 {
    let affinity = needs.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    terms.unwrap_or_default().iter().filter(|t| matches_term(&t.preference, node)).map(|t| i64::from(t.weight)).sum()
}

/// Scales to 0..=100 by the largest; `reverse`: least is best.
fn normalized(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let largest = scores.iter().copied().max().unwrap_or(0);
    let scale = |s: i64| match (largest, reverse) {
        (0, true) => MAX,
        (0, false) => 0,
        (_, true) => MAX - s * MAX / largest,
        (_, false) => s * MAX / largest,
    };
    scores.into_iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Taint;
    use serde_json::json;

    fn node(name: &str, taken_cpu: i64) -> NodeInfo {
        let mut node = NodeInfo { name: name.into(), known: true, ..NodeInfo::default() };
        node.allocatable.0 = [(CPU.to_owned(), 4000), (MEMORY.to_owned(), 8 << 30)].into();
        node.taken.0 = [(CPU.to_owned(), taken_cpu), (MEMORY.to_owned(), taken_cpu << 20)].into();
        node.labels = [("zone".to_owned(), name.to_owned())].into();
        node
    }

    #[test]
    fn the_emptier_the_preferred_the_untainted() {
        let (a, b) = (node("a", 3000), node("b", 1000));
        let plain = Needs::default();
        assert_eq!(best(&plain, &[&a, &b]), Some(1));
        assert_eq!(best(&plain, &[&b, &b]), Some(0));
        assert_eq!(best(&plain, &[]), None);
        let mut tainted = b.clone();
        tainted.taints = vec![Taint { key: "k".into(), effect: "PreferNoSchedule".into(), ..Taint::default() }];
        assert_eq!(best(&plain, &[&a, &tainted]), Some(0));
        let picky = Needs {
            affinity: serde_json::from_value(json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}]}}))
            .unwrap(),
            ..Needs::default()
        };
        assert_eq!(best(&picky, &[&a, &b]), Some(0));
    }
}
