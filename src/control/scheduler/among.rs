//! Sets of pods that other pods are drawn to or keep away from: by namespace and labels.
//!
//! Source: `staging/src/k8s.io/kube-scheduler/framework/types.go` (AffinityTerm), `pkg/scheduler/framework/types.go`
//! (getNamespacesFromPodAffinityTerm).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::Object as _;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm};
use types::selector::{LabelSelector, Requirement};

use super::needs::Resident;
use crate::pods;

/// The labels of each namespace.
pub type Namespaces = HashMap<Box<str>, Arc<BTreeMap<String, String>>>;

/// A set of pods. Two with the same text are the same set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Among {
    namespaces: Vec<Box<str>>,
    /// Namespaces by their labels, besides the named ones.
    by_label: Option<LabelSelector>,
    /// `None`: no pod.
    selector: Option<LabelSelector>,
    pub text: Box<str>,
}

impl Among {
    pub fn new(
        mut namespaces: Vec<Box<str>>,
        by_label: Option<LabelSelector>,
        selector: Option<LabelSelector>,
    ) -> Self {
        namespaces.sort_unstable();
        let show = |s: &Option<LabelSelector>| s.as_ref().map_or_else(|| "-".to_owned(), |s| format!("({s})"));
        let text = format!("{}|{}|{}", namespaces.join(","), show(&by_label), show(&selector)).into();
        Self { namespaces, by_label, selector, text }
    }

    /// The pods of one namespace.
    pub fn within(namespace: &str, selector: Option<LabelSelector>) -> Self {
        Self::new(vec![namespace.into()], None, selector)
    }

    fn of(term: &PodAffinityTerm, pod: &Pod) -> Self {
        let named = term.namespaces.as_deref().unwrap_or_default();
        let namespaces = match (named.is_empty(), &term.namespace_selector) {
            (true, None) => vec![pod.namespace().into()],
            _ => named.iter().map(|n| n.as_str().into()).collect(),
        };
        let by_label = term.namespace_selector.as_ref().and_then(pods::matcher);
        let mut selector = term.label_selector.as_ref().and_then(pods::matcher);
        if let Some(selector) = &mut selector {
            let own = |key: &String| Some((key.clone(), vec![pod.label(key)?.to_owned()]));
            let same = term.match_label_keys.iter().flatten().filter_map(own);
            let other = term.mismatch_label_keys.iter().flatten().filter_map(own);
            let same = same.map(|(k, v)| Requirement::In(k, v));
            selector.requirements.extend(same.chain(other.map(|(k, v)| Requirement::NotIn(k, v))));
        }
        Self::new(namespaces, by_label, selector)
    }

    /// Whether the labels of namespaces decide who belongs to it.
    pub fn depends_on_namespaces(&self) -> bool {
        self.by_label.is_some()
    }

    pub fn is_everything_or_nothing(&self) -> bool {
        self.selector.as_ref().is_none_or(LabelSelector::is_empty)
    }

    pub fn has(&self, pod: &Pod, namespaces: &Namespaces) -> bool {
        let namespace = pod.namespace();
        let within = self.namespaces.iter().any(|n| **n == *namespace)
            || self.by_label.as_ref().is_some_and(|s| match namespaces.get(namespace) {
                Some(labels) => s.matches(&**labels),
                None => s.is_empty(),
            });
        within && self.selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels))
    }
}

/// Towards, or away from, the nodes of a domain with such pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub among: Among,
    pub topology: Box<str>,
    /// 0 where it is required.
    pub weight: i64,
}

/// The inter-pod affinity of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// All of them must be met by the same pods.
    pub attracts: Vec<Term>,
    pub repels: Vec<Term>,
    pub prefers: Vec<Term>,
    pub avoids: Vec<Term>,
}

