//! Whether a node can take a pod, and why not: what can be told from the node and the pod alone. Pure.
//!
//! Each function is one of upstream's plugins, with its words for the refusal.
//! Source: `pkg/scheduler/framework/plugins/{nodename,nodeunschedulable,tainttoleration,nodeaffinity,nodeports}`,
//! `k8s.io/component-helpers/scheduling/corev1`.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{NodeSelector, Taint, Toleration};

use crate::nodes::{matches_term, tolerate};

use super::needs::{HostPort, Needs};
use super::profile::{Plugin, Profile};
use super::resources;
use super::snapshot::{Facts, Load};

pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub plugin: Plugin,
    /// It would not help if pods went from the node.
    pub for_good: bool,
    pub reasons: Vec<Cow<'static, str>>,
}

impl Refusal {
    pub fn new(plugin: Plugin, for_good: bool, reason: &'static str) -> Self {
        Self { plugin, for_good, reasons: vec![reason.into()] }
    }
}

/// The first plugin that refuses, of those that look at nothing but this node.
pub fn refusal(needs: &Needs, profile: &Profile, node: &Facts, load: &Load) -> Option<Refusal> {
    let on = |plugin| profile.filters.has(plugin);
    let for_good = |plugin, reason| Some(Refusal::new(plugin, true, reason));
    if on(Plugin::NodeUnschedulable) && node.unschedulable && !tolerates_cordon(needs.tolerations()) {
        return for_good(Plugin::NodeUnschedulable, "node(s) were unschedulable");
    }
    let named = needs.spec().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
    if on(Plugin::NodeName) && named.is_some_and(|name| *name != *node.name) {
        return for_good(Plugin::NodeName, "node(s) didn't match the requested node name");
    }
    if on(Plugin::TaintToleration) && !tolerates_all(needs.tolerations(), &node.taints) {
        return for_good(Plugin::TaintToleration, "node(s) had untolerated taint(s)");
    }
    if on(Plugin::NodeAffinity) {
        let added = profile.added_affinity.as_ref();
        let added = added.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        if added.is_some_and(|a| !matches_selector(a, node)) {
            return for_good(Plugin::NodeAffinity, "node(s) didn't match scheduler-enforced node affinity");
        }
        if !wants_node(needs, node) {
            return for_good(Plugin::NodeAffinity, "node(s) didn't match Pod's node affinity/selector");
        }
    }
    if on(Plugin::NodePorts) && !ports_free(&needs.resident.ports, &load.ports) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Some(Refusal::new(Plugin::NodePorts, false, reason));
    }
    if on(Plugin::NodeResourcesFit) {
        return resources::refusal(&needs.resident.requests, &profile.fit, node, load);
    }
    None
}

pub fn ports_free(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    wanted.iter().all(|mine| taken.iter().all(|theirs| !mine.collides(theirs)))
}

