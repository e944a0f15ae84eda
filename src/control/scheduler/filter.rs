//! Which nodes can take a pod, and why the others cannot. Pure.
//!
//! Each function is one of upstream's plugins, with its words for the refusal.
//! Source: `pkg/scheduler/framework/plugins/{nodename,nodeunschedulable,tainttoleration,nodeaffinity,nodeports,noderesources}`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use super::needs::{CPU, MEMORY, Needs, PODS};
use super::snapshot::NodeInfo;

pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Why this node cannot take the pod; empty when it can.
pub fn refusals(needs: &Needs, node: &NodeInfo) -> Vec<String> {
    let only = |text: &str| vec![text.to_owned()];
    if let Some(why) = needs.beyond {
        return only(why);
    }
    if needs.node_name.as_deref().is_some_and(|name| name != node.name) {
        return only("node(s) didn't match the requested node name");
    }
    let cordon = Taint { key: TAINT_UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    if node.unschedulable && !tolerates(&needs.tolerations, &cordon) {
        return only("node(s) were unschedulable");
    }
    if let Some(taint) = untolerated(needs, node) {
        return vec![format!(
            "node(s) had untolerated taint {{{}: {}}}",
            taint.key,
            taint.value.as_deref().unwrap_or_default()
        )];
    }
    if !matches_node(needs, node) {
        return only("node(s) didn't match Pod's node affinity/selector");
    }
    if needs.host_ports.iter().any(|mine| node.ports.iter().any(|theirs| mine.collides(theirs))) {
        return only("node(s) didn't have free ports for the requested pod ports");
    }
    room(needs, node)
}

fn room(needs: &Needs, node: &NodeInfo) -> Vec<String> {
    let mut missing = Vec::new();
    if node.taken.get(PODS) + 1 > node.allocatable.get(PODS) {
        missing.push("Too many pods".to_owned());
    }
    let lacks = |name: &str| {
        let wanted = needs.requests.get(name);
        wanted > 0 && wanted > node.allocatable.get(name) - node.taken.get(name)
    };
    let others = needs.requests.0.keys().map(String::as_str).filter(|n| ![CPU, MEMORY].contains(n));
    for name in [CPU, MEMORY].into_iter().chain(others) {
        if lacks(name) {
            missing.push(format!("Insufficient {name}"));
        }
    }
    missing
}

fn untolerated<'n>(needs: &Needs, node: &'n NodeInfo) -> Option<&'n Taint> {
    let forbids = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    node.taints.iter().filter(forbids).find(|t| !tolerates(&needs.tolerations, t))
}

pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| {
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let (effect, key, value) = (text(&t.effect), text(&t.key), text(&t.value));
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match t.operator.as_deref().unwrap_or("Equal") {
                "Exists" => true,
                "Equal" | "" => !key.is_empty() && value == taint.value.clone().unwrap_or_default(),
                "Gt" => compare(&taint.value, &value, |node, pod| node > pod),
                "Lt" => compare(&taint.value, &value, |node, pod| node < pod),
                _ => false,
            }
    })
}

fn compare(node: &Option<String>, pod: &str, holds: fn(i64, i64) -> bool) -> bool {
    match (node.as_deref().unwrap_or_default().parse(), pod.parse()) {
        (Ok(node), Ok(pod)) => holds(node, pod),
        _ => false,
    }
}

fn matches_node(needs: &Needs, node: &NodeInfo) -> bool {
    if !needs.node_selector.iter().all(|(k, v)| node.labels.get(k) == Some(v)) {
        return false;
    }
    let affinity = needs.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    match affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) {
        None => true,
        Some(selector) => selector.node_selector_terms.iter().any(|t| matches_term(t, node)),
    }
}

/// All expressions hold; a term without any holds for no node.
pub fn matches_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = BTreeMap::from([("metadata.name".to_owned(), node.name.clone())]);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|e| matches_requirement(e, &node.labels))
        && fields.iter().all(|e| matches_requirement(e, &name))
}

