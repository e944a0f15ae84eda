//! Which nodes a DaemonSet's pods belong on, and what is put into a pod so that it gets there and stays.
//!
//! Source: kubernetes `pkg/controller/daemon/daemon_controller.go` (NodeShouldRunDaemonPod), `pkg/controller/daemon/util`.

use std::collections::BTreeMap;

use client::Object;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::nodes::{matches_term, tolerate};

const NAME_FIELD: &str = "metadata.name";
/// What befalls nodes is no reason for a daemon to leave, or not to come.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    // Of pods in the host's network only.
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// Whether a pod should come to a node, and whether one that is there may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub comes: bool,
    pub stays: bool,
}

pub const NOWHERE: Place = Place { comes: false, stays: false };

/// The template's spec with the tolerations that every daemon has.
pub fn tolerant(template: &PodSpec) -> PodSpec {
    let mut spec = template.clone();
    let host = spec.host_network == Some(true);
    let list = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.iter().take(if host { 7 } else { 6 }) {
        let toleration = Toleration {
            key: Some((*key).into()),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        };
        // One for some seconds becomes one for ever.
        let alike = |t: &&mut Toleration| {
            (&t.key, &t.operator, &t.effect) == (&toleration.key, &toleration.operator, &toleration.effect)
                && t.value.as_deref().unwrap_or_default().is_empty()
        };
        match list.iter_mut().find(alike) {
            Some(known) => *known = toleration,
            None => list.push(toleration),
        }
    }
    spec
}

/// `spec` is [`tolerant`].
pub fn place(spec: &PodSpec, node: &Node) -> Place {
    let named = spec.node_name.as_deref().filter(|n| !n.is_empty());
    if named.is_some_and(|name| name != node.name()) || !wants(spec, node) {
        return NOWHERE;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let borne = |effects: &[&str]| {
        let mut of = taints.iter().filter(|t| effects.contains(&t.effect.as_str()));
        of.all(|taint| tolerate(tolerations, taint))
    };
    Place { comes: borne(&["NoSchedule", "NoExecute"]), stays: borne(&["NoExecute"]) }
}

fn wants(spec: &PodSpec, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    if !spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| matches_term(t, node.name(), labels)))
}

/// Sends a pod to a node, in place of what its affinity says about nodes.
pub fn aim(spec: &mut PodSpec, node: &str) {
    let name =
        NodeSelectorRequirement { key: NAME_FIELD.into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node that a pod is on or was sent to.
pub fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    match fields.find(|f| f.key == NAME_FIELD && f.operator == "In")?.values.as_deref() {
        Some([node]) => Some(node),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn nodes_are_chosen_by_name_labels_affinity_and_taints() {
        let taint = |effect: &str| json!({"taints": [{"key": "k", "effect": effect}]});
        let term = |key: &str, operator: &str, values: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
        };
        let cordon = json!({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
        let tolerated = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
        let away = json!({"taints": [{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}]});
        let both = Place { comes: true, stays: true };
        let stays = Place { comes: false, stays: true };
        for (name, spec, node, expected) in [
            ("anywhere", json!({}), json!({}), both),
            ("by name", json!({"nodeName": "n1"}), json!({}), both),
            ("by another name", json!({"nodeName": "n2"}), json!({}), NOWHERE),
            ("by label", json!({"nodeSelector": {"disk": "ssd"}}), json!({}), both),
            ("by another label", json!({"nodeSelector": {"disk": "hdd"}}), json!({}), NOWHERE),
            ("by affinity", term("disk", "In", json!(["ssd", "nvme"])), json!({}), both),
            ("by contrary affinity", term("disk", "NotIn", json!(["ssd"])), json!({}), NOWHERE),
            ("by number", term("cores", "Gt", json!(["3"])), json!({}), both),
            ("by too great a number", term("cores", "Gt", json!(["4"])), json!({}), NOWHERE),
            ("not scheduled to", json!({}), taint("NoSchedule"), stays),
            ("driven away", json!({}), taint("NoExecute"), NOWHERE),
            ("preferred elsewhere", json!({}), taint("PreferNoSchedule"), both),
            ("tolerated", tolerated, taint("NoExecute"), both),
            ("cordoned", json!({}), cordon, both),
            ("without network", json!({}), away.clone(), stays),
            ("without network, on the host's", json!({"hostNetwork": true}), away, both),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let node: Node =
                serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "4"}},
                "spec": node}))
                .unwrap();
            assert_eq!(place(&tolerant(&spec), &node), expected, "{name}");
        }
    }

    #[test]
    fn pods_are_sent_to_their_node() {
        let spec = json!({"containers": [], "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]});
        let mut pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(target(&pod), None);
        let mut spec = tolerant(pod.spec.as_ref().unwrap());
        aim(&mut spec, "n7");
        let tolerations = spec.tolerations.clone().unwrap();
        assert_eq!((tolerations.len(), tolerations[0].toleration_seconds), (6, None));
        assert!(
            spec.affinity
                .as_ref()
                .unwrap()
                .node_affinity
                .as_ref()
                .unwrap()
                .preferred_during_scheduling_ignored_during_execution
                .is_some()
        );
        pod.spec = Some(spec);
        assert_eq!(target(&pod), Some("n7"));
        pod.spec.as_mut().unwrap().node_name = Some("n8".into());
        assert_eq!(target(&pod), Some("n8"));
    }
}
