//! An object has one controller at a time, and does not outlive its owners.
//!
//! Source: meta/v1 `OwnerReference.controller`; garbage collection, "Cascading deletion".

use std::collections::BTreeSet;

use serde_json::Value;

use super::Invariant;
use crate::objects::{Change, Objects, list, text, uid};

/// What is owned here.
const OWNED: [&str; 5] =
    ["pods", "replicasets.apps", "controllerrevisions.apps", "endpointslices.discovery.k8s.io", "jobs.batch"];
/// What owns it.
const OWNERS: [&str; 7] = [
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "cronjobs.batch",
    "services",
];

#[derive(Debug)]
pub struct Ownership;

impl Invariant for Ownership {
    fn name(&self) -> &'static str {
        "ownership"
    }

    fn observe(&mut self, _: &Objects, change: &Change) -> Result<(), String> {
        let controllers = |o: &Value| list(o, "/metadata/ownerReferences").filter(|r| r["controller"] == true).count();
        match change.new.as_deref().map_or(0, controllers) {
            0 | 1 => Ok(()),
            n => Err(format!("{} {} has {n} controllers", change.resource, change.name)),
        }
    }

    fn settled(&self, objects: &Objects) -> Result<(), String> {
        let owners: BTreeSet<&str> = OWNERS.iter().flat_map(|kind| objects.all(kind)).map(uid).collect();
        for kind in OWNED {
            for object in objects.all(kind) {
                let mut wanted = list(object, "/metadata/ownerReferences").map(|r| text(r, "/uid")).peekable();
                if wanted.peek().is_some() && !wanted.any(|uid| owners.contains(uid)) {
                    return Err(format!("{kind} {} has outlived its owners", crate::objects::name(object)));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object, pod_of};
    use super::*;

    #[test]
    fn two_controllers_and_orphans_are_told() {
        let mut history = History::of(Ownership);
        let set = object("web", json!({}));
        history.write("user", "replicasets.apps", &set);
        history.write("replicaset-controller", "pods", &pod_of(&set, "a"));
        history.holds();
        assert_eq!(history.settled(), Ok(()));
        let mut two = pod_of(&set, "a");
        two["metadata"]["ownerReferences"] =
            json!([{"uid": "1", "controller": true}, {"uid": "2", "controller": true}]);
        history.write("replicaset-controller", "pods", &two);
        history.breaks("pods a has 2 controllers");
        assert_eq!(history.settled(), Err("pods a has outlived its owners".into()));
    }
}
