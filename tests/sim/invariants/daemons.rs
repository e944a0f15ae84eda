//! A DaemonSet runs one pod on each node that it suits, never two.
//!
//! Source: apps/v1 `DaemonSet`; `pkg/controller/daemon/daemon_controller.go` `podsShouldBeOnNode`.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{Change, Objects, is_active, is_ready, list, name, text, uid};

#[derive(Debug)]
pub struct Daemons {
    /// Sets that somebody changed, or for which a create was not answered.
    recent: Recent,
}

impl Daemons {
    pub fn new(lag: SignedDuration) -> Self {
        Self { recent: Recent::new(lag) }
    }
}

/// The node that a daemon's pod is for.
fn target(pod: &Value) -> &str {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    list(pod, terms).find_map(|term| term.pointer("/matchFields/0/values/0")?.as_str()).unwrap_or_default()
}

impl Invariant for Daemons {
    fn name(&self) -> &'static str {
        "daemons"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let object = change.object();
        if change.resource == "daemonsets.apps" && &*change.by.name != "daemon-set-controller" {
            self.recent.mark(uid(object), change.at);
        }
        if change.resource != "pods" || change.old.is_some() {
            return Ok(());
        }
        let Some(set) = objects.owner("daemonsets.apps", object) else { return Ok(()) };
        if change.by.unanswered {
            self.recent.mark(uid(set), change.at);
        }
        let node = target(object);
        let there = objects.owned("pods", set).filter(|p| is_active(p) && target(p) == node).count();
        if there > 1 && !self.recent.has(uid(set), change.at) {
            return Err(format!("{} makes {}, pod {there} on {node}", name(set), name(object)));
        }
        Ok(())
    }

    fn settled(&self, objects: &Objects) -> Result<(), String> {
        for set in objects.all("daemonsets.apps") {
            let mut on: BTreeMap<&str, usize> = objects.all("nodes").map(|node| (name(node), 0)).collect();
            for pod in objects.owned("pods", set).filter(|pod| is_active(pod) && is_ready(pod)) {
                *on.entry(text(pod, "/spec/nodeName")).or_default() += 1;
            }
            if let Some((node, n)) = on.iter().find(|(_, n)| **n != 1) {
                return Err(format!("{} runs {n} pods on {node}", name(set)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object, pod_of, ready};
    use super::*;

    #[test]
    fn a_second_pod_on_a_node_is_told() {
        let mut history = History::of(Daemons::new(SignedDuration::from_secs(10)));
        let set = object("log", json!({}));
        history.write("user", "daemonsets.apps", &set);
        history.write("user", "nodes", &json!({"metadata": {"name": "n1"}}));
        history.later(60);
        let pod = |name: &str| {
            let mut pod = pod_of(&set, name);
            let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
            pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] =
                terms;
            pod
        };
        history.write("daemon-set-controller", "pods", &pod("a"));
        assert_eq!(history.settled(), Err("log runs 0 pods on n1".into()));
        let mut runs = ready(pod("a"), "");
        runs["spec"]["nodeName"] = "n1".into();
        history.write("kubelet/n1", "pods", &runs);
        assert_eq!(history.settled(), Ok(()));
        history.write("daemon-set-controller", "pods", &pod("b"));
        history.breaks("log makes b, pod 2 on n1");
    }
}
