//! A pod is given a node once, by the scheduler, and one that takes pods.
//!
//! Source: core/v1 `PodSpec.nodeName`; `pkg/registry/core/pod/storage/storage.go` `setPodNodeAndMetadata`: a pod that has a node
//! is not bound again; scheduler plugins `NodeUnschedulable` and `TaintToleration`.

use jiff::SignedDuration;
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{Change, Objects, list, text, uid};

#[derive(Debug)]
pub struct Binding {
    /// Nodes whose spec changed.
    recent: Recent,
}

impl Binding {
    pub fn new(lag: SignedDuration) -> Self {
        Self { recent: Recent::new(lag) }
    }
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    list(pod, "/spec/tolerations").any(|t| {
        let (key, effect) = (text(t, "/key"), text(t, "/effect"));
        (effect.is_empty() || effect == text(taint, "/effect"))
            && (key.is_empty() || key == text(taint, "/key"))
            && (text(t, "/operator") == "Exists" || text(t, "/value") == text(taint, "/value"))
    })
}

impl Invariant for Binding {
    fn name(&self) -> &'static str {
        "binding"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        if change.resource == "nodes" {
            let spec = |o: &Option<_>| o.as_deref().map(|o: &Value| o["spec"].clone());
            if spec(&change.old) != spec(&change.new) {
                self.recent.mark(&change.name, change.at);
            }
            return Ok(());
        }
        let (Some(new), "pods") = (&change.new, change.resource.as_str()) else { return Ok(()) };
        let node_of = |pod: &Value| text(pod, "/spec/nodeName").to_owned();
        let (before, node) = (change.old.as_deref().map(node_of).unwrap_or_default(), node_of(new));
        if before == node {
            return Ok(());
        }
        if !before.is_empty() {
            return Err(format!("{} moves from {before} to {node}", change.name));
        }
        if &*change.by.name != "scheduler" {
            return Err(format!("{} is put on {node} by {}", change.name, change.by.name));
        }
        if self.recent.has(&node, change.at) {
            return Ok(());
        }
        let Some(found) = objects.get("nodes", "", &node) else {
            return Err(format!("{} is put on {node}, which is not there", change.name));
        };
        let repels = |taint: &&Value| text(taint, "/effect") != "PreferNoSchedule" && !tolerates(new, taint);
        match list(found, "/spec/taints").find(repels) {
            Some(taint) => {
                Err(format!("{} is put on {node} ({}), which has {}", change.name, uid(new), text(taint, "/key")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object};
    use super::*;

    fn bound(name: &str, node: &str) -> Value {
        object(name, json!({"spec": {"nodeName": node}}))
    }

    #[test]
    fn what_a_binding_may_not_be_is_told() {
        let mut history = History::of(Binding::new(SignedDuration::from_secs(10)));
        let node = |taints: Value| json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}});
        history.write("user", "nodes", &node(json!([])));
        history.write("replicaset-controller", "pods", &object("a", json!({})));
        history.write("scheduler", "pods", &bound("a", "n1"));
        history.holds();
        history.write("scheduler", "pods", &bound("a", "n2"));
        history.breaks("a moves from n1 to n2");
        history.write("user", "pods", &bound("b", "n1"));
        history.breaks("b is put on n1 by user");
        history.write("user", "nodes", &node(json!([{"key": "k", "effect": "NoSchedule"}])));
        history.write("scheduler", "pods", &bound("c", "n1"));
        history.holds();
        history.later(60);
        history.write("scheduler", "pods", &bound("d", "n1"));
        history.breaks("d is put on n1 (d-uid), which has k");
        history.write("scheduler", "pods", &bound("e", "n9"));
        history.breaks("e is put on n9, which is not there");
    }
}