fn matches_requirement(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |holds: fn(i64, i64) -> bool| match (
        value.and_then(|v| v.parse().ok()),
        values.first().and_then(|v| v.parse().ok()),
    ) {
        (Some(theirs), Some(mine)) => holds(theirs, mine),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(|a, b| a > b),
        "Lt" => number(|a, b| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn node() -> NodeInfo {
        let mut node = NodeInfo { name: "n1".into(), known: true, ..NodeInfo::default() };
        node.labels = BTreeMap::from([("disk".into(), "ssd".into()), ("cores".into(), "4".into())]);
        node.allocatable.0 = [(CPU, 2000), (MEMORY, 1 << 30), (PODS, 10)].map(|(k, v)| (k.to_owned(), v)).into();
        node
    }

    fn needs(spec: Value) -> Needs {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        for (k, v) in spec.as_object().unwrap() {
            pod["spec"][k] = v.clone();
        }
        Needs::of(&serde_json::from_value::<Pod>(pod).unwrap())
    }

    fn affinity(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
    }

    #[test]
    fn refusals_are_upstreams() {
        type Change = fn(&mut NodeInfo);
        let same: Change = |_| ();
        let rows: Vec<(&str, Value, Change, &[&str])> = vec![
            ("all well", json!({}), same, &[]),
            ("name", json!({"nodeName": "n2"}), same, &["node(s) didn't match the requested node name"]),
            ("cordoned", json!({}), |n| n.unschedulable = true, &["node(s) were unschedulable"]),
            (
                "cordoned, tolerated",
                json!({"tolerations": [{"key": TAINT_UNSCHEDULABLE, "operator": "Exists"}]}),
                |n| n.unschedulable = true,
                &[],
            ),
            (
                "taint",
                json!({}),
                |n| {
                    n.taints = vec![Taint {
                        key: "gpu".into(),
                        value: Some("a".into()),
                        effect: "NoSchedule".into(),
                        ..Taint::default()
                    }]
                },
                &["node(s) had untolerated taint {gpu: a}"],
            ),
            (
                "soft taint",
                json!({}),
                |n| n.taints = vec![Taint { key: "gpu".into(), effect: "PreferNoSchedule".into(), ..Taint::default() }],
                &[],
            ),
            (
                "tolerated",
                json!({"tolerations": [{"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]}),
                |n| {
                    n.taints = vec![Taint {
                        key: "gpu".into(),
                        value: Some("a".into()),
                        effect: "NoSchedule".into(),
                        ..Taint::default()
                    }]
                },
                &[],
            ),
            (
                "selector",
                json!({"nodeSelector": {"disk": "hdd"}}),
                same,
                &["node(s) didn't match Pod's node affinity/selector"],
            ),
            ("affinity in", affinity("disk", "In", &["ssd"]), same, &[]),
            (
                "affinity not in",
                affinity("disk", "NotIn", &["ssd"]),
                same,
                &["node(s) didn't match Pod's node affinity/selector"],
            ),
            ("affinity gt", affinity("cores", "Gt", &["3"]), same, &[]),
            (
                "affinity lt",
                affinity("cores", "Lt", &["3"]),
                same,
                &["node(s) didn't match Pod's node affinity/selector"],
            ),
            ("affinity absent", affinity("x", "DoesNotExist", &[]), same, &[]),
            (
                "ports",
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}),
                |n| {
                    n.ports =
                        needs(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}))
                            .host_ports
                },
                &["node(s) didn't have free ports for the requested pod ports"],
            ),
            (
                "room",
                json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "2Gi", "x.io/y": "1"}}}]}),
                same,
                &["Insufficient cpu", "Insufficient memory", "Insufficient x.io/y"],
            ),
            (
                "pods",
                json!({}),
                |n| {
                    n.taken.0.insert(PODS.into(), 10);
                },
                &["Too many pods"],
            ),
        ];
        for (name, spec, change, expected) in rows {
            let mut node = node();
            change(&mut node);
            assert_eq!(refusals(&needs(spec), &node), expected, "{name}");
        }
    }
}