impl Terms {
    /// `None` for a pod without any.
    pub fn of(pod: &Pod) -> Option<Box<Self>> {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
        let term = |t: &PodAffinityTerm, weight: i32| Term {
            among: Among::of(t, pod),
            topology: t.topology_key.as_str().into(),
            weight: weight.into(),
        };
        let mut all = Self::default();
        if let Some(a) = &affinity.pod_affinity {
            let required = a.required_during_scheduling_ignored_during_execution.iter().flatten();
            all.attracts = required.map(|t| term(t, 0)).collect();
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            all.prefers = preferred.map(|t| term(&t.pod_affinity_term, t.weight)).collect();
        }
        if let Some(a) = &affinity.pod_anti_affinity {
            let required = a.required_during_scheduling_ignored_during_execution.iter().flatten();
            all.repels = required.map(|t| term(t, 0)).collect();
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            all.avoids = preferred.map(|t| term(&t.pod_affinity_term, t.weight)).collect();
        }
        (all != Self::default()).then(|| Box::new(all))
    }
}

/// Whether a pod is in all of the sets; no sets: it is not.
pub fn in_all(terms: &[Term], pod: &Pod, namespaces: &Namespaces) -> bool {
    !terms.is_empty() && terms.iter().all(|t| t.among.has(pod, namespaces))
}

/// The terms of a resident, whether it has any or not.
pub fn terms(resident: &Resident) -> &Terms {
    static NO_TERMS: Terms =
        Terms { attracts: Vec::new(), repels: Vec::new(), prefers: Vec::new(), avoids: Vec::new() };
    resident.terms.as_deref().unwrap_or(&NO_TERMS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn namespaces_and_labels_select() {
        let namespaces: Namespaces =
            [("blue".into(), Arc::new(BTreeMap::from([("team".to_owned(), "b".to_owned())])))].into();
        for (name, term, namespace, labels, expected) in [
            ("own namespace", json!({"labelSelector": {"matchLabels": {"a": "b"}}}), "d", json!({"a": "b"}), true),
            ("other namespace", json!({"labelSelector": {"matchLabels": {"a": "b"}}}), "x", json!({"a": "b"}), false),
            ("other label", json!({"labelSelector": {"matchLabels": {"a": "b"}}}), "d", json!({"a": "c"}), false),
            ("no selector", json!({}), "d", json!({"a": "b"}), false),
            ("empty selector", json!({"labelSelector": {}}), "d", json!({}), true),
            ("named", json!({"labelSelector": {}, "namespaces": ["x"]}), "x", json!({}), true),
            ("named, not own", json!({"labelSelector": {}, "namespaces": ["x"]}), "d", json!({}), false),
            ("all namespaces", json!({"labelSelector": {}, "namespaceSelector": {}}), "x", json!({}), true),
            (
                "by label",
                json!({"labelSelector": {}, "namespaceSelector": {"matchLabels": {"team": "b"}}}),
                "blue",
                json!({}),
                true,
            ),
            (
                "of its own version",
                json!({"labelSelector": {}, "matchLabelKeys": ["version", "absent"]}),
                "d",
                json!({"version": "1"}),
                true,
            ),
            (
                "of another version",
                json!({"labelSelector": {}, "matchLabelKeys": ["version"]}),
                "d",
                json!({"version": "2"}),
                false,
            ),
            (
                "not of its own version",
                json!({"labelSelector": {}, "mismatchLabelKeys": ["version"]}),
                "d",
                json!({"version": "1"}),
                false,
            ),
            (
                "by label, own does not count",
                json!({"labelSelector": {}, "namespaceSelector": {"matchLabels": {"team": "b"}}}),
                "d",
                json!({}),
                false,
            ),
        ] {
            let mut term = term;
            term["topologyKey"] = "zone".into();
            let owner: Pod = serde_json::from_value(
                json!({"metadata": {"namespace": "d", "labels": {"version": "1"}}, "spec": {"containers": [],
                "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}),
            )
            .unwrap();
            let other: Pod =
                serde_json::from_value(json!({"metadata": {"namespace": namespace, "labels": labels}})).unwrap();
            let terms = Terms::of(&owner).unwrap();
            assert_eq!(in_all(&terms.attracts, &other, &namespaces), expected, "{name}");
        }
    }
}
