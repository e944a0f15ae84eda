//! Whether a pod that was assigned to this node fits it. Pure. Most come through the scheduler and do; those that name a node
//! themselves may not.
//!
//! Source: `pkg/kubelet/lifecycle/predicate.go`, `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::pod;
use crate::services::pod_network;
use crate::translate::resources::{Allocatable, pod_requests};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: &'static str,
    pub message: String,
}

/// `others`: the pods that hold resources of this node already.
pub fn admit(
    pod: &Pod,
    others: &[&Pod],
    node: &Node,
    allocatable: Allocatable,
    pods_max: u32,
) -> Result<(), Rejection> {
    let reject =
        |reason: &'static str, text: String| Err(Rejection { reason, message: format!("Pod was rejected: {text}") });
    let short = |reason: &'static str, resource: &str, requested: i64, used: i64, capacity: i64| {
        reject(
            reason,
            format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        )
    };
    let count = others.len() as i64;
    if count + 1 > i64::from(pods_max) {
        return short("OutOfpods", "pods", 1, count, i64::from(pods_max));
    }
    let (cpu, memory) = pod_requests(pod);
    let used = others.iter().map(|p| pod_requests(p)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    if cpu > 0 && used.0 + cpu > allocatable.cpu_millis {
        return short("OutOfcpu", "cpu", cpu, used.0, allocatable.cpu_millis);
    }
    if memory > 0 && used.1 + memory > allocatable.memory_bytes {
        return short("OutOfmemory", "memory", memory, used.1, allocatable.memory_bytes);
    }
    if !affine(pod, node) {
        return reject(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        );
    }
    let wanted = pod_network(pod).host_ports;
    let taken = others.iter().flat_map(|p| pod_network(p).host_ports);
    for theirs in taken {
        let collides = wanted.iter().any(|own| {
            own.protocol == theirs.protocol
                && own.host_port == theirs.host_port
                && (own.host_ip.is_none() || theirs.host_ip.is_none() || own.host_ip == theirs.host_ip)
        });
        if collides {
            return reject(
                "NodePorts",
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
            );
        }
    }
    Ok(())
}

fn affine(pod: &Pod, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let spec = pod::spec(pod);
    if !spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, labels, name)))
}

fn term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements matches nothing.
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| requirement(r, (r.key == "metadata.name").then_some(name)))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |v: &str| r.values.iter().flatten().any(|x| x == v);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || r.values.iter().flatten().next().and_then(|v| number(v));
    match (r.operator.as_str(), value) {
        ("In", Some(v)) => listed(v),
        ("NotIn", Some(v)) => !listed(v),
        ("NotIn" | "DoesNotExist", None) => true,
        ("Exists", v) => v.is_some(),
        ("Gt", Some(v)) => matches!((number(v), bound()), (Some(v), Some(b)) if v > b),
        ("Lt", Some(v)) => matches!((number(v), bound()), (Some(v), Some(b)) if v < b),
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn make(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_rejected_with_a_reason() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "4"}}}))
                .unwrap();
        let allocatable = Allocatable { cpu_millis: 1000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 0 };
        let requests = |cpu: &str, memory: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]});
        let other = make(requests("600m", "600Mi"));
        let port = |n: i32| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": n}]}]});
        let affinity = |r: Value| json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [r]}]}}}});
        for (spec, others, max, expected) in [
            (json!({"containers": []}), vec![], 10, None),
            (requests("400m", "400Mi"), vec![&other], 10, None),
            (requests("401m", "1Mi"), vec![&other], 10, Some("OutOfcpu")),
            (requests("1m", "500Mi"), vec![&other], 10, Some("OutOfmemory")),
            (json!({"containers": []}), vec![&other], 1, Some("OutOfpods")),
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), vec![], 10, None),
            (json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), vec![], 10, Some("NodeAffinity")),
            (affinity(json!({"key": "disk", "operator": "In", "values": ["ssd"]})), vec![], 10, None),
            (
                affinity(json!({"key": "disk", "operator": "NotIn", "values": ["ssd"]})),
                vec![],
                10,
                Some("NodeAffinity"),
            ),
            (affinity(json!({"key": "cores", "operator": "Gt", "values": ["3"]})), vec![], 10, None),
            (affinity(json!({"key": "gpu", "operator": "DoesNotExist"})), vec![], 10, None),
            (port(80), vec![&make(port(81))], 10, None),
            (port(80), vec![&make(port(80))], 10, Some("NodePorts")),
        ] {
            let got = admit(&make(spec.clone()), &others, &node, allocatable, max).err().map(|r| r.reason);
            assert_eq!(got, expected, "{spec}");
        }
        let e = admit(&make(requests("401m", "1Mi")), &[&other], &node, allocatable, 10).unwrap_err();
        assert_eq!(
            e.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 401, used: 600, capacity: 1000"
        );
    }
}