fn tolerates_cordon(tolerations: &[Toleration]) -> bool {
    let cordon = Taint { key: TAINT_UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    tolerate(tolerations, &cordon)
}

/// Whether no taint keeps the pod away.
pub fn tolerates_all(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    let forbids = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    taints.iter().filter(forbids).all(|t| tolerate(tolerations, t))
}

/// Whether the pod's node selector and required node affinity are met.
pub fn wants_node(needs: &Needs, node: &Facts) -> bool {
    needs.node_selector().is_none_or(|s| s.iter().all(|(k, v)| node.labels.get(k) == Some(v)))
        && needs
            .node_affinity()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .is_none_or(|s| matches_selector(s, node))
}

/// Any of the terms holds.
pub fn matches_selector(selector: &NodeSelector, node: &Facts) -> bool {
    selector.node_selector_terms.iter().any(|t| matches_term(t, &node.name, &node.labels))
}

/// The nodes that the pod's affinity names, when each of its terms does; they alone are looked at. `Some` of none: the terms
/// contradict themselves.
pub fn named_nodes(needs: &Needs) -> Option<Vec<&str>> {
    let required = needs.node_affinity()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut all = Vec::new();
    for term in &required.node_selector_terms {
        let mut of_term: Option<Vec<&str>> = None;
        let fields = term.match_fields.iter().flatten();
        for field in fields.filter(|f| f.key == "metadata.name" && f.operator == "In") {
            let values = field.values.as_deref().unwrap_or_default();
            of_term = Some(match of_term {
                None => values.iter().map(String::as_str).collect(),
                Some(before) => before.into_iter().filter(|n| values.iter().any(|v| v == n)).collect(),
            });
        }
        all.extend(of_term?);
    }
    all.sort_unstable();
    all.dedup();
    (!required.node_selector_terms.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn affinity(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
    }

    fn taint(effect: &str) -> Vec<Taint> {
        vec![Taint { key: "gpu".into(), value: Some("a".into()), effect: effect.into(), ..Taint::default() }]
    }

    fn with_port() -> Value {
        json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]})
    }

    #[test]
    fn refusals_are_upstreams() {
        type Change = fn(&mut Facts, &mut Load);
        let same: Change = |_, _| ();
        let (yes, no) = (true, false);
        const SELECTOR: &[&str] = &["node(s) didn't match Pod's node affinity/selector"];
        let rows: Vec<(&str, Value, Change, bool, &[&str])> = vec![
            ("all well", json!({}), same, no, &[]),
            ("name", json!({"nodeName": "n2"}), same, yes, &["node(s) didn't match the requested node name"]),
            ("cordoned", json!({}), |n, _| n.unschedulable = true, yes, &["node(s) were unschedulable"]),
            (
                "cordoned, tolerated",
                json!({"tolerations": [{"key": TAINT_UNSCHEDULABLE, "operator": "Exists"}]}),
                |n, _| n.unschedulable = true,
                no,
                &[],
            ),
            ("taint", json!({}), |n, _| n.taints = taint("NoSchedule"), yes, &["node(s) had untolerated taint(s)"]),
            ("soft taint", json!({}), |n, _| n.taints = taint("PreferNoSchedule"), no, &[]),
            (
                "tolerated",
                json!({"tolerations": [{"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]}),
                |n, _| n.taints = taint("NoSchedule"),
                no,
                &[],
            ),
            ("selector", json!({"nodeSelector": {"disk": "hdd"}}), same, yes, SELECTOR),
            ("affinity in", affinity("disk", "In", &["ssd"]), same, no, &[]),
            ("affinity not in", affinity("disk", "NotIn", &["ssd"]), same, yes, SELECTOR),
            ("affinity gt", affinity("cores", "Gt", &["3"]), same, no, &[]),
            ("affinity lt", affinity("cores", "Lt", &["3"]), same, yes, SELECTOR),
            ("affinity absent", affinity("x", "DoesNotExist", &[]), same, no, &[]),
            (
                "ports",
                with_port(),
                |_, l| l.ports = testing::needs(with_port()).resident.ports.clone(),
                no,
                &["node(s) didn't have free ports for the requested pod ports"],
            ),
            (
                "room",
                json!({"containers": [{"name": "c",
                    "resources": {"requests": {"cpu": "2", "memory": "1Gi", "x.io/y": "1"}}}]}),
                |_, l| (l.taken.cpu, l.taken.memory) = (1, 1),
                yes,
                &["Insufficient cpu", "Insufficient memory", "Insufficient x.io/y"],
            ),
            (
                "room once others go",
                json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}),
                |_, l| l.taken.cpu = 1,
                no,
                &["Insufficient cpu"],
            ),
            ("pods", json!({}), |n, _| n.pods_max = 0, no, &["Too many pods"]),
        ];
        for (name, spec, change, for_good, expected) in rows {
            let mut facts = Facts::of(&testing::node("n1", &[("disk", "ssd"), ("cores", "4")]));
            let mut load = Load::default();
            change(&mut facts, &mut load);
            let found = refusal(&testing::needs(spec), &Profile::default(), &facts, &load);
            assert_eq!(found.as_ref().map_or(&[][..], |f| &f.reasons), expected, "{name}");
            assert_eq!(found.is_some_and(|f| f.for_good), for_good, "{name}");
        }
    }

    #[test]
    fn what_is_switched_off_refuses_nothing() {
        let mut profile = Profile::default();
        for plugin in [Plugin::NodeUnschedulable, Plugin::TaintToleration] {
            profile.filters.remove(plugin);
        }
        let mut facts = Facts::of(&testing::node("n1", &[]));
        (facts.unschedulable, facts.taints) = (true, taint("NoExecute"));
        assert_eq!(refusal(&testing::needs(json!({})), &profile, &facts, &Load::default()), None);
        profile.added_affinity =
            serde_json::from_value(affinity("disk", "In", &["ssd"])["affinity"]["nodeAffinity"].clone()).unwrap();
        let found = refusal(&testing::needs(json!({})), &profile, &facts, &Load::default()).unwrap();
        assert_eq!(found.reasons, ["node(s) didn't match scheduler-enforced node affinity"]);
    }

    #[test]
    fn terms_that_name_nodes() {
        let named = |terms: Value| {
            let needs = testing::needs(json!({"affinity": {"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}));
            let needs = Arc::new(needs);
            named_nodes(&needs).map(|n| n.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        let term = |values: &[&str]| json!({"key": "metadata.name", "operator": "In", "values": values});
        assert_eq!(
            named(json!([{"matchFields": [term(&["b"])]}, {"matchFields": [term(&["a"])]}])).unwrap(),
            ["a", "b"]
        );
        assert_eq!(named(json!([{"matchFields": [term(&["b"]), term(&["a"])]}])), Some(Vec::new()));
        assert_eq!(named(json!([{"matchFields": [term(&["b"])]}, {"matchExpressions": []}])), None);
        assert_eq!(named(json!([])), None);
    }
}
