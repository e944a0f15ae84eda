//! Placement: one pod, one snapshot, one answer with its reasons. Pure.

use std::collections::BTreeMap;

use super::filter::refusals;
use super::needs::Needs;
use super::score;
use super::snapshot::{NodeInfo, Snapshot};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    On(String),
    /// No node fits; the text is upstream's, for the event and the condition.
    Nowhere(String),
}

pub fn place(needs: &Needs, snapshot: &Snapshot) -> Placement {
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = 0;
    for node in snapshot.nodes() {
        all += 1;
        let why = refusals(needs, node);
        if why.is_empty() {
            fitting.push(node);
        }
        for reason in why {
            *counts.entry(reason).or_default() += 1;
        }
    }
    match score::best(needs, &fitting) {
        Some(i) => Placement::On(fitting[i].name.clone()),
        None if all == 0 => Placement::Nowhere("no nodes available to schedule pods".into()),
        None => {
            let mut reasons: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            reasons.sort();
            Placement::Nowhere(format!("0/{all} nodes are available: {}.", reasons.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    #[test]
    fn texts_are_upstreams() {
        let mut snapshot = Snapshot::default();
        let needs =
            Needs { requests: super::super::needs::Amounts([("cpu".to_owned(), 2000)].into()), ..Needs::default() };
        assert_eq!(place(&needs, &snapshot), Placement::Nowhere("no nodes available to schedule pods".into()));
        for (name, cpu, cordoned) in [("a", "1", false), ("b", "1", false), ("c", "4", true)] {
            let node: Node =
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"unschedulable": cordoned},
                "status": {"allocatable": {"cpu": cpu, "pods": "10"}}}))
                .unwrap();
            snapshot.set_node(name, Some(&node));
        }
        assert_eq!(
            place(&needs, &snapshot),
            Placement::Nowhere("0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.".into())
        );
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "d"}, "status": {"allocatable": {"cpu": "2", "pods": "1"}}}),
        )
        .unwrap();
        snapshot.set_node("d", Some(&node));
        assert_eq!(place(&needs, &snapshot), Placement::On("d".into()));
    }
}
