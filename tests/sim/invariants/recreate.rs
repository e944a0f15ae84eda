//! A Deployment that recreates never runs two versions at a time.
//!
//! Source: apps/v1 `RecreateDeploymentStrategyType`: kill all existing pods before creating new ones;
//! `pkg/controller/deployment/recreate.go` `oldPodsRunning`.

use jiff::SignedDuration;
use serde_json::Value;

use super::Invariant;
use super::recent::Recent;
use crate::objects::{Change, Objects, is_finished, name, text, uid};

#[derive(Debug)]
pub struct Recreate {
    recent: Recent,
}

impl Recreate {
    pub fn new(lag: SignedDuration) -> Self {
        Self { recent: Recent::new(lag) }
    }
}

impl Invariant for Recreate {
    fn name(&self) -> &'static str {
        "recreate"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let object = change.object();
        if change.resource == "deployments.apps" {
            let spec = |o: &Option<_>| o.as_deref().map(|o: &Value| o["spec"].clone());
            if spec(&change.old) != spec(&change.new) {
                self.recent.mark(uid(object), change.at);
            }
            return Ok(());
        }
        if change.resource != "pods" || change.old.is_some() {
            return Ok(());
        }
        let Some(set) = objects.owner("replicasets.apps", object) else { return Ok(()) };
        let Some(deployment) = objects.owner("deployments.apps", set) else { return Ok(()) };
        if text(deployment, "/spec/strategy/type") != "Recreate" || self.recent.has(uid(deployment), change.at) {
            return Ok(());
        }
        let others = objects.owned("replicasets.apps", deployment).filter(|other| uid(other) != uid(set));
        match others.flat_map(|other| objects.owned("pods", other)).find(|pod| !is_finished(pod)) {
            Some(old) => Err(format!("{} is made while {} of another version is there", name(object), name(old))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{History, deployment, going, pod_of, set_of};
    use super::*;

    #[test]
    fn a_new_version_beside_the_old_is_told() {
        let mut history = History::of(Recreate::new(SignedDuration::from_secs(10)));
        let mut web = deployment("web", 1, 0, 0);
        web["spec"]["strategy"] = serde_json::json!({"type": "Recreate"});
        history.write("user", "deployments.apps", &web);
        let (old, new) = (set_of(&web, "web-1", 1), set_of(&web, "web-2", 1));
        history.write("deployment-controller", "replicasets.apps", &old);
        history.write("deployment-controller", "replicasets.apps", &new);
        let pod = going(pod_of(&old, "p1"));
        history.write("replicaset-controller", "pods", &pod);
        history.later(60);
        history.write("replicaset-controller", "pods", &pod_of(&new, "p2"));
        history.breaks("p2 is made while p1 of another version is there");
        history.remove("kubelet/n1", "pods", &pod);
        history.write("replicaset-controller", "pods", &pod_of(&new, "p3"));
        history.holds();
    }
}
